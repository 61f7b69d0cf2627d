"""The command ``mop``: arguments to settings to one call; what it prints is made here, nothing is computed."""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from mop import __version__
from mop.errors import ConfigError, MopError

if TYPE_CHECKING:
    from mop.config import RunConfig
    from mop.estimator import MixtureOfPersonas
    from mop.types import Record

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

VERBS = {"personas": "personas", "fit": "fit", "simulate": "simulate", "evaluate": "evaluate",
         "report": "report", "run": "report"}  # fmt: skip
"""Verbs that bring a run up to a stage."""


class _Terminated(BaseException):
    """SIGTERM, turned into an exception so that files and the store are closed properly."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 ok, 1 failed, 2 usage, 130/143 interrupted."""
    parser = build_parser()
    args = parser.parse_args(argv)
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _logging(args):
            result = args.call(args)
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
        epilog="Start with: mop demo. Settings and their meaning: mop config.",
    )
    parser.add_argument("--version", action="version", version=f"mop {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = _verb(
        verbs, "demo", _run, _show_run, "simulate film critics with the embedded models (minutes)"
    )
    _out_option(demo, default="runs/demo")
    _set_option(demo)
    demo.set_defaults(until="report")
    for verb, stage in VERBS.items():
        about = "the whole chain" if verb == "run" else f"the chain up to and including: {stage}"
        chain = _verb(verbs, verb, _run, _show_run, f"{about}, on a run folder; resumes")
        _out_option(chain, default=None)
        _settings_options(chain)
        if verb in ("personas", "fit", "run"):
            chain.add_argument(
                "--n-personas", metavar="N|auto",
                help="K; auto: as many as held-out likelihood asks for (personas.n_personas)",
            )  # fmt: skip
        chain.set_defaults(until=stage)

    pull = _verb(
        verbs, "pull", _pull, _show_pull, "fetch an embedded model or data set for offline use"
    )
    pull.add_argument("names", nargs="*", metavar="NAME", help="none: list them")

    score = _verb(
        verbs, "score", _score, _show_score, "log-likelihood of records under a fitted mixture"
    )
    _fitted_options(score)
    score.add_argument(
        "--lm", help="another language model than the one it was fitted with: the mixture is compared "
        "with untrained gates and plain prompts under that one"
    )  # fmt: skip
    score.add_argument(
        "--refit-tau", type=int, default=0, metavar="N",
        help="refit the temperatures to N of the run's validation records first (default 0: no)",
    )  # fmt: skip
    score.add_argument(
        "--components", type=int, default=64, help="components scored per record (default 64)"
    )
    score.add_argument(
        "--references", type=int, default=4, metavar="N",
        help="prompts per record for each reference without persona or exemplar (default 4; 0: none)",
    )  # fmt: skip

    explain = _verb(
        verbs, "explain", _explain, _show_explain, "which personas and exemplars wrote this record"
    )
    _fitted_options(explain)
    explain.add_argument("--key", help="a record's key; none: the first record")
    explain.add_argument("--text", help="a response to explain instead of a record's")
    explain.add_argument("--context", default="", help="what --text responds to")
    explain.add_argument(
        "--components", type=int, default=64, help="components scored (default 64)"
    )

    config = _verb(
        verbs, "config", _config, _show_config, "print the resolved settings and what each means"
    )
    _settings_options(config)

    verify = _verb(
        verbs, "verify", _verify, _show_verify, "check a run folder: files, hashes, every score"
    )
    verify.add_argument("run", type=Path, metavar="RUN")

    _verb(
        verbs,
        "doctor",
        _doctor,
        _show_doctor,
        "what is installed, which devices and models are there",
    )
    return parser


# ---------------------------------------------------------------------------------------------- options


