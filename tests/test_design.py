"""Deals: every component is as likely as any other, and nothing is scored twice."""

from dataclasses import replace

import numpy as np
import pytest

from mop.config import FitConfig
from mop.errors import DataError
from mop.mixture.cells import Problem
from mop.mixture.design import Design
from planted import plant

FAST = FitConfig(
    n_rounds=2, components_per_record=9, records_per_component=40, valid_components=12, n_folds=2
)  # fmt: skip


def test_with_everything_scored_a_later_round_adds_nothing():
    planted = plant(n=60, n_train=40)
    settings = replace(FAST, components_per_record=40, valid_components=40)
    design = Design(planted.problem, planted.score, settings, 0)
    design.extend()
    design.extend()
    assert design.asked.n_cells == 60 * 12
    table = design.asked.table()
    for i, m in ((0, 0), (39, 7), (59, 11)):
        expected = planted.curve(i, table.persona[i, m] * 4 + table.exemplar[i, m])
        assert table.curves[i, m] == pytest.approx(expected)


@pytest.mark.parametrize("second", [3, 2])
def test_every_component_is_as_likely_to_be_dealt_and_none_twice(second):
    """300 designs: the share of designs that scored a cell, against m / C."""
    planted = plant(n=24, n_train=16)
    scored = np.zeros((2, 24, 12))
    settings = replace(FAST, components_per_record=3, records_per_component=4, valid_components=3)
    for seed in range(300):
        design = Design(planted.problem, planted.score, settings, seed)
        for round_, share in enumerate((1.0, second / 3)):
            design.extend(share=share)
            met = np.bincount([i for i, _ in design.asked.curves], minlength=24)
            assert (met == (3, 3 + second)[round_]).all()
            for i, c in design.asked.curves:
                scored[round_, i, c] += 1
    for round_, expected in enumerate((3, 3 + second)):
        chance = expected / 12
        error = np.sqrt(chance * (1 - chance) / 300)
        assert (np.abs(scored[round_] / 300 - chance) < 4.5 * error).all()


def test_the_records_of_a_group_share_their_components():
    planted = plant(n=60, n_train=40)
    settings = replace(FAST, components_per_record=3, records_per_component=10, valid_components=2)
    design = Design(planted.problem, planted.score, settings, 0)
    design.extend()
    hands = [tuple(sorted(c for i, c in design.asked.curves if i == row)) for row in range(60)]
    assert sorted(hands.count(hand) for hand in set(hands[:40])) == [10] * 4
    assert len(set(hands[40:])) == 1


def test_a_share_of_a_round_scores_that_share_of_its_cells():
    planted = plant(n=60, n_train=40)
    settings = replace(FAST, components_per_record=8, valid_components=8)
    design = Design(planted.problem, planted.score, settings, 0)
    design.extend(share=0.5)
    assert design.asked.n_cells == pytest.approx(60 * 4, abs=20)
    assert design.expected_cells() == 60 * 8


def test_a_table_without_any_score_is_refused():
    planted = plant(n=20, n_train=10)
    with pytest.raises(DataError, match=r"no component was scored .* raise fit\.components_per_record"):
        Design(planted.problem, planted.score, FAST, 0).asked.table()


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
    design = Design(problem, lambda r, k, j: (np.zeros((len(r), 1), np.float32), len(r)), settings, seed=0)
    design.extend()
    cells = design.asked.table()
    met = [len(set(row[here])) for row, here in zip(cells.exemplar, cells.present, strict=True)]
    assert np.mean(met[: n - 8]) > 3.5
