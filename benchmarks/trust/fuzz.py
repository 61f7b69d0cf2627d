"""Hostile settings, commands, files and answers of servers: how many end in a traceback instead of our own error.

    PYTHONPATH=src:benchmarks python -m trust.fuzz            # a thousand or so of each
    PYTHONPATH=src:benchmarks python -m trust.fuzz --share 0.1

A case is right if it works, or ends in an error of ours or in a usage error of the command line. Everything
runs in this process, so that a slip is seen as the exception that it is; a case of over 30 seconds counts as a
slip too.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import io
import json
import logging
import random
import signal
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mop.backends.fake_server import FakeServer, Reply, ToyEncoder, start
from mop.backends.remote import RemoteModel, open_remote
from mop.backends.retry import RetryPolicy
from mop.cli import main as command
from mop.config import RunConfig, config_to_dict, resolve_config
from mop.data.records import load_records
from mop.errors import MopError
from mop.personas.files import read_personas
from mop.prompts import simulation_prompt
from mop.types import Branch, Decoding, GenerateRequest, ScoreRequest
from trust.small_run import slip_of

Case = tuple[str, Callable[[], object]]
LIMIT_S = 30

HOSTILE: tuple[Any, ...] = (
    "", " ", "\x00", "a\x00b", "\x1b[2J", "\u202e", "\ud800", "a" * 5000, "../../etc", "/", "~", "NUL", "hf:", "hf:..",
    "hf:../x", "openai:", "openai:x@", "openai:x@http://127.0.0.1:1", "openai:x@http://[127.0.0.1]",
    "openai:x@http://xn--localhost-", "{", "{}", "{{", "{a}{b}", "{0}", "{a.b}", "%s", "text:", "none", "auto", "fake",
    "0", "-0", 0, 1, -1, 2**31, 2**63, 2**64, -(2**63), 10**30, 0.5, -0.5, 1e-308, 1e308, float("nan"), float("inf"),
    True, False, None, [], [[]], ["a"], [None], [1, "a"], ["mop"] * 100, {}, {"a": 1}, {"a": {"b": {"c": 1}}},
)  # fmt: skip
"""Values that somebody wrote somewhere."""

TEXTS = (
    "5" * 5000,
    "[" * 5000,
    "{a=" * 3000,
    "1979-05-27",
    "07:32:00",
    "nan",
    "inf",
    "-inf",
    '"\\u0000"',
    '"\\ud800"',
    "1_0",
)
"""Values that are hostile as they are written in TOML."""


def count(cases: Iterator[Case]) -> dict[str, Any]:
    """Run cases; return how many there were, how many were refused, and each slip with where it came from."""
    slips: list[dict[str, str]] = []
    n = refused = 0
    before = signal.signal(signal.SIGALRM, _too_long)
    logging.disable(logging.CRITICAL)
    try:
        for name, case in cases:
            n += 1
            out, err = io.StringIO(), io.StringIO()
            signal.alarm(LIMIT_S)
            try:
                with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = case()
                refused += found in (1, 2)
            except (MopError, SystemExit):
                refused += 1
            except BaseException as error:  # noqa: BLE001 - every traceback is a finding
                slips.append({"case": name, "error": slip_of(error)})
            finally:
                signal.alarm(0)
            if n % 250 == 0:
                sys.stderr.write(f"  {n} cases, {len(slips)} slips\n")
    finally:
        logging.disable(logging.NOTSET)
        signal.signal(signal.SIGALRM, before)
    return {"cases": n, "refused": refused, "tracebacks": slips}


def _too_long(number: int, frame: FrameType | None) -> NoReturn:
    raise RuntimeError(f"more than {LIMIT_S} s")


def leaves(values: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Names of all settings, ``section.name``."""
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from leaves(value, f"{before}{name}.")
        else:
            yield f"{before}{name}"


