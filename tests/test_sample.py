"""Any number of responses from a fitted mixture: which contexts, which model, again after a stop, told plainly."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import quick_run, reviews
from mop.backends.fake import FakeModel
from mop.cli import OK, USAGE, main
from mop.errors import ArtifactError, ConfigError, DataError
from mop.mixture.fitted import load_mixture, save_mixture
from mop.pipeline import run
from mop.runs.sample import drawn_contexts, sample
from mop.runs.verbs import match
from mop.simulate.write import read_responses


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return quick_run(tmp_path_factory.mktemp("sample"), "fit")


def texts(path):
    return [(row.id, row.context, row.response, row.persona) for row in read_responses(path)]


def test_contexts_are_drawn_by_weight_and_the_ith_depends_on_seed_and_i_alone():
    population = [replace(r, weight=w, context=f"Film: {w}.") for r, w in zip(reviews(3), (1.0, 2.0, 5.0), strict=True)]
    many = drawn_contexts(population, 4000, seed=1)
    counts = Counter(record.context for record in many)
    shares = [counts[record.context] / 4000 for record in population]
    np.testing.assert_allclose(shares, [0.125, 0.25, 0.625], atol=0.025)
    assert drawn_contexts(population, 50, seed=1) == many[:50]
    assert drawn_contexts(population, 50, seed=2) != many[:50]
    assert many[0].key == "sample-1"
    assert all(record.response == "" for record in many)
    assert len(drawn_contexts(population, None, seed=1)) == 3


def test_more_responses_begin_with_the_same_ones(finished, tmp_path):
    config, path = finished
    few = sample(config, path, tmp_path / "few.jsonl", n=5)
    many = sample(config, path, tmp_path / "many.jsonl", n=12)
    assert (few["n_responses"], many["n_responses"]) == (5, 12)
    assert texts(tmp_path / "many.jsonl")[:5] == texts(tmp_path / "few.jsonl")
    other = sample(replace(config, seed=9), path, tmp_path / "other.jsonl", n=5)
    assert other["n_responses"] == 5
    assert texts(tmp_path / "other.jsonl") != texts(tmp_path / "few.jsonl")


def test_what_is_drawn_is_not_drawn_again(finished, tmp_path):
    config, path = finished
    drawn = []
    for name in ("first", "again"):
        lm = FakeModel(on_batch=drawn.append)
        found = sample(replace(config, seed=33), path, tmp_path / f"{name}.jsonl", n=4, lm=lm)
        assert found["lm"] == "fake"
        assert sum(drawn) == 4
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "first.jsonl").read_bytes()


def test_given_contexts_are_answered_in_order_and_again_from_the_start(finished, tmp_path):
    config, path = finished
    table = tmp_path / "contexts.csv"
    table.write_text("context\nFilm: Up.\nFilm: Heat.\nFilm: Up.\n")
    found = sample(config, path, tmp_path / "out.jsonl", contexts=table)
    assert found["n_responses"] == 3
    sample(config, path, tmp_path / "more.jsonl", contexts=table, n=7)
    rows = texts(tmp_path / "more.jsonl")
    assert [row[1] for row in rows] == (["Film: Up.", "Film: Heat.", "Film: Up."] * 3)[:7]
    assert rows[:3] == texts(tmp_path / "out.jsonl")
    assert len({row[0] for row in rows}) == 7
    assert len({row[2] for row in rows if row[1] == "Film: Up."}) > 1  # equal contexts, other people


def test_parquet_holds_the_same_rows(finished, tmp_path):
    import pyarrow.parquet as pq

    config, path = finished
    sample(config, path, tmp_path / "out.jsonl", n=3)
    sample(config, path, tmp_path / "out.parquet", n=3)
    rows = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [row["response"] for row in rows] == [row[2] for row in texts(tmp_path / "out.jsonl")]


def test_another_mixture_and_another_model_are_named_for_what_they_are(finished, tmp_path):
    config, path = finished
    own = sample(config, path, tmp_path / "own.jsonl", n=3)
    assert (own["lm"], own["fitted_to"]) == ("fake", "fake")
    match(config, path, samples_per_persona=5, out=tmp_path / "matched")
    found = sample(config, path, tmp_path / "out.jsonl", mixture=tmp_path / "matched", n=3)
    assert found["fitted_to"] == "surrogate: matched embeddings"
    assert found["mixture"] == str(tmp_path / "matched")


def test_the_run_itself_is_left_as_it_was(finished, tmp_path):
    config, path = finished
    sample(config, path, tmp_path / "out.jsonl", n=3)
    again = run(config, path, until="fit")
    assert again["done"] == []


@pytest.mark.parametrize(
    ("more", "kind", "message"),
    [
        ({"out": Path("texts.csv")}, ConfigError, "a .jsonl or .parquet file, got 'texts.csv'"),
        ({"n": 0}, ConfigError, "at least 1, got 0"),
        ({"contexts": "missing.csv"}, DataError, "missing.csv"),
    ],
)
def test_what_cannot_be_done_is_refused(finished, tmp_path, monkeypatch, more, kind, message):
    monkeypatch.chdir(tmp_path)
    config, path = finished
    with pytest.raises(kind, match=message):
        sample(config, path, **{"out": tmp_path / "o.jsonl", **more})


def test_a_mixture_of_another_encoder_is_refused(finished, tmp_path):
    config, path = finished
    fitted = load_mixture(path / "mixture")
    other = replace(fitted, info={**fitted.info, "encoder_identity": "another"})
    save_mixture(other, tmp_path / "mixture")
    with pytest.raises(ConfigError, match="the gates were fitted on embeddings of 'another'"):
        sample(config, path, tmp_path / "o.jsonl", mixture=tmp_path / "mixture")
    assert not (tmp_path / "o.jsonl").exists()


def test_a_folder_without_a_mixture_is_refused(finished, tmp_path):
    config, _ = finished
    with pytest.raises(ArtifactError, match="is not a run folder|no run"):
        sample(config, tmp_path, tmp_path / "o.jsonl")
    assert list(tmp_path.iterdir()) == []


def test_a_file_without_the_columns_names_them(finished, tmp_path):
    config, path = finished
    (tmp_path / "c.csv").write_text("film\nUp\n")
    with pytest.raises(DataError, match="context"):
        sample(config, path, tmp_path / "o.jsonl", contexts=tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("name", "text"), [("c.csv", "context\nUp\nDown\n"), ("c.jsonl", '{"context": "Up"}\n{"context": "Down"}\n')]
)
def test_contexts_may_come_without_labels(finished, tmp_path, name, text):
    config, path = finished
    labelled = replace(config, data=replace(config.data, label="verdict"))
    (tmp_path / name).write_text(text)
    sample(labelled, path, tmp_path / "o.jsonl", contexts=tmp_path / name)
    assert [row.context for row in read_responses(tmp_path / "o.jsonl")] == ["Up", "Down"]


class Named(FakeModel):
    """The toy model under another name."""

    def __init__(self, name):
        super().__init__()
        self._name = name

    @property
    def name(self):
        return self._name


def test_the_runs_own_model_writes_also_when_it_was_changed_after_the_fit(finished, tmp_path, monkeypatch):
    config, path = finished
    changed = replace(config, model=replace(config.model, lm="fake:another"))
    monkeypatch.setattr("mop.runs.work.open_lm", lambda config: Named(config.model.lm))
    sample(changed, path, tmp_path / "o.jsonl", n=3)
    assert {row.model for row in read_responses(tmp_path / "o.jsonl")} == {"fake:another"}


def test_the_verb_says_what_it_wrote(finished, tmp_path, capsys):
    out = tmp_path / "texts.jsonl"
    command = ["sample", str(finished[1]), "-n", "6", "--out", str(out)]
    assert main(command) == OK
    shown = capsys.readouterr().out
    assert shown.startswith(f"{out}: 6 responses by ")
    assert "written by fake\n" in shown
    assert main([*command, "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["n_responses"] == 6
    assert main(["sample", str(finished[1]), "--out", "texts.csv"]) == USAGE
    assert "texts.csv" in capsys.readouterr().err


def test_what_holds_something_else_is_not_written_over(finished, tmp_path):
    config, path = finished
    out = tmp_path / "out.jsonl"
    sample(config, path, out, n=3)
    sample(config, path, out, n=2)  # its own
    assert len(texts(out)) == 2
    (tmp_path / "empty.jsonl").touch()
    sample(config, path, tmp_path / "empty.jsonl", n=1)
    for _ in range(2):
        sample(config, path, path / "mine.jsonl", n=1)  # in the run, yet not of it
    (path / "mine.jsonl").unlink()
    contexts = tmp_path / "c.jsonl"
    contexts.write_text('{"context": "Film?"}\n')
    precious = tmp_path / "precious.parquet"
    precious.write_bytes(b"x")
    for file, more, message in (
        (contexts, {"contexts": contexts}, "holds the contexts that are to be answered"),
        (contexts, {}, "holds something else than responses"),
        (precious, {}, "holds something else than responses"),
        (path / "responses.jsonl", {}, "is a file of the run itself"),
    ):
        before = file.read_bytes() if file.exists() else None
        if before is None:
            file.write_text("x")
        with pytest.raises(ConfigError, match=message):
            sample(config, path, file, n=1, **more)
        assert file.read_bytes() == (before or b"x")
        if before is None:
            file.unlink()
