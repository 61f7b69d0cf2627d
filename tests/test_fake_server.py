"""The fake server is right where it should be, wrong where it says so, and closed to the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from functools import cache
from typing import Any

import httpx
import pytest

from mop.backends.fake import FakeModel
from mop.backends.fake_server import (
    CHARACTERS,
    DIALECTS,
    FAULTS,
    LIES,
    FakeServer,
    Faults,
    Reply,
    ToyEncoder,
)
from mop.backends.toy import log_probs
from mop.errors import ConfigError
from mop.prompts import simulation_prompt
from mop.types import Branch, Decoding, GenerateRequest, Prompt, ScoreRequest, Segment, Turn


def post(server: FakeServer, path: str, **body: Any) -> Reply:
    return server.reply("POST", path, {}, json.dumps(body).encode())


def ids_of(prompt: Prompt, response: str) -> list[int]:
    return [*ToyEncoder().prompt_ids(prompt), *ToyEncoder().response_ids(response)]


def test_prompt_logprobs_add_up_to_the_toy_models_score() -> None:
    prompt = simulation_prompt("a film", persona="tea")
    ids = ids_of(prompt, "fine, éh?")
    reply = post(FakeServer("vllm"), "/v1/completions", model="toy", prompt=ids, max_tokens=1, prompt_logprobs=0)
    rows = json.loads(reply.body)["choices"][0]["prompt_logprobs"]
    found = sum(next(iter(row.values()))["logprob"] for row in rows[len(ids) - 10 :])
    [(_, score)] = next(FakeModel([1.0]).score([ScoreRequest(prompt, "fine, éh?")]))
    assert found == pytest.approx(float(score.log_lik[0]), abs=1e-4)
    assert rows[0] is None
    assert len(rows) == len(ids)


def test_sglang_rows_begin_with_a_null_at_the_start_asked_for() -> None:
    ids = ids_of(simulation_prompt("a film"), "fine")
    reply = post(FakeServer("sglang"), "/generate", input_ids=ids, return_logprob=True, logprob_start_len=len(ids) - 6)
    rows = json.loads(reply.body)["meta_info"]["input_token_logprobs"]
    assert [row[1] for row in rows] == ids[-6:]
    assert rows[0][0] is None
    assert all(row[0] < 0 for row in rows[1:])


def test_a_draw_by_chat_is_the_toy_models_draw_for_that_text() -> None:
    messages = [{"role": "user", "content": "hello there"}]
    reply = post(FakeServer("openai"), "/v1/chat/completions", model="toy", messages=messages, seed=5, max_tokens=40)
    prompt = Prompt((Turn("user", (Segment("hello there", True),)),))
    request = GenerateRequest((Branch(prompt, 1.0),), 5)
    [(_, own)] = next(FakeModel([1.0]).generate([request], Decoding(max_tokens=40)))
    choice = json.loads(reply.body)["choices"][0]
    assert (choice["message"]["content"], choice["finish_reason"]) == (own.text, own.finish_reason)


@pytest.mark.parametrize(
    ("kind", "broken", "field"),
    [
        ("llamacpp", "none", {"content": [{"token": "-", "logprob": -0.1}]}),
        ("ollama", "none", None),
        ("legacy", "silent", None),
    ],
)
def test_some_kinds_take_echo_and_do_not_mean_it(kind: Any, broken: Any, field: Any) -> None:
    ids = ids_of(simulation_prompt("a"), "b")
    server = FakeServer(kind, broken=broken)
    reply = post(server, "/v1/completions", model="toy", prompt=ids, echo=True, logprobs=1, max_tokens=1, seed=1)
    assert reply.status == 200
    found = json.loads(reply.body)["choices"][0]["logprobs"]
    assert (found is None) == (field is None)
    assert field is None or list(found) == ["content"]


def test_faults_come_by_script_and_then_at_their_rate() -> None:
    faults = Faults(script=("429:2", "ok"), rate=0.3, kinds=("500",), seed=1)
    played = [faults.of_call(i) for i in range(2002)]
    assert played[:2] == ["429:2", "ok"]
    assert 0.26 < played[2:].count("500") / 2000 < 0.34
    assert played == [faults.of_call(i) for i in range(2002)]
    server = FakeServer("vllm", faults=faults)
    reply = post(server, "/v1/chat/completions", model="toy", messages=[])
    assert (reply.status, reply.headers) == (429, {"retry-after": "2"})


@pytest.mark.parametrize(
    "make",
    [
        lambda: Faults(script=("explode",)),
        lambda: Faults(script=("429:soon",)),
        lambda: Faults(rate=2.0),
        lambda: FakeServer("grpc"),  # type: ignore[arg-type]
        lambda: FakeServer("vllm", broken="odd"),  # type: ignore[arg-type]
    ],
)
def test_unknown_kinds_and_faults_are_refused(make: Any) -> None:
    with pytest.raises(ConfigError, match=r"must be one of|kinds are|must be 0 to 1"):
        make()


def test_a_key_guards_every_route() -> None:
    server = FakeServer("vllm", key="secret-key-123")
    for method, path in (("GET", "/v1/models"), ("POST", "/v1/chat/completions"), ("GET", "/other")):
        assert server.reply(method, path, {}, b"{}").status == 401
    assert server.reply("GET", "/v1/models", {"authorization": "Bearer secret-key-123"}, b"").status == 200


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"model": "toy", "prompt": [99]}', b"\xff", b"null"])
def test_a_bad_request_is_a_400_and_nothing_worse(body: bytes) -> None:
    for path in ("/v1/completions", "/v1/chat/completions"):
        assert FakeServer("vllm").reply("POST", path, {}, body).status == 400


def test_every_dialect_lie_and_fault_is_described_and_taken() -> None:
    for kind in DIALECTS:
        FakeServer(kind)
    for lie in LIES:
        FakeServer(broken=lie)
    assert Faults(script=tuple(FAULTS)).of_call(0) == "ok"


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_the_verb_says_where_it_is_and_what_to_call_it_and_stops_cleanly(sent: int) -> None:
    command = [sys.executable, "-m", "mop", "fake-server", "--json", "--faults", "500"]
    child = subprocess.Popen(
        [*command, "--dialect", "openai", "--api-key-env", "TOY_KEY"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TOY_KEY": "canary-4711"},
        # A background job of a shell has Ctrl-C switched off, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert child.stdout is not None
    said = json.loads(child.stdout.readline())
    url = f"{said['url']}/v1/chat/completions"
    assert said == {"url": said["url"], "name": f"openai:toy@{said['url']}", "tokenizer": "fake"}
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
    keyed = {"authorization": "Bearer canary-4711"}
    statuses = [
        httpx.post(url, json=body, trust_env=False, headers=headers).status_code for headers in ({}, keyed, keyed)
    ]
    assert statuses == [401, 500, 200]
    child.send_signal(sent)
    out, err = child.communicate(timeout=20)
    assert (child.returncode, out, err) == (0, "", "")


def test_the_server_needs_no_torch() -> None:
    check = "import mop.backends.fake_server, sys; print([m for m in ('torch', 'httpx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# ---------------------------------------------------------------- what real clients send

USER = [{"role": "user", "content": "Say something about tea."}]


def chat(server: FakeServer, **wish: Any) -> list[dict[str, Any]]:
    reply = post(server, "/v1/chat/completions", **{"model": "toy", "messages": USER, "max_tokens": 12, **wish})
    assert reply.status == 200, reply.body
    return json.loads(reply.body)["choices"]


def completions(server: FakeServer, **wish: Any) -> dict[str, Any]:
    reply = post(server, "/v1/completions", **{"model": "toy", "prompt": "tea is", "max_tokens": 12, **wish})
    assert reply.status == 200, reply.body
    return json.loads(reply.body)


@pytest.mark.trial("31-openai-clients")
def test_n_gives_so_many_different_choices_the_first_as_if_alone() -> None:
    several = chat(FakeServer("openai"), n=4, seed=3)
    texts = [choice["message"]["content"] for choice in several]
    assert [choice["index"] for choice in several] == [0, 1, 2, 3]
    assert len(set(texts)) == 4
    assert texts[0] == chat(FakeServer("openai"), seed=3)[0]["message"]["content"]
    unseeded = chat(FakeServer("openai"), n=4)
    assert len({choice["message"]["content"] for choice in unseeded}) == 4


@pytest.mark.trial("31-openai-clients")
def test_a_stop_ends_the_text_before_it_and_what_was_drawn_is_counted() -> None:
    text = chat(FakeServer("openai"), seed=1, max_tokens=40)[0]["message"]["content"]
    stop = text[5:7]
    whole = post(FakeServer("openai"), "/v1/chat/completions", model="toy", messages=USER, seed=1, max_tokens=40,
                 stop=["never to be seen", stop])  # fmt: skip
    answer = json.loads(whole.body)
    choice = answer["choices"][0]
    assert choice["message"]["content"] == text[: text.index(stop)]
    assert choice["finish_reason"] == "stop"
    assert answer["usage"]["completion_tokens"] == text.index(stop) + 2
    again = completions(FakeServer("vllm"), seed=1, stop=stop, prompt="Say something about tea.", max_tokens=40)
    assert again["choices"][0]["text"] == text[: text.index(stop)]


@pytest.mark.trial("31-openai-clients")
@pytest.mark.parametrize("kind", sorted(set(DIALECTS) - {"ollama"}))
def test_log_probabilities_of_a_chat_are_the_toy_models(kind: str) -> None:
    [choice] = chat(FakeServer(kind), logprobs=True, top_logprobs=3, seed=2)
    entries = choice["logprobs"]["content"]
    assert "".join(entry["token"] for entry in entries) == choice["message"]["content"]
    known = dict(zip(CHARACTERS, log_probs(USER[0]["content"]), strict=False))
    assert all(entry["logprob"] == known[entry["token"]] for entry in entries)
    assert all(entry["bytes"] == list(entry["token"].encode()) for entry in entries)
    best = sorted(known.values(), reverse=True)[:3]
    assert [top["logprob"] for top in entries[0]["top_logprobs"]] == best
    assert chat(FakeServer(kind), seed=2)[0]["logprobs"] is None


@pytest.mark.trial("31-openai-clients")
def test_several_prompts_have_their_choices_one_after_the_other() -> None:
    answer = completions(FakeServer("vllm"), prompt=["tea is", "rain is"], n=2, seed=7)
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2, 3]
    alone = [completions(FakeServer("vllm"), prompt=one, n=2, seed=7) for one in ("tea is", "rain is")]
    texts = [choice["text"] for choice in answer["choices"]]
    assert texts == [choice["text"] for one in alone for choice in one["choices"]]
    assert answer["usage"]["total_tokens"] == sum(one["usage"]["total_tokens"] for one in alone)
    same = completions(FakeServer("vllm"), prompt=["tea is", "tea is"])["choices"]
    assert same[0]["text"] != same[1]["text"]  # no seed: two draws


@pytest.mark.trial("31-openai-clients")
def test_echo_shows_the_prompt_with_and_without_log_probabilities() -> None:
    drawn = completions(FakeServer("legacy"), seed=5)["choices"][0]["text"]
    plain = completions(FakeServer("legacy"), seed=5, echo=True)["choices"][0]
    assert (plain["text"], plain["logprobs"]) == ("tea is" + drawn, None)
    block = completions(FakeServer("legacy"), seed=5, echo=True, logprobs=2)["choices"][0]["logprobs"]
    assert "".join(block["tokens"]) == "tea is" + drawn
    assert block["token_logprobs"][0] is None
    assert len(block["token_logprobs"]) == len(block["top_logprobs"]) == len(block["text_offset"])
    nothing = completions(FakeServer("legacy"), echo=True, max_tokens=0)["choices"][0]
    assert (nothing["text"], nothing["finish_reason"]) == ("tea is", "length")


@pytest.mark.trial("31-openai-clients")
@pytest.mark.parametrize("prompt", ["hi", "Say something about tea.", "é"])
def test_temperature_zero_is_one_text_whatever_the_seed(prompt: str) -> None:
    messages = [{"role": "user", "content": prompt}]
    found = {chat(FakeServer(), messages=messages, temperature=0, seed=s)[0]["message"]["content"] for s in range(8)}
    assert len(found) == 1
    assert len({completions(FakeServer(), prompt=prompt, temperature=0)["choices"][0]["text"] for _ in range(3)}) == 1


def test_sglang_draws_with_its_own_names_and_answers_lists_with_lists() -> None:
    sampling = {"max_new_tokens": 9, "temperature": 0.5, "seed": 3, "stop": ["a"]}
    reply = post(FakeServer("sglang"), "/generate", text="tea", sampling_params=sampling)
    one = json.loads(reply.body)
    assert "a" not in one["text"]
    both = json.loads(post(FakeServer("sglang"), "/generate", text=["tea", "tea"], sampling_params=sampling).body)
    assert [answer["text"] for answer in both] == [one["text"], one["text"]]
    scored = json.loads(post(FakeServer("sglang"), "/generate", text="tea", return_logprob=True).body)["meta_info"]
    assert scored["input_token_logprobs"] == []
    assert len(scored["output_token_logprobs"]) > 0


def test_a_model_is_found_by_its_name_alone_and_no_other_answers() -> None:
    server = FakeServer("openai")
    assert json.loads(server.reply("GET", "/v1/models/toy", {}, b"").body)["id"] == "toy"
    assert server.reply("GET", "/v1/models/other", {}, b"").status == 404
    for path, more in (("/v1/completions", {"prompt": "a"}), ("/v1/chat/completions", {"messages": USER})):
        assert post(server, path, model="other", **more).status == 404
        reply = post(server, path, **more)
        assert (reply.status, json.loads(reply.body)["error"]["param"]) == (400, "model")


def test_a_chat_that_does_not_fit_the_window_is_refused() -> None:
    reply = post(FakeServer(window=20), "/v1/chat/completions", model="toy", messages=USER, max_tokens=5)
    assert json.loads(reply.body)["error"]["code"] == "context_length_exceeded"


def test_json_without_end_is_a_400() -> None:
    for body in (b"[" * 200_000, b'{"model": "toy", "messages": ' + b"[" * 100_000, b'{"seed": 1' + b"0" * 5000 + b"}"):
        assert FakeServer().reply("POST", "/v1/chat/completions", {}, body).status == 400


# ---------------------------------------------------------------- every lie, on every way

WAYS = [
    ("/v1/chat/completions", {"model": "toy", "logprobs": True, "top_logprobs": 1}),
    ("/v1/completions", {"model": "toy", "logprobs": 1}),
    ("/v1/completions", {"model": "toy", "logprobs": 1, "echo": True}),
    ("/v1/completions", {"model": "toy", "prompt_logprobs": 0, "return_token_ids": True}),
    ("/generate", {"return_logprob": True, "logprob_start_len": 0}),
]
VALUES = {"silent", "nulls", "zeros", "constant", "positive", "sentinel", "text", "stale", "shifted", "short",
          "generated-only"}  # fmt: skip
"""Lies about scores, which a server can tell only where it gives any."""


@cache
def told(kind: str, broken: str, way: int, *, stream: bool) -> list[Any]:
    """What a server says in 33 answers, without their names."""
    path, wish = WAYS[way]
    server = FakeServer(kind, broken=broken, window=60)
    heard = []
    for number in range(33):
        text = f"{'abcdefghij'[number % 10]} film number {'x' * (number % 3)}"
        text = text if number else "a film that is much longer than the window of it and goes on"
        limits: dict[str, Any] = {"max_tokens": 8, "temperature": 0.9, "seed": number}
        if path == "/generate":
            limits["max_new_tokens"] = limits.pop("max_tokens")
            body = {**wish, "text": text, "sampling_params": limits}
        elif "chat" in path:
            body = {**wish, "messages": [{"role": "user", "content": text}], **limits}
        else:
            body = {**wish, "prompt": text, **limits}
        if stream:
            body["stream"] = True
            if path != "/generate":
                body["stream_options"] = {"include_usage": True}
        reply = post(server, path, **body)
        heard.append(reply.body)
    assert any(b'"error"' not in body for body in heard), heard[0]
    return heard


@pytest.mark.trial("31-openai-clients")
@pytest.mark.parametrize("broken", sorted(set(LIES) - {"none"}))
@pytest.mark.parametrize("kind", sorted(DIALECTS))
def test_every_lie_is_told_in_every_dialect_on_every_way(kind: str, broken: str) -> None:
    for way, (path, wish) in enumerate(WAYS):
        for stream in (False, True):
            exists = {"/v1/completions": kind != "tgi", "/generate": kind == "sglang"}.get(path, True)
            goes = not ("prompt_logprobs" in wish and (kind != "vllm" or stream))
            goes = goes and not (kind == "openai" and "echo" in wish)
            if not (exists and goes) or (kind == "ollama" and broken in VALUES):
                continue
            honest, lying = (told(kind, one, way, stream=stream) for one in ("none", broken))
            assert honest != lying, (path, wish, stream)
