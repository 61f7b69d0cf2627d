"""Fully scored tables of three data sets: the ground truth of `bench_fit`.

    python benchmarks/fit_tables.py --data rotten sst2 agnews       # resumable at any moment

A table is made persona by persona, all records under its four exemplars, so that the prefix of a
component is computed once for all records, and what is there at any moment is a whole table with
fewer personas. Scores lie in one store per data set; the model is not loaded for what is there.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mop.backends import open_model
from mop.backends.base import LanguageModel
from mop.backends.encoder import TextEncoder, embed, open_encoder
from mop.data import pull
from mop.data.records import read_records, save_records
from mop.mixture.fitted import context_text, exemplar_text, exemplar_vectors
from mop.mixture.score import Scoring, score_table
from mop.personas.cluster import cluster
from mop.personas.files import read_personas, save_personas
from mop.personas.keywords import keyword_personas
from mop.prompts import simulation_prompt
from mop.randomness import derive_seed
from mop.storage.store import Store, score_key
from mop.types import Persona, Record, ScoreRequest

ROOT = Path(__file__).resolve().parent.parent
LM, ENCODER = "smollm2-135m", "minilm"
N_PERSONAS, N_EXEMPLARS, N_TRAIN, N_TEST, N_POOL, N_GOLDEN = 24, 4, 240, 120, 300, 2000
MAX_TOKENS = 45
"""Records with longer responses are left out everywhere, end-of-turn counted; keeps a table to minutes or hours."""

log = logging.getLogger("fit_tables")

Fits = Callable[[Record], bool]


@dataclass(frozen=True)
class Material:
    """Who and what a table is about."""

    name: str
    task: str
    personas: list[Persona]
    exemplars: list[Record]
    train: list[Record]
    """For training and validation."""
    test: list[Record]
    golden: list[Record]
    """What simulations are compared with, of films that are in no other part; empty where none are made."""
    contexts: list[Record]
    """Further records of the test films, to simulate."""

    @property
    def records(self) -> list[Record]:
        """Rows of the table: train, then test."""
        return [*self.train, *self.test]


@dataclass(frozen=True)
class Truth:
    """A table, or the part of it whose personas are complete."""

    material: Material
    """With only the personas that are complete."""
    curves: NDArray[np.float32]
    """(n, K·N, G) nats."""
    n_tokens: NDArray[np.int64]
    """(n,) response tokens of each record, end-of-turn included."""
    hx: NDArray[np.float32]
    hg: NDArray[np.float32]
    he: NDArray[np.float32]
    betas: tuple[float, ...]
    is_complete: bool


def shared() -> Path | None:
    """The folder with data sets that lies beside this repository, or None."""
    place = Path(os.environ.get("MOP_SHARED", ROOT.parent / "shared"))
    return place / "data" if (place / "data").is_dir() else None


def _rotten(fits: Fits) -> dict[str, list[Record]]:
    """Films are in one split only; test and training have one review of each film, the pool up to three."""
    folder = Path(pull.resolve("rotten-tomatoes", kind="data"))
    with (folder / "records.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    by_film: dict[str, list[Record]] = {}
    for row in rows:
        record = Record(
            key=row["key"],
            context=f"Film: {row['film']}. Verdict: {row['verdict']}.",
            response=row["text"],
            label=row["verdict"],
            group=row["film_id"],
        )
        if fits(record):
            by_film.setdefault(row["film_id"], []).append(record)
    films = [by_film[film] for film in _shuffled(by_film, "film")]
    reviews = [sorted(film, key=lambda r: derive_seed(0, "review", r.key)) for film in films]
    pool, cut = N_POOL // 3, N_POOL // 3 + N_TEST + N_TRAIN
    return {
        "pool": [record for film in reviews[:pool] for record in film[:3]],
        "test": [film[0] for film in reviews[pool : pool + N_TEST]],
        "train": [film[0] for film in reviews[pool + N_TEST : cut]],
        "golden": [record for film in reviews[cut:] for record in film][:N_GOLDEN],
        "contexts": [record for film in reviews[pool : pool + N_TEST] for record in film[1:4]],
    }


def _shared_set(name: str, fits: Fits) -> dict[str, list[Record]]:
    found = shared()
    if found is None:
        raise FileNotFoundError(f"no shared/data beside {ROOT}; set MOP_SHARED to its folder")
    splits: dict[str, list[Record]] = {}
    for split in ("exemplars", "train"):
        with gzip.open(found / name / f"{split}.jsonl.gz", "rt", encoding="utf-8") as stream:
            lines = {line["id"]: line for line in map(json.loads, stream)}
        records = [
            Record(
                key=key,
                context=f"Write {lines[key]['context']}.",
                response=lines[key]["response"],
                label=lines[key]["label"],
            )
            for key in _shuffled(lines, "record")
        ]
        splits[split] = [record for record in records if fits(record)]
    train = splits["train"]
    return {
        "pool": splits["exemplars"][:N_POOL],
        "test": train[:N_TEST],
        "train": train[N_TEST : N_TEST + N_TRAIN],
        "golden": [],
        "contexts": [],
    }


def _shuffled(names: Iterable[str], what: str) -> list[str]:
    return sorted(names, key=lambda name: (derive_seed(0, what, name), name))


TASKS = {
    "rotten": "a film critic's verdict on the given film in one sentence, as printed in a newspaper",
    "sst2": "one sentence from a film review, in lower case",
    "agnews": "a headline followed by the first sentence of the news article",
}
SOURCES: dict[str, Callable[[Fits], dict[str, list[Record]]]] = {
    "rotten": _rotten,
    "sst2": lambda fits: _shared_set("sst2", fits),
    "agnews": lambda fits: _shared_set("agnews", fits),
}


def make_material(name: str, folder: Path, store: Store, encoder: TextEncoder) -> Material:
    """Choose records, personas and exemplars; what was chosen once is read again from the folder."""
    place = folder / name
    if not (place / "personas.jsonl").is_file():
        place.mkdir(parents=True, exist_ok=True)
        tokens = open_model(LM).encoder  # type: ignore[union-attr]

        def n_tokens(record: Record) -> int:
            return len(tokens.response_ids(record.response))

        splits = SOURCES[name](lambda record: n_tokens(record) <= MAX_TOKENS)
        pool = splits["pool"]
        vectors = embed([r.response for r in pool], encoder, store=store)
        personas = keyword_personas(pool, cluster(vectors, N_PERSONAS, seed=0))
        for part, records in (
            ("exemplars", different(pool, n_tokens, encoder, store)),
            ("train", splits["train"]),
            ("test", splits["test"]),
            ("golden", splits["golden"]),
            ("contexts", splits["contexts"]),
        ):
            save_records(records, place / f"{part}.jsonl")
        save_personas(personas, place / "personas.jsonl")
    found = {
        part: read_records(place / f"{part}.jsonl") if (place / f"{part}.jsonl").stat().st_size else []
        for part in ("exemplars", "train", "test", "golden", "contexts")
    }  # fmt: skip
    return Material(name, TASKS[name], read_personas(place / "personas.jsonl"), **found)


def different(
    pool: Sequence[Record], n_tokens: Callable[[Record], int], encoder: TextEncoder, store: Store
) -> list[Record]:
    """Of the shorter half of the pool, the records nearest to the centres of N_EXEMPLARS clusters."""
    short = sorted(pool, key=lambda r: (n_tokens(r), r.key))[: len(pool) // 2]
    vectors = embed([exemplar_text(r) for r in short], encoder, store=store)
    return [short[rows[0]] for rows in cluster(vectors, N_EXEMPLARS, seed=0).nearest]


def components(n_personas: int, n_exemplars: int) -> list[tuple[int | None, int | None]]:
    """All pairs, the exemplars of one persona side by side."""
    return [(k, j) for k in range(n_personas) for j in range(n_exemplars)]


def n_complete(material: Material, scorer: LanguageModel, store: Store) -> int:
    """How many personas, from the first on, have all their scores in the store."""
    for k, persona in enumerate(material.personas):
        keys = [
            score_key(
                scorer.score_identity,
                ScoreRequest(
                    simulation_prompt(
                        record.context, persona=persona.description, exemplars=(exemplar,), task=material.task
                    ),
                    record.response,
                ),
                store.secret,
            )
            for record in material.records
            for exemplar in material.exemplars
        ]
        if len(store.get_scores(keys)) < len(set(keys)):
            return k
    return len(material.personas)


def fill(material: Material, scorer: LanguageModel, store: Store, most: int = N_PERSONAS) -> None:
    """Score what is missing of the first personas, one after the other."""
    for k in range(n_complete(material, scorer, store), min(most, len(material.personas))):
        began, before = time.monotonic(), store.counts()["score"]
        score_table(
            material.records,
            components(1, len(material.exemplars)),
            Scoring(personas=material.personas[k : k + 1], exemplars=material.exemplars, scorer=scorer, store=store,
                    task=material.task),
        )  # fmt: skip
        n_new, seconds = store.counts()["score"] - before, time.monotonic() - began
        log.info("%s: persona %d of %d, %d cells in %.0f s, %.1f cells/s",
                 material.name, k + 1, len(material.personas), n_new, seconds, n_new / seconds)  # fmt: skip


def read_truth(material: Material, scorer: LanguageModel, store: Store, encoder: TextEncoder) -> Truth | None:
    """The complete part of a table, or None if there are not two complete personas."""
    k = n_complete(material, scorer, store)
    if k < 2:
        return None
    is_complete = k == len(material.personas)
    material = Material(**{**vars(material), "personas": material.personas[:k]})
    table = score_table(
        material.records,
        components(k, len(material.exemplars)),
        Scoring(personas=material.personas, exemplars=material.exemplars, scorer=scorer, store=store,
                task=material.task),
    )  # fmt: skip
    return Truth(
        material=material,
        curves=table.curves,
        n_tokens=table.n_tokens,
        hx=embed([context_text(r) for r in material.records], encoder, store=store),
        hg=embed([p.description for p in material.personas], encoder, store=store),
        he=exemplar_vectors(material.exemplars, encoder, store=store),
        betas=scorer.betas,
        is_complete=is_complete,
    )


def open_scorer() -> LanguageModel:
    """The frozen model in the machine's own dtype, which is part of what scores are stored under."""
    return open_model(LM)  # type: ignore[return-value]


def default_folder() -> Path:
    """Where the tables are kept between runs."""
    return pull.cache_folder() / "bench-fit"


def main() -> None:
    """Make the tables that were asked for."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=TASKS, default=list(TASKS))
    parser.add_argument("--store", type=Path, default=None, help="folder of the tables")
    parser.add_argument("--personas", type=int, default=N_PERSONAS, help="only the first so many")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    folder = arguments.store or default_folder()
    scorer, encoder = open_scorer(), open_encoder(ENCODER)
    for name in arguments.data:
        (folder / name).mkdir(parents=True, exist_ok=True)
        with Store(folder / name / "store.sqlite") as store:
            material = make_material(name, folder, store, encoder)
            fill(material, scorer, store, arguments.personas)


if __name__ == "__main__":
    main()
