"""The demo's simulation, written by llama.cpp's own HTTP server instead of the model in this process.

Takes a finished run (`make demo`), serves SmolLM2-135M (Q4_1) on loopback with xllamacpp in a process
of its own, and draws a response to each test context of the run: its mixture, seed and settings, by
token ids. The run's own responses stand beside, judged on as many texts by the same measures. Who
answers must be the same on both sides, for that is drawn here and not by the server.

    python benchmarks/bench_llamacpp.py --run runs/demo             # hours on a busy machine
    python benchmarks/bench_llamacpp.py --run runs/demo --limit 8   # a try

Prints tables and writes ``benchmarks/results/llamacpp.json``. Draws, embeddings and the account (calls,
retries, tokens, seconds) are kept in ``bench/llamacpp.*`` of the cache folder: a stopped run goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from llama_file import gguf_file
from mop.backends.base import as_generator, as_scorer
from mop.backends.encoder import TextEncoder, embed, open_encoder
from mop.backends.remote import RemoteGenerator, open_remote
from mop.backends.spending import Rows, Spending
from mop.config import RunConfig
from mop.data import pull
from mop.data.records import read_records
from mop.errors import MopError, ScoringUnsupportedError
from mop.evaluate.samples import FLOOR, MIN_TEXTS, Sample, evaluate
from mop.mixture.fitted import FittedMixture, load_mixture
from mop.progress import ProgressDisplay
from mop.rivals.ingredients import Ingredients
from mop.rivals.methods import respond
from mop.runs.work import read_config
from mop.simulate.rows import read_responses
from mop.simulate.write import is_drawn
from mop.storage.files import hash_of, read_json, write_json
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store
from mop.types import Record, Response
from results_file import write_results_file

ROOT = Path(__file__).resolve().parent.parent
MODEL = "smollm2-135m"
REVISION = "Q4_1"
SERVED, LOCAL = "llama.cpp", "in process"
FIGURES = ("mauve", "fid", "kl_cosine")
START_S = 120.0
"""How long the server may take to load the weights."""


# ---------------------------------------------------------------------------------- the server


def serve(gguf: Path, port: int, slots: int, slot_tokens: int, threads: int) -> None:
    """Be the server until standard input ends, as it does however the parent ends; prints its address."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = str(gguf)
    params.model_alias = {MODEL}
    params.hostnames = ["127.0.0.1"]
    params.port = port
    params.ui = False
    params.warmup = False
    params.kv_unified = False  # else one long request may take the room of the others
    params.cont_batching = True
    params.n_parallel = slots
    params.n_ctx = slots * slot_tokens
    params.cpuparams.n_threads = threads
    params.cpuparams_batch.n_threads = threads
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    sys.stdin.read()


