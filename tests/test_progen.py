"""ProGen: influence against leaving each text out, which texts become examples, rounds, overlap, resume."""

from collections import Counter

import numpy as np
import pytest

from conftest import ingredients, reviews
from mop.backends.base import Failure
from mop.backends.fake import FakeModel
from mop.errors import BackendError, DataError
from mop.rivals.progen import (
    FEEDBACK_BATCH,
    choose_pool,
    deal_rounds,
    draw_examples,
    draw_feedback,
    influence,
    probabilities,
    progen,
    repeats,
    train_softmax,
    with_one,
)
from mop.storage.store import Store
from mop.types import Record
from scripted import Scripted


def clouds(seed, n, n_labels, d=3):
    rng = np.random.default_rng(seed)
    labels = rng.integers(n_labels, size=n)
    x = rng.normal(size=(n, d)) + 1.2 * np.eye(n_labels, d)[labels]
    wrong = rng.random(n) < 0.15  # texts whose label is not what was asked for
    labels[wrong] = rng.integers(n_labels, size=int(wrong.sum()))
    return x, labels


@pytest.mark.parametrize("n_labels", [2, 3])
def test_influence_is_what_leaving_each_text_out_does_to_the_validation_loss(n_labels):
    x, y = clouds(0, 120, n_labels)
    v, w = clouds(1, 40, n_labels)
    decay = 0.05

    def valid_loss(rows):
        weights = train_softmax(x[rows], y[rows], n_labels=n_labels, weight_decay=decay)
        # Reverse cross-entropy, written out: q is the softmax of the one-hot label.
        log_q = np.log(np.exp(np.eye(n_labels)) / np.exp(np.eye(n_labels)).sum(axis=1)[:, None])
        loss = -(probabilities(with_one(v), weights) * log_q[w]).sum(axis=1).mean()
        return loss + decay / 2 * (weights[:-1] ** 2).sum()

    everyone = np.arange(120)
    whole = valid_loss(everyone)
    left_out = np.array([valid_loss(everyone[everyone != z]) - whole for z in everyone])
    scores = influence(x, y, v, w, n_labels=n_labels, weight_decay=decay, damping=1e-8)
    predicted = -scores / 120
    assert np.corrcoef(predicted, left_out)[0, 1] > 0.99
    assert np.abs(predicted - left_out).max() < 0.15 * np.abs(left_out).max()


def test_training_reaches_the_point_where_the_slope_is_zero():
    x, y = clouds(2, 40, 2)
    weights = train_softmax(x, y, n_labels=2, weight_decay=0.1)
    p = probabilities(with_one(x), weights)
    slope = with_one(x).T @ (p - np.eye(2)[y]) / 40
    slope[:-1] += 0.1 * weights[:-1]
    assert np.abs(slope).max() < 1e-6


def test_the_pool_holds_helpful_texts_of_each_label_and_none_that_validates():
    x, y = clouds(3, 60, 2)
    labels = [["bad", "good"][c] for c in y]
    valid = set(range(10))
    pool = choose_pool(range(60), x, labels, valid)
    scores = influence(x[10:], y[10:], x[:10], y[:10], n_labels=2)
    for label, rows in pool.items():
        wanted = sorted(
            (i for i in range(10, 60) if labels[i] == label and scores[i - 10] < 0), key=lambda i: scores[i - 10]
        )
        assert rows == wanted[:50]
    assert set(pool) == {"bad", "good"}


def test_one_label_or_no_validation_gives_no_pool():
    x, _ = clouds(3, 10, 2)
    assert choose_pool(range(10), x, ["a"] * 10, {1}) == {}
    assert choose_pool(range(10), x, ["a", "b"] * 5, set()) == {}


def test_rounds_have_equal_shares_of_every_label():
    labels = ["a"] * 10 + ["b"] * 10
    rounds = deal_rounds(labels, 5)
    assert sorted(row for rows in rounds for row in rows) == list(range(20))
    assert all(Counter(labels[i] for i in rows) == {"a": 2, "b": 2} for rows in rounds)


def test_half_of_the_batches_get_examples_and_a_batch_is_decided_at_once():
    decided = draw_feedback(["a"] * 3200 + ["b"] * 3200, 1, seed=0, method="progen")
    batches = np.array(decided).reshape(-1, FEEDBACK_BATCH)
    assert np.isin(batches.mean(axis=1), [0, 1]).all()
    assert 70 < batches[:, 0].sum() < 130  # 100 expected of 200, sd 7
    assert not any(draw_feedback(["a"] * 99, 0, seed=0, method="progen"))


