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
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn

from mop import __version__
from mop.errors import ConfigError, MopError
from mop.runs.interrupts import import_whole

if TYPE_CHECKING:
    from mop.config import RunConfig
    from mop.estimator import MixtureOfPersonas
    from mop.types import Record

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143

VERBS = {"personas": "personas", "fit": "fit", "simulate": "simulate", "evaluate": "evaluate",
         "report": "report", "run": "report"}  # fmt: skip
"""Verbs that bring a run up to a stage."""


class _OneMethod(argparse.Action):
    """``--method``: a person may think it to be a list, so the second one is refused instead of winning."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: object,
        option_string: str | None = None,
    ) -> None:
        if getattr(namespace, self.dest) is not None:
            parser.error(
                f"argument {option_string}: given twice ({getattr(namespace, self.dest)}, {values}); one method "
                "draws at a time, mop compare sets several side by side (compare.methods)"
            )
        setattr(namespace, self.dest, values)


def _not_negative(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, got {text!r}")
    return int(text)


class _Terminated(BaseException):
    """SIGTERM, turned into an exception so that files and the store are closed properly."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 ok, 1 failed, 2 usage, 130/143 interrupted."""
    # Threads that wait asleep: on a busy machine, waiting awake takes time from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    import_whole("torch")
    parser = build_parser()
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
        epilog="Start with: mop demo. Settings and their meaning: mop config.",
    )
    parser.add_argument("--version", action="version", version=f"mop {__version__}")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="VERB")

    demo = _verb(verbs, "demo", _run, _show_run, "simulate film critics with the embedded models (minutes)")
    _out_option(demo, default="runs/demo")
    _set_option(demo)
    demo.set_defaults(until="report")
    for verb, stage in VERBS.items():
        about = "the whole chain" if verb == "run" else f"the chain up to and including: {stage}"
        chain = _verb(verbs, verb, _run, _show_run, f"{about}, on a run folder; resumes")
        _out_option(chain, default=None)
        _settings_options(chain)
        if verb == "simulate":
            chain.add_argument(
                "--method",
                action=_OneMethod,
                help="draw with this method alone (zerogen, attrprompt, few-shot, ...), fitting only if it needs it",
            )
        if verb in ("personas", "fit", "run"):
            chain.add_argument(
                "--n-personas", metavar="N|auto",
                help="K; auto: one for every five different texts (personas.n_personas)",
            )  # fmt: skip
        chain.set_defaults(until=stage)

    compare = _verb(verbs, "compare", _compare, _show_compare, "all methods on one data set, to one table")
    compare.add_argument(
        "config", nargs="?", type=Path, metavar="CONFIG",
        help="TOML file with settings, or a run's config.json (none: the run folder's own)",
    )  # fmt: skip
    _out_option(compare, default=None)
    compare.add_argument("--preset", help="demo, paper or quick: a named starting point")
    _set_option(compare)

    pull = _verb(verbs, "pull", _pull, _show_pull, "fetch an embedded model or data set for offline use")
    pull.add_argument("names", nargs="*", metavar="NAME", help="none: list them")

    score = _verb(verbs, "score", _score, _show_score, "log-likelihood of records under a fitted mixture")
    _fitted_options(score)
    score.add_argument(
        "--lm", help="another language model than the one it was fitted with: the mixture is compared "
        "with equal weights and plain prompts under that one"
    )  # fmt: skip
    score.add_argument(
        "--refit-tau", type=_not_negative, default=0, metavar="N",
        help="refit the temperatures to N of the run's validation records first (default 0: no)",
    )  # fmt: skip
    score.add_argument("--components", type=int, default=64, help="components scored per record (default 64)")
    score.add_argument(
        "--no-references", action="store_true",
        help="leave out the simpler models that need scores of their own: without persona, without exemplar, ...",
    )  # fmt: skip

    explain = _verb(verbs, "explain", _explain, _show_explain, "which personas and exemplars wrote this record")
    _fitted_options(explain)
    explain.add_argument("--key", help="a record's key; none: the first record")
    explain.add_argument("--text", help="a response to explain instead of a record's")
    explain.add_argument("--context", default="", help="what --text responds to")
    explain.add_argument("--components", type=int, default=64, help="components scored (default 64)")

    refit = _verb(
        verbs, "refit", _refit, _show_refit,
        "persona weights for another model, one that need not be able to score",
    )  # fmt: skip
    _refit_options(refit)

    sample = _verb(
        verbs, "sample", _sample, _show_sample,
        "draw any number of responses from a fitted mixture to a file; resumes",
    )  # fmt: skip
    _sample_options(sample)

    config = _verb(verbs, "config", _config, _show_config, "print the resolved settings and what each means")
    _settings_options(config)

    verify = _verb(verbs, "verify", _verify, _show_verify, "check a run folder: files, hashes, every score")
    verify.add_argument("run", type=Path, metavar="RUN")

    doctor = _verb(
        verbs,
        "doctor",
        _doctor,
        _show_doctor,
        "what is installed, which devices, models and servers are there, and what to do",
    )
    _doctor_options(doctor)

    fake = _verb(
        verbs, "fake-server", _fake_server, _show_fake_server,
        "serve a toy model with known probabilities on this machine, honest or broken",
    )  # fmt: skip
    _fake_server_options(fake)
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
    parser.add_argument("--config", type=Path, metavar="FILE", help="TOML file with settings, or a run's config.json")
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
    parser.add_argument("--records", metavar="FILE", help="records with the run's columns (default: its test split)")


