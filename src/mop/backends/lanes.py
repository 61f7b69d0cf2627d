"""Pieces of work side by side, each in a thread of its own with a share of the processor's threads.

Products inside a model wait for each other's threads after every step; if one core is held up, all are.
Pieces that never wait for each other use a busy machine far better, and a quiet one no worse.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def side_by_side(pieces: Sequence[Callable[[], Iterator[T]]]) -> Iterator[T]:
    """Run pieces of work at the same time; yields what they yield, as it comes.

    If the caller stops early, or a piece fails, or the wait is interrupted from the keyboard, the
    pieces end after what they are about to yield. Unless the caller has stopped, that is yielded
    before the error is raised. No piece gets further ahead of the caller than one item.

    One piece alone runs in the caller's own thread; several share the threads that torch has.

    Raises
    ------
    Exception
        The first one that a piece raises.
    """
    if len(pieces) == 1:
        yield from pieces[0]()
        return
    import torch

    total = torch.get_num_threads()
    found: queue.Queue[tuple[bool, T | BaseException | None]] = queue.Queue(len(pieces))
    stop = threading.Event()

    def work(piece: Callable[[], Iterator[T]]) -> None:
        try:
            torch.set_num_threads(max(1, total // len(pieces)))
            for item in piece():
                found.put((True, item))
                if stop.is_set():
                    break
        except BaseException as error:  # noqa: BLE001 - it is raised again where the caller waits
            found.put((False, error))
        else:
            found.put((False, None))

    workers = [threading.Thread(target=work, args=(piece,), daemon=True) for piece in pieces]
    for worker in workers:
        worker.start()
    try:
        failure = yield from _gathered(found, len(workers), stop)
    finally:
        stop.set()
        while any(worker.is_alive() for worker in workers):
            with contextlib.suppress(queue.Empty):  # make room for those that still put
                found.get(timeout=0.05)
        torch.set_num_threads(total)  # the number for threads to come is one for all
    if failure is not None:
        raise failure


def _gathered(
    found: queue.Queue[tuple[bool, T | BaseException | None]], running: int, stop: threading.Event
) -> Generator[T, None, BaseException | None]:
    """Yield what comes until every piece has ended; returns the first failure."""
    failure: BaseException | None = None
    while running:
        try:
            is_item, item = found.get()
        except KeyboardInterrupt as error:
            failure = error
            stop.set()
            continue
        if is_item:
            yield item  # type: ignore[misc]
            continue
        running -= 1
        if item is not None:
            failure = failure or item  # type: ignore[assignment]
            stop.set()
    return failure
