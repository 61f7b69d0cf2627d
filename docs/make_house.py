"""Write docs/house.md, what is where, from the modules' own first lines: ``python docs/make_house.py``."""

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src" / "mop"


def first_sentence(path: Path) -> str:
    """What a module says of itself, up to the first full stop."""
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return re.split(r"(?<=[.;])\s", " ".join(text.split()), maxsplit=1)[0].rstrip(".;")


def order() -> tuple[tuple[str, ...], set[str]]:
    """The names of the import rule, and the files that are its first name, from the architecture test."""
    tree = ast.parse((ROOT / "tests" / "test_architecture.py").read_text(encoding="utf-8"))
    found = {ast.unparse(n.targets[0]): n.value for n in tree.body if isinstance(n, ast.Assign)}
    return ast.literal_eval(found["ORDER"]), ast.literal_eval(found["BASE"])


def page() -> str:
    """The whole page."""
    names, base = order()
    parts = [
        "# What is where",
        "Made by `make docs` from the modules' own first lines; do not edit. A package imports only from those above "
        "it, and no two modules import each other (`tests/test_architecture.py`).",
    ]
    for name in names:
        if name == "base":
            parts += ["## at the root", table([SRC / f"{module}.py" for module in sorted(base)])]
        elif (SRC / name).is_dir():
            modules = sorted(path for path in (SRC / name).glob("*.py") if path.name != "__init__.py")
            parts += [f"## {name}", first_sentence(SRC / name / "__init__.py") + ".", table(modules)]
    on_top = [SRC / f"{name}.py" for name in names if (SRC / f"{name}.py").is_file()]
    parts += ["## on top", table(on_top)]
    return "\n\n".join(parts) + "\n"


def table(paths: list[Path]) -> str:
    """One row a module."""
    rows = [f"| `{path.stem}` | {first_sentence(path).replace('|', chr(92) + '|')} |" for path in paths]
    return "\n".join(["| module | what it is |", "| --- | --- |", *rows])


if __name__ == "__main__":
    Path(__file__).with_name("house.md").write_text(page(), encoding="utf-8")
