"""How big is the house? Counts of the source, each with its limit.

    python benchmarks/bench_house.py

src_lines         lines of all Python files of the package
fit_lines         those of `mop.mixture` without `score`
settings          leaves of the configuration, each of its sections counted
max_file_lines    of the longest file
files_over_500    files with more than 500 lines
rule_names        names in the order of imports that ``tests/test_architecture.py`` holds
max_args_over_8   functions with more than 8 parameters, ``self`` not counted

Prints a table, writes ``--out`` (``benchmarks/results/house.json``) and fails when a limit is exceeded.
"""

from __future__ import annotations

import argparse
import ast
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mop.config import RunConfig, config_to_dict
from results_file import ROOT, write_results_file

SRC = ROOT / "src" / "mop"
ARCHITECTURE = ROOT / "tests" / "test_architecture.py"
CORE_LINES = 28_000
CAPABILITIES = {
    "any table, the same people in every format": 1_330,
    "identity, sizes and windows through the chain": 1_000,
    "servers that err, lie or change": 1_600,
    "run folders and models from elsewhere": 930,
    "own parts, and the first hour": 1_040,
    "figures that mean what readers take them for": 1_430,
    "the simulated population is the target": 2_600,
}
"""What came after the core: lines that its files may have more than then; 3,000 are a reason to look again."""

LIMITS = {
    "src_lines": CORE_LINES + sum(CAPABILITIES.values()),
    "fit_lines": 3_000,
    "settings": 90,
    "max_file_lines": 900,
    "files_over_500": 15,
    "rule_names": 15,
    "max_args_over_8": 12,
}
MANY_ARGS, LONG_FILE = 8, 500


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Every function and method of a file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def n_parameters(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Parameters by position or by name, those of ``*`` and ``**`` too, but not ``self`` and ``cls``."""
    args = function.args
    named = [*args.posonlyargs, *args.args, *args.kwonlyargs]
    stars = [arg for arg in (args.vararg, args.kwarg) if arg is not None]
    return len([arg for arg in [*named, *stars] if arg.arg not in {"self", "cls"}])


def n_settings(section: Mapping[str, Any]) -> int:
    """Leaves of a configuration."""
    return sum(n_settings(value) if isinstance(value, Mapping) else 1 for value in section.values())


def rule_names() -> int:
    """Length of ``ORDER`` in the architecture test."""
    for node in ast.parse(ARCHITECTURE.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ORDER":
            return len(ast.literal_eval(node.value))
    raise LookupError(f"{ARCHITECTURE} has no ORDER")


def count() -> dict[str, int]:
    """Each figure of `LIMITS`."""
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in sorted(SRC.rglob("*.py"))}
    of_fit = [n for path, n in lines.items() if path.parent.name == "mixture" and path.name != "score.py"]
    return {
        "src_lines": sum(lines.values()),
        "fit_lines": sum(of_fit),
        "settings": n_settings(config_to_dict(RunConfig())),
        "max_file_lines": max(lines.values()),
        "files_over_500": sum(n > LONG_FILE for n in lines.values()),
        "rule_names": rule_names(),
        "max_args_over_8": sum(n_parameters(function) > MANY_ARGS for path in lines for function in functions(path)),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Count, print, write; 1 if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/house.json")
    args = parser.parse_args(argv)
    began, found = time.monotonic(), count()
    for name, value in found.items():
        print(f"{name:<16} {value:>6,}  at most {LIMITS[name]:>6,}{'' if value <= LIMITS[name] else '  EXCEEDED'}")
    claims = {name: {"value": value, "unit": "", "against": f"at most {LIMITS[name]}"} for name, value in found.items()}
    write_results_file(args.out, claims, time.monotonic() - began)
    return int(any(found[name] > limit for name, limit in LIMITS.items()))


if __name__ == "__main__":
    sys.exit(main())
