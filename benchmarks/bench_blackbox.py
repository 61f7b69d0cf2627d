"""Persona weights without likelihoods against persona weights by likelihood, where the truth is known.

A population is planted: known weights, responses written by the model itself, each under one
persona with an exemplar of that persona's own. The weights are then found twice from the responses:
by matching embeddings (`mop.simulate.refit`, which asks the model for samples only) and by likelihood (EM on
the scores of all responses under all personas). Equal weights are the third row. The measure is the
total-variation distance to the truth, half the sum of absolute differences: 0 is perfect.

    python benchmarks/bench_blackbox.py                    # both models; the second takes minutes
    python benchmarks/bench_blackbox.py --models fake      # seconds

Prints a table and writes ``benchmarks/results/blackbox.json``. Draws, scores and embeddings are kept
in ``bench/blackbox.sqlite`` of the cache folder, so that an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mop.backends import open_model
from mop.backends.ask import Drawing
from mop.backends.base import as_generator, as_scorer
from mop.backends.curve import weights as curve_weights
from mop.backends.encoder import embed, open_encoder
from mop.backends.fake import FakeModel
from mop.config import resolve_config
from mop.data import pull
from mop.data.records import read_records
from mop.mixture.fitted import FittedMixture, context_text, with_persona_weights
from mop.mixture.gate import Gate
from mop.mixture.score import Scoring, score_table
from mop.mixture.sums import unconditional_weights
from mop.personas.files import read_personas
from mop.pipeline import run
from mop.randomness import rng_of
from mop.simulate.draw import draw_agents
from mop.simulate.refit import refit_black_box
from mop.simulate.write import simulate
from mop.storage.store import Store
from mop.types import Decoding, Persona, Record
from results_file import write_results_file

ROOT = Path(__file__).resolve().parent.parent
N_PERSONAS = 12


class LetterEncoder:
    """Which letters a text is made of: all there is to see in a text of the fake model."""

    letters = "abcdefghijklmnopqrstuvwxyz .,'!?-#"
    identity = "letters/1"
    n_dims = len(letters)

    def encode(self, texts: Sequence[str]) -> Any:
        """Return letter counts at unit length, shape (n, D)."""
        counts = np.array([[1e-3 + text.count(one) for one in self.letters] for text in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


@dataclass(frozen=True)
class Setting:
    """One model with what it is tried on."""

    name: str
    model: Any
    encoder: Any
    personas: tuple[Persona, ...]
    exemplars: tuple[Record, ...]
    """One of each persona."""
    contexts: list[Record]
    task: str
    decoding: Decoding


def fake_setting(arguments: argparse.Namespace) -> Setting:
    """Twelve personas that like two letters each; neighbours share one."""
    letters = "abcdefghijklm"
    personas = tuple(Persona(key=f"p{k}", description=(letters[k] * 2 + letters[k + 1]) * 6) for k in range(N_PERSONAS))
    exemplars = tuple(Record(key=f"e{k}", context="x", response=letters[k] * 4) for k in range(N_PERSONAS))
    contexts = [Record(key=f"c{i}", context="nopqrstuvw"[i % 10], response="") for i in range(arguments.targets)]
    decoding = Decoding(max_tokens=40, min_tokens=1)
    return Setting("fake", FakeModel(), LetterEncoder(), personas, exemplars, contexts, "letters", decoding)


def smollm2_setting(arguments: argparse.Namespace) -> Setting:
    """The demo's records and personas; each persona with the first record that it was written from."""
    path = pull.cache_folder() / "bench" / "blackbox-run"
    config = resolve_config(preset="demo")
    run(config, path, until="personas")
    personas = tuple(read_personas(path / "personas.jsonl"))
    pool = {r.key: r for r in read_records(path / "records" / "exemplars.jsonl")}
    exemplars = tuple(pool[persona.sources[0]] for persona in personas)
    contexts = [replace(record, response="") for record in read_records(path / "records" / "golden.jsonl")][
        : arguments.targets
    ]
    return Setting(
        "smollm2-135m", open_model("smollm2-135m"), open_encoder("minilm"), personas, exemplars,
        contexts, config.data.task, Decoding(max_tokens=60, min_tokens=1),
    )  # fmt: skip


def mixture(setting: Setting) -> FittedMixture:
    """A mixture in which persona k always shows exemplar k, at temperature 1."""
    n = len(setting.personas)
    # Persona k and exemplar k have the same direction, and no context has a say: the logit of
    # their pair is 60, that of all others 0.
    axes = torch.eye(n, setting.encoder.n_dims, dtype=torch.float64)
    gate = Gate(axes, axes, dim=n, seed=0)
    with torch.no_grad():
        gate.w_x.zero_()
        gate.w_g.copy_(axes * 60**0.5)
        gate.w_e.copy_(axes * 60**0.5)
    gate.requires_grad_(False)
    info = {"encoder_identity": setting.encoder.identity, "uniform_tau": 1.0}
    return FittedMixture(setting.personas, setting.exemplars, gate, setting.task, info)


def planted_weights(n: int, seed: int) -> Any:
    """Weights in the proportions 1, 1/2, 1/3, ... in random order, shape (n,)."""
    shares = 1.0 / np.arange(1, n + 1)
    return rng_of(seed, "planted").permutation(shares / shares.sum())


def drawing_of(setting: Setting, seed: int, store: Store) -> Drawing:
    """How texts are drawn."""
    model = as_generator(setting.model)
    return Drawing(generator=model, store=store, seed=seed, decoding=setting.decoding, task=setting.task, progress=_say)


