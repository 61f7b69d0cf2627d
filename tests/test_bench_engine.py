"""The engine's benchmark: what it draws, what it counts as needed, what it keeps and what it refuses."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest

pytest.importorskip("torch")

from bench_engine import Claim, Load, check_agreement, keep, largest_difference, needed, part_of, sample, source_digest


def load_of(prompts, responses):
    return Load([f"request {i}" for i in range(len(prompts))], prompts, responses)


def test_the_part_that_a_rival_gets_has_every_persona():
    places = sample(load_of([[1]] * 512, [[2]] * 512), 64)
    assert len(set(places)) == 64
    assert {place % 8 for place in places} == set(range(8))
    assert places == sample(load_of([[1]] * 512, [[2]] * 512), 64)


def test_a_part_keeps_requests_and_ids_together():
    part = part_of(load_of([[1], [2], [3]], [[4], [5], [6]]), [2, 0])
    assert (part.requests, part.prompts) == (["request 2", "request 0"], [[3], [1]])
    assert part.responses == [[6], [4]]


def test_needed_operations_are_counted_layer_by_layer():
    config = SimpleNamespace(
        hidden_size=4, intermediate_size=6, head_dim=2, num_attention_heads=2,
        num_key_value_heads=1, num_hidden_layers=3, vocab_size=10,
    )  # fmt: skip
    shared = list(range(20))
    load = load_of([[*shared, 1], [*shared, 2]], [[7, 8, 9], [7, 8]])
    # Distinct tokens: 20 shared, then 1 7 8 and 2 7; wanted are the last prompt token and all
    # response tokens but the last: 3 and 2 of them.
    keys_values, rest = 2 * 4 * (2 + 2), 2 * (4 * 4 + 4 * 4 + 3 * 4 * 6)
    token_looks = [*range(1, 21), 21, 22, 23, 21, 22]
    upper = 25 * (keys_values + rest) + 4 * 4 * sum(token_looks)
    last = 25 * keys_values + 5 * rest + 4 * 4 * (21 + 22 + 23 + 21 + 22)
    assert needed(load, config) == 2 * upper + last + 5 * 2 * 4 * 10


def test_rows_of_another_run_stay_if_the_conditions_are_the_same(tmp_path):
    out = tmp_path / "engine.json"
    keep({"a": Claim(1.0, "x"), "b": Claim(2.0, "y")}, out, 1.0, {"dtype": "float32"})
    keep({"b": Claim(3.0, "y", difference=1e-5)}, out, 1.0, {"dtype": "float32"})
    claims = json.loads(out.read_text())["claims"]
    assert {name: row["value"] for name, row in claims.items()} == {"a": 1.0, "b": 3.0}
    assert claims["b"]["max_difference_nats"] == 1e-5
    keep({"b": Claim(4.0, "y")}, out, 1.0, {"dtype": "bfloat16"})
    written = json.loads(out.read_text())
    assert list(written["claims"]) == ["b"]
    assert written["conditions"] == {"dtype": "bfloat16"}


def test_the_digest_changes_with_any_source_file(tmp_path):
    (tmp_path / "a.py").write_text("1")
    first = source_digest(tmp_path)
    assert source_digest(tmp_path) == first
    (tmp_path / "b.py").write_text("")
    assert source_digest(tmp_path) != first


def test_float32_sides_that_disagree_end_the_run():
    assert largest_difference([-1.0, -2.0, -3.0], [2, 0], [-3.5, -1.0]) == 0.5
    far = {"score_vs_loop_f32": Claim(6.0, "one-by-one loop, float32", difference=0.5)}
    with pytest.raises(SystemExit, match=r"score_vs_loop_f32: the sides differ by 0\.5 nats"):
        check_agreement(far, "float32")
    check_agreement(far, "bfloat16")
    check_agreement({"score_vs_loop_bf16": Claim(6.0, "one-by-one loop, bfloat16", difference=0.5)}, "float32")
