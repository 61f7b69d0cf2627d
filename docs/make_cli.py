"""Write docs/cli.md from the command line's own help: ``python docs/make_cli.py``."""

import os
from pathlib import Path

from mop.cli import build_parser
from mop.config import PRESETS, SECTIONS, UpTo, describe


def page() -> str:
    """The whole page."""
    os.environ["COLUMNS"] = "96"
    parser = build_parser()
    (verbs,) = (action for action in parser._actions if action.dest == "verb")
    parts = ["# Command line", "Made by `make docs` from the program's own help; do not edit."]
    parts.append(_block(parser.format_help()))
    for name, verb in verbs.choices.items():  # type: ignore[union-attr]
        parts += [f"## mop {name}", _block(verb.format_help())]
    parts.append("## Settings")
    parts.append(
        "In a TOML file as `[section]` and `key = value`, or as `--set section.key=value`. `seed` (0), "
        "above all sections or as `--set seed=1`, is that of every draw. Presets: `demo` (film critics, "
        "embedded models), `paper` (the paper's recipe and sizes; name a model of yours), `texts` (texts of "
        "yours, drawn as those of the published tables) and `quick` "
        "(the toy model, to try settings in seconds)."
    )
    assert set(PRESETS) == {"demo", "paper", "texts", "quick"}, "say what the new preset is"
    for section, cls in SECTIONS.items():
        rows = [f"### [{section}]", "", "| key | default | meaning |", "| --- | --- | --- |"]
        defaults = cls()
        rows += [
            f"| `{name}` | `{_shown(getattr(defaults, name))}` | {meaning} |" for name, meaning in describe(cls).items()
        ]
        parts.append("\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _block(text: str) -> str:
    return f"```text\n{text.rstrip()}\n```"


def _shown(value: object) -> str:
    return str(value) if isinstance(value, UpTo) else "none" if value is None else repr(value).replace("|", "\\|")


if __name__ == "__main__":
    Path(__file__).with_name("cli.md").write_text(page(), encoding="utf-8")
