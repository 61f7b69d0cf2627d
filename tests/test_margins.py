"""Margins are met to the last digit with as little change as can be, or the category in the way is named."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mop.errors import DataError
from mop.randomness import rng_of
from mop.simulate.calibrate import divergence
from mop.simulate.margins import balanced


def test_margins_are_met_to_the_last_digit_and_little_else_changes():
    rng = rng_of(3, "margins")
    values = {
        "label": rng.choice(["neg", "pos"], 900, p=[0.3, 0.7]).tolist(),
        "age": rng.choice(["y", "m", "o"], 900).tolist(),
    }
    margins = {"label": {"neg": 0.61, "pos": 0.39}, "age": {"y": 0.2, "o": 0.5}}
    base = rng.uniform(0.5, 2, 900)
    weight = balanced(base, values, margins)
    share = weight / weight.sum()
    for column, wanted in margins.items():
        for name, target in wanted.items():
            assert share[np.array(values[column]) == name].sum() == pytest.approx(target, abs=1e-9)
    # Within a cell, weights keep their proportions: that is what least divergence means.
    cell = (np.array(values["label"]) == "neg") & (np.array(values["age"]) == "m")
    assert weight[cell] / base[cell] == pytest.approx((weight[cell] / base[cell])[0])
    assert divergence(balanced(np.ones(900), values, {})) == pytest.approx(0.0, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0.02, 1), min_size=3, max_size=5), st.integers(0, 10**6))
def test_any_margins_of_one_column_are_met(raw, seed):
    shares = np.array(raw) / sum(raw)
    own = rng_of(seed, "column").integers(0, len(raw), 60).astype(str).tolist()
    margins = {"c": {str(i): float(share) for i, share in enumerate(shares)}}
    if {*own} != {*margins["c"]}:
        with pytest.raises(DataError, match=r"no text with any weight has c = \d"):
            balanced(np.ones(60), {"c": own}, margins)
        return
    weight = balanced(np.ones(60), {"c": own}, margins)
    for name, target in margins["c"].items():
        assert weight[np.array(own) == name].sum() / 60 == pytest.approx(target, abs=1e-9)


def test_shares_of_nothing_and_all_are_met():
    own = ["a", "a", "b", "c"]
    weight = balanced(np.ones(4), {"c": own}, {"c": {"a": 0.0, "b": 0.4, "c": 0.6}})
    assert weight == pytest.approx([0, 0, 1.6, 2.4])
    assert balanced(np.ones(4), {"c": own}, {"c": {"a": 1.0}}) == pytest.approx([2, 2, 0, 0])


@pytest.mark.parametrize(
    ("margins", "message"),
    [
        ({"sex": {"f": 0.5}}, "no column 'sex', which has a margin; they have c, d"),
        ({"c": {"a": 1.2}}, "shares from 0 to 1 .*, but 'a' has 1.2"),
        ({"c": {"a": 0.7, "b": 0.6}}, "they add up to 1.3"),
        ({"c": {"z": 0.1}}, "no text with any weight has c = z, and 10.0% should"),
        ({"c": {"a": 0.9}, "d": {"x": 0.2}}, "cannot be met together: .* = . should have .*, and with the others met"),
        ({"c": {"a": 0.0, "b": 0.0}}, "no text is left"),
    ],
)
def test_margins_that_cannot_be_met_name_the_category(margins, message):
    with pytest.raises(DataError, match=message):
        balanced(np.ones(6), {"c": ["a", "a", "a", "b", "b", "b"], "d": ["x", "x", "x", "y", "y", "y"]}, margins)
