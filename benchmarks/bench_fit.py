"""What a fit gains on held-out records, what it costs, and how the paper's recipe does beside it.

Prints a table and writes ``benchmarks/results/fit.json``. The ground truth are tables in which
every record is scored under every component (see `fit_tables`): held-out figures are full sums,
nothing in them is estimated. Test records take part in no choice.

    python benchmarks/bench_fit.py                       # tables (an hour or two each, once), then figures
    python benchmarks/bench_fit.py --no-scoring          # figures from what the store has by now
    python benchmarks/bench_fit.py --only transfer       # the mixture of one model used with another
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fit_tables
from fit_tables import LM, ROOT, Truth
from mop.backends import open_model
from mop.backends.ask import Drawing
from mop.backends.base import as_generator, as_scorer
from mop.backends.curve import weights as curve_weights
from mop.backends.encoder import embed, open_encoder
from mop.config import FitConfig, resolve_config
from mop.evaluate.likelihood import Likelihood, Table, gain_over
from mop.evaluate.samples import Sample, evaluate
from mop.mixture.cells import Problem
from mop.mixture.em import FitResult
from mop.mixture.fit import FEW, fit_rounds
from mop.mixture.fitted import FittedMixture, context_text, uniform_mixture
from mop.mixture.paper import fit_paper
from mop.mixture.score import ScoreTable, Scoring, score_table
from mop.mixture.sums import Floats, log_sum_exp
from mop.simulate.draw import draw_agents
from mop.simulate.write import simulate
from mop.storage.store import Store
from mop.types import Agent, Decoding
from results_file import commit, machine, write_results_file

SEEDS = (0, 1)
"""Of proposals, folds and initial weights; curves are means over these."""
SHARES = (0.005, 0.02, 0.04, 0.08, 0.15)
"""Shares of the table's cells at which ours is fitted."""
CLAIMED_SHARE = 0.15
EPOCHS = (1, 2, 3, 5, 8, 12, 20, 35, 60, 100)
"""Where the paper's recipe is looked at."""
VALID_SHARE = 0.25
"""Of the training records, for the paper's stopping rule; ours cross-validates over all of them."""
TARGETS = {
    "gain_share": (0.95, "≥"),
    "tokens_vs_paper": (5.0, "≥"),
    "gain_uniform": (0.0, ">"),
    "gain_uniform_low": (0.0, ">"),
    "gain_unconditional": (0.0, ">"),
    "transfer_mauve_ratio": (1.0, ">"),
    "transfer_fid_ratio": (1.0, "<"),
}

log = logging.getLogger("bench_fit")


@dataclass
class Claim:
    """One row of the printed table."""

    value: float | None
    unit: str
    against: str
    note: str = ""


@dataclass(frozen=True)
class Point:
    """A fit at some cost."""

    cells: float
    tokens: float
    value: float
    """Mean full-sum log-likelihood of the test records, nats."""
    chosen: str = ""


@dataclass
class CountedScores:
    """Answers requests for scores from a table, and counts what a model would have been asked for."""

    truth: Truth
    asked: NDArray[np.bool_] = field(init=False)

    def __post_init__(self) -> None:
        """Nothing is asked for yet."""
        self.asked = np.zeros(self.truth.curves.shape[:2], dtype=bool)

    def __call__(
        self, record: NDArray[np.int64], persona: NDArray[np.int64], exemplar: NDArray[np.int64]
    ) -> tuple[NDArray[np.float32], int]:
        """Curves (m, G) and the response tokens of these scores."""
        component = persona * len(self.truth.material.exemplars) + exemplar
        self.asked[record, component] = True
        return self.truth.curves[record, component], int(self.truth.n_tokens[record].sum())

    def spent(self, records: slice = slice(None)) -> tuple[int, int]:
        """Cells asked for and response tokens in them, each cell once."""
        per_record = self.asked[records].sum(axis=1)
        return int(per_record.sum()), int(per_record @ self.truth.n_tokens[records])


