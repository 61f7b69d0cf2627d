"""All verbs and options of the command line."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mop import __version__
from mop.cli import show, verbs
from mop.config import MANY

STAGE_VERBS = {
    "run": ("report", "texts like those of your population, compared with real ones on a page: all stages"),
    "personas": ("personas", "a description of each group in your records, to read and edit"),
    "fit": ("fit", "how much each persona and exemplar counts, and at which temperature they write"),
    "tune": ("tune", "the way of drawing whose texts on trial are nearest to real ones"),
    "simulate": ("simulate", "one new text for each test context, by the mixture and by simpler methods"),
    "evaluate": ("evaluate", "how close the new texts are to real ones, in figures"),
    "report": ("report", "one page with the figures, tables and examples"),
}
"""Verb to the last stage of the chain that it does, and what a person gets."""

VERBS = ("demo", *STAGE_VERBS, "compare", "sample", "calibrate", "score", "explain", "match", "verify", "pull",
         "config", "doctor", "fake-server")  # fmt: skip

_OUT = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
_OUT.add_argument("--out")


def build_parser() -> argparse.ArgumentParser:
    """All commands and their options."""
    parser = argparse.ArgumentParser(
        prog="mop",
        description="Mixture of Personas: make a frozen language model answer like a population.",
        epilog="RUN is the folder of a run: mop VERB RUN [--config FILE] [--set SECTION.KEY=VALUE]. "
        "Start with: mop demo. Settings and their meaning: mop config.",
    )
    parser.add_argument("--version", action="version", version=f"mop {__version__}")
    commands = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = _verb(commands, "demo", "the whole chain on film reviews with the embedded models, in minutes", does="run")
    demo.add_argument("run", type=Path, metavar="RUN", nargs="?", default=Path("runs/demo"), help="default runs/demo")
    _set_option(demo)
    demo.set_defaults(until="report", config=None, preset="demo")
    for verb, (stage, gives) in STAGE_VERBS.items():
        chain = _verb(commands, verb, gives, "Finished stages are reused, earlier ones done if needed.", does="run")
        _run_options(chain, begins=True)
        if verb == "simulate":
            chain.add_argument(
                "--method", action="append", default=[],
                help="one method alone (zerogen, attrprompt, few-shot, ...), with a fit only if it needs one",
            )  # fmt: skip
        if verb in ("run", "personas", "fit"):
            chain.add_argument(
                "--n-personas", metavar="N|auto",
                help="K; auto: one for every five different texts (personas.n_personas)",
            )  # fmt: skip
        chain.set_defaults(until=stage)

    compare = _verb(commands, "compare", "mop, rivals and changed versions of mop in one table")
    _run_options(compare, begins=True)

    sample = _verb(commands, "sample",
        "as many new texts as you like, each with the persona and the exemplar that wrote it",
    )  # fmt: skip
    _sample_options(sample)

    calibrate = _verb(
        commands, "calibrate", "new texts that together match real ones, or known shares",
        "More texts are drawn than asked for; those that the target has more often are picked more often.",
    )  # fmt: skip
    _calibrate_options(calibrate)

    score = _verb(commands, "score", "how likely real texts are under the fitted mixture")
    _fitted_options(score)
    score.add_argument(
        "--lm", help="another language model than the one it was fitted with: the mixture is compared "
        "with equal weights and plain prompts under that one"
    )  # fmt: skip
    score.add_argument(
        "--refit-tau", type=int, default=0, metavar="N",
        help="refit the temperatures to N of the run's validation records first (default 0: no)",
    )  # fmt: skip
    score.add_argument("--components", type=_count, default=64, help="components scored per record (default 64)")
    score.add_argument(
        "--no-references", action="store_true",
        help="leave out the simpler models that need scores of their own: without persona, without exemplar, ...",
    )  # fmt: skip

    explain = _verb(commands, "explain", "which personas and exemplars a text is from")
    _fitted_options(explain)
    explain.add_argument("--key", help="a record's key; none: the first record")
    explain.add_argument("--text", help="a response to explain instead of a record's")
    explain.add_argument("--context", default="", help="what --text responds to")
    explain.add_argument("--components", type=_count, default=64, help="components scored (default 64)")

    match = _verb(commands, "match", "persona weights for another model, even one that cannot score",
        "Embeddings of its samples are matched to those of the run's records: a surrogate for a fit.",
    )  # fmt: skip
    _run_options(match)
    match.add_argument("--lm", metavar="NAME", help="the model; none: the run's own")
    match.add_argument("--samples-per-persona", type=_count, default=20, metavar="N", help="draws (default 20)")
    match.add_argument("--out", type=Path, metavar="FOLDER", help="the new mixture (RUN/mixture-black-box)")

    verify = _verb(commands, "verify", "whether the files and scores of a run are undamaged")
    verify.add_argument("run", type=Path, metavar="RUN", help="folder of the run")

    pull = _verb(commands, "pull", "an embedded model or data set, for use without a network")
    pull.add_argument("names", nargs="*", metavar="NAME", help="none: list them")

    config = _verb(commands, "config", "all settings, their values and what each means")
    _settings_options(config)

    doctor = _verb(commands, "doctor",
        "what is installed, which devices, models and servers there are, and what to do about what is missing",
    )  # fmt: skip
    _doctor_options(doctor)

    fake = _verb(commands, "fake-server",
        "a toy model with known probabilities, served on this machine, honest or broken",
    )  # fmt: skip
    _fake_server_options(fake)
    return parser


# ---------------------------------------------------------------------------------------------- options


def _verb(commands: Any, name: str, gives: str, how: str = "", *, does: str = "") -> argparse.ArgumentParser:
    """Add a verb: what it gives and how, and the name of its function in `verbs` and in `show` if another."""
    about, does = f"{gives[0].upper()}{gives[1:]}. {how}", does or name.replace("-", "_")
    parser: argparse.ArgumentParser = commands.add_parser(name, help=gives, description=about)
    parser.set_defaults(call=getattr(verbs, does), show=getattr(show, does))
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress, no result text")
    parser.add_argument("--verbose", action="store_true", help="log what happens, in detail")
    return parser


def checked(parser: argparse.ArgumentParser, argv: Sequence[str]) -> Sequence[str]:
    """Arguments with a known verb, in today's form: an earlier version named the folder of a run with ``--out``."""
    verb = argv[0]
    if verb == "refit":
        parser.error(
            "mop refit --black-box is now: mop match RUN [--lm MODEL]; to fit again from the scores in the store: "
            "mop fit RUN --set fit.NAME=VALUE"
        )
    if not verb.startswith("-") and verb not in VERBS:
        near = difflib.get_close_matches(verb, VERBS, n=1)
        parser.error(f"unknown verb {verb!r}" + (f"; did you mean {near[0]!r}?" if near else f"; {', '.join(VERBS)}"))
    if verb not in ("demo", "compare", *STAGE_VERBS):
        return argv
    early, _ = _OUT.parse_known_args(argv[1:])
    if early.out is None:
        return argv
    rest = [
        word for at, word in enumerate(argv[1:], 1) if argv[at - 1] != "--out" and word.partition("=")[0] != "--out"
    ]
    return [verb, early.out, *rest]


