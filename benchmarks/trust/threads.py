"""CPU seconds of a fit with the threads that a machine gives by default, over those with one: both in one session.

    python benchmarks/trust/threads.py

Each side is a process of its own, in turn, ``--times`` times; the ratio of the sums is printed for both ways to fit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time


def fit(method: str) -> dict[str, float]:
    """Fit 60 rows on the fake model, and say what it took; imports are not counted."""
    import sklearn.cluster  # noqa: F401
    import torch  # noqa: F401

    from mop import MixtureOfPersonas

    words = ["loud", "calm", "warm", "dull"]
    rows = [{"context": "AB"[i % 2], "response": f"{words[i % 4]} fun {i}"} for i in range(60)]
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF)
    MixtureOfPersonas(3, lm="fake", encoder="fake", settings={"method": method}).fit(rows)
    after = resource.getrusage(resource.RUSAGE_SELF)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"cpu_s": cpu, "wall_s": time.monotonic() - began}


def measure(method: str, times: int) -> dict[str, float]:
    """Sums of both sides, taken in turn, and their ratio."""
    total = {"default": 0.0, "one": 0.0}
    for _ in range(times):
        for side in total:
            names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
            environment = {name: value for name, value in os.environ.items() if name not in names}
            environment |= {"OMP_NUM_THREADS": "1"} if side == "one" else {}
            command = [sys.executable, __file__, "--fit", method]
            done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
            total[side] += json.loads(done.stdout)["cpu_s"]
    return {**{f"cpu_s_{side}": round(value, 2) for side, value in total.items()},
            "cpu_ratio": round(total["default"] / total["one"], 2)}  # fmt: skip


def main() -> None:
    """Print one JSON object per way to fit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fit", choices=("rounds", "paper"))
    parser.add_argument("--times", type=int, default=3)
    args = parser.parse_args()
    if args.fit:
        print(json.dumps(fit(args.fit)))
        return
    for method in ("rounds", "paper"):
        print(json.dumps({"method": method, **measure(method, args.times)}))


if __name__ == "__main__":
    main()
