"""What every page of ours is made with: figures as a reader wants them, and text that no script can end."""

import pytest

from mop.report.document import effective, ends, flat, number, percent, printable
from mop.report.table import comparison_page


def comparison(name):
    """A page without script in which a hostile text stands everywhere."""
    rows = {name: {"energy": 0.1, "energy_interval": [0.0, 0.2], "n_seeds": 1, "lm_calls": 3}, "b": {"energy": 0.2}}
    document = {
        "n_responses": 4, "n_golden": 9, "encoder": name, "classifier": name, "lm": name, "source": name,
        "floor": {"energy": 0.0}, "real": {name: {"f1": 0.5, "f1_interval": [0.4, 0.6], "n_train": 5}},
        "notes": [name], "settings": {name: {"a": name}},
    }  # fmt: skip
    return comparison_page(document, rows, {}, {"golden": [[0, 0]], name: [[1, 1]], "b": [[2, 0]]})


def test_a_missing_number_is_a_dash():
    assert [number(None), percent(None), ends(None)] == ["–", "–", ""]


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


def test_a_comparison_shows_figures_intervals_and_costs():
    page, _ = comparison("a method")
    assert '<td class=""><b>0.100</b><small class="range">0.000 to 0.200</small></td>' in page
    assert '<dd class="big">0.500</dd><dd class="note">0.400 to 0.600</dd>' in page
    assert '<th scope="col">LM calls</th>' in page
    assert "style-src &#39;sha256-" in page
    assert "script-src &#39;sha256-" in page
