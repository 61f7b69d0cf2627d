"""Whole runs on servers: the same scores, a surrogate scorer, faults, ceilings, failed draws, no leaks."""

import json
import logging
import sqlite3
from collections import Counter

import numpy as np
import pytest

from conftest import reviews
from mop import MixtureOfPersonas
from mop.backends.fake import FakeModel
from mop.backends.fake_server import FakeServer, Faults, start
from mop.backends.ledger import CeilingError
from mop.backends.remote import open_remote
from mop.cli import FAILED, OK, USAGE, main
from mop.config import FitConfig, RemoteSettings, resolve_config
from mop.errors import BackendError, ConfigError, ScoringUnsupportedError
from mop.pipeline import run
from mop.runs.work import Models, planned_calls
from mop.simulate.rows import read_responses
from mop.simulate.write import outcomes
from mop.storage.files import read_json, read_jsonl
from test_remote import N_PROBES, FastClock, InProcess

WRITER = 'model.lm="openai:toy@http://127.0.0.1:1"'
FAST = ("fit.n_rounds=1", "fit.n_folds=2",
        "simulate.n_responses=24", 'simulate.controls=["zero-shot"]')  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "reviews.jsonl"
    write(path, {})
    return path


def write(path, replaced):
    rows = [{"key": r.key, "v": r.label, "text": replaced.get(r.key, r.response)} for r in reviews(160)]
    path.write_text("\n".join(map(json.dumps, rows)))


def settings(source, *more):
    return (
        f'data.source="{source}"', 'data.context="Verdict: {v}."', 'data.response="text"', 'data.key="key"',
        'data.task="a film review"', *FAST, *more,
    )  # fmt: skip


def quick(source, *more):
    return resolve_config(preset="quick", assignments=settings(source, *more))


def served(server, **fields):
    """A server as the pipeline opens it, without a socket and with time that jumps."""
    fields = {"dialect": "vllm", "tokenizer": "fake", "max_failed_share": 1.0, **fields}
    if fields["dialect"] == "openai-chat":
        fields["tokenizer"] = None
    return open_remote("openai:toy@http://127.0.0.1:1", clock=FastClock(), transport=InProcess(server), **fields)


def rows_of(path):
    return list(read_jsonl(path / "responses.jsonl"))


