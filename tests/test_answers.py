"""Closed questions are recognised by what people answer, whatever its case; free texts are not."""

import pytest

from mop.data.answers import folded, options_chosen, options_of

SCALE = ["Very good", "Good", "Neither", "Bad", "Very bad"]


def test_a_scale_is_closed_in_any_spelling():
    answers = [form(SCALE[i % 5]) for i in range(40) for form in (str, str.upper, "{}.".format, " {} ".format)]
    assert sorted(options_of(answers).values()) == sorted(SCALE)


@pytest.mark.parametrize(
    "texts",
    [
        [f"rents are too high in street {i}" for i in range(60)],
        [f"i like it, number {i}" for i in range(30)] + ["nothing"] * 30,  # half say nothing, the rest write
        [" ".join(["word"] * 30)] * 50,  # one long text again and again is no option
        ["yes", "no"],
        [],
        ["", "  "],
    ],
)
def test_free_texts_are_not(texts):
    assert options_of(texts) == {}


def test_a_few_people_who_write_something_of_their_own_change_nothing():
    answers = ["Yes"] * 40 + ["No"] * 40 + [f"it depends on {i}" for i in range(15)]
    assert list(options_of(answers)) == ["no", "yes"]


def test_an_option_is_found_whatever_its_case_blanks_and_full_stop():
    assert options_chosen(["VERY  GOOD.", "“good”", "good or bad", "", "Good; Bad"], map(folded, SCALE)) == [
        0, 1, -1, -1, -1,
    ]  # fmt: skip
