"""What the trust benchmark counts: only tests that ran and passed, each case once."""

import subprocess
import sys

import pytest

import bench_trust

TESTS = """
import pytest

@pytest.mark.trial("a")
def test_one(): pass

@pytest.mark.trial("a")
def test_two(): assert False

@pytest.mark.trial("b")
@pytest.mark.audit("H1")
def test_three(): pass

@pytest.mark.audit("H2")
@pytest.mark.skip(reason="not here")
def test_four(): pass

@pytest.mark.advice
@pytest.mark.parametrize("n", range(3))
def test_five(n): assert n < 2

def test_six(): pass
"""


def test_marks_are_counted_by_what_passed(tmp_path):
    (tmp_path / "test_marked.py").write_text(TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers =\n  trial(name): t\n  audit(row): a\n  advice: v\n")
    report = tmp_path / "report.xml"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "trust.marks", f"--junit-xml={report}", str(tmp_path)]
    path = str(bench_trust.ROOT / "benchmarks")
    subprocess.run(command, cwd=tmp_path, env={"PYTHONPATH": path, "PATH": ""}, capture_output=True, check=False)
    found = bench_trust.outcomes(report)
    assert {name: right for name, right in found.items() if not name.startswith("advice")} == {
        "trial a": False, "trial b": True, "audit H1": True,
    }  # fmt: skip
    assert sorted(right for name, right in found.items() if name.startswith("advice")) == [False, True, True]


@pytest.mark.parametrize(
    ("name", "value", "met"),
    [("trials_right", 1.0, True), ("trials_right", 0.95, False), ("pace_429", 1.5, True), ("tracebacks", 1, False)],
)
def test_a_figure_is_held_to_its_limit(name, value, met):
    assert bench_trust.is_met(name, value) is met


def test_parts_are_kept_and_what_is_missing_fails(tmp_path, monkeypatch, capsys):
    out = tmp_path / "trust.json"
    monkeypatch.setitem(bench_trust.PARTS, "pace", lambda: {"pace_429": {"value": 1.2}})
    monkeypatch.setitem(bench_trust.PARTS, "kills", lambda: {"kills_lost": {"value": 0}, "kills_doubled": {"value": 1}})
    assert bench_trust.main(["--only", "pace", "--out", str(out)]) == 1
    assert bench_trust.main(["--only", "kills", "--out", str(out)]) == 1
    said = capsys.readouterr().out
    assert "pace_429                  1.2  at most 1.5\n" in said
    assert "kills_doubled               1  at most 0  MISSED\n" in said
    assert "trials_right          not run  at least 1  MISSED\n" in said
