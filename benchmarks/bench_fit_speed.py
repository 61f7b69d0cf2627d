"""What a refit costs when every score is in the store, and what a draw costs among a million exemplars.

Everything is synthetic: no language model and no data set are needed. Prints a table and writes
``benchmarks/results/fit_speed.json``.

    python benchmarks/bench_fit_speed.py                     # both rows, a few minutes of making things up
    python benchmarks/bench_fit_speed.py --records 200 --exemplars 100000 --rounds 1

`refit_seconds`: a whole `fit_mixture` (prompts, store, rounds, cross-validation) at 1,000 records with up to
64 scored components each and 20 curve nodes; the scorer raises if it is asked for anything.
`gate_ms`, `gate_gib`: one batch of 64 contexts, persona and exemplar drawn from fitted gates over
K = 1,000 personas and N = 1,000,000 exemplars; memory is what keys and draws take beyond the embeddings.
The keys' effective dimension decides how well exemplars can be grouped: it is 16 here, by
construction. `gate_dense_ms` is the price where grouping fails: every exemplar looked at.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.curve import BETAS
from mop.config import FitConfig
from mop.mixture.fit import fit_mixture
from mop.mixture.index import ExemplarIndex
from mop.mixture.sums import draw
from mop.randomness import derive_seed, uniforms
from mop.storage.store import Store
from mop.types import Persona, Record, Score, ScoreRequest
from results_file import write_results_file

ROOT = Path(__file__).resolve().parent.parent
K, N, D, TOKENS, WORDS = 12, 300, 384, 20, 50
UNITS = {"refit_seconds": "s", "gate_ms": "ms", "gate_gib": "GiB", "gate_dense_ms": "ms"}


class Planted:
    """Scores of texts whose probabilities are made up: a component prefers some words, a record uses some."""

    name = "planted"
    score_identity = "planted/1"
    betas = BETAS

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.of_persona = rng.normal(0, 1.0, (K, WORDS))
        self.of_exemplar = rng.normal(0, 1.0, (N, WORDS))

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        """Answer all at once."""
        beta = np.array(BETAS)
        batch = []
        for i, request in enumerate(requests):
            text = " ".join(s.text for turn in request.prompt.turns for s in turn.segments)
            k, j = (int(re.findall(rf"{word} (\d+)", text)[0]) for word in ("persona", "exemplar"))
            logits = self.of_persona[k] + self.of_exemplar[j]
            words = [int(word) for word in request.response.split()]
            log_norm = np.log(np.exp(beta[:, None] * logits).sum(axis=1))
            curve = beta * logits[words].sum() - len(words) * log_norm
            batch.append((i, Score(curve.astype(np.float32), len(words))))
        yield batch


class Refusing(Planted):
    """The same model, not loaded."""

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        """Never called if the store holds every score."""
        raise RuntimeError(f"the store lacks {len(requests)} scores")


class Encoder:
    """Unit vectors that are a function of the text."""

    identity = "planted-encoder/1"
    n_dims = D

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return (n, D)."""
        rows = [np.random.default_rng(derive_seed(0, text)).standard_normal(D, dtype=np.float32) for text in texts]
        vectors = np.stack(rows)
        return np.asarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


def refit(n_records: int, n_repeats: int) -> tuple[list[float], dict[str, Any]]:
    """Seconds of refits from a filled store, and what the last one says of itself."""
    planted, encoder, store = Planted(), Encoder(), Store(":memory:")
    personas = [Persona(key=f"p{k}", description=f"persona {k}") for k in range(K)]
    rng = np.random.default_rng(1)

    def record(i: int, name: str) -> Record:
        k, j = rng.integers(K), rng.integers(N)
        logits = planted.of_persona[k] + planted.of_exemplar[j]
        share = np.exp(logits) / np.exp(logits).sum()
        words = " ".join(map(str, rng.choice(WORDS, TOKENS, p=share)))
        return Record(key=f"{name}{i}", context=f"{name} {i} of kind {i % 7}", response=words)

    exemplars = [record(j, "exemplar") for j in range(N)]
    records = [record(i, "record") for i in range(n_records)]
    cut = n_records * 3 // 4
    # Two rounds of 32 make 64; min_gain 0 lets neither be left out.
    settings = FitConfig(n_rounds=2, components_per_record=32, valid_components=32, min_gain=0.0,
                         coverage_records=0)  # fmt: skip
    seconds, info = [], {}
    for repeat in range(n_repeats + 1):
        begin = time.perf_counter()
        fitted = fit_mixture(
            personas, exemplars, records[:cut], records[cut:], encoder=encoder,
            scorer=Refusing() if repeat else planted, store=store, task="words", settings=settings, seed=0,
        )  # fmt: skip
        if repeat:
            seconds.append(time.perf_counter() - begin)
        info = fitted.info
    return seconds, info


