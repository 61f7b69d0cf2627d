"""The paper's tables: MoP against its rivals on AG News, SST-2 and IMDB, with one small model.

    python benchmarks/bench_paper.py                        # all of it: hours on two cores
    python benchmarks/bench_paper.py --data imdb --part table   # one data set without the ablations
    python benchmarks/bench_paper.py --data sst2 --part table --methods zero-shot few-shot-3@0.75 \
        --responses 500 --best-seeds 1 --no-paper-fit           # a reduced table
    python benchmarks/bench_paper.py --minutes 50           # as many pieces as begin within 50 minutes
    python benchmarks/bench_paper.py --list                 # which pieces are done, which is next
    python benchmarks/bench_paper.py --sizes tiny           # minutes, on the built-in toy model
    python benchmarks/bench_paper.py --sizes gpu --lm hf:meta-llama/Meta-Llama-3-8B-Instruct

Work goes on in pieces (a fit, the responses of one method, a table). Every piece is kept: kill it
whenever you like, and give the same command again. Writes ``benchmarks/results/paper.json`` and
``docs/results.md``. The data lie in a folder ``shared`` beside the repository (``MOP_SHARED``).

Nothing of MoP is chosen on golden or test texts: fits choose by cross-validation within ``train``, and
how it draws (`DRAWING`) was chosen for all data sets on texts of AG News' ``train`` that no part of a run
sees, how many exemplars it shows on SST-2 likewise there (docs/log.md). Rivals and controls draw at
temperature 1 and most of them (`COOLER`) at MoP's factor too, and the best rival is picked on the golden
texts, in the rivals' favour.
"""

from __future__ import annotations

import argparse
import gzip
import importlib.util
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mop.backends.encoder import embed, open_encoder
from mop.config import METHODS, RIVALS, RunConfig, config_from_dict, config_to_dict, method_and_tau
from mop.data.pull import sha256
from mop.data.records import load_records
from mop.errors import ConfigError, MopError
from mop.evaluate.downstream import downstream_f1
from mop.evaluate.sense import JUDGED
from mop.progress import ProgressDisplay
from mop.randomness import rng_of
from mop.report.document import number
from mop.rivals.methods import METHODS_VERSION
from mop.runs.compare import compare, draw_piece, labelled, pieces
from mop.runs.work import STAGE_VERSIONS
from mop.storage.files import hash_of, read_json, write_atomic, write_json
from mop.storage.store import Store
from results_file import commit, machine, write_results_file

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MOP_SHARED", ROOT.parent / "shared"))
SPLITS = ("exemplars", "train", "golden", "test")


@dataclass(frozen=True)
class Corpus:
    """One data set of the paper."""

    title: str
    domain: str
    task: str
    max_tokens: int
    """Length cap of every method."""
    cut_real: bool = False
    """Whether real texts are cut at that length too."""
    exemplars_per_prompt: int = 3
    """Exemplars that MoP shows in a prompt, chosen on texts of `train`."""

    @property
    def drawing(self) -> dict[str, Any]:
        """How MoP draws."""
        return {**DRAWING, "exemplars_per_prompt": self.exemplars_per_prompt}


CORPORA = {
    "agnews": Corpus("AG News", "news", "the text of a short news article", 96),
    "sst2": Corpus("SST-2", "films", "one sentence from a movie review", 48, exemplars_per_prompt=2),
    "imdb": Corpus("IMDB", "films", "the text of a movie review", 96, cut_real=True),
}

SIZES: Mapping[str, Mapping[str, Any]] = {
    "paper": {"personas": 20, "exemplars": 1000, "train": 200, "valid": 80, "golden": 2500,
              "test": 1500, "responses": 1000, "ablation": 500, "best_seeds": 3},
    "gpu": {"personas": 100, "exemplars": 1000, "train": 1500, "valid": 300, "golden": 4400,
            "test": 1800, "responses": 3600, "ablation": 1000, "best_seeds": 3},
    "tiny": {"personas": 3, "exemplars": 24, "train": 16, "valid": 8, "golden": 60,
             "test": 40, "responses": 24, "ablation": 12, "best_seeds": 2},
}  # fmt: skip

DRAWING = {"exemplars_from": "similar", "tau_factor": 0.75, "same_label": True}
"""How MoP draws: a persona, and in its prompt the exemplar drawn with those most like it, of the label asked for (as
PICLe's are), temperatures times 0.75. How many exemplars: `Corpus.exemplars_per_prompt`."""
SHOWN = {"gates": "each drawn by itself", "similar": "one drawn, and those most like it"}
SHOWN |= {"prompt": SHOWN["gates"], "neighbours": SHOWN["similar"]}  # their names in older results
COOLER = ("zero-shot", "zerogen", "attrprompt", "picle-prompted", "picle", "few-shot", "few-shot-3")
"""Methods that draw at `DRAWING`'s factor as well as at 1; ProGen's rounds take too long for two."""

