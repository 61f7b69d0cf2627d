"""Requests hold what they should; answers are taken only when everything about them is right."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop.backends import dialects
from mop.backends.dialects import (
    Json,
    Scored,
    ScoreDialect,
    read_generation,
    read_json,
    sampling_fields,
    score_request,
)
from mop.backends.retry import CallError
from mop.types import Decoding

IDS = [5, 6, 7, 8]
USAGE = {"prompt_tokens": 4, "completion_tokens": 1}


def read_scores(
    dialect: ScoreDialect, body: Json, ids: list[int], start: int, token_text: Callable[[int], str] = lambda _: "a"
) -> Scored:
    return dialects.read_scores(dialect, body, ids, start, token_text=token_text)


def vllm_answer(*log_probs: Any) -> dict[str, Any]:
    rows = [None, *({str(i): {"logprob": v, "rank": 1}} for i, v in zip(IDS[1:], log_probs, strict=True))]
    return {"choices": [{"prompt_logprobs": rows, "prompt_token_ids": IDS}], "usage": USAGE, "model": "m"}


def echo_answer(*log_probs: Any) -> dict[str, Any]:
    block = {"tokens": ["a"] * len(log_probs), "token_logprobs": list(log_probs)}
    return {"choices": [{"logprobs": block}], "usage": USAGE}


def sglang_answer(*log_probs: Any, ids: list[int]) -> dict[str, Any]:
    rows = [[v, i, None] for v, i in zip(log_probs, ids, strict=True)]
    return {"text": "", "meta_info": {"prompt_tokens": 4, "completion_tokens": 1, "input_token_logprobs": rows}}


def chat_answer(content: Any = "well", finish: Any = "stop", **usage: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content}, "finish_reason": finish}
    return {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 3, **usage}}


def test_each_dialect_yields_the_values_of_the_response_alone() -> None:
    assert read_scores("vllm", vllm_answer(-1.0, -2.0, -3.0), IDS, 2).log_probs == (-2.0, -3.0)
    assert read_scores("echo", echo_answer(None, -1.0, -2.0, -3.0), IDS, 2).log_probs == (-2.0, -3.0)
    assert read_scores("echo", echo_answer(None, -1.0, -2.0, -3.0, -9.0), IDS, 2).log_probs == (-2.0, -3.0)
    assert read_scores("sglang", sglang_answer(None, -2.0, -3.0, ids=[6, 7, 8]), IDS, 2).log_probs == (-2.0, -3.0)


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (None, "nulls"),
        (0.5, "positive"),
        (-9999.0, "sentinel"),
        (-3.4e38, "sentinel"),
        ("-1.0", "not-finite"),
        (True, "not-finite"),
        (float("nan"), "not-finite"),
        (float("-inf"), "not-finite"),
        ([], "not-finite"),
    ],
)
@pytest.mark.parametrize("place", [0, 1, 2])
def test_one_bad_value_anywhere_spoils_an_answer(value: Any, code: str, place: int) -> None:
    values = [-1.0, -2.0, -3.0]
    values[place] = value
    for dialect, answer in (("vllm", vllm_answer(*values)), ("echo", echo_answer(None, *values))):
        with pytest.raises(CallError) as caught:
            read_scores(dialect, answer, IDS, 2)  # type: ignore[arg-type]
        assert caught.value.code == code
        assert caught.value.kind == "protocol"


def test_a_value_that_rounds_to_just_above_zero_counts_as_zero() -> None:
    assert read_scores("vllm", vllm_answer(-1.0, 5e-7, -3.0), IDS, 2).log_probs == (0.0, -3.0)


def test_a_response_of_zeros_is_refused_but_one_sure_token_is_not() -> None:
    with pytest.raises(CallError, match="all 2 log-probabilities of the response are 0"):
        read_scores("vllm", vllm_answer(-1.0, 0.0, 0.0), IDS, 2)
    assert read_scores("vllm", vllm_answer(-1.0, -2.0, 0.0), IDS, 3).log_probs == (0.0,)
    with pytest.raises(CallError, match="all 1 log-probabilities"):
        read_scores("vllm", vllm_answer(0.0, 0.0, 0.0), IDS, 3)


def change(answer: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    changed: dict[str, Any] = json.loads(json.dumps(answer))
    holder: Any = changed
    *steps, last = path.split(".")
    for step in steps:
        holder = holder[int(step)] if isinstance(holder, list) else holder[step]
    holder[int(last) if isinstance(holder, list) else last] = value
    return changed


GOOD = {
    "vllm": vllm_answer(-1.0, -2.0, -3.0),
    "echo": echo_answer(None, -1.0, -2.0, -3.0),
    "sglang": sglang_answer(None, -2.0, -3.0, ids=[6, 7, 8]),
}


@pytest.mark.parametrize(
    ("dialect", "path", "value", "code"),
    [
        ("vllm", "choices", [], "choices"),
        ("vllm", "choices", None, "choices"),
        ("vllm", "usage", None, "usage"),
        ("vllm", "usage.prompt_tokens", 3, "prompt-length"),
        ("vllm", "usage.prompt_tokens", "4", "usage"),
        ("vllm", "usage.prompt_tokens", True, "usage"),
        ("vllm", "usage.completion_tokens", -1, "usage"),
        ("vllm", "choices.0.prompt_logprobs", None, "no-scores"),
        ("vllm", "choices.0.prompt_logprobs", [None], "score-count"),
        ("vllm", "choices.0.prompt_token_ids", [5, 6, 7, 9], "wrong-ids"),
        ("vllm", "choices.0.prompt_token_ids", "5678", "wrong-ids"),
        ("vllm", "prompt_token_ids", [1], "wrong-ids"),
        ("echo", "choices.0.logprobs", None, "no-scores"),
        ("echo", "choices.0.logprobs.token_logprobs", [-0.1], "score-count"),
        ("echo", "choices.0.logprobs.token_ids", [5, 6, 7, 9], "wrong-ids"),
        ("echo", "usage.prompt_tokens", 5, "prompt-length"),
        ("sglang", "meta_info", None, "no-scores"),
        ("sglang", "meta_info.prompt_tokens", 5, "prompt-length"),
        ("sglang", "meta_info.input_token_logprobs", None, "no-scores"),
        ("sglang", "meta_info.input_token_logprobs", [[-1.0, 7, None]], "score-count"),
        ("sglang", "meta_info.input_token_logprobs", [1, 2, 3], "no-scores"),
        ("sglang", "meta_info.input_token_logprobs", [[None, 6, 0], [-1.0, 7, 0], [-1.0, 9, 0]], "wrong-ids"),
    ],
)
def test_what_does_not_fit_what_was_sent_is_refused(dialect: str, path: str, value: Any, code: str) -> None:
    read_scores(dialect, GOOD[dialect], IDS, 2)  # type: ignore[arg-type]
    with pytest.raises(CallError) as caught:
        read_scores(dialect, change(GOOD[dialect], path, value), IDS, 2)  # type: ignore[arg-type]
    assert caught.value.code == code


def test_echo_tokens_are_compared_by_text_where_ids_are_missing() -> None:
    texts = {5: "a", 6: "a", 7: "\ufffd", 8: "a"}
    answer = echo_answer(None, -1.0, -2.0, -3.0)
    assert read_scores("echo", answer, IDS, 2, token_text=texts.__getitem__).log_probs == (-2.0, -3.0)
    texts[8] = "b"
    with pytest.raises(CallError, match="the tokens that came back are not those that were sent"):
        read_scores("echo", answer, IDS, 2, token_text=texts.__getitem__)
    texts[8] = " a"  # servers differ in the space before a word
    read_scores("echo", answer, IDS, 2, token_text=texts.__getitem__)
    for tokens in (None, ["a"], ["a", 7, "a", "a"]):
        with pytest.raises(CallError, match="the tokens that came back are not those"):
            read_scores("echo", change(answer, "choices.0.logprobs.tokens", tokens), IDS, 2)


@pytest.mark.parametrize(
    ("answer", "kind", "message"),
    [
        (chat_answer(finish=None), "protocol", "finish_reason is None"),
        (chat_answer(finish="end_turn"), "protocol", "finish_reason is 'end_turn'; it must be"),
        (chat_answer(finish="I lost my job"), "protocol", "finish_reason is a str"),
        (chat_answer(finish=["stop"]), "protocol", "finish_reason is a list"),
        (chat_answer(finish={"stop": 1}), "protocol", "finish_reason is a dict"),
        (chat_answer(prompt_tokens=2**31), "protocol", "usage.prompt_tokens is 2.15e.09"),
        (chat_answer(finish="content_filter"), "item", "ended a response with 'content_filter'"),
        (chat_answer(finish="tool_calls"), "item", "ended a response with 'tool_calls'"),
        (chat_answer(content=None), "protocol", "the text of an answer is None"),
        (chat_answer(content=[{"text": "a"}]), "protocol", "the text of an answer is a list"),
        (chat_answer(completion_tokens=99), "protocol", "99 tokens came where at most 50"),
        (chat_answer(completion_tokens=None), "protocol", "usage.completion_tokens is None"),
        (change(chat_answer(content=None), "choices.0.message.refusal", "no"), "item", "declined by its refusal"),
        ({"choices": [{}, {}], "usage": USAGE}, "protocol", "an answer has 2 choices"),
        ({}, "protocol", "an answer has 0 choices"),
    ],
)
def test_an_incomplete_text_is_no_text(answer: dict[str, Any], kind: str, message: str) -> None:
    with pytest.raises(CallError, match=message) as caught:
        read_generation(answer, is_chat=True, max_tokens=50)
    assert caught.value.kind == kind


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning"])
@pytest.mark.parametrize("content", [None, "", "well"])
def test_a_model_that_thinks_first_is_named_with_advice(field: str, content: str | None) -> None:
    answer = change(chat_answer(content, "length"), f"choices.0.message.{field}", "Okay, the user")
    with pytest.raises(CallError, match="thinks before it answers.* switch thinking off") as caught:
        read_generation(answer, is_chat=True, max_tokens=50)
    assert (caught.value.kind, caught.value.code) == ("item", "reasoning")
    assert "Okay" not in str(caught.value)
    for nothing in (None, "", "\n\n", []):
        answer = change(chat_answer(), f"choices.0.message.{field}", nothing)
        assert read_generation(answer, is_chat=True, max_tokens=50).text == "well"


@pytest.mark.parametrize("text", ["<think>\nOkay, the", "\n<think>\n\n</think>\nwell", "so </think> a"])
@pytest.mark.parametrize("is_chat", [True, False])
def test_thoughts_within_the_text_are_no_response(text: str, is_chat: bool) -> None:
    choice = {"text": text, "message": {"content": text}, "finish_reason": "length"}
    with pytest.raises(CallError, match="thoughts are no response") as caught:
        read_generation({"choices": [choice], "usage": USAGE}, is_chat=is_chat, max_tokens=50)
    assert caught.value.code == "reasoning"
    assert ("remote.fields.reasoning_effort" in str(caught.value)) == is_chat


def test_a_complete_text_is_taken_as_it_is() -> None:
    drawn = read_generation(chat_answer(" a\nb ", "length"), is_chat=True, max_tokens=50)
    assert (drawn.text, drawn.finish_reason, drawn.meter.completion_tokens) == (" a\nb ", "length", 3)
    assert read_generation(chat_answer(""), is_chat=True, max_tokens=50).text == ""


def test_drawn_tokens_are_counted_by_the_total_or_not_taken() -> None:
    answer = chat_answer()
    del answer["usage"]["completion_tokens"]
    with pytest.raises(CallError, match=r"usage.completion_tokens is None; a count is needed"):
        read_generation(answer, is_chat=True, max_tokens=50)
    answer["usage"]["total_tokens"] = 20
    assert read_generation(answer, is_chat=True, max_tokens=50).meter.completion_tokens == 11
    for total in (8, None, "20"):
        answer["usage"]["total_tokens"] = total
        with pytest.raises(CallError, match=r"usage\.\w+_tokens is"):
            read_generation(answer, is_chat=True, max_tokens=50)


def test_half_an_emoji_is_replaced_and_a_whole_one_stays() -> None:
    raw = json.dumps(chat_answer("so \ud83d\ude00 good \ud83d")).encode()
    drawn = read_generation(read_json(raw), is_chat=True, max_tokens=50)
    assert drawn.text == "so \U0001f600 good \ufffd"


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"", "JSONDecodeError"),
        (b"[1]", "a JSON list, not an object"),
        (b'{"a": NaN}', "NaN is not a number in JSON"),
        (b'{"a": -Infinity}', "-Infinity is not a number in JSON"),
        (b'{"a": 1, "a": 2}', "a name occurs twice"),
        (b'{"a": ' + b"[" * 70 + b"]" * 70 + b"}", "nested deeper than 64"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", ""),
        (b'{"a": "\xff"}', "UnicodeDecodeError"),
        (b'{"a": 1} x', "JSONDecodeError"),
        (b'{"a": 1' + b"0" * 309 + b"}", "a whole number of 310 digits"),
    ],
)
def test_json_is_read_strictly(raw: bytes, reason: str) -> None:
    with pytest.raises(CallError) as caught:
        read_json(raw)
    assert reason in str(caught.value)
    assert caught.value.__cause__ is None


def test_nesting_up_to_the_limit_is_read() -> None:
    assert read_json(b'{"a": ' + b"[" * 63 + b"]" * 63 + b"}")


def test_requests_name_what_is_asked() -> None:
    path, body = score_request("vllm", "m", IDS, 2, salt="s" * 64)
    assert path == "/v1/completions"
    assert body["prompt"] == IDS
    assert body["prompt_logprobs"] == 0
    assert body["add_special_tokens"] is False
    assert body["cache_salt"] == "s" * 64
    path, body = score_request("sglang", "m", IDS, 2, salt=None)
    assert (path, body["logprob_start_len"]) == ("/generate", 1)
    path, body = score_request("echo", "m", IDS, 2, salt=None)
    assert (body["echo"], body["logprobs"], body["max_tokens"]) == (True, 1, 1)


def test_strict_servers_get_standard_fields_only() -> None:
    fields = sampling_fields("other", Decoding(), temperature=0.7, seed=2**63 + 5)
    assert sorted(fields) == ["max_tokens", "seed", "stream", "temperature", "top_p"]
    assert fields["seed"] == 5


@pytest.mark.parametrize(
    ("kind", "decoding"),
    [("other", Decoding(top_k=5)), ("ollama", Decoding(top_k=5)), ("llamacpp", Decoding(min_tokens=2))],
)
def test_what_a_server_is_not_known_to_honour_is_refused(kind: str, decoding: Decoding) -> None:
    with pytest.raises(CallError, match="is not known to honour them; set both to 0") as caught:
        sampling_fields(kind, decoding, temperature=1.0, seed=0)  # type: ignore[arg-type]
    assert caught.value.kind == "fatal"


def test_sums_are_finite() -> None:
    scored = read_scores("vllm", vllm_answer(-1.0, -999.0, -3.0), IDS, 1)
    assert math.fsum(scored.log_probs) == -1003.0


ANYTHING = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(10**330), 10**330),
        st.floats(),
        st.text(max_size=3),
        st.sampled_from([10**310, 1e308, -1, "stop", {"logprob": -1.0}, [[-1.0, 6, None]]]),
    ),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)
BODIES = {**GOOD, "chat": chat_answer(), "text": {**chat_answer(), "choices": [
    {"text": "well", "finish_reason": "stop", "token_ids": [1, 2, 3]}]}}  # fmt: skip


def places(value: Any, path: str = "") -> list[str]:
    """All paths into a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    found = []
    for name, inner in items:
        found.append(f"{path}{name}")
        if isinstance(inner, (dict, list)):
            found += places(inner, f"{path}{name}.")
    return found


@given(st.data())
def test_whatever_stands_anywhere_in_an_answer_nothing_but_a_call_error_comes_of_it(data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(sorted(BODIES)))
    path = data.draw(st.sampled_from(places(BODIES[name])))
    body = change(BODIES[name], path, data.draw(ANYTHING))
    with suppress(CallError):
        parsed = read_json(json.dumps(body).encode())
        if name in ("chat", "text"):
            drawn = read_generation(parsed, is_chat=name == "chat", max_tokens=50)
            assert drawn.meter.prompt_tokens * 1e6 < math.inf
            assert all(0 <= i < 2**31 for i in drawn.ids or ())
        else:
            scored = read_scores(name, parsed, IDS, 2)  # type: ignore[arg-type]
            assert all(-1000 < value <= 0 for value in scored.log_probs)
