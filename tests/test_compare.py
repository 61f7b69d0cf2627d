"""mop compare on the fake model: what is written, what is shared, what a second call does, which rival is best."""

import json
import shutil
from collections import Counter
from types import SimpleNamespace

import pytest

from conftest import reviews
from mop.backends.fake_server import FakeServer, Faults
from mop.cli import OK, main, show
from mop.config import PRESETS, resolve_config
from mop.errors import ConfigError, DataError, ScoringUnsupportedError
from mop.runs.ablations import changes_nothing, variant_settings
from mop.runs.compare import (
    Arm,
    _Bench,
    _draw_further,
    _open_bench,
    balanced,
    compare,
    draw_piece,
    pieces,
    refuse_few_texts,
)
from mop.runs.verbs import simulate_method
from mop.runs.work import Models
from mop.storage.files import read_json, read_jsonl, write_json
from mop.storage.store import Store
from mop.types import Record
from test_remote import N_PROBES
from test_remote_run import WRITER, served

SMALL = (
    "fit.n_rounds=1", "fit.n_folds=2", "evaluate.n_seeds=1",
    "evaluate.n_bootstrap=10", "compare.n_responses=16", "compare.n_ablation=8", "compare.n_seeds_best=2",
    'compare.methods=["zero-shot", "zerogen", "few-shot"]',
    'compare.ablations=["no-exemplars", "tokens-2", "n-12"]', "simulate.n_responses=16",
)  # fmt: skip


