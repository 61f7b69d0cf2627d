"""Matching weights: planted ones are found, the programme is solved, laws hold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from mop.errors import DataError
from mop.randomness import rng_of
from mop.simulate.blackbox import WeightMatch, match_weights

CENTRES = np.array([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0.6, 0.6, 0, 0.5]])


def cloud(k: int, n: int, seed: int) -> np.ndarray:
    points = CENTRES[k] + 0.4 * rng_of(seed, "cloud", k).normal(size=(n, 4))
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True))


def planted(weights: list[float], n: int, seed: int) -> np.ndarray:
    return np.concatenate([cloud(k, round(w * n), seed) for k, w in enumerate(weights) if w])


def plain_mmd2(samples: list[np.ndarray], target: np.ndarray, w: np.ndarray, width: float) -> float:
    """The formula by loops over pairs of texts."""

    def kernel(a: np.ndarray, b: np.ndarray) -> float:
        return float(np.exp(-((a - b) ** 2).sum() / (2 * width**2)))

    total = 0.0
    for (k, x), (m, y) in itertools.product(enumerate(samples), repeat=2):
        pairs = [kernel(a, b) for i, a in enumerate(x) for j, b in enumerate(y) if k != m or i != j]
        total += w[k] * w[m] * sum(pairs) / len(pairs)
    for k, x in enumerate(samples):
        total -= 2 * w[k] * np.mean([kernel(a, b) for a in x for b in target])
    pairs = [kernel(a, b) for i, a in enumerate(target) for j, b in enumerate(target) if i != j]
    return total + sum(pairs) / len(pairs)


@pytest.mark.parametrize("weights", [[0.5, 0.3, 0.2, 0.0], [0.1, 0.1, 0.1, 0.7], [1.0, 0, 0, 0], [0.25] * 4])
def test_planted_weights_are_found(weights: list[float]) -> None:
    samples = [cloud(k, 300, seed=1) for k in range(4)]
    found = match_weights(samples, planted(weights, 1000, seed=2))
    assert np.abs(found.weights - weights).max() < 0.06
    assert found.mmd2 < 2e-3
    assert found.weights.sum() == pytest.approx(1.0)
    assert (found.weights >= 0).all()


def test_sizes_of_the_samples_do_not_matter() -> None:
    samples = [cloud(k, n, seed=3) for k, n in enumerate((40, 200, 100, 60))]
    found = [match_weights(samples, planted([0.4, 0.2, 0.2, 0.2], 500, seed=s)).weights for s in range(5)]
    assert np.abs(np.mean(found, axis=0) - [0.4, 0.2, 0.2, 0.2]).max() < 0.1


def test_the_discrepancy_equals_the_plain_loops() -> None:
    samples = [cloud(k, 7, seed=4) for k in range(3)]
    target = planted([0.5, 0.5, 0, 0], 12, seed=5)
    found = match_weights(samples, target, bandwidth=0.8)
    assert found.mmd2 == pytest.approx(plain_mmd2(samples, target, found.weights, 0.8), abs=1e-10)
    assert found.mmd2_uniform == pytest.approx(plain_mmd2(samples, target, np.full(3, 1 / 3), 0.8), abs=1e-10)


def test_no_other_weights_on_a_fine_grid_match_better() -> None:
    samples = [cloud(k, 30, seed=6) for k in range(3)]
    target = planted([0.2, 0.5, 0.3, 0.0], 60, seed=7)
    found = match_weights(samples, target, bandwidth=0.7, shrinkage=0.0)
    grid = [(a / 20, b / 20, 1 - a / 20 - b / 20) for a in range(21) for b in range(21 - a)]
    # The formula is quadratic, so three values per direction give it everywhere: no loops per grid
    # point.
    best = min(_quadratic(samples, target, np.array(w), 0.7) for w in grid)
    assert found.mmd2 <= best + 1e-9


def _quadratic(samples: list[np.ndarray], target: np.ndarray, w: np.ndarray, width: float) -> float:
    def mean(x: np.ndarray, y: np.ndarray, same: bool) -> float:
        k = np.exp(-((x[:, None] - y[None]) ** 2).sum(-1) / (2 * width**2))
        return float((k.sum() - np.trace(k)) / (len(x) * (len(x) - 1)) if same else k.mean())

    a = np.array([[mean(x, y, x is y) for y in samples] for x in samples])
    b = np.array([mean(x, target, False) for x in samples])
    return float(w @ a @ w - 2 * w @ b + mean(target, target, True))


def test_survey_weights_count_like_repetition() -> None:
    samples = [cloud(k, 200, seed=8) for k in range(2)]
    target = np.concatenate([cloud(0, 300, 9), cloud(1, 300, 9)])
    share = np.concatenate([np.full(300, 3.0), np.full(300, 1.0)])
    found = match_weights(samples, target, target_weights=share)
    assert found.weights.tolist() == pytest.approx([0.75, 0.25], abs=0.05)


def test_permuting_personas_permutes_the_weights() -> None:
    samples = [cloud(k, 60, seed=10) for k in range(4)]
    target = planted([0.4, 0.3, 0.2, 0.1], 300, seed=11)
    forth = match_weights(samples, target).weights
    back = match_weights(samples[::-1], target).weights
    assert forth.tolist() == pytest.approx(back[::-1].tolist(), abs=1e-6)


def test_personas_that_cannot_be_told_apart_are_no_hindrance() -> None:
    twin = cloud(0, 100, seed=12)
    found = match_weights([twin, twin.copy(), cloud(1, 100, seed=12)], planted([0.5, 0.5, 0, 0], 400, seed=13))
    assert found.weights[:2].sum() == pytest.approx(0.5, abs=0.08)


def test_samples_that_say_nothing_leave_the_prior() -> None:
    prior, off, off_free = np.array([0.7, 0.1, 0.1, 0.1]), 0.0, 0.0
    for seed in range(6):
        alike = [cloud(0, 12, seed=100 * seed + k) for k in range(4)]
        target = cloud(0, 100, seed=100 * seed + 50)
        off += np.abs(match_weights(alike, target, prior=prior).weights - prior).sum()
        free = match_weights(alike, target, prior=prior, shrinkage=0.0).weights
        off_free += np.abs(free - prior).sum()
    assert off < 0.7 * off_free


def test_telling_samples_overrule_the_prior() -> None:
    telling = [cloud(k, 200, seed=31) for k in range(4)]
    target = planted([0.1, 0.2, 0.3, 0.4], 1000, seed=32)
    found = match_weights(telling, target, prior=np.array([0.7, 0.1, 0.1, 0.1]))
    assert found.shrinkage <= 0.01
    assert np.abs(found.weights - [0.1, 0.2, 0.3, 0.4]).max() < 0.06


def test_too_few_samples_to_validate_with_leave_the_prior() -> None:
    samples = [cloud(k, 3, seed=33) for k in range(4)]
    found = match_weights(samples, cloud(0, 50, seed=34), prior=np.array([1.0, 1.0, 1.0, 1.0]))
    assert found.shrinkage == 10.0
    assert found.weights.tolist() == pytest.approx([0.25] * 4, abs=0.05)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        ([0.5, 0.5], r"prior must be 4 finite numbers of at least 0, .* got the shape \(2,\)"),
        ([0.5, 0.6, -0.1, 0.0], r"prior must be 4 finite numbers of at least 0"),
        ([0.0] * 4, r"of which one is above 0, got the shape \(4,\) and the sum 0.0"),
    ],
)
def test_what_is_no_prior_is_refused(prior: list[float], message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_weights([cloud(k, 5, 0) for k in range(4)], cloud(0, 9, 1), prior=np.array(prior))


@pytest.mark.parametrize(
    ("samples", "target", "message"),
    [
        ([np.zeros((1, 4))], np.zeros((5, 4)), r"embeddings of persona 0 have shape \(1, 4\)"),
        (
            [np.ones((3, 4))],
            np.full((5, 4), np.nan),
            r"embeddings of the target have shape \(5, "
            r"4\); finite numbers",
        ),
        ([np.ones((3, 4))], np.ones((5, 3)), "one embedding size throughout are needed"),
        ([], np.ones((5, 3)), "samples of 0 personas"),
        ([np.ones((3, 3))], np.ones((5, 3)), "the kernel width is 0.0"),
    ],
)
def test_unusable_embeddings_are_named(samples: list[np.ndarray], target: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        match_weights(samples, target)


def test_unusable_survey_weights_are_named() -> None:
    with pytest.raises(
        DataError,
        match=r"target_weights must be 5 finite numbers of at least 0, .* got the shape \(3,\)",
    ):
        match_weights([cloud(0, 5, 0)], cloud(1, 5, 0), target_weights=np.ones(3))


def test_answers_to_one_question_are_not_compared() -> None:
    """Six personas that all write alike, asked the same questions: none of them is favoured."""
    off, aware, unaware = ~np.eye(6, dtype=bool), [], []

    def excess(found: WeightMatch) -> float:
        return float(found.within[off].mean() - found.within[~off].mean())

    for seed in range(8):
        rng = rng_of(seed, "shared")
        questions = 2.0 * rng.normal(size=(20, 4))
        samples = [questions + 0.3 * rng.normal(size=(20, 4)) for _ in range(6)]
        target = 2.0 * rng.normal(size=(300, 4)) + 0.3 * rng.normal(size=(300, 4))
        asked = [np.arange(20)] * 6
        aware.append(excess(match_weights(samples, target, contexts=asked, shrinkage=0.0)))
        unaware.append(excess(match_weights(samples, target, shrinkage=0.0)))
    assert abs(np.mean(aware)) < 0.003
    assert np.mean(unaware) > 0.01


def test_contexts_must_be_told_for_every_sample() -> None:
    samples = [cloud(k, 5, seed=1) for k in range(2)]
    with pytest.raises(DataError, match=r"contexts have the shapes \[\(4,\), \(5,\)\]"):
        match_weights(samples, cloud(0, 9, 2), contexts=[np.arange(4), np.arange(5)])
