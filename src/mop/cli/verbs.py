"""The verbs: arguments to settings to one call."""

from __future__ import annotations

import argparse
import json
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import wraps
from typing import TYPE_CHECKING, Any

from mop.cli.show import print_text
from mop.errors import ConfigError

if TYPE_CHECKING:
    from mop.config import RunConfig
    from mop.estimator import MixtureOfPersonas
    from mop.progress import ProgressDisplay
    from mop.runs.work import Work
    from mop.types import Record


class Terminated(BaseException):
    """SIGTERM, turned into an exception so that files and the store are closed properly."""


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
    from mop.runs.trust import require_word, said_by
    from mop.runs.work import read_config

    if args.run.is_file():
        kind = "--config " if args.run.suffix in {".toml", ".json"} else "--set data.source="
        raise ConfigError(
            f"{str(args.run)!r} is a file, and RUN is the folder of a run, such as runs/{args.run.stem}; try: "
            f"mop {args.verb} runs/{args.run.stem} {kind}{args.run}"
        )
    own, file = args.run / "config.json", args.config
    if file is None and args.preset is None and own.is_file():
        file = own
    if not begins or file == own:
        read_config(args.run, trusts=True)  # refuses what is no run, and settings of another version
    config = resolve_config(file=file, preset=args.preset, assignments=args.assignments)
    if file is not None and file.name == own.name and (file.parent / "manifest.json").is_file():
        lm = getattr(args, "lm", None)
        asked = config if lm is None else replace(config, model=replace(config.model, lm=lm))
        require_word(asked, file.parent, said=said_by(args.assignments, lm=lm), trusts=args.trust)
    return config


@_with_progress
def run(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Do the stages up to the one that is named, or write by one method."""
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
def compare(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Set methods side by side."""
    from mop.runs.compare import compare

    return compare(_settings(args, begins=True), args.run, progress=progress)


@_with_progress
def pull(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Fetch embedded models and data, or list them."""
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
) -> Iterator[tuple[MixtureOfPersonas, list[Record], Work]]:
    """The mixture of a run with its models and account, the records in question, and the run."""
    from mop.estimator import MixtureOfPersonas
    from mop.runs.work import Models, open_work, records_like

    config = _settings(args)
    if (lm := getattr(args, "lm", None)) is not None:
        config = replace(config, model=replace(config.model, lm=lm, scorer=""))
    records = None if args.records is None else records_like(config, args.records)
    with open_work(
        config, args.run, Models(config), until="records", also=("scorer",), progress=progress, beside=True
    ) as work:
        work.progress.begin(args.verb)
        model = MixtureOfPersonas.load(
            work.folder.checked(work.folder.mixture),
            lm=config.model.lm,
            scorer=work.scorer,
            encoder=work.encoder,
            store=work.store.path,
            score_components=args.components,
            progress=work.progress,
        )
        yield model, work.records("test") if records is None else records, work
        work.describe()


def _who(work: Work) -> dict[str, str]:
    """Which model scores and which writes."""
    lm = work.config.model.lm
    return {"scored_by": work.config.model.scorer or lm, "written_by": lm}


@_with_progress
def score(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Score records under the fitted mixture."""
    if args.refit_tau < 0:
        raise ConfigError(f"--refit-tau must be 0 or more records, got {args.refit_tau}")
    with _open_fitted(args, progress) as (model, records, work):
        sample: list[Record] = []
        if args.refit_tau:
            known = work.records("valid")
            sample = known[: args.refit_tau]
            if len(sample) < args.refit_tau:
                logging.getLogger(__name__).warning(
                    "the run has %d validation records, fewer than --refit-tau %d", len(known), args.refit_tau
                )
            model.refit_tau(sample)
        found = model.score_report(records, plain=not args.no_references)
        return {"lm": args.lm, "refitted_on": len(sample), **_who(work), **found}


@_with_progress
def explain(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Explain a record or a text."""
    from mop.types import Record

    if args.text is not None and args.key is not None:
        raise ConfigError("--text is a record of its own; give it or --key, not both")
    if args.context and args.text is None:
        raise ConfigError("--context goes with --text; a record has a context of its own")
    with _open_fitted(args, progress) as (model, records, work):
        if args.text is not None:
            found = [Record(key="--text", context=args.context, response=args.text)]
            if not args.context and records and records[0].context:
                logging.getLogger(__name__).warning(
                    "--text is explained as a response to nothing; say what it responds to with --context, such as %r",
                    records[0].context,
                )
        else:
            found = [r for r in records if args.key is None or r.key == args.key]
        if not found:
            where = f"of {args.records}" if args.records else "of the run's test records"
            raise ConfigError(
                f"none {where} has the key {args.key!r}; keys look like {records[0].key!r}; give other records with "
                "--records FILE"
            )
        return {**model.explain(found[0]), **_who(work)}


@_with_progress
def match(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Match persona weights to another model."""
    from mop.runs.verbs import match

    return match(
        _settings(args), args.run, lm=args.lm, samples_per_persona=args.samples_per_persona,
        out=args.out, progress=progress,
    )  # fmt: skip


@_with_progress
def sample(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Write texts."""
    from mop.runs.sample import sample

    config = _settings(args)
    if args.seed is not None:
        config = replace(config, seed=args.seed)
    return sample(
        config, args.run, args.out, mixture=args.mixture, contexts=args.contexts, n=args.n,
        per_class=args.per_class,
        lm=args.lm, progress=progress,
    )  # fmt: skip


@_with_progress
def calibrate(args: argparse.Namespace, progress: ProgressDisplay) -> dict[str, Any]:
    """Write calibrated texts."""
    from mop.runs.calibrate import calibrate, read_target

    config = _settings(args)
    target = read_target(config, args.target, args.margins)
    return calibrate(
        config, args.run, args.out, n=args.n, factor=args.draws, target=target, keep_all=args.all, progress=progress
    )


def config(args: argparse.Namespace) -> dict[str, Any]:
    """Resolve the settings."""
    from mop.config import config_to_dict, resolve_config

    return config_to_dict(resolve_config(file=args.config, preset=args.preset, assignments=args.assignments))


def verify(args: argparse.Namespace) -> dict[str, Any]:
    """Check files and scores of a run."""
    from mop.runs.verbs import verify

    return verify(args.run)


def doctor(args: argparse.Namespace) -> dict[str, Any]:
    """Look at this machine, and at servers."""
    from mop.config import resolve_config
    from mop.runs.doctor import examine

    named = {name: getattr(args, name) for name in ("api_key_env", "dialect", "tokenizer", "allow_remote_data")}
    settings = resolve_config(assignments=args.assignments).remote
    settings = replace(settings, **{name: value for name, value in named.items() if value})
    result = examine(args.server, settings=settings, probe=args.probe)
    bad = [finding["what"] for finding in result["findings"] if finding["status"] == "problem"]
    return {**result, "problems": bad}


def fake_server(args: argparse.Namespace) -> dict[str, Any] | None:
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
            print_text(json.dumps({"url": running.url, "name": name, "tokenizer": "fake"}))
        elif not args.quiet:
            print_text(
                f"serving at {running.url} as {args.dialect}, broken: {args.broken}\n"
                f"name: {name}   tokenizer: fake\n"
                f"try: mop doctor --probe --tokenizer fake --server {name}\n"
                "Ctrl-C stops it"
            )
        try:
            running.wait()
        except (KeyboardInterrupt, Terminated):
            logging.getLogger("mop").info("stopped after %d calls", server.calls)
    return None
