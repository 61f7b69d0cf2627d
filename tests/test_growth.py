"""The number of personas is recovered from tables whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest

from mop.candidates import folds
from mop.config import FitConfig
from mop.errors import ConfigError
from mop.growth import choose_personas, grow_and_prune
from mop.mixture import log_sum_exp
from planted import plant


def table(n_true, n_candidates, n=300, seed=0):
    """Each record comes from one of the first personas; the others say less."""
    rng = np.random.default_rng(seed)
    words = rng.dirichlet(np.full(12, 0.3), n_candidates)
    source = rng.integers(n_true, size=n)
    outcomes = np.stack([rng.choice(12, 4, p=words[k]) for k in source])
    return np.log(words + 1e-4)[:, outcomes].sum(axis=2).T


@pytest.mark.parametrize("n_true", [1, 3, 5])
def test_the_planted_number_of_personas_is_found(n_true):
    log_lik = table(n_true, 9)
    found = grow_and_prune(log_lik, folds(300, 4, 0), record_weight=np.ones(300))
    assert found.kept == tuple(range(n_true))


def test_a_persona_twice_is_kept_once():
    log_lik = table(3, 3)
    doubled = np.concatenate([log_lik, log_lik], axis=1)
    found = grow_and_prune(doubled, folds(300, 4, 0), record_weight=np.ones(300))
    assert sorted(k % 3 for k in found.kept) == [0, 1, 2]


def test_the_path_says_what_each_persona_was_worth():
    found = grow_and_prune(table(3, 6), folds(300, 4, 0), record_weight=np.ones(300))
    values = [row["valid"] for row in found.path]
    for row, before, after in zip(found.path[1:], values, values[1:], strict=False):
        assert row["gain"] == pytest.approx(abs(after - before))
        assert row["gain"] > row["standard_error"] or row["step"] == "prune"


def test_weights_count_as_repeated_records():
    log_lik = table(2, 5, n=100)
    weight = np.where(np.arange(100) % 2, 1e-9, 1.0)
    found = grow_and_prune(log_lik, folds(100, 4, 0), record_weight=weight)
    first = found.path[0]["persona"]
    assert first == int(np.argmax(log_lik[::2].mean(axis=0)))


def test_candidates_are_scored_under_the_same_exemplars_and_the_junk_is_left_out():
    planted = plant(
        n=300, n_train=200, n_personas=3, n_exemplars=4, strength=0.0, blocks=True, own=True
    )
    planted.logits[8:] = (
        -15.0 * np.eye(12)[0]
    )  # the third persona writes anything but the first word
    planted.outcomes[:] = np.random.default_rng(0).integers(8, size=300)
    settings = FitConfig(records_per_component=20)
    found = choose_personas(planted.problem, planted.score, settings, seed=0)
    assert sum(planted.calls) == 300 * 2 * 3
    assert len(found.path) >= 1
    assert np.isfinite(log_sum_exp(np.array([row["valid"] for row in found.path])))


def test_a_budget_that_does_not_pay_for_the_choice_is_refused_after_a_look():
    planted = plant(n=60, n_train=40, n_personas=3, n_exemplars=4)
    settings = FitConfig(records_per_component=20, max_lm_tokens=300)
    with pytest.raises(ConfigError, match="choosing among 3 personas takes about 360 tokens"):
        choose_personas(planted.problem, planted.score, settings, seed=0)
    assert sum(planted.calls) == 16
    enough = replace(settings, max_lm_tokens=800)
    found = choose_personas(planted.problem, planted.score, enough, seed=0)
    assert (found.n_cells, found.n_tokens) == (360, 360)