PAPERS_FIT = [f"fit.{name}={json.dumps(value)}" for name, value in PRESETS["paper"]["fit"].items()]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("compare") / "<b>reviews&.jsonl"
    rows = [{"context": r.context, "response": r.response, "label": r.label} for r in reviews(160)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def settings(source, *more):
    return resolve_config(
        preset="quick",
        assignments=[
            f'data.source="{source}"', "data.label=label", "data.task=a film review", *SMALL, *more,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "run"
    return path, compare(settings(source), path)


def test_every_method_has_its_figures_its_cost_and_its_seeds(finished):
    path, found = finished
    assert list(found["methods"]) == ["zero-shot", "zerogen", "few-shot", "mop"]
    for row in found["methods"].values():
        assert {"energy", "energy_interval", "fid_excess", "fid_excess_interval", "fid", "mauve", "kl_cosine",
                "f1", "sense", "improbable", "lm_calls", "lm_tokens", "minutes", "mean_words",
                "sees_real"} <= set(row)  # fmt: skip
    assert found["floor"]["sense"] < 0
    assert found["judged_by"] == "fake"
    assert any(note.startswith("sense: nats per token of at most 200 texts of each method under fake, which wrote")
               for note in found["notes"])  # fmt: skip
    assert found["methods"]["mop"]["n_seeds"] == 2
    assert found["methods"]["few-shot"]["n_seeds"] == 1
    assert found["methods"]["mop"]["prepare_calls"] > 100
    assert found["methods"]["zero-shot"]["lm_calls"] == 16
    assert [found["methods"][m]["sees_real"] for m in found["methods"]] == [False, False, True, True]
    assert list(found["ablations"]["methods"]) == ["mop", "mop.no-exemplars", "mop.tokens-2", "mop.n-12"]
    # Of MoP's own responses the ablations are beside a part, at the cost of that part.
    changed = found["ablations"]["methods"]
    assert [changed[name]["lm_calls"] for name in changed] == [8, 8, 8, 8]
    assert changed["mop"]["lm_tokens"] < found["methods"]["mop"]["lm_tokens"]
    before = {name: row["prepare_calls"] for name, row in changed.items()}
    assert before["mop.no-exemplars"] == before["mop.tokens-2"] == before["mop"]
    asked = read_json(path / "manifest.json")["stages"]["fit"]["info"]["asked"]
    assert set(asked) == {"fit"}
    assert before["mop"] == sum(calls for calls, _ in asked.values())
    assert "prepare_minutes" not in found["methods"]["zero-shot"]
    assert {"real train", "real exemplars"} == set(found["real"])
    document = read_json(path / "compare" / "comparison.json")
    assert {**document, "run": str(path)} == found
    # Some of ZeroGen's 16 are empty: the classifier has as many texts of each method as the other figures.
    assert found["n_responses"] < 16
    assert {row["n_train"] for row in found["arms"].values()} == {found["n_responses"]}


def test_labels_are_in_equal_shares_and_ablations_answer_a_part_of_the_same_contexts(finished):
    folder = finished[0] / "compare" / "responses"
    mop = list(read_jsonl(folder / "mop.jsonl"))
    assert Counter(row["label"] for row in mop) == {"good": 8, "bad": 8}
    few = list(read_jsonl(folder / "mop.no-exemplars.jsonl"))
    assert {row["id"] for row in few} < {row["id"] for row in mop}
    assert all(row["exemplar"] is None and row["persona"] for row in few)
    second = list(read_jsonl(folder / "mop-s2.jsonl"))
    assert [row["id"] for row in second] == [row["id"] for row in mop]
    assert [row["response"] for row in second] != [row["response"] for row in mop]
    mixed = list(read_jsonl(folder / "mop.tokens-2.jsonl"))
    assert all(len(row["persona"].split()) == 2 for row in mixed)


def test_a_variant_is_fitted_on_the_very_same_records(finished):
    whole, part = finished[0] / "records", finished[0] / "compare/variants/n-12/records"
    keys = {split: {r["key"] for r in read_jsonl(whole / f"{split}.jsonl")}
            for split in ("exemplars", "train", "valid")}  # fmt: skip
    for split in ("train", "valid"):
        assert {r["key"] for r in read_jsonl(part / f"{split}.jsonl")} == keys[split]
    fewer = {r["key"] for r in read_jsonl(part / "exemplars.jsonl")}
    assert len(fewer) == 12
    assert fewer < keys["exemplars"]


def test_equal_answers_of_different_people_stay_in_a_variant(tmp_path):
    """A survey: what is told apart by group in the run is not taken for duplicates later."""
    rows = [{"context": "Tea or coffee?", "response": f"{i % 7} teas", "who": str(i)} for i in range(160)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    config = resolve_config(
        preset="quick",
        assignments=[
            f'data.source="{tmp_path / "r.jsonl"}"', "data.group=who", "data.task=an answer", *SMALL,
            'compare.methods=["zero-shot"]', "compare.n_seeds_best=1", 'compare.ablations=["paper-fit"]',
        ],
    )  # fmt: skip
    found = compare(config, tmp_path / "run")
    assert list(found["ablations"]["methods"]) == ["mop", "mop.paper-fit"]


def test_a_fit_with_the_same_personas_has_those_that_a_person_edited(finished, source, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    personas = path / "personas.jsonl"
    edited = personas.read_text().replace('"description": "', '"description": "You are Dutch. ', 1)
    assert edited != personas.read_text()
    personas.write_text(edited)
    compare(settings(source, 'compare.ablations=["paper-fit", "n-12"]'), path)
    of = {name: next(read_jsonl(path / "compare/variants" / name / "personas.jsonl"))
          for name in ("paper-fit", "n-12")}  # fmt: skip
    assert of["paper-fit"]["description"].startswith("You are Dutch. ")
    assert not of["n-12"]["description"].startswith("You are Dutch. ")


def bare_bench(tmp_path, **more):
    bench = _Bench.__new__(_Bench)
    bench.work = SimpleNamespace(store=Store(":memory:"))
    bench.place, bench._within = tmp_path, 0.0
    for name, value in more.items():
        setattr(bench, name, value)
    return bench


def test_what_comes_before_the_draws_is_timed_apart(tmp_path, monkeypatch):
    now = [0.0]
    monkeypatch.setattr("mop.runs.compare.time.monotonic", lambda: now[0])
    bench = bare_bench(tmp_path)
    for _ in range(2):  # nothing is new in the second attempt, so both count
        with bench._clock("picle", "simulate/picle"):
            now[0] += 1
            with bench._clock("prepare/picle", "prepare/picle"):
                now[0] += 100
            with bench._clock(None, "fit"):
                now[0] += 1000
            now[0] += 2
    assert bench.seconds() == {"picle": 6.0, "prepare/picle": 200.0}


@pytest.mark.parametrize("is_quick", [True, False])
def test_further_seeds_are_drawn_until_the_best_rival_has_them(tmp_path, is_quick):
    energy = {"a": 0.2, "a-s2": 0.5, "b": 0.3, "b-s2": 0.2, "mop": 0.1, "mop-s2": 0.1}
    drawn, tables = [], []

    def judge(table, arms, is_quick):
        tables.append(table)
        rows = {arm.name: {"energy": energy[arm.name], "n": 9} for arm in arms}
        return {"arms": {arm.name: arm.method for arm in arms}, "rows": rows, "encoders": ["e"],
                "scores": {"e": {"floor": {}}}}  # fmt: skip

    bench = bare_bench(
        tmp_path,
        config=SimpleNamespace(compare=SimpleNamespace(n_seeds=1, n_seeds_best=2)),
        methods=["a", "b", "mop"],
        judge=judge,
        draw=lambda arms: drawn.append([arm.name for arm in arms]),
        arm=lambda method, s: Arm(method + "-s2" * s, method, s, 9),
    )
    arms = [bench.arm(method, 0) for method in bench.methods]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mop.runs.compare.best_rivals", lambda means, methods: {
            "energy": min(("a", "b"), key=lambda m: means[m]["energy"])})  # fmt: skip
        found = _draw_further(bench, arms, "first", is_quick=is_quick)
    # a looked best until its second seed; then b had to draw again too.
    assert drawn == [["mop-s2", "a-s2"], ["b-s2"]]
    assert [arm.name for arm in arms] == ["a", "b", "mop", "mop-s2", "a-s2", "b-s2"]
    assert list(found["rows"]) == [arm.name for arm in arms]
    # Each look has a file of its own, so that the command again finds them all.
    assert len(set(tables)) == 3


def test_a_model_that_cannot_be_fine_tuned_is_refused_before_it_is_asked(source, tmp_path):
    more = ('model.scorer="fake"', 'compare.methods=["picle"]', "compare.ablations=[]")
    config = on_a_server(source, *more)
    server = FakeServer("openai")
    models = Models(config, lm=served(server, dialect="openai-chat"))
    with pytest.raises(ConfigError, match="picle fine-tunes a copy of the language model"):
        compare(config, tmp_path / "run", models=models)
    assert server.calls == 0


def rows_of(tmp_path, label):
    path = tmp_path / "some.jsonl"
    rows = [{"context": r.context, "response": r.response, "label": label(i, r.label)}
            for i, r in enumerate(reviews(160))]  # fmt: skip
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_progen_is_left_out_without_labels_unless_it_was_asked_for(source, tmp_path):
    more = ("compare.ablations=[]", "compare.n_seeds_best=0", "simulate.same_label=true")
    plain = [*SMALL, *more, f'data.source="{source}"', "data.task=a film review"]
    methods = 'compare.methods=["zero-shot", "progen"]'
    with pytest.raises(DataError, match="ProGen trains a classifier on labels.*or leave progen out"):
        compare(resolve_config(preset="quick", assignments=[*plain, methods]), tmp_path / "run")
    assert not (tmp_path / "run" / "personas.jsonl").exists()  # nothing was fitted yet
    by_default = [a for a in plain if "compare.methods" not in a]
    config = resolve_config(preset="quick", assignments=by_default)
    with _open_bench(config, tmp_path / "run", progress=None, models=None) as bench:
        assert "progen" not in bench.methods
        assert "zerogen" in bench.methods
        assert bench.notes == ["progen was left out: its classifier needs labels, and no context has one."]
        assert not any("same_label" in note for note in bench.all_notes())


def test_records_without_a_label_among_others_are_no_contexts(tmp_path):
    path = rows_of(tmp_path, lambda i, label: "" if i % 4 == 0 else label)
    config = settings(path, "compare.ablations=[]", "compare.n_seeds_best=0")
    found = compare(config, tmp_path / "run")
    rows = list(read_jsonl(tmp_path / "run" / "compare" / "responses" / "mop.jsonl"))
    assert Counter(row["label"] for row in rows) == {"good": 8, "bad": 8}
    assert any("test records have no label and are no contexts" in n for n in found["notes"])
    train = [row["label"] for split in ("train", "valid")
             for row in read_jsonl(tmp_path / "run" / "records" / f"{split}.jsonl")]  # fmt: skip
    assert found["real"]["real train"]["n_train"] == sum(label is not None for label in train)


@pytest.mark.parametrize(
    ("more", "message"),
    [('compare.ablations=["n-400"]', "the ablation n-400: with 24 exemplars .* must be 4 to 24"),
     ('compare.ablations=["n-3"]', "the ablation n-3: .* must be 4 to 24"),
     ('compare.ablations=["k-25"]', "the ablation k-25: .* must be 1 to 24"),
     ('compare.classifier="nowhere"', "the classifier 'nowhere' is not known and is no folder"),
     ('compare.encoders=["fake", "nope"]', "nope")],
)  # fmt: skip
def test_what_cannot_be_compared_is_refused_before_work_begins(source, tmp_path, more, message):
    with pytest.raises(ConfigError, match=message):
        compare(settings(source, "data.exemplars=24", "personas.n_personas=4", more), tmp_path / "r")
    assert not (tmp_path / "r").exists()


def test_labels_without_attributes_are_refused_before_the_fit(source, tmp_path):
    config = settings(source, "compare.domain=films", 'compare.methods=["attrprompt"]')
    with pytest.raises(DataError, match="no values for the label '(good|bad)'"):
        compare(config, tmp_path / "run")
    assert not (tmp_path / "run" / "personas.jsonl").exists()


def test_versions_that_change_nothing_are_named_and_tables_of_before_go(finished, source, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    same = ["fitted-tau", "any-label", "paper-drawing", "prompt-1"]
    config = settings(source, f"compare.ablations={json.dumps(same)}")
    found = compare(config, path)
    notes = found["ablations"]["notes"]
    said = " is mop itself under these settings: it differs in its random numbers alone."
    assert notes[: len(same)] == [f"mop.{name}{said}" for name in same]
    table = (path / "compare" / "ablations.md").read_text()
    assert f"- mop.any-label{said}" in table
    assert "Figures are of 6 texts of each method" in table
    assert f"% mop.any-label{said}" in (path / "compare" / "ablations.tex").read_text()
    assert f"mop.any-label{said}" in (path / "compare" / "comparison.html").read_text()
    shown = show.compare(found)
    assert "mop.any-label" in shown
    assert found["n_responses"] == 10  # of 16, some of ZeroGen's are empty
    assert "of 10 texts of each method" in shown
    compare(settings(source, "compare.ablations=[]"), path)
    assert not list((path / "compare").glob("ablations.*"))


@pytest.mark.parametrize(
    ("ablation", "more", "changes"),
    [("fitted-tau", ["simulate.tau_factor=0.8"], True), ("any-label", ["simulate.same_label=true"], True),
     ("paper-drawing", ["simulate.same_label=true"], True), ("prompt-2", [], True), ("no-gates", [], True),
     ("prompt-2", ["simulate.exemplars_per_prompt=2"], False), ("tokens-1", [], False),
     ("prompt-2", ["simulate.exemplars_per_prompt=2", "simulate.exemplars_from=similar"], True),
     ("k-4", ["personas.n_personas=4"], False), ("n-24", ["data.exemplars=24"], False),
     ("paper-fit", [], True), ("paper-fit", PAPERS_FIT, False)],
)  # fmt: skip
def test_a_version_changes_nothing_where_the_settings_are_its_own(source, ablation, more, changes):
    assert changes_nothing(settings(source, *more), ablation) is not changes


def test_the_command_again_draws_nothing_and_writes_the_same(finished, capsys):
    path, found = finished
    files = ("comparison.json", "comparison.md", "comparison.tex", "ablations.md", "comparison.html")
    before = {name: (path / "compare" / name).read_bytes() for name in files}
    assert main(["compare", "--json", "--quiet", str(path)]) == OK
    assert json.loads(capsys.readouterr().out) == found
    assert {name: (path / "compare" / name).read_bytes() for name in files} == before


def test_pieces_done_one_by_one_end_in_the_same_table(finished, source, tmp_path):
    path, config = tmp_path / "run", settings(source)
    assert pieces(config) == ["fit", "zero-shot", "zerogen", "few-shot", "mop",
                              "mop.no-exemplars", "mop.tokens-2", "mop.n-12"]  # fmt: skip
    for piece in ("zerogen", "mop.no-exemplars"):
        draw_piece(config, path, piece)
    drawn = {file.name for file in (path / "compare" / "responses").iterdir()}
    assert drawn == {"zerogen.jsonl", "mop.no-exemplars.jsonl"}
    with pytest.raises(ConfigError, match="unknown piece 'zerogem'"):
        draw_piece(config, path, "zerogem")
    for name in ("zerogen.jsonl", "mop.no-exemplars.jsonl"):
        mine = (path / "compare" / "responses" / name).read_bytes()
        assert mine == (finished[0] / "compare" / "responses" / name).read_bytes()


def test_a_damaged_arm_is_made_again(finished, source, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    file = path / "compare" / "responses" / "few-shot.jsonl"
    before = file.read_bytes()
    file.write_text("{}\n")
    compare(settings(source), path)
    assert file.read_bytes() == before


def test_costs_are_those_of_the_responses_shown_not_of_all_that_the_folder_ever_paid(finished, source, tmp_path):
    path, kept = tmp_path / "run", ("lm_calls", "lm_tokens", "prepare_calls", "prepare_tokens")
    costs = {name: {key: row[key] for key in kept} for name, row in finished[1]["methods"].items()}
    shutil.copytree(finished[0], path)
    warmer = compare(settings(source, "simulate.max_tokens=5"), path)["methods"]
    assert [warmer[name]["lm_calls"] for name in ("zero-shot", "few-shot", "mop")] == [16, 16, 16]
    assert warmer["mop"]["lm_tokens"] < costs["mop"]["lm_tokens"]
    assert warmer["mop"]["prepare_calls"] == costs["mop"]["prepare_calls"]
    with Store(path / "store.sqlite") as store:
        assert store.spent()["simulate/mop"].calls == 32
    # Back again: all from the store, at the cost of before.
    again = compare(settings(source), path)["methods"]
    assert {name: {key: row[key] for key in kept} for name, row in again.items()} == costs


def test_time_of_draws_that_nothing_is_left_of_is_forgotten(finished, source, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    file = path / "compare" / "seconds.json"
    write_json(file, dict.fromkeys(read_json(file), 1000.0))
    assert compare(settings(source), path)["methods"]["mop"]["minutes"] == 16.67
    (path / "compare" / "responses" / "mop.jsonl").unlink()
    compare(settings(source), path)
    assert read_json(file)["mop"] >= 1000.0  # the draws are from the store: so is their time
    compare(settings(source, "simulate.max_tokens=5"), path)
    assert all(seconds < 1000.0 for seconds in read_json(file).values())


def test_contexts_that_run_out_are_gone_through_again_with_other_keys():
    rows = [Record(key=f"k{i}", context="", response="", label="ab"[i % 2]) for i in range(4)]
    found = balanced(rows, 10)
    assert Counter(r.label for r in found) == {"a": 5, "b": 5}
    assert len({r.key for r in found}) == 10
    assert {r.key for r in balanced(rows, 2)} < {r.key for r in balanced(rows, 4)}


def test_a_method_without_texts_is_named_with_what_to_do():
    texts = {"mop": ["a"] * 4, "zerogen": ["", " ", "b", ""]}
    drawn = {name: [SimpleNamespace(response=text) for text in rows] for name, rows in texts.items()}
    refuse_few_texts({"mop": drawn["mop"]})
    with pytest.raises(DataError, match=r"zerogen has 1 texts of 4 .*compare\.methods, or lower compare\.min_words"):
        refuse_few_texts(drawn)


@pytest.mark.parametrize(
    ("ablation", "section", "key", "value"),
    [("k-7", "personas", "n_personas", 7), ("n-9", "data", "exemplars", 9),
     ("raw-records", "personas", "writer", "record"), ("random-personas", "personas", "writer", "random"),
     ("paper-fit", "fit", "method", "paper")],
)  # fmt: skip
def test_an_ablation_changes_its_setting(source, ablation, section, key, value):
    changed = variant_settings(settings(source), ablation)
    assert getattr(getattr(changed, section), key) == value


@pytest.mark.parametrize(
    ("ablation", "more", "message"),
    [("k-7", ['personas.writer="file"', 'personas.path="mine.jsonl"'], "the personas are those of personas.path")],
)  # fmt: skip
def test_an_ablation_that_would_change_nothing_by_mistake_is_refused(source, ablation, more, message):
    with pytest.raises(ConfigError, match=f"the ablation {ablation}.*{message}"):
        variant_settings(settings(source, *more), ablation)


@pytest.mark.parametrize("ablation", ["no-exemplars", "no-gates", "fitted-tau", "any-label", "tokens-4", "prompt-8"])
def test_other_ablations_need_no_fit(source, ablation):
    assert variant_settings(settings(source), ablation) is None


@pytest.mark.parametrize("ablation", ["no-exemplar", "k-0", "k", "tokens-x"])
def test_an_unknown_ablation_is_refused_before_work_begins(source, tmp_path, ablation):
    config = settings(source, f'compare.ablations=["{ablation}"]')
    with pytest.raises(ConfigError, match=f"unknown ablation '{ablation}'"):
        compare(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_page_is_whole_asks_nothing_of_a_network_and_escapes(finished):
    page = (finished[0] / "compare" / "comparison.html").read_text()
    assert "&lt;b&gt;reviews&amp;.jsonl" in page
    assert "<b>reviews" not in page
    assert "default-src &#39;none&#39;" in page
    for foreign in ('src="http', "url(http", "<script src", "@import"):
        assert foreign not in page
    assert page.count("<svg") >= 4
    for name in ("metrics.svg", "metrics.pdf", "map.svg", "map.pdf"):
        assert (finished[0] / "compare" / "figures" / name).is_file()


def on_a_server(source, *more):
    return settings(
        source, WRITER, 'remote.dialect="openai-chat"', "remote.max_failed_share=0.2",
        "remote.price_in=1.0", "remote.price_out=2.0", "compare.n_seeds_best=1",
        'compare.methods=["zerogen", "picle-prompted"]', *more,
    )  # fmt: skip


def test_a_server_writes_for_every_arm_another_model_scores_and_failed_draws_are_left_out(source, tmp_path):
    config = on_a_server(source, 'model.scorer="fake"', 'compare.ablations=["k-2"]')
    faults = Faults(script=("ok",) * (N_PROBES + 1) + ("filter", "400"))
    server = FakeServer("openai", faults=faults)
    lm = served(server, dialect="openai-chat", price_in=1.0, price_out=2.0)
    found = compare(config, tmp_path / "run", models=Models(config, lm=lm))
    assert {name: row["failed"] for name, row in found["methods"].items()} == {
        "zerogen": 2, "picle-prompted": 0, "mop": 0
    }  # fmt: skip
    rows = list(read_jsonl(tmp_path / "run" / "compare" / "responses" / "zerogen.jsonl"))
    assert sorted(row["finish_reason"] for row in rows if not row["n_tokens"]) == [
        "failed", "refused"
    ]  # fmt: skip
    row = found["methods"]["picle-prompted"]
    assert (row["prepare_calls"] > 0, row["prepare_minutes"] >= 0) == (True, True)
    assert "prepare/picle-prompted" in read_json(tmp_path / "run" / "compare" / "seconds.json")
    assert found["notes"][0] == (
        "mop was fitted to the likelihoods of fake, a surrogate; openai:toy@http://127.0.0.1:1 wrote all responses."
    )
    assert any("zerogen: 2 of 16 draws were refused or failed" in note for note in found["notes"])
    about = read_json(tmp_path / "run" / "manifest.json")["about"]
    spent = about["remote"]["lm"]
    assert set(spent) == {
        "probe", "compare/zerogen", "compare/picle-prompted", "compare/mop", "compare/mop.k-2"
    }  # fmt: skip
    assert sum(row["calls"] for row in spent.values()) == server.calls
    assert found["methods"]["mop"]["money"] == pytest.approx(spent["compare/mop"]["cost"], abs=1e-6)
    assert about["servers"]["lm"]["reported_models"] == {"http://127.0.0.1:1/v1": "toy"}


def test_agents_that_average_words_are_refused_before_a_server_is_asked(source, tmp_path):
    config = on_a_server(source, 'model.scorer="fake"', 'compare.ablations=["tokens-2"]')
    server = FakeServer("openai")
    models = Models(config, lm=served(server, dialect="openai-chat"))
    with pytest.raises(ConfigError, match="the ablation tokens-2 averages next-token"):
        compare(config, tmp_path / "run", models=models)
    assert server.calls == 0
    assert not (tmp_path / "run").exists()


def test_a_rival_without_likelihoods_needs_no_scorer(source, tmp_path):
    config = on_a_server(source, "compare.ablations=[]")
    server = FakeServer("openai", faults=Faults(script=("ok",) * (N_PROBES + 1) + ("filter",)))
    models = Models(config, lm=served(server, dialect="openai-chat"))
    for method in ("picle-prompted", "mop-uniform"):
        with pytest.raises(ScoringUnsupportedError):
            simulate_method(config, tmp_path / "run", method, models=models)
    assert server.calls == 0
    found = simulate_method(config, tmp_path / "run", "zerogen", models=models)
    assert (found["n_responses"], found["failed"]) == (16, 1)
    spent = read_json(tmp_path / "run" / "manifest.json")["about"]["remote"]["lm"]
    assert spent["simulate"]["calls"] == server.calls