NO_PICLE = "PICLe with its fine-tuned model was not run, only its prompted stand-in."

ABLATIONS = (
    "no-exemplars", "raw-records", "no-gates", "random-personas", "fitted-tau",
    "any-label", "paper-drawing", "tokens-2", "tokens-4", "tokens-8",
    "prompt-1", "prompt-2", "prompt-3", "prompt-4", "prompt-8", "neighbours-2", "neighbours-5",
)  # fmt: skip
"""On AG News, beside K and N halved; the other data sets have the paper's fit only."""
PARTS = {"table": "", "ablations": "-ablations"}
"""Of the work, and what is added to the name of their run folder; the second is of AG News alone."""

# IDs end in the data set's name: metric, least change in per cent, sign of better, what the paper has.
CLAIMS = {
    "energy_cut": ("energy", -50.0, -1, ""),
    "fid_cut": ("fid_excess", -50.0, -1, "plain FID −46 to −69 %"),
    "mauve_gain": ("mauve", 25.0, 1, "+13.6 to +41.3 %"),
    "kl_cut": ("kl_cosine", -50.0, -1, "−33 to −80 %"),
    "f1_gain": ("f1", 0.0, 1, "+0.4 to +5.4 %"),
}
VS_PAPER = -20.0


# ---------------------------------------------------------------------------------------- settings


def prepared(name: str, arguments: argparse.Namespace) -> Path:
    """Folder of the splits: the given one, or a copy whose texts are cut at the length cap."""
    folder, corpus = arguments.shared / "data" / name, CORPORA[name]
    if not corpus.cut_real:
        return folder
    shorten, tokenizer = cutter(arguments.lm, corpus.max_tokens)
    made_of = [tokenizer, *(sha256(folder / f"{split}.jsonl.gz") for split in SPLITS)]
    target: Path = arguments.work / "data" / f"{name}-{corpus.max_tokens}-{hash_of(made_of)[:12]}"
    target.mkdir(parents=True, exist_ok=True)
    for split in SPLITS:
        if (target / f"{split}.jsonl.gz").is_file():
            continue
        lines = []
        with gzip.open(folder / f"{split}.jsonl.gz", "rt", encoding="utf-8") as stream:
            for line in stream:
                row = json.loads(line)
                lines.append(json.dumps({**row, "response": shorten(row["response"])}))
        text = "\n".join(lines) + "\n"
        write_atomic(target / f"{split}.jsonl.gz", gzip.compress(text.encode(), mtime=0))
    return target


def cutter(lm: str, n_tokens: int) -> tuple[Callable[[str], str], str]:
    """A function that keeps the first tokens of a text, as the length cap of a response does; whose tokens."""
    if lm == "fake":
        return lambda text: text[:n_tokens].strip(), "characters"
    from mop.backends.tokens import open_tokens

    encoder = open_tokens(lm)
    return (lambda text: encoder.text(encoder.response_ids(text)[:n_tokens]).strip(), encoder.fingerprint)


def settings(name: str, arguments: argparse.Namespace, part: str) -> RunConfig:
    """The configuration of a part of one data set: all methods and the paper's fit, or MoP alone and all ablations."""
    corpus, sizes = CORPORA[name], SIZES[arguments.sizes]
    is_tiny = arguments.sizes == "tiny"
    size = {key: getattr(arguments, key) or value for key, value in sizes.items()}
    half = (f"k-{size['personas'] // 2}", f"n-{size['exemplars'] // 2}")
    changed = [*ABLATIONS, *half] if arguments.ablations is None else arguments.ablations
    # One round: about the scores that the paper's recipe asks for, so that neither side pays more.
    fit: dict[str, Any] = {
        "n_rounds": 1,
        "components_per_record": 7,
        "records_per_component": 12,
        "valid_components": 7,
    }
    if is_tiny:
        fit = {"components_per_record": 4, "records_per_component": 4, "valid_components": 6}
    return config_from_dict({
        "seed": arguments.seed,
        "data": {
            "source": str(prepared(name, arguments)), "context": "Write {context}.", "key": "id",
            "label": "label", "task": corpus.task, "exemplars": size["exemplars"],
            "train": size["train"], "valid": size["valid"], "test": size["test"], "golden": size["golden"],
        },
        "model": {"lm": arguments.lm, "encoder": arguments.encoders[0]},
        "personas": {"n_personas": size["personas"]},
        "fit": fit,
        "simulate": {"n_responses": min(size["responses"], size["test"]),
                     "max_tokens": 24 if is_tiny else corpus.max_tokens, **corpus.drawing},
        "evaluate": {"n_seeds": 2 if is_tiny else 5, "n_bootstrap": 20 if is_tiny else 60},
        "compare": {
            "domain": corpus.domain, "n_responses": size["responses"], "n_ablation": size["ablation"],
            "ablations": [*([] if arguments.no_paper_fit else ["paper-fit"]),
                          *(changed if part == "ablations" else ())],
            "n_seeds_best": size["best_seeds"] if part == "table" else 1, "encoders": arguments.encoders,
            "encoder_dtype": arguments.encoder_dtype,
            "min_words": 1 if is_tiny else 10, "methods": arguments.methods if part == "table" else [],
        },
    })  # fmt: skip


