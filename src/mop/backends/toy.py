"""The toy model of `mop.backends.fake` as a server has it: tokens with ids, a distribution over them, draws."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from itertools import takewhile

from mop.backends.fake import ALPHABET, OTHER, FakeModel
from mop.types import Branch, Decoding, GenerateRequest, Prompt, ScoreRequest, Segment, Turn

CHARACTERS = ALPHABET + OTHER
END = len(CHARACTERS)
"""Id of the end of the turn; characters have the ids before it."""
TURN = END + 1
"""Id that opens a turn."""
REPLY = END + 2
"""Id after which the response begins."""

_MODEL = FakeModel([1.0])


class ToyEncoder:
    """Text to the ids of the toy model: one per character, with marks for turns; a `PromptEncoder`.

    Template text is left out, because the toy model does not look at it.

    Examples
    --------
    >>> encoder = ToyEncoder()
    >>> encoder.prompt_ids(Prompt((Turn("user", (Segment("Say: ", False), Segment("ab", True))),)))
    [35, 0, 1, 36]
    >>> encoder.response_ids("ba")
    [1, 0, 34]
    """

    fingerprint = "toy/1"
    is_chat = True
    end_ids = frozenset({END, TURN, REPLY})
    control_strings: tuple[str, ...] = ()
    """None: the marks have no text."""

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Ids of a prompt, up to where the response begins."""
        ids: list[int] = []
        for turn in prompt.turns:
            ids.append(TURN)
            for segment in turn.segments:
                if segment.is_data:
                    ids += ids_of(segment.text)
        return [*ids, REPLY]

    def response_ids(self, text: str) -> list[int]:
        """Ids of a response, end-of-turn included."""
        return [*ids_of(text), END]

    def text(self, ids: Sequence[int]) -> str:
        """Text of drawn ids, up to the first end."""
        return text_of(ids)


def ids_of(text: str) -> list[int]:
    """One id for each character."""
    return [CHARACTERS.index(character if character in ALPHABET else OTHER) for character in text]


def text_of(ids: Sequence[int]) -> str:
    """The characters up to the first mark."""
    return "".join(CHARACTERS[i] for i in takewhile(lambda i: i < END, ids))


def data_of(ids: Sequence[int]) -> str:
    """The characters of a prompt, without its marks and without the response."""
    return "".join(CHARACTERS[i] for i in ids[: reply_start(ids)] if i < END)


def reply_start(ids: Sequence[int]) -> int:
    """Place after the last mark that opens a response; the end if there is none."""
    places = [place for place, i in enumerate(ids) if i == REPLY]
    return places[-1] + 1 if places else len(ids)


@lru_cache(maxsize=64)
def log_probs(data: str) -> tuple[float, ...]:
    """Log-probability of each character and of `END`, shape (`END` + 1,), at τ = 1: the same at every position."""
    requests = [ScoreRequest(_as_prompt(data), text) for text in ["", *CHARACTERS]]
    scored = {place: float(s.log_lik[0]) for batch in _MODEL.score(requests) for place, s in batch}
    end = scored[0]
    # A score ends with the end of the turn, so its share is taken off again.
    return (*(scored[place] - end for place in range(1, len(requests))), end)


def draw(data: str, decoding: Decoding, *, temperature: float, seed: int) -> list[int]:
    """Draw ids, `END` included if it came, as `FakeModel.generate` does; the likeliest at temperature 0."""
    if temperature < 1e-3:  # ties go to the first, whatever the seed
        temperature, decoding = 1.0, Decoding(max_tokens=decoding.max_tokens, min_tokens=decoding.min_tokens, top_k=1)
    one = GenerateRequest((Branch(_as_prompt(data), temperature),), seed)
    [(_, drawn)] = next(_MODEL.generate([one], decoding))
    return [*ids_of(drawn.text), *([END] if drawn.finish_reason == "stop" else [])]


def _as_prompt(data: str) -> Prompt:
    return Prompt((Turn("user", (Segment(data, is_data=True),)),))
