"""Splits: sizes, stability, groups, labels."""

import csv
import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import reviews
from mop.cli import OK, USAGE, main
from mop.config import DataConfig, UpTo, config_to_dict, resolve_config
from mop.data.records import read_records, split_records
from mop.data.splits import LEAST, split_to_fit
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


# ----------------------------------------------------------------------------- sizes that follow the records

DEFAULT = {name: getattr(DataConfig(), name) for name in LEAST}


def sizes_of(splits):
    return {name: len(split) for name, split in splits.items()}


def test_sizes_that_nobody_set_fall_in_proportion_and_it_is_said(caplog):
    found = sizes_of(split_to_fit(population(1188), DEFAULT, seed=0, name="films.csv"))
    assert found == {"exemplars": 120, "train": 80, "valid": 33, "test": 161, "golden": 794}
    (said,) = caplog.messages
    assert said == (
        "1188 usable records of films.csv are fewer than the 2980 of all sizes, so these follow: exemplars 120, "
        "train 80, valid 33, test 161, golden 794; to have others, set them (--set data.exemplars=...)"
    )


def test_where_there_are_enough_records_nothing_falls(caplog):
    assert sizes_of(split_to_fit(population(2980), DEFAULT, seed=0)) == DEFAULT
    assert split_to_fit(population(3100), DEFAULT, seed=0) == split_records(
        population(3100), {name: int(size) for name, size in DEFAULT.items()}, seed=0
    )
    assert not caplog.messages


def test_sizes_that_were_set_stay(caplog):
    found = sizes_of(split_to_fit(population(1188), {**DEFAULT, "test": 400, "golden": 500}, seed=0))
    assert (found["test"], found["golden"]) == (400, 500)
    assert sum(found.values()) == 1188
    assert "so these follow: exemplars 149, train 99, valid 40;" in caplog.text


@given(n=st.integers(14, 400), fixed=st.sets(st.sampled_from(sorted(LEAST)), max_size=4))
@settings(max_examples=60, deadline=None)
def test_every_split_has_its_least_and_nothing_is_above_what_was_asked_for(n, fixed):
    sizes = {name: LEAST[name] if name in fixed else DEFAULT[name] for name in LEAST}
    found = split_to_fit(population(n), sizes, seed=n)
    assert all(LEAST[name] <= len(split) <= sizes[name] for name, split in found.items())
    assert sum(len(split) for split in found.values()) == min(n, sum(sizes.values()))


@pytest.mark.parametrize(("n", "groups"), [(800, 8), (800, 40), (60, 12), (3000, 11)])
def test_whole_groups_are_dealt_as_nearly_as_they_come(n, groups):
    found = split_to_fit(population(n, groups=groups), DEFAULT, seed=0, by_group=True)
    of_group = [{record.group for record in split} for split in found.values()]
    assert sum(map(len, of_group)) == len(set().union(*of_group))
    assert all(LEAST[name] <= len(split) <= DEFAULT[name] for name, split in found.items())
    assert sum(len(split) for split in found.values()) > 0.6 * min(n, 2980)


def table(path, n, *, n_groups=0):
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["context", "response", "cinema"])
        for i, record in enumerate(reviews(n)):
            rows.writerow([record.context, f"{record.response} {i}", f"g{i % n_groups}" if n_groups else i])
    return f'data.source="{path}"'


def asked(capsys, *words):
    code = main(["personas", *map(str, words), "--preset", "quick", "--quiet"])
    return code, capsys.readouterr().err


