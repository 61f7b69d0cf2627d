"""Rows left out: said, counted, limited."""

import logging

import pytest

from mop.config import config_from_dict
from mop.data.losses import require_few_lost, sayings
from mop.data.records import load_records
from mop.errors import DataError
from mop.pipeline import run


def rows(n_good, n_bad):
    return [{"x": "q", "y": f"a{i}" if i < n_good else ""} for i in range(n_good + n_bad)]


def test_who_is_left_out_is_said_in_one_sentence(caplog):
    found = load_records(rows(120, 60), context="x", response="y")
    assert sayings([found]) == [
        "60 of 180 rows left out, all for empty_response (first row 121, which has no text in 'y'; "
        "nobody answers in them)"
    ]
    with caplog.at_level(logging.WARNING):
        found.warn("t.csv")
    assert caplog.messages[0].startswith("t.csv: 60 of 180 rows left out, all for empty_response")
    mixed = load_records([*rows(20, 2), {"x": "q", "y": "a1"}], context="x", response="y")
    assert sayings([mixed])[0].startswith(
        "3 of 23 rows left out, for empty_response 2, duplicate 1 (first row 21, which"
    )
    assert sayings([found, mixed])[0].startswith("63 of 203 rows left out, for empty_response 62, duplicate 1")


def test_nothing_is_said_of_a_clean_table():
    assert sayings([load_records(rows(5, 0), context="x", response="y")]) == []


def test_more_than_the_share_stops_with_the_number_that_allows_it():
    found = load_records(rows(19, 1), context="x", response="y")
    require_few_lost([found], 0.05)
    with pytest.raises(
        DataError, match=r"1 of 20 rows left out, .* that is 5%, and at most 4% .* set data.max_lost = 0.05"
    ):
        require_few_lost([found], 0.04)
    require_few_lost([found], 0.05)


def test_header_rows_and_blank_rows_are_no_loss():
    table = [{"x": "x", "y": "y"}, {"x": None, "y": " "}, *rows(3, 0)]
    found = load_records(table, context="x", response="y")
    require_few_lost([found], 0)
    assert sayings([found]) == [
        "1 further header row left out",
        "1 blank row left out",
    ]


def csv_of(rows, mark=","):
    names = list(rows[0])
    return "".join(mark.join(str(cell) for cell in line) + "\n" for line in (names, *(row.values() for row in rows)))


def people(n=120, **changes):
    """Rows of a survey; a function of the number for each column that differs."""
    plain = {"id": lambda i: f"p{i}", "town": lambda i: ["north", "south"][i % 2], "w": lambda i: "1.5",
             "answer": lambda i: f"more buses {i}"}  # fmt: skip
    return [{name: (changes.get(name) or make)(i) for name, make in plain.items()} for i in range(n)]


ADVICE = {
    # rows, further settings -> what the message says, the settings that it leads to (None takes one away)
    "blank": (people(answer=lambda i: f"buses {i}" * (i % 5 > 0)), {}, "set data.max_lost = 0.2", {"max_lost": 0.2}),
    "equal, keep": (people(answer=lambda i: "yes"), {}, 'set data.duplicates = "keep"', {"duplicates": "keep"}),
    "equal, key": (people(answer=lambda i: "yes"), {}, "tells them apart as data.key", {"key": "id"}),
    "equal, weight": (people(answer=lambda i: "yes"), {}, "data.weight or data.group", {"weight": "w"}),
    "equal, group": (people(answer=lambda i: "yes"), {}, "or data.group", {"group": "id"}),
    "decimals": (people(w=lambda i: ["1;5", 2.5][i % 5 > 0]), {"weight": "w"}, 'data.decimal = ","', {"decimal": ","}),
    "words": (people(id=lambda i: f"person {i}"), {"key": "id"}, "leave data.key out", {"key": None}),
    "towns": (people(town=lambda i: f"t{i % 20}"), {"key": "town"}, "a person or a film is data.group",
              {"key": None, "group": "town"}),
    "marks": (people(), {}, "set data.delimiter", {"delimiter": "#"}),
}  # fmt: skip


@pytest.mark.advice
@pytest.mark.parametrize("name", ADVICE)
def test_a_run_stops_before_it_pays_and_goes_on_as_the_message_says(tmp_path, name):
    rows, settings, told, cure = ADVICE[name]
    text = csv_of(rows, "#" if name == "marks" else ",").replace("1;5", '"1,5"' if name == "decimals" else "1;5")
    (tmp_path / "survey.csv").write_text(text)

    def go(**more):
        data = {
            "source": str(tmp_path / "survey.csv"),
            "context": "Lives {town}",
            "response": "answer",
            **settings,
            **more,
        }
        sizes = {"exemplars": 2, "train": 2, "valid": 2, "test": 4, "golden": 4} if "group" in data else {}
        set_ = {key: value for key, value in {**data, **sizes}.items() if value is not None}
        config = config_from_dict({"data": set_, "model": {"lm": "fake", "encoder": "fake"}})
        return run(config, tmp_path / "run", until="records")["records"]

    with pytest.raises(DataError) as caught:
        go()
    assert told in str(caught.value)
    done = go(**cure)
    n_lost = 24 if name == "blank" else 0
    assert (done["rows"], done["usable"]) == (120, 120 - n_lost)
    assert done["left_out"].startswith("24 of 120 rows left out, all for empty_response") is bool(n_lost)
