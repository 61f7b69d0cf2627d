"""What a stage may ask of a frozen language model: two Protocols, and nothing to inherit from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar, runtime_checkable

from mop.errors import BackendError, ScoringUnsupportedError
from mop.types import Decoding, GenerateRequest, Generation, Prompt, Score, ScoreRequest


@runtime_checkable
class Scorer(Protocol):
    """A frozen model that can say how likely a given response is."""

    @property
    def name(self) -> str:
        """The model as the user named it."""
        ...

    @property
    def score_identity(self) -> str:
        """All that a score depends on besides the request, as one canonical string; known without loading weights."""
        ...

    @property
    def betas(self) -> tuple[float, ...]:
        """Inverse temperatures β = 1/τ at which every score is given, ascending; (1.0,) for τ = 1 alone."""
        ...

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        """Score every request once, in whatever order is fastest; yields finished batches of (index, score)."""
        ...


@runtime_checkable
class Generator(Protocol):
    """A frozen model that can write a response."""

    @property
    def name(self) -> str:
        """The model as the user named it."""
        ...

    @property
    def generate_identity(self) -> str:
        """All that a draw depends on besides request and decoding, as one canonical string."""
        ...

    def generate(
        self, requests: Sequence[GenerateRequest], decoding: Decoding
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Draw every request once, in whatever order is fastest; yields finished batches of (index, generation)."""
        ...


@runtime_checkable
class Recognisable(Protocol):
    """A scorer whose model could be another one the next time: it is known by its answers to fixed questions."""

    expected: tuple[float, ...] | None
    """Answers when the scores that are already kept were made; `Scorer.score` stops if they are others now."""

    @property
    def reference(self) -> tuple[float, ...]:
        """Answers in this session, nats; empty before the first `Scorer.score`."""
        ...


@runtime_checkable
class Windowed(Protocol):
    """A model that knows how much it takes: texts beyond are found before anything is asked."""

    @property
    def name(self) -> str:
        """The model as the user named it."""
        ...

    @property
    def window(self) -> int | None:
        """Tokens that prompt and response may have together; None if that is not known."""
        ...

    def n_tokens(self, prompt: Prompt, response: str = "") -> int:
        """Tokens of a prompt, and of a response after it, as they are asked about."""
        ...


@runtime_checkable
class Confirming(Protocol):
    """A scorer that may turn wrong while it works, and says up to where its answers were found right."""

    @property
    def confirmed(self) -> int:
        """How many answers of the latest `Scorer.score`, in the order given, count; all of them once it has ended."""
        ...


class LanguageModel(Scorer, Generator, Protocol):
    """Both halves; what a local model offers."""


@dataclass(frozen=True, slots=True)
class Failure:
    """An item that failed. Its draw is not repeated under another persona."""

    code: str
    """Short stable name for counts: ``content_filter``, ``http-400``, ``nulls``."""
    message: str
    is_final: bool = False
    """Whether it would fail again if it were asked again."""


def what_now(failures: Iterable[Failure]) -> str:
    """What a person can do about items that failed; not to try again what fails again."""
    share = "allow a share with remote.max_failed_share"
    if all(failure.is_final for failure in failures):
        return f"asked again these fail again, so change what they are refused for, or {share}"
    return f"once the server answers as it should, run the same command to try these again, or {share}"


@runtime_checkable
class Fallible(Protocol):
    """A model that may give some items up, and says which."""

    @property
    def failures(self) -> Mapping[int, Failure]:
        """Items of the latest call that failed, by index."""
        ...


def as_scorer(model: object) -> Scorer:
    """Return ``model`` if it can score.

    Raises
    ------
    ScoringUnsupportedError
        If it cannot: said before any work has begun; of an object of one's own the missing members are named.
    """
    if isinstance(model, type) or not isinstance(model, Scorer | Generator):
        raise ScoringUnsupportedError(_no_model(model))
    if isinstance(model, Scorer):
        return model
    reason = getattr(model, "why_no_scores", "")
    raise ScoringUnsupportedError(
        f"{model.name} can write but not say how likely a given text is"
        f"{f' ({reason})' if reason else ''}, which fitting and scoring need; name a second model "
        'that can, as scorer (model.scorer = "smollm2-135m", or a server that returns prompt '
        "log-probabilities), and this one writes only"
    )


def as_generator(model: object) -> Generator:
    """Return ``model`` if it can write.

    Raises
    ------
    BackendError
        If it cannot; of an object of one's own the missing members are named.
    """
    if isinstance(model, type) or not isinstance(model, Scorer | Generator):
        raise BackendError(_no_model(model))
    if isinstance(model, Generator):
        return model
    raise BackendError(f"{model.name} can score but not write responses; name a model that can generate")


SCORES, WRITES = ("name", "score_identity", "betas", "score"), ("name", "generate_identity", "generate")
"""Members of a `Scorer` and of a `Generator`."""


def missing(given: object, members: Sequence[str]) -> str:
    """Members that an object lacks, as a message names them."""
    return ", ".join(f"`{member}`" for member in members if not hasattr(given, member))


def _no_model(given: object) -> str:
    """Say what an object lacks to be a model."""
    if isinstance(given, type):
        return f"the class {given.__name__} is no model, an object of it may be; give {given.__name__}()"
    told = "; ".join(f"to {half} it lacks {missing(given, of)}" for half, of in (("write", WRITES), ("score", SCORES)))
    return (
        f"an object of the type {type(given).__name__} can neither write nor score: {told}; give it these members "
        '(docs/plug.md has a model in 20 lines), or name one, such as "smollm2-135m"'
    )


Answer = TypeVar("Answer", Generation, Score)


def batches_of(found: object, kind: type[Answer], n: int, who: str) -> Iterator[list[tuple[int, Answer]]]:
    """Batches of (index, answer) of n requests as a model yields them.

    Raises
    ------
    BackendError
        If it yields something else, as a model of one's own may.
    """
    for batch in found if isinstance(found, Iterable) else (found,):
        pairs = batch if isinstance(batch, Iterable) and not isinstance(batch, str) else (batch,)
        checked: list[tuple[int, Answer]] = []
        for pair in pairs:
            match pair:
                case (int(index), answer) if isinstance(answer, kind) and 0 <= index < n:
                    checked.append((index, answer))
                case _:
                    raise BackendError(
                        f"{who} must yield lists of (index, {kind.__name__}) with an index from 0 to {n - 1}, got "
                        f"{str(pair)[:80]!r}; docs/plug.md has a model in 20 lines"
                    )
        yield checked
