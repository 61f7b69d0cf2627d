"""What a file is, and how its text is encoded."""

import gzip
import io
import zipfile

import pandas as pd
import pytest

from mop.data.formats import content_of, conversion
from mop.data.records import load_records
from mop.errors import ConfigError, DataError


def content(data, encoding="auto"):
    return content_of("t.csv", lambda: iter([data[:7], data[7:]]), encoding)


def test_utf8_is_said_nothing_about():
    assert content('a,"é"'.encode()) == ("utf-8", "", True, False)
    assert content(b"a,b").has_quotes is False
    assert content(b'"a \\" b"').has_backslash_quotes is True


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1"])
def test_western_text_of_one_byte_is_windows_1252(encoding):
    found = content("id,text\n1,naïve café, Straße, señor\n".encode(encoding) * 5)
    assert found.encoding == "cp1252"
    assert "is read as Windows-1252, with 'é" in found.note or "ï" in found.note


FOREIGN = {
    "cp1251": "id,text\n1,Привет, как дела у вас сегодня\n",
    "shift_jis": "id,text\n1,日本語の文章です、よろしく\n",
    "mac_roman": "id,text\n1,schöne Grüße aus Köln, très élégant, señor\n",
    "cp850": "id,text\n1,schöne Grüße aus Köln, très élégant\n",
    "cp1250": "id,text\n1,zażółć gęślą jaźń, łąka, Wałęsa, miał\n",
}


@pytest.mark.parametrize("encoding", FOREIGN)
@pytest.mark.advice
def test_other_encodings_are_asked_for_and_read_when_named(tmp_path, encoding):
    path = tmp_path / "t.csv"
    text = FOREIGN[encoding].replace(",", ";").replace("id;text", "id;text").replace("1;", "1;", 1)
    path.write_bytes(text.replace("; ", ", ").encode(encoding) * 3)
    with pytest.raises(DataError, match=rf"neither UTF-8 nor Windows-1252; set data.encoding .*{encoding}"):
        load_records(path, context="id", response="text")
    found = load_records(path, context="id", response="text", encoding=encoding)
    assert found[0].response == text.replace("; ", ", ").split(";")[-1].strip()


def test_utf8_with_damage_stays_utf8():
    assert content("ééé\n".encode() * 3 + b"\xe9 x\n") == ("utf-8", "", False, False)


def test_an_encoding_that_there_is_not_is_refused():
    with pytest.raises(ConfigError, match=r"data.encoding must be auto or an encoding .* got 'utf-9'"):
        content(b"", "utf-9")


def test_the_conversion_of_a_stata_file_is_one_command():
    assert conversion("a b.dta", ".dta").startswith(
        "pip install pandas, then python -c \"import pandas; pandas.read_stata('a b"
    )


def zipped(data):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("t.csv", data)
    return out.getvalue()


PLAIN = b"x,y\na,b\nc,d\n"


def parquet(path):
    pd.DataFrame({"x": ["a", "c"], "y": ["b", "d"]}).to_parquet(path)
    return path.read_bytes()


MISNAMED = {
    # name -> what it is, what the message says, the name that the advice leads to
    "gzip.csv": (lambda p: gzip.compress(PLAIN), "packed by gzip", "gzip.csv.gz"),
    "plain.csv.gz": (lambda p: PLAIN, "plain text; give it a name without .gz", "plain.csv"),
    "table.csv": (parquet, "a Parquet file; give it a name that ends in .parquet", "table.parquet"),
    "lines.csv": (lambda p: b'{"x": "a", "y": "b"}\n{"x": "c", "y": "d"}\n', "JSON", "lines.jsonl"),
    "array.csv": (lambda p: b'[{"x": "a", "y": "b"}, {"x": "c", "y": "d"}]', "JSON", "array.json"),
}


@pytest.mark.parametrize("name", MISNAMED)
@pytest.mark.advice
def test_a_misnamed_file_says_what_it_is_and_its_right_name_works(tmp_path, name):
    make, what, right = MISNAMED[name]
    (tmp_path / name).write_bytes(make(tmp_path / name))
    with pytest.raises(DataError, match=what):
        load_records(tmp_path / name, context="x", response="y")
    (tmp_path / name).rename(tmp_path / right)
    assert [r.response for r in load_records(tmp_path / right, context="x", response="y")] == ["b", "d"]


@pytest.mark.advice
def test_an_archive_is_to_be_unzipped(tmp_path):
    (tmp_path / "t.csv").write_bytes(zipped(PLAIN))
    with pytest.raises(DataError, match=r"a zip archive, or an Excel file \(.xlsx\); unzip it"):
        load_records(tmp_path / "t.csv", context="x", response="y")
    with zipfile.ZipFile(tmp_path / "t.csv") as archive:
        archive.extract("t.csv", tmp_path / "out")
    assert len(load_records(tmp_path / "out" / "t.csv", context="x", response="y")) == 2


@pytest.mark.parametrize(
    ("start", "what"),
    [
        (b"%PDF-1.4", "a PDF file"),
        (b"<!DOCTYPE html>", "a web page"),
        (b"$FL2@(#)", "an SPSS file"),
        (b"BZh9", "bzip2"),
    ],
)
def test_other_kinds_are_named(tmp_path, start, what):
    (tmp_path / "t.csv").write_bytes(start + b" and more")
    with pytest.raises(DataError, match=what):
        load_records(tmp_path / "t.csv", context="x", response="y")


@pytest.mark.parametrize("encoding", ["base64", "rot13", "idna", "undefined", "a\0b", "nope"])
def test_what_is_no_encoding_of_text_is_refused(tmp_path, encoding):
    (tmp_path / "t.csv").write_bytes(PLAIN)
    with pytest.raises(ConfigError, match="data.encoding must be auto or an encoding that Python knows"):
        load_records(tmp_path / "t.csv", context="x", response="y", encoding=encoding)


@pytest.mark.advice
def test_the_wrong_wide_encoding_is_refused_and_auto_reads_the_file(tmp_path):
    (tmp_path / "t.csv").write_bytes(PLAIN)
    with pytest.raises(DataError, match=r"is not encoded as utf-16 \(.*\); leave data.encoding at auto"):
        load_records(tmp_path / "t.csv", context="x", response="y", encoding="utf-16")
    assert len(load_records(tmp_path / "t.csv", context="x", response="y", encoding="auto")) == 2


@pytest.mark.parametrize("ending", [".DTA", ".sas7bdat", ".xlsx"])
def test_other_programs_files_are_converted(tmp_path, ending):
    (tmp_path / f"t{ending}").write_bytes(b"x")
    with pytest.raises(DataError, match=r"make a CSV of it: pip install pandas.*\.csv'"):
        load_records(tmp_path / f"t{ending}", context="x", response="y")
