"""The paper's recipe on scores whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest

from mop.config import FitConfig
from mop.errors import ConfigError
from mop.mixture.paper import fit_paper
from planted import plant

FAST = FitConfig(method="paper", valid_components=12)


@pytest.fixture(autouse=True)
def small_and_quick(monkeypatch):
    for name, value in {"DIM": 4, "STEP_SIZE": 0.08, "START_TAU": 1.0}.items():
        monkeypatch.setattr(f"mop.mixture.paper.{name}", value)


def test_the_papers_recipe_learns_and_reports_bound_and_full_value(monkeypatch):
    monkeypatch.setattr("mop.mixture.paper.STEP_SIZE", 0.02)
    monkeypatch.setattr("mop.mixture.paper.START_TAU", 0.6)
    planted = plant(n=120, n_train=80)
    result = fit_paper(planted.problem, planted.score, FAST, seed=0, n_epochs=10)
    first, best = result.history[0], max(result.history, key=lambda row: row["valid"])
    assert best["valid"] > first["valid"]
    assert all(row["valid_bound"] <= row["valid"] + 1e-9 for row in result.history)
    rows = np.arange(80, 120)
    assert planted.log_lik(result.gate, rows).mean() == pytest.approx(best["valid"], abs=2e-3)


def test_the_papers_gate_sees_texts_and_not_the_contexts_of_exemplars():
    planted = plant(n=60, n_train=40)
    he = planted.problem.he
    both = replace(planted.problem, he=np.hstack([he, he[::-1]]))
    gate = fit_paper(both, planted.score, FAST, seed=0, n_epochs=2).gate
    assert gate.he.tolist() == he.astype(np.float64).tolist()
    alone = fit_paper(planted.problem, planted.score, FAST, seed=0, n_epochs=2).gate
    assert gate.w_e.tolist() == alone.w_e.tolist()


def test_the_papers_recipe_masks_the_own_exemplar():
    planted = plant(n=60, n_train=40, own=True)
    fit_paper(planted.problem, planted.score, FAST, seed=0, n_epochs=3)  # score() asserts it


def test_the_papers_recipe_copes_with_fewer_components_than_it_wants(monkeypatch):
    planted = plant(n=40, n_train=30, n_personas=1, n_exemplars=3, own=True)
    monkeypatch.setattr("mop.mixture.paper.TOP_M", 9)
    result = fit_paper(planted.problem, planted.score, FAST, seed=0, n_epochs=2)
    assert result.history


def test_the_papers_recipe_is_compared_with_the_best_single_temperature(monkeypatch):
    planted = plant(n=60, n_train=40)
    monkeypatch.setattr("mop.mixture.paper.START_TAU", 0.3)
    result = fit_paper(planted.problem, planted.score, FAST, seed=0, n_epochs=2)
    assert result.uniform_tau != pytest.approx(0.3)


def test_a_budget_stops_the_papers_recipe_too():
    planted = plant(n=60, n_train=40)
    free = fit_paper(planted.problem, planted.score, FAST, seed=0, n_epochs=8)
    budget = free.n_tokens - 1
    kept = fit_paper(planted.problem, planted.score, replace(FAST, max_lm_tokens=budget), seed=0, n_epochs=8)
    assert kept.n_tokens <= budget
    assert len(kept.history) < len(free.history)
    assert f"of max_lm_tokens {budget} are spent" in kept.stopped
    assert kept.history[-1]["kept_round"] < len(kept.history)
    with pytest.raises(ConfigError, match=r"fit.max_lm_tokens is 5, and 12 components of 20 validation"):
        fit_paper(planted.problem, planted.score, replace(FAST, max_lm_tokens=5), seed=0)
