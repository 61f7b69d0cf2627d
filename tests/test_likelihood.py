"""Likelihoods of records under a fitted mixture of the fake model, against full enumeration."""

import math
from dataclasses import replace

import numpy as np
import pytest

from conftest import sum_over_components
from mop.backends.fake import FakeModel
from mop.errors import ConfigError
from mop.fitted import unconditional_mixture, uniform_mixture, with_temperatures
from mop.likelihood import (
    REFERENCES,
    Terms,
    component_posterior,
    error_of_mean,
    estimate,
    gain_interval,
    gain_over,
    mixture_terms,
    persona_posterior,
    references,
    refit_temperatures,
    score_for_likelihood,
    summarise,
)
from mop.store import Store


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


def test_records_beyond_a_few_get_draws_of_their_own(small_run):
    drawn = table(small_run, 5)
    n = len(drawn.hx)
    n_groups = math.ceil(n / 6)
    assert n_groups > 1
    assert (
        drawn.curves.shape[:2] == drawn.allowed.shape == (n, 5)
    )  # no room for the draws of others
    assert drawn.n_components == 5
    components = 10 * drawn.persona + drawn.exemplar
    for row in range(n):
        assert components[row].tolist() == components[row % n_groups].tolist()
        assert drawn.group[row] == row % n_groups
    assert components[0].tolist() != components[1].tolist()


def test_estimates_from_draws_are_right_on_average(small_run):
    """Mean over designs of p, relative to the truth; a wrong count of draws would shift it by a factor."""
    truth = estimate(table(small_run, 10_000), small_run.fitted).log_mix
    ratios = []
    for seed in range(40):
        drawn = score_for_likelihood(
            small_run.fitted, small_run.held_out, small_run.hx, scorer=small_run.lm,
            store=small_run.store, n_components=5, seed=seed,
        )  # fmt: skip
        ratios.append(np.exp(estimate(drawn, small_run.fitted).log_mix - truth))
        weights = mixture_terms(drawn, small_run.fitted)
        assert weights.log_mix == pytest.approx(estimate(drawn, small_run.fitted).log_mix)
    assert np.mean(ratios) == pytest.approx(1.0, abs=0.1)


def test_posteriors_sum_to_one_and_components_add_up_to_personas(small_run):
    exact = table(small_run, 10_000)
    posterior = persona_posterior(exact, small_run.fitted)
    assert posterior.sum(axis=1) == pytest.approx(np.ones(len(posterior)))
    share = component_posterior(exact, small_run.fitted)
    first = exact.persona[0] == 0
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
    far = replace(exact, curves=curves, log_proposal=np.full(exact.persona.shape, -3.4))
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


def held_against(small_run, exact, n_components=8):
    return references(
        small_run.fitted, exact, small_run.held_out, scorer=small_run.lm, store=small_run.store,
        n_components=n_components, seed=0,
    )  # fmt: skip


