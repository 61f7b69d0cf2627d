"""What every page of ours is made with: figures as a reader wants them, and text that no script can end."""

import re
from dataclasses import replace

import pytest

from chromium import CHROMIUM, Browser
from mop.report.document import effective, ends, flat, number, percent, printable, signed
from mop.report.palette import COLOURS
from mop.report.table import comparison_page
from mop.types import Record, Response


def comparison(name, *, source=None, about=None, **more):
    """A page in which a hostile text stands everywhere."""
    rows = {name: {"energy": 0.1, "energy_interval": [0.0, 0.2], "n_seeds": 1, "lm_calls": 3}, "b": {"energy": 0.2}}
    document = {
        "n_responses": 4, "n_golden": 9, "encoder": name, "classifier": name, "lm": name, "source": source or name,
        "floor": {"energy": 0.0}, "real": {name: {"f1": 0.5, "f1_interval": [0.4, 0.6], "n_train": 5}},
        "best": {"energy": name}, "notes": [name], "settings": {name: {"a": name}},
        **(about or {}),
    }  # fmt: skip
    return comparison_page(document, rows, {}, {"golden": [[0, 0]], name: [[1, 1]], "b": [[2, 0]]}, **more)


def test_a_missing_number_is_a_dash():
    assert [number(None), percent(None), ends(None)] == ["–", "–", ""]


def test_a_sign_stands_before_a_digit():
    assert [signed(v) for v in (0.5, -0.5, 0.0, 0.00001)] == ["+0.500", "−0.500", "0.000", "<0.0001"]


def test_equal_shares_are_as_varied_as_they_are_many():
    assert effective([3, 3, 3, 0]) == pytest.approx(3)
    assert effective([]) == effective([0, 0]) == 0


def test_settings_are_named_with_their_sections():
    assert flat({"a": {"b": 1, "c": {}}, "d": "x"}) == [("a.b", "1"), ("a.c", "{}"), ("d", "x")]


def test_every_text_in_nested_data_is_made_printable():
    assert printable({"a\x00": ["\x07", {"b": "\ud800"}], "n": 1.5}) == {"a␀": ["␇", {"b": "�"}], "n": 1.5}


def test_hostile_text_adds_nothing_to_a_comparison():
    page, figures = comparison("</style><script>alert(1)</script>\x00")
    assert page.count("<script") == page.count("</script>") == 2
    assert page.count("</style>") == 1
    assert "&lt;script&gt;" in page
    assert "\x00" not in page
    assert list(figures) == ["metrics", "map"]


def answers(method, text, n=3):
    one = Response(
        id="", context=text, response=text, label=text, persona=None, exemplar=None, temperature=1.0, log_pi=0.0,
        log_omega=0.0, seed=1, model=text, prompt_version=1, finish_reason="length", n_tokens=1, method=method,
    )  # fmt: skip
    return [replace(one, id=f"{i}") for i in range(n)]


@pytest.mark.trial("26-report-escaping")
def test_hostile_texts_stand_side_by_side_and_do_nothing(tmp_path):
    text = "</script><script>document.documentElement.dataset.pwned = 1</script><img src=x onerror=alert(1)>"
    page, _ = comparison("mop", texts={name: answers(name, text) for name in ("mop", "b")},
                         real=[Record(key=f"{i}", context=text, response=text) for i in range(3)])  # fmt: skip
    assert page.count('class="beside"') == 3
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img" not in page
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    (tmp_path / "c.html").write_text(page, encoding="utf-8")
    with Browser(tmp_path / "profile") as browser:
        for width in (390, 1280):
            browser.emulate(width=width)
            browser.open(tmp_path / "c.html")
            browser.run("document.querySelectorAll('details').forEach(d => { d.open = true; })")
            browser.run(
                "HTMLAnchorElement.prototype.click = function () { (window.saved ??= []).push(this.download); }"
            )
            browser.run("document.querySelectorAll('.all input, .exports button, .copy').forEach(b => b.click())")
            browser.run("document.getElementById('theme').click()")
            browser.settle()
            assert browser.run("document.documentElement.scrollWidth") == width
        assert browser.run("document.documentElement.dataset.theme") in {"light", "dark", "auto"}
        assert set(browser.run("window.saved")) == {"texts.csv", "methods.csv", "cost-methods.csv", "lengths.csv"}
        assert browser.run("document.documentElement.dataset.pwned") is None
        assert (browser.dialogs, browser.complaints) == ([], [])
        assert browser.requests == [(tmp_path / "c.html").as_uri()]


def test_a_comparison_of_closed_answers_shows_their_shares_in_per_cent():
    closed = {"options": ["Yes", "No"], "n_real": 9,
              "shares": {"golden": [0.6, 0.4, 0.0], "mop": [0.5, 0.25, 0.25], "b": [1.0, 0.0, 0.0]}}  # fmt: skip
    page, figures = comparison("mop", about={"closed": closed, "verdicts": ["MAUVE: mop against zero-shot"]})
    assert list(figures) == ["metrics", "map", "options"]
    table = page.partition('id="options"')[2].partition("</table>")[0]
    assert re.findall(r"<td[^>]*>([^<]*)</td>", table)[:3] == ["60 %", "50 %", "100 %"]
    assert '<li dir="auto">MAUVE: mop against zero-shot</li>' in page


def test_a_comparison_explains_its_figures_and_its_methods():
    page, _ = comparison("zero-shot", source="clean.csv")
    assert "<title>2 methods compared · Simulated responses: clean</title>" in page
    assert "Distance between the two clouds of texts" in page
    assert "asks the model plainly, with the question alone" in page
    assert 'id="theme"' in page


def test_a_comparison_shows_few_columns_until_all_are_wanted():
    page, _ = comparison("mop")
    assert '<th scope="col" class="extra">seeds</th>' in page
    assert '<label class="all"><input type="checkbox"> All columns</label>' in page


def test_a_method_has_the_same_colour_in_a_comparison_and_in_a_report():
    page, figures = comparison("zero-shot")
    swatches = re.findall(r'<svg class="swatch".*?var\(--([a-z0-9-]+)\)', page, re.S)
    assert swatches[0] == "series-2"
    assert figures["metrics"].axes[0].get_lines()[-3].get_color() == COLOURS["series-2"]


def test_a_comparison_shows_figures_intervals_and_costs():
    page, _ = comparison("a method")
    assert '<td class=""><b>0.100</b><small class="range">0.000 to 0.200</small></td>' in page
    assert '<dd class="big">0.500</dd><dd class="note">0.400 to 0.600</dd>' in page
    assert '<th scope="col">LM calls</th>' in page
    assert "style-src &#39;sha256-" in page
    assert "script-src &#39;sha256-" in page
