"""Pieces of work side by side, each in a thread of its own with a share of the processor's threads.

Products inside a model wait for each other's threads after every step; if one core is held up, all are.
Pieces that never wait for each other use a busy machine far better, and a quiet one no worse.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def side_by_side(
    pieces: Sequence[Callable[[], Iterator[T]]], *, threads: int | None = None
) -> Iterator[T]:
    """Run pieces of work at the same time; yields what they yield, as it comes.

    If the caller stops early, or a piece fails, the others end after what they are about to yield.

    Parameters
    ----------
    pieces : sequence of callables
        Each returns an iterator; one alone runs in the caller's own thread.
    threads : int, optional
        Threads of torch that the pieces share; those that torch has if not given.

    Raises
    ------
    Exception
        The first one that a piece raises.
    """
    if len(pieces) == 1:
        yield from pieces[0]()
        return
    import torch

    total = threads or torch.get_num_threads()
    found: queue.SimpleQueue[tuple[bool, T | BaseException | None]] = queue.SimpleQueue()
    stop = threading.Event()

    def work(piece: Callable[[], Iterator[T]]) -> None:
        try:
            torch.set_num_threads(max(1, total // len(pieces)))
            for item in piece():
                found.put((True, item))
                if stop.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - it is raised again where the caller waits
            found.put((False, error))
        else:
            found.put((False, None))

    workers = [threading.Thread(target=work, args=(piece,), daemon=True) for piece in pieces]
    for worker in workers:
        worker.start()
    try:
        running = len(workers)
        while running:
            is_item, item = found.get()
            if is_item:
                yield item  # type: ignore[misc]
            elif item is not None:
                raise item  # type: ignore[misc]
            else:
                running -= 1
    finally:
        stop.set()
        for worker in workers:
            worker.join()
        torch.set_num_threads(total)  # the number for threads to come is one for all
