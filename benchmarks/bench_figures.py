"""Do the figures that we report mean what they say? Planted truth for each of them.

    python benchmarks/bench_figures.py                       # all; about an hour on one core, resumable
    python benchmarks/bench_figures.py --only coverage ranks

coverage   95 % intervals of held-out likelihood and of gains, and what is left of the bias (`planted_likelihood`)
ranks      planted populations ordered by energy distance and by FID (`planted_metrics`)
k          personas under a prior where all are equally common (`planted_k`)
estimator  today's fit against the one before, on whole tables of real scores (`bench_estimator`, which needs the
           tables of `fit_tables`)

Prints a table and writes ``benchmarks/results/figures.json``. Repeats of coverage lie in ``bench-figures/`` of the
cache folder, under a name made from the code that they depend on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import bench_estimator
import planted_k
import planted_likelihood
import planted_metrics
from mop.data import pull
from results_file import ROOT, commit, machine, write_results_file

log = logging.getLogger("bench_figures")

SETTINGS = [(16, 0, 0.0), (48, 0, 0.0), (16, 12, 0.0), (48, 12, 0.0)]
"""Components scored for each of 60 records, groups that these are in (0: none), skewness of exemplars' effects."""
SKEWED = [(16, 0, -0.6), (16, 0, 0.6), (48, 0, -0.6), (48, 0, 0.6)]
"""Populations that the model of the imputation does not hold for; no claim rests on them."""
N_REPEATS, N_SKEWED = 200, 60
TABLES = ("agnews", "rotten", "sst2")
AIMS: dict[str, tuple[str, float]] = {
    "coverage_gain": ("≥", 0.92),
    "coverage_score": ("≥", 0.90),
    "bias_m16": ("≤", 0.15),
    "energy_rank": ("≥", 1.0),
    "fid_rank": ("≥", 1.0),
    "k_loss": ("≤", 0.03),
    "estimator_gain_loss": ("≤", 0.02),
    "estimator_gain_loss_partial": ("≤", 0.04),
    "fit_seconds_ratio": ("≥", 1.0),
}
Found = tuple[dict[str, dict[str, Any]], dict[str, Any]]
"""Claims, and the details behind them."""


def repeats_folder() -> Path:
    """Where repeats are kept; another one when the code changes that they come from."""
    code = hashlib.sha256()
    mixture = [f"mixture/{name}" for name in ("imputation", "sums", "gate", "fitted")]
    for name in ("evaluate/likelihood", *mixture, "randomness"):
        code.update((ROOT / "src" / "mop" / f"{name}.py").read_bytes())
    code.update(Path(planted_likelihood.__file__).read_bytes())
    return pull.cache_folder() / "bench-figures" / code.hexdigest()[:16]


def coverage(most: int) -> Found:
    """Intervals against planted truth, in every one of `SETTINGS`."""
    folder = repeats_folder()
    folder.mkdir(parents=True, exist_ok=True)
    details: dict[str, Any] = {}
    for m, n_groups, skewness in (*SETTINGS, *SKEWED):
        n_repeats = min(most, N_SKEWED) if skewness else most
        path = folder / f"{m}-{n_groups}-{skewness:g}.jsonl"
        rows = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
        with path.open("a") as stream:
            for seed in range(len(rows), n_repeats):
                rows.append(planted_likelihood.repeat(m, seed, n_groups=n_groups, skewness=skewness))
                stream.write(json.dumps(rows[-1]) + "\n")
                stream.flush()
                if len(rows) % 20 == 0:
                    log.info(
                        "%d components, %d groups, skewness %g: %d repeats",
                        m, n_groups, skewness, len(rows),
                    )  # fmt: skip
        name = f"m={m}, groups={n_groups or 'none'}"
        details[f"{name}, skewness={skewness:g}" if skewness else name] = {
            name: float(np.mean([row[name] for row in rows[:n_repeats]])) for name in rows[0]
        }
    against = f"planted truth, {most} repeats, the worst of {len(SETTINGS)} settings"
    fair = {name: row for name, row in details.items() if "skewness" not in name}

    def worst(*names: str) -> float:
        return min(row[name] for row in fair.values() for name in names)

    bias = max((row["score_bias"] for name, row in fair.items() if name.startswith("m=16")), key=abs)
    return {
        "coverage_gain": _claim(worst("gain", "rival"), "share", against),
        "coverage_score": _claim(worst("score"), "share", against),
        "bias_m16": _claim(abs(bias), "nats per record", f"{against}; {bias:+.3f}"),
    }, details


def ranks() -> Found:
    """Planted populations in their true order at 200 texts."""
    found = planted_metrics.planted_ranks(200, 0, 20)
    against = (
        "planted populations, 200 texts against 5,000; pairs whose true distances differ by 4 standard deviations: "
        f"{found['n_energy_pairs']} and {found['n_fid_pairs']} of 55"
    )
    names = ("energy_rank", "fid_rank")
    return {name: _claim(found[name], "share of pairs", against) for name in names}, found


def personas() -> Found:
    """What 24 equally common personas lose by being fitted to 100 records."""
    loss = planted_k.k_loss()
    return {"k_loss": _claim(loss, "nats per record", "24 personas at even weights, n = 100")}, {}


def estimator() -> Found:
    """Gains on whole tables and on a part of their cells; seconds of the fits."""
    found = bench_estimator.compare(TABLES)
    claims: dict[str, dict[str, Any]] = {}
    for name, row in found.items():
        against = f"the fit of commit {bench_estimator.BEFORE}, {row['n_components']} components"
        for key in ("estimator_gain_loss", "estimator_gain_loss_partial"):
            claims[f"{key}_{name}"] = _claim(row[key], "nats per record", against)
    ratio = float(np.exp(np.mean([np.log(row["fit_seconds_ratio"]) for row in found.values()])))
    claims["fit_seconds_ratio"] = _claim(ratio, "ratio", "before over now, in turn, geometric mean")
    return claims, found


def _claim(value: float, unit: str, against: str) -> dict[str, Any]:
    return {"value": value, "unit": unit, "against": against}


def _aim(name: str) -> tuple[str, float]:
    return AIMS[name if name in AIMS else name.rpartition("_")[0]]


def main() -> None:
    """Measure what was asked for, print the claims, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parts: dict[str, Callable[[], Found]] = {
        "coverage": lambda: coverage(arguments.repeats),
        "ranks": ranks,
        "k": personas,
        "estimator": estimator,
    }
    parser.add_argument("--only", nargs="+", choices=parts, default=list(parts))
    parser.add_argument("--repeats", type=int, default=N_REPEATS)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/figures.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    for part in arguments.only:
        began = time.monotonic()
        claims, details = parts[part]()
        before = json.loads(arguments.out.read_text()) if arguments.out.is_file() else {}
        made = {"commit": commit(), "machine": machine()}
        document = write_results_file(
            arguments.out,
            {**before.get("claims", {}), **claims},
            time.monotonic() - began,
            details={**before.get("details", {}), part: {**details, "made": made}},
        )
    print("| ID | value | aim | unit | against |\n| --- | --- | --- | --- | --- |")
    for name, claim in document["claims"].items():
        sign, aim = _aim(name)
        print(f"| `{name}` | {claim['value']:.3f} | {sign} {aim:g} | {claim['unit']} | {claim['against']} |")


if __name__ == "__main__":
    main()