def _count(text: str) -> int:
    """A number of things, from 1."""
    if not (text.isdecimal() and 1 <= len(text.lstrip("0")) <= len(str(MANY)) and int(text) <= MANY):
        raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {MANY}, got {text[:40]!r}")
    return int(text)


def _port(text: str) -> int:
    if not (text.isdecimal() and len(text) <= 5 and int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"must be a port from 0 (any free one) to 65535, got {text[:40]!r}")
    return int(text)


def _run_options(parser: argparse.ArgumentParser, *, begins: bool = False) -> None:
    """RUN and settings, the same for every verb about a run."""
    what = "folder of the run: new, or one to continue" if begins else "folder of a run with a fitted mixture"
    parser.add_argument("run", type=Path, metavar="RUN", help=what)
    _settings_options(parser, has_presets=begins)
    parser.add_argument(
        "--trust", action="store_true",
        help="RUN is from elsewhere, and its settings may send records and keys where they say (asked once)",
    )  # fmt: skip


class _Once(argparse.Action):
    """An option that refuses to be given twice, where the last would win in silence."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        if (first := getattr(namespace, self.dest)) is not None:
            raise argparse.ArgumentError(
                self, f"one file is taken, got {first} and {values}; join them, or give what differs with --set"
            )
        setattr(namespace, self.dest, values)


def _settings_options(parser: argparse.ArgumentParser, *, has_presets: bool = True) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE", action=_Once,
        help="settings: a TOML file, or the config.json of a run (default: those of RUN)",
    )  # fmt: skip
    parser.set_defaults(preset=None)
    if has_presets:
        parser.add_argument("--preset", help="demo, paper, texts or quick: a named starting point")
    _set_option(parser)


def _set_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="one setting, over file and preset; may be given several times",
    )  # fmt: skip


def _fitted_options(parser: argparse.ArgumentParser) -> None:
    _run_options(parser)
    parser.add_argument("--records", metavar="FILE", help="records with the run's columns (default: its test split)")


def _sample_options(parser: argparse.ArgumentParser) -> None:
    _run_options(parser)
    parser.add_argument("--mixture", type=Path, metavar="FOLDER", help="another mixture (default: RUN/mixture)")
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="responses: .jsonl, .parquet or .csv")
    parser.add_argument("-n", type=_count, metavar="N", help="responses (default: one for each context)")
    parser.add_argument("--per-class", type=_count, metavar="N", help="so many for each label of the training records")
    parser.add_argument(
        "--contexts", metavar="FILE",
        help="what is answered, in order: a table with the columns of the run's context and perhaps label, key, "
        "weight and group; all columns are kept (default: contexts drawn from the run's training records)",
    )  # fmt: skip
    parser.add_argument("--lm", metavar="NAME", help="the model that writes (default: the run's, or that of --mixture)")
    parser.add_argument("--seed", type=int, help="of the draws (default: the run's)")


def _calibrate_options(parser: argparse.ArgumentParser) -> None:
    _run_options(parser)
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="texts: .jsonl, .parquet or .csv")
    parser.add_argument("-n", type=_count, metavar="N", required=True, help="texts wanted")
    parser.add_argument("--draws", type=_count, default=4, metavar="N", help="draws for each of them (default 4)")
    parser.add_argument(
        "--target", metavar="FILE",
        help="real texts, with the run's columns (default: the records that the run has seen; never its golden ones)",
    )  # fmt: skip
    parser.add_argument(
        "--margins", type=Path, metavar="FILE",
        help="known shares, met exactly: a TOML file with a table for each column, such as [label] neg = 0.61; "
        "alone, or with --target",
    )  # fmt: skip
    parser.add_argument("--all", action="store_true", help="write all draws, each with its weight, and pick none")


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME",
        help="a served model, openai:MODEL@URL; may be given several times",
    )  # fmt: skip
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="variable that holds its key")
    parser.add_argument("--dialect", help="auto (default), openai-chat, openai-completions, vllm, sglang or echo")
    parser.add_argument(
        "--tokenizer",
        metavar="NAME",
        help="the served model's own, needed to score: an embedded name, hf:ORG/NAME or a folder",
    )
    parser.add_argument("--allow-remote-data", action="store_true", help="the server may be another machine")
    parser.add_argument(
        "--probe", action="store_true",
        help="draw and score a few words there, which may cost money (about 30 short calls)",
    )  # fmt: skip
    _set_option(parser)


def _fake_server_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--list", action="store_true", help="list dialects, lies and faults, serve nothing")
    parser.add_argument("--dialect", default="vllm", help="whose habits it has (default vllm)")
    parser.add_argument("--broken", default="none", metavar="LIE", help="one lie to tell")
    parser.add_argument(
        "--faults", default="", metavar="F,F,...",
        help='what goes wrong, such as "429:2,500,cut:40": in the first calls, in this order; with '
        "--fault-rate at random",
    )  # fmt: skip
    parser.add_argument("--fault-rate", type=float, metavar="SHARE", help="share of the calls with a fault")
    parser.add_argument("--seed", type=int, default=0, help="of the random faults (default 0)")
    parser.add_argument("--delay", type=float, default=0.0, metavar="S", help="seconds per call")
    parser.add_argument("--port", type=_port, default=0, help="0, the default: any free one")
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="ask for the key that this variable holds")
