"""What is handed over in Python becomes records, or an error that says how to hand it over."""

import pandas as pd
import pytest

from mop.data.given import contexts_given, records_given
from mop.data.records import load_records
from mop.errors import DataError
from mop.personas.given import personas_given
from mop.types import Persona, Record

ROWS = [{"context": "Tea?", "response": f"yes {i}"} for i in range(3)]


def test_rows_tables_and_records_are_the_same():
    expected = records_given(ROWS)
    assert [r.response for r in expected] == ["yes 0", "yes 1", "yes 2"]
    assert (
        records_given(pd.DataFrame(ROWS)) == records_given(load_records(ROWS)) == records_given(iter(ROWS)) == expected
    )


MINE = [{"Question": f"Tea {i}?", "Answer": f"yes {i}", "id": i} for i in range(3)]


@pytest.mark.advice
@pytest.mark.parametrize(
    ("given", "arguments"),
    [(MINE, "context='Question', response='Answer'"),
     (pd.DataFrame(MINE).rename(columns={"Question": "context"}), "context='context', response='Answer'"),
     (pd.DataFrame(MINE).set_axis(["xyz", "response", "id"], axis=1), "context='xyz', response='response'")],
    ids=["rows", "no response", "no context"],
)  # fmt: skip
def test_other_columns_are_told_and_the_call_that_is_named_reads_them(given, arguments):
    import mop

    with pytest.raises(DataError, match=r"the records given have no column .*; say which are meant: fit\(") as error:
        records_given(given)
    call = str(error.value).partition("fit(")[2].partition("),")[0]
    assert call == f"mop.load_records(RECORDS, {arguments})"
    assert len(records_given(eval(call, {"mop": mop, "RECORDS": given}))) == 3


@pytest.mark.advice
def test_texts_alone_are_no_records_and_the_form_that_is_told_is_taken():
    texts = ["good", "dull", "fine"]
    with pytest.raises(DataError, match="got the text 'good' alone; give both") as error:
        records_given(texts)
    form = str(error.value).partition("fit(")[2].removesuffix(")")
    assert [record.response for record in records_given(eval(form, {"TEXTS": texts}))] == texts


def test_one_column_is_too_few():
    with pytest.raises(DataError, match="so add what is missing, such as the same context in every row"):
        records_given(pd.DataFrame({"text": ["a"]}))


@pytest.mark.parametrize("given", [None, object(), max])
def test_what_is_no_list_of_contexts_is_named(given):
    with pytest.raises(DataError, match="strings, Records and rows with a context are expected, got"):
        contexts_given(given)


def test_personas_are_texts_or_have_keys():
    mine = Persona(key="p001", description="Mine.")
    assert [p.key for p in personas_given(["a", mine, "c"])] == ["p000", "p001", "p002"]
    assert [p.key for p in personas_given([mine, "b"])] == ["p001", "p002"]
    for wrong in (3, "", " ", None, b"x"):
        with pytest.raises(DataError, match="personas are texts or of the type mop.Persona"):
            personas_given([wrong])


@pytest.mark.advice
def test_the_persona_that_is_told_is_taken():
    with pytest.raises(DataError) as error:
        personas_given([{"description": "x"}])
    told = str(error.value).partition("or mop.")[2]
    assert personas_given([eval(told, {"Persona": Persona})])[0].key == "nurse"


def test_strings_are_contexts_under_their_place():
    assert [(r.key, r.context) for r in contexts_given(["a", "b"])] == [("context-0", "a"), ("context-1", "b")]
    assert contexts_given([Record(key="k", context="c", response="")])[0].key == "k"


def test_contexts_that_are_none_are_refused():
    with pytest.raises(DataError, match="several contexts are expected, got the one string 'Tea"):
        contexts_given("Tea?")
