"""The toy model as a server has it agrees with the fake model."""

from __future__ import annotations

import math

import pytest

from mop.backends.fake import FakeModel
from mop.backends.toy import CHARACTERS, END, REPLY, TURN, ToyEncoder, data_of, draw, log_probs, text_of
from mop.prompts import simulation_prompt
from mop.types import Branch, Decoding, GenerateRequest, Prompt, ScoreRequest, Segment, Turn


def prompt_of(data: str) -> Prompt:
    return Prompt((Turn("user", (Segment(data, True),)),))


def test_ids_are_characters_and_marks() -> None:
    encoder = ToyEncoder()
    assert encoder.prompt_ids(simulation_prompt("ab")) == [TURN, 0, 1, REPLY]
    assert encoder.response_ids("b") == [1, END]
    assert encoder.text([1, 0, END, 3]) == "ba"
    assert data_of([TURN, 0, 1, REPLY, 5]) == "ab"


def test_a_distribution_adds_up_to_one_and_to_the_models_scores() -> None:
    values = log_probs("tea, please")
    assert len(values) == END + 1
    assert math.fsum(map(math.exp, values)) == pytest.approx(1.0, abs=1e-5)
    [(_, score)] = next(FakeModel([1.0]).score([ScoreRequest(prompt_of("tea, please"), "ah!")]))
    found = sum(values[CHARACTERS.index(c)] for c in "ah!") + values[END]
    assert found == pytest.approx(float(score.log_lik[0]), abs=1e-4)


def test_a_draw_is_the_fake_models() -> None:
    request = GenerateRequest((Branch(prompt_of("tea"), 0.7),), 9)
    [(_, own)] = next(FakeModel([1.0]).generate([request], Decoding(max_tokens=20)))
    drawn = draw("tea", Decoding(max_tokens=20), temperature=0.7, seed=9)
    assert text_of(drawn) == own.text
    assert len(drawn) == own.n_tokens


def test_at_temperature_zero_ties_go_to_the_same_character_whatever_the_seed() -> None:
    for data in ("hi", "", "abc"):
        assert len({tuple(draw(data, Decoding(max_tokens=9), temperature=0.0, seed=s)) for s in range(30)}) == 1
