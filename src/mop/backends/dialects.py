"""What is sent to each kind of server and what is accepted back: pure functions between values and JSON.

An answer is taken only if everything about it can be checked: at least five kinds of server accept a request for
log-probabilities and return nothing, nulls, zeros or stale values. `mop.backends.remote` does the calling.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from mop.backends.retry import CallError
from mop.config import SAMPLING
from mop.redact import withhold_quotes
from mop.types import Decoding, FinishReason, without_surrogates

ServerKind = Literal["vllm", "sglang", "llamacpp", "ollama", "other"]
ScoreDialect = Literal["vllm", "sglang", "echo"]
Json: TypeAlias = dict[str, Any]

MAX_DEPTH = 64
"""Nesting beyond this is an attack or a fault, not an answer."""


@dataclass(frozen=True, slots=True)
class Meter:
    """What a call used, as the server counted it, and which model it says it is."""

    prompt_tokens: int
    completion_tokens: int
    model: str | None
    fingerprint: str | None


@dataclass(frozen=True, slots=True)
class Drawn:
    """A generated text as a server returned it."""

    text: str
    finish_reason: FinishReason
    meter: Meter
    ids: tuple[int, ...] | None
    """The drawn ids, where the server returns them."""


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities of the response tokens, nats, in order."""

    log_probs: tuple[float, ...]
    meter: Meter


def sampling_fields(kind: ServerKind, decoding: Decoding, *, temperature: float, seed: int) -> Json:
    """Return the sampling part of a request: temperature alone, everything else switched off by name.

    Servers fill what is left out from the model's own defaults (top-p 0.9, top-k 40, repetition
    penalty 1.1), and then the draws do not come from the fitted model. Only fields that the kind of
    server is known to accept are sent: strict servers refuse unknown ones.

    The seed is cut to 31 bits, which every server accepts.

    Raises
    ------
    CallError
        If ``decoding`` asks for what this kind of server is not known to do: ``top_k`` or ``min_tokens``.
    """
    fields: Json = {
        "temperature": temperature,
        "top_p": decoding.top_p,
        "max_tokens": decoding.max_tokens,
        "seed": seed & 0x7FFFFFFF,
        "stream": False,
    }
    if kind in ("vllm", "sglang"):
        fields |= {"top_k": decoding.top_k or -1, "min_p": 0.0, "repetition_penalty": 1.0}
        fields |= {"presence_penalty": 0.0, "frequency_penalty": 0.0, "min_tokens": decoding.min_tokens}
    elif kind == "llamacpp":
        fields |= {"top_k": decoding.top_k, "min_p": 0.0, "typical_p": 1.0, "repeat_penalty": 1.0}
    if (decoding.top_k and kind in ("ollama", "other")) or (decoding.min_tokens and kind not in ("vllm", "sglang")):
        raise CallError(
            f"top_k = {decoding.top_k} and min_tokens = {decoding.min_tokens} were asked for, and a server of kind "
            f"{kind!r} is not known to honour them; set both to 0, or serve the model with vLLM or SGLang",
            kind="fatal",
            code="decoding",
        )
    return fields


def with_fields(body: Json, fields: Mapping[str, Any]) -> Json:
    """Return a request with the user's fields (``remote.fields``): false leaves out one of ours, others are added."""
    body = dict(body)
    for name, value in fields.items():
        if name in SAMPLING and (value is False or value == "fixed"):
            body.pop(name, None)
        else:
            body[name] = value
    return body


def score_request(
    dialect: ScoreDialect, model: str, ids: Sequence[int], start: int, *, salt: str | None
) -> tuple[str, Json]:
    """Return path and body that ask for the log-probabilities of ``ids[start:]``, the response, ``start`` ≥ 1.

    ``salt`` keeps the prefix cache of a shared server apart (vLLM).
    """
    if dialect == "sglang":
        # The row at logprob_start_len itself is null, so it is set one token before the response;
        # 0 would work too, but defeats the prefix cache.
        return "/generate", {
            "input_ids": list(ids),
            "return_logprob": True,
            "logprob_start_len": start - 1,
            "top_logprobs_num": 0,
            "sampling_params": {"max_new_tokens": 1, "temperature": 0},
            "stream": False,
        }
    body: Json = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0, "stream": False}
    if dialect == "echo":
        # max_tokens 0 means "no limit" on some servers, so one token is drawn and thrown away.
        return "/v1/completions", body | {"echo": True, "logprobs": 1}
    body |= {"prompt_logprobs": 0, "return_token_ids": True, "add_special_tokens": False}
    return "/v1/completions", body | ({"cache_salt": salt} if salt else {})


