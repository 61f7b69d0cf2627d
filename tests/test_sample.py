"""Any number of responses from a fitted mixture: which contexts, which model, again after a stop, told plainly."""

import csv
import json
import subprocess
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from conftest import quick_run, reviews
from mop.backends.fake import FakeModel
from mop.cli import FAILED, OK, USAGE, main
from mop.config import resolve_config
from mop.data.records import read_records
from mop.errors import ArtifactError, ConfigError, DataError
from mop.mixture.fitted import load_mixture, save_mixture
from mop.pipeline import run
from mop.runs.sample import drawn_contexts, sample
from mop.runs.verbs import match
from mop.simulate.rows import read_responses


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
        ({"out": Path("texts.xlsx")}, ConfigError, "a .jsonl, .parquet or .csv file, got 'texts.xlsx'"),
        ({"per_class": 0}, ConfigError, "per_class is a number of responses, at least 1, got 0"),
        ({"per_class": 2, "n": 2}, ConfigError, "--per-class says which contexts are answered, and how many"),
        ({"per_class": 2}, ConfigError, "--per-class takes as many contexts of each label, and .* have none"),
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
    assert main(["sample", str(finished[1]), "--out", "texts.doc"]) == USAGE
    assert "texts.doc" in capsys.readouterr().err


def test_what_holds_something_else_is_not_written_over(finished, tmp_path):
    config, path = finished
    out = tmp_path / "out.jsonl"
    sample(config, path, out, n=3)
    assert sample(config, path, out, n=4)["replaced"] == 3  # its own
    assert len(texts(out)) == 4
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


# ------------------------------------------------------------------------- what travels with a context


FILMS = [f"film {i}" for i in range(12)]


@pytest.fixture(scope="module")
def labelled(tmp_path_factory):
    """A run with a key, a weight, a group, labels and a further column."""
    folder = tmp_path_factory.mktemp("labelled")
    with (folder / "people.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["who", "film", "text", "mood", "w", "cinema", "town"])
        for i, r in enumerate(reviews(160)):
            table.writerow([f"P{i:03d}", FILMS[i % 12], r.response, r.label, 1 + i % 3, r.group, f"=town{i % 5}"])
    config = resolve_config(
        preset="quick",
        assignments=[
            f'data.source="{folder / "people.csv"}"', "data.context=A {mood} verdict on {film}.", "data.response=text",
            "data.label=mood", "data.key=who", "data.weight=w", "data.group=cinema", 'data.attributes=["town"]',
            "simulate.same_label=true",
        ],
    )  # fmt: skip
    run(config, folder / "run", until="simulate")
    return config, folder / "run"


def test_what_a_record_came_with_is_in_the_responses_of_the_run(labelled):
    _, path = labelled
    tests = {record.key: record for record in read_records(path / "records" / "test.jsonl")}
    files = [path / "responses.jsonl", path / "responses.parquet", path / "methods" / "zero-shot.jsonl"]
    for file in files:
        for row in read_responses(file):
            record = tests[row.id]
            assert (row.weight, row.group, row.label) == (record.weight, record.group, record.label)
            assert row.attributes == record.attributes
            assert row.attributes["town"].startswith("=town")


def test_drawn_contexts_count_once_and_say_whose_they_are(labelled, tmp_path):
    config, path = labelled
    train = {record.key: record for record in read_records(path / "records" / "train.jsonl")}
    sample(config, path, tmp_path / "out.csv", n=20)
    for i, row in enumerate(read_responses(tmp_path / "out.csv"), start=1):
        record = train[row.attributes["who"]]
        assert (row.id, row.weight, row.group) == (f"sample-{i}", 1.0, record.group)
        assert (row.context, row.label) == (record.context, record.label)
        assert float(row.attributes["w"]) == record.weight
        assert row.attributes["town"] == record.attributes["town"]


def contexts_of(path, rows, names):
    if path.suffix == ".parquet":
        pd.DataFrame(rows, columns=names).to_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *rows])
    else:
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))


