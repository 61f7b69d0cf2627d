"""The whole chain on the fake model: resumes, notices changes, survives kills with the same bytes."""

import gzip
import json
import multiprocessing
import os
import random
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from conftest import reviews
from mop.backends.encoder import FakeEncoder
from mop.cli import OK, main
from mop.config import resolve_config
from mop.data.records import read_records
from mop.errors import ArtifactError, ConfigError, DataError
from mop.evaluate.samples import Sample, evaluate
from mop.mixture.fitted import load_mixture
from mop.personas.files import read_personas
from mop.pipeline import STAGES, run
from mop.runs.stages import TO_THE_FIT
from mop.runs.verbs import simulate_method, verify
from mop.runs.work import STAGE_VERSIONS, read_config
from mop.simulate.write import CUT_SHARE
from mop.storage.files import read_json, read_jsonl
from mop.storage.store import Store

COMPARED = ("personas.jsonl", "mixture/mixture.json", "mixture/gate.safetensors", "responses.jsonl",
            "methods/zero-shot.jsonl", "methods/mop-uniform.jsonl", "metrics.json", "report.html")  # fmt: skip


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.jsonl.gz"
    rows = [{"v": r.label, "text": r.response, "film": r.group} for r in reviews(160)]
    path.write_bytes(gzip.compress(("\n".join(map(json.dumps, rows)) + "\nnot json\n").encode()))
    return path


def settings(source, *more):
    return [
        f'data.source="{source}"', 'data.context="Verdict: {v}."', 'data.response="text"', 'data.label="v"',
        'data.task="a film review"', *more,
    ]  # fmt: skip


def quick(source, *more):
    return resolve_config(preset="quick", assignments=settings(source, *more))


