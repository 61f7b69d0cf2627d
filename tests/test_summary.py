"""A fitted mixture in one table, without asking a model."""

import pytest

from mop.mixture.fitted import with_persona_weights
from mop.report.summary import summary_of


def test_personas_with_weight_temperature_and_examples_the_heaviest_first(small_run):
    fitted = small_run.fitted
    rows = summary_of(fitted)
    assert [row["weight"] for row in rows] == sorted((row["weight"] for row in rows), reverse=True)
    assert sum(row["weight"] for row in rows) == pytest.approx(1)
    assert {row["persona"] for row in rows} == {persona.key for persona in fitted.personas}
    known = {record.response for record in fitted.exemplars}
    for row in rows:
        assert 1 <= len(row["examples"]) <= 2
        assert set(row["examples"]) <= known
        assert row["temperature"] > 0
        if row["weight_low"] is not None:
            assert row["weight_low"] <= row["weight"] <= row["weight_high"]
    assert len(summary_of(fitted, n_examples=1)[0]["examples"]) == 1


def test_weights_are_those_of_the_mixture(small_run):
    k = len(small_run.fitted.personas)
    weights = [0.7, *[0.3 / (k - 1)] * (k - 1)]
    rows = summary_of(with_persona_weights(small_run.fitted, weights))
    assert rows[0]["persona"] == small_run.fitted.personas[0].key
    assert rows[0]["weight"] == pytest.approx(0.7)
