"""The benchmark of real clients counts what holds, and skips what the registry does not have."""

import json
import sys

import pytest

from trust import clients


@pytest.fixture
def scripts(tmp_path, monkeypatch):
    """Clients that are scripts of ours, run by this Python."""
    monkeypatch.setattr(clients, "HERE", tmp_path)
    monkeypatch.setattr(clients, "ENVIRONMENTS", tmp_path)
    monkeypatch.setattr(clients, "environment", lambda name: (sys.executable, ""))

    def write(name, checks):
        said = json.dumps({"version": "1", "checks": checks})
        (tmp_path / f"client_{name}.py").write_text(f"print('noise')\nprint({said!r})\n")

    return write


def test_a_client_is_good_when_every_check_holds(scripts):
    scripts("openai", {"chat": "", "stream": ""})
    scripts("langchain", {"chat": "", "stream": "got False"})
    scripts("inspect", {})
    found = clients.clients_ok()
    assert (found["clients_ok"], found["required"]) == (1, 3)
    assert found["clients"]["langchain"]["checks"]["stream"] == "got False"


def test_a_client_that_cannot_be_had_is_skipped_and_one_that_breaks_is_not_good(scripts, monkeypatch, tmp_path):
    (tmp_path / "client_openai.py").write_text("raise SystemExit(3)\n")
    scripts("inspect", {"chat": ""})
    have = {"langchain": "the registry lacks langchain-openai"}
    monkeypatch.setattr(clients, "environment", lambda name: (sys.executable, have.get(name, "")))
    found = clients.clients_ok()
    assert found["clients_ok"] == 1
    assert found["clients"]["langchain"] == {"skipped": "the registry lacks langchain-openai"}
    assert "IndexError" in found["clients"]["openai"]["checks"]["the script"]
