"""A server on this machine that answers in every dialect, over a toy model with known probabilities.

It is the test bed of `mop.backends.remote` and ships with the package (``mop fake-server``), so that anyone can try a
client, ours or theirs, against faults and against servers that lie about scores. `FakeServer` is the behaviour, without
a network; `start` puts it behind an HTTP port on loopback.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import takewhile
from typing import Any

from mop.backends.fake import ALPHABET, OTHER, FakeModel
from mop.errors import ConfigError
from mop.randomness import uniforms
from mop.types import Branch, Decoding, GenerateRequest, Generation, Prompt, ScoreRequest, Segment, Turn

Json = dict[str, Any]

CHARACTERS = ALPHABET + OTHER
END = len(CHARACTERS)
"""Id of the end of the turn; characters have the ids before it."""
TURN = END + 1
"""Id that opens a turn."""
REPLY = END + 2
"""Id after which the response begins."""

DIALECTS: Mapping[str, str] = {
    "vllm": "token ids or chat; scores by prompt_logprobs and by echo",
    "sglang": "token ids or chat; scores by /generate with return_logprob",
    "llamacpp": "token ids or chat; takes echo and gives generated tokens only",
    "ollama": "chat; drops echo and logprobs without a word",
    "openai": "chat; refuses echo together with logprobs",
    "legacy": "the old completions form with a working echo",
    "fireworks": "completions with a working echo that returns token ids",
    "together": "chat; completions for prompts as text only",
    "tgi": "chat; no completions",
}
"""What each kind of server does."""

LIES: Mapping[str, str] = {
    "none": "tells the truth",
    "silent": "leaves the scores out",
    "generated-only": "gives the generated token's score as if it were the prompt's",
    "nulls": "every score is null",
    "zeros": "every score is 0",
    "constant": "every score is -2",
    "positive": "scores with the wrong sign",
    "sentinel": "every score is -9999",
    "text": "scores are strings",
    "stale": "every third answer holds the scores of the one before",
    "shifted": "everything is one place off",
    "wrong-ids": "works on other tokens than were sent",
    "short": "one score is missing",
    "truncates": "cuts what is longer than its window",
    "no-usage": "does not count tokens",
    "two-choices": "answers twice",
    "runs-on": "draws one token more than max_tokens",
    "renamed": "after 30 calls the model has another name",
    "swapped": "after 30 calls it is another model",
    "greedy": "takes temperature and seed and ignores both",
}
"""What a broken server does; the word goes to ``broken``."""

FAULTS: Mapping[str, str] = {
    "ok": "a good answer",
    "400": "bad request",
    "401": "no valid key",
    "403": "not allowed",
    "404": "no such page",
    "413": "too large",
    "429": "too many requests; 429:2 with Retry-After: 2",
    "500": "server error",
    "502": "bad gateway",
    "503": "not available; 503:5 with Retry-After: 5",
    "504": "gateway timeout",
    "529": "overloaded",
    "reset": "the connection closes without an answer",
    "cut": "the connection closes after 40 bytes; cut:100 after 100",
    "slow": "16 bytes every 0.1 s; slow:0.5 every 0.5 s",
    "hang": "no answer within the hour",
    "garbage": "a web page instead of JSON",
    "filter": "finish_reason is content_filter",
    "unfinished": "no finish_reason",
    "quote": "an error that repeats the request and its key",
    "redirect": "another address",
    "bomb": "an endless body",
}
"""What can go wrong on the way, by the name that `Faults` takes."""

_OWNERS = {"llamacpp": "llamacpp", "ollama": "library", "vllm": "vllm", "sglang": "sglang"}
_MAX_REQUEST_BYTES = 8 * 2**20


class ToyEncoder:
    """Text to the ids of the toy model: one per character, with marks for turns; a `PromptEncoder`.

    Template text is left out, because the toy model does not look at it.

    Examples
    --------
    >>> encoder = ToyEncoder()
    >>> encoder.prompt_ids(Prompt((Turn("user", (Segment("Say: ", False), Segment("ab", True))),)))
    [35, 0, 1, 36]
    >>> encoder.response_ids("ba")
    [1, 0, 34]
    """

    fingerprint = "toy/1"
    is_chat = True
    end_ids = frozenset({END, TURN, REPLY})
    control_strings: tuple[str, ...] = ()
    """None: the marks have no text."""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, up to where the response begins."""
        ids: list[int] = []
        for turn in prompt.turns:
            ids.append(TURN)
            for segment in turn.segments:
                if segment.is_data:
                    ids += _ids_of(segment.text)
        return [*ids, REPLY]

    def response_ids(self, text: str) -> list[int]:
        """Ids of a response, end-of-turn included."""
        return [*_ids_of(text), END]

    def text(self, ids: Sequence[int]) -> str:
        """Text of drawn ids, up to the first end."""
        return _text_of(ids)


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong, call by call.

    A fault is written as its name, see `FAULTS`, with a number where one makes sense: ``429:2``.
    """

    script: tuple[str, ...] = ()
    """Faults of the first calls, in order; calls after the script are good."""
    rate: float = 0.0
    """Share of further calls that get a fault of `kinds`."""
    kinds: tuple[str, ...] = ("429:1", "500", "502", "503", "reset", "cut:40", "garbage")
    """What the random faults are, all equally likely."""
    seed: int = 0
    """The fault of call i is a function of (seed, i)."""

    def __post_init__(self) -> None:
        """Reject a script that could not be played."""
        for fault in (*self.script, *self.kinds):
            name, _, number = fault.partition(":")
            if name not in FAULTS or (number and not number.replace(".", "", 1).isdigit()):
                raise ConfigError(
                    f"a fault is called {fault!r}; it must be one of {', '.join(sorted(FAULTS))}, with a number after "
                    "a colon where one makes sense, like 429:2"
                )
        if not 0 <= self.rate <= 1:
            raise ConfigError(f"the rate of faults must be 0 to 1, got {self.rate}; try 0.3")

    def of_call(self, number: int) -> str:
        """Return the fault of call ``number``, counted from 0."""
        if number < len(self.script):
            return self.script[number]
        chance, which = uniforms(self.seed, 2 * number, 2)
        return self.kinds[int(which * len(self.kinds))] if chance < self.rate else "ok"


@dataclass(slots=True)
class Reply:
    """An answer before it is sent, and what is done to it on the way."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    is_reset: bool = False
    """Close without an answer."""
    cut_at: int | None = None
    """Close after so many bytes of the body."""
    wait_s: float = 0.0
    """Before the first byte."""
    drip_s: float = 0.0
    """Between pieces of 16 bytes."""
    is_endless: bool = False
    """Repeat the body for ever."""


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
    no part of the toy model's definition; they are ``-3.5`` less a hundredth of the id.
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
        self._stale: list[float] | None = None
        self._toy = FakeModel([1.0])
        self._lock = threading.Lock()

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request; header names are in lower case."""
        with self._lock:
            return self._reply(method, path, headers, body)

    def _reply(self, method: str, path: str, headers: Mapping[str, str], raw: bytes) -> Reply:
        if self._key is not None and headers.get("authorization") != f"Bearer {self._key}":
            return _error(401, "no valid key", "invalid_api_key")
        if method == "GET":
            return self._list() if path == "/v1/models" else _error(404, "no such page")
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
        except (ValueError, KeyError, TypeError, ConfigError) as error:
            return _error(400, f"bad request ({type(error).__name__})")
        if isinstance(answer, Reply):
            return answer
        _late_fault(fault, answer)
        reply = _json(200, answer)
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

    def _list(self) -> Reply:
        entry: Json = {"id": self._model, "object": "model", "owned_by": _OWNERS.get(self.kind, "organization")}
        if self.kind == "vllm":
            entry["max_model_len"] = self._window
        return _json(200, {"object": "list", "data": [entry]})

    def _answer(self, path: str, request: Json) -> Json | Reply:
        if path == "/v1/chat/completions":
            return self._chat(request)
        if path == "/v1/completions" and self.kind != "tgi":
            return self._completion(request)
        if path == "/generate" and self.kind == "sglang":
            return self._sglang(request)
        return _error(404, "no such page")

    def _chat(self, request: Json) -> Json | Reply:
        if request["model"] != self._model and self.kind != "llamacpp":
            return _error(404, "no such model", "model_not_found")
        contents = [str(message["content"]) for message in request["messages"]]
        drawn = self._draw("".join(contents), request)
        message = {"role": "assistant", "content": drawn.text}
        choice: Json = {"index": 0, "message": message, "finish_reason": drawn.finish_reason}
        usage = _usage(sum(map(len, contents)) + 2 * len(contents), drawn.n_tokens)
        return self._envelope("chat.completion", choice, usage)

    def _completion(self, request: Json) -> Json | Reply:
        prompt = request["prompt"]
        if isinstance(prompt, str):
            prompt = [TURN, *_ids_of(prompt), REPLY]
        elif self.kind == "together":
            return _error(422, "prompt must be a string")
        prompt = self._taken(prompt, int(request.get("max_tokens") or 1))
        if isinstance(prompt, Reply):
            return prompt
        wants_echo = bool(request.get("echo")) and request.get("logprobs") is not None
        if wants_echo and self.kind == "openai":
            return _error(400, "Setting 'echo' and 'logprobs' at the same time is not supported")
        drawn = self._draw(_data_of(prompt), request)
        choice: Json = {"index": 0, "text": drawn.text, "finish_reason": drawn.finish_reason, "logprobs": None}
        if self.kind == "vllm" and request.get("return_token_ids"):
            choice["prompt_token_ids"] = self._returned(prompt)
            ends = [END] if drawn.finish_reason == "stop" else []
            choice["token_ids"] = [*_ids_of(drawn.text), *ends]
        if self.kind == "vllm" and request.get("prompt_logprobs") is not None:
            choice["prompt_logprobs"] = self._vllm_rows(prompt)
        answer = self._envelope("text_completion", choice, _usage(len(prompt), drawn.n_tokens))
        if wants_echo:
            self._echo(choice, prompt, drawn)
        return answer

    def _taken(self, ids: list[int], n_drawn: int) -> list[int] | Reply:
        """The ids of a prompt as far as the server looks at them, or its refusal."""
        if not ids or not all(type(i) is int and 0 <= i <= REPLY for i in ids):
            return _error(400, "unknown token id")
        if self.broken == "truncates":
            ids = ids[-self._window :]
        if len(ids) + n_drawn > self._window + 1:
            return _error(400, f"maximum context length is {self._window}", "context_length_exceeded")
        return ids

    def _vllm_rows(self, ids: Sequence[int]) -> list[Json | None] | None:
        if self.broken == "silent":
            return None
        sent = self._returned(ids)
        rows: list[Json | None] = [None]
        for position, value in enumerate(self._values(ids)[1:], start=1):
            token = sent[position]
            row = {"logprob": value, "rank": 1, "decoded_token": _text_of([token])}
            rows.append({str(token): row} if value is not None else None)
        return rows[:-1] if self.broken == "short" else rows

    def _echo(self, choice: Json, ids: Sequence[int], drawn: Generation) -> None:
        """Add what an echo answer holds, or what this kind of server makes of it."""
        drawn_ids = _ids_of(drawn.text)[:1] or [END]
        if self.kind == "ollama" or self.broken == "silent":
            return  # the field is dropped without a word
        if self.kind == "llamacpp" or self.broken == "generated-only":
            # Answers 200 to echo and gives the generated token alone: exact chance on every benchmark.
            text = _text_of(drawn_ids)
            tokens = {"tokens": [text], "token_logprobs": [-0.1], "text_offset": [0]}
            choice["logprobs"] = {"content": [{"token": text, "logprob": -0.1}]} if self.kind == "llamacpp" else tokens
            return
        sent = self._returned(ids)
        values = [*self._values(ids), -0.1]
        shown = [*sent, *drawn_ids]
        if self.broken == "short":
            values, shown = values[:-2], shown[:-2]
        choice["text"] = _data_of(ids) + drawn.text
        choice["logprobs"] = {
            "tokens": [_text_of([i]) for i in shown],
            "token_logprobs": values,
            "text_offset": list(range(len(values))),
        }
        if self.kind == "fireworks":
            choice["logprobs"]["token_ids"] = shown
            choice["prompt_token_ids"] = sent

    def _sglang(self, request: Json) -> Json | Reply:
        ids = self._taken(request["input_ids"], 1)
        if isinstance(ids, Reply):
            return ids
        start = max(0, int(request.get("logprob_start_len", len(ids))))
        info: Json = {"prompt_tokens": len(ids), "completion_tokens": 1, "finish_reason": {"type": "length"}}
        if self.broken == "no-usage":
            del info["prompt_tokens"]
        if request.get("return_logprob") and self.broken != "silent":
            sent, values = self._returned(ids), self._values(ids)
            rows: list[list[Any]] = [[v, i, None] for v, i in zip(values, sent, strict=True)][start:]
            rows[0][0] = None  # the row at logprob_start_len itself is null
            info["input_token_logprobs"] = rows[:-1] if self.broken == "short" else rows
        return {"text": "a", "meta_info": info}

    def _envelope(self, name: str, choice: Json, usage: Json) -> Json:
        model = f"{self._model}-next" if self.broken == "renamed" and self.calls > 30 else self._model
        answer: Json = {"id": f"fake-{self.calls}", "object": name, "created": 0, "model": model}
        answer["choices"] = [choice, choice] if self.broken == "two-choices" else [choice]
        if self.broken != "no-usage":
            answer["usage"] = usage
        return answer

    def _draw(self, data: str, request: Json) -> Generation:
        """Draw from the toy model as `FakeModel.generate` does, with the request's own seed."""
        limit = request.get("max_tokens") or request.get("max_completion_tokens") or 16
        decoding = Decoding(
            max_tokens=int(limit) + (1 if self.broken == "runs-on" else 0),
            min_tokens=int(request.get("min_tokens") or 0),
            top_p=float(request.get("top_p") or 1.0),
            top_k=max(0, int(request.get("top_k") or 0)),
        )
        # Temperature 0 means the likeliest token; the toy model wants a positive number.
        temperature = max(float(request.get("temperature", 1.0)), 1e-3)
        seed = request.get("seed")
        if self.broken == "greedy":  # temperature and seed are accepted and ignored
            temperature, seed = 1e-3, 0
        branch = Branch(_as_prompt(data), temperature)
        one = GenerateRequest((branch,), int(seed) if seed is not None else self.calls)
        [(_, drawn)] = next(self._toy.generate([one], decoding))
        return drawn

    def _values(self, ids: Sequence[int]) -> list[Any]:
        """Log-probability of each token after those before it, and one lie if there is one to tell."""
        start = _reply_start(ids)
        values = [None, *(-3.5 - 0.01 * i for i in ids[1:start]), *self._log_probs(_data_of(ids), ids[start:])]
        return self._lie(values[: len(ids)], start)

    def _log_probs(self, data: str, response: Sequence[int]) -> list[float]:
        """The toy model's log-probability of every response token, at τ = 1."""
        kinds = sorted({i for i in response if i < END})
        requests = [ScoreRequest(_as_prompt(data), text) for text in ["", *(CHARACTERS[i] for i in kinds)]]
        scored = {place: float(s.log_lik[0]) for batch in self._toy.score(requests) for place, s in batch}
        end = scored[0]
        # A score ends with the end of the turn, so its share is taken off again.
        known = {END: end} | {i: scored[place] - end for place, i in enumerate(kinds, start=1)}
        return [known.get(i, -3.5) for i in response]

    def _lie(self, values: list[Any], start: int) -> list[Any]:
        lies: dict[str, Callable[[float], float | str | None]] = {
            "nulls": lambda _: None,
            "zeros": lambda _: 0.0,
            "constant": lambda _: -2.0,
            "positive": lambda value: -value,
            "sentinel": lambda _: -9999.0,
            "text": str,
            "swapped": lambda value: value * 1.5 if self.calls > 30 else value,
        }
        if self.broken in lies:
            lie = lies[self.broken]
            return [None, *(lie(v) if v is not None else None for v in values[1:])]
        if self.broken == "shifted":  # a begin token was added, and everything is one place off
            return [None, -5.0, *values[1:-1]]
        if self.broken == "stale" and self.calls % 3 == 0 and self._stale is not None:
            kept = [*self._stale, *([-1.0] * len(values))]
            return [*values[:start], *kept[: len(values) - start]]
        self._stale = [v for v in values[start:] if v is not None]
        return values

    def _returned(self, ids: Sequence[int]) -> list[int]:
        """Return the ids that the server says it worked on."""
        return [(i + 1) % END if i < END else i for i in ids] if self.broken == "wrong-ids" else list(ids)


