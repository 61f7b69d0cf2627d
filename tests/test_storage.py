"""The run folder and the files in it: atomic writes, the lock, the manifest, versions."""

import json
import math
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from mop.errors import ArtifactError
from mop.storage.files import (
    hash_of,
    read_json,
    read_jsonl,
    write_atomic,
    write_json,
    write_jsonl,
)
from mop.storage.run_folder import RunFolder

NAUGHTY = [
    "",
    "\x00 NUL",
    "line\u2028separator\u2029and\x85and\x0c",
    "\r\n\t",
    "emoji 👩‍👩‍👧 and ｆｕｌｌ",
    "lone \ud800 surrogate",
    "</script>",
    "<|im_end|>",
    '"quotes" \\ and \\n',
]


def run_child(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_naughty_text_survives_json_lines_one_row_per_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    assert write_jsonl(path, ({"text": text} for text in NAUGHTY)) == len(NAUGHTY)
    assert [row["text"] for row in read_jsonl(path)] == NAUGHTY
    assert path.read_bytes().count(b"\n") == len(NAUGHTY)


def test_text_stays_readable_in_json_lines(tmp_path):
    write_jsonl(tmp_path / "rows.jsonl", [{"text": "Prüfung 漢字"}])
    assert (tmp_path / "rows.jsonl").read_text("utf-8") == '{"text": "Prüfung 漢字"}\n'


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_refuses_numbers_that_json_does_not_have(tmp_path, value):
    path = tmp_path / "metrics.json"
    write_json(path, {"fid": None})
    with pytest.raises(ArtifactError, match=r"cannot write .*metrics\.json: Out of range float"):
        write_json(path, {"fid": value})
    assert read_json(path) == {"fid": None}
    path.write_text('{"fid": NaN}')
    with pytest.raises(ArtifactError, match=r"metrics\.json: not valid JSON \(NaN is not a JSON"):
        read_json(path)


def test_a_bad_line_is_named_by_its_number(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2')
    with pytest.raises(ArtifactError, match=r"rows\.jsonl, line 2: not valid JSON"):
        list(read_jsonl(path))
    path.write_bytes(b'{"a": 1}\n[2]\n')
    with pytest.raises(ArtifactError, match=r"line 2: found list, expected a JSON object"):
        list(read_jsonl(path))
    path.write_bytes(b"[" * 100_000)
    with pytest.raises(ArtifactError, match="line 1: not valid JSON"):
        list(read_jsonl(path))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.json: No such file or directory"):
        read_json(tmp_path / "none.json")


def test_a_writer_that_fails_half_way_leaves_the_old_file_and_no_trace(tmp_path):
    path = tmp_path / "rows.jsonl"
    write_jsonl(path, [{"a": 1}])

    def rows():
        yield {"a": 2}
        raise RuntimeError("stop here")

    with pytest.raises(RuntimeError, match="stop here"):
        write_jsonl(path, rows())
    assert list(read_jsonl(path)) == [{"a": 1}]
    assert [p.name for p in tmp_path.iterdir()] == ["rows.jsonl"]


def test_a_full_disk_leaves_the_old_file_and_says_so(tmp_path):
    path = tmp_path / "data.bin"
    write_atomic(path, b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(ArtifactError, match=r"no space left to write .*data\.bin"):
            write_atomic(path, b"x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["data.bin"]


def test_a_folder_that_is_not_there_cannot_be_written_to(tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot write .*: No such file or directory; give a"):
        write_atomic(tmp_path / "nowhere" / "file", b"")


def test_a_hash_depends_on_values_and_not_on_their_order():
    assert hash_of({"a": 1, "b": "ü"}) == hash_of({"b": "ü", "a": 1})
    assert len({hash_of(v) for v in ([1, 2], [2, 1], [12], "12", 12, 12.0, None)}) == 7


def test_a_stage_is_done_only_on_the_same_inputs_with_undamaged_files(tmp_path):
    with RunFolder.create(tmp_path / "run") as run:
        assert not run.stage_done("fit", "h1")
        write_json(run.mixture / "gate.json", [1])
        write_json(run.metrics, {})
        run.finish_stage("fit", "h1", files=[run.mixture, "metrics.json"], info={"seconds": 1.5})
        assert run.stage_done("fit", "h1")
        assert not run.stage_done("fit", "h2")
        assert run.stage_info("fit")["seconds"] == 1.5
    with RunFolder.create(tmp_path / "run") as run:
        assert run.stage_done("fit", "h1")
        assert run.stages == ("fit",)
        write_json(run.mixture / "gate.json", [2])
        assert not run.stage_done("fit", "h1")
        (run.mixture / "gate.json").unlink()
        assert not run.stage_done("fit", "h1")


def test_what_a_stage_made_changes_its_hash_and_when_it_ran_does_not(tmp_path):
    with RunFolder.create(tmp_path) as run:
        write_json(run.metrics, {})
        run.finish_stage("evaluate", "h", files=[run.metrics], info={"seconds": 1})
        first = run.stage_hash("evaluate")
        run.finish_stage("evaluate", "h", files=[run.metrics], info={"seconds": 2})
        assert run.stage_hash("evaluate") == first
        write_json(run.metrics, {"a": 1})
        run.finish_stage("evaluate", "h", files=[run.metrics])
        assert run.stage_hash("evaluate") != first


def test_a_stage_cannot_finish_without_its_files(tmp_path):
    with RunFolder.create(tmp_path / "run") as run:
        with pytest.raises(ArtifactError, match="no such file inside the run folder"):
            run.finish_stage("fit", "h", files=["none.json"])
        write_json(tmp_path / "outside.json", 1)
        with pytest.raises(ArtifactError, match="no such file inside the run folder"):
            run.finish_stage("fit", "h", files=[tmp_path / "outside.json"])
        assert run.stages == ()


def test_asking_about_an_unfinished_stage_says_which_have_finished(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.finish_stage("embed", "h")
        with pytest.raises(ArtifactError, match=r"stage 'fit' has not finished .* \['embed'\]"):
            run.stage_hash("fit")


def test_facts_about_the_run_are_kept(tmp_path):
    with RunFolder.create(tmp_path) as run:
        run.describe(seed=3)
        run.describe(mop="0.1.0")
    assert RunFolder.open(tmp_path).about == {"seed": 3, "mop": "0.1.0"}


def test_a_folder_with_other_things_in_it_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ArtifactError, match=r"no manifest\.json but holds 'thesis\.tex'"):
        RunFolder.create(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    (tmp_path / "manifest.json").write_text('{"name": "a web extension"}')
    with pytest.raises(ArtifactError, match=r"its manifest\.json was not written by mop"):
        RunFolder.create(tmp_path)


def test_a_run_of_another_version_is_refused(tmp_path):
    RunFolder.create(tmp_path).close()
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    (tmp_path / "manifest.json").write_text(json.dumps(manifest | {"format_version": 99}))
    for way in (RunFolder.create, RunFolder.open):
        with pytest.raises(ArtifactError, match="has format version 99, this mop reads and writes 2"):
            way(tmp_path)


def test_a_run_that_is_not_there_cannot_be_opened(tmp_path):
    with pytest.raises(ArtifactError, match=r"is not a run folder: there is no such folder"):
        RunFolder.open(tmp_path / "none")
    with pytest.raises(ArtifactError, match=r"is not a run folder: it is empty"):
        RunFolder.open(tmp_path)
    assert not (tmp_path / "none").exists()


def test_a_file_in_the_place_of_the_folder_is_named(tmp_path):
    (tmp_path / "run").write_text("")
    with pytest.raises(ArtifactError, match=r"cannot write .*run: File exists"):
        RunFolder.create(tmp_path / "run")


def test_a_second_writer_is_refused_and_a_reader_is_not(tmp_path):
    create = "import sys; from mop.storage.run_folder import RunFolder; RunFolder.create(sys.argv[1])"
    with RunFolder.create(tmp_path):
        result = run_child(create, tmp_path)
        assert f"is being written by another run (process {os.getpid()})" in result.stderr
        with pytest.raises(ArtifactError, match="is being written by another run"):
            RunFolder.create(tmp_path)
        with pytest.raises(ArtifactError, match="was opened for reading"):
            RunFolder.open(tmp_path).describe(seed=1)
    assert run_child(create, tmp_path).returncode == 0


def test_the_leftovers_of_a_killed_writer_are_cleared(tmp_path):
    RunFolder.create(tmp_path).close()
    leftover = tmp_path / "mixture" / ".gate.safetensors.123.mop-tmp"
    leftover.write_bytes(b"half")
    RunFolder.create(tmp_path).close()
    assert not leftover.exists()


def test_a_folder_whose_first_writer_was_killed_at_once_can_be_used(tmp_path):
    (tmp_path / ".lock").write_bytes(b"")
    (tmp_path / ".manifest.json.123.mop-tmp").write_bytes(b"{")
    with RunFolder.create(tmp_path) as run:
        assert run.stages == ()


def test_all_names_lie_inside_the_run(tmp_path):
    with RunFolder.create(tmp_path) as run:
        names = [run.config, run.records, run.personas, run.store, run.mixture, run.responses]
        names += [run.responses_parquet, run.metrics, run.report, run.figures, run.manifest]
        assert [n.relative_to(tmp_path).as_posix() for n in names] == [
            "config.json",
            "records",
            "personas.jsonl",
            "store.sqlite",
            "mixture",
            "responses.jsonl",
            "responses.parquet",
            "metrics.json",
            "report.html",
            "figures",
            "manifest.json",
        ]
        assert run.method("zero-shot") == Path(tmp_path, "methods", "zero-shot.jsonl")


@pytest.mark.parametrize("name", ["", "../x", ":a", ".hidden", "a/b", "a" * 101, "a\n"])
def test_a_method_name_must_be_a_plain_file_name(tmp_path, name):
    with (
        RunFolder.create(tmp_path) as run,
        pytest.raises(ArtifactError, match="cannot be a file name; use 1 to 100 of"),
    ):
        run.method(name)
