"""Differences of two methods: what they share cancels, and the interval holds the truth."""

import numpy as np
import pytest

from mop.backends.encoder import FakeEncoder
from mop.evaluate.paired import clear_best, difference, is_clear, mean_errors
from mop.evaluate.samples import Sample, evaluate
from test_samples import reviews


def test_paired_intervals_of_means_hold_the_truth_and_are_short():
    rng, n, held, widths = np.random.default_rng(0), 60, 0, []
    for _ in range(300):
        easy = rng.normal(size=n)
        ours, theirs = (easy + 0.3 * rng.normal(size=n) + shift for shift in (0.1, 0.0))
        errors = [(of - of.mean()) / n for of in (ours, theirs)]
        found = difference(ours.mean(), theirs.mean(), *errors)
        held += found["interval"][0] <= 0.1 <= found["interval"][1]
        widths.append(np.ptp(found["interval"]))
    assert 0.91 * 300 <= held <= 0.985 * 300
    assert np.mean(widths) < 0.25  # 0.74 if they were taken as independent


def test_sets_of_different_sizes_are_independent():
    found = difference(1.0, 0.0, np.array([0.3]), np.array([0.4, 0.0]))
    assert found["interval"] == pytest.approx([1 - 1.96 * 0.5, 1 + 1.96 * 0.5])


def test_only_who_beats_everybody_is_best():
    errors = {name: np.array([0.01]) for name in "abc"} | {"b": np.array([-0.01])}
    assert clear_best({"a": 0.5, "b": 0.3}, errors, 1, {}) == "a"
    assert clear_best({"a": 0.5, "b": 0.3, "c": 0.5}, errors, 1, {}) is None
    assert clear_best({"a": 0.5, "b": 0.3}, errors, -1, {}) == "b"
    assert clear_best({"a": 0.5, "b": 0.3}, errors, 1, {"a": 0.2}) is None
    assert clear_best({"a": 0.5}, errors, 1, {}) is None


def test_seeds_average_out_but_not_the_questions_that_they_share():
    assert mean_errors([[0.3, 0.4, 0.0], [0.3, 0.0, 0.4]]) == pytest.approx([0.3, 0.2, 0.2])


def test_errors_of_an_evaluation_give_its_own_intervals():
    found = evaluate(
        {"a": Sample(reviews(40, 3)), "b": Sample(reviews(40, 4))}, Sample(reviews(60, 1)), Sample(reviews(40, 2)),
        embed=FakeEncoder().encode, seed=0, n_seeds=1, n_bootstrap=8,
    )  # fmt: skip
    for name in ("energy", "fid", "kl_cosine", "mauve"):
        low, high = found.methods["a"][f"{name}_interval"]
        reach = 1.96 * np.linalg.norm(found.errors["a"][name])
        assert max(found.methods["a"][name] - low, high - found.methods["a"][name]) == pytest.approx(reach)
    same = difference(1.0, 1.0, found.errors["a"]["energy"], found.errors["a"]["energy"])
    assert same["interval"] == [0.0, 0.0]
    assert not is_clear(same)
