"""Metrics against naive formulas, arithmetic and the laws that the definitions imply."""

import gzip
import json
import math
import os
import warnings
from pathlib import Path

import numpy as np
import pytest

from mop.errors import DataError
from mop.metrics import distances as metrics
from mop.metrics import words
from mop.metrics.distances import DoubtfulMetricWarning
from oracles import (
    loop_bleu,
    loop_cosine_histogram,
    loop_energy,
    loop_energy_error,
    loop_kl,
    loop_mauve,
    textbook_fid,
)
from planted_metrics import D, Planted, planted_ranks, populations, true_energy, true_fid

RNG = np.random.default_rng(7)
CLOUD = RNG.normal(size=(60, 5)) @ RNG.normal(size=(5, 5)) + 1
OTHER = RNG.normal(size=(45, 5)) + np.array([0, 0, 1, 0, 0])
CLOUD_WEIGHT = np.random.default_rng(8).lognormal(size=60)
OTHER_WEIGHT = np.random.default_rng(9).lognormal(size=45)


def quiet_mauve(*args, **settings):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DoubtfulMetricWarning)
        return metrics.mauve(*args, **settings)


# FID


def test_fid_equals_the_textbook_matrix_root():
    assert metrics.fid(CLOUD, OTHER) == pytest.approx(textbook_fid(CLOUD, OTHER), rel=1e-9)


def test_fid_of_a_sample_with_itself_is_zero():
    assert metrics.fid(CLOUD, CLOUD) < 1e-8


def test_fid_with_itself_is_zero_with_fewer_texts_than_dimensions():
    few = RNG.normal(size=(20, 64))
    with pytest.warns(DoubtfulMetricWarning, match="FID from 20 golden and 20 synthetic texts in 64"):
        assert metrics.fid(few, few) < 1e-8


def test_fid_of_a_shift_is_its_squared_length():
    shift = np.array([3.0, 0.0, 4.0, 0.0, 0.0])
    assert metrics.fid(CLOUD, CLOUD + shift) == pytest.approx(25.0)


@pytest.mark.parametrize("a", [0.0, 0.5, 2.0])
def test_fid_of_a_scaling_is_the_scaled_trace(a):
    centred = CLOUD - CLOUD.mean(axis=0)
    trace = centred.var(axis=0, ddof=1).sum()
    assert metrics.fid(centred, a * centred) == pytest.approx((1 - a) ** 2 * trace)


def test_fid_is_symmetric():
    assert metrics.fid(CLOUD, OTHER) == pytest.approx(metrics.fid(OTHER, CLOUD))


def test_fid_does_not_change_under_a_common_rotation():
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    turned = metrics.fid(CLOUD @ rotation, OTHER @ rotation)
    assert turned == pytest.approx(metrics.fid(CLOUD, OTHER))


def test_fid_agrees_on_either_side_of_n_equal_to_dimension():
    wide = np.random.default_rng(2).normal(size=(12, 8))
    with pytest.warns(DoubtfulMetricWarning):
        few = metrics.fid(wide, wide[:6] * 2)
    assert few == pytest.approx(textbook_fid(wide, wide[:6] * 2), rel=1e-6)


def test_fid_of_whole_numbers_is_that_of_floats():
    square = np.array([[1, 1], [1, -1], [-1, 1], [-1, -1]])
    assert metrics.fid(square, square + 1) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("golden", "synthetic", "sentence"),
    [
        (CLOUD[:1], OTHER, r"golden vectors have shape \(1, 5\); a metric needs two-dimensional"),
        (CLOUD, OTHER[:, 0], r"synthetic vectors have shape \(45,\); a metric needs two-dimen"),
        (
            CLOUD,
            OTHER[:, :4],
            r"golden vectors have shape \(60, 5\) and the synthetic ones \(45, 4\); both need the "
            "same number of columns; embed both with one encoder",
        ),
        (
            CLOUD,
            np.where(np.eye(45, 5) > 0, np.nan, OTHER),
            r"5 of the synthetic vectors, shape \(45, 5\), hold nan or infinity \(first: row 0\)",
        ),
        (CLOUD.astype(str), OTHER, "golden vectors have the type <U.*; they must be real numbers"),
    ],
)
def test_vectors_that_cannot_be_compared_are_named(golden, synthetic, sentence):
    with pytest.raises(DataError, match=sentence):
        metrics.fid(golden, synthetic)
    with pytest.raises(DataError, match=sentence):
        metrics.mauve(synthetic, golden)
    with pytest.raises(DataError, match=sentence):
        metrics.kl_cosine(golden, synthetic, seed=0)
    with pytest.raises(DataError, match=sentence):
        metrics.energy_distance(golden, synthetic)