# ------------------------------------------------------------------------------------------ pieces


@dataclass(frozen=True)
class Piece:
    """A part of the work that is kept once it is done."""

    corpus: str
    part: str
    name: str
    work: float
    """Roughly: seconds on two cores."""
    config: RunConfig

    @property
    def place(self) -> str:
        """Name of its run folder."""
        return self.corpus + PARTS[self.part]

    @property
    def key(self) -> str:
        """Name over all data sets."""
        return f"{self.place}/{self.name}"


DRAWN_PER_SECOND, SCORED_PER_SECOND, EMBEDDED_PER_SECOND = 110.0, 3.0, 1500.0
"""Tokens drawn, scores made and tokens embedded per second by small models on two cores (docs/engine.md)."""
JUDGED_PER_SECOND = 750.0
"""Tokens judged per second: prompts without persona and exemplar (200 texts of AG News in 16 s)."""


def plan(arguments: argparse.Namespace, names: list[str]) -> list[Piece]:
    """All pieces in order: what the claims rest on for every data set, then the further ablations."""
    todo: list[Piece] = []
    for part in PARTS if arguments.part == "all" else (arguments.part,):
        for name in names if part == "table" else [name for name in names if name == "agnews"]:
            config = settings(name, arguments, part)
            last = ("ceiling", "table") if part == "table" else ("table",)
            todo += [Piece(name, part, piece, estimate(piece, config), config) for piece in (*pieces(config), *last)]
    return todo


def estimate(piece: str, config: RunConfig) -> float:
    """Seconds that a piece takes on two cores, roughly."""
    fit, compared = config.fit, config.compare
    scores = fit.n_rounds * (config.data.train * fit.components_per_record + config.data.valid * fit.valid_components)
    tokens = 0.6 * config.simulate.max_tokens
    ablation = piece.removeprefix("mop.") if piece.startswith("mop.") else ""
    n = compared.n_ablation if ablation else compared.n_responses
    seconds = n * tokens / DRAWN_PER_SECOND
    if piece == "fit":
        return scores / SCORED_PER_SECOND
    if piece == "ceiling":
        return 60.0
    if piece == "table":
        texts = (len(compared.methods) + 1) * n + len(compared.ablations) * compared.n_ablation
        texts += config.data.golden + config.data.test
        judged = JUDGED * (len(compared.methods) + len(compared.ablations) + 2)
        measured = texts / EMBEDDED_PER_SECOND + judged / JUDGED_PER_SECOND
        return 2 * (compared.n_seeds_best - 1) * seconds + measured * tokens
    if ablation.startswith(("tokens-", "prompt-", "neighbours-")):
        return seconds * int(ablation.partition("-")[2])
    if ablation.startswith(("paper", "raw", "random", "k-", "n-")):
        return seconds + scores / SCORED_PER_SECOND
    twice = ("zerogen", "progen", "picle", "picle-prompted")
    return seconds * (2 if piece.partition("@")[0] in twice else 1)


def do(piece: Piece, arguments: argparse.Namespace) -> None:
    """Do one piece in the run folder of its data set."""
    path, config = arguments.work / piece.place, piece.config
    with ProgressDisplay(quiet=arguments.quiet) as progress:
        if piece.name == "table":
            compare(config, path, progress=progress)
        elif piece.name == "ceiling":
            write_json(path / "ceiling.json", ceiling(config, path))
        else:
            draw_piece(config, path, piece.name, progress=progress)


def digest_of(piece: Piece, arguments: argparse.Namespace) -> str | None:
    """SHA-256 of the responses that a piece wrote, None if it wrote none."""
    file = arguments.work / piece.place / "compare" / "responses" / f"{piece.name}.jsonl"
    return sha256(file) if file.is_file() else None


def ceiling(config: RunConfig, path: Path) -> dict[str, Any]:
    """The classifier trained on as many real texts as every method writes, or all that there are."""
    data = Path(config.data.source)
    columns: dict[str, Any] = {"context": "context", "label": "label", "key": "id"}
    train = load_records(data / "train.jsonl.gz", **columns).records
    chosen = rng_of(config.seed, "ceiling").permutation(len(train))[: config.compare.n_responses]
    from mop.data.records import read_records

    tests = read_records(path / "records" / "test.jsonl")
    encoder = (config.compare.encoders or (config.model.encoder,))[0]
    with Store(path / "store.sqlite") as store:
        return downstream_f1(
            labelled([train[i] for i in chosen]),
            labelled(tests),
            embed=partial(embed, encoder=open_encoder(encoder, dtype=config.compare.encoder_dtype), store=store),
            classifier=config.compare.classifier,
            seed=config.seed,
        )