@contextlib.contextmanager
def served(arguments: argparse.Namespace, log: Path) -> Iterator[str]:
    """Start the server in a process of its own; gives its address, and ends it with the block."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, __file__, "--serve", str(port), "--gguf", str(gguf_file(MODEL))]
    for name in ("slots", "slot_tokens", "threads"):
        command += [f"--{name.replace('_', '-')}", str(getattr(arguments, name))]
    with log.open("w", encoding="utf-8") as stderr:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    watch = threading.Timer(START_S, process.kill)
    watch.start()
    try:
        # llama.cpp may print lines of its own before.
        address = next((line.strip() for line in process.stdout if line.startswith("http")), None)
        watch.cancel()
        if address is None:
            raise SystemExit(f"the server did not start (code {process.wait()}); see {log}")
        yield address
    finally:
        watch.cancel()
        process.stdin.close()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


# ---------------------------------------------------------------------------------- drawing


class Account:
    """What the draws of one setting have cost over all sessions, in a file beside the store."""

    def __init__(self, path: Path, setting: str, *, is_new: bool) -> None:
        self._path, self._setting = path, setting
        self._all: dict[str, Any] = read_json(path) if path.is_file() and not is_new else {}
        kept = self._all.get(setting, {"spent": {}, "seconds": 0.0})
        self.spent: Rows = kept["spent"]
        self.seconds: float = kept["seconds"]
        """Spent on drawing, probes included."""
        self._before = self.spent, self.seconds
        self._began = time.monotonic()

    def keep(self, rows: Rows) -> None:
        """Write it; a session that asked nothing of the server adds no time."""
        spent, seconds = self._before
        if rows != spent:
            self.spent = rows
            self.seconds = round(seconds + time.monotonic() - self._began, 2)
        self._all[self._setting] = {"spent": self.spent, "seconds": self.seconds}
        write_json(self._path, self._all)

    def total(self, name: str) -> float:
        """A field of `mop.backends.ledger.Spent` over all sessions; probes and repeated calls included."""
        return sum(stage.get(name, 0) for stages in self.spent.values() for stage in stages.values())


def draw(
    contexts: Sequence[Record],
    mixture: FittedMixture,
    config: RunConfig,
    lm: RemoteGenerator,
    encoder: TextEncoder,
    store: Store,
    account: Account,
) -> list[Response]:
    """Draw what the store lacks; a response that cannot be had is counted, not fatal."""
    config = replace(config, remote=replace(config.remote, max_failed_share=1.0))
    with ProgressDisplay() as progress:
        spending = Spending({"lm": lm.ledger}, kept=account.spent, keep=account.keep, progress=progress)
        spending.begin("simulate")
        given = Ingredients(
            config=config, exemplars=mixture.exemplars, mixture=mixture, lm=as_generator(lm),
            encoder=encoder, store=store, seed=config.seed, progress=spending,
        )  # fmt: skip
        try:
            return list(respond("mop", contexts, given))
        finally:
            spending.save()


def refusal(lm: RemoteGenerator) -> str:
    """With what message the server is refused as a scorer; stops if it is not."""
    try:
        as_scorer(lm)
    except ScoringUnsupportedError as error:
        return str(error)
    raise SystemExit(f"{lm.name} was taken for a scorer, and llama.cpp cannot score a given text")


# ---------------------------------------------------------------------------------- what came out


def same_agents(ours: Sequence[Response], theirs: Sequence[Response]) -> dict[str, int]:
    """How many rows have the same persona, exemplar, temperature, seed and text, of ``rows``."""
    pairs = list(zip(ours, theirs, strict=True))
    fields = ("persona", "exemplar", "temperature", "seed", "response")
    equal = {field: sum(getattr(a, field) == getattr(b, field) for a, b in pairs) for field in fields}
    return {"rows": len(pairs), **equal}


def shares(responses: Sequence[Response]) -> dict[str, float]:
    """Share of each persona."""
    counts = Counter(response.persona or "" for response in responses)
    return {key: round(n / len(responses), 4) for key, n in sorted(counts.items())}


def quality(
    sides: dict[str, list[Response]],
    golden: Sequence[Record],
    contexts: Sequence[Record],
    config: RunConfig,
    encoder: TextEncoder,
    store: Store,
) -> dict[str, dict[str, Any]] | None:
    """MAUVE, FID and KL-cosine of each side and of other real texts; None for too few texts."""
    texts = {name: [row.response for row in rows if is_drawn(row)] for name, rows in sides.items()}
    if min(sum(bool(text.strip()) for text in of) for of in texts.values()) < MIN_TEXTS:
        return None
    return evaluate(
        {name: Sample(of) for name, of in texts.items()},
        Sample([record.response for record in golden]),
        Sample([record.response for record in contexts]),
        embed=partial(embed, encoder=encoder, store=store),
        n_seeds=config.evaluate.n_seeds,
        n_bootstrap=config.evaluate.n_bootstrap,
        seed=config.seed,
    ).methods


def side(responses: Sequence[Response]) -> dict[str, Any]:
    """What one side's responses are like, apart from quality."""
    drawn = [response for response in responses if is_drawn(response)]
    return {
        "asked": len(responses),
        "finished": len(drawn),
        "failed": len(responses) - len(drawn),
        "empty": sum(not response.response.strip() for response in drawn),
        "tokens": sum(response.n_tokens for response in drawn),
        "finish_reasons": dict(sorted(Counter(r.finish_reason for r in responses).items())),
        "personas": shares(responses),
    }


