"""The pages say what is true: names exist, links lead somewhere, what is generated is current, the README is short."""

import importlib
import importlib.util
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").glob("*.md")])
FIRST_SCREEN, MAX_WORDS, MAX_BULLETS = 25, 25, 20


def prose(text: str) -> str:
    """A page without code, tables, pictures and headings."""
    text = re.sub(r"```.*?```", "\n\n", text, flags=re.DOTALL)
    lines = ["" if re.match(r"\s*(\||#|!\[|$)", line) else line for line in text.splitlines()]
    return re.sub(r"\]\([^)]*\)", "]", "\n".join(lines))


def sentences(text: str) -> list[str]:
    """Sentences of prose; every bullet begins a new one."""
    blocks = re.split(r"\n\s*\n|\n(?=\s*[-*>] )", prose(text))
    return [s for block in blocks for s in re.split(r"(?<=[.!?:;])\s+(?=\S)", " ".join(block.split())) if s]


def resolves(name: str) -> bool:
    """Whether ``mop.x.y.z`` is a module or an attribute of one."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            found = importlib.import_module(".".join(parts[:cut]))
        except ModuleNotFoundError:
            continue
        for part in parts[cut:]:
            if not hasattr(found, part):
                return False
            found = getattr(found, part)
        return True
    return False


@pytest.mark.parametrize("page", [p for p in PAGES if p.name != "log.md"], ids=lambda page: page.name)
def test_names_of_ours_exist(page):
    names = set(re.findall(r"`(mop\.[A-Za-z_][\w.]*\w)", page.read_text(encoding="utf-8")))
    is_method = re.compile(r"mop\.(paper-fit|jsonl)")
    assert not [name for name in sorted(names) if not is_method.match(name) and not resolves(name)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\(([^)\s]+)\)", re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL))
    inside = [link.partition("#")[0] for link in links if not re.match(r"[a-z]+:", link)]
    assert not [link for link in inside if link and not (page.parent / link).exists()]


def test_sentences_are_told_apart():
    page = "# A title of many words\n\nOne two. Three `four`:\nfive\n\n- six\n- [seven](x.md) eight\n\n| a | b |\n"
    assert sentences(page) == ["One two.", "Three `four`:", "five", "- six", "- [seven] eight"]


@pytest.mark.parametrize("name", ["README.md", "CHANGELOG.md", "docs/log.md", "docs/demo.md", "docs/paper.md"])
def test_sentences_are_short(name):
    found = sentences((ROOT / name).read_text(encoding="utf-8"))
    assert not [s for s in found if len(re.findall(r"[A-Za-z]\w*", s)) > MAX_WORDS]


def test_the_first_screen_says_what_this_is():
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    screen = "\n".join(lines[:FIRST_SCREEN])
    for part in ("make demo", "from mop import MixtureOfPersonas", "| other real texts |", "![", "Do not use it"):
        assert part in screen
    assert lines.index("## Next") <= FIRST_SCREEN, "what comes before ends within the first screen"


def test_the_changelog_of_an_unreleased_version_is_short():
    lines = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").splitlines()
    assert sum(line.startswith("- ") for line in lines) <= MAX_BULLETS


def made(name):
    """A page as it would be made now."""
    spec = importlib.util.spec_from_file_location(f"make_{name}", ROOT / "docs" / f"make_{name}.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    return maker.page()


def test_what_is_where_is_current():
    assert (ROOT / "docs" / "house.md").read_text(encoding="utf-8") == made("house"), "run: make docs"


def test_the_settings_and_their_defaults_are_current(monkeypatch):
    monkeypatch.setenv("COLUMNS", "96")  # which the page sets for itself
    kept, now = ((page.partition("## Settings")[2]) for page in ((ROOT / "docs" / "cli.md").read_text(), made("cli")))
    assert kept == now, "run: make docs"
