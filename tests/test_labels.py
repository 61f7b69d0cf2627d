"""Labels of contexts: as the mixture spells them, or refused with the nearest; same_label never lapses in silence."""

from dataclasses import replace

import numpy as np
import pytest

from conftest import reviews
from mop.config import SimulateConfig
from mop.data.labels import known_labels
from mop.errors import DataError
from mop.estimator import MixtureOfPersonas
from mop.simulate.draw import draw_agents, labels_of
from mop.types import Record


def asked(*labels):
    return [Record(key=f"c{i}", context="Verdict?", response="", label=label) for i, label in enumerate(labels)]


def test_blanks_around_labels_are_no_part_of_them():
    found = known_labels(asked(" pos", "neg ", None, "  "), ["pos", " neg"], where="c.csv", remedy="")
    assert [record.label for record in found] == ["pos", " neg", None, None]


def test_where_no_label_is_known_none_is_refused():
    assert known_labels(asked("x"), [], where="c.csv", remedy="") == asked("x")


def test_every_unknown_label_is_counted_with_the_nearest_known_one():
    with pytest.raises(DataError) as error:
        known_labels(
            asked("positive", "positive", "NEG", "pos", "ne", "b"), ["pos", "neg"], where="c.csv", remedy=", or not"
        )
    assert str(error.value) == (
        "5 of 6 records of c.csv have a label that the run never saw: 'positive' (2; did you mean 'pos'?), 'NEG' (1; "
        "did you mean 'neg'?), 'ne' (1; did you mean 'neg'?) and 1 more; its labels are 'pos', 'neg'; "
        "write them so, or not"
    )


def test_of_many_labels_twenty_are_named():
    with pytest.raises(DataError, match=r"its labels are 'l0', .*'l19', \.\.\.; write"):
        known_labels(asked("x"), [f"l{i}" for i in range(30)], where="c.csv", remedy="")


@pytest.fixture(scope="module")
def model():
    return MixtureOfPersonas(2, lm="fake", encoder="fake", n_exemplars=8).fit(reviews(40))


@pytest.mark.advice
def test_the_estimator_refuses_a_label_that_the_fit_never_saw(model):
    assert labels_of(model.mixture_) == ["bad", "good"]
    rows = [{"context": "Verdict?", "label": "goood", "town": "Ely"}]
    with pytest.raises(DataError, match=r"'goood' \(1; did you mean 'good'\?\); its labels are 'bad', 'good'"):
        model.sample(rows)
    [row] = model.sample([{**rows[0], "label": " good "}], same_label=True)
    assert (row.label, row.attributes) == ("good", {"town": "Ely"})
    assert len(model.sample(["Verdict?"])) == 1  # as it says: without labels


def test_same_label_says_for_how_many_contexts_it_does_not_hold(small_run, caplog):
    exemplars = [*small_run.fitted.exemplars]
    exemplars[0] = replace(exemplars[0], label="rare")
    fitted = replace(small_run.fitted, exemplars=tuple(exemplars))
    contexts = asked("good", "rare", None, "rare", "bad")
    hx = np.repeat(small_run.hx[:1], 5, axis=0)
    draw_agents(fitted, hx, contexts, SimulateConfig(same_label=True), seed=0)
    assert (
        "same_label: 3 of 5 contexts draw from all exemplars: 2 of 'rare', which fewer than two exemplars have, "
        "1 have no label"
    ) in caplog.text
    caplog.clear()
    draw_agents(fitted, hx[:1], contexts[:1], SimulateConfig(same_label=True), seed=0)
    assert "same_label" not in caplog.text
