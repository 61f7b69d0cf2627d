"""The rivals from the command line, on a run folder."""

import json

from conftest import reviews
from mop.cli import OK, USAGE, main
from mop.storage.files import read_jsonl


def options(tmp_path):
    source = tmp_path / "reviews.jsonl"
    source.write_text(
        "\n".join(json.dumps({"context": r.context, "response": r.response, "label": r.label}) for r in reviews(160))
    )
    return [
        str(tmp_path / "run"), "--preset", "quick", "--set", f'data.source="{source}"',
        "--set", "data.label=label", "--set", "data.task=a film review",
    ]  # fmt: skip


def test_a_rival_can_be_drawn_alone_without_a_fit(tmp_path, capsys):
    arguments = ["simulate", "--method", "zerogen", "--json", *options(tmp_path)]
    assert main(arguments) == OK
    first = json.loads(capsys.readouterr().out)
    assert first["n_responses"] == 24
    rows = list(read_jsonl(tmp_path / "run" / "methods" / "zerogen.jsonl"))
    assert {row["method"] for row in rows} == {"zerogen"}
    assert not (tmp_path / "run" / "mixture" / "mixture.json").exists()
    assert main(arguments) == OK
    assert json.loads(capsys.readouterr().out) == first


def test_two_methods_at_once_are_a_usage_error(tmp_path, capsys):
    assert main(["simulate", "--method", "zerogen", "--method", "attrprompt", *options(tmp_path)]) == USAGE
    assert "--method takes one method, got zerogen and attrprompt" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_unknown_method_is_a_usage_error(tmp_path, capsys):
    assert main(["simulate", "--method", "zerogem", *options(tmp_path)]) == USAGE
    assert "unknown method 'zerogem'" in capsys.readouterr().err
