"""The fit's benchmark: what it counts, what it compares, and that its tables survive interruption."""

import json

import numpy as np
import pytest

import fit_tables
from bench_fit import Case, Claim, CountedScores, Point, claims_of, settings_for, tokens_ratio, write_results
from mop.backends.encoder import FakeEncoder
from mop.backends.fake import FakeModel
from mop.config import FitConfig
from mop.mixture.fit import fit_rounds
from mop.mixture.fitted import uniform_mixture
from mop.storage.store import Store
from mop.types import Persona, Record
from planted import plant

N_TRAIN, N_TEST, K, N = 24, 12, 2, 3


def records(n, start=0):
    return [
        Record(key=f"r{i}", context=f"film {i % 3}", response=f"text {'ab'[i % 2]}{i}") for i in range(start, start + n)
    ]


@pytest.fixture
def material():
    return fit_tables.Material(
        "rotten",
        "a verdict",
        [Persona(key=f"p{k}", description=f"You are reader {k}.") for k in range(K)],
        records(N, 100),
        records(N_TRAIN),
        records(N_TEST, 50),
        [],
        [],
    )


@pytest.fixture
def truth(material):
    planted = plant(n=N_TRAIN + N_TEST, n_train=N_TRAIN, n_personas=K, n_exemplars=N, n_outcomes=5)
    n, problem = N_TRAIN + N_TEST, planted.problem
    return fit_tables.Truth(
        material,
        np.stack([[planted.curve(i, c) for c in range(K * N)] for i in range(n)]),
        np.arange(1, n + 1),
        problem.hx,
        problem.hg,
        problem.he,
        problem.betas,
        True,
    )


def test_a_cell_asked_for_twice_is_counted_once(truth):
    score = CountedScores(truth)
    rows = np.array([0, 0, 4])
    curves, tokens = score(rows, np.array([0, 1, 1]), np.array([2, 0, 1]))
    score(rows[:1], np.array([0]), np.array([2]))
    assert tokens == 1 + 1 + 5
    assert np.array_equal(curves, truth.curves[rows, [2, 3, 4]])
    assert score.spent() == (3, 1 + 1 + 5)
    assert score.spent(slice(0, 4)) == (2, 2)


@pytest.mark.parametrize("most", [2, 2.5, 3.84, 7.68, 14.4, 28.8, 96])
def test_no_fit_may_ask_for_more_than_its_share(most):
    settings = settings_for(most, 96)
    assert settings.n_rounds * settings.components_per_record <= most
    assert settings.n_rounds * settings.valid_components <= most


def test_a_share_that_is_less_than_a_round_of_all_records_is_a_budget_of_tokens():
    planted = plant(n=60, n_train=40, n_personas=4, n_exemplars=8, n_outcomes=5)
    curves = np.stack([[planted.curve(i, c) for c in range(32)] for i in range(60)])
    made = records(40), records(20, 50), records(8, 100)
    personas = [Persona(key=f"p{k}", description=f"You are reader {k}.") for k in range(4)]
    of = fit_tables.Material("rotten", "a verdict", personas, made[2], made[0], made[1], [], [])
    problem = planted.problem
    truth = fit_tables.Truth(of, curves, np.full(60, 10), problem.hx, problem.hg, problem.he, problem.betas, True)
    result, score = Case.of(truth).fit(0.05, 0)
    cells, tokens = score.spent()
    assert tokens == 10 * cells
    # 64 of 1,280 cells: two components of 32 records, and what it takes to see what a cell costs
    assert result.n_records == 32
    assert result.n_cells <= 64
    assert cells <= 64 + 16


def test_a_fit_on_the_whole_table_asks_for_every_cell_of_training_records_and_no_other(truth):
    case = Case.of(truth)
    result, score = case.fit(1.0, 0)
    assert score.asked[:N_TRAIN].all()
    assert not score.asked[N_TRAIN:].any()
    assert result.n_cells == N_TRAIN * K * N


def test_every_record_is_tested_once_in_turn(truth):
    case = Case.of(truth)
    turns = case.turns()
    assert len(turns) == 3
    assert turns[0] is case
    tested = np.concatenate([turn.test.n_tokens for turn in turns])
    assert sorted(tested.tolist()) == list(range(1, N_TRAIN + N_TEST + 1))
    for turn in turns:  # curves move with their records
        rows = turn.truth.n_tokens - 1
        assert np.array_equal(turn.truth.curves, truth.curves[rows])
        assert np.array_equal(turn.test.hx, truth.hx[rows][N_TRAIN:])


