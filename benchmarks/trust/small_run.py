"""A run of the fake model in seconds, copies of it, and a call of the command line in this process."""

from __future__ import annotations

import contextlib
import csv
import io
import shutil
import traceback
from pathlib import Path

WORDS = {
    "good": ["quiet", "loud", "slow", "brave", "odd", "warm", "sharp", "bright", "kind", "calm"],
    "bad": ["dull", "flat", "grey", "long", "cold", "thin", "harsh", "stale", "loose", "empty"],
}
THINGS = ["film", "story", "script", "scene", "actor", "camera", "ending", "pace", "score", "joke"]
SHORT = (
    "fit.n_rounds=1", "fit.n_folds=2", "evaluate.n_bootstrap=10", "evaluate.n_seeds=1", "data.golden=12",
    "data.exemplars=12", "data.train=10", "data.valid=6", "data.test=8", "simulate.n_responses=8",
)  # fmt: skip


def make_source(folder: Path, n: int = 60) -> Path:
    """Film reviews without keys; no two alike."""
    path = folder / "reviews.csv"
    with path.open("w", newline="", encoding="utf-8") as sink:
        rows = csv.writer(sink)
        rows.writerow(["film", "verdict", "text"])
        for i in range(n):
            verdict = ("good", "bad")[i % 2]
            word, thing = WORDS[verdict][i // 2 % 10], THINGS[i // 3 % 10]
            rows.writerow([f"Film {i % 17}", verdict, f"A {word} {thing} that I saw on evening number {i}."])
    return path


def arguments(source: Path) -> list[str]:
    """Options of ``mop run`` that make it small."""
    columns = ('data.context="Film: {film}. Verdict: {verdict}."', "data.response=text", "data.label=verdict")
    sets = (f"data.source={source}", *columns, *SHORT)
    return ["--preset", "quick", *(part for one in sets for part in ("--set", one))]


def make_run(folder: Path) -> Path:
    """A finished run in a folder that is there."""
    run = folder / "base"
    said = call(["run", str(run), *arguments(make_source(folder))])
    if said:
        raise RuntimeError(f"the small run failed: {said}")
    return run


def fresh(base: Path, target: Path) -> Path:
    """A copy of a run, in place of what an earlier case left."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(base, target, symlinks=True)
    return target


def slip_of(error: BaseException) -> str:
    """Kind, words and place of what ended a command and is no message of ours.

    Raises
    ------
    KeyboardInterrupt
        Of the person who runs this.
    """
    if isinstance(error, KeyboardInterrupt):
        raise error
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {str(error)[:200]!r} at {Path(place.filename).name}:{place.lineno}"


def call(argv: list[str]) -> str:
    """What a command of mop ends with if it is no message of ours, as of `slip_of`; empty if all is well."""
    from mop.cli.command import main

    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            main(argv)
    except SystemExit:  # of argparse
        return ""
    except BaseException as error:  # noqa: BLE001 - every traceback is a finding
        return slip_of(error)
    return ""
