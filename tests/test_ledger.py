"""Counting tokens and money, and saying no in time."""

from __future__ import annotations

import pytest

from mop.backends.dialects import Meter
from mop.backends.ledger import Ledger
from mop.config import Ceilings
from mop.errors import BackendError, ConfigError


def used(tokens_in: int, tokens_out: int) -> Meter:
    return Meter(tokens_in, tokens_out, None, None)


def test_money_is_tokens_times_the_users_prices() -> None:
    ledger = Ledger(Ceilings(price_in=2.0, price_out=10.0))
    assert ledger.reserve(1000, 500)
    ledger.settle(1000, 500, used(1000, 100))
    assert ledger.spent.cost == pytest.approx((1000 * 2 + 100 * 10) / 1e6)
    assert (ledger.spent.tokens, ledger.spent.calls) == (1100, 1)


def test_a_lost_answer_counts_at_the_most_it_can_have_cost() -> None:
    ledger = Ledger(Ceilings(price_in=2.0, price_out=10.0))
    ledger.reserve(1000, 500)
    ledger.settle(1000, 500, None, lost=True)
    assert ledger.spent.cost == pytest.approx((1000 * 2 + 500 * 10) / 1e6)
    ledger.reserve(1000, 500)
    ledger.settle(1000, 500, None)  # refused before any work
    assert (ledger.spent.tokens, ledger.spent.calls) == (1500, 2)


def test_a_lost_answer_counts_what_was_set_aside_or_what_is_stated_if_that_is_more() -> None:
    ledger = Ledger(Ceilings(price_in=1.0, price_out=2.0))
    for n_out, total in ((5, 60), (300, 340)):
        ledger.reserve(40, 20)
        before = ledger.spent
        ledger.settle(40, 20, used(30, n_out), lost=True)
        spent = ledger.spent - before
        assert spent.lost_tokens == spent.tokens == total
        assert spent.cost == pytest.approx((40 + 2 * (total - 40)) / 1e6)
    assert ledger.is_idle


def test_reservations_hold_the_ceiling_while_calls_are_out() -> None:
    ledger = Ledger(Ceilings(price_in=1.0, price_out=1.0, max_cost=100 / 1e6))
    assert ledger.reserve(40, 20)
    assert not ledger.reserve(40, 20)
    ledger.settle(40, 20, used(40, 2))
    assert not ledger.reserve(40, 20)
    assert ledger.reserve(40, 18)
    assert not ledger.is_idle
    ledger.release(40, 18)
    assert ledger.spent.calls == 1


def test_what_could_be_afforded_is_not_set_aside() -> None:
    ledger = Ledger(Ceilings(max_lm_tokens=100))
    assert ledger.affords(60, 40)
    assert not ledger.affords(60, 41)
    assert ledger.is_idle
    assert ledger.reserve(60, 40)


def test_a_forecast_scales_the_pilot_and_brackets_it() -> None:
    ledger = Ledger(Ceilings(price_in=0.0, price_out=1e6))
    for n in (10, 20, 30):
        ledger.reserve(5, 40)
        ledger.settle(5, 40, used(5, n))
        ledger.finish_item(used(5, n))
    forecast = ledger.forecast(300)
    assert forecast.cost == pytest.approx(20 * 300)
    assert forecast.tokens == pytest.approx(25 * 300)
    error = 2 * (200 / 3) ** 0.5 / 2**0.5
    assert forecast.cost_low == pytest.approx((20 - error) * 300)
    assert forecast.cost_high == pytest.approx((20 + error) * 300)


def test_a_forecast_needs_two_items() -> None:
    with pytest.raises(BackendError, match="a forecast needs at least 2 finished items, got 0"):
        Ledger(Ceilings()).forecast(10)


def test_the_line_says_what_matters() -> None:
    ledger = Ledger(Ceilings(max_lm_tokens=5000))
    ledger.reserve(1000, 500)
    ledger.settle(1000, 500, used(1000, 234))
    assert ledger.line() == "1 calls, 0 retries, 1,234 tokens of 5,000"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"max_cost": 5.0}, r"max_cost = 5.0 needs prices, got price_in = None"),
        ({"max_cost": 5.0, "price_in": 1.0}, "needs prices"),
        ({"price_in": -1.0}, "price_in must be at least 0, got -1.0"),
        ({"max_lm_tokens": -1}, "max_lm_tokens must be at least 0, got -1"),
        ({"price_out": float("nan")}, "price_out must be a finite number"),
    ],
)
def test_ceilings_that_cannot_be_held_are_refused(fields: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Ceilings(**fields)  # type: ignore[arg-type]
