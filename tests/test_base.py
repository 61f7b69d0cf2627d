"""What a backend can do is its type, and said before any work begins."""

import pytest

from mop.backends.base import Generator, LanguageModel, Scorer, as_generator, as_scorer
from mop.backends.fake import FakeModel
from mop.errors import BackendError, ScoringUnsupportedError


class OnlyWrites:
    name = "mute"
    generate_identity = "mute"

    def generate(self, requests, decoding):
        yield []


class OnlyScores:
    name = "judge"
    score_identity = "judge"
    betas = (1.0,)

    def score(self, requests):
        yield []


def test_a_full_model_is_both():
    model: LanguageModel = FakeModel()
    assert isinstance(model, Scorer)
    assert isinstance(model, Generator)
    assert as_scorer(model) is model
    assert as_generator(model) is model


def test_a_model_that_cannot_score_is_refused():
    with pytest.raises(ScoringUnsupportedError, match="mute can write but not say how likely a given text is"):
        as_scorer(OnlyWrites())


def test_a_model_that_cannot_write_is_refused():
    with pytest.raises(BackendError, match="judge can score but not write responses; name a model that can generate"):
        as_generator(OnlyScores())