@dataclass(frozen=True)
class Case:
    """One data set: its table, divided."""

    truth: Truth
    problem: Problem
    test: Table

    @classmethod
    def of(cls, truth: Truth) -> Case:
        """Training and validation records in the table's order, test records apart."""
        n = len(truth.material.train)
        n_train = round(n * (1 - VALID_SHARE))
        own = np.full(len(truth.hx), -1, dtype=np.int64)
        problem = Problem(
            hx=truth.hx[:n], hg=truth.hg, he=truth.he, own=own[:n], weight=np.ones(n),
            n_train=n_train, betas=truth.betas,
        )  # fmt: skip
        n_personas, n_exemplars = len(truth.hg), len(truth.he)
        shape = truth.curves[n:].shape[:2]
        persona, exemplar = np.divmod(np.arange(n_personas * n_exemplars), n_exemplars)
        test = Table(
            persona=np.broadcast_to(persona, shape),
            exemplar=np.broadcast_to(exemplar, shape),
            curves=truth.curves[n:],
            present=np.ones(shape, dtype=bool),
            n_tokens=truth.n_tokens[n:],
            log_proposal=None,
            hx=truth.hx[n:],
            own=own[n:],
            weight=np.ones(len(own) - n),
            betas=truth.betas,
            cluster=np.arange(len(own) - n),
        )
        return cls(truth, problem, test)

    def turns(self) -> list[Case]:
        """The same table with every record in the test part once, as far as the numbers allow; this case first."""
        n, n_test = len(self.truth.hx), len(self.test.hx)
        return [self, *(self._turned(turn * n_test) for turn in range(1, n // n_test))]

    def _turned(self, by: int) -> Case:
        order = np.roll(np.arange(len(self.truth.hx)), by)
        of = self.truth
        return Case.of(replace(of, curves=of.curves[order], n_tokens=of.n_tokens[order], hx=of.hx[order]))

    @property
    def components(self) -> list[tuple[int, int]]:
        """All pairs (persona, exemplar), the columns of the table."""
        return list(zip(self.test.persona[0].tolist(), self.test.exemplar[0].tolist(), strict=True))

    @property
    def n_components(self) -> int:
        """K · N."""
        return int(self.test.persona.shape[1])

    def mixture(self, gate: Any, uniform_tau: float) -> FittedMixture:
        """A gate with the texts that it is about."""
        material = self.truth.material
        return FittedMixture(
            tuple(material.personas), tuple(material.exemplars), gate, material.task,
            {"uniform_tau": uniform_tau, "betas": self.truth.betas},
        )  # fmt: skip

    def value(self, mixture: FittedMixture) -> float:
        """Mean log-likelihood of the test records, nats."""
        return float(self.values(mixture).mean())

    def values(self, mixture: FittedMixture) -> Floats:
        """Log-likelihood of each test record, (1, n) nats; the table is whole."""
        return Likelihood(self.test, mixture, seed=0).values(mixture)

    def fit(self, share: float, seed: int) -> tuple[FitResult, CountedScores]:
        """Our fit with at most a share of the cells."""
        score = CountedScores(self.truth)
        result = fit_rounds(self.problem, score, self.settings_for(share), seed=seed)
        return result, score

    def settings_for(self, share: float) -> FitConfig:
        """Settings of our fit that ask for at most this share of the table's cells (below `FEW` per record: tokens)."""
        most, budget = share * self.n_components, 0
        if most < FEW:  # less than a round of all records: the fit says how many take part
            tokens = self.truth.n_tokens[: len(self.problem.hx)].sum()
            budget = int(most * tokens)
        return settings_for(max(most, FEW), self.n_components, budget)


def settings_for(most: float, n_components: int, budget: int = 0) -> FitConfig:
    """Settings of our fit that ask for so many components of a record at the most, and tokens if not 0."""
    if most >= n_components:
        rounds, each = 1, n_components
    else:
        rounds = 2 if most >= 4 else 1
        each = int(most / rounds)
    return FitConfig(
        n_rounds=rounds,
        components_per_record=each,
        valid_components=each,
        records_per_component=16 if most < n_components else 10**8,
        max_lm_tokens=budget,
    )


# ------------------------------------------------------------------------------------ the figures


def measure(case: Case, seeds: Sequence[int]) -> dict[str, Any]:
    """All figures of one data set, ready for JSON."""
    full = [case.fit(1.0, seed)[0] for seed in seeds]
    uniform = case.value(uniform_mixture(case.mixture(full[0].gate, full[0].uniform_tau)))
    value_full = float(np.mean([case.value(case.mixture(r.gate, r.uniform_tau)) for r in full]))
    best = case.mixture(full[0].gate, full[0].uniform_tau)
    values = case.values(best)
    against_uniform = gain_over(values, case.values(uniform_mixture(best)), case.test)
    unconditional = case.mixture(full[0].unconditional, full[0].uniform_tau)
    against_unconditional = gain_over(values, case.values(unconditional), case.test)
    ours = ours_curve(case, seeds)
    paper = paper_curve(case, seeds)
    claimed = ours[CLAIMED_SHARE]
    turns = [(value_full - uniform, claimed.value - uniform, claimed.cells)]
    turns += [gains_in_turn(turn, seeds) for turn in case.turns()[1:]]
    gain_full, gain_claimed, cells = np.mean(turns, axis=0)
    return {
        "n_records": len(case.truth.hx),
        "n_components": case.n_components,
        "n_test": len(case.test.hx),
        "is_complete": case.truth.is_complete,
        "uniform": uniform,
        "uniform_tau": full[0].uniform_tau,
        "full": value_full,
        "chosen": [r.chosen for r in full],
        "gain_full": gain_full,
        "gain_share": gain_claimed / gain_full,
        "gains_in_turn": [{"all_cells": a, "claimed_share": c} for a, c, _ in turns],
        "claimed_cells": cells / (len(case.problem.hx) * case.n_components),
        "against_uniform": against_uniform,
        "against_unconditional": against_unconditional,
        "ours": [{"share": share, **vars(point)} for share, point in ours.items()],
        "paper": [vars(point) for point in paper],
        "tokens_vs_paper": tokens_ratio(list(ours.values()), paper),
    }


def gains_in_turn(case: Case, seeds: Sequence[int]) -> tuple[float, float, float]:
    """Held-out gain over uniform gates with all cells and with the claimed share, and its cells; means over seeds."""
    full = [case.fit(1.0, seed)[0] for seed in seeds]
    whole = [case.mixture(r.gate, r.uniform_tau) for r in full]
    uniform = case.value(uniform_mixture(whole[0]))
    values, cells = [], []
    for seed in seeds:
        result, score = case.fit(CLAIMED_SHARE, seed)
        values.append(case.value(case.mixture(result.gate, result.uniform_tau)))
        cells.append(score.spent()[0])
    found = np.mean([case.value(m) for m in whole]) - uniform, np.mean(values) - uniform
    log.info("%s: in turn, all cells %+.3f, the claimed share %+.3f", case.truth.material.name, *found)
    return float(found[0]), float(found[1]), float(np.mean(cells))


def ours_curve(case: Case, seeds: Sequence[int]) -> dict[float, Point]:
    """Held-out value of our fit at every share, means over seeds."""
    curve = {}
    for share in SHARES:
        points = []
        for seed in seeds:
            result, score = case.fit(share, seed)
            value = case.value(case.mixture(result.gate, result.uniform_tau))
            points.append(Point(*score.spent(), value, result.chosen))
        curve[share] = _mean(points)
        log.info("%s: ours, %.0f %% of the cells, %.3f nats", case.truth.material.name,
                 100 * share, curve[share].value)  # fmt: skip
    return curve


def paper_curve(case: Case, seeds: Sequence[int]) -> list[Point]:
    """Held-out value of the paper's recipe after so many epochs, means over seeds.

    Only scores of training records are counted: what we spend on validation to stop it at its best
    is no part of the recipe.
    """
    curve = []
    for epochs in EPOCHS:
        points, ended = [], False
        for seed in seeds:
            score = CountedScores(case.truth)
            result = fit_paper(case.problem, score, paper_settings(), seed=seed, n_epochs=epochs)
            value = case.value(case.mixture(result.gate, result.uniform_tau))
            points.append(Point(*score.spent(slice(0, case.problem.n_train)), value))
            ended = len(result.history) < epochs
        curve.append(_mean(points))
        log.info("%s: paper, %d epochs, %.3f nats", case.truth.material.name, epochs, curve[-1].value)
        if ended:
            break
    return curve


def paper_settings() -> FitConfig:
    """The fit section of the preset."""
    return resolve_config(preset="paper").fit


def tokens_ratio(ours: Sequence[Point], paper: Sequence[Point]) -> float | None:
    """Tokens of the paper's recipe at its best value over ours where that is reached for good.

    None if ours never reaches it.
    """
    best = max(paper, key=lambda point: point.value)
    reached = None
    for point in sorted(ours, key=lambda point: -point.tokens):
        if point.value < best.value:
            break
        reached = point
    return None if reached is None else best.tokens / reached.tokens


def _mean(points: Sequence[Point]) -> Point:
    return Point(
        float(np.mean([p.cells for p in points])),
        float(np.mean([p.tokens for p in points])),
        float(np.mean([p.value for p in points])),
        "; ".join(dict.fromkeys(p.chosen for p in points)),
    )


# ------------------------------------------------------------------------------------ another model

TRANSFER_LM = "gemma3-270m"
SHOWN = ("fid", "fid_interval", "mauve", "mauve_interval", "kl_cosine", "mean_words", "empty")
N_RESPONSES, N_LIKELIHOOD, N_COMPONENTS, N_TUNING = 300, 40, 24, 24


def transfer(folder: Path, encoder: Any) -> dict[str, Any]:
    """The mixture fitted with one model on Rotten Tomatoes, used with another, unchanged.

    The other model writes `N_RESPONSES` responses with the mixture, with uniform gates and without
    persona and exemplar, and scores test records. Every draw and score lies in a store of its own.
    """
    with Store(folder / "rotten" / "store.sqlite") as store:
        material = fit_tables.make_material("rotten", folder, store, encoder)
        truth = fit_tables.read_truth(material, fit_tables.open_scorer(), store, encoder)
    if truth is None:
        raise SystemExit("no persona of the table rotten is complete yet; run without --only first")
    case = Case.of(truth)
    result, _ = case.fit(1.0, 0)
    fitted = case.mixture(result.gate.requires_grad_(False), result.uniform_tau)
    other = open_model(TRANSFER_LM)
    contexts = [*material.test, *material.contexts][:N_RESPONSES]
    methods = {"mop": fitted, "mop-uniform": uniform_mixture(fitted)}
    with Store(folder / "transfer.sqlite") as store:
        hx = embed([context_text(r) for r in contexts], encoder, store=store)
        agents: dict[str, Any] = {
            name: [a for (a,) in draw_agents(mixture, hx, contexts, seed=0)] for name, mixture in methods.items()
        }
        agents["zero-shot"] = [Agent(None, (), 1.0)] * len(contexts)
        drawing = Drawing(
            generator=as_generator(other), store=store, seed=0, decoding=Decoding(max_tokens=60), task=fitted.task,
            progress=_shown,
        )  # fmt: skip
        texts = {}
        for name, drawn in agents.items():
            responses = simulate(contexts, drawn, fitted.personas, fitted.exemplars, drawing, method=name)
            texts[name] = [response.response for response in responses]
        judged = evaluate(
            {name: Sample(of) for name, of in texts.items()},
            Sample([r.response for r in material.golden]),
            Sample([r.response for r in contexts]),
            embed=partial(embed, encoder=encoder, store=store), n_seeds=5, n_bootstrap=100, seed=0,
        )  # fmt: skip
        likelihood = transfer_likelihood(case, fitted, as_scorer(other), store)
    return {
        "lm": TRANSFER_LM,
        "is_complete": truth.is_complete,
        "methods": {
            name: {key: scores[key] for key in SHOWN}
            for name, scores in judged.methods.items()
        },
        "n": judged.n,
        "held_out": likelihood,
    }  # fmt: skip


def transfer_likelihood(case: Case, fitted: FittedMixture, scorer: Any, store: Store) -> dict[str, Any]:
    """Held-out log-likelihood with the other model: the mixture, uniform gates, no persona and exemplar.

    Nats per record of the other model's own tokens. Temperatures of the references are the best on
    `N_TUNING` training records; the mixture is used unchanged, and with one factor on all its
    temperatures that is best on the same records.
    """
    material = case.truth.material
    n_train = len(material.train)
    chosen = np.linspace(0, len(case.components) - 1, N_COMPONENTS).round().astype(int)
    components = [case.components[c] for c in chosen]
    tables = {}
    for name, records, hx in (
        ("tune", material.train[:N_TUNING], case.truth.hx[:N_TUNING]),
        ("test", material.test[:N_LIKELIHOOD], case.truth.hx[n_train : n_train + N_LIKELIHOOD]),
    ):
        scored = score_table(
            records, [*components, (None, None)],
            Scoring(personas=material.personas, exemplars=material.exemplars, scorer=scorer, store=store,
                    task=material.task, progress=_shown),
        )  # fmt: skip
        tables[name] = (scored, hx)
    found: dict[str, Any] = {}
    for name, mixture in (("mop", fitted), ("mop-uniform", uniform_mixture(fitted))):
        found[name] = {}
        factors = np.exp(np.linspace(-0.5, 0.7, 49))
        tuned = max(factors, key=lambda f: _part(mixture, components, *tables["tune"], f).mean())
        for kind, factor in (("unchanged", 1.0), ("one factor on all temperatures", float(tuned))):
            value = _part(mixture, components, *tables["test"], factor)
            found[name][kind] = {"value": float(value.mean()), "factor": factor}
            found[name][kind]["per_record"] = value.round(4).tolist()
    none = {name: scored.curves[:, -1].astype(np.float64) for name, (scored, _) in tables.items()}
    taus = np.exp(np.linspace(-0.7, 1.0, 69))
    tau = max(taus, key=lambda t: (none["tune"] @ curve_weights(1 / t, case.truth.betas)).mean())
    for kind, at in (("τ = 1", 1.0), ("best τ", float(tau))):
        value = none["test"] @ curve_weights(1 / at, case.truth.betas)
        found.setdefault("zero-shot", {})[kind] = {"value": float(value.mean()), "factor": at}
        found["zero-shot"][kind]["per_record"] = value.round(4).tolist()
    return found


def _part(
    mixture: FittedMixture,
    components: Sequence[tuple[int, int]],
    scored: ScoreTable,
    hx: NDArray[np.float32],
    factor: float,
) -> NDArray[np.float64]:
    """Log-likelihood (n,) of the mixture restricted to some components, its weights renormalised."""
    betas = mixture.info["betas"]
    taus = np.clip(mixture.temperatures * factor, 1 / betas[-1], 1 / betas[0])
    nodes = np.stack([curve_weights(1 / taus[k], betas) for k, _ in components])
    log_lik = np.einsum("ncg,cg->nc", scored.curves[:, : len(components)].astype(np.float64), nodes)
    persona, exemplar = (np.broadcast_to(rows, (len(hx), len(components))) for rows in zip(*components, strict=True))
    log_w = mixture.log_weight(hx, persona, exemplar, np.full(len(hx), -1, dtype=np.int64))
    return log_sum_exp(log_w + log_lik) - log_sum_exp(log_w)


def _shown(what: str, done: int, total: int) -> None:
    log.info("%s %d of %d", what, done, total)


# ------------------------------------------------------------------------------------ the results


def claims_of(name: str, found: dict[str, Any]) -> dict[str, Claim]:
    """The claims about one data set."""
    size = f"{found['n_records']} records x {found['n_components']} components"
    low, high = found["against_uniform"]["gain_interval"]
    other = found["against_unconditional"]
    reached = found["tokens_vs_paper"]
    share, all_cells = found["claimed_cells"], found["gain_full"]
    claims = {
        "gain_share": Claim(found["gain_share"], "ratio", "the same model fitted on all cells",
            f"{share:.1%} of the cells of {size}; all cells gain {all_cells:+.3f} nats"),
        "tokens_vs_paper": Claim(reached, "ratio", "the paper preset at its best value",
            "never reached" if reached is None else "response tokens scored"),
        "gain_uniform": Claim(found["against_uniform"]["gain"], "nats per record",
            "uniform gates at their best single temperature", f"{low:+.3f} to {high:+.3f}"),
        "gain_uniform_low": Claim(low, "nats per record", "lower end of the 95 % interval"),
        "gain_unconditional": Claim(other["gain"], "nats per record",
            "weights that ignore the context",
            "{:+.3f} to {:+.3f}".format(*other["gain_interval"])),
    }  # fmt: skip
    if not found["is_complete"]:
        for claim in claims.values():
            claim.note = f"partial table; {claim.note}".removesuffix("; ")
    return {f"{key}_{name}": claim for key, claim in claims.items()}


def transfer_claims(found: dict[str, Any]) -> dict[str, Claim]:
    """The claims about the other model."""
    mop, zero = found["methods"]["mop"], found["methods"]["zero-shot"]
    against = f"{found['lm']} zero-shot at τ = 1"
    return {
        "transfer_mauve_ratio": Claim(mop["mauve"] / zero["mauve"], "ratio", against,
            f"{mop['mauve']:.3f} against {zero['mauve']:.3f}, n = {found['n']}"),
        "transfer_fid_ratio": Claim(mop["fid"] / zero["fid"], "ratio", against,
            f"{mop['fid']:.3f} against {zero['fid']:.3f}"),
    }  # fmt: skip


def main() -> None:
    """Make tables, measure what was asked for, print the claims, write the results."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", nargs="+", choices=fit_tables.TASKS, default=list(fit_tables.TASKS))
    parser.add_argument("--store", type=Path, default=None, help="folder of the tables")
    parser.add_argument("--no-scoring", action="store_true", help="use what the store has by now")
    parser.add_argument("--only", choices=("tables", "fit", "transfer"), default=None)
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fit.json")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    begin = time.monotonic()
    folder = arguments.store or fit_tables.default_folder()
    encoder = open_encoder(fit_tables.ENCODER)
    claims: dict[str, Claim] = {}
    details: dict[str, Any] = {}
    for name in arguments.data if arguments.only != "transfer" else ():
        if name != "rotten" and fit_tables.shared() is None:
            log.warning("%s is skipped: no folder shared/data beside %s, and MOP_SHARED names none", name, ROOT)
            continue
        truth = _table(name, folder, encoder, is_scored=not arguments.no_scoring)
        if truth is None:
            log.warning("%s is left out: fewer than two personas of its table are complete", name)
        elif arguments.only != "tables":
            details[name] = measure(Case.of(truth), arguments.seeds)
            claims |= claims_of(name, details[name])
    if arguments.only in (None, "transfer"):
        details["transfer"] = transfer(folder, encoder)
        claims |= transfer_claims(details["transfer"])
    if claims:
        print_table(claims)
        write_results(arguments.out, claims, details, time.monotonic() - begin)


def _table(name: str, folder: Path, encoder: Any, *, is_scored: bool) -> Truth | None:
    (folder / name).mkdir(parents=True, exist_ok=True)
    scorer = fit_tables.open_scorer()
    with Store(folder / name / "store.sqlite") as store:
        material = fit_tables.make_material(name, folder, store, encoder)
        if is_scored:
            fit_tables.fill(material, scorer, store)
        return fit_tables.read_truth(material, scorer, store, encoder)


def print_table(claims: dict[str, Claim]) -> None:
    """The claims as a Markdown table on stdout."""
    print("| ID | value | aim | unit | against | note |\n| --- | --- | --- | --- | --- | --- |")
    for name, claim in claims.items():
        aim, sign = TARGETS[name if name in TARGETS else name.rpartition("_")[0]]
        value = "none" if claim.value is None else f"{claim.value:.3f}"
        print(f"| `{name}` | {value} | {sign} {aim:g} | {claim.unit} | {claim.against} | {claim.note} |")


def write_results(path: Path, claims: dict[str, Claim], details: dict[str, Any], seconds: float) -> None:
    """Claims and details as JSON; what an earlier run found about other data sets is kept, and where it was found."""
    before = json.loads(path.read_text()) if path.is_file() else {}
    earlier = {"commit": before.get("commit"), "machine": before.get("machine")}
    kept = {name: {"made": earlier, **found} for name, found in before.get("details", {}).items()}
    made = {"commit": commit(), "machine": machine()}
    write_results_file(
        path,
        {**before.get("claims", {}), **{name: vars(claim) for name, claim in claims.items()}},
        seconds,
        details={**kept, **{name: {**found, "made": made} for name, found in details.items()}},
        lm=LM,
    )


if __name__ == "__main__":
    main()
