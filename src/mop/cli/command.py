"""The command ``mop``: one call of a verb, its result or its error, and an exit code."""

from __future__ import annotations

import argparse
import io
import json
import logging
import os
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from mop.cli.parser import build_parser, checked
from mop.cli.show import print_text
from mop.cli.verbs import Terminated
from mop.errors import ArtifactError, ConfigError, MopError
from mop.runs.interrupts import import_whole
from mop.shown import visible

OK, FAILED, USAGE, INTERRUPTED, TERMINATED = 0, 1, 2, 130, 143


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0 ok, 1 failed, 2 usage, 130/143 interrupted."""
    # Threads that wait asleep: on a busy machine, waiting awake takes time from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for stream in (sys.stdout, sys.stderr):  # a letter that the terminal's encoding lacks ends no run
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    import_whole("torch")
    argv, parser = sys.argv[1:] if argv is None else argv, build_parser()
    if not argv:
        print_text(parser.format_help())
        return USAGE
    args = parser.parse_args(checked(parser, argv))
    previous = signal.signal(signal.SIGTERM, _terminate)
    try:
        with _logging(args):
            result = args.call(args)
        if result is None:  # it has said all there is to say
            return OK
        if args.json:
            print_text(json.dumps(result, ensure_ascii=False, allow_nan=False))
        elif not args.quiet:
            print_text(_shown(args, result))
        return FAILED if result.get("problems") else OK
    except ConfigError as error:
        return _complain(args, type(error).__name__, str(error), USAGE)
    except MopError as error:
        return _complain(args, type(error).__name__, str(error), FAILED)
    except (KeyboardInterrupt, Terminated) as stop:
        code = TERMINATED if isinstance(stop, Terminated) else INTERRUPTED
        message = "interrupted; what is done is kept: the same command goes on from there"
        return _complain(args, "Interrupted", message, code)
    except BrokenPipeError:  # the reader of a pipe went away; nobody is left to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # a place that the command itself was given
        where = str(error.filename or "a file")
        where = where if len(where) < 200 else f"{where[:100]}..."
        return _complain(
            args, "OSError", f"{where} cannot be used: {error.strerror or error}; give another place", FAILED
        )
    finally:
        signal.signal(signal.SIGTERM, previous)


def _shown(args: argparse.Namespace, result: dict[str, Any]) -> str:
    """Text of a result; what a run folder holds may have been written by somebody else."""
    try:
        return str(args.show(result))
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        if not (Path(getattr(args, "run", "")) / "metrics.json").is_file():
            raise
        raise ArtifactError(
            f"the figures in {args.run} are not as mop writes them ({type(error).__name__}: {error}); delete "
            f"{args.run}/metrics.json and make them anew: mop evaluate {args.run}"
        ) from error


def _complain(args: argparse.Namespace, kind: str, message: str, code: int) -> int:
    sys.stderr.write(visible(f"mop {args.verb}: {message}\n"))
    if args.json:
        print_text(json.dumps({"error": {"type": kind, "message": message}}, ensure_ascii=False))
    return code


class _Formatter(logging.Formatter):
    """``warning: ...``; in detail also when and from where."""

    def __init__(self, *, in_detail: bool) -> None:
        super().__init__(
            "%(asctime)s %(name)s %(levelname)s: %(message)s" if in_detail else "%(levelname)s: %(message)s"
        )

    def format(self, record: logging.LogRecord) -> str:
        record = copy(record)  # others hear it too
        record.levelname = "note" if record.levelno == logging.INFO else record.levelname.lower()
        return visible(super().format(record))


@contextmanager
def _logging(args: argparse.Namespace) -> Iterator[None]:
    """Show the package's log on standard error while a command runs, secrets hidden."""
    from mop.redact import RedactingFilter

    logger, of_fit = logging.getLogger("mop"), logging.getLogger("mop.mixture.fit")
    level = logger.level
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(in_detail=args.verbose))
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
    raise Terminated
