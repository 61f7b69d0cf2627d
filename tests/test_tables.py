"""Tables in memory and Parquet; the same table is the same population."""

import datetime
import json
from decimal import Decimal

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import trust.tables
from mop.data import tables
from mop.data.records import load_records
from mop.errors import DataError


@pytest.mark.parametrize("measure", [trust.tables.rows_lost_silently, trust.tables.format_differences])
def test_generated_tables_lose_nobody_and_are_the_same_everywhere(measure):
    found = measure(20, seed=7)
    assert found["value"] == 0, found["examples"]
    assert found["skipped"] == []


def test_the_measures_can_fail():
    def careless(source, **ask):
        found = load_records(source, **ask)
        del found.records[1::5]
        return found

    assert trust.tables.rows_lost_silently(5, load=careless)["value"] > 20

    def by_format(source, **ask):
        return load_records(source, **(ask if isinstance(source, pd.DataFrame) else ask | {"label": None}))

    assert trust.tables.format_differences(5, load=by_format)["value"] >= 4


def in_all_formats(folder, frame):
    """One table as files and in memory."""
    frame.to_csv(folder / "t.csv", index=False)
    frame.to_parquet(folder / "t.parquet")
    frame.to_json(folder / "t.json", orient="records", date_format="iso")
    in_ms = frame.assign(wave=frame["wave"].astype("datetime64[ms]").astype("int64"))  # what date_format="epoch" writes
    in_ms.to_json(folder / "t.jsonl", orient="records", lines=True)
    arrow = pa.Table.from_pandas(frame)
    return {
        "csv": folder / "t.csv", "parquet": folder / "t.parquet", "jsonl": folder / "t.jsonl",
        "json": folder / "t.json", "pandas": frame, "polars": pl.from_arrow(arrow), "arrow": arrow,
        "rows": frame.to_dict("records"),
        "series": [row for _, row in frame.iterrows()], "tuples": list(frame.itertuples()),
    }  # fmt: skip


@pytest.mark.trial("07-same-table-other-format")
@pytest.mark.parametrize(
    ("ask", "context", "response"),
    [
        ({"context": "A person aged {age}", "response": "answer"}, ["A person aged 32", "A person aged "], "good 0"),
        ({"context": "Wave of {wave}", "response": "answer"}, ["Wave of 2024-02-15", "Wave of 2024-02-16"], "good 0"),
        ({"context": "text:Rate it.", "response": "score"}, ["Rate it.", "Rate it."], "1"),
        ({"context": "member", "response": "answer", "label": "age", "group": "score"}, ["true", "false"], "good 0"),
    ],
)
def test_one_table_is_one_population(tmp_path, ask, context, response):
    n = 30
    frame = pd.DataFrame(
        {
            "rid": [f"r{i}" for i in range(n)],
            "age": [None if i % 6 == 1 else 32.0 + i for i in range(n)],
            "wave": pd.to_datetime([f"2024-02-{15 + i % 10}" for i in range(n)]),
            "member": [i % 2 == 0 for i in range(n)],
            "score": [i % 5 + 1 for i in range(n)],
            "answer": [f"good {i}" for i in range(n)],
        }
    )
    found = {name: load_records(source, key="rid", **ask) for name, source in in_all_formats(tmp_path, frame).items()}
    for name, loaded in found.items():
        assert (name, loaded.records, loaded.counts) == (name, found["csv"].records, found["csv"].counts)
    first, second = found["csv"][:2]
    assert [first.context, second.context] == context
    assert (first.response, len(found["csv"])) == (response, n)


@pytest.mark.trial("06-huge-ids")
@pytest.mark.advice
def test_ids_that_a_float_rounded_are_named_and_never_merged(tmp_path):
    ids = [1540000000000000000 + i for i in range(20)]
    rows = [{"author": float(ids[i % 20]) if i % 2 else ids[i % 20], "text": f"post {i}"} for i in range(60)]
    path = tmp_path / "posts.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    found = load_records(path, context="text:A post.", response="text", group="author")
    assert found.counts == {"rounded_id": 30}
    assert {r.group for r in found} == {str(number) for number in ids[::2]}
    assert (
        found.problems[0].message
        == "has a number above 2^53 that a program rounded in 'author'; read the column as text"
    )

    (tmp_path / "posts.csv").write_text(
        "author,text\n" + "".join(f"{ids[i % 20] if i else ''},post {i}\n" for i in range(60))
    )
    rounded = pd.read_csv(tmp_path / "posts.csv")
    for source in (rounded, pa.Table.from_pandas(rounded), pl.from_pandas(rounded)):
        found = load_records(source, context="text:A post.", response="text", group="author")
        assert (len(found), found.counts) == (1, {"rounded_id": 59})
    read_as_text = pd.read_csv(tmp_path / "posts.csv", dtype={"author": str})
    for source in (read_as_text, tmp_path / "posts.csv"):
        found = load_records(source, context="text:A post.", response="text", group="author")
        assert (len(found), len({r.group for r in found})) == (60, 21)  # and who has none


