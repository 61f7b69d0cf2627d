"""Texts under a model that sees the context alone: as the model says, once each, and no more than are needed."""

import math

import pytest

from mop.backends.fake import FakeModel
from mop.errors import DataError
from mop.evaluate.sense import log_lik_per_token
from mop.prompts import simulation_prompt
from mop.storage.store import Store
from mop.types import ScoreRequest

BETAS = (0.5, 1.0, 2.0)
TASK = "a film review"


def by_hand(context, text):
    """Nats per token at τ = 1, straight from the model."""
    request = ScoreRequest(simulation_prompt(context, task=TASK), text)
    ((_, score),) = next(FakeModel(BETAS).score([request]))
    return float(score.log_lik[1]) / score.n_tokens


def judge(contexts, texts, store, **more):
    return log_lik_per_token(contexts, texts, judge=FakeModel(BETAS), store=store, task=TASK, **more)


def test_it_is_the_mean_over_tokens_under_the_plain_prompt_at_temperature_one():
    with Store(":memory:") as store:
        found = judge(["Film 1.", "Film 2.", "Film 3."], ["good fun", " \n", " dull "], store)
        assert found[::2] == pytest.approx([by_hand("Film 1.", "good fun"), by_hand("Film 3.", "dull")], abs=1e-6)
        assert math.isnan(found[1])
        assert found[0] != found[2]


def test_what_the_store_has_is_not_scored_again():
    with Store(":memory:") as store:
        first = judge(["Film."], ["good fun"], store)
        assert store.spent()["judge"].calls == 1
        assert judge(["Film.", "Film."], ["good fun", "dull"], store)[0] == first[0]
        assert store.spent()["judge"].calls == 2


@pytest.mark.parametrize(("most", "last"), [(2, True), (None, False)])
def test_only_the_first_texts_that_are_not_empty_are_judged(most, last):
    with Store(":memory:") as store:
        found = judge(["Film."] * 4, ["", "good", "fun", "dull"], store, most=most)
    assert [math.isnan(value) for value in found] == [True, False, False, last]


def test_each_text_needs_its_context():
    with Store(":memory:") as store, pytest.raises(DataError, match="got 1 contexts and 2 texts"):
        judge(["Film."], ["good", "fun"], store)