class RunningServer(ThreadingHTTPServer):
    """A `FakeServer` behind a port of this machine; a context manager."""

    daemon_threads = True
    block_on_close = False  # connections that hang are left to their threads
    request_queue_size = 256

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait(self) -> None:
        """Serve until interrupted."""
        while True:
            time.sleep(1.0)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that went away is what this server is for."""

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def start(server: FakeServer, *, port: int = 0) -> RunningServer:
    """Serve on loopback in a thread; port 0 is any free one.

    Raises
    ------
    ConfigError
        If the port is taken, or above 65,535.
    """
    handler = type("Handler", (_Handler,), {"fake": server})
    try:
        running = RunningServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:  # taken, or no number of a port
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"port {port} of this machine cannot be used ({why}); give another one, or 0 for any"
        ) from error
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    return running


class _Handler(BaseHTTPRequestHandler):
    fake: FakeServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdigit() or int(length) > _MAX_REQUEST_BYTES:
            self.close_connection = True
            self.send_error(413)
            return
        self._send(self.rfile.read(int(length)))

    def _send(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.fake.reply(self.command, self.path, headers, body)
        if reply.is_reset:
            self.close_connection = True
            return
        time.sleep(reply.wait_s)
        with suppress(OSError):
            self._write(reply)

    def _write(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        headers = {"content-type": "application/json", **reply.headers}
        headers["content-length"] = "999999999" if reply.is_endless else str(len(reply.body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = reply.body[: reply.cut_at]
        if reply.cut_at is not None or reply.is_endless:
            self.close_connection = True
        while True:
            step = 16 if reply.drip_s else len(body) or 1
            for place in range(0, len(body), step):
                self.wfile.write(body[place : place + step])
                self.wfile.flush()
                time.sleep(reply.drip_s)
            if not reply.is_endless:
                return

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold people's words."""