@pytest.mark.parametrize(("n_golden", "n"), [(60, 45), (60, 4), (4, 45), (4, 3)])
def test_the_rough_distance_is_the_exact_one_but_for_rounding(n_golden, n):
    golden, some = metrics.gaussian(CLOUD[:n_golden]), OTHER[:n]
    rough = metrics.frechet(golden, some, is_rough=True)
    assert rough == pytest.approx(metrics.frechet(golden, some), abs=1e-6)


def test_a_gaussian_of_another_dimension_is_refused():
    with pytest.raises(DataError, match=r"dimension 5 and the synthetic vectors have shape \(9, 3\)"):
        metrics.frechet(metrics.gaussian(CLOUD), np.ones((9, 3)))

        metrics.frechet(metrics.gaussian(CLOUD), np.ones((9, 3)))


# FID for endless texts


def test_roots_of_a_population_that_is_fully_seen_are_summed_exactly():
    values = 1 / np.arange(1, 41) ** 2
    seen = metrics._population_roots(values, 10**9, values, None)
    assert seen == pytest.approx(np.sqrt(values).sum(), rel=1e-4)


@pytest.mark.parametrize("name", ["real", "narrow, 0.8", "small axes, 0.6", "wide, 1.2", "moved"])
@pytest.mark.parametrize("n", [100, 300, 600])
def test_the_limit_does_not_depend_on_the_number_of_texts(name, n):
    planted = populations()
    mean, covariance = planted["real"].moments()
    values, axes = np.linalg.eigh(covariance)
    exact = metrics.Gaussian(mean, (axes * np.sqrt(values)) @ axes.T, values)
    rng = np.random.default_rng(n)
    found = [metrics.frechet(exact, planted[name].draw(n, rng), is_rough=True) for _ in range(8)]
    true = true_fid(planted["real"], planted[name])
    assert np.mean([each.limit for each in found]) == pytest.approx(true, abs=0.012)
    assert np.mean([each.distance for each in found]) > true + 0.03  # what it takes away


def test_the_limit_of_weighted_texts_is_that_of_the_population_they_stand_for():
    rng = np.random.default_rng(0)
    scale = 1 / np.sqrt(np.arange(1, 65))
    exact = metrics.Gaussian(np.zeros(64), np.diag(scale), np.sort(scale**2))
    found = []
    for _ in range(10):
        # Five times as many texts on the right half of the first axis as there should be.
        rows = rng.normal(size=(160, 64)) * scale
        rows[:, 0] = np.abs(rows[:, 0]) * np.where(rng.random(160) < 5 / 6, 1, -1)
        weight = np.where(rows[:, 0] > 0, 1.0, 5.0) * rng.choice([0.2, 1.8], size=160)
        weighted = metrics.frechet(exact, rows, weight=weight)
        found.append([weighted.limit, metrics.frechet(exact, rows).limit, weighted.distance])
    weighted, even, plain = np.mean(found, axis=0)
    assert abs(weighted) < 0.08 < 0.25 < even < plain


def test_a_sample_without_spread_has_its_distance_as_limit():
    same = metrics.frechet(metrics.gaussian(CLOUD), np.ones((9, 5)))
    assert same.limit == pytest.approx(same.distance)


# Energy distance


