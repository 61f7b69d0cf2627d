"""Values of JSON are taken only as the type that a field is declared with."""

import json
from collections.abc import Mapping

import pytest

from mop.storage.typed import DamagedError, check, is_a, of_row
from mop.types import Record


@pytest.mark.parametrize(
    ("value", "hint", "fits"),
    [
        (1, float, True),
        (1.5, int, False),
        (True, int, False),
        (True, float, False),
        (None, str | None, True),
        ("a", str | None, True),
        (3, str | None, False),
        (["a"], tuple[str, ...], True),
        (["a", 1], tuple[str, ...], False),
        ("a", tuple[str, ...], False),
        ({"a": "b"}, Mapping[str, str], True),
        ({"a": 1}, Mapping[str, str], False),
    ],
)
def test_a_value_is_of_the_declared_type_or_not(value, hint, fits):
    assert is_a(value, hint) is fits


def test_a_row_becomes_a_record_again():
    row = {"key": "a", "context": "x", "response": "y", "weight": 2, "attributes": {"age": "32"}}
    found = of_row(Record, json.loads(json.dumps(row)))
    assert (found.key, found.weight, found.attributes) == ("a", 2, {"age": "32"})


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("text", "a Record is 'text'"),
        ({"key": "a", "colour": "red"}, "a Record is "),
        ({"key": 3, "context": "x", "response": "y"}, "key of a Record is '3'"),
        ({"key": "a"}, "missing"),
    ],
)
def test_what_is_wrong_with_a_row_is_said(row, message):
    with pytest.raises(DamagedError, match=message):
        of_row(Record, row)
    with pytest.raises(DamagedError, match="so it is"):
        check(False, "so it is")
