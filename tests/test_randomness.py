"""Draws depend on what they are for, and on nothing else."""

import numpy as np
import pytest

from mop.randomness import derive_seed, rng_of, uniforms


def test_any_stretch_of_a_stream_equals_the_whole():
    whole = uniforms(12345, 0, 23)
    for start in range(12):
        assert uniforms(12345, start, 11).tolist() == whole[start : start + 11].tolist()


def test_streams_of_different_seeds_differ_and_numbers_are_uniform():
    draws = np.concatenate([uniforms(derive_seed(0, "x", i), 0, 10) for i in range(2000)])
    assert len(np.unique(draws)) == 20_000
    counts = np.histogram(draws, bins=10, range=(0, 1))[0]
    assert ((counts - 2000) ** 2 / 2000).sum() < 27.9  # chi-square, 9 degrees of freedom, p = 0.001


@pytest.mark.parametrize("other", [(0, "a", "b"), (1, "ab"), (0, "ab", ""), (0, "a", 1), (0, "a", "1")])
def test_seeds_keep_their_parts_apart(other):
    assert derive_seed(0, "ab") != derive_seed(*other)


def test_number_and_text_are_different_parts():
    assert derive_seed(0, 1) != derive_seed(0, "1")


def test_lone_surrogates_can_be_part_of_a_seed():
    assert derive_seed(0, "\ud800") != derive_seed(0, "\ud801")


def test_a_generator_is_reproducible():
    assert rng_of(3, "p").integers(1000, size=5).tolist() == rng_of(3, "p").integers(1000, size=5).tolist()


def test_numpys_integers_are_numbers():
    assert derive_seed(np.int64(3), "a", np.int32(1)) == derive_seed(3, "a", 1)
