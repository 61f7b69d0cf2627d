"""Imputed log-likelihoods against the textbook: dense Gaussians, and planted variances."""

from dataclasses import dataclass

import numpy as np
import pytest

from mop.mixture.imputation import Effects, Variances

K, N = 3, 5
VARIANCES = Variances(0.3, 0.4, 0.5, 1.2, 0.2, 1e6)


@dataclass
class Scored:
    """Scored components of records, (n, m) each."""

    log_lik: np.ndarray
    persona: np.ndarray
    exemplar: np.ndarray
    used: np.ndarray
    z: np.ndarray


def effects_of(scored, n_personas=K, **options):
    log_lik = np.where(scored.used, scored.log_lik, -np.inf)
    return Effects(scored.persona, scored.exemplar, log_lik, n_personas, z=scored.z, **options)


def planted(rng, n, m, *, v=VARIANCES, slope=0.7):
    """Records of the model: scored components, all components (n, K, N), and their z."""
    z = rng.normal(size=(n, K, N))
    s = np.sqrt((v.freedom - 2) / rng.chisquare(v.freedom, n))[:, None, None]
    everybody = np.sqrt(v.persona) * rng.normal(size=(K, 1)) + np.sqrt(v.exemplar) * rng.normal(size=N)
    own = np.sqrt(v.own_persona) * rng.normal(size=(n, K, 1))
    own = own + np.sqrt(v.own_exemplar) * rng.normal(size=(n, 1, N))
    own += np.sqrt(v.cell) * rng.normal(size=(n, K, N))
    log_lik = -50 + 10 * rng.normal(size=(n, 1, 1)) + slope * z + everybody + s * own
    flat = np.stack([rng.permutation(K * N)[:m] for _ in range(n)])
    k, j = np.divmod(flat, N)
    rows = np.arange(n)[:, None]
    scored = Scored(log_lik[rows, k, j], k, j, np.ones(flat.shape, dtype=bool), z[rows, k, j])
    return scored, log_lik, z


def every():
    return np.divmod(np.arange(K * N), N)


def dense(scored, z, i, v):
    """Mean and covariance of all cells of record i given everything scored, by one big Gaussian."""
    n, m = scored.log_lik.shape
    k, j = scored.persona.ravel(), scored.exemplar.ravel()
    record = np.repeat(np.arange(n), m)
    k = np.concatenate([k, every()[0]])
    j = np.concatenate([j, every()[1]])
    record = np.concatenate([record, np.full(K * N, i)])
    zs = np.concatenate([scored.z.ravel(), z[i].ravel()])
    same = {name: of[:, None] == of for name, of in (("k", k), ("j", j), ("i", record))}
    cov = 100.0 * np.outer(zs, zs) + v.persona * same["k"] + v.exemplar * same["j"]
    within = 1e7 + v.own_persona * same["k"] + v.own_exemplar * same["j"]
    cov = cov + same["i"] * (within + v.cell * same["k"] * same["j"])
    a, b = slice(0, n * m), slice(n * m, None)
    # A little noise, since cells of record i stand in both parts.
    gain = cov[b, a] @ np.linalg.inv(cov[a, a] + 1e-6 * np.eye(n * m))
    return gain @ scored.log_lik.ravel(), cov[b, b] - gain @ cov[a, b]


def test_draws_have_the_mean_and_the_spread_of_one_big_gaussian():
    rng = np.random.default_rng(0)
    scored, _, z = planted(rng, 6, 7)
    effects = effects_of(scored, K, variances=VARIANCES)
    drawn = list(effects.draws(*every(), z.reshape(6, -1), seed=0, n_draws=4000))
    for i in (0, 3):
        # At infinite freedom s² is its mode given the data, 1 up to 1e-6.
        mean, cov = dense(scored, z, i, VARIANCES)
        unscored = np.setdiff1d(np.arange(K * N), scored.persona[i] * N + scored.exemplar[i])
        error = np.sqrt(np.diag(cov)[unscored] / 4000)
        assert np.abs(drawn[i][:, unscored].mean(axis=0) - mean[unscored]).max() < 5 * error.max()
        assert np.cov(drawn[i][:, unscored].T) == pytest.approx(cov[np.ix_(unscored, unscored)], abs=0.25)


def test_scored_cells_stay_as_they_are():
    rng = np.random.default_rng(1)
    scored, log_lik, z = planted(rng, 4, 6)
    effects = effects_of(scored, K)
    for i, drawn in enumerate(effects.draws(*every(), z.reshape(4, -1), seed=3)):
        flat = scored.persona[i] * N + scored.exemplar[i]
        assert (drawn[:, flat] == log_lik[i].ravel()[flat]).all()
        others = np.setdiff1d(np.arange(K * N), flat)
        assert (drawn[:, others].std(axis=0) > 0).all()


def test_variances_are_found_again():
    rng = np.random.default_rng(2)
    v = Variances(0.3, 0.4, 0.5, 1.2, 0.2, 8.0)
    scored, _, _ = planted(rng, 400, 9, v=v)
    found = effects_of(scored, K).variances
    assert found.own_persona == pytest.approx(0.5, rel=0.3)
    assert found.own_exemplar == pytest.approx(1.2, rel=0.3)
    assert found.cell == pytest.approx(0.2, rel=0.3)
    assert 5 < found.freedom < 14


