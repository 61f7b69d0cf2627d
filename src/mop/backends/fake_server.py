"""A server on this machine that answers in every dialect, over a toy model with known probabilities.

It is the test bed of `mop.backends.remote` and ships with the package (``mop fake-server``), so that anyone can try a
client, ours or theirs, against faults and against servers that lie about scores. `FakeServer` is the behaviour, without
a network; `start` puts it behind an HTTP port on loopback. What a request asks for is done, or refused by the field's
name (`mop.backends.fake_request`); tokens and probabilities are those of `mop.backends.toy`.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mop.backends.fake_habits import DIALECTS, FAULTS, LIES, Faults
from mop.backends.fake_port import Reply, RunningServer, start
from mop.backends.fake_request import Asked, Json, RefusedFieldError, read_chat, read_completion, read_generate
from mop.backends.fake_stream import events, sglang_events
from mop.backends.toy import CHARACTERS, END, ToyEncoder, data_of, draw, log_probs, reply_start, text_of
from mop.errors import ConfigError
from mop.randomness import derive_seed
from mop.types import Decoding

__all__ = [
    "CHARACTERS", "DIALECTS", "END", "FAULTS", "LIES", "FakeServer", "Faults", "Reply", "RunningServer", "ToyEncoder",
    "start",
]  # fmt: skip

_OWNERS = {"llamacpp": "llamacpp", "ollama": "library", "vllm": "vllm", "sglang": "sglang"}
_SWAP_AFTER = 30
"""Calls before the lies ``renamed`` and ``swapped`` begin."""

_LIES_OF_A_VALUE: Mapping[str, Callable[[float], float | str | None]] = {
    "nulls": lambda _: None,
    "zeros": lambda _: 0.0,
    "constant": lambda _: -2.0,
    "positive": lambda value: -value,
    "sentinel": lambda _: -9999.0,
    "text": str,
    "swapped": lambda value: value * 1.5,
}


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One response to one prompt."""

    ids: list[int]
    """What is shown, without the end."""
    token_ids: list[int]
    """What was drawn, the end included."""
    finish: str

    @property
    def text(self) -> str:
        return text_of(self.ids)


