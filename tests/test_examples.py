"""The examples of the pages run, and print what the pages show."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("score", "data", "store", "prompts", "personas", "metrics", "report", "baselines", "plug", "estimator")
EXAMPLE = re.compile(
    r"^```python\n(.*?)^```\n(?:\n?(?:prints\n\n)?```(?:text)?\n(.*?)^```$)?", re.MULTILINE | re.DOTALL
)


@pytest.mark.parametrize("page", PAGES)
def test_the_examples_of_a_page_run_and_print_what_it_shows(page, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    examples = EXAMPLE.findall((DOCS / f"{page}.md").read_text(encoding="utf-8"))
    assert examples
    names: dict[str, object] = {"__name__": page}
    for source, shown in examples:
        exec(compile(source, f"{page}.md", "exec"), names)
        printed = capsys.readouterr().out
        assert not shown or lines(printed) == lines(shown)


def test_the_parts_of_the_page_plug_in_by_name(tmp_path, monkeypatch, capsys):
    import json
    import sys

    from mop.cli import main
    from mop.evaluate import Sample, evaluate

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "cache"))
    source = EXAMPLE.findall((DOCS / "plug.md").read_text(encoding="utf-8"))[0][0]
    (tmp_path / "mine.py").write_text(source, encoding="utf-8")
    words = ["warm", "cold", "sweet", "bitter", "strong", "weak", "black", "green"]
    rows = [f"Tea {i % 9}?,{words[i % 8]} and {words[i % 7]} number {i}" for i in range(160)]
    (tmp_path / "tea.csv").write_text("context,response\n" + "\n".join(rows) + "\n")
    named = ["data.source=tea.csv", "model.lm=mine:Parrot", "model.encoder=mine:Letters",
             'compare.methods=["mine:shuffled", "mine:shuffled@0.5", "zero-shot"]']  # fmt: skip
    arguments = [part for one in named for part in ("--set", one)]
    try:
        assert main(["compare", "run", "--preset", "quick", "--quiet", "--json", *arguments]) == 0
        table = json.loads(capsys.readouterr().out)
        assert {"mine:shuffled", "mine:shuffled@0.5", "mop"} <= set(str(table).replace("'", " ").split())
        assert main(["compare", "run", "--quiet"]) == 0  # the settings are one's own
        texts = [row.partition(",")[2] for row in rows]
        found = evaluate(
            {"mop": Sample(texts[:80])}, Sample(texts), Sample(texts[80:]), seed=0, n_bootstrap=10,
            embed=sys.modules["mine"].Letters().encode, metrics={"asked": "mine:questions"},
        )  # fmt: skip
        assert found.methods["mop"]["asked"] == 0.0
    finally:
        sys.modules.pop("mine", None)


def lines(text: str) -> list[str]:
    """Lines without the blanks that a page does not keep at the ends."""
    return [line.rstrip() for line in text.strip().splitlines()]
