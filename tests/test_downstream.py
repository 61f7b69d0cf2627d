"""Macro-F1 by hand; a classifier that learns what is in the labels asked for; its edges."""

import numpy as np
import pytest

from conftest import reviews
from mop.backends.encoder import FakeEncoder
from mop.errors import ConfigError, DataError
from mop.evaluate.downstream import (
    Labelled,
    _resampled_f1,
    _retrained_errors,
    downstream_f1,
    fine_tuned_predictions,
    logistic_predictions,
    macro_f1,
)

GOOD, BAD = ["great fun", "a great joy", "good fun"], ["so dull", "dull and slow", "slow bore"]


def judge(texts, labels, **more):
    tests = reviews(32)
    test = Labelled([r.response for r in tests], [r.label for r in tests])
    return downstream_f1(Labelled(texts, labels), test, embed=FakeEncoder().encode, seed=0, **more)


def test_macro_f1_counts_each_label_alike():
    truth, predicted = ["a"] * 8 + ["b"] * 2, ["a"] * 7 + ["b"] * 2 + ["c"]
    assert macro_f1(truth, predicted) == pytest.approx((2 * 7 / 15 + 2 * 1 / 4) / 2)


def test_a_label_that_is_never_predicted_counts_as_zero():
    assert macro_f1(["a", "b"], ["a", "a"]) == pytest.approx((2 / 3 + 0) / 2)


def test_the_interval_of_a_perfect_classifier_is_one_however_rare_the_labels():
    truth = [f"label {i}" for i in range(20)] * 3
    assert set(_resampled_f1(truth, truth, 20, 0)) == {1.0}


def test_texts_that_fit_their_labels_teach_and_turned_labels_teach_the_opposite():
    right = judge(GOOD + BAD, ["good"] * 3 + ["bad"] * 3)
    wrong = judge(GOOD + BAD, ["bad"] * 3 + ["good"] * 3)
    assert right["f1"] > 0.8
    assert wrong["f1"] < 0.2
    low, high = right["f1_interval"]
    assert 0 <= low < right["f1"] <= high <= 1
    assert (right["n_train"], right["n_test"], right["classifier"]) == (6, 32, "logistic")


def covered(n_train, n_test, repeats):
    """Share of intervals that hold the mean F1 of fresh texts, labels a quarter wrong: of test records, and of both."""
    centres = np.random.default_rng(1).normal(size=(4, 20)) * 0.5

    def draw(rng, n, wrong):
        truth = rng.integers(4, size=n)
        labels = np.where(rng.random(n) < wrong, rng.integers(4, size=n), truth)
        return centres[truth] + rng.normal(size=(n, 20)), [str(label) for label in labels]

    f1s, sds = [], []
    for seed in range(repeats):
        rng = np.random.default_rng([2, seed])
        (vectors, labels), (tests, truth) = draw(rng, n_train, 0.25), draw(rng, n_test, 0.0)
        predicted = logistic_predictions(vectors, labels, tests)
        of_test = np.std(_resampled_f1(truth, predicted, 60, seed), ddof=1)
        sds.append((of_test, np.linalg.norm(_retrained_errors(vectors, labels, tests, truth, seed))))
        f1s.append(macro_f1(truth, predicted))
    off = np.abs(np.array(f1s) - np.mean(f1s))
    both = np.hypot(*np.array(sds).T)
    return np.mean(off <= 1.96 * np.array(sds)[:, 0]), np.mean(off <= 1.96 * both)


def test_the_interval_knows_that_other_texts_would_teach_otherwise():
    of_test, of_both = covered(60, 600, 30)
    assert of_test < 0.7
    assert of_both >= 0.87


@pytest.mark.slow
def test_the_interval_holds_the_mean_of_fresh_texts_as_often_as_it_says():
    of_test, of_both = covered(150, 500, 200)
    assert of_test < 0.85
    assert 0.92 <= of_both <= 0.995


def test_logistic_regression_finds_a_line():
    vectors = np.array([[0.0, 1.0], [0.2, 0.9], [1.0, 0.0], [0.9, 0.1]])
    tests = np.array([[0.1, 1.0], [1.0, 0.2]])
    assert logistic_predictions(vectors, ["a", "a", "b", "b"], tests) == ["a", "b"]


def test_a_resample_of_one_label_predicts_it():
    assert logistic_predictions(np.zeros((2, 2)), ["a", "a"], np.zeros((3, 2))) == ["a"] * 3


def test_empty_texts_are_left_out_and_one_label_is_predicted_for_all():
    found = judge(["fun", " ", "dull"], ["good", "bad", "good"])
    assert found["n_train"] == 2
    assert found["f1"] == pytest.approx((2 * 16 / (32 + 16) + 0) / 2)


def test_bad_input_is_refused():
    with pytest.raises(DataError, match="got 1 texts with 2 labels"):
        judge(["fun"], ["good", "bad"])
    with pytest.raises(DataError, match="there are 0 texts that are not empty"):
        judge([" "], ["good"])


@pytest.fixture(scope="module")
def tiny_classifier(tmp_path_factory):
    transformers = pytest.importorskip("transformers")
    path = tmp_path_factory.mktemp("bert")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "great", "fun", "good", "dull", "slow", "so"]
    (path / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(vocab=str(path / "vocab.txt")).save_pretrained(path)
    config = transformers.BertConfig(
        vocab_size=len(words), hidden_size=16, num_hidden_layers=1, num_attention_heads=2,
        intermediate_size=16, max_position_embeddings=64,
    )  # fmt: skip
    transformers.BertModel(config).save_pretrained(path)
    return str(path)


def test_a_fine_tuned_transformer_learns_and_repeats_itself(tiny_classifier):
    train = Labelled(["great fun good", "so dull slow"] * 12, ["good", "bad"] * 12)
    options = {"model": tiny_classifier, "seed": 0, "n_epochs": 30, "learning_rate": 0.02}
    first = fine_tuned_predictions(train, ["good fun", "so slow"], **options)
    assert first == ["good", "bad"]
    assert fine_tuned_predictions(train, ["good fun", "so slow"], **options) == first


def test_an_unknown_classifier_is_named(tmp_path):
    with pytest.raises(ConfigError, match="the classifier .* cannot be loaded"):
        judge(GOOD + BAD, ["good"] * 3 + ["bad"] * 3, classifier=str(tmp_path))


def test_a_classifier_with_another_number_of_labels_is_named(tiny_classifier, tmp_path):
    transformers = pytest.importorskip("transformers")
    kind = transformers.AutoModelForSequenceClassification
    kind.from_pretrained(tiny_classifier, num_labels=3).save_pretrained(tmp_path)
    transformers.AutoTokenizer.from_pretrained(tiny_classifier).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="the classifier .* cannot be loaded"):
        fine_tuned_predictions(Labelled(["a", "b"] * 9, ["x", "y"] * 9), ["a"], model=str(tmp_path), seed=0)
