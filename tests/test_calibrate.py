"""Weights on draws: exact where the truth is planted, the same in any order, honest where they cannot be."""

import numpy as np
import pytest

from conftest import quick_run
from mop.cli import OK, USAGE, main
from mop.errors import ConfigError, DataError
from mop.randomness import rng_of
from mop.runs.calibrate import Target, calibrate, read_target
from mop.simulate.calibrate import (
    coverage,
    density_ratio,
    effective_size,
    inclusion,
    pick,
)
from mop.simulate.rows import read_responses


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return quick_run(tmp_path_factory.mktemp("calibrate"), "fit")


def clouds(n=3000, m=1500, shift=1.0, dim=6, seed=0):
    rng = rng_of(seed, "clouds")
    drawn, real = rng.normal(size=(n, dim)), rng.normal(size=(m, dim))
    real[:, 0] += shift
    return drawn, real


def keys(n, kind=""):
    return [f"{kind}{i}" for i in range(n)]


def ratio(drawn, real, **more):
    return density_ratio(drawn, real, drawn_keys=keys(len(drawn)), real_keys=keys(len(real)), **more)


def test_the_ratio_of_two_normal_clouds_is_found():
    drawn, real = clouds()
    found = ratio(drawn, real)
    truth = np.exp(drawn[:, 0] - 0.5)
    assert np.corrcoef(np.log(found.weight), drawn[:, 0])[0, 1] > 0.99
    assert np.abs(np.log(found.weight / truth)).mean() < 0.15
    share = found.weight / found.weight.sum()
    assert share @ drawn[:, 0] == pytest.approx(1.0, abs=0.1)
    assert np.abs(share @ drawn[:, 1:]).max() < 0.1
    assert effective_size(found.weight) == pytest.approx(effective_size(truth), rel=0.15)


def test_nothing_changes_where_draws_are_real():
    drawn, real = clouds(shift=0.0)
    found = ratio(drawn, real)
    assert effective_size(found.weight) > 0.97 * len(drawn)
    assert found.log_loss == pytest.approx(np.log(2), abs=0.003)


def test_the_order_of_texts_makes_no_difference():
    drawn, real = clouds(600, 300)
    there, back = rng_of(1, "order").permutation(600), rng_of(2, "order").permutation(300)
    one = ratio(drawn, real)
    names, of_real = np.array(keys(600))[there], np.array(keys(300))[back]
    two = density_ratio(drawn[there], real[back], drawn_keys=list(names), real_keys=list(of_real))
    assert two.weight == pytest.approx(one.weight[there], rel=1e-3)
    assert two.exponent == pytest.approx(one.exponent, abs=1e-3)


def test_within_groups_weights_match_and_groups_keep_their_shares():
    drawn, real = clouds(2000, 1000, shift=0.0)
    of_drawn = ["a" if i % 4 else "b" for i in range(2000)]
    of_real = ["a" if i % 2 else "b" for i in range(1000)]  # other shares, which are not to be copied
    real[np.array(of_real) == "b", 1] += 1.0
    drawn[np.array(of_drawn) == "b", 2] += 3.0  # groups are unlike one another
    real[np.array(of_real) == "b", 2] += 3.0
    found = ratio(drawn, real, drawn_groups=of_drawn, real_groups=of_real)
    is_b = np.array(of_drawn) == "b"
    assert found.weight[is_b].mean() == pytest.approx(1.0)
    assert found.weight[~is_b].mean() == pytest.approx(1.0)
    assert found.unmatched == 0


def test_draws_of_a_group_that_is_not_real_keep_their_weight():
    drawn, real = clouds(400, 200)
    found = ratio(drawn, real, drawn_groups=["x"] * 40 + ["a"] * 360, real_groups=["a"] * 200)
    assert found.unmatched == 40
    assert (found.weight[:40] == 1.0).all()
    assert effective_size(found.weight[40:]) < 300


def test_weights_of_real_texts_count():
    drawn, real = clouds(2000, 1000, shift=0.0)
    weight = np.exp(0.8 * real[:, 3])
    found = ratio(drawn, real, real_weight=weight)
    assert found.weight @ drawn[:, 3] / found.weight.sum() == pytest.approx(
        weight @ real[:, 3] / weight.sum(), abs=0.12
    )


def test_a_target_out_of_reach_is_not_met_by_three_texts():
    drawn, real = clouds(500, 200, shift=25.0)
    found = ratio(drawn, real)
    assert effective_size(found.weight) >= 0.05 * 500 - 1e-6
    assert coverage(drawn, real) == 0.0


