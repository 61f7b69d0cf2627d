"""Problems that cannot be fitted are refused, and ragged lists become tables."""

from dataclasses import replace

import numpy as np
import pytest

from mop.errors import DataError
from mop.mixture.cells import Cells, pack_cells
from planted import plant


def test_training_needs_validation_records():
    planted = plant(n=20, n_train=10)
    with pytest.raises(DataError, match="needs training and validation records, got 20 of 20 for training"):
        replace(planted.problem, n_train=20)


def test_no_scored_component_is_an_error():
    with pytest.raises(DataError, match="no component was scored for any record; raise fit.components_per_record"):
        pack_cells([[], []], lambda i, c: np.zeros(1), n_exemplars=2, n_nodes=1)


def test_cells_count_what_is_present():
    cells = pack_cells([[0], [1, 2]], lambda i, c: np.zeros(1, np.float32), n_exemplars=2, n_nodes=1)
    assert isinstance(cells, Cells)
    assert cells.n_cells == 3


def test_one_exemplar_that_is_a_record_is_refused():
    planted = plant(n=20, n_train=10, n_exemplars=1)
    with pytest.raises(DataError, match="a record never sees itself; give at least 2 exemplars"):
        replace(planted.problem, own=np.zeros(20, dtype=np.int64))


def test_shapes_that_do_not_fit_are_named():
    planted = plant(n=20, n_train=10)
    with pytest.raises(DataError, match=r"must have shape \(20,\), got \(20,\), \(3,\)"):
        replace(planted.problem, weight=np.ones(3))
