"""Responses in files: every column of their records, no formula for a spreadsheet, the same rows read back."""

import csv
import json

import pytest

from mop.data.records import load_records
from mop.errors import ArtifactError
from mop.simulate.rows import SUFFIXES, holds_responses, read_responses, write_responses
from mop.types import Response, guarded, unguarded


def response(**changes):
    row = {
        "id": "r1",
        "context": "x",
        "response": "y",
        "label": None,
        "persona": None,
        "exemplar": None,
        "temperature": 1.0,
        "log_pi": -0.5,
        "log_omega": 0.0,
        "seed": 2**64 - 1,
        "model": "fake",
        "prompt_version": 1,
        "finish_reason": "stop",
        "n_tokens": 3,
    }
    return Response(**(row | changes))


def test_parquet_has_the_columns_of_a_response_and_equal_rows_give_equal_bytes(tmp_path):
    import pyarrow.parquet as pq

    rows = [response(), response(id="r2", response="line\u2028\x00 漢字")]
    write_responses(tmp_path / "a.parquet", rows)
    write_responses(tmp_path / "b.parquet", iter(rows))
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()
    back = pq.read_table(tmp_path / "a.parquet")
    assert [Response(**row) for row in back.to_pylist()] == rows
    assert str(back.schema.field("persona").type) == "string"  # though it is empty throughout


def test_parquet_of_no_responses_has_the_columns_too(tmp_path):
    import pyarrow.parquet as pq

    write_responses(tmp_path / "a.parquet", [])
    assert pq.read_table(tmp_path / "a.parquet").column_names[:3] == ["id", "context", "response"]


def test_parquet_holds_a_replacement_for_a_lone_surrogate(tmp_path):
    import pyarrow.parquet as pq

    write_responses(tmp_path / "a.parquet", [response(response="a\ud800", context="\udfff")])
    [row] = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert (row["response"], row["context"]) == ("a\ufffd", "\ufffd")


ROWS = [
    response(label="pos", weight=2.5, group="g1", attributes={"age": "32", "=1+1": "-1", "id": "7"}),
    response(id="r2", response='=HYPERLINK("x")', context='a\r\nb,"c"\x00', persona="p0", attributes={"town": "'@x"}),
    response(id="r3", response="", context="-5", exemplar="e1 e2", attributes={"age": "33"}),
]


@pytest.mark.trial("06-huge-ids")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_rows_come_back_with_every_column_as_they_were(tmp_path, suffix):
    path = tmp_path / f"out{suffix}"
    rows = [*ROWS, response(id="19223372036854775807", group="1234567890123456789")]
    assert write_responses(path, rows) == 4
    back = list(read_responses(path))
    renamed = {**rows[0].attributes, "given_id": "7"}
    del renamed["id"]
    assert back[0].attributes == renamed
    assert [row.attributes for row in back[1:]] == [row.attributes for row in rows[1:]]
    plain = [
        Response(**{name: getattr(row, name) for name in Response.__slots__ if name != "attributes"}) for row in rows
    ]
    assert [Response(**{n: getattr(row, n) for n in Response.__slots__ if n != "attributes"}) for row in back] == plain
    assert holds_responses(path) == 4
    again = tmp_path / f"again{suffix}"
    write_responses(again, back)
    assert list(read_responses(again)) == back


@pytest.mark.parametrize(
    "text", ["=1+1", "+cmd|' /C calc'!A0", "@SUM(A1)", "\t=1", "\r=1", "-1+1", "＝1", "'=1", "''+x"]
)
def test_no_cell_of_a_csv_is_a_formula_and_all_come_back(tmp_path, text):
    write_responses(tmp_path / "out.csv", [response(response=text, attributes={text: text})])
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as lines:
        head, row = csv.reader(lines)
    for cell in (head[-1], row[-1], row[head.index("response")]):
        assert cell.startswith("'")
        assert cell[1:] == text
    [back] = read_responses(tmp_path / "out.csv")
    assert (back.response, back.attributes) == (text, {text: text})
    assert unguarded(guarded(text)) == text


@pytest.mark.parametrize("number", ["-1", "+3", "-0.5", "1e-3", "-0,53"])
def test_a_number_is_no_formula(number):
    assert guarded(number) == unguarded(number) == number


def test_a_csv_of_ours_is_a_source_again(tmp_path):
    write_responses(tmp_path / "out.csv", [response(response="=so good", attributes={"town": "-b"}), response(id="r2")])
    loaded = load_records(tmp_path / "out.csv", key="id", attributes=("town",))
    assert [record.response for record in loaded] == ["=so good", "y"]
    assert loaded[0].attributes == {"town": "-b"}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_something_else_is_no_file_of_responses(tmp_path, suffix):
    path = tmp_path / f"mine{suffix}"
    assert holds_responses(path) is None
    path.write_bytes(b"film,text\nUp,good\n")
    assert holds_responses(path) is None
    path.write_bytes(b'{"text": "good"}\n')
    assert holds_responses(path) is None


def test_a_damaged_csv_is_named(tmp_path):
    path = tmp_path / "out.csv"
    write_responses(path, [response()])
    path.write_text(path.read_text().replace(",3,", ",three,"))
    with pytest.raises(ArtifactError, match=r"out\.csv cannot be read as responses: invalid literal"):
        list(read_responses(path))


def test_rows_of_an_earlier_version_are_read(tmp_path):
    old = {n: getattr(response(), n) for n in Response.__slots__ if n not in ("weight", "group", "attributes")}
    (tmp_path / "old.jsonl").write_text(json.dumps(old) + "\n")
    assert list(read_responses(tmp_path / "old.jsonl")) == [response()]
