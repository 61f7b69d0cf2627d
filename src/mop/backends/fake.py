"""A toy language model whose probabilities can be worked out by hand: for tests, docs and dry runs.

It is no mock. It scores and draws by the same rules as a real model, reacts to persona, exemplar,
context and temperature, and everything built on the backends runs on it in seconds.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from mop.backends.curve import BETAS
from mop.errors import BackendError, ConfigError, PromptTooLongError
from mop.randomness import uniforms
from mop.types import Branch, Decoding, GenerateRequest, Generation, Prompt, Score, ScoreRequest

Floats = NDArray[np.float64]
T = TypeVar("T")

ALPHABET = "abcdefghijklmnopqrstuvwxyz .,!?'-"
"""Characters that the model can tell apart by default."""

OTHER = "\N{REPLACEMENT CHARACTER}"
"""Stands for every character outside the alphabet, in scoring and in drawn text."""


class FakeModel:
    """A model that repeats the characters of its prompt: a `Scorer` and a `Generator`.

    A token is one character of the alphabet, `OTHER`, or the end of the turn. With n_v the number
    of times that character v occurs in the *data* of the prompt (persona, exemplars, context;
    template text does not count), the next token has at every position the weight ::

        w_v   = 1 + strength · n_v            for each of the V characters, OTHER among them
        w_end = Σ_v w_v / mean_length

    and at temperature τ the probability w^(1/τ) / Σ w^(1/τ). So at τ = 1 a response is
    ``mean_length`` characters long on average, and logits are the logs of the weights.

    Parameters
    ----------
    betas : sequence of float
        Inverse temperatures of the score curves, ascending.
    alphabet : str
        Distinct characters.
    strength : float
        ≥ 0; at 0 the model ignores its prompt.
    mean_length : float
        > 0, characters.
    batch_size : int
        Requests per batch, ≥ 1; changes no result.
    window : int, optional
        Characters of data in a prompt, and of its response, that it takes at the most.
    on_batch : callable, optional
        Called with the number of requests of a batch when it is computed but not yet handed over:
        the place to count calls, to be slow, or to crash.

    Raises
    ------
    ConfigError
        If one of these is out of its range.

    Examples
    --------
    Alphabet ``ab`` (so V = 3 with `OTHER`) and a persona that says ``a``: w_a = 2, w_b = 1,
    w_OTHER = 1, w_end = 4 / 2 = 2, in all 6. The response ``a`` has p = 2/6 · 2/6 = 1/9 at τ = 1,
    and at β = 2 it has 4/10 · 4/10 = 0.16, since the squares add up to 4 + 1 + 1 + 4.

    >>> from mop.types import Segment, Turn
    >>> model = FakeModel(betas=[1.0, 2.0], alphabet="ab", mean_length=2)
    >>> prompt = Prompt((Turn("system", (Segment("You are: ", False), Segment("a", True))),))
    >>> [(index, score)] = next(model.score([ScoreRequest(prompt, "a")]))
    >>> [round(float(p), 4) for p in np.exp(score.log_lik)], score.n_tokens
    ([0.1111, 0.16], 2)
    """

    name = "fake"

    def __init__(
        self,
        betas: Sequence[float] = BETAS,
        *,
        alphabet: str = ALPHABET,
        strength: float = 1.0,
        mean_length: float = 40.0,
        batch_size: int = 64,
        window: int | None = None,
        on_batch: Callable[[int], None] | None = None,
    ) -> None:
        if list(betas) != sorted(set(betas)) or not betas or betas[0] <= 0:
            raise ConfigError(f"betas must be positive and ascending, got {list(betas)}; sort them")
        if not alphabet or len(set(alphabet)) < len(alphabet) or OTHER in alphabet:
            raise ConfigError(
                f"the alphabet must be distinct characters without {OTHER!r}, got {alphabet!r}; "
                "name each character once"
            )
        if strength < 0 or mean_length <= 0 or batch_size < 1:
            raise ConfigError(
                f"got strength={strength}, mean_length={mean_length}, batch_size={batch_size}; "
                "give strength ≥ 0, mean_length > 0 and batch_size ≥ 1"
            )
        self.betas = tuple(float(beta) for beta in betas)
        self._characters = alphabet + OTHER
        self._row = {character: row for row, character in enumerate(self._characters)}
        self._strength = float(strength)
        self._mean_length = float(mean_length)
        self._batch_size = batch_size
        self.window = window
        self._on_batch = on_batch

    @property
    def generate_identity(self) -> str:
        """The constants that a draw depends on."""
        return "fake/1 " + json.dumps(
            {"alphabet": self._characters, "strength": self._strength, "mean_length": self._mean_length}
        )

    @property
    def score_identity(self) -> str:
        """The constants that a score depends on."""
        return f"{self.generate_identity} betas={list(self.betas)}"

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        """Score every request once, longest response first, as real backends do."""
        for request in requests:
            self._check_length(request.name, request.prompt, len(request.response) + 1)
        order = sorted(range(len(requests)), key=lambda i: -len(requests[i].response))
        return self._answers(order, lambda i: self._score(requests[i]))

    def generate(
        self, requests: Sequence[GenerateRequest], decoding: Decoding
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Draw every request once; token t takes draw t of the request's seed.

        Raises
        ------
        PromptTooLongError
            If prompt and longest response exceed the window.
        BackendError
            If a request has no branch or a temperature that is not positive.
        """
        for request in requests:
            for branch in request.branches:
                self._check_length(request.name, branch.prompt, decoding.max_tokens)
        return self._answers(range(len(requests)), lambda i: self._generate(requests[i], decoding))

    def n_tokens(self, prompt: Prompt, response: str = "") -> int:
        """Characters of data in a prompt, and of a response with its end."""
        return sum(len(s.text) for turn in prompt.turns for s in turn.segments if s.is_data) + (
            len(response) + 1 if response else 0
        )

    def _check_length(self, name: str, prompt: Prompt, response: int) -> None:
        if self.window is not None and (total := self.n_tokens(prompt) + response) > self.window:
            raise PromptTooLongError(f"{name or 'a request'} has {total} tokens; {self.name} takes {self.window}")

    def _answers(self, order: Sequence[int], answer: Callable[[int], T]) -> Iterator[list[tuple[int, T]]]:
        for start in range(0, len(order), self._batch_size):
            batch = [(i, answer(i)) for i in order[start : start + self._batch_size]]
            if self._on_batch is not None:
                self._on_batch(len(batch))
            yield batch

    def _counts(self, text: str) -> Floats:
        """Occurrences of each character, shape (V,), `OTHER` last."""
        counts = np.zeros(len(self._characters))
        other = len(self._characters) - 1
        for character in text:
            counts[self._row.get(character, other)] += 1
        return counts

    def _logits(self, prompt: Prompt) -> Floats:
        """Return the logs of the weights, shape (V + 1,), the end of the turn last."""
        data = "".join(s.text for turn in prompt.turns for s in turn.segments if s.is_data)
        weights = 1.0 + self._strength * self._counts(data)
        weights = np.append(weights, weights.sum() / self._mean_length)
        return np.asarray(np.log(weights))

    def _score(self, request: ScoreRequest) -> Score:
        logits = self._logits(request.prompt)
        counts = np.append(self._counts(request.response), 1.0)
        n_tokens = len(request.response) + 1
        betas = np.array(self.betas)
        log_z = np.log(np.exp(betas[:, None] * logits).sum(axis=1))
        log_lik = betas * (counts @ logits) - n_tokens * log_z
        return Score(log_lik.astype(np.float32), n_tokens)

    def _generate(self, request: GenerateRequest, decoding: Decoding) -> Generation:
        probabilities = self._mixed(request.branches)
        limit = decoding.max_tokens
        opening = min(decoding.min_tokens, limit)
        # One distribution for every position, except that the end may not come too early.
        late = _truncated(probabilities, decoding)
        early = _truncated(np.append(probabilities[:-1], 0.0), decoding)
        u = uniforms(request.seed, 0, limit)
        tokens = np.concatenate([_draw(early, u[:opening]), _draw(late, u[opening:])])
        end = len(self._characters)
        stops = np.flatnonzero(tokens == end)
        tokens = tokens[: stops[0] + 1] if len(stops) else tokens
        n_early = min(opening, len(tokens))
        log_lik = np.log(early[tokens[:n_early]]).sum() + np.log(late[tokens[n_early:]]).sum()
        text = "".join(self._characters[token] for token in tokens if token != end)
        return Generation(text, len(tokens), "stop" if len(stops) else "length", float(log_lik))

    def _mixed(self, branches: Sequence[Branch]) -> Floats:
        """Next-token probabilities, shape (V + 1,), averaged over branches."""
        if not branches or any(not branch.temperature > 0 for branch in branches):
            raise BackendError(
                f"got branches with temperatures {[branch.temperature for branch in branches]}; "
                "a draw needs at least one branch, each with a temperature above 0"
            )
        each = [_softmax(self._logits(b.prompt) / b.temperature) for b in branches]
        mixed: Floats = np.full(len(each), 1 / len(each)) @ np.stack(each)
        return mixed


def _softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max())
    return np.asarray(powers / powers.sum())


def _truncated(probabilities: Floats, decoding: Decoding) -> Floats:
    """Keep the top-k tokens, of these the smallest set that holds top-p; renormalise."""
    order = np.argsort(-probabilities, kind="stable")
    ranked = probabilities[order] / probabilities.sum()
    keep = np.ones(len(order), dtype=bool)
    if decoding.top_k:
        keep[decoding.top_k :] = False
    if decoding.top_p < 1:
        ranked = np.where(keep, ranked, 0.0)
        ranked /= ranked.sum()
        keep &= np.cumsum(ranked) - ranked < decoding.top_p
    result = np.zeros_like(probabilities)
    result[order[keep]] = probabilities[order[keep]]
    return np.asarray(result / result.sum())


def _draw(probabilities: Floats, u: Floats) -> NDArray[np.int64]:
    """Invert the distribution function; a token of probability 0 is never drawn."""
    cumulative = np.cumsum(probabilities)
    return np.asarray(np.searchsorted(cumulative, u * cumulative[-1], side="right"), np.int64)
