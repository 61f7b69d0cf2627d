"""The way of drawing beside a mixture: what it changes, what it leaves to a person, and that nobody else changed it."""

import json
import shutil

import pytest

from mop.config import SimulateConfig, resolve_config
from mop.errors import ArtifactError
from mop.mixture.fitted import save_mixture
from mop.simulate.way import STEPS, as_chosen, is_free, load_with_way, n_pilots, save_way, way_notes
from mop.storage.files import check_of, read_json, write_json

WAY = {"tau_factor": 0.75, "exemplars_per_prompt": 3, "exemplars_from": "similar"}
DRAWING = {
    "way": WAY,
    "n_pilots": 64,
    "n_real": 72,
    "tried": [
        {"way": {}, "distance": 5.0, "embeddings": 4.0, "sense": 6.0, "cut": 0.2, "is_kept": True},
        {
            "way": {"tau_factor": 0.75},
            "distance": 2.0, "embeddings": 3.0, "sense": 1.0, "cut": 0.1, "gain": 3.0, "error": 0.5, "is_kept": False,
        },
    ],
}  # fmt: skip


@pytest.fixture
def folder(small_run, tmp_path):
    save_mixture(small_run.fitted, tmp_path / "mixture")
    return tmp_path / "mixture"


def test_what_was_chosen_is_read_with_the_mixture_and_goes_wherever_it_is_saved(folder, tmp_path):
    assert "drawing" not in load_with_way(folder).info
    save_way(folder, DRAWING)
    fitted = load_with_way(folder)
    assert fitted.info["drawing"]["way"] == WAY
    shutil.copytree(folder, tmp_path / "copy")
    assert load_with_way(tmp_path / "copy").info["drawing"]["way"] == WAY
    save_mixture(fitted, tmp_path / "again")
    assert [file.name for file in sorted((tmp_path / "again").iterdir())] == ["gate.safetensors", "mixture.json"]
    assert load_with_way(tmp_path / "again").info["drawing"]["way"] == WAY


def test_a_new_fit_in_the_same_place_has_no_way_of_drawing(folder, small_run):
    save_way(folder, DRAWING)
    save_mixture(small_run.fitted, folder)
    assert "drawing" not in load_with_way(folder).info


def test_one_that_was_changed_or_is_of_another_mixture_is_refused(folder, small_run, tmp_path):
    path = save_way(folder, DRAWING)
    document = read_json(path)
    write_json(path, {**document, "way": {**WAY, "tau_factor": 0.1}})
    with pytest.raises(ArtifactError, match=r"was changed since it was made.*or remove it to draw from the fitted"):
        load_with_way(folder)
    other = {**document, "mixture": "0" * 64}
    write_json(path, {**other, "check": check_of(other)})
    with pytest.raises(ArtifactError, match="or belongs to another mixture"):
        load_with_way(folder)
    path.write_text("[]")
    with pytest.raises(ArtifactError, match="was changed"):
        load_with_way(folder)


@pytest.mark.parametrize("way", [{"tau_factor": -1}, {"tau_factor": "cold"}, {"max_tokens": 5}, [], None, 3])
def test_one_that_is_none_is_refused_although_its_checks_hold(folder, way):
    save_way(folder, {**DRAWING, "way": way})
    with pytest.raises(ArtifactError, match="the way of drawing of the mixture in .* is damaged"):
        load_with_way(folder)


def test_what_a_person_set_stays(folder):
    save_way(folder, DRAWING)
    fitted = load_with_way(folder)
    assert as_chosen(SimulateConfig(), fitted) == SimulateConfig(**WAY)
    assert as_chosen(SimulateConfig(tau_factor=0.9), fitted).tau_factor == 0.9
    assert as_chosen(SimulateConfig(tau_factor=0.9), fitted).exemplars_per_prompt == 3
    two = as_chosen(SimulateConfig(exemplars_per_prompt=2), fitted)
    assert (two.exemplars_per_prompt, two.exemplars_from, two.tau_factor) == (2, "gates", 0.75)
    assert as_chosen(SimulateConfig(tune=False), fitted) == SimulateConfig(tune=False)
    one = as_chosen(SimulateConfig(), fitted, given=["exemplars_per_prompt"])
    assert (one.exemplars_per_prompt, one.exemplars_from, one.tau_factor) == (1, "gates", 0.75)
    chosen = as_chosen(SimulateConfig(), fitted)
    assert as_chosen(chosen, fitted) == chosen


def test_a_default_that_a_person_writes_is_meant(tmp_path):
    assert resolve_config().simulate.tune
    assert resolve_config(assignments=["simulate.tau_factor=0.8"]).simulate.tune
    assert not resolve_config(assignments=["simulate.tau_factor=1"]).simulate.tune
    assert not resolve_config(assignments=["simulate.same_label=false"]).simulate.tune
    assert resolve_config(assignments=["simulate.tau_factor=1", "simulate.tune=true"]).simulate.tune
    file = tmp_path / "mine.toml"
    file.write_text("[simulate]\nexemplars_per_prompt = 1\n")
    assert not resolve_config(file=file).simulate.tune
    kept = tmp_path / "config.json"  # of a run, where every setting stands
    kept.write_text(json.dumps({"simulate": {"exemplars_per_prompt": 1, "tune": True}}))
    assert resolve_config(file=kept).simulate.tune
    assert not resolve_config(preset="paper").simulate.tune


def test_pilots_are_counted_before_they_are_drawn():
    assert n_pilots(SimulateConfig(), 72) == (5 * 48, 5 * 48 + 72)
    assert n_pilots(SimulateConfig(), 5000) == (5 * 48, 5 * 48 + 200)
    assert n_pilots(SimulateConfig(tau_factor=0.8), 40) == (3 * 40, 3 * 40 + 40)
    assert n_pilots(SimulateConfig(), 31) == (0, 0)
    assert n_pilots(SimulateConfig(tune=False), 72) == (0, 0)
    given = SimulateConfig(tau_factor=0.8, exemplars_per_prompt=2, same_label=True)
    assert n_pilots(given, 72) == (0, 0)


def test_settings_that_are_tried_together_are_all_free_or_none_is():
    similar = next(names for names in STEPS if "exemplars_from" in names)
    assert is_free(SimulateConfig(), similar)
    assert not is_free(SimulateConfig(exemplars_per_prompt=2), similar)
    assert not is_free(SimulateConfig(tune=False), similar)


def test_notes_say_what_was_tried_and_what_it_gave():
    assert way_notes(None) == []
    first, fitted, colder = way_notes(DRAWING)
    assert "64 pilot texts of each way, beside 72 real texts" in first
    assert fitted == "the fitted sampler: 5.00 (embeddings 4.0, sense 6.0); kept."
    assert colder == "tau_factor = 0.75: 2.00 (embeddings 3.0, sense 1.0), nearer by 3.00 ± 0.50; not kept."
