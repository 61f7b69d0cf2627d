"""A persona that contradicts the person who is asked is counted; one that says nothing of a person is not."""

import pytest

from mop.evaluate.respondents import Respondents, attributes_of, contradictions
from mop.types import Persona, Record, Response

PEOPLE = [
    {"gender": gender, "age": age, "area": area}
    for gender in ("Male", "Female")
    for age in ("18-29", "30-44", "45-59", "60+")
    for area in ("North", "North East")
]


def row(i, persona, context=""):
    return Response(
        id=str(i), context=context, response="x", label=None, persona=persona, exemplar=None, temperature=1.0,
        log_pi=0.0, log_omega=0.0, seed=0, model="m", prompt_version=1, finish_reason="stop", n_tokens=1,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("text", "agree", "not_agree"),
    [
        ("You are a woman.", ["gender=Female"], ["gender=Male"]),
        ("You are Male and shy.", ["gender=Male"], ["gender=Female"]),
        ("You are aged 45 or older.", ["age=45-59", "age=60+"], ["age=18-29", "age=30-44"]),
        ("You are a student under 30.", ["age=18-29"], ["age=30-44", "age=60+"]),
        ("You live in the north east.", ["area=North East"], ["area=North"]),
    ],
)
def test_a_text_names_attributes(text, agree, not_agree):
    named = Respondents(PEOPLE).named(text)
    for told, expected in ((agree, True), (not_agree, False)):
        for name, value in (of.split("=") for of in told):
            assert named[name](value) is expected


@pytest.mark.parametrize(
    "text",
    [
        "You are a writer whose typical words are north, male and female.",
        'You are a writer. Nearly all you write is labelled "North".',
        "You are a patient reader.",
        "You know people of the north and the north east.",  # all values: nothing is told apart
    ],
)
def test_quoted_words_and_all_values_name_nothing(text):
    assert Respondents(PEOPLE).named(text) == {}


def test_draws_that_contradict_are_counted_by_attribute():
    personas = [
        Persona(key="w", description="You are a woman aged 45 or older."),
        Persona(key="n", description="You are a patient reader."),
        Persona(key="r", description="Male, 60+", writer="record"),
    ]
    people = {str(i): of for i, of in enumerate(PEOPLE)}
    rows = [row(i, key) for key in ("w", "n", "r") for i in range(len(PEOPLE))]
    found = contradictions(rows, personas, people, Respondents(PEOPLE))
    assert (found["draws"], found["told"], found["contradict"]) == (48, 16, 12)
    assert found["by_attribute"] == {"gender": 8, "age": 8}
    assert found["example"][0] == personas[0].description


def test_the_context_tells_where_no_column_does():
    personas = [Persona(key="w", description="You are a woman.")]
    rows = [row(i, "w", f"Respondent: {who}. Who won?") for i, who in enumerate(["male", "female", "either"])]
    found = contradictions(rows, personas, {}, Respondents(PEOPLE))
    assert (found["told"], found["contradict"]) == (2, 1)


def test_columns_of_the_template_are_attributes():
    record = Record(key="1", context="{Area} North, 30-44: why?", response="", attributes={"gender": "Male"})
    template = "{{Area}} {area}, {age}: {q}"
    assert attributes_of(record, template) == {"area": "North", "age": "30-44", "q": "why?", "gender": "Male"}
    assert attributes_of(record, "text: nothing") == {"gender": "Male"}
    assert attributes_of(record, "{other} form; {q}") == {"gender": "Male"}


def test_the_real_share_is_weighted():
    people = [(of, 3.0 if of["gender"] == "Female" else 1.0) for of in PEOPLE]
    about = Respondents(PEOPLE)
    assert about.share("You are a woman of 60+, aged and kind.", people) == pytest.approx(0.75 / 4)
    assert about.share("You are kind.", people) is None
