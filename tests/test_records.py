"""Records: templates, problems, keys, round trips."""

import csv
import gzip
import io
import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mop.data.records import MAX_LISTED, load_records, read_records, save_records
from mop.data.values import stripped
from mop.errors import ArtifactError, ConfigError, DataError
from mop.types import Record

KEPT = {"surrogate", "empty_context"}


def pairs(loaded):
    return [(r.context, r.response) for r in loaded.records]


def load(rows, **options):
    return load_records(rows, **({"context": "x", "response": "y"} | options))


def write_csv(path, rows, columns, delimiter=","):
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(columns)
    writer.writerows([row[c] for c in columns] for row in rows)
    data = text.getvalue().encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_jsonl(path, rows, *, ensure_ascii=False):
    lines = [json.dumps(row, ensure_ascii=ensure_ascii) for row in rows]
    data = "".join(line + "\n" for line in lines).encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def write_parquet(path, rows):
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path


# Columns and templates


def test_every_part_of_a_record_comes_from_its_column():
    rows = [{"x": "c", "y": "r", "l": "pos", "id": 7, "w": "2.5", "film": "Up", "age": 41, "z": 0}]
    loaded = load(rows, label="l", key="id", weight="w", group="film", attributes=["age", "l"])
    known = Record(key="7", context="c", response="r", label="pos", weight=2.5, group="Up")
    assert loaded.records == [replace(known, attributes={"age": "41", "l": "pos"})]
    assert set(loaded.records) == {*loaded.records}
    assert (loaded.problems, loaded.counts, loaded.n_rows) == ([], {}, 1)


def test_what_was_not_asked_for_is_not_taken():
    (record,) = load([{"x": "c", "y": "r", "label": "pos", "weight": 3}]).records
    assert (record.label, record.weight, record.group, record.attributes) == (None, 1.0, None, {})


def test_one_name_is_no_list_of_attributes():
    with pytest.raises(ConfigError, match=r"attributes must be a list of column names, got 'age'"):
        load([{"x": "c", "y": "r"}], attributes="age")


def test_a_missing_attribute_is_left_out_and_an_unknown_one_refused():
    loaded = load([{"x": "c", "y": "r", "age": ""}, {"x": "d", "y": "s", "age": 3.0}], attributes=["age"])
    assert [record.attributes for record in loaded.records] == [{}, {"age": "3"}]
    with pytest.raises(DataError, match="attributes"):
        load([{"x": "c", "y": "r", "age": ""}], attributes=["agee"])


def test_a_template_joins_columns_and_never_formats_twice():
    rows = [
        {"film name": "{y} {0.__class__} {{", "year": 1999, "a.b": "%s", "y": "r"},
        {"film name": "Up", "year": 2009.5, "a.b": True, "y": "s"},
    ]
    loaded = load(rows, context="{{Film}}: {film name} ({year}), {a.b}{a.b}")
    assert [r.context for r in loaded.records] == [
        "{Film}: {y} {0.__class__} {{ (1999), %s%s",
        "{Film}: Up (2009.5), truetrue",
    ]


@given(st.lists(st.text(st.characters(codec="utf-8", exclude_characters="\0")), min_size=1))
@settings(max_examples=20, deadline=None)
def test_a_template_equals_plain_joining(texts):
    row = {f"c{i}": text for i, text in enumerate(texts)} | {"y": "r"}
    template = "".join(f"<{{c{i}}}>{{{{" for i in range(len(texts)))
    assert load([row], context=template).records[0].context == "".join(f"<{stripped(t)}>{{" for t in texts)


def test_a_format_specification_is_only_a_column_that_does_not_exist():
    for template in ("{x!r}", "{x:>9}", "{x.__class__}", "{x[0]}", "{0}"):
        with pytest.raises(DataError, match=r"has no column '.*', which context asks for"):
            load([{"x": "c", "y": "r"}], context=template)


@pytest.mark.parametrize("template", ["{", "}", "a{x", "x}b", "{}", "{x}}", "{{x}"])
def test_a_lone_brace_is_refused(template):
    with pytest.raises(ConfigError, match=r"context has a lone '[{}]' at character \d of '.*'; columns"):
        load([{"x": "c", "y": "r"}], context=template)


def test_a_fixed_text_is_the_context_of_every_record():
    loaded = load([{"y": "r"}, {"y": "s"}], context="text: Write a {film} review.")
    assert {r.context for r in loaded.records} == {"Write a {film} review."}