def test_the_energy_distance_equals_the_plain_loops():
    few, some = CLOUD[:14], OTHER[:11]
    for v, w in [(np.ones(14), np.ones(11)), (CLOUD_WEIGHT[:14], OTHER_WEIGHT[:11])]:
        found = metrics.energy_distance(few, some, golden_weight=v, synthetic_weight=w)
        assert found.distance == pytest.approx(loop_energy(few, some, v, w))
        error = (found.high - found.low) / 2 / 1.96
        assert error == pytest.approx(loop_energy_error(few, some, v, w))
        assert found.low + found.high == pytest.approx(2 * found.distance)


def test_the_energy_distance_is_the_same_in_any_direction_place_and_block(monkeypatch):
    plain = metrics.energy_distance(CLOUD, OTHER)
    assert metrics.energy_distance(OTHER, CLOUD) == pytest.approx(plain)
    rotation, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(5, 5)))
    turned = metrics.energy_distance(CLOUD @ rotation + 3, OTHER @ rotation + 3)
    assert turned == pytest.approx(plain)
    assert metrics.energy_distance(2 * CLOUD, 2 * OTHER) == pytest.approx(2 * np.array(plain))
    within = metrics.within_distances(CLOUD)
    assert metrics.energy_distance(CLOUD, OTHER, golden_within=within) == plain
    monkeypatch.setattr(metrics, "BLOCK", 7 * 45)
    assert metrics.energy_distance(CLOUD, OTHER) == pytest.approx(plain)


def test_the_energy_distance_of_one_population_is_zero_in_the_mean():
    rng = np.random.default_rng(3)
    found = [metrics.energy_distance(*rng.normal(size=(2, 20, 6))).distance for _ in range(300)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(300)


def test_two_texts_a_side_have_an_energy_distance():
    found = metrics.energy_distance(CLOUD[:2], OTHER[:2])
    assert found.low < found.distance < found.high
    assert found.distance == pytest.approx(loop_energy(CLOUD[:2], OTHER[:2], np.ones(2), np.ones(2)))


def share_of_intervals_that_hold_the_truth(n_repeats, **weights):
    """Small and moved against a true distance that is known exactly."""
    scale = 1 / np.arange(1, 17)
    one = np.ones(1)
    real = Planted(one, np.zeros((1, 16)), scale)
    other = Planted(one, np.full((1, 16), 0.1), 0.6 * scale)
    true = true_energy(real, other)
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(n_repeats):
        golden, synthetic = real.draw(120, rng), other.draw(60, rng)
        of = {name: rng.choice([0.5, 2], size=n) for name, n in weights.items()}
        found = metrics.energy_distance(golden, synthetic, **of)
        held += found.low <= true <= found.high
    return held / n_repeats


def test_energy_intervals_hold_the_true_distance():
    assert 0.88 <= share_of_intervals_that_hold_the_truth(60) <= 1
    sizes = {"golden_weight": 120, "synthetic_weight": 60}
    assert 0.88 <= share_of_intervals_that_hold_the_truth(60, **sizes) <= 1


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [{}, {"golden_weight": 120, "synthetic_weight": 60}])
def test_energy_intervals_hold_the_true_distance_as_often_as_they_say(sizes):
    assert 0.90 <= share_of_intervals_that_hold_the_truth(200, **sizes) <= 0.98


def test_planted_populations_come_out_in_their_true_order():
    assert len(populations()["real"].variances) == D == 384
    ranks = planted_ranks(200, seed=1, n_repeats=6)
    assert ranks["energy_rank"] == ranks["fid_rank"] == 1
    assert ranks["plain_fid_rank"] < 0.8
    assert min(ranks["n_energy_pairs"], ranks["n_fid_pairs"]) >= 20
    assert ranks["wrong"]["plain_fid"]["real < narrow, 0.8"] == 1
    for name, found in ranks["populations"].items():
        for metric in ("energy", "fid"):
            error = 3 * found[f"{metric}_sd"] / math.sqrt(6) + 0.08 * found[f"true_{metric}"]
            assert found[f"{metric}_mean"] == pytest.approx(found[f"true_{metric}"], abs=error + 0.002), name


