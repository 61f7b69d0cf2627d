"""Progress on a stream that is no terminal, and on one that is."""

import io

import pytest

from mop.progress import ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


def test_plain_lines_are_seconds_apart_and_the_last_is_shown_once(clock):
    stream = io.StringIO()
    with ProgressDisplay(stream=stream) as progress:
        for done in range(101):
            progress("score", done, 100)
            clock[0] += 0.125
        progress("score", 100, 100)
    assert stream.getvalue().splitlines() == [
        "score: 40/100 (8.0/s, 8 s left)",
        "score: 80/100 (8.0/s, 2 s left)",
        "score: 100/100 (8.0/s)",
    ]


def test_work_of_less_than_a_second_is_not_worth_a_line(clock):
    stream = io.StringIO()
    with ProgressDisplay(stream=stream) as progress:
        for done in range(10):
            progress("embed", done, 9)
            clock[0] += 0.1
    assert stream.getvalue() == ""


def test_quiet_shows_nothing():
    stream = io.StringIO()
    with ProgressDisplay(quiet=True, stream=stream) as progress:
        progress("score", 1, 2)
    assert stream.getvalue() == ""


def test_a_terminal_gets_bars():
    stream = Terminal()
    with ProgressDisplay(stream=stream) as progress:
        progress("score", 1, 2)
        progress("score", 2, 2)
    assert "score" in stream.getvalue()
    assert "2/2" in stream.getvalue()


def test_the_same_work_again_gets_a_new_clock(clock):
    stream = io.StringIO()
    with ProgressDisplay(stream=stream) as progress:
        for _ in range(2):
            progress("score", 0, 10)
            clock[0] += 2
            progress("score", 10, 10)
    assert stream.getvalue().splitlines() == ["score: 10/10 (5.0/s)"] * 2
