"""What is read off the texts: side by side, lengths, labels."""

import numpy as np

from mop.report.reading import bin_table, lengths, persona_labels, side_by_side, turned
from mop.types import Record, Response


def response(key, text, method="mop", *, finish="stop", label=None, persona=None):
    return Response(
        id=key, context=f"question {key}", response=text, label=label, persona=persona, exemplar=None, temperature=1.0,
        log_pi=0.0, log_omega=0.0, seed=1, model="fake", prompt_version=1, finish_reason=finish, n_tokens=1,
        method=method,
    )  # fmt: skip


def record(key, text="real"):
    return Record(key=key, context=f"question {key}", response=text)


def test_texts_for_the_same_question_stand_side_by_side():
    rows = {of: [response(str(i), f"{of}{i}", of) for i in range(20)] for of in ("mop", "zero-shot")}
    found = side_by_side([record(str(i), f"r{i}") for i in range(20)], rows)
    assert len(found) == 8
    assert [(row["real"], row["mop"], row["zero-shot"]) for row in found[:2]] == [
        ("r0", "mop0", "zero-shot0"), ("r2", "mop2", "zero-shot2"),
    ]  # fmt: skip
    assert found[-1]["context"] == "question 17"


def test_contexts_that_most_answered_come_first_and_an_empty_answer_is_one():
    rows = {
        "mop": [response("a", "m"), response("b", " ")],
        "zero-shot": [response("b", "z", finish="length")],
        "x": [],
    }
    assert side_by_side([record("a"), record("b"), record("c")], rows) == [
        {"mop": " ", "zero-shot": "z", "context": "question b", "label": "", "real": "real", "cut": ["zero-shot"]}
    ]
    assert side_by_side([record("a")], {"mop": []}) == side_by_side([], rows) == []


def test_lengths_share_their_bins_and_what_is_longer_goes_to_the_last():
    edges, counts = lengths(["a b"] * 300 + ["a " * 900], [response("x", "a " * 40)] * 10)
    assert counts["golden"].sum() == 301
    assert counts["golden"][-1] == 1
    assert counts["mop"].sum() == 10
    assert len(edges) <= 25
    assert lengths(["a"], []) is None
    assert lengths([], [response("x", "a")]) is None
    # What failed or is empty has no length.
    assert lengths(["a"], [response("a", "", finish="failed"), response("b", " ")]) is None


def test_a_chart_is_a_table_too():
    edges, counts = lengths(["a", "a b"], [response("x", "a b"), response("y", "a b c")])
    assert bin_table("words", edges, counts) == (
        ["words", "real texts", "mop"], [["1", 0.5, 0.0], ["2", 0.5, 0.5], ["3 or more", 0.0, 0.5]],
    )  # fmt: skip
    similar = bin_table("similarity", np.array([-1.0, 0.5, 1.0]), {"golden": np.array([1.0, 3.0])})
    assert similar[1] == [["-1.00 to 0.50", 0.25], ["0.50 to 1.00", 0.75]]
    assert turned("a", [], [], []) == (["a"], [])


def test_responses_are_counted_by_persona_and_label():
    rows = [response("a", "x", label="good", persona="p1"), response("b", "x", label="bad", persona="p0"),
            response("c", "x", label="good", persona="p1"), response("d", "x", label="good")]  # fmt: skip
    labels, counts = persona_labels(rows, ["p0", "p1"])
    assert (labels, counts.tolist()) == (["good", "bad"], [[0, 2], [1, 0]])
    assert persona_labels(rows[:1], ["p1"]) is None
