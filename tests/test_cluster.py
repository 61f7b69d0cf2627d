"""Clusters against planted groups, a naive oracle of their meaning, and hand-typed refusals."""

import numpy as np
import pytest

from mop.personas.cluster import cluster, similar_groups


def planted(sizes, *, spread=0.01, dims=6, seed=0):
    """Rows around unit axes, ``sizes[k]`` of them around axis k, in shuffled order."""
    rng = np.random.default_rng(seed)
    truth = rng.permutation(np.repeat(np.arange(len(sizes)), sizes))
    rows = np.eye(dims)[truth] + spread * rng.standard_normal((len(truth), dims))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32), truth


def test_planted_groups_are_found_and_the_largest_comes_first():
    vectors, truth = planted([5, 30, 12])
    found = cluster(vectors, 3, seed=0)
    assert found.labels.tolist() == [{1: 0, 2: 1, 0: 2}[t] for t in truth]
    assert [len(rows) for rows in found.nearest] == [30, 12, 5]


def test_centres_are_means_and_nearest_is_sorted_by_distance():
    vectors, _ = planted([20, 9, 7], spread=0.3)
    found = cluster(vectors, 4, seed=3)
    for k in range(4):
        members = [i for i in range(len(vectors)) if found.labels[i] == k]
        centre = sum(vectors[i].astype(float) for i in members) / len(members)
        assert found.centres[k] == pytest.approx(centre, abs=1e-6)
        by_hand = sorted(members, key=lambda i: (float(np.linalg.norm(vectors[i] - centre)), i))
        assert found.nearest[k].tolist() == by_hand


def test_every_row_is_in_exactly_one_group():
    vectors, _ = planted([8, 8, 8], spread=0.5)
    found = cluster(vectors, 7, seed=1)
    assert sorted(np.concatenate(found.nearest).tolist()) == list(range(24))
    assert min(len(rows) for rows in found.nearest) >= 1


def test_the_same_seed_gives_the_same_groups():
    vectors = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float32)
    one, other = cluster(vectors, 9, seed=5), cluster(vectors, 9, seed=5)
    assert one.labels.tolist() == other.labels.tolist()
    assert one.centres.tobytes() == other.centres.tobytes()
    assert cluster(vectors, 9, seed=6).labels.tolist() != one.labels.tolist()


def test_equally_near_rows_keep_their_order():
    vectors = np.array([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0], [-1.0, 0.0]], dtype=np.float32)
    assert cluster(vectors, 1, seed=0).nearest[0].tolist() == [0, 1, 2, 3]


def test_as_many_clusters_as_rows_gives_each_its_own():
    found = cluster(np.eye(4, dtype=np.float32), 4, seed=0)
    assert sorted(found.labels.tolist()) == [0, 1, 2, 3]


@pytest.mark.parametrize("n_clusters", [0, 3])
def test_more_clusters_than_different_vectors_are_refused(n_clusters):
    vectors = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(
        ValueError,
        match=rf"{n_clusters} clusters were asked for, but the 3 vectors form only 2 different "
        r"groups; choose a number from 1 to 2",
    ):
        cluster(vectors, n_clusters, seed=0)


def test_vectors_that_differ_by_rounding_alone_are_refused_rather_than_an_empty_cluster_returned():
    vectors = np.array([[0.0], [1e8], [1e8 + 2e-8]])
    with pytest.raises(ValueError, match=r"3 clusters were asked for, but the 3 vectors form only 2 different"):
        cluster(vectors, 3, seed=0)


@pytest.mark.parametrize(
    ("vectors", "sentence"),
    [
        (np.ones(3), r"vectors have the shape \(3,\); expected \(n, D\)"),
        (np.ones((0, 4)), r"vectors have the shape \(0, 4\)"),
        (np.array([[1.0], [np.nan]]), r"1 of 2 vectors hold a value that is not finite.* row 1"),
    ],
)
def test_unusable_vectors_are_refused(vectors, sentence):
    with pytest.raises(ValueError, match=sentence):
        cluster(vectors, 1, seed=0)


def test_similar_groups_are_even_and_alike():
    rng = np.random.default_rng(0)
    centres = rng.normal(0, 10, (4, 5))
    truth = rng.permutation(np.repeat(np.arange(4), 10))
    groups = similar_groups((centres[truth] + rng.normal(size=(40, 5))).astype(np.float32), 4)
    assert np.bincount(groups).tolist() == [10] * 4
    assert all(len(set(truth[groups == g])) == 1 for g in range(4))
