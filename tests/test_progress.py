"""Progress on a stream that is no terminal, and on one that is."""

import io

from mop.progress import ProgressDisplay


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_plain_lines_show_the_first_and_the_last_step_once():
    stream = io.StringIO()
    with ProgressDisplay(stream=stream) as progress:
        for done in range(101):
            progress("score", done, 100)
        progress("score", 100, 100)
    assert stream.getvalue().splitlines() == ["score: 0/100", "score: 100/100"]


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


def test_the_same_work_again_gets_a_new_clock():
    stream = io.StringIO()
    with ProgressDisplay(stream=stream) as progress:
        for _ in range(2):
            progress("score", 0, 10)
            progress("score", 10, 10)
    assert stream.getvalue().splitlines() == ["score: 0/10", "score: 10/10"] * 2
