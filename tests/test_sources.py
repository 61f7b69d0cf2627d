"""Reading rows: formats, encodings, damage, limits."""

import gzip
import json
import re
from itertools import pairwise
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mop.data import sources, tables
from mop.data.records import load_records
from mop.data.sources import BadRow, open_source
from mop.errors import DataError, MissingDependencyError


def read(source, *wanted):
    return list(open_source(source).rows(wanted))


def write(path: Path, data: bytes) -> Path:
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


LINES = b'{"x": "a", "y": "b"}\n{"x": "c", "y": "d"}\n'
ROWS = [{"x": "a", "y": "b"}, {"x": "c", "y": "d"}]


@pytest.mark.parametrize(
    ("name", "data", "numbers"),
    [
        ("t.csv", b"x,y\na,b\nc,d\n", [2, 3]),
        ("t.csv", b'\xef\xbb\xbfx,y\r\n"a",b\r\n\r\nc,d', [2, 4]),
        ("t.CSV.gz", b"x,y\na,b\nc,d\n", [2, 3]),
        ("t.tsv", b"x\ty\na\tb\nc\td\n", [2, 3]),
        ("t.tsv.gz", b"x\ty\na\tb\nc\td\n", [2, 3]),
        ("t.jsonl", LINES, [1, 2]),
        ("t.jsonl", b"\xef\xbb\xbf" + LINES.replace(b"\n", b"\r\n\r\n"), [1, 3]),
        ("t.ndjson", LINES.rstrip(), [1, 2]),
        ("t.jsonl.gz", LINES, [1, 2]),
        ("t.json", LINES, [1, 2]),
        ("t.json", json.dumps(ROWS, indent=2).encode(), [1, 2]),
        ("t.json.gz", json.dumps(ROWS).encode(), [1, 2]),
    ],
)
def test_every_text_format_gives_the_same_rows_with_their_numbers(tmp_path, name, data, numbers):
    path = write(tmp_path / name, data)
    assert read(path, "x", "y") == list(zip(numbers, ROWS, strict=True))
    assert read(str(path), "x", "y") == read(path, "x", "y")


def test_parquet_frames_and_lists_give_the_same_rows(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    expected = [(1, ROWS[0]), (2, ROWS[1])]
    assert read(tmp_path / "t.parquet", "x", "y") == expected
    assert read(pd.DataFrame(ROWS), "x", "y") == expected
    assert read(ROWS, "x", "y") == expected
    assert read(iter(ROWS), "x", "y") == expected


def test_only_the_wanted_columns_of_a_table_are_read(tmp_path):
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "t.parquet")
    for source in (tmp_path / "t.parquet", pd.DataFrame(ROWS)):
        assert read(source, "y") == [(1, {"y": "b"}), (2, {"y": "d"})]
        assert read(source) == [(1, {}), (2, {})]


def test_places_are_named_as_a_person_would_look_for_them(tmp_path):
    assert open_source(write(tmp_path / "t.csv", b"x\n1\n")).place(17).endswith("/t.csv:17")
    assert open_source(write(tmp_path / "t.json", b"[]")).place(17).endswith("/t.json row 17")
    assert open_source(ROWS).place(17) == "row 17"


def test_line_separators_inside_a_text_do_not_cut_a_line_of_json(tmp_path):
    text = "one\u2028two\u2029three\x85four\x0bfive\x1csix"
    line = json.dumps({"x": text}, ensure_ascii=False).replace("\\u000b", "\x0b") + "\n"
    path = write(tmp_path / "t.jsonl", json.dumps({"x": text}, ensure_ascii=False).encode() + b"\n")
    assert len(line.splitlines()) > 1
    assert read(path, "x") == [(1, {"x": text})]


def test_a_quoted_cell_may_hold_line_breaks_and_the_numbers_go_on(tmp_path):
    path = write(tmp_path / "t.csv", b'x,y\n"a\nb\r\nc",1\nd,2\n')
    assert read(path, "x") == [(2, {"x": "a\nb\r\nc"}), (5, {"x": "d"})]


