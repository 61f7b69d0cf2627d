"""What the doctor sees and says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mop.backends.fake_server import FakeServer, start
from mop.config import RemoteSettings
from mop.runs.doctor import describe, examine


def by_what(result: dict[str, object], what: str) -> dict[str, str]:
    findings = result["findings"]
    assert isinstance(findings, list)
    [found] = [f for f in findings if f["what"] == what]
    return dict(found)


def test_the_machine_packages_and_cache_are_listed_as_plain_data(tmp_path: Path) -> None:
    result = examine(cache=tmp_path)
    assert json.loads(json.dumps(result)) == result
    assert result["ok"] is True
    assert by_what(result, "python")["status"] == "ok"
    assert "numpy" in by_what(result, "core")["detail"]
    assert str(tmp_path) in by_what(result, "cache")["detail"]


def test_a_cache_that_does_not_exist_yet_is_judged_by_where_it_will_be(tmp_path: Path) -> None:
    result = examine(cache=tmp_path / "not" / "yet")
    assert by_what(result, "cache")["status"] == "ok"
    assert not (tmp_path / "not").exists()


def test_servers_are_told_apart_without_a_paid_call(tmp_path: Path) -> None:
    server = FakeServer("llamacpp")
    with start(server) as running:
        name = f"openai:toy@{running.url}"
        result = examine([name], cache=tmp_path)
    found = by_what(result, name)
    assert found["status"] == "ok"
    assert found["detail"].startswith("llamacpp; generates only: llama.cpp's server")
    assert found["advice"] == "fit with a model on this machine as scorer, and generate here"
    assert server.calls == 0


def test_a_server_that_could_score_is_asked_for_its_tokenizer(tmp_path: Path) -> None:
    with start(FakeServer("vllm")) as running:
        name = f"openai:toy@{running.url}"
        found = by_what(examine([name], cache=tmp_path), name)
    assert found["status"] == "note"
    assert "window 2048 tokens" in found["detail"]
    assert "set tokenizer" in found["detail"]


def test_what_is_wrong_with_a_server_is_a_finding_and_not_an_error(tmp_path: Path) -> None:
    foreign = "openai:toy@https://api.example.com"
    result = examine([foreign, "nonsense"], settings=RemoteSettings(dialect="openai-chat"), cache=tmp_path)
    assert result["ok"] is False
    assert "records would leave this machine" in by_what(result, foreign)["detail"]
    assert "the form is openai:MODEL@URL" in by_what(result, "nonsense")["detail"]


@pytest.mark.parametrize(
    "name",
    [
        "openai:toy@http://user:hunter2@127.0.0.1:9",
        "openai:toy@http://127.0.0.1:9/v1?key=hunter2",
        "openai:@http://user:hunter2@127.0.0.1:9",
    ],
)
def test_a_password_in_an_address_is_not_shown(name: str, tmp_path: Path) -> None:
    result = examine([name], cache=tmp_path)
    assert result["ok"] is False
    assert "hunter2" not in json.dumps(result)
    assert "127.0.0.1:9" in describe(result)


def test_the_text_marks_problems_and_gives_advice(tmp_path: Path) -> None:
    result = examine(["openai:toy@https://api.example.com"], cache=tmp_path)
    text = describe(result)
    assert text.splitlines()[0].startswith("mop ")
    assert "  ! openai:toy@https://api.example.com: records would leave this machine" in text
    assert text.endswith("1 problem, marked with !")


def test_a_probe_says_whether_a_server_samples_and_scores(tmp_path: Path) -> None:
    with start(FakeServer("vllm")) as running:
        name = f"openai:toy@{running.url}"
        result = examine([name], cache=tmp_path, settings=RemoteSettings(tokenizer="fake"), probe=True)
    assert result["ok"] is True
    draws, scores = by_what(result, f"{name}, draws"), by_what(result, f"{name}, scores")
    assert draws["detail"] == "it samples; the same seed gives the same text again"
    assert scores["detail"] == "passes the probe, noise 0 nats per token"


@pytest.mark.parametrize(
    ("broken", "what", "reason"),
    [
        ("zeros", "scores", "are 0"),
        ("wrong-ids", "scores", "cannot be used to score"),
        ("greedy", "draws", "does not sample"),
    ],
)
def test_a_probe_finds_what_a_server_lies_about(tmp_path: Path, broken: Any, what: str, reason: str) -> None:
    with start(FakeServer("vllm", broken=broken)) as running:
        name = f"openai:toy@{running.url}"
        result = examine([name], cache=tmp_path, settings=RemoteSettings(tokenizer="fake"), probe=True)
    assert reason in by_what(result, f"{name}, {what}")["detail"]
    assert result["ok"] is False


def test_without_a_tokenizer_a_probe_draws_by_chat_only(tmp_path: Path) -> None:
    with start(FakeServer("ollama")) as running:
        name = f"openai:toy@{running.url}"
        result = examine([name], cache=tmp_path, probe=True)
    assert "a server of this kind may cut the distribution" in by_what(result, f"{name}, draws")["detail"]
    assert by_what(result, f"{name}, draws")["status"] == "note"
