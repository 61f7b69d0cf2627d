"""The fake server is right where it should be, wrong where it says so, and closed to the outside."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import httpx
import pytest

from mop.backends.fake import FakeModel
from mop.backends.fake_server import (
    DIALECTS,
    END,
    FAULTS,
    LIES,
    REPLY,
    TURN,
    FakeServer,
    Faults,
    Reply,
    ToyEncoder,
    start,
)
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


def test_ids_are_characters_and_marks() -> None:
    encoder = ToyEncoder()
    assert encoder.prompt_ids(simulation_prompt("ab")) == [TURN, 0, 1, REPLY]
    assert encoder.response_ids("b") == [1, END]
    assert encoder.text([1, 0, END, 3]) == "ba"


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


def test_a_real_port_answers_on_loopback_only_and_closes() -> None:
    with start(FakeServer("llamacpp")) as running:
        assert running.url.startswith("http://127.0.0.1:")
        listed = httpx.get(f"{running.url}/v1/models", trust_env=False).json()
        assert listed["data"][0]["owned_by"] == "llamacpp"
        with pytest.raises(ConfigError, match="cannot be used"):
            start(FakeServer(), port=int(running.url.rpartition(":")[2]))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/v1/models", trust_env=False)


@pytest.mark.parametrize(
    ("fault", "expected"), [("reset", httpx.RemoteProtocolError), ("cut:30", httpx.RemoteProtocolError)]
)
def test_a_real_port_breaks_connections_when_told(fault: str, expected: type[Exception]) -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
    with start(FakeServer("openai", faults=Faults(script=(fault,)))) as running, pytest.raises(expected):
        httpx.post(f"{running.url}/v1/chat/completions", json=body, trust_env=False)


def test_a_real_port_drips_when_told() -> None:
    body = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}
    with start(FakeServer("openai", faults=Faults(script=("slow:0.01",)))) as running:
        began = time.monotonic()
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=body, trust_env=False)
        assert answer.json()["model"] == "toy"
        assert time.monotonic() - began > 0.01 * len(answer.content) / 16


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


def test_a_port_that_is_none_is_refused():
    with pytest.raises(ConfigError, match=r"port 99999 of this machine cannot be used .*give another one"):
        start(FakeServer(), port=99999)
