"""Imports run one way; the light parts stay light; every module has its test and nothing can run code from data."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import mop

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "mop"
LAYERS = [
    {"errors"},
    {"types", "redact"},
    {
        "randomness",
        "config",
        "artifacts",
        "curve",
        "interrupts",
        "progress",
        "convert",
        "baselines",
        "baselines.attributes",
    },
    {
        "prompts",
        "store",
        "sources",
        "mixture",
        "metrics",
        "embedded",
        "backends.base",
        "backends.retry",
        "blackbox",
        "baselines.controls",
    },
    {
        "pull",
        "splits",
        "cells",
        "kernel",
        "plots",
        "backends.tree",
        "backends.dialects",
    },
    {
        "data",
        "completion",
        "design",
        "gate",
        "imputation",
        "index",
        "embed",
        "cluster",
        "backends.fake",
        "backends.ledger",
        "backends.forward",
        "backends.lanes",
        "backends.probe",
        "backends.tokens",
    },
    {"em"},
    {
        "backends.decode",
        "backends.link",
        "fake_server",
        "headroom",
        "paper",
        "personas",
        "score",
        "spending",
    },
    {"backends.local", "backends.remote", "coverage", "fitted", "judge", "simulate"},
    {"backends", "fit", "likelihood", "evaluate", "report", "refit", "baselines.redraw"},
    {"gather", "estimator", "doctor", "comparison", "downstream", "baselines.zerogen"},
    {"baselines.attrprompt", "baselines.picle", "baselines.picle_lora", "baselines.progen"},
    {"methods", "given"},
    {"pipeline"},
    {"compare", "sample"},
    {"cli"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FORBIDDEN = {"pickle", "dill", "joblib", "shelve", "marshal"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        name = ".".join(path.relative_to(SRC).with_suffix("").parts)
        name = name.removesuffix(".__init__")
        if name not in {"__init__", "__main__"}:
            found[name] = path
    return found


def imported(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("mop."):
            found.add(node.module.removeprefix("mop."))
        elif isinstance(node, ast.ImportFrom) and node.module == "mop":
            found |= {alias.name for alias in node.names if alias.name in RANK}
        if isinstance(node, ast.ImportFrom) and node.module == "mop.backends":
            inner = {f"backends.{alias.name}" for alias in node.names} & set(RANK)
            found = (found - {"backends"}) | inner if inner else found
    return found


def test_every_module_has_a_layer():
    assert set(modules()) <= set(RANK), "give the new module a layer in LAYERS"


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_down(name):
    for target in imported(modules()[name]):
        assert RANK[target] < RANK[name], f"{name} imports {target}, which is not below it"


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_has_a_test_file(name):
    assert (ROOT / "tests" / f"test_{name.rpartition('.')[2]}.py").is_file()


def test_public_names_are_sorted_and_there():
    assert mop.__all__ == sorted(mop.__all__)
    assert all(hasattr(mop, name) for name in mop.__all__)


@pytest.mark.parametrize(
    "code", ["import mop", "from mop.cli import build_parser; build_parser().format_help()"]
)
def test_the_light_parts_load_no_heavy_package(code):
    heavy = [
        "torch",
        "transformers",
        "sentence_transformers",
        "sklearn",
        "scipy",
        "pyarrow",
        "matplotlib",
        "jinja2",
        "httpx",
        "rich",
    ]
    check = f"{code}\nimport sys\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("name", sorted(modules()))
def test_nothing_can_run_code_from_data(name):
    tree = ast.parse(modules()[name].read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            assert not FORBIDDEN & {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in FORBIDDEN
        elif isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"eval", "exec", "torch.load", "yaml.load"}, called
            assert not any(k.arg == "allow_pickle" for k in node.keywords)
