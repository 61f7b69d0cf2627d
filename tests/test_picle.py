"""PICLe: which exemplars are picked and in which order; the prompted ratio against the fake model by hand."""

import math

import numpy as np
import pytest

from conftest import ingredients, reviews
from mop.backends.fake import FakeModel
from mop.errors import DataError
from mop.prompts import simulation_prompt
from mop.randomness import rng_of
from mop.rivals.picle import picle_agents, prompted_ratio
from mop.storage.store import Store
from mop.types import Record, ScoreRequest


def test_the_three_highest_ratios_of_the_label_are_shown_highest_last():
    exemplars = reviews(10)  # even rows good, odd rows bad
    ratio = np.array([0.1, 9, 0.5, 8, 0.3, 7, 0.4, -1, -2, -3], dtype=float)
    contexts = [Record(key=f"c{i}", context="?", response="-", label=label)
                for i, label in enumerate(["good", "bad", "good"])]  # fmt: skip
    agents = picle_agents(contexts, exemplars, ratio, tau=0.9)
    assert [agent.exemplars for agent in agents] == [(4, 6, 2), (5, 3, 1), (4, 6, 2)]
    assert {(agent.persona, agent.temperature) for agent in agents} == {(None, 0.9)}


def test_what_is_no_candidate_and_the_record_itself_are_not_shown():
    exemplars = reviews(10)
    ratio = np.array([5, 0, -np.inf, 0, 4, 0, 3, 0, 2, 0], dtype=float)
    (agent,) = picle_agents(exemplars[:1], exemplars, ratio, tau=1.0)
    assert agent.exemplars == (8, 6, 4)


def test_a_label_without_exemplars_is_refused():
    stranger = Record(key="c", context="?", response="-", label="mixed")
    with pytest.raises(DataError, match="no exemplar has the label 'mixed' of context 'c'"):
        picle_agents([stranger], reviews(4), np.zeros(4), tau=1.0)
    with pytest.raises(DataError, match=r"got \(3,\) ratios for 4 exemplars"):
        picle_agents([stranger], reviews(4), np.zeros(3), tau=1.0)


def ratio_of(exemplars, *settings, lm=None, store=None, **more):
    given = ingredients(lm or FakeModel(), *settings, exemplars=exemplars, store=store or Store(":memory:"))
    return prompted_ratio(given, **more)


def log_lik(prompt, text):
    """log p at τ = 1 from the definition of the fake model."""
    data = "".join(s.text for turn in prompt.turns for s in turn.segments if s.is_data)
    alphabet = "abcdefghijklmnopqrstuvwxyz .,!?'-"
    weight = {v: 1 + sum(c == v for c in data) for v in alphabet}
    other = 1 + sum(c not in alphabet for c in data)
    total = sum(weight.values()) + other
    end = total / 40
    z = total + end
    return sum(math.log(weight.get(c, other) / z) for c in text) + math.log(end / z)


def test_the_prompted_ratio_is_the_difference_of_two_log_likelihoods():
    exemplars = reviews(12)
    ratio = ratio_of(exemplars, "seed=7", "data.task=a review", n_shown=2)
    for label, rows in (("good", range(0, 12, 2)), ("bad", range(1, 12, 2))):
        drawn = rng_of(7, "picle-prompted", "shown", label).choice(6, 2, replace=False)
        shown = [list(rows)[int(i)] for i in drawn]
        for j in rows:
            if j in shown:
                assert ratio[j] == -math.inf
                continue
            x = exemplars[j]
            after = simulation_prompt(x.context, exemplars=[exemplars[i] for i in shown], task="a review")
            plain = simulation_prompt(x.context, task="a review")
            wanted = log_lik(after, x.response) - log_lik(plain, x.response)
            assert ratio[j] == pytest.approx(wanted, abs=2e-3)


def test_half_of_a_small_label_is_shown_and_scores_are_kept():
    store, calls = Store(":memory:"), []
    first = ratio_of(reviews(12), store=store)
    assert np.isinf(first).sum() == 6
    model = FakeModel(on_batch=calls.append)
    assert (ratio_of(reviews(12), lm=model, store=store) == first).all()
    assert calls == []
    assert store.spent()["prepare/picle-prompted"].calls == 12


def test_a_label_with_one_exemplar_is_refused():
    with pytest.raises(DataError, match="the label 'bad' has 1 exemplars"):
        ratio_of(reviews(4)[:2] + reviews(4)[2:3])


def test_the_fake_model_is_asked_the_way_the_test_thinks():
    prompt = simulation_prompt("x", task="a review")
    ((_, score),) = next(FakeModel(betas=[1.0]).score([ScoreRequest(prompt, "so dull")]))
    assert float(score.log_lik[0]) == pytest.approx(log_lik(prompt, "so dull"), rel=1e-5)
