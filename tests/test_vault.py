"""Run folders from elsewhere, on disks that fail, beside other processes: what is read, refused and said."""

import csv
import errno
import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import pytest

from mop.cli.command import main
from mop.errors import ArtifactError
from mop.estimator import MixtureOfPersonas
from mop.metrics.words import Copies, near_copy_share
from mop.runs.work import Models, open_work, read_config
from mop.storage.files import check_of, read_jsonl, system_errors, write_atomic
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store, embedding_key
from mop.types import Generation
from trust.errnos import inject
from trust.folders import fuzz_folders
from trust.small_run import arguments, fresh, make_run


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("vault"))


@pytest.fixture
def run(base, tmp_path):
    return fresh(base, tmp_path / "run")


def mop(*argv):
    return main([*map(str, argv), "--quiet"])


def refused(capsys, *argv):
    """What a command that fails says."""
    capsys.readouterr()
    assert mop(*argv) == 1
    return capsys.readouterr().err


# H4: who was in the data


@pytest.mark.audit("H4")
def test_published_texts_and_the_store_do_not_tell_whose_words_they_are_made_of(base, tmp_path):
    out = tmp_path / "published.jsonl"
    assert mop("sample", base, "-n", 80, "--out", out) == 0
    rows = [*read_jsonl(out), *read_jsonl(base / "responses.jsonl")]
    with (base.parent / "reviews.csv").open(newline="") as file:
        people = [(f"Film: {r['film']}. Verdict: {r['verdict']}.", r["text"]) for r in csv.DictReader(file)]
    guesses = {
        blake2b("\0".join(parts).encode(), digest_size=16).digest()[:8].hex()
        for x, y in people
        for parts in ((x, y, ""), (y,), (x, y), (x, "", ""))
    }
    shown = {key for row in rows for key in (row["exemplar"] or "").split()}
    assert shown
    assert not shown & guesses
    assert all(key.startswith("exemplar-") for key in shown)
    with Store(base / "store.sqlite") as store:
        keys = [embedding_key("fake-encoder", x) for x, _ in people]
        assert store.counts()["embedding"] > 0
        assert store.get_embeddings(keys) == {}


