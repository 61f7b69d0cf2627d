"""The command ``mop``: arguments to settings to one call; what it prints is made here, nothing is computed."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from mop import __version__
from mop.errors import ConfigError, MopError
from mop.runs.interrupts import import_whole

if TYPE_CHECKING:
    from mop.config import RunConfig
    from mop.estimator import MixtureOfPersonas
    from mop.progress import ProgressDisplay
    from mop.types import Record

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

STAGE_VERBS = {
    "run": ("report", "texts like those of your population, compared with real ones on a page: all stages"),
    "personas": ("personas", "a description of each group in your records, to read and edit"),
    "fit": ("fit", "how much each persona and exemplar counts, and at which temperature they write"),
    "simulate": ("simulate", "one new text for each test context, by the mixture and by simpler methods"),
    "evaluate": ("evaluate", "how close the new texts are to real ones, in figures"),
    "report": ("report", "one page with the figures, tables and examples"),
}
"""Verb to the last stage of the chain that it does, and what a person gets."""


class _Terminated(BaseException):
    """SIGTERM, turned into an exception so that files and the store are closed properly."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 ok, 1 failed, 2 usage, 130/143 interrupted."""
    # Threads that wait asleep: on a busy machine, waiting awake takes time from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import_whole("torch")
    argv, parser = sys.argv[1:] if argv is None else argv, build_parser()
    _refuse_old_form(parser, argv)
    args = parser.parse_args(argv)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _logging(args):
            result = args.call(args)
        if result is None:  # it has said all there is to say
            return OK
        if args.json:
            _print(json.dumps(result, ensure_ascii=False, allow_nan=False))
        elif not args.quiet:
            _print(args.show(result))
        return FAILED if result.get("problems") else OK
    except ConfigError as error:
        return _complain(args, type(error).__name__, str(error), USAGE)
    except MopError as error:
        return _complain(args, type(error).__name__, str(error), FAILED)
    except (KeyboardInterrupt, _Terminated) as stop:
        code = TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED
        message = "interrupted; what is done is kept: the same command goes on from there"
        return _complain(args, "Interrupted", message, code)
    except BrokenPipeError:  # the reader of a pipe went away; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    finally:
        signal.signal(signal.SIGTERM, previous)


