"""ZeroGen: names first, then texts about them; what is cut and dropped; label balance; resume."""

from collections import Counter

import pytest

from conftest import reviews
from mop.backends.base import Failure
from mop.backends.fake import FakeModel
from mop.errors import BackendError, ConfigError, DataError
from mop.prompts import DOMAINS
from mop.rivals.zerogen import cut, draw_names, zerogen
from mop.storage.store import Store
from mop.types import Decoding, Record
from scripted import Scripted

LONG = "One two three four five six seven eight nine ten."


def run(contexts, model, **more):
    return zerogen(
        contexts,
        generator=model,
        store=more.pop("store", None) or Store(":memory:"),
        decoding=Decoding(max_tokens=30),
        seed=0,
        **more,
    )


def film_rule(i, prompt):
    if prompt == "Name one film. Reply with its name only.":
        return f'"Film {i % 3}"\nis a film'
    return LONG


def test_names_come_first_and_every_text_asks_for_its_label_about_one_of_them():
    contexts = reviews(40)
    model = Scripted(film_rule)
    rows = run(contexts, model, domain="films", n_names=12)
    asked = model.prompts[12:]
    assert asked[0].startswith("Write a review of the film Film ")
    for row, prompt in zip(rows, asked, strict=True):
        assert f"Its sentiment is {row.label}." in prompt
    names = Counter(prompt[27:33] for prompt in asked)
    assert set(names) == {"Film 0", "Film 1", "Film 2"}
    assert min(names.values()) > 4  # 13 expected
    assert Counter(row.label for row in rows) == {"good": 20, "bad": 20}


def test_news_has_no_names_and_says_the_topic_in_words():
    contexts = [Record(key="a", context="", response="x", label="Sci/Tech")]
    model = Scripted(lambda i, prompt: LONG)
    run(contexts, model, domain="news")
    assert model.prompts == [
        "Write a news article about science and technology. Reply with the text of the article only."
    ]


def test_without_a_domain_the_context_is_the_request():
    model = Scripted(lambda i, prompt: LONG)
    run(reviews(1), model, task="a film review")
    assert model.prompts == ["Reply only with a film review.\nVerdict: good."]


def test_the_quote_form_ends_with_an_open_quotation_mark():
    model = Scripted(lambda i, prompt: LONG[:-1] + '" and so on')
    rows = run(reviews(1), model, domain="films", n_names=1, form="quote")
    assert model.prompts[1].endswith('Its sentiment is good.\n\nReview: "')
    assert rows[0].response == LONG[:-1]


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
    ],
)
def test_what_is_kept_of_a_text(text, kept):
    assert cut(text, min_words=2) == kept


def test_after_an_opening_quotation_mark_the_first_one_closes():
    assert cut('Great fun, really" he said.', is_open=True, min_words=2) == "Great fun, really"


def test_texts_of_fewer_than_ten_words_are_drawn_again():
    model = Scripted(lambda i, prompt: "Too short." if i < 2 else LONG)
    rows = run(reviews(2), model)
    assert [row.response for row in rows] == [LONG, LONG]
    assert len(model.prompts) == 4


def test_it_runs_on_the_fake_model_and_a_second_call_draws_nothing():
    store, calls = Store(":memory:"), []
    first = run(reviews(6), FakeModel(), store=store, domain="films", n_names=4, min_words=1)
    again = run(
        reviews(6), FakeModel(on_batch=calls.append), store=store, domain="films", n_names=4,
        min_words=1,
    )  # fmt: skip
    assert again == first
    assert calls == []
    assert store.spent()["simulate/zerogen"].calls >= 10


def test_repeated_names_are_dropped_and_no_name_is_an_error():
    model = Scripted(lambda i, prompt: ["Heat", "Up", "Heat", " ", "Up."][i % 5])
    options = {"store": Store(":memory:"), "decoding": Decoding(), "seed": 0}
    assert draw_names(DOMAINS["films"], 5, generator=model, **options) == ["Heat", "Up"]
    with pytest.raises(BackendError, match="gave no name of a film in 3 draws"):
        draw_names(
            DOMAINS["films"], 3, generator=Scripted(lambda i, p: " "), store=Store(":memory:"),
            decoding=Decoding(), seed=0,
        )  # fmt: skip


def test_bad_settings_are_refused():
    model = Scripted(lambda i, prompt: LONG)
    with pytest.raises(ConfigError, match="unknown domain 'film'"):
        run(reviews(1), model, domain="film")
    with pytest.raises(ConfigError, match="unknown form 'open'"):
        run(reviews(1), model, form="open")
    with pytest.raises(DataError, match="1 of 1 contexts have no label"):
        run([Record(key="a", context="x", response="y")], model, domain="films")


def test_a_name_that_could_not_be_had_is_left_out_as_far_as_that_is_allowed():
    def rule(i, prompt):
        return Failure("content_filter", "no") if i == 3 else film_rule(i, prompt)

    rows = run(
        reviews(8), Scripted(rule), domain="films", n_names=10, max_failed_share=0.1
    )  # fmt: skip
    assert [row.response for row in rows] == [LONG] * 8
    with pytest.raises(BackendError, match=r"could not draw 1 of the 10 names of zerogen"):
        run(reviews(8), Scripted(rule), domain="films", n_names=10)
