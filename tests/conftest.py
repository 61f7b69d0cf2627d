"""Fixtures that many tests share: film reviews in miniature, the fake model, a mixture fitted with it."""

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mop.types import Record

GOOD = ["great fun", "a joy", "so good", "good and warm", "great cast", "a great joy", "warm fun", "good fun"]
BAD = ["so dull", "a bore", "bad jokes", "dull and slow", "a bad bore", "slow plot", "bad cast", "so slow"]


@pytest.fixture(scope="session", autouse=True)
def _ctrl_c_is_heard() -> Iterator[None]:
    """A shell that starts the tests in the background lets them ignore Ctrl-C, which some of them send."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def reviews(n: int) -> list[Record]:
    """n distinct records, half of them good."""
    rows = []
    for i in range(n):
        label, words = ("good", GOOD) if i % 2 == 0 else ("bad", BAD)
        text = f"{words[(i // 2) % 8]}{'!' * (i // 16)}"
        rows.append(
            Record(key=f"r{i}", context=f"Verdict: {label}.", response=text, label=label, group=f"film{i % 12}")
        )
    return rows


def ingredients(lm: Any, *assignments: str, **more: Any) -> Any:
    """What a rival is made from: the quick settings with some changed, a store in memory, no mixture."""
    from mop.backends.encoder import FakeEncoder
    from mop.config import resolve_config
    from mop.rivals.ingredients import Ingredients
    from mop.storage.store import Store

    config = resolve_config(preset="quick", assignments=assignments)
    given = {"exemplars": (), "mixture": None, "encoder": FakeEncoder(), "store": Store(":memory:"), "seed": 0}
    return Ingredients(config=config, lm=lm, **{**given, **more})


@dataclass
class SmallRun:
    """A mixture fitted on the fake model, and records that it has not seen."""

    fitted: Any
    lm: Any
    encoder: Any
    store: Any
    held_out: list[Record]
    hx: np.ndarray


@pytest.fixture(scope="session")
def small_run():
    from mop.backends.encoder import FakeEncoder, embed
    from mop.backends.fake import FakeModel
    from mop.config import FitConfig
    from mop.mixture.fit import fit_mixture
    from mop.personas.cluster import cluster
    from mop.personas.keywords import keyword_personas
    from mop.storage.store import Store

    records = reviews(64)
    exemplars, train, valid, held_out = records[:10], records[:32], records[32:48], records[48:]
    lm, encoder, store = FakeModel(), FakeEncoder(), Store(":memory:")
    clustering = cluster(embed([r.response for r in exemplars], encoder), 3, seed=0)
    fitted = fit_mixture(
        keyword_personas(exemplars, clustering), exemplars, train, valid,
        encoder=encoder, scorer=lm, store=store, task="a film review", seed=0,
        settings=FitConfig(components_per_record=10, records_per_component=8, valid_components=15),
    )  # fmt: skip
    hx = embed([r.context for r in held_out], encoder)
    return SmallRun(fitted, lm, encoder, store, held_out, hx)


def quick_run(folder: Path, until: str) -> tuple[Any, Path]:
    """Settings and folder of a run of the quick preset on 160 reviews, brought up to a stage."""
    from mop.config import resolve_config
    from mop.pipeline import run

    source = folder / "reviews.jsonl"
    rows = [{"context": r.context, "response": r.response} for r in reviews(160)]
    source.write_text("\n".join(map(json.dumps, rows)))
    config = resolve_config(preset="quick", assignments=[f'data.source="{source}"'])
    run(config, folder / "run", until=until)
    return config, folder / "run"


def sum_over_components(run: SmallRun) -> list[float]:
    """log p(y|x) by two nested loops, each score asked of the fake model by itself at τ_k."""
    from mop.backends.curve import weights
    from mop.prompts import simulation_prompt
    from mop.types import ScoreRequest

    fitted, result = run.fitted, []
    for record, hx in zip(run.held_out, run.hx, strict=True):
        log_pi = fitted.log_pi(hx[None])[0]
        total = 0.0
        for k, persona in enumerate(fitted.personas):
            log_omega = fitted.log_omega(hx[None], np.array([k]), fitted.own([record]))[0]
            for j, exemplar in enumerate(fitted.exemplars):
                prompt = simulation_prompt(
                    record.context, persona=persona.description, exemplars=[exemplar], task=fitted.task
                )
                ((_, score),) = next(iter(run.lm.score([ScoreRequest(prompt, record.response)])))
                log_lik = score.log_lik @ weights(1 / fitted.temperatures[k], run.lm.betas)
                total += float(np.exp(log_pi[k] + log_omega[j] + log_lik))
        result.append(float(np.log(total)))
    return result