NAMES = ["note", "who", "film", "mood", "w", "cinema", "wave", "response", "id"]
ROWS = [
    ["@home", "Q9", "Up", " good", "2.5", "c1", "1", "mine", "7"],
    ["-3", "Q1", "Up", "bad", "1", "c1", "2", "", "8"],
    ["", "Q5", "Heat", "good ", "4", "c2", "3", "yours", "9"],
]


@pytest.mark.trial("07-same-table-other-format")
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("out", ["o.csv", "o.jsonl", "o.parquet"])
def test_a_table_of_contexts_keeps_its_keys_columns_and_order(labelled, tmp_path, suffix, out):
    config, path = labelled
    contexts_of(tmp_path / f"c{suffix}", ROWS, NAMES)
    sample(config, path, tmp_path / out, contexts=tmp_path / f"c{suffix}", n=4)
    found = list(read_responses(tmp_path / out))
    assert [row.id for row in found] == ["Q9", "Q1", "Q5", "Q9/2"]
    assert [row.label for row in found] == ["good", "bad", "good", "good"]
    assert [row.weight for row in found] == [2.5, 1.0, 4.0, 2.5]
    assert [row.group for row in found] == ["c1", "c1", "c2", "c1"]
    assert [row.attributes.get("note") for row in found] == ["@home", "-3", None, "@home"]
    assert [row.attributes.get("given_response") for row in found] == ["mine", None, "yours", "mine"]
    assert [(row.attributes["film"], row.attributes["wave"], row.attributes["given_id"]) for row in found[:3]] == [
        ("Up", "1", "7"), ("Up", "2", "8"), ("Heat", "3", "9"),
    ]  # fmt: skip
    shown = {record.key: record.label for record in load_mixture(path / "mixture").exemplars}
    assert all(shown[key] == row.label for row in found for key in row.exemplar.split())


