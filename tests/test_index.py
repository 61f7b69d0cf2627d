"""Draws through groups of keys are draws from the softmax, and cost no look at every exemplar."""

import numpy as np
import pytest

import mop.mixture.index
from mop.mixture.index import ExemplarIndex
from mop.randomness import derive_seed


def keys_of(n, d=6, seed=0, scale=1.0):
    rng = np.random.default_rng(seed)
    keys = (rng.normal(size=(n, d)) * scale / np.arange(1, d + 1)).astype(np.float32)
    return keys, rng.normal(0, 0.3, n).astype(np.float32)


def log_softmax(keys, bias, query):
    logits = keys.astype(np.float64) @ query + bias
    return logits - np.log(np.exp(logits - logits.max()).sum()) - logits.max()


def test_frequencies_follow_the_softmax():
    keys, bias = keys_of(600)
    query = np.array([0.5, -1.0, 0.7, 0.2, 0.0, 1.0], np.float32)
    index = ExemplarIndex.build(keys, bias)
    seeds = [derive_seed(0, i) for i in range(4000)]
    rows, log_omega = index.draw(np.tile(query, (4000, 1)), np.full(4000, -1), seeds, 0)
    truth = log_softmax(keys, bias, query)
    by_tenth = np.argsort(truth)[::-1].reshape(10, 60)
    count = np.bincount(rows, minlength=600)
    for tenth in by_tenth:
        expected = 4000 * np.exp(truth[tenth]).sum()
        assert abs(count[tenth].sum() - expected) < 4.5 * expected**0.5
    assert np.abs(log_omega - truth[rows]).mean() < 0.05


def test_a_draw_depends_on_its_seed_alone_and_never_is_the_own_exemplar():
    keys, bias = keys_of(500)
    queries = np.random.default_rng(1).normal(size=(150, 6)).astype(np.float32)
    index = ExemplarIndex.build(keys, bias)
    seeds = [derive_seed(1, i) for i in range(150)]
    free, log_omega = index.draw(queries, np.full(150, -1), seeds, 0)
    part, log_part = index.draw(queries[70:90], np.full(20, -1), seeds[70:90], 0)
    assert part.tolist() == free[70:90].tolist()
    assert log_part.tolist() == log_omega[70:90].tolist()
    assert (index.draw(queries, free, seeds, 0)[0] != free).all()
    assert index.draw(queries, np.full(150, -1), seeds, 1)[0].tolist() != free.tolist()


def test_no_logit_exceeds_the_bound_of_its_group():
    keys, bias = keys_of(700, d=20)
    index = ExemplarIndex.build(keys, bias)
    assert sorted(index.rows.tolist()) == list(range(700))
    queries = np.random.default_rng(1).normal(size=(20, 20))
    turned = np.concatenate([queries, np.ones((20, 1))], axis=1) @ index.axes
    main = np.linalg.norm(turned[:, : index.n_main], axis=1)
    rest = np.linalg.norm(turned[:, index.n_main :], axis=1)
    upper = turned @ index.centres.T + np.stack([main, rest], axis=1) @ index.radii.T
    group = np.repeat(np.arange(len(index.radii)), np.diff(index.starts))
    logits = queries @ keys[index.rows].T + bias[index.rows]
    assert (logits <= upper[:, group] + 1e-5).all()


def test_keys_that_cannot_be_grouped_are_drawn_from_the_plain_way():
    keys, bias = keys_of(300, d=40)
    keys = np.random.default_rng(0).normal(size=(300, 40)).astype(np.float32)
    index = ExemplarIndex.build(keys, bias)
    query = np.full((200, 40), 1.5, np.float32)  # logits of sd 9: most proposals are refused
    seeds = [derive_seed(2, i) for i in range(200)]
    rows, log_omega = index.draw(query, np.full(200, -1), seeds, 0)
    truth = log_softmax(keys, bias, query[0])
    assert np.bincount(rows, minlength=300)[truth.argmax()] == pytest.approx(200 * np.exp(truth.max()), abs=30)
    assert log_omega == pytest.approx(truth[rows], abs=0.2)
    assert mop.mixture.index.ROUNDS * mop.mixture.index.PROPOSALS == 4096
