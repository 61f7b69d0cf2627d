"""What a backend can do is its type, and said before any work begins."""

import pytest

from mop.backends.base import Generator, LanguageModel, Scorer, as_generator, as_scorer, batches_of
from mop.backends.fake import FakeModel
from mop.errors import BackendError, ScoringUnsupportedError
from mop.types import Generation, Score


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


class Nearly:
    def generate(self, requests, decoding):
        yield []


@pytest.mark.parametrize("ask", [as_scorer, as_generator])
def test_what_a_model_of_ones_own_lacks_is_named(ask):
    with pytest.raises(
        BackendError,
        match=r"type Nearly can neither write nor score: to write it lacks `name`, `generate_identity`; to score it "
        r"lacks `name`, `score_identity`, `betas`, `score`; .*docs/plug\.md",
    ):
        ask(Nearly())
    with pytest.raises(BackendError, match="type function can neither write nor score: to write it lacks `name`"):
        ask(lambda prompt: "text")


@pytest.mark.advice
def test_a_class_is_no_model_and_its_object_is():
    for ask, kind in ((as_scorer, OnlyScores), (as_generator, OnlyWrites)):
        told = rf"the class {kind.__name__} is no model, .*; give {kind.__name__}\(\)"
        with pytest.raises(BackendError, match=told):
            ask(kind)
        assert ask(kind())


@pytest.mark.parametrize(
    ("found", "shown"),
    [(None, "None"), (["text"], "'text'"), ([["text"]], "'text'"), ([[(0, "text")]], "(0, 'text')"), (3, "3"),
     ([[(5, Generation("a", 1, "stop", 0.0))]], "(5, Generation"), ([(0, Generation("a", 1, "stop", 0.0))], "0")],
)  # fmt: skip
def test_what_a_model_must_yield_is_told(found, shown):
    with pytest.raises(
        BackendError, match=r"mine must yield lists of \(index, Generation\) with an index from 0 to 1"
    ) as e:
        list(batches_of(found, Generation, 2, "mine"))
    assert shown in str(e.value)
    assert list(batches_of(iter([[(1, "s")]]), str, 2, "mine")) == [[(1, "s")]]
    assert list(batches_of([], Score, 0, "mine")) == []
