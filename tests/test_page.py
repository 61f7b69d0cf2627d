"""The report: what it says, what it leaves out, and that hostile text in it does nothing."""

import csv
import io
import json
import os
import re
from dataclasses import fields, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from chromium import CHROMIUM, Browser
from mop.errors import ConfigError
from mop.report.names import short_names
from mop.report.page import (
    ExemplarUse,
    MapPoint,
    PersonaRow,
    ReportData,
    best,
    draw_figures,
    render_report,
    summary,
    way_closed,
    write_report,
)
from mop.types import Response
from report_example import example

STEAL = "document.documentElement.setAttribute('data-pwned',1);alert(1)"
HOSTILE = [
    f"</script><script>{STEAL}</script>",
    f"<img src=x onerror=\"{STEAL}\">",
    f"\"><svg onload=\"{STEAL}\"><style>*{{display:none}}</style>",
    f"</style><script>{STEAL}</script>",
    f"<!--<script>{STEAL}",
    f"]]></svg></title></textarea><script>{STEAL}</script>",
    f"javascript:{STEAL}",
    f"' onmouseover='{STEAL}' x='",
    "{{ 7 * 7 }} {% raw %} ${7*7} #{7*7}",
    "\x00\x08\x1b[31m\x7f\x85\ud800 \udfff\ufffe\uffff",
    "\u202eright to left\u2066\u2028\u2029",
    "__proto__",
    "<iframe src=https://example.invalid/></iframe><link rel=stylesheet href=//example.invalid>",
    "<meta http-equiv=refresh content='0;url=//example.invalid/'><base href=//example.invalid>",
    "$\\frac{1}{ & % \\input{/etc/passwd}",
    "x" * 3000,
]  # fmt: skip


class Elements(HTMLParser):
    """Every element with its attributes, in order."""

    def __init__(self, page):
        super().__init__()
        self.found = []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))


def hostile_data(texts):
    """A report in which every field that can hold text holds all of ``texts`` in turn."""
    keys = [f"{i} {text}" for i, text in enumerate(texts)]
    both = list(zip(keys, texts, strict=True))
    joined = "\n".join(texts)[:2000]
    n = len(texts)
    few = keys[:6]
    return ReportData(
        title=joined,
        task=texts[0],
        language_model=texts[1 % n],
        encoder=texts[2 % n],
        judge=texts[3 % n],
        source=joined,
        methods={key: {"mauve": 0.5, "improbable": 0.1, "labels_found": dict.fromkeys(keys, 0.1),
                       **dict.fromkeys(few, 0.1), key: joined} for key in ("mop", "zero-shot", *few)},
        held_out=dict.fromkeys(few, -1.0) | {"gain": 1.0, "gain_interval": [0.5, 1.5]},
        map_points=[MapPoint(x=i, y=i % 7, kind=few[i % len(few)] if i % 2 else "real", text=t,
                             label=t) for i, t in enumerate(texts)],
        personas=[PersonaRow(key=key, description=t, weight=1 / n, temperature=1.0, size=2,
                             writer=t, sources=[t, joined], doubts=[t], weight_interval=[0.0, 0.2])
                  for key, t in both],
        real=[*texts],
        side_by_side=[{"context": t, "label": t, "real": t, "mop": t, "zero-shot": joined, "cut": ["mop"]}
                      for t in texts],
        closed={"options": keys, "n_real": 9, "shares": {"golden": [0.1] * (n + 1), "mop": [0.1] * (n + 1)}},
        exemplars=[ExemplarUse(key=k, context=t, response=t, uses=2) for k, t in both],
        gate_groups=few,
        gates=np.full((len(few), n), 1 / n),
        history=[{"round": i, **{key: float(i) for key in few}} for i in range(3)],
        histogram_edges=[-1, 0, 1],
        histograms={"golden": [1, 2], **{key: [2, 1] for key in few}},
        responses=[
            Response(id=key, context=t, response=t, label=t, persona=key, exemplar=key,
                     temperature=1.0, log_pi=-1.0, log_omega=-1.0, seed=2**63, model=t,
                     prompt_version=1, finish_reason="stop", n_tokens=3, method=("mop", "zero-shot", *few)[i % 8])
            for i, (key, t) in enumerate(both)
        ],
        outcomes={key: {"draws": 2, "failed": 1, "refused": 0, "empty": 0, "cut": 1} for key in keys},
        problems={key: [text, joined] for key, text in both},
        settings={key: {t: joined, "n": {}} for key, t in both},
        versions=dict(both),
        cost=dict(both) | {"seconds": 3.0},
        origins=[dict(both)],
        command=joined,
    )  # fmt: skip


