"""Rows in which nobody stands."""

import json
import re

import pandas as pd
import pytest

from mop.data.records import load_records
from mop.errors import DataError

NAMES = ["StartDate", "ResponseId", "Q1", "Q2_TEXT"]
QUESTIONS = ["Start Date", "Response ID", "Where do you live?", "What would you change?"]
IMPORT_IDS = ['{"ImportId":"startDate"}', '{"ImportId":"_recordId"}', '{"ImportId":"QID1"}', '{"ImportId":"QID2_TEXT"}']


def cells(*rows):
    return "".join(",".join(f'"{cell.replace(chr(34), chr(34) * 2)}"' for cell in row) + "\r\n" for row in rows)


def answers(n, start=0):
    return [[f"2024-05-{i % 28 + 1:02d}", f"R_{i}", "centre", f"more of {i}, please"] for i in range(start, start + n)]


@pytest.mark.trial("08-qualtrics-header")
@pytest.mark.parametrize("columns", [{"key": "ResponseId"}, {}, {"key": "ResponseId", "context": "text:Say."}])
@pytest.mark.parametrize("extra", [[QUESTIONS, IMPORT_IDS], [QUESTIONS], [IMPORT_IDS]])
def test_what_qualtrics_writes_below_the_names_is_no_person(tmp_path, columns, extra):
    path = tmp_path / "export.csv"
    path.write_text(cells(NAMES, *extra, *answers(20)), "utf-8", newline="")
    ask = {"context": "Lives: {Q1}", "response": "Q2_TEXT"} | columns
    for source in (path, pd.read_csv(path), pd.read_csv(path).to_dict("records")):
        found = load_records(source, **ask)
        assert [r.response for r in found] == [row[3] for row in answers(20)]
        assert found.counts == {"header_row": len(extra)}
        assert (found.n_lost, found.n_people, found.n_rows) == (0, 20, 20 + len(extra))
        found.require_clean()


def test_exports_that_were_joined_have_their_headers_again(tmp_path):
    path = tmp_path / "joined.csv"
    parts = [cells(NAMES, QUESTIONS, IMPORT_IDS, *answers(8, 10 * i)) for i in range(3)]
    path.write_text("\ufeff".join(parts), "utf-8")
    found = load_records(path, context="Q1", response="Q2_TEXT", key="ResponseId")
    assert (len(found), found.counts) == (24, {"header_row": 8})


def test_a_person_may_say_the_name_of_a_column(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("question,answer\nanswer,answer\nwhich?,answer\n")
    assert len(load_records(path, context="question", response="answer")) == 2


def test_blank_rows_are_nobody(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\nx,y,z\n,,\n\n , ,\nx,,z\n")
    found = load_records(path, context="a", response="b")
    assert (len(found), found.counts) == (1, {"blank_row": 2, "empty_response": 1})
    assert (found.n_lost, found.n_people) == (1, 2)
    rows = [{"a": "x", "b": "y"}, {"a": None, "b": float("nan")}]
    assert load_records(rows, context="a", response="b").counts == {"blank_row": 1}


def test_an_import_id_in_json_is_no_person(tmp_path):
    path = tmp_path / "t.jsonl"
    rows = [dict(zip(NAMES, row, strict=True)) for row in (QUESTIONS, IMPORT_IDS, *answers(5))]
    path.write_text("\n".join(map(json.dumps, rows)))
    assert load_records(path, context="Q1", response="Q2_TEXT").counts == {"header_row": 2}


BELOW = {
    "surveymonkey": (
        "Respondent ID,Where?,How was it?,Score",
        ",Response,Open-Ended Response,Response",
        "{i},town,fine {i},4",
    ),
    "surveymonkey, words": (
        "Respondent ID,Where?,How was it?,Score",
        ",Response,Open-Ended Response,",
        "r{i},town,fine {i},4",
    ),
    "limesurvey": (
        "id,Where?,q1,Score",
        "Response ID,In which part?,How was it in the end?,Your score",
        "{i},town,fine {i},4",
    ),
    "limesurvey, words": (
        "id,Where?,q1,Score",
        "Response ID,In which part?,How was it?,Your score",
        "r{i},town,fine {i},x{i}",
    ),
}


@pytest.mark.trial("08-qualtrics-header")
@pytest.mark.parametrize("tool", BELOW)
@pytest.mark.parametrize("with_key", [False, True])
def test_what_other_tools_write_below_the_names_is_no_person(tmp_path, tool, with_key):
    names, below, row = BELOW[tool]
    path = tmp_path / "export.csv"
    path.write_text("\n".join([names, below, *(row.format(i=i) for i in range(12))]))
    columns = names.split(",")
    key = {"key": columns[0]} if with_key else {}
    for source in (path, pd.read_csv(path, dtype=str)):
        found = load_records(source, context="Where?", response=columns[2], label="Score", **key)
        assert (len(found), found.counts, found.n_lost) == (12, {"header_row": 1}, 0)
        assert "Response" not in {record.label for record in found}


@pytest.mark.parametrize(
    ("names", "first", "row"),
    [
        ("id,text,age", "0,Why do you ask?,refused", "{i},fine {i},3{i}"),
        ("text,age,town", "Why do you ask?,32,South End", "fine {i},3{i},North"),
        ("text,town", "Is it over?,South End", "fine {i},North"),
        ("id,text,town", ",nothing much to say,North", "r{i},fine {i},North"),
        ("text,age,income", "no idea,refused,refused", "fine {i},3{i},{i}00"),
    ],
)
def test_an_odd_first_person_is_a_person(tmp_path, names, first, row):
    path = tmp_path / "t.csv"
    path.write_text("\n".join([names, first, *(row.format(i=i) for i in range(12))]))
    found = load_records(path, context="text:Say.", response="text")
    assert (len(found), found.counts) == (13, {})


@pytest.mark.parametrize("last", ["Total,120,", "TOTAL:,,x", "Summe,7,x"])
def test_a_last_row_of_totals_is_no_person(tmp_path, last):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["id,text,label", *(f"r{i},fine {i},x" for i in range(9)), last]))
    for source in (path, pd.read_csv(path)):
        found = load_records(source, context="text:Say.", response="text", label="label")
        assert (len(found), found.counts, found.n_lost) == (9, {"totals_row": 1}, 0)


@pytest.mark.parametrize("last", ["Total,every word of it,x", "total,fine,"])
def test_who_says_total_is_a_person(tmp_path, last):
    path = tmp_path / "t.csv"
    path.write_text("\n".join(["answer,text,label", *(f"r{i},fine {i}," for i in range(9)), last]))
    assert len(load_records(path, context="text:Say.", response="text")) == 10


@pytest.mark.advice
def test_lines_before_the_names_are_said_and_can_be_removed(tmp_path):
    path = tmp_path / "t.csv"
    lines = [
        "Export of 2024-01-01",
        "",
        "made by a program; version 3",
        "text,label",
        *(f"fine {i},x" for i in range(9)),
    ]
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match="no column 'text'") as caught:
        load_records(path, context="text:Say.", response="text")
    line = re.search(r"the names stand in line (\d+): remove the lines before it$", str(caught.value))
    assert line is not None
    path.write_text("\n".join(lines[int(line[1]) - 1 :]))
    assert len(load_records(path, context="text:Say.", response="text")) == 9
