"""From a cell to text."""

import datetime
import uuid
from decimal import Decimal

import numpy as np
import pandas as pd
import pytest

from mop.data.records import load_records
from mop.data.values import BadRow, decimal_of, is_rounded, kinds_of, plain, spelled, stripped, weight_of, why_no_weight


@pytest.mark.parametrize(
    "value",
    [None, "", " \n", "\u200b", "\ufeff \u2060", float("nan"), np.nan, np.float32("nan"), pd.NA, pd.NaT,
     Decimal("NaN"), np.datetime64("NaT")],
)  # fmt: skip
def test_every_way_to_say_missing_is_one(value):
    assert plain(value) is None


SPELLED = [
    (32.0, "32"), ("32.0", "32"), (np.float64(32), "32"), (1e16, "10000000000000000"), ("1e+16", "10000000000000000"),
    (0.1, "0.1"), (np.float32(0.1), "0.1"), (Decimal("12.10"), "12.10"), (10**5000, "1" + "0" * 5000),
    (True, "true"), ("True", "true"), ("FALSE", "false"), (np.bool_(False), "false"),
    (datetime.date(2024, 2, 15), "2024-02-15"), (datetime.datetime(2024, 2, 15), "2024-02-15"),
    (pd.Timestamp("2024-02-15 10:00"), "2024-02-15T10:00:00"), ("2024-02-15 10:00:00.500000", "2024-02-15T10:00:00.5"),
    ("2024-02-15 00:00:00", "2024-02-15"), ("2024-02-15T10:00Z", "2024-02-15T10:00:00+00:00"),
    ("2024-02-15 10:00:00+0100", "2024-02-15T10:00:00+01:00"), (np.datetime64("2024-02-15T10:00:00.000000000"),
    "2024-02-15T10:00:00"), (datetime.time(12, 30), "12:30:00"), (uuid.UUID(int=5), str(uuid.UUID(int=5))),
    (pd.Period("2024-02"), "2024-02"),
    # Texts that only look like it stay as they are.
    ("-0.0", "-0.0"), ("007.0", "007.0"), ("1.00", "1.00"), ("\u0661.0", "\u0661.0"), ("12:30", "12:30"),
    ("1e5", "1e5"),
    ("True story", "True story"), (" a ", " a "), ("007", "007"), ("NA", "NA"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SPELLED, ids=range(len(SPELLED)))
def test_a_value_and_its_text_are_written_alike(value, text):
    kinds = kinds_of(value) if isinstance(value, str) else set()
    assert spelled(plain(value), min(kinds, default="")) == text


def test_a_text_among_other_texts_stays_as_it_is():
    rows = [{"x": "c", "y": y} for y in ("True", "32.0", "2024-02-15 00:00:00", "as I said")]
    assert [r.response for r in load_records(rows, context="x", response="y")] == [row["y"] for row in rows]
    for values, texts in ((["True", "FALSE", "NA"], ["true", "false", "NA"]), (["32.0", "7"], ["32", "7"])):
        rows = [{"x": "c", "y": y} for y in values]
        assert [r.response for r in load_records(rows, context="x", response="y")] == texts


@pytest.mark.parametrize(
    ("value", "code"),
    [([1], "wrong_type"), (b"x", "wrong_type"), (1 << 10**6, "too_long")],
    ids=["list", "bytes", "int"],
)
def test_what_is_no_text_says_so(value, code):
    found = spelled(plain(value))
    assert isinstance(found, BadRow)
    assert found.code == code


def test_blanks_that_are_not_seen_are_blanks():
    assert stripped("\ufeff\u200b a b\u00a0\u2060") == "a b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [(1.54e18, True), ("1.54e+18", True), ("1,54E+18", True), ("1540000000000000000.0", True),
     (1540000000000000001, False), ("1540000000000000001", False), ("12e34567", False), (2.0**53, False),
     ("1.5", False), (None, False)],
)  # fmt: skip
def test_ids_that_went_through_a_float_are_known(value, expected):
    assert is_rounded(value) is expected


@pytest.mark.parametrize(
    ("value", "mark", "weight"),
    [("0,53", ",", 0.53), ("0.53", ".", 0.53), ("0,53", ".", None), ("1_000", ".", None), ("1.234,5", ",", 1234.5),
     ("1.234", ",", 1234.0), ("1,234.5", ".", 1234.5), ("1 234,5", ",", 1234.5), ("1'234", ".", 1234.0),
     ("1,23", ".", None), ("12.34", ",", 12.34), ("3%", ".", None),
     (2, ".", 2.0), (Decimal("0.5"), ",", 0.5), ("\u0661", ".", None),
     ("1e400", ".", None), (True, ".", None), (" 2 ", ".", 2.0), (-1, ".", None)],
)  # fmt: skip
def test_weights_are_numbers(value, mark, weight):
    assert weight_of(value, mark) == weight


@pytest.mark.parametrize(
    ("value", "mark", "why"),
    [
        (None, ".", "it is missing: fill it in"),
        ("3%", ".", "write the numbers without percent signs"),
        ("0,53", ".", 'for decimal commas set data.decimal = ","'),
        ("0,5,3", ",", "write plain numbers"),
        (1e308, ".", "the least is 1e-100, the largest 1e100: divide all by one number"),
        (0, ".", "the least is 1e-100, the largest 1e100: leave out those who do not count"),
        (10**400, ".", "divide all by one number"),
        (True, ".", "write plain numbers"),
    ],
)
def test_each_bad_weight_has_its_own_cure(value, mark, why):
    assert weight_of(value, mark) is None
    assert why in why_no_weight(value, mark)


@pytest.mark.parametrize(
    ("texts", "mark"),
    [(["0,5", "1", "2,25"], ","), (["0.5", "1"], "."), (["1", "2"], "."), ([], "."), (["1,234", "2,500"], None),
     (["0,5", "0.5", "0.7"], ".")],
)  # fmt: skip
def test_the_decimal_mark_is_that_of_the_whole_column(texts, mark):
    assert decimal_of(texts) == mark