def _verb(
    verbs: Any, name: str, call: Callable[..., Any], show: Callable[..., str], about: str
) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=about, description=about)
    parser.set_defaults(call=call, show=show)
    parser.add_argument("--json", action="store_true", help="one JSON document on standard output")
    parser.add_argument("--quiet", action="store_true", help="no progress, no result text")
    parser.add_argument("--verbose", action="store_true", help="log what happens, in detail")
    return parser


def _settings_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config",
        type=Path,
        metavar="FILE",
        help="TOML file with settings, or a run's config.json",
    )
    parser.add_argument("--preset", help="demo, paper or quick: a named starting point")
    _set_option(parser)


def _set_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--set", dest="assignments", action="append", default=[], metavar="SECTION.KEY=VALUE",
        help="one setting, over file and preset; may be given several times",
    )  # fmt: skip


def _out_option(parser: argparse.ArgumentParser, *, default: str | None) -> None:
    parser.add_argument(
        "--out", type=Path, metavar="RUN", required=default is None, default=default and Path(default),
        help="run folder: new, or one to go on with" + (f" (default {default})" if default else ""),
    )  # fmt: skip


def _fitted_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with a fitted mixture")
    parser.add_argument(
        "--records", metavar="FILE", help="records with the run's columns (default: its test split)"
    )


# ------------------------------------------------------------------------------------------------ verbs


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from mop.pipeline import run
    from mop.progress import ProgressDisplay

    with ProgressDisplay(quiet=args.quiet) as progress:
        result = run(_settings(args), args.out, until=args.until, progress=progress)
    if args.until == "report":
        from mop.artifacts import read_json

        result["metrics"] = read_json(args.out / "metrics.json")
    return result


def _settings(args: argparse.Namespace) -> RunConfig:
    """The run folder's own settings, unless a file or preset is given; then assignments."""
    from mop.config import config_from_dict, config_to_dict, merge_assignments, resolve_config
    from mop.pipeline import read_config

    if getattr(args, "n_personas", None) is not None:
        args.assignments = [*args.assignments, f"personas.n_personas={args.n_personas}"]
    if args.verb == "demo":
        return resolve_config(preset="demo", assignments=args.assignments)
    is_fresh = not (args.out / "config.json").is_file()
    if is_fresh or args.config is not None or args.preset is not None:
        return resolve_config(file=args.config, preset=args.preset, assignments=args.assignments)
    base = config_to_dict(read_config(args.out))
    for section, values in merge_assignments(args.assignments).items():
        base[section] = (
            {**base[section], **values} if section in base and isinstance(values, dict) else values
        )
    return config_from_dict(base)


