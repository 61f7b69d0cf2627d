"""Weights near a context, against sums written out."""

import numpy as np
import pytest

from mop.mixture.kernel import Counts, KernelGate, mean_distance, nearness
from planted import unit

K, N, D, A = 3, 5, 4, 6


@pytest.fixture
def gate():
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(A * K), K)
    of_persona = Counts(row, column, rng.random(A * K), rng.random(A * K))
    row, column = np.nonzero(rng.random((A, N)) < 0.6)
    of_exemplar = Counts(row, column, rng.random(len(row)), rng.random(len(row)))
    base = rng.dirichlet(np.ones(K)), rng.dirichlet(np.ones(N))
    return KernelGate(
        unit(rng, K, D), np.concatenate([unit(rng, N, D), unit(rng, N, D)], axis=1),
        np.log([0.8, 1.0, 1.3]), *base, 2.0, unit(rng, A, D), rng.random(A) + 0.5,
        of_persona, of_exemplar, 1.7, 0.3,
    )  # fmt: skip


@pytest.fixture
def hx():
    return unit(np.random.default_rng(1), 7, D)


def by_hand(gate, x, *, own=-1):
    """π (K,) and Ω (N,) of one context, one number at a time."""
    kappa = [
        w * np.exp((float(np.dot(x.astype(float), a.astype(float))) - 1) / gate.bandwidth)
        for w, a in zip(gate.record_weight, gate.anchors, strict=True)
    ]
    tilt = [np.exp(gate.slope * float(x.astype(float) @ e[D:].astype(float))) for e in gate.all_he]
    without = np.array([b * t for b, t in zip(gate.exemplar, tilt, strict=True)])
    found = []
    for counts, base in ((gate.of_persona, gate.persona), (gate.of_exemplar, without / without.sum())):
        weight = []
        for u, b in enumerate(base):
            top, below = gate.prior * b, gate.prior
            for row, column, r, d in zip(counts.row, counts.column, counts.expected, counts.exposed, strict=True):
                if column == u:
                    top, below = top + kappa[row] * r, below + kappa[row] * d
            weight.append(top / below)
        found.append(np.array(weight) / sum(weight))
    if own >= 0:
        found[1][own] = 0.0
        found[1] /= found[1].sum()
    return found


def test_weights_are_those_of_loops(gate, hx):
    own = np.array([-1, 2, -1, 0, -1, 4, 1])
    omega = np.exp(gate.log_omega(hx, np.zeros(7, int), own))
    for i, x in enumerate(hx):
        pi, by = by_hand(gate, x, own=own[i])
        assert np.exp(gate.log_pi(hx[i : i + 1]))[0] == pytest.approx(pi, abs=1e-7)
        assert omega[i] == pytest.approx(by, abs=1e-7)


def test_the_weight_of_a_component_is_that_of_its_persona_times_that_of_its_exemplar(gate, hx):
    flat = np.tile(np.arange(K * N), (7, 1))
    own = np.array([-1, 2, -1, 0, -1, 4, 1])
    weight = np.exp(gate.log_weight(hx, flat // N, flat % N, own))
    assert weight.sum(axis=1) == pytest.approx(np.ones(7))
    pi, omega = by_hand(gate, hx[1], own=2)
    assert weight[1] == pytest.approx(np.outer(pi, omega).ravel(), abs=1e-7)
    assert gate.mean_weight(hx, own) == pytest.approx(weight.mean(axis=0))


def test_fixed_weights_ignore_the_context_and_are_equal_where_none_are_given(gate, hx):
    plain = KernelGate.fixed(gate.hg, gate.all_he, 1.5)
    assert np.exp(plain.log_pi(hx)) == pytest.approx(np.full((7, K), 1 / K))
    assert np.exp(plain.log_omega(hx, np.zeros(7, int))) == pytest.approx(np.full((7, N), 1 / N))
    assert plain.temperatures() == pytest.approx([1.5] * K)
    fixed = KernelGate.fixed(gate.hg, gate.all_he, 1.0, gate.persona, gate.exemplar)
    assert np.exp(fixed.log_pi(hx)) == pytest.approx(np.tile(gate.persona, (7, 1)))
    assert np.exp(fixed.log_omega(hx, np.zeros(7, int))) == pytest.approx(np.tile(gate.exemplar, (7, 1)))


def test_a_part_of_the_exemplars_keeps_their_proportions(gate, hx):
    rows = [4, 0, 3]
    part = gate.with_exemplars(rows)
    whole = np.exp(gate.log_omega(hx, np.zeros(7, int)))[:, rows]
    some = np.exp(part.log_omega(hx, np.zeros(7, int)))
    assert some == pytest.approx(whole / whole.sum(axis=1, keepdims=True))
    assert np.array_equal(part.he, gate.all_he[rows])
    again = np.exp(part.with_exemplars([2, 0]).log_omega(hx, np.zeros(7, int)))
    assert again == pytest.approx(whole[:, [2, 0]] / whole[:, [2, 0]].sum(axis=1, keepdims=True))


def test_given_persona_weights_hold_for_every_context(gate, hx):
    other = gate.with_persona_weights(np.array([0.2, 0.3, 0.5]))
    assert np.exp(other.log_pi(hx)) == pytest.approx(np.tile([0.2, 0.3, 0.5], (7, 1)))
    persona = np.zeros(7, int)
    assert np.array_equal(other.log_omega(hx, persona), gate.log_omega(hx, persona))


def test_equal_contexts_are_nearest_and_distances_have_a_mean(hx):
    near = nearness(hx, hx, 0.2)
    assert np.diag(near) == pytest.approx(np.ones(7), abs=1e-5)
    assert near.max() <= 1.0
    cosine = hx.astype(float) @ hx.T.astype(float)
    assert mean_distance(hx) == pytest.approx(float((1 - cosine).mean()), abs=1e-6)
