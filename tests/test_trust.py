"""A file from elsewhere never chooses where keys and records go; the user's own command does, and is asked once."""

from __future__ import annotations

import json
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import quick_run, reviews
from mop.backends.fake_server import FakeServer, start
from mop.cli import OK, USAGE, main
from mop.config import RunConfig, resolve_config
from mop.data.pull import cache_folder
from mop.errors import ConfigError
from mop.estimator import MixtureOfPersonas
from mop.mixture.fitted import load_mixture, save_mixture
from mop.runs.sample import sample
from mop.runs.trust import parts_of, refuse_address, remember, require_word, said_by, servers_of
from mop.runs.work import read_config

KEY = "canary-key-0a1b2c3d4e5f"


@pytest.fixture(autouse=True)
def _own_machine(tmp_path, monkeypatch):
    """A cache folder of this test's own, and a key in a variable."""
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "machine"))
    monkeypatch.setenv("CANARY_KEY", KEY)


class Listening(FakeServer):
    """Notes what was asked of it, the free questions too."""

    def __init__(self) -> None:
        super().__init__("openai")
        self.heard: list[tuple[str, str]] = []

    def reply(self, method: str, path: str, headers: Any, body: bytes) -> Any:
        self.heard.append((method, headers.get("authorization", "")))
        return super().reply(method, path, headers, body)


@pytest.fixture
def theirs():
    """Somebody's server on a port of this machine."""
    server = Listening()
    with start(server) as running:
        server.url = running.url  # type: ignore[attr-defined]
        yield server


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    return quick_run(tmp_path_factory.mktemp("trust"), "fit")[1]


def changed(folder: Path, **values: str) -> None:
    """Put other settings into the config.json of a run, as somebody else may have done."""
    file = folder / "config.json"
    config = json.loads(file.read_text())
    for name, value in values.items():
        section, _, key = name.partition("__")
        config[section][key] = value
    file.write_text(json.dumps(config))


def renamed(mixture: Path, lm: str) -> None:
    """Put another model into a saved mixture, whole again, as somebody else may have made it."""
    saved = load_mixture(mixture)
    save_mixture(replace(saved, info={**saved.info, "lm": lm}), mixture)


# ---------------------------------------------------------------- run folders from elsewhere


@pytest.mark.audit("M5")
def test_a_received_run_does_not_send_a_variable_of_mine_anywhere(fitted, theirs, tmp_path, capsys):
    shared = tmp_path / "shared"
    shutil.copytree(fitted, shared)
    changed(shared, model__lm=f"openai:toy@{theirs.url}", remote__api_key_env="CANARY_KEY")
    for verb in (
        ["sample", str(shared), "-n", "2", "--out", str(tmp_path / "o.jsonl")],
        ["run", str(shared)],
        ["explain", str(shared)],
        ["score", str(shared)],
        ["simulate", str(shared)],
        ["report", str(shared)],
        ["compare", str(shared)],
        ["match", str(shared)],
        ["run", str(tmp_path / "mine"), "--config", str(shared / "config.json")],
        ["fit", str(shared), "--set", "fit.n_rounds=1"],
        ["sample", str(shared), "-n", "2", "--out", str(tmp_path / "o.jsonl"), "--lm", f"openai:toy@{theirs.url}"],
    ):
        assert main([*verb, "--quiet"]) == USAGE, verb
        said = capsys.readouterr().err
        assert "CANARY_KEY (remote.api_key_env)" in said
        assert f"'openai:toy@{theirs.url}' (model.lm)" in said
        assert KEY not in said
    assert theirs.heard == []
    with pytest.raises(ConfigError, match=r"in Python: read_config\(PATH, trusts=True\)"):
        read_config(shared)


@pytest.mark.audit("M5")
def test_a_received_run_does_not_send_records_to_a_host_that_it_was_given_leave_for(fitted, tmp_path, capsys):
    shared = tmp_path / "shared"
    shutil.copytree(fitted, shared)
    changed(
        shared,
        model__lm="openai:m@https://gather.invalid",
        remote__allow_remote_data=True,
        remote__dialect="openai-chat",
    )
    assert main(["sample", str(shared), "-n", "2", "--out", str(tmp_path / "o.jsonl")]) == USAGE
    assert "would send records to 'openai:m@https://gather.invalid' (model.lm)" in capsys.readouterr().err


