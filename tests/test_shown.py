"""Lists that show themselves: every row in a frame, nothing of the data as markup or as a command to the terminal."""

import sys

import pandas as pd
import pytest

from mop.errors import MissingDependencyError
from mop.shown import TableList, visible
from mop.types import Persona

NASTY = '<img src=x onerror=alert(1)> & \x1b[2J \u202e "quoted"'


def test_rows_of_any_kind_are_a_frame():
    rows = TableList([Persona(key="a", description="x"), Persona(key="b", description="y")])
    assert rows.to_frame().equals(pd.DataFrame(rows.to_dicts()))
    assert list(rows.to_frame().key) == ["a", "b"]
    assert TableList([{"a": 1}]) == [{"a": 1}]
    assert TableList(["x"]).to_dicts() == [{"value": "x"}]


def test_nothing_of_the_data_is_markup():
    page = TableList([{NASTY: NASTY, "many": [NASTY, 0.12345], "none": None}])._repr_html_()
    assert "<img" not in page
    assert "\x1b" not in page
    assert "\u202e" not in page
    assert "&lt;img src=x" in page


def test_a_terminal_gets_a_table():
    text = str(TableList([{"persona": f"p{i}", "weight": 0.123456, "text": NASTY} for i in range(30)]))
    assert text.splitlines()[0].split() == ["persona", "weight", "text"]
    assert text.splitlines()[-1] == "and 10 more"
    assert "0.123" in text
    assert "\x1b" not in text
    assert str(TableList()) == "[]"
    assert TableList()._repr_html_() == "<p>no rows</p>"


def test_without_pandas_the_rows_are_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingDependencyError, match="pip install pandas; to_dicts"):
        TableList([{"a": 1}]).to_frame()


def test_json_stays_json():
    assert visible('{"a": "\x1b"}') == '{"a": "\\u001b"}'
