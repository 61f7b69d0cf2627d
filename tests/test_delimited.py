"""CSV as spreadsheets, databases and scripts write it."""

import pytest

from mop.data.records import load_records
from mop.errors import ConfigError, DataError

TOWNS = ["Köln", "Würzburg", "Fürth"]


def survey(mark=";", end="\r\n", first="", decimal=","):
    lines = ["Nr;Stadtteil;Gewicht;Antwort"]
    for i in range(40):
        lines.append(
            f'{i};{TOWNS[i % 3]};{f"{0.5 + i / 100:.2f}".replace(".", decimal)};"Mehr Grün, {i}; und größere Wege"'
        )
    text = "".join(line + end for line in lines)
    if mark != ";":
        text = text.replace(";", mark).replace(f"{mark} und", "; und")
    return first + text


ASK = {"context": "Stadtteil: {Stadtteil}", "response": "Antwort", "key": "Nr", "weight": "Gewicht"}


@pytest.mark.trial("01-european-excel-csv")
@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("mark", [";", "\t", "|"])
@pytest.mark.parametrize("first", ["", "sep="])
def test_a_survey_out_of_a_european_spreadsheet_is_read(tmp_path, encoding, mark, first):
    path = tmp_path / "umfrage.csv"
    path.write_bytes(survey(mark, first=f"{first}{mark}\r\n" if first else "").encode(encoding))
    found = load_records(path, **ASK)
    assert (len(found), found.counts) == (40, {})
    assert (found[0].context, found[0].response) == ("Stadtteil: Köln", "Mehr Grün, 0; und größere Wege")
    assert [r.weight for r in found] == [round(0.5 + i / 100, 2) for i in range(40)]


def test_settings_say_what_cannot_be_known(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a#b#w\nx#y#1,500\nx#z#2,500\n")
    with pytest.raises(
        DataError, match="has no column '.', .* if its cells are separated by another character, set data.delimiter"
    ):
        load_records(path, context="a", response="b")
    found = load_records(path, context="a", response="b", weight="w", delimiter="#", decimal=",")
    assert [r.weight for r in found] == [1.5, 2.5]
    with pytest.raises(ConfigError, match=r"data.delimiter must be auto, tab or one character"):
        load_records(path, context="a", response="b", delimiter="--")
    with pytest.raises(ConfigError, match=r"data.decimal must be auto"):
        load_records(path, context="a", response="b", delimiter="#", decimal=";")


@pytest.mark.advice
def test_thousands_are_asked_about(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("a\tb\tw\nx\ty\t1,500\nx\tz\t2,500\n")
    with pytest.raises(DataError, match=r"the weights in 'w' are like 1,234 .* set data.decimal = \",\""):
        load_records(path, context="a", response="b", weight="w")
    assert load_records(path, context="a", response="b", weight="w", decimal=",")[0].weight == 1.5
    path.write_text(path.read_text().replace(",", ""))
    assert load_records(path, context="a", response="b", weight="w")[0].weight == 1500


@pytest.mark.trial("04-backslash-quotes")
def test_backslashes_before_quotes_as_databases_write_them(tmp_path):
    said = [f'They say \\"{i}, more\\" and \\"no\\"' if i % 3 == 0 else f"Plain {i}, C:\\new" for i in range(60)]
    path = tmp_path / "dump.csv"
    path.write_text("rid,answer,area\n" + "".join(f'{i},"{text}","north"\n' for i, text in enumerate(said)))
    found = load_records(path, context="area", response="answer", key="rid")
    assert (len(found), found.counts) == (60, {})
    assert [r.response for r in found] == [text.replace('\\"', '"') for text in said]


def test_a_backslash_at_the_end_of_a_cell_is_no_escape(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"C:\\dir\\","x ""y"" z"\n"D:\\","w"\n')
    assert [r.context for r in load_records(path, context="a", response="b")] == ["C:\\dir\\", "D:\\"]


def test_quotes_within_cells_are_read_as_they_stand(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('k,a,b\n1,"He said "no", and left",x\n2,5" pipe,"fine"\n3,"Lovely" he says,"y"\n4,"a ""b""","z"\n')
    found = load_records(path, context="b", response="a", key="k")
    assert [r.response for r in found] == ['He said "no", and left', '5" pipe', '"Lovely" he says', 'a "b"']
    assert found.counts == {"quotes": 2}


def test_a_quoted_text_over_lines_with_quotes_of_its_own(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('a,b\n"line one\nsays "hi", there\nend",x\n"c","d"\n')
    found = load_records(path, context="b", response="a")
    assert [r.response for r in found] == ['line one\nsays "hi", there\nend', "c"]


def test_lines_that_a_stray_quote_swallowed_are_named(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('id,text,score,town\n1,"open and,5,a\n2,fine,4,b\n3,closed",3,c\n4,"ok",2,d\n')
    found = load_records(path, context="town", response="text", key="id")
    assert found.counts == {"lines": 1}
    assert found.problems[0].message.startswith("goes over 3 lines that look like rows of their own")


def test_rows_with_other_numbers_of_cells_are_counted_and_separators_at_the_end_are_not(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("a,b\nx,1\nx,2,,\nx\nx,3,y\n")
    found = load_records(path, context="a", response="b", duplicates="keep")
    assert ([r.response for r in found], found.counts) == (["1", "2"], {"cells": 2})


def test_a_file_of_one_column_may_hold_every_mark(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text('text\nyes, but; no | not\t so\n"quoted, ""too"""\n\nlast\n')
    found = load_records(path, context="text:Say.", response="text")
    assert [r.response for r in found] == ["yes, but; no | not\t so", 'quoted, "too"', "last"]


def test_blanks_around_names_are_no_part_of_them(tmp_path):
    path = tmp_path / "t.csv"
    path.write_text(" Review Text ;\ufeffmood;{note}\nGood.; POS;n\n")
    for name in ("Review Text", " Review Text "):
        found = load_records(path, context="A { mood } text", response=name, label="mood")
        assert (found[0].context, found[0].label) == ("A POS text", "POS")


def test_text_without_quoting_keeps_its_quotes(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text('a\tb\n"Lovely, he says\tx\n"so" and "so\ty\nplain\tz\n')
    assert [r.context for r in load_records(path, context="a", response="b")] == [
        '"Lovely, he says',
        '"so" and "so',
        "plain",
    ]
