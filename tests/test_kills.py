"""A few kills of each kind of run; `make nightly` does a thousand."""

import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import pytest

import kills
from mop.storage.store import Store
from mop.types import Generation


def kill(*arguments):
    """In a Python process of its own, since the server that forks the runs is one per process."""
    command = [sys.executable, kills.__file__, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_kills_of_a_remote_simulation_lose_nothing_double_nothing_and_change_no_byte():
    done = kill("--remote", "20", "--chain", "0", "--seed", "1")
    assert done.stdout.splitlines()[-1:] == ["20 kills: 0 lost, 0 doubled, same bytes"], done.stderr
    assert done.returncode == 0


@pytest.mark.slow
def test_kills_of_the_chain_lose_nothing_double_nothing_and_change_no_byte():
    done = kill("--remote", "0", "--chain", "20", "--seed", "1")
    assert done.stdout.splitlines()[-1:] == ["20 kills: 0 lost, 0 doubled, same bytes"], done.stderr


def _forgetful(_, path):
    """A run that does something else wherever it may be killed."""
    folder = Path(path)
    folder.mkdir(exist_ok=True)
    is_whole = folder.name == "unbroken"
    with Store(folder / "store.sqlite") as store:
        key = b"first" if is_whole else b"second"
        one = Generation("x", 1, "stop", 0.0)
        other = Generation(f"{is_whole}", 1 if is_whole else 2, "stop", 0.0)  # another text, at another charge
        store.put_generations([(key, one), (b"third", other)], stage="simulate")
    time.sleep(0.5)
    (folder / "out").write_text(f"{is_whole}")


def test_the_count_notices_what_is_lost_doubled_altered_asked_again_and_changed(tmp_path):
    context = multiprocessing.get_context("spawn")
    count = kills.kill_again_and_again(
        context, _forgetful, "", ("out",), kills=1, folder=tmp_path, seed=0,
        asked=kills.Asked(2, lambda: 5),
    )  # fmt: skip
    assert (count.kills, count.runs) == (1, 1)
    assert (count.lost, count.doubled, count.changed) == (1, 1, 1)
    assert count.altered == 2  # the third row, and what the stage was charged
    assert count.asked_again >= 6  # three too many in each of two starts
    assert not count.is_sound


def test_what_a_killed_run_has_stored_is_counted_without_touching_it(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    assert kills.n_drawn(folder) == 0
    with Store(folder / "store.sqlite") as store:
        pairs = [(bytes([i]), Generation("x", 1, "stop", 0.0)) for i in range(3)]
        store.put_generations(pairs, stage="simulate")
        assert kills.n_drawn(folder) == 3  # as a kill leaves it, not yet written back


@pytest.mark.parametrize("name", ["lost", "doubled", "altered", "asked_again", "changed"])
def test_any_one_of_them_makes_a_count_unsound(name):
    assert kills.Count(kills=3, runs=1).is_sound
    assert not kills.Count(kills=3, runs=1, **{name: 1}).is_sound
