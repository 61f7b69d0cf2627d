"""Likelihoods of records under a fitted mixture of the fake model, against full enumeration."""

from dataclasses import replace

import numpy as np
import pytest

from conftest import sum_over_components
from mop.backends.fake import FakeModel
from mop.errors import ConfigError
from mop.evaluate.likelihood import (
    REFERENCES,
    Likelihood,
    component_posterior,
    draw_components,
    gain_over,
    lower_bound,
    mean_interval,
    references,
    refit_temperatures,
    score_for_likelihood,
    summarise,
)
from mop.mixture.fitted import unconditional_mixture, with_temperatures
from mop.mixture.score import clusters
from mop.storage.store import Store
from mop.types import Record
from planted_likelihood import coverage


def table(small_run, n_components, seed=0):
    return score_for_likelihood(
        small_run.fitted, small_run.held_out, small_run.hx, scorer=small_run.lm, store=small_run.store,
        n_components=n_components, seed=seed,
    )  # fmt: skip


def likelihood(small_run, n_components, seed=0):
    return Likelihood(table(small_run, n_components, seed), small_run.fitted, seed=seed)


def values(exact, mixture):
    """Of a whole table, (n,)."""
    (found,) = Likelihood(exact, mixture, seed=0).values(mixture)
    return found


def test_all_components_give_the_exact_sum(small_run):
    exact = table(small_run, 10_000)
    assert exact.is_exact
    truth = sum_over_components(small_run)
    assert values(exact, small_run.fitted) == pytest.approx(truth, abs=2e-3)
    assert lower_bound(exact, small_run.fitted) == pytest.approx(truth, abs=2e-3)