def naughty_strings():
    """The big list, where a checkout has it."""
    shared = Path(os.environ.get("MOP_SHARED", Path(__file__).parents[2] / "shared"))
    path = shared / "data" / "naughty" / "blns.json"
    if not path.is_file():
        pytest.skip(f"the list of naughty strings is not at {path.parent.name}/{path.name}")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def page():
    return render_report(example(n_responses=40, n_real=60, n_exemplars=30))


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    if CHROMIUM is None:
        pytest.skip("chromium is not installed")
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


@pytest.fixture(scope="module")
def hostile_page():
    return render_report(hostile_data(HOSTILE))


def script_data(page):
    return json.loads(re.search(r'<script type="application/json" id="data">(.*?)</script>', page)[1])


def test_the_summary_is_the_headline_and_what_is_wrong_with_the_texts():
    what, result = summary(example(n_responses=300))
    assert what == (
        "300 film reviews were simulated with the language model smollm2-135m, itself left "
        "unchanged, steered by 12 personas and 200 real examples fitted to 2,000 real records."
    )
    assert result == (
        "On energy distance, a distance that is 0 for a perfect match with real texts, the simulation "
        "reaches 0.0226; the same model asked plainly reaches 0.0492, and other real texts reach 0.0003. "
        "That is 54 % of the way (51 % to 58 %) from the one to the other. "
        "Of the texts by mop, 3.5 % were cut at the length limit, 20 % look as if another label had been asked for and "
        "3.7 % are less probable than 99 in 100 real ones (other real texts: 1.0 %)."
    )


def rows(mop, plain, floor, reach=0.0):
    return {
        name: {"energy": value, "energy_interval": [value - reach, value + reach]}
        for name, value in (("mop", mop), ("zero-shot", plain), ("floor", floor))
    }


def test_the_share_of_the_way_has_the_error_of_all_three_figures():
    # (0.05 - 0.02) / (0.05 - 0.01); its error by small steps in each figure
    def share(mop, plain, floor):
        return (plain - mop) / (plain - floor)

    at, step = (0.02, 0.05, 0.01), 1e-6
    slopes = [(share(*(v + step * (i == k) for k, v in enumerate(at))) - share(*at)) / step for i in range(3)]
    reach = 0.002 * sum(slope**2 for slope in slopes) ** 0.5
    said = re.fullmatch(r"75 % of the way \((\d+) % to (\d+) %\)", way_closed(rows(*at, reach=0.002)))
    assert [int(part) for part in said.groups()] == [round(100 * (0.75 - reach)), round(100 * (0.75 + reach))]


def test_nobody_goes_a_way_that_is_not_there():
    assert way_closed(rows(0.02, 0.01, 0.01)) == ""
    assert way_closed(rows(0.02, 0.012, 0.01, reach=0.003)) == ""
    assert way_closed({"mop": {"energy": 0.1}}) == ""
    assert way_closed(rows(0.06, 0.05, 0.0)).startswith("−20 % of the way")


def test_the_judge_is_named_and_said_to_have_written(page):
    assert 'as <span dir="auto">gemma3-270m</span> sees them.' in page
    data = replace(example(n_responses=2, n_real=2), judge="smollm2-135m")
    assert "sees them, the model that wrote them." in render_report(data)
    assert "sees them" not in render_report(replace(data, judge=""))


def test_a_run_without_comparison_says_so():
    assert summary(ReportData(title="x"))[1] == "It has not been compared with real texts yet."


def test_the_sections_come_in_their_order(page):
    order = [attrs["id"] for tag, attrs in Elements(page).found if tag == "section" and "id" in attrs]
    assert order == [
        "first", "scores", "held-out", "map", "personas", "draws", "exemplars", "gates", "history", "similarity",
        "lengths", "labels", "responses", "doubts", "settings", "limits", "cite",
    ]  # fmt: skip


def test_the_version_to_cite_is_named(page):
    assert "name its version (0.1.0)" in page


def test_the_contents_name_exactly_the_sections_there_are(page):
    for text in (page, render_report(ReportData(title="bare"))):
        found = Elements(text).found
        ids = [a["id"] for tag, a in found if tag == "section" and "id" in a]
        links = [a["href"] for tag, a in found if tag == "a" and a["href"].startswith("#")]
        assert [f"#{name}" for name in ids] == links[2:]


def test_an_empty_run_is_a_short_page_with_its_limits():
    page = render_report(ReportData(title="Nothing yet"))
    ids = [attrs.get("id") for tag, attrs in Elements(page).found if tag == "section"]
    assert ids == ["doubts", "limits", "cite"]
    assert "Simulated answers are not people’s." in page


FULL = example(n_responses=2, n_real=4, n_exemplars=4, n_personas=2)


