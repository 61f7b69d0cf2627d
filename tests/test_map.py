"""Texts in the plane: groups stay apart, the same seed gives the same map."""

import numpy as np
import pytest

from mop.evaluate.map import projection


def test_a_projection_keeps_groups_apart_and_repeats_itself():
    rng = np.random.default_rng(0)
    groups = np.concatenate([rng.normal(size=(30, 8)) + 20, rng.normal(size=(30, 8)) - 20])
    plane = projection(groups, seed=3)
    assert plane.shape == (60, 2)
    assert np.array_equal(plane, projection(groups, seed=3))
    nearest = np.linalg.norm(plane[:, None] - plane, axis=2) + 1e9 * np.eye(60)
    assert ((nearest.argmin(axis=1) < 30) == (np.arange(60) < 30)).all()


def test_a_projection_of_few_texts_is_their_principal_plane():
    rows = np.array([[3.0, 0, 0], [-3, 0, 0], [0, 1, 0], [0, -1, 0]])
    assert projection(rows, seed=0) == pytest.approx(rows[:, :2])
    assert projection(np.ones((40, 1)), seed=0).tolist() == [[0.0, 0.0]] * 40