def test_the_true_distances_of_planted_populations_are_those_of_many_texts():
    planted = populations()
    rng = np.random.default_rng(0)
    real, dropped = (planted[n].draw(2_000, rng) for n in ("real", "one mode dropped"))
    found = metrics.energy_distance(real, dropped)
    assert found.low < true_energy(planted["real"], planted["one mode dropped"]) < found.high
    moved = true_fid(planted["real"], planted["moved"])
    assert moved == pytest.approx(0.071)
    assert true_fid(planted["real"], planted["wide, 1.2"]) == pytest.approx(0.04 * 0.95)


# Survey weights


def test_even_weights_change_nothing():
    fours, sevens = np.full(60, 4.0), np.full(45, 7.0)
    weighted = metrics.energy_distance(CLOUD, OTHER, golden_weight=fours, synthetic_weight=sevens)
    assert weighted == metrics.energy_distance(CLOUD, OTHER)
    golden = metrics.gaussian(CLOUD, weight=fours)
    assert np.array_equal(golden.root, metrics.gaussian(CLOUD).root)
    assert metrics.frechet(golden, OTHER, weight=sevens) == metrics.frechet(golden, OTHER)
    counts = metrics.cosine_histogram(OTHER, seed=0, weight=sevens)
    assert np.array_equal(counts, metrics.cosine_histogram(OTHER, seed=0))
    assert counts.dtype.kind == "i"


def test_only_the_ratios_of_weights_count():
    once = metrics.energy_distance(CLOUD, OTHER, golden_weight=CLOUD_WEIGHT)
    assert metrics.energy_distance(CLOUD, OTHER, golden_weight=9 * CLOUD_WEIGHT) == pytest.approx(once)
    golden = metrics.gaussian(CLOUD)
    assert metrics.frechet(golden, OTHER, weight=9 * OTHER_WEIGHT) == pytest.approx(
        metrics.frechet(golden, OTHER, weight=OTHER_WEIGHT)
    )
    assert metrics.cosine_histogram(OTHER, seed=0, weight=9 * OTHER_WEIGHT) == pytest.approx(
        metrics.cosine_histogram(OTHER, seed=0, weight=OTHER_WEIGHT)
    )


def test_a_weight_of_two_is_the_text_twice_but_for_the_divisor():
    doubled = np.concatenate([CLOUD, CLOUD[:20]])
    weight = np.where(np.arange(60) < 20, 2.0, 1.0)
    weighted, repeated = metrics.gaussian(CLOUD, weight=weight), metrics.gaussian(doubled)
    assert weighted.mean == pytest.approx(repeated.mean)
    # n - 1 = 79 for eighty texts, W - Σw²/W = 80 - 120/80 for sixty that stand for eighty.
    assert weighted.variances * 78.5 == pytest.approx(repeated.variances * 79)


def test_a_text_without_weight_is_as_if_it_were_not_there():
    weight = np.where(np.arange(45) < 30, 3.0, 0.0)
    golden = metrics.gaussian(CLOUD)
    assert tuple(metrics.frechet(golden, OTHER, weight=weight)) == pytest.approx(
        tuple(metrics.frechet(golden, OTHER[:30]))
    )
    weighted = metrics.energy_distance(CLOUD, OTHER, synthetic_weight=weight)
    assert weighted.distance == pytest.approx(metrics.energy_distance(CLOUD, OTHER[:30]).distance)
    counts = metrics.cosine_histogram(OTHER, seed=0, weight=weight)
    alone = metrics.cosine_histogram(OTHER[:30], seed=0)
    assert counts / counts.sum() == pytest.approx(alone / alone.sum())
    assert counts.sum() == pytest.approx(45 * 44 / 2)


def test_a_pair_counts_by_the_product_of_its_weights():
    rows = np.array([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]])
    counts = metrics.cosine_histogram(rows, seed=0, weight=np.array([1.0, 2.0, 3.0]))
    assert counts[50] == pytest.approx(3 * (2 + 6) / 11)  # three pairs, of 2, 6 and 3
    assert counts[99] == pytest.approx(3 * 3 / 11)