def settings(n: int, seed: int, folder: Path) -> Iterator[Case]:
    """Settings in ``--set``, in TOML and in JSON, of the wrong type, out of range, too deep, too long, cut."""
    rng = random.Random(f"settings {seed}")
    known = config_to_dict(RunConfig())
    names = [*leaves(known), "seed.x", "fit", "", ".", "a.b.c", "no.such", "data.sourse"]
    for i in range(n):
        name, form = rng.choice(names), i % 3
        value = rng.choice(HOSTILE)
        if form == 0:
            text = rng.choice(TEXTS) if rng.random() < 0.3 else json.dumps(value)
            word = f"{name}={text}"

            def case(word: str = word) -> object:
                return config_to_dict(resolve_config(assignments=[word]))

            yield f"--set {word[:80]}", case
            continue
        path = folder / f"settings{i}.{'json' if form == 1 else 'toml'}"
        document = json.loads(json.dumps(known))
        section, _, leaf = name.partition(".")
        if leaf and isinstance(document.get(section), dict):
            document[section][leaf] = value
        else:
            document[section] = value
        text = json.dumps(document) if form == 1 else _toml(document, rng)
        raw = (
            damaged(text.encode("utf-8", "surrogatepass"), rng)
            if rng.random() < 0.4
            else text.encode("utf-8", "replace")
        )

        def read(path: Path = path, raw: bytes = raw) -> object:
            path.write_bytes(raw)
            return config_to_dict(resolve_config(file=path))

        yield f"{path.name} {name}={str(value)[:60]}", read


def _toml(document: Mapping[str, Any], rng: random.Random) -> str:
    lines = [f"{name} = {json.dumps(value)}" for name, value in document.items() if not isinstance(value, Mapping)]
    for section, values in document.items():
        if isinstance(values, Mapping):
            lines += [f"[{section}]", *(f"{name} = {_in_toml(value, rng)}" for name, value in values.items())]
    return "\n".join(lines)


def _in_toml(value: Any, rng: random.Random) -> str:
    if value is None:
        return '""'
    return rng.choice(TEXTS) if rng.random() < 0.02 else json.dumps(value)


def damaged(raw: bytes, rng: random.Random) -> bytes:
    """Bytes with something cut, flipped, doubled, or put in."""
    if not raw:
        return raw
    found = bytearray(raw)
    for _ in range(rng.choice((1, 1, 1, 3, 10))):
        at = rng.randrange(len(found)) if found else 0
        how = rng.randrange(6)
        if how == 0:
            del found[at:]
        elif how == 1 and found:
            found[at] ^= 1 << rng.randrange(8)
        elif how == 2:
            del found[at : at + rng.randrange(1, 40)]
        elif how == 3:
            found[at:at] = found[at : at + rng.randrange(1, 200)]
        elif how == 4:
            found[at:at] = rng.choice(
                (b"\x00", b"\xff\xfe", b'"', b"\n", b"\r", b",", b";", b"{", b"[" * 2000, b"\xed\xa0\x80", b"9" * 5000)
            )
        else:
            found[at:at] = rng.randbytes(rng.randrange(1, 20))
    return bytes(found)


def rows(n: int = 12) -> list[dict[str, Any]]:
    """A small table with all kinds of column."""
    return [
        {"key": f"k{i}", "context": f"Area: {i % 3}", "response": f"answer no. {i}, \"quoted\"", "label": "pn"[i % 2],
         "weight": 0.5 + i, "group": f"g{i // 2}", "day": f"2024-02-{i + 1:02d}"}
        for i in range(n)
    ]  # fmt: skip


