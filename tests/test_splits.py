"""Splits: sizes, stability, groups, labels."""

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mop.data.records import split_records
from mop.errors import ConfigError, DataError
from mop.types import Record


def population(n, *, groups=0, labels=""):
    """Make n records; record i has group i mod `groups` and label i mod len(labels)."""
    return [
        Record(
            key=f"r{i}",
            context="",
            response="y",
            group=f"g{i % groups}" if groups else None,
            label=labels[i % len(labels)] if labels else None,
        )
        for i in range(n)
    ]


def keys(split):
    return {r.key for r in split}


def test_numbers_are_met_exactly_and_splits_are_disjoint_and_in_the_given_order():
    splits = split_records(population(100), {"b": 30, "a": 50, "c": 20}, seed=0)
    assert list(splits) == ["b", "a", "c"]
    assert [len(s) for s in splits.values()] == [30, 50, 20]
    assert len(keys(splits["a"]) | keys(splits["b"]) | keys(splits["c"])) == 100


def test_shares_are_of_all_records_and_lose_none_if_they_make_up_everything():
    assert [len(s) for s in split_records(population(10), {"a": 0.5, "b": 0.25, "c": 0.25}, seed=0).values()] == [
        5,
        3,
        2,
    ]
    mixed = split_records(population(103), {"a": 50, "b": 0.1}, seed=0)
    assert [len(s) for s in mixed.values()] == [50, 10]