def test_references_are_sums_over_prompts_without_persona_or_exemplar(small_run):
    """Zero-shot, exemplars alone and personas alone, each asked of the fake model prompt by prompt."""
    from mop.curve import weights
    from mop.prompts import simulation_prompt
    from mop.types import ScoreRequest

    exact = table(small_run, 10_000)
    found = held_against(small_run, exact, n_components=1000)
    assert list(found) == list(REFERENCES)
    fitted, records = small_run.fitted, small_run.held_out

    def mean(prompts_of, tau):
        total = 0.0
        for record in records:
            requests = [ScoreRequest(prompt, record.response) for prompt in prompts_of(record)]
            scores = [score for batch in small_run.lm.score(requests) for _, score in batch]
            p = [np.exp(s.log_lik @ weights(1 / tau, small_run.lm.betas)) for s in scores]
            total += np.log(np.mean(p))
        return total / len(records)

    prompts = {
        "zero-shot": lambda r: [simulation_prompt(r.context, task=fitted.task)],
        "no-exemplar": lambda r: [
            simulation_prompt(r.context, persona=p.description, task=fitted.task)
            for p in fitted.personas
        ],
        "no-persona": lambda r: [
            simulation_prompt(r.context, exemplars=[e], task=fitted.task) for e in fitted.exemplars
        ],
    }
    for name, prompts_of in prompts.items():
        row = found[name]
        assert row["kind"] == "exact"
        assert row["log_lik"] == pytest.approx(mean(prompts_of, row["temperature"]), abs=2e-3)
        nearby = np.clip([0.9 * row["temperature"], 1.1 * row["temperature"]], 0.25, 3.0)
        others = [mean(prompts_of, tau) for tau in nearby]
        assert row["log_lik"] >= max(others) - 2e-3  # its best temperature
    ours = estimate(exact, fitted).log_mix.mean()
    for row in found.values():
        assert row["gain"] == pytest.approx(ours - row["log_lik"])
        assert row["gain_interval"][0] <= row["gain"] <= row["gain_interval"][1]
        low, high = row["gain_per_token_interval"]
        assert low <= row["gain_per_token"] <= high


def test_part_of_the_prompts_gives_a_bound_and_none_leaves_only_what_the_table_holds(small_run):
    drawn = table(small_run, 20)
    found = held_against(small_run, drawn, n_components=2)
    assert found["no-persona"]["kind"] == found["mop-uniform"]["kind"] == "bound"
    assert found["zero-shot"]["kind"] == found["single-component"]["kind"] == "exact"
    assert set(held_against(small_run, drawn, 0)) == {"mop-uniform", "unconditional"}
    assert (
        summarise(drawn, small_run.fitted, uniform_mixture(small_run.fitted), seed=0)["kind"]
        == "bound"
    )


def test_the_interval_of_a_gain_is_that_of_resampled_records(small_run):
    rng = np.random.default_rng(0)
    ours, theirs = rng.normal(size=(200, 1)), rng.normal(size=(200, 1))
    found = gain_over(
        Terms(ours, True), Terms(theirs, True), n_tokens=np.full(200, 5), weight=np.ones(200),
        shares_draws=False, seed=0,
    )  # fmt: skip
    difference = (ours - theirs)[:, 0]
    half = 1.96 * difference.std() / 200**0.5
    assert found["gain_interval"] == pytest.approx(
        [difference.mean() - half, difference.mean() + half], abs=0.02
    )
    assert found["gain_per_token"] == pytest.approx(found["gain"] / 5)


def test_draws_of_the_components_widen_an_interval():
    rng = np.random.default_rng(0)
    terms, flat = rng.normal(0, 2, (50, 8)), np.zeros((50, 1))

    def width(is_exact):
        found = gain_over(
            Terms(terms, is_exact), Terms(flat, True), n_tokens=np.ones(50, int), weight=np.ones(50),
            shares_draws=False, seed=0,
        )  # fmt: skip
        return found["gain_interval"][1] - found["gain_interval"][0]

    assert width(False) > 1.1 * width(True)


def test_refitted_temperatures_undo_a_common_error(small_run):
    """Temperatures all wrong by 30 %: the refit finds values at least as good as the fit's own."""
    exact = table(small_run, 10_000)
    wrong = with_temperatures(small_run.fitted, small_run.fitted.temperatures * 1.3)
    again = refit_temperatures(wrong, exact)
    values = [estimate(exact, m).log_mix.mean() for m in (wrong, small_run.fitted, again)]
    assert values[2] >= max(values) - 1e-6
    best = max(
        estimate(exact, with_temperatures(wrong, wrong.temperatures * f)).log_mix.mean()
        for f in np.linspace(0.5, 1.2, 71)
    )
    assert values[2] >= best - 1e-3
    assert again.gate.exemplar.tolist() == wrong.gate.exemplar.tolist()
    assert again.info["uniform_tau"] > 0


