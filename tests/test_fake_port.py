"""A port of this machine: on loopback only, and as broken as it is told to be."""

from __future__ import annotations

import socket
import time

import httpx
import pytest

from mop.backends.fake_port import start
from mop.backends.fake_server import FakeServer, Faults
from mop.errors import ConfigError

BODY = {"model": "toy", "messages": [{"role": "user", "content": "hi"}]}


def test_a_real_port_answers_on_loopback_only_and_closes() -> None:
    with start(FakeServer("llamacpp")) as running:
        assert running.url.startswith("http://127.0.0.1:")
        listed = httpx.get(f"{running.url}/v1/models", trust_env=False).json()
        assert listed["data"][0]["owned_by"] == "llamacpp"
        with pytest.raises(ConfigError, match="cannot be used"):
            start(FakeServer(), port=int(running.url.rpartition(":")[2]))
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{running.url}/v1/models", trust_env=False)


@pytest.mark.parametrize("fault", ["reset", "cut:30"])
@pytest.mark.parametrize("stream", [False, True])
def test_a_real_port_breaks_connections_when_told(fault: str, stream: bool) -> None:
    with (
        start(FakeServer("openai", faults=Faults(script=(fault,)))) as running,
        pytest.raises(httpx.RemoteProtocolError),
    ):
        httpx.post(f"{running.url}/v1/chat/completions", json={**BODY, "stream": stream}, trust_env=False)


def test_a_real_port_drips_when_told() -> None:
    with start(FakeServer("openai", faults=Faults(script=("slow:0.01",)))) as running:
        began = time.monotonic()
        answer = httpx.post(f"{running.url}/v1/chat/completions", json=BODY, trust_env=False)
        assert answer.json()["model"] == "toy"
        assert time.monotonic() - began > 0.01 * len(answer.content) / 16


def test_a_length_that_is_none_or_too_much_is_refused() -> None:
    with start(FakeServer()) as running:
        for length, status in (("many", 411), ("-1", 411), ("9" * 5000, 413), (str(9 * 2**20), 413)):
            with socket.create_connection(("127.0.0.1", running.server_address[1]), timeout=20) as connection:
                connection.sendall(f"POST /v1/completions HTTP/1.1\r\nContent-Length: {length}\r\n\r\n".encode())
                assert connection.recv(100).startswith(f"HTTP/1.1 {status} ".encode())


def test_a_port_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"port 99999 of this machine cannot be used .*give another one"):
        start(FakeServer(), port=99999)
