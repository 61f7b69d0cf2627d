"""What a refit costs when every score is in the store.

Everything is synthetic: no language model and no data set are needed. Prints a table and writes
``benchmarks/results/fit_speed.json``.

    python benchmarks/bench_fit_speed.py                     # a few minutes of making things up
    python benchmarks/bench_fit_speed.py --records 200 --rounds 1

`refit_seconds`: a whole `fit_mixture` (prompts, store, rounds, cross-validation) at 1,000 records with up to
64 scored components each and 20 curve nodes; the scorer raises if it is asked for anything.
"""

from __future__ import annotations

import argparse
import re
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
from mop.randomness import derive_seed
from mop.storage.store import Store
from mop.types import Persona, Record, Score, ScoreRequest
from results_file import write_results_file

ROOT = Path(__file__).resolve().parent.parent
K, N, D, TOKENS, WORDS = 12, 300, 384, 20, 50


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
    settings = FitConfig(n_rounds=2, components_per_record=32, valid_components=32)  # two rounds of 32 make 64
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


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3, help="repetitions of each")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fit_speed.json")
    arguments = parser.parse_args()
    begin = time.monotonic()
    seconds, info = refit(arguments.records, arguments.rounds)
    cells = info["history"][-1]["n_cells"]
    value, note = statistics.median(seconds), f"{cells} scores, {info['chosen']}"
    print(f"refit_seconds: {value:.2f} s, at most 20 wanted; {note}")
    rows = {"refit_seconds": {"value": value, "unit": "s", "against": "at most 20.0", "note": note}}
    write_results_file(arguments.out, rows, time.monotonic() - begin)


if __name__ == "__main__":
    main()