@pytest.mark.parametrize(
    ("weight", "sentence"),
    [
        (np.ones(44), r"synthetic weights have shape \(44,\) for 45 texts, 0 of them negative"),
        (np.where(np.arange(45) < 2, -1.0, 1.0), "for 45 texts, 2 of them negative or not finite"),
        (np.full(45, np.nan), "45 of them negative or not finite and 0 above 0"),
        (np.eye(45)[0], "0 of them negative or not finite and 1 above 0; pass one weight"),
    ],
)
def test_weights_that_cannot_be_used_are_named(weight, sentence):
    with pytest.raises(DataError, match=sentence):
        metrics.energy_distance(CLOUD, OTHER, synthetic_weight=weight)
    with pytest.raises(DataError, match=sentence):
        metrics.frechet(metrics.gaussian(CLOUD), OTHER, weight=weight)


def test_mauve_of_counts_equals_the_plain_loop():
    p, q = np.array([5, 0, 3, 9, 1]), np.array([2, 7, 0, 4, 4])
    assert metrics.mauve_of_counts(p, q) == pytest.approx(loop_mauve(p, q))
    assert metrics.mauve_of_counts(p + 0.5, q + 0.5) == pytest.approx(loop_mauve(p + 0.5, q + 0.5))


def test_mauve_of_equal_histograms_is_one():
    for counts in ([3, 3], [1, 2, 3, 0], [7]):
        assert metrics.mauve_of_counts(np.array(counts), 2 * np.array(counts)) == pytest.approx(1.0)


def test_mauve_without_a_shared_cluster_has_its_least_value():
    assert round(metrics.mauve_of_counts(np.array([4, 4, 0]), np.array([0, 0, 9])), 5) == 0.00407


def test_mauve_lies_between_zero_and_one_and_is_symmetric():
    rng = np.random.default_rng(3)
    for _ in range(50):
        p, q = rng.poisson(1.0, size=(2, 8)) + np.eye(8, dtype=int)[:2]
        forth, back = metrics.mauve_of_counts(p, q), metrics.mauve_of_counts(q, p)
        assert 0 <= forth <= 1
        assert forth == pytest.approx(back)


@pytest.mark.parametrize(
    ("p", "q", "sentence"),
    [
        ([1, 2], [1, 2, 3], r"shapes \(2,\) and \(3,\) and a least value of 0"),
        ([1, -2], [1, 2], "a least value of -2; they must be two equally long lists"),
        ([0, 0], [1, 2], "sum to 0 and 3; MAUVE needs texts on both sides"),
    ],
)
def test_counts_that_cannot_be_compared_are_named(p, q, sentence):
    with pytest.raises(DataError, match=sentence):
        metrics.mauve_of_counts(np.array(p), np.array(q))


def test_mauve_warns_of_small_samples():
    with pytest.warns(DoubtfulMetricWarning, match="MAUVE from 45 synthetic and 60 golden texts"):
        metrics.mauve(OTHER, CLOUD)


def test_the_same_seed_gives_the_same_mauve():
    assert quiet_mauve(OTHER, CLOUD, seed=3) == quiet_mauve(OTHER, CLOUD, seed=3)


def test_one_population_scores_high_and_two_far_ones_low():
    rng = np.random.default_rng(5)
    here, again = rng.normal(size=(2, 200, 6)) + np.array([9, 0, 0, 0, 0, 0])
    there = rng.normal(size=(200, 6)) - np.array([9, 0, 0, 0, 0, 0])
    assert quiet_mauve(here, again) > 0.9
    assert quiet_mauve(here, there) == pytest.approx(0.00407, abs=1e-5)


def test_there_is_a_cluster_for_every_ten_texts_of_the_smaller_side():
    assert metrics.joint_clusters(OTHER[:34], CLOUD, seeds=[0])[1] == 3
    assert metrics.joint_clusters(OTHER[:5], CLOUD, seeds=[0])[1] == 2