@pytest.fixture(scope="session")
def finished(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "unbroken"
    return path, run(quick(source), path)


def test_a_run_makes_everything_it_promises(finished):
    path, result = finished
    assert result["done"] == list(STAGES)
    for name in (*COMPARED, "responses.parquet", "manifest.json", "config.json", "figures/map.pdf"):
        assert (path / name).is_file(), name
    metrics = read_json(path / "metrics.json")
    assert set(metrics["methods"]) == {"mop", "zero-shot", "mop-uniform", "floor"}
    for row in metrics["methods"].values():
        assert {"energy", "fid_excess", "fid", "mauve", "kl_cosine", "n", "energy_interval"} <= set(row)
        assert row["sense"] < 0
    assert metrics["judged_by"] == "fake"
    held = metrics["held_out"]
    assert held["gain"] == pytest.approx(held["mop"] - held["mop-uniform"])
    assert held["gain_interval"][0] <= held["gain"] <= held["gain_interval"][1]


def test_survey_weights_reach_the_figures(tmp_path):
    rows = [{"v": r.label, "text": r.response, "w": 9.0 if r.label == "good" else 1.0} for r in reviews(160)]
    (tmp_path / "r.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run(quick(tmp_path / "r.jsonl", 'data.weight="w"', "simulate.controls=[]"), tmp_path / "run")
    path = tmp_path / "run"
    texts, weights = {}, {}
    for name in ("golden", "test"):
        records = read_records(path / "records" / f"{name}.jsonl")
        texts[name], weights[name] = [r.response for r in records], [r.weight for r in records]
    assert {1.0, 9.0} == set(weights["golden"]) == set(weights["test"])
    drawn = [row["response"] for row in read_jsonl(path / "responses.jsonl")]  # in the contexts' order

    def energy(weights):
        samples = [Sample(of, weights.get(name)) for name, of in
                   (("mop", drawn), ("golden", texts["golden"]), ("floor", texts["test"]))]  # fmt: skip
        found = evaluate({"mop": samples[0]}, *samples[1:], embed=FakeEncoder().encode, seed=0, n_seeds=1,
                         n_bootstrap=2)  # fmt: skip
        return [found.methods[name]["energy"] for name in ("mop", "floor")]

    metrics = read_json(path / "metrics.json")["methods"]
    kept = [metrics[name]["energy"] for name in ("mop", "floor")]
    by_hand = energy({"mop": weights["test"], "floor": weights["test"], "golden": weights["golden"]})
    assert kept == pytest.approx(by_hand, abs=1e-9)
    assert kept != pytest.approx(energy({}), abs=1e-3)


def test_a_response_row_says_how_it_came_about(finished):
    rows = list(read_jsonl(finished[0] / "responses.jsonl"))
    assert len(rows) == 24
    assert set(rows[0]) == {
        "id", "context", "response", "label", "persona", "exemplar", "temperature", "log_pi", "log_omega", "seed",
        "model", "prompt_version", "finish_reason", "n_tokens", "method", "weight", "group",
    }  # fmt: skip
    keys = {r["key"] for r in read_jsonl(finished[0] / "records" / "exemplars.jsonl")}
    assert all(row["exemplar"] in keys and row["persona"].startswith("p") for row in rows)


def test_splits_share_no_record(finished):
    keys = [r["key"] for f in (finished[0] / "records").glob("*.jsonl") for r in read_jsonl(f)]
    assert len(keys) == len(set(keys))


def test_attempts_that_were_interrupted_count_in_the_time_of_a_stage(source, tmp_path, monkeypatch):
    now, make = [0.0], STAGES["personas"]
    monkeypatch.setattr("mop.runs.stages.time.monotonic", lambda: now[0])
    calls = []

    def slow(work):
        now[0] += 50
        calls.append(1)
        if len(calls) < 3:
            raise KeyboardInterrupt
        return make(work)

    monkeypatch.setitem(STAGES, "personas", slow)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(quick(source), tmp_path / "run", until="personas")
    done = run(quick(source), tmp_path / "run", until="personas")
    assert done["personas"]["seconds"] == 150.0
    (tmp_path / "run" / "personas.jsonl").unlink()  # made again, and no attempt counts twice
    done = run(quick(source), tmp_path / "run", until="personas")
    assert done["personas"]["seconds"] == 50.0
    # Other settings: what was stopped before is none of theirs.
    calls.clear()
    with pytest.raises(KeyboardInterrupt):
        run(quick(source, "personas.n_personas=2"), tmp_path / "run", until="personas")
    calls += [1, 1]
    done = run(quick(source, "personas.n_personas=4"), tmp_path / "run", until="personas")
    assert done["personas"]["seconds"] == 50.0


def test_time_of_scores_that_a_fit_uses_again_counts(source, tmp_path, monkeypatch):
    now, make = [0.0], STAGES["fit"]
    monkeypatch.setattr("mop.runs.stages.time.monotonic", lambda: now[0])

    def slow(work):
        now[0] += 50
        return make(work)

    monkeypatch.setitem(STAGES, "fit", slow)
    folder = tmp_path / "run"
    assert run(quick(source), folder, until="fit")["fit"]["seconds"] == 50.0
    again = run(quick(source, "fit.n_folds=3"), folder, until="fit")
    assert again["fit"]["seconds"] == 100.0  # all its scores were paid for in the first


def test_rows_that_cannot_be_used_are_counted_and_named(finished):
    problems = read_json(finished[0] / "records" / "problems.json")
    assert sum(problems["counts"].values()) == 1
    assert problems["problems"][0]["place"].endswith("reviews.jsonl.gz:161")


def test_equal_answers_of_a_survey_can_be_kept(tmp_path):
    rows = [{"context": "Do you like films?", "response": f"{word}{'!' * (i % 12)}", "weight": 1 + i % 2}
            for i in range(80) for word in ("yes", "no")]  # fmt: skip
    survey = tmp_path / "survey.jsonl"
    survey.write_text("\n".join(map(json.dumps, rows)))
    asked = [f'data.source="{survey}"', "personas.n_personas=2", "data.weight=weight", 'data.task="an answer"']
    with pytest.raises(DataError, match=r"136 of 160 rows left out, all for duplicate .*data.duplicates = .keep"):
        run(resolve_config(preset="quick", assignments=[*asked, "data.duplicates=drop"]), tmp_path / "dropped")
    kept = resolve_config(preset="quick", assignments=asked)  # they have weights
    done = run(kept, tmp_path / "kept", until="fit")
    assert done["records"]["usable"] == 160
    exemplars = read_json(tmp_path / "kept" / "mixture" / "mixture.json")["exemplars"]
    texts = [(row["context"], row["response"]) for row in exemplars]
    assert len(texts) == len(set(texts)) < 24


def test_a_second_run_does_nothing(finished, source):
    path, _ = finished
    before = {name: (path / name).read_bytes() for name in COMPARED}
    assert run(quick(source), path)["skipped"] == list(STAGES)
    assert {name: (path / name).read_bytes() for name in COMPARED} == before


def copy(path, target):
    subprocess.run(["cp", "-a", str(path), str(target)], check=True)
    return target


def test_a_changed_setting_redoes_its_stage_and_what_follows(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    result = run(quick(source, "simulate.max_tokens=20"), path)
    assert result["done"] == ["tune", "simulate", "evaluate", "report"]


def test_a_damaged_file_is_noticed_and_made_again(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    (path / "responses.jsonl").write_text("{}\n")
    assert verify(path)["problems"] == [f"{path / 'responses.jsonl'}: changed since stage 'simulate'"]
    assert "simulate" in run(quick(source), path)["done"]
    assert (path / "responses.jsonl").read_bytes() == (finished[0] / "responses.jsonl").read_bytes()
    assert verify(path)["problems"] == []


def test_edited_personas_are_used_and_kept(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    file = path / "personas.jsonl"
    first = read_personas(file)[0].description
    file.write_text(file.read_text().replace(json.dumps(first)[1:-1], "You love cats."))
    assert run(quick(source), path)["done"] == ["fit", "tune", "simulate", "evaluate", "report"]
    assert "You love cats." in file.read_text()
    assert "You love cats." in (path / "report.html").read_text()
    run(quick(source, "personas.n_personas=2"), path)
    assert "You love cats." in (path / "personas.edited-1.jsonl").read_text()


def test_a_persona_that_was_renamed_has_its_new_key_everywhere_and_nothing_is_scored_again(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    file = path / "personas.jsonl"
    first = read_personas(file)[0].key
    file.write_text(file.read_text().replace(json.dumps(first), '"angry"'))
    with Store(path / "store.sqlite") as store:
        before = store.spent()["fit"]
    assert run(quick(source), path)["done"] == ["fit", "tune", "simulate", "evaluate", "report"]
    assert load_mixture(path / "mixture").personas[0].key == "angry"
    found = [row["persona"] for row in read_jsonl(path / "responses.jsonl")]
    assert "angry" in found
    assert first not in found
    with Store(path / "store.sqlite") as store:
        assert store.spent()["fit"] == before


def test_a_users_persona_file_is_taken(source, tmp_path):
    mine = tmp_path / "mine.txt"
    mine.write_text("You love films.\nYou hate films.\n")
    config = quick(source, 'personas.writer="file"', f'personas.path="{mine}"')
    assert run(config, tmp_path / "run", until="personas")["personas"]["n_personas"] == 2


@pytest.mark.parametrize("changed", [
    ["agents_per_response=2"], ["exemplars_per_prompt=2"], ["exemplars_per_prompt=2", "exemplars_from=similar"],
])  # fmt: skip
def test_several_components_can_write_one_response(finished, source, tmp_path, changed):
    path = copy(finished[0], tmp_path / "run")
    changed = [f"simulate.{one}" for one in changed]
    run(quick(source, *changed), path, until="simulate")
    rows = list(read_jsonl(path / "responses.jsonl"))
    assert max(len(row["exemplar"].split()) for row in rows) == 2


def test_every_control_can_be_drawn(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    run(quick(source, 'simulate.controls=["few-shot", "persona-only"]'), path, until="simulate")
    few = list(read_jsonl(path / "methods" / "few-shot.jsonl"))
    only = list(read_jsonl(path / "methods" / "persona-only.jsonl"))
    assert all(row["persona"] is None and row["exemplar"] for row in few)
    assert all(row["persona"] and row["exemplar"] is None for row in only)


def test_a_method_at_a_temperature_has_rows_files_and_stages_of_its_own(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    name = "zerogen@0.5"
    rival = ('compare.domain="films"', "compare.min_words=1")
    config = quick(source, f'simulate.controls=["{name}"]', *rival)
    run(config, path, until="simulate")
    rows = list(read_jsonl(path / "methods" / f"{name}.jsonl"))
    assert {(row["method"], row["temperature"]) for row in rows} == {(name, 0.5)}
    changed = quick(source, f'simulate.controls=["{name}"]', *rival[:1], "compare.min_words=2")
    assert run(changed, path, until="simulate")["done"] == ["simulate"]
    found = simulate_method(quick(source), path, "few-shot@0.5")
    assert found["file"].endswith("few-shot@0.5.jsonl")


@pytest.mark.parametrize(("setting", "said"), [
    ("simulate.tau_factor=0.5", "Temperatures of the mixture are multiplied by 0.5 (simulate.tau_factor)"),
    ("simulate.same_label=true", "it (simulate.same_label); the fitted model draws from all exemplars."),
    ("simulate.min_tokens=3", "No text ends before 3 tokens (simulate.min_tokens)"),
])  # fmt: skip
def test_a_run_that_departs_from_its_fit_says_so_in_its_report(finished, source, tmp_path, caplog, setting, said):
    path = copy(finished[0], tmp_path / "run")
    run(quick(source, setting), path)
    assert said in caplog.text
    assert said in (path / "report.html").read_text()
    assert said not in (finished[0] / "report.html").read_text()


def test_the_share_of_cut_texts_is_shown_where_the_figures_are(finished, tmp_path, caplog, capsys):
    path = copy(finished[0], tmp_path / "run")
    assert main(["run", str(path), "--set", "simulate.max_tokens=3"]) == OK
    rows = list(read_jsonl(path / "responses.jsonl"))
    share = sum(row["finish_reason"] == "length" for row in rows) / len(rows)
    assert share > CUT_SHARE
    shown = capsys.readouterr().out
    assert f" · cut at the length limit: mop {share:.0%}, zero-shot " in shown
    note = f"mop: {share:.0%} of the texts were cut at 3 tokens"
    assert note in caplog.text
    page, note = (path / "report.html").read_text(), f"Of the texts, {share:.0%} by mop"
    assert page.count(note) == page.count("If a higher limit cuts as many") == 1
    assert "Share of answers cut at the length limit." in page
    assert note not in (finished[0] / "report.html").read_text()
    out = tmp_path / "texts.jsonl"
    assert main(["sample", str(path), "-n", "20", "--out", str(out)]) == OK
    n_cut = sum(row["finish_reason"] == "length" for row in read_jsonl(out))
    assert f", {n_cut} ({n_cut / 20:.0%}) cut at the length limit" in capsys.readouterr().out


@pytest.mark.parametrize("method", ["rounds", "paper"])
def test_both_ways_of_fitting_run(source, tmp_path, method):
    config = quick(source, f'fit.method="{method}"')
    result = run(config, tmp_path / "run", until="fit")
    assert result["done"][-1] == "fit"


def _go(preset_arguments, path):
    run(quick(*preset_arguments), Path(path))


def test_thirty_kills_lose_nothing_double_nothing_and_change_no_byte(finished, source, tmp_path):
    # A server process has everything imported; each child starts at once and is killed at a random moment.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["mop.pipeline", "mop.report.page", "torch", "sklearn.cluster", "sklearn.manifold"])
    rng, kills, runs = random.Random(0), 0, 0
    while kills < 30:
        path = tmp_path / f"run{runs}"
        runs += 1
        finished_run = False
        while not finished_run:
            child = context.Process(target=_go, args=((source,), path))
            child.start()
            child.join(rng.uniform(0.3, 3.0) if kills < 30 else 600)
            finished_run = child.exitcode is not None
            if finished_run:
                assert child.exitcode == 0, "a run that was not killed must succeed"
            else:
                child.kill()
                child.join()
                kills += 1
        for name in COMPARED:
            if name != "report.html":  # it says what was spent, and a kill may cost a batch
                assert (path / name).read_bytes() == (finished[0] / name).read_bytes(), name
        assert verify(path)["problems"] == []
    assert kills == 30


def test_a_relative_run_folder_works(source, tmp_path):
    command = [sys.executable, "-m", "mop", "personas", "runs/mine", "--preset", "quick", "--quiet"]
    for assignment in settings(source):
        command += ["--set", assignment]
    subprocess.run(command, cwd=tmp_path, check=True)
    assert (tmp_path / "runs" / "mine" / "personas.jsonl").is_file()


def test_the_command_in_the_report_makes_the_run_again(finished, tmp_path):
    again = run(resolve_config(file=finished[0] / "config.json"), tmp_path / "again", until="fit")
    assert again["done"] == ["records", "personas", "fit"]
    name = "mixture/gate.safetensors"
    assert (tmp_path / "again" / name).read_bytes() == (finished[0] / name).read_bytes()


def test_a_refused_setting_leaves_no_trace(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    with pytest.raises(ConfigError):
        run(quick(source, "model.lm=nosuch"), path)
    assert read_config(path) == quick(source)


def test_a_touched_but_unchanged_source_redoes_nothing(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    os.utime(source)
    assert run(quick(source), path)["done"] == []


def test_the_held_out_sizes_concern_the_evaluation_only(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    assert run(quick(source, "evaluate.test_records=10"), path)["done"] == ["evaluate", "report"]


def test_a_control_that_is_no_longer_asked_for_is_not_shown(finished, source, tmp_path):
    path = copy(finished[0], tmp_path / "run")
    run(quick(source, 'simulate.controls=["zero-shot"]'), path, until="evaluate")
    assert set(read_json(path / "metrics.json")["methods"]) == {"mop", "zero-shot", "floor"}


def test_the_manifest_names_seed_models_and_data(finished):
    about = read_json(finished[0] / "manifest.json")["about"]
    assert about["seed"] == 0
    assert set(about["models"]) == {"data", "lm", "encoder"}


def test_an_unknown_stage_is_named(source, tmp_path):
    with pytest.raises(ConfigError, match="unknown stage 'fti'; stages: records, personas, fit"):
        run(quick(source), tmp_path / "run", until="fti")


def test_no_source_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match=r"data\.source is empty; name a file, rotten-tomatoes or hf:ORG/NAME"):
        run(resolve_config(preset="quick"), tmp_path / "run")


def test_more_personas_than_texts_is_an_error_and_keeps_what_is_done(source, tmp_path):
    with pytest.raises((ConfigError, DataError), match="25"):
        run(quick(source, "personas.n_personas=25"), tmp_path / "run")
    assert run(quick(source), tmp_path / "run", until="personas")["skipped"] == ["records"]


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"has no config\.json, so it is no run"):
        read_config(tmp_path)


def test_naughty_strings_survive_the_whole_chain(tmp_path):
    corpus = Path(__file__).parents[2] / "shared" / "data" / "naughty" / "blns.json"
    if not corpus.is_file():
        pytest.skip("the naughty strings are not here (../shared/data/naughty)")
    texts = [t for t in dict.fromkeys(json.loads(corpus.read_text(encoding="utf-8"))) if t.strip()]
    rows = [{"v": str(i), "text": text} for i, text in enumerate(texts)]
    file = tmp_path / "naughty.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    config = quick(file, 'data.label="v"', "data.exemplars=200", "data.golden=100", "simulate.max_tokens=4")
    run(config, tmp_path / "run")
    held = [r["response"] for f in (tmp_path / "run" / "records").glob("*.jsonl") for r in read_jsonl(f)]
    assert set(held) <= set(texts)
    assert len(set(held)) == 200 + 100 + 16 + 8 + 24


def test_a_strict_run_stops_at_the_first_bad_row(tmp_path):
    file = tmp_path / "r.jsonl"
    file.write_text("\n".join(json.dumps({"v": f"Film {i}.", "text": "x" * (i % 80)}) for i in range(240)))
    with pytest.raises(DataError, match=r"r\.jsonl:1 has no text in 'text' \(empty_response\); with strict"):
        run(quick(file, "data.group=", "data.strict=true"), tmp_path / "run", until="records")
    assert run(quick(file, "data.group="), tmp_path / "run", until="records")["done"] == ["records"]


def test_a_run_goes_on_without_the_source_that_its_records_are_from(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("r.jsonl").write_text(
        "\n".join(json.dumps({"context": r.context, "response": r.response}) for r in reviews(160))
    )
    config = resolve_config(preset="quick", assignments=['data.source="r.jsonl"'])
    run(config, tmp_path / "run", until="records")
    Path("r.jsonl").rename("moved.jsonl")
    assert run(config, tmp_path / "run", until="records")["done"] == []
    assert run(config, tmp_path / "run", until="personas")["done"] == ["personas"]
    other = replace(config, data=replace(config.data, train=12))
    with pytest.raises(ConfigError, match=r"r\.jsonl"):
        run(other, tmp_path / "run", until="records")


def test_the_stages_to_the_fit_are_those_of_the_pipeline():
    assert list(TO_THE_FIT.items()) == list(STAGES.items())[: len(TO_THE_FIT)]
    assert list(STAGES) == list(STAGE_VERSIONS)


def test_settings_of_another_version_are_refused_with_the_command_that_gives_them_anew(tmp_path):
    (tmp_path / "config.json").write_text('{"simulate": {"mix": "neighbours", "n_agents": 3}}')
    with pytest.raises(ArtifactError, match=r"exemplars_from.*mop run .* --config FILE; store.sqlite keeps"):
        read_config(tmp_path)


def test_the_device_is_that_of_the_encoder_too(source, tmp_path, monkeypatch):
    import mop.runs.work

    asked = {}
    monkeypatch.setattr(mop.runs.work, "open_encoder", lambda name, **more: asked.update(more) or FakeEncoder())
    for device in ("cpu", "auto"):
        run(quick(source, f"model.device={device}"), tmp_path / device, until="personas")
        assert asked == {"device": None if device == "auto" else device}


@pytest.mark.parametrize("name", ["~/r.jsonl", "~/folder"])
def test_an_edited_source_is_noticed_however_it_is_named(tmp_path, monkeypatch, name):
    """By a path with a tilde, and as the one file of a folder."""
    monkeypatch.setenv("HOME", str(tmp_path))
    rows = [{"context": r.context, "response": r.response} for r in reviews(160)]
    file = tmp_path / ("r.jsonl" if name.endswith("jsonl") else "folder/records.csv")
    file.parent.mkdir(exist_ok=True)

    def write(some):
        if file.suffix == ".jsonl":
            file.write_text("\n".join(map(json.dumps, some)))
        else:
            pd.DataFrame(some).to_csv(file, index=False)

    write(rows)
    config = resolve_config(preset="quick", assignments=[f'data.source="{name}"'])
    run(config, tmp_path / "run", until="records")
    assert run(config, tmp_path / "run", until="records")["done"] == []
    write(rows[:-1])
    assert run(config, tmp_path / "run", until="records")["done"] == ["records"]


@pytest.mark.trial("28-braces-in-data")
def test_braces_of_the_data_are_no_templates(tmp_path, capsys):
    odd = ["{{ tea }}", "{0}", "{% if a %}", "lone {", "} alone", "{context}", "${HOME}", "%(x)s"]
    table = [{"item": f"{odd[i % 8]} {i}", "text": f"I like {odd[i * 3 % 8]} best, no. {i}"} for i in range(130)]
    (tmp_path / "items.jsonl").write_text("\n".join(json.dumps(row) for row in table))
    columns = ["context=Item: {item}", "response=text", f"source={tmp_path / 'items.jsonl'}"]
    more = [word for column in columns for word in ("--set", f"data.{column}")]
    assert main(["run", str(tmp_path / "run"), "--preset", "quick", "--quiet", *more]) == OK, capsys.readouterr().err
    known = {f"Item: {row['item']}": row["text"] for row in table}
    for name in ("exemplars", "train", "test"):
        lines = (tmp_path / "run" / "records" / f"{name}.jsonl").read_text().splitlines()
        assert all(known[record["context"]] == record["response"] for record in map(json.loads, lines))
    drawn = [json.loads(line) for line in (tmp_path / "run" / "responses.jsonl").read_text().splitlines()]
    assert drawn
    assert all(row["context"] in known for row in drawn)
