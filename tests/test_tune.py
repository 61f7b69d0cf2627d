"""The way of drawing that is kept: nearer by more than chance, never chosen on what is judged later, and resumable."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

from conftest import reviews
from mop.cli import OK, main
from mop.config import resolve_config
from mop.errors import ArtifactError
from mop.estimator import MixtureOfPersonas
from mop.metrics.distances import energy_distance
from mop.pipeline import run
from mop.randomness import rng_of
from mop.runs.sample import sample
from mop.runs.tune import SIMILAR, Pilot, aimed_factor, search, spread
from mop.runs.verbs import simulate_method
from mop.runs.work import Models, open_work, planned_calls, read_config
from mop.simulate.rows import read_responses
from mop.simulate.way import save_way
from mop.storage.files import read_json
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store

STEPS = [{"tau_factor": 0.75}, {"same_label": True}]


def settings(folder, *more):
    """Enough records of the fit to choose by; half of them have a label that exemplars have."""
    source = folder / "reviews.jsonl"
    rows = [{"context": r.context, "response": r.response, "label": "ab"[i % 2]} for i, r in enumerate(reviews(200))]
    source.write_text("\n".join(map(json.dumps, rows)))
    sizes = ["data.train=30", "data.valid=20", "data.label=label", f'data.source="{source}"']
    return resolve_config(preset="quick", assignments=[*sizes, *more])


@pytest.fixture(scope="module")
def tuned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tune")
    config = settings(folder)
    return config, folder / "run", run(config, folder / "run", until="simulate")


def pilots(**distance):
    """Pilots with planted distances by the names of what they change; each text's part of an error is 0.1 of them."""

    def draw(way):
        name = "_".join(sorted(way)) or "fitted"
        if distance[name] is None:
            return None
        apart = np.full(2, distance[name])
        return Pilot(apart, np.full((2, 100), 0.01) * (1 if way else -1) * apart[:, None])

    return draw


def test_what_is_nearer_by_more_than_its_error_is_kept_and_the_next_is_tried_on_top_of_it():
    way, tried = search(pilots(fitted=9.0, tau_factor=4.0, same_label_tau_factor=3.5), STEPS, -4.0)
    assert way == {"tau_factor": 0.75, "same_label": True}
    assert [row["is_kept"] for row in tried] == [True, True, True]
    assert tried[1]["gain"] == pytest.approx(np.log(9 / 4), abs=1e-4)
    assert tried[1]["error"] == pytest.approx(0.2)  # the square root of 100 × 0.02²
    assert tried[2]["error"] == 0.0  # in common to both


def test_a_second_value_of_what_departs_already_need_only_be_nearer():
    """Errors are those of departures: two temperatures differ from the fitted sampler in the same setting."""

    def draw(way):
        apart = np.full(2, {1.0: 9.0, 0.9: 4.0, 0.8: 3.9}[way.get("tau_factor", 1.0)])
        errors = np.full((2, 100), way.get("tau_factor", 1.0)) * apart[:, None] / 2
        return Pilot(apart, errors)

    way, tried = search(draw, [{"tau_factor": 0.9}, {"tau_factor": 0.8}], -4.0)
    assert way == {"tau_factor": 0.8}
    assert 0 < tried[2]["gain"] < tried[2]["error"]


def test_the_fitted_sampler_stays_unless_another_is_better_by_more_than_chance():
    way, tried = search(pilots(fitted=9.0, tau_factor=7.5, same_label=9.5), STEPS, -4.0)
    assert way == {}
    assert [row["is_kept"] for row in tried] == [True, False, False]
    assert 0 < tried[1]["gain"] < tried[1]["error"]
    assert search(pilots(fitted=9.0, tau_factor=None, same_label=1.0), STEPS, -4.0)[0] == {"same_label": True}
    assert search(pilots(fitted=None), STEPS, -4.0) == ({}, [])


def test_both_distances_count_alike():
    """Halving one is worth as much as halving the other, however large it is."""
    apart = [np.array([9.0, 99.0]), np.array([4.5, 99.0]), np.array([9.0, 49.5])]
    one, two, three = (Pilot(of, np.zeros((2, 1))).distance for of in apart)
    assert one - two == pytest.approx(one - three)