def test_texts_that_are_all_the_same_fall_into_one_cluster():
    same = np.ones((30, 4))
    assert quiet_mauve(same, same) == pytest.approx(1.0)


def test_a_few_repeated_texts_against_many_score_low():
    rng = np.random.default_rng(6)
    many = rng.normal(size=(200, 8))
    assert quiet_mauve(np.repeat(many[:2], 100, axis=0), many) < 0.1


def test_a_vector_of_zeros_has_no_direction():
    rows = OTHER.copy()
    rows[4] = 0
    sentence = r"1 of the synthetic vectors, shape \(45, 5\), are all zeros \(first: row 4\)"
    with pytest.raises(DataError, match=sentence):
        metrics.mauve(rows, CLOUD)


def test_principal_axes_have_one_order_and_one_sign():
    centred, axes, variances = metrics.principal_axes(CLOUD)
    assert (centred @ axes).var(axis=0, ddof=1) == pytest.approx(variances)
    assert (axes.max(axis=0) == np.abs(axes).max(axis=0)).all()
    assert (np.diff(variances) <= 0).all()
    assert variances.sum() == pytest.approx(CLOUD.var(axis=0, ddof=1).sum())


# KL-cosine


def test_the_cosine_histogram_counts_every_pair_once():
    assert metrics.cosine_histogram(OTHER, seed=0).tolist() == loop_cosine_histogram(OTHER)


def test_many_texts_are_sampled_without_pairing_a_text_with_itself():
    rows = np.random.default_rng(8).normal(size=(2_001, 3))
    first, second, bins = metrics.pair_bins(rows, seed=1)
    assert len(bins) == 200_000
    assert (first != second).all()
    assert {int(first.min()), int(second.min())} == {0}
    assert {int(first.max()), int(second.max())} == {2_000}
    everything = np.bincount(metrics.pair_bins(rows[:2_000], seed=1)[2], minlength=100)
    share = np.bincount(bins, minlength=100) / 200_000
    assert np.abs(share - everything / everything.sum()).max() < 0.003


def test_the_divergence_equals_the_plain_loop():
    p, q = np.array([3, 0, 5]), np.array([1, 4, 0])
    smooth = [[(n + 0.5) / (sum(counts) + 1.5) for n in counts] for counts in (p, q)]
    kl = metrics.kl_of_histograms(p, q)
    assert kl.golden_synthetic == pytest.approx(loop_kl(*smooth))
    assert kl.synthetic_golden == pytest.approx(loop_kl(*smooth[::-1]))


def test_kl_cosine_of_a_sample_with_itself_is_zero():
    assert metrics.kl_cosine(CLOUD, CLOUD, seed=4) == (0.0, 0.0)
    many = np.random.default_rng(9).normal(size=(2_100, 3))
    assert metrics.kl_cosine(many, many, seed=4) == (0.0, 0.0)


def test_kl_cosine_is_finite_and_grows_when_half_the_texts_are_one():
    rng = np.random.default_rng(10)
    golden, other = rng.normal(size=(2, 120, 16))
    collapsed = other.copy()
    collapsed[::2] = other[0]
    before = metrics.kl_cosine(golden, other, seed=0)
    after = metrics.kl_cosine(golden, collapsed, seed=0)
    assert all(math.isfinite(value) and value >= 0 for value in (*before, *after))
    assert after.golden_synthetic > before.golden_synthetic
    assert after.synthetic_golden > before.synthetic_golden


# Words


def test_words_ignore_case_punctuation_and_the_kind_of_apostrophe():
    assert words.words("“It’s  GOOD” – isn't it? 5/10 für Ödön") == [
        "it's", "good", "isn't", "it", "5", "10", "für", "ödön",
    ]  # fmt: skip


def test_distinct_n_is_zero_where_no_text_is_long_enough():
    assert words.distinct_n(["one", "..."], 2) == 0.0


