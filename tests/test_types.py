"""Records are values: equal if their fields are, and not to be changed."""

import dataclasses

import pytest

from mop.types import Decoding, Persona, Record


def test_records_are_values():
    assert Record(key="a", context="x", response="y") == Record(key="a", context="x", response="y")
    with pytest.raises(dataclasses.FrozenInstanceError):
        Record(key="a", context="x", response="y").key = "b"


def test_the_default_decoding_is_pure_temperature_sampling():
    assert (Decoding().top_p, Decoding().top_k, Decoding().min_tokens) == (1.0, 0, 0)


def test_a_persona_without_a_cluster_was_written_by_a_person():
    assert Persona(key="p", description="d").writer == "user"


@pytest.mark.parametrize(
    "wrong", [{"max_tokens": 0}, {"top_k": -1}, {"top_p": 2.0}, {"min_tokens": 0.5}]
)
def test_a_decoding_that_no_draw_could_have_is_refused(wrong):
    with pytest.raises(
        ValueError, match=f"{next(iter(wrong))} must be .*, got {next(iter(wrong.values()))}"
    ):
        Decoding(**wrong)
