"""The fit on scores whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mop.config import FitConfig
from mop.design import Design
from mop.errors import DataError
from mop.fit import (
    Cells,
    best_single_tau,
    fit_paper,
    fit_rounds,
    log_lik_of,
    pack_cells,
)
from planted import plant

FAST = FitConfig(
    n_rounds=2, components_per_record=9, records_per_component=40, valid_components=12,
    dim=4, learning_rate=0.08, max_steps=200,
    n_folds=2, decays=(0.003,), tau_spread=1.0, start_tau=1.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    return plant(n=800, n_train=640, blocks=True)


@pytest.fixture(scope="module")
def fitted(planted):
    return fit_rounds(planted.problem, planted.score, FAST, seed=0)


def test_planted_gates_are_recovered(planted, fitted):
    rows = np.arange(640, 800)
    truth = planted.log_lik(planted.gate, rows).mean()
    found = planted.log_lik(fitted.gate, rows).mean()
    uniform = planted.log_lik(
        type(planted.gate)(planted.gate.hg, planted.gate.he, seed=0), rows
    ).mean()
    assert fitted.chosen.startswith("gates")
    assert truth - uniform > 0.1  # there is something to learn
    assert found - uniform > 0.7 * (truth - uniform)


def test_planted_temperatures_are_recovered():
    # One exemplar and words of its own for each persona: otherwise temperatures are hardly identified.
    planted = plant(n=700, n_train=600, n_personas=2, n_exemplars=1, strength=1.0, blocks=True)
    settings = replace(FAST, n_rounds=1, components_per_record=2, valid_components=2, decays=(0.1,))
    fitted = fit_rounds(planted.problem, planted.score, settings, seed=0)
    assert fitted.gate.temperatures().tolist() == pytest.approx([0.6, 1.6], rel=0.15)


def test_a_resumed_fit_equals_an_unbroken_one(planted, fitted):
    again = fit_rounds(planted.problem, planted.score, FAST, seed=0)
    for name, tensor in fitted.gate.state_dict().items():
        assert torch.equal(again.gate.state_dict()[name], tensor), name
    assert again.history == fitted.history


def test_a_record_is_never_scored_with_itself():
    planted = plant(n=60, n_train=40, own=True)
    result = fit_rounds(
        planted.problem, planted.score, replace(FAST, max_steps=5), seed=0
    )  # score() asserts it
    assert result.n_cells == sum(planted.calls)


def test_without_signal_validation_does_not_choose_worse_than_uniform():
    planted = plant(n=120, n_train=60, strength=0.0, seed=2)
    result = fit_rounds(planted.problem, planted.score, FAST, seed=0)
    assert result.history[-1]["valid"] >= result.history[-1]["valid_uniform"]


def test_the_value_of_fully_scored_cells_is_the_exact_log_likelihood(planted):
    rows = np.arange(5)
    cells = pack_cells(
        [list(range(12))] * 5,
        planted.curve,
        np.zeros((5, 12)),
        n_exemplars=4,
        n_nodes=len(planted.problem.betas),
    )
    with torch.inference_mode():
        value = log_lik_of(
            planted.gate, cells, torch.as_tensor(planted.problem.hx[:5]),
            torch.as_tensor(planted.problem.own[:5]), planted.problem.betas,
        )  # fmt: skip
    assert value.numpy() == pytest.approx(planted.log_lik(planted.gate, rows), abs=1e-3)


def test_the_best_single_temperature_is_found():
    planted = plant(n=400, n_train=300, strength=0.0, seed=5)
    with torch.no_grad():
        planted.gate.log_tau.fill_(np.log(0.8))
    rng = np.random.default_rng(0)
    for i in range(400):
        z = planted.logits[rng.integers(12)] / 0.8
        planted.outcomes[i] = rng.choice(12, p=np.exp(z) / np.exp(z).sum())
    cells = pack_cells(
        [list(range(12))] * 400,
        planted.curve,
        np.zeros((400, 12)),
        n_exemplars=4,
        n_nodes=len(planted.problem.betas),
    )
    tau, value = best_single_tau(cells, np.ones(400), planted.problem.betas)
    assert _uniform(planted, tau) == pytest.approx(value, abs=1e-3)
    assert value == pytest.approx(
        max(_uniform(planted, t) for t in np.linspace(0.5, 1.5, 101)), abs=1e-3
    )


def _uniform(planted, tau):
    z = planted.logits / tau
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return float(np.log(np.exp(log_p[:, planted.outcomes]).mean(0)).mean())


def test_the_papers_recipe_learns_and_reports_bound_and_full_value():
    planted = plant(n=200, n_train=150)
    settings = replace(
        FAST, max_steps=12, top_m=4, learning_rate=0.02, start_tau=0.6, valid_components=12
    )
    result = fit_paper(planted.problem, planted.score, settings, seed=0)
    first, best = result.history[0], max(result.history, key=lambda row: row["valid"])
    assert best["valid"] > first["valid"]
    assert all(row["valid_bound"] <= row["valid"] + 1e-9 for row in result.history)
    rows = np.arange(150, 200)
    assert planted.log_lik(result.gate, rows).mean() == pytest.approx(best["valid"], abs=2e-3)


def test_the_papers_recipe_masks_the_own_exemplar():
    planted = plant(n=60, n_train=40, own=True)
    fit_paper(
        planted.problem, planted.score, replace(FAST, max_steps=3), seed=0
    )  # score() asserts it


def test_with_one_node_temperatures_stay():
    planted = plant(n=60, n_train=40)
    one = replace(planted.problem, betas=(1.0,))
    at_one = list(planted.problem.betas).index(1.0)

    def score(i, k, j):
        return planted.score(i, k, j)[0][:, [at_one]], 0

    result = fit_rounds(one, score, replace(FAST, max_steps=20), seed=0)
    assert result.gate.temperatures().tolist() == pytest.approx([1, 1, 1])


def test_training_needs_validation_records(planted):
    with pytest.raises(
        DataError, match="needs training and validation records, got 800 of 800 for training"
    ):
        replace(planted.problem, n_train=800)


def test_no_scored_component_is_an_error():
    with pytest.raises(
        DataError, match="no component was scored for any record; raise fit.components_per_record"
    ):
        pack_cells([[], []], lambda i, c: np.zeros(1), np.zeros((2, 4)), n_exemplars=2, n_nodes=1)


def test_cells_count_what_is_present():
    cells = pack_cells(
        [[0], [1, 2]],
        lambda i, c: np.zeros(1, np.float32),
        np.zeros((2, 4)),
        n_exemplars=2,
        n_nodes=1,
    )
    assert isinstance(cells, Cells)
    assert cells.n_cells == 3


def test_with_everything_scored_later_rounds_stay_exact():
    """A skewed proposal draws favoured components more often; a cell is scored once all the same."""
    planted = plant(n=60, n_train=40)
    design = Design(
        planted.problem, replace(FAST, components_per_record=40, valid_components=40), 0
    )
    design.extend(planted.score, None, 0)
    with torch.no_grad():
        planted.gate.a.copy_(torch.tensor([3.0, 0.0, -3.0]))
    design.extend(planted.score, planted.gate, 1)
    assert design.n_cells == 60 * 12
    for rows in (np.arange(40), np.arange(40, 60)):
        cells = design.table().of(rows)
        with torch.inference_mode():
            value = log_lik_of(
                planted.gate, cells, torch.as_tensor(planted.problem.hx[rows]),
                torch.as_tensor(planted.problem.own[rows]), planted.problem.betas,
            )  # fmt: skip
        assert value.numpy() == pytest.approx(planted.log_lik(planted.gate, rows), abs=1e-3)


def test_the_papers_recipe_copes_with_fewer_components_than_it_wants():
    planted = plant(n=40, n_train=30, n_personas=1, n_exemplars=3, own=True)
    result = fit_paper(planted.problem, planted.score, replace(FAST, max_steps=2, top_m=9), seed=0)
    assert result.history


def test_the_papers_recipe_is_compared_with_the_best_single_temperature():
    planted = plant(n=60, n_train=40)
    result = fit_paper(
        planted.problem, planted.score, replace(FAST, max_steps=2, start_tau=0.3), seed=0
    )
    assert result.uniform_tau != pytest.approx(0.3)
