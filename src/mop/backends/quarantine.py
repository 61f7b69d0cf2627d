"""Scores that a server gave since its last good check: stored at once, and used once the next check has passed.

A check that fails drops them, and they are asked for again. A command that was killed leaves them marked; the next one
asks the server about some of them before it uses any.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from mop.backends.base import Confirming, Scorer
from mop.backends.probe import is_rounding
from mop.backends.retry import CallError
from mop.errors import MopError
from mop.randomness import derive_seed
from mop.storage.store import Store
from mop.types import Score, ScoreRequest

logger = logging.getLogger(__name__)

_ASKED_AGAIN = 5  # of those that a killed command left, the latest two among them


class Quarantine:
    """Keeps the scores of one call of `Scorer.score`; those of a scorer that confirms nothing count at once."""

    def __init__(self, scorer: Scorer, store: Store, stage: str) -> None:
        self._confirming = scorer if isinstance(scorer, Confirming) else None
        self._store, self._stage = store, stage
        self._keys: list[bytes] = []
        self._n_released = 0

    def keep(self, pairs: Sequence[tuple[bytes, Score]]) -> int:
        """Store scores in the order in which the scorer gave them; returns how many."""
        self._store.put_scores(pairs, stage=self._stage, is_checked=self._confirming is None)
        self._keys += [key for key, _ in pairs]
        self._release()
        return len(pairs)

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Release what was confirmed when the scorer ends; drop the rest if it ended with a failed check."""
        try:
            yield
        except MopError as error:
            self._release()
            if self._confirming is not None and isinstance(error, CallError) and error.code == "swapped":
                self._store.drop_scores(self._keys[self._n_released :])
            raise
        self._release()

    def _release(self) -> None:
        if self._confirming is None:
            return
        n = min(self._confirming.confirmed, len(self._keys))
        if n > self._n_released:
            self._store.accept_scores(self._keys[self._n_released : n])
            self._n_released = n


def recover(requests: Mapping[bytes, ScoreRequest], scorer: Scorer, store: Store) -> bool:
    """Let scores count that an earlier command left unchecked, if some of them, asked again, come out as before.

    Otherwise all of them are dropped. Returns whether any count now.
    """
    if not isinstance(scorer, Confirming) or not (waiting := store.get_unchecked(requests)):
        return False
    names = list(waiting)  # oldest first
    others = sorted(names[:-2], key=lambda key: derive_seed(0, "unchecked", key.hex()))
    some = [*names[-2:], *others[: _ASKED_AGAIN - 2]]
    asked = [requests[key] for key in some]
    again = [(waiting[some[i]], score) for batch in scorer.score(asked) for i, score in batch]
    is_good = len(again) == len(some) and all(_is_same(before, now) for before, now in again)
    if is_good:
        store.accept_scores(names)
    else:
        store.drop_scores(names)
        logger.warning("%d scores that no check had followed come out otherwise now and are asked again", len(names))
    return is_good


def _is_same(before: Score, now: Score) -> bool:
    """Whether two scores are one model's, by the mean per token."""
    n = before.n_tokens
    return n == now.n_tokens and all(
        is_rounding([float(b) / n] * n, [float(a) / n] * n) for a, b in zip(before.log_lik, now.log_lik, strict=True)
    )
