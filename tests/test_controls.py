"""Controls: who is drawn, how likely, and never the record itself."""

import math
from collections import Counter

import numpy as np
import pytest

from conftest import reviews
from mop.errors import ConfigError
from mop.rivals.controls import few_shot_agents, persona_only_agents


def test_one_exemplar_is_drawn_uniformly_and_never_the_record_itself():
    records = reviews(600)
    own = np.array([i % 4 for i in range(600)])
    agents = few_shot_agents(records, own, 4, tau=1.0, seed=5)
    assert all(a.exemplars[0] != mine for a, mine in zip(agents, own, strict=True))
    counts = Counter(a.exemplars[0] for a in agents)
    assert all(100 < counts[j] < 200 for j in range(4))  # 150 expected, sd 11
    assert agents[0].log_omega == pytest.approx(math.log(1 / 3))


def test_three_exemplars_are_different_and_their_ordered_draw_has_its_probability():
    agents = few_shot_agents(reviews(50), np.full(50, -1), 5, tau=1.0, seed=0, n_shots=3, method="few-shot-3")
    assert all(len(set(a.exemplars)) == 3 for a in agents)
    assert agents[0].log_omega == pytest.approx(math.log(1 / 5 / 4 / 3))


def test_a_draw_depends_on_the_key_alone():
    records = reviews(20)
    own = np.full(20, -1)
    whole = few_shot_agents(records, own, 9, tau=1.0, seed=1)
    alone = few_shot_agents(records[7:8], own[7:8], 9, tau=1.0, seed=1)
    assert alone == whole[7:8]


def test_more_exemplars_than_there_are_is_an_error():
    with pytest.raises(ConfigError, match="few-shot-3 shows 3 exemplars and may choose from 2"):
        few_shot_agents(reviews(1), np.array([0]), 3, tau=1.0, seed=0, n_shots=3, method="few-shot-3")


def test_persona_only_draws_personas_uniformly():
    agents = persona_only_agents(reviews(400), 4, tau=1.0, seed=0)
    counts = Counter(a.persona for a in agents)
    assert all(60 < counts[k] < 140 for k in range(4))
    assert agents[0].exemplars == ()
    assert agents[0].log_pi == pytest.approx(math.log(0.25))
