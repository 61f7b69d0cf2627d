"""A template of ours to one HTML file that asks nothing of a network, and how figures read in it.

All text from data, personas and settings is treated as hostile (see ``docs/report.md``). Next comes `mop.report.page`.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.errors import require
from mop.report import plots

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def number(value: object) -> str:
    """Return a number as a reader wants it: three figures that matter, a true minus.

    Examples
    --------
    >>> [number(v) for v in (0.25984, 0.02264, 117.42, -2.5, 12345, 0.00004, float("nan"), True)]
    ['0.260', '0.0226', '117.4', '−2.50', '12,345', '<0.0001', '–', 'yes']
    """
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        return f"{value:,}".replace("-", "−")
    if not isinstance(value, float | np.floating):
        return str(value)
    value = float(value)
    if not math.isfinite(value):
        return "–"
    size = abs(value)
    if 0 < size < 0.00005:
        return "<0.0001" if value > 0 else ">−0.0001"
    decimals = 0 if size >= 1000 else 1 if size >= 10 else 2 if size >= 1 else 3
    if 0 < size < 0.0995:
        decimals = 4
    return f"{value:,.{decimals}f}".replace("-", "−")


def ends(interval: Sequence[float] | None, is_signed: bool = False) -> str:
    """Return an interval as text; empty where there is none.

    Examples
    --------
    >>> ends([-0.25, 0.5]), ends([1, 2.5], is_signed=True), ends(None)
    ('−0.250 to 0.500', '+1 to +2.50', '')
    """
    return " to ".join(map(signed if is_signed else number, interval)) if interval else ""


def signed(value: object) -> str:
    """Return a number with its sign; what is too small for one is `number`'s."""
    return ("+" if isinstance(value, int | float) and value >= 0.00005 else "") + number(value)


def percent(share: float | None) -> str:
    """Return a share as a percentage.

    Examples
    --------
    >>> percent(0.0525), percent(0.4), percent(0.0001)
    ('5.2 %', '40 %', '<0.1 %')
    """
    if share is None or not math.isfinite(share):
        return "–"
    if 0 < share < 0.0005:
        return "<0.1 %"
    return f"{100 * share:.{0 if share >= 0.1 else 1}f} %"


def duration(seconds: float) -> str:
    """Return a time in the two units that matter.

    Examples
    --------
    >>> duration(8.25), duration(335), duration(7384)
    ('8.2 s', '5 min 35 s', '2 h 3 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes = int(seconds) // 60
    return f"{minutes} min {int(seconds) % 60} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def effective(weights: Sequence[float]) -> float:
    """How many equal shares would be as varied: the exponential of the entropy."""
    shares = np.asarray(weights, dtype=np.float64)
    total = float(shares.sum())
    shares = shares[shares > 0] / total if total > 0 else shares[:0]
    return float(np.exp(-np.sum(shares * np.log(shares)))) if len(shares) else 0.0


def flat(settings: Mapping[str, object], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text)."""
    rows: list[tuple[str, str]] = []
    for key, value in settings.items():
        if isinstance(value, Mapping):
            rows += flat(value, f"{prefix}{key}.") or [(f"{prefix}{key}", "{}")]
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
            rows.append((f"{prefix}{key}", text))
    return rows


def _json_for_script(value: object) -> str:
    """JSON that cannot end its script element, start a comment or break a line of script."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def printable(value: Any) -> Any:
    """Copy nested plain data with every string made printable."""
    if isinstance(value, str):
        return plots.printable(value)
    if isinstance(value, Mapping):
        return {printable(str(key)): printable(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{part.name: printable(getattr(value, part.name)) for part in fields(value)})
    if isinstance(value, Sequence):
        return [printable(item) for item in value]
    return value


def html(
    template: str,
    draw: Callable[[float], Mapping[str, Figure]],
    alt: Mapping[str, str],
    *,
    script_data: object,
    **values: object,
) -> str:
    """Fill in one of our templates: a document that loads nothing and admits our own style and script only.

    Parameters
    ----------
    template : str
        Name of the file.
    draw : callable
        Width in inches to figures by name. One that is drawn in one width only serves all.
    alt : mapping of str to str
        What a reader who cannot see a figure is told.
    script_data : object
        Plain data for ``report.js``.
    **values
        What the template names. Any text in it may be hostile.
    """
    jinja2 = require("jinja2", extra="report")
    markup = require("markupsafe", extra="report").Markup
    drawn = {"wide": draw(plots.WIDE), "narrow": draw(plots.NARROW)}
    figures: dict[str, list[tuple[str, Any]]] = {}
    rules: dict[str, str] = {}
    for form, of in drawn.items():
        for name, figure in of.items():
            svg, more = plots.themed_svg(figure, f"{name}-{form}", alt[name])
            figures.setdefault(name, []).append((form if name in drawn["narrow"] else "any", markup(svg)))
            rules |= more
    # Nothing is marked safe in a template. These are the only strings that pass unescaped: our own
    # files, drawings built element by element, and JSON in which no markup can begin.
    style = _asset("report.css") + "".join(f".{name}{{{rules[name]}}}" for name in sorted(rules))
    script = _asset("report.js")
    admitted = f"style-src {_hash(style)}; script-src {_hash(script)}; img-src data:"
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_asset),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number, "signed": signed, "ends": ends, "percent": percent, "duration": duration,
        "short": plots.shorten, "effective": effective,
    }  # fmt: skip
    page: str = environment.get_template(template).render(
        style=markup(style),
        script=markup(script),
        script_data=markup(_json_for_script(script_data)),
        policy=f"default-src 'none'; {admitted}; base-uri 'none'; form-action 'none'",
        figures=figures,
        **values,
    )
    return page


def _asset(name: str) -> str:
    return resources.files("mop.report").joinpath("templates", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the expression by which a content security policy admits exactly this text."""
    return "'sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() + "'"