def draws(n_exemplars: int, n_personas: int, n_repeats: int) -> dict[str, Any]:
    """Milliseconds of a batch of 64 contexts, and the memory beyond the embeddings."""
    d, rank, batch = 128, 16, 64
    rng = np.random.default_rng(0)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    spread = 1.0 / np.sqrt(1.0 + np.arange(rank))
    basis = (rng.standard_normal((rank, d)) * spread[:, None]).astype(np.float32)
    keys = np.empty((n_exemplars, d), dtype=np.float32)
    for start in range(0, n_exemplars, 65536):  # as W_e h(e) is made: block by block
        size = min(65536, n_exemplars - start)
        keys[start : start + size] = rng.standard_normal((size, rank), dtype=np.float32) @ basis
    bias = rng.normal(0, 0.1, n_exemplars).astype(np.float32)
    from_x = rng.standard_normal((batch, d), dtype=np.float32)
    from_x /= (from_x @ keys[:5000].T).std(axis=1, keepdims=True)  # exemplar logits of sd 1 nat
    from_g = rng.standard_normal((n_personas, d), dtype=np.float32) * 0.02
    begin = time.perf_counter()
    index = ExemplarIndex.build(keys, bias)
    build = time.perf_counter() - begin
    del keys
    own = np.full(batch, -1)
    times, dense = [], []
    for repeat in range(n_repeats):
        seeds = [derive_seed(0, "agent", repeat, i) for i in range(batch)]
        begin = time.perf_counter()
        log_pi = (from_x @ from_g.T).astype(np.float64)
        k = draw(log_pi, np.array([uniforms(seed, 0, 1)[0] for seed in seeds]))
        queries = from_x + from_g[k]
        index.draw(queries, own, seeds, 0)
        times.append(1e3 * (time.perf_counter() - begin))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(min(3, n_repeats)):
        begin = time.perf_counter()
        query = np.concatenate([queries, np.ones((batch, 1), np.float32)], axis=1) @ index.axes
        for start in range(0, n_exemplars, 16384):
            rows = slice(start, start + 16384)
            logits = query[:, : index.n_main] @ index.main[rows].T
            logits += query[:, index.n_main :] @ index.minor[rows].T
            np.exp(logits).sum(axis=1)
        dense.append(1e3 * (time.perf_counter() - begin))
    return {"ms": times, "dense_ms": dense, "gib": (peak - before) / 2**20, "build_seconds": build}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--exemplars", type=int, default=1_000_000)
    parser.add_argument("--personas", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fit_speed.json")
    arguments = parser.parse_args()
    begin = time.monotonic()
    gate = draws(arguments.exemplars, arguments.personas, 5 * arguments.rounds)
    seconds, info = refit(arguments.records, arguments.rounds)
    cells = info["history"][-1]["n_cells"]
    claims = {
        "refit_seconds": (statistics.median(seconds), 20.0, f"{cells} scores, {info['chosen']}"),
        "gate_ms": (statistics.median(gate["ms"]), 50.0,
                    f"grouping once: {gate['build_seconds']:.0f} s"),
        "gate_gib": (gate["gib"], 2.0, "keys, groups and draws at their peak"),
        "gate_dense_ms": (statistics.median(gate["dense_ms"]), None, "every exemplar looked at"),
    }  # fmt: skip
    print("| ID | value | aim | note |\n| --- | --- | --- | --- |")
    for name, (value, target, note) in claims.items():
        aim = "" if target is None else f"≤ {target:g}"
        print(f"| `{name}` | {value:.2f} | {aim} | {note} |")
    rows = {
        name: {"value": value, "unit": UNITS[name], "against": f"at most {target}" if target else "",
               "note": note}
        for name, (value, target, note) in claims.items()
    }  # fmt: skip
    write_results_file(arguments.out, rows, time.monotonic() - begin)


if __name__ == "__main__":
    main()