@pytest.fixture(scope="module")
def undisturbed(source, tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "undisturbed"
    config = quick(source)
    run(config, path, until="simulate", models=Models(config, lm=served(FakeServer("vllm"))))
    return path


def test_a_served_model_fits_and_draws_like_the_same_model_here(source, undisturbed, tmp_path):
    config = quick(source)
    here = FakeModel([1.0])
    run(config, tmp_path / "run", until="simulate", models=Models(config, lm=here))
    local = read_json(tmp_path / "run" / "mixture" / "mixture.json")["info"]
    remote = read_json(undisturbed / "mixture" / "mixture.json")["info"]
    assert remote["betas"] == local["betas"] == [1.0]
    assert remote["chosen"] == local["chosen"]
    for ours, theirs in zip(remote["history"], local["history"], strict=True):
        assert ours["valid"] == pytest.approx(theirs["valid"], abs=1e-3)
    ours, theirs = scores_of(undisturbed), scores_of(tmp_path / "run")
    assert len(ours) == len(theirs) > 200
    assert np.abs(ours - theirs).max() < 1e-4
    drawn, expected = rows_of(undisturbed), rows_of(tmp_path / "run")
    columns = ("id", "persona", "exemplar", "temperature", "seed")
    assert [[row[c] for c in columns] for row in drawn] == [[row[c] for c in columns] for row in expected]
    assert {row["temperature"] for row in drawn} == {1.0}


def scores_of(path):
    """All log-likelihoods in a store, sorted: their names differ with the model's."""
    with sqlite3.connect(path / "store.sqlite") as db:
        payloads = [payload for (payload,) in db.execute("SELECT payload FROM score")]
    db.close()
    return np.sort([np.frombuffer(payload[4:], "<f4")[0] for payload in payloads])


def test_a_scorer_that_knows_one_temperature_only_says_so(source, tmp_path, caplog):
    config = quick(source)
    with caplog.at_level(logging.WARNING, logger="mop.mixture.fit"):
        run(config, tmp_path / "run", until="fit", models=Models(config, lm=FakeModel([1.0])))
    assert (
        "fake scores at temperature 1 only: the gates are fitted, temperatures are not, and every persona draws at 1"
    ) in caplog.text


def test_the_manifest_keeps_calls_and_tokens_by_stage(undisturbed):
    about = read_json(undisturbed / "manifest.json")["about"]
    stages = about["remote"]["lm"]
    assert set(stages) == {"probe", "fit", "simulate"}
    assert stages["simulate"]["calls"] == 2 * 24
    assert stages["probe"]["calls"] == N_PROBES + 24
    assert stages["fit"]["prompt_tokens"] > 1000
    assert about["servers"]["lm"]["reported_models"] == {"http://127.0.0.1:1/v1": "toy"}
    assert about["servers"]["lm"]["scoring_noise"] == 0.0


def test_mixed_faults_change_no_response_and_no_persona(source, undisturbed, tmp_path):
    config = quick(source)
    faulty = FakeServer("vllm", faults=Faults(rate=0.3, seed=5, kinds=(
        "429:1", "500", "502", "503", "504", "529", "reset", "cut:40", "garbage", "unfinished", "hang",
    )))  # fmt: skip
    run(config, tmp_path / "run", until="simulate", models=Models(config, lm=served(faulty)))
    assert faulty.calls > 1.2 * (24 + 24)
    for name in ("responses.jsonl", "methods/zero-shot.jsonl", "mixture/gate.safetensors"):
        assert (tmp_path / "run" / name).read_bytes() == (undisturbed / name).read_bytes()
    shares = [Counter(row["persona"] for row in rows_of(p)) for p in (undisturbed, tmp_path / "run")]
    assert shares[0] == shares[1]
    spent = read_json(tmp_path / "run" / "manifest.json")["about"]["remote"]["lm"]
    assert sum(row["calls"] for row in spent.values()) == faulty.calls
    assert sum(row["retries"] for row in spent.values()) > 20


def test_a_ceiling_stops_the_run_and_a_higher_one_goes_on(source, undisturbed, tmp_path):
    def attempt(server, ceiling, until="simulate"):
        config = quick(source)
        models = Models(config, lm=served(server, max_lm_tokens=ceiling))
        return run(config, tmp_path / "run", until=until, models=models)

    needed = sum(
        row["prompt_tokens"] + row["completion_tokens"]
        for row in read_json(undisturbed / "manifest.json")["about"]["remote"]["lm"].values()
    )
    first, again, last = FakeServer("vllm"), FakeServer("vllm"), FakeServer("vllm")
    with pytest.raises(CeilingError, match=r"raise max_lm_tokens and run the same command again"):
        attempt(first, needed // 2)
    assert first.calls > 50
    with pytest.raises(CeilingError, match=r"stopped at the ceiling"):
        attempt(again, needed // 2)  # the ceiling is the run's, not the session's
    assert again.calls <= 3
    result = attempt(last, 3 * needed)
    assert result["skipped"] == ["records", "personas"]
    n_items = len({json.dumps(r, sort_keys=True) for s in (first, last) for r in s.requests})
    probes = 24 + N_PROBES
    assert first.calls + last.calls <= n_items + 2 * probes  # nothing finished was asked again
    assert rows_of(tmp_path / "run") == rows_of(undisturbed)
    spent = read_json(tmp_path / "run" / "manifest.json")["about"]["remote"]["lm"]
    calls = sum(row["calls"] for row in spent.values())
    assert calls == first.calls + again.calls + last.calls


def test_a_server_that_cannot_score_is_refused_before_any_work(source, tmp_path):
    with start(FakeServer("openai")) as server:
        config = quick(source, f'model.lm="openai:toy@{server.url}"', 'remote.dialect="openai-chat"')
        with pytest.raises(
            ScoringUnsupportedError,
            match=r"an endpoint for chat or plain completions does not score a given text\), which "
            r"fitting and scoring need; name a second model that can, as scorer \(model.scorer = ",
        ):
            run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_averaging_agents_word_by_word_is_refused_before_any_work(source, tmp_path):
    config = quick(source, "simulate.agents_per_response=2")
    server = FakeServer("vllm")
    with pytest.raises(ConfigError, match="which a server does not give"):
        run(config, tmp_path / "run", models=Models(config, lm=served(server)))
    assert server.calls == 0


@pytest.fixture(scope="module")
def surrogate(source, tmp_path_factory):
    """A chat server writes, the toy model here scores; two of the first draws are filtered."""
    path = tmp_path_factory.mktemp("runs") / "surrogate"
    faults = Faults(script=("ok",) * (N_PROBES + 1) + ("filter", "400"))
    config = quick(
        source, WRITER, 'model.scorer="fake"', "remote.max_failed_share=0.1", 'remote.dialect="openai-chat"',
        "remote.price_in=1.0", "remote.price_out=2.0",
    )  # fmt: skip
    server = FakeServer("openai", faults=faults)
    lm = served(server, dialect="openai-chat", price_in=1.0, price_out=2.0)
    run(config, path, models=Models(config, lm=lm))
    return path


def test_a_surrogate_fits_temperatures_and_is_called_one(surrogate):
    metrics = read_json(surrogate / "metrics.json")
    assert metrics["is_surrogate"] is True
    assert metrics["written_by"] == "openai:toy@http://127.0.0.1:1"
    assert metrics["scored_by"] == "fake"
    info = read_json(surrogate / "mixture" / "mixture.json")["info"]
    assert len(info["betas"]) > 1
    assert info["scorer"] == "fake"
    models = read_json(surrogate / "manifest.json")["about"]["models"]
    assert models["lm"].startswith("remote-generate/1")
    assert models["scorer"].startswith("fake/1")
    page = (surrogate / "report.html").read_text()
    assert "by the likelihoods of fake, a surrogate" in page
    assert "were fitted to the likelihoods of fake, a surrogate;" in page
    assert "Money, at your prices" in page


def test_another_model_can_judge_and_has_an_account_of_its_own(surrogate, source, tmp_path):
    assert read_json(surrogate / "metrics.json")["judged_by"] == "fake"  # not the one that wrote
    found = {}
    with start(FakeServer("vllm")) as server:
        judge = f"openai:toy@{server.url}"
        for name in ("", judge):
            config = quick(source, f'evaluate.judge="{name}"', 'remote_scorer.tokenizer="fake"')
            run(config, tmp_path / "run")
            found[name] = read_json(tmp_path / "run" / "metrics.json")
    assert (found[""]["judged_by"], found[judge]["judged_by"]) == ("fake", judge)
    about = read_json(tmp_path / "run" / "manifest.json")["about"]
    assert set(about["remote"]) == {"judge"}
    assert about["remote"]["judge"]["evaluate"]["calls"] > 3 * 12
    assert about["models"]["judge"].startswith("remote-score/")
    assert about["servers"]["judge"]["name"] == judge
    for name in ("mop", "zero-shot", "floor"):  # it is the same toy model
        ours, theirs = (found[of]["methods"][name] for of in ("", judge))
        assert theirs["sense"] == pytest.approx(ours["sense"], abs=1e-4)
        assert (ours["sense"], ours["energy"]) != (0.0, 0.0)
    page = (tmp_path / "run" / "report.html").read_text()
    assert f'Sense and improbable texts are as <span dir="auto">{judge}</span> sees them.' in page


def test_a_judge_that_cannot_score_is_refused_before_any_work(source, tmp_path):
    with start(FakeServer("openai")) as server:
        config = quick(source, f'evaluate.judge="openai:toy@{server.url}"', 'remote_scorer.dialect="openai-chat"')
        with pytest.raises(ScoringUnsupportedError, match="can write but not say how likely"):
            run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_a_judge_is_asked_is_planned(source):
    planned = planned_calls(quick(source, 'evaluate.judge="x"'), "evaluate", "evaluate")
    assert [(p.role, p.calls) for p in planned[1:]] == [("judge", 24 * 3)]  # mop, zero-shot, real
    (both,) = planned_calls(quick(source), "evaluate", "evaluate")
    assert both.calls == planned[0].calls + 24 * 3


def test_a_failed_draw_has_a_row_and_enters_no_figure(surrogate):
    rows = list(read_responses(surrogate / "responses.jsonl"))
    lost = [row for row in rows if row.finish_reason in ("refused", "failed")]
    assert sorted(row.finish_reason for row in lost) == ["failed", "refused"]
    assert all(row.response == "" and row.n_tokens == 0 and row.persona for row in lost)
    metrics = read_json(surrogate / "metrics.json")
    assert metrics["failed"] == {"mop": 2, "zero-shot": 0}
    assert metrics["methods"]["mop"]["n_received"] == 22
    counted = metrics["outcomes"]["mop"]
    assert sum(row["draws"] for row in counted.values()) == 24
    assert sum(row["refused"] for row in counted.values()) == 1
    page = (surrogate / "report.html").read_text()
    assert "mop: 2 of 24 draws were refused or failed." in page
    assert "What became of the draws" in page


def test_failed_draws_are_those_of_the_personas_that_were_drawn(surrogate, source, tmp_path):
    config = quick(source, WRITER, 'model.scorer="fake"')
    lm = served(FakeServer("openai"), dialect="openai-chat")
    run(config, tmp_path / "run", until="simulate", models=Models(config, lm=lm))
    without = [(r["id"], r["persona"], r["exemplar"]) for r in rows_of(tmp_path / "run")]
    assert [(r["id"], r["persona"], r["exemplar"]) for r in rows_of(surrogate)] == without


def test_without_leave_a_failed_draw_stops_the_run_and_the_rest_is_kept(source, tmp_path):
    config = quick(source, WRITER, 'model.scorer="fake"', "simulate.controls=[]")
    faults = Faults(script=("ok",) * (N_PROBES + 1) + ("filter",))
    first, second = FakeServer("openai", faults=faults), FakeServer("openai")
    for server in (first, second):
        models = Models(config, lm=served(server, dialect="openai-chat"))
        if server is first:
            with pytest.raises(
                BackendError,
                match=r"could not draw 1 of the 24 responses of mop \(content_filter\), and at most "
                r"0 may fail; .* allow a share with remote.max_failed_share",
            ):
                run(config, tmp_path / "run", until="simulate", models=models)
        else:
            run(config, tmp_path / "run", until="simulate", models=models)
    assert second.calls == 1 + N_PROBES + 1
    assert {row["finish_reason"] for row in rows_of(tmp_path / "run")} <= {"stop", "length"}


def test_outcomes_are_counted_by_persona():
    row = {
        "id": "1", "context": "", "label": None, "exemplar": None, "temperature": 1.0, "log_pi": 0.0, "log_omega": 0.0,
        "seed": 1, "model": "m", "prompt_version": 1, "n_tokens": 3,
    }  # fmt: skip
    from mop.types import Response

    rows = [
        Response(**row, response="yes", persona="p1", finish_reason="stop"),
        Response(**row, response=" ", persona="p1", finish_reason="stop"),
        Response(**row, response="and so", persona="p2", finish_reason="length"),
        Response(**row, response="", persona="p2", finish_reason="refused"),
        Response(**row, response="", persona="p2", finish_reason="failed"),
        Response(**row, response="ok", persona=None, finish_reason="stop"),
    ]
    assert outcomes(rows) == {
        "": {"draws": 1, "failed": 0, "refused": 0, "empty": 0, "cut": 0},
        "p1": {"draws": 2, "failed": 0, "refused": 0, "empty": 1, "cut": 0},
        "p2": {"draws": 3, "failed": 1, "refused": 1, "empty": 0, "cut": 1},
    }


KEY = "canary-key-9f8e7d6c5b4a"
SENTENCE = "the violet heron borrowed a lighthouse"


def test_key_and_sentence_are_in_no_log_and_no_file(source, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("TOY_KEY", KEY)
    first = quick(source)
    run(first, tmp_path / "split", until="records")
    train = [r["key"] for r in read_jsonl(tmp_path / "split" / "records" / "train.jsonl")]
    secret = tmp_path / "reviews.jsonl"
    write(secret, dict.fromkeys(train, SENTENCE))  # every call of the fit carries it
    # The server repeats each request and its key in its errors.
    script = ("ok",) * 40 + ("quote",) * 3
    with start(FakeServer("vllm", key=KEY, faults=Faults(script=script))) as server:
        options = ["--preset", "quick"]
        for one in settings(
            secret, f'model.lm="openai:toy@{server.url}"', 'remote.api_key_env="TOY_KEY"',
            'remote.tokenizer="fake"', 'remote.dialect="vllm"',
        ):  # fmt: skip
            options += ["--set", one]
        out = str(tmp_path / "run")
        command = ["run", "--verbose", "--json", out, *options]
        assert main(command) == FAILED
        said = "".join(capsys.readouterr())
        assert "withheld" in said
        assert main(command) == OK
        said += "".join(capsys.readouterr())
        assert main(["config", *options]) == OK
        said += "".join(capsys.readouterr())
    assert KEY not in said
    assert SENTENCE not in said
    for file in (tmp_path / "run").rglob("*"):
        if file.is_file():
            content = file.read_bytes()
            assert KEY.encode() not in content, file
            if file.parent.name != "records":
                assert SENTENCE.encode() not in content, file


def test_a_key_typed_where_its_variable_belongs_is_not_shown(source, tmp_path, capsys):
    command = ["run", str(tmp_path / "run"), "--preset", "quick",
               "--set", f'remote.api_key_env="{KEY}"']  # fmt: skip
    assert main(command) == USAGE
    said = capsys.readouterr().err
    assert KEY not in said
    assert "remote.api_key_env must be the name of an environment variable" in said


def test_the_command_ends_with_1_at_a_ceiling(source, tmp_path, capsys):
    with start(FakeServer("vllm")) as server:
        command = ["fit", str(tmp_path / "run"), "--preset", "quick"]
        for one in settings(
            source, f'model.lm="openai:toy@{server.url}"', 'remote.tokenizer="fake"',
            "remote.max_lm_tokens=6000",
        ):  # fmt: skip
            command += ["--set", one]
        assert main(command) == FAILED
    said = capsys.readouterr().err
    assert "stopped at the ceiling" in said
    assert "tokens of 6,000" in said


def test_what_is_planned_is_what_is_called_at_the_most(source, undisturbed):
    config = quick(source)
    fit, simulate = planned_calls(config, "fit", "simulate")
    assert (fit.stage, fit.role, simulate.stage, simulate.role) == ("fit", "lm", "simulate", "lm")
    assert simulate.calls == 2 * 24
    assert simulate.max_tokens == config.simulate.max_tokens
    assert 0.5 * fit.calls <= len(scores_of(undisturbed)) <= fit.calls
    stages = [p.stage for p in planned_calls(config, "simulate", "report")]
    assert stages == ["simulate", "evaluate"]
    surrogate = quick(source, WRITER, 'model.scorer="fake"')
    assert [p.role for p in planned_calls(surrogate, "records", "evaluate")] == [
        "scorer", "lm", "scorer",
    ]  # fmt: skip


def test_scoring_and_explaining_are_entered_in_the_account_of_the_run(source, tmp_path, capsys):
    out = str(tmp_path / "run")
    with start(FakeServer("vllm")) as server:
        options = ["--preset", "quick"]
        for one in settings(source, f'model.lm="openai:toy@{server.url}"', 'remote.tokenizer="fake"'):
            options += ["--set", one]
        assert main(["fit", out, *options]) == OK
        assert "warning: forecast for the lm to the end of this run, from " in capsys.readouterr().err
        manifest = tmp_path / "run" / "manifest.json"
        assert set(read_json(manifest)["about"]["remote"]) == {"lm"}
        capsys.readouterr()
        assert main(["score", out, "--components", "2"]) == OK
        assert "calls" in capsys.readouterr().err  # the cost so far, beside the progress
        stages = read_json(manifest)["about"]["remote"]["lm"]
        assert stages["score"]["calls"] > 24
        assert main(["explain", out, "--quiet", "--components", "3", "--text", "a fine film"]) == OK
        assert read_json(manifest)["about"]["remote"]["lm"]["explain"]["calls"] > 24
        sofar = sum(
            row["prompt_tokens"] + row["completion_tokens"] + row["lost_tokens"]
            for row in read_json(manifest)["about"]["remote"]["lm"].values()
        )
        config = tmp_path / "run" / "config.json"
        changed = read_json(config)
        changed["remote"]["max_lm_tokens"] = sofar + 10
        config.write_text(json.dumps(changed))
        assert main(["score", out, "--quiet", "--components", "5"]) == FAILED
        assert "stopped at the ceiling" in capsys.readouterr().err


def test_a_served_scorer_stands_beside_a_served_writer(source, tmp_path):
    with start(FakeServer("openai")) as chat, start(FakeServer("sglang")) as scoring:
        config = quick(
            source, f'model.lm="openai:toy@{chat.url}"', 'remote.dialect="openai-chat"',
            f'model.scorer="openai:toy@{scoring.url}"', 'remote_scorer.tokenizer="fake"',
        )  # fmt: skip
        run(config, tmp_path / "run", until="simulate")
    spent = read_json(tmp_path / "run" / "manifest.json")["about"]["remote"]
    assert set(spent) == {"lm", "scorer"}
    assert set(spent["lm"]) == {"probe", "simulate"}
    assert set(spent["scorer"]) == {"probe", "fit"}


def test_the_estimator_takes_a_scorer_and_server_settings(tmp_path):
    fit = FitConfig(components_per_record=8, records_per_component=8, valid_components=10, n_rounds=1, n_folds=2)
    with start(FakeServer("openai")) as server:
        name = f"openai:toy@{server.url}"
        model = MixtureOfPersonas(
            3, lm=name, scorer="fake", remote={"dialect": "openai-chat"}, encoder="fake",
            n_exemplars=12, settings=fit,
        ).fit(reviews(32))  # fmt: skip
        assert server_free(model)
        drawn = model.sample(["Verdict: good."] * 6, seed=1)
        model.save(tmp_path / "saved")
        again = MixtureOfPersonas.load(tmp_path / "saved", remote=RemoteSettings(dialect="openai-chat"))
        assert again.sample(["Verdict: good."] * 6, seed=1) == drawn
        assert again.scorer == "fake"
        held = reviews(40)[32:]
        assert np.allclose(again.score_samples(held), model.score_samples(held))
        alone = MixtureOfPersonas.load(tmp_path / "saved", lm="fake")
        assert alone.scorer is None
    with pytest.raises(ConfigError, match="a served scorer has settings of its own"):
        MixtureOfPersonas(2, lm="fake", scorer=name, encoder="fake").fit(reviews(16))


def server_free(model):
    """Fitting asked the surrogate alone."""
    return not hasattr(model, "_lm")
