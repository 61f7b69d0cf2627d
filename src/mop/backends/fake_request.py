"""What a client asks of the fake server, field by field: understood and done, or refused with the field's name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mop.backends.toy import END, REPLY, TURN, ids_of

Json = dict[str, Any]

MAX_CHOICES, MAX_PROMPTS, MAX_TOP, MAX_TOKENS = 128, 256, 20, 100_000

_NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "frequency_penalty": (0,), "presence_penalty": (0,), "repetition_penalty": (1,), "repeat_penalty": (1,),
    "min_p": (0,), "typical_p": (1,), "suffix": ("",), "logit_bias": ({},), "tools": ([],),
    "tool_choice": ("none", "auto"), "functions": ([],), "response_format": ({"type": "text"},),
    "modalities": (["text"],), "top_logprobs_num": (0,),
}  # fmt: skip
"""Fields that the toy model does not have: taken at a value that changes nothing, refused otherwise."""

_ROLES = ("system", "developer", "user", "assistant", "tool")

_INERT = frozenset(
    ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "cache_salt", "verbosity",
     "reasoning_effort", "chat_template_kwargs", "priority", "request_id", "seed", "model", "parallel_tool_calls",
     "skip_special_tokens", "add_special_tokens", "return_text_in_logprobs")
)  # fmt: skip
"""Fields that would not change what the toy model writes; `seed` and `model` are read elsewhere."""

_DRAWS = frozenset(("n", "stop", "stop_token_ids", "temperature", "top_p", "top_k"))
_SHARED = _DRAWS | {"max_tokens", "min_tokens", "logprobs", "stream", "stream_options"}
_KNOWN: Mapping[str, frozenset[str]] = {
    "chat": _SHARED | {"messages", "max_completion_tokens", "top_logprobs"},
    "completions": _SHARED | {"prompt", "echo", "prompt_logprobs", "return_token_ids", "best_of"},
    "generate": frozenset(("input_ids", "text", "sampling_params", "return_logprob", "logprob_start_len", "stream")),
    "sampling_params": _DRAWS | {"max_new_tokens", "min_new_tokens"},
}


class RefusedFieldError(ValueError):
    """A field, or a value of it, that the server does not take."""

    def __init__(self, field: str, why: str) -> None:
        super().__init__(f"{field}: {why}")
        self.field = field


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A request, understood."""

    prompts: tuple[tuple[int, ...], ...]
    """Ids of `mop.backends.toy`, marks included."""
    is_batch: bool = False
    """Whether the prompts came as a list."""
    n: int = 1
    """Choices for each prompt."""
    max_tokens: int = 16
    min_tokens: int = 0
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    seed: int | None = None
    stop: tuple[str, ...] = ()
    """Texts before which a response ends."""
    stop_ids: frozenset[int] = frozenset()
    top: int | None = None
    """Alternatives with each drawn token's log-probability; None: no log-probabilities."""
    echo: bool = False
    scores_prompt: bool = False
    """Whether the prompt's own log-probabilities are asked for otherwise than by ``echo``."""
    score_start: int = 0
    returns_ids: bool = False


def read_chat(body: Json) -> Asked:
    """Take ``/v1/chat/completions`` apart.

    Raises
    ------
    RefusedFieldError
        For a field or value that the toy model cannot follow.
    """
    _check_names(body, "chat")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise RefusedFieldError("messages", "at least one message is needed, each with role and content")
    ids: list[int] = []
    for message in messages:
        ids += [TURN, *ids_of(_content(message))]
    wants, top = _flag(body, "logprobs"), _number(body, "top_logprobs", 0, MAX_TOP)
    if top and not wants:
        raise RefusedFieldError("top_logprobs", "it needs logprobs = true")
    field = "max_completion_tokens" if body.get("max_completion_tokens") is not None else "max_tokens"
    limit = _number(body, field, 1, MAX_TOKENS)
    return Asked(
        prompts=((*ids, REPLY),), top=(top or 0) if wants else None, max_tokens=limit or 16, **_shared(body)
    )  # fmt: skip


def read_completion(body: Json) -> Asked:
    """Take ``/v1/completions`` apart, as `read_chat`."""
    _check_names(body, "completions")
    echo, scores = _flag(body, "echo"), _number(body, "prompt_logprobs", 0, MAX_TOP)
    limit = _number(body, "max_tokens", 0, MAX_TOKENS)
    if limit == 0 and not echo:
        raise RefusedFieldError("max_tokens", "it must be at least 1 without echo")
    prompts, is_batch = _prompts(body, "prompt")
    shared = _shared(body)
    if _number(body, "best_of", 1, MAX_CHOICES) not in (None, shared["n"]):
        raise RefusedFieldError("best_of", "it must be as many as n: the toy model does not choose")
    if scores is not None and body.get("stream"):
        raise RefusedFieldError("prompt_logprobs", "it does not go with stream")
    return Asked(
        prompts=prompts, is_batch=is_batch, echo=echo, scores_prompt=scores is not None,
        top=_number(body, "logprobs", 0, MAX_TOP), max_tokens=16 if limit is None else limit,
        returns_ids=_flag(body, "return_token_ids"), **shared,
    )  # fmt: skip


