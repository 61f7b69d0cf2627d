"""What is handed over in Python becomes records, or an error that says how to hand it over."""

import pandas as pd
import pytest

from mop.data.given import contexts_given, records_given
from mop.data.records import load_records
from mop.errors import DataError
from mop.types import Record

ROWS = [{"context": "Tea?", "response": f"yes {i}"} for i in range(3)]


def test_rows_tables_and_records_are_the_same():
    expected = records_given(ROWS)
    assert [r.response for r in expected] == ["yes 0", "yes 1", "yes 2"]
    assert (
        records_given(pd.DataFrame(ROWS)) == records_given(load_records(ROWS)) == records_given(iter(ROWS)) == expected
    )


def test_strings_are_contexts_under_their_place():
    assert [(r.key, r.context) for r in contexts_given(["a", "b"])] == [("context-0", "a"), ("context-1", "b")]
    assert contexts_given([Record(key="k", context="c", response="")])[0].key == "k"


def test_contexts_that_are_none_are_refused():
    with pytest.raises(DataError, match="several contexts are expected, got the one string 'Tea"):
        contexts_given("Tea?")