def test_cells_that_are_not_there_say_nothing():
    rng = np.random.default_rng(3)
    scored, _, z = planted(rng, 5, 6)
    used = scored.used.copy()
    used[:, 4:] = False
    spoiled = scored.log_lik.copy()
    spoiled[:, 4:] = -1e30
    part = Scored(
        scored.log_lik[:, :4], scored.persona[:, :4], scored.exemplar[:, :4], used[:, :4], scored.z[:, :4]
    )  # fmt: skip
    whole = Scored(spoiled, scored.persona, scored.exemplar, used, scored.z)
    means = [
        np.stack([d.mean(axis=0) for d in effects_of(of, K, variances=VARIANCES).draws(
            *every(), z.reshape(5, -1), seed=0, n_draws=400)])
        for of in (part, whole)
    ]  # fmt: skip
    assert means[1] == pytest.approx(means[0], abs=0.4)


def test_a_record_is_drawn_by_its_own_number_alone():
    rng = np.random.default_rng(4)
    scored, _, z = planted(rng, 4, 6)
    effects = effects_of(scored, K, variances=VARIANCES)
    first = list(effects.draws(*every(), z.reshape(4, -1), seed=0))
    k, j = every()
    again = list(effects.draws(k[:7], j[:7], z.reshape(4, -1)[:, :7], seed=0))
    assert len(first) == len(again) == 4
    assert first[0].shape == (16, K * N)
    assert not np.allclose(first[0], next(iter(effects.draws(*every(), z.reshape(4, -1), seed=1))))


def test_many_exemplars_do_without_an_effect_common_to_all(monkeypatch):
    monkeypatch.setattr("mop.mixture.imputation.MOST_COMMON", 2)
    rng = np.random.default_rng(5)
    scored, log_lik, z = planted(rng, 6, 8)
    effects = effects_of(scored, K)
    assert len(effects.exemplars) == 0
    for i, drawn in enumerate(effects.draws(*every(), z.reshape(6, -1), seed=0)):
        assert np.abs(drawn.mean(axis=0) - log_lik[i].ravel()).max() < 8


def test_exemplars_that_a_record_has_not_met_depart_as_those_that_it_has_met():
    """Left-skewed effects: imputed cells are left-skewed as well; normal ones would not be."""
    rng = np.random.default_rng(6)
    n, m, n_exemplars = 80, 12, 60
    effect = -(rng.gamma(4.0, size=(n, n_exemplars)) - 4.0)
    j = np.stack([rng.permutation(n_exemplars)[:m] for _ in range(n)])
    values = np.take_along_axis(effect, j, 1)
    used, z = np.ones(j.shape, dtype=bool), np.zeros((n, n_exemplars))
    effects = effects_of(Scored(values, np.zeros_like(j), j, used, np.zeros(j.shape)), 1)
    every = np.arange(n_exemplars)
    skewness = []
    for i, drawn in enumerate(effects.draws(np.zeros_like(every), every, z, seed=0)):
        unseen = drawn[:, np.setdiff1d(every, j[i])]
        away = unseen - unseen.mean(axis=1, keepdims=True)
        skewness.append((away**3).mean() / (away**2).mean() ** 1.5)
    assert np.mean(skewness) < -0.2  # planted: -1; a part counts as normal, and normal ones have 0


def test_what_is_explained_is_what_draws_agree_on():
    rng = np.random.default_rng(7)
    shares = []
    for cell, m in ((0.01, 12), (2.0, 12), (2.0, 3)):
        v = Variances(0.3, 0.4, 0.5, 1.2, cell, 1e6)
        scored, _, _ = planted(rng, 60, m, v=v, slope=0.0)
        shares.append(effects_of(scored, variances=v).explained(*every(), seed=0))
    # Nearly everything follows from the cells; what is scored is known at least, 12 of 15; that, and little more.
    assert shares[0] > 0.97
    assert 0.8 < shares[1] < shares[0]
    assert 0.1 < shares[2] < 0.5


def test_common_effects_are_drawn_or_expected():
    rng = np.random.default_rng(8)
    scored, _, _ = planted(rng, 5, 6, slope=0.0)
    effects = effects_of(scored, variances=VARIANCES)
    numbers = np.array([7, 3, 9, 1, 4])
    drawn, expected = (
        np.stack(list(effects.draws(*every(), seed=0, n_draws=2000, common=common))) for common in (True, False)
    )
    assert expected.mean(axis=1) == pytest.approx(drawn.mean(axis=1), abs=0.25)
    assert expected.var(axis=1).mean() < drawn.var(axis=1).mean()
    named = list(effects.draws(*every(), seed=0, n_draws=2, common=False, numbers=numbers))
    alone = list(effects.draws(*every(), seed=0, n_draws=2, common=False))
    assert not np.allclose(named[1], alone[1])
