"""Problems that cannot be fitted are refused, and ragged lists become tables."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.special import log_softmax

from mop.errors import DataError
from mop.mixture.cells import Asked
from planted import plant


def test_training_needs_validation_records():
    planted = plant(n=20, n_train=10)
    with pytest.raises(DataError, match="needs training and validation records, got 20 of 20 for training"):
        replace(planted.problem, n_train=20)


def test_no_scored_component_is_an_error():
    planted = plant(n=20, n_train=10)
    with pytest.raises(DataError, match="no component was scored for any record; raise fit.components_per_record"):
        Asked(planted.problem, planted.score).table()


def test_scores_become_a_padded_table_and_none_is_asked_for_twice():
    planted = plant(n=20, n_train=10, own=True)
    asked = Asked(planted.problem, planted.score)
    asked.ask(asked.new([(3, 5), (4, 0), (3, 1), (4, 0), (0, 0), (0, 4), (0, 1)]))  # record 0 is exemplar 0
    assert asked.new([(3, 5), (3, 2)]) == [(2, 3)]
    asked.ask(asked.new([(3, 5), (3, 2)]))
    assert (planted.calls, asked.n_tokens) == ([4, 1], 5)
    table = asked.table()
    assert table.present.sum(axis=1).tolist() == [1, 0, 0, 3, 1] + [0] * 15
    assert (table.persona[3] * 4 + table.exemplar[3]).tolist() == [1, 2, 5]
    assert table.curves[3, 2] == pytest.approx(planted.curve(3, 5))
    assert asked.table([(3, 2), (0, 1)]).present.sum() == 2


def test_log_likelihoods_are_at_one_temperature_or_at_each_personas_own():
    planted = plant(n=20, n_train=10)
    asked = Asked(planted.problem, planted.score)
    asked.ask(asked.new([(0, 1), (0, 6), (1, 2)]))
    table, betas = asked.table(), planted.problem.betas
    at = {tau: [log_softmax(planted.logits[c] / tau)[planted.outcomes[i]] for i, c in ((0, 1), (0, 6), (1, 2))]
          for tau in (0.5, 2.0)}  # fmt: skip
    own = table.log_lik(np.array([0.5, 2.0, 1.0]), betas)
    assert table.log_lik(0.5, betas)[table.present] == pytest.approx(at[0.5], abs=1e-3)
    assert own[table.present] == pytest.approx([at[0.5][0], at[2.0][1], at[0.5][2]], abs=1e-3)
    assert np.isneginf(own[~table.present]).all()


def test_one_exemplar_that_is_a_record_is_refused():
    planted = plant(n=20, n_train=10, n_exemplars=1)
    with pytest.raises(DataError, match="a record never sees itself; give at least 2 exemplars"):
        replace(planted.problem, own=np.zeros(20, dtype=np.int64))