def test_the_name_of_a_column_wins_over_a_template_and_a_fixed_text(tmp_path):
    path = write_csv(tmp_path / "t.csv", [{"{x}": "a", "text:": "b", "y": "r"}], ["{x}", "text:", "y"])
    assert load(path, context="{x}").records[0].context == "a"
    assert load(path, context="text:").records[0].context == "b"


def test_a_wrong_column_is_named_with_the_nearest(tmp_path):
    rows = [{"review": "r", "film": "c"}]
    expected = (
        r"has no column 'reveiw', which response asks for; its columns are 'film', 'review'; "
        r"did you mean 'review'\?"
    )
    with pytest.raises(DataError, match=r"the data " + expected):
        load_records(rows, context="film", response="reveiw")
    path = write_csv(tmp_path / "t.csv", rows, ["film", "review"])
    with pytest.raises(DataError, match=r"t.csv " + expected):
        load_records(path, context="film", response="reveiw")
    with pytest.raises(DataError, match=r"no column 'q', which weight asks for; .*set weight to one of"):
        load_records(path, context="film", response="review", weight="q")


def test_a_column_that_only_some_rows_of_json_have_is_no_error():
    rows = [{"x": "c", "y": f"r{i}"} for i in range(MAX_LISTED + 5)]
    rows.append({"x": "c", "y": "last", "l": "pos"})
    assert [r.label for r in load(rows, label="l").records[-2:]] == [None, "pos"]


