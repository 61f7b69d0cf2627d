"""Rows in which nobody stands."""

import json

import pandas as pd
import pytest

from mop.data.records import load_records

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
