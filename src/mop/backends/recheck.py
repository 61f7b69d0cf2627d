"""Questions put to a scoring server again while it works, so that one that turns wrong is found out.

The probe says what a server is at the start. Later it may load another model, answer from a stale cache, or add noise.
So at random moments, and at the end of every stream, it is asked again what it has answered before: a question whose
answer an earlier check has found right, and one that it has answered since. An answer counts once a check that was
begun after it has passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mop.backends.probe import distance, is_rounding, mean
from mop.backends.retry import CallError
from mop.randomness import derive_seed

GAP = (200, 400)
"""Items between two checks, at least and at most; each check is two calls."""
LAST = 3
"""Questions to each address at the end of a stream."""
_KEPT = 64  # questions with a good answer, to be asked again later


class Question(NamedTuple):
    """Token ids that a server has scored, and what it said."""

    ids: Sequence[int]
    start: int
    """Where the response begins."""
    log_probs: tuple[float, ...]
    private: tuple[str, ...]
    """Texts that no message may quote."""


class Check:
    """A few questions, and how many answers came before them."""

    def __init__(self, n_before: int, n_questions: int) -> None:
        self.n_before = n_before
        self.n_open = n_questions


class Rechecks:
    """What a server has said and which of it a check has confirmed; counts and draws, and calls nobody.

    Which questions are asked again, and when, depends on ``seed`` and the number of items alone.
    """

    def __init__(self, seed: int = 0) -> None:
        self.confirmed = 0
        """Answers of this stream, in the order of `note`, that count."""
        self._good: list[Question] = []
        self._recent: list[Question] = []
        self._seed, self._n_drawn = seed, 0
        self._left = self._gap()

    def begin(self, sentences: Sequence[Question]) -> None:
        """Begin a stream; ``sentences`` are the probe's, with the answers that were found right."""
        self.confirmed, self._recent = 0, []
        self._good = self._good or list(sentences)

    @property
    def is_open(self) -> bool:
        """Whether there are answers that no check has confirmed."""
        return bool(self._recent)

    def is_due(self) -> bool:
        """Whether to check before the next item, which is counted by this."""
        self._left -= 1
        if self._left > 0:
            return False
        self._left = self._gap()
        return True

    def note(self, question: Question) -> None:
        """Add an answer."""
        self._recent.append(question)

    def choose(self, n: int) -> tuple[Check, list[Question]]:
        """Begin a check of ``n`` questions at most: half have a known answer, the others are recent, and come last."""
        recent, good = list(self._recent), list(self._good)
        n_recent = min(len(recent), n - n // 2)
        pools = [*[good] * min(len(good), n - n_recent), *[recent] * n_recent]
        chosen = [pool.pop(self._draw(len(pool))) for pool in pools]
        return Check(self.confirmed + len(self._recent), len(chosen)), chosen

    def judge(self, check: Check, question: Question, found: tuple[float, ...]) -> None:
        """Compare an answer with the earlier one; the last of a check confirms what came before the check.

        Raises
        ------
        CallError
            Of kind ``fatal``, if they are not one model's.
        """
        if not is_rounding(found, question.log_probs):
            raise CallError(
                f"stopped: it now scores a known sentence {mean(found, question.log_probs):.3g} nats per token "
                f"differently ({distance(found, question.log_probs):.3g} at one token), more than half precision "
                "rounds: the model was changed, or values are stale or noisy; scores since the last good check are not "
                "used and will be asked again: run the same command when the earlier model is served again, or set a "
                "new revision for this server, under which all is scored anew",
                kind="fatal",
                code="swapped",
            )
        check.n_open -= 1
        if check.n_open == 0:
            self.confirm(check)

    def confirm(self, check: Check) -> None:
        """Let the answers count that came before a check."""
        n = max(check.n_before, self.confirmed)  # a later check may have passed before
        for question in self._recent[: n - self.confirmed]:
            if len(self._good) < _KEPT:
                self._good.append(question)
            else:
                self._good[self._draw(_KEPT)] = question
        del self._recent[: n - self.confirmed]
        self.confirmed = n

    def _gap(self) -> int:
        return GAP[0] + self._draw(GAP[1] - GAP[0] + 1)

    def _draw(self, n: int) -> int:
        self._n_drawn += 1
        return derive_seed(self._seed, "recheck", self._n_drawn) % n