def test_luck_with_what_is_as_near_as_real_texts_hides_no_gain_of_the_other():
    """As measured on shifted news: sense within chance of real texts, embeddings nearer by half."""
    errors = np.stack([np.full(100, 0.1), np.full(100, 0.3)])
    gain, error = Pilot(np.array([13.6, -1.0]), errors).gain(Pilot(np.array([7.3, 0.3]), -errors))
    assert gain == pytest.approx(np.log(13.6 / 7.3) / 2)
    assert error == pytest.approx(10 * (0.1 / 13.6 + 0.1 / 7.3) / 2)


def test_temperatures_are_aimed_at_texts_as_probable_as_real_ones():
    def draw(way):
        factor = way.get("tau_factor", 1.0)
        nats = -4.8 - 5.0 * (factor - 1.0)
        return Pilot(np.array([5.0, 20 * abs(nats + 4.3)]), np.zeros((2, 9)), nats)

    way, tried = search(draw, [None, None], -4.3)
    assert way == {"tau_factor": 0.9}
    assert [row["way"].get("tau_factor") for row in tried] == [None, 0.94, 0.9]
    assert aimed_factor([(1.0, -4.8), (0.9, -5.5)], -4.0) == 0.6  # the wrong way round, then as far as one may
    assert aimed_factor([(1.0, -3.0)], -5.0) == 1.2
    assert aimed_factor([(1.0, -4.05)], -4.0) is None


def test_the_unit_is_the_standard_deviation_between_two_real_samples():
    rng = rng_of(0, "spread")
    everyone = rng.normal(size=(4000, 3))
    apart = [
        energy_distance(*np.split(everyone[rng.permutation(4000)[:100]], [60])).distance for _ in range(400)
    ]  # fmt: skip
    found = spread(everyone[:300]) * (1 / 60 + 1 / 40)
    assert found == pytest.approx(np.std(apart), rel=0.15)
    assert spread(np.zeros((5, 2))) == 1e-12


def test_a_run_chooses_and_says_so(tuned):
    _config, path, result = tuned
    assert "tune" in result["done"]
    told = result["tune"]
    assert told["n_pilots"] == 48
    assert [set(row["way"]) for row in told["tried"][:2]] == [set(), {"tau_factor"}]
    assert any(set(SIMILAR) <= set(row["way"]) for row in told["tried"])
    document = read_json(path / "mixture" / "drawing.json")
    assert document["way"] == told["way"]
    assert document["tried"] == told["tried"]
    assert any("the fitted sampler: " in line for line in told["says"])
    kept = [row["way"] for row in told["tried"] if row["is_kept"]][-1]
    assert kept == told["way"]


def test_pilots_answer_records_of_the_fit_alone_and_are_in_the_store(tuned, tmp_path):
    config, path, result = tuned
    assert 100 < result["tune"]["asked"]["simulate/pilot"][0] <= len(result["tune"]["tried"]) * 48  # some are equal
    (planned,) = planned_calls(config, "tune", "tune")
    assert sum(calls for calls, _ in result["tune"]["asked"].values()) <= planned.calls
    assert planned.max_tokens == config.simulate.max_tokens
    with Store(path / "store.sqlite") as store:
        before = store.spent()["simulate/pilot"]
    (path / "mixture" / "drawing.json").unlink()
    again = run(config, path, until="simulate")
    assert again["done"] == ["tune"]
    assert again["tune"]["tried"] == result["tune"]["tried"]
    with Store(path / "store.sqlite") as store:
        assert store.spent()["simulate/pilot"] == before


def way_in(path, tmp_path, **way):
    """A copy of a run in which pilots chose another way."""
    shutil.copytree(path, tmp_path / "run")
    drawing = {**read_json(path / "mixture" / "drawing.json"), "way": way}
    with RunFolder.create(tmp_path / "run") as folder:
        info = folder.stage_info("tune")
        file = save_way(folder.mixture, {k: v for k, v in drawing.items() if k not in ("check", "mixture")})
        inputs = read_json(folder.manifest)["stages"]["tune"]["inputs"]
        folder.finish_stage("tune", inputs, files=[file], info=info)
    return tmp_path / "run"