def build_parser() -> argparse.ArgumentParser:
    """All verbs and their options."""
    parser = argparse.ArgumentParser(
        prog="mop",
        description="Mixture of Personas: make a frozen language model answer like a population.",
        epilog="RUN is the folder of a run: mop VERB RUN [--config FILE] [--set SECTION.KEY=VALUE]. "
        "Start with: mop demo. Settings and their meaning: mop config.",
    )
    parser.add_argument("--version", action="version", version=f"mop {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = _verb(verbs, "demo", _run, _show_run, "the whole chain on film reviews with the embedded models, in minutes")
    demo.add_argument("run", type=Path, metavar="RUN", nargs="?", default=Path("runs/demo"), help="default runs/demo")
    _set_option(demo)
    demo.set_defaults(until="report", config=None, preset="demo")
    for verb, (stage, gives) in STAGE_VERBS.items():
        chain = _verb(verbs, verb, _run, _show_run, gives, "Finished stages are reused, earlier ones done if needed.")
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

    compare = _verb(verbs, "compare", _compare, _show_compare, "mop, rivals and changed versions of mop in one table")
    _run_options(compare, begins=True)

    sample = _verb(
        verbs, "sample", _sample, _show_sample,
        "as many new texts as you like, each with the persona and the exemplar that wrote it",
    )  # fmt: skip
    _sample_options(sample)

    score = _verb(verbs, "score", _score, _show_score, "how likely real texts are under the fitted mixture")
    _fitted_options(score)
    score.add_argument(
        "--lm", help="another language model than the one it was fitted with: the mixture is compared "
        "with equal weights and plain prompts under that one"
    )  # fmt: skip
    score.add_argument(
        "--refit-tau", type=int, default=0, metavar="N",
        help="refit the temperatures to N of the run's validation records first (default 0: no)",
    )  # fmt: skip
    score.add_argument("--components", type=int, default=64, help="components scored per record (default 64)")
    score.add_argument(
        "--no-references", action="store_true",
        help="leave out the simpler models that need scores of their own: without persona, without exemplar, ...",
    )  # fmt: skip

    explain = _verb(verbs, "explain", _explain, _show_explain, "which personas and exemplars a text is from")
    _fitted_options(explain)
    explain.add_argument("--key", help="a record's key; none: the first record")
    explain.add_argument("--text", help="a response to explain instead of a record's")
    explain.add_argument("--context", default="", help="what --text responds to")
    explain.add_argument("--components", type=int, default=64, help="components scored (default 64)")

    match = _verb(
        verbs, "match", _match, _show_match, "persona weights for another model, even one that cannot score",
        "Embeddings of its samples are matched to those of the run's records: a surrogate for a fit.",
    )  # fmt: skip
    _run_options(match)
    match.add_argument("--lm", metavar="NAME", help="the model; none: the run's own")
    match.add_argument("--samples-per-persona", type=int, default=20, metavar="N", help="draws (default 20)")
    match.add_argument("--out", type=Path, metavar="FOLDER", help="the new mixture (RUN/mixture-black-box)")

    verify = _verb(verbs, "verify", _verify, _show_verify, "whether the files and scores of a run are undamaged")
    verify.add_argument("run", type=Path, metavar="RUN", help="folder of the run")

    pull = _verb(verbs, "pull", _pull, _show_pull, "an embedded model or data set, for use without a network")
    pull.add_argument("names", nargs="*", metavar="NAME", help="none: list them")

    config = _verb(verbs, "config", _config, _show_config, "all settings, their values and what each means")
    _settings_options(config)

    doctor = _verb(
        verbs, "doctor", _doctor, _show_doctor,
        "what is installed, which devices, models and servers there are, and what to do about what is missing",
    )  # fmt: skip
    _doctor_options(doctor)

    fake = _verb(
        verbs, "fake-server", _fake_server, _show_fake_server,
        "a toy model with known probabilities, served on this machine, honest or broken",
    )  # fmt: skip
    _fake_server_options(fake)
    return parser


# ---------------------------------------------------------------------------------------------- options


def _verb(
    verbs: Any, name: str, call: Callable[..., Any], show: Callable[..., str], gives: str, how: str = ""
) -> argparse.ArgumentParser:
    about = f"{gives[0].upper()}{gives[1:]}. {how}"
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=gives, description=about)
    parser.set_defaults(call=call, show=show)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress, no result text")
    parser.add_argument("--verbose", action="store_true", help="log what happens, in detail")
    return parser


def _refuse_old_form(parser: argparse.ArgumentParser, argv: Sequence[str]) -> None:
    """Say how a command of an earlier version is written today."""
    verb = argv[0] if argv else ""
    if verb == "refit":
        parser.error(
            "mop refit --black-box is now: mop match RUN [--lm MODEL]; to fit again from the scores in the store: "
            "mop fit RUN --set fit.NAME=VALUE"
        )
    if verb in ("demo", "compare", *STAGE_VERBS) and any(word.partition("=")[0] == "--out" for word in argv):
        parser.error(f"the folder of the run is given without --out: mop {verb} RUN [--config FILE]")


def _run_options(parser: argparse.ArgumentParser, *, begins: bool = False) -> None:
    """RUN and settings, the same for every verb about a run."""
    what = "folder of the run: new, or one to continue" if begins else "folder of a run with a fitted mixture"
    parser.add_argument("run", type=Path, metavar="RUN", help=what)
    _settings_options(parser, has_presets=begins)