def test_records_of_a_group_have_the_same_draws_and_others_their_own(small_run):
    drawn = table(small_run, 5)
    n = len(drawn.hx)
    n_groups = -(-n // 6)
    assert n_groups > 1
    assert drawn.curves.shape[:2] == drawn.present.shape == (n, 5)
    components = 10 * drawn.persona + drawn.exemplar
    for row in range(n):
        assert components[row].tolist() == components[row % n_groups].tolist()
    assert components[0].tolist() != components[1].tolist()


def test_every_draw_has_its_chance_also_where_an_exemplar_is_drawn_again():
    rng = np.random.default_rng(0)
    weight = rng.dirichlet(np.ones(12))
    drawn = np.array([draw_components(weight, 4, 4, rng) for _ in range(20_000)])
    for column in drawn.T:
        share = np.bincount(column, minlength=12) / len(drawn)
        assert share == pytest.approx(weight, abs=0.015)
    assert all(row[-1] % 4 in row[:-1] % 4 for row in drawn[:100])


def test_the_lower_bound_is_right_on_average_before_the_logarithm(small_run):
    """Mean over designs of p, relative to the truth; a wrong count of draws would shift it by a factor."""
    truth = values(table(small_run, 10_000), small_run.fitted)
    drawn = [lower_bound(table(small_run, 5, seed), small_run.fitted) for seed in range(40)]
    assert np.mean(np.exp(drawn - truth)) == pytest.approx(1.0, abs=0.1)


def test_imputation_takes_away_most_of_the_bias(small_run):
    """Five of thirty components: the log of their mean is too low, the imputed sum much less so."""
    truth = values(table(small_run, 10_000), small_run.fitted).mean()
    found = [likelihood(small_run, 5, seed) for seed in range(20)]
    bias = np.mean([lower_bound(f.table, small_run.fitted).mean() for f in found]) - truth
    imputed = np.mean([f.ours.mean() for f in found]) - truth
    assert bias < -0.02
    assert abs(imputed) < 0.5 * abs(bias)


def test_what_was_scored_stays_and_equal_draws_count_once(small_run):
    drawn = table(small_run, 12)
    twice = replace(
        drawn,
        persona=np.tile(drawn.persona, 2),
        exemplar=np.tile(drawn.exemplar, 2),
        curves=np.tile(drawn.curves, (1, 2, 1)),
        present=np.tile(drawn.present, 2),
        log_proposal=np.tile(drawn.log_proposal, 2),
    )
    once, again = (Likelihood(t, small_run.fitted, seed=0).ours for t in (drawn, twice))
    assert again.mean() == pytest.approx(once.mean(), abs=0.05)
    assert lower_bound(twice, small_run.fitted) == pytest.approx(lower_bound(drawn, small_run.fitted))


def test_a_seed_gives_the_same_imputations_and_another_seed_others(small_run):
    first, again = likelihood(small_run, 5), likelihood(small_run, 5)
    assert first.ours.tolist() == again.ours.tolist()
    assert first.ours.shape == (16, len(small_run.held_out))
    other = Likelihood(first.table, small_run.fitted, seed=1)
    assert other.ours.tolist() != first.ours.tolist()


def test_posteriors_sum_to_one_and_components_add_up_to_personas(small_run):
    exact = likelihood(small_run, 10_000)
    posterior = exact.persona_posterior(small_run.fitted)
    assert posterior.sum(axis=1) == pytest.approx(np.ones(len(posterior)))
    share = component_posterior(exact.table, small_run.fitted)
    first = exact.table.persona[0] == 0
    assert share[:, first].sum(axis=1) == pytest.approx(posterior[:, 0])
    drawn = likelihood(small_run, 12).persona_posterior(small_run.fitted)
    assert drawn.sum(axis=1) == pytest.approx(np.ones(len(posterior)))
    assert np.abs(drawn - posterior).mean() < 0.15


def test_more_components_than_can_be_summed_stand_for_all(small_run, monkeypatch):
    whole = likelihood(small_run, 12)
    monkeypatch.setattr("mop.evaluate.likelihood.MOST_COMPONENTS", 25)
    part = likelihood(small_run, 12)
    assert part.ours.mean() == pytest.approx(whole.ours.mean(), abs=0.3)


def test_a_mixture_gains_nothing_over_itself(small_run):
    drawn = likelihood(small_run, 5)
    gain = gain_over(drawn.ours, drawn.values(small_run.fitted), drawn.table)
    assert (gain["gain"], gain["gain_interval"]) == (0.0, [0.0, 0.0])


def test_survey_weights_count(small_run):
    exact = table(small_run, 10_000)
    weight = np.zeros(len(exact.hx)) + 1e-9
    weight[3] = 1.0
    found = summarise(Likelihood(replace(exact, weight=weight), small_run.fitted, seed=0))
    assert found["mop"] == pytest.approx(values(exact, small_run.fitted)[3], abs=1e-5)


def test_too_few_components_are_refused(small_run):
    with pytest.raises(ConfigError, match="the number of components to score must be at least 2, got 1"):
        table(small_run, 1)


# ------------------------------------------------------------------------------------ intervals


def test_the_interval_of_a_mean_is_the_textbook_one_without_clusters_and_imputations():
    rng = np.random.default_rng(0)
    values = rng.normal(size=20)
    found = mean_interval(values, np.ones(20), np.arange(20))
    half = 2.093024 * values.std(ddof=1) / 20**0.5  # t, 19 degrees of freedom
    assert found["interval"] == pytest.approx([values.mean() - half, values.mean() + half])


def test_records_of_a_cluster_are_one_observation():
    """Everybody's answers repeated five times say no more than once."""
    rng = np.random.default_rng(0)
    values, weight = rng.normal(size=12), rng.uniform(1, 3, 12)
    once = mean_interval(values, weight, np.arange(12))
    five = mean_interval(np.tile(values, 5), np.tile(weight, 5), np.tile(np.arange(12), 5))
    assert five["interval"] == pytest.approx(once["interval"])


def test_a_weight_of_two_is_a_cluster_of_two():
    values = np.array([1.0, 4.0, 2.0])
    weighted = mean_interval(values, np.array([2.0, 1.0, 1.0]), np.arange(3))
    doubled = mean_interval(values[[0, 0, 1, 2]], np.ones(4), np.array([0, 0, 1, 2]))
    assert weighted == doubled


def test_the_spread_between_imputations_widens_an_interval_by_rubins_rules():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 200)) + np.array([[-0.5], [0.5], [1.0]])
    found = mean_interval(values, np.ones(200), np.arange(200))
    within = mean_interval(values[0], np.ones(200), np.arange(200))["standard_error"] ** 2
    between = np.var([-0.5, 0.5, 1.0], ddof=1) * (1 + 1 / 3)
    assert found["standard_error"] ** 2 == pytest.approx(within + between)


def test_one_cluster_alone_has_no_interval():
    found = mean_interval(np.ones(5), np.ones(5), np.zeros(5, dtype=int))
    assert found["interval"] is found["standard_error"] is None


def test_a_figure_per_token_is_a_ratio_of_sums():
    found = mean_interval(np.array([1.0, 4.0]), np.ones(2), np.arange(2), size=np.array([2.0, 3.0]))
    assert found["mean"] == pytest.approx(1.0)


def test_records_without_a_group_stand_alone():
    records = [
        Record(key=str(i), context="", response="", group=group) for i, group in enumerate(["a", None, "a", None, "0"])
    ]
    assert clusters(records).tolist() == [0, 1, 0, 2, 3]


def test_intervals_hold_planted_truth():
    """A few repeats; `make nightly` has more, and benchmarks/results/figures.json many."""
    found = coverage(8, n_repeats=8, n=30, n_exemplars=60, n_truth=200)
    assert found["bound_bias"] < -1.0
    assert abs(found["score_bias"]) < 0.5
    assert min(found["gain"], found["score"]) >= 0.75


