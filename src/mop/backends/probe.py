"""Questions whose answers are known, asked of a scoring server before it is trusted.

A server that gives wrong log-probabilities gives them without an error, so it is tested: with about
25 calls at the start and 5 every 500 calls after that.
"""

from __future__ import annotations

import asyncio
import math
import statistics
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from mop.backends.retry import CallError
from mop.errors import ScoringUnsupportedError
from mop.prompts import simulation_prompt
from mop.types import Prompt

ScoreIds = Callable[[Sequence[int], int], Awaitable[tuple[float, ...]]]
"""From (ids, start) to the log-probabilities of ``ids[start:]``, nats."""

Encode = Callable[[Prompt, str], tuple[Sequence[int], int]]
"""From (prompt, response) to (ids of both, first position of the response)."""

TOLERANCE = 2e-2
"""Nats, and share of a log-probability, by which two answers to one question may differ at a token.
Source: vLLM's own test of prompt log-probabilities in half precision, tests/v1/sample/test_logprobs.py."""

_STEP = 0.25
"""Nats by which a token may differ beyond that: one step of bfloat16 in a logit from 32 to 64, which another batch tips
over now and then. Measured: up to 0.27 nats at one token, and 0.012 per token of a sentence, between SmolLM2 in
bfloat16 asked alone and in a batch; 8-bit weights move a sentence by 0.06 per token."""

_LONGEST_PROBE = 65_536  # tokens; a longer window is not worth the test

# Control strings as people may write them; a server that goes by way of text makes control ids of them.
_SPELT = "<|im_start|>system <|im_end|> </s> [INST] <think> <|eot_id|>"

# A sentence that repeats what was said, and as many letters that no language puts in that order.
_PAIRS = (
    ("the rain came down on the old town all night.", "zq vxk jw zzxq kj vqx jxz qkw vvzj xq kzzqj."),
    ("she opened the letter and read it to her sister.", "qx jzkvw xqz vkjzqx wzx kqvj xz qq vjzkxw kzq."),
    ("a small dog ran over the bridge after the children.", "z jxqkv wqz kxv jzqx vkq zxjqwk vzxq kjz qxvkwzjq."),
    ("he sold the house and went to live near the sea.", "xk jqzv wxq kzvjx qzk wvxj zq kxvj qzxw vkj zqx."),
    ("we had bread and tea in the garden in the morning.", "vq zkxj wqvzk xjq zvx kq wjx zqkvxj zq vxk jqwzkxv."),
)

N_SENTENCES = len(_PAIRS)


@dataclass(frozen=True, slots=True)
class Conformance:
    """What the probe of one endpoint found; kept for the report and for later comparison."""

    noise: float
    """Largest difference, nats per token, between the same question asked alone and among others in another order."""
    reference: tuple[tuple[float, ...], ...]
    """Log-probabilities of the five sentences."""


async def probe_scorer(
    score_ids: ScoreIds,
    encode: Encode,
    *,
    where: str,
    max_len: int | None,
    affords: Callable[[int], bool] = lambda _: True,
) -> Conformance:
    """Ask a server questions whose answers are known; return what was found, or refuse the server.

    That it refuses input longer than its window, ``max_len`` tokens, is asked if it states one, and if ``affords`` says
    that a question of so many tokens may be paid for. ``where`` is its address, for messages.

    Raises
    ------
    ScoringUnsupportedError
        With the check that failed.

    Notes
    -----
    Checked are: a fluent sentence beats letters
    without sense, five times of five (a server of constants fails); the same sequence gives the
    same values in another order and in company (stale caches fail); a prefix gives the same values
    as the whole, and a changed last token changes the last value and no other (values that are off
    by one fail); control strings that data spells, sent as ids, come back as the same ids (a server
    that turns ids into text and back fails); a sequence longer than the window is an error
    (truncation fails).
    """
    sensible = [encode(simulation_prompt(good), good) for good, _ in _PAIRS]
    senseless = [encode(simulation_prompt(good), bad) for good, bad in _PAIRS]
    try:
        alone = [await score_ids(ids, start) for ids, start in [*sensible, *senseless]]
        backwards = [*sensible, *senseless][::-1]
        together = await asyncio.gather(*(score_ids(ids, start) for ids, start in backwards))
        known, found = _joined(alone), _joined(together[::-1])
        noise = max(map(distance, alone, together[::-1]))
        if not is_rounding(found, known):
            raise _refusal(
                where,
                f"the same text scores {mean(found, known):.3g} nats per token apart when asked in another order and "
                f"in company ({noise:.3g} at one token), more than half precision rounds; switch prefix caching off on "
                "the server, or serve the model in float32",
            )
        n_pairs = len(_PAIRS)
        for good, bad in zip(alone[:n_pairs], alone[n_pairs:], strict=True):
            if sum(good) - sum(bad) <= 1.0 or sum(good) / len(good) <= sum(bad) / len(bad):
                raise _refusal(
                    where,
                    f"it finds a sentence ({sum(good):.2f} nats) no likelier than letters "
                    f"without sense ({sum(bad):.2f})",
                )
        await _probe_positions(score_ids, sensible[0], senseless[0], alone[0], noise, where)
        # Asked for its ids alone, which every answer is checked for.
        ids, start = encode(simulation_prompt(_SPELT), _SPELT)
        await score_ids(ids, start)
        if max_len is not None and max_len <= _LONGEST_PROBE and affords(max_len + 1):
            await _probe_length(score_ids, sensible[0], max_len, where)
    except CallError as error:
        # An answer that is no score, or no such page, is about scoring; all else is about the way there.
        if error.kind not in ("item", "protocol") and error.code not in ("http-404", "http-405"):
            raise
        raise _refusal(where, str(error)) from None
    return Conformance(noise, tuple(alone[:n_pairs]))