@pytest.mark.audit("H4")
def test_what_people_wrote_moves_no_name_no_split_and_no_seed(base, tmp_path):
    source = tmp_path / "reviews.csv"
    with (base.parent / "reviews.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    with source.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows({**row, "text": f"Something else, {i} times."} for i, row in enumerate(rows))
    assert mop("simulate", tmp_path / "other", *arguments(source), "--set", "personas.writer=keywords") == 0
    for name in ("id", "context", "seed"):
        mine, others = (
            [row[name] for row in read_jsonl(one / "responses.jsonl")] for one in (base, tmp_path / "other")
        )
        assert mine == others


def test_two_runs_of_the_same_data_give_the_same_bytes_with_other_secrets(base, tmp_path):
    other = make_run(tmp_path)
    for name in ("responses.jsonl", "mixture/mixture.json", "metrics.json", "methods/zero-shot.jsonl"):
        assert (base / name).read_bytes() == (other / name).read_bytes()
    secrets = [(one / "store.sqlite.secret").read_bytes() for one in (base, other)]
    assert secrets[0] != secrets[1]
    for file in other.rglob("*"):
        if file.is_file() and file.name != "store.sqlite.secret":
            assert secrets[1] not in file.read_bytes()


@pytest.mark.audit("H4")
def test_a_mixture_fitted_in_python_numbers_its_exemplars():
    rows = [{"context": f"Film {i}?", "response": f"so {word} {i}"} for i in range(10) for word in ("good", "dull")]
    model = MixtureOfPersonas(n_personas=2, n_exemplars=6, lm="fake", encoder="fake").fit(rows)
    assert [record.key for record in model.mixture_.exemplars] == [f"exemplar-{i}" for i in range(1, 7)]
    keyed = [{**row, "key": f"k{i}"} for i, row in enumerate(rows)]
    model = MixtureOfPersonas(n_personas=2, n_exemplars=6, lm="fake", encoder="fake").fit(keyed)
    assert all(record.key.startswith("k") for record in model.mixture_.exemplars)


@pytest.mark.advice
def test_a_store_without_its_secret_is_refused_and_works_with_it_again(run, tmp_path, capsys):
    moved = (run / "store.sqlite.secret").rename(tmp_path / "kept")
    said = refused(capsys, "score", run, "--no-references")
    assert "store.sqlite cannot be read without its secret" in said
    assert "copy it from where the store came from" in said
    shutil.copy(moved, run / "store.sqlite.secret")
    assert mop("score", run, "--no-references") == 0


@pytest.mark.advice
def test_a_store_whose_secret_is_lost_can_be_moved_away(run, tmp_path, capsys):
    (run / "store.sqlite.secret").write_text("00" * 32)
    assert "or move" in refused(capsys, "explain", run)
    (run / "store.sqlite").rename(tmp_path / "away.sqlite")
    assert mop("explain", run) == 0


def test_a_store_of_the_version_before_has_no_secret_and_keeps_its_keys(tmp_path):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        assert len(store.secret) == 32
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 1")
        db.execute("DROP TABLE secret")
    with Store(path) as store:
        assert store.secret == b""
        store.put_generations([(b"k", Generation("x", 1, "stop", 0.0))])
    with Store(path) as store:
        assert store.get_generations([b"k"])[b"k"].text == "x"


# M2: links; reading without writing


@pytest.mark.audit("M2")
@pytest.mark.parametrize("name", [
    ".lock", "records", "figures", "mixture", "methods", "store.sqlite", "report.html", "store.sqlite-wal",
    "store.sqlite.secret", "manifest.json", "records/test.jsonl",
])  # fmt: skip
@pytest.mark.parametrize("verb", ["explain", "verify", "report"])
def test_no_link_inside_a_run_folder_is_followed(run, tmp_path, capsys, name, verb):
    target = tmp_path / "precious"
    if (run / name).is_dir():
        shutil.move(run / name, target)
    else:
        target.write_text("precious")
        (run / name).unlink(missing_ok=True)
    before = contents(target) if target.is_dir() else {target: target.read_bytes()}
    (run / name).symlink_to(target)
    said = refused(capsys, verb, run)
    assert f"{run / name} is a link to {str(target)!r}; none is followed" in said
    assert {file: file.read_bytes() for file in before} == before


@pytest.mark.advice
@pytest.mark.parametrize("name", [".lock", "figures", "report.html"])
def test_the_link_removed_the_same_command_works(run, tmp_path, capsys, name):
    place = run / name
    shutil.rmtree(place) if place.is_dir() else place.unlink()
    place.symlink_to(tmp_path)
    said = refused(capsys, "report", run)
    command = said[said.index("(rm ") + 1 : said.index(")", said.index("(rm "))]
    subprocess.run(command, shell=True, check=True)
    assert mop("report", run) == 0


def test_a_pipe_in_a_run_folder_is_refused_and_not_waited_for(run, capsys):
    os.mkfifo(run / "metrics.jsonx")
    assert "metrics.jsonx is no plain file" in refused(capsys, "verify", run)


@pytest.fixture
def read_only(run, monkeypatch):
    """A run on a disk that cannot be written to, as far as this process can tell: root may write anywhere."""
    real_open, real_access = os.open, os.access

    def refuses(path, flags, *args, **options):
        if str(run) in str(path) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        return real_open(path, flags, *args, **options)

    monkeypatch.setattr(os, "open", refuses)
    monkeypatch.setattr(os, "access", lambda path, mode: str(run) not in str(path) and real_access(path, mode))
    return run


def contents(run):
    return {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}


@pytest.mark.audit("M2")
@pytest.mark.parametrize("verb", ["verify", "explain", "score", "sample", "report"])
def test_reading_needs_no_write_access(read_only, tmp_path, verb):
    before = contents(read_only)
    options = {"sample": ("-n", 5, "--out", tmp_path / "out.jsonl"), "score": ("--records", tmp_path / "new.csv")}
    (tmp_path / "new.csv").write_text("film,verdict,text\nFilm 3,good,A film that nobody knew before.\n")
    assert mop(verb, read_only, *options.get(verb, ())) == 0
    assert contents(read_only) == before


@pytest.mark.advice
def test_what_must_write_says_so_and_a_copy_takes_it(read_only, tmp_path, capsys):
    said = refused(capsys, "simulate", read_only, "--set", "simulate.max_tokens=9")
    assert f"cannot write {read_only}: Read-only file system" in said
    assert f"(cp -r {read_only} NEW)" in said
    subprocess.run(f"cp -r {read_only} {tmp_path / 'copy'}", shell=True, check=True)
    assert mop("simulate", tmp_path / "copy", "--set", "simulate.max_tokens=9") == 0


def test_a_log_that_was_not_written_back_is_read_on_a_disk_that_cannot_be_written_to(tmp_path, monkeypatch, caplog):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put_generations([(b"k", Generation("x", 1, "stop", 0.0))])
        for part in ("store.sqlite", "store.sqlite-wal", "store.sqlite.secret"):
            shutil.copy(tmp_path / part, tmp_path / part.replace("store", "hot"))
    hot = tmp_path / "hot.sqlite"
    monkeypatch.setattr(os, "access", lambda *_: False)
    with Store(hot) as store:
        assert store.counts()["generation"] == 1
        assert not store.can_keep
        store.put_generations([(b"l", Generation("y", 1, "stop", 0.0))])
        assert store.counts()["generation"] == 2
    with Store(hot) as store:
        assert store.counts()["generation"] == 1
    assert "cannot be written to: new answers are not kept" in caplog.text


@pytest.mark.audit("M2")
def test_a_run_that_is_being_written_is_explained_scored_and_sampled_beside_it(run, tmp_path, capsys):
    with RunFolder.create(run) as held:
        before = held.manifest.read_bytes()
        for argv in (("explain", run), ("score", run), ("sample", run, "-n", 3, "--out", tmp_path / "out.jsonl")):
            assert mop(*argv) == 0
        assert held.manifest.read_bytes() == before
        assert "is being written by another run" in refused(capsys, "run", run)


@pytest.mark.audit("M2")
def test_a_lost_log_or_an_emptied_store_is_no_sound_run(run, tmp_path, capsys):
    assert mop("verify", run) == 0
    (run / "store.sqlite").rename(tmp_path / "away")
    Store(run / "store.sqlite").close()
    capsys.readouterr()
    assert main(["verify", str(run)]) == 1
    out = capsys.readouterr().out
    assert "score rows are missing of those that were there when the run was last written" in out
    assert "generation rows are missing" in out
    assert "embedding rows are missing" in out


# M4: what changed since it was made


@pytest.mark.audit("M4")
@pytest.mark.parametrize(
    ("name", "verb"),
    [("mixture/mixture.json", "sample"), ("mixture/mixture.json", "score"), ("mixture/gate.safetensors", "explain"),
     ("records/test.jsonl", "explain"), ("records/test.jsonl", "score"), ("records/train.jsonl", "sample"),
     ("records/valid.jsonl", "match")],
)  # fmt: skip
def test_a_file_that_changed_is_not_used(run, tmp_path, capsys, name, verb):
    data = bytearray((run / name).read_bytes())
    data[-40] ^= 1
    (run / name).write_bytes(data)
    options = ("-n", 5, "--out", tmp_path / "out.jsonl") if verb == "sample" else ()
    said = refused(capsys, verb, run, *options)
    assert f"{run / name}: changed since stage" in said
    assert "it is not used" in said


@pytest.mark.advice
@pytest.mark.parametrize("name", ["mixture/mixture.json", "records/test.jsonl"])
def test_what_changed_is_made_anew_by_the_command_that_is_named(run, capsys, name):
    whole = (run / name).read_bytes()
    (run / name).write_bytes(whole.replace(b"evening", b"morning", 1))
    said = refused(capsys, "explain", run)
    assert mop(*said[said.index("anew with: mop ") + 15 :].split()) == 0
    assert (run / name).read_bytes() == whole
    assert mop("explain", run) == 0


@pytest.mark.audit("M4")
@pytest.mark.parametrize("change", [
    lambda m: m.pop("stages"), lambda m: m.pop("about"), lambda m: m.update(stages=[]),
    lambda m: m["stages"].update(fit=None), lambda m: m["stages"]["fit"].pop("files"),
    lambda m: m["stages"]["fit"].pop("info"), lambda m: m["about"].update(remote="x"),
    lambda m: m["stages"]["fit"]["files"].update({"../../etc/passwd": "0"}),
], ids=range(8))  # fmt: skip
def test_a_manifest_that_lacks_something_is_damaged_even_if_its_check_agrees(run, capsys, change):
    manifest = json.loads((run / "manifest.json").read_text())
    change(manifest)
    for is_signed in (False, True):
        if is_signed:
            manifest["check"] = check_of(manifest)
        (run / "manifest.json").write_text(json.dumps(manifest))
        for verb in ("verify", "explain", "run"):
            assert "manifest.json is damaged or was changed by hand" in refused(capsys, verb, run)


@pytest.mark.advice
@pytest.mark.parametrize("damage", [Path.unlink, lambda file: file.write_text("{"), lambda file: file.write_text("{}")])
def test_a_run_without_its_manifest_begins_anew_with_what_was_paid_for(run, tmp_path, capsys, monkeypatch, damage):
    monkeypatch.chdir(tmp_path)
    damage(run / "manifest.json")
    said = refused(capsys, "report", run)
    if "begin anew" in said.lower():  # of another program: nothing is known of it
        commands = said[said.index("mkdir NEW") :].strip().split(" && ")
        for command in commands[:2]:
            subprocess.run(command, shell=True, check=True)
        with Store(tmp_path / "NEW" / "store.sqlite") as store:
            before = store.spent()
        assert mop(*commands[2].split()[1:]) == 0
        with Store(tmp_path / "NEW" / "store.sqlite") as store:
            assert store.spent() == before
    else:
        assert "was not written by mop; give a new or empty folder" in said
        assert mop("personas", tmp_path / "new", *arguments(tmp_path / "reviews.csv")) in (0, 2)


def test_a_run_folder_of_the_version_before_is_read_and_taken_on(run):
    manifest = json.loads((run / "manifest.json").read_text())
    manifest["format_version"] = 1
    del manifest["check"]
    (run / "manifest.json").write_text(json.dumps(manifest))
    assert mop("verify", run) == 0
    assert mop("run", run) == 0
    assert json.loads((run / "manifest.json").read_text())["format_version"] == 2


def test_damaged_folders_end_in_messages_of_ours():
    assert fuzz_folders(25, seed=11) == {"cases": 25, "tracebacks": []}


# M9: private, and said to be


@pytest.mark.audit("M9")
def test_a_run_folder_is_for_its_owner_alone_whatever_the_umask_says(tmp_path):
    before = os.umask(0)
    try:
        base = make_run(tmp_path)
        assert mop("sample", base, "-n", 3, "--out", base / "inside.jsonl") == 0
        assert mop("sample", base, "-n", 3, "--out", tmp_path / "outside.jsonl") == 0
        assert mop("match", base, "--samples-per-persona", 4) == 0
    finally:
        os.umask(before)
    modes = {file: stat.S_IMODE(file.stat().st_mode) for file in (base, *base.rglob("*"))}
    assert {oct(mode) for file, mode in modes.items() if file.is_dir()} == {"0o700"}
    assert {oct(mode) for file, mode in modes.items() if file.is_file()} == {"0o600"}
    assert stat.S_IMODE((tmp_path / "outside.jsonl").stat().st_mode) == 0o666


@pytest.mark.audit("M9")
def test_what_holds_real_records_says_so(base, tmp_path, capsys):
    manifest = json.loads((base / "manifest.json").read_text())
    assert manifest["about"]["contains_real_records"] == {"records": 48, "mixture": 12, "report": 24}
    assert "12 real records, word for word" in json.loads((base / "mixture" / "mixture.json").read_text())["contains"]
    assert "This page contains real records: 12 exemplars and 12 texts" in (base / "report.html").read_text()
    capsys.readouterr()
    assert main(["sample", str(base), "-n", "5", "--out", str(tmp_path / "o.jsonl")]) == 0
    assert "exemplars are real records: audit before publishing; 0 of 5 texts repeat" in capsys.readouterr().out


@pytest.mark.audit("M9")
def test_copies_of_records_that_were_not_shown_count():
    real = [f"On evening {i} I saw the slow film with my sister." for i in range(50)]
    assert near_copy_share(real[10:20], [real[0]] * 10) == 0.0
    assert near_copy_share(real[10:20], [None] * 10, Copies(real)) == 1.0
    assert near_copy_share(["Nothing of all this was ever written by anybody."], [None], Copies(real)) == 0.0


# Kind 7: system errors


def test_system_errors_end_in_messages_of_ours_and_leave_nothing_half_written():
    found = inject(16, seed=5)
    assert found["tracebacks"] == found["half_written"] == found["not_resumed"] == []
    assert found["cases"] == 16


@pytest.mark.parametrize("name", ["EACCES", "EROFS", "ENOSPC", "EDQUOT", "ENOLCK", "ESTALE", "EIO", "EMFILE",
                                  "ENAMETOOLONG", "EISDIR", "ENOTDIR", "ELOOP", "EINTR", "ENXIO"])  # fmt: skip
def test_every_system_error_names_the_place_and_what_to_do(tmp_path, name):
    number = getattr(errno, name)
    with pytest.raises(ArtifactError) as caught, system_errors(tmp_path):
        raise OSError(number, os.strerror(number))
    text, _, remedy = str(caught.value).partition("; ")
    assert str(tmp_path) in text
    assert os.strerror(number) in text
    assert len(remedy) > 15


@pytest.mark.advice
def test_a_folder_in_the_place_of_a_file_moved_away_the_file_is_written(tmp_path):
    (tmp_path / "x.json" / "inner").mkdir(parents=True)
    with pytest.raises(ArtifactError, match="a folder stands where a file belongs, or .*; move it away"):
        write_atomic(tmp_path / "x.json", b"1")
    (tmp_path / "x.json").rename(tmp_path / "away")
    write_atomic(tmp_path / "x.json", b"1")
    assert (tmp_path / "x.json").read_bytes() == b"1"


def test_a_system_error_anywhere_in_a_run_is_one_of_ours(run):
    config = read_config(run)
    with (
        pytest.raises(ArtifactError, match=r"cannot use .*run: Stale file handle; the disk, or the server"),
        open_work(config, run, Models(config), until="records"),
    ):
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))


# L8


@pytest.mark.advice
def test_a_matched_mixture_does_not_go_into_the_root_or_a_folder_of_the_run(run, capsys):
    before = contents(run)
    for place in (run, run / "mixture", run / "records", run / "figures" / "x"):
        assert mop("match", run, "--samples-per-persona", 4, "--out", place) == 2
        said = capsys.readouterr().err
        assert "is the run itself or a folder of it" in said
    assert contents(run) == before
    assert mop("match", run, "--samples-per-persona", 4, "--out", said.split("such as ")[1].strip().strip("'")) == 0


KILL = """
import json, sys
from pathlib import Path
from trust.kills import kills
print(json.dumps(kills(8, 1, state=Path(sys.argv[1]))))
"""


@pytest.mark.slow
def test_kills_of_four_commands_lose_nothing_and_double_nothing_and_are_not_done_twice(tmp_path):
    for _ in range(2):  # in a Python process of its own, since the server that forks the runs is one per process
        command = [sys.executable, "-c", KILL, str(tmp_path / "state.json")]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout.splitlines()[-1])
        assert found["kills"] == 8
        assert not any(found[name] for name in ("lost", "doubled", "altered", "changed"))
    assert len(done.stdout.splitlines()) == 1  # the second time all was known
