"""A finished run becomes the values of its report."""

from dataclasses import replace

import pytest

from conftest import reviews
from mop.config import resolve_config
from mop.pipeline import run
from mop.report.report_data import report_data, response_files
from mop.runs.work import read_config
from mop.storage.run_folder import RunFolder


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    import json

    folder = tmp_path_factory.mktemp("gather")
    rows = [{"context": r.context, "response": r.response, "label": r.label} for r in reviews(160)]
    (folder / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = resolve_config(
        preset="quick", assignments=[f'data.source="{folder / "r.jsonl"}"', 'data.label="label"', "data.task=a review"]
    )
    run(config, folder / "run", until="evaluate")
    return folder / "run"


@pytest.fixture(scope="module")
def data(finished):
    with RunFolder.open(finished) as folder:
        return report_data(folder, read_config(finished), versions={"mop": "x"}, spent={"fit": (2, 30)})


def test_the_command_names_the_settings_where_they_are(finished, data, monkeypatch):
    assert data.command == f"mop run NEW_FOLDER --config {finished / 'config.json'}"
    monkeypatch.chdir(finished.parent)
    with RunFolder.open(finished) as folder:
        found = report_data(folder, read_config(finished), versions={}, spent={})
    assert found.command == "mop run NEW_FOLDER --config run/config.json"


def test_records_are_those_that_the_fit_could_pay_for(finished, tmp_path):
    config = read_config(finished)
    fewer = replace(config, fit=replace(config.fit, max_lm_tokens=600))
    run(fewer, tmp_path / "run", until="evaluate")
    with RunFolder.open(tmp_path / "run") as folder:
        found = report_data(folder, fewer, versions={}, spent={})
    assert found.n_records < config.data.train + config.data.valid


def test_persona_weights_are_shares_of_the_population(data):
    assert sum(p.weight for p in data.personas) == pytest.approx(1, abs=1e-4)
    assert all(p.sources for p in data.personas)


def test_exemplar_uses_add_up_to_the_responses(data):
    assert sum(e.uses for e in data.exemplars) == 24


def test_gates_have_a_row_for_all_and_one_for_each_label(data):
    assert data.gate_groups == ["all contexts", "bad", "good"] or data.gate_groups == ["all contexts", "good", "bad"]
    assert data.gates.sum(axis=1) == pytest.approx([1, 1, 1], abs=1e-4)


def test_the_map_shows_real_and_every_method(data):
    assert {p.kind for p in data.map_points} == {"real", "mop", "zero-shot", "mop-uniform"}


def test_the_course_of_a_fit_in_rounds_is_of_records_kept_aside(data):
    assert {"train", "crossed", "crossed_uniform", "crossed_unconditional"} < set(data.history[0])
    assert not any(name.startswith("valid") for row in data.history for name in row)
    assert data.best_step in {row["round"] for row in data.history}


def test_a_draw_that_several_personas_wrote_counts_once_for_all(data):
    assert data.all_outcomes["draws"] == 24


def test_costs_are_told_apart(data):
    assert data.cost["lm_calls"] == 2
    assert (data.cost["scored_tokens"], data.cost["generated_tokens"]) == (30, 0)


def test_the_mixture_comes_first_among_the_methods(finished):
    with RunFolder.open(finished) as folder:
        assert list(response_files(folder, read_config(finished))) == ["mop", "zero-shot", "mop-uniform"]