def test_the_same_context_has_the_same_answer_in_every_format(labelled, tmp_path):
    config, path = labelled
    answers = []
    for suffix in (".csv", ".jsonl", ".parquet"):
        contexts_of(tmp_path / f"c{suffix}", ROWS, NAMES)
        sample(config, path, tmp_path / f"o{suffix}", contexts=tmp_path / f"c{suffix}")
        answers.append([replace(row, attributes={}) for row in read_responses(tmp_path / f"o{suffix}")])
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
def test_a_list_in_a_further_column_is_kept_as_json(labelled, tmp_path, suffix):
    config, path = labelled
    row = {"film": "Up", "mood": "good", "who": "a", "w": 1, "cinema": "c", "tags": ["a", "é"], "n": 2.0}
    rows = [row, {**row, "who": "b", "tags": None}]
    if suffix == ".jsonl":
        (tmp_path / "c.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pd.DataFrame(rows).to_parquet(tmp_path / "c.parquet")
    sample(config, path, tmp_path / "o.csv", contexts=tmp_path / f"c{suffix}")
    first, second = read_responses(tmp_path / "o.csv")
    assert (first.attributes["tags"], first.attributes["n"]) == ('["a", "é"]', "2")
    assert "tags" not in second.attributes


def test_an_empty_context_is_named_and_answered(labelled, tmp_path, caplog):
    config, path = labelled
    contexts_of(tmp_path / "c.csv", [[*ROWS[0][:2], "", *ROWS[0][3:]], ROWS[1]], NAMES)
    sample(config, path, tmp_path / "o.jsonl", contexts=tmp_path / "c.csv")
    assert [row.id for row in read_responses(tmp_path / "o.jsonl")] == ["Q9", "Q1"]
    assert f"1 of the contexts: empty_context ({tmp_path}/c.csv:2); answered as they are" in caplog.text


def test_as_many_of_each_class(labelled, tmp_path):
    config, path = labelled
    found = sample(config, path, tmp_path / "o.jsonl", per_class=5)
    rows = list(read_responses(tmp_path / "o.jsonl"))
    assert found["n_responses"] == 10
    assert Counter(row.label for row in rows) == {"good": 5, "bad": 5}
    assert [row.id for row in rows][::5] == ["class-1-1", "class-2-1"]
    sample(config, path, tmp_path / "more.jsonl", per_class=7)
    assert [r for r in read_responses(tmp_path / "more.jsonl") if r.label == "good"][:5] == rows[5:]
    assert {row.label: "good" in row.context for row in rows} == {"good": True, "bad": False}


def test_of_each_class_without_same_label_says_what_the_exemplars_may_be(labelled, tmp_path, caplog):
    config, path = labelled
    other = replace(config, simulate=replace(config.simulate, same_label=False))
    sample(other, path, tmp_path / "o.jsonl", per_class=1)
    assert "with --set simulate.same_label=true they have the same" in caplog.text


def answered(capsys, *words):
    code = main(["sample", *map(str, words), "--quiet"])
    return code, capsys.readouterr().err


@pytest.mark.advice
@pytest.mark.trial("24-parquet-cut")
@pytest.mark.parametrize("advice", ["another name", "as many"])
@pytest.mark.parametrize("suffix", [".jsonl", ".parquet", ".csv"])
def test_more_responses_than_asked_for_are_not_replaced(labelled, tmp_path, capsys, suffix, advice):
    _, path = labelled
    out = tmp_path / f"out{suffix}"
    assert answered(capsys, path, "-n", 6, "--out", out)[0] == OK
    before = out.read_bytes()
    code, said = answered(capsys, path, "-n", 3, "--out", out)
    assert code == USAGE
    assert "holds 6 responses, and 3 would take their place; give another name, move it away, or ask" in said
    assert out.read_bytes() == before
    if advice == "as many":
        count = said.strip().rpartition(": ")[2].split()
        assert count == ["-n", "6"]
        assert answered(capsys, path, *count, "--out", out)[0] == OK
        assert out.read_bytes() == before
    else:
        assert answered(capsys, path, "-n", 3, "--out", tmp_path / f"other{suffix}")[0] == OK


@pytest.mark.advice
def test_a_folder_that_is_not_there_is_named_with_what_makes_it(labelled, tmp_path, capsys):
    _, path = labelled
    out = tmp_path / "new folder" / "deep" / "o.csv"
    code, said = answered(capsys, path, "-n", 2, "--out", out)
    assert code == USAGE
    assert not (tmp_path / "new folder").exists()
    subprocess.run(said.partition("make it (")[2].partition("), or")[0], shell=True, check=True)
    assert answered(capsys, path, "-n", 2, "--out", out)[0] == OK
    assert len(texts(out)) == 2


@pytest.mark.advice
@pytest.mark.parametrize("advice", ["the nearest", "without labels"])
def test_an_unknown_label_is_refused_with_the_known_ones(labelled, tmp_path, capsys, advice):
    _, path = labelled
    rows = [[*row[:3], mood, *row[4:]] for row, mood in zip(ROWS, ["Good", "goodish", "bad"], strict=True)]
    contexts_of(tmp_path / "c.csv", rows, NAMES)
    command = [path, "--contexts", tmp_path / "c.csv", "--out", tmp_path / "o.jsonl"]
    if advice == "without labels":
        command += ["--set", "data.context=A verdict on {film}."]
    code, said = answered(capsys, *command)
    assert code == FAILED
    assert (
        f"2 of 3 records of {tmp_path}/c.csv have a label that the run never saw: 'Good' (1; did you mean 'good'?), "
        "'goodish' (1; did you mean 'good'?); its labels are 'bad', 'good'; write them so"
    ) in said
    assert not (tmp_path / "o.jsonl").exists()
    if advice == "the nearest":
        contexts_of(tmp_path / "c.csv", [[*row[:3], row[3].replace("Good", "good").replace("ish", ""), *row[4:]]
                                         for row in rows], NAMES)  # fmt: skip
    else:
        command += said.strip().rpartition("leave labels out with ")[2].split()
    assert answered(capsys, *command)[0] == OK
    found = list(read_responses(tmp_path / "o.jsonl"))
    assert [row.label for row in found] == ([None] * 3 if advice == "without labels" else ["good", "good", "bad"])
    if advice == "without labels":
        assert [row.attributes["mood"] for row in found] == ["Good", "goodish", "bad"]


def test_labels_are_not_left_out_where_the_contexts_themselves_show_them(labelled, tmp_path, capsys):
    _, path = labelled
    contexts_of(tmp_path / "c.csv", [[*ROWS[0][:3], "goodish", *ROWS[0][4:]]], NAMES)
    code, said = answered(capsys, path, "--contexts", tmp_path / "c.csv", "--out", tmp_path / "o.jsonl")
    assert code == FAILED
    assert said.strip().endswith("its labels are 'bad', 'good'; write them so")


def test_whoever_writes_peoples_keys_says_in_which_columns(labelled, tmp_path, capsys):
    _, path = labelled
    contexts_of(tmp_path / "c.csv", ROWS, NAMES)
    said = "the columns {} and exemplar hold the keys of real people: leave them out before publishing"
    for options, column in ([("-n", 3), "who"], [("--contexts", tmp_path / "c.csv"), "id"]):
        code = main(["sample", str(path), *map(str, options), "--out", str(tmp_path / f"{column}.jsonl")])
        out = capsys.readouterr().out
        assert (code, out.strip().rpartition("; ")[2]) == (OK, said.format(column))
        row = json.loads((tmp_path / f"{column}.jsonl").read_text().splitlines()[0])
        assert row[column][0] in "PQ"
        assert row["exemplar"].startswith("P")
    about = json.loads((path / "manifest.json").read_text())["about"]
    assert (
        about["contains_keys"] == "data.key = who: people's own keys are in records and mixture, and in all responses"
    )


@pytest.mark.advice
def test_a_key_that_occurs_twice_is_refused(labelled, tmp_path, capsys):
    _, path = labelled
    contexts_of(tmp_path / "c.csv", [ROWS[0], ROWS[1], ROWS[0]], NAMES)
    command = [path, "--contexts", tmp_path / "c.csv", "--out", tmp_path / "o.jsonl"]
    code, said = answered(capsys, *command)
    assert code == FAILED
    assert f"1 of 3 rows of {tmp_path}/c.csv cannot be answered: {tmp_path}/c.csv:4 has the key of" in said
    assert answered(capsys, *command, *said.strip().rpartition("of the content with ")[2].split())[0] == OK
    assert [row.attributes["who"] for row in read_responses(tmp_path / "o.jsonl")] == ["Q9", "Q1", "Q9"]


@pytest.mark.advice
def test_a_row_that_cannot_be_answered_is_named(labelled, tmp_path, capsys):
    _, path = labelled
    contexts_of(tmp_path / "c.csv", [ROWS[0], [*ROWS[1][:4], "none", *ROWS[1][5:]]], NAMES)
    command = [path, "--contexts", tmp_path / "c.csv", "--out", tmp_path / "o.jsonl"]
    code, said = answered(capsys, *command)
    assert code == FAILED
    assert f"{tmp_path}/c.csv:3 has no" in said
    contexts_of(tmp_path / "c.csv", [ROWS[0]], NAMES)
    assert answered(capsys, *command)[0] == OK


def test_contexts_out_of_a_spreadsheet_are_read_as_records_are(labelled, tmp_path):
    config, path = labelled
    lines = ["sep=;", " film ;mood;who;w;cinema;note;;", "Up;good;a;0,5;c1;größer;;", "Heat; bad;b;1,5;c2;;;"]
    (tmp_path / "c.csv").write_bytes("\r\n".join(lines).encode("cp1252"))
    sample(config, path, tmp_path / "o.jsonl", contexts=tmp_path / "c.csv")
    found = list(read_responses(tmp_path / "o.jsonl"))
    assert [(row.id, row.label, row.weight, row.group) for row in found] == [
        ("a", "good", 0.5, "c1"), ("b", "bad", 1.5, "c2"),
    ]  # fmt: skip
    assert [row.context for row in found] == ["A good verdict on Up.", "A bad verdict on Heat."]
    assert [row.attributes.get("note") for row in found] == ["größer", None]