@pytest.mark.parametrize("name", [part.name for part in fields(ReportData)][1:])
def test_any_one_field_can_be_there_alone(name):
    value = getattr(FULL, name)
    if name == "gates":
        value = None  # needs its groups and personas, as the next test has it
    page = render_report(replace(ReportData(title="x"), **{name: value}))
    assert '<section id="limits">' in page


def test_a_field_that_is_missing_leaves_its_section_out(page):
    data = example(n_responses=40, n_real=60, n_exemplars=30)
    bare = replace(data, held_out=None, gates=None, history=(), histogram_edges=(), exemplars=())
    ids = {attrs.get("id") for tag, attrs in Elements(render_report(bare)).found if tag == "section"}
    assert {"scores", "map", "personas", "responses"} <= ids
    assert not {"held-out", "gates", "history", "similarity", "exemplars"} & ids


def test_the_best_value_is_marked_and_the_floor_is_not_ranked(page):
    main, paper = page.split('class="scores main')[1:]
    best = [re.findall(r'<span class="best" dir="auto">([^<]*)</span>', part.partition("</table>")[0])
            for part in (main, paper)]  # fmt: skip
    # Neither a smoother text nor a rougher one is better.
    # And what is best within the intervals alone is not marked.
    assert best == [[], []]
    clear = replace(example(n_responses=2, n_real=2), methods={
        "mop": {"energy": 0.02, "energy_interval": [0.01, 0.03]},
        "zero-shot": {"energy": 0.05, "energy_interval": [0.04, 0.06]},
    })  # fmt: skip
    assert re.findall(r'<span class="best" dir="auto">([^<]*)</span>', render_report(clear)) == ["0.0200"]
    assert "Other real texts" in main


def test_a_tie_of_all_methods_has_no_best():
    data = ReportData(title="x", methods={"mop": {"fid": 0.2}, "zero-shot": {"fid": 0.2}})
    assert 'class="mark"' not in render_report(data)


def test_an_unknown_metric_is_shown_under_its_own_name_unranked():
    data = ReportData(title="x", methods={"mop": {"odd_one": 2.5}, "zero-shot": {"odd_one": 3.5}})
    page = render_report(data)
    assert "odd one" in page
    assert 'class="mark"' not in page


@pytest.mark.parametrize(
    ("interval", "verdict"),
    [
        ([0.1, 0.9], "The interval lies above zero: fitted weights helped, beyond chance."),
        ([-0.1, 0.9], "The interval contains zero: fitted weights made no clear difference"),
        ([-0.9, -0.1], "The interval lies below zero: fitted weights did harm on texts"),
    ],
)
def test_the_verdict_follows_the_interval(interval, verdict):
    data = ReportData(title="x", held_out={"mop": -1.0, "gain": 0.4, "gain_interval": interval})
    assert verdict in render_report(data)


def test_the_same_run_gives_the_same_page(page):
    assert render_report(example(n_responses=40, n_real=60, n_exemplars=30)) == page


def test_points_keep_their_texts_and_the_drawing_its_order(page):
    data = example(n_responses=40, n_real=60, n_exemplars=30)
    found = script_data(page)
    assert found["kinds"] == ["real", "mop-uniform", "zero-shot", "mop"]
    for kind, points in zip(found["kinds"], found["points"], strict=True):
        assert points == [[p.text, p.label] for p in data.map_points if p.kind == kind]


def test_a_response_names_its_persona_and_exemplar(page):
    data = example(n_responses=40, n_real=60, n_exemplars=30)
    found = script_data(page)
    for row, response in zip(found["responses"], data.responses, strict=True):
        assert row[0] == response.id
        assert row[14] == str(response.seed)
        if response.persona:
            assert found["personas"][row[5]][0] == response.persona
            assert [found["exemplars"][i][0] for i in row[7]] == [response.exemplar]


def test_several_exemplars_are_found_one_by_one():
    data = example(n_responses=1, n_exemplars=5)
    response = replace(data.responses[0], exemplar="rt-1 rt-3")
    few = ReportData(title="x", exemplars=data.exemplars, responses=[response])
    found = script_data(render_report(few))
    assert [found["exemplars"][i][0] for i in found["responses"][0][7]] == ["rt-1", "rt-3"]


def test_the_page_names_no_address_but_the_paper(page):
    urls = set(re.findall(r"(?:https?:)?//[a-z0-9.-]+\.[a-z]{2,}[^\"'<\s]*", page))
    # The second is the name of SVG, which a script needs to make an element; nothing is fetched.
    assert urls == {"https://arxiv.org/abs/2504.05019", "http://www.w3.org/2000/svg"}
    assert "url(" not in page.replace("url(#", "")