def read_json(raw: bytes) -> Json:
    """Parse an answer strictly: a whole JSON object, no NaN, no name twice, no deep nesting.

    Raises
    ------
    CallError
        Of kind ``protocol``.

    Examples
    --------
    >>> read_json(b'{"a": 1}')
    {'a': 1}
    """
    try:
        value = json.loads(
            raw.decode("utf-8-sig"), parse_constant=_no_constant, parse_int=_no_giant, object_pairs_hook=_no_twins
        )
        n_levels = _depth(value)
    except (ValueError, RecursionError) as error:
        # ``from None``: the decoder's error holds the whole document, and with it people's words.
        reason = str(error) if isinstance(error, _StrictJsonError) else type(error).__name__
        raise _protocol("json", f"an answer of {len(raw)} bytes is not valid JSON ({reason})") from None
    if not isinstance(value, dict):
        raise _protocol("json", f"an answer is a JSON {type(value).__name__}, not an object")
    if n_levels > MAX_DEPTH:
        raise _protocol("json", f"an answer is nested deeper than {MAX_DEPTH} levels")
    return value


def answer_bytes(n_prompt: int, n_drawn: int) -> int:
    """How long an answer may be: room for the longest tokens, with their ids and log-probabilities, and for the rest.

    ``n_prompt`` are the prompt tokens that it repeats, 0 for chat.
    """
    return 2**16 + 2**10 * (n_prompt + n_drawn)


def read_generation(body: Json, *, is_chat: bool, max_tokens: int, private: Sequence[str] = ()) -> Drawn:
    """Take one generated text out of a chat or completions answer; no message quotes any of the ``private`` texts.

    Raises
    ------
    CallError
        If the answer is incomplete (``protocol``), or if the server or the model declined or
        the model thought before it answered (``item``).
    """
    choice = _only_choice(body)
    reason = choice.get("finish_reason")
    if reason in ("content_filter", "tool_calls", "function_call"):
        raise CallError(f"the server ended a response with {reason!r}", kind="item", code=str(reason))
    finish = _FINISH.get(reason) if isinstance(reason, str) else None
    if finish is None:
        raise _protocol("finish", f"finish_reason is {_name(reason, private)}; it must be 'stop' or 'length'")
    if is_chat:
        message = choice.get("message")
        message = message if isinstance(message, dict) else {}
        text = message.get("content")
        if text is None and message.get("refusal"):
            raise CallError("the model declined by its refusal field", kind="item", code="refusal")
        if _is_thought(message.get("reasoning_content")) or _is_thought(message.get("reasoning")):
            raise _thinking(is_chat=True)
    else:
        text = choice.get("text")
    if not isinstance(text, str):
        raise _protocol("text", f"the text of an answer is {_short(text)}; a string is needed")
    if text.lstrip().startswith("<think>") or "</think>" in text:
        raise _thinking(is_chat=is_chat)
    meter = read_meter(body)
    usage = body["usage"].get("completion_tokens_details")
    if _is_positive(usage.get("reasoning_tokens") if isinstance(usage, dict) else None):
        raise _thinking(is_chat=is_chat)
    if meter.completion_tokens > max_tokens:
        raise _protocol(
            "max-tokens",
            f"{_figure(meter.completion_tokens)} tokens came where at most {max_tokens} were asked for; a model that "
            "thinks out of sight counts its thoughts",
        )
    if len(text) > _LONGEST_TOKEN * (meter.completion_tokens + 1):
        raise _protocol(
            "token-length",
            f"{len(text):,} characters came as {meter.completion_tokens} tokens, more than so many can be",
        )
    ids = choice.get("token_ids")
    if not isinstance(ids, list) or not all(type(i) is int and 0 <= i < 2**31 for i in ids):
        ids = None
    text = without_surrogates(text)  # a length limit can cut an emoji in half
    return Drawn(text, finish, meter, None if ids is None else tuple(ids))


_LONGEST_TOKEN = 512  # characters; the longest of the vocabularies in use are runs of 128 and 256

_FINISH: dict[str, FinishReason] = {
    "stop": "stop", "length": "length", "eos": "stop", "eos_token": "stop", "stop_sequence": "stop",
}  # fmt: skip


def read_meter(body: Json) -> Meter:
    """Take usage, model name and fingerprint out of an OpenAI-style answer.

    Raises
    ------
    CallError
        If the usage is missing: without it neither cost nor truncation can be seen.

    Notes
    -----
    Some servers leave out ``completion_tokens`` where it is 0; then it is what ``total_tokens``
    adds to the prompt.

    Examples
    --------
    >>> read_meter({"usage": {"prompt_tokens": 9, "total_tokens": 12}}).completion_tokens
    3
    """
    usage = body.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    n_prompt = _count(usage.get("prompt_tokens"), "usage.prompt_tokens")
    n_drawn = usage.get("completion_tokens")
    if "completion_tokens" not in usage and "total_tokens" in usage:
        n_drawn = _count(usage["total_tokens"], "usage.total_tokens") - n_prompt
    return Meter(
        n_prompt,
        _count(n_drawn, "usage.completion_tokens"),
        _text_or_none(body.get("model")),
        _text_or_none(body.get("system_fingerprint")),
    )


