"""Rows of a comparison: means over seeds, the best rival, who is clearly better and by how much."""

import numpy as np
import pytest

from mop.runs.comparison import best_rivals, differences, over_seeds, verdicts


def test_the_best_rival_is_chosen_in_the_rivals_favour():
    rows = {
        "zero-shot": {"energy": 0.3, "fid_excess": 0.1, "mauve": 0.9, "kl_cosine": 0.2, "f1": 0.5},
        "zerogen": {"energy": 0.2, "fid_excess": 0.2, "mauve": 0.1, "kl_cosine": 0.3, "f1": 0.6},
        "few-shot": {"energy": 0.1, "fid_excess": 0.0, "mauve": 1.0, "kl_cosine": 0.0, "f1": 0.9},
    }
    assert best_rivals(rows, list(rows)) == {
        "energy": "zerogen", "fid_excess": "zero-shot", "mauve": "zero-shot", "kl_cosine": "zero-shot",
        "f1": "zerogen",
    }  # fmt: skip


def test_over_seeds_gives_the_mean_and_a_student_interval():
    arms = [
        {"energy": v, "mauve": 0.5, "kl_cosine": 0.1, "sense": -4.0, "n": 9, "energy_interval": [0, 1]}
        for v in (0.2, 0.3, 0.4)
    ]
    found = over_seeds(arms)
    assert found["energy"] == pytest.approx(0.3)
    assert found["energy_spread"] == pytest.approx(0.1)
    assert (found["sense"], found["sense_interval"]) == (-4.0, [-4.0, -4.0])
    reach = 4.302653 * 0.1 / 3**0.5  # t at 0.975 with 2 degrees of freedom
    assert found["energy_interval"] == pytest.approx([0.3 - reach, 0.3 + reach])
    assert over_seeds([{**arms[0], "mauve": v} for v in (0.8, 1.0)])["mauve_interval"][1] == 1.0
    assert over_seeds(arms[:1])["energy_interval"] == [0, 1]
    # Both can be below 0: their means are those of the populations.
    low, high = over_seeds([{**arms[0], "energy": v} for v in (-0.01, 0.01)])["energy_interval"]
    assert low == pytest.approx(-high)
    # A figure that a seed could not have is none of the method's.
    partly = [{**arms[0], "near_copies": 0.2}, {**arms[1], "near_copies": None}]
    assert "near_copies" not in over_seeds(partly)


def test_an_excess_over_the_floor_has_the_error_of_the_floor_however_many_seeds():
    arms = [{"fid_excess": 0.05, "n": 9} for _ in range(3)]
    floor = {"fid_excess_interval": [-0.02 * 2**0.5, 0.02 * 2**0.5]}  # of a difference of two such sets
    assert over_seeds(arms, floor)["fid_excess_interval"] == pytest.approx([0.03, 0.07])


def judged(figures, errors):
    """Arms with one figure and its errors; ``mop-s2`` is the second seed of mop."""
    return {
        "arms": {name: name.removesuffix("-s2") for name in figures},
        "rows": {name: {"f1": value} for name, value in figures.items()},
        "errors": {name: {"f1": list(of)} for name, of in errors.items()},
    }


def test_what_methods_share_makes_no_doubt_about_their_difference():
    rng = np.random.default_rng(0)
    common = 0.02 * rng.normal(size=200)  # hard and easy questions
    figures = {"mop": 0.72, "mop-s2": 0.74, "zero-shot": 0.60, "few-shot": 0.72}
    errors = {name: common + 0.002 * rng.normal(size=200) for name in figures}
    found = judged(figures, errors)
    rows = {"mop": {"f1": 0.73}, "zero-shot": {"f1": 0.60}, "few-shot": {"f1": 0.72}}
    pairs, best = differences(found, rows)
    assert pairs["f1"]["zero-shot"]["difference"] == pytest.approx(0.13)
    low, high = pairs["f1"]["zero-shot"]["interval"]
    assert 0.05 < low < 0.13 < high < 0.21
    assert float(np.linalg.norm(errors["mop"])) > 0.25  # unpaired, nothing would be clear
    assert best == {"f1": None}  # few-shot is as good
    _, alone = differences(judged({k: v for k, v in figures.items() if k != "few-shot"}, errors), rows)
    assert alone == {"f1": "mop"}


NOTHING = {"difference": 0, "interval": [-1, 1]}


def test_a_verdict_says_what_is_not_clear_and_what_is_not_meant_for_closed_answers():
    pairs = {
        "mauve": {"zero-shot": {"difference": 0.2, "interval": [0.1, 0.3]}},
        "energy": {
            "zero-shot": {"difference": 0.2, "interval": [0.1, 0.3]},
            "x": NOTHING,
        },
    }
    lines = verdicts(pairs, {"energy": "x"}, is_closed=True)
    assert lines == [
        "Energy distance: mop against zero-shot +0.200 (+0.100 to +0.300), worse; against x 0 (−1 to +1), "
        "no clear difference"
    ]
    assert len(verdicts(pairs, {}, is_closed=False)) == 2
