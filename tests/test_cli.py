"""The command line: exit codes, one JSON document, one clear sentence for each kind of bad input."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time

import pytest

from mop.cli import FAILED, INTERRUPTED, OK, TERMINATED, USAGE, build_parser, main
from mop.cli.parser import VERBS
from mop.storage.files import check_of, sha256


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from conftest import reviews

    path = tmp_path_factory.mktemp("cli") / "reviews.jsonl"
    path.write_text("\n".join(json.dumps({"context": r.context, "response": r.response}) for r in reviews(160)))
    return path


@pytest.fixture(scope="module")
def run_folder(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli-run") / "run"
    assert main(["run", "--quiet", str(out), *options(source)]) == OK
    return out


def options(source, *more):
    found = ["--preset", "quick", "--set", f'data.source="{source}"', "--set", "data.task=a film review"]
    return [*found, *(part for assignment in more for part in ("--set", assignment))]


def test_json_is_one_document_on_stdout_and_progress_stays_off_it(run_folder, source, capsys):
    assert main(["run", "--json", str(run_folder), *options(source)]) == OK
    out, _ = capsys.readouterr()
    result = json.loads(out)
    assert result["done"] == []
    assert "mop" in result["metrics"]["methods"]


def test_a_finished_run_prints_its_figures_and_the_next_command(run_folder, capsys):
    assert main(["run", str(run_folder)]) == OK  # the folder's own settings
    out = capsys.readouterr().out
    assert "zero-shot" in out
    assert out.startswith(f"{run_folder} is up to date (7 stages)\nrecords: 160 of 160 rows are usable")
    assert re.search(r"\nlog-likelihood of 12 test records, which the fit never saw: -", out)
    lines = out.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("method"))
    assert lines[at].split()[1:4] == ["energy", "↓", "FID"]
    assert [line.split()[0] for line in lines[at + 1 : at + 5]] == [
        "mop", "zero-shot", "mop-uniform", "other"
    ]  # fmt: skip
    assert {len(line) for line in lines[at : at + 5]} == {len(lines[at])}
    assert "sense: nats per token under fake, which wrote them;" in out
    assert f"next: open {run_folder}/report.html" in out


def test_a_stage_names_the_next_one(run_folder, capsys):
    assert main(["fit", str(run_folder)]) == OK
    out = capsys.readouterr().out
    assert f"{run_folder} is up to date (3 stages)\n" in out
    assert re.search(
        r"\nfit: .+, one temperature \d\.\d\d, 3 personas · \d+ scores in \d rounds?"
        r" · cross-validated on its own records -\d+\.\d\d nats a record, [+-]\d\.\d\d over equal weights", out
    )  # fmt: skip
    assert f"\nnext: mop simulate {run_folder}\n" in out


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["refit", "RUN", "--black-box", "--lm", "fake"], "now: mop match RUN [--lm MODEL]; to fit again"),
        (["simulte", "RUN"], "unknown verb 'simulte'; did you mean 'simulate'?"),
        (["xyz"], "unknown verb 'xyz'; demo, run, "),
        (["sample", "RUN", "--out", "x.jsonl", "-n", "10000000000000"], "from 1 to 100000000, got '10000000000000'"),
        (["explain", "RUN", "--components", "0"], "must be a whole number from 1 to 100000000, got '0'"),
        (["fake-server", "--port", "99999999"], "must be a port from 0 (any free one) to 65535, got '99999999'"),
    ],
)
def test_a_wrong_command_is_told_the_right_one(capsys, given, said):
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == USAGE
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("form", [["--out", "RUN"], ["--out=RUN"]])
def test_a_run_may_be_named_as_in_an_earlier_version(run_folder, capsys, form):
    form = [word.replace("RUN", str(run_folder)) for word in form]
    assert main(["fit", "--quiet", *form, "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["run"] == str(run_folder)


@pytest.mark.parametrize("place", ["x" * 5000, "/dev/null"])
def test_a_place_that_cannot_be_used_is_named(run_folder, capsys, place):
    assert main(["match", str(run_folder), "--quiet", "--out", place]) == FAILED
    assert re.search(
        rf"^mop match: cannot write {place[:20]}.*: .+; .*give (a shorter name|another place)$", capsys.readouterr().err
    )


def test_no_verb_lists_them(capsys):
    assert main([]) == USAGE
    assert set(VERBS) <= set(capsys.readouterr().out.split())


def test_the_verbs_are_those_of_the_parser():
    (commands,) = (action for action in build_parser()._actions if hasattr(action, "choices") and action.choices)
    assert list(commands.choices) == list(VERBS)


@pytest.mark.advice
@pytest.mark.parametrize("verb", ["personas", "fit"])
def test_settings_in_place_of_a_run_are_told_the_command(verb, source, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "town.toml").write_text(f"data.source = '{source}'\n")
    assert main([verb, "town.toml"]) == USAGE
    said = re.search(r"try: mop (.+)", capsys.readouterr().err)
    assert said is not None
    assert said[1] == f"{verb} runs/town --config town.toml"
    assert main([*said[1].split(), "--preset", "quick", "--quiet"]) == OK
    assert (tmp_path / "runs" / "town" / "personas.jsonl").is_file()


@pytest.mark.trial("27-terminal-escapes")
def test_what_drives_a_terminal_is_shown_and_not_sent(tmp_path, capsys):
    words = ("plain", "red \x1b[31m", "title \x1b]0;mine\x07", "back\rward", "\u202eturned", "\x9b2J", "two\nlines")
    rows = "".join(
        f'{{"context": "Area {i % 3}", "response": {json.dumps(f"{words[i % 7]} {i}")}}}\n' for i in range(130)
    )
    (tmp_path / "rows.jsonl").write_text(rows)
    run = str(tmp_path / "run")
    assert main(["fit", run, "--preset", "quick", "--set", f"data.source={tmp_path / 'rows.jsonl'}"]) == OK
    keys = [json.loads(line)["key"] for line in (tmp_path / "run" / "records" / "test.jsonl").read_text().splitlines()]
    for key in keys[:14]:
        assert main(["explain", run, "--key", key]) == OK
        assert main(["explain", run, "--key", key, "--json"]) == OK
    assert main(["explain", run, "--key", "\x1b[2J"]) == USAGE
    out, err = capsys.readouterr()
    assert r"title \u001b]0;mine\u0007" in out
    for text in (out, err):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text)


@pytest.mark.advice
def test_figures_of_somebody_else_are_an_error_of_ours(run_folder, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(run_folder, run)
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["held_out"]["mop"] = "many"
    (run / "metrics.json").write_text(json.dumps(metrics))
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["stages"]["evaluate"]["files"]["metrics.json"] = sha256(run / "metrics.json")
    manifest["check"] = check_of(manifest)
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert main(["run", str(run)]) == FAILED
    said = capsys.readouterr().err
    assert "are not as mop writes them (ValueError" in said
    (run / "metrics.json").unlink()
    assert main(["evaluate", str(run), "--quiet"]) == OK
    assert main(["run", str(run)]) == OK


def test_a_letter_that_the_terminal_lacks_ends_no_command(source):
    command = [sys.executable, "-m", "mop", "config", "--set", "data.task=żółw", "--set", f"data.source={source}"]
    done = subprocess.run(command, env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True, check=True)
    assert rb"\u017c" in done.stdout


@pytest.mark.parametrize(
    "verb", ["demo", "run", "personas", "fit", "simulate", "evaluate", "report", "compare", "score", "explain",
             "match", "sample"]
)  # fmt: skip
def test_every_verb_about_a_run_has_one_form(verb):
    more = ["--out", "texts.jsonl"] if verb == "sample" else []
    config = [] if verb == "demo" else ["--config", "mine.toml"]
    args = build_parser().parse_args([verb, "RUN", *config, "--set", "seed=1", *more])
    assert (str(args.run), args.assignments) == ("RUN", ["seed=1"])


@pytest.mark.parametrize("verb", ["score", "explain", "match", "sample"])
def test_what_needs_a_run_names_the_command_that_makes_one(verb, tmp_path, capsys):
    more = ["--out", str(tmp_path / "texts.jsonl")] if verb == "sample" else []
    assert main([verb, str(tmp_path / "none"), *more]) == FAILED
    assert f"start one with: mop run {tmp_path / 'none'} --config FILE" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_settings_given_with_a_verb_hold_for_it(run_folder, capsys):
    assert main(["score", str(run_folder), "--set", "model.lm=nosuch"]) == USAGE
    assert "nosuch" in capsys.readouterr().err


def test_quiet_prints_nothing(run_folder, capsys):
    assert main(["run", "--quiet", str(run_folder)]) == OK
    assert capsys.readouterr() == ("", "")


def test_score_says_whether_it_is_exact(run_folder, capsys):
    assert main(["score", str(run_folder), "--components", "500"]) == OK
    assert "24 records, exact, nats a record" in capsys.readouterr().out
    assert main(["score", str(run_folder), "--components", "20", "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["is_exact"] is False


def test_explain_shows_who_wrote_a_record(run_folder, capsys):
    assert main(["explain", str(run_folder)]) == OK
    out = capsys.readouterr().out
    assert "p000" in out
    assert "likeliest exemplars" in out


def test_explain_takes_a_text_and_shows_its_score_table(run_folder, capsys):
    command = ["explain", str(run_folder), "--text", "great fun", "--context", "Verdict: good."]
    assert main(command) == OK
    out = capsys.readouterr().out
    assert "response great fun" in out
    assert "log weight" in out
    assert main([*command, "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert found["components"][0]["posterior"] >= found["components"][-1]["posterior"]


def test_score_with_another_model_holds_the_mixture_against_plain_prompts(run_folder, capsys):
    command = ["score", str(run_folder), "--components", "20", "--lm", "fake", "--refit-tau", "6"]
    assert main(command) == OK
    out = capsys.readouterr().out
    assert "with fake, temperatures refitted on 6 records" in out
    for name in ("equal weights", "context ignored", "no-persona", "no-exemplar", "zero-shot"):
        assert f"\n{name}" in out


def test_the_number_of_personas_can_be_left_to_held_out_likelihood(source, tmp_path, capsys):
    command = ["fit", str(tmp_path / "run"), *options(source), "--n-personas", "auto"]
    assert main([*command, "--json"]) == OK
    found = json.loads(capsys.readouterr().out)
    assert 1 <= found["fit"]["n_personas"] <= found["personas"]["n_personas"]
    assert found["fit"]["stopped"]


def test_a_users_own_records_can_be_scored(run_folder, tmp_path, capsys):
    (tmp_path / "mine.csv").write_text("context,response\nVerdict: good.,great fun\nVerdict: bad.,so dull\n")
    assert main(["score", str(run_folder), "--records", str(tmp_path / "mine.csv"), "--json"]) == OK
    assert json.loads(capsys.readouterr().out)["n_records"] == 2


def test_no_component_is_a_usage_error(run_folder, capsys):
    assert main(["score", str(run_folder), "--components", "1", "--quiet"]) == USAGE
    assert "must be at least 2, got 1" in capsys.readouterr().err


def test_a_folder_without_a_run_is_not_made_by_asking_for_its_report(tmp_path, capsys):
    assert main(["report", str(tmp_path / "rnu"), "--quiet"]) == USAGE
    assert "data.source is empty" in capsys.readouterr().err
    assert not (tmp_path / "rnu").exists()


def test_a_damaged_run_fails_verification(run_folder, tmp_path, capsys):
    subprocess.run(["cp", "-a", str(run_folder), str(tmp_path / "run")], check=True)
    (tmp_path / "run" / "metrics.json").write_text("{}")
    assert main(["verify", str(tmp_path / "run")]) == FAILED
    assert "changed since stage 'evaluate'" in capsys.readouterr().out


def test_the_doctor_examines_a_server_and_fails_if_it_is_unusable(capsys):
    from mop.backends.fake_server import FakeServer, start

    with start(FakeServer("vllm")) as running:
        name = f"openai:toy@{running.url}"
        assert main(["doctor", "--json", "--server", name, "--tokenizer", "fake"]) == OK
    findings = json.loads(capsys.readouterr().out)["findings"]
    assert findings[-1]["what"] == name
    assert "scores if it passes the probe" in findings[-1]["detail"]
    assert main(["doctor", "--server", "openai:toy@https://api.example.com"]) == FAILED
    assert "records would leave this machine" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--dialect", "grpc"], "kinds are vllm, sglang"),
        (["--broken", "badly"], "broken is one of none, silent"),
        (["--faults", "explode"], "a fault is called 'explode'; it must be one of 400, 401"),
        (["--fault-rate", "3"], "the rate of faults must be 0 to 1, got 3.0"),
        (["--api-key-env", "NO_SUCH_KEY"], "NO_SUCH_KEY"),
    ],
)
def test_a_fake_server_that_cannot_be_is_refused(capsys, arguments, sentence):
    assert main(["fake-server", *arguments]) == USAGE
    assert sentence in capsys.readouterr().err


def test_the_fake_server_lists_what_it_can_be(capsys):
    assert main(["fake-server", "--list"]) == OK
    out = capsys.readouterr().out
    assert "  sglang          token ids or chat; scores by /generate" in out
    assert "  sentinel        every score is -9999" in out
    assert "  429             too many requests; 429:2 with Retry-After: 2" in out


def test_a_closed_pipe_is_no_traceback():
    done = subprocess.run(f"{sys.executable} -m mop config | true", shell=True, capture_output=True, text=True)
    assert "Traceback" not in done.stderr


def test_verify_finds_a_sound_run(run_folder, capsys):
    assert main(["verify", str(run_folder)]) == OK
    assert capsys.readouterr().out.startswith("undamaged: all files, ")


def test_config_prints_every_setting_with_its_meaning(capsys):
    assert main(["config", "--preset", "paper", "--set", "fit.n_rounds=8"]) == OK
    out = capsys.readouterr().out
    assert "n_rounds = 8" in out
    assert "# Rounds of proposing, scoring and fitting at the most." in out


def test_pull_without_a_name_lists_what_there_is(capsys):
    assert main(["pull"]) == OK
    assert "smollm2-135m" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "code", "sentence"),
    [
        (["--set", 'data.source="/none/here.csv"'], USAGE, "here.csv"),
        (["--set", "data.response=tekst"], FAILED, "tekst"),
        (["--set", "personas.n_personas=25"], USAGE, "25"),
        (["--set", "fit.n_round=3"], USAGE, "unknown setting fit.n_round; did you mean fit.n_rounds?"),
        (["--set", "model.lm=smolm2-135m"], USAGE, "smollm2-135m"),
        (["--set", "model.encoder=minilmm"], USAGE, "minilm"),
        (["--preset", "demmo"], USAGE, "unknown preset 'demmo'; known presets: demo, paper, texts, quick"),
        (["--config", "none.toml"], USAGE, "no configuration file at none.toml; give the path of a TOML file"),
        (["--set", "data.golden=5000"], USAGE, "5000"),
        (["--set", "simulate.tau_factor=inf"], USAGE, "simulate.tau_factor must be a finite number, got inf"),
    ],
)
def test_bad_input_gives_one_clear_message_and_its_code(source, tmp_path, capsys, arguments, code, sentence):
    command = ["run", "--quiet", str(tmp_path / "run"), *options(source), *arguments]
    assert main(command) == code
    out, err = capsys.readouterr()
    assert sentence in err
    assert err.startswith("mop run: ")
    assert out == ""
    assert "Traceback" not in err


@pytest.mark.advice
def test_two_configurations_are_refused_and_the_ways_out_work(source, tmp_path, capsys):
    for name, said in (
        ("a", "[fit]\nn_rounds = 1\n"),
        ("b", "[fit]\nn_folds = 2\n"),
        ("ab", "[fit]\nn_rounds = 1\nn_folds = 2\n"),
    ):
        (tmp_path / f"{name}.toml").write_text(said)
    one, two, both = (str(tmp_path / f"{name}.toml") for name in ("a", "b", "ab"))
    with pytest.raises(SystemExit) as stop:
        main(["config", "--config", one, "--config", two])
    assert stop.value.code == USAGE
    assert (
        f"argument --config: one file is taken, got {one} and {two}; join them, or give what differs with --set"
    ) in capsys.readouterr().err
    for way in (["--config", both], ["--config", one, "--set", "fit.n_folds=2"]):
        assert main(["config", "--json", *way]) == OK
        assert json.loads(capsys.readouterr().out)["fit"].items() >= {"n_rounds": 1, "n_folds": 2}.items()


def test_empty_data_are_an_error(tmp_path, capsys):
    (tmp_path / "empty.csv").write_text("context,response\n")
    command = ["run", "--quiet", str(tmp_path / "run"), *options(tmp_path / "empty.csv")]
    assert main(command) == FAILED
    assert "empty.csv" in capsys.readouterr().err


def test_with_json_an_error_is_one_document_too(tmp_path, capsys):
    assert main(["run", "--json", str(tmp_path), "--set", "fit.n_rounds=0"]) == USAGE
    assert json.loads(capsys.readouterr().out)["error"] == {
        "type": "ConfigError", "message": "fit.n_rounds must be at least 1, got 0",
    }  # fmt: skip


def test_a_folder_of_another_version_is_refused(run_folder, source, tmp_path, capsys):
    other = tmp_path / "run"
    subprocess.run(["cp", "-a", str(run_folder), str(other)], check=True)
    manifest = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps({**manifest, "format_version": 99}))
    assert main(["run", "--quiet", str(other), *options(source)]) == FAILED
    assert "99" in capsys.readouterr().err


def old_run(run_folder, path):
    """A copy of a run whose config.json has two settings that are no more."""
    subprocess.run(["cp", "-a", str(run_folder), str(path)], check=True)
    settings = json.loads((path / "config.json").read_text())
    settings["simulate"] |= {"mix": "neighbours", "control_tau": 1.0}
    (path / "config.json").write_text(json.dumps(settings))
    return path


@pytest.mark.parametrize("verb", ["run", "fit", "compare", "personas", "evaluate", "score"])
def test_a_run_with_settings_of_another_version_names_the_command_that_gives_them_anew(
    verb, run_folder, tmp_path, capsys
):
    old = old_run(run_folder, tmp_path / "run")
    assert main([verb, "--quiet", str(old)]) == FAILED
    assert f"mop run {old} --config FILE; store.sqlite keeps what was paid for" in capsys.readouterr().err


def test_settings_anew_open_a_run_of_another_version(run_folder, tmp_path, capsys):
    old, fresh = old_run(run_folder, tmp_path / "run"), run_folder / "config.json"
    assert main(["run", "--json", str(old), "--config", str(fresh)]) == OK
    assert json.loads(capsys.readouterr().out)["done"] == []
    assert "mix" not in json.loads((old / "config.json").read_text())["simulate"]


def test_a_folder_that_is_no_run_is_left_alone(source, tmp_path, capsys):
    (tmp_path / "thesis.tex").write_text("precious")
    assert main(["run", "--quiet", str(tmp_path), *options(source)]) == FAILED
    assert "thesis.tex" in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.iterdir()) == ["thesis.tex"]


def test_unknown_verbs_and_missing_arguments_are_usage_errors(capsys):
    for arguments in (["simulat"], ["run"]):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
        assert stop.value.code == USAGE
    assert "usage: mop" in capsys.readouterr().err


def command_line(source, out, *more):
    return [sys.executable, "-m", "mop", "run", str(out), *options(source, *more)]


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, INTERRUPTED), (signal.SIGTERM, TERMINATED)])
def test_an_interrupted_run_says_so_and_goes_on_later(source, tmp_path, sent, code):
    out = tmp_path / "run"
    child = subprocess.Popen(
        command_line(source, out),
        stderr=subprocess.PIPE,
        text=True,
        # A background job of a shell has Ctrl-C switched off, and its children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    deadline = time.monotonic() + 120
    while not (out / "personas.jsonl").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    child.send_signal(sent)
    _, err = child.communicate(timeout=60)
    assert child.returncode == code
    assert "mop run: interrupted; what is done is kept: the same command goes on from there" in err
    assert "Traceback" not in err
    done = subprocess.run([*command_line(source, out), "--json"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["skipped"][:2] == ["records", "personas"]


def test_a_full_disk_stops_with_one_sentence_and_the_run_goes_on_when_there_is_room(source, tmp_path):
    out = tmp_path / "run"

    def no_room():  # a limit on file size stands for a full disk; Python ignores the signal that comes with it
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    full = subprocess.run(command_line(source, out), capture_output=True, text=True, preexec_fn=no_room,
                          env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"})  # fmt: skip
    assert full.returncode == FAILED
    assert "no space left" in full.stderr
    assert "Traceback" not in full.stderr
    subprocess.run(command_line(source, out), check=True, capture_output=True)
    assert (out / "report.html").is_file()


def test_what_explain_cannot_look_at_is_said(run_folder, capsys):
    for more, message in (
        (["--text", "fun", "--key", "k"], "give it or --key, not both"),
        (["--context", "Film?"], "--context goes with --text"),
        (["--key", "nobody"], "none of the run's test records has the key 'nobody'"),
    ):
        assert main(["explain", str(run_folder), *more]) == USAGE
        assert message in capsys.readouterr().err


def test_a_number_below_0_is_refused(run_folder, capsys):
    assert main(["score", str(run_folder), "--refit-tau", "-3"]) == USAGE
    assert "--refit-tau must be 0 or more records, got -3" in capsys.readouterr().err


def test_a_section_that_is_none_is_refused(run_folder, capsys):
    assert main(["run", str(run_folder), "--set", "seed.x=3"]) == USAGE
    assert "seed must be of type int" in capsys.readouterr().err


def test_refitted_on_as_many_records_as_there_are(run_folder, capsys):
    command = ["score", str(run_folder), "--components", "20", "--refit-tau", "1000", "--json"]
    assert main(command) == OK
    told = capsys.readouterr()
    assert json.loads(told.out)["refitted_on"] == 8
    assert "the run has 8 validation records, fewer than --refit-tau 1000" in told.err
