"""Ctrl-C while PyTorch is being imported waits until it is there.

Its start-up runs Python code from C++. An exception out of a signal handler there is not carried on to
us: the process dies of the signal, or in `std::terminate`, instead of ending with a message and a code.
"""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import FrameType, ModuleType
from typing import Any

HEARD_LATER = (signal.SIGINT, signal.SIGTERM)
MOMENT = 0.02
"""Seconds from the end of an import to an interrupt that came during it."""


@contextmanager
def undisturbed() -> Iterator[None]:
    """Handle interrupts that come meanwhile a moment after the end.

    A moment after, so that an import machinery around this has time to put its module where it belongs; if it
    cannot, the module would be half there for good. Outside the main thread, which alone hears
    interrupts, this does nothing.
    """
    heard: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        heard.append(number)

    before: dict[signal.Signals, Any] = {}
    if threading.current_thread() is threading.main_thread():
        before = {number: signal.getsignal(number) for number in HEARD_LATER}
        before = {number: handler for number, handler in before.items() if callable(handler)}
    for number in before:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if heard:
            later = threading.Timer(MOMENT, os.kill, (os.getpid(), heard[0]))
            later.daemon = True
            later.start()


class _WholeImport(MetaPathFinder):
    """Finds one module, and lets it be executed undisturbed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.is_asking = False

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Take the spec that the other finders have, with a loader that hears no interrupt."""
        if fullname != self.name or self.is_asking:
            return None
        self.is_asking = True
        try:
            spec = importlib.util.find_spec(fullname)
        finally:
            self.is_asking = False
        if spec is None or spec.loader is None:
            return spec
        execute = spec.loader.exec_module

        def execute_undisturbed(module: ModuleType) -> None:
            with undisturbed():
                execute(module)

        spec.loader.exec_module = execute_undisturbed  # type: ignore[method-assign]
        return spec


def import_whole(name: str) -> None:
    """Let the first import of a module, whenever it comes, run to its end before an interrupt is heard."""
    is_known = any(isinstance(f, _WholeImport) and f.name == name for f in sys.meta_path)
    if name not in sys.modules and not is_known:
        sys.meta_path.insert(0, _WholeImport(name))
