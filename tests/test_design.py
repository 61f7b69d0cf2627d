"""Proposals: the chance of every cell to be scored is what the design says."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from mop.candidates import log_lik_of
from mop.cells import Problem
from mop.config import FitConfig
from mop.design import Design, similar_groups
from mop.errors import DataError
from planted import plant

FAST = FitConfig(
    n_rounds=2, components_per_record=9, records_per_component=40, valid_components=12, dim=4,
    learning_rate=0.08, max_steps=20, n_folds=2, decays=(0.5,), tau_spread=1.0, start_tau=1.0,
)  # fmt: skip


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


@pytest.mark.parametrize("has_gate", [False, True])
def test_cells_are_scored_as_often_as_their_chances_say(has_gate):
    """2 × 300 designs: the share of designs that scored a cell, against the stated chance."""
    planted = plant(n=24, n_train=16)
    settings = replace(FAST, components_per_record=3, records_per_component=4, valid_components=4)
    gains = np.linspace(0.5, 2.0, 12)
    n_designs, scored = 300, np.zeros((24, 12))
    chance = np.zeros((24, 12))
    for seed in range(n_designs):
        design = Design(planted.problem, settings, seed)
        design.extend(planted.score, planted.gate if has_gate else None, 1, gains=gains)
        table = design.table()
        flat = table.persona * 4 + table.exemplar
        for i, m in np.argwhere(table.present):
            scored[i, flat[i, m]] += 1
            chance[i, flat[i, m]] = np.exp(table.log_q[i, m])
    share = scored / n_designs
    error = np.sqrt(np.maximum(chance * (1 - chance), 0.01) / n_designs)
    assert (np.abs(share - chance) < 4.5 * error)[scored > 0].all()
    assert chance.sum(axis=1) == pytest.approx([3.0] * 16 + [4.0] * 8, rel=0.02)


@pytest.mark.parametrize("second", [3, 2])
def test_even_rounds_deal_what_a_record_has_not_met(second):
    planted = plant(n=24, n_train=16)
    scored, chance = np.zeros((2, 24, 12)), np.zeros((2, 24, 12))
    for seed in range(300):
        settings = replace(
            FAST, components_per_record=3, records_per_component=4, valid_components=3
        )
        design = Design(planted.problem, settings, seed)
        for round_, share in enumerate((1.0, second / 3)):
            design.extend(planted.score, None, round_, share=share)
            table = design.table()
            met = np.bincount([i for i, _ in design.cells], minlength=24)
            assert (met == (3, 3 + second)[round_]).all()
            flat = table.persona * 4 + table.exemplar
            for i, m in np.argwhere(table.present):
                scored[round_, i, flat[i, m]] += 1
                chance[round_, i, flat[i, m]] = np.exp(table.log_q[i, m])
    for round_, expected in enumerate((3, 3 + second)):
        known = chance[round_] > 0
        assert chance[round_][known] == pytest.approx(expected / 12)
        error = np.sqrt(chance * (1 - chance) / 300)[round_]
        assert (np.abs(scored[round_] / 300 - chance[round_]) < 4.5 * error)[known].all()


def test_the_components_with_the_largest_gain_are_proposed_more_often():
    planted = plant(n=60, n_train=40)
    gains = np.full(12, 0.9)
    gains[5] = 3.0
    settings = replace(FAST, components_per_record=2, records_per_component=5, valid_components=2)
    with torch.no_grad():
        planted.gate.w_e.zero_()
    design = Design(planted.problem, settings, 0)
    design.extend(planted.score, planted.gate, 1, gains=gains)
    table = design.table()
    of_five = table.persona * 4 + table.exemplar == 5
    assert (
        np.exp(table.log_q[of_five & table.present]).min() > 2 * 0.2
    )  # GAINS of the proposal, two draws


def test_the_records_of_a_group_share_their_components():
    planted = plant(n=60, n_train=40)
    settings = replace(FAST, components_per_record=3, records_per_component=10, valid_components=2)
    design = Design(planted.problem, settings, 0)
    design.extend(planted.score, planted.gate, 1)
    groups = similar_groups(planted.problem.hx[:40], 4)
    for g in range(4):
        seen = {
            tuple(sorted(c for i, c in design.cells if i == row))
            for row in np.flatnonzero(groups == g)
        }
        assert len(seen) == 1


def test_a_share_of_a_round_scores_that_share_of_its_cells():
    planted = plant(n=60, n_train=40)
    settings = replace(FAST, components_per_record=8, valid_components=8)
    design = Design(planted.problem, settings, 0)
    design.extend(planted.score, None, 0, share=0.5)
    assert design.n_cells == pytest.approx(60 * 4, abs=20)
    assert design.expected_cells() == 60 * 8


def test_similar_groups_are_even_and_alike():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (4, 5))
    truth = rng.permutation(np.repeat(np.arange(4), 10))
    groups = similar_groups((centres[truth] + rng.normal(size=(40, 5))).astype(np.float32), 4)
    assert np.bincount(groups).tolist() == [10] * 4
    assert all(len(set(truth[groups == g])) == 1 for g in range(4))


def test_a_table_without_any_score_is_refused():
    planted = plant(n=20, n_train=10)
    with pytest.raises(
        DataError, match=r"no component was scored .* raise fit\.components_per_record"
    ):
        Design(planted.problem, FAST, 0).table()


def test_a_record_meets_different_exemplars_whatever_the_number_of_components():
    """Dealt in the order of their numbers, 4 of 24 x 4 components would be one exemplar four times."""
    rng = np.random.default_rng(0)
    n, n_personas, n_exemplars = 96, 24, 4
    problem = Problem(
        hx=rng.normal(size=(n, 8)).astype(np.float32),
        hg=rng.normal(size=(n_personas, 8)).astype(np.float32),
        he=rng.normal(size=(n_exemplars, 8)).astype(np.float32),
        own=np.full(n, -1),
        weight=np.ones(n),
        n_train=n - 8,
        betas=(1.0,),
    )
    settings = replace(FAST, components_per_record=4, records_per_component=11)
    design = Design(problem, settings, seed=0)
    design.extend(lambda r, k, j: (np.zeros((len(r), 1), np.float32), len(r)), None, 0)
    cells = design.table()
    met = [len(set(row[here])) for row, here in zip(cells.exemplar, cells.present, strict=True)]
    assert np.mean(met[: n - 8]) > 3.5
