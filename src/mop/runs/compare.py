"""All methods on one data set under equal conditions, to one table: `mop compare`.

Records, personas and fit are those of a run folder. Then each *arm* (a method, or a changed version
of MoP, at one seed) draws its responses, all are judged together, and a table and a page are
written. What is done is kept: the same command goes on where it was.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from mop.backends.encoder import TextEncoder, embed, open_encoder
from mop.backends.remote import RemoteGenerator
from mop.config import MIN_TEXTS, CompareConfig, RunConfig, config_to_dict, method_and_tau
from mop.errors import ConfigError, DataError
from mop.evaluate.downstream import Labelled, check_classifier, downstream_f1
from mop.evaluate.map import text_map
from mop.evaluate.samples import FLOOR, Evaluation, evaluate
from mop.evaluate.sense import JUDGED
from mop.mixture.fitted import FittedMixture, load_mixture
from mop.own_parts import stamp_of
from mop.prompts import PROMPT_VERSION
from mop.randomness import derive_seed
from mop.report.plots import save_figures
from mop.report.table import BEST_IS_CLEAR, Rows, compared_on, comparison_page, latex_table, markdown_table
from mop.report.verdicts import closed_sentences
from mop.rivals.attributes import ATTRIBUTES
from mop.rivals.methods import (
    METHODS_VERSION,
    needs_mixture,
    needs_preparation,
    prepare,
    respond,
)
from mop.rivals.picle_lora import check_lora
from mop.rivals.progen import check_labels
from mop.rivals.zerogen import find_domain
from mop.runs.ablations import KEEPS_PERSONAS, ablated, changes_nothing, draw_ablation, variant_settings
from mop.runs.comparison import arms_by_method, best_rivals, differences, over_seeds, verdicts
from mop.runs.stages import (
    bring_up,
    bring_up_to_the_fit,
    drawn_with,
    ingredients_of,
    judged,
    method_samples,
    other_real_texts,
    real_sample,
)
from mop.runs.tune import TO_THE_DRAWS
from mop.runs.work import STAGE_VERSIONS, Models, Work, open_work
from mop.simulate.rows import read_responses, write_responses
from mop.simulate.write import cut_notes, is_drawn
from mop.storage.files import hash_of, read_json, write_atomic, write_json
from mop.storage.run_folder import RunFolder
from mop.storage.store import Cost, Tally
from mop.types import FloatArray, Progress, Record, Response

logger = logging.getLogger(__name__)

SEES_REAL = ("mop", "mop-uniform", "few-shot", "few-shot-3", "persona-only", "picle", "picle-prompted")
"""Methods that see real texts (the exemplars); the others see none."""
QUICK_SEEDS, QUICK_SUBSAMPLES = 2, 2
"""k-means seeds and subsamples of the first look, which only chooses the best rivals."""
JUDGE_VERSION = 6
"""Raised when a judgement of the same responses would be another one."""
MAP_TEXTS = 200
"""Texts of each method on the map."""
NOTHING = Cost(0, 0)


@dataclass(frozen=True)
class Arm:
    """One set of responses: a method, or a version of MoP, at one seed."""

    name: str
    """Of file, rows and costs: the method, and ``-s2`` and so on for further seeds."""
    method: str
    seed: int
    """Of the draws."""
    n: int
    """Responses."""


# ------------------------------------------------------------------------------------------ the stage


def compare(
    config: RunConfig, path: Path, *, progress: Progress | None = None, models: Models | None = None
) -> dict[str, Any]:
    """Draw, judge and tabulate all methods that ``config.compare`` names, in ``compare/`` of a run folder.

    Parameters are those of `mop.pipeline.run`.

    Returns
    -------
    dict
        What ``comparison.json`` holds (see ``docs/baselines.md``), and ``run``.

    Raises
    ------
    ConfigError
        For an unknown ablation, or one that the model that writes cannot do.
    MopError
        Whatever stops a method, too many failed draws among it; what is drawn stays drawn.
    """
    for ablation in config.compare.ablations:
        ablated(config, ablation)
    with _open_bench(config, path, progress=progress, models=models) as bench:
        arms = [bench.arm(method, s) for method in bench.methods for s in range(config.compare.n_seeds)]
        bench.draw(arms)
        if config.compare.n_seeds_best > config.compare.n_seeds:
            _draw_further(bench, arms, "first", is_quick=True)
            found = _draw_further(bench, arms, "methods")
        else:
            found = bench.judge("methods", arms)
        cut = [bench.ablation_arm(name) for name in config.compare.ablations]
        bench.draw(cut)
        ablations = bench.judge("ablations", cut) if cut else None
        return bench.write(found, ablations)


def pieces(config: RunConfig) -> list[str]:
    """Names of what `compare` draws: first ``fit``, then each arm, then each ablation.

    Further seeds of the best rivals come on top; which they are is known only after the first table.
    """
    settings = config.compare
    methods = list(dict.fromkeys([*settings.methods, "mop"]))
    arms = [_arm_name(method, s) for method in methods for s in range(settings.n_seeds)]
    return ["fit", *arms, *(f"mop.{name}" for name in settings.ablations)]


def draw_piece(
    config: RunConfig, path: Path, piece: str, *, progress: Progress | None = None, models: Models | None = None
) -> None:
    """Do one of `pieces` and no more: for long comparisons that are run a part at a time.

    Raises
    ------
    ConfigError
        For an unknown piece.
    """
    if piece not in pieces(config):
        raise ConfigError(f"unknown piece {piece!r}; known: {', '.join(pieces(config))}")
    if piece == "fit":
        models = models or Models(config)
        with open_work(config, path, models, until="tune", progress=progress) as work:
            models.will_draw = True
            bring_up(work, "tune", TO_THE_DRAWS)
        return
    with _open_bench(config, path, progress=progress, models=models) as bench:
        arms = [bench.arm(m, s) for m in bench.methods for s in range(config.compare.n_seeds)]
        arms += [bench.ablation_arm(name) for name in config.compare.ablations]
        bench.draw([arm for arm in arms if arm.name == piece])


@contextmanager
def _open_bench(config: RunConfig, path: Path, *, progress: Progress | None, models: Models | None) -> Iterator[_Bench]:
    """Bring the run up to its fit and open what the arms share."""
    models = models or Models(config)
    mixing = [name for name in config.compare.ablations if name.startswith("tokens-")]
    if mixing and isinstance(models.generator, RemoteGenerator):
        raise ConfigError(
            f"the ablation {mixing[0]} averages next-token distributions, which a server does not "
            f"give, got {config.model.lm}; leave it out, or use a local model"
        )
    if "picle" in {method_and_tau(method)[0] for method in config.compare.methods}:
        check_lora(config.model.lm)
    check_classifier(config.compare.classifier)
    for name in config.compare.encoders:
        open_encoder(name, device=config.model.torch_device, dtype=config.compare.encoder_dtype)
    also = ("lm", "judge")
    with open_work(config, path, models, until="tune", also=also, progress=progress) as work:
        bring_up(work, "records")
        place = work.folder.path / "compare"
        bench = _Bench(work, place)
        bench.check()
        models.will_draw = True
        bring_up(work, "tune", TO_THE_DRAWS)
        bench.config = drawn_with(work)
        (place / "responses").mkdir(parents=True, exist_ok=True)
        yield bench


def _prepared(method: str) -> str:
    """Under which name the scores and the time before a method's draws are kept."""
    return f"prepare/{method_and_tau(method)[0]}"


