"""Given splits: which files are found, what is taken of them, and what is refused."""

import json
from collections import Counter
from dataclasses import replace

import pytest

from conftest import reviews
from mop.data.split_files import load_splits, split_files
from mop.errors import ConfigError, DataError


def write(folder, **splits):
    for name, records in splits.items():
        (folder / f"{name}.jsonl").write_text(
            "\n".join(json.dumps({"id": r.key, "x": r.context, "y": r.response, "label": r.label}) for r in records)
        )


COLUMNS = {"context": "x", "response": "y", "label": "label", "key": "id"}
SIZES = {"exemplars": 6, "train": 8, "valid": 4, "test": 4, "golden": 10}


@pytest.fixture
def folder(tmp_path):
    rows = reviews(60)
    write(tmp_path, exemplars=rows[:10], train=rows[10:30], test=rows[30:40], golden=rows[40:])
    return tmp_path


def test_each_split_comes_from_its_file_and_validation_from_train(folder):
    splits, loaded = load_splits(split_files(folder), SIZES, seed=0, **COLUMNS)
    keys = {name: {int(r.key[1:]) for r in records} for name, records in splits.items()}
    assert {name: len(rows) for name, rows in keys.items()} == SIZES
    assert keys["exemplars"] < set(range(10))
    assert keys["train"] | keys["valid"] < set(range(10, 30))
    assert not keys["train"] & keys["valid"]
    assert keys["golden"] < set(range(40, 60))
    assert [len(part.records) for part in loaded] == [10, 20, 10, 20]


def test_shares_of_labels_are_kept(folder):
    splits, _ = load_splits(split_files(folder), SIZES, seed=3, **COLUMNS)
    assert Counter(r.label for r in splits["exemplars"]) == {"good": 3, "bad": 3}


def test_a_smaller_choice_is_part_of_a_larger_one(folder):
    files = split_files(folder)
    large, _ = load_splits(files, SIZES, seed=1, **COLUMNS)
    small, _ = load_splits(files, {**SIZES, "exemplars": 4}, seed=1, **COLUMNS)
    assert {r.key for r in small["exemplars"]} < {r.key for r in large["exemplars"]}
    assert small["train"] == large["train"]


def test_a_folder_without_exemplars_has_no_splits(tmp_path):
    assert split_files(tmp_path) == {}


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path, exemplars=reviews(4), train=reviews(4))
    with pytest.raises(DataError, match="has a file for exemplars but none for test, golden"):
        split_files(tmp_path)


def test_two_files_for_one_split_are_refused(folder):
    (folder / "train.csv").write_text("id,x,y\n")
    with pytest.raises(DataError, match=r"2 files for train: train\.jsonl, train\.csv; keep one"):
        split_files(folder)


def test_too_large_a_size_is_refused_with_both_numbers(folder):
    with pytest.raises(
        ConfigError,
        match=r"20 usable records of .*train.jsonl do not make the splits with data.train = 18 and data.valid = 4",
    ):
        load_splits(split_files(folder), {**SIZES, "train": 18}, seed=0, **COLUMNS)


def test_a_record_in_two_splits_is_refused(folder):
    write(folder, test=reviews(14)[4:])
    with pytest.raises(DataError, match="is in the splits 'exemplars' and 'test'"):
        load_splits(split_files(folder), {**SIZES, "exemplars": 10, "test": 10}, seed=0, **COLUMNS)


def test_a_text_in_two_splits_is_refused_also_under_another_key(folder):
    rows = reviews(60)
    twin = replace(rows[0], key="other", response=rows[0].response + " ")
    write(folder, golden=[twin, *rows[41:]])
    sizes = {**SIZES, "exemplars": 10, "golden": 20}
    with pytest.raises(DataError, match=r"of record '\w+' is in the splits 'exemplars' and 'golden'"):
        load_splits(split_files(folder), sizes, seed=0, duplicates="drop", **COLUMNS)
    for kept in ({}, {"duplicates": "keep"}):  # other keys: other people
        splits, _ = load_splits(split_files(folder), sizes, seed=0, **COLUMNS, **kept)
        assert len(splits["golden"]) == 20


def grouped(rows, n_groups, start):
    return [replace(r, label=f"film {start + i % n_groups}") for i, r in enumerate(rows)]


def test_groups_are_not_divided(tmp_path):
    rows = reviews(60)
    write(
        tmp_path, exemplars=grouped(rows[:10], 3, 0), train=grouped(rows[10:30], 8, 10),
        test=grouped(rows[30:40], 3, 20), golden=grouped(rows[40:], 3, 30),
    )  # fmt: skip
    columns = {**COLUMNS, "label": None, "group": "label"}
    splits, _ = load_splits(split_files(tmp_path), SIZES, seed=0, **columns)
    groups = {name: {r.group for r in records} for name, records in splits.items()}
    assert not groups["train"] & groups["valid"]
    assert len(groups["golden"]) == 3  # a file that is not divided gives records of all its groups
    write(tmp_path, golden=grouped(rows[40:], 3, 1))
    with pytest.raises(DataError, match="the group 'film [12]' is in the splits 'exemplars' and"):
        load_splits(split_files(tmp_path), SIZES, seed=0, **columns)


@pytest.mark.advice
@pytest.mark.parametrize("advice", ["write them so", "without labels"])
def test_a_label_that_only_the_test_file_has_is_refused(folder, advice):
    columns = {**COLUMNS, "label": "label"}
    write(folder, test=[replace(record, label="goood") for record in reviews(60)[30:40]])
    with pytest.raises(DataError, match=r"records of .*test\.jsonl have a label .*'goood' \(.*did you mean 'good'\?\)"):
        load_splits(split_files(folder), SIZES, seed=0, **columns)
    if advice == "write them so":
        write(folder, test=[replace(record, label=" good") for record in reviews(60)[30:40]])
    else:
        columns["label"] = None
    splits, _ = load_splits(split_files(folder), SIZES, seed=0, **columns)
    assert {record.label for record in splits["test"]} == ({"good"} if columns["label"] else {None})


def test_a_label_that_chance_put_into_one_part_of_a_run_is_none_to_refuse(folder):
    write(folder, test=[replace(record, label="rare") for record in reviews(60)[30:40]])
    (folder / "problems.json").write_text("{}")
    splits, _ = load_splits(split_files(folder), SIZES, seed=0, **{**COLUMNS, "label": "label"})
    assert {record.label for record in splits["test"]} == {"rare"}
