"""Settings of a connection, and how its pieces read addresses and answers; the calling is in test_remote."""

from __future__ import annotations

from typing import Any

import pytest

from mop.backends.link import is_loopback
from mop.config import RemoteSettings
from mop.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"dialect": "grpc"}, "dialect must be one of auto, openai-chat, .* got 'grpc'"),
        ({"max_concurrency": 0}, "max_concurrency must be at least 1 and at most 4096, got 0"),
        ({"deadline_s": 0.0}, "deadline_s must be above 0, got 0.0"),
        ({"deadline_s": float("inf")}, "deadline_s must be a finite number, got inf"),
        ({"max_failed_share": 1.5}, "max_failed_share must be at least 0 and at most 1, got 1.5"),
    ],
)
def test_settings_out_of_range_are_named(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RemoteSettings(**fields)


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_is_known_by_its_names(host: str) -> None:
    assert is_loopback(f"http://{host}:8000/v1")


@pytest.mark.parametrize(
    "host",
    ["10.0.0.1", "0.0.0.0", "[::]", "example.com", "127.0.0.1.example.com", "localhost.example.com", "128.0.0.1"],
)
def test_other_machines_are_not(host: str) -> None:
    assert not is_loopback(f"http://{host}:8000/v1")
