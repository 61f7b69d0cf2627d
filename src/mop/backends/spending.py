"""What the servers of a run have cost: kept in its manifest, shown beside the progress, forecast from a pilot.

A local model costs time only, so a run without a server has nothing here.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mop.backends.ledger import Forecast, Ledger, Spent
from mop.progress import ProgressDisplay
from mop.types import Progress

logger = logging.getLogger(__name__)

PILOT_ITEMS = 16
"""Items of a piece of work that are finished before its cost is forecast."""
KEEP_EVERY_S = 2.0
"""Time between two notes in the manifest; a killed run forgets at most what it spent in so long."""

Rows = dict[str, dict[str, dict[str, float]]]
"""Role (``lm``, ``scorer``) to stage to the fields of `mop.backends.ledger.Spent`."""


@dataclass(frozen=True, slots=True)
class Planned:
    """Calls that a stage will make at the most, as far as its settings say."""

    stage: str
    role: str
    calls: int
    max_tokens: int = 0
    """Tokens that a draw may have; 0 for scores."""


class Spending:
    """A progress callback that keeps account on the way.

    Parameters
    ----------
    ledgers : mapping of str to Ledger
        Role to ledger, for each model of the run that is a server. What ``kept``, the `Rows` of earlier sessions,
        holds for a role becomes its ``earlier``, so that ceilings are for the run and not for the session.
    keep : callable
        Called with `Rows` every `KEEP_EVERY_S` while work goes on, and by `save`.
    progress : callable, optional
        Where progress is passed on to. A `ProgressDisplay` shows what was spent as well.
    """

    def __init__(
        self,
        ledgers: Mapping[str, Ledger],
        *,
        kept: Mapping[str, Mapping[str, Mapping[str, Any]]],
        keep: Callable[[Rows], None],
        progress: Progress | None = None,
    ) -> None:
        self._ledgers = dict(ledgers)
        self._rows = {role: {stage: Spent(**row) for stage, row in stages.items()} for role, stages in kept.items()}
        self._keep = keep
        self._progress = progress
        self._stage = ""
        self._noted = {role: ledger.spent for role, ledger in self._ledgers.items()}
        self._calls = dict.fromkeys(self._ledgers, 0)
        self._kept_at = time.monotonic()
        self._begun: dict[str, int] = {}
        self._work = ""
        self._done = 0
        self._told: set[tuple[str, str]] = set()
        self._outlook = ""
        self._planned: Sequence[Planned] = ()
        self._whole_told: set[str] = set()
        for role, ledger in self._ledgers.items():
            ledger.earlier = sum(self._rows.get(role, {}).values(), Spent())
        if isinstance(progress, ProgressDisplay) and self._ledgers:
            progress.note = self.line

    def begin(self, stage: str, planned: Sequence[Planned] = ()) -> None:
        """Account from now on for another stage; ``planned``: what it and those after it will call."""
        self._book()
        self._stage, self._work, self._planned = stage, "", planned

    def __call__(self, what: str, done: int, total: int) -> None:
        """Pass the progress on; forecast once the pilot of new work is finished."""
        if what != self._work or done < self._done:
            self._work, self._begun[what], self._outlook = what, done, ""
            for role, ledger in self._ledgers.items():
                ledger.begin()
                self._calls[role] = ledger.spent.calls
        self._done = done
        n_items = total - self._begun[what]
        for role, ledger in self._ledgers.items():
            if PILOT_ITEMS <= ledger.items < n_items and not self._outlook:
                self._tell_whole(role, ledger)
                self._tell(role, what, ledger, n_items)
        if self._ledgers and time.monotonic() - self._kept_at >= KEEP_EVERY_S:
            self.save()
        if self._progress is not None:
            self._progress(what, done, total)

    def line(self) -> str:
        """What was spent so far and is expected, in one line; empty while the work at hand calls no server."""
        parts = [ledger.line() for role, ledger in self._ledgers.items() if ledger.spent.calls > self._calls[role]]
        return "; ".join([*parts, self._outlook] if parts and self._outlook else parts)

    def save(self) -> None:
        """Hand the rows to ``keep`` now."""
        self._book()
        self._kept_at = time.monotonic()
        if self._ledgers:
            self._keep(self.rows())

    def rows(self) -> Rows:
        """What the run has used, sessions before this one included."""
        return {role: {stage: asdict(spent) for stage, spent in stages.items()} for role, stages in self._rows.items()}

    def _book(self) -> None:
        """Enter what was used since the last time under the current stage."""
        for role, ledger in self._ledgers.items():
            spent = ledger.spent
            if spent != self._noted[role]:
                stages = self._rows.setdefault(role, {})
                stages[self._stage] = stages.get(self._stage, Spent()) + spent - self._noted[role]
                self._noted[role] = spent

    def _tell_whole(self, role: str, ledger: Ledger) -> None:
        """Say once what all that is still to come will cost: a warning, since it is about money."""
        planned = {p.stage: p for p in self._planned if p.role == role}
        here = planned.get(self._stage)
        if here is None or role in self._whole_told:
            return
        self._whole_told.add(role)
        one = ledger.forecast(1)
        # A draw has the prompt of a score, and a response of its own.
        added = {p: 0 if here.max_tokens else p.max_tokens for p in planned.values()}
        tokens = sum(p.calls * (one.tokens + more) for p, more in added.items())
        cost = sum(p.calls * (one.cost + ledger.ceilings.cost(0, more)) for p, more in added.items())
        before = ledger.earlier + ledger.spent
        logger.warning(
            "forecast for the %s to the end of this run, from %d items: at most about %s calls (%s), %s tokens%s%s",
            role,
            ledger.items,
            f"{sum(p.calls for p in planned.values()):,}",
            ", ".join(f"{p.stage} {p.calls:,}" for p in planned.values()),
            f"{tokens:,.0f}",
            f", cost {_money(cost)}" if ledger.ceilings.has_price else "",
            "" if ledger.ceilings.allow(before.tokens + tokens, before.cost + cost) else "; the ceiling may not do",
        )

    def _tell(self, role: str, what: str, ledger: Ledger, n_items: int) -> None:
        forecast = ledger.forecast(n_items)
        has_price = ledger.ceilings.has_price
        figures = _figures(forecast, has_price=has_price)
        self._outlook = f"{what} about {figures}"
        if (self._stage, what) in self._told:
            return
        self._told.add((self._stage, what))
        logger.info("forecast from the first %d of %d items of %s: about %s", ledger.items, n_items, what, figures)
        before = ledger.earlier + ledger.spent
        tokens = before.tokens + forecast.tokens * (1 - ledger.items / n_items)
        cost = before.cost + forecast.cost * (1 - ledger.items / n_items)
        if not ledger.ceilings.allow(tokens, cost):
            logger.warning(
                "%s will probably stop at the ceiling: it would bring the %s to about %s",
                what,
                role,
                f"{tokens:,.0f} tokens" + (f", cost {_money(cost)}" if has_price else ""),
            )


def _figures(forecast: Forecast, *, has_price: bool) -> str:
    parts = [f"{forecast.calls:,.0f} calls", f"{forecast.tokens:,.0f} tokens"]
    if has_price:
        low, high = _money(forecast.cost_low), _money(forecast.cost_high)
        parts.append(f"cost {_money(forecast.cost)} ({low} to {high})")
    return ", ".join(parts)


def _money(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