def test_the_policy_admits_our_own_style_and_script_only(page):
    policy = next(a["content"] for tag, a in Elements(page).found if "http-equiv" in a)
    assert policy.startswith("default-src 'none'; style-src 'sha256-")
    assert "unsafe" not in policy
    assert not [attrs for _, attrs in Elements(page).found if "style" in attrs]
    assert not [name for _, attrs in Elements(page).found for name in attrs if name.startswith("on")]


@pytest.mark.trial("26-report-escaping")
def test_hostile_text_adds_no_element(hostile_page):
    calm = render_report(hostile_data([f"calm {i}" for i in range(len(HOSTILE))]))
    page = hostile_page
    kinds = [tag for tag, _ in Elements(page).found]
    for tag in ("script", "style", "iframe", "link", "meta", "base", "img", "h1", "article", "title"):
        assert kinds.count(tag) == [t for t, _ in Elements(calm).found].count(tag), tag
    assert not [name for _, attrs in Elements(page).found for name in attrs if name.startswith("on")]
    hrefs = [attrs["href"] for _, attrs in Elements(page).found if attrs.get("href")]
    assert not [href for href in hrefs if not href.startswith(("#", "data:,", "https://arxiv.org/"))]
    assert "{{ 7 * 7 }}" in page


def test_hostile_text_reaches_the_script_unchanged_but_printable(hostile_page):
    found = script_data(hostile_page)
    texts = [row[3] for row in found["responses"]]
    assert texts[:9] == HOSTILE[:9]
    assert texts[9] == "␀␈␛[31m␡�� ���"
    assert texts[10] == HOSTILE[10]


