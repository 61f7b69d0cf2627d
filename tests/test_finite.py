"""No figure is ever nan or infinite: data so few or so uniform that a record may have nobody to be compared with."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mop.config import FitConfig, resolve_config
from mop.errors import DataError, MopError
from mop.estimator import MixtureOfPersonas
from mop.pipeline import run
from mop.storage.files import read_json
from mop.types import Persona, Record

SMALL = FitConfig(components_per_record=1, valid_components=1, n_rounds=1)


def not_finite(value, place=""):
    """Where a value holds a number that is none."""
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, dict):
        return [found for name, one in value.items() for found in not_finite(one, f"{place}.{name}")]
    if isinstance(value, list | tuple):
        return [found for i, one in enumerate(value) for found in not_finite(one, f"{place}[{i}]")]
    return [place] if isinstance(value, float) and not math.isfinite(value) else []


def figures(model, records):
    mixture = model.mixture_
    drawn = model.sample(records[:3])
    return {
        "info": mixture.info,
        "temperatures": mixture.temperatures,
        "score_samples": model.score_samples(records),
        "score": model.score(records),
        "report": model.score_report(records),
        "persona": model.predict_proba(records),
        "explain": model.explain(records[0]),
        "drawn": [(row.temperature, row.log_pi, row.log_omega) for row in drawn],
    }


OPTIONS = [
    {},
    {"settings": SMALL},
    {"settings": SMALL, "n_exemplars": 2, "score_components": 2},
    {"settings": SMALL, "n_exemplars": 2, "personas": [Persona(key="p", description="x")]},
    {"settings": FitConfig(method="paper")},
]


@st.composite
def tiny(draw):
    n = draw(st.integers(4, 12))
    words = draw(st.sampled_from([["yes"], ["yes", "no"], ["a", "b", "c", "d", "e"], [f"text {i}" for i in range(12)]]))
    contexts = draw(st.sampled_from([["c"], ["c", "d"], [f"context {i}" for i in range(12)]]))
    weights = draw(st.sampled_from([[1.0], [1e100], [1e-100], [1e-100, 1e100], [1.0, 3.0]]))
    n_groups = draw(st.sampled_from([0, 0, 2, 5]))
    return [
        Record(
            key=f"r{i}", context=contexts[i % len(contexts)], response=words[i % len(words)],
            weight=weights[i % len(weights)], group=f"g{i % n_groups}" if n_groups else None,
        )
        for i in range(n)
    ]  # fmt: skip


@pytest.mark.trial("30-sklearn-protocol")
@given(records=tiny(), options=st.sampled_from(OPTIONS))
@settings(max_examples=25, deadline=None)
def test_a_tiny_population_has_finite_figures_or_is_refused(records, options):
    model = MixtureOfPersonas(lm="fake", encoder="fake", **options)
    try:
        model.fit(records)
        found = figures(model, records)
    except MopError:  # said, not guessed
        return
    assert not_finite(found) == []


@pytest.mark.trial("30-sklearn-protocol")
@pytest.mark.parametrize("n", [7, 8, 10, 24])
def test_answers_that_repeat_leave_nobody_without_a_component(n):
    records = [Record(key=f"r{i}", context="c", response=["yes", "no"][i % 2]) for i in range(n)]
    model = MixtureOfPersonas(lm="fake", encoder="fake", settings=SMALL).fit(records)
    assert not_finite(figures(model, records)) == []


@pytest.mark.advice
@pytest.mark.parametrize("weight", [1e308, 1e-308, math.inf, math.nan, 0.0])
def test_weights_beyond_what_sums_can_hold_are_refused_by_name(weight):
    records = [Record(key=f"r{i}", context="c", response=f"text {i}", weight=weight) for i in range(8)]
    with pytest.raises(DataError, match=r"the record 'r0' has the weight .*; divide all weights by the largest"):
        MixtureOfPersonas(lm="fake", encoder="fake").fit(records)
    if 0 < weight < math.inf:
        scaled = [Record(key=r.key, context="c", response=r.response, weight=r.weight / weight) for r in records]
        assert math.isfinite(MixtureOfPersonas(lm="fake", encoder="fake", settings=SMALL).fit(scaled).score(scaled))


@pytest.mark.advice
@pytest.mark.parametrize("advice", ["trim", "leave out"])
def test_weights_of_which_one_is_all_are_refused(advice):
    records = [Record(key=f"r{i}", context="c", response=f"text {i}", weight=[1.0, 1e12][i == 3]) for i in range(9)]
    with pytest.raises(DataError, match=r"from 1 \(record 'r0'\) to 1e\+12 \(record 'r3'\).*: trim the large ones, or"):
        MixtureOfPersonas(lm="fake", encoder="fake").fit(records)
    kept = [Record(key=r.key, context="c", response=r.response, weight=min(r.weight, 5.0)) for r in records]
    kept = kept if advice == "trim" else [*records[3:4], *(Record(key=f"q{i}", context="c", response=f"t{i}",
                                                                  weight=1e12) for i in range(8))]  # fmt: skip
    assert math.isfinite(MixtureOfPersonas(lm="fake", encoder="fake", settings=SMALL).fit(kept).score(kept))


@pytest.mark.parametrize("kind", ["distinct", "one context", "equal answers", "one group each", "extreme weights"])
def test_a_run_of_the_fewest_records_has_a_report(tmp_path, kind):
    rows = [
        {
            "context": "c" if kind == "one context" else f"context {i}",
            "response": ["yes", "no", "maybe"][i % 3] if kind == "equal answers" else f"a text {i}",
            "w": [1e-100, 1e-92][i % 2] if kind == "extreme weights" else 1,
            "g": f"g{i}",
        }
        for i in range(14)
    ]
    (tmp_path / "s.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assigned = [f'data.source="{tmp_path / "s.jsonl"}"', "data.duplicates=keep", "data.weight=w"]
    assigned += ["data.group=g"] if kind == "one group each" else []
    run(resolve_config(preset="quick", assignments=assigned), tmp_path / "run")
    for name in ("metrics.json", "evaluation.json"):
        assert not_finite(read_json(tmp_path / "run" / name)) == []
    assert "NaN" not in (tmp_path / "run" / "report.html").read_text()
