"""The fit in rounds, on scores whose truth is planted."""

from dataclasses import replace

import numpy as np
import pytest

from conftest import reviews
from mop.config import FitConfig
from mop.errors import ConfigError
from mop.mixture.fit import fit_mixture, fit_rounds
from mop.mixture.headroom import fit_sentence
from mop.mixture.kernel import KernelGate
from planted import plant

FAST = FitConfig(
    n_rounds=2, components_per_record=9, records_per_component=40, valid_components=12, n_folds=2,
)  # fmt: skip


@pytest.fixture(scope="module")
def planted():
    return plant(n=500, n_train=400, blocks=True)


@pytest.fixture(scope="module")
def fitted(planted):
    return fit_rounds(planted.problem, planted.score, FAST, seed=0)


def test_planted_weights_are_recovered(planted, fitted):
    rows = np.arange(400, 500)
    truth = planted.log_lik(planted.gate, rows).mean()
    found = planted.log_lik(fitted.gate, rows).mean()
    plain = KernelGate.fixed(planted.problem.hg, planted.problem.he, fitted.uniform_tau)
    uniform = planted.log_lik(plain, rows).mean()
    assert fitted.chosen == "weights by context"
    assert truth - uniform > 0.1  # there is something to learn
    assert found - uniform > 0.5 * (truth - uniform)
    assert 0.3 < fitted.gain["mean"] < truth - uniform
    assert fitted.headroom["components"]["at_most"] > fitted.headroom["components"]["at_least"] > 0
    assert fit_sentence({"gain": fitted.gain}).startswith("The weights correct the pool: by context")


def test_whole_tables_have_a_certificate_about_all_components(fitted):
    assert fitted.certificate["n_components"] == fitted.certificate["n_all"] == 12
    assert fitted.certificate["bound"] < 0.2


def test_a_record_is_never_scored_with_itself():
    planted = plant(n=60, n_train=40, own=True)
    result = fit_rounds(planted.problem, planted.score, replace(FAST), seed=0)  # score() asserts it
    assert result.n_cells == sum(planted.calls)


def test_without_signal_validation_does_not_choose_worse_than_uniform():
    planted = plant(n=120, n_train=60, strength=0.0, seed=2)
    result = fit_rounds(planted.problem, planted.score, FAST, seed=0)
    assert result.history[-1]["valid"] >= result.history[-1]["valid_uniform"]


def test_with_one_node_temperatures_stay():
    planted = plant(n=60, n_train=40)
    one = replace(planted.problem, betas=(1.0,))
    at_one = list(planted.problem.betas).index(1.0)

    def score(i, k, j):
        return planted.score(i, k, j)[0][:, [at_one]], 0

    result = fit_rounds(one, score, FAST, seed=0)
    assert result.gate.temperatures().tolist() == pytest.approx([1, 1, 1])


class InterruptedFitError(Exception):
    """Stands for a killed process."""


class Kept:
    """Scores that survive an interruption, as a store's do."""

    def __init__(self, planted):
        self.planted, self.cells, self.rounds_left = planted, {}, 99

    def score(self, record, persona, exemplar):
        if self.rounds_left == 0:
            raise InterruptedFitError
        self.rounds_left -= 1
        curves = []
        for key in zip(record.tolist(), persona.tolist(), exemplar.tolist(), strict=True):
            if key not in self.cells:
                self.cells[key] = self.planted.curve(key[0], key[1] * 4 + key[2])
            curves.append(self.cells[key])
        return np.stack(curves), len(curves)


def same(first, second):
    state, other = vars(first.gate), vars(second.gate)
    plain = all(
        np.array_equal(state[name], other[name])
        for name in ("persona", "exemplar", "log_tau", "anchors", "record_weight", "prior", "slope")
    )
    counts = (vars(state[name]) for name in ("of_persona", "of_exemplar"))
    others = (vars(other[name]) for name in ("of_persona", "of_exemplar"))
    return plain and all(np.array_equal(a[name], b[name]) for a, b in zip(counts, others, strict=True) for name in a)


@pytest.mark.parametrize("budget", [0, 1500])
def test_a_fit_resumed_after_round_1_equals_an_unbroken_one(budget, monkeypatch):
    monkeypatch.setattr("mop.mixture.fit.MIN_GAIN", 0.0)
    planted = plant(n=120, n_train=80)
    settings = replace(FAST, n_rounds=3, components_per_record=4, max_lm_tokens=budget)
    unbroken = fit_rounds(planted.problem, Kept(planted).score, settings, seed=0)
    kept = Kept(planted)
    kept.rounds_left = 1
    with pytest.raises(InterruptedFitError):
        fit_rounds(planted.problem, kept.score, settings, seed=0)
    kept.rounds_left = 99
    resumed = fit_rounds(planted.problem, kept.score, settings, seed=0)
    assert same(unbroken, resumed)
    assert resumed.history == unbroken.history
    assert resumed.certificate == unbroken.certificate


def test_rounds_end_when_they_no_longer_pay(monkeypatch):
    monkeypatch.setattr("mop.mixture.fit.MIN_GAIN", 0.5)
    planted = plant(n=120, n_train=80, strength=0.0)
    result = fit_rounds(planted.problem, planted.score, replace(FAST, n_rounds=5), seed=0)
    assert len(result.history) == 2
    assert "nats per record, below 0.5" in result.stopped
    assert result.history[-1]["stopped"] == result.stopped
    assert result.history[-1]["gain"] < 0.5


