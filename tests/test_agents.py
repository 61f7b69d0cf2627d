"""Agents of other tools are read into descriptions, whatever the file is called; what cannot be is told how to mend."""

import json

import pytest

from mop.errors import DataError
from mop.personas.files import read_personas

TABLE = 'name;age;occupation\nCleo;52;"baker; evenings"\n\nDan;19;\n'
TREE = {
    "type": "TinyPerson",
    "persona": {
        "name": "Cleo Marsh",
        "age": 52,
        "occupation": {"title": "Baker", "place": "Ghent"},
        "behaviors": {"routines": ["Gets up at four.", "Reads at night."]},
        "relationships": [{"name": "Dan", "kind": "son"}, {"name": "Eve", "kind": "aunt"}],
        "nothing": None,
    },
}
LISTED = {
    "agent_list": [
        {"name": "Cleo", "traits": {"age": 52, "job": "baker"}, "instruction": "", "edsl_class_name": "Agent"},
        {"traits": {"age": 19}, "edsl_class_name": "Agent"},
    ],
    "edsl_version": "1.0",
}


def described(path, text):
    path.write_text(text, encoding="utf-8")
    return [persona.description for persona in read_personas(path)]


@pytest.mark.trial("29-foreign-personas")
@pytest.mark.parametrize("name", ["agents.csv", "agents.txt", "agents.jsonl", "agents.json", "agents.tsv"])
def test_a_table_is_a_persona_for_each_row_under_any_name(tmp_path, name):
    for delimiter in (";", ",", "\t"):
        found = described(tmp_path / name, TABLE.replace(";", delimiter))
        assert found == [
            f"name: Cleo; age: 52; occupation: baker{' ' if delimiter == chr(9) else delimiter} evenings".replace(
                "  ", " "
            ),
            "name: Dan; age: 19",
        ]


@pytest.mark.trial("29-foreign-personas")
@pytest.mark.parametrize("name", ["cleo.agent.json", "cleo.jsonl", "cleo.txt"])
@pytest.mark.parametrize("indent", [1, None])
def test_nested_agents_are_one_description_each(tmp_path, name, indent):
    assert described(tmp_path / name, json.dumps(TREE, indent=indent)) == [
        "name: Cleo Marsh; age: 52; occupation title: Baker; occupation place: Ghent; behaviors routines: Gets up at "
        "four, Reads at night; relationships name: Dan; relationships kind: son; relationships name: Eve; "
        "relationships kind: aunt"
    ]
    assert described(tmp_path / name, json.dumps(LISTED, indent=indent)) == [
        "name: Cleo; age: 52; job: baker", "19"
    ]  # fmt: skip


def test_other_lists_of_agents(tmp_path):
    both = '["You are calm.", {"description": "You bake."}]'
    assert described(tmp_path / "a.json", both) == ["You are calm.", "You bake."]
    assert described(tmp_path / "a.jsonl", '{"name": "Cleo", "age": 5}\n{"name": "Dan", "age": 6}\n') == [
        "name: Cleo; age: 5", "name: Dan; age: 6"
    ]  # fmt: skip
    assert described(tmp_path / "a.csv", 'persona\nYou bake.\n"You, too, read."\n') == ["You bake.", "You, too, read."]
    assert described(tmp_path / "a.csv", "key,description\ncleo,You bake.\n") == ["You bake."]


def test_plain_texts_stay_plain(tmp_path):
    lines = ["You are calm, kind and old.", "You are young, loud and quick."]
    assert described(tmp_path / "a.txt", "\n".join(lines)) == lines
    assert described(tmp_path / "b.txt", "calm, old\nloud, young\n") == ["calm, old", "loud, young"]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [("a.csv", "Cleo,52,baker\nDan,19,none\n", r"a.csv:1: the first line must name the columns"),
     ("a.csv", "name,age\nCleo,52,baker\n", r"a.csv:2: 3 cells where the first line names 2 columns; put quotes"),
     ("a.csv", "You bake.\nYou read.\n", r"which reads like a persona; put a line with the word persona before it"),
     ("a.csv", "", "a.csv has no personas"), ("a.csv", "name,age\n", "a.csv has no personas"),
     ("a.json", "[3]", r"a.json\[0\]: '3' is no agent; an agent is an object"),
     ("a.json", "[{}]", r"description is "), ("a.json", "{", "not a JSON object"),
     ("a.json", "[" * 100_000, "nested too deep|not a JSON object")],
)  # fmt: skip
def test_what_is_no_table_of_agents_is_told(tmp_path, name, text, message):
    with pytest.raises(DataError, match=message):
        described(tmp_path / name, text)


@pytest.mark.advice
@pytest.mark.parametrize(
    ("text", "line"), [("Cleo,52,baker\n", "name,age,occupation"), ("You bake.\nYou read.\n", "persona")]
)
def test_the_line_that_is_told_makes_a_table(tmp_path, text, line):
    with pytest.raises(DataError, match=f"put a line (such as|with the word) {line}"):
        described(tmp_path / "a.csv", text)
    assert len(described(tmp_path / "a.csv", f"{line}\n{text}")) == text.count("\n")
