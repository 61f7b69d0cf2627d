"""A run with one text that no prompt holds: it ends the same whatever the split, and says which text it was."""

import json

import pytest

from conftest import reviews
from mop.backends.fake import FakeModel
from mop.config import resolve_config
from mop.data.records import read_records
from mop.errors import ConfigError, DataError
from mop.estimator import MixtureOfPersonas
from mop.pipeline import run
from mop.runs.sample import sample
from mop.runs.work import Models
from mop.simulate.rows import read_responses
from mop.storage.files import read_json

SIZES = ["data.exemplars=10", "data.train=10", "data.valid=6", "data.test=10", "data.golden=20"]


def source(path, *, long="R11", text="so very long " * 300, n=60):
    rows = [
        {"key": f"R{i}", "context": record.context, "response": text if f"R{i}" == long else f"{record.response} {i}"}
        for i, record in enumerate(reviews(n))
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [f'data.source="{path}"', "data.key=key"]


def go(folder, *assignments, window=1500, until="simulate", **data):
    folder.mkdir(exist_ok=True)
    config = resolve_config(preset="quick", assignments=[*source(folder / "s.jsonl", **data), *SIZES, *assignments])
    models = Models(config, lm=FakeModel(window=window))
    return config, run(config, folder / "run", until=until, models=models), models


@pytest.mark.trial("17-one-long-text")
@pytest.mark.parametrize("seed", range(2))
def test_one_long_text_is_left_out_before_the_split_and_named(tmp_path, seed):
    sizes = [*SIZES[:4], "data.golden=23"]  # all 59 others
    go(tmp_path, *sizes, f"seed={seed}")
    problems = read_json(tmp_path / "run" / "records" / "problems.json")
    assert problems["counts"]["beyond_window"] == 1
    (problem,) = problems["problems"]
    assert problem["place"] == "record 'R11'"
    assert problem["message"].startswith("has 3,9")
    assert problem["message"].endswith(" tokens, and fake takes 1,500 in all")
    assert not problem["is_kept"]
    names = {r.key for part in SIZES for r in read_records(
        tmp_path / "run" / "records" / f"{part.removeprefix('data.').partition('=')[0]}.jsonl")}  # fmt: skip
    assert names == {f"R{i}" for i in range(60)} - {"R11"}


@pytest.mark.trial("17-one-long-text")
@pytest.mark.parametrize("long", ["R3", "R40"])
def test_or_it_is_cut(tmp_path, long):
    sizes = [*SIZES[:4], "data.golden=24"]
    go(tmp_path, *sizes, "data.too_long=cut", long=long)
    parts = [read_records(tmp_path / "run" / "records" / f"{name}.jsonl") for name in
             ("exemplars", "train", "valid", "test", "golden")]  # fmt: skip
    (one,) = [record for part in parts for record in part if record.key == long]
    assert 600 < len(one.response) < 1500
    (problem,) = read_json(tmp_path / "run" / "records" / "problems.json")["problems"]
    assert problem["message"].endswith("in all; cut")
    assert problem["is_kept"]


def test_other_prompts_are_measured_again_and_what_stays_the_same_is_not_made_again(tmp_path):
    config, _, models = go(tmp_path, until="fit")
    longer = resolve_config(file=tmp_path / "run" / "config.json", assignments=["simulate.max_tokens=25"])
    again = run(longer, tmp_path / "run", until="fit", models=models)
    assert (again["done"], again["skipped"]) == (["records"], ["personas", "fit"])
    assert run(longer, tmp_path / "run", until="fit", models=models)["done"] == []
    largest = Models(config, lm=FakeModel(window=20_000))
    run(config, tmp_path / "run", until="records", models=largest)
    assert read_json(tmp_path / "run" / "records" / "problems.json")["problems"] == []


def test_short_texts_open_no_model(tmp_path):
    config = resolve_config(
        preset="quick", assignments=[*source(tmp_path / "s.jsonl", text="short"), *SIZES, "model.lm=./nowhere"]
    )
    assert run(config, tmp_path / "run", until="personas")["done"] == ["records", "personas"]


def test_a_model_that_does_not_know_its_window_is_asked_as_ever(tmp_path):
    _, done, _ = go(tmp_path, window=None)
    assert done["records"]["usable"] == 60


@pytest.mark.advice
def test_a_window_for_nothing_says_what_to_lower(tmp_path):
    with pytest.raises(ConfigError, match=r"up to 1300 \(simulate\.max_tokens\): lower simulate\.max_tokens or"):
        go(tmp_path / "a", "simulate.max_tokens=1300")
    go(tmp_path / "b", "simulate.max_tokens=24")


@pytest.mark.advice
@pytest.mark.parametrize("advice", ["shorten", "cut"])
def test_a_context_that_is_too_long_is_refused_by_name_before_anything_is_drawn(tmp_path, advice):
    config, _, models = go(tmp_path, until="fit")
    rows = [{"context": "A film?", "key": "a"}, {"context": "A film, " * 400, "key": "b"}]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    asked = {"contexts": tmp_path / "c.jsonl", "lm": models.generator}
    with pytest.raises(DataError, match=r"1 of 2 contexts are too long.*'b' \(3,200\); .*--set data\.too_long=cut"):
        sample(config, tmp_path / "run", tmp_path / "o.jsonl", **asked)
    assert not (tmp_path / "o.jsonl").exists()
    if advice == "shorten":
        (tmp_path / "c.jsonl").write_text(json.dumps(rows[0]) + "\n" + json.dumps({"context": "A film", "key": "b"}))
    else:
        config = resolve_config(file=tmp_path / "run" / "config.json", assignments=["data.too_long=cut"])
    sample(config, tmp_path / "run", tmp_path / "o.jsonl", **asked)
    assert [row.id for row in read_responses(tmp_path / "o.jsonl")] == ["a", "b"]


@pytest.mark.trial("17-one-long-text")
def test_the_estimator_leaves_it_out_too(caplog):
    records = [*reviews(30)]
    records[7] = records[7].__class__(key="long", context="c", response="so long " * 400)
    model = MixtureOfPersonas(2, lm=FakeModel(window=1200), encoder="fake").fit(records)
    assert "record 'long' has 3201 tokens, and fake takes 1200 in all: left out" in caplog.text
    assert all(record.key != "long" for record in model.mixture_.exemplars)
    with pytest.raises(DataError, match="contexts are too long"):
        model.sample(["A film? " * 300])
