"""The nouns of the package as frozen records, and the texts they can hold; nothing heavy is imported here."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from mop.errors import ConfigError

FloatArray = NDArray[np.float32] | NDArray[np.float64]

_SURROGATE = re.compile("[\ud800-\udfff]")

Progress = Callable[[str, int, int], None]
"""Called as ``progress(what, done, total)`` while long work goes on; totals may grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """One observed pair: what a person was given, and what that person wrote."""

    key: str
    """Stable name, unique within a data set."""
    context: str
    """x: what the person responded to."""
    response: str
    """y: the text the person wrote."""
    label: str | None = None
    """Class name, if the data has one."""
    weight: float = 1.0
    """Survey weight, > 0."""
    group: str | None = None
    """What must not be split apart: a film, a respondent."""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further columns by name, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Persona:
    """A short text that describes a subpopulation (g_k in the paper)."""

    key: str
    description: str
    cluster: int | None = None
    """Number of the cluster it was written from; None if a person wrote it."""
    size: int = 0
    """Records in that cluster."""
    sources: tuple[str, ...] = ()
    """Keys of the records that the writer was shown, nearest to the centre first."""
    writer: str = "user"
    """``keywords``, ``llm``, ``user``, or of the ablations ``record`` and ``random``."""
    doubts: tuple[str, ...] = ()
    """What looks wrong with the description (``repetition``, ``refusal``, ...); empty if nothing."""


Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of prompt text: written by us (template) or taken from data.

    Data is encoded with a tokenizer that has no control tokens, so that a record
    can never speak as the system.
    """

    text: str
    is_data: bool


@dataclass(frozen=True, slots=True)
class Turn:
    """One message of a dialogue, as typed segments."""

    role: Role
    segments: tuple[Segment, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """A dialogue that ends where the response begins."""

    turns: tuple[Turn, ...]


@dataclass(frozen=True, slots=True)
class ScoreRequest:
    """The question how likely ``response`` is after ``prompt``."""

    prompt: Prompt
    response: str
    name: str = field(default="", compare=False)
    """What errors call it; no part of the question."""


@dataclass(frozen=True, slots=True, eq=False)
class Score:
    """Log-likelihood of one response at several inverse temperatures.

    The sum over its tokens (end-of-turn included) and their number are both kept,
    so that every average can be formed later.
    """

    log_lik: NDArray[np.float32]
    """Shape (G,), nats, one value per node of the scorer's ``betas``."""
    n_tokens: int
    """Response tokens scored, end-of-turn included; at least 1."""


@dataclass(frozen=True, slots=True)
class Branch:
    """One agent that takes part in writing a response."""

    prompt: Prompt
    temperature: float
    """τ > 0; logits are divided by it."""


@dataclass(frozen=True, slots=True)
class GenerateRequest:
    """One response to draw: usually one branch; several are mixed token by token, in equal shares."""

    branches: tuple[Branch, ...]
    seed: int
    """64-bit; token t of this request is a function of (seed, t) and the model alone."""
    name: str = field(default="", compare=False)
    """What errors call it; no part of the question."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decoding:
    """What is common to all draws of a run. Anything but the defaults below departs from the fitted model."""

    max_tokens: int = 128
    """A response that is still going on there is cut (finish_reason ``length``)."""
    min_tokens: int = 0
    """The end-of-turn token is not drawn before so many tokens."""
    top_p: float = 1.0
    """Nucleus truncation; 1 is off."""
    top_k: int = 0
    """Truncation to the k likeliest tokens; 0 is off."""

    def __post_init__(self) -> None:
        """Refuse what no draw could have."""
        for name in ("max_tokens", "min_tokens", "top_k"):
            if not hasattr(getattr(self, name), "__index__"):
                raise ConfigError(f"{name} is {getattr(self, name)!r}; it must be a whole number")
        if self.max_tokens < 1:
            raise ConfigError(f"max_tokens is {self.max_tokens}; a response has at least 1 token, so give more")
        if not 0 <= self.min_tokens <= self.max_tokens:
            raise ConfigError(f"min_tokens is {self.min_tokens}; it must be from 0 to max_tokens ({self.max_tokens})")
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p is {self.top_p}; it must be above 0 and at most 1 (off)")
        if self.top_k < 0:
            raise ConfigError(f"top_k is {self.top_k}; it must be 0 (off) or more")


FinishReason = Literal["stop", "length"]

Outcome = Literal["stop", "length", "refused", "failed"]
"""What became of a draw: a text that ended or was cut, or no text at all because the server refused or failed."""


@dataclass(frozen=True, slots=True)
class Generation:
    """A drawn text, before it is known what it was drawn for."""

    text: str
    n_tokens: int
    """Tokens drawn, end-of-turn included."""
    finish_reason: FinishReason
    log_lik: float
    """Sum of the sampler's own log-probabilities of the drawn tokens, nats; nan where a backend gives none."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A drawn component: which persona, which exemplars, at which temperature, and how likely the draw was."""

    persona: int | None
    """Row of the persona list; None for no persona."""
    exemplars: tuple[int, ...]
    """Rows of the exemplar list, in the order of the prompt; empty for none."""
    temperature: float
    log_pi: float = 0.0
    """Natural log of the probability that this persona was drawn."""
    log_omega: float = 0.0
    """Natural log of the probability that these exemplars were drawn, in this order, given the persona."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Response:
    """One simulated response with its full provenance: a row of ``responses.jsonl``."""

    id: str
    context: str
    response: str
    label: str | None
    persona: str | None
    """Persona key."""
    exemplar: str | None
    """Record key of the exemplar; several keys are joined by a space."""
    temperature: float
    log_pi: float
    log_omega: float
    seed: int
    model: str
    prompt_version: int
    finish_reason: Outcome
    """With ``refused`` and ``failed`` the response is empty and has 0 tokens."""
    n_tokens: int
    method: str = "mop"
    weight: float = 1.0
    """Survey weight of the context's record; 1 where contexts were drawn in proportion to it."""
    group: str | None = None
    """Of the context's record."""
    attributes: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Further columns of the context's record; in a file each is a column."""


def without_surrogates(text: str) -> str:
    r"""Replace lone surrogates, halves of a character that was cut in two, by U+FFFD.

    No encoding, tokenizer or file but JSON can hold them.

    Examples
    --------
    >>> without_surrogates("so good \ud83d") == "so good \ufffd"
    True
    """
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


_FORMULA = re.compile(r"'*[=+\-@\t\r\n＝＋－＠]")
_NUMBER = re.compile(r"[+-]?[0-9]+([.,][0-9]+)?([eE][+-]?[0-9]+)?")


def guarded(text: str) -> str:
    """A text as a cell that no spreadsheet takes for a formula: an apostrophe before it; a number is none.

    Examples
    --------
    >>> guarded("=1+1"), guarded("-5"), guarded("good"), unguarded(guarded("'@me"))
    ("'=1+1", '-5', 'good', "'@me")
    """
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def unguarded(cell: str) -> str:
    """The text of a cell that `guarded` wrote."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell
