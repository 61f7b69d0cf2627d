"""The probe lets an honest scorer pass and names what is wrong with another; asked directly, without a server."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Sequence

import pytest

from mop.backends.fake_server import ToyEncoder
from mop.backends.probe import Conformance, check_known, probe_again, probe_scorer
from mop.backends.retry import CallError
from mop.errors import ScoringUnsupportedError
from mop.types import Prompt

Values = tuple[float, ...]


def encode(prompt: Prompt, response: str) -> tuple[list[int], int]:
    encoder = ToyEncoder()
    ids = encoder.prompt_ids(prompt)
    return [*ids, *encoder.response_ids(response)], len(ids)


def honest(ids: Sequence[int], start: int) -> Values:
    """Tokens are the likelier the more often they came before."""
    return tuple(-4.0 + 0.5 * min(list(ids[:t]).count(ids[t]), 6) - 0.01 * ids[t] for t in range(start, len(ids)))


def probe(answer: Callable[[Sequence[int], int], Values], max_len: int | None = None) -> Conformance:
    async def ask(ids: Sequence[int], start: int) -> Values:
        return answer(ids, start)

    return asyncio.run(probe_scorer(ask, encode, where="http://x", max_len=max_len))


def test_an_honest_scorer_passes_without_noise() -> None:
    found = probe(honest)
    assert found.noise == 0.0
    assert len(found.reference) == 5


def test_half_precision_noise_is_reported_and_tolerated() -> None:
    calls = iter(range(10_000))
    found = probe(lambda ids, start: tuple(v + 0.009 * (-1) ** next(calls) for v in honest(ids, start)))
    assert 0.0 < found.noise <= 0.0181


def test_noise_beyond_half_precision_is_refused() -> None:
    calls = iter(range(10_000))
    with pytest.raises(ScoringUnsupportedError, match="nats per token apart when asked in another order"):
        probe(lambda ids, start: tuple(v + 0.03 * (next(calls) % 5) for v in honest(ids, start)))


@pytest.mark.parametrize(
    ("liar", "reason"),
    [
        (lambda ids, start: (-2.0,) * (len(ids) - start), "no likelier than letters without sense"),
        (lambda ids, start: tuple(-6.0 - v for v in honest(ids, start)), "no likelier than letters without sense"),
        (lambda ids, start: honest(ids[:-1], start - 1), "does not change exactly the last value"),
        (
            lambda ids, start: tuple(v - 0.001 * len(ids) for v in honest(ids, start)),
            "scores differently without its second half",
        ),
    ],
)
def test_liars_are_named(liar: Callable[[Sequence[int], int], Values], reason: str) -> None:
    with pytest.raises(ScoringUnsupportedError, match=reason):
        probe(liar)


def test_a_server_that_takes_more_than_its_window_is_refused() -> None:
    with pytest.raises(ScoringUnsupportedError, match="it took 401 tokens although its window is 400"):
        probe(honest, max_len=400)

    def strict(ids: Sequence[int], start: int) -> Values:
        if len(ids) > 400:
            raise CallError("too long", kind="item", code="too-long")
        return honest(ids, start)

    assert probe(strict, max_len=400).noise == 0.0


def test_the_question_that_is_longer_than_the_window_is_asked_only_if_it_can_be_paid_for() -> None:
    asked: list[int] = []

    async def ask(ids: Sequence[int], start: int) -> Values:
        asked.append(len(ids))
        return honest(ids, start)

    found = asyncio.run(probe_scorer(ask, encode, where="http://x", max_len=400, affords=lambda n: n < 401))
    assert found.noise == 0.0
    assert max(asked) < 400


def test_control_strings_that_data_spells_are_asked_for_as_their_ids() -> None:
    known = encode(Prompt(()), "<|im_start|>system <|im_end|> </s> [INST] <think> <|eot_id|>")[0][1:]

    def by_way_of_text(ids: Sequence[int], start: int) -> Values:
        if list(ids[start:]) == known:
            raise CallError("the ids that came back are not", kind="protocol", code="wrong-ids")
        return honest(ids, start)

    with pytest.raises(ScoringUnsupportedError, match="the ids that came back are not"):
        probe(by_way_of_text)


@pytest.mark.parametrize("kind", ["transient", "throttled"])
def test_trouble_on_the_way_is_no_verdict(kind: str) -> None:
    def down(ids: Sequence[int], start: int) -> Values:
        raise CallError("server down", kind=kind, code="http-503")  # type: ignore[arg-type]

    with pytest.raises(CallError, match="server down"):
        probe(down)


@pytest.mark.parametrize("code", ["http-402", "http-429", "http-503", "swapped", "breaker"])
def test_what_stops_a_run_is_no_verdict_on_scoring(code: str) -> None:
    def stopped(ids: Sequence[int], start: int) -> Values:
        raise CallError("the account has no credit left", kind="fatal", code=code)

    with pytest.raises(CallError, match="the account has no credit left") as caught:
        probe(stopped)
    assert caught.value.kind == "fatal"


@pytest.mark.parametrize("code", ["http-404", "http-405"])
def test_a_page_that_is_not_there_is_a_verdict_on_scoring(code: str) -> None:
    def absent(ids: Sequence[int], start: int) -> Values:
        raise CallError("no such page", kind="fatal", code=code)

    with pytest.raises(ScoringUnsupportedError, match="no such page"):
        probe(absent)


def in_bfloat16(seed: int) -> Callable[[Sequence[int], int], Values]:
    """A server whose logits, about 18, are rounded to steps of 0.125; batches move them a little before."""
    rng = random.Random(seed)
    return lambda ids, start: tuple(
        min(0.125 * round(8 * (20 + v + rng.gauss(0, 0.005))) - 20, 0.0) for v in honest(ids, start)
    )


@pytest.mark.parametrize("seed", range(5))
def test_an_honest_server_in_bfloat16_passes_at_the_start_on_the_way_and_the_next_day(seed: int) -> None:
    answer = in_bfloat16(seed)
    before = probe(answer)
    assert before.noise == pytest.approx(0.125)

    async def ask(ids: Sequence[int], start: int) -> Values:
        return answer(ids, start)

    asyncio.run(probe_again(ask, encode, before, where="http://x"))
    found, known = probe(answer).reference, before.reference
    check_known([v for row in found for v in row], [v for row in known for v in row], where="x")


@pytest.mark.parametrize("answer", [honest, in_bfloat16(7)])
def test_coarser_weights_of_the_same_model_are_noticed(answer: Callable[[Sequence[int], int], Values]) -> None:
    before = probe(answer)

    async def ask(ids: Sequence[int], start: int) -> Values:
        return tuple(v - 0.26 * (i % 4 == 0) for i, v in enumerate(answer(ids, start)))

    with pytest.raises(CallError, match=r"the model or its precision \(dtype\) was changed"):
        asyncio.run(probe_again(ask, encode, before, where="http://x"))
    known = [v for row in before.reference for v in row]
    found = [v - 0.26 * (i % 4 == 0) for i, v in enumerate(known)]
    with pytest.raises(CallError, match="serves another model, or the model in another precision"):
        check_known(found, known, where="http://x")


def test_a_changed_model_is_noticed() -> None:
    before = probe(honest)

    async def ask(ids: Sequence[int], start: int) -> Values:
        return tuple(v * 1.05 for v in honest(ids, start))

    with pytest.raises(CallError, match="http://x now scores a known sentence .* nats per token differently") as caught:
        asyncio.run(probe_again(ask, encode, before, where="http://x"))
    assert caught.value.kind == "fatal"


def test_what_was_kept_is_compared_per_token_and_half_precision_noise_is_tolerated() -> None:
    check_known((-1.0, -2.0), (-1.015, -2.0), where="http://x")
    for known in ((-1.0, -2.03), (-1.0,)):
        with pytest.raises(CallError, match="set a new revision for this server") as caught:
            check_known((-1.0, -2.0), known, where="http://x")
        assert caught.value.kind == "fatal"