class FakeServer:
    """The behaviour of a server, from request to `Reply`; safe to call from several threads.

    It has the dialect and habits of a ``kind`` of `DIALECTS` and tells one lie of `LIES`; ``faults`` happen on the way.
    A key is asked for as a bearer token, on every route; the window is in tokens, and every call takes ``delay_s``.

    Raises
    ------
    ConfigError
        If kind or lie is unknown.

    Notes
    -----
    The toy model is `mop.backends.fake.FakeModel`. A prompt arrives as ids of `ToyEncoder`, or as
    chat messages, whose whole content then counts as data. Log-probabilities of prompt tokens are
    no part of the toy model's definition; they are ``-3.5`` less a hundredth of the id. Those of drawn
    tokens are at temperature 1, whatever the draw's own.
    """

    def __init__(
        self,
        kind: str = "vllm",
        *,
        broken: str = "none",
        faults: Faults | None = None,
        model: str = "toy",
        key: str | None = None,
        window: int = 2048,
        delay_s: float = 0.0,
    ) -> None:
        if kind not in DIALECTS or broken not in LIES:
            raise ConfigError(
                f"got kind {kind!r} and broken {broken!r}; kinds are {', '.join(DIALECTS)}, and broken is one of "
                f"{', '.join(LIES)}"
            )
        self.kind = kind
        self.broken = broken
        self.calls = 0
        """POST requests so far."""
        self.requests: list[Json] = []
        """Bodies of the latest 10,000 POST requests that could be read."""
        self._faults = faults or Faults()
        self._model = model
        self._key = key
        self._window = window
        self._delay_s = delay_s
        self._stale: dict[str, list[float]] = {}
        self._lock = threading.Lock()

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request; header names are in lower case."""
        with self._lock:
            return self._reply(method, path.partition("?")[0], headers, body)

    def _reply(self, method: str, path: str, headers: Mapping[str, str], raw: bytes) -> Reply:
        if self._key is not None and headers.get("authorization") != f"Bearer {self._key}":
            return _error(401, "no valid key", "invalid_api_key")
        if method == "GET":
            return self._list(path)
        fault, _, amount = self._faults.of_call(self.calls).partition(":")
        self.calls += 1
        early = self._early_fault(fault, amount, headers, raw)
        if early is not None:
            return early
        try:
            request = json.loads(raw)
            self.requests.append(request)
            del self.requests[:-10_000]
            answer = self._answer(path, request)
            if isinstance(answer, Reply):
                return answer
            _late_fault(fault, answer)
            reply = _sent(answer, request)
        except RefusedFieldError as error:
            return _error(400, str(error), param=error.field)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
            return _error(400, f"bad request ({type(error).__name__})")
        reply.wait_s = self._delay_s
        if fault == "cut":
            reply.cut_at = int(amount or 40)
        if fault == "slow":
            reply.drip_s = float(amount or 0.1)
        return reply

    def _early_fault(self, fault: str, amount: str, headers: Mapping[str, str], raw: bytes) -> Reply | None:
        """Faults that need no answer."""
        if fault.isdigit():
            extra = {"retry-after": amount} if amount else {}
            return _error(int(fault), "scripted fault", headers=extra)
        if fault == "reset":
            return Reply(0, b"", is_reset=True)
        if fault == "hang":
            return Reply(200, b"{}", wait_s=3600.0)
        if fault == "garbage":
            return Reply(200, b"<html>it works</html>", {"content-type": "text/html"})
        if fault == "redirect":
            return Reply(307, b"", {"location": "http://127.0.0.1:9/elsewhere"})
        if fault == "bomb":
            return Reply(200, b'{"a": "' + b"x" * 65_536, is_endless=True)
        if fault == "quote":
            key = headers.get("authorization", "no key")
            return _error(400, f"bad input: {raw.decode('utf-8', 'replace')} with {key}")
        return None

    @property
    def _name(self) -> str:
        """What the model is called now."""
        return f"{self._model}-next" if self.broken == "renamed" and self.calls > _SWAP_AFTER else self._model

    def _list(self, path: str) -> Reply:
        entry: Json = {"id": self._name, "object": "model", "owned_by": _OWNERS.get(self.kind, "organization")}
        if self.kind == "vllm":
            entry["max_model_len"] = self._window
        if path == "/v1/models":
            return _json(200, {"object": "list", "data": [entry]})
        return _json(200, entry) if path == f"/v1/models/{self._name}" else _error(404, "no such page")

    def _answer(self, path: str, request: Json) -> Json | list[Json] | Reply:
        if path == "/v1/chat/completions":
            return self._openai("chat.completion", request)
        if path == "/v1/completions" and self.kind != "tgi":
            return self._openai("text_completion", request)
        if path == "/generate" and self.kind == "sglang":
            return self._sglang(request)
        return _error(404, "no such page")

    # -------------------------------------------------------------- the OpenAI forms

    def _openai(self, form: str, request: Json) -> Json | Reply:
        if request.get("model") is None:
            raise RefusedFieldError("model", f"it is missing; this server has {self._model!r}")
        if request["model"] != self._model and self.kind != "llamacpp":
            return _error(404, "no such model", "model_not_found", param="model")
        is_chat = form == "chat.completion"
        asked = read_chat(request) if is_chat else read_completion(request)
        if not is_chat and (refusal := self._refuses(request, asked)) is not None:
            return refusal
        choices: list[Json] = []
        n_in = n_out = 0
        for number, sent in enumerate(asked.prompts):
            ids = self._taken(sent, asked.max_tokens)
            if isinstance(ids, Reply):
                return ids
            n_in += len(ids)
            for which in range(asked.n):
                drawn = self._draw(ids, asked, number, which)
                n_out += len(drawn.token_ids)
                choices.append(self._chat_choice(ids, drawn, asked) if is_chat else self._choice(ids, drawn, asked))
        if self.broken == "two-choices":
            choices += [dict(choice) for choice in choices]
        for index, choice in enumerate(choices):
            choice["index"] = index
        answer: Json = {"id": f"fake-{self.calls}", "object": form, "created": 0, "model": self._name}
        answer["choices"] = choices
        if self.broken != "no-usage":
            answer["usage"] = {"prompt_tokens": n_in, "completion_tokens": n_out, "total_tokens": n_in + n_out}
        return answer

    def _refuses(self, request: Json, asked: Asked) -> Reply | None:
        """What this kind of server does not take where others do."""
        if self.kind == "together" and not isinstance(request.get("prompt"), str):
            return _error(422, "prompt must be a string", param="prompt")
        if self.kind == "openai" and asked.echo and asked.top is not None:
            return _error(400, "Setting 'echo' and 'logprobs' at the same time is not supported", param="logprobs")
        if self.kind != "vllm":
            for field in ("prompt_logprobs", "return_token_ids"):
                if request.get(field) is not None and request[field] is not False:
                    return _error(400, f"{field}: a server of this kind does not have it", param=field)
        return None

    def _chat_choice(self, ids: Sequence[int], drawn: _Drawn, asked: Asked) -> Json:
        content = None
        if asked.top is not None and self.kind != "ollama" and self.broken != "silent":
            content = {"content": self._entries(ids, drawn, asked.top)}
        message = {"role": "assistant", "content": drawn.text}
        return {"index": 0, "message": message, "logprobs": content, "finish_reason": drawn.finish}

    def _choice(self, ids: Sequence[int], drawn: _Drawn, asked: Asked) -> Json:
        # Two kinds take echo and do not mean it.
        echoes = asked.echo and self.kind not in ("llamacpp", "ollama")
        text = data_of(ids) + drawn.text if echoes else drawn.text
        choice: Json = {"index": 0, "text": text, "logprobs": None, "finish_reason": drawn.finish}
        if self.kind == "vllm" and asked.returns_ids:
            choice["prompt_token_ids"] = list(ids)
            choice["token_ids"] = drawn.token_ids
        if asked.scores_prompt:
            choice["prompt_logprobs"] = self._vllm_rows(ids, drawn)
        if asked.top is None or self.kind == "ollama" or self.broken == "silent":
            return choice  # asked for or not, there is nothing and no word of it
        if self.kind == "llamacpp":
            choice["logprobs"] = {"content": self._entries(ids, drawn, asked.top)}
            return choice
        values, shown = self._drawn_values(ids, drawn), drawn.ids
        if self.broken == "generated-only":
            echoes = False
            shown = shown[:1]
        if echoes:
            values, shown = [*self._values(ids), *values], [*ids, *shown]
        if self.broken == "short":
            values, shown = values[:-1], shown[:-1]
        choice["logprobs"] = self._block(ids, shown, values, asked.top)
        if self.kind == "fireworks":
            choice["logprobs"]["token_ids"] = shown
            choice["prompt_token_ids"] = list(ids)
        return choice

    def _block(self, ids: Sequence[int], shown: Sequence[int], values: Sequence[Any], top: int) -> Json:
        """Log-probabilities in the form of completions."""
        tokens = [text_of([i]) for i in shown]
        likeliest = self._likeliest(ids, top)
        return {
            "tokens": tokens,
            "token_logprobs": list(values),
            "top_logprobs": [
                None if value is None and self.broken != "nulls" else {**likeliest, token: value}
                for token, value in zip(tokens, values, strict=True)
            ],
            "text_offset": [sum(map(len, tokens[:place])) for place in range(len(tokens))],
        }

    def _entries(self, ids: Sequence[int], drawn: _Drawn, top: int) -> list[Json]:
        """Log-probabilities in the form of chat."""
        likeliest = [_entry(token, value) for token, value in self._likeliest(ids, top).items()]
        entries = [
            {**_entry(CHARACTERS[i], value), "top_logprobs": likeliest}
            for i, value in zip(drawn.ids, self._drawn_values(ids, drawn), strict=False)
        ]
        return entries[:-1] if self.broken == "short" else entries

    def _vllm_rows(self, ids: Sequence[int], drawn: _Drawn) -> list[Json | None] | None:
        if self.broken == "silent":
            return None
        values = self._values(ids)
        if self.broken == "generated-only":
            ids, values = drawn.token_ids[:1], self._drawn_values(ids, drawn)[:1]
        rows: list[Json | None] = []
        for token, value in zip(ids, values, strict=False):
            row = {"logprob": value, "rank": 1, "decoded_token": text_of([token])}
            rows.append({str(token): row} if value is not None else None)
        return rows[:-1] if self.broken == "short" else rows

    # -------------------------------------------------------------- SGLang's own form

    def _sglang(self, request: Json) -> Json | list[Json] | Reply:
        asked = read_generate(request)
        answers: list[Json] = []
        for number, sent in enumerate(asked.prompts):
            ids = self._taken(sent, asked.max_tokens)
            if isinstance(ids, Reply):
                return ids
            for which in range(asked.n):
                drawn = self._draw(ids, asked, number, which)
                answers.append({"text": drawn.text, "meta_info": self._meta_info(ids, drawn, asked)})
        if self.broken == "two-choices":
            return answers + answers
        return answers if asked.is_batch or asked.n > 1 else answers[0]

    def _meta_info(self, ids: Sequence[int], drawn: _Drawn, asked: Asked) -> Json:
        info: Json = {"id": f"fake-{self.calls}", "finish_reason": {"type": drawn.finish}}
        if self.broken == "renamed":
            info["model"] = self._name
        if self.broken != "no-usage":
            info |= {"prompt_tokens": len(ids), "completion_tokens": len(drawn.token_ids)}
        if not asked.scores_prompt or self.broken == "silent":
            return info
        values, written = self._values(ids), self._drawn_values(ids, drawn)
        given: list[list[Any]] = [[v, i, None] for v, i in zip(values, ids, strict=True)]
        out: list[list[Any]] = [[v, i, None] for v, i in zip(written, drawn.ids, strict=False)]
        given = [] if asked.score_start < 0 else given[asked.score_start :]
        if given:
            given[0][0] = None  # the row at logprob_start_len itself is null
        if self.broken == "generated-only":
            given = out = out[:1]
        if self.broken == "short":
            given, out = given[:-1], out[:-1]
        return info | {"input_token_logprobs": given, "output_token_logprobs": out}

    # -------------------------------------------------------------- the toy model

    def _taken(self, sent: Sequence[int], n_drawn: int) -> list[int] | Reply:
        """The ids of a prompt as far as the server looks at them, or its refusal."""
        ids = list(sent)
        if self.broken == "wrong-ids":
            ids = [(i + 1) % END if i < END else i for i in ids]
        if self.broken == "truncates":
            ids = ids[-max(1, self._window - n_drawn + 1) :]
        if len(ids) + n_drawn > self._window + 1:
            return _error(400, f"maximum context length is {self._window}", "context_length_exceeded")
        return ids

    def _draw(self, ids: Sequence[int], asked: Asked, number: int, which: int) -> _Drawn:
        """Draw choice ``which`` for prompt ``number`` with the request's own seed, up to where it is to stop."""
        limit = asked.max_tokens + (self.broken == "runs-on")
        if limit == 0:
            return _Drawn([], [], "length")
        seed, temperature, data = asked.seed, asked.temperature, data_of(ids)
        if seed is None:
            seed, which = self.calls, number * asked.n + which
        if which:
            seed = derive_seed(seed, "choice", which)
        if self.broken == "greedy":  # temperature and seed are accepted and ignored
            temperature, seed = 0.0, 0
        if self.broken == "swapped" and self.calls > _SWAP_AFTER:
            data = text_of([(i + 1) % END for i in ids if i < END])
        least = limit if self.broken == "runs-on" else min(asked.min_tokens, limit)
        decoding = Decoding(max_tokens=limit, min_tokens=least, top_p=asked.top_p, top_k=asked.top_k)
        drawn = draw(data, decoding, temperature=temperature, seed=seed)
        return _until(drawn, asked)

    def _values(self, ids: Sequence[int]) -> list[Any]:
        """Log-probability of each prompt token after those before it, null for the first; and one lie, if any."""
        start, known = reply_start(ids), log_probs(data_of(ids))
        values = [None, *(-3.5 - 0.01 * i for i in ids[1:start])]
        values += [known[i] if i <= END else -3.5 for i in ids[start:]]
        return self._lie(values[: len(ids)], start, "prompt")

    def _drawn_values(self, ids: Sequence[int], drawn: _Drawn) -> list[Any]:
        """Log-probability of each drawn token that is shown; and one lie, if any."""
        known = log_probs(data_of(ids))
        values = self._lie([known[i] for i in drawn.ids], 0, "drawn")
        return values[:1] if self.broken == "generated-only" else values

    def _likeliest(self, ids: Sequence[int], top: int) -> dict[str, Any]:
        """The likeliest characters and their log-probabilities."""
        known = log_probs(data_of(ids))[:END]
        best = sorted(range(END), key=lambda i: -known[i])[:top]
        return {CHARACTERS[i]: self._changed(known[i]) for i in best}

    def _changed(self, value: float) -> Any:
        if self.broken not in _LIES_OF_A_VALUE or (self.broken == "swapped" and self.calls <= _SWAP_AFTER):
            return value
        return _LIES_OF_A_VALUE[self.broken](value)

    def _lie(self, values: list[Any], start: int, what: str) -> list[Any]:
        """Values of ``what`` as this server gives them; those from ``start`` on are a response's."""
        if self.broken in _LIES_OF_A_VALUE:
            return [None if value is None else self._changed(value) for value in values]
        if self.broken == "shifted":  # a begin token was added, and everything is one place off
            return [None, -5.0, *values[1:-1]][: len(values)] if what == "prompt" else [-5.0, *values][:-1]
        if self.broken == "stale":
            begin = start if start < len(values) else min(1, len(values))  # a prompt without a response in it
            before = self._stale.get(what)
            if self.calls % 3 == 0 and before is not None:
                return [*values[:begin], *[*before, *([-1.0] * len(values))][: len(values) - begin]]
            self._stale[what] = [value for value in values[begin:] if value is not None]
        return values


