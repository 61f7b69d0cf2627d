"""What is asked about columns as wholes."""

import pandas as pd
import pytest

from mop.data.records import load_records
from mop.errors import DataError


def test_labels_that_differ_by_case_are_asked_about():
    table = [{"x": "q", "y": f"a{i}", "l": [" POS", "pos", "neg"][i % 3]} for i in range(9)]
    found = load_records(table, context="x", response="y", label="l")
    assert {r.label for r in found} == {"POS", "pos", "neg"}
    assert found.notes == (
        "labels differ only by case or blanks: 'POS' (3 rows) and 'pos' (3 rows): one label? then spell them alike",
    )


@pytest.mark.advice
def test_answers_that_may_be_codes_are_asked_about():
    frame = pd.DataFrame({"Q23": [1, 2, -1, 2] * 10, "k": range(40)})
    found = load_records(frame, context="text:Q", response="Q23", key="k")
    assert len(found) == 40
    assert "'Q23' has 3 different values, all numbers (-1, 1, 2): are these codes?" in found.notes[0]
    frame["Q23"] = frame["Q23"].map({1: "Yes", 2: "No"})
    found = load_records(frame, context="text:Q", response="Q23", key="k")
    assert (len(found), found.counts, found.notes) == (30, {"empty_response": 10}, ())


def test_different_numbers_are_no_codes():
    assert load_records([{"x": "q", "y": i} for i in range(30)], context="x", response="y").notes == ()


@pytest.mark.advice
def test_words_that_may_mean_nothing_are_asked_about():
    table = [{"x": "NA" if i < 3 else "q", "y": f"a{i}"} for i in range(9)]
    found = load_records(table, context="Of {x}.", response="y")
    assert found[0].context == "Of NA."
    assert found.notes == (
        "'NA' stands in 'x' 3 times and is read as a word; if it means that nothing is known, leave these cells empty",
    )
    found = load_records(
        [row | {"x": ""} if row["x"] == "NA" else row for row in table], context="Of {x}.", response="y"
    )
    assert (found[0].context, found.notes, found.counts) == ("Of .", (), {"empty_context": 3})


def test_days_in_milliseconds_are_dates(tmp_path):
    waves = ["1707955200000", "1709251200000", "null"]  # as pandas writes them
    (tmp_path / "t.jsonl").write_text(
        "".join(f'{{"wave": {w}, "y": "{y}"}}\n' for w, y in zip(waves, "abc", strict=True))
    )
    found = load_records(tmp_path / "t.jsonl", context="Wave of {wave}", response="y")
    assert [r.context for r in found] == ["Wave of 2024-02-15", "Wave of 2024-03-01", "Wave of "]
    assert found.notes == ("'wave' holds milliseconds since 1970 and is read as dates",)


@pytest.mark.advice
@pytest.mark.parametrize("decimal", [".", ","])
def test_weights_that_may_be_thousands_are_asked_about_in_files_of_semicolons_too(tmp_path, decimal):
    path = tmp_path / "w.csv"
    path.write_text("text;w\n" + "".join(f"fine {i};1.1{i:02d}\n" for i in range(20)))
    columns = {"context": "text:Say.", "response": "text", "weight": "w"}
    with pytest.raises(
        DataError, match=r'like 1\.234 throughout: .* data\.decimal = "\."; else set data\.decimal = ","'
    ):
        load_records(path, **columns)
    found = load_records(path, **columns, decimal=decimal)
    assert [record.weight for record in found][:2] == ([1.1, 1.101] if decimal == "." else [1100.0, 1101.0])


@pytest.mark.parametrize(
    ("separator", "weights", "read"),
    [(";", ["2,5", "1.234,5"], [2.5, 1234.5]), (";", ["1.000,5", "1.001,5"], [1000.5, 1001.5]),
     (",", ['"1,234.5"', "2.5"], [1234.5, 2.5]), (",", ['"1,234,567"', "3.25"], [1234567.0, 3.25]),
     (";", ["1 234,5", "7,25"], [1234.5, 7.25])],
)  # fmt: skip
def test_thousands_marks_lose_nobody(tmp_path, separator, weights, read):
    path = tmp_path / "w.csv"
    rows = "".join(f"fine {i}{separator}{weights[i % 2]}\n" for i in range(20))
    path.write_text(f"text{separator}w\n{rows}")
    found = load_records(path, context="text:Say.", response="text", weight="w")
    assert (len(found), found.counts) == (20, {})
    assert [record.weight for record in found][:2] == read