def test_the_page_is_written_whole(tmp_path):
    path = tmp_path / "report.html"
    write_report(ReportData(title=HOSTILE[9], task=HOSTILE[10]), path)
    assert path.read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_a_large_run_stays_small():
    data = example(n_responses=2000 // 3, n_real=3000, n_personas=40, n_exemplars=1000)
    long = [replace(row, response=row.response * 5) for row in data.responses]
    page = render_report(replace(data, responses=long, map_points=data.map_points[:5000]))
    assert len(page.encode()) < 6_000_000


def test_the_figures_of_a_paper_have_names():
    assert list(draw_figures(example(n_responses=5, n_real=5, n_exemplars=5))) == [
        "metrics", "exemplars", "history", "similarity", "lengths", "labels", "gates", "persona-labels", "map",
    ]  # fmt: skip


def test_the_course_of_the_fit_shows_log_likelihoods_alone():
    rounds = [{"round": i, "train": -9.0 + i, "crossed": -10.0 + i, "gain": 0.5, "kept_round": 1.0, "n_cells": 9}
              for i in range(2)]  # fmt: skip
    data = replace(example(n_responses=2, n_real=2), history=rounds, best_step=1)
    axes = draw_figures(data)["history"].axes[0]
    assert [line.get_label() for line in axes.get_lines()] == [
        "kept", "records it was fitted to", "records kept aside"
    ]  # fmt: skip
    assert axes.get_ylim()[1] < -7
    assert "judged by a fit that was made without it" in render_report(data)
    assert "judged by a fit that was made" not in render_report(example(n_responses=2, n_real=2))


def test_gates_of_another_fit_are_refused():
    data = replace(example(n_responses=2, n_real=2), gate_groups=("only",))
    message = (
        r"the gates of a report need one row per group and one column per persona: got \(2, 12\) "
        "for 1 groups and 12 personas; pass groups and personas of the same fit"
    )
    with pytest.raises(ConfigError, match=message):
        render_report(data)


def test_histograms_that_do_not_fit_their_edges_are_refused():
    data = replace(example(n_responses=2, n_real=2), histogram_edges=[-1, 0, 1])
    message = "the histogram 'golden' of a report has 100 counts for 3 edges; it needs one fewer than edges"
    for show in (render_report, draw_figures):
        with pytest.raises(ConfigError, match=message):
            show(data)


def test_only_a_ranked_metric_of_several_methods_has_a_best():
    rows = {"a": {"fid": 0.26, "mauve": 0.7, "sense": -3.0}, "b": {"fid": 0.31, "mauve": 0.8, "sense": -4.0}}
    assert [best(rows, name) for name in ("fid", "mauve", "sense", "f1")] == [{"a"}, {"b"}, set(), set()]
    assert best({"a": rows["a"]}, "fid") == set()
    assert best({**rows, "c": rows["a"]}, "fid") == {"a", "c"}


def use_everything(browser):
    """Touch every control of the page."""
    browser.run(
        """(() => {
      const fire = (e, type, more) => e.dispatchEvent(new Event(type, {bubbles: true, ...more}));
      document.querySelectorAll('details').forEach(d => { d.open = true; });
      document.querySelectorAll('#legend button, #persona-sort button').forEach(b => b.click());
      document.querySelectorAll('#legend button[aria-pressed=false]').forEach(b => b.click());
      document.getElementById('persona-more')?.click();
      const svg = document.querySelector('#map-box .drawing svg');
      ['ArrowRight', 'ArrowUp', 'ArrowLeft', 'ArrowDown'].forEach(key =>
        svg?.dispatchEvent(new KeyboardEvent('keydown', {key})));
      document.querySelectorAll('select').forEach(s => [...s.options].forEach(o => {
        s.value = o.value; fire(s, 'change');
        document.querySelectorAll('#list details').forEach(d => { d.open = true; }); }));
      document.querySelectorAll('select').forEach(s => { s.value = ''; fire(s, 'change'); });
      document.getElementById('next')?.click();
      document.querySelectorAll('#list details').forEach(d => { d.open = true; });
      document.querySelectorAll('.all input').forEach(box => box.click());
      const box = document.getElementById('search');
      for (const words of box ? ['a', '<script>', 'x{', 'no such words'] : []) {
        box.value = words;
        box.form.requestSubmit();
      }
      document.getElementById('clear')?.click();
      document.getElementById('random')?.click();
      navigator.clipboard.writeText = text => { (window.copied ??= []).push(text); return Promise.resolve(); };
      window.saved = [];
      HTMLAnchorElement.prototype.click = function () { window.saved.push(this.download); };
      document.querySelectorAll('.exports button, .copy').forEach(b => b.click());
    })()"""
    )
    browser.settle()
    names = browser.run("window.saved")
    assert names
    assert all(re.fullmatch(r"[a-z-]+\.(csv|jsonl)", name) for name in names), "no file name is from data"


@pytest.mark.trial("26-report-escaping")
def test_hostile_text_does_nothing_in_a_browser(browser, hostile_page, tmp_path):
    (tmp_path / "hostile.html").write_text(hostile_page, encoding="utf-8")
    browser.emulate(width=390)
    browser.open(tmp_path / "hostile.html")
    use_everything(browser)
    assert browser.dialogs == []
    assert browser.complaints == []
    assert browser.requests == [(tmp_path / "hostile.html").as_uri()]
    assert not browser.run("document.documentElement.hasAttribute('data-pwned')")
    assert browser.run("document.documentElement.scrollWidth") == 390, "long words do not widen the page"


HOSTILE_CELLS = [
    "=1+1",
    "+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1",
    " =1",
    "\uff1d1+1",
    '=HYPERLINK("http://x","y")',
    "|cmd",
    "%x",
    "-5",
    "1e3",
    'a "b", c',
]


@pytest.mark.trial("26-report-escaping")
def test_no_download_or_copy_holds_a_formula(browser, tmp_path):
    row = example(n_responses=1, n_exemplars=5).responses[0]
    responses = [replace(row, id=f"{i}", response=text, context=text, label=text, persona=None, exemplar=text)
                 for i, text in enumerate(HOSTILE_CELLS)]  # fmt: skip
    beside = [{"context": text, "label": "", "real": text, "mop": text, "cut": []} for text in HOSTILE_CELLS]
    personas = [
        PersonaRow(key=f"p{i}", description=text, weight=0.5, temperature=1.0) for i, text in enumerate(HOSTILE_CELLS)
    ]
    write_report(ReportData(title="x", responses=responses, side_by_side=beside, personas=personas,
                            gate_groups=HOSTILE_CELLS[:4], gates=np.full((4, len(personas)), 1 / len(personas))),
                 tmp_path / "x.html")  # fmt: skip
    browser.emulate(width=1280)
    browser.open(tmp_path / "x.html")
    browser.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    browser.run("navigator.clipboard.writeText = t => { (window.copied ??= []).push(t); return Promise.resolve(); }")
    for selector in ("#save-csv", "#save-jsonl", "[data-save-beside]", "[data-save-table]", "#copy-found",
                     "[data-copy-beside]", "[data-copy-table]"):  # fmt: skip
        browser.run(f"document.querySelectorAll({selector!r}).forEach(b => b.click())")
        browser.settle(0.8)
    copied = browser.run("window.copied")
    files = {path.name: path.read_bytes().decode("utf-8-sig") for path in tmp_path.iterdir() if path.suffix == ".csv"}
    assert set(files) == {"responses.csv", "texts.csv", "gates.csv"}
    assert len(copied) == 3
    for text in (*files.values(), *copied):
        cells = [cell for line in csv.reader(io.StringIO(text, newline="")) for cell in line]
        assert len(cells) > 20
        begin = [cell for cell in cells if re.match(r"\s*[=+@|%\uff1d-]", cell)]
        assert [cell for cell in begin if not re.fullmatch(r"-?[\d.e]+", cell)] == []
    found = list(csv.DictReader(io.StringIO(files["responses.csv"], newline="")))
    assert [line["response"].removeprefix("'") for line in found] == HOSTILE_CELLS
    assert [line["response"] for line in found][-3:] == HOSTILE_CELLS[-3:], "numbers and plain texts stay as they are"
    lines = [json.loads(line) for line in (tmp_path / "responses.jsonl").read_text(encoding="utf-8").splitlines()]
    assert [line["response"] for line in lines] == HOSTILE_CELLS, "JSONL is exact"
    assert browser.complaints == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_wide_table_scrolls_under_its_first_column(browser, tmp_path, width):
    labels = {f"group number {i}": 0.5 for i in range(12)}
    data = replace(example(n_responses=4, n_real=4), gate_groups=list(labels), gates=np.full((12, 12), 1 / 12))
    write_report(data, tmp_path / "wide.html")
    browser.emulate(width=width)
    browser.open(tmp_path / "wide.html")
    browser.run("document.querySelectorAll('#gates details, #scores details').forEach(d => { d.open = true; })")
    found = browser.run(
        """(() => {
      const box = [...document.querySelectorAll('#gates .scroll')][0];
      const first = box.querySelector('tbody th');
      const before = first.getBoundingClientRect().left;
      const room = box.scrollWidth - box.clientWidth;
      box.scrollLeft = 150;
      return [room, box.scrollLeft, first.getBoundingClientRect().left - before, box.tabIndex,
        document.documentElement.scrollWidth, getComputedStyle(box).backgroundAttachment];
    })()"""
    )
    room, scrolled, moved, tab, page_width, attachment = found
    assert room > 150
    assert scrolled == 150
    assert abs(moved) < 1, "the first column stays"
    assert tab == 0
    assert page_width == width
    assert attachment == "local, local, scroll", "a shadow hints at what is beyond the edge"


def test_every_control_works_in_the_dark_without_a_word_on_the_console(browser, page, tmp_path):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browser.emulate(width=1280, dark=True)
    browser.open(tmp_path / "page.html")
    use_everything(browser)
    assert browser.complaints == []
    assert browser.requests == [(tmp_path / "page.html").as_uri()]


@pytest.mark.parametrize("width", [1280, 768, 390])
def test_the_figures_fit_their_columns(browser, page, tmp_path, width):
    (tmp_path / "page.html").write_text(page, encoding="utf-8")
    browser.emulate(width=width)
    browser.open(tmp_path / "page.html")
    tables = browser.run(
        "[...document.querySelectorAll('.scores.main')].map(t => [t.scrollWidth, t.parentElement.clientWidth])"
    )
    assert len(tables) == 2
    assert all(table <= room for table, room in tables)
    wide = browser.run(
        "[...document.querySelectorAll('.scores.main td')].filter(c => c.scrollWidth > c.clientWidth).length"
    )
    assert wide == 0


def test_naughty_strings_do_nothing_in_a_browser(browser, tmp_path):
    write_report(hostile_data(naughty_strings()), tmp_path / "naughty.html")
    browser.open(tmp_path / "naughty.html")
    use_everything(browser)
    assert (browser.dialogs, browser.complaints) == ([], [])
    assert browser.requests == [(tmp_path / "naughty.html").as_uri()]


def test_a_script_that_is_not_ours_is_refused_and_seen(browser, tmp_path):
    page = render_report(ReportData(title="x")).replace("</main>", f"<script>{STEAL}</script></main>")
    (tmp_path / "broken.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "broken.html")
    assert browser.dialogs == []
    assert "Content Security Policy" in browser.complaints[0]


def pick(browser, control, value):
    """Choose in a menu by what it says, and return the count line."""
    browser.run(f"""(() => {{
      const menu = document.getElementById({control!r});
      menu.value = [...menu.options].find(o => o.textContent.startsWith({value!r})).value;
      menu.dispatchEvent(new Event('change'));
    }})()""")
    return browser.run("document.getElementById('count').textContent")


def search_for(browser, words):
    browser.run(
        f"(() => {{ const s = document.getElementById('search'); s.value = {words!r}; s.form.requestSubmit(); }})()"
    )
    return browser.run("document.getElementById('count').textContent")


def shown(browser):
    """The answers on the page of responses."""
    return browser.run("[...document.querySelectorAll('#list blockquote')].map(q => q.textContent)")


def test_search_says_where_it_found_the_words(browser, tmp_path):
    data = example(n_responses=40, n_real=4, n_exemplars=30)
    named = [replace(data.personas[0], description="You love Kevin and trains."), *data.personas[1:]]
    rows = [replace(row, response="Kevin is here" if i == 39 else "nothing", persona="p00" if i % 4 == 0 else "p01")
            for i, row in enumerate(data.responses[:40])]  # fmt: skip
    write_report(replace(data, personas=named, responses=rows, map_points=()), tmp_path / "x.html")
    browser.emulate(width=1280)
    browser.open(tmp_path / "x.html")
    said = search_for(browser, "kevin")
    assert said == "11 of 40 responses: 1 in the answer, 10 only in the question, the persona or the label"
    assert shown(browser)[0] == "Kevin is here", "answers come first"
    assert browser.run("document.querySelector('#list mark').textContent") == "Kevin"
    assert browser.run("[...document.querySelectorAll('#list .meta')].map(m => m.lastChild.textContent)") == [
        "found in: answer", *["found in: persona"] * 10,
    ]  # fmt: skip
    assert pick(browser, "by-field", "answer") == "1 of 40 responses"
    assert pick(browser, "by-field", "persona") == "10 of 40 responses"


def test_responses_are_filtered_sorted_and_leafed_at_random(browser, page, tmp_path):
    data = example(n_responses=40, n_real=60, n_exemplars=30)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.emulate(width=1280)
    browser.open(tmp_path / "report.html")
    cut = sum(row.finish_reason == "length" for row in data.responses)
    assert pick(browser, "by-ending", "cut at the length limit") == f"{cut} of 120 responses"
    browser.run("document.getElementById('clear').click()")
    assert pick(browser, "by-label", "positive") == "60 of 120 responses"
    assert pick(browser, "by-context", "Write a negative") == "0 of 120 responses"
    browser.run("document.getElementById('clear').click()")
    pick(browser, "by-order", "shortest first")
    sizes = [len(text.split()) for text in shown(browser)]
    assert sizes == sorted(sizes)
    first = shown(browser)
    browser.run("document.getElementById('random').click()")
    assert shown(browser) != first
    assert browser.run("document.getElementById('place').textContent") != "1 of 8"


def test_personas_go_by_short_names(page):
    names = short_names([row.description for row in example(n_responses=2, n_real=2).personas])
    assert len({name.split()[0] for name in names}) > 6, "no column in which all begin alike"
    drawn = draw_figures(example(n_responses=5, n_real=5, n_exemplars=5))
    for figure in ("gates", "persona-labels"):
        shown = {label.get_text() for label in drawn[figure].axes[0].get_yticklabels()}
        assert shown == set(names)
    draws = page.partition('id="draws"')[2].partition("</section>")[0]
    assert "p00" not in draws
    assert any(name in draws for name in names)
    assert [row[2] for row in script_data(page)["personas"]] == names


def test_the_first_figure_is_the_texts_themselves(page):
    first = page.partition('id="first"')[2].partition("</section>")[0]
    assert page.index('id="first"') < page.index('class="scores main')
    assert first.count('class="beside"') == 8
    assert first.count("asked plainly (zero-shot)") == 8
    assert "of another label than asked for" in first
    assert "cut at the length limit" in first


def test_what_became_of_the_draws_is_one_sentence():
    data = replace(example(n_responses=40, n_real=2), personas=(), exemplars=(), gates=None)
    calm = {"p00": {"draws": 30, "failed": 0, "refused": 0, "empty": 0, "cut": 0}}
    page = render_report(replace(data, outcomes=calm))
    draws = page.partition('id="draws"')[2].partition("</section>")[0]
    assert "Nothing was refused and nothing failed. All 30 draws gave a text that ended by itself." in draws
    assert "<table" not in draws
    lost = {**calm, "p01": {"draws": 10, "failed": 0, "refused": 4, "empty": 0, "cut": 1}}
    draws = render_report(replace(data, outcomes=lost)).partition('id="draws"')[2].partition("</section>")[0]
    assert "<b>Of 40 draws 4 were refused, 1 were cut at the length limit.</b>" in draws
    assert draws.index("p01") < draws.index("p00"), "who lost most comes first"


@pytest.mark.parametrize(("interval", "quiet"), [([-0.1, 0.5], 2), ([0.1, 0.5], 0), (None, 0)])
def test_a_gain_that_may_be_chance_is_grey(interval, quiet):
    page = render_report(ReportData(title="x", held_out={"mop": -1.0, "gain": 0.2, "gain_interval": interval}))
    assert page.count('<div class="quiet">') == quiet


def test_every_chart_is_a_table_too(page):
    drawn = set(draw_figures(example(n_responses=40, n_real=60, n_exemplars=30)))
    tables = set(re.findall(r'data-save-table="([a-z-]+)"', page))
    assert drawn - {"map", "metrics", "exemplars"} <= tables, "scores and examples have their own"


def test_charts_show_the_answers_to_closed_questions():
    shares = {"golden": [0.6, 0.4, 0.0], "mop": [0.5, 0.3, 0.2], "floor": [0.6, 0.4, 0.0]}
    scores = {"valid_answers": 0.8, "valid_answers_interval": [0.7, 0.9],
              "total_variation": 0.2, "total_variation_interval": [0.1, 0.3]}  # fmt: skip
    closed = {"options": ["Yes", "No"], "n_real": 10, "shares": shares}
    data = ReportData(title="x", methods={"mop": scores}, closed=closed)
    assert list(draw_figures(data)) == ["metrics", "options"]
    table = render_report(data).partition('id="labels"')[2].partition("</table>")[0]
    assert re.findall(r'<t[hd][^>]*>([^<]*)</t[hd]>', table)[3:] == [
        "Yes", "60 %", "50 %", "No", "40 %", "30 %", "none of them", "0.0 %", "20 %",
    ]  # fmt: skip


def test_the_citation_and_the_command_can_be_copied(browser, page, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    browser.run("navigator.clipboard.writeText = t => { (window.copied ??= []).push(t); return Promise.resolve(); }")
    browser.run("document.querySelectorAll('[data-copy]').forEach(b => b.click())")
    command, bibtex = browser.run("window.copied")
    assert command == "mop run runs/demo --preset demo --set seed=0"
    assert bibtex.startswith("@inproceedings{bui-etal-2025-mixture,")
    assert "2504.05019" in bibtex


def test_a_copy_without_a_clipboard_leaves_no_trace(browser, page, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    browser.run("navigator.clipboard.writeText = () => Promise.reject(new Error('no'))")
    browser.run("document.querySelector('[data-copy]').click()")
    browser.settle()
    assert browser.run("document.querySelector('[data-copy]').textContent") in {"Copied", "The browser forbids it"}
    assert browser.run("document.querySelectorAll('textarea').length") == 0
    assert browser.complaints == []


def test_the_controls_work_in_a_browser(browser, page, tmp_path):
    data = example(n_responses=40, n_real=60, n_exemplars=30)
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    assert browser.run("document.getElementById('count').textContent") == "120 responses"
    assert browser.run("document.querySelectorAll('#list article').length") == 15
    browser.run("(() => { const s = document.getElementById('by-method'); s.value = '2';"
                "s.dispatchEvent(new Event('change')); })()")  # fmt: skip
    assert browser.run("document.getElementById('count').textContent") == "40 of 120 responses"
    browser.run("(() => { const s = document.getElementById('search'); s.value = 'GRIEF costume';"
                "s.form.requestSubmit(); })()")  # fmt: skip
    assert browser.run("document.getElementById('count').textContent") == "0 of 120 responses"
    browser.run("document.getElementById('clear').click()")
    assert browser.run("document.getElementById('count').textContent") == "120 responses"
    browser.run("document.querySelector('[data-sort=temperature]').click()")
    taus = browser.run("[...document.querySelectorAll('#persona-list > li')].map(r => +r.dataset.temperature)")
    assert taus == sorted(taus, reverse=True)
    browser.run("document.querySelector('#map-box .drawing svg')"
                ".dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowRight'}))")  # fmt: skip
    assert browser.run("document.getElementById('reading').lastElementChild.textContent") in {
        point.text for point in data.map_points
    }
    browser.run("document.getElementById('theme').click()")
    assert browser.run("document.documentElement.dataset.theme") == "light"


def test_the_map_shows_one_label_and_comes_closer(browser, page, tmp_path):
    (tmp_path / "report.html").write_text(page, encoding="utf-8")
    browser.open(tmp_path / "report.html")
    n_shown = "[...document.querySelectorAll('#map-box use')].filter(u => !u.classList.contains('off')).length"
    every = browser.run(n_shown)
    browser.run("(() => { const m = document.getElementById('map-label'); m.value = '1';"
                "m.dispatchEvent(new Event('change')); })()")  # fmt: skip
    data = example(n_responses=40, n_real=60, n_exemplars=30)
    assert browser.run(n_shown) == sum(point.label == "negative" for point in data.map_points) < every
    width = "document.querySelector('#map-box .drawing svg').viewBox.baseVal.width"
    far = browser.run(width)
    browser.run("document.getElementById('map-in').click()")
    assert browser.run(width) == far / 2
    browser.run("document.getElementById('map-out').click()")
    assert browser.run(width) == far
    assert browser.run("document.getElementById('map-out').disabled")