def test_refitted_temperatures_move_the_references_too(small_run):
    """All too warm by 30 %, references as well: gains over them are again those of the fit."""
    exact = table(small_run, 10_000)
    fitted = small_run.fitted
    free = unconditional_mixture(fitted)
    wrong = replace(
        with_temperatures(fitted, fitted.temperatures * 1.3),
        unconditional=with_temperatures(free, free.temperatures * 1.3).gate,
    )
    again = refit_temperatures(wrong, exact)
    free_again = unconditional_mixture(again)
    assert free_again.temperatures != pytest.approx(unconditional_mixture(wrong).temperatures)
    assert estimate(exact, free_again).log_mix.mean() >= estimate(exact, free).log_mix.mean() - 1e-6
    assert again.info["temperatures"] is None
    found = references(
        again, exact, small_run.held_out, scorer=small_run.lm, store=small_run.store,
        n_components=1, seed=0,
    )  # fmt: skip
    single = found["single-component"]["temperature"]
    assert single is not None
    assert single != fitted.info["best_component"]["tau"]


def test_the_error_of_a_mean_does_not_depend_on_how_many_records_it_is_of(small_run):
    """Components that are all equal leave nothing to err about, whoever else is scored beside a record."""
    drawn = table(small_run, 5)
    flat = replace(
        drawn,
        curves=np.zeros_like(drawn.curves),
        log_proposal=small_run.fitted.log_weight(
            drawn.hx, drawn.persona, drawn.exemplar, drawn.own
        ),
    )
    assert estimate(flat, small_run.fitted).standard_error == pytest.approx(0.0, abs=1e-9)


def test_errors_add_up_where_draws_are_shared_and_cancel_elsewhere(small_run):
    drawn = table(small_run, 5)
    errors = np.arange(1.0, len(drawn.hx) + 1)
    by_group = np.array([errors[drawn.group == g].sum() for g in np.unique(drawn.group)])
    assert len(by_group) > 1
    mean = np.sqrt((by_group**2).sum()) / len(errors)
    assert error_of_mean(drawn, errors) == pytest.approx(mean)
    report = summarise(drawn, small_run.fitted, uniform_mixture(small_run.fitted), seed=0)
    own = estimate(drawn, small_run.fitted).standard_error
    assert report["standard_error"] == pytest.approx(error_of_mean(drawn, own))


def test_one_temperature_for_a_mixture_with_others_is_said(small_run, caplog):
    one = FakeModel(betas=(1.0,))
    score_for_likelihood(
        small_run.fitted, small_run.held_out, small_run.hx, scorer=one, store=Store(":memory:"),
        n_components=2, seed=0,
    )  # fmt: skip
    assert "scores at temperature 1 only, and personas draw at others" in caplog.text
    exact = table(small_run, 10_000)
    at_one = list(exact.betas).index(1.0)
    flat = replace(exact, betas=(1.0,), curves=exact.curves[:, :, [at_one]])
    uniform = uniform_mixture(small_run.fitted)
    assert summarise(flat, small_run.fitted, uniform, seed=0)["scored_at"] == 1.0
    assert summarise(exact, small_run.fitted, uniform, seed=0)["scored_at"] is None
    at_its_own = with_temperatures(small_run.fitted, 1.0)
    assert summarise(flat, at_its_own, uniform, seed=0)["scored_at"] is None


def test_temperatures_need_curves(small_run):
    exact = table(small_run, 10_000)
    at_one = list(exact.betas).index(1.0)
    flat = replace(exact, betas=(1.0,), curves=exact.curves[:, :, [at_one]])
    with pytest.raises(
        ConfigError, match="cannot be refitted with a model that scores at temperature 1 alone"
    ):
        refit_temperatures(small_run.fitted, flat)


def test_unconditional_weights_ignore_the_context(small_run):
    free = unconditional_mixture(small_run.fitted)
    log_pi = free.log_pi(small_run.hx)
    assert np.ptp(log_pi, axis=0).max() < 1e-12
