"""Texts that do not fit the context window of a model: found before anything is scored or drawn.

The worst case counts: any record may be asked about under the longest persona with the longest others as exemplars. So
what is too long does not depend on how the records are divided.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from mop.backends.base import Windowed
from mop.errors import ConfigError, DataError
from mop.prompts import simulation_prompt
from mop.types import Record

SMALLEST = 1000
"""Tokens that every model in use takes; where bytes are no more, nothing has to be counted."""
PERSONA = 320
"""Tokens that a persona may have that is not written yet: twice what a language model may write."""
_SPARE = 16
_TURN = 16  # tokens of the template around a text, at the most

Ints = NDArray[np.int64]


def may_exceed(longest: int, n_shown: int, max_tokens: int, task: str) -> bool:
    """Whether records of up to so many bytes could be too long for some model: a token has at least one byte."""
    return (n_shown + 1) * (longest + 2 * _TURN) + max_tokens + len(task.encode()) + PERSONA > SMALLEST


def n_bytes(record: Record) -> int:
    """Bytes of context and response, which are no fewer than their tokens."""
    return len(record.context.encode()) + len(record.response.encode())


def window_of(
    model: object, *, n_shown: int, max_tokens: int, task: str = "", personas: Sequence[str] = ()
) -> Window | None:
    """The window of a model, None if it does not know it."""
    if not isinstance(model, Windowed) or (size := model.window) is None:
        return None
    return Window(model, size, n_shown, max_tokens, task, personas)


@dataclass(frozen=True)
class Window:
    """The window of a model, and what of it a prompt takes besides the texts of records."""

    model: Windowed
    size: int
    """Tokens of prompt and response."""
    n_shown: int
    """Exemplars in a prompt."""
    max_tokens: int
    """Tokens that a response may have that is drawn."""
    task: str = ""
    personas: Sequence[str] = ()
    """Their descriptions; none: not written yet."""

    @property
    def room(self) -> int:
        """Tokens for the texts of records."""
        longest = max((self._of("", persona=text) for text in self.personas), default=self._of("") + PERSONA)
        return self.size - longest - _SPARE

    def beyond(self, records: Sequence[Record]) -> dict[int, int]:
        """Rows of the records that are too long, the fewest whose absence lets all others fit, with their tokens.

        Raises
        ------
        ConfigError
            If not even the shortest records fit.
        """
        shown, asked, _ = self._sizes(records)
        order = np.argsort(-shown, kind="stable")
        low, high = 0, len(order)
        while low < high:
            middle = (low + high) // 2
            fits = self._worst(shown[order[middle:]], asked[order[middle:]]) <= self.room
            low, high = (low, middle) if fits else (middle + 1, high)
        self._require(low < len(order) or not records)
        return {int(row): int(shown[row]) for row in order[:low]}

    def cut(self, records: Sequence[Record]) -> tuple[list[Record], dict[int, int]]:
        """Records with the longest cut to one length, the largest at which all fit; which were cut, with their tokens.

        Raises
        ------
        ConfigError
            If that leaves nothing to speak of.
        """
        shown, asked, context = self._sizes(records)
        low, high = 0, self.room
        while low < high:
            most = (low + high + 1) // 2
            kept = np.minimum(context, most // 2)
            capped = np.where(shown > most, kept + np.maximum(most - kept, self.max_tokens), asked)
            fits = self._worst(np.minimum(shown, most), capped) <= self.room
            low, high = (most, high) if fits else (low, most - 1)
        self._require(low >= 4 * _TURN)
        found = {int(row): int(shown[row]) for row in np.flatnonzero(shown > low)}
        changed = list(records)
        for row in found:
            record = records[row] if context[row] <= low // 2 else self._cut_context(records[row], low // 2 - _TURN)
            response = _longest(record.response, partial(self._is_shown_within, record, low))
            changed[row] = replace(record, response=response or record.response[:1])
        return changed, found

    def hold(
        self, contexts: Sequence[Record], exemplars: Sequence[Record], *, remedy: str, is_cut: bool = False
    ) -> list[Record]:
        """All contexts, as they are or with the longest cut, so that they fit beside the longest exemplars.

        Raises
        ------
        ConfigError
            If no context fits beside these exemplars.
        DataError
            If one is too long and is not to be cut; its end is ``remedy``.
        """
        shown = np.sort(self._sizes(exemplars)[0])[::-1][: self.n_shown]
        most = int(self.room - shown.sum() - self.max_tokens)
        self._require(most >= 2 * _TURN)
        tokens = self._sizes(contexts)[2]
        beyond = np.flatnonzero(tokens > most).tolist()
        if beyond and not is_cut:
            told = ", ".join(f"{contexts[row].key!r} ({tokens[row]:,})" for row in beyond[:20])
            raise DataError(
                f"{len(beyond)} of {len(contexts)} contexts are too long: beside persona and exemplars "
                f"{self.model.name} takes {most:,} tokens of {self.size:,}; more have "
                f"{told}{', ...' * (len(beyond) > 20)}; {remedy}"
            )
        return [
            self._cut_context(record, most) if tokens[row] > most else record for row, record in enumerate(contexts)
        ]

    def _cut_context(self, record: Record, most: int) -> Record:
        empty = self._of("")
        return replace(record, context=_longest(record.context, lambda text: self._of(text) - empty <= most))

    def _worst(self, shown: Ints, asked: Ints) -> int:
        """Tokens of the longest prompt and response: a record with the longest others as exemplars."""
        order = np.argsort(-shown, kind="stable")
        top = order[: self.n_shown + 1]
        total = shown[top].sum()
        is_full = len(top) > self.n_shown
        others = np.full(len(shown), total - (shown[top[-1]] if is_full else 0))
        if is_full:
            others[top] = total - shown[top]
        return int((asked + others).max(initial=0))

    def _sizes(self, records: Sequence[Record]) -> tuple[Ints, Ints, Ints]:
        """Tokens of each record as an exemplar, as what is asked about, and of its context.

        Short ones have their bytes instead, which are no fewer: counting a million of them would take minutes.
        """
        found = np.zeros((3, len(records)), dtype=np.int64)
        empty, short = self._of(""), self.size // (16 * (self.n_shown + 1))
        for row, record in enumerate(records):
            if n_bytes(record) <= short:
                context, response = (len(text.encode()) + _TURN for text in (record.context, record.response))
                found[:, row] = context + response, context + max(response, self.max_tokens), context
                continue
            context = self._of(record.context) - empty
            response = self._of("", response=record.response) - empty if record.response else 0
            exemplar = self._shown(record, record.response) if record.response.strip() else context
            found[:, row] = exemplar, context + max(response, self.max_tokens), context
        return found[0], found[1], found[2]

    def _shown(self, record: Record, response: str) -> int:
        one = replace(record, response=response)
        return self.model.n_tokens(simulation_prompt("", exemplars=(one,), task=self.task)) - self._of("")

    def _is_shown_within(self, record: Record, most: int, response: str) -> bool:
        return self._shown(record, response) <= most

    def _of(self, context: str, *, persona: str | None = None, response: str = "") -> int:
        return self.model.n_tokens(simulation_prompt(context, persona=persona, task=self.task), response)

    def _require(self, fits: bool) -> None:
        if not fits:
            raise ConfigError(
                f"{self.model.name} takes {self.size} tokens, too few for a persona, {self.n_shown} of the exemplars "
                f"and a response of up to {self.max_tokens} (simulate.max_tokens): lower simulate.max_tokens or "
                "simulate.exemplars_per_prompt, or take a model with a larger window"
            )


def _longest(text: str, fits: Callable[[str], bool]) -> str:
    """The longest beginning that fits, ending with a word if that is not much shorter."""
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if not text[:middle].strip() or fits(text[:middle]) else (low, middle - 1)
    whole = text[:low] if low == len(text) else text[:low].rpartition(" ")[0]
    return whole if len(whole) > 0.8 * low else text[:low]