def files(n: int, seed: int, folder: Path) -> Iterator[Case]:
    """Tables and personas in every form that is read, damaged."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    rng = random.Random(f"files {seed}")
    table = rows()
    names = list(table[0])
    quoted = "\n".join(",".join('"' + str(row[name]).replace('"', '""') + '"' for name in names) for row in table)
    lines = "\n".join(json.dumps(row) for row in table)
    parquet = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(table), parquet)
    personas = "\n".join(json.dumps({"description": f"You are person {i}."}) for i in range(5))
    kinds = {
        "a.csv": (",".join(names) + "\n" + quoted).encode(),
        "a.tsv": ("\t".join(names) + "\n" + quoted.replace('","', '"\t"')).encode(),
        "a.jsonl": lines.encode(),
        "a.json": json.dumps(table).encode(),
        "a.parquet": parquet.getvalue(),
        "a.csv.gz": gzip.compress((",".join(names) + "\n" + quoted).encode()),
        "p.jsonl": personas.encode(),
        "p.txt": b"You are one.\nYou are two.\n",
        "p.csv": b"name,age\nAna,31\nBo,55\n",
        "p.json": b'[{"name": "Ana", "age": 31}]',
    }
    columns = [
        {"key": "key", "label": "label", "weight": "weight", "group": "group"},
        {},
        {"context": "At {day}: {label}"},
    ]
    for i in range(n):
        name = list(kinds)[i % len(kinds)]
        raw = damaged(kinds[name], rng) if rng.random() < 0.95 else rng.randbytes(rng.randrange(200))
        which = rng.choice(columns)
        path = folder / f"{i}-{name}"

        def case(path: Path = path, raw: bytes = raw, which: dict[str, Any] = which) -> object:
            path.write_bytes(raw)
            if path.name.partition("-")[2].startswith("p."):
                return read_personas(path)
            return load_records(path, **which).warn(path)

        yield f"{name} #{i}", case


def commands(n: int, seed: int, folder: Path) -> Iterator[Case]:
    """Command lines about a fitted run, with hostile arguments."""
    rng = random.Random(f"commands {seed}")
    source = folder / "source.jsonl"
    source.write_text(
        "\n".join(json.dumps({**row, "response": f"word{i} tea {i % 7} jazz"}) for i, row in enumerate(rows(120)))
    )
    run = folder / "run"
    small = ["--preset", "quick", "--quiet", "--set", f"data.source={source}", "--set", "fit.n_rounds=1"]
    if command(["fit", str(run), *small]) != 0:
        raise RuntimeError("the run that commands are about could not be made")
    (folder / "contexts.csv").write_text("context,label\nArea: 1,p\nArea: 2,n\n")
    (folder / "empty.csv").write_text("")
    (folder / "binary.jsonl").write_bytes(rng.randbytes(300))
    (folder / "loop").symlink_to(folder / "loop")
    texts = [str(value) for value in HOSTILE if isinstance(value, str)]
    ours = ("source.jsonl", "contexts.csv", "empty.csv", "binary.jsonl", "", "none", "loop", "run/mixture")
    places = [*(str(folder / name) for name in ours), "/dev/null", "/proc/self/mem", *texts]
    numbers = ["0", "-1", "1", "2", "3.5", "1e9", "9" * 40, "", "x", "\u0663", "10000000000000"]
    verbs: dict[str, tuple[str, ...]] = {
        "explain": ("--text", "--key", "--context", "--records", "--components", "--set", "--config"),
        "score": ("--records", "--refit-tau", "--components", "--lm", "--set"),
        "sample": ("-n", "--out", "--contexts", "--mixture", "--lm", "--seed", "--set"),
        "match": ("--lm", "--samples-per-persona", "--out", "--set"),
        "fit": ("--set", "--config", "--preset", "--n-personas"),
        "compare": ("--set", "--config"),
        "verify": (),
        "doctor": ("--server", "--dialect", "--tokenizer", "--api-key-env"),
        "config": ("--set", "--config", "--preset"),
        "pull": (),
    }
    of_option = {
        **dict.fromkeys(
            ("--components", "-n", "--refit-tau", "--samples-per-persona", "--seed", "--n-personas"), numbers
        ),
        **dict.fromkeys(("--text", "--key", "--context"), texts),
    }
    names = list(leaves(config_to_dict(RunConfig())))
    for i in range(n):
        verb = list(verbs)[i % len(verbs)]
        words = [verb]
        if verb not in ("doctor", "config", "pull"):
            words.append(str(run) if rng.random() < 0.8 else rng.choice(places))
        if verb == "pull":
            words += [word for word in [rng.choice(texts)] if not word.startswith("hf:")]
        options = rng.sample(verbs[verb], k=min(len(verbs[verb]), rng.choice((0, 1, 1, 2))))
        for option in options:
            if option == "--set":
                value = f"{rng.choice(names)}={rng.choice([*TEXTS, *map(str, HOSTILE)])}"
            else:
                value = rng.choice(of_option.get(option, places))
            words += [option, value]
        if verb == "sample" and "--out" not in options:
            words += ["--out", str(folder / f"s{i}.jsonl")]
        if rng.random() < 0.3:
            words.append("--json")
        words = [word[:100_000] for word in words]
        at = folder / "work"
        at.mkdir(exist_ok=True)

        def case(words: list[str] = words, at: Path = at) -> object:
            with contextlib.chdir(at):
                return command(words)

        yield " ".join(words)[:300].replace(str(folder), "."), case


class Lying(FakeServer):
    """Answers of a healthy server in which one thing is another."""

    def __init__(self, dialect: str, seed: int) -> None:
        super().__init__(dialect)
        self.rng = random.Random(f"answers {seed}")

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """The healthy reply, altered."""
        reply = super().reply(method, path, headers, body)
        rng = self.rng
        if rng.random() < 0.85:
            return reply
        if rng.random() < 0.3:
            reply.body = damaged(reply.body, rng)
        else:
            with contextlib.suppress(ValueError):
                document = altered(json.loads(reply.body), rng)
                reply.body = json.dumps(document).encode("utf-8", "surrogatepass")
        if rng.random() < 0.1:
            reply.status = rng.choice((200, 201, 204, 301, 400, 401, 404, 413, 422, 429, 500, 503, 529, 600))
        if rng.random() < 0.1:
            reply.headers[rng.choice(("Retry-After", "Content-Type", "x-ratelimit-reset-requests"))] = rng.choice(
                ("", "-1", "1e400", "nan", "Mon, 99 Foo 2020", "0", "text/html; charset=utf-99", "\u00e9" * 10)
            )
        return reply


def altered(value: Any, rng: random.Random) -> Any:
    """A JSON value in which one part, anywhere, is missing, doubled or something else."""
    if isinstance(value, dict) and value and rng.random() < 0.85:
        name = rng.choice(list(value))
        if rng.random() < 0.15:
            return {key: part for key, part in value.items() if key != name}
        return {**value, name: altered(value[name], rng)}
    if isinstance(value, list) and value and rng.random() < 0.75:
        at = rng.randrange(len(value))
        if rng.random() < 0.2:
            return value[:at] + value[at + 1 :]
        if rng.random() < 0.2:
            return [*value, value[at]]
        return [*value[:at], altered(value[at], rng), *value[at + 1 :]]
    return rng.choice(HOSTILE)


def answers(n: int, seed: int) -> Iterator[Case]:
    """Draws and scores from a server whose answers are damaged."""
    policy = RetryPolicy(first_wait_s=0.001, longest_wait_s=0.002, max_tries=2, max_protocol_retries=1,
                         item_limit_s=2.0, breaker_failures=4, breaker_s=0.01, retrial_s=0.01)  # fmt: skip
    prompt = simulation_prompt("film 1", persona="You like tea.")
    for i in range(n):
        dialect = ("vllm", "sglang", "openai-chat", "openai-completions", "echo")[i % 5]

        def case(dialect: str = dialect, number: int = i) -> object:
            with start(Lying(dialect, seed * 100_000 + number)) as server:
                model = open_remote(f"openai:toy@{server.url}", encoder=ToyEncoder(), dialect=dialect, policy=policy,
                                    deadline_s=3.0)  # fmt: skip
                found: list[Any] = []
                if isinstance(model, RemoteModel):
                    found += list(model.score([ScoreRequest(prompt, "tea"), ScoreRequest(prompt, "jazz")]))
                requests = [GenerateRequest((Branch(prompt, 1.0),), seed) for seed in (1, 2)]
                return [*found, *model.generate(requests, Decoding(max_tokens=4))]

        yield f"{dialect} #{i}", case


def tracebacks(share: float = 1.0, seed: int = 0) -> dict[str, Any]:
    """Cases and slips of each kind; 1,000 settings, 500 commands, 1,500 files and 500 answers for a share of 1."""
    found = {}
    with tempfile.TemporaryDirectory(prefix="mop-fuzz-") as place:
        for name, n, make in (
            ("settings", 1000, settings),
            ("files", 1500, files),
            ("commands", 500, commands),
        ):
            folder = Path(place) / name
            folder.mkdir()
            sys.stderr.write(f"{name}\n")
            found[name] = count(make(round(n * share), seed, folder))
    sys.stderr.write("answers\n")
    found["answers"] = count(answers(round(500 * share), seed))
    return found


def main() -> int:
    """Print the slips; 1 if there are any."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the cases (default 1)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    found = tracebacks(args.share, args.seed)
    for kind, result in found.items():
        print(f"{kind}: {result['cases']} cases, {result['refused']} refused, {len(result['tracebacks'])} tracebacks")
        for slip in result["tracebacks"]:
            print(f"  {slip['case']}\n      {slip['error']}")
    return int(any(result["tracebacks"] for result in found.values()))


if __name__ == "__main__":
    sys.exit(main())