def test_every_road_draws_in_the_chosen_way(tuned, tmp_path):
    config, path, _ = tuned
    path = way_in(path, tmp_path, exemplars_per_prompt=3, exemplars_from="similar", tau_factor=0.5)

    def shown(rows):
        return {len(row.exemplar.split()) for row in rows}

    sample(config, path, tmp_path / "out.jsonl", n=4)
    sampled = list(read_responses(tmp_path / "out.jsonl"))
    assert shown(sampled) == {3}
    taus = {p.key: 0.5 * t for p, t in zip(*fitted_taus(config, path), strict=True)}
    assert all(row.temperature == pytest.approx(taus[row.persona]) for row in sampled)
    result = run(config, path, until="simulate")
    assert result["done"] == ["simulate"]
    assert shown(read_responses(path / "responses.jsonl")) == {3}
    assert shown(read_responses(path / "methods" / "mop-uniform.jsonl")) == {3}
    assert {row.exemplar for row in read_responses(path / "methods" / "zero-shot.jsonl")} == {None}
    assert simulate_method(config, path, "mop-uniform")["n_responses"] == 24
    model = MixtureOfPersonas.load(path)
    assert shown(model.sample(["one", "two"])) == {3}
    assert shown(model.sample(["one", "two"], exemplars_per_prompt=1)) == {1}
    model.save(tmp_path / "saved")
    assert shown(MixtureOfPersonas.load(tmp_path / "saved").sample(["one"])) == {3}


def fitted_taus(config, path):
    with open_work(config, path, Models(config), until="records") as work:
        return work.fitted.personas, work.fitted.temperatures.tolist()


def test_one_setting_turns_it_off_for_all_and_for_one_command(tuned, tmp_path):
    _config, path, _ = tuned
    path = way_in(path, tmp_path, exemplars_per_prompt=3, exemplars_from="similar")
    off = settings(tmp_path, "simulate.tune=false")
    sample(off, path, tmp_path / "out.jsonl", n=4)
    assert {len(row.exemplar.split()) for row in read_responses(tmp_path / "out.jsonl")} == {1}
    plain = run(off, tmp_path / "plain", until="simulate")
    assert plain["tune"]["way"] == {}
    assert "simulate/pilot" not in plain["tune"]["asked"]
    assert not (tmp_path / "plain" / "mixture" / "drawing.json").exists()


def test_too_few_records_choose_nothing(tmp_path):
    few = run(settings(tmp_path, "data.train=16", "data.valid=8"), tmp_path / "run", until="tune")["tune"]
    assert few["way"] == {}
    assert few["says"] == ["24 records of the fit are too few to choose a way of drawing by (32)."]


def test_a_file_that_is_missing_or_changed_is_not_passed_over(tuned, tmp_path):
    config, path, _ = tuned
    path = way_in(path, tmp_path, tau_factor=0.75)
    file = path / "mixture" / "drawing.json"
    file.write_text(file.read_text().replace("0.75", "0.1"))
    with pytest.raises(ArtifactError, match=r"drawing\.json: changed since stage 'tune'.*mop tune"):
        sample(config, path, tmp_path / "out.jsonl", n=4)
    file.unlink()
    with pytest.raises(ArtifactError, match=r"drawing\.json: missing from stage 'tune'"):
        sample(config, path, tmp_path / "out.jsonl", n=4)


def test_a_new_fit_draws_as_fitted_until_its_way_is_chosen(tuned, tmp_path, caplog):
    config, path, _ = tuned
    path = way_in(path, tmp_path, exemplars_per_prompt=3, exemplars_from="similar")
    again = replace(config, fit=replace(config.fit, n_rounds=1))
    assert run(again, path, until="fit")["done"] == ["fit"]
    sample(again, path, tmp_path / "out.jsonl", n=4)
    assert {len(row.exemplar.split()) for row in read_responses(tmp_path / "out.jsonl")} == {1}
    assert "mop tune" in caplog.text


def test_the_report_and_the_terminal_name_the_choice(tuned, capsys):
    _config, path, _result = tuned
    assert main(["report", str(path), "--json"]) == OK
    page = (path / "report.html").read_text()
    assert "The way of drawing was chosen by 48 pilot texts of each way" in page
    capsys.readouterr()
    assert main(["tune", str(path)]) == OK
    assert "the fitted sampler: " in capsys.readouterr().out
    assert read_config(path).simulate.tune