def claims_of(
    sides: dict[str, dict[str, Any]], scores: dict[str, dict[str, Any]] | None, agents: dict[str, int], account: Account
) -> dict[str, Any]:
    """The claims of the results file."""
    here = sides[SERVED]
    note = (
        f"{here['finished']} of {here['asked']} finished, {account.total('calls'):.0f} calls, "
        f"{account.total('retries'):.0f} retries, {here['tokens']} response tokens, "
        f"{account.seconds:.0f} s"
    )
    found: dict[str, Any] = {
        "llamacpp_finished": {
            "value": here["finished"] / here["asked"],
            "unit": "share of the responses asked for",
            "against": "all of them",
            "note": note,
        },
        "llamacpp_same_personas": {
            "value": agents["persona"] / agents["rows"],
            "unit": "share of the responses with the persona of the run's own",
            "against": "all of them",
            "note": f"exemplar the same in {agents['exemplar']} of {agents['rows']}",
        },
    }
    for name in FIGURES if scores else ():
        assert scores is not None
        low, high = scores[SERVED][f"{name}_interval"]
        found[f"llamacpp_{name}"] = {
            "value": scores[SERVED][name],
            "unit": name,
            "against": f"{LOCAL} {scores[LOCAL][name]:.4f}, real texts {scores[FLOOR][name]:.4f}",
            "note": f"{scores[SERVED]['n']} texts each, 95 % interval {low:.4f} to {high:.4f}",
        }
    return found


