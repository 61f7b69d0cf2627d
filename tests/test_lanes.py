"""Pieces of work side by side: all of it, failures seen, an early stop heard."""

import itertools
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

    assert list(side_by_side([piece, piece], threads=4)) == [2, 2]
    torch.set_num_threads(before)
    assert list(side_by_side([piece, piece])) == [max(1, before // 2)] * 2
    assert torch.get_num_threads() == before


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