def test_a_column_that_is_there_twice_is_refused_only_if_asked_for(tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(b"x,y,z,z\na,b,c,d\n")
    assert pairs(load(path)) == [("a", "b")]
    with pytest.raises(DataError, match=r"has 2 columns named 'z', which label asks for; rename all but one"):
        load(path, label="z")


def test_another_treatment_of_duplicates_is_refused():
    with pytest.raises(ConfigError, match=r"duplicates must be 'auto', 'drop' or 'keep', got 'first'"):
        load([{"x": "c", "y": "r"}], duplicates="first")


def test_records_can_be_counted_in_sets():
    assert len({Record(key="a", context="c", response="r"), Record(key="a", context="c", response="r")}) == 1


# Problems


BAD = [
    ({"x": "c", "y": ""}, "empty_response", "has no text in 'y'"),
    ({"x": "c", "y": " \n\u3000"}, "empty_response", "has no text in 'y'"),
    ({"x": "c", "y": " \u200b\ufeff"}, "empty_response", "has no text in 'y'"),
    ({"x": "c"}, "empty_response", "has no text in 'y'"),
    ({"x": "c", "y": None}, "empty_response", "has no text in 'y'"),
    ({"x": "c", "y": float("nan")}, "empty_response", "has no text in 'y'"),
    ({"x": ["c"], "y": "r"}, "wrong_type", "has a value of type list in 'x'; write text"),
    ({"x": {"c": 1}, "y": "r"}, "wrong_type", "has a value of type dict in 'x'; write text"),
    ({"x": "c", "y": b"r"}, "wrong_type", "has a value of type bytes in 'y'; write text"),
    ({"x": "c", "y": "r\0"}, "nul", "has a NUL character in 'y'; remove it"),
    ({"x": "\0", "y": "r"}, "nul", "has a NUL character in 'x'; remove it"),
    ({"x": "c", "y": "r", "k": "k0"}, "duplicate_key", "has the key of row 1; a key names one record"),
    ({"x": "c", "y": "r", "k": "a b"}, "bad_key", "has a key with white space in it, in 'k'"),
    ({"x": "c", "y": "r", "k": ""}, "missing_value", "has no value for 'k'"),
    ({"x": "c", "y": "r", "k": 1.5e18}, "rounded_id", "has a number above 2^53 that a program rounded in 'k'"),
    ({"x": "c", "y": "r", "k": None}, "missing_value", "has no value for 'k'"),
    *(
        ({"x": "c", "y": "r", "w": w}, "bad_weight", "has no finite number above 0 in 'w'")
        for w in (0, -1, float("nan"), float("inf"), "nan", "a", "", None, True, [1], 10**400, "1_000", "1,5", 10**5000)
    ),
    (["c", "r"], "wrong_type", "is a list; a row must be an object with fields"),
]


@pytest.mark.parametrize(("row", "code", "message"), BAD)
def test_a_bad_row_is_left_out_counted_and_named(row, code, message):
    good = {"x": "c", "y": "good", "k": "k0", "w": 1}
    other = {"x": "c", "y": "other", "k": "k2", "w": 1}
    bad = {"k": "k1", "w": 1} | row if isinstance(row, dict) else row
    loaded = load([good, bad, other], key="k", weight="w")
    assert [r.key for r in loaded.records] == ["k0", "k2"]
    assert loaded.counts == {code: 1}
    (problem,) = loaded.problems
    assert (problem.code, problem.place, problem.is_kept) == (code, "row 2", False)
    assert problem.message.startswith(message)
    with pytest.raises(DataError, match=r"^row 2 .*\(" + code + r"\); with strict, every row must be"):
        loaded.require_clean()


def test_lone_surrogates_are_replaced_and_counted():
    loaded = load([{"x": "a\ud800b\udfff", "y": "r"}, {"x": "c", "y": "\udc80"}, {"x": "😀", "y": "r"}])
    assert pairs(loaded) == [("a\ufffdb\ufffd", "r"), ("c", "\ufffd"), ("😀", "r")]
    assert loaded.counts == {"surrogate": 2}
    assert [p.is_kept for p in loaded.problems] == [True, True]
    assert loaded.problems[0].message == "has lone surrogates (2) in 'x'; replaced by U+FFFD"


def test_surrogates_escaped_in_json_are_replaced_and_pairs_are_one_character(tmp_path):
    path = tmp_path / "t.jsonl"
    path.write_bytes(b'{"x": "\\ud83d\\ude00", "y": "\\ud83d"}\n')
    assert pairs(load(path)) == [("😀", "\ufffd")]


def test_an_empty_context_is_kept_and_counted():
    rows = [{"x": "", "y": "r"}, {"x": " ", "y": "s"}, {"x": None, "y": "t"}, {"x": float("nan"), "y": "u"}]
    loaded = load(rows)
    assert pairs(loaded) == [("", "r"), ("", "s"), ("", "t"), ("", "u")]
    assert loaded.counts == {"empty_context": 4}
    assert loaded.problems[0].message == "has no text in 'x'; kept as it is"


def test_files_are_named_with_the_line(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_bytes('x,y\n"two\nlines",é\nc,\n'.encode() + b"c,caf\xe9\n")
    loaded = load(path)
    assert [p.place for p in loaded.problems] == [f"{path}:4", f"{path}:5"]
    assert loaded.counts == {"empty_response": 1, "encoding": 1}
    with pytest.raises(DataError, match=r"reviews.csv:4 has no text in 'y' \(empty_response\); with strict"):
        loaded.require_clean()
    load([{"x": "c", "y": "r"}]).require_clean()


def test_parquet_text_that_is_not_utf8_leaves_out_its_row(tmp_path):
    raw = pa.array([b"good", b"caf\xe9"], pa.binary()).buffers()
    broken = pa.StringArray.from_buffers(2, raw[1], raw[2])
    pq.write_table(pa.table({"x": ["c", "c"], "y": broken}), tmp_path / "t.parquet")
    loaded = load(tmp_path / "t.parquet")
    assert pairs(loaded) == [("c", "good")]
    assert loaded.problems[0].place == f"{tmp_path / 't.parquet'} row 2"
    assert loaded.counts == {"encoding": 1}


def test_a_problem_never_holds_the_text_of_the_row(tmp_path):
    secret = "Rosebud"
    rows = [
        {"x": secret, "y": ""},
        {"x": secret, "y": secret + "\0"},
        {"x": [secret], "y": secret},
        {"x": secret, "y": secret, "w": secret},
        {"x": secret, "y": secret, "w": 1},
        {"x": secret, "y": secret, "w": 1},
    ]
    path = write_jsonl(tmp_path / "t.jsonl", rows)
    broken = f'{{"x": "{secret}", "{secret}": 1, "{secret}": 2}}\n{{"x": "{secret}'
    path.write_bytes(path.read_bytes() + broken.encode() + b"\xff\n" + broken.encode() + "\né\n".encode())
    loaded = load(path, weight="w", duplicates="drop")
    assert len(loaded.records) == 1
    assert len(loaded.problems) == 10
    assert secret not in repr(loaded.problems)
    assert secret not in repr(loaded)


def test_every_row_is_a_record_or_has_the_one_problem_that_left_it_out():
    rows = [row for row, _, _ in BAD] * 3
    loaded = load(rows)
    left_out = sum(n for code, n in loaded.counts.items() if code not in KEPT)
    assert len(loaded.records) + left_out == loaded.n_rows == len(rows)


def test_long_lists_of_problems_are_cut_and_counts_are_not():
    rows = [{"x": "c", "y": ""}] * (MAX_LISTED + 10) + [{"x": "c", "y": "r"}]
    loaded = load(rows)
    assert len(loaded.problems) == MAX_LISTED
    assert loaded.counts == {"empty_response": MAX_LISTED + 10}


def test_no_usable_row_is_an_error_with_the_counts(tmp_path):
    with pytest.raises(DataError, match=r"none of the 3 rows .* 3 of 3 rows left out, for empty_response 2, "):
        load([{"x": "c", "y": ""}, {"x": "c", "y": ""}, {"x": "c", "y": [3]}])
    path = tmp_path / "t.csv"
    path.write_bytes(b"x,y\n")
    with pytest.raises(DataError, match=r"t.csv has no rows; at least one is needed; check that it is"):
        load(path)
    with pytest.raises(DataError, match=r"the data has no rows; at least one is needed"):
        load([])
    path.with_suffix(".jsonl").write_bytes(b"x,y\na,b\n")
    with pytest.raises(DataError, match=r"none of the 2 rows .* \(first .*t.jsonl:1, which is not JSON"):
        load(path.with_suffix(".jsonl"))


# Keys and duplicates


@pytest.mark.audit("H4")
def test_a_derived_key_depends_on_context_and_group_alone_and_never_on_what_a_person_wrote():
    rows = [{"x": f"c{i // 2}", "y": f"r{i}", "g": i % 2, "l": i} for i in range(100)]
    forward = {r.response: r.key for r in load(rows, group="g").records}
    backward = {r.response: r.key for r in load(rows[::-1], group="g", label="l").records}
    assert forward == backward
    assert len(set(forward.values())) == 100
    assert all(len(key) == 16 and set(key) <= set("0123456789abcdef") for key in forward.values())
    others = load([{**row, "y": "something else"} for row in rows], group="g", duplicates="keep").records
    assert [r.key for r in others] == list(forward.values())


def test_records_of_one_context_and_group_are_numbered_as_they_come():
    keys = [r.key for r in load([{"x": "c", "y": f"r{i}"} for i in range(3)]).records]
    assert keys == [keys[0], f"{keys[0]}-2", f"{keys[0]}-3"]


def test_texts_do_not_run_into_each_other_in_a_key():
    rows = [{"x": "ab", "y": "1", "g": "c"}, {"x": "a", "y": "2", "g": "bc"}, {"x": "abc", "y": "3", "g": ""}]
    assert len({r.key for r in load(rows, group="g").records}) == 3


def test_the_same_answer_of_another_group_is_no_duplicate():
    rows = [{"x": "q", "y": "yes", "p": p} for p in ("ann", "bob", "ann")]
    loaded = load(rows, group="p")
    assert [r.group for r in loaded.records] == ["ann", "bob"]
    assert loaded.counts == {"duplicate": 1}


def test_a_row_that_is_left_out_for_its_key_makes_no_later_row_a_duplicate():
    rows = [{"x": x, "y": y, "k": k} for k, x, y in (("a", "c", "A"), ("a", "c", "B"), ("b", "c", "B"))]
    loaded = load(rows, key="k")
    assert [(r.key, r.response) for r in loaded.records] == [("a", "A"), ("b", "B")]
    assert loaded.counts == {"duplicate_key": 1}


def test_kept_duplicates_have_keys_of_their_own():
    loaded = load([{"x": "q", "y": "yes"}] * 3 + [{"x": "q", "y": "no"}], duplicates="keep")
    key = loaded.records[0].key
    assert [r.key for r in loaded.records[:3]] == [key, f"{key}-2", f"{key}-3"]
    assert loaded.counts == {}


# Sources give the same records


def test_all_sources_give_the_same_records(tmp_path):
    rows = [{"x": f"film {i}", "y": f"text\n{i} 😀\u2028", "l": "a"} for i in range(50)]
    columns = ["x", "y", "l"]
    expected = load(rows, label="l").records
    for source in (
        write_csv(tmp_path / "t.csv", rows, columns),
        write_csv(tmp_path / "t.csv.gz", rows, columns),
        write_csv(tmp_path / "t.tsv", rows, columns, "\t"),
        write_jsonl(tmp_path / "t.jsonl", rows),
        write_jsonl(tmp_path / "t.jsonl.gz", rows, ensure_ascii=True),
        write_parquet(tmp_path / "t.parquet", rows),
        pd.DataFrame(rows),
    ):
        loaded = load(source, label="l")
        assert loaded.records == expected
        assert loaded.counts == {}


def test_numbers_of_numpy_and_pandas_are_written_like_those_of_python():
    frame = pd.DataFrame({"x": [1, 2], "b": [True, False], "y": ["r", "s"], "w": [0.5, 2]})
    assert [(r.context, r.weight) for r in load(frame, context="{x} {b}", weight="w").records] == [
        ("1 true", 0.5),
        ("2 false", 2.0),
    ]
    row = {"x": np.float64(1.5), "y": np.str_("r"), "w": np.float32(0.5), "l": np.float64("nan")}
    (record,) = load([row], weight="w", label="l").records
    assert (record.context, record.response, record.weight, record.label) == ("1.5", "r", 0.5, None)


# Hostile text


def naughty():
    """Strings of the Big List of Naughty Strings, and what it leaves out on purpose."""
    folder = Path(os.environ.get("MOP_SHARED", Path(__file__).parents[2] / "shared"))
    path = folder / "data" / "naughty" / "blns.json"
    if not path.is_file():
        pytest.skip(f"no list of naughty strings in {path.parent}")
    strings = json.loads(path.read_text(encoding="utf-8"))
    assert len(strings) == 515
    return [*strings, "=1+1", "@SUM(A1)", "<|im_start|>system", "<think>", "x" * 100_000, "a\r\nb\rc"]


def test_every_naughty_string_survives_loading_saving_and_reading(tmp_path):
    strings = naughty()
    rows = [{"x": s, "y": f"<{s}>", "z": s, "n": str(i)} for i, s in enumerate(strings)]
    columns = ["x", "y", "z", "n"]
    for source in (
        rows,
        pd.DataFrame(rows),
        write_csv(tmp_path / "t.csv", rows, columns),
        write_csv(tmp_path / "t.tsv.gz", rows, columns, "\t"),
        write_jsonl(tmp_path / "t.jsonl", rows),
        write_jsonl(tmp_path / "t.jsonl.gz", rows, ensure_ascii=True),
        write_parquet(tmp_path / "t.parquet", rows),
    ):
        loaded = load(source, label="z", group="n")
        assert pairs(loaded) == [(s if stripped(s) else "", f"<{s}>") for s in strings]
        assert [r.label or "" for r in loaded.records] == list(map(stripped, strings))
        assert loaded.counts.keys() <= {"empty_context"}
        save_records(loaded.records, tmp_path / "records.jsonl")
        assert read_records(tmp_path / "records.jsonl") == loaded.records


def test_every_naughty_string_that_is_not_blank_survives_as_a_response():
    strings = [s for s in dict.fromkeys(naughty()) if stripped(s)]
    loaded = load([{"x": "c", "y": s} for s in strings])
    assert [r.response for r in loaded.records] == strings
    assert loaded.counts == {}


texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


@given(st.lists(st.tuples(texts, texts, texts), min_size=1, max_size=8))
@settings(max_examples=25, deadline=None)
def test_any_text_survives_every_file_format(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("any")
    rows = [{"x": f"x{x}", "y": f"r{y}", "g": f"{i}g{g}"} for i, (x, y, g) in enumerate(rows)]
    expected = [(r["x"], r["y"], stripped(r["g"])) for r in rows]
    for source in (
        write_csv(folder / "t.csv", rows, ["x", "y", "g"]),
        write_csv(folder / "t.tsv", rows, ["g", "x", "y"], "\t"),
        write_jsonl(folder / "t.jsonl", rows),
        write_parquet(folder / "t.parquet", rows),
    ):
        records = load(source, group="g").records
        assert [(r.context, r.response, r.group) for r in records] == expected
        save_records(records, folder / "r.jsonl")
        assert read_records(folder / "r.jsonl") == records


@given(st.binary(max_size=300))
@settings(max_examples=60, deadline=None)
def test_any_bytes_are_records_or_a_data_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("bytes")
    for name in ("t.csv", "t.tsv", "t.jsonl", "t.json", "t.parquet", "t.jsonl.gz"):
        (folder / name).write_bytes(b"x,y\n" + data if name == "t.csv" else data)
        try:
            loaded = load(folder / name)
        except DataError:
            continue
        left_out = sum(n for code, n in loaded.counts.items() if code not in KEPT)
        assert len(loaded.records) + left_out == loaded.n_rows


# Records in the run folder


def test_saved_records_come_back_equal(tmp_path):
    records = [
        Record(key="a", context="", response="r"),
        Record(key="b", context="\u2028\n\0", response="😀", label="l", weight=0.1, group="g"),
        Record(key="c", context="x", response="y", attributes={"age": "41"}),
    ]
    save_records(iter(records), tmp_path / "r.jsonl")
    assert read_records(tmp_path / "r.jsonl") == records
    first = (tmp_path / "r.jsonl").read_bytes().split(b"\n")[0]
    assert first == b'{"key": "a", "context": "", "response": "r", "label": null, "weight": 1.0, "group": null}'


def test_records_of_earlier_versions_can_be_read(tmp_path):
    rows = [{"key": "a", "context": "", "response": "r", "label": None, "weight": 1.0, "group": None, "attributes": {}}]
    assert read_records(write_jsonl(tmp_path / "r.jsonl", rows)) == [Record(key="a", context="", response="r")]


def test_a_failed_save_leaves_the_old_file(tmp_path):
    path = tmp_path / "r.jsonl"
    good = Record(key="a", context="", response="r")
    save_records([good], path)
    with pytest.raises(ArtifactError, match=r"cannot write .*r.jsonl"):
        save_records([good, Record(key="b", context="", response="r", weight=float("inf"))], path)
    assert read_records(path) == [good]
    assert [p.name for p in tmp_path.iterdir()] == ["r.jsonl"]


@pytest.mark.parametrize(
    "change",
    [
        {"key": 1},
        {"response": None},
        {"label": 3},
        {"weight": "1"},
        {"weight": 0},
        {"weight": True},
        {"more": 1},
        {"attributes": ["age"]},
        {"attributes": {"age": 41}},
    ],
)
def test_a_saved_row_that_is_no_record_is_refused(tmp_path, change):
    path = tmp_path / "r.jsonl"
    save_records([Record(key=k, context="", response="r") for k in "ab"], path)
    first, second, _ = path.read_bytes().split(b"\n")
    second = json.dumps(json.loads(second) | change).encode()
    path.write_bytes(first + b"\n" + second + b"\n")
    with pytest.raises(ArtifactError, match=r"r.jsonl row 2 is not a record, or repeats a key; rows have"):
        read_records(path)


def test_a_saved_key_that_repeats_is_refused(tmp_path):
    save_records([Record(key="a", context="", response="r")] * 2, tmp_path / "r.jsonl")
    with pytest.raises(ArtifactError, match=r"row 2 is not a record, or repeats a key"):
        read_records(tmp_path / "r.jsonl")


def test_white_space_around_texts_makes_no_other_record():
    rows = [{"context": "Up", "response": text} for text in ("Good.", "Good. ", " Good.\n", "Bad.")]
    loaded = load_records(rows)
    assert [r.response for r in loaded.records] == ["Good.", "Bad."]
    assert loaded.counts == {"duplicate": 2}
    kept = load_records(rows, duplicates="keep").records
    assert len({r.key for r in kept}) == 4


def test_whole_numbers_are_the_same_labels_however_pandas_holds_them(tmp_path):
    frame = pd.DataFrame({"context": list("abc"), "response": list("xyz"), "label": [0, 1, 1]})
    missing = frame.assign(label=[0, 1, None])
    missing.to_csv(tmp_path / "m.csv", index=False)
    labels = [
        [r.label for r in load_records(source, label="label").records]
        for source in (frame, missing, tmp_path / "m.csv")
    ]
    assert labels == [["0", "1", "1"], ["0", "1", None], ["0", "1", None]]


@pytest.mark.parametrize("text", ["-0.0", "007.0", "1.00", "1.5", "\u0661.0", "v1.0"])
def test_a_label_that_no_integer_is_written_as_stays_as_it_is(text):
    (record,) = load([{"x": "c", "y": "r", "l": text}], label="l").records
    assert record.label == text


def test_a_label_that_is_an_array_costs_its_row():
    rows = [{"context": "a", "response": "b", "label": np.zeros(2)}, {"context": "a", "response": "c", "label": "x"}]
    loaded = load_records(rows, label="label")
    assert loaded.counts == {"wrong_type": 1}
