"""How long work is shown on standard error: bars on a terminal, plain lines elsewhere, nothing when quiet."""

from __future__ import annotations

import logging
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


@contextmanager
def stage(logger: logging.Logger, name: str) -> Iterator[Counter[str]]:
    """Log at INFO that a stage begins, and what it did in how long; what is counted inside is told."""
    logger.info("%s: begins", name)
    began, counts = time.monotonic(), Counter[str]()
    try:
        yield counts
    except BaseException as error:
        logger.info("%s: stopped after %.1f s by %s", name, time.monotonic() - began, type(error).__name__)
        raise
    told = "".join(f", {n} {what}" for what, n in counts.items())
    logger.info("%s: done in %.1f s%s", name, time.monotonic() - began, told)


LINE_EVERY_S = 5.0
"""Without a terminal, work prints at most one line in so many seconds; its last only if it took `WORTH_A_LINE_S`
or cost something."""
WORTH_A_LINE_S = 1.0


class ProgressDisplay:
    """A progress callback ``(what, done, total)`` that draws on a stream, by default standard error."""

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._quiet = quiet
        self._bars: Progress | None = None
        self._tasks: dict[str, TaskID] = {}
        self._lines: dict[str, _Lines] = {}
        self.note: Callable[[], str] = lambda: ""
        """Asked for a remark to show beside the progress, such as what was spent."""

    def __enter__(self) -> Self:
        """Take the terminal, if there is one."""
        if not self._quiet and self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
            from rich.progress import TimeRemainingColumn as Eta

            self._bars = Progress(
                TextColumn("{task.description:<18}"),
                BarColumn(bar_width=30),
                MofNCompleteColumn(),
                TextColumn("{task.fields[rate]}"),
                TextColumn("{task.fields[note]}"),
                TimeElapsedColumn(),
                Eta(),
                console=Console(file=self._stream),
            )
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Give the terminal back."""
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show that ``done`` of ``total`` items of ``what`` are finished."""
        if self._quiet:
            return
        lines = self._lines.get(what)
        if lines is None or done < lines.done:  # the same work again: a new clock
            lines = self._lines[what] = _Lines(done)
        lines.done = done
        if self._bars is None:
            note = self.note()
            text = lines.text(what, done, total, is_worth_it=bool(note))
            if text:
                text += f" [{note}]" if note else ""
                self._stream.write(text + "\n")
                self._stream.flush()
            return
        if what not in self._tasks:
            self._tasks[what] = self._bars.add_task(what, total=total, rate="", note="")
        self._bars.update(self._tasks[what], completed=done, total=total, rate=lines.rate(done), note=self.note())


class _Lines:
    """Clock of one stage."""

    def __init__(self, done: int) -> None:
        self.done = done
        self._began = self._shown = time.monotonic()
        self._first = done
        self._finished = False

    def rate(self, done: int) -> str:
        spent = time.monotonic() - self._began
        return f"{(done - self._first) / spent:.1f}/s" if spent > 1 and done > self._first else ""

    def text(self, what: str, done: int, total: int, *, is_worth_it: bool) -> str:
        now = time.monotonic()
        is_last = done >= total
        if is_last:
            is_due = not self._finished and (is_worth_it or now - self._began >= WORTH_A_LINE_S)
        else:
            is_due = now - self._shown >= LINE_EVERY_S
        if not is_due:
            return ""
        self._shown, self._finished = now, is_last
        rate = self.rate(done)
        left = (total - done) * (now - self._began) / (done - self._first) if done > self._first else 0.0
        eta = f", {left:.0f} s left" if rate and not is_last else ""
        return f"{what}: {done}/{total}" + (f" ({rate}{eta})" if rate else "")