def _pull(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay
    from mop.pull import EMBEDDED, is_pulled, notice, pull

    if not args.names:
        return {
            "known": {
                name: {
                    "kind": item.kind,
                    "what": item.what,
                    "licence": item.licence,
                    "pulled": is_pulled(name),
                }
                for name, item in EMBEDDED.items()
            }
        }
    pulled = {}
    with ProgressDisplay(quiet=args.quiet) as progress:
        for name in args.names:
            folder = pull(name, progress=progress)
            pulled[name] = {"folder": str(folder), "notice": notice(name)}
    return {"pulled": pulled}


def _open_fitted(args: argparse.Namespace, progress: Any) -> tuple[MixtureOfPersonas, list[Record]]:
    """The mixture of a run with the run's own model settings, and the records in question."""
    from mop.data import load_records, read_records
    from mop.estimator import MixtureOfPersonas
    from mop.pipeline import open_lm, read_config

    config = read_config(args.run)
    model = MixtureOfPersonas.load(
        args.run / "mixture",
        lm=open_lm(config, getattr(args, "lm", None)),
        store=args.run / "store.sqlite",
        score_components=args.components,
        progress=progress,
    )
    if args.records is None:
        return model, read_records(args.run / "records" / "test.jsonl")
    data = config.data
    loaded = load_records(
        args.records, context=data.context, response=data.response, label=data.label, key=data.key,
        weight=data.weight, group=data.group,
    )  # fmt: skip
    for code, count in loaded.counts.items():
        logging.getLogger("mop").warning("%d rows of %s: %s", count, args.records, code)
    return model, loaded.records


def _score(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay

    with ProgressDisplay(quiet=args.quiet) as progress:
        model, records = _open_fitted(args, progress)
        if args.refit_tau:
            from mop.data import read_records

            sample = read_records(args.run / "records" / "valid.jsonl")[: args.refit_tau]
            model.refit_tau(sample)
        found = model.score_report(records, reference_components=args.references)
        return {"lm": args.lm, "refitted_on": args.refit_tau, **found}


def _explain(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay

    with ProgressDisplay(quiet=args.quiet) as progress:
        model, records = _open_fitted(args, progress)
        if args.text is not None:
            from mop.types import Record

            return model.explain(Record(key="--text", context=args.context, response=args.text))
        found = [r for r in records if args.key is None or r.key == args.key]
        if not found:
            raise ConfigError(
                f"no record has the key {args.key!r}; keys look like {records[0].key!r}"
            )
        return model.explain(found[0])


def _config(args: argparse.Namespace) -> dict[str, Any]:
    from mop.config import config_to_dict, resolve_config

    config = resolve_config(file=args.config, preset=args.preset, assignments=args.assignments)
    return config_to_dict(config)


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    from mop.pipeline import verify

    return verify(args.run)


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    from mop.doctor import examine

    return examine()


# ------------------------------------------------------------------------------------------- what is shown


def _show_run(result: dict[str, Any]) -> str:
    run = result["run"]
    lines = [f"{run}: {len(result['done'])} stages done, {len(result['skipped'])} were done before"]
    metrics = result.get("metrics")
    if metrics is None:
        last = (result["done"] or result["skipped"])[-1]
        shown = {
            k: v for k, v in result[last].items() if k not in ("finished", "seconds", "written")
        }
        lines.append(
            f"{last}: " + ", ".join(f"{key} {_figure(value)}" for key, value in shown.items())
        )
        stages = ["records", "personas", "fit", "simulate", "evaluate", "report"]
        lines.append(
            f"next: mop {stages[stages.index(last) + 1]} --out {run}" if last != "report" else ""
        )
        return "\n".join(filter(None, lines))
    lines.append(f"{'method':<14}{'FID ↓':>10}{'MAUVE ↑':>10}{'KL-cos ↓':>10}{'words':>8}")
    for name, row in metrics["methods"].items():
        lines.append(
            f"{name:<14}{row['fid']:>10.3f}{row['mauve']:>10.3f}{row['kl_cosine']:>10.3f}{row['mean_words']:>8.1f}"
        )
    held = metrics["held_out"]
    low, high = held["gain_interval"]
    lines += [
        f"held-out log-likelihood, nats per record: mop {held['mop']:.2f}, untrained gates "
        f"{held['mop-uniform']:.2f}, gain {held['gain']:+.2f} (95 % interval {low:+.2f} to {high:+.2f})",
        *_reference_lines(held),
        f"report: {run}/report.html",
        f"next: open {run}/report.html, or: mop explain {run}",
    ]
    return "\n".join(lines)


def _reference_lines(held: dict[str, Any]) -> list[str]:
    """A table of what the mixture gains over simpler models."""
    rows = held.get("references") or {}
    if not rows:
        return []
    head = (
        f"{'held against':<18}{'nats/record':>12}{'gain':>9}{'95 % interval':>20}{'per token':>11}"
    )
    lines = [head]
    for name, row in rows.items():
        low, high = row["gain_interval"]
        tail = " (bound)" if row["kind"] == "bound" else ""
        lines.append(
            f"{name:<18}{row['log_lik']:>12.2f}{row['gain']:>+9.2f}{f'{low:+.2f} to {high:+.2f}':>20}"
            f"{row['gain_per_token']:>+11.4f}{tail}"
        )
    return lines


def _show_pull(result: dict[str, Any]) -> str:
    if "known" in result:
        return "\n".join(
            f"{name:<16}{item['kind']:<9}{'here' if item['pulled'] else '-':<6}{item['licence']:<14}{item['what']}"
            for name, item in result["known"].items()
        )
    return "\n".join(
        f"{item['notice']}\n  here:    {item['folder']}" for item in result["pulled"].values()
    )


def _show_score(result: dict[str, Any]) -> str:
    low, high = result["gain_interval"]
    drawn = (
        f"{result['n_components']} components (effectively {result['effective_components']:.0f})"
    )
    kind = (
        "exact" if result["is_exact"] else f"estimated from {drawn}, a lower bound in expectation"
    )
    with_lm = f" with {result['lm']}" if result.get("lm") else ""
    if result.get("refitted_on"):
        with_lm += f", temperatures refitted on {result['refitted_on']} records"
    text = (
        f"mean log p(y|x) over {result['n_records']} records{with_lm}, {kind}, nats per record:\n"
        f"  mixture          {result['mop']:10.3f}  (standard error {result['standard_error']:.3f})\n"
        f"  untrained gates  {result['mop-uniform']:10.3f}\n"
        f"  gain             {result['gain']:+10.3f}  (95 % interval {low:+.3f} to {high:+.3f})"
    )
    return "\n".join([text, *_reference_lines(result)])


def _show_explain(result: dict[str, Any]) -> str:
    lines = [
        f"record   {result['key']}",
        f"context  {result['context']}",
        f"response {result['response']}",
        f"log p    {result['log_lik']:.2f} nats over {result['n_tokens']} tokens, "
        + (
            "exact"
            if result["is_exact"]
            else f"a bound, standard error {result['standard_error']:.2f}"
        )
        + f", from {result['n_scored']} components",
        "",
    ]
    lines += [
        f"{row['posterior']:7.1%}  {row['persona']}  {row['description']}"
        for row in result["personas"]
    ]
    lines += ["", "exemplars that speak for it:"]
    lines += [
        f"{row['posterior']:7.1%}  {row['exemplar']}  {row['response']}"
        for row in result["exemplars"]
    ]
    lines += ["", f"{'posterior':>9}  {'log p':>9}  {'log weight':>10}  {'tau':>5}  component"]
    lines += [
        f"{row['posterior']:9.1%}  {row['log_lik']:9.2f}  {row['log_weight']:10.2f}  {row['temperature']:5.2f}  "
        f"{row['persona']} with {row['exemplar']}"
        for row in result["components"]
    ]
    return "\n".join(lines)


def _show_config(result: dict[str, Any]) -> str:
    from mop.config import SECTIONS, describe

    lines = [f"seed = {result['seed']}"]
    for section, cls in SECTIONS.items():
        lines += ["", f"[{section}]"]
        for name, _, _, meaning in describe(cls):
            value = result[section][name]
            given = json.dumps("" if value is None else value, ensure_ascii=False)
            line = f"{'# ' if value is None else ''}{name} = {given}"
            lines.append(line.ljust(44) + f" # {meaning}")
    return "\n".join(lines)


def _show_verify(result: dict[str, Any]) -> str:
    if not result["problems"]:
        return f"sound: {result['counts']}"
    return "\n".join(
        ["damaged:", *result["problems"], "run the same command again; damaged items are redone"]
    )


def _show_doctor(result: dict[str, Any]) -> str:
    from mop.doctor import describe

    return describe(result)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


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

    logger = logging.getLogger("mop")
    level = logger.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    handler.addFilter(RedactingFilter())
    logger.addHandler(handler)
    logger.setLevel(
        logging.ERROR if args.quiet else logging.DEBUG if args.verbose else logging.WARNING
    )
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)


def _terminate(signum: int, frame: FrameType | None) -> NoReturn:
    raise _Terminated