@given(n=st.integers(20, 60), parts=st.lists(st.integers(1, 9), min_size=1, max_size=5), seed=st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_shares_that_sum_to_one_deal_every_record_once(n, parts, seed):
    sizes = {f"s{i}": part / sum(parts) for i, part in enumerate(parts)}
    if n * min(sizes.values()) < 1:
        return
    splits = split_records(population(n), sizes, seed=seed)
    dealt = [r.key for split in splits.values() for r in split]
    assert sorted(dealt) == sorted(r.key for r in population(n))
    for name, share in sizes.items():
        assert abs(len(splits[name]) - share * n) < 1


def test_the_input_order_does_not_matter_and_the_seed_does():
    records = population(200)
    sizes = {"train": 100, "test": 50}
    assert split_records(records, sizes, seed=1) == split_records(records[::-1], sizes, seed=1)
    assert split_records(records, sizes, seed=1) != split_records(records, sizes, seed=2)


def test_new_records_move_only_records_at_a_cut():
    before = split_records(population(1000), {"train": 0.5, "test": 0.5}, seed=0)
    after = split_records(population(1010), {"train": 0.5, "test": 0.5}, seed=0)
    # 10 new records shift the cut by at most 10 places.
    assert len(keys(before["train"]) - keys(after["train"])) <= 10
    assert len(keys(before["test"]) - keys(after["test"])) <= 10


def test_a_split_is_in_random_order():
    splits = split_records(population(1000, labels="ab"), {"train": 800}, seed=0)
    numbers = [int(r.key[1:]) for r in splits["train"]]
    first = sum(numbers[:400]) / 400
    # Mean of 400 of 0..999 without replacement: sd 289 * sqrt(0.6 / 400) = 11; five of them.
    assert abs(first - 499.5) < 56


@pytest.mark.parametrize("sizes", [{"a": 40, "b": 30}, {"a": 0.6, "b": 0.4}, {"a": 0.3, "b": 25}])
def test_a_group_is_never_in_two_splits(sizes):
    for seed in range(20):
        splits = split_records(population(100, groups=13), sizes, seed=seed, by_group=True)
        a, b = ({r.group for r in split} for split in splits.values())
        assert not a & b
        for name, size in sizes.items():
            if isinstance(size, int):
                assert len(splits[name]) == size


def test_shares_by_group_lose_no_record_and_come_as_near_as_groups_allow():
    records = population(130, groups=13)  # groups of ten
    splits = split_records(records, {"a": 0.5, "b": 0.3, "c": 0.2}, seed=3, by_group=True)
    # 65, 39 and 26 records: nearest whole groups are 60 or 70, then 40, then the rest.
    assert [len(s) for s in splits.values()] in ([60, 40, 30], [70, 40, 20])
    for share, expected in ((0.48, 60), (0.52, 70)):  # 62.4 and 67.6 records
        splits = split_records(records, {"a": share, "b": 1 - share}, seed=3, by_group=True)
        assert [len(s) for s in splits.values()] == [expected, 130 - expected]


def test_numbers_by_group_cut_the_surplus_away_from_every_split():
    splits = split_records(population(100, groups=10), {"a": 25, "b": 25}, seed=0, by_group=True)
    for split in splits.values():
        assert sorted(Counter(r.group for r in split).values()) == [5, 10, 10]


def test_a_record_without_group_is_its_own_group():
    records = [*population(20), Record(key="only", context="", response="y", group="g")]
    splits = split_records(records, {"a": 7, "b": 14}, seed=0, by_group=True)
    assert [len(split) for split in splits.values()] == [7, 14]


def test_group_membership_survives_new_groups():
    old = population(100, groups=10)
    new = [Record(key=f"n{i}", context="", response="y", group="new") for i in range(10)]
    before = split_records(old, {"a": 50, "b": 50}, seed=0, by_group=True)
    after = split_records(old + new, {"a": 50, "b": 50}, seed=0, by_group=True)
    assert len({r.group for r in before["a"]} - {r.group for r in after["a"]}) <= 1


def test_stratified_splits_keep_the_label_shares_to_within_one_record():
    records = population(1000, labels="aaaaaaabbc")
    for sizes in ({"x": 300, "y": 77, "z": 623}, {"x": 0.333, "y": 0.667}):
        splits = split_records(records, sizes, seed=0, stratify=True)
        assert sum(map(len, splits.values())) == 1000
        for split in splits.values():
            counts = Counter(r.label for r in split)
            for label, share in {"a": 0.7, "b": 0.2, "c": 0.1}.items():
                assert abs(counts[label] - share * len(split)) <= 1


@given(st.lists(st.sampled_from(["a", "b", "c", None]), min_size=4, max_size=40), st.integers(0, 9))
@settings(max_examples=25, deadline=None)
def test_stratified_splits_are_disjoint_and_exact_for_any_labels(labels, seed):
    if set(labels) == {None}:
        return
    records = [Record(key=str(i), context="", response="y", label=v) for i, v in enumerate(labels)]
    third = len(records) // 3
    splits = split_records(records, {"x": third, "y": 0.5}, seed=seed, stratify=True)
    assert [len(splits["x"]), len(splits["y"])] == [third, len(records) // 2]
    assert len(keys(splits["x"]) | keys(splits["y"])) == third + len(records) // 2


@pytest.mark.parametrize("size", [0, -1, True, 0.0, 1.5, -0.5, float("nan"), "3"])
def test_a_size_that_makes_no_sense_is_refused(size):
    with pytest.raises(ConfigError, match=r"the size of split 'a' is .*; it must be a whole number"):
        split_records(population(10), {"a": size}, seed=0)


@pytest.mark.parametrize("sizes", [{}, {"a": 0.7, "b": 0.4}])
def test_sizes_that_make_no_sense_together_are_refused(sizes):
    with pytest.raises(ConfigError, match=r"shares of at most 1 in all"):
        split_records(population(10), sizes, seed=0)


@pytest.mark.parametrize(
    ("sizes", "message"),
    [({"a": 11}, "a 11; each"), ({"a": 0.01, "b": 0.99}, "a 0.01, b 0.99, which makes a 0, b 10;"),
     ({"a": 8, "b": 0.5}, "a 8, b 0.5, which makes a 8, b 5;")],
)  # fmt: skip
def test_asking_for_more_than_there_is_names_what_it_makes(sizes, message):
    with pytest.raises(DataError, match=f"10 records cannot be split into {message}"):
        split_records(population(10), sizes, seed=0)


def test_too_few_groups_are_an_error():
    with pytest.raises(DataError, match=r"split 'b' of 5 records gets only 0: the 1 groups are used"):
        split_records(population(10, groups=1), {"a": 5, "b": 5}, seed=0, by_group=True)
    with pytest.raises(DataError, match=r"split 'c' of 2 records gets only 0"):
        split_records(population(10, groups=2), {"a": 0.4, "b": 0.4, "c": 0.2}, seed=0, by_group=True)


def test_what_a_split_needs_is_said():
    with pytest.raises(DataError, match=r"none of the 4 records has a group, which by_group needs"):
        split_records(population(4), {"a": 2}, seed=0, by_group=True)
    with pytest.raises(DataError, match=r"none of the 4 records has a label, which stratify needs"):
        split_records(population(4), {"a": 2}, seed=0, stratify=True)
    with pytest.raises(DataError, match=r"8 records have 4 different keys, and each needs its own; load"):
        split_records(population(4) * 2, {"a": 2}, seed=0)
    with pytest.raises(ConfigError, match=r"by_group and stratify are both set"):
        split_records(population(4), {"a": 2}, seed=0, by_group=True, stratify=True)