def test_a_held_out_value_is_the_full_sum_over_all_components(truth):
    case = Case.of(truth)
    settings = FitConfig(n_rounds=1, components_per_record=2, valid_components=2)
    result = fit_rounds(case.problem, CountedScores(truth), settings, seed=0)
    uniform = uniform_mixture(case.mixture(result.gate, 1.0))
    at_one = truth.betas.index(1.0)
    by_hand = np.log(np.exp(truth.curves[N_TRAIN:, :, at_one].astype(float)).mean(axis=1)).mean()
    assert case.value(uniform) == pytest.approx(by_hand, abs=1e-6)


def test_tokens_are_compared_where_ours_reaches_the_best_value_of_the_paper_for_good():
    paper = [Point(1, 100, -9.0), Point(2, 400, -7.0), Point(3, 900, -8.0)]
    ours = [Point(1, 10, -6.9), Point(2, 20, -7.5), Point(3, 40, -7.0), Point(4, 80, -6.0)]
    assert tokens_ratio(ours, paper) == 400 / 40
    assert tokens_ratio(ours[:2], paper) is None


def test_claims_say_that_a_table_is_partial():
    found = {
        "n_records": 240, "n_components": 8, "is_complete": False, "gain_full": 0.5,
        "gain_share": 0.9, "claimed_cells": 0.125, "tokens_vs_paper": None,
        "against_uniform": {"gain": 0.5, "gain_interval": [0.25, 0.75]},
        "against_unconditional": {"gain": 0.1, "gain_interval": [-0.1, 0.3]},
    }  # fmt: skip
    claims = claims_of("rotten", found)
    assert claims["gain_uniform_low_rotten"].value == 0.25
    assert claims["gain_unconditional_rotten"].note == "partial table; -0.100 to +0.300"
    assert claims["tokens_vs_paper_rotten"].note == "partial table; never reached"
    assert "12.5% of the cells of 240 records x 8 components" in claims["gain_share_rotten"].note


def test_results_keep_what_was_found_about_other_data_sets(tmp_path):
    path = tmp_path / "results" / "fit.json"
    write_results(path, {"gain_share_sst2": Claim(0.9, "ratio", "all")}, {"sst2": {}}, 1.0)
    write_results(path, {"gain_share_rotten": Claim(0.8, "ratio", "all")}, {"rotten": {}}, 2.0)
    document = json.loads(path.read_text(encoding="utf-8"))
    assert document["claims"]["gain_share_sst2"]["value"] == 0.9
    assert document["claims"]["gain_share_rotten"] == {
        "value": 0.8, "unit": "ratio", "against": "all", "note": "",
    }  # fmt: skip
    assert document["seconds"] == 2.0
    document["machine"] = "another"
    path.write_text(json.dumps({**document, "details": {"sst2": {}}}), encoding="utf-8")
    write_results(path, {"gain_share_rotten": Claim(0.8, "ratio", "all")}, {"rotten": {}}, 2.0)
    details = json.loads(path.read_text(encoding="utf-8"))["details"]
    assert details["sst2"]["made"]["machine"] == "another"
    assert details["rotten"]["made"]["machine"] not in (None, "another")


def test_a_table_is_read_as_far_as_its_personas_are_complete(material, tmp_path):
    scorer, encoder = FakeModel(), FakeEncoder()
    with Store(tmp_path / "store.sqlite") as store:
        third = Persona(key="p2", description="You are reader 2.")
        three = fit_tables.Material(**{**vars(material), "personas": [*material.personas, third]})
        assert fit_tables.read_truth(three, scorer, store, encoder) is None
        fit_tables.fill(three, scorer, store, most=2)
        assert store.counts()["score"] == (N_TRAIN + N_TEST) * 2 * N
        part = fit_tables.read_truth(three, scorer, store, encoder)
        assert part is not None
        assert not part.is_complete
        assert part.curves.shape[:2] == (N_TRAIN + N_TEST, 2 * N)
        fit_tables.fill(three, scorer, store)
        whole = fit_tables.read_truth(three, scorer, store, encoder)
        assert whole is not None
        assert whole.is_complete
        assert np.array_equal(whole.curves[:, : 2 * N], part.curves)


def test_exemplars_come_from_the_shorter_half_and_differ(tmp_path):
    pool = [Record(key=f"{i}", context=f"c{i % 4}", response="word " * (i + 1)) for i in range(40)]
    with Store(tmp_path / "store.sqlite") as store:
        chosen = fit_tables.different(pool, lambda record: len(record.response), FakeEncoder(), store)
    assert len({record.key for record in chosen}) == fit_tables.N_EXEMPLARS
    assert all(int(record.key) < 20 for record in chosen)