def read_generate(body: Json) -> Asked:
    """Take SGLang's ``/generate`` apart, as `read_chat`."""
    _check_names(body, "generate")
    prompts, is_batch = _prompts(body, "input_ids" if body.get("input_ids") is not None else "text")
    sampling = body.get("sampling_params") or {}
    if not isinstance(sampling, dict):
        raise RefusedFieldError("sampling_params", "an object is needed")
    _check_names(sampling, "sampling_params")
    wants, begin = _flag(body, "return_logprob"), _number(body, "logprob_start_len", -1, 2**31)
    limit = _number(sampling, "max_new_tokens", 0, MAX_TOKENS)
    _flag(body, "stream")
    shared = _shared(sampling)
    return Asked(
        prompts=prompts, is_batch=is_batch, scores_prompt=wants, top=0 if wants else None,
        score_start=-1 if begin is None else begin, max_tokens=16 if limit is None else limit,
        **{**shared, "min_tokens": _number(sampling, "min_new_tokens", 0, MAX_TOKENS) or 0},
    )  # fmt: skip


def _check_names(body: Json, where: str) -> None:
    for name, value in body.items():
        if value is None or value is False or name in _KNOWN[where] or name in _INERT:
            continue  # what is switched off changes nothing
        if name not in _NEUTRAL:
            raise RefusedFieldError(name, "this server does not know it here; leave it out")
        if value not in _NEUTRAL[name]:
            kept = " or ".join(map(repr, _NEUTRAL[name]))
            raise RefusedFieldError(name, f"the toy model takes {kept} only, or leave it out")


def _shared(body: Json) -> Json:
    """What all endpoints read alike."""
    stream, options = _flag(body, "stream"), body.get("stream_options")
    if options is not None and not (stream and isinstance(options, dict) and set(options) <= {"include_usage"}):
        raise RefusedFieldError("stream_options", "it goes with stream, and holds include_usage only")
    stop = body.get("stop")
    stop = [stop] if isinstance(stop, str) else stop or []
    if not isinstance(stop, list) or not all(isinstance(text, str) and text for text in stop) or len(stop) > 64:
        raise RefusedFieldError("stop", "a text or a list of texts is needed, none of them empty")
    stop_ids = body.get("stop_token_ids") or []
    if not isinstance(stop_ids, list) or not all(type(i) is int for i in stop_ids):
        raise RefusedFieldError("stop_token_ids", "a list of whole numbers is needed")
    seed, top_k = _number(body, "seed", -(2**63), 2**64), _number(body, "top_k", -1, 2**31)
    return {
        "n": _number(body, "n", 1, MAX_CHOICES) or 1,
        "min_tokens": _number(body, "min_tokens", 0, MAX_TOKENS) or 0,
        "temperature": _real(body, "temperature", 0.0, 1e6, 1.0),
        "top_p": _real(body, "top_p", 1e-9, 1.0, 1.0),
        "top_k": max(0, top_k or 0),
        "seed": None if seed is None else seed % 2**63,
        "stop": tuple(stop),
        "stop_ids": frozenset(stop_ids),
    }


def _content(message: Any) -> str:
    """The text of a message, given whole or in parts."""
    if not isinstance(message, dict) or message.get("role") not in _ROLES:
        raise RefusedFieldError("messages", f"each message is an object with content and a role of {', '.join(_ROLES)}")
    content = message.get("content")
    if isinstance(content, str):
        return content
    parts = content if isinstance(content, list) and content else [None]
    texts = [part.get("text") if isinstance(part, dict) and part.get("type") == "text" else None for part in parts]
    if not all(isinstance(text, str) for text in texts):
        raise RefusedFieldError("messages", "the content of a message is a text, or a list of parts of type text")
    return "".join(map(str, texts))


def _prompts(body: Json, field: str) -> tuple[tuple[tuple[int, ...], ...], bool]:
    """One prompt or several, as text or as ids; whether they came as a list."""
    given = body.get(field)
    is_batch = isinstance(given, list) and not (given and type(given[0]) is int)
    several: Sequence[Any] = given if isinstance(given, list) and is_batch else [given]
    if not several or len(several) > MAX_PROMPTS:
        raise RefusedFieldError(field, f"1 to {MAX_PROMPTS} prompts are taken, got {len(several)}")
    found = []
    for one in several:
        ids = [TURN, *ids_of(one), REPLY] if isinstance(one, str) else one
        if not isinstance(ids, list) or not ids or not all(type(i) is int for i in ids):
            raise RefusedFieldError(field, "a text, a list of texts, token ids or a list of lists of them is needed")
        if not all(0 <= i <= REPLY for i in ids):
            raise RefusedFieldError(field, f"unknown token id: characters are 0 to {END - 1}, marks {END} to {REPLY}")
        found.append(tuple(ids))
    return tuple(found), is_batch


def _flag(body: Json, field: str) -> bool:
    value = body.get(field)
    if value is not None and not isinstance(value, bool):
        raise RefusedFieldError(field, "true or false is needed")
    return bool(value)


def _number(body: Json, field: str, least: int, most: int) -> int | None:
    value = body.get(field)
    if value is not None and not (type(value) is int and least <= value <= most):
        raise RefusedFieldError(field, f"a whole number from {least} to {most} is needed")
    return value


def _real(body: Json, field: str, least: float, most: float, default: float) -> float:
    value = body.get(field)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:  # nan, too
        raise RefusedFieldError(field, f"a number from {least:g} to {most:g} is needed")
    return float(value)
