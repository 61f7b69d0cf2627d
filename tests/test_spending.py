"""The account of a run's servers: by stage, across sessions, with a forecast from a pilot."""

import io
import logging
from dataclasses import asdict

import pytest

from mop.backends.dialects import Meter
from mop.backends.ledger import Ledger, Spent
from mop.backends.spending import Planned, Spending
from mop.config import Ceilings
from mop.progress import ProgressDisplay


def use(ledger, tokens_in, tokens_out, *, n=1):
    for _ in range(n):
        ledger.reserve(tokens_in, tokens_out)
        used = Meter(tokens_in, tokens_out, None, None)
        ledger.settle(tokens_in, tokens_out, used)
        ledger.finish_item(used)


def probe(ledger, tokens_in):
    ledger.reserve(tokens_in, 0)
    ledger.settle(tokens_in, 0, Meter(tokens_in, 0, None, None), is_probe=True)


def test_what_is_used_is_entered_under_its_stage():
    kept = []
    ledger = Ledger(Ceilings(price_in=1e6, price_out=2e6))
    spending = Spending({"lm": ledger}, kept={}, keep=kept.append)
    spending.begin("fit")
    use(ledger, 3, 1)
    spending.begin("simulate")
    use(ledger, 10, 5)
    spending.save()
    row = {"retries": 0, "lost_tokens": 0, "calls": 1}
    assert kept[-1] == {
        "lm": {
            "fit": {**row, "prompt_tokens": 3, "completion_tokens": 1, "cost": pytest.approx(5.0)},
            "simulate": {
                **row, "prompt_tokens": 10, "completion_tokens": 5, "cost": pytest.approx(20.0),
            },
        }
    }  # fmt: skip


def test_earlier_sessions_count_towards_the_ceiling_and_are_added_to():
    kept = []
    before = asdict(Spent(7, 1, 60, 20, 10, 0.0))
    ledger = Ledger(Ceilings(max_lm_tokens=100))
    spending = Spending({"lm": ledger}, kept={"lm": {"fit": before}}, keep=kept.append)
    assert ledger.earlier == Spent(7, 1, 60, 20, 10, 0.0)
    assert not ledger.reserve(6, 5)
    assert ledger.line() == "7 calls, 1 retries, 90 tokens of 100"
    spending.begin("fit")
    use(ledger, 6, 4)
    spending.save()
    assert kept[-1]["lm"]["fit"]["calls"] == 8
    assert kept[-1]["lm"]["fit"]["prompt_tokens"] == 66


def test_a_forecast_is_made_once_from_the_pilot_and_leaves_probes_out(caplog):
    ledger = Ledger(Ceilings(price_in=0.0, price_out=1e6))
    stream = io.StringIO()
    display = ProgressDisplay(stream=stream)
    spending = Spending({"lm": ledger}, kept={}, keep=lambda _: None, progress=display)
    spending.begin("simulate")
    with caplog.at_level(logging.INFO, logger="mop.backends.spending"):
        spending("simulate/mop", 100, 500)
        probe(ledger, 9000)
        use(ledger, 20, 10, n=16)
        spending("simulate/mop", 116, 500)
        use(ledger, 20, 10, n=16)
        spending("simulate/mop", 132, 500)
    (line,) = [r.getMessage() for r in caplog.records]
    assert line == (
        "forecast from the first 16 of 400 items of simulate/mop: about 400 calls, 12,000 tokens, "
        "cost 4,000 (4,000 to 4,000)"
    )
    assert spending.line().endswith("; simulate/mop about 400 calls, 12,000 tokens, cost 4,000 (4,000 to 4,000)")


def test_a_forecast_above_the_ceiling_is_a_warning(caplog):
    ledger = Ledger(Ceilings(max_lm_tokens=1000))
    spending = Spending({"lm": ledger}, kept={}, keep=lambda _: None)
    spending("fit", 0, 100)
    use(ledger, 20, 10, n=20)
    spending("fit", 20, 100)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line == ("fit will probably stop at the ceiling: it would bring the lm to about 3,000 tokens")


PLAN = (
    Planned("fit", "lm", 1000), Planned("simulate", "lm", 50, 40), Planned("evaluate", "lm", 100),
    Planned("evaluate", "scorer", 7),
)  # fmt: skip


def test_the_whole_run_is_forecast_once_and_before_much_is_spent(caplog):
    ledger = Ledger(Ceilings(price_in=1e6, price_out=2e6))
    spending = Spending({"lm": ledger}, kept={}, keep=lambda _: None)
    spending.begin("fit", PLAN)
    spending("fit", 0, 400)
    use(ledger, 20, 0, n=16)
    spending("fit", 16, 400)
    spending.begin("simulate", PLAN[1:])
    spending("simulate/mop", 0, 25)
    use(ledger, 20, 10, n=16)
    spending("simulate/mop", 16, 25)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    # 1150 prompts of 20 tokens at 1, and 50 responses of at most 40 at 2
    assert line == (
        "forecast for the lm to the end of this run, from 16 items: at most about 1,150 calls "
        "(fit 1,000, simulate 50, evaluate 100), 25,000 tokens, cost 27,000"
    )


def test_a_whole_run_above_its_ceiling_is_said_at_its_beginning(caplog):
    ledger = Ledger(Ceilings(max_lm_tokens=20_000))
    spending = Spending({"lm": ledger}, kept={}, keep=lambda _: None)
    spending.begin("fit", PLAN)
    spending("fit", 0, 400)
    use(ledger, 20, 0, n=16)
    spending("fit", 16, 400)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.endswith("25,000 tokens; the ceiling may not do")


def test_draws_are_forecast_from_draws(caplog):
    ledger = Ledger(Ceilings())
    spending = Spending({"lm": ledger}, kept={}, keep=lambda _: None)
    spending.begin("simulate", (Planned("simulate", "lm", 50, 40),))
    spending("simulate/mop", 0, 25)
    use(ledger, 20, 10, n=16)
    spending("simulate/mop", 16, 25)
    (line,) = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.endswith("at most about 50 calls (simulate 50), 1,500 tokens")


def test_the_progress_line_says_what_was_spent():
    ledger = Ledger(Ceilings())
    stream = io.StringIO()
    display = ProgressDisplay(stream=stream)
    spending = Spending({"lm": ledger}, kept={}, keep=lambda _: None, progress=display)
    spending("fit", 0, 2)
    use(ledger, 20, 10, n=2)
    spending("fit", 2, 2)
    assert stream.getvalue().splitlines() == ["fit: 2/2 [2 calls, 0 retries, 60 tokens]"]


def test_a_run_without_a_server_keeps_and_shows_nothing():
    kept, stream = [], io.StringIO()
    display = ProgressDisplay(stream=stream)
    spending = Spending({}, kept={}, keep=kept.append, progress=display)
    spending.begin("fit")
    spending("fit", 2, 2)
    spending.save()
    assert kept == []
    assert stream.getvalue() == ""