def test_coverage_of_the_same_population_is_whole():
    drawn, real = clouds(1000, 500, shift=0.0)
    assert coverage(drawn, real) > 0.95
    assert 0.3 < coverage(drawn[drawn[:, 0] > 0], real) < 0.9


def test_features_must_be_finite_and_agree():
    drawn, real = clouds(20, 20)
    with pytest.raises(DataError, match="the same features, got shapes"):
        ratio(drawn, real[:, :3])
    drawn[3, 2] = np.nan
    with pytest.raises(DataError, match="feature 2 of text 3 is nan"):
        ratio(drawn, real)
    with pytest.raises(DataError, match="needs 5 draws and as many real texts, got 20 and 4"):
        ratio(*clouds(20, 4))


def test_n_texts_are_picked_once_each_in_proportion():
    weight = np.array([0.0, 1.0, 2.0, 3.0, 4.0, 40.0])
    counts = np.zeros(6)
    for seed in range(4000):
        rows = pick(weight, 3, keys=keys(6), seed=seed)
        assert len(set(rows)) == 3
        counts[rows] += 1
    assert counts / 4000 == pytest.approx(inclusion(weight, 3), abs=0.03)
    assert inclusion(weight, 3) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert pick(weight, 3, keys=keys(6), seed=1) == pick(weight, 3, keys=keys(6), seed=1)
    with pytest.raises(DataError, match="6 texts were asked for, and only 5 of 6 draws have any weight"):
        pick(weight, 6, keys=keys(6))


def test_strata_keep_their_shares():
    rng = rng_of(5, "strata")
    strata = rng.choice(["a", "b", "c"], 500, p=[0.2, 0.3, 0.5])
    weight = rng.uniform(0.1, 3, 500)
    rows = pick(weight, 100, keys=keys(500), strata=strata.tolist())
    for name in "abc":
        assert (strata[rows] == name).sum() == pytest.approx(
            100 * weight[strata == name].sum() / weight.sum(), abs=1.01
        )


def test_of_more_draws_as_many_as_wanted_are_picked_and_again_the_same(finished, tmp_path):
    config, path = finished
    told = calibrate(config, path, tmp_path / "a.jsonl", n=12, factor=5)
    rows = list(read_responses(tmp_path / "a.jsonl"))
    assert len({row.id for row in rows}) == told["n_responses"] == 12
    assert told["n_drawn"] == 60
    assert all(row.response.strip() and row.persona and row.exemplar for row in rows)
    assert 0 < told["effective_share"] <= 1
    assert {"coverage", "log_loss", "exponent", "divergence", "largest", "energy", "energy_raw"} <= set(told)
    calibrate(config, path, tmp_path / "b.jsonl", n=12, factor=5)
    assert (tmp_path / "a.jsonl").read_bytes() == (tmp_path / "b.jsonl").read_bytes()


def test_margins_are_met_by_the_weights_of_all_draws(finished, tmp_path):
    config, path = finished
    wanted = {"persona": {"p000": 0.5, "p001": 0.2, "p002": 0.3}}
    calibrate(config, path, tmp_path / "a.jsonl", n=15, target=Target(margins=wanted), keep_all=True)
    rows = list(read_responses(tmp_path / "a.jsonl"))
    assert len(rows) == 60
    weight = np.array([row.weight for row in rows])
    for name, share in wanted["persona"].items():
        assert weight[[row.persona == name for row in rows]].sum() / weight.sum() == pytest.approx(share, abs=1e-6)


def test_the_command_says_what_weights_cost_and_gain(finished, tmp_path, capsys):
    _, path = finished
    (tmp_path / "m.toml").write_text("[persona]\np000 = 0.6\np001 = 0.4\n")
    command = [
        "calibrate",
        str(path),
        "-n",
        "8",
        "--out",
        str(tmp_path / "a.csv"),
        "--margins",
        str(tmp_path / "m.toml"),
    ]
    assert main(command) == OK
    out = capsys.readouterr().out
    assert "a.csv: 8 of 32 texts" in out
    assert "weights: an effective " in out
    assert "golden texts, which the weights have not seen: " in out
    assert {row.persona for row in read_responses(tmp_path / "a.csv")} == {"p000", "p001"}
    (tmp_path / "m.toml").write_text("[sex]\nf = 0.6\n")
    assert main(command) != OK
    assert "the texts have no column 'sex', which has a margin" in capsys.readouterr().err
    assert main([*command, "--draws", "1"]) == USAGE


@pytest.mark.parametrize("text", ["", "label = 3", "[label]\nneg = 'x'", "[label", "[label]\n"])
def test_margins_that_are_none_are_refused(finished, tmp_path, text):
    config, _ = finished
    (tmp_path / "m.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"write a table for each column"):
        read_target(config, None, tmp_path / "m.toml")