def read_scores(
    dialect: ScoreDialect, body: Json, ids: Sequence[int], start: int, *, token_text: Callable[[int], str]
) -> Scored:
    """Take the log-probabilities of ``ids[start:]``, of the ids sent, out of an answer, if every check holds.

    Where an ``echo`` answer names tokens by text alone, it is compared with ``token_text``: spaces at its ends, and
    tokens without a visible character of their own, do not count.

    Raises
    ------
    CallError
        Of kind ``protocol``, saying which check failed.
    """
    if dialect == "sglang":
        return _read_sglang(body, ids, start)
    choice = _only_choice(body)
    meter = read_meter(body)
    check_prompt_length(meter, len(ids))
    for holder in (choice, body):
        if holder.get("prompt_token_ids") is not None:
            _same_ids(holder["prompt_token_ids"], ids)
    rows = _vllm_rows(choice, ids) if dialect == "vllm" else _echo_rows(choice, ids, token_text)
    return Scored(_checked(rows, len(rows) - (len(ids) - start)), meter)


def check_prompt_length(meter: Meter, n_sent: int) -> None:
    """Refuse an answer to other ids than were sent, with a `CallError`."""
    if meter.prompt_tokens != n_sent:
        raise _protocol(
            "prompt-length",
            f"the server counted {_figure(meter.prompt_tokens)} prompt tokens where {n_sent} were sent; it truncates, "
            "or adds a token of its own",
        )


def _vllm_rows(choice: Json, ids: Sequence[int]) -> list[object]:
    entries = choice.get("prompt_logprobs")
    if not isinstance(entries, list):
        raise _protocol("no-scores", f"prompt_logprobs is {_short(entries)}; the server does not score prompts")
    if len(entries) != len(ids):
        raise _protocol("score-count", f"{len(entries)} prompt_logprobs came for {len(ids)} tokens")
    rows: list[object] = [0.0]  # nothing comes before position 0, and nobody reads it
    for position in range(1, len(ids)):
        entry = entries[position]
        if entry is None:
            raise _protocol("nulls", f"prompt_logprobs is null at position {position} of {len(ids)}")
        value = entry.get(str(ids[position])) if isinstance(entry, dict) else None
        if not isinstance(value, dict):
            raise _protocol("wrong-ids", f"position {position} does not hold the token that was sent")
        rows.append(value.get("logprob"))
    return rows[1:]


def _echo_rows(choice: Json, ids: Sequence[int], token_text: Callable[[int], str]) -> list[object]:
    block = choice.get("logprobs")
    values = block.get("token_logprobs") if isinstance(block, dict) else None
    if not isinstance(block, dict) or not isinstance(values, list):
        raise _protocol("no-scores", "there are no token_logprobs; the server took 'echo' and ignored it")
    # The last entry may be the token that was generated because max_tokens must be at least 1.
    if len(values) not in (len(ids), len(ids) + 1):
        raise _protocol(
            "score-count",
            f"{len(values)} token_logprobs came for {len(ids)} prompt tokens; "
            "a server that returns generated tokens only cannot score",
        )
    if block.get("token_ids") is not None:
        _same_ids(block["token_ids"][: len(ids)] if isinstance(block["token_ids"], list) else None, ids)
    elif choice.get("prompt_token_ids") is None:
        tokens = block.get("tokens")
        sent = [token_text(i).strip() for i in ids]
        # A token that is half a character has no text of its own; servers write it in several
        # ways, and so they do the space before a word.
        same = (
            isinstance(tokens, list)
            and len(tokens) >= len(sent)
            and all(
                isinstance(a, str) and a.strip() == b
                for a, b in zip(tokens, sent, strict=False)
                if b and "\ufffd" not in b
            )
        )
        if not same:
            raise _protocol("wrong-ids", "the tokens that came back are not those that were sent")
    return list(values[1 : len(ids)])


def _read_sglang(body: Json, ids: Sequence[int], start: int) -> Scored:
    info = body.get("meta_info")
    if not isinstance(info, dict):
        raise _protocol("no-scores", "the answer has no meta_info; this is not SGLang's /generate")
    meter = Meter(
        _count(info.get("prompt_tokens"), "meta_info.prompt_tokens"),
        # one was asked for, and not every version counts it
        _count(info.get("completion_tokens", 1), "meta_info.completion_tokens"),
        _text_or_none(info.get("model")),
        _text_or_none(info.get("weight_version")),
    )
    check_prompt_length(meter, len(ids))
    rows = info.get("input_token_logprobs")
    wanted = ids[start - 1 :]
    if not isinstance(rows, list):
        raise _protocol("no-scores", f"input_token_logprobs is {_short(rows)}")
    if len(rows) != len(wanted):
        raise _protocol("score-count", f"{len(rows)} input_token_logprobs came where {len(wanted)} were asked for")
    if not all(isinstance(row, list) and len(row) >= 2 for row in rows):
        raise _protocol("no-scores", "a row of input_token_logprobs is not [log-probability, id, text]")
    _same_ids([row[1] for row in rows], wanted)
    return Scored(_checked([row[0] for row in rows[1:]], 0), meter)