def test_self_bleu_equals_the_plain_loop():
    texts = [
        "a dull film with a dull end",
        "a dull film with a good end and a good start",
        "the plot is thin, the cast is good",
        "good",
        "the cast of a dull film with a plot",
    ]
    tokens = [words.words(text) for text in texts]
    expected = [loop_bleu(mine, [other for j, other in enumerate(tokens) if j != i]) for i, mine in enumerate(tokens)]
    assert words.self_bleu(texts, seed=0) == pytest.approx(sum(expected) / len(expected))


def test_self_bleu_of_many_texts_looks_at_five_hundred():
    same = ["a film that is long and dull"] * 600
    assert words.self_bleu(same, seed=0) == pytest.approx(1.0)
    numbered = [f"w{i} x{i} y{i} z{i} v{i}" for i in range(2_000)]
    assert words.self_bleu(numbered, seed=0) < 0.05


def test_self_bleu_finds_the_few_texts_with_words():
    mute = ["..."] * 1_000
    assert words.self_bleu([*mute, "a film", "a film"], seed=0) == pytest.approx(1.0)


def test_self_bleu_needs_two_texts_with_words():
    with pytest.raises(DataError, match="self-BLEU was asked of 1 texts with words in them"):
        words.self_bleu(["a film", "..."], seed=0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("As an AI language model, I have no opinions.", True),
        ("I’m sorry, but I cannot write that.", True),
        ("Sorry. I can't help with this request.", True),
        ("As an aid to sleep it works.", False),
        ("I can't recommend this film to anyone.", False),
        ("I'm sorry, but I can only call this a mess.", False),
        ("A film about a robot. " * 8 + "It says: as an AI I obey.", False),
    ],
)
def test_a_refusal_is_known_by_how_it_begins(text, expected):
    assert words.is_refusal(text) is expected


def test_shares_are_shares():
    assert words.refusal_share(["As an AI, no.", "fine", "ok", "good"]) == 0.25
    assert words.empty_share(["", " \n", "a", "b"]) == 0.5
    assert words.duplicate_share(["x", "x", "x", "y"]) == 0.5


@pytest.mark.parametrize(
    ("text", "exemplar", "expected"),
    [
        ("a b c d e", "x A, b; c. d e! y", True),
        ("a b c d e f g h i", "a b c d e f g x y z", True),  # 3 of 5 runs
        ("a b c d e f g h i", "a b c d e f x y z w", False),  # 2 of 5
        ("dull", "a dull film", False),
        ("A dull film.", "a dull film", True),
        ("...", "...", False),
    ],
)
def test_a_near_copy_shares_six_tenths_of_its_five_word_runs(text, exemplar, expected):
    assert words.is_near_copy(text, exemplar) is expected
    assert words.is_near_copy(exemplar, text) is expected


@pytest.mark.parametrize(("n_same", "expected"), [(30, True), (10, True), (9, False)])
def test_a_stretch_taken_word_for_word_is_a_near_copy(n_same, expected):
    shown = [f"w{i}" for i in range(60)]
    text = [f"x{i}" for i in range(20)] + shown[10 : 10 + n_same] + [f"y{i}" for i in range(20)]
    assert words.is_near_copy(" ".join(text), " ".join(shown)) is expected


def test_only_texts_with_an_exemplar_can_be_copies():
    copy = "one of the best films"
    assert words.near_copy_share([copy, "no", copy], [copy, "a film", None]) == 0.5
    assert words.near_copy_share([copy], [None]) is None
    # Of several exemplars any may be repeated; a short one within a long text, too.
    rest = " ".join(f"w{i}" for i in range(40))
    shots = [[" ".join(f"v{i}" for i in range(60)), copy], ["a film", "no film"], []]
    assert words.near_copy_share([f"{copy} {rest}", "no", copy], shots) == 0.5


def test_exemplars_must_be_as_many_as_texts():
    with pytest.raises(DataError, match="near-copies were asked of 1 texts and 2 exemplars"):
        words.near_copy_share(["a"], ["b", "c"])