def _until(drawn: Sequence[int], asked: Asked) -> _Drawn:
    """A response up to the first token or text that is to stop it; the text itself is drawn and not shown."""
    shown, taken, finish = len(drawn), len(drawn), "length"
    if drawn and drawn[-1] == END:
        shown, finish = len(drawn) - 1, "stop"
    for place, token in enumerate(drawn[:shown]):
        if token in asked.stop_ids:
            shown, taken, finish = place, place + 1, "stop"
            break
    text = text_of(drawn[:shown])  # a character is a token
    found = [(text.find(stop) + len(stop), text.find(stop)) for stop in asked.stop if stop in text]
    if found:
        taken, shown = min(found)
        finish = "stop"
    return _Drawn(list(drawn[:shown]), list(drawn[:taken]), finish)


def _late_fault(fault: str, answer: Json | list[Json]) -> None:
    """Faults that spoil a good answer."""
    several = answer if isinstance(answer, list) else [answer]
    for choice in [c for one in several for c in one.get("choices", [one.get("meta_info", {})])]:
        if fault in ("filter", "unfinished"):
            choice["finish_reason"] = "content_filter" if fault == "filter" else None


def _sent(answer: Json | list[Json], request: Json) -> Reply:
    """An answer as it travels: at once, or in the events of a stream."""
    if not request.get("stream"):
        return _json(200, answer)
    if isinstance(answer, dict) and "choices" in answer:
        body = events(answer, with_usage=bool((request.get("stream_options") or {}).get("include_usage")))
    else:
        body = sglang_events(answer)
    return Reply(200, body, {"content-type": "text/event-stream"})


def _entry(token: str, value: Any) -> Json:
    return {"token": token, "logprob": value, "bytes": list(token.encode())}


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(value, allow_nan=False).encode(), headers or {})


def _error(
    status: int, message: str, code: str | None = None, *, param: str | None = None,
    headers: dict[str, str] | None = None,
) -> Reply:  # fmt: skip
    block = {"message": message, "type": "invalid_request_error" if status < 429 else "fake", "param": param}
    return _json(status, {"error": {**block, "code": code}}, headers)
