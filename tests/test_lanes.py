"""Pieces of work side by side: all of it, failures seen, an early stop heard."""

import itertools
import signal
import threading

import pytest
import torch

from mop.backends.lanes import side_by_side


def test_everything_comes_once_and_each_piece_in_its_order():
    pieces = [lambda start=start: iter(range(start, start + 50)) for start in (0, 100, 200)]
    found = list(side_by_side(pieces))
    assert sorted(found) == [*range(50), *range(100, 150), *range(200, 250)]
    for start in (0, 100, 200):
        assert [n for n in found if start <= n < start + 50] == list(range(start, start + 50))


def test_pieces_are_at_work_at_the_same_time():
    """Each waits for the other; one after the other they would wait for ever."""
    meeting = threading.Barrier(2, timeout=30)

    def piece():
        meeting.wait()
        yield threading.get_ident()

    assert len(set(side_by_side([piece, piece]))) == 2


def test_threads_are_shared_out_and_given_back():
    before = torch.get_num_threads()

    def piece():
        yield torch.get_num_threads()

    torch.set_num_threads(4)
    try:
        assert list(side_by_side([piece, piece])) == [2, 2]
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_one_piece_runs_in_the_callers_thread():
    def piece():
        yield threading.get_ident()

    assert list(side_by_side([piece])) == [threading.get_ident()]


def test_a_failure_is_raised_and_ends_the_others():
    ended = threading.Event()

    def endless():
        try:
            yield from itertools.count()
        finally:
            ended.set()

    def broken():
        yield -1
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        list(side_by_side([endless, broken]))
    assert ended.wait(30)


def test_a_caller_that_stops_early_ends_the_pieces():
    alive = threading.active_count()
    work = side_by_side([itertools.count, itertools.count])
    assert next(work) == 0
    work.close()
    assert threading.active_count() == alive


def test_what_the_others_have_in_hand_when_one_fails_still_comes():
    at_work, failing = threading.Event(), threading.Event()

    def slow():
        at_work.set()
        assert failing.wait(30)
        yield "in hand"
        yield "one too many"

    def broken():
        assert at_work.wait(30)
        failing.set()
        raise ValueError("no more")
        yield

    found = []
    with pytest.raises(ValueError, match="no more"):
        for item in side_by_side([slow, broken]):
            found.append(item)
    assert "in hand" in found


def test_an_interrupt_while_waiting_loses_nothing_that_is_in_hand():
    def piece():
        threading.Event().wait(0.3)  # until the main thread waits
        signal.raise_signal(signal.SIGINT)
        yield "in hand"
        yield from itertools.repeat("later")

    def other():
        yield "beside"

    found = []
    with pytest.raises(KeyboardInterrupt):
        for item in side_by_side([piece, other]):
            found.append(item)
    assert "in hand" in found


def test_no_piece_runs_far_ahead_of_the_caller():
    ahead = []

    def piece():
        for n in itertools.count():
            ahead.append(n)
            yield n

    work = side_by_side([piece, piece])
    next(work)
    waiting = threading.Event()
    waiting.wait(0.2)  # time enough to run ahead
    work.close()
    assert len(ahead) < 10
