"""Errors of fitted shares hold the truth, also where options overlap and records belong together."""

import numpy as np
import pytest

from mop.metrics.bootstrap import odds_interval, share_errors


def em(density, weight, steps):
    share = np.array([0.5, 0.5])
    for _ in range(steps):
        joint = density * share
        share = weight @ (joint / joint.sum(axis=1, keepdims=True)) / weight.sum()
    return share


def densities(n, rng, apart=1.5, p=0.3):
    values = rng.normal(size=n) + apart * (rng.random(n) < p)
    return np.exp(-0.5 * (values[:, None] - np.array([apart, 0.0])) ** 2)


def test_intervals_of_overlapping_options_hold_the_truth():
    rng, held, widths = np.random.default_rng(0), 0, []
    for trial in range(80):
        density = densities(200, rng)
        fitted = em(density, np.ones(200), 200)
        (error, _) = share_errors(lambda w, d=density: em(d, w, 200), np.ones(200), np.arange(200), seed=trial)
        low, high = odds_interval(float(fitted[0]), error)
        held += low <= 0.3 <= high
        widths.append(high - low)
    assert held >= 71
    assert 0.15 < np.mean(widths) < 0.30  # seen labels alone would give 0.127


def test_records_of_one_person_count_once():
    rng = np.random.default_rng(1)
    chosen = np.repeat(rng.random(100) < 0.3, 4).astype(float)  # everybody says the same four times

    def share(weight):
        mean = weight @ chosen / weight.sum()
        return np.array([mean, 1 - mean])

    p = chosen.mean()
    alone, together = (share_errors(share, np.ones(400), of, seed=3)[0] for of in (np.arange(400), np.arange(400) // 4))
    assert alone == pytest.approx(1 / np.sqrt(400 * p * (1 - p)), rel=0.35)
    assert together == pytest.approx(1 / np.sqrt(100 * p * (1 - p)), rel=0.35)
    assert together > 1.4 * alone


def test_a_share_of_nothing_has_itself_as_interval():
    assert odds_interval(0.0, 1.0) == [0.0, 0.0]