def sentences(encode: Encode, found: Conformance) -> list[tuple[Sequence[int], int, tuple[float, ...]]]:
    """The five sentences as ids, where the response begins, and what an endpoint said to them."""
    return [
        (*encode(simulation_prompt(good), good), values)
        for (good, _), values in zip(_PAIRS, found.reference, strict=True)
    ]


async def probe_again(score_ids: ScoreIds, encode: Encode, before: Conformance, *, where: str) -> None:
    """Ask the five sentences again, last first; stop if the model behind the address has changed.

    Raises
    ------
    CallError
        Of kind ``fatal``.
    """
    questions = [encode(simulation_prompt(good), good) for good, _ in reversed(_PAIRS)]
    answers = await asyncio.gather(*(score_ids(ids, start) for ids, start in questions))
    found, known = _joined(answers), _joined(before.reference[::-1])
    if not _is_same(found, known, before.noise):
        raise CallError(
            f"stopped: {where} now scores a known sentence {mean(found, known):.3g} nats per token differently "
            f"({distance(found, known):.3g} at one token), more than half precision rounds in another batch; the "
            "model or its precision (dtype) was changed, or cached values are stale; scores since the last good check "
            "are not used and will be asked again: run the same command when the earlier model is served again, or set "
            "a new revision for this server, under which all is scored anew",
            kind="fatal",
            code="swapped",
        )


def check_known(found: Sequence[float], known: Sequence[float], *, where: str) -> None:
    """Stop if a server does not answer as when the scores that are kept were made.

    ``found`` and ``known`` are log-probabilities of the five sentences, one after the other, nats.

    Raises
    ------
    CallError
        Of kind ``fatal``.
    """
    if not _is_same(found, known, 0.0):
        raise CallError(
            f"stopped: {where} scores a known sentence {mean(found, known):.3g} nats per token differently than when "
            f"the scores in the store were made ({distance(found, known):.3g} at one token), more than half precision "
            "rounds, so it serves another model, or the model in another precision (dtype), under the same name; set a "
            "new revision for this server, under which all is scored anew, or serve the earlier model again",
            kind="fatal",
            code="swapped",
        )


async def _probe_positions(
    score_ids: ScoreIds,
    sensible: tuple[Sequence[int], int],
    senseless: tuple[Sequence[int], int],
    known: tuple[float, ...],
    noise: float,
    where: str,
) -> None:
    """A prefix scores as it does within the whole; only the changed token's value changes."""
    ids, start = sensible
    middle = (start + len(ids) + 1) // 2
    if middle > start:
        part = await score_ids(ids[:middle], start)
        if not _is_same(part, known[: middle - start], noise):
            raise _refusal(
                where,
                "the first half of a sentence scores differently without its second half, by "
                f"{mean(part, known[: middle - start]):.3g} nats per token",
            )
    stranger = senseless[0][senseless[1]]
    changed = await score_ids([*ids[:-1], stranger], start)
    if not _is_same(changed[:-1], known[:-1], noise) or changed[-1] == known[-1]:
        raise _refusal(where, "a changed last token does not change exactly the last value; values are off by one")


async def _probe_length(score_ids: ScoreIds, sensible: tuple[Sequence[int], int], max_len: int, where: str) -> None:
    """One token more than fits must be an error."""
    ids, start = sensible
    filler = ids[start]
    try:
        await score_ids([*ids, *[filler] * (max_len + 1 - len(ids))], start)
    except CallError as error:
        if error.kind == "item":
            return
        raise
    raise _refusal(where, f"it took {max_len + 1} tokens although its window is {max_len}: it cuts silently")


def _apart(found: Sequence[float], known: Sequence[float]) -> list[float]:
    """Differences token by token, nats; infinite if the counts differ."""
    return [abs(a - b) for a, b in zip(found, known, strict=True)] if len(found) == len(known) else [math.inf]


def is_rounding(found: Sequence[float], known: Sequence[float]) -> bool:
    """Whether two answers differ by no more than half precision makes of one model in two batches.

    Rounding moves tokens this way and that, few of them by a whole step; another model moves all of them, so the mean
    must be closer.
    """
    apart, sizes = _apart(found, known), [abs(b) for b in known]
    return (
        all(d <= TOLERANCE * (1 + x) + _STEP for d, x in zip(apart, sizes, strict=False))
        and sum(apart) <= TOLERANCE * (len(known) + sum(sizes) / 2) + _STEP
    )


def _is_same(found: Sequence[float], known: Sequence[float], noise: float) -> bool:
    """Whether two answers on sentences that make sense are one model's: most tokens are where they were.

    ``noise`` is the largest difference, nats per token, seen between two answers before.
    """
    apart = _apart(found, known)
    return is_rounding(found, known) and (not apart or statistics.median_high(apart) <= max(TOLERANCE, 3 * noise))


def mean(found: Sequence[float], known: Sequence[float]) -> float:
    """Mean difference per token."""
    return statistics.fmean(_apart(found, known))


def distance(found: Sequence[float], known: Sequence[float]) -> float:
    """Largest difference per token."""
    return max(_apart(found, known), default=0.0)


def _joined(rows: Sequence[Sequence[float]]) -> list[float]:
    return [value for row in rows for value in row]


def _refusal(where: str, reason: str) -> ScoringUnsupportedError:
    return ScoringUnsupportedError(
        f"{where} cannot be used to score: {reason}; servers known to score are vLLM (dialect vllm) and SGLang "
        "(dialect sglang); or fit with a small local model as scorer and use this server to generate only"
    )
