"""A stream says what the whole answer says, piece by piece."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mop.backends.fake_server import FakeServer

USER = [{"role": "user", "content": "a walk by the river, slowly"}]


def ask(server: FakeServer, path: str, **body: Any) -> Any:
    reply = server.reply("POST", path, {}, json.dumps(body).encode())
    assert reply.status == 200, reply.body
    if not body.get("stream"):
        return json.loads(reply.body)
    assert reply.headers["content-type"] == "text/event-stream"
    lines = reply.body.decode().split("\n\n")
    assert lines[-2:] == ["data: [DONE]", ""]
    return [json.loads(line.removeprefix("data: ")) for line in lines[:-2]]


@pytest.mark.trial("31-openai-clients")
def test_a_chat_stream_adds_up_to_the_answer_choice_by_choice() -> None:
    wish = {"model": "toy", "messages": USER, "seed": 4, "n": 3, "max_tokens": 30, "logprobs": True, "top_logprobs": 2}
    whole = ask(FakeServer("openai"), "/v1/chat/completions", **wish)
    events = ask(
        FakeServer("openai"), "/v1/chat/completions", **wish, stream=True, stream_options={"include_usage": True}
    )
    assert {event["object"] for event in events} == {"chat.completion.chunk"}
    assert events[-1]["choices"] == []
    assert events[-1]["usage"] == whole["usage"]
    for choice in whole["choices"]:
        parts = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert parts[0]["delta"]["role"] == "assistant"
        assert "".join(part["delta"].get("content", "") for part in parts) == choice["message"]["content"]
        assert [part["finish_reason"] for part in parts[:-1]] == [None] * (len(parts) - 1)
        assert parts[-1]["finish_reason"] == choice["finish_reason"]
        entries = [entry for part in parts for entry in (part["logprobs"] or {"content": []})["content"]]
        assert entries == choice["logprobs"]["content"]


@pytest.mark.trial("31-openai-clients")
def test_a_text_stream_adds_up_to_the_answer_with_echo_and_several_prompts() -> None:
    wish = {"model": "toy", "prompt": ["tea is", "rain"], "seed": 4, "max_tokens": 9, "logprobs": 1, "echo": True}
    whole = ask(FakeServer("legacy"), "/v1/completions", **wish)
    events = ask(FakeServer("legacy"), "/v1/completions", **wish, stream=True)
    assert not any("usage" in event for event in events)
    for choice in whole["choices"]:
        parts = [c for event in events for c in event["choices"] if c["index"] == choice["index"]]
        assert "".join(part["text"] for part in parts) == choice["text"]
        for name, values in choice["logprobs"].items():
            assert [value for part in parts for value in part["logprobs"][name]] == values
        assert parts[-1]["finish_reason"] == choice["finish_reason"]


def test_ids_come_with_the_first_piece_and_an_empty_text_has_one_piece() -> None:
    wish = {"model": "toy", "prompt": "tea", "max_tokens": 5, "return_token_ids": True, "seed": 1, "stream": True}
    events = ask(FakeServer("vllm"), "/v1/completions", **wish)
    assert [("token_ids" in event["choices"][0]) for event in events] == [True] + [False] * (len(events) - 1)
    nothing = ask(FakeServer("vllm"), "/v1/completions", **{**wish, "stop_token_ids": list(range(35))})
    assert [event["choices"][0]["text"] for event in nothing] == [""]


def test_sglang_sends_all_the_text_so_far() -> None:
    sampling = {"max_new_tokens": 6, "min_new_tokens": 6, "seed": 2}
    whole = ask(FakeServer("sglang"), "/generate", text="tea", sampling_params=sampling)
    events = ask(FakeServer("sglang"), "/generate", text="tea", sampling_params=sampling, stream=True)
    assert [event["text"] for event in events] == [whole["text"][:end] for end in range(1, 7)]
    assert [event["meta_info"]["finish_reason"] for event in events[:-1]] == [None] * 5
    assert events[-1] == whole
    two = ask(FakeServer("sglang"), "/generate", text=["tea", "rain"], sampling_params=sampling, stream=True)
    assert {event["index"] for event in two} == {0, 1}