def _arm_name(method: str, s: int) -> str:
    return method if s == 0 else f"{method}-s{s + 1}"


def _draw_further(bench: _Bench, arms: list[Arm], table: str, *, is_quick: bool = False) -> dict[str, Any]:
    """Draw further seeds of MoP and of the rival that is best on each figure, until no other one is.

    Returns
    -------
    dict
        What `_Bench.judge` found of all arms in the end.
    """
    settings = bench.config.compare
    for attempt in count(1):
        # Looks are kept apart, so that the command again has all of them.
        name = f"{table}-{attempt}" if is_quick or attempt > 1 else table
        found = bench.judge(name, arms, is_quick=is_quick)
        means = bench.means(found)
        names = ["mop", *dict.fromkeys(best_rivals(means, bench.methods).values())]
        seeds = range(settings.n_seeds, settings.n_seeds_best)
        further = [bench.arm(method, s) for method in names for s in seeds]
        new = [arm for arm in further if arm not in arms]
        if not new:
            return found
        bench.draw(new)
        arms += new
    raise AssertionError  # the rivals are finite


def refuse_few_texts(responses: Mapping[str, Sequence[Response]]) -> None:
    """Stop before anything is judged if a method has too few texts to be compared; what was drawn is kept.

    Raises
    ------
    DataError
        Naming the method.
    """
    for name, rows in responses.items():
        found = sum(bool(row.response.strip()) for row in rows)
        if found < MIN_TEXTS:
            raise DataError(
                f"{name} has {found} texts of {len(rows)} that are not empty; {MIN_TEXTS} are the least to compare; "
                "leave it out of compare.methods, or lower compare.min_words; what was drawn is kept"
            )