@pytest.mark.parametrize(
    ("measure", "name"),
    [
        (lambda texts: words.distinct_n(texts, 2), "distinct-2"),
        (words.mean_words, "the mean length"),
        (words.refusal_share, "the refusal share"),
        (words.empty_share, "the share of empty texts"),
        (words.duplicate_share, "the duplicate share"),
    ],
)
def test_no_texts_have_no_share(measure, name):
    with pytest.raises(DataError, match=f"{name} was asked of 0 texts; it needs at least 1"):
        measure([])


# Real texts


def shared_texts(name, split):
    root = Path(os.environ.get("MOP_SHARED", Path(__file__).parents[2] / "shared"))
    path = root / "data" / name / f"{split}.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"the evaluation data are not there: {path}")
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    return [row["response"].strip() for row in rows], [row["label"] for row in rows]


def minilm_vectors(tmp_path_factory, texts):
    """Embeddings at 128 word pieces, as the reference's, kept in MOP_TEST_EMBEDDINGS between runs if it is set."""
    from mop.backends.encoder import embed, open_encoder
    from mop.storage.store import Store

    folder = os.environ.get("MOP_TEST_EMBEDDINGS")
    path = Path(folder) if folder else tmp_path_factory.mktemp("embeddings")
    with Store(path / "embeddings.sqlite") as store:
        encoder = open_encoder("minilm")
        encoder._model().max_seq_length = encoder.max_length = 128
        encoder.identity += " at 128"
        return embed(texts, encoder, store=store)


@pytest.fixture(scope="module")
def ag_news(tmp_path_factory):
    golden, _ = shared_texts("agnews", "golden")
    exemplars, labels = shared_texts("agnews", "exemplars")
    train, more_labels = shared_texts("agnews", "train")
    every = minilm_vectors(tmp_path_factory, golden + exemplars + train)
    return every[:5_000], every[5_000:], np.array(labels + more_labels)


def business_only(real, labels):
    return real[labels == "Business"]


def half_way_to_the_class_means(real, labels):
    means = {label: real[labels == label].mean(axis=0) for label in set(labels)}
    pulled = real + np.stack([means[label] for label in labels])
    return pulled / np.linalg.norm(pulled, axis=1, keepdims=True)


def fifty_repeated(real, _):
    return np.tile(real[:50], (60, 1))


# The values were recorded with another implementation (FAISS k-means, best of 2), to be met within
# some percent; which fifty texts are repeated is not known, so that row is met more loosely.
@pytest.mark.slow
@pytest.mark.model
@pytest.mark.parametrize(
    ("choose", "fid", "mauve", "forth", "back", "tolerance"),
    [
        (lambda real, _: real, 0.027, 0.974, 0.0003, 0.0003, 0.1),
        (lambda real, _: real[:1_000], 0.061, 0.986, 0.0004, 0.0005, 0.1),
        (business_only, 0.217, 0.229, 0.249, 0.237, 0.1),
        (half_way_to_the_class_means, 0.090, 0.791, 0.365, 0.483, 0.1),
        (fifty_repeated, 0.882, 0.004, 0.037, 0.124, 0.5),
    ],
    ids=["floor", "1,000 real", "only business", "pulled to class means", "50 repeated"],
)
def test_ag_news_gives_the_recorded_reference_values(ag_news, choose, fid, mauve, forth, back, tolerance):
    golden, real, labels = ag_news
    other = choose(real, labels)
    assert metrics.fid(golden, other) == pytest.approx(fid, rel=0.05)
    kl = metrics.kl_cosine(golden, other, seed=0)
    assert kl.golden_synthetic == pytest.approx(forth, rel=tolerance, abs=3e-4)
    assert kl.synthetic_golden == pytest.approx(back, rel=tolerance, abs=3e-4)
    assert quiet_mauve(other, golden) == pytest.approx(mauve, abs=0.02)


@pytest.mark.slow
@pytest.mark.model
def test_the_spread_of_ag_news_is_the_recorded_one(ag_news):
    fitted = metrics.gaussian(ag_news[0])
    assert fitted.trace == pytest.approx(0.951, abs=0.003)
    assert fitted.mean @ fitted.mean == pytest.approx(1 - fitted.trace, abs=0.001)
