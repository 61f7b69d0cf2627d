"""What a model's window does not hold: the same texts whatever the order, as few as can be, and what is left fits."""

from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import reviews
from mop.backends.fake import FakeModel
from mop.backends.window import PERSONA, may_exceed, window_of
from mop.errors import ConfigError, DataError, PromptTooLongError
from mop.prompts import simulation_prompt
from mop.types import Decoding, Record, ScoreRequest


def records_of(*lengths):
    return [Record(key=f"r{i}", context="c" * 40, response="y " * (n // 2)) for i, n in enumerate(lengths)]


def window(size, **more):
    found = window_of(FakeModel(window=size), **{"n_shown": 1, "max_tokens": 20, "personas": ["p" * 50], **more})
    assert found is not None
    return found


def require_that_all_fit(lm, records, *, n_shown, max_tokens, persona):
    """Ask for every record under every order of the longest others."""
    longest = sorted(records, key=lambda r: -len(r.context + r.response))[: n_shown + 1]
    for record in records:
        others = [one for one in longest if one is not record][:n_shown]
        for shown in permutations(others):
            prompt = simulation_prompt(record.context, persona=persona, exemplars=shown)
            assert lm.n_tokens(prompt, record.response) <= lm.window
            assert lm.n_tokens(prompt) + max_tokens <= lm.window


def test_the_toy_model_refuses_what_its_window_does_not_hold():
    lm = FakeModel(window=30)
    with pytest.raises(PromptTooLongError, match="r7 has 31 tokens; fake takes 30"):
        lm.score([ScoreRequest(simulation_prompt("c" * 20), "y" * 10, "r7")])
    assert window_of(FakeModel(), n_shown=1, max_tokens=1) is None
    assert window_of(object(), n_shown=1, max_tokens=1) is None


@pytest.mark.trial("17-one-long-text")
def test_one_long_text_is_found_wherever_it_stands():
    lengths = [60, 80, 3000, 70, 90, 100]
    for shift in range(len(lengths)):
        records = records_of(*lengths[shift:], *lengths[:shift])
        (row,) = window(1200).beyond(records)
        assert len(records[row].response) == 3000


@given(
    lengths=st.lists(st.integers(2, 900), min_size=2, max_size=12),
    n_shown=st.integers(1, 3),
    max_tokens=st.integers(1, 200),
)
@settings(max_examples=30, deadline=None)
def test_what_is_left_fits_in_the_worst_case_and_is_all_that_can_be(lengths, n_shown, max_tokens):
    records, one = records_of(*lengths), window(1200, n_shown=n_shown, max_tokens=max_tokens)
    try:
        beyond = one.beyond(records)
    except ConfigError:
        return
    left = [record for row, record in enumerate(records) if row not in beyond]
    require_that_all_fit(one.model, left, n_shown=n_shown, max_tokens=max_tokens, persona="p" * 50)
    assert min(beyond.values(), default=10**6) >= max(len(record.context + record.response) for record in left)
    cut, tokens = one.cut(records)
    assert [record.key for record in cut] == [record.key for record in records]
    assert set(tokens) == {row for row, (a, b) in enumerate(zip(records, cut, strict=True)) if a != b}
    assert all(record.response.strip() for record in cut)
    require_that_all_fit(one.model, cut, n_shown=n_shown, max_tokens=max_tokens, persona="p" * 50)


def test_a_long_context_is_cut_too():
    long = Record(key="r", context="c " * 2000, response="y " * 2000)
    (cut, *_), tokens = window(1200).cut([long, *records_of(50, 60)])
    assert tokens == {0: 8000}
    assert 200 < len(cut.context) < 600
    assert 200 < len(cut.response) < 1000


def test_a_persona_that_is_not_written_yet_has_room():
    assert window(1200, personas=()).room == window(1200, personas=["p" * PERSONA]).room


@pytest.mark.parametrize("what", ["beyond", "cut"])
def test_a_window_that_holds_no_record_is_refused(what):
    with pytest.raises(ConfigError, match=r"fake takes 100 tokens, too few for a persona, 1 of the exemplars and a"):
        getattr(window(100), what)(records_of(500, 600))


def test_contexts_are_held_or_refused_by_name():
    contexts = [Record(key="a", context="c " * 900, response=""), Record(key="b", context="short", response="")]
    with pytest.raises(DataError, match=r"1 of 2 contexts are too long: beside persona and .* 'a' \(1,800\); shorten"):
        window(1200).hold(contexts, reviews(4), remedy="shorten them")
    held = window(1200).hold(contexts, reviews(4), remedy="", is_cut=True)
    assert held[1] == contexts[1]
    assert 500 < len(held[0].context) < 1200
    assert contexts[0].context.startswith(held[0].context)
    exemplars = sorted(reviews(4), key=lambda r: -len(r.context + r.response))[:1]
    prompt = simulation_prompt(held[0].context, persona="p" * 50, exemplars=exemplars)
    assert window(1200).model.n_tokens(prompt) + 20 <= 1200


def test_no_records_are_none_too_long():
    assert window(1200).beyond([]) == {}


def test_short_records_need_no_counting():
    assert not may_exceed(100, 1, 96, "a review")
    assert may_exceed(600, 1, 96, "a review")
    assert may_exceed(100, 1, 800, "a review")


def test_decoding_counts_as_much_as_the_longest_text():
    lm = FakeModel(window=100)
    from mop.types import Branch, GenerateRequest

    request = GenerateRequest((Branch(simulation_prompt("c" * 50), 1.0),), 1, "r1")
    with pytest.raises(PromptTooLongError, match="r1 has 110 tokens"):
        lm.generate([request], Decoding(max_tokens=60))