def test_a_bad_line_of_json_costs_one_line(tmp_path):
    bad = [
        (b'{"x": "caf\xe9"}', "encoding", "has bytes of another encoding than the rest"),
        (b'{"x": "a"', "bad_json", "is not JSON (Expecting ',' delimiter, character 11)"),
        (b'{"x": "a", "x": "b"}', "repeated_name", "has two fields of the same name"),
        (b'["a"]', "wrong_type", "is a list; a row must be an object with fields"),
        (b'"a"', "wrong_type", "is a str; a row must be an object with fields"),
        (b"[" * 100_000, "bad_json", "is not JSON (nested too deeply)"),
    ]
    good = '{"x": "goöd"}\n'.encode()
    path = write(tmp_path / "t.jsonl", good.join([b"", *(b + b"\n" for b, _, _ in bad), b""]))
    rows = dict(read(path, "x"))
    assert [rows[n] for n in range(1, 14, 2)] == [{"x": "goöd"}] * 7
    for (_, code, message), number in zip(bad, range(2, 14, 2), strict=True):
        row = rows[number]
        assert isinstance(row, BadRow)
        assert row.code == code
        assert row.message.startswith(message)


def test_a_line_without_end_is_skipped(tmp_path):
    long = b"x" * (sources.MAX_LINE + 5)
    path = write(tmp_path / "t.jsonl", long + b'\n{"x": 1}\n')
    (first, bad), second = read(path, "x")
    assert (first, bad.code) == (1, "too_long")
    assert bad.message == "is longer than 16,777,216 characters"
    assert second == (2, {"x": 1})


def test_a_bad_row_of_csv_costs_one_row(tmp_path):
    data = 'x,y\na,"é"\nc\nd,e,f\n"g"h,i\n'.encode() + b'caf\xe9,j\nk,l\n"open,m\n'
    rows = dict(read(write(tmp_path / "t.csv", data), "x"))
    good = {n: row for n, row in rows.items() if not isinstance(row, BadRow)}
    assert good == {2: {"x": "a"}, 5: {"x": '"g"h'}, 7: {"x": "k"}}
    assert rows[3] == BadRow("cells", "has 1 cells where the header has 2; quote cells that hold a separator")
    assert rows[4].message.startswith("has 3 cells where the header has 2")
    assert rows[5].reason.code == "quotes"
    assert rows[6].code == "encoding"
    assert rows[8].message == ("is wrongly quoted (unexpected end of data); double the quotes within a quoted cell")


def test_a_quote_that_is_never_closed_does_not_swallow_the_file(tmp_path):
    good = b"".join(b'x%d,"y"\n' % i for i in range(50_000))
    rows = read(write(tmp_path / "t.csv", b'x,y\n"open,y\n' + good), "x")
    bad = [row for _, row in rows if isinstance(row, BadRow)]
    assert len(bad) == 1
    assert re.match(r"is wrongly quoted \(.*\); lines 3 to \d+ were read again; double the quotes", bad[0].message)
    assert len(rows) == 50_001
    assert rows[-1] == (50_002, {"x": "x49999"})
    assert all(a < b for (a, _), (b, _) in pairwise(rows))


def test_a_stray_quote_costs_its_own_row(tmp_path):
    lines = [b"%d\tfine" % i for i in range(2, 60)]
    lines[20] = b'22\t"Lovely" says the poster'
    lines[30] = b'32\t"Lovely, says the poster'
    lines[40] = b'42\t"Lovely again"'
    rows = dict(read(write(tmp_path / "t.tsv", b"x\ty\n" + b"\n".join(lines)), "x", "y"))
    assert [n for n, row in rows.items() if isinstance(row, BadRow)] == [32]
    assert rows[22] == {"x": "22", "y": '"Lovely" says the poster'}
    assert rows[33] == {"x": "33", "y": "fine"}
    assert rows[42] == {"x": "42", "y": "Lovely again"}
    assert len(rows) == 58


def test_a_quoted_cell_of_several_lines_counts_them(tmp_path):
    path = write(tmp_path / "t.csv", b'x,y\r\n"two\r\nlines",b\r\nc,d"\r\n"e,f\r\n')
    assert [n for n, _ in read(path, "x")] == [2, 4, 5]


