"""Kill runs at random moments, again and again, and count what is lost or doubled: ``python tests/kills.py``.

Two kinds of run: the whole chain on the fake model, and a simulation on a server that answers with
faults. Each is started, killed (SIGKILL) at a random moment, started again, until it gets through;
then its files must have the bytes of an unbroken run, and its store the same rows with the same
values and costs. A server must not have been asked again for what was stored before a kill. pytest
runs a few of these; `make nightly` runs a thousand.

A server process has everything imported and each run is forked off it, so that a kill costs little.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.context import BaseContext, ForkServerContext
from multiprocessing.process import BaseProcess
from pathlib import Path

N_REMOTE = 120
"""Responses of a remote simulation."""

CHAIN_FILES = ("personas.jsonl", "mixture/mixture.json", "mixture/gate.safetensors", "responses.jsonl",
               "methods/zero-shot.jsonl", "methods/mop-uniform.jsonl", "metrics.json")  # fmt: skip
"""What an unbroken run and a killed one must have in common, byte for byte; the report says what was
spent, and a kill may cost a batch."""


@dataclass
class Count:
    """What happened to the runs of one kind."""

    kills: int = 0
    runs: int = 0
    """Runs that got through and were compared."""
    lost: int = 0
    """Rows that an unbroken run has and a killed one has not."""
    doubled: int = 0
    """Rows that only a killed run has, or that got a second, different value."""
    altered: int = 0
    """Rows with another value than in an unbroken run; stages that were charged other costs."""
    asked_again: int = 0
    """Items that a server was asked for although they were stored."""
    changed: int = 0
    """Files with other bytes."""
    seconds: float = 0.0

    def line(self, name: str) -> str:
        """One line for people."""
        each = self.seconds / max(1, self.kills)
        return (
            f"{name}: {self.kills} kills over {self.runs} runs, {self.lost} lost, {self.doubled} "
            f"doubled, {self.altered} altered, {self.asked_again} asked again, {self.changed} files "
            f"changed, {each:.2f} s per kill"
        )

    @property
    def is_sound(self) -> bool:
        """Whether nothing went wrong."""
        wrong = (self.lost, self.doubled, self.altered, self.asked_again, self.changed)
        return not any(wrong)


REMOTE = ("mop.backends.remote", "mop.backends.fake_server", "mop.simulate.write", "mop.storage.store", "httpx")
CHAIN = ("mop.pipeline", "torch", "safetensors.torch", "sklearn.cluster", "sklearn.manifold",
         "scipy.optimize", "scipy.linalg", "pyarrow.parquet")  # fmt: skip
"""What the two kinds of run import."""


def chain(source: str, path: str) -> None:
    """The whole chain on the fake model."""
    from mop.config import resolve_config
    from mop.pipeline import run

    # A short fit: what is on trial is going on after a kill, not the weights.
    short = ["fit.n_rounds=1", "fit.n_folds=2"]
    sizes = ["data.golden=30", "evaluate.n_seeds=1", "evaluate.n_bootstrap=20"]
    assignments = [f'data.source="{source}"', *short, *sizes]
    config = resolve_config(preset="quick", assignments=assignments)
    run(config, Path(path), until="evaluate")


def remote(url: str, path: str) -> None:
    """A simulation on a server; the file appears after the last response."""
    from mop.backends.ask import Drawing
    from mop.backends.fake_server import ToyEncoder
    from mop.backends.remote import open_remote
    from mop.simulate.rows import write_responses
    from mop.simulate.write import simulate
    from mop.storage.store import Store
    from mop.types import Agent, Decoding, Persona, Record

    folder = Path(path)
    folder.mkdir(exist_ok=True)
    contexts = [Record(key=f"c{i}", context=f"film {i}", response="") for i in range(N_REMOTE)]
    personas = [Persona(key=f"p{k}", description=text) for k, text in enumerate(("tea", "jazz"))]
    agents = [Agent(i % 2, (), 0.5 + 0.1 * (i % 7)) for i in range(N_REMOTE)]
    model = open_remote(f"openai:toy@{url}", encoder=ToyEncoder(), max_concurrency=8)
    with Store(folder / "store.sqlite") as store:
        drawing = Drawing(generator=model, store=store, seed=0, decoding=Decoding(max_tokens=24))
        responses = simulate(contexts, agents, personas, [], drawing)
        write_responses(folder / "responses.jsonl", responses)


def nothing() -> None:
    """A child that ends at once."""


def rows(store: Path) -> dict[tuple[str, bytes], object]:
    """Kind and key of every row to its value, and every stage to what it was charged."""
    found: dict[tuple[str, bytes], object] = {}
    with contextlib.closing(sqlite3.connect(store)) as file:
        for kind in ("score", "generation", "embedding"):
            for key, payload in file.execute(f"SELECT key, payload FROM {kind}"):
                found[kind, key] = payload
        for kind, key, payload in file.execute("SELECT kind, key, payload FROM conflict"):
            found["conflict", kind.encode() + key] = payload
        for stage, *cost in file.execute("SELECT stage, calls, tokens FROM cost"):
            found["cost", stage.encode()] = cost
    return found


def n_drawn(path: Path) -> int:
    """Responses in the store of a run that is not running; a copy is read, to leave its log as the kill left it."""
    with tempfile.TemporaryDirectory() as folder:
        for file in path.glob("store.sqlite*"):
            shutil.copy(file, folder)
        copy = Path(folder) / "store.sqlite"
        if not copy.exists():
            return 0
        with contextlib.closing(sqlite3.connect(copy)) as store:
            known = store.execute("SELECT name FROM sqlite_master WHERE name = 'generation'")
            if known.fetchone() is None:  # killed before there were tables
                return 0
            return int(store.execute("SELECT COUNT(*) FROM generation").fetchone()[0])


@dataclass(frozen=True)
class Asked:
    """What a server was asked for."""

    n_items: int
    """Items of a whole run."""
    since: Callable[[], int]
    """How many different items it was asked for since the last time."""

    def missing(self, path: Path) -> int:
        """For how many it may be asked."""
        return self.n_items - n_drawn(path) if self.n_items else 0


NO_SERVER = Asked(0, lambda: 0)


def kill_again_and_again(
    context: BaseContext,
    work: Callable[[str, str], None],
    source: str,
    files: tuple[str, ...],
    *,
    kills: int,
    folder: Path,
    seed: int,
    asked: Asked = NO_SERVER,
    prepare: Callable[[Path], object] = Path.mkdir,
) -> Count:
    """Kill runs until there were so many kills; compare each run that got through.

    Kills come at a moment drawn evenly from a span. The span starts at a third of what an unbroken
    run takes, shrinks when runs get through unharmed and grows when one does not get on, so that
    starts, ends and every stage between are hit. With ``asked``, no start may ask for more items
    than were missing from the store. ``prepare`` makes the folder that a run begins with.

    Raises
    ------
    RuntimeError
        If a run that was not killed fails.
    """
    first = context.Process(target=nothing)  # waits for the imports, which are no part of a run
    first.start()
    first.join()
    begin = time.monotonic()
    whole = folder / "unbroken"
    prepare(whole)
    child = context.Process(target=work, args=(source, str(whole)))
    child.start()
    child.join()
    if child.exitcode != 0:
        raise RuntimeError(f"the unbroken run failed with exit code {child.exitcode}")
    span = first_span = (time.monotonic() - begin) / 3
    expected, expected_rows = ([(whole / name).read_bytes() for name in files], rows(whole / "store.sqlite"))
    rng, count, begin = random.Random(seed), Count(), time.monotonic()
    asked.since()  # forget the unbroken run
    while count.kills < kills:
        path = folder / f"run{count.runs}"
        prepare(path)
        shutil.copy(whole / "store.sqlite.secret", path)  # so that equal questions have equal keys
        in_a_row = 0
        while True:
            n_missing = asked.missing(path)
            child = context.Process(target=work, args=(source, str(path)))
            after_s = rng.uniform(0.0, span) if count.kills < kills else None
            was_killed = start_and_kill(child, after_s)
            count.asked_again += max(0, asked.since() - n_missing)
            if not was_killed:
                break
            count.kills += 1
            in_a_row += 1
            if in_a_row % 20 == 0:
                span = min(1.5 * span, 12 * first_span)
            if count.kills % 50 == 0:
                count.seconds = time.monotonic() - begin
                say(f"{count.line(work.__name__)} so far")
        if child.exitcode != 0:
            raise RuntimeError(f"a run that was not killed failed with exit code {child.exitcode}")
        if in_a_row < 3:
            span = max(0.8 * span, 0.1 * first_span)
        count.runs += 1
        compare(count, expected_rows, rows(path / "store.sqlite"))
        for name, before in zip(files, expected, strict=True):
            count.changed += (path / name).read_bytes() != before
        for file in sorted(path.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
    count.seconds = time.monotonic() - begin
    return count


def start_and_kill(child: BaseProcess, after_s: float | None) -> bool:
    """Start a run and, unless it ends or ``after_s`` is None, kill it after so long; return whether it was killed."""
    child.start()
    child.join(after_s)
    if child.exitcode is not None:
        return False
    child.kill()
    child.join()
    return True


def compare(
    count: Count, expected: Mapping[tuple[str, bytes], object], found: Mapping[tuple[str, bytes], object]
) -> None:
    """Count in what the store of a killed run is unlike that of an unbroken one."""
    count.lost += len(expected.keys() - found.keys())
    count.doubled += len(found.keys() - expected.keys())
    count.altered += sum(expected[row] != found[row] for row in expected.keys() & found.keys())


def say(line: str) -> None:
    """Print a line at once: a log is looked at while the work goes on."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def prepare(*, modules: Sequence[str] = REMOTE) -> ForkServerContext:
    """A process that has modules imported; there is one per Python process, so this is called once."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(modules))
    return context


def write_source(path: Path) -> Path:
    """The records of the chain."""
    sys.path.insert(0, str(Path(__file__).parent))
    from conftest import reviews

    lines = [json.dumps({"context": r.context, "response": r.response}) for r in reviews(160)]
    path.write_text("\n".join(lines))
    return path


def kill_chain(context: ForkServerContext, kills: int, folder: Path, seed: int) -> Count:
    """Kill the chain so many times."""
    folder.mkdir()
    source = str(write_source(folder / "reviews.jsonl"))
    return kill_again_and_again(context, chain, source, CHAIN_FILES, kills=kills, folder=folder, seed=seed)


def kill_remote(context: ForkServerContext, kills: int, folder: Path, seed: int) -> Count:
    """Kill a simulation on a server with faults so many times; the server lives on."""
    from mop.backends.fake_server import FakeServer, Faults, Reply, start

    class Listening(FakeServer):
        """Remembers the seeds it was asked for; those of items have 64 bits, those of the probe are small."""

        seeds: set[int]

        def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
            if method == "POST":
                self.seeds.add(json.loads(body)["seed"])
            return super().reply(method, path, headers, body)

        def n_asked(self) -> int:
            seeds, self.seeds = self.seeds, set()
            return sum(seed > 1000 for seed in seeds)

    folder.mkdir()
    faults = Faults(rate=0.02, kinds=("500", "reset", "cut:40", "garbage"), seed=seed)
    fake = Listening("vllm", faults=faults, delay_s=0.02)
    fake.seeds = set()
    with start(fake) as server:
        return kill_again_and_again(
            context, remote, server.url, ("responses.jsonl",), kills=kills, folder=folder,
            seed=seed, asked=Asked(N_REMOTE, fake.n_asked),
        )  # fmt: skip


def main() -> int:
    """Kill both kinds of run, print the counts; 1 if anything was lost, doubled or changed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--chain", type=int, default=500, help="kills of the chain")
    parser.add_argument("--remote", type=int, default=500, help="kills of the remote simulation")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    arguments = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")

    context = prepare(modules=(*REMOTE, *CHAIN) if arguments.chain > 0 else REMOTE)
    with tempfile.TemporaryDirectory(prefix="mop-kills-") as folder:
        counts = {}
        if arguments.remote:
            place = Path(folder) / "remote"
            counts["remote"] = kill_remote(context, arguments.remote, place, arguments.seed)
            say(counts["remote"].line("remote"))
        if arguments.chain:
            place = Path(folder) / "chain"
            counts["chain"] = kill_chain(context, arguments.chain, place, arguments.seed)
            say(counts["chain"].line("chain"))
    n_kills = sum(count.kills for count in counts.values())
    is_sound = all(count.is_sound for count in counts.values())
    say(f"{n_kills} kills: {'0 lost, 0 doubled, same bytes' if is_sound else 'NOT SOUND'}")
    return 0 if is_sound else 1


if __name__ == "__main__":
    sys.exit(main())