def show(
    sides: dict[str, dict[str, Any]],
    scores: dict[str, dict[str, Any]] | None,
    agents: dict[str, int],
    account: Account,
    message: str,
) -> None:
    """Print it all."""
    print("| | asked | finished | failed | empty | tokens | finish reasons |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, found in sides.items():
        reasons = ", ".join(f"{key} {n}" for key, n in found["finish_reasons"].items())
        figures = [found[key] for key in ("asked", "finished", "failed", "empty", "tokens")]
        print(f"| {name} | {' | '.join(map(str, figures))} | {reasons} |")
    print(
        f"\n{SERVED}: {account.total('calls'):,.0f} calls, {account.total('retries'):,.0f} retries, "
        f"{account.total('prompt_tokens'):,.0f} prompt tokens, "
        f"{account.total('completion_tokens'):,.0f} drawn, {account.total('lost_tokens'):,.0f} lost "
        f"at the most, {account.seconds:,.0f} s, all sessions and probes\n"
    )
    if scores is None:
        print(f"fewer than {MIN_TEXTS} texts: nothing to compare\n")
    else:
        print(f"| {scores[SERVED]['n']} texts each | MAUVE | FID | KL-cosine |")
        print("| --- | --- | --- | --- |")
        for name in (SERVED, LOCAL, FLOOR):
            cells = []
            for figure in FIGURES:
                low, high = scores[name][f"{figure}_interval"]
                cells.append(f"{scores[name][figure]:.4f} ({low:.4f} to {high:.4f})")
            print(f"| {name} | {' | '.join(cells)} |")
        print()
    print("| persona | " + " | ".join(sides) + " |")
    print("| --- " * (len(sides) + 1) + "|")
    for key in sorted(set().union(*(found["personas"] for found in sides.values()))):
        print(f"| {key} | " + " | ".join(f"{s['personas'].get(key, 0.0):.3f}" for s in sides.values()) + " |")
    print(
        f"\nthe same as {LOCAL}, of {agents['rows']}: "
        + ", ".join(f"{key} {n}" for key, n in agents.items() if key != "rows")
    )
    print(f"scoring is refused: {message}")


# ---------------------------------------------------------------------------------- the command


def finished_run(path: Path) -> RunFolder:
    """Return the run, or say what is missing."""
    try:
        folder = RunFolder.open(path)
    except MopError as error:
        raise SystemExit(f"{error}\nthis benchmark needs a finished run: make demo") from error
    needed = (folder.mixture / "mixture.json", folder.responses, folder.records / "golden.jsonl")
    missing = [str(file) for file in needed if not file.is_file()]
    if missing:
        raise SystemExit(f"{path} is no finished run, it has no {', '.join(missing)}; make one with: make demo")
    return folder


def measure(arguments: argparse.Namespace) -> int:
    """Draw, compare, show, write; 1 if the personas are not those of the run."""
    folder = finished_run(arguments.run)
    if importlib.util.find_spec("xllamacpp") is None:
        raise SystemExit("xllamacpp is not installed; use: make bench-llamacpp")
    config, mixture = read_config(folder.path), load_mixture(folder.mixture)
    contexts = read_records(folder.records / "test.jsonl")[: config.simulate.n_responses]
    contexts = contexts[: arguments.limit]
    golden = read_records(folder.records / "golden.jsonl")
    own = {row.id: row for row in read_responses(folder.responses)}
    place = pull.cache_folder() / "bench"
    place.mkdir(parents=True, exist_ok=True)
    encoder = open_encoder("minilm")
    with Store(place / "llamacpp.sqlite") as store, served(arguments, place / "llamacpp.log") as address:
        lm = open_remote(
            f"openai:{MODEL}@{address}", dialect="openai-completions", tokenizer=MODEL,
            revision=REVISION, max_concurrency=arguments.slots, deadline_s=600.0,
        )  # fmt: skip
        lm.detect()
        message = refusal(lm)
        account = Account(
            place / "llamacpp.json",
            hash_of({"lm": lm.generate_identity, "mixture": folder.stage_hash("fit")}),
            is_new=store.counts()["generation"] == 0,
        )
        began = account.seconds
        theirs = draw(contexts, mixture, config, lm, encoder, store, account)
        seconds_now = account.seconds - began
        ours = [own[row.id] for row in theirs]
        rows = {SERVED: theirs, LOCAL: ours}
        scores = quality(rows, golden, contexts, config, encoder, store)
    sides = {name: side(of) for name, of in rows.items()}
    agents = same_agents(ours, theirs)
    show(sides, scores, agents, account, message)
    write_results_file(
        arguments.out,
        claims_of(sides, scores, agents, account),
        account.seconds,
        seconds_of_last_session=round(seconds_now, 1),
        server={
            "kind": lm.findings.kind,
            "is_seeded": lm.findings.is_seeded,
            "slots": arguments.slots,
            "slot_tokens": arguments.slot_tokens,
            "threads": arguments.threads,
        },
        spent=account.spent,
        sides=sides,
        scores=scores,
        same_as_local=agents,
        scoring_refused=message,
    )
    return 0 if agents["persona"] == agents["exemplar"] == agents["rows"] else 1


def main() -> None:
    """Measure, or be the server of a measurement."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--run", type=Path, default=ROOT / "runs/demo", help="a finished run")
    parser.add_argument("--limit", type=int, help="only so many of its test contexts")
    parser.add_argument("--slots", type=int, default=8, help="requests at a time")
    parser.add_argument("--slot-tokens", type=int, default=512, help="prompt and response")
    parser.add_argument("--threads", type=int, default=2, help="of the server")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/llamacpp.json")
    parser.add_argument("--serve", type=int, metavar="PORT", help=argparse.SUPPRESS)
    parser.add_argument("--gguf", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve is not None:
        serve(
            arguments.gguf, arguments.serve, arguments.slots, arguments.slot_tokens,
            arguments.threads,
        )  # fmt: skip
        return
    raise SystemExit(measure(arguments))


if __name__ == "__main__":
    main()