def test_rounds_end_at_their_number_at_the_most():
    planted = plant(n=60, n_train=40)
    result = fit_rounds(planted.problem, planted.score, replace(FAST, n_rounds=1), seed=0)
    assert result.stopped == "n_rounds 1 are done"


@pytest.mark.parametrize("budget", [700, 1300])
def test_a_token_budget_is_kept(budget):
    planted = plant(n=120, n_train=80)  # a cell costs one token here
    settings = replace(FAST, n_rounds=9, components_per_record=5, valid_components=5,
                       max_lm_tokens=budget)  # fmt: skip
    result = fit_rounds(planted.problem, planted.score, settings, seed=0)
    assert result.n_tokens <= budget
    assert "max_lm_tokens" in result.stopped or "below 0.02" in result.stopped


def test_a_budget_that_pays_for_nothing_is_refused():
    planted = plant(n=120, n_train=80)
    with pytest.raises(
        ConfigError, match=r"fit.max_lm_tokens is 30, and 2 components of 16 records take about 32 tokens"
    ):
        fit_rounds(planted.problem, planted.score, replace(FAST, max_lm_tokens=30), seed=0)


def test_a_small_budget_leaves_records_out_rather_than_components(caplog):
    planted = plant(n=120, n_train=80)
    scored = []

    def score(record, persona, exemplar):
        scored.append(record)
        return planted.score(record, persona, exemplar)

    result = fit_rounds(planted.problem, score, replace(FAST, max_lm_tokens=100), seed=0)
    assert "scores of 50 of 120 records" in caplog.text
    assert result.n_tokens <= 100
    rows = np.unique(np.concatenate(scored[1:]))
    assert (len(rows), int((rows < 80).sum()), result.n_records) == (50, 33, 50)


def test_records_that_are_left_out_make_no_difference():
    """The fit to the others alone, numbered anew, is the same."""
    planted = plant(n=120, n_train=80)
    asked = []

    def score(record, persona, exemplar):
        asked.append(record)
        return planted.score(record, persona, exemplar)

    result = fit_rounds(planted.problem, score, replace(FAST, max_lm_tokens=100), seed=0)
    rows, each = np.unique(np.concatenate(asked[1:])), result.n_cells // 50
    few = replace(FAST, n_rounds=1, components_per_record=each, valid_components=each)
    alone = fit_rounds(planted.problem.of(rows), lambda i, k, j: planted.score(rows[i], k, j), few, seed=0)
    assert result.n_cells == alone.n_cells
    assert result.history[0]["valid"] == alone.history[0]["valid"]
    assert (result.gate.persona == alone.gate.persona).all()


def test_a_round_that_makes_things_worse_is_not_kept():
    """Later scores are noise: the state of the first round stays."""
    planted = plant(n=120, n_train=80, blocks=True)
    rng = np.random.default_rng(0)

    def score(record, persona, exemplar):
        curves, tokens = planted.score(record, persona, exemplar)
        if len(planted.calls) > 1:
            curves = curves + rng.normal(0, 30, (len(curves), 1)).astype(np.float32)
        return curves, tokens

    settings = replace(FAST, components_per_record=3, valid_components=3, n_rounds=2)
    result = fit_rounds(planted.problem, score, settings, seed=0)
    assert result.history[1]["kept_round"] == (1 if result.history[1]["gain"] >= 0 else 0)


class Refusing:
    """A fake model that must not be asked."""

    def __init__(self, lm):
        self.name, self.score_identity, self.betas = lm.name, lm.score_identity, lm.betas

    def score(self, requests):
        raise AssertionError(f"asked for {len(requests)} scores that the store holds")


def test_a_refit_from_the_store_asks_the_model_for_nothing():
    from mop.backends.encoder import FakeEncoder
    from mop.backends.fake import FakeModel
    from mop.storage.store import Store
    from mop.types import Persona

    records, store, lm = reviews(40), Store(":memory:"), FakeModel()
    personas = [Persona(key=f"p{k}", description=f"You like {k} films.") for k in range(3)]

    def fit(scorer):
        return fit_mixture(
            personas, records[:6], records[6:26], records[26:], encoder=FakeEncoder(), scorer=scorer,
            store=store, task="a review", seed=0,
            settings=FitConfig(n_rounds=2, components_per_record=4, valid_components=4),
        )  # fmt: skip

    first, again = fit(lm), fit(Refusing(lm))
    assert again.info == first.info
    assert same(again, first)
    assert first.info["pool"]["n_pool"] == 6
    assert first.info["gain"]["kind"] in ("uniform", "unconditional", "context")


def test_a_budget_is_kept_where_few_texts_are_very_long():
    """One record in 25 costs a thousand times as much: a mean over some records would be wrong by far."""
    planted = plant(n=100, n_train=75)
    size = np.where(np.arange(100) % 25 == 7, 1000.0, 1.0)
    problem = replace(planted.problem, characters=size - 1.0)

    def score(record, persona, exemplar):
        return planted.score(record, persona, exemplar)[0], int(size[record].sum())

    settings = replace(FAST, components_per_record=9, n_rounds=3)
    for seed in range(3):  # records are left out where the budget is small, others for each seed
        for budget in (3_000, 5_000, 40_000):
            within = replace(settings, max_lm_tokens=budget)
            result = fit_rounds(problem, score, within, seed=seed)
            assert 0.3 * budget < result.n_tokens <= budget