class Ledger:
    """Which pieces are done, under which settings, in which time."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.done: dict[str, dict[str, Any]] = read_json(file) if file.is_file() else {}

    def is_done(self, piece: Piece) -> bool:
        """Whether it was finished under these settings."""
        return self.done.get(piece.key, {}).get("settings") == stamp(piece)

    def finish(self, piece: Piece, seconds: float, digest: str | None) -> None:
        """Enter a finished piece; ``digest`` is of what it made, None if that is not looked at.

        If it took longer under other settings, that is its time: what it made then may have been used again.
        If it is what was there before, it was made when that was.
        """
        before = self.done.get(piece.key, {})
        is_same = digest is not None and before.get("digest") == digest
        self.done[piece.key] = {
            "settings": stamp(piece),
            "seconds": round(max(before.get("seconds", 0.0), seconds), 1),
            "work": piece.work,
            "digest": digest,
            "made": before["made"] if is_same else made_now(),
        }
        write_json(self.file, self.done)

    def pace(self) -> float:
        """Seconds that a second of estimated work takes, from what is done; 1 before anything is."""
        worked = sum(entry["work"] for entry in self.done.values())
        return sum(entry["seconds"] for entry in self.done.values()) / worked if worked > 60 else 1.0

    def commits(self, place: str) -> list[str]:
        """Commits that wrote the responses of a run folder."""
        made = (e["made"]["commit"] for key, e in self.done.items() if key.startswith(f"{place}/") and e.get("digest"))
        return sorted({commit for commit in made if commit})

    def seconds(self, place: str) -> float:
        """Time of all pieces of a run folder together."""
        return sum(e["seconds"] for key, e in self.done.items() if key.startswith(f"{place}/"))


def stamp(piece: Piece) -> str:
    """Hash of the settings and of what a stage makes of them; of more ablations only a table is made anew."""
    settings = config_to_dict(piece.config)
    if piece.name != "table":
        del settings["compare"]["ablations"]
    return hash_of([settings, STAGE_VERSIONS, METHODS_VERSION])


def hours(seconds: float) -> str:
    """A rough time for people."""
    return f"{seconds / 3600:.1f} h" if seconds >= 5400 else f"{math.ceil(seconds / 60)} min"


# ------------------------------------------------------------------------------------------ claims


def change(
    mine: Mapping[str, Any], theirs: Mapping[str, Any], metric: str
) -> tuple[float | None, list[float | None] | None]:
    """Relative change in per cent and its 95 % interval, from the intervals of both figures.

    Both figures are drawn from normal distributions, as wide as the longer half of their intervals (the
    other may have been cut off at the end of what the figure can be), and cut off at 0 unless they can be
    below (`BELOW_ZERO`). What both share, as the golden texts and the floor, is drawn for each: the interval
    is too long rather than too short. Where the rival's figure may be 0 the interval has no upper end: None.
    """
    a, b = mine.get(metric), theirs.get(metric)
    if a is None or b is None or b <= 0:
        return None, None
    rng = rng_of(0, "claims", metric)
    value, draws = round(100 * (a / b - 1), 1), []
    for figure, row in ((a, mine), (b, theirs)):
        low, high = row.get(f"{metric}_interval") or (math.nan, math.nan)
        reach = max(high - figure, figure - low)
        drawn = figure + rng.standard_normal(20_000) * reach / 1.96
        draws.append(drawn if metric in BELOW_ZERO else np.maximum(drawn, 0.0))
    if np.isnan(draws).any():
        return value, None
    ratio = np.full(20_000, math.inf)
    np.divide(draws[0], draws[1], out=ratio, where=draws[1] > 0)
    ends = [float(end) for end in np.quantile(ratio, [0.025, 0.975], method="nearest")]
    return value, [round(100 * (end - 1), 1) if math.isfinite(end) else None for end in ends]


BELOW_ZERO = ("energy", "fid_excess")
"""Unbiased figures, which chance can bring below 0."""


def claims_of(name: str, found: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The claims of one data set; of figures that a table does not have there are none."""
    methods, claims = found["methods"], {}
    n_rivals = sum(method_and_tau(method)[0] in RIVALS for method in methods)
    for claim, (metric, target, better, paper) in CLAIMS.items():
        rival = found["best_rivals"].get(metric)
        if rival is None:
            continue
        value, interval = change(methods["mop"], methods[rival], metric)
        claims[f"{claim}_{name}"] = {
            "value": value, "unit": "%", "against": f"best rival of {n_rivals}: {rival}", "interval": interval,
            "target": target, "met": value is not None and better * value >= better * target
            and (claim != "f1_gain" or value > 0), "paper": paper,
        }  # fmt: skip
    return claims | claims_vs_paper(name, found.get("ablations", {}).get("methods", {}))