@pytest.mark.advice
@pytest.mark.parametrize(
    ("n", "n_groups", "assignments", "advice"),
    [
        (60, 0, ["data.golden=48", "data.test=24"], "these sizes"),
        (60, 0, ["data.golden=48", "data.test=24"], "left out"),
        (60, 0, [f"data.{name}=20" for name in LEAST], "these sizes"),
        (80, 10, ["data.golden=66", "data.group=cinema"], "these sizes"),
        (60, 3, ["data.group=cinema"], "no groups"),
        (12, 0, [], "more"),
    ],
)
def test_sizes_that_cannot_be_met_come_with_those_that_can(tmp_path, capsys, n, n_groups, assignments, advice):
    run, source = tmp_path / "run", table(tmp_path / "t.csv", n, n_groups=n_groups)
    given = [word for one in [source, *assignments] for word in ("--set", one)]
    code, said = asked(capsys, run, *given)
    assert code == USAGE
    assert f"{n} usable records of" in said
    fitting = re.findall(r"--set data\.[a-z]+=[0-9]+", said)
    if advice == "these sizes":
        assert len(fitting) == 5
        assert asked(capsys, run, *given, *(word for one in fitting for word in one.split()))[0] == OK
        for word in fitting:
            name, _, size = word.removeprefix("--set data.").partition("=")
            assert len(read_records(run / "records" / f"{name}.jsonl")) == int(size)
    elif advice == "left out":
        assert "sizes left out follow the records" in said
        assert asked(capsys, run, "--set", source)[0] == OK
    elif advice == "no groups":
        assert "in 3 groups" in said
        assert asked(capsys, run, *given, *re.search(r"\((--set data\.group=)\)", said)[1].split())[0] == OK
    else:
        least = int(re.search(r"and ([0-9]+) are the least", said)[1])
        assert "bring more" in said
        table(tmp_path / "t.csv", least)
        assert asked(capsys, run, *given)[0] == OK


def test_a_run_goes_on_with_the_sizes_that_it_began_with(tmp_path, capsys):
    run, source = tmp_path / "run", table(tmp_path / "t.csv", 60)
    assert asked(capsys, run, "--set", source)[0] == OK
    first = (run / "records" / "golden.jsonl").read_bytes()
    config = resolve_config(file=run / "config.json")
    assert config_to_dict(config)["data"]["golden"] == "up to 48"
    assert isinstance(config.data.golden, UpTo)
    assert main(["personas", str(run)]) == OK
    assert "up to date" in capsys.readouterr().out
    assert main(["personas", str(run), "--set", "seed=1", "--quiet"]) == OK
    assert (run / "records" / "golden.jsonl").read_bytes() != first


@pytest.mark.advice
def test_more_personas_than_different_texts_are_refused_with_how_many_can_be(tmp_path, capsys):
    run, source = tmp_path / "run", table(tmp_path / "t.csv", 60)
    code, said = asked(capsys, run, "--set", source, "--set", "personas.n_personas=40")
    assert code == USAGE
    assert re.search(r"n_personas is 40, and the ([0-9]+) exemplars have \1 different texts", said)
    most = re.search(r"set personas\.n_personas to 1 to ([0-9]+)", said)[1]
    assert asked(capsys, run, "--set", source, "--set", f"personas.n_personas={most}")[0] == OK


def test_personas_that_nobody_set_fall_to_what_there_is(tmp_path, capsys, caplog):
    run, source = tmp_path / "run", table(tmp_path / "t.csv", 14)
    assert main(["personas", str(run), "--preset", "quick", "--set", source]) == OK
    assert "2 personas instead of 3, for the exemplars have so many different texts" in capsys.readouterr().err


@pytest.mark.advice
@pytest.mark.parametrize("preset", ["texts", None])
def test_the_demo_does_not_bring_its_columns_into_a_run_of_ones_own(tmp_path, capsys, preset):
    source = table(tmp_path / "t.csv", 60)
    assert main(["personas", str(tmp_path / "run"), "--preset", "demo", "--set", source]) == USAGE
    said = capsys.readouterr().err
    assert "the preset demo brings its own records, rotten-tomatoes, with their columns and sizes, got data" in said
    assert not (tmp_path / "run").exists()
    instead = said.partition("take ")[2].split()[:2] if preset else []
    fake = ["--set", "model.lm=fake", "--set", "model.encoder=fake", "--quiet"]
    assert main(["personas", str(tmp_path / "run"), *instead, "--set", source, *fake]) == OK