def test_examples_are_drawn_without_replacement():
    drawn = draw_examples(range(20, 40), "r1", 0, seed=0, method="progen")
    assert len(set(drawn)) == 8
    assert set(drawn) <= set(range(20, 40))
    assert sorted(draw_examples([5, 7], "r1", 0, seed=0, method="progen")) == [5, 7]
    assert draw_examples([], "r1", 0, seed=0, method="progen") == []


@pytest.mark.parametrize(
    ("text", "is_repeat"),
    [("one two three four five six seven eight nine more", True),
     ("one two three four five six seven eight more", False), ("", False)],
)  # fmt: skip
def test_nine_of_ten_words_of_an_example_are_too_many(text, is_repeat):
    assert repeats(text, ["One, two; three four five six seven eight nine TEN!"]) is is_repeat


def run(contexts, model, *settings, store=None):
    given = ingredients(model, "data.task=a film review", *settings, store=store or Store(":memory:"), seed=2)
    return progen(contexts, given)


def test_later_rounds_show_texts_of_the_same_label_without_naming_it():
    words = {"good": ["fun", "joy", "warm", "great"], "bad": ["dull", "bore", "slow", "noise"]}

    def rule(i, prompt):
        label = "good" if prompt.rstrip().endswith("good.") else "bad"
        some = words[label]
        return f"{some[i % 4]} {some[(i // 4) % 4]} number{i}."

    model = Scripted(rule)
    rows = run(reviews(400), model)
    shown = [p for p in model.prompts if "Example:\n" in p]
    assert not any("Example:\n" in p for p in model.prompts[:80])
    assert shown
    for prompt in shown:
        examples = [part.split("\n")[0] for part in prompt.split("Example:\n")[1:]]
        label = "good" if prompt.rstrip().endswith("good.") else "bad"
        assert len(examples) == 8
        assert all(text.split()[0] in words[label] for text in examples)
    assert Counter(row.label for row in rows) == {"good": 200, "bad": 200}


def test_a_text_that_repeats_its_example_is_drawn_again():
    def rule(i, prompt):
        if "Example:\n" in prompt and i % 2 == 0:
            return prompt.split("Example:\n")[1].split("\n")[0]
        return f"word{i} word{i + 1000}."

    model = Scripted(rule)
    rows = run(reviews(200), model)
    assert len(model.prompts) > 200
    assert len({row.response for row in rows}) == 200


def test_films_are_named_over_their_examples():
    def rule(i, prompt):
        if prompt.startswith("Name one film"):
            return f"Film{i}"
        return f"{'fun' if 'positive' in prompt else 'dull'} thing{i}."

    contexts = [
        Record(key=f"k{i}", context="x", response="y", label=["positive", "negative"][i % 2]) for i in range(160)
    ]
    model = Scripted(rule)
    run(contexts, model, "compare.domain=films")
    shown = [p for p in model.prompts if "A review of the film Film" in p]
    assert shown
    assert all("sentiment" not in p.split("Write a review")[0] for p in shown)


def test_a_second_call_draws_nothing_and_gives_the_same_rows():
    store, calls = Store(":memory:"), []
    first = run(reviews(24), FakeModel(), store=store)
    again = run(reviews(24), FakeModel(on_batch=calls.append), store=store)
    assert again == first
    assert calls == []


def test_contexts_without_labels_are_refused():
    with pytest.raises(DataError, match="1 of 1 contexts have no label"):
        run([Record(key="a", context="x", response="y")], FakeModel())


def test_failed_draws_are_counted_over_all_rounds():
    def rule(i, prompt):
        return Failure("refusal", "no") if i in (2, 11) else f"word{i} and thing{i}."

    rows = run(reviews(12), Scripted(rule), "remote.max_failed_share=0.17")  # 2 of 12; a round has 2 or 4
    assert sorted(row.finish_reason for row in rows) == ["refused"] * 2 + ["stop"] * 10
    with pytest.raises(BackendError, match=r"could not draw 2 of the 12 responses of progen"):
        run(reviews(12), Scripted(rule), "remote.max_failed_share=0.1")
