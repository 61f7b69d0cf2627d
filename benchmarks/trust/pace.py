"""How much longer work takes on a server that refuses one call in twenty at random (429, Retry-After: 1).

    python benchmarks/trust/pace.py

A refusal that does not depend on the load must not slow the other calls down. Both sides run in one session, in turn,
each on a `mop fake-server` of its own process.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from mop.backends.fake_server import ToyEncoder
from mop.backends.remote import open_remote
from mop.prompts import simulation_prompt
from mop.types import Branch, Decoding, GenerateRequest

REQUIRED = 1.5
_FAULTS = ("--fault-rate", "0.05", "--faults", "429:1")


@contextmanager
def _served(*options: str) -> Iterator[str]:
    """The name of a model on a fake server that runs meanwhile."""
    command = [sys.executable, "-m", "mop", "fake-server", "--json", "--delay", "0.5", "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        try:
            yield json.loads(server.stdout.readline())["name"]
        finally:
            server.terminate()


def _seconds(items: int, at_once: int, *options: str) -> tuple[float, int]:
    """How long so many draws took, and the calls made for them."""
    requests = [
        GenerateRequest((Branch(simulation_prompt(f"film {i}", persona="a fan of old films"), 1.0),), i)
        for i in range(items)
    ]
    with _served(*options) as name:
        model = open_remote(name, encoder=ToyEncoder(), max_concurrency=at_once)
        for _ in model.generate(requests[:1], Decoding(max_tokens=16)):  # with the probe
            pass
        calls, began = model.ledger.spent.calls, time.monotonic()
        drawn = sum(len(batch) for batch in model.generate(requests, Decoding(max_tokens=16)))
        assert drawn == items
        return time.monotonic() - began, model.ledger.spent.calls - calls


def pace_429(rounds: int = 5, items: int = 250, at_once: int = 32) -> dict[str, Any]:
    """Ratio of the time with 5 % random refusals to the time without: its median, and each round's."""
    ratios, waits, calls = [], [], []
    for seed in range(rounds):
        plain_s, _ = _seconds(items, at_once)
        refused_s, n_calls = _seconds(items, at_once, *_FAULTS, "--seed", str(seed))
        ratios.append(refused_s / plain_s)
        waits.append((round(plain_s, 2), round(refused_s, 2)))
        calls.append(n_calls)
    return {
        "pace_429": round(statistics.median(ratios), 3),
        "required_at_most": REQUIRED,
        "ratios": [round(ratio, 3) for ratio in ratios],
        "seconds": waits,
        "calls": calls,
        "items": items,
        "at_once": at_once,
    }


if __name__ == "__main__":
    print(json.dumps(pace_429(), indent=1))