def _checked(rows: Sequence[object], skip: int) -> tuple[float, ...]:
    """Refuse what no language model says; return the values from ``skip`` on."""
    values: list[float] = []
    for position, value in enumerate(rows):
        if value is None:
            raise _protocol("nulls", f"the log-probability of token {position + 1} is null")
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise _protocol("not-finite", f"the log-probability of token {position + 1} is {_short(value)}")
        if value > 1e-6:
            raise _protocol("positive", f"the log-probability of token {position + 1} is {value:.6g}, above 0")
        if value <= -1000.0:
            # vLLM writes -9999 for -inf, others the smallest float: averaged in, they ruin a score quietly.
            raise _protocol(
                "sentinel", f"the log-probability of token {position + 1} is {value:.6g}: a stand-in, not a value"
            )
        values.append(min(float(value), 0.0))
    span = values[skip:]
    if not span:
        raise _protocol("empty", "there is no log-probability for the response")
    # One sure token may round to 0; a whole response, or a whole prompt, may not.
    if not any(values) or (len(span) > 1 and not any(span)):
        raise _protocol("zeros", f"all {len(span)} log-probabilities of the response are 0")
    return tuple(span)


def _is_thought(value: object) -> bool:
    """Whether a reasoning field holds something; servers that do not think leave it empty or null."""
    return bool(value.strip() if isinstance(value, str) else value)


def _thinking(*, is_chat: bool) -> CallError:
    advice = (
        'switch thinking off with remote.fields.reasoning_effort = "none" (Ollama and hosted models that know it) or '
        "remote.fields.chat_template_kwargs = {enable_thinking = false} (vLLM, SGLang, llama.cpp), or set dialect "
        "'openai-completions' and the model's own tokenizer, which fill in its template here, with "
        "thinking off"
        if is_chat
        else "its template was filled in here, with thinking off, so use a model that can do without"
    )
    return CallError(
        "the model thinks before it answers, and thoughts are no response; " + advice, kind="item", code="reasoning"
    )


def _only_choice(body: Json) -> Json:
    choices = body.get("choices")
    if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
        n = len(choices) if isinstance(choices, list) else 0
        raise _protocol("choices", f"an answer has {n} choices; exactly one was asked for")
    return choices[0]


def _same_ids(came: object, sent: Sequence[int]) -> None:
    if not isinstance(came, list) or came != list(sent):
        n = len(came) if isinstance(came, list) else 0
        raise _protocol("wrong-ids", f"the {n} token ids that came back are not the {len(sent)} that were sent")


def _count(value: object, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
        raise _protocol("usage", f"{name} is {_short(value)}; a count is needed to see cost and truncation")
    return value


def _text_or_none(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _short(value: object) -> str:
    """Name a foreign value without repeating it, for it may be text, or a number of somebody's."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _figure(value)
    return repr(value) if value is None or isinstance(value, bool) else f"a {type(value).__name__}"


def _figure(value: float) -> str:
    """A foreign number to three digits from a million on."""
    return f"{value:.3g}" if not -1e6 < value < 1e6 else f"{value:.6g}" if isinstance(value, float) else str(value)


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and value > 0


def _name(value: object, private: Sequence[str]) -> str:
    """Show a foreign word that can only be a name; all else as `_short`."""
    is_name = isinstance(value, str) and re.fullmatch(r"[A-Za-z_-]{1,40}", value)
    return repr(withhold_quotes(str(value), private, limit=40)) if is_name else _short(value)


def _protocol(code: str, message: str) -> CallError:
    return CallError(message, kind="protocol", code=code)


def _depth(value: object) -> int:
    """Levels of nesting."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return 1 + max((_depth(v) for v in inner if isinstance(v, (dict, list))), default=0)


class _StrictJsonError(ValueError):
    """JSON that a lenient reader would take."""


def _no_constant(name: str) -> float:
    raise _StrictJsonError(f"{name} is not a number in JSON")


def _no_giant(digits: str) -> int:
    if len(digits) > 20:  # more than any 64-bit number has, sign included
        raise _StrictJsonError(f"a whole number of {len(digits)} digits")
    return int(digits)


def _no_twins(pairs: list[tuple[str, object]]) -> Json:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise _StrictJsonError("a name occurs twice in one object")
    return found