def test_text_of_another_encoding_in_an_unwanted_column_still_counts_the_row(tmp_path):
    path = write(tmp_path / "t.csv", "x,y\na,é\n".encode() + b"a,caf\xe9\n")
    assert [row.code for _, row in read(path, "x")[1:]] == ["encoding"]


def test_parquet_text_that_is_not_utf8_is_marked(tmp_path):
    raw = pa.array([b"good", b"caf\xe9", None], pa.binary())
    broken = pa.StringArray.from_buffers(3, raw.buffers()[1], raw.buffers()[2], raw.buffers()[0])
    pq.write_table(pa.table({"x": broken}), tmp_path / "t.parquet")
    assert read(tmp_path / "t.parquet", "x") == [(1, {"x": "good"}), (2, {"x": tables.NOT_UTF8}), (3, {"x": None})]


def test_every_way_pandas_says_missing_becomes_none():
    frame = pd.DataFrame(
        {
            "float": [1.5, float("nan")],
            "int": pd.array([1, None], dtype="Int64"),
            "text": pd.array(["a", None], dtype="string"),
            "category": pd.Categorical(["a", None]),
            "time": pd.to_datetime(["2020-01-01", None]),
        }
    )
    rows = read(frame, *frame.columns)
    assert {k: v for k, v in rows[0][1].items() if k != "time"} == {
        "float": 1.5,
        "int": 1,
        "text": "a",
        "category": "a",
    }
    assert rows[1] == (2, dict.fromkeys(frame.columns))


def test_a_missing_file_is_named_with_the_nearest(tmp_path):
    write(tmp_path / "reviews.csv", b"x\n1\n")
    with pytest.raises(DataError, match=r"there is no file '.*reveiws.csv'.*did you mean '.*reviews.csv'"):
        open_source(tmp_path / "reveiws.csv")
    with pytest.raises(DataError, match=r"there is no file 'no/such.csv'.*check the path"):
        open_source("no/such.csv")
    with pytest.raises(DataError, match=r"is a folder; name one of its files"):
        open_source(tmp_path)


@pytest.mark.parametrize("name", ["t.docx", "t", "t.parquet.gz"])
def test_an_unknown_ending_is_refused(tmp_path, name):
    with pytest.raises(DataError, match=r"has the ending '.*', which is not known; if it is text .* ends in .csv"):
        open_source(write(tmp_path / name, b"x"))


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig"])
def test_wide_encodings_are_recognised(tmp_path, encoding):
    rows = [(2, {"x": "Äpfel", "y": "b"})]
    assert read(write(tmp_path / "t.csv", "x,y\nÄpfel,b\n".encode(encoding)), "x", "y") == rows
    for name, text in (("t.json", '[{"x": "Äpfel", "y": "b"}]'), ("t.jsonl", '{"x": "Äpfel", "y": "b"}\n')):
        assert read(write(tmp_path / name, text.encode(encoding)), "x", "y") == [(1, rows[0][1])]


def test_a_csv_needs_a_readable_header(tmp_path):
    with pytest.raises(DataError, match=r"the header of .*t.csv is missing: the file is empty"):
        open_source(write(tmp_path / "t.csv", b""))
    with pytest.raises(DataError, match=r"the header of .*t.csv has bytes of another encoding than the rest"):
        open_source(write(tmp_path / "t.csv", b"caf\xe9,y\n1," + "é\n".encode()))


def test_a_damaged_gz_is_an_error_at_every_cut(tmp_path):
    whole = gzip.compress(LINES)
    for end in range(len(whole)):
        path = tmp_path / "t.jsonl.gz"
        path.write_bytes(whole[:end])
        if end == 0:
            assert read(path, "x") == []  # an empty file unpacks to nothing
            continue
        expected = r"is damaged: it cannot be unpacked beyond byte" if end > 1 else r"is not packed by gzip"
        with pytest.raises(DataError, match=expected):
            read(path, "x")
    write(tmp_path / "plain.csv", b"x\n1\n").rename(tmp_path / "plain.csv.gz")
    with pytest.raises(DataError, match=r"plain.csv.gz is not packed by gzip; it is plain text"):
        open_source(tmp_path / "plain.csv.gz")


