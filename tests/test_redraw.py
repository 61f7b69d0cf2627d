"""Texts that have to pass a check: what is drawn again, what is given up, what a second call asks for."""

import logging

import pytest

from conftest import ingredients, reviews
from mop.backends.base import Failure
from mop.errors import BackendError, DataError
from mop.prompts import context_prompt
from mop.randomness import derive_seed
from mop.rivals.redraw import MAX_TRIES, write_texts
from mop.storage.store import Store
from scripted import Scripted


def write(contexts, model, accept, store=None, max_failed_share=0.0):
    given = ingredients(model, f"remote.max_failed_share={max_failed_share}", store=store or Store(":memory:"), seed=3)
    return write_texts(
        contexts,
        lambda i, attempt: context_prompt(f"{contexts[i].context} try {attempt}"),
        accept,
        given.drawing,
        method="m",
        temperature=0.5,
    )


def test_a_rejected_text_is_drawn_again_with_a_new_seed_and_keeps_its_label():
    contexts = reviews(4)
    model = Scripted(lambda i, prompt: "bad" if "try 0" in prompt and "good" in prompt else "fine")
    rows = write(contexts, model, lambda i, attempt, text: None if text == "bad" else text.upper())
    assert [row.response for row in rows] == ["FINE"] * 4
    assert [row.label for row in rows] == ["good", "bad", "good", "bad"]
    assert len(model.prompts) == 6
    assert rows[0].seed == derive_seed(3, "simulate", "m", "r0", 1)
    assert rows[1].seed == derive_seed(3, "simulate", "m", "r1", 0)
    assert rows[0].temperature == 0.5
    assert (rows[0].persona, rows[0].exemplar, rows[0].method) == (None, None, "m")


def test_what_is_rejected_every_time_is_left_empty_and_said(caplog):
    model = Scripted(lambda i, prompt: "bad")
    with caplog.at_level(logging.WARNING, logger="mop"):
        rows = write(reviews(2), model, lambda i, attempt, text: None)
    assert [row.response for row in rows] == ["", ""]
    assert len(model.prompts) == 2 * MAX_TRIES
    assert "m: 2 of 2 texts were rejected 8 times and are left empty" in caplog.text


def test_a_second_call_asks_for_nothing_and_gives_the_same_rows():
    store = Store(":memory:")
    accept = lambda i, attempt, text: text if len(text) > 1 or attempt else None  # noqa: E731
    first = write(reviews(9), Scripted(lambda i, p: "x" * (i % 3)), accept, store)
    silent = Scripted(lambda i, prompt: pytest.fail("asked again"))
    assert write(reviews(9), silent, accept, store) == first


def test_a_call_that_died_goes_on_where_it_was():
    def dies(i, prompt):
        if i == 5:
            raise KeyboardInterrupt
        return f"text {prompt[-30:]}"

    store = Store(":memory:")
    accept = lambda i, attempt, text: text if attempt else None  # noqa: E731
    with pytest.raises(KeyboardInterrupt):
        write(reviews(4), Scripted(dies), accept, store)
    rest = Scripted(lambda i, prompt: f"text {prompt[-30:]}")
    rows = write(reviews(4), rest, accept, store)
    assert len(rest.prompts) == 3  # four first draws and one second draw were in the store
    unbroken = Scripted(lambda i, prompt: f"text {prompt[-30:]}")
    assert write(reviews(4), unbroken, accept) == rows


def test_bad_input_is_refused():
    accept = lambda i, attempt, text: text  # noqa: E731
    with pytest.raises(DataError, match="key 'r0' occurs twice among the contexts"):
        write(reviews(1) * 2, Scripted(lambda i, p: "x"), accept)


def test_a_failed_draw_is_not_drawn_again_and_its_row_says_so(caplog):
    def rule(i, prompt):
        return {1: Failure("content_filter", "no"), 3: Failure("http-400", "bad")}.get(i, "fine")

    model = Scripted(rule)
    with caplog.at_level(logging.WARNING, logger="mop"):
        rows = write(reviews(4), model, lambda i, attempt, text: text, max_failed_share=0.5)
    assert [row.response for row in rows] == ["fine", "", "fine", ""]
    assert [row.finish_reason for row in rows] == ["stop", "refused", "stop", "failed"]
    assert [row.n_tokens for row in rows] == [1, 0, 1, 0]
    assert len(model.prompts) == 4
    assert (
        "m: 2 of 4 responses failed (content_filter, http-400); their rows say so, and nothing is drawn instead"
    ) in caplog.text


def test_more_failed_draws_than_allowed_stop_the_method_and_the_rest_is_kept():
    store = Store(":memory:")
    accept = lambda i, attempt, text: text  # noqa: E731
    faulty = Scripted(lambda i, prompt: Failure("http-400", "bad") if i == 1 else "fine")
    with pytest.raises(
        BackendError,
        match=r"scripted could not draw 1 of the 4 responses of m \(http-400\), and at most 0 may "
        r"fail; the first: bad; the others are kept; once the server answers as it should, run the same command",
    ):
        write(reviews(4), faulty, accept, store)
    sound = Scripted(lambda i, prompt: "fine")
    assert [row.response for row in write(reviews(4), sound, accept, store)] == ["fine"] * 4
    assert len(sound.prompts) == 1
    assert sound.requests[0].name == "context 'r1'"