def claims_vs_paper(name: str, methods: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Our fit and drawing against the paper's; empty if the table does not have both, or not these figures."""
    if "mop.paper-fit" not in methods or "energy" not in methods["mop"]:
        return {}
    both, claims = [methods["mop"], methods["mop.paper-fit"]], {}
    tokens = [row.get("prepare_tokens") for row in both]
    for claim in ("energy_cut", "fid_cut"):
        value, interval = change(*both, CLAIMS[claim][0])
        claims[f"{claim}_vs_paper_{name}"] = {
            "value": value, "unit": "%", "against": "the paper's fit and way to draw, same personas and exemplars",
            "interval": interval, "target": VS_PAPER, "lm_tokens_ours_theirs": tokens,
            "met": value is not None and value <= VS_PAPER and tokens[0] <= tokens[1],
        }  # fmt: skip
    return claims


# ------------------------------------------------------------------------------------------ results


def results(
    todo: list[Piece], left: list[Piece], skipped: Mapping[str, str], arguments: argparse.Namespace,
    ledger: Ledger,
) -> dict[str, Any]:  # fmt: skip
    """Write the JSON document and the page: data sets whose table is done, and those of earlier runs.

    A run may be of one data set, or on another machine: each says by itself how its figures came about.
    """
    before = read_json(arguments.out) if arguments.out.is_file() else {}
    runs: dict[str, Any] = dict(before.get("runs", {}))
    changed: dict[str, Any] = dict(before.get("changed", {}))
    for piece in todo:
        if piece.name == "table" and piece not in left:
            how = how_made(piece, arguments, ledger)
            if piece.part == "table":
                runs[piece.corpus] = run_of(piece.corpus, arguments, how)
            else:
                place = arguments.work / piece.place
                changed[piece.corpus] = changed_of(piece.corpus, place, how)
    # Those of before too: how claims are worked out may have changed.
    for name, run in runs.items():
        run["claims"] = {**run.get("claims", {}), **claims_of(name, run)}
    # The table's claim stands before that of the ablations, which may be of another day.
    claims = {name: claim for run in runs.values() for name, claim in run["claims"].items()}
    for part in changed.values():
        claims = {**claims, **{n: claim for n, claim in part["claims"].items() if n not in claims}}
    document = write_results_file(
        arguments.out,
        claims,
        sum(run["seconds"] for run in (*runs.values(), *changed.values())),
        runs={name: runs[name] for name in CORPORA if name in runs},
        changed=changed,
        skipped=dict(skipped),
        unfinished=[piece.key for piece in left],
    )
    arguments.docs.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(arguments.docs, page(document).encode())
    return document


def how_made(piece: Piece, arguments: argparse.Namespace, ledger: Ledger) -> dict[str, Any]:
    """How the figures of a finished table came about."""
    sizes = {key: getattr(arguments, key) or value for key, value in SIZES[arguments.sizes].items()}
    return {
        "command": command(arguments, piece),
        **(ledger.done[piece.key].get("made") or made_now()),
        "drawn_by": ledger.commits(piece.place),
        "seconds": round(ledger.seconds(piece.place), 1),
        "seed": arguments.seed,
        "lm": arguments.lm,
        "encoders": arguments.encoders,
        "encoder_dtype": arguments.encoder_dtype,
        "sizes": sizes,
        "drawing": CORPORA[piece.corpus].drawing,
    }


def run_of(name: str, arguments: argparse.Namespace, how: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of a finished data set: figures, claims, how they were made, and the text about them."""
    place = arguments.work / name
    found = read_json(place / "compare" / "comparison.json")
    for figure in ("metrics", "map"):
        target = arguments.docs.parent / "results" / f"{name}-{figure}.svg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(place / "compare" / "figures" / f"{figure}.svg", target)
    return {
        **how,
        **{key: found[key] for key in ("methods", "floor", "best_rivals", "ablations", "n_responses",
                                       "n_golden") if key in found},
        "text": section(name, found, read_json(place / "ceiling.json"), place / "compare"),
    }  # fmt: skip


def changed_of(name: str, place: Path, how: Mapping[str, Any]) -> dict[str, Any]:
    """What is kept of the ablations."""
    found = read_json(place / "compare" / "comparison.json")
    table = table_of(place / "compare" / "ablations.md")
    return {
        "claims": claims_vs_paper(name, found["ablations"]["methods"]),
        **how,
        "methods": found["ablations"]["methods"],
        "text": [table, "", *(f"- {note}" for note in (*found["notes"], *found["ablations"]["notes"]))],
    }


def table_of(file: Path) -> str:
    """The table of a Markdown file, without the notes below it."""
    return file.read_text(encoding="utf-8").partition("\n\n")[0]


OTHER_COLUMNS = ("energy", "fid_excess", "fid", "mauve", "kl_cosine")
"""Figures of the tables of further encoders."""


def section(name: str, found: Mapping[str, Any], ceiling: Mapping[str, Any], place: Path) -> list[str]:
    """Lines of the page about one data set: its tables and pictures."""
    lines = [table_of(place / "comparison.md"), ""]
    real = [f"{label} ({values['n_train']} texts) {values['f1']:.3f}"
            for label, values in (*found["real"].items(), ("as many real texts", ceiling))]  # fmt: skip
    lines += [f"F1 of the same classifier trained on real texts: {'; '.join(real)}.", ""]
    for encoder, scores in found["other_encoders"].items():
        lines += [
            f"With {encoder}:",
            "",
            "| method | energy ↓ | FID excess ↓ | FID ↓ | MAUVE ↑ | KL-cosine ↓ |",
            "| --- | --- | --- | --- | --- | --- |",
        ]
        lines += ["| " + " | ".join([method, *(number(row.get(figure)) for figure in OTHER_COLUMNS)]) + " |"
                  for method, row in scores.items()]  # fmt: skip
        lines.append("")
    for figure in ("metrics", "map"):
        lines += [f"![{CORPORA[name].title}: {figure}](results/{name}-{figure}.svg)", ""]
    if "ablations" in found:
        lines += [f"### Changed versions of MoP ({found['ablations']['n_responses']} responses)", "",
                  table_of(place / "ablations.md"), ""]  # fmt: skip
    notes = dict.fromkeys([*found["notes"], *found.get("ablations", {}).get("notes", [])])
    return [*lines, *(f"- {note}" for note in notes)]


def page(document: Mapping[str, Any]) -> str:
    """``docs/results.md``: the claims, and of each data set how it was run, its tables and pictures."""
    lines = [
        "# Results", "",
        "Made by `make bench-paper`; do not edit. Below each data set stands the command that printed its figures.", "",
        "“Rival” means a method of the literature or plain prompting; few-shot and persona-only are "
        "controls. ZeroGen, AttrPrompt, ProGen and plain prompting see no real text, the others see "
        "the exemplars; MoP (and mop-uniform, which has one fitted temperature) also learns from the training "
        "and validation texts, in figures only. PICLe and MoP show exemplars of the label asked for, few-shot of "
        "any. NAME@TAU is a method at that temperature instead of 1; ProGen, whose rounds "
        "take long, and persona-only have 1 alone. The best rival is picked on the golden "
        "texts, in its favour; nothing of MoP is. "
        "With several seeds, intervals are over seeds that draw anew from the same fit. LM tokens are those "
        "drawn or scored, without prompts; minutes have everything. “Before” is what a method needs once: "
        "personas and fit, or PICLe's scores and fine-tuning.", "",
        "Values are changes of MoP's figure relative to that rival's: less is better for energy distance, FID and "
        "KL-cosine, more for MAUVE and F1. Energy distance is 0 for real texts. `fid_cut` is of FID for endless texts, "
        "over that of other real texts ([metrics](metrics.md)).", "",
        *old_claims(document["runs"]),
        "| ID | value | 95 % interval | aim | met | against |", "| --- | --- | --- | --- | --- | --- |",
    ]  # fmt: skip
    for name, claim in document["claims"].items():
        value = "–" if claim["value"] is None else f"{claim['value']:+.1f} %"
        ends = claim["interval"]
        interval = "–" if ends is None else " to ".join("∞" if end is None else f"{end:+.1f}" for end in ends)
        lines.append(
            f"| `{name}` | {value} | {interval} | {claim['target']:+.0f} % | "
            f"{'yes' if claim['met'] else 'no'} | {claim['against']} |"
        )
    if document["unfinished"]:
        lines += ["", f"Not done by the last run: {', '.join(document['unfinished'])}."]
    for name, reason in document["skipped"].items():
        lines += ["", f"{CORPORA[name].title}: skipped, {reason}."]
    for name in CORPORA:
        run, changed = document["runs"].get(name), document["changed"].get(name)
        if run or changed:
            lines += ["", f"## {CORPORA[name].title}"]
        if run:
            lines += ["", *made_by(run), "",
                      f"{run['n_responses']} responses per method against {run['n_golden']} golden texts."
                      + ("" if "picle" in run["methods"] else f" {NO_PICLE}"), "",
                      *run["text"]]  # fmt: skip
        if changed:
            lines += ["", "### Ablations", "", *made_by(changed), "", *changed["text"]]
    # Notes of earlier runs name the settings of their day.
    return "\n".join([*lines, ""]).replace("(simulate.mix)", "(simulate.exemplars_per_prompt, exemplars_from)")


def old_claims(runs: Mapping[str, Any]) -> list[str]:
    """Say which data sets' figures are from before there was an unbiased one."""
    old = [CORPORA[name].title for name, run in runs.items() if "energy" not in run["methods"].get("mop", {})]
    if not old:
        return []
    return [
        f"**{', '.join(old)}**: figures from before energy distance. Their `fid_cut` is of plain FID over its floor, "
        "which favours narrow sets, and their interval of F1 does not know other training texts.", "",
    ]  # fmt: skip


def made_by(run: Mapping[str, Any]) -> list[str]:
    """Lines that say how figures were made."""
    others = f" ({', '.join(run['encoders'][1:])} beside it)" if run["encoders"][1:] else ""
    drawing = run["drawing"]
    n_shown = drawing["exemplars_per_prompt" if "exemplars_per_prompt" in drawing else "n_agents"]
    origin = drawing["exemplars_from" if "exemplars_from" in drawing else "mix"]
    earlier = [commit for commit in run.get("drawn_by", []) if commit != run["commit"]]
    drawn = f" (responses also by {', '.join(earlier)})" if earlier else ""
    versions = ", ".join(f"{package} {version}" for package, version in run["versions"].items())
    return [
        f"    {run['command']}", "",
        f"Language model {run['lm']}; encoder of the metrics {run['encoders'][0]}{others}, in "
        f"{run['encoder_dtype']}; seed {run['seed']}; {run['machine']}; commit {run['commit']}{drawn}; "
        f"{run['seconds'] / 3600:.2f} hours. Sizes: "
        + ", ".join(f"{key} {value}" for key, value in run["sizes"].items())
        + f". MoP: exemplars in a prompt {n_shown} ({SHOWN[origin]}), of "
        f"{'the label asked for' if drawing.get('same_label') else 'any label'}, factor on temperatures "
        f"{drawing['tau_factor']:g}. Versions: {versions}.",
    ]  # fmt: skip


def made_now() -> dict[str, Any]:
    """By what code, where and with which packages figures are made at this moment."""
    return {"commit": commit(), "machine": machine(), "versions": packages()}


def packages() -> dict[str, str]:
    """Versions of what the figures depend on."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for name in ("mixture-of-personas", "torch", "transformers", "sentence-transformers", "numpy", "scikit-learn"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def command(arguments: argparse.Namespace, piece: Piece) -> str:
    """The command that makes the figures of a part of a data set, with what differs from the defaults."""
    parts = ["python benchmarks/bench_paper.py"]
    if arguments.sizes != "paper":
        parts.append(f"--sizes {arguments.sizes}")
    parts += [f"--{key.replace('_', '-')} {value}" for key in SIZES["paper"]
              if (value := getattr(arguments, key)) is not None]  # fmt: skip
    if (encoders := arguments.encoders) != ["mpnet", "minilm"] and arguments.sizes != "tiny":
        parts.append(f"--encoders {' '.join(encoders)}")
    parts.append(f"--encoder-dtype {arguments.encoder_dtype}")
    if arguments.methods != default_methods(is_tiny=arguments.sizes == "tiny"):
        parts.append(f"--methods {' '.join(arguments.methods)}")
    if arguments.no_paper_fit:
        parts.append("--no-paper-fit")
    if arguments.ablations is not None and piece.part == "ablations":
        parts.append(f"--ablations {' '.join(arguments.ablations)}")
    parts.append(f"--lm {arguments.lm} --seed {arguments.seed} --data {piece.corpus} --part {piece.part}")
    return " ".join(parts)


# --------------------------------------------------------------------------------------------- main


def default_methods(*, is_tiny: bool) -> list[str]:
    """All rivals and controls at temperature 1, and `COOLER` at the other; PICLe only where it can be trained."""
    has_peft = importlib.util.find_spec("peft") is not None
    kept = [method for method in METHODS if method != "picle" or (has_peft and not is_tiny)]
    return [*kept, *(f"{m}@{DRAWING['tau_factor']}" for m in COOLER if m in kept)]


def arguments_of(argv: list[str] | None = None) -> argparse.Namespace:
    """What was asked for, with the defaults of the sizes."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--sizes", choices=SIZES, default="paper")
    parser.add_argument("--data", nargs="+", choices=CORPORA, default=list(CORPORA))
    parser.add_argument("--part", choices=("all", *PARTS), default="all")
    parser.add_argument("--lm", help="default smollm2-135m; fake for tiny sizes")
    parser.add_argument("--encoders", nargs="+", help="of the metrics, headline first (default mpnet minilm)")
    parser.add_argument(
        "--encoder-dtype", choices=("float32", "bfloat16"),
        help="default: bfloat16 where the processor has instructions for it",
    )  # fmt: skip
    parser.add_argument(
        "--methods", nargs="+", help="rivals and controls (default: all; picle only where peft is installed)"
    )
    parser.add_argument(
        "--ablations", nargs="+", metavar="NAME",
        help="versions of MoP with one part changed, beside paper-fit (default: all, and K and N halved)",
    )  # fmt: skip
    parser.add_argument(
        "--no-paper-fit", action="store_true",
        help="leave out the paper's own fit, which takes as long as MoP's",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--shared", type=Path, default=SHARED, help="folder that holds data/ (default ../shared)")
    for key in SIZES["paper"]:
        parser.add_argument(f"--{key.replace('_', '-')}", dest=key, type=int, help=f"default {SIZES['paper'][key]}")
    parser.add_argument("--work", type=Path, help="where the runs lie (default benchmarks/results/paper-SIZES)")
    parser.add_argument("--out", type=Path, help="default benchmarks/results/paper.json")
    parser.add_argument("--docs", type=Path, help="default docs/results.md")
    parser.add_argument("--minutes", type=float, help="begin no further piece after so long")
    parser.add_argument("--pieces", nargs="+", metavar="NAME", help="do only these, e.g. zerogen progen")
    parser.add_argument("--list", action="store_true", help="show the pieces and do none")
    parser.add_argument("--quiet", action="store_true", help="no progress within a piece")
    arguments = parser.parse_args(argv)
    is_tiny = arguments.sizes == "tiny"
    if arguments.methods is None:
        arguments.methods = default_methods(is_tiny=is_tiny)
    arguments.lm = arguments.lm or ("fake" if is_tiny else "smollm2-135m")
    arguments.encoders = arguments.encoders or (["fake"] if is_tiny else ["mpnet", "minilm"])
    if arguments.encoder_dtype is None:
        from mop.backends.local import default_dtype

        is_fast = arguments.lm != "fake" and default_dtype("cpu") == "bfloat16"
        arguments.encoder_dtype = "bfloat16" if is_fast else "float32"
    results = ROOT / "benchmarks" / "results"
    arguments.work = (arguments.work or results / f"paper-{arguments.sizes}").absolute()
    # A trial run must not take the place of real figures.
    arguments.out = arguments.out or (arguments.work / "paper.json" if is_tiny else results / "paper.json")
    arguments.docs = arguments.docs or (arguments.work / "results.md" if is_tiny else ROOT / "docs" / "results.md")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Do the pieces that are not done; the exit code is 0 once all that were asked for are, 3 if time ran out."""
    arguments = arguments_of(argv)
    arguments.work.mkdir(parents=True, exist_ok=True)
    ledger, began = Ledger(arguments.work / "pieces.json"), time.monotonic()
    skipped = {
        name: f"{arguments.shared / 'data' / name} is not there; give --shared or set MOP_SHARED"
        for name in arguments.data
        if not all((arguments.shared / "data" / name / f"{split}.jsonl.gz").is_file() for split in SPLITS)
    }
    for name, reason in skipped.items():
        print(f"{name}: skipped, {reason}", file=sys.stderr)
    if arguments.part != "ablations" and "picle" not in arguments.methods:
        print(f"{NO_PICLE} It needs peft (make .venv/.picle) and a real model.", file=sys.stderr)
    todo = plan(arguments, [name for name in arguments.data if name not in skipped])
    known = {piece.name for piece in todo}
    if todo and (unknown := sorted(set(arguments.pieces or ()) - known)):
        raise ConfigError(f"--pieces: {', '.join(unknown)} is none of: {', '.join(sorted(known))}")
    left = [piece for piece in todo if not ledger.is_done(piece)]
    if arguments.list:
        for piece in todo:
            state = "to do" if piece in left else f"done in {hours(ledger.done[piece.key]['seconds'])}"
            print(f"{piece.key:<32} {state:<16} about {hours(piece.work * ledger.pace())}")
        print(f"left: {hours(sum(piece.work for piece in left) * ledger.pace())}")
        return 0
    chosen = [p for p in left if not arguments.pieces or p.name in arguments.pieces]
    while chosen:
        piece, rest = chosen[0], sum(p.work for p in chosen) * ledger.pace()
        if arguments.minutes is not None and time.monotonic() - began > 60 * arguments.minutes:
            print(f"{len(chosen)} pieces left, next {piece.key}, about {hours(rest)}; same command again")
            return 3
        print(f"{time.strftime('%H:%M')}  {piece.key}: {len(chosen)} pieces left, about {hours(rest)}", flush=True)
        start = time.monotonic()
        do(piece, arguments)
        ledger.finish(piece, time.monotonic() - start, digest_of(piece, arguments))
        chosen = chosen[1:]
        left = [other for other in left if other.key != piece.key]
        if piece.name == "table":  # what is known is on disk early
            document = results(todo, left, skipped, arguments, ledger)
    document = results(todo, left, skipped, arguments, ledger)
    print("| ID | value | aim | against |\n| --- | --- | --- | --- |")
    for name, claim in document["claims"].items():
        value = "–" if claim["value"] is None else f"{claim['value']:+.1f} %"
        print(f"| `{name}` | {value} | {claim['target']:+.0f} % | {claim['against']} |")
    print(f"written: {arguments.out}, {arguments.docs}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except MopError as error:
        sys.exit(f"bench_paper: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; what is done is kept: the same command goes on from there")