@pytest.mark.trial("09-stata-spss")
@pytest.mark.advice
def test_a_stata_file_is_converted_as_the_message_says(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trust = pd.Categorical.from_codes([0, 1, 2] * 10, ["low", "middle", "high"])
    frame = pd.DataFrame({"trust": trust, "why": [f"because of {i}" for i in range(30)], "wt": [1.0, 0.5, 2.0] * 10})
    frame.to_stata("survey.dta", write_index=False)
    with pytest.raises(DataError, match="survey.dta is not read as it is") as caught:
        load_records("survey.dta", context="trust", response="why")
    assert "rename" not in str(caught.value)
    code = str(caught.value).split('python -c "')[1].split('"')[0]
    exec(code)
    (tmp_path / "renamed.csv").write_bytes((tmp_path / "survey.dta").read_bytes())
    with pytest.raises(DataError, match=r"an? (old )?Stata file \(.dta\)") as caught:
        load_records("renamed.csv", context="trust", response="why")
    exec(str(caught.value).split('python -c "')[1].split('"')[0])
    for source in ("survey.csv", "renamed.csv.csv", pd.read_stata("survey.dta")):
        found = load_records(source, context="Trust: {trust}", response="why", label="trust", weight="wt")
        assert (len(found), found.counts) == (30, {})
        assert (found[0].context, found[2].label, found[1].weight) == ("Trust: low", "high", 0.5)


@pytest.mark.trial("09-stata-spss")
def test_an_spss_file_says_how_to_convert_it(tmp_path):
    (tmp_path / "s.sav").write_bytes(b"$FL2@(#) IBM SPSS STATISTICS")
    with pytest.raises(DataError, match=r"pip install pandas pyreadstat, then python -c .*pandas.read_spss\("):
        load_records(tmp_path / "s.sav", context="a", response="b")


def test_columns_are_read_by_their_types():
    table = pa.table(
        {
            "f": pa.array([0.1, None], pa.float32()),
            "d": pa.array([datetime.date(2024, 2, 15), None]),
            "t": pa.array([datetime.datetime(2024, 2, 15, 10), None], pa.timestamp("ns")),
            "z": pa.array([datetime.datetime(2024, 2, 15, 10, tzinfo=datetime.UTC), None]),
            "c": pa.array(["a", None]).dictionary_encode(),
            "n": pa.array([Decimal("1.50"), None]),
            "b": pa.array([b"text", b"\xff"]),
        }
    )
    (_, first), (_, second) = tables.arrow_rows(table, table.column_names, table.column_names)
    assert first["f"] == 0.1
    assert (first["d"], first["t"][:16], first["c"], first["n"]) == (
        "2024-02-15",
        "2024-02-15 10:00",
        "a",
        Decimal("1.50"),
    )
    assert first["b"] == "text"
    assert second == {**dict.fromkeys(table.column_names), "b": tables.NOT_UTF8}


@pytest.mark.parametrize("make", [pl.Series, pa.array, lambda x: pa.chunked_array([x])])
def test_one_column_is_no_table(make):
    with pytest.raises(DataError, match=r"records cannot be read from a \w+|is a \w+; a row must be"):
        load_records(make(["a"]), context="x", response="y")


@pytest.mark.advice
def test_a_lazy_frame_is_to_be_collected():
    lazy = pl.DataFrame({"x": ["a"], "y": ["b"]}).lazy()
    with pytest.raises(DataError, match=r"from a LazyFrame before it is collected; pass .collect\(\)"):
        load_records(lazy, context="x", response="y")
    assert len(load_records(lazy.collect(), context="x", response="y")) == 1


def test_streams_and_batches_are_tables():
    batch = pa.record_batch({"x": ["a"], "y": ["b"]})
    for source in (batch, pa.RecordBatchReader.from_batches(batch.schema, [batch])):
        assert load_records(source, context="x", response="y")[0].response == "b"


@pytest.mark.advice
def test_a_file_that_unpacks_to_too_much_is_refused_and_read_otherwise(tmp_path, monkeypatch):
    path = tmp_path / "bomb.parquet"
    pq.write_table(
        pa.table({"x": pa.array(["a"]).dictionary_encode().take(pa.array(np.zeros(2_000_000, np.int32)))}), path
    )
    assert path.stat().st_size < 50_000
    with pytest.raises(DataError, match=r"unpacks to 2,000,000 rows from [\d,]+ bytes.*pandas.read_parquet"):
        load_records(path, context="text:x", response="x")
    monkeypatch.setattr(tables, "MAX_UNPACKED_BYTES", 10_000)
    pq.write_table(pa.table({"x": ["a" * 1000] * 5000}), path)
    with pytest.raises(DataError, match=r"unpacks to more than [\d,]+ bytes"):
        load_records(path, context="text:x", response="x")
    found = load_records(pd.read_parquet(path), context="text:x", response="x", duplicates="keep")
    assert len(found) == 5000


def test_a_named_index_is_a_column_as_in_the_files_that_pandas_writes(tmp_path):
    frame = pd.DataFrame({"a": ["x", "y"], "b": ["p", "q"], "k": ["k1", "k2"]}).set_index("k")
    frame.to_parquet(tmp_path / "t.parquet")
    for source in (frame, tmp_path / "t.parquet"):
        assert [r.key for r in load_records(source, context="a", response="b", key="k")] == ["k1", "k2"]


def test_a_table_of_blanks_says_so():
    with pytest.raises(DataError, match=r"none of the 2 rows of the data can be used: 2 blank rows left out"):
        load_records(pd.DataFrame({"a": [None, " "], "b": [np.nan, None]}), context="a", response="b")
