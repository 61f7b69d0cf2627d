"""One thread for small products: threads that wait for each other take time from those that work."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_held = threading.Lock()


@contextmanager
def one_thread() -> Iterator[None]:
    """Let linear algebra, and torch if it is loaded, use one thread inside; afterwards as many as before.

    Libraries of linear algebra have one number for all threads of Python. Of several fits at a time the one that came
    first sets it and puts it back; torch has a number for each.
    """
    from threadpoolctl import threadpool_limits

    torch = sys.modules.get("torch")
    with ExitStack() as after:
        if _held.acquire(blocking=False):
            after.callback(_held.release)
            after.enter_context(threadpool_limits(limits=1, user_api="blas"))
        if torch is not None:
            after.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(1)
        yield