def _settings_options(parser: argparse.ArgumentParser, *, has_presets: bool = True) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="settings: a TOML file, or the config.json of a run (default: those of RUN)",
    )  # fmt: skip
    parser.set_defaults(preset=None)
    if has_presets:
        parser.add_argument("--preset", help="demo, paper or quick: a named starting point")
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
    parser.add_argument("--out", type=Path, metavar="FILE", required=True, help="responses: .jsonl or .parquet")
    parser.add_argument("-n", type=int, metavar="N", help="responses (default: one for each context)")
    parser.add_argument(
        "--contexts", metavar="FILE",
        help="what is answered, in order: a table with the columns of the run's context and perhaps label "
        "(default: contexts drawn from the run's training records)",
    )  # fmt: skip
    parser.add_argument("--lm", metavar="NAME", help="the model that writes (default: the run's, or that of --mixture)")
    parser.add_argument("--seed", type=int, help="of the draws (default: the run's)")


def _doctor_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--server", action="append", default=[], metavar="NAME",
        help="a served model, openai:MODEL@URL; may be given several times",
    )  # fmt: skip
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="variable that holds its key")
    parser.add_argument("--dialect", default="auto", help="auto, openai-chat, openai-completions, vllm, sglang or echo")
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
    parser.add_argument("--port", type=int, default=0, help="0, the default: any free one")
    parser.add_argument("--api-key-env", metavar="VARIABLE", help="ask for the key that this variable holds")


# ------------------------------------------------------------------------------------------------ verbs


def _with_progress(
    call: Callable[[argparse.Namespace, ProgressDisplay], dict[str, Any]],
) -> Callable[[argparse.Namespace], dict[str, Any]]:
    """A verb that shows how long its work takes."""

    @wraps(call)
    def shown(args: argparse.Namespace) -> dict[str, Any]:
        from mop.progress import ProgressDisplay

        with ProgressDisplay(quiet=args.quiet) as progress:
            return call(args, progress)

    return shown


def _settings(args: argparse.Namespace, *, begins: bool = False) -> RunConfig:
    """The run's own settings, unless a file or preset is given; then assignments."""
    from mop.config import resolve_config
    from mop.runs.work import read_config

    if args.run.is_file():
        raise ConfigError(
            f"{str(args.run)!r} is a file, and RUN is the folder of a run; for settings: "
            f"mop {args.verb} RUN --config {args.run}"
        )
    own, file = args.run / "config.json", args.config
    if file is None and args.preset is None and own.is_file():
        file = own
    if not begins or file == own:
        read_config(args.run)  # refuses what is no run, and settings of another version
    return resolve_config(file=file, preset=args.preset, assignments=args.assignments)


