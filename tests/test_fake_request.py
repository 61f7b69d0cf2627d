"""What a client asks for is done or refused by its name; nothing is passed over in silence."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mop.backends.fake_request import RefusedFieldError, read_chat, read_completion, read_generate
from mop.backends.fake_server import FakeServer
from mop.backends.toy import REPLY, TURN, ids_of

USER = [{"role": "user", "content": "a walk by the river"}]


def test_a_chat_is_turns_of_characters_and_its_parts_are_one_text() -> None:
    parts = [{"type": "text", "text": "ab"}, {"type": "text", "text": "c"}]
    asked = read_chat({"messages": [{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}]})
    assert asked.prompts == ((TURN, *ids_of("be brief"), TURN, *ids_of("abc"), REPLY),)
    assert (asked.n, asked.max_tokens, asked.temperature, asked.seed, asked.top) == (1, 16, 1.0, None, None)


def test_both_names_of_the_limit_are_known_and_null_is_as_if_left_out() -> None:
    assert read_chat({"messages": USER, "max_completion_tokens": 7}).max_tokens == 7
    assert read_chat({"messages": USER, "max_tokens": 9, "max_completion_tokens": None}).max_tokens == 9
    nothing = dict.fromkeys(("tools", "logit_bias", "response_format", "stop", "n", "top_p", "vendor_own"))
    assert read_chat({"messages": USER, **nothing}) == read_chat({"messages": USER})


def test_prompts_come_as_text_or_ids_one_or_several() -> None:
    ids = [TURN, 0, 1, REPLY]
    for given, is_batch in (("ab", False), (ids, False), (["ab"], True), ([ids], True)):
        asked = read_completion({"prompt": given})
        assert (asked.prompts, asked.is_batch) == ((tuple(ids),), is_batch)
    assert len(read_completion({"prompt": ["ab", "c", ids]}).prompts) == 3
    assert read_generate({"text": "ab"}).prompts == read_generate({"input_ids": ids}).prompts == (tuple(ids),)


CHAT = [
    ("temperature", -0.1),
    ("temperature", "hot"),
    ("temperature", True),
    ("messages", []),
    ("messages", "hello"),
    ("messages", [{"role": "user"}]),
    ("messages", [{"role": "poet", "content": "x"}]),
    ("messages", [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]),
    ("messages", [{"role": "user", "content": []}]),
    ("n", 0),
    ("n", 1000),
    ("n", 1.5),
    ("stop", [""]),
    ("stop", 3),
    ("stop_token_ids", ["a"]),
    ("max_tokens", 0),
    ("max_completion_tokens", -4),
    ("top_p", 0),
    ("top_p", 1.2),
    ("top_logprobs", 3),
    ("logprobs", 2),
    ("stream", "yes"),
    ("stream_options", {"include_usage": True}),
    ("seed", 0.5),
    ("frequency_penalty", 0.5),
    ("presence_penalty", -1),
    ("logit_bias", {"5": 10}),
    ("tools", [{"type": "function"}]),
    ("response_format", {"type": "json_object"}),
    ("echo", True),
    ("prompt_logprobs", 0),
    ("wishes", "three"),
]
COMPLETIONS = [
    ("prompt", None),
    ("prompt", []),
    ("prompt", [[]]),
    ("prompt", [99]),
    ("prompt", [1, "a"]),
    ("prompt", {"text": "a"}),
    ("max_tokens", 0),
    ("logprobs", True),
    ("logprobs", 100),
    ("suffix", "the end"),
    ("best_of", 4),
    ("messages", USER),
    ("max_completion_tokens", 4),
]


@pytest.mark.trial("31-openai-clients")
@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        *(("/v1/chat/completions", *case) for case in CHAT),
        *(("/v1/completions", *case) for case in COMPLETIONS),
        ("/generate", "sampling_params", [1]),
        ("/generate", "temperature", 0.5),
        ("/generate", "return_logprob", 1),
        ("/generate", "input_ids", [-1]),
    ],
)
def test_what_the_toy_model_cannot_do_is_a_400_that_names_the_field(path: str, field: str, value: Any) -> None:
    good = {
        "/v1/chat/completions": {"model": "toy", "messages": USER},
        "/v1/completions": {"model": "toy", "prompt": "tea"},
        "/generate": {"text": "tea"},
    }[path]
    server = FakeServer("sglang")
    assert server.reply("POST", path, {}, json.dumps(good).encode()).status == 200
    reply = server.reply("POST", path, {}, json.dumps({**good, field: value}).encode())
    error = json.loads(reply.body)["error"]
    if field == "input_ids":
        assert reply.status == 400
    assert (reply.status, error["param"], error["type"]) == (
        400,
        "text" if field == "prompt" and path == "/generate" else field,
        "invalid_request_error",
    )
    assert error["message"].startswith(f"{field}: ")


def test_neutral_values_of_what_is_missing_are_taken() -> None:
    neutral = {
        "frequency_penalty": 0,
        "presence_penalty": 0.0,
        "repetition_penalty": 1.0,
        "min_p": 0.0,
        "logit_bias": {},
        "tools": [],
        "response_format": {"type": "text"},
        "user": "me",
        "cache_salt": "x" * 64,
        "reasoning_effort": "low",
    }
    assert read_chat({"messages": USER, **neutral}) == read_chat({"messages": USER})


def test_a_field_of_a_nested_section_is_named_by_itself() -> None:
    with pytest.raises(RefusedFieldError, match="max_tokens: this server does not know it here"):
        read_generate({"text": "tea", "sampling_params": {"max_tokens": 4}})
