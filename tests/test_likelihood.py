"""Likelihoods of records under a fitted mixture of the fake model, against full enumeration."""

from dataclasses import replace

import numpy as np
import pytest

from conftest import sum_over_components
from mop.errors import ConfigError
from mop.fitted import uniform_mixture
from mop.likelihood import (
    component_posterior,
    estimate,
    gain_interval,
    persona_posterior,
    score_for_likelihood,
    summarise,
)


def table(small_run, n_components):
    return score_for_likelihood(
        small_run.fitted, small_run.held_out, small_run.hx, scorer=small_run.lm, store=small_run.store,
        n_components=n_components, seed=0,
    )  # fmt: skip


def test_all_components_give_the_exact_sum(small_run):
    exact = table(small_run, 10_000)
    assert exact.is_exact
    found = estimate(exact, small_run.fitted)
    assert found.log_mix == pytest.approx(sum_over_components(small_run), abs=2e-3)
    assert found.standard_error.tolist() == [0.0] * len(found.log_mix)


def test_drawn_components_agree_within_their_standard_error(small_run):
    truth = estimate(table(small_run, 10_000), small_run.fitted).log_mix
    drawn = table(small_run, 20)
    assert not drawn.is_exact
    found = estimate(drawn, small_run.fitted)
    assert np.mean(np.abs(found.log_mix - truth) < 4 * found.standard_error + 0.01) > 0.9


def test_posteriors_sum_to_one_and_components_add_up_to_personas(small_run):
    exact = table(small_run, 10_000)
    posterior = persona_posterior(exact, small_run.fitted)
    assert posterior.sum(axis=1) == pytest.approx(np.ones(len(posterior)))
    share = component_posterior(exact, small_run.fitted)
    first = [m for m, (k, _) in enumerate(exact.components) if k == 0]
    assert share[:, first].sum(axis=1) == pytest.approx(posterior[:, 0])


def test_the_gain_is_the_mean_difference_and_lies_in_its_interval(small_run):
    exact = table(small_run, 10_000)
    uniform = uniform_mixture(small_run.fitted)
    gain = gain_interval(exact, small_run.fitted, uniform, seed=0, n_resamples=300)
    difference = estimate(exact, small_run.fitted).log_mix - estimate(exact, uniform).log_mix
    assert gain["gain"] == pytest.approx(difference.mean())
    assert gain["gain_per_token"] == pytest.approx(difference.sum() / exact.n_tokens.sum())
    low, high = gain["gain_interval"]
    assert low <= gain["gain"] <= high


def test_a_mixture_gains_nothing_over_itself(small_run):
    exact = table(small_run, 10_000)
    gain = gain_interval(exact, small_run.fitted, small_run.fitted, seed=0, n_resamples=50)
    assert (gain["gain"], gain["gain_interval"]) == (0.0, [0.0, 0.0])


def test_gaps_beyond_the_range_of_floats_leave_the_interval_finite(small_run):
    exact = table(small_run, 10_000)
    curves = exact.curves.copy()
    curves[:, ::2] -= 2000.0
    far = replace(exact, curves=curves, log_proposal=np.full(len(exact.components), -3.4))
    gain = gain_interval(
        far, small_run.fitted, uniform_mixture(small_run.fitted), seed=0, n_resamples=100
    )
    assert np.isfinite(gain["gain_interval"]).all()


def test_survey_weights_count(small_run):
    exact = table(small_run, 10_000)
    weight = np.zeros(len(exact.hx)) + 1e-9
    weight[3] = 1.0
    found = summarise(
        replace(exact, weight=weight), small_run.fitted, uniform_mixture(small_run.fitted), seed=0
    )
    assert found["mop"] == pytest.approx(estimate(exact, small_run.fitted).log_mix[3], abs=1e-5)


def test_no_component_is_refused(small_run):
    with pytest.raises(
        ConfigError, match="the number of components to score must be at least 1, got 0"
    ):
        table(small_run, 0)
