"""Nothing lost, nothing misread: what strangers' inputs, crashes and attacks do to a run.

    python benchmarks/bench_trust.py                      # all; about half an hour
    python benchmarks/bench_trust.py --only tables fuzz   # some of the parts below

tests     trials_right, audit_faults, advice_followed: tests of the project that carry a mark, run by pytest
tables    rows_lost_silently, format_differences: generated tables in six formats
fuzz      tracebacks: damaged settings, files, commands, answers of servers, run folders; failing system calls
clients   clients_ok: openai, LangChain and inspect-ai against the fake server
kills     kills_lost (rows lost or altered, files with other bytes), kills_doubled: 300 SIGKILLs at random moments
pace      pace_429: time with 5 % of refusals for load, of the time without

Each part writes its figures to ``--out`` (``benchmarks/results/trust.json``) when it is done, so that parts may be
run one by one; at the end all are printed, and the exit code is 1 if one is beyond its limit.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from mop.storage.files import read_json
from results_file import ROOT, write_results_file

TRIALS = (
    "01-european-excel-csv", "04-backslash-quotes", "06-huge-ids", "07-same-table-other-format", "08-qualtrics-header",
    "09-stata-spss", "13-texts-without-words", "14-metrics-small-n", "15-token-boundary", "16-padding-bf16",
    "17-one-long-text", "18-hosted-temperature", "20-hosted-no-system", "21-thinking-model", "24-parquet-cut",
    "26-report-escaping", "27-terminal-escapes", "28-braces-in-data", "29-foreign-personas", "30-sklearn-protocol",
    "31-openai-clients",
)  # fmt: skip
"""Inputs that failed elsewhere; ``pytest.mark.trial`` names one of these."""

AUDIT = ("H1", "H2", "H3", "H4", "H5", "M2", "M3", "M4", "M5", "M6", "M7", "M8", "M9")
"""Attacks that once succeeded; ``pytest.mark.audit`` names one of these."""

LIMITS: Mapping[str, tuple[str, float]] = {
    "trials_right": ("at least", 1.0),
    "rows_lost_silently": ("at most", 0),
    "tracebacks": ("at most", 0),
    "format_differences": ("at most", 0),
    "advice_followed": ("at least", 40),
    "clients_ok": ("at least", 3),
    "kills_lost": ("at most", 0),
    "kills_doubled": ("at most", 0),
    "audit_faults": ("at least", len(AUDIT)),
    "pace_429": ("at most", 1.5),
}

N_KILLS = 300

Figures = dict[str, dict[str, Any]]


def marked_tests() -> Figures:
    """Run the tests with a mark, and count what they are about."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "tests.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-n", str(os.cpu_count()), "--dist", "loadfile",
                   "-m", "trial or audit or advice", "-p", "trust.marks", f"--junit-xml={report}"]  # fmt: skip
        subprocess.run(command, cwd=ROOT, check=False, env={**os.environ, "OMP_NUM_THREADS": "1"})
        found = outcomes(report)
    right = [name for name in TRIALS if found.get(f"trial {name}") is True]
    closed = [row for row in AUDIT if found.get(f"audit {row}") is True]
    followed = sum(is_right for name, is_right in found.items() if name.startswith("advice "))
    return {
        "trials_right": {"value": len(right) / len(TRIALS), "of": len(TRIALS), "wrong": sorted({*TRIALS} - {*right})},
        "audit_faults": {"value": len(closed), "of": len(AUDIT), "open": sorted({*AUDIT} - {*closed})},
        "advice_followed": {"value": followed},
    }


def outcomes(report: Path) -> dict[str, bool]:
    """What tests were about (``trial NAME``, ``audit ROW``, ``advice TEST``) to whether every test of it passed.

    A test that was skipped, such as one for a GPU, says nothing; what all tests of were skipped is not there.
    """
    found: dict[str, bool] = {}
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is not None:
            continue
        is_right = not any(case.find(tag) is not None for tag in ("failure", "error"))
        for mark in (prop.get("value", "") for prop in case.iter("property") if prop.get("name") == "about"):
            name = f"advice {case.get('classname')}::{case.get('name')}" if mark == "advice" else mark
            found[name] = found.get(name, True) and is_right
    return found


def tables() -> Figures:
    """Broken tables in six formats."""
    from trust.tables import format_differences, rows_lost_silently

    lost, unlike = rows_lost_silently(), format_differences()
    return {"rows_lost_silently": lost, "format_differences": unlike}


def fuzz() -> Figures:
    """Damaged inputs of all kinds."""
    from trust.errnos import inject
    from trust.folders import fuzz_folders
    from trust.fuzz import tracebacks

    kinds = {**tracebacks(), "folders": fuzz_folders(1000, 0), "errnos": inject(500, 0)}
    slips = [{"kind": kind, "slip": slip} for kind, result in kinds.items() for slip in result["tracebacks"]]
    cases = {kind: result["cases"] for kind, result in kinds.items()}
    return {"tracebacks": {"value": len(slips), "of": sum(cases.values()), "cases": cases, "slips": slips[:20]}}


def clients() -> Figures:
    """Real clients."""
    from trust.clients import clients_ok

    found = clients_ok()
    return {"clients_ok": {"value": found["clients_ok"], "clients": found["clients"]}}


def killed() -> Figures:
    """Processes killed at random moments."""
    from trust.kills import kills

    found = kills(N_KILLS)
    of = {"of": found["kills"]}
    return {
        "kills_lost": {"value": found["lost"] + found["altered"] + found["changed"], **of},
        "kills_doubled": {"value": found["doubled"], **of},
    }


def pace() -> Figures:
    """Refusals for load that do not depend on the load."""
    from trust.pace import pace_429

    found = pace_429()
    return {"pace_429": {"value": found.pop("pace_429"), **found}}


PARTS: Mapping[str, Callable[[], Figures]] = {
    "tests": marked_tests, "tables": tables, "fuzz": fuzz, "clients": clients, "kills": killed, "pace": pace,
}  # fmt: skip


def is_met(name: str, value: float) -> bool:
    """Whether a figure keeps its limit."""
    bound, limit = LIMITS[name]
    return value >= limit if bound == "at least" else value <= limit


def _claims(path: Path) -> Figures:
    """Figures of parts that were run before."""
    return dict(read_json(path)["claims"]) if path.is_file() else {}


def main(argv: Sequence[str] | None = None) -> int:
    """Run parts, print all figures that there are; 1 if one is missing or beyond its limit."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/trust.json")
    args = parser.parse_args(argv)
    for part in args.only:
        began = time.monotonic()
        print(f"-- {part}", flush=True)
        found = PARTS[part]()
        seconds = round(time.monotonic() - began)
        claims = _claims(args.out)  # anew: other parts may have been run meanwhile
        for name, figure in found.items():
            bound, limit = LIMITS[name]
            claims[name] = {"unit": "", "against": f"{bound} {limit:g}", **figure, "seconds": seconds}
        write_results_file(args.out, claims, sum(claim["seconds"] for claim in claims.values()))
    for name, (bound, limit) in LIMITS.items():
        claim = claims.get(name)
        value = "not run" if claim is None else f"{claim['value']:g}"
        said = "" if claim is not None and is_met(name, claim["value"]) else "  MISSED"
        print(f"{name:<20} {value:>8}  {bound} {limit:g}{said}")
    return int(not all(name in claims and is_met(name, claims[name]["value"]) for name in LIMITS))


if __name__ == "__main__":
    sys.exit(main())
