"""A record is never its own exemplar."""

from dataclasses import replace

import pytest

from mop.data.own import distinct, is_own, own_exemplars
from mop.errors import DataError
from mop.types import Record

RECORDS = [
    Record(key=f"r{i}", context=f"Film {i}.", response=text)
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