def test_a_gzip_bomb_is_stopped_at_the_limit(tmp_path):
    path = tmp_path / "t.jsonl.gz"
    with gzip.open(path, "wb") as file:
        for _ in range(70):
            file.write(b" " * (2**20 - 1) + b"\n")
    assert path.stat().st_size < 200_000
    with pytest.raises(DataError, match=r"unpacks to more than 67,108,864 bytes.*unpack it yourself"):
        read(path, "x")


def test_a_bad_json_array_is_an_error_without_its_text(tmp_path):
    path = write(tmp_path / "t.json", b'[{"x": "secret"}, {"x": "sec')
    with pytest.raises(DataError, match=r"is not a JSON array \(Unterminated string") as caught:
        read(path, "x")
    assert "sec" not in str(caught.value).replace(str(path), "")
    assert caught.value.__suppress_context__
    with pytest.raises(DataError, match=r"u.json has bytes of another encoding than the rest; set data.encoding"):
        read(write(tmp_path / "u.json", b'[{"x": "\xe9"},\n{"x": "' + "é".encode() + b'"}]'), "x")


def test_a_bad_parquet_file_is_an_error(tmp_path):
    with pytest.raises(DataError, match=r"cannot be read as Parquet; fetch or write it again"):
        open_source(write(tmp_path / "t.parquet", b"PAR1 and no more"))


@pytest.mark.parametrize("source", [None, 3, {"x": ["a"]}, b"t.csv"])
def test_other_objects_are_refused(source):
    with pytest.raises(DataError, match=r"records cannot be read from a \w+; give a path to"):
        open_source(source)


def test_a_series_is_refused():
    with pytest.raises(DataError, match=r"from a pandas Series; pass a DataFrame"):
        open_source(pd.Series(["a"]))


@pytest.mark.parametrize("name", ["hf:imdb", "hf:", "hf:a/b:", "hf:../x", "hf:a/b/c/d"])
def test_a_malformed_hub_name_is_refused(name):
    with pytest.raises(DataError, match=r"does not name a data set; write 'hf:ORG/NAME"):
        open_source(name)


def test_a_hub_name_without_the_package_names_the_extra():
    try:
        import datasets  # noqa: F401
    except ImportError:
        with pytest.raises(MissingDependencyError, match=r"mixture-of-personas\[datasets\]"):
            open_source("hf:stanfordnlp/imdb:test")
    else:
        pytest.skip("the package datasets is installed")


def test_a_data_set_of_the_hub_library_gives_rows_and_class_names():
    datasets = pytest.importorskip("datasets", reason="the package datasets is not installed")
    features = datasets.Features({"x": datasets.Value("string"), "label": datasets.ClassLabel(names=["neg", "pos"])})
    columns = {"x": [f"t{i}" for i in range(2500)], "label": [0, 1, -1, 1, 0] * 500}
    dataset = datasets.Dataset.from_dict(columns, features=features)
    source = open_source(dataset)
    assert source.columns == ("x", "label")
    rows = list(source.rows(("x", "label")))
    assert rows[:3] == [
        (1, {"x": "t0", "label": "neg"}),
        (2, {"x": "t1", "label": "pos"}),
        (3, {"x": "t2", "label": None}),
    ]
    assert rows[-1] == (2500, {"x": "t2499", "label": "neg"})
    assert list(open_source(dataset.to_iterable_dataset()).rows(("x", "label"))) == rows
    with pytest.raises(DataError, match=r"with the splits 'train', 'test'.*dataset\['train'\]"):
        open_source(datasets.DatasetDict(train=dataset, test=dataset))


def test_rows_in_one_field_of_an_object_are_read_and_it_is_said(tmp_path):
    rows = [{"x": "c", "y": f"fine {i}"} for i in range(9)]
    for indent in (None, 2):
        path = tmp_path / "t.json"
        path.write_text(json.dumps({"total": 9, "next": None, "tags": ["a"], "data": rows}, indent=indent))
        found = load_records(path, context="x", response="y")
        assert [record.response for record in found] == [row["y"] for row in rows]
        assert any("are those of its field 'data'" in note for note in found.notes)
    path.write_text(json.dumps({"a": rows, "b": rows}))
    with pytest.raises(DataError):
        load_records(path, context="x", response="y")