def _refit_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with a fitted mixture")
    parser.add_argument(
        "--black-box", action="store_true",
        help="match embeddings of the model's samples to the run's records: a surrogate for a fit",
    )  # fmt: skip
    parser.add_argument("--lm", metavar="NAME", help="the model; none: the run's own")
    parser.add_argument("--samples-per-persona", type=int, default=20, metavar="N", help="draws (default 20)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="the new mixture (RUN/mixture-black-box)")
    _set_option(parser)


def _sample_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", type=Path, metavar="RUN", help="run folder with a fitted mixture")
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
    _set_option(parser)


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


def _run(args: argparse.Namespace) -> dict[str, Any]:
    from mop.pipeline import run
    from mop.progress import ProgressDisplay
    from mop.runs.verbs import simulate_method

    with ProgressDisplay(quiet=args.quiet) as progress:
        if getattr(args, "method", None) is not None:
            return simulate_method(_settings(args), args.out, args.method, progress=progress)
        result = run(_settings(args), args.out, until=args.until, progress=progress)
    if args.until == "report":
        from mop.storage.run_folder import read_json

        result["metrics"] = read_json(args.out / "metrics.json")
    return result


def _compare(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay
    from mop.runs.compare import compare

    with ProgressDisplay(quiet=args.quiet) as progress:
        return compare(_settings(args), args.out, progress=progress)


def _settings(args: argparse.Namespace) -> RunConfig:
    """The run folder's own settings, unless a file or preset is given; then assignments."""
    from mop.config import resolve_config
    from mop.runs.work import read_config

    if getattr(args, "n_personas", None) is not None:
        args.assignments = [*args.assignments, f"personas.n_personas={args.n_personas}"]
    if args.verb == "demo":
        return resolve_config(preset="demo", assignments=args.assignments)
    is_fresh = not (args.out / "config.json").is_file()
    if is_fresh or args.config is not None or args.preset is not None:
        return resolve_config(file=args.config, preset=args.preset, assignments=args.assignments)
    return _assigned(read_config(args.out), args.assignments)


def _assigned(config: RunConfig, assignments: list[str]) -> RunConfig:
    """A run's own settings with assignments over them."""
    from mop.config import config_from_dict, config_to_dict, merge_assignments

    base = config_to_dict(config)
    for section, values in merge_assignments(assignments).items():
        is_section = isinstance(base.get(section), dict) and isinstance(values, dict)
        base[section] = {**base[section], **values} if is_section else values
    return config_from_dict(base)


def _pull(args: argparse.Namespace) -> dict[str, Any]:
    from mop.data.pull import EMBEDDED, is_pulled, notice, pull
    from mop.progress import ProgressDisplay

    if not args.names:
        return {
            "known": {
                name: {"kind": item.kind, "what": item.what, "licence": item.licence, "pulled": is_pulled(name)}
                for name, item in EMBEDDED.items()
            }
        }
    pulled = {}
    with ProgressDisplay(quiet=args.quiet) as progress:
        for name in args.names:
            folder = pull(name, progress=progress)
            pulled[name] = {"folder": str(folder), "notice": notice(name)}
    return {"pulled": pulled}


@contextmanager
def _open_fitted(args: argparse.Namespace, progress: Any) -> Iterator[tuple[MixtureOfPersonas, list[Record]]]:
    """The mixture of a run with the run's own models and account, and the records in question."""
    from dataclasses import replace

    from mop.data.records import load_records, read_records
    from mop.estimator import MixtureOfPersonas
    from mop.runs.work import Models, open_work, read_config

    config = read_config(args.run)
    if (lm := getattr(args, "lm", None)) is not None:
        config = replace(config, model=replace(config.model, lm=lm, scorer=""))
    if args.records is None:
        records = read_records(args.run / "records" / "test.jsonl")
    else:
        names = ("context", "response", "label", "key", "weight", "group", "duplicates")
        options: dict[str, Any] = {name: getattr(config.data, name) for name in names}
        loaded = load_records(args.records, **options)
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
        yield model, records
        work.describe()


def _score(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay

    with ProgressDisplay(quiet=args.quiet) as progress, _open_fitted(args, progress) as (model, records):
        sample: list[Record] = []
        if args.refit_tau:
            from mop.data.records import read_records

            known = read_records(args.run / "records" / "valid.jsonl")
            sample = known[: args.refit_tau]
            if len(sample) < args.refit_tau:
                logging.getLogger(__name__).warning(
                    "the run has %d validation records, fewer than --refit-tau %d", len(known), args.refit_tau
                )
            model.refit_tau(sample)
        found = model.score_report(records, plain=not args.no_references)
        return {"lm": args.lm, "refitted_on": len(sample), **_models_of(args), **found}


def _models_of(args: argparse.Namespace) -> dict[str, str]:
    """Whose likelihoods these are, and who writes in this run."""
    from mop.runs.work import read_config

    model = read_config(args.run).model
    lm = getattr(args, "lm", None)
    return {"scored_by": lm or model.scorer or model.lm, "written_by": lm or model.lm}


def _explain(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay

    with ProgressDisplay(quiet=args.quiet) as progress, _open_fitted(args, progress) as (model, records):
        if args.text is not None:
            from mop.types import Record

            if args.key is not None:
                raise ConfigError("--text is a record of its own; give it or --key, not both")
            record = Record(key="--text", context=args.context, response=args.text)
            return {**model.explain(record), **_models_of(args)}
        if args.context:
            raise ConfigError("--context goes with --text; a record has a context of its own")
        found = [r for r in records if args.key is None or r.key == args.key]
        if not found:
            where = f"of {args.records}" if args.records else "of the run's test records"
            raise ConfigError(
                f"none {where} has the key {args.key!r}; keys look like {records[0].key!r}; other records "
                "are looked at with --records FILE"
            )
        return {**model.explain(found[0]), **_models_of(args)}


def _refit(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay
    from mop.runs.verbs import refit
    from mop.runs.work import read_config

    if not args.black_box:
        raise ConfigError(
            "mop refit was asked for without --black-box; give it to match embeddings of samples; "
            "to fit again from the scores in the store: mop fit --out "
            f"{args.run} --set fit.NAME=VALUE"
        )
    config = _assigned(read_config(args.run), args.assignments)
    with ProgressDisplay(quiet=args.quiet) as progress:
        return refit(
            config, args.run, lm=args.lm, samples_per_persona=args.samples_per_persona,
            out=args.out, progress=progress,
        )  # fmt: skip


def _sample(args: argparse.Namespace) -> dict[str, Any]:
    from mop.progress import ProgressDisplay
    from mop.runs.sample import sample
    from mop.runs.work import read_config

    config = _assigned(read_config(args.run), args.assignments)
    with ProgressDisplay(quiet=args.quiet) as progress:
        return sample(
            config, args.run, args.out, mixture=args.mixture, contexts=args.contexts, n=args.n,
            lm=args.lm, seed=args.seed, progress=progress,
        )  # fmt: skip


def _config(args: argparse.Namespace) -> dict[str, Any]:
    from mop.config import config_to_dict, resolve_config

    config = resolve_config(file=args.config, preset=args.preset, assignments=args.assignments)
    return config_to_dict(config)


def _verify(args: argparse.Namespace) -> dict[str, Any]:
    from mop.runs.verbs import verify

    return verify(args.run)


def _doctor(args: argparse.Namespace) -> dict[str, Any]:
    from mop.config import RemoteSettings
    from mop.runs.doctor import examine

    settings = RemoteSettings(
        api_key_env=args.api_key_env, dialect=args.dialect, allow_remote_data=args.allow_remote_data
    )
    result = examine(args.server, settings=settings, tokenizer=args.tokenizer, probe=args.probe)
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
    run = result["run"]
    if "method" in result:
        lost = {"empty": "drawn without a usable text", "failed": "refused or failed"}
        tail = "".join(f", {result[key]} {what}" for key, what in lost.items() if result[key])
        return f"{result['file']}: {result['n_responses']} responses of {result['method']}{tail}{_cut(result)}"
    lines = [f"{run}: {len(result['done'])} stages done, {len(result['skipped'])} were done before"]
    cut = result.get("simulate", {}).get("cut_share", {})
    cut_line = ", ".join(f"{method} {share:.0%}" for method, share in cut.items())
    cut_lines = [f"texts cut at the length limit: {cut_line}"] if cut else []
    metrics = result.get("metrics")
    if metrics is None:
        last = (result["done"] or result["skipped"])[-1]
        shown = {
            k: v for k, v in result[last].items() if k not in ("finished", "seconds", "asked", "written", "cut_share")
        }
        lines.append(f"{last}: " + ", ".join(f"{key} {_figure(value)}" for key, value in shown.items()))
        lines += cut_lines
        stages = ["records", "personas", "fit", "simulate", "evaluate", "report"]
        lines.append(f"next: mop {stages[stages.index(last) + 1]} --out {run}" if last != "report" else "")
        return "\n".join(filter(None, lines))
    if metrics["is_surrogate"]:
        lines.append(f"written by {metrics['written_by']}, fitted to {metrics['scored_by']} (a surrogate)")
    lines += [*_metric_lines(metrics["methods"], 14), *_metric_notes(metrics)]
    held = metrics["held_out"]
    says = result.get("fit", {}).get("says")
    lines += [
        *([f"fit: {says}"] if says else []),
        f"held-out log-likelihood, nats per record: mop {held['mop']:.2f}, equal weights "
        f"{held['mop-uniform']:.2f}, gain {held['gain']:+.2f} (95 % interval {_range(held['gain_interval'], '+.2f')})",
        *_reference_lines(held),
        *cut_lines,
        f"report: {run}/report.html",
        f"next: open {run}/report.html, or: mop explain {run}",
    ]
    return "\n".join(lines)


def _cut(result: dict[str, Any]) -> str:
    """How many of the texts that were drawn were cut, and their share; nothing if none was."""
    if not result["cut"]:
        return ""
    share = result["cut"] / (result["n_responses"] - result["failed"])
    return f", {result['cut']} ({share:.0%}) cut at the length limit"


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
        lines.append(f"{method:<{width}}{''.join(cells)}")
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
        rows = {**found["methods"], "other real texts": found["floor"]}
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
    if not rows:
        return []
    head = f"{'compared with':<18}{'nats/record':>12}{'gain':>9}{'95 % interval':>20}{'per token':>11}"
    lines = [head]
    for name, row in rows.items():
        if row.get("best_of"):
            name = f"best of {row['best_of']} pairs"
        lines.append(
            f"{name:<18}{row['log_lik']:>12.2f}{row['gain']:>+9.2f}{_range(row['gain_interval'], '+.2f'):>20}"
            f"{row['gain_per_token']:>+11.4f}"
        )
    return lines


def _show_pull(result: dict[str, Any]) -> str:
    if "known" in result:
        return "\n".join(
            f"{name:<16}{item['kind']:<9}{'here' if item['pulled'] else '-':<6}{item['licence']:<14}{item['what']}"
            for name, item in result["known"].items()
        )
    return "\n".join(f"{item['notice']}\n  here:    {item['folder']}" for item in result["pulled"].values())


def _range(interval: Sequence[float] | None, form: str) -> str:
    """An interval in words; records of one group have none."""
    if interval is None:
        return "unknown: one group"
    return f"{interval[0]:{form}} to {interval[1]:{form}}"


def _show_score(result: dict[str, Any]) -> str:
    kind = "exact" if result["is_exact"] else f"estimated from {result['n_components']} components each"
    with_lm = f" with {result['lm']}" if result.get("lm") else ""
    if result.get("refitted_on"):
        with_lm += f", temperatures refitted on {result['refitted_on']} records"
    text = (
        f"mean log p(y|x) over {result['n_records']} records{with_lm}, {kind}, nats per record:\n"
        f"  mixture          {result['mop']:10.3f}  (95 % interval {_range(result['mop_interval'], '.3f')})\n"
        + (
            ""
            if result["is_exact"]
            else f"  at least         {result['lower_bound']:10.3f}  (by what was scored alone)\n"
        )
        + f"  equal weights    {result['mop-uniform']:10.3f}\n"
        f"  gain             {result['gain']:+10.3f}  (95 % interval {_range(result['gain_interval'], '+.3f')})"
    )
    at_one = [
        f"all at temperature {result['scored_at']:g}, the only one that {result['scored_by']} scores at: the "
        "personas' own differ"
    ] if result["scored_at"] else []  # fmt: skip
    return "\n".join([text, *_reference_lines(result), *at_one, *_surrogate_line(result)])


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
        f"log p    {result['log_lik']:.2f} nats over {result['n_tokens']} tokens, "
        + ("exact" if result["is_exact"] else f"an estimate, standard error {result['standard_error']:.2f}")
        + f", from {result['n_scored']} components",
        "",
    ]
    lines += [f"{row['posterior']:7.1%}  {row['persona']}  {row['description']}" for row in result["personas"]]
    lines += ["", "exemplars that speak for it:"]
    lines += [f"{row['posterior']:7.1%}  {row['exemplar']}  {row['response']}" for row in result["exemplars"]]
    lines += ["", f"{'posterior':>9}  {'log p':>9}  {'log weight':>10}  {'tau':>5}  component"]
    lines += [
        f"{row['posterior']:9.1%}  {row['log_lik']:9.2f}  {row['log_weight']:10.2f}  {row['temperature']:5.2f}  "
        f"{row['persona']} with {row['exemplar']}"
        for row in result["components"]
    ]
    return "\n".join([*lines, *_surrogate_line(result)])


def _show_refit(result: dict[str, Any]) -> str:
    about = result["persona_weights"]
    lines = [
        f"persona weights for {about['model']}, {about['kind']}",
        f"{about['samples_per_persona']} samples per persona, {about['n_targets']} real responses",
        f"  {'before':>7} {'now':>7}",
    ]
    lines += [
        f"  {row['before']:7.1%} {row['weight']:7.1%}  {row['key']}  {row['description']}"
        + (f" ({row['failed']} samples refused or failed)" if row["failed"] else "")
        for row in result["personas"]
    ]
    lines += [
        "squared distance of samples and real responses (MMD, 0 is no difference): "
        f"{about['mmd2']:.4f} now, {about['mmd2_before']:.4f} with the weights before, "
        f"{about['mmd2_uniform']:.4f} with equal ones",
        f"mixture: {result['out']}",
        f"next: mop sample {result['run']} --mixture {result['out']} -n 1000 --out FILE.jsonl",
    ]
    return "\n".join(lines)


def _show_sample(result: dict[str, Any]) -> str:
    kinds = {"empty": "without a text", "failed": "refused or failed"}
    found = "".join(f", {result[key]} {what}" for key, what in kinds.items() if result[key])
    found += _cut(result)
    other = "" if result["fitted_to"] == result["lm"] else f"; weights: {result['fitted_to']}"
    return (
        f"{result['file']}: {result['n_responses']} responses of {result['personas']} personas"
        f"{found}\nwritten by {result['lm']}{other}"
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
    if not result["problems"]:
        return f"sound: {result['counts']}"
    return "\n".join(["damaged:", *result["problems"], "run the same command again; damaged items are redone"])


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
