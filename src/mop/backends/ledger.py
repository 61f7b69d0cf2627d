"""What remote calls cost: tokens as the server counted them, money at the user's prices, ceilings that hold.

There is no built-in price table, because it would be out of date.
"""

from __future__ import annotations

import math
from dataclasses import astuple, dataclass

from mop.backends.dialects import Meter
from mop.config import Ceilings
from mop.errors import BackendError


class CeilingError(BackendError):
    """The run stopped at ``max_cost`` or ``max_lm_tokens``; what is finished is kept."""


@dataclass(frozen=True, slots=True)
class Spent:
    """What calls have used; may be added and subtracted."""

    calls: int = 0
    retries: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    lost_tokens: int = 0
    """Upper bound of the tokens of calls whose answer was lost."""
    cost: float = 0.0
    """Money at the prices of the time, lost answers at their upper bound."""

    @property
    def tokens(self) -> int:
        """All tokens, those of lost answers at their upper bound."""
        return self.prompt_tokens + self.completion_tokens + self.lost_tokens

    def __add__(self, other: Spent) -> Spent:
        return Spent(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))

    def __sub__(self, other: Spent) -> Spent:
        return Spent(*(a - b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True, slots=True)
class Forecast:
    """What some items will take, judged by those finished so far."""

    calls: float
    tokens: float
    cost: float
    cost_low: float
    """Mean less two standard errors."""
    cost_high: float


@dataclass(slots=True)
class _Pilot:
    """Sums over the items finished since `Ledger.begin`, and over the calls made for them; no probes."""

    items: int = 0
    tokens: float = 0.0
    cost: float = 0.0
    cost_squares: float = 0.0
    calls: int = 0
    all_tokens: int = 0


class Ledger:
    """Counts calls, tokens and money, and says no before a ceiling is passed.

    A call is *reserved* at the most it can cost, then *settled* at what it did cost. A call whose
    answer was lost is settled at the most it can have cost, because it may have been billed.

    Parameters
    ----------
    ceilings : Ceilings
        Prices and limits.

    Attributes
    ----------
    earlier : Spent
        What earlier sessions of the same run have used; counts towards the ceilings.
    spent : Spent
        What this session has used so far, probes and repeated calls included.

    Examples
    --------
    >>> ledger = Ledger(Ceilings(max_lm_tokens=100))
    >>> ledger.reserve(60, 20), ledger.reserve(15, 10)
    (True, False)
    >>> ledger.settle(60, 20, Meter(60, 5, None, None))
    >>> ledger.reserve(15, 10)
    True
    """

    def __init__(self, ceilings: Ceilings) -> None:
        self.ceilings = ceilings
        self.earlier = Spent()
        self.spent = Spent()
        self.checks = 0
        """Calls of this session that asked a scoring server again what was known, to see whether it has changed."""
        self.replaced_controls = 0
        """Control strings in data that were made harmless for a chat endpoint."""
        self._reserved_tokens = 0
        self._reserved_cost = 0.0
        self._pilot = _Pilot()

    @property
    def items(self) -> int:
        """Items finished since `begin`."""
        return self._pilot.items

    @property
    def is_idle(self) -> bool:
        """Whether nothing is reserved, so that waiting would free nothing."""
        return self._reserved_tokens == 0

    def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Set aside the most that a call can cost; False if a ceiling does not allow it now."""
        limits, so_far = self.ceilings, self.earlier + self.spent
        tokens = self._reserved_tokens + tokens_in + tokens_out
        cost = self._reserved_cost + limits.cost(tokens_in, tokens_out)
        if not limits.allow(so_far.tokens + tokens, so_far.cost + cost):
            return False
        self._reserved_tokens, self._reserved_cost = tokens, cost
        return True

    def affords(self, tokens_in: int, tokens_out: int) -> bool:
        """Whether a call that can cost so much could be reserved now."""
        if not self.reserve(tokens_in, tokens_out):
            return False
        self.release(tokens_in, tokens_out)
        return True

    def release(self, tokens_in: int, tokens_out: int) -> None:
        """Take a reservation back whose call was never sent."""
        self._reserved_tokens -= tokens_in + tokens_out
        cost = self.ceilings.cost(tokens_in, tokens_out)
        # Back to an exact 0 when nothing is reserved, so that rounding does not add up over a long run.
        self._reserved_cost = 0.0 if self._reserved_tokens == 0 else self._reserved_cost - cost

    def settle(
        self, tokens_in: int, tokens_out: int, used: Meter | None, *, lost: bool = False, is_probe: bool = False
    ) -> None:
        """Replace a reservation by what the call used, as the server counted it.

        A call that is ``lost`` may have been worked on, and what was used is not sure: the reservation becomes cost, or
        ``used`` where that is more. A probe belongs to no item: it counts, but no forecast is made from it.
        """
        self.release(tokens_in, tokens_out)
        n_in, n_out = (used.prompt_tokens, used.completion_tokens) if used is not None else (0, 0)
        if lost:
            n_in, n_out = max(tokens_in, n_in), max(tokens_out, n_out)
        cost = self.ceilings.cost(n_in, n_out)
        self.spent += Spent(1, 0, 0, 0, n_in + n_out, cost) if lost else Spent(1, 0, n_in, n_out, 0, cost)
        if not is_probe:
            self._pilot.calls += 1
            self._pilot.all_tokens += n_in + n_out

    def begin(self) -> None:
        """Forget the items finished so far: others begin, and a forecast is judged by these alone."""
        self._pilot = _Pilot()

    def finish_item(self, used: Meter) -> None:
        """Count a finished item, for the forecast."""
        cost = self.ceilings.cost(used.prompt_tokens, used.completion_tokens)
        pilot = self._pilot
        pilot.items += 1
        pilot.tokens += used.prompt_tokens + used.completion_tokens
        pilot.cost += cost
        pilot.cost_squares += cost * cost

    def forecast(self, n_items: int) -> Forecast:
        """Project calls, tokens and money for ``n_items`` in all from those finished since `begin` (a pilot).

        Raises
        ------
        BackendError
            If fewer than two items are finished.

        Notes
        -----
        Repeated and lost calls are charged at their share so far. The interval is that of the mean,
        two standard errors either way; it is right only if the pilot is a random part of the items.
        """
        if self.items < 2:
            raise BackendError(
                f"a forecast needs at least 2 finished items, got {self.items}; let the pilot run further"
            )
        pilot = self._pilot
        tokens, cost = pilot.tokens / pilot.items, pilot.cost / pilot.items
        squares = pilot.cost_squares / pilot.items
        waste = max(pilot.all_tokens / max(pilot.tokens, 1.0), 1.0)
        error = 2.0 * math.sqrt(max(squares - cost * cost, 0.0) / (pilot.items - 1))
        return Forecast(
            max(pilot.calls / pilot.items, 1.0) * n_items,
            tokens * waste * n_items,
            cost * waste * n_items,
            max(cost - error, 0.0) * waste * n_items,
            (cost + error) * waste * n_items,
        )

    def line(self) -> str:
        """Return the state of the whole run in one line, for a progress bar.

        Examples
        --------
        >>> Ledger(Ceilings(price_in=1.0, price_out=2.0, max_cost=5.0)).line()
        '0 calls, 0 retries, 0 tokens, cost 0.0000 of 5'
        """
        whole = self.earlier + self.spent
        checks = f" ({self.checks:,} of them checks)" if self.checks else ""
        parts = [f"{whole.calls:,} calls{checks}", f"{whole.retries:,} retries", f"{whole.tokens:,} tokens"]
        if self.ceilings.max_lm_tokens is not None:
            parts[-1] += f" of {self.ceilings.max_lm_tokens:,}"
        if self.ceilings.has_price:
            parts.append(f"cost {whole.cost:.4f}")
            if self.ceilings.max_cost is not None:
                parts[-1] += f" of {self.ceilings.max_cost:g}"
        return ", ".join(parts)

    def ceiling_error(self) -> CeilingError:
        """Return the error to raise when nothing more can be afforded."""
        limits = self.ceilings
        names = [n for n in ("max_cost", "max_lm_tokens") if getattr(limits, n) is not None]
        return CeilingError(
            f"stopped at the ceiling: {self.line()}, and the next call could pass it; what is finished is kept; raise "
            f"{' or '.join(names)} and run the same command again to go on from here"
        )