def planted_population(setting: Setting, base: FittedMixture, truth: Any, seed: int, store: Store) -> list[Record]:
    """Responses of the model itself, each under a persona drawn with the true weights."""
    hx = embed([context_text(r) for r in setting.contexts], setting.encoder, store=store)
    drawn = draw_agents(with_persona_weights(base, truth), hx, setting.contexts, seed=seed)
    drawing = drawing_of(setting, seed, store)
    written = simulate(setting.contexts, drawn, base.personas, base.exemplars, drawing, method="planted")
    return [
        replace(context, response=one.response)
        for context, one in zip(setting.contexts, written, strict=True)
        if one.response.strip()
    ]


def by_likelihood(setting: Setting, population: list[Record], store: Store) -> tuple[Any, float]:
    """EM weights, shape (K,), and the certificate: nats per record that no other weights can add."""
    pairs = [(k, k) for k in range(len(setting.personas))]
    scorer = as_scorer(setting.model)
    table = score_table(
        population, pairs,
        Scoring(personas=setting.personas, exemplars=setting.exemplars, scorer=scorer, store=store, task=setting.task,
                progress=_say),
    )  # fmt: skip
    log_lik = table.curves.astype(np.float64) @ curve_weights(1.0, scorer.betas)
    found = unconditional_weights(log_lik)
    return np.exp(found.log_weight), found.slack


def trial(setting: Setting, arguments: argparse.Namespace, seed: int, store: Store) -> dict[str, Any]:
    """Plant, find twice, measure."""
    truth = planted_weights(len(setting.personas), seed)
    base = mixture(setting)
    population = planted_population(setting, base, truth, seed, store)
    likely, slack = by_likelihood(setting, population, store)
    matched = refit_black_box(
        base,
        population,
        drawing_of(setting, seed, store),
        encoder=setting.encoder,
        samples_per_persona=arguments.samples,
    ).info["persona_weights"]
    found = np.array(matched["weights"])
    return {
        "seed": seed,
        "n_targets": len(population),
        "truth": np.round(truth, 4).tolist(),
        "black_box": np.round(found, 4).tolist(),
        "likelihood": np.round(likely, 4).tolist(),
        "tv_black_box": _distance(found, truth),
        "tv_likelihood": _distance(likely, truth),
        "tv_uniform": _distance(np.full(len(truth), 1 / len(truth)), truth),
        "rank_correlation": _rank_correlation(found, likely),
        "certificate_nats": slack,
        "mmd2": matched["mmd2"],
        "mmd2_uniform": matched["mmd2_uniform"],
    }


def _distance(a: Any, b: Any) -> float:
    """Total variation."""
    return float(0.5 * np.abs(a - b).sum())


def _rank_correlation(a: Any, b: Any) -> float:
    """Spearman's, between the two sets of weights."""
    from scipy.stats import spearmanr

    return float(spearmanr(a, b).statistic)


def _say(what: str, done: int, total: int) -> None:
    if done % 64 == 0 or done == total:
        print(f"    {what}: {done} of {total}", file=sys.stderr, flush=True)


def main() -> None:
    """Run what was asked for, print the table, write the results; other models' results are kept."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--models", nargs="+", choices=["fake", "smollm2"], default=["fake", "smollm2"])
    parser.add_argument("--samples", type=int, default=20, help="draws per persona")
    parser.add_argument("--targets", type=int, default=300, help="responses of the population")
    parser.add_argument("--seeds", type=int, default=10, help="populations planted with the fake model")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/blackbox.json")
    arguments = parser.parse_args()
    begin = time.monotonic()
    claims: dict[str, Any] = {}
    if arguments.out.is_file():
        claims = json.loads(arguments.out.read_text())["claims"]
    place = pull.cache_folder() / "bench" / "blackbox.sqlite"
    place.parent.mkdir(parents=True, exist_ok=True)
    print("| model | populations | matched embeddings | likelihood | equal weights | correlation |")
    print("| --- | --- | --- | --- | --- | --- |", flush=True)
    with Store(place) as store:
        for name in arguments.models:
            setting = {"fake": fake_setting, "smollm2": smollm2_setting}[name](arguments)
            n_seeds = arguments.seeds if name == "fake" else 1
            trials = [trial(setting, arguments, seed, store) for seed in range(n_seeds)]
            means = {
                key: statistics.mean(one[key] for one in trials)
                for key in ("tv_black_box", "tv_likelihood", "tv_uniform", "rank_correlation")
            }
            note = (
                f"{n_seeds} planted populations of {N_PERSONAS} personas, {arguments.targets} "
                f"responses each, {arguments.samples} samples per persona; likelihood "
                f"{means['tv_likelihood']:.3f}, equal weights {means['tv_uniform']:.3f}"
            )
            print(
                f"| {setting.name} | {n_seeds} | {means['tv_black_box']:.3f} | "
                f"{means['tv_likelihood']:.3f} | {means['tv_uniform']:.3f} | "
                f"{means['rank_correlation']:.2f} |",
                flush=True,
            )
            claims[f"blackbox_weights_{name}"] = {
                "value": means["tv_black_box"],
                "unit": "total-variation distance to the truth",
                "against": f"weights by likelihood, {setting.name}",
                "note": note,
                "trials": trials,
            }
    write_results_file(arguments.out, claims, time.monotonic() - begin)


if __name__ == "__main__":
    main()