# ------------------------------------------------------------------------------------------ the pieces


def balanced(records: Sequence[Record], n: int) -> list[Record]:
    """Choose n contexts with equal shares of the labels (to within one), the first ones of each.

    A label with too few is repeated, with numbered keys; a smaller choice is part of a
    larger one as long as nothing repeats.

    Examples
    --------
    >>> rows = [Record(key=k, context="", response="", label=l) for k, l in zip("abcd", "xxxy")]
    >>> [record.key for record in balanced(rows, 4)]
    ['a', 'b', 'd', 'd#2']
    """
    groups: dict[str | None, list[int]] = {}
    for row, record in enumerate(records):
        groups.setdefault(record.label, []).append(row)
    order = sorted(groups, key=str)
    chosen: list[tuple[int, int]] = []
    for place, label in enumerate(order):
        share = n // len(order) + (place < n % len(order))
        rows = groups[label]
        chosen += [(i // len(rows), rows[i % len(rows)]) for i in range(share)]
    return [
        records[row] if again == 0 else replace(records[row], key=f"{records[row].key}#{again + 1}")
        for again, row in sorted(chosen)
    ]


class _Bench:
    """What the steps of one comparison share."""

    def __init__(self, work: Work, place: Path) -> None:
        self.work = work
        self.place = place
        self.config = work.config
        self._within = 0.0
        self.methods = list(dict.fromkeys([*work.config.compare.methods, "mop"]))
        self.notes: list[str] = []
        settings = work.config.compare
        everyone = work.records("test")
        tests = [record for record in everyone if record.label is not None] or everyone
        self.has_labels = tests[0].label is not None
        if len(tests) < len(everyone):
            self.notes.append(
                f"{len(everyone) - len(tests)} of {len(everyone)} test records have no label and are no contexts."
            )
        if not self.has_labels and settings.methods == CompareConfig().methods:
            self.methods.remove("progen")
            self.notes.append("progen was left out: its classifier needs labels, and no context has one.")
        self.contexts = balanced(tests, settings.n_responses)
        self.few = balanced(tests, settings.n_ablation or settings.n_responses)
        picked = {record.key for record in self.contexts}
        # Other real texts: those of the contexts first, then what no metric compares with.
        self.floor = [
            *[r for r in tests if r.key in picked],
            *[r for r in everyone if r.key not in picked],
            *work.records("train"),
            *work.records("valid"),
        ]

    def check(self) -> None:
        """Refuse what a method would refuse in the end, before anything is fitted or drawn.

        Raises
        ------
        DataError
            If contexts have no labels, or labels without attributes, and a method needs them.
        """
        domain = self.config.compare.domain
        named = {method_and_tau(method)[0] for method in self.methods}
        if named & {"zerogen", "attrprompt", "progen"}:
            find_domain(domain, self.contexts)
        if "attrprompt" in named and domain in ATTRIBUTES:
            for label in dict.fromkeys(record.label for record in self.contexts):
                ATTRIBUTES[domain].of(label)
        if "progen" in named:
            check_labels(self.contexts)

    # -- arms

    def arm(self, method: str, s: int) -> Arm:
        """Arm number s of a method; 0 draws as `mop simulate` does."""
        needs_mixture(method)
        seed = self.config.seed if s == 0 else derive_seed(self.config.seed, "compare", s) % 2**63
        return Arm(_arm_name(method, s), method, seed, len(self.contexts))

    def ablation_arm(self, ablation: str) -> Arm:
        """Arm of a changed MoP; without a change it is a subset of MoP's own rows."""
        return Arm(f"mop.{ablation}", ablation, self.config.seed, len(self.few))

    def file(self, arm: Arm) -> Path:
        """Where the responses of an arm lie."""
        return self.place / "responses" / f"{arm.name}.jsonl"

    def draw(self, arms: Sequence[Arm]) -> None:
        """Draw the arms that are not done."""
        for number, arm in enumerate(arms, start=1):
            stage, is_ablation = f"compare/{arm.name}", arm.name.startswith("mop.")
            inputs = hash_of([self._inputs(arm), arm.n])
            if self.work.folder.stage_done(stage, inputs):
                continue
            self.work.progress(f"compare: {arm.name}", number - 1, len(arms))
            self.work.progress.begin(stage)
            with self._clock(arm.name, f"simulate/{arm.name}") as tally:
                rows = self._ablation(arm) if is_ablation else self._method(arm)
                write_responses(self.file(arm), rows)
            self.work.progress.save()
            self.work.describe()
            self.work.folder.finish_stage(
                stage,
                inputs,
                files=[self.file(arm)],
                info={"asked": {who: list(cost) for who, cost in tally.costs().items()}},
            )

    def _inputs(self, arm: Arm) -> dict[str, Any]:
        """All that the responses of an arm depend on."""
        config = config_to_dict(self.config)
        for name in ("methods", "ablations", "n_ablation", "n_responses", "n_seeds", "n_seeds_best",
                     "encoders", "classifier"):  # fmt: skip
            del config["compare"][name]
        return {
            "records": self.work.folder.stage_hash("records"),
            "fit": self.work.folder.stage_hash("fit"),
            "config": {key: config[key] for key in ("data", "personas", "fit", "simulate", "compare")},
            "lm": self.work.lm.generate_identity,
            "scorer": self.work.scorer.score_identity,
            **self.work.tolerance(),
            "prompts": PROMPT_VERSION,
            "versions": [METHODS_VERSION, STAGE_VERSIONS["simulate"]],
            "arm": [arm.name, arm.method, arm.seed],
            **({"own": own} if (own := stamp_of(arm.method)) else {}),
        }

    def _method(self, arm: Arm) -> list[Response]:
        given = replace(ingredients_of(self.work), seed=arm.seed)
        if needs_preparation(arm.method):
            name = _prepared(arm.method)
            with self._clock(name, name):
                prepare(arm.method, given)
        return list(respond(arm.method, self.contexts, given, name=arm.name))

    def _ablation(self, arm: Arm) -> list[Response]:
        given, settings = ingredients_of(self.work), variant_settings(self.config, arm.method)
        if settings is not None:
            with self._clock(None, "fit"):  # its own run folder keeps what it took
                mixture = self._fit_variant(arm.method, settings)
            given = replace(given, mixture=mixture, exemplars=mixture.exemplars)
        return draw_ablation(arm.method, self.few, given, name=arm.name)

    def _fit_variant(self, ablation: str, settings: RunConfig) -> FittedMixture:
        """Fit with changed settings on the very same records, in a run folder of its own."""
        has_labels = any(record.label is not None for record in self.work.records("train"))
        data = replace(
            settings.data,
            source=str(self.work.folder.records),
            context="context",
            response="response",
            label="label" if has_labels else None,
            key="key",
            weight="weight",
            group=None,
            attributes=(),
            encoding="auto",
            duplicates="keep",  # equal answers of different groups: the records were looked at before
        )
        settings = replace(settings, data=data)
        if ablation == KEEPS_PERSONAS:
            # Those of the run, as a person may have edited them and another model may have written them.
            file = str(self.work.folder.personas)
            settings = replace(settings, personas=replace(settings.personas, writer="file", path=file))
        path = self.place / "variants" / ablation
        bring_up_to_the_fit(settings, path, models=self.work.models, progress=self.work.progress)
        return load_mixture(path / "mixture")

    @contextmanager
    def _clock(self, name: str | None, stage: str) -> Iterator[Tally]:
        """Keep under ``name`` how long something took that asks for scores or draws as ``stage``.

        All attempts count but killed ones, and none of before if nothing of theirs was used. What is
        timed within is not counted again.
        """
        began, outer, self._within = time.monotonic(), self._within, 0.0
        paid = self._n_paid(stage)
        with self.work.store.tally() as tally:
            try:
                yield tally
            finally:
                took = time.monotonic() - began
                asked = tally.costs().get(stage, NOTHING).calls
                is_anew = 0 < asked == self._n_paid(stage) - paid
                if name is not None:
                    known = self.seconds()
                    before = 0.0 if is_anew else known.get(name, 0.0)
                    known[name] = round(before + took - self._within, 1)
                    write_json(self.place / "seconds.json", known)
                self._within = outer + took

    def _n_paid(self, stage: str) -> int:
        """How many answers were ever paid for under a name."""
        return self.work.store.spent().get(stage, NOTHING).calls

    def seconds(self) -> dict[str, float]:
        """Time of each arm and preparation so far."""
        file = self.place / "seconds.json"
        return dict(read_json(file)) if file.is_file() else {}

    # -- judging

    def judge(self, table: str, arms: Sequence[Arm], *, is_quick: bool = False) -> dict[str, Any]:
        """Scores of all arms of a table and of the floor, per encoder; from the file if nothing changed.

        A quick judgement has the headline encoder only, and intervals too rough to show.
        """
        is_ablation = table == "ablations"
        contexts = self.few if is_ablation else self.contexts
        shown = [Arm("mop", "mop", self.config.seed, len(self.few)), *arms] if is_ablation else arms
        encoders = self.config.compare.encoders or (self.config.model.encoder,)
        encoders = encoders[:1] if is_quick else encoders
        config = config_to_dict(self.config)
        stage = f"compare/judge/{table}"
        inputs = hash_of(
            [[self.work.folder.stage_hash(f"compare/{arm.name}") for arm in shown],
             self.work.folder.stage_hash("records"), [arm.name for arm in shown],
             [self._encoder(name).identity for name in encoders], len(contexts), config["evaluate"],
             [QUICK_SEEDS, QUICK_SUBSAMPLES] if is_quick else False,
             config["compare"]["classifier"], config["seed"], JUDGE_VERSION,
             self.work.models.judge.score_identity]
        )  # fmt: skip
        file = self.place / f"{table}.json"
        if not self.work.folder.stage_done(stage, inputs):
            wanted = {record.key for record in contexts}
            every = {arm.name: [r for r in read_responses(self.file(arm)) if r.id in wanted] for arm in shown}
            responses = {name: [r for r in rows if is_drawn(r)] for name, rows in every.items()}
            refuse_few_texts(responses)
            scored = self._judged(responses, len(contexts), encoders, is_quick=is_quick)
            scored["failed"] = {name: len(every[name]) - len(responses[name]) for name in every}
            scored["notes"] += [
                f"{name}: {count} of {len(every[name])} draws were refused or failed. They are left "
                "out of every figure; nothing was drawn instead."
                for name, count in scored["failed"].items()
                if count
            ]
            write_json(file, scored)
            self.work.folder.finish_stage(stage, inputs, files=[file])
        found: dict[str, Any] = read_json(file)
        found["n_asked"] = len(contexts)
        found["arms"] = {arm.name: arm.method for arm in shown}
        found["rows"] = {
            arm.name: {
                **found["scores"][encoders[0]][arm.name],
                **found["downstream"].get(arm.name, {}),
                "failed": found["failed"][arm.name],
            }
            for arm in shown
        }
        return found

    def _encoder(self, name: str) -> TextEncoder:
        config = self.config
        return open_encoder(name, device=config.model.torch_device, dtype=config.compare.encoder_dtype)

    def _embedder(self, name: str) -> Callable[[Sequence[str]], FloatArray]:
        encoder = self._encoder(name)
        return partial(embed, encoder=encoder, store=self.work.store, progress=self.work.progress)

    def _judged(
        self, responses: Mapping[str, Sequence[Response]], n: int, encoders: Sequence[str], *, is_quick: bool
    ) -> dict[str, Any]:
        settings = self.config.evaluate
        n_seeds, n_bootstrap = settings.n_seeds, settings.n_bootstrap
        if is_quick:
            n_seeds, n_bootstrap = min(QUICK_SEEDS, n_seeds), min(QUICK_SUBSAMPLES, n_bootstrap)
        golden, floor = self.work.records("golden"), self.floor[:n]
        nats: dict[str, list[float]] = {}
        if not is_quick:  # a first look only chooses the best rivals
            self.work.progress.begin("compare/judge")
            nats = judged(self.work, {**responses, FLOOR: floor})
            self.work.describe()
        samples = method_samples(responses, (*self.contexts, *self.few), self.work.fitted.exemplars, nats)
        result: dict[str, Any] = {"scores": {}, "notes": [], "encoders": list(encoders)}
        for name in encoders:
            vectors_of = self._embedder(name)
            evaluation = evaluate(
                samples,
                real_sample(golden),
                real_sample(floor, nats.get(FLOOR)),
                embed=vectors_of,
                seed=self.config.seed,
                others=other_real_texts(self.work),
                n_seeds=n_seeds,
                n_bootstrap=n_bootstrap,
                progress=self.work.progress,
            )
            result["scores"][name] = evaluation.methods
            if name == encoders[0]:
                result["notes"] = list(evaluation.notes)
                result["n"], result["n_golden"] = evaluation.n, evaluation.n_golden
                result["limited_by"], result["closed"] = evaluation.limited_by, evaluation.closed
                result["map"] = {} if is_quick else self._map(evaluation)
                result["downstream"] = self._downstream(
                    # As many texts of each method as the other figures are of.
                    {arm: [rows[i] for i in evaluation.rows[arm]] for arm, rows in responses.items()},
                    vectors_of,
                )
                result["errors"] = {
                    arm: {key: [float(f"{value:.5g}") for value in of] for key, of in errors.items()}
                    for arm, errors in evaluation.errors.items()
                    if not is_quick
                }
                for arm, of in result["downstream"].items():
                    result["errors"].get(arm, {})["f1"] = of.pop("f1_errors")
        return result

    def _map(self, evaluation: Evaluation) -> dict[str, Any]:
        """Places of some texts of the first seeds."""
        names = [name for name in evaluation.rows if not re.search(r"-s\d+$", name)]
        some = replace(evaluation, rows={name: evaluation.rows[name] for name in names})
        places = text_map(some, seed=derive_seed(self.config.seed, "map"), limit=MAP_TEXTS)
        return {name: np.round(xy, 3).tolist() for name, (_, xy) in places.items()}

    def _downstream(
        self, responses: Mapping[str, Sequence[Response]], vectors_of: Callable[[Sequence[str]], FloatArray]
    ) -> dict[str, Any]:
        """Classifier scores of each arm and of real texts; empty without labels."""
        tests = [record for record in self.work.records("test") if record.label is not None]
        if len({record.label for record in tests}) < 2:
            return {}
        f1 = partial(
            downstream_f1,
            test=labelled(tests),
            embed=vectors_of,
            classifier=self.config.compare.classifier,
            seed=self.config.seed,
            n_bootstrap=self.config.evaluate.n_bootstrap,
            progress=self.work.progress,
        )
        sets: dict[str, Sequence[Response | Record]] = {
            **responses,
            "real train": [*self.work.records("train"), *self.work.records("valid")],
            "real exemplars": self.work.fitted.exemplars,
        }
        return {name: f1(labelled([row for row in rows if row.label is not None])) for name, rows in sets.items()}

    # -- the result

    def write(self, found: Mapping[str, Any], ablations: Mapping[str, Any] | None) -> dict[str, Any]:
        """Write table and page in all forms; return the document."""
        headline = found["encoders"][0]
        rows = self._rows(found)
        cut: Rows = {} if ablations is None else self._rows(ablations)
        rivals, (pairs, best) = best_rivals(rows, self.methods), differences(found, rows)
        document: dict[str, Any] = {
            "n_responses": found["n"],
            "n_golden": found["n_golden"],
            "encoder": headline,
            "classifier": self.config.compare.classifier,
            "lm": self.config.model.lm,
            "written_by": self.work.lm.name,
            "scored_by": self.work.scorer.name,
            "is_surrogate": self.work.models.is_surrogate,
            "judged_by": self.work.models.judge.name,
            "source": Path(self.config.data.source).name,
            "methods": rows,
            "floor": found["scores"][headline][FLOOR],
            "real": {name: found["downstream"][name] for name in ("real train", "real exemplars")
                     if name in found["downstream"]},
            "best_rivals": rivals,
            "pairs": pairs,
            "best": best,
            "verdicts": verdicts(pairs, rivals, is_closed=found["closed"] is not None),
            "closed": found["closed"],
            "limited_by": found["limited_by"],
            "other_encoders": {
                name: scores for name, scores in found["scores"].items() if name != headline
            },
            "arms": found["rows"],
            "notes": [*closed_sentences(found["closed"], {**rows, FLOOR: found["scores"][headline][FLOOR]}),
                      *self.all_notes(), *self._cut_notes({**cut, **rows}), *found["notes"]],
        }  # fmt: skip
        if ablations is not None:
            pairs, best = differences(ablations, cut)
            same = [name for name in self.config.compare.ablations if changes_nothing(self.config, name)]
            document["ablations"] = {
                "n_responses": ablations["n"],
                "floor": ablations["scores"][headline][FLOOR],
                "methods": cut,
                "pairs": pairs,
                "best": best,
                "limited_by": ablations["limited_by"],
                "notes": [
                    *(
                        f"mop.{name} is mop itself under these settings: it differs in its random numbers alone."
                        for name in same
                    ),
                    *ablations["notes"],
                ],
            }
        document["settings"] = config_to_dict(self.config)
        write_json(self.place / "comparison.json", document)
        tables: dict[str, tuple[Rows, Mapping[str, Any]]] = {"comparison": (rows, document)}
        if ablations is None:
            for form in ("md", "tex", "json"):  # of an earlier comparison
                (self.place / f"ablations.{form}").unlink(missing_ok=True)
                (self.place / f"ablations-short.{form}").unlink(missing_ok=True)
        else:
            tables["ablations"] = (cut, document["ablations"])
        for name, (some, of) in tables.items():
            said = [compared_on(of, document["n_golden"]), BEST_IS_CLEAR, *of.get("verdicts", []), *of["notes"]]
            for form, table in (("md", markdown_table), ("tex", latex_table)):
                for end, is_short in (("", False), ("-short", True)):
                    text = table(some, of["floor"], [] if is_short else said, best=of["best"], is_short=is_short)
                    write_atomic(self.place / f"{name}{end}.{form}", text.encode())
        files = {method: self.file(self.arm(method, 0)) for method in rows}
        texts = {method: [row for row in read_responses(file) if is_drawn(row)] for method, file in files.items()}
        page, figures = comparison_page(document, rows, cut, found["map"], texts=texts, real=self.contexts)
        write_atomic(self.place / "comparison.html", page.encode())
        save_figures(figures, self.place / "figures")
        return {**document, "run": str(self.work.folder.path)}

    def all_notes(self) -> list[str]:
        """What to know about all tables."""
        scorer, writer = self.work.scorer.name, self.work.lm.name
        judge, settings = self.work.models.judge.name, self.config.simulate
        surrogate = f"mop was fitted to the likelihoods of {scorer}, a surrogate; {writer} wrote all responses."
        sense = (
            f"sense: nats per token of at most {JUDGED} texts of each method under {judge}"
            f"{', which wrote them' if judge == writer else ''}; real texts are the mark, neither above nor below. "
            "improbable: share below the 1st percentile of real texts."
        )
        departures = replace(settings, same_label=settings.same_label and self.has_labels).departures()
        return [*([surrogate] if self.work.models.is_surrogate else []), sense, *departures, *self.notes]

    def _cut_notes(self, rows: Rows) -> list[str]:
        """Which methods were cut, and what to do about it, once for all of them."""
        shares = {name: float(row.get("cut_share") or 0.0) for name, row in rows.items()}
        return cut_notes(shares, self.config.simulate.max_tokens)

    def means(self, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """Figures of each method over its seeds."""
        floor = found["scores"][found["encoders"][0]][FLOOR]
        return {
            method: over_seeds([found["rows"][name] for name in names], floor)
            for method, names in arms_by_method(found).items()
        }

    def _rows(self, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
        """One row per method: means over its arms, what it cost."""
        means = self.means(found)
        for method, names in arms_by_method(found).items():
            values = means[method]
            values |= self._cost(method, names, found["n_asked"])
            base = method.partition("@")[0]
            values["sees_real"] = base in SEES_REAL or base.startswith("mop.")
        return means

    def _cost(self, method: str, names: Sequence[str], n: int) -> dict[str, Any]:
        """LM calls, tokens, minutes and a server's price: of the draws (per seed); and of what went before them.

        Calls and tokens are those that the responses at hand rest on, paid for in this table or before it;
        the price is what was ever paid. Of an arm of more than the n responses of the table, as MoP's own
        is beside its ablations, they are the share of n.
        """
        seconds = self.seconds()
        asked = [asked_of(self.work.folder, f"compare/{name}") for name in names]
        draws = [of.get(f"simulate/{name}", NOTHING) for name, of in zip(names, asked, strict=True)]
        n_drawn = len(self.few) if method.startswith("mop.") else len(self.contexts)
        money = sum(
            stages.get(f"compare/{name}", {}).get("cost", 0.0)
            for stages in self.work.progress.rows().values()
            for name in names
        )
        share = min(1.0, n / n_drawn) / len(names)
        prepared, minutes = self._before(method, asked[0])
        return {
            "lm_calls": round(share * sum(cost.calls for cost in draws)),
            "lm_tokens": round(share * sum(cost.tokens for cost in draws)),
            "minutes": round(share * sum(seconds.get(name, 0.0) for name in names) / 60, 2),
            **({"money": round(share * money, 6)} if money else {}),
            "prepare_calls": prepared.calls,
            "prepare_tokens": prepared.tokens,
            **({} if minutes is None else {"prepare_minutes": round(minutes, 2)}),
        }

    def _before(self, method: str, asked: Mapping[str, Cost]) -> tuple[Cost, float | None]:
        """What a method needs once before its draws, and minutes of it (None if it needs nothing)."""
        stages: list[tuple[RunFolder, str]] = []
        if method.partition("@")[0] == "persona-only":
            stages = [(self.work.folder, "personas")]
        elif method in ("mop", "mop-uniform") or method.startswith("mop."):
            ablation = method.removeprefix("mop.")
            variant = self.place / "variants" / ablation
            is_own = method != ablation and (variant / "manifest.json").is_file()
            fitted = RunFolder.open(variant) if is_own else self.work.folder
            described = self.work.folder if ablation == KEEPS_PERSONAS else fitted
            stages = [(described, "personas"), (fitted, "fit")]
        if not stages:
            seconds = self.seconds().get(_prepared(method))
            return asked.get(_prepared(method), NOTHING), seconds and seconds / 60
        costs = [cost for folder, stage in stages for cost in asked_of(folder, stage).values()]
        return (
            Cost(sum(cost.calls for cost in costs), sum(cost.tokens for cost in costs)),
            sum(folder.stage_info(stage)["seconds"] for folder, stage in stages) / 60,
        )


def labelled(rows: Sequence[Response | Record]) -> Labelled:
    """Texts and labels of rows that all have one."""
    return Labelled([row.response for row in rows], [str(row.label) for row in rows])


def asked_of(folder: RunFolder, stage: str) -> dict[str, Cost]:
    """Calls and tokens that a finished stage of a run rests on, by the name they were drawn or scored under."""
    return {name: Cost(*cost) for name, cost in folder.stage_info(stage)["asked"].items()}
