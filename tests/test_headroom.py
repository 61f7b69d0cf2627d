"""Bounds hold against the best weights that a search finds; two samples; what is said of a fit."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from mop.metrics.distances import two_samples
from mop.mixture import em
from mop.mixture.cells import Cells
from mop.mixture.headroom import (
    RIGHT,
    UNKNOWN,
    best_component,
    certificate,
    context_groups,
    fit_sentence,
    headroom,
    headroom_lines,
)
from mop.mixture.kernel import KernelGate
from mop.mixture.sums import log_sum_exp
from planted import unit
from test_em import table


def best_gain(log_lik, base):
    """Largest mean log Σ_c v_c p_c(i) - base(i) over fixed weights v, by search."""

    def loss(z):
        return -(log_sum_exp(log_lik + z - log_sum_exp(z)) - base).mean()

    starts = [np.zeros(log_lik.shape[1]), *np.random.default_rng(0).normal(size=(3, log_lik.shape[1]))]
    return max(-minimize(loss, start, method="BFGS").fun for start in starts)


# -------------------------------------------------------------------------------------- the certificate


@pytest.mark.parametrize("seed", range(4))
def test_the_certificate_holds_on_partial_tables(seed):
    """12 components, 5 scored: no weighting of these gains more over the *whole* mixture than the bound says."""
    rng = np.random.default_rng(seed)
    log_lik = rng.normal(-30, 2, (40, 12)).astype(np.float32).astype(float)
    scored = np.zeros((40, 12), bool)
    scored[:, rng.permutation(12)[:5]] = True
    problem, cells = table(log_lik, 3, scored=scored)
    problem = replace(problem, n_train=10)
    pi, omega = rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4))
    gate = KernelGate.fixed(problem.hg, problem.he, 1.0, pi, omega)
    rows = slice(problem.n_train, None)
    truth = log_sum_exp(log_lik + np.log(np.outer(pi, omega).ravel()))[rows]
    found = certificate(gate, problem, cells)
    gain = best_gain(log_lik[rows][:, scored[0]], truth)
    assert (found["n_components"], found["n_all"], found["n_records"]) == (5, 12, 30)
    assert found["bound"] >= gain - 1e-6
    whole = certificate(gate, problem, table(log_lik, 3)[1])
    reached = best_gain(log_lik[rows], truth)
    assert reached - 1e-6 <= whole["bound"] <= reached + 0.01  # no search finds more, and nearly as much


def test_the_certificate_counts_what_was_not_scored_as_impossible():
    """Equal weights of 50 components, 5 scored at -10, the others at -13: the true gain is 1.93."""
    log_lik = np.full((10, 50), -13.0)
    log_lik[:, :5] = -10.0
    scored = np.tile(np.arange(50) < 5, (10, 1))
    problem, cells = table(log_lik, 1, scored=scored)
    found = certificate(KernelGate.fixed(problem.hg, problem.he, 1.0), problem, cells)
    truth = -10.0 - log_sum_exp(log_lik[0]) + np.log(50)
    assert truth == pytest.approx(1.93, abs=0.01)
    assert found["bound"] == pytest.approx(np.log(10), abs=1e-4)
    assert found["bound"] >= truth


def test_the_certificate_is_about_the_weights_of_the_fit():
    """One persona, three exemplars, 0.9 on one that nobody scored and that is bad: 2.302 nats are to be had."""
    log_lik = np.tile([-10.0, -10.05, -60.0], (8, 1))
    problem, cells = table(log_lik, 1, scored=np.tile([True, True, False], (8, 1)))
    gate = KernelGate.fixed(problem.hg, problem.he, 1.0, np.ones(1), np.array([0.05, 0.05, 0.9]))
    truth = -10.0 - log_sum_exp(log_lik[0] + np.log([0.05, 0.05, 0.9]))
    assert truth == pytest.approx(2.33, abs=0.02)
    assert certificate(gate, problem, cells)["bound"] >= truth - 1e-6


def test_without_common_components_there_is_no_certificate():
    problem, cells = table(np.full((4, 3), -1.0), 1, scored=np.eye(4, 3, dtype=bool) | (np.arange(4) == 3)[:, None])
    one_each = replace(cells, present=np.roll(np.eye(4, 3, dtype=bool), 2, axis=0))
    gate = KernelGate.fixed(problem.hg, problem.he, 1.0)
    one_each.present[2], one_each.present[3] = [True, False, False], [False, True, False]
    assert certificate(gate, problem, one_each) is None


# ------------------------------------------------------------------------------------------ headroom


def grouped(n, n_groups, seed, strength=2.0):
    """Contexts of some groups, in each of which other components are common."""
    rng = np.random.default_rng(seed)
    groups = rng.integers(n_groups, size=n)
    seen = rng.normal(size=(n, 6))
    seen[np.arange(n), np.where(rng.random(n) < 0.6, groups, rng.integers(6, size=n))] += strength
    hx = unit(np.random.default_rng(1), n_groups, 4)[groups]
    return table(-40 + strength * seen, 2, hx=hx), groups


def test_bounds_hold_for_the_best_weights_of_every_group():
    (problem, cells), groups = grouped(300, 3, 0)
    log_lik = cells.curves[..., 0].astype(float)
    base = log_sum_exp(log_lik) - np.log(6)
    best = sum((groups == g).mean() * best_gain(log_lik[groups == g], base[groups == g]) for g in range(3))
    found = headroom(problem, cells, 4, seed=0)
    assert (found["n_groups"], found["is_whole"]) == (3, True)
    assert 0.0 < found["components"]["at_least"] < best < found["components"]["at_most"]
    for name in ("personas", "exemplars"):
        assert found[name]["at_least"] < best
    assert len(headroom_lines(found)) == 3
    assert headroom_lines(None) == []


def test_the_right_side_is_theorem_1_written_out():
    (problem, cells), groups = grouped(120, 2, 1)
    p = np.exp(cells.curves[..., 0].astype(float) + 40)
    resp = p / p.sum(axis=1, keepdims=True)
    means = [resp[groups == g].mean(axis=0) for g in range(2)]
    expected = sum((groups == g).mean() * np.log(6 * means[g].max()) for g in range(2))
    found = headroom(problem, cells, 4, seed=0)["components"]
    assert found["at_most"] == pytest.approx(expected, abs=1e-5)
    of_personas = [m.reshape(2, 3).sum(axis=1) for m in means]
    expected = sum((groups == g).mean() * np.log(2 * of_personas[g].max()) for g in range(2))
    assert headroom(problem, cells, 4, seed=0)["personas"]["at_most"] == pytest.approx(expected, abs=1e-5)


def test_few_records_promise_nothing_where_there_is_nothing():
    """The plain left side is a divergence and so above 0; cross-validated it is not."""
    found = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        problem, cells = table(rng.normal(-40, 2, (40, 6)), 2)
        found.append(headroom(problem, cells, 4, seed=seed)["components"]["at_least"])
    assert np.mean(found) < 0.01


def test_partial_tables_have_no_bound_for_components():
    (problem, cells), _ = grouped(120, 2, 1)
    cells.present[3, 2] = False
    found = headroom(problem, cells, 4, seed=0)
    assert not found["is_whole"]
    assert found["components"] is None
    assert found["exemplars"]["at_most"] > 0


def test_contexts_that_all_differ_are_grouped_with_like_ones():
    rng = np.random.default_rng(0)
    problem, _ = table(rng.normal(size=(100, 4)), 2)
    assert np.bincount(context_groups(problem)).tolist() == [20] * 5


# ---------------------------------------------------------------------------------- pool and target


def test_the_energy_distance_is_that_of_loops():
    rng = np.random.default_rng(0)
    pool, target, weight = rng.normal(size=(7, 3)), rng.normal(1, 1, (9, 3)), rng.random(9) + 0.2
    share, between = weight / weight.sum(), lambda a, b: float(np.linalg.norm(a - b))
    across = sum(2 * s / 7 * between(a, b) for a in pool for b, s in zip(target, share, strict=True))
    of_pool = sum(between(a, b) for a in pool for b in pool) / (7 * 6)
    pairs = [(s * t, between(a, b)) for i, (a, s) in enumerate(zip(target, share, strict=True))
             for j, (b, t) in enumerate(zip(target, share, strict=True)) if i != j]  # fmt: skip
    of_target = sum(s * d for s, d in pairs) / sum(s for s, _ in pairs)
    found = two_samples(pool.astype(np.float32), target.astype(np.float32), weight, seed=0)
    assert found["distance"] == pytest.approx(across - of_pool - of_target, abs=1e-5)


def test_one_population_is_rarely_taken_for_two_and_two_are_told_apart():
    p_values = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        a, b = rng.normal(size=(2, 30, 5)).astype(np.float32)
        p_values.append(two_samples(a, b, np.ones(30), seed=seed)["p_value"])
    assert np.mean(np.array(p_values) < 0.05) < 0.15
    assert 0.3 < np.mean(p_values) < 0.7
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(2, 60, 5)).astype(np.float32)
    assert two_samples(a, b + np.float32(0.7), np.ones(60), seed=0)["p_value"] < 0.01


# -------------------------------------------------------------------------------- what is said of a fit

CENTRES = 2.2 * np.eye(4)


def kernel_toy(pool_shares, n, *, n_pool=120, seed=0):
    """Texts are points of four topics; an exemplar writes near itself. The target is even, the pool as given."""
    rng = np.random.default_rng(seed)

    def draw(shares, m):
        topic = rng.choice(4, p=np.array(shares) / sum(shares), size=m)
        return (CENTRES[topic] + rng.normal(0, 0.7, (m, 4))).astype(np.float32)

    pool, target, test = draw(pool_shares, n_pool), draw([1] * 4, n), draw([1] * 4, 2000)

    def log_lik(y):
        square = np.square(y[:, None].astype(float) - pool[None]).sum(axis=2)
        return -square / (2 * 0.6**2) - 20.0

    problem, cells = table(log_lik(target), 1, hx=np.ones((n, 2), np.float32))
    return problem, cells, two_samples(pool, target, np.ones(n), seed=seed), log_lik(test)


def said(problem, cells, pool):
    choice = em.choose(problem, cells, 4, seed=0)
    return fit_sentence({"gain": choice.gain(problem), "pool": pool}), choice


def test_groups_with_texts_on_both_sides_do_not_hide_a_difference():
    rng = np.random.default_rng(0)
    group = np.tile(np.arange(15), 4)
    found = []
    for seed in range(10):
        texts = rng.normal(size=(15, 6))[group] + rng.normal(size=(60, 6))
        texts[30:] += 0.8
        pool, target = np.split(texts.astype(np.float32), 2)
        found.append(two_samples(pool, target, np.ones(30), cluster=group, seed=seed)["p_value"])
    assert np.mean(np.array(found) < 0.05) > 0.7


def test_bounds_of_a_partial_table_are_about_all_components():
    """One exemplar of fifty is better by four nats, and four of fifty are scored for each of 120 records."""
    rng = np.random.default_rng(0)
    log_lik = rng.normal(0, 0.7, (120, 50))
    log_lik[:, 7] += 4.0
    scored = np.zeros(log_lik.shape, bool)
    for i in range(120):
        scored[i, (np.arange(4) + 4 * i) % 50] = True
    problem, cells = table(log_lik, 1, scored=scored)
    best = log_lik[:, 7].mean() - np.log(np.exp(log_lik).mean(axis=1)).mean()
    found = headroom(problem, cells, 4, seed=0)["exemplars"]
    assert found["at_most"] > 0.8 * best
    assert found["at_least"] < best


def test_texts_of_one_person_are_no_sign_that_pool_and_target_differ():
    """Ten people with six texts each, all of a person on one side: by texts they differ, by people they do not."""
    rng = np.random.default_rng(0)
    by_text, by_person = [], []
    for seed in range(30):
        texts = np.repeat(rng.normal(size=(10, 6)), 6, axis=0) + 0.2 * rng.normal(size=(60, 6))
        pool, target = np.split(texts.astype(np.float32), 2)
        person = np.repeat(np.arange(10), 6)
        by_text.append(two_samples(pool, target, np.ones(30), seed=seed)["p_value"])
        found = two_samples(pool, target, np.ones(30), cluster=person, seed=seed)
        by_person.append(found["p_value"])
    assert np.mean(np.array(by_text) < 0.05) > 0.5
    assert np.mean(np.array(by_person) < 0.05) < 0.2


def test_the_same_pool_is_called_right():
    """Every exemplar is as common as any other, and texts of both sides are of one population."""
    rng = np.random.default_rng(0)
    seen = rng.normal(size=(400, 6))
    seen[np.arange(400), rng.integers(6, size=400)] += 2.0
    problem, cells = table(-50 + 2.0 * seen, 1, hx=np.ones((400, 2), np.float32))
    pool = two_samples(
        rng.normal(size=(60, 4)).astype(np.float32),
        rng.normal(size=(400, 4)).astype(np.float32),
        np.ones(400), seed=0,
    )  # fmt: skip
    sentence, choice = said(problem, cells, pool)
    assert choice.shape.kind == "uniform"
    assert sentence == RIGHT
    gain = choice.gain(problem)
    assert fit_sentence({"gain": gain, "pool": {**pool, "p_value": 0.01}}) == UNKNOWN


def test_weights_correct_a_pool_of_other_shares():
    """6:1:1:1 against an even target: +0.48 nats are expected of such a toy, held out."""
    problem, cells, pool, test = kernel_toy([6, 1, 1, 1], 240, n_pool=300)
    sentence, choice = said(problem, cells, pool)
    assert sentence.startswith("The weights correct the pool: the same for every context, they gain +0.")
    assert "the pool is not the target (p = 0.001)" in sentence
    gain = log_sum_exp(test + np.log(choice.gate.exemplar)).mean() - log_sum_exp(test).mean() + np.log(300)
    assert gain > 0.3
    assert choice.gain(problem)["mean"] == pytest.approx(gain, abs=0.15)


def test_few_records_cannot_say():
    problem, cells, pool, _ = kernel_toy([1] * 4, 12, n_pool=60, seed=3)
    sentence, choice = said(problem, cells, pool)
    assert choice.shape.kind == "uniform"
    assert sentence == UNKNOWN


def test_what_is_not_known_surely_is_not_called_right():
    gain = {"kind": "uniform", "mean": 0.0, "standard_error": 0.0, "freest": 0.02, "freest_error": 0.03}
    alike = {"p_value": 0.4, "distance": 0.0, "n_pool": 30, "n_target": 30}
    assert fit_sentence({"gain": gain, "pool": alike}) == RIGHT
    assert fit_sentence({"gain": gain, "pool": None}) == UNKNOWN  # no test was made
    assert fit_sentence({"gain": {**gain, "freest_error": 0.05}, "pool": alike}) == UNKNOWN


def test_the_best_component_is_the_one_with_the_largest_mean():
    rng = np.random.default_rng(0)
    problem, cells = table(rng.normal(-30, 2, (30, 12)), 3)
    found = best_component(problem, cells)
    mean = cells.curves[problem.n_train :, :, 0].mean(axis=0)
    assert found["persona"] * 4 + found["exemplar"] == int(mean.argmax())
    assert (found["n_records"], found["n_compared"], found["tau"]) == (2, 12, 1.0)
    some = Cells(cells.persona[:, :5], cells.exemplar[:, :5], cells.curves[:, :5], cells.present[:, :5])
    assert best_component(problem, some)["n_compared"] == 5