@pytest.mark.slow
@pytest.mark.parametrize("n_groups", [0, 12])
def test_intervals_hold_planted_truth_as_often_as_they_say(n_groups):
    found = coverage(16, n_repeats=200, n_groups=n_groups)
    assert 0.90 <= found["score"] <= 0.98
    assert 0.90 <= found["rival"] <= 0.99
    assert found["gain"] >= 0.92  # on the safe side: both mixtures share their imputations


# ----------------------------------------------------------------------------------- simpler models


def held_against(small_run, drawn, **options):
    return references(
        Likelihood(drawn, small_run.fitted, seed=0), small_run.held_out, scorer=small_run.lm,
        store=small_run.store, **options,
    )  # fmt: skip


def test_references_are_sums_over_prompts_without_persona_or_exemplar(small_run):
    """Zero-shot, exemplars alone and personas alone, each asked of the fake model prompt by prompt."""
    from mop.backends.curve import weights
    from mop.prompts import simulation_prompt
    from mop.types import ScoreRequest

    exact = table(small_run, 10_000)
    found = held_against(small_run, exact)
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
            simulation_prompt(r.context, persona=p.description, task=fitted.task) for p in fitted.personas
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
    ours = values(exact, fitted).mean()
    for row in found.values():
        assert row["gain"] == pytest.approx(ours - row["log_lik"])
        assert row["gain_interval"][0] <= row["gain"] <= row["gain_interval"][1]
        low, high = row["gain_per_token_interval"]
        assert low <= row["gain_per_token"] <= high


def test_references_are_asked_for_as_many_prompts_as_the_mixture(small_run):
    drawn = table(small_run, 5)
    found = held_against(small_run, drawn)
    assert found["no-persona"]["kind"] == found["mop-uniform"]["kind"] == "estimate"
    assert found["no-persona"]["n_components"] == found["mop-uniform"]["n_components"] == 5
    assert found["zero-shot"]["kind"] == found["single-component"]["kind"] == "exact"
    assert found["no-exemplar"]["kind"] == "exact"  # three personas, no more
    assert set(held_against(small_run, drawn, plain=False)) == {"mop-uniform", "unconditional"}
    assert summarise(likelihood(small_run, 20))["kind"] == "estimate"


def test_exemplars_alone_are_estimated_from_some_of_them(small_run):
    """Half of ten exemplars, without a persona: near what all ten give."""
    whole = held_against(small_run, table(small_run, 10_000))["no-persona"]
    part = held_against(small_run, table(small_run, 5))["no-persona"]
    assert whole["kind"] == "exact"
    assert part["log_lik"] == pytest.approx(whole["log_lik"], abs=0.2)


def test_refitted_temperatures_undo_a_common_error(small_run):
    """Temperatures all wrong by 30 %: the refit finds values at least as good as the fit's own."""
    exact = table(small_run, 10_000)
    wrong = with_temperatures(small_run.fitted, small_run.fitted.temperatures * 1.3)
    again = refit_temperatures(wrong, exact)
    found = [values(exact, m).mean() for m in (wrong, small_run.fitted, again)]
    assert found[2] >= max(found) - 1e-6
    best = max(
        values(exact, with_temperatures(wrong, wrong.temperatures * f)).mean() for f in np.linspace(0.5, 1.2, 71)
    )
    assert found[2] >= best - 1e-3
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
    assert values(exact, free_again).mean() >= values(exact, free).mean() - 1e-6
    found = references(Likelihood(exact, again, seed=0), small_run.held_out, scorer=small_run.lm, store=small_run.store)
    single = found["single-component"]["temperature"]
    assert single is not None
    assert single != fitted.info["best_component"]["tau"]


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
    assert summarise(Likelihood(flat, small_run.fitted, seed=0))["scored_at"] == 1.0
    assert summarise(Likelihood(exact, small_run.fitted, seed=0))["scored_at"] is None
    at_its_own = with_temperatures(small_run.fitted, 1.0)
    assert summarise(Likelihood(flat, at_its_own, seed=0))["scored_at"] is None


def test_temperatures_need_curves(small_run):
    exact = table(small_run, 10_000)
    at_one = list(exact.betas).index(1.0)
    flat = replace(exact, betas=(1.0,), curves=exact.curves[:, :, [at_one]])
    with pytest.raises(ConfigError, match="cannot be refitted with a model that scores at temperature 1 alone"):
        refit_temperatures(small_run.fitted, flat)


def test_unconditional_weights_ignore_the_context(small_run):
    free = unconditional_mixture(small_run.fitted)
    log_pi = free.log_pi(small_run.hx)
    assert np.ptp(log_pi, axis=0).max() < 1e-12
