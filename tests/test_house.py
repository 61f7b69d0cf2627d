"""The house stays small: every figure of ``benchmarks/bench_house.py`` within its limit, and counted right."""

import ast

import pytest

import bench_house


@pytest.mark.parametrize("name", sorted(bench_house.LIMITS))
def test_a_figure_is_within_its_limit(name):
    assert bench_house.count()[name] <= bench_house.LIMITS[name]


def test_parameters_are_counted_without_self():
    tree = ast.parse("class A:\n    def f(self, a, /, b, *c, d=1, **e): ...\nasync def g(): ...\n")
    methods = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {node.name: bench_house.n_parameters(node) for node in methods} == {"f": 5, "g": 0}


def test_settings_are_the_leaves():
    assert bench_house.n_settings({"seed": 0, "data": {"source": "", "more": {"a": 1, "b": [1, 2]}}}) == 4


def test_help_writes_nothing_and_out_is_where_results_go(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_house, "ROOT", tmp_path)
    with pytest.raises(SystemExit):
        bench_house.main(["--help"])
    assert list(tmp_path.iterdir()) == []
    assert bench_house.main(["--out", str(tmp_path / "here.json")]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["here.json"]