def _late_fault(fault: str, answer: Json) -> None:
    """Faults that spoil a good answer."""
    for choice in answer.get("choices", ()):
        if fault == "filter":
            choice["finish_reason"] = "content_filter"
        if fault == "unfinished":
            choice["finish_reason"] = None


def _ids_of(text: str) -> list[int]:
    return [CHARACTERS.index(character if character in ALPHABET else OTHER) for character in text]


def _text_of(ids: Sequence[int]) -> str:
    return "".join(CHARACTERS[i] for i in takewhile(lambda i: i < END, ids))


def _data_of(ids: Sequence[int]) -> str:
    """The characters of a prompt, without its marks and without the response."""
    return "".join(CHARACTERS[i] for i in ids[: _reply_start(ids)] if i < END)


def _reply_start(ids: Sequence[int]) -> int:
    """Place after the last mark that opens a response; the end if there is none."""
    places = [place for place, i in enumerate(ids) if i == REPLY]
    return places[-1] + 1 if places else len(ids)


def _as_prompt(data: str) -> Prompt:
    return Prompt((Turn("user", (Segment(data, is_data=True),)),))


def _usage(tokens_in: int, tokens_out: int) -> Json:
    return {"prompt_tokens": tokens_in, "completion_tokens": tokens_out, "total_tokens": tokens_in + tokens_out}


def _json(status: int, value: Json, headers: dict[str, str] | None = None) -> Reply:
    return Reply(status, json.dumps(value, allow_nan=False).encode(), headers or {})


def _error(status: int, message: str, code: str | None = None, headers: dict[str, str] | None = None) -> Reply:
    return _json(status, {"error": {"message": message, "type": "fake", "code": code}}, headers)
