"""Imports run one way; the light parts stay light; every module has its test and nothing can run code from data."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import mop

ROOT = Path(__file__).parents[1]
SRC = ROOT / "src" / "mop"

BASE = {"errors", "types", "randomness", "config", "prompts", "redact", "progress", "shown", "own_parts", "threads"}
"""Files at the root that everything may import; together they are ``base`` in the order."""

ORDER = (
    "base",
    "storage",
    "data",
    "backends",
    "personas",
    "metrics",
    "mixture",
    "simulate",
    "rivals",
    "evaluate",
    "report",
    "runs",
    "pipeline",
    "estimator",
    "cli",
)
"""A name imports only from those before it."""

FORBIDDEN = {"pickle", "dill", "joblib", "shelve", "marshal"}


def modules() -> dict[str, Path]:
    found = {}
    for path in sorted(SRC.rglob("*.py")):
        parts = path.relative_to(SRC).with_suffix("").parts
        name = ".".join(parts).removesuffix(".__init__")
        if name not in {"__init__", "__main__"}:
            found[name] = path
    return found


def name_of(module: str) -> str:
    first = module.partition(".")[0]
    return "base" if first in BASE else first


def imported(path: Path) -> set[str]:
    """The modules of ours that a file imports, at its top or within a function."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "mop":
            module = (node.module or "").partition(".")[2]
            for alias in node.names:
                inner = f"{module}.{alias.name}".strip(".")
                found.add(inner if inner in modules() else module)
        elif isinstance(node, ast.Import):
            found |= {a.name.partition(".")[2] for a in node.names if a.name.startswith("mop.")}
    return found - {""}


def test_every_module_belongs_to_a_name_of_the_order():
    assert {name_of(module) for module in modules()} == set(ORDER)


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_to_earlier_names(name):
    for target in imported(modules()[name]):
        assert ORDER.index(name_of(target)) <= ORDER.index(name_of(name)), f"{name} imports {target}"


def test_no_modules_import_each_other_in_a_circle():
    faces = {name for name, path in modules().items() if path.name == "__init__.py"}
    graph = {name: imported(path) for name, path in modules().items() if name not in faces}
    assert not faces & set().union(*graph.values()) - {"backends"}, "import the module, not the face"
    TopologicalSorter(graph).prepare()


def test_the_graph_sees_imports_within_functions_too():
    assert "backends.remote" in imported(SRC / "backends" / "__init__.py")


@pytest.mark.parametrize("name", sorted(modules()))
def test_every_module_has_a_test_file_of_its_own_or_its_package(name):
    names = {name.rpartition(".")[2], name.partition(".")[0].replace("runs", "pipeline")}
    is_face = modules()[name].name == "__init__.py"
    assert is_face or any((ROOT / "tests" / f"test_{one}.py").is_file() for one in names)


def test_public_names_are_sorted_and_there():
    assert mop.__all__ == sorted(mop.__all__)
    assert all(hasattr(mop, name) for name in mop.__all__)


@pytest.mark.parametrize("code", ["import mop", "from mop.cli import build_parser; build_parser().format_help()"])
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
