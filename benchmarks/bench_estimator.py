"""Today's fit against that of an earlier commit, on the same tables and in the same turns.

    python benchmarks/bench_estimator.py --data agnews rotten sst2

The earlier source is taken from this repository's history (`BEFORE`) and run beside today's, in processes of one
thread each, one after the other, so that seconds compare. Tables are those of `fit_tables`, read as far as their
personas are complete; nothing is scored. Before, gates were chosen among candidates fitted by gradients.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from results_file import ROOT

BEFORE = "77aeeca"
"""The commit that is compared with."""
SHARES = (1.0, 0.15)
"""Of the table's cells that a fit may ask for: all, and about one in seven."""

_MEASURE = """
import json, logging, sys, time
import bench_fit, fit_tables
from bench_fit import open_encoder, uniform_mixture  # wherever they lie in this source
name, turns, shares = sys.argv[1], int(sys.argv[2]), json.loads(sys.argv[3])
truth = bench_fit._table(name, fit_tables.default_folder(), open_encoder(fit_tables.ENCODER), is_scored=False)
if truth is None:
    raise SystemExit("fewer than two personas of the table are complete; run benchmarks/fit_tables.py first")
rows = []
for turn, case in enumerate(bench_fit.Case.of(truth).turns()[:turns]):
    for share in shares:
        began = time.perf_counter()
        result, score = case.fit(share, 0)
        seconds = time.perf_counter() - began
        gate = result.gate.requires_grad_(False) if hasattr(result.gate, "requires_grad_") else result.gate
        mixture = case.mixture(gate, result.uniform_tau)
        gain = case.value(mixture) - case.value(uniform_mixture(mixture))
        rows.append(dict(turn=turn, share=share, gain=gain, seconds=seconds, chosen=result.chosen,
                         cells=score.spent()[0]))
print("MEASURED " + json.dumps(dict(rows=rows, n_components=case.n_components, is_complete=truth.is_complete)))
"""


def compare(names: Sequence[str], turns: int = 3) -> dict[str, Any]:
    """Held-out gains and seconds of both fits.

    Parameters
    ----------
    names : sequence of str
        Tables of `fit_tables`.
    turns : int
        Parts of a table that are the test records in turn, at most three.

    Returns
    -------
    dict
        By table: ``estimator_gain_loss`` (mean gain over equal weights before, minus now, nats per record, of whole
        tables), ``estimator_gain_loss_partial`` (of about one cell in seven), ``fit_seconds_ratio`` (before over
        now, all fits together), ``n_components``, ``is_complete``, and the ``rows`` of both.
    """
    with tempfile.TemporaryDirectory() as folder:
        before = Path(folder)
        archive = subprocess.run(
            ["git", "archive", BEFORE, "src", "benchmarks"], cwd=ROOT, check=True, capture_output=True
        )
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        return {name: _compared(name, before, turns) for name in names}


def _compared(name: str, before: Path, turns: int) -> dict[str, Any]:
    old, new = (_measured(name, root, turns) for root in (before, ROOT))
    if old["n_components"] != new["n_components"]:
        raise RuntimeError(f"the table {name} grew while it was measured; measure again")
    found: dict[str, Any] = {"n_components": new["n_components"], "is_complete": new["is_complete"]}
    for share, key in zip(SHARES, ("estimator_gain_loss", "estimator_gain_loss_partial"), strict=True):
        gains = [[r["gain"] for r in of["rows"] if r["share"] == share] for of in (old, new)]
        found[key] = float(np.mean(gains[0]) - np.mean(gains[1]))
    seconds = [sum(r["seconds"] for r in of["rows"]) for of in (old, new)]
    found["fit_seconds_ratio"] = seconds[0] / seconds[1]
    return {**found, "before": old["rows"], "now": new["rows"]}


def _measured(name: str, root: Path, turns: int) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, name, str(turns), json.dumps(SHARES)],
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(root / "src"), str(root / "benchmarks")]),
            "MOP_SHARED": os.environ.get("MOP_SHARED", str(ROOT.parent / "shared")),
            "OMP_NUM_THREADS": "1",
            "OPENBLAS_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("MEASURED ")]
    if done.returncode or not lines:
        raise RuntimeError(f"the fit of {root.name} on {name} failed: {done.stderr[-1500:]}")
    found: dict[str, Any] = json.loads(lines[-1].removeprefix("MEASURED "))
    return found


def main() -> None:
    """Print the comparison."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", default=["agnews", "rotten", "sst2"])
    parser.add_argument("--turns", type=int, default=3)
    arguments = parser.parse_args()
    for name in arguments.data:
        found = compare([name], arguments.turns)[name]
        print(
            f"{name} ({found['n_components']} components): before minus now "
            f"{found['estimator_gain_loss']:+.3f} nats (all cells), "
            f"{found['estimator_gain_loss_partial']:+.3f} (one in seven); before takes "
            f"{found['fit_seconds_ratio']:.1f} times as long"
        )


if __name__ == "__main__":
    main()