@pytest.mark.advice
def test_trust_is_asked_once_for_a_folder_and_its_servers(fitted, theirs, tmp_path, capsys):
    shared = tmp_path / "shared"
    shutil.copytree(fitted, shared)
    changed(shared, model__lm=f"openai:toy@{theirs.url}", model__scorer="fake", remote__api_key_env="CANARY_KEY")
    verb = ["sample", str(shared), "-n", "2", "--out", str(tmp_path / "o.jsonl"), "--quiet"]
    assert main(verb) == USAGE
    assert "add --trust (asked once for this folder" in capsys.readouterr().err
    assert main([*verb, "--trust"]) == OK
    assert (("POST", f"Bearer {KEY}")) in theirs.heard
    assert main(verb) == OK  # remembered
    changed(shared, remote__api_key_env="HOME")
    assert main(verb) == USAGE  # another variable is another question
    changed(shared, remote__api_key_env="CANARY_KEY")
    shutil.move(shared, tmp_path / "moved")
    assert main([verb[0], str(tmp_path / "moved"), *verb[2:]]) == USAGE


@pytest.mark.advice
def test_a_model_of_ones_own_needs_no_trust(fitted, theirs, tmp_path, capsys):
    shared = tmp_path / "shared"
    shutil.copytree(fitted, shared)
    changed(shared, model__lm=f"openai:toy@{theirs.url}", remote__api_key_env="CANARY_KEY")
    verb = ["sample", str(shared), "-n", "2", "--out", str(tmp_path / "o.jsonl"), "--quiet"]
    assert main(verb) == USAGE
    advice = capsys.readouterr().err.strip().rpartition("name a model of yours: ")[2]
    assert advice == "--set model.lm=smollm2-135m"
    assert main([*verb, *shlex.split(advice.replace("smollm2-135m", "fake"))]) == OK
    own = ["--set", f"model.lm=openai:toy@{theirs.url}", "--set", "remote.api_key_env=CANARY_KEY"]
    assert theirs.heard == []
    assert main([*verb, *own]) == OK  # each part said by the command itself


@pytest.mark.audit("M5")
def test_ones_own_run_is_never_asked(theirs, tmp_path, capsys):
    source = tmp_path / "data.jsonl"
    rows = [{"context": r.context, "response": r.response, "label": r.label} for r in reviews(150)]
    source.write_text("\n".join(map(json.dumps, rows)))
    toml = tmp_path / "settings.toml"
    toml.write_text(
        f'[data]\nsource = "{source}"\nduplicates = "keep"\n[model]\nlm = "openai:toy@{theirs.url}"\nscorer = "fake"\n'
        'encoder = "fake"\n[remote]\ndialect = "openai-chat"\napi_key_env = "CANARY_KEY"\n'
    )
    run = str(tmp_path / "run")
    verb = ["fit", run, "--preset", "quick", "--config", str(toml), "--quiet"]
    assert main([*verb]) == OK, capsys.readouterr().err
    assert main(["fit", run, "--quiet"]) == OK
    assert main(["sample", run, "-n", "2", "--out", str(tmp_path / "o.jsonl"), "--quiet"]) == OK
    assert main(["sample", run, "-n", "2", "--mixture", f"{run}/mixture", "--out", str(tmp_path / "p.jsonl")]) == OK
    link = tmp_path / "link"
    link.symlink_to(run)
    assert main(["sample", str(link), "-n", "2", "--out", str(tmp_path / "o.jsonl"), "--quiet"]) == OK


def config_of(*assignments: str) -> RunConfig:
    return resolve_config(preset="quick", assignments=assignments)


