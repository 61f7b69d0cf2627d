"""Mixture arithmetic against plain loops, brute force and laws."""

import math

import numpy as np
import pytest

from mop.errors import DataError
from mop.mixture.sums import diagonal_order, draw, log_mixture, log_sum_exp, spread_draw, unconditional_weights


@pytest.fixture
def tables():
    rng = np.random.default_rng(0)
    log_lik = rng.normal(-4, 2, (5, 6))
    log_weight = np.log(rng.dirichlet(np.ones(6), size=5))
    return log_lik, log_weight


def loop_log_mixture(log_lik, log_weight):
    """The mixture as the formula reads."""
    return [
        math.log(sum(math.exp(w) * math.exp(ll) for w, ll in zip(ws, lls, strict=True)))
        for ws, lls in zip(log_weight, log_lik, strict=True)
    ]


def test_log_mixture_equals_the_plain_sum(tables):
    assert log_mixture(*tables) == pytest.approx(loop_log_mixture(*tables), rel=1e-12)


def test_a_very_unlikely_response_stays_finite():
    assert np.isfinite(log_mixture(np.array([[-5000.0, -5001.0]]), np.log([0.5, 0.5]))).all()


def test_nothing_but_impossible_gives_minus_infinity_and_no_warning():
    assert log_sum_exp(np.array([[-np.inf, -np.inf]])).tolist() == [-np.inf]


def test_disagreeing_shapes_are_named():
    with pytest.raises(DataError, match=r"log_lik \(4, 3\) needs log_weight of its own shape or \(3,\), got \(4,\)"):
        log_mixture(np.zeros((4, 3)), np.zeros(4))


def test_unconditional_weights_match_brute_force_and_the_certificate_holds():
    rng = np.random.default_rng(3)
    log_lik = rng.normal(-3, 1.5, (30, 3))
    best = unconditional_weights(log_lik)
    grid = np.linspace(0, 1, 101)
    with np.errstate(divide="ignore"):
        values = [
            np.mean(log_mixture(log_lik, np.log([a, b, 1 - a - b]))) for a in grid for b in grid if a + b <= 1 + 1e-12
            and 1 - a - b >= 0
        ]  # fmt: skip
    assert best.mean_log_lik >= max(values) - 1e-9
    assert best.mean_log_lik <= max(values) + 1e-3
    assert np.mean(log_mixture(log_lik, best.log_weight)) == pytest.approx(best.mean_log_lik)


def test_the_certificate_bounds_every_other_weighting_before_convergence_too():
    rng = np.random.default_rng(4)
    log_lik = rng.normal(-3, 2, (40, 8))
    early = unconditional_weights(log_lik, max_iterations=2)
    best = unconditional_weights(log_lik)
    assert early.slack > 1e-3
    assert best.mean_log_lik - early.mean_log_lik <= early.slack
    assert best.slack <= 1e-6


def test_survey_weights_count_as_repeated_records():
    log_lik = np.random.default_rng(5).normal(-3, 1, (4, 3))
    weighted = unconditional_weights(log_lik, record_weight=np.array([1, 2, 1, 3]))
    repeated = unconditional_weights(np.repeat(log_lik, [1, 2, 1, 3], axis=0))
    assert weighted.mean_log_lik == pytest.approx(repeated.mean_log_lik, abs=1e-6)


def test_an_empty_table_is_refused():
    with pytest.raises(DataError, match=r"log_lik must be a non-empty table \(n, C\), got shape \(0, 3\)"):
        unconditional_weights(np.zeros((0, 3)))


def test_drawn_frequencies_follow_the_weights():
    weight = np.array([0.1, 0.6, 0.0, 0.3])
    with np.errstate(divide="ignore"):
        log_weight = np.tile(np.log(weight), (20_000, 1))
    drawn = draw(log_weight, np.random.default_rng(6).random(20_000))
    share = np.bincount(drawn, minlength=4) / 20_000
    assert share[2] == 0
    assert share == pytest.approx(weight, abs=4 * 0.5 / 20_000**0.5)


def test_there_must_be_something_to_draw_from():
    with pytest.raises(DataError, match="row 1 of the weights has no finite entry; there is nothing to draw from"):
        draw(np.array([[0.0, 0.0], [-np.inf, -np.inf]]), np.array([0.5, 0.5]))


def test_spread_draws_meet_their_expected_counts_to_within_one():
    weight = np.array([0.5, 0.3, 0.15, 0.05])
    counts = np.bincount(spread_draw(weight, 21, np.random.default_rng(0)), minlength=4)
    assert np.abs(counts - 21 * weight).max() < 1


@pytest.mark.parametrize(("n_personas", "n_exemplars"), [(24, 4), (4, 24), (5, 7), (1, 6), (6, 6), (3, 1)])
def test_neighbours_on_the_diagonal_differ_in_persona_and_exemplar(n_personas, n_exemplars):
    order = diagonal_order(n_personas, n_exemplars, np.random.default_rng(0))
    assert sorted(order.tolist()) == list(range(n_personas * n_exemplars))
    for start in range(0, len(order) - n_personas + 1, n_personas):
        assert len(set((order[start : start + n_personas] // n_exemplars).tolist())) == n_personas
    shorter = min(n_personas, n_exemplars)
    for start in range(len(order) - shorter + 1):
        assert len(set((order[start : start + shorter] % n_exemplars).tolist())) >= shorter - 1


def test_every_component_is_as_likely_to_come_first_on_the_diagonal():
    first = [diagonal_order(4, 6, np.random.default_rng(s))[0] for s in range(2400)]
    count = np.bincount(first, minlength=24)
    assert count.min() > 60
    assert count.max() < 140
