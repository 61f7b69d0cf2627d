"""Figures: what is drawn where, theming for a page, files for a paper, hostile labels."""

from xml.etree import ElementTree

import numpy as np

from mop.report import plots
from mop.report.palette import series_of

HOSTILE = [
    "</text><script>alert(1)</script>",
    "$\\frac{broken",
    "\x00\ud800\ufffe\u202etxet",
    "日本語 😀",
    "<!-- ]]> &amp; ' \"",
    "",
]


def tags(svg):
    return [element.tag for element in ElementTree.fromstring(svg).iter()]


def texts(svg):
    return [e.text for e in ElementTree.fromstring(svg).iter() if e.tag in {"text", "tspan"} and e.text]


def small_map():
    points = np.array([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    kinds = ["real", "mop", "mop", "real"]
    return plots.map_figure(points, kinds, ["real", "mop"], series={"mop": 0})


def all_figures(names):
    n = len(names)
    draw = np.random.default_rng(0)
    gates = draw.dirichlet(np.ones(n), size=n)
    return {
        "metrics": plots.metric_figure(
            draw.random((n, n)), np.full((n, n, 2), np.nan), draw.random(n), names, names, series=series_of(names)
        ),
        "gates": plots.gates_figure(gates, names, names),
        "history": plots.history_figure(
            np.arange(3.0), {name: np.arange(3.0) for name in names}, x_label=names[0], colours=range(n)
        ),
        "similarity": plots.histogram_figure(
            np.linspace(-1, 1, 5), {"golden": np.ones(4)} | {f"{x} ": np.ones(4) for x in names},
            series=series_of(f"{x} " for x in names), x_label=names[0],
        ),
        "panels": plots.map_panels_figure(
            draw.random((2 * n, 2)), [*names, *["real"] * n], series=series_of(names)
        ),
        "shares": plots.shares_figure(
            {name: draw.random(n) for name in ["real", *names]}, names, series=series_of(names)
        ),
    }  # fmt: skip


def test_the_points_of_a_kind_are_one_group_in_the_order_given():
    svg, _ = plots.themed_svg(small_map(), "map", "a map")
    root = ElementTree.fromstring(svg)
    groups = {e.get("id"): e for e in root.iter("g") if (e.get("id") or "").startswith("map-kind")}
    real = [(float(u.get("x")), float(u.get("y"))) for u in groups["map-kind-0"].iter("use")]
    mop = [(float(u.get("x")), float(u.get("y"))) for u in groups["map-kind-1"].iter("use")]
    assert real[0][0] == real[1][0] < mop[0][0] == mop[1][0]
    assert real[0][1] == mop[0][1] > mop[1][1] == real[1][1], "y points down in an SVG"


def test_a_themed_figure_has_no_colour_of_its_own_and_no_inline_style():
    svg, rules = plots.themed_svg(small_map(), "map", "a map")
    assert "style=" not in svg
    assert any("var(--series-1)" in rule for rule in rules.values())
    assert any("var(--real)" in rule for rule in rules.values())
    assert "#" not in "".join(rules.values())


def test_every_figure_is_themed_entirely():
    for name, figure in all_figures(["one", "two", "three"]).items():
        _, rules = plots.themed_svg(figure, name, name)
        assert not [rule for rule in rules.values() if "#" in rule], name


def test_ids_begin_with_the_name_of_the_figure():
    svg, _ = plots.themed_svg(small_map(), "chart", "a map")
    root = ElementTree.fromstring(svg)
    assert all(e.get("id").startswith("chart-") for e in root.iter() if e.get("id"))
    assert all(e.get("href").startswith("#chart-") for e in root.iter("use"))


def test_hostile_labels_stay_text():
    for name, figure in all_figures(HOSTILE[:5]).items():
        svg, _ = plots.themed_svg(figure, name, HOSTILE[0])
        assert "script" not in tags(svg)
        svg.encode("utf-8")


def test_a_dollar_sign_is_not_a_formula():
    figure = plots.gates_figure(np.ones((1, 1)), ["all"], ["earns $5 or $x^2$"])
    svg, _ = plots.themed_svg(figure, "gates", "")
    assert "earns $5 or $x^2$" in texts(svg)


def test_the_last_row_of_the_gates_is_the_rest():
    gates = np.array([[0.5, 0.3, *[0.008] * 25]])
    figure = plots.gates_figure(gates, ["all"], [f"p{k}" for k in range(27)])
    words = texts(plots.themed_svg(figure, "gates", "")[0])
    assert "the other 3 personas together" in words
    assert [word for word in words if "." in word] == ["50.0", "30.0", *["0.8"] * 22, "2.4"]


def test_cumulated_use_starts_at_nothing_and_ends_at_everything():
    figure = plots.usage_figure(np.array([1, 0, 3.0]))
    line = figure.axes[0].lines[1].get_xydata()
    np.testing.assert_allclose(line, [[0, 0], [100 / 3, 75], [200 / 3, 100], [100, 100]])


def test_the_same_figure_gives_the_same_files(tmp_path):
    first = plots.save_figures({"map": small_map()}, tmp_path / "a")
    second = plots.save_figures({"map": small_map()}, tmp_path / "b")
    assert [path.name for path in first] == ["map.pdf", "map.svg"]
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert b"#0b62a4" in first[1].read_bytes()


def test_text_in_files_stays_text(tmp_path):
    figure = plots.gates_figure(np.ones((1, 1)), ["all"], ["a reader"])
    _, svg = plots.save_figures({"gates": figure}, tmp_path)
    assert ">a reader<" in svg.read_text(encoding="utf-8")


def test_unprintable_characters_become_visible():
    assert plots.printable("a\x00\x1b\x7f\x85\ud800\ufffe\r\n\tb") == "a␀␛␡���\n\tb"
    assert plots.printable("日本語 😀 \u202e") == "日本語 😀 \u202e"


def test_a_label_is_one_line_without_direction_overrides():
    assert plots.shorten("a\u202eb\nc", 9) == "ab c"
    assert plots.shorten("x" * 50, 10) == "x" * 9 + "…"
