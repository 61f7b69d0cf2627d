"""What remote calls cost: tokens as the server counted them, money at the user's prices, ceilings that hold.

There is no built-in price table, because it would be out of date.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from mop.backends.dialects import Meter
from mop.config import Ceilings
from mop.errors import BackendError


class CeilingError(BackendError):
    """The run stopped at ``max_cost`` or ``max_lm_tokens``; what is finished is kept."""


@dataclass(frozen=True, slots=True)
class Forecast:
    """What a whole run will take, judged by the items finished so far."""

    tokens: float
    cost: float
    cost_low: float
    """Mean less two standard errors."""
    cost_high: float


class Ledger:
    """Counts calls, tokens and money, and says no before a ceiling is passed.

    A call is *reserved* at the most it can cost, then *settled* at what it did cost. A call whose
    answer was lost is settled at the most it can have cost, because it may have been billed.

    Parameters
    ----------
    ceilings : Ceilings
        Prices and limits.

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
        self.calls = 0
        self.retries = 0
        self.items = 0
        self.prompt_tokens = 0
        self.completion_tokens = 0
        self.lost_tokens = 0
        """Upper bound of the tokens of calls whose answer was lost."""
        self.lost_cost = 0.0
        self.replaced_controls = 0
        """Control strings in data that were made harmless for a chat endpoint."""
        self._reserved_tokens = 0
        self._reserved_cost = 0.0
        self._item_sums = (0.0, 0.0, 0.0)  # tokens, cost, cost squared

    @property
    def tokens(self) -> int:
        """All tokens, those of lost answers at their upper bound."""
        return self.prompt_tokens + self.completion_tokens + self.lost_tokens

    @property
    def cost(self) -> float:
        """Money spent, lost answers at their upper bound."""
        return self.ceilings.cost(self.prompt_tokens, self.completion_tokens) + self.lost_cost

    @property
    def is_idle(self) -> bool:
        """Whether nothing is reserved, so that waiting would free nothing."""
        return self._reserved_tokens == 0

    def reserve(self, tokens_in: int, tokens_out: int) -> bool:
        """Set aside the most that a call can cost; False if a ceiling does not allow it now."""
        cost = self.ceilings.cost(tokens_in, tokens_out)
        tokens = tokens_in + tokens_out
        limits = self.ceilings
        if (
            limits.max_lm_tokens is not None
            and self.tokens + self._reserved_tokens + tokens > limits.max_lm_tokens
        ):
            return False
        if limits.max_cost is not None and self.cost + self._reserved_cost + cost > limits.max_cost:
            return False
        self._reserved_tokens += tokens
        self._reserved_cost += cost
        return True

    def release(self, tokens_in: int, tokens_out: int) -> None:
        """Take a reservation back whose call was never sent."""
        self._reserved_tokens -= tokens_in + tokens_out
        cost = self.ceilings.cost(tokens_in, tokens_out)
        # Back to an exact 0 when nothing is reserved, so that rounding does not add up over a long
        # run.
        self._reserved_cost = 0.0 if self._reserved_tokens == 0 else self._reserved_cost - cost

    def settle(
        self, tokens_in: int, tokens_out: int, used: Meter | None, *, lost: bool = False
    ) -> None:
        """Replace a reservation by what the call used.

        Parameters
        ----------
        tokens_in, tokens_out : int
            As they were reserved.
        used : Meter or None
            The server's count; None if there is none.
        lost : bool
            With ``used=None``: the call may have been worked on, so the reservation becomes cost.
        """
        self.release(tokens_in, tokens_out)
        self.calls += 1
        if used is not None:
            self.prompt_tokens += used.prompt_tokens
            self.completion_tokens += used.completion_tokens
        elif lost:
            self.lost_tokens += tokens_in + tokens_out
            self.lost_cost += self.ceilings.cost(tokens_in, tokens_out)

    def finish_item(self, used: Meter) -> None:
        """Count a finished item, for the forecast."""
        cost = self.ceilings.cost(used.prompt_tokens, used.completion_tokens)
        tokens, total, squares = self._item_sums
        self._item_sums = (
            tokens + used.prompt_tokens + used.completion_tokens,
            total + cost,
            squares + cost * cost,
        )
        self.items += 1

    def forecast(self, n_items: int) -> Forecast:
        """Project tokens and money for ``n_items`` from the items finished so far (a pilot).

        Parameters
        ----------
        n_items : int
            Items of the whole run.

        Raises
        ------
        BackendError
            If fewer than two items are finished.

        Notes
        -----
        Repeated and lost calls are charged at their share so far. The interval is that of the mean,
        two standard errors either way; it is right only if the pilot is a random part of the run.
        """
        if self.items < 2:
            raise BackendError(
                f"a forecast needs at least 2 finished items, got {self.items}; let the pilot "
                "run further"
            )
        tokens, cost, squares = (value / self.items for value in self._item_sums)
        waste = self.tokens / max(self._item_sums[0], 1.0)
        error = 2.0 * math.sqrt(max(squares - cost * cost, 0.0) / (self.items - 1))
        return Forecast(
            tokens * waste * n_items,
            cost * waste * n_items,
            max(cost - error, 0.0) * waste * n_items,
            (cost + error) * waste * n_items,
        )

    def line(self) -> str:
        """Return the state in one line, for a progress bar.

        Examples
        --------
        >>> Ledger(Ceilings(price_in=1.0, price_out=2.0, max_cost=5.0)).line()
        '0 calls, 0 retries, 0 tokens, cost 0.0000 of 5'
        """
        parts = [f"{self.calls:,} calls", f"{self.retries:,} retries", f"{self.tokens:,} tokens"]
        if self.ceilings.max_lm_tokens is not None:
            parts[-1] += f" of {self.ceilings.max_lm_tokens:,}"
        if self.ceilings.price_in is not None or self.ceilings.price_out is not None:
            parts.append(f"cost {self.cost:.4f}")
            if self.ceilings.max_cost is not None:
                parts[-1] += f" of {self.ceilings.max_cost:g}"
        return ", ".join(parts)

    def ceiling_error(self) -> CeilingError:
        """Return the error to raise when nothing more can be afforded."""
        limits = self.ceilings
        return CeilingError(
            f"stopped at the ceiling: {self.line()}, and the next call could pass it; what is "
            "finished is kept; "
            f"raise {'max_cost' if limits.max_cost is not None else 'max_lm_tokens'} and run the "
            "same command "
            "again to go on from here"
        )
