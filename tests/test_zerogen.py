"""ZeroGen: names first, then texts about them; what is cut and dropped; label balance; resume."""

from collections import Counter

import pytest

from conftest import ingredients, reviews
from mop.backends.base import Failure
from mop.backends.fake import FakeModel
from mop.errors import BackendError, DataError
from mop.prompts import DOMAINS
from mop.rivals.zerogen import MAX_NAMES, NAMES_PER_CONTEXT, cut, draw_names, zerogen
from mop.storage.store import Store
from mop.types import Record
from scripted import Scripted

LONG = "One two three four five six seven eight nine ten."


def run(contexts, model, *settings, **more):
    return zerogen(contexts, ingredients(model, "compare.min_words=10", *settings, **more))


def film_rule(i, prompt):
    if prompt == "Name one film. Reply with its name only.":
        return f'"Film {i % 3}"\nis a film'
    return LONG


def test_names_come_first_and_every_text_asks_for_its_label_about_one_of_them():
    contexts = reviews(40)
    model = Scripted(film_rule)
    rows = run(contexts, model, "compare.domain=films")
    asked = model.prompts[NAMES_PER_CONTEXT * 40 :]
    assert asked[0].startswith("Write a review of the film Film ")
    for row, prompt in zip(rows, asked, strict=True):
        assert f"Its sentiment is {row.label}." in prompt
    names = Counter(prompt[27:33] for prompt in asked)
    assert set(names) == {"Film 0", "Film 1", "Film 2"}
    assert min(names.values()) > 4  # 13 expected
    assert Counter(row.label for row in rows) == {"good": 20, "bad": 20}


@pytest.mark.parametrize(("n_contexts", "n_names"), [(2, 20), (49, 490), (50, MAX_NAMES), (60, MAX_NAMES)])
def test_a_few_contexts_ask_for_a_few_names(n_contexts, n_names):
    model = Scripted(film_rule)
    run(reviews(n_contexts), model, "compare.domain=films")
    assert sum(prompt.startswith("Name one film") for prompt in model.prompts) == n_names


def test_news_has_no_names_and_says_the_topic_in_words():
    contexts = [Record(key="a", context="", response="x", label="Sci/Tech")]
    model = Scripted(lambda i, prompt: LONG)
    run(contexts, model, "compare.domain=news")
    assert model.prompts == [
        "Write a news article about science and technology. Reply with the text of the article only."
    ]


def test_without_a_domain_the_context_is_the_request():
    model = Scripted(lambda i, prompt: LONG)
    run(reviews(1), model, "data.task=a film review")
    assert model.prompts == ["Reply only with a film review.\nVerdict: good."]


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('"Great fun, really. Go." Hope this helps', "Great fun, really. Go."),
        ("Great fun, really.\nNote: made up.", "Great fun, really."),
        ("Great fun, really. And a lot of", "Great fun, really."),
        ("Great fun! The end of 3.5 hours", "Great fun!"),
        ('I saw "Up" twice. Great fun.', 'I saw "Up" twice. Great fun.'),
        ("great fun and no stop", None),
        ("Fun.", None),
        ("", None),
        ('"', None),
        ('"Great fun, really. And a lot of', "Great fun, really."),
    ],
)
def test_what_is_kept_of_a_text(text, kept):
    assert cut(text, min_words=2) == kept


def test_texts_of_fewer_than_ten_words_are_drawn_again():
    model = Scripted(lambda i, prompt: "Too short." if i < 2 else LONG)
    rows = run(reviews(2), model)
    assert [row.response for row in rows] == [LONG, LONG]
    assert len(model.prompts) == 4


def test_it_runs_on_the_fake_model_and_a_second_call_draws_nothing():
    store, calls = Store(":memory:"), []
    settings = ("compare.domain=films", "compare.min_words=1")
    first = run(reviews(6), FakeModel(), *settings, store=store)
    again = run(reviews(6), FakeModel(on_batch=calls.append), *settings, store=store)
    assert again == first
    assert calls == []
    assert store.spent()["simulate/zerogen"].calls >= 10


def test_repeated_names_are_dropped_and_no_name_is_an_error():
    def names(rule):
        return draw_names(
            DOMAINS["films"], ingredients(Scripted(rule)).drawing, n_contexts=50, temperature=1.0, method="zerogen"
        )

    assert names(lambda i, prompt: ["Heat", "Up", "Heat", " ", "Up."][i % 5]) == ["Heat", "Up"]
    with pytest.raises(BackendError, match="gave no name of a film in 500 draws"):
        names(lambda i, prompt: " ")


def test_a_domain_needs_labels():
    with pytest.raises(DataError, match="1 of 1 contexts have no label"):
        run([Record(key="a", context="x", response="y")], Scripted(lambda i, p: LONG), "compare.domain=films")


def test_a_name_whose_draw_failed_is_left_out_as_far_as_that_is_allowed():
    def rule(i, prompt):
        return Failure("content_filter", "no") if i == 3 else film_rule(i, prompt)

    rows = run(reviews(8), Scripted(rule), "compare.domain=films", "remote.max_failed_share=0.1")
    assert [row.response for row in rows] == [LONG] * 8
    with pytest.raises(BackendError, match=r"could not draw 1 of the 80 names of zerogen"):
        run(reviews(8), Scripted(rule), "compare.domain=films")
