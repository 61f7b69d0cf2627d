"""The examples of the pages run, and print what the pages show."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ("score", "data", "store", "prompts", "personas", "metrics", "report", "baselines")
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


def lines(text: str) -> list[str]:
    """Lines without the blanks that a page does not keep at the ends."""
    return [line.rstrip() for line in text.strip().splitlines()]
