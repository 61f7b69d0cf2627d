"""Figures of single texts: valid answers and their shares, labels as asked for, intervals that hold the truth."""

import numpy as np
import pytest

from mop.evaluate.quality import ClosedAnswers, share_interval, wrong_labels

OPTIONS = {"yes": "Yes", "no": "No", "not sure": "Not sure"}


def answers(p, n, rng):
    """Answers with shares p of the options and, last, of what is none."""
    return list(rng.choice([*OPTIONS, "banana"], size=n, p=p))


def test_total_variation_is_what_would_have_to_change():
    closed = ClosedAnswers(OPTIONS, ["Yes"] * 50 + ["No"] * 50, None)
    scores, _ = closed.scores("m", ["yes."] * 20 + ["no"] * 10 + ["", "Yes; No"], None)
    assert closed.found()["shares"]["m"] == pytest.approx([20 / 32, 10 / 32, 0, 2 / 32])
    assert scores["total_variation"] == pytest.approx((4 / 32 + 6 / 32 + 2 / 32) / 2)
    assert scores["valid_answers"] == pytest.approx(30 / 32)


def test_weights_count_people():
    closed = ClosedAnswers(OPTIONS, ["yes", "no"], [3.0, 1.0])
    scores, _ = closed.scores("m", ["yes", "no"], [3.0, 1.0])
    assert closed.shares.tolist() == [0.75, 0.25, 0, 0]
    assert scores["total_variation"] == 0


def test_intervals_of_total_variation_and_of_valid_answers_hold_the_truth():
    rng, real, ours = np.random.default_rng(0), [0.6, 0.3, 0.1, 0.0], [0.2, 0.3, 0.2, 0.3]
    truth, held, n = {"total_variation": 0.4, "valid_answers": 0.7}, {"total_variation": 0, "valid_answers": 0}, 300
    widths = []
    for _ in range(n):
        scores, _ = ClosedAnswers(OPTIONS, answers(real, 150, rng), None).scores("m", answers(ours, 80, rng), None)
        widths.append(np.ptp(scores["total_variation_interval"]))
        for name, value in truth.items():
            low, high = scores[f"{name}_interval"]
            held[name] += low <= value <= high
    assert all(0.91 * n <= count <= 0.99 * n for count in held.values()), held
    assert np.mean(widths) < 0.3


def test_a_share_of_none_has_an_interval_all_the_same():
    assert share_interval(0.0, 40)[1] == pytest.approx(0.0876, abs=1e-3)
    assert share_interval(1.0, 40)[0] == pytest.approx(1 - 0.0876, abs=1e-3)


def test_texts_of_the_wrong_label_are_counted_and_the_error_of_the_classifier_shows():
    rng = np.random.default_rng(1)
    centre = {"pos": 1.0, "neg": -1.0}

    def vectors(labels):
        return np.array([[centre[of], 0.0] for of in labels]) + 0.3 * rng.normal(size=(len(labels), 2))

    real, floor, meant = (rng.choice(["pos", "neg"], size=n) for n in (200, 100, 100))
    asked = [of if i % 4 else {"pos": "neg", "neg": "pos"}[of] for i, of in enumerate(meant)]
    found = wrong_labels(
        vectors(real), list(real), {"m": (vectors(meant), asked), "floor": (vectors(floor), list(floor))}
    )
    assert found["m"]["wrong_label"] == pytest.approx(0.25, abs=0.02)
    assert found["floor"]["wrong_label"] < 0.02
    assert sum(found["m"]["labels_found"].values()) == pytest.approx(1)
    low, high = found["m"]["wrong_label_interval"]
    assert low < 0.25 < high


@pytest.mark.parametrize("labels", [[None] * 4, ["a"] * 4])
def test_without_labels_nothing_is_wrong(labels):
    assert wrong_labels(np.zeros((4, 2)), labels, {"m": (np.zeros((2, 2)), ["a", "a"])}) == {}
