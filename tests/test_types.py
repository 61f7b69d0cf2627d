"""Records are values: equal if their fields are, and not to be changed."""

import dataclasses

import pytest

from mop.errors import ConfigError
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
    ("wrong", "message"),
    [
        ({"max_tokens": 0}, "max_tokens is 0; a response has at least 1 token"),
        ({"min_tokens": 129}, r"min_tokens is 129; it must be from 0 to max_tokens \(128\)"),
        ({"min_tokens": 0.5}, "min_tokens is 0.5; it must be a whole number"),
        ({"top_p": 0.0}, "top_p is 0.0; it must be above 0 and at most 1"),
        ({"top_k": -1}, "top_k is -1; it must be 0"),
    ],
)
def test_a_decoding_that_no_draw_could_have_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        Decoding(**wrong)
