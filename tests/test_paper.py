"""The paper's recipe on scores whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest

from mop.config import FitConfig
from mop.errors import ConfigError
from mop.mixture.paper import fit_paper
from planted import plant

FAST = FitConfig(
    n_rounds=2, components_per_record=9, records_per_component=40, valid_components=12, dim=4,
    learning_rate=0.08, max_steps=12, n_folds=2, start_tau=1.0,
)  # fmt: skip


def test_the_papers_recipe_learns_and_reports_bound_and_full_value():
    planted = plant(n=120, n_train=80)
    settings = replace(FAST, max_steps=10, top_m=4, learning_rate=0.02, start_tau=0.6, valid_components=12)
    result = fit_paper(planted.problem, planted.score, settings, seed=0)
    first, best = result.history[0], max(result.history, key=lambda row: row["valid"])
    assert best["valid"] > first["valid"]
    assert all(row["valid_bound"] <= row["valid"] + 1e-9 for row in result.history)
    rows = np.arange(80, 120)
    assert planted.log_lik(result.gate, rows).mean() == pytest.approx(best["valid"], abs=2e-3)


def test_the_papers_gate_sees_texts_and_not_the_contexts_of_exemplars():
    planted = plant(n=60, n_train=40)
    he = planted.problem.he
    both = replace(planted.problem, he=np.hstack([he, he[::-1]]))
    settings = replace(FAST, max_steps=2)
    gate = fit_paper(both, planted.score, settings, seed=0).gate
    assert gate.he.tolist() == he.astype(np.float64).tolist()
    alone = fit_paper(planted.problem, planted.score, settings, seed=0).gate
    assert gate.w_e.tolist() == alone.w_e.tolist()


def test_the_papers_recipe_masks_the_own_exemplar():
    planted = plant(n=60, n_train=40, own=True)
    fit_paper(planted.problem, planted.score, replace(FAST, max_steps=3), seed=0)  # score() asserts it


def test_the_papers_recipe_copes_with_fewer_components_than_it_wants():
    planted = plant(n=40, n_train=30, n_personas=1, n_exemplars=3, own=True)
    result = fit_paper(planted.problem, planted.score, replace(FAST, max_steps=2, top_m=9), seed=0)
    assert result.history


def test_the_papers_recipe_is_compared_with_the_best_single_temperature():
    planted = plant(n=60, n_train=40)
    result = fit_paper(planted.problem, planted.score, replace(FAST, max_steps=2, start_tau=0.3), seed=0)
    assert result.uniform_tau != pytest.approx(0.3)


def test_a_budget_stops_the_papers_recipe_too():
    planted = plant(n=60, n_train=40)
    free = fit_paper(planted.problem, planted.score, replace(FAST, max_steps=8), seed=0)
    budget = free.n_tokens - 1
    kept = fit_paper(planted.problem, planted.score, replace(FAST, max_steps=8, max_lm_tokens=budget), seed=0)
    assert kept.n_tokens <= budget
    assert len(kept.history) < len(free.history)
    assert f"of max_lm_tokens {budget} are spent" in kept.stopped
    assert kept.history[-1]["kept_round"] < len(kept.history)
    with pytest.raises(ConfigError, match=r"fit.max_lm_tokens is 5, and 12 components of 20 validation"):
        fit_paper(planted.problem, planted.score, replace(FAST, max_lm_tokens=5), seed=0)


def test_time_stops_the_papers_recipe_too():
    planted = plant(n=60, n_train=40)
    settings = replace(FAST, max_steps=8, max_minutes=1.0)
    result = fit_paper(planted.problem, planted.score, settings, seed=0, clock=iter(range(0, 600, 25)).__next__)
    assert result.stopped == "another epoch would exceed max_minutes 1"
    assert 1 <= len(result.history) < 8
