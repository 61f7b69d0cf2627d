"""What is asked about columns as wholes."""

import pandas as pd
import pytest

from mop.data.records import load_records


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