@_with_progress
def _run(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.pipeline import run
    from mop.runs.verbs import simulate_method
    from mop.storage.files import read_json

    if getattr(args, "n_personas", None) is not None:
        args.assignments.append(f"personas.n_personas={args.n_personas}")
    config, methods = _settings(args, begins=True), getattr(args, "method", [])
    if len(methods) > 1:
        raise ConfigError(
            f"--method takes one method, got {' and '.join(methods)}; mop compare sets several side by side "
            "(compare.methods)"
        )
    if methods:
        return simulate_method(config, args.run, methods[0], progress=progress)
    result = run(config, args.run, until=args.until, progress=progress)
    if args.until == "report":
        result["metrics"] = read_json(args.run / "metrics.json")
    return result


@_with_progress
def _compare(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.runs.compare import compare

    return compare(_settings(args, begins=True), args.run, progress=progress)


@_with_progress
def _pull(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.data.catalogue import EMBEDDED
    from mop.data.pull import is_pulled, notice, pull

    if not args.names:
        return {
            "known": {
                name: {"kind": item.kind, "what": item.what, "licence": item.licence, "pulled": is_pulled(name)}
                for name, item in EMBEDDED.items()
            }
        }
    folders = {name: pull(name, progress=progress) for name in args.names}
    return {"pulled": {name: {"folder": str(folder), "notice": notice(name)} for name, folder in folders.items()}}


@contextmanager
def _open_fitted(
    args: argparse.Namespace, progress: ProgressDisplay
) -> Iterator[tuple[MixtureOfPersonas, list[Record], dict[str, str]]]:
    """The mixture of a run with its models and account, the records in question, and which model scores and writes."""
    from mop.data.records import load_records, read_records
    from mop.estimator import MixtureOfPersonas
    from mop.runs.work import COLUMNS, Models, open_work

    config = _settings(args)
    if (lm := getattr(args, "lm", None)) is not None:
        config = replace(config, model=replace(config.model, lm=lm, scorer=""))
    if args.records is None:
        records = read_records(args.run / "records" / "test.jsonl")
    else:
        columns: dict[str, Any] = {name: getattr(config.data, name) for name in COLUMNS}
        loaded = load_records(args.records, **columns)
        if config.data.strict:
            loaded.require_clean()
        loaded.warn(args.records)
        records = loaded.records
    with open_work(config, args.run, Models(config), until="records", also=("scorer",), progress=progress) as work:
        work.progress.begin(args.verb)
        model = MixtureOfPersonas.load(
            args.run / "mixture",
            scorer=work.scorer,
            store=work.store.path,
            score_components=args.components,
            progress=work.progress,
        )
        yield model, records, {"scored_by": config.model.scorer or config.model.lm, "written_by": config.model.lm}
        work.describe()


@_with_progress
def _score(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.data.records import read_records

    if args.refit_tau < 0:
        raise ConfigError(f"--refit-tau must be 0 or more records, got {args.refit_tau}")
    with _open_fitted(args, progress) as (model, records, names):
        sample: list[Record] = []
        if args.refit_tau:
            known = read_records(args.run / "records" / "valid.jsonl")
            sample = known[: args.refit_tau]
            if len(sample) < args.refit_tau:
                logging.getLogger(__name__).warning(
                    "the run has %d validation records, fewer than --refit-tau %d", len(known), args.refit_tau
                )
            model.refit_tau(sample)
        found = model.score_report(records, plain=not args.no_references)
        return {"lm": args.lm, "refitted_on": len(sample), **names, **found}


@_with_progress
def _explain(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.types import Record

    if args.text is not None and args.key is not None:
        raise ConfigError("--text is a record of its own; give it or --key, not both")
    if args.context and args.text is None:
        raise ConfigError("--context goes with --text; a record has a context of its own")
    with _open_fitted(args, progress) as (model, records, names):
        if args.text is not None:
            found = [Record(key="--text", context=args.context, response=args.text)]
        else:
            found = [r for r in records if args.key is None or r.key == args.key]
        if not found:
            where = f"of {args.records}" if args.records else "of the run's test records"
            raise ConfigError(
                f"none {where} has the key {args.key!r}; keys look like {records[0].key!r}; give other records with "
                "--records FILE"
            )
        return {**model.explain(found[0]), **names}


@_with_progress
def _match(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.runs.verbs import match

    return match(
        _settings(args), args.run, lm=args.lm, samples_per_persona=args.samples_per_persona,
        out=args.out, progress=progress,
    )  # fmt: skip


@_with_progress
def _sample(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    from mop.runs.sample import sample

    config = _settings(args)
    if args.seed is not None:
        config = replace(config, seed=args.seed)
    return sample(
        config, args.run, args.out, mixture=args.mixture, contexts=args.contexts, n=args.n,
        lm=args.lm, progress=progress,
    )  # fmt: skip


def _config(args: argparse.Namespace) -> dict[str, Any]:
    from mop.config import config_to_dict, resolve_config

    return config_to_dict(resolve_config(file=args.config, preset=args.preset, assignments=args.assignments))


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    from mop.runs.verbs import verify

    return verify(args.run)


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    from mop.config import RemoteSettings
    from mop.runs.doctor import examine

    settings = RemoteSettings(
        api_key_env=args.api_key_env, dialect=args.dialect, tokenizer=args.tokenizer,
        allow_remote_data=args.allow_remote_data,
    )  # fmt: skip
    result = examine(args.server, settings=settings, probe=args.probe)
    bad = [finding["what"] for finding in result["findings"] if finding["status"] == "problem"]
    return {**result, "problems": bad}


def _fake_server(args: argparse.Namespace) -> dict[str, Any] | None:
    """Serve until interrupted, which is how it is meant to end; None then."""
    from mop.backends.fake_server import DIALECTS, FAULTS, LIES, FakeServer, Faults, start
    from mop.redact import Secret

    if args.list:
        return {"dialects": dict(DIALECTS), "lies": dict(LIES), "faults": dict(FAULTS)}
    named = tuple(filter(None, (fault.strip() for fault in args.faults.split(","))))
    if args.fault_rate is None:
        faults = Faults(script=named)
    else:
        kinds = {"kinds": named} if named else {}
        faults = Faults(rate=args.fault_rate, seed=args.seed, **kinds)
    key = Secret.from_env(args.api_key_env).reveal() if args.api_key_env else None
    server = FakeServer(args.dialect, broken=args.broken, faults=faults, key=key, delay_s=args.delay)
    with start(server, port=args.port) as running:
        name = f"openai:toy@{running.url}"
        if args.json:
            _print(json.dumps({"url": running.url, "name": name, "tokenizer": "fake"}))
        elif not args.quiet:
            _print(
                f"serving at {running.url} as {args.dialect}, broken: {args.broken}\n"
                f"name: {name}   tokenizer: fake\n"
                f"try: mop doctor --probe --tokenizer fake --server {name}\n"
                "Ctrl-C stops it"
            )
        try:
            running.wait()
        except (KeyboardInterrupt, _Terminated):
            logging.getLogger("mop").info("stopped after %d calls", server.calls)
    return None


# ------------------------------------------------------------------------------------------- what is shown


def _show_run(result: dict[str, Any]) -> str:
    if "method" in result:
        return f"{result['file']}: {result['n_responses']} responses by {result['method']}{_lost(result)}"
    from mop.pipeline import STAGES

    run, done, reused = result["run"], result["done"], result["skipped"]
    lines = [f"{run}: done {', '.join(done)}" + (f"; reused {', '.join(reused)}" if reused else "")]
    if not done:
        lines = [f"{run} is up to date ({_n(len(reused), 'stage')})"]
    metrics = result.get("metrics")
    lines += [
        f"{name}: {line(result[name])}"
        for name, line in _STAGE_LINES.items()
        if name in result and (name != "evaluate" or metrics is None)  # which then has a table
    ]
    if metrics is None:
        following = list(STAGES)[len(done) + len(reused)]
        return "\n".join([*lines, f"next: mop {following} {run}"])
    if metrics["is_surrogate"]:
        lines.append(f"written by {metrics['written_by']}, fitted to {metrics['scored_by']} (a surrogate)")
    held = metrics["held_out"]
    lines += [
        *([result["fit"]["says"]] if "says" in result["fit"] else []),
        *_metric_lines(metrics["methods"], 18),
        *_metric_notes(metrics),
        f"log-likelihood of test records: {held['mop']:.2f} nats a record, {held['gain']:+.2f} over uniform weights "
        f"(95 % interval {_range(held['gain_interval'], '+.2f')})",
        *_reference_lines(held),
        f"report: {run}/report.html",
        f"next: open {run}/report.html, or: mop sample {run} -n 1000 --out FILE.jsonl",
    ]
    return "\n".join(lines)


def _records_line(info: Mapping[str, Any]) -> str:
    return (
        f"{info['usable']:,} of {info['rows']:,} rows are usable · {info['exemplars']} exemplars, "
        f"{info['train']} + {info['valid']} to fit, {info['test']} to simulate, {info['golden']} to compare with"
    )


def _personas_line(info: Mapping[str, Any]) -> str:
    doubtful = f", {info['doubtful']} of them doubtful" if info["doubtful"] else ""
    return f"{_n(info['n_personas'], 'persona')}{doubtful} · read or edit them in personas.jsonl"


def _fit_line(info: Mapping[str, Any]) -> str:
    taus, rounds = info.get("temperatures"), info.get("n_rounds")
    if taus is None:  # a fit of an earlier version
        temperature = ""
    elif taus[0] == taus[1]:
        temperature = f", one temperature {taus[0]:.2f}"
    else:
        temperature = f", temperatures {taus[0]:.2f} to {taus[1]:.2f}"
    gain = info.get("gain_over_uniform")
    bound = info.get("certificate")
    return (
        f"{info['chosen']}{temperature}, {_n(info['n_personas'], 'persona')} · {info['n_cells']:,} scores"
        + (f" in {_n(rounds, 'round')}" if rounds else "")
        + f" · cross-validated {info['valid']:.2f} nats a record"
        + ("" if gain is None else f", {gain:+.2f} over uniform")
        + ("" if bound is None else f" · other fixed weights could add at most {bound:.2f}")
    )


def _simulate_line(info: Mapping[str, Any]) -> str:
    cut = ", ".join(f"{name} {share:.0%}" for name, share in info.get("cut_share", {}).items())
    return f"{info['n_responses']} responses by each of {info['methods']} methods" + (
        f" · cut at the length limit: {cut}" if cut else ""
    )


def _evaluate_line(info: Mapping[str, Any]) -> str:
    figures = ", ".join(f"{title} {info[name]:{form}}" for name, title, form in _SHOWN if name in info)
    return (
        f"{figures} · test records: {info['held_out_gain']:+.2f} nats a record over uniform weights "
        f"(95 % interval {_range(info['held_out_gain_interval'], '+.2f')})"
    )


_STAGE_LINES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "records": _records_line,
    "personas": _personas_line,
    "fit": _fit_line,
    "simulate": _simulate_line,
    "evaluate": _evaluate_line,
}
"""What a stage has made, in a line."""


def _n(count: int, noun: str) -> str:
    """A number of things in words: 1 persona, 2 personas."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _lost(result: Mapping[str, Any]) -> str:
    """How many draws gave no text, and how many texts were cut; nothing if none."""
    found = "".join(
        f", {result[key]} {what}" for key, what in (("empty", "empty"), ("failed", "refused or failed")) if result[key]
    )
    if result["cut"]:
        share = result["cut"] / (result["n_responses"] - result["failed"])
        found += f", {result['cut']} ({share:.0%}) cut at the length limit"
    return found


_SHOWN = (
    ("energy", "energy ↓", ".4f"), ("fid_excess", "FID excess ↓", ".3f"), ("fid", "FID ↓", ".3f"),
    ("mauve", "MAUVE ↑", ".3f"), ("kl_cosine", "KL-cos ↓", ".3f"), ("sense", "sense", ".2f"),
    ("improbable", "improbable", ".1%"), ("mean_words", "words", ".1f"),
)  # fmt: skip
"""(figure, title, form) of a table in the terminal."""


def _metric_lines(rows: Mapping[str, Mapping[str, Any]], width: int) -> list[str]:
    """A head, and a line for each method."""
    shown = [(name, title, form) for name, title, form in _SHOWN if _has(rows, name)]
    lines = [f"{'method':<{width}}" + "".join(f"{title:>{len(title) + 2}}" for _, title, _ in shown)]
    for method, row in rows.items():
        cells = [
            f"{'–' if row.get(name) is None else format(row[name], form):>{len(title) + 2}}"
            for name, title, form in shown
        ]
        lines.append(f"{'other real texts' if method == 'floor' else method:<{width}}{''.join(cells)}")
    return lines


def _has(rows: Mapping[str, Mapping[str, Any]], name: str) -> bool:
    return any(row.get(name) is not None for row in rows.values())


def _metric_notes(metrics: Mapping[str, Any]) -> list[str]:
    """What to know about the table of a run."""
    from mop.report.page import way_closed

    way = way_closed(metrics["methods"])
    judge = metrics["judged_by"]
    wrote = ", which wrote them" if judge == metrics["written_by"] else ""
    return [
        *([f"from zero-shot to other real texts mop went {way}, by energy distance"] if way else []),
        f"sense: nats per token under {judge}{wrote}; real texts are the mark, neither above nor below",
    ]


def _show_compare(result: dict[str, Any]) -> str:
    place = f"{result['run']}/compare"
    lines = []
    tables = [("comparison", result)]
    if "ablations" in result:
        tables.append(("ablations", result["ablations"]))
    for _, found in tables:
        rows = {**found["methods"], "floor": found["floor"]}
        head, *shown = _metric_lines(rows, 20)
        lines.append(f"{head}{'F1 ↑':>8}{'LM tokens':>12}")
        for line, row in zip(shown, rows.values(), strict=True):
            f1 = f"{row['f1']:>8.3f}" if row.get("f1") is not None else f"{'':>8}"
            tokens = f"{row['lm_tokens']:>12,}" if "lm_tokens" in row else ""
            lines.append(f"{line}{f1}{tokens}".rstrip())
        lines.append(f"of {found['n_responses']} texts of each method against {result['n_golden']}")
        lines += [f"- {note}" for note in found["notes"]]
    lines += [f"table: {place}/{name}.md, .tex" for name, _ in tables]
    return "\n".join([*lines, f"page: {place}/comparison.html, all figures: comparison.json"])


def _reference_lines(held: dict[str, Any]) -> list[str]:
    """A table of what the mixture gains over simpler models."""
    rows = held.get("references") or {}
    head = f"{'compared with':<24}{'nats/record':>12}{'gain':>9}{'95 % interval':>20}{'per token':>11}"
    lines = [head] if rows else []
    for name, row in rows.items():
        if row.get("best_of"):
            name = f"best of {row['best_of']} components"
        lines.append(
            f"{name:<24}{row['log_lik']:>12.2f}{row['gain']:>+9.2f}{_range(row['gain_interval'], '+.2f'):>20}"
            f"{row['gain_per_token']:>+11.4f}"
        )
    return lines


def _show_pull(result: dict[str, Any]) -> str:
    if "known" not in result:
        return "\n".join(f"{item['notice']}\n  here:    {item['folder']}" for item in result["pulled"].values())
    return "\n".join(
        f"{name:<16}{item['kind']:<9}{'here' if item['pulled'] else '-':<6}{item['what']} Licence: {item['licence']}."
        for name, item in result["known"].items()
    )


def _range(interval: Sequence[float] | None, form: str) -> str:
    """An interval in words; records of one group have none."""
    if interval is None:
        return "unknown: one group"
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


def _show_score(result: dict[str, Any]) -> str:
    kind = "exact" if result["is_exact"] else f"estimated from {result['n_components']} components each"
    with_lm = f" with {result['lm']}" if result["lm"] else ""
    if result["refitted_on"]:
        with_lm += f", temperatures refitted on {result['refitted_on']} records"
    lines = [
        f"mean log-likelihood of {result['n_records']} records{with_lm}, {kind}, nats a record:",
        f"  mixture          {result['mop']:10.3f}  (95 % interval {_range(result['mop_interval'], '.3f')})",
    ]
    if not result["is_exact"]:
        lines.append(f"  lower bound      {result['lower_bound']:10.3f}  (on average, from the scored components)")
    lines += [
        f"  uniform weights  {result['mop-uniform']:10.3f}",
        f"  gain             {result['gain']:+10.3f}  (95 % interval {_range(result['gain_interval'], '+.3f')})",
        *_reference_lines(result),
    ]
    if result["scored_at"]:
        lines.append(
            f"all at temperature {result['scored_at']:g}, the only one that {result['scored_by']} scores at: the "
            "personas' own differ"
        )
    return "\n".join([*lines, *_surrogate_line(result)])


def _surrogate_line(result: dict[str, Any]) -> list[str]:
    """Say so where the model that scores is not the one that writes."""
    scored, written = result["scored_by"], result["written_by"]
    if scored == written:
        return []
    return [f"likelihoods are those of {scored}, a surrogate: {written} writes in this run"]


def _show_explain(result: dict[str, Any]) -> str:
    lines = [
        f"record   {result['key']}",
        f"context  {result['context']}",
        f"response {result['response']}",
        f"log-lik  {result['log_lik']:.2f} nats in {result['n_tokens']} tokens, "
        + ("exact" if result["is_exact"] else f"estimated with standard error {result['standard_error']:.2f}")
        + f" from {result['n_scored']} components",
        "",
    ]
    lines += [f"{row['posterior']:7.1%}  {row['persona']}  {row['description']}" for row in result["personas"]]
    lines += ["", "likeliest exemplars:"]
    lines += [f"{row['posterior']:7.1%}  {row['exemplar']}  {row['response']}" for row in result["exemplars"]]
    lines += ["", f"{'posterior':>9}  {'log-lik':>9}  {'log weight':>10}  {'tau':>5}  component (persona, exemplar)"]
    lines += [
        f"{row['posterior']:9.1%}  {row['log_lik']:9.2f}  {row['log_weight']:10.2f}  {row['temperature']:5.2f}  "
        f"{row['persona']}, {row['exemplar']}"
        for row in result["components"]
    ]
    return "\n".join([*lines, *_surrogate_line(result)])


def _show_match(result: dict[str, Any]) -> str:
    about = result["persona_weights"]
    lines = [
        f"persona weights for {about['model']}, {about['kind']}: "
        f"{about['samples_per_persona']} samples a persona, {about['n_targets']} real responses",
        f"  {'before':>7} {'now':>7}",
    ]
    lines += [
        f"  {row['before']:7.1%} {row['weight']:7.1%}  {row['key']}  {row['description']}"
        + (f" ({row['failed']} samples refused or failed)" if row["failed"] else "")
        for row in result["personas"]
    ]
    lines += [
        f"distance of samples and real responses (squared MMD): {about['mmd2']:.4f} now, "
        f"{about['mmd2_before']:.4f} with the weights before, {about['mmd2_uniform']:.4f} with uniform ones",
        f"mixture: {result['out']}",
        f"next: mop sample {result['run']} --mixture {result['out']} -n 1000 --out FILE.jsonl",
    ]
    return "\n".join(lines)


def _show_sample(result: dict[str, Any]) -> str:
    other = "" if result["fitted_to"] == result["lm"] else f"; weights: {result['fitted_to']}"
    return (
        f"{result['file']}: {result['n_responses']} responses by {_n(result['personas'], 'persona')}{_lost(result)}\n"
        f"written by {result['lm']}{other}"
    )


def _show_config(result: dict[str, Any]) -> str:
    from mop.config import SECTIONS, describe

    lines = [f"seed = {result['seed']}"]
    for section, cls in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for name, meaning in describe(cls).items():
            value = result[section][name]
            given = json.dumps("" if value is None else value, ensure_ascii=False)
            line = f"{'# ' if value is None else ''}{name} = {given}"
            lines.append(line.ljust(44) + f" # {meaning}")
    return "\n".join(lines)


def _show_verify(result: dict[str, Any]) -> str:
    if result["problems"]:
        return "\n".join(["damaged:", *result["problems"], "mop run with this folder makes anew what is damaged"])
    stored = ", ".join(_n(count, kind) for kind, count in result["counts"].items() if kind != "conflict")
    return f"undamaged: all files, {stored}"


def _show_doctor(result: dict[str, Any]) -> str:
    from mop.runs.doctor import describe

    return describe(result)


def _show_fake_server(result: dict[str, Any]) -> str:
    lines = []
    for option, names in (
        ("--dialect", result["dialects"]),
        ("--broken", result["lies"]),
        ("--faults", result["faults"]),
    ):
        lines.append(option)
        lines += [f"  {name:<16}{meaning}" for name, meaning in names.items()]
    return "\n".join(lines)


# --------------------------------------------------------------------------------------- errors and signals


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _complain(args: argparse.Namespace, kind: str, message: str, code: int) -> int:
    sys.stderr.write(f"mop {args.verb}: {message}\n")
    if args.json:
        _print(json.dumps({"error": {"type": kind, "message": message}}, ensure_ascii=False))
    return code


@contextmanager
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """Show the package's log on standard error while a command runs, secrets hidden."""
    from mop.redact import RedactingFilter

    logger, of_fit = logging.getLogger("mop"), logging.getLogger("mop.mixture.fit")
    level = logger.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    logger.setLevel(logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.WARNING)
    # What weights could gain at all is said before they are fitted.
    of_fit.setLevel(logging.NOTSET if args.quiet or args.verbose else logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
        of_fit.setLevel(logging.NOTSET)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated
