"""AttrPrompt: which attributes are drawn, what the request says, refusals, proposals."""

from collections import Counter

import pytest

from conftest import ingredients, reviews
from mop.backends.base import Failure
from mop.backends.fake import FakeModel
from mop.errors import BackendError, DataError
from mop.randomness import derive_seed, rng_of
from mop.rivals.attributes import FILMS, Attributes
from mop.rivals.attrprompt import attrprompt, clean, draw_attributes, propose_attributes
from mop.types import Record
from scripted import Scripted

SMALL = Attributes(
    by_label={"topic": {"good": ["plot"], "bad": ["length", "noise"]}}, common={"length": ["short", "long", "endless"]}
)


def film(i, label="positive"):
    return Record(key=f"f{i}", context="x", response="y", label=label)


def run(contexts, model, *settings):
    return attrprompt(contexts, ingredients(model, *settings, seed=4))


def propose(rule, task, share=0.0):
    given = ingredients(Scripted(rule), f'data.task="{task}"', f"remote.max_failed_share={share}")
    return propose_attributes(given.drawing, temperature=1.0, method="attrprompt")


def test_the_drawn_values_are_those_of_the_counter_based_generator():
    record = reviews(2)[1]
    topic = ["length", "noise", "others"][int(rng_of(4, "attrprompt", "topic", "r1", 0).integers(3))]
    length = ["short", "long", "endless"][int(rng_of(4, "attrprompt", "length", "r1", 0).integers(3))]
    assert draw_attributes(SMALL, record, seed=4) == [("topic", topic), ("length", length)]


def test_values_are_drawn_uniformly_and_independently():
    drawn = [tuple(v for _, v in draw_attributes(FILMS, film(i), seed=0)) for i in range(2200)]
    topics, genres = Counter(d[0] for d in drawn), Counter(d[1] for d in drawn)
    assert set(topics) == {*FILMS.by_label["sub-topic"]["positive"], "others"}
    assert all(140 < count < 260 for count in topics.values())  # 200 expected, sd 13
    assert all(160 < count < 280 for count in genres.values())  # 220 expected, sd 14
    both = Counter((d[0], d[1]) for d in drawn)
    assert len(both) == 110  # every pair; 20 expected of each


def test_the_whole_request():
    model = Scripted(lambda i, prompt: "Fine.")
    run([film(0)], model, "compare.domain=films")
    values = draw_attributes(FILMS, film(0), seed=4)
    listed = "\n".join(f"{n}. {name}: {value}" for n, (name, value) in enumerate(values, start=1))
    assert model.prompts == [
        "Write a film review. Its sentiment is positive. Reply with the text of the review only."
        f"\n\nFollow these requirements:\n{listed}"
    ]


def test_refusals_are_drawn_again_with_other_attributes():
    model = Scripted(lambda i, prompt: "I'm sorry, I cannot." if i == 0 else "Fine – really!")
    rows = run([film(0)], model, "compare.domain=films")
    assert [row.response for row in rows] == ["Fine really!"]
    assert model.prompts[0] != model.prompts[1]
    assert rows[0].seed == derive_seed(4, "simulate", "attrprompt", "f0", 1)


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("So  good;\nreally: *good*!", "So good really good !"),
        ('He said "no" (twice), didn\'t he?', 'He said "no" (twice), didn\'t he?'),
        ("As an AI language model I like it.", None),
        ("I cannot perform this.", None),
        ("Sorry!", None),
        ("—", None),
    ],
)
def test_what_is_kept_of_a_text(text, kept):
    assert clean(text) == kept


def test_a_label_without_values_is_refused_before_anything_is_drawn():
    model = Scripted(lambda i, prompt: pytest.fail("asked"))
    with pytest.raises(DataError, match="'sub-topic' has no values for the label 'mixed'"):
        run([film(0, "mixed")], model, "compare.domain=films")


def test_dimensions_and_values_are_proposed_from_the_task_alone():
    def rule(i, prompt):
        if "ways in which" in prompt:
            return "" if i == 0 else "1. tone\n2. length"
        if "aspect" in prompt:
            return "- dry\n- warm\n- dry" if "tone" in prompt else "short"
        return "Fine."

    asked = []
    found = propose(lambda i, prompt: asked.append(prompt) or rule(i, prompt), "a film review")
    assert found == Attributes({"tone": ["dry", "warm"], "length": ["short"]})
    assert asked
    assert all("Verdict" not in prompt for prompt in asked)
    with pytest.raises(BackendError, match="proposed no dimensions in 10 draws"):
        propose(lambda i, prompt: "", "x")


def test_it_runs_on_the_fake_model_and_keeps_the_labels_asked_for():
    rows = run(reviews(8), FakeModel(), "data.task=a film review")
    assert Counter(row.label for row in rows) == {"good": 4, "bad": 4}
    assert {row.method for row in rows} == {"attrprompt"}


def test_a_failed_proposal_is_drawn_again_as_far_as_that_is_allowed():
    def rule(i, prompt):
        return Failure("content_filter", "no") if i == 0 else "tone"

    assert propose(rule, "a film review", 0.1) == Attributes({"tone": ["tone"]})
    with pytest.raises(BackendError, match=r"could not draw 1 of the 10 proposals of dimensions"):
        propose(rule, "a film review")
