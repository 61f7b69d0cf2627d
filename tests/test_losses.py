"""Rows left out: said, counted, limited."""

import logging

import pytest

from mop.data.losses import require_few_lost, sayings
from mop.data.records import load_records
from mop.errors import DataError


def rows(n_good, n_bad):
    return [{"x": "q", "y": f"a{i}" if i < n_good else ""} for i in range(n_good + n_bad)]


def test_who_is_left_out_is_said_in_one_sentence(caplog):
    found = load_records(rows(120, 60), context="x", response="y")
    assert sayings([found]) == [
        "60 of 180 rows left out, all for empty_response (first row 121, which has no text in 'y'; "
        "nobody answers in them)"
    ]
    with caplog.at_level(logging.WARNING):
        found.warn("t.csv")
    assert caplog.messages[0].startswith("t.csv: 60 of 180 rows left out, all for empty_response")
    mixed = load_records([*rows(20, 2), {"x": "q", "y": "a1"}], context="x", response="y")
    assert sayings([mixed])[0].startswith(
        "3 of 23 rows left out, for empty_response 2, duplicate 1 (first row 21, which"
    )
    assert sayings([found, mixed])[0].startswith("63 of 203 rows left out, for empty_response 62, duplicate 1")


def test_nothing_is_said_of_a_clean_table():
    assert sayings([load_records(rows(5, 0), context="x", response="y")]) == []


def test_more_than_the_share_stops_with_the_number_that_allows_it():
    found = load_records(rows(19, 1), context="x", response="y")
    require_few_lost([found], 0.05)
    with pytest.raises(
        DataError, match=r"1 of 20 rows left out, .* that is 5%, and at most 4% .* set data.max_lost = 0.05"
    ):
        require_few_lost([found], 0.04)
    require_few_lost([found], 0.05)


def test_header_rows_and_blank_rows_are_no_loss():
    table = [{"x": "x", "y": "y"}, {"x": None, "y": " "}, *rows(3, 0)]
    found = load_records(table, context="x", response="y")
    require_few_lost([found], 0)
    assert sayings([found]) == ["1 further header row left out (names, question texts, ImportIds)"]
