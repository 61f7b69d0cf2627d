"""A whole answer of the fake server, cut into the events of a stream: what one says, lies included, the other says."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

Json = dict[str, Any]


def events(answer: Json, *, with_usage: bool) -> bytes:
    """Turn a chat or completions answer into server-sent events, a token each, choices taking turns.

    Parameters
    ----------
    answer : dict
        As it would be sent at once.
    with_usage : bool
        Whether the count of tokens, if the answer has one, comes in an event of its own at the end.
    """
    is_chat = answer["object"] == "chat.completion"
    head = {name: answer[name] for name in ("id", "created", "model")}
    head["object"] = "chat.completion.chunk" if is_chat else answer["object"]
    chunks = [list(_chat(choice) if is_chat else _text(choice)) for choice in answer["choices"]]
    longest = max(map(len, chunks), default=0)
    sent = [{**head, "choices": [of[place]]} for place in range(longest) for of in chunks if place < len(of)]
    if with_usage and "usage" in answer:
        sent.append({**head, "choices": [], "usage": answer["usage"]})
    return _lines(sent)


def sglang_events(answer: Json | Sequence[Json]) -> bytes:
    """Turn an answer of ``/generate``, or several, into events, each with all the text so far."""
    sent = []
    is_list = not isinstance(answer, dict)
    for index, one in enumerate([answer] if isinstance(answer, dict) else answer):
        place = {"index": index} if is_list else {}
        unfinished = {**one["meta_info"], "finish_reason": None}
        for end in range(1, len(one["text"])):
            sent.append({"text": one["text"][:end], "meta_info": unfinished, **place})
        sent.append({**one, **place})
    return _lines(sent)


def _chat(choice: Json) -> Iterator[Json]:
    text, block = choice["message"]["content"], choice["logprobs"]
    entries = None if block is None else block["content"]
    pieces = list(text) or [""]
    for place, piece in enumerate(pieces):
        is_last = place == len(pieces) - 1
        delta = {"role": "assistant", "content": piece} if place == 0 else {"content": piece}
        part = None if entries is None else {"content": entries[place:] if is_last else entries[place : place + 1]}
        yield {"index": choice["index"], "delta": delta, "logprobs": part, "finish_reason": None}
    yield {"index": choice["index"], "delta": {}, "logprobs": None, "finish_reason": choice["finish_reason"]}


def _text(choice: Json) -> Iterator[Json]:
    text, block = choice["text"], choice["logprobs"]
    tokens = None if block is None else block.get("tokens")
    pieces = list(tokens if tokens and "".join(tokens) == text else text) or [""]
    whole = {name: choice[name] for name in choice if name not in ("index", "text", "logprobs", "finish_reason")}
    for place, piece in enumerate(pieces):
        is_last = place == len(pieces) - 1
        part = None if block is None else _slice(block, slice(place, None if is_last else place + 1))
        finish = choice["finish_reason"] if is_last else None
        yield {"index": choice["index"], "text": piece, "logprobs": part, "finish_reason": finish, **whole}
        whole = {}  # ids come with the first piece


def _slice(block: Mapping[str, Sequence[Any]], rows: slice) -> Json:
    return {name: list(values[rows]) for name, values in block.items()}


def _lines(sent: Iterable[Json]) -> bytes:
    return (
        b"".join(b"data: " + json.dumps(one, allow_nan=False).encode() + b"\n\n" for one in sent) + b"data: [DONE]\n\n"
    )