def test_what_needs_a_word_is_a_key_or_a_way_out_of_this_machine(tmp_path):
    here, out = 'model.lm="openai:m@http://127.0.0.1:1"', 'model.lm="openai:m@https://far.invalid"'
    for assignments, names in (
        ((), []),
        ((here,), []),
        ((here, 'remote.api_key_env="CANARY_KEY"'), ["model.lm"]),
        ((out,), ["model.lm"]),
        (('model.scorer="openai:m@https://far.invalid"',), ["model.scorer"]),
        (
            ('evaluate.judge="openai:m@http://localhost:1"', 'remote_scorer.api_key_env="CANARY_KEY"'),
            ["evaluate.judge"],
        ),
        (('remote.api_key_env="CANARY_KEY"',), []),  # nobody gets it
        (('model.lm="openai:m@http://127.0.0.1:1,https://far.invalid"',), ["model.lm"]),
    ):
        config = config_of(*assignments)
        assert [server.setting for server in servers_of(config) if server.unsaid(())] == names
        if not names:
            require_word(config, tmp_path)
            continue
        with pytest.raises(ConfigError, match="would send"):
            require_word(config, tmp_path)
        require_word(config, tmp_path, said=said_by(["evaluate.judge=x", "model.scorer=x", "remote.api_key_env=x",
                     "remote.allow_remote_data=1", "remote_scorer.api_key_env=x",
                     "remote_scorer.allow_remote_data=1"], lm="x"))  # fmt: skip
        require_word(config, tmp_path, trusts=True)


def test_a_mark_is_of_this_machine_alone(tmp_path, monkeypatch):
    config = config_of('model.lm="openai:m@https://far.invalid"')
    remember(config, tmp_path)
    require_word(config, tmp_path)
    marks = cache_folder() / "trusted"
    assert all(file.stat().st_mode & 0o077 == 0 for file in marks.iterdir())
    elsewhere = tmp_path / "another machine" / "trusted"
    elsewhere.mkdir(parents=True)
    for file in marks.iterdir():
        if not file.name.startswith("key-"):
            shutil.copy(file, elsewhere)
    monkeypatch.setenv("MOP_CACHE", str(elsewhere.parent))
    with pytest.raises(ConfigError, match="not from a command on this machine"):
        require_word(config, tmp_path)
    remember(config_of(), tmp_path / "other")  # makes no secret where none is needed
    assert not any(file.name.startswith("key-") for file in elsewhere.iterdir())


def test_a_cache_that_cannot_be_written_asks_each_time_and_stops_nothing(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "file"))
    config = config_of('model.lm="openai:m@https://far.invalid"')
    remember(config, tmp_path)
    with pytest.raises(ConfigError, match="--trust"):
        require_word(config, tmp_path)


# ---------------------------------------------------------------- mixtures from elsewhere


@pytest.mark.audit("H2")
@pytest.mark.parametrize("leave", [[], ["--set", "remote.allow_remote_data=true"]])
def test_a_received_mixture_does_not_choose_the_server(fitted, theirs, tmp_path, capsys, leave):
    for place, lm in (("a", f"openai:toy@{theirs.url}"), ("b", "openai:toy@https://gather.invalid")):
        shutil.copytree(fitted / "mixture", tmp_path / place)
        renamed(tmp_path / place, lm)
        verb = [
            "sample",
            str(fitted),
            "--mixture",
            str(tmp_path / place),
            "-n",
            "3",
            "--out",
            str(tmp_path / "o.jsonl"),
        ]
        assert main([*verb, "--set", "remote.api_key_env=CANARY_KEY", *leave]) == USAGE
        said = capsys.readouterr().err
        assert f"is for '{lm}', a server, and a mixture from elsewhere does not choose" in said
    assert theirs.heard == []
    assert not (tmp_path / "o.jsonl").exists()


@pytest.mark.advice
def test_the_server_of_a_received_mixture_is_named_by_the_command(fitted, theirs, tmp_path, capsys):
    shutil.copytree(fitted / "mixture", tmp_path / "received")
    renamed(tmp_path / "received", f"openai:toy@{theirs.url}")
    verb = [
        "sample",
        str(fitted),
        "--mixture",
        str(tmp_path / "received"),
        "-n",
        "3",
        "--out",
        str(tmp_path / "o.jsonl"),
    ]
    assert main(verb) == USAGE
    advice = capsys.readouterr().err.strip().rpartition("name it: ")[2]
    assert advice == f"--lm openai:toy@{theirs.url}"
    assert main([*verb, *shlex.split(advice)]) == OK
    assert len(theirs.heard) > 3


