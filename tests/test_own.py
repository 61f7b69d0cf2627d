"""A record is never its own exemplar; rivals and metrics of one's own are called, and checked."""

import sys
from dataclasses import replace

import pytest

from conftest import ingredients
from mop.backends.fake import FakeModel
from mop.data.own import distinct, is_own, own_exemplars
from mop.errors import ConfigError, DataError
from mop.evaluate.own import open_metrics, own_figures
from mop.rivals.methods import respond
from mop.types import Record

RECORDS = [
    Record(key=f"r{i}", context=f"Film {i}.", response=text, weight=i + 0.5, group="g", attributes={"age": str(i)})
    for i, text in enumerate(["good fun", "dull", "a bore, a chore", "fine fine fine"])
]


def test_a_record_is_itself_by_key_or_by_context_and_response():
    record = Record(key="a", context="x", response="y")
    assert is_own(record, Record(key="a", context="other", response="other"))
    assert is_own(record, Record(key="b", context="x", response="y"))
    assert not is_own(record, Record(key="b", context="x", response="z"))
    assert not is_own(record, Record(key="b", context="z", response="y"))


def test_white_space_around_texts_makes_no_other_exemplar():
    twin = replace(RECORDS[1], key="twin", response="dull\n")
    assert distinct([RECORDS[1], twin, RECORDS[0]]) == [RECORDS[1], RECORDS[0]]
    assert own_exemplars([twin], [RECORDS[0], RECORDS[1]]).tolist() == [1]
    # Mixtures that were saved with such twins can be used.
    assert own_exemplars([RECORDS[1], twin], [*RECORDS[:2], twin]).tolist() == [1, 2]


def test_own_exemplars_agree_with_looking_at_every_pair():
    exemplars = [
        Record(key="e0", context="Film 9.", response="dull and dim"),
        RECORDS[2],
        Record(key="copy", context="Film 0.", response="good fun"),
    ]
    loop = [next((j for j, e in enumerate(exemplars) if is_own(record, e)), -1) for record in RECORDS]
    assert own_exemplars(RECORDS, exemplars).tolist() == loop == [2, -1, 1, -1]
    assert own_exemplars(RECORDS, []).tolist() == [-1] * 4


def test_exemplars_that_are_one_record_are_refused():
    record = RECORDS[0]
    twin = Record(key="twin", context=record.context, response=record.response)
    with pytest.raises(DataError, match="exemplar 'twin' occurs twice, by key or by context"):
        own_exemplars(RECORDS, [record, twin])
    clash = [Record(key="r0", context="c", response="d"), twin]
    with pytest.raises(DataError, match="record 'r0' shares its key with one exemplar and its text"):
        own_exemplars(RECORDS, clash)


RIVALS = """
def good(contexts, given): return [f"{record.context} fine" for record in contexts]
def lazy(contexts, given): return (record.context for record in contexts)
def few(contexts, given): return ["one"]
def one(contexts, given): return "text"
def numbers(contexts, given): return [3 for _ in contexts]
def broken(contexts, given): return 1 / 0
def lonely(contexts): return []
number = 3
"""


@pytest.fixture
def rivals(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some_rivals.py").write_text(RIVALS)
    yield
    sys.modules.pop("some_rivals", None)


@pytest.mark.parametrize("name", ["good", "lazy"])
def test_a_rival_of_ones_own_answers_every_context(rivals, name):
    found = list(respond(f"some_rivals:{name}@0.5", RECORDS, ingredients(FakeModel())))
    kept = ("key", "context", "label", "weight", "group", "attributes")
    assert [(row.id, *(getattr(row, name) for name in kept[1:])) for row in found] == [
        tuple(getattr(record, name) for name in kept) for record in RECORDS
    ]
    assert found[0].response.startswith("Film 0.")
    assert {(row.method, row.temperature, row.persona) for row in found} == {(f"some_rivals:{name}@0.5", 0.5, None)}


@pytest.mark.parametrize(
    ("name", "message"),
    [("few", r"must give a list of 4 texts, one for each context, got 1 texts"), ("one", "got 1 texts"),
     ("numbers", "got 3"), ("broken", "fails with ZeroDivisionError"), ("number", "is 3, no function"),
     ("lonely", r"fails with TypeError: .*it is called as rival\(contexts, given\)")],
)  # fmt: skip
def test_a_rival_that_is_none_is_told(rivals, name, message):
    with pytest.raises((ConfigError, DataError), match=message):
        list(respond(f"some_rivals:{name}", RECORDS, ingredients(FakeModel())))


def test_metrics_of_ones_own_are_called_with_both_texts():
    opened = open_metrics({"share": lambda texts, golden: len(texts) / len(golden)}, taken=("fid",))
    assert own_figures(opened, ["a"], ["b", "c"]) == {"share": 0.5}
    assert open_metrics(None, ()) == {}


@pytest.mark.parametrize(
    ("metrics", "message"),
    [({"fid": len}, "there is a figure 'fid' already"), ({"x": 3}, "the metric 'x' is 3, no function"),
     ({"x": lambda texts: 1.0}, "fails on 1 texts with TypeError"),
     ({"x": lambda texts, golden: float("nan")}, "gave nan for 1 texts"),
     ({"x": lambda texts, golden: "many"}, "fails on 1 texts with ValueError")],
)  # fmt: skip
def test_a_metric_that_is_none_is_told(metrics, message):
    with pytest.raises((ConfigError, DataError), match=message):
        own_figures(open_metrics(metrics, ("fid",)), ["a"], ["b"])
