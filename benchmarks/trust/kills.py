"""Kill run, sample, match and compare at random moments until they get through: nothing lost, nothing doubled.

`tests/kills.py` does the killing and the comparing. What is done is kept in a file, so that this can be stopped too.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "tests"))
import kills as killing
from trust.small_run import arguments, fresh, make_run

MODULES = (
    "mop.cli.command", "mop.pipeline", "mop.runs.sample", "mop.runs.compare", "mop.runs.verbs", "mop.estimator",
    "torch", "safetensors.torch", "sklearn.cluster", "sklearn.manifold", "sklearn.linear_model", "scipy.optimize",
    "scipy.linalg", "scipy.sparse", "pyarrow.parquet", "jinja2",
    "matplotlib.backends.backend_svg", "matplotlib.backends.backend_pdf",
)  # fmt: skip
COMPARED = (
    "--set", 'compare.methods=["zero-shot"]', "--set", "compare.n_responses=12", "--set", "compare.n_seeds=1",
    "--set", "compare.ablations=[]",
)  # fmt: skip
FILES = {
    "run": ("personas.jsonl", "records/test.jsonl", "mixture/mixture.json", "mixture/gate.safetensors",
            "responses.jsonl", "methods/zero-shot.jsonl", "metrics.json", "evaluation.json"),
    "sample": ("sample.jsonl",),
    "match": ("mixture-black-box/mixture.json", "mixture-black-box/gate.safetensors"),
    "compare": ("compare/responses/zero-shot.jsonl",),
}  # fmt: skip
"""What an unbroken command and a killed one must have in common, byte for byte."""


def _main(argv: list[str]) -> None:
    """One command of mop, in a child that may be killed; its words go nowhere."""
    from mop.cli.command import main

    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere), contextlib.redirect_stderr(nowhere):  # noqa: PTH123
        code = main([*argv, "--quiet"])
    sys.exit(code)


def run(source: str, path: str) -> None:
    """The whole chain."""
    _main(["run", path, *arguments(Path(source).parent / "reviews.csv")])


def sample(_: str, path: str) -> None:
    """Texts from a finished run."""
    _main(["sample", path, "-n", "1500", "--out", f"{path}/sample.jsonl"])


def match(_: str, path: str) -> None:
    """Persona weights for another model."""
    _main(["match", path, "--samples-per-persona", "250"])


def compare(_: str, path: str) -> None:
    """A finished run against another method."""
    _main(["compare", path, *COMPARED])


WORKS: dict[str, Callable[[str, str], None]] = {"run": run, "sample": sample, "match": match, "compare": compare}


def kills(n: int = 300, seed: int = 0, *, state: Path | None = None) -> dict[str, int]:
    """Kill the four commands n times in all, the longer ones less often.

    Parameters
    ----------
    n, seed : int
    state : Path, optional
        A JSON file of what is done, command by command; what it holds is not done again.

    Returns
    -------
    dict
        ``kills``, ``runs`` (that got through and were compared), ``lost``, ``doubled`` (rows of the store),
        ``altered`` (rows, and costs), ``changed`` (files with other bytes).
    """
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    done: dict[str, dict[str, int]] = json.loads(state.read_text()) if state is not None and state.is_file() else {}
    shares = {"run": n // 6, "compare": n // 6, "sample": n // 3}
    shares["match"] = n - sum(shares.values())
    context = killing.prepare(modules=MODULES)
    with tempfile.TemporaryDirectory(prefix="mop-kills-") as name:
        place = Path(name)
        base = make_run(place)
        for kind, work in WORKS.items():
            if kind in done:
                continue
            folder = place / kind
            folder.mkdir()
            prepare: Callable[[Path], object] = Path.mkdir if kind == "run" else lambda path: fresh(base, path)
            count = killing.kill_again_and_again(
                context, work, str(base), FILES[kind], kills=shares[kind], folder=folder, seed=seed,
                prepare=prepare,
            )  # fmt: skip
            killing.say(count.line(kind))
            done[kind] = {name: value for name, value in asdict(count).items() if isinstance(value, int)}
            shutil.rmtree(folder)
            if state is not None:
                state.write_text(json.dumps(done))
    return {
        name: sum(row[name] for row in done.values())
        for name in ("kills", "runs", "lost", "doubled", "altered", "changed")
    }


if __name__ == "__main__":
    print(json.dumps(kills(int(sys.argv[1]) if len(sys.argv) > 1 else 300)))