@pytest.mark.audit("H2")
@pytest.mark.advice
def test_loading_a_received_mixture_calls_nobody(fitted, theirs, tmp_path):
    shutil.copytree(fitted / "mixture", tmp_path / "received")
    name = f"openai:toy@{theirs.url}"
    renamed(tmp_path / "received", name)
    remote = {"api_key_env": "CANARY_KEY", "allow_remote_data": True}
    with pytest.raises(ConfigError, match=r"name it: MixtureOfPersonas.load\(FOLDER, lm='openai:toy@http") as caught:
        MixtureOfPersonas.load(tmp_path / "received", remote=remote)
    assert theirs.heard == []
    assert name in str(caught.value)
    model = MixtureOfPersonas.load(tmp_path / "received", lm=name, remote=remote)
    assert len(model.sample(["Verdict: good."], seed=1)) == 1
    assert (("POST", f"Bearer {KEY}")) in theirs.heard


@pytest.mark.audit("H2")
def test_a_mixture_saved_here_is_ones_own_but_not_with_another_key(fitted, theirs, tmp_path):
    name = f"openai:toy@{theirs.url}"
    model = MixtureOfPersonas.load(fitted / "mixture", lm=name, scorer="fake")
    model.save(tmp_path / "saved")
    assert MixtureOfPersonas.load(tmp_path / "saved").lm == name
    with pytest.raises(ConfigError, match="name it"):  # the key is given for another server
        MixtureOfPersonas.load(tmp_path / "saved", remote={"api_key_env": "CANARY_KEY"})
    config = config_of("model.lm=fake", "remote.api_key_env=CANARY_KEY")
    with pytest.raises(ConfigError, match="name it"):
        sample(config, fitted, tmp_path / "o.jsonl", mixture=tmp_path / "saved", n=1)
    renamed(tmp_path / "saved", "openai:toy@http://127.0.0.1:9")
    with pytest.raises(ConfigError, match="name it"):
        MixtureOfPersonas.load(tmp_path / "saved")
    assert theirs.heard == []


def test_what_a_match_makes_here_is_used_with_its_own_server(fitted, theirs, tmp_path, capsys):
    name, out = f"openai:toy@{theirs.url}", str(tmp_path / "matched")
    assert main(["match", str(fitted), "--lm", name, "--samples-per-persona", "2", "--out", out]) == OK
    following = capsys.readouterr().out.strip().splitlines()[-1].removeprefix("next: mop ")
    assert following.endswith("-n 1000 --out FILE.jsonl")
    verb = following.replace("1000", "2").replace("FILE", str(tmp_path / "texts"))
    before = len(theirs.heard)
    assert main(shlex.split(verb)) == OK
    assert len(theirs.heard) > before
    assert load_mixture(Path(out)).info["lm"] == name


def test_python_code_that_a_received_folder_names_needs_the_users_word(tmp_path, monkeypatch):
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "cache"))
    named = ["model.encoder=mine:Encoder", 'compare.methods=["mine:rival@0.5", "zero-shot"]']
    config = resolve_config(preset="quick", assignments=named)
    assert parts_of(config) == [("model.encoder", "mine:Encoder"), ("compare.methods", "mine:rival@0.5")]
    assert parts_of(resolve_config(preset="demo")) == []
    with pytest.raises(
        ConfigError, match=r"would run Python code: 'mine:Encoder' \(model\.encoder\) and .* add --trust"
    ):
        require_word(config, tmp_path / "run")
    require_word(config, tmp_path / "run", trusts=True)
    require_word(config, tmp_path / "run", said={"model.encoder", "compare.methods"})
    remember(config, tmp_path / "run")
    require_word(config, tmp_path / "run")
    with pytest.raises(ConfigError, match="would run Python code"):
        require_word(config, tmp_path / "elsewhere")
    with pytest.raises(ConfigError, match=r"names 'mine:model', which is Python code.*--lm mine:model"):
        refuse_address("mine:model", None, tmp_path / "run" / "mixture", say="--lm NAME")
