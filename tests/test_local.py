"""Scores and draws of the local backend against one-token-at-a-time oracles on tiny models."""

from __future__ import annotations

import contextlib
import math
import threading
from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from scipy import stats  # noqa: E402

from mop.backends.base import Generator, Scorer  # noqa: E402
from mop.backends.curve import BETAS, ONE, weights  # noqa: E402
from mop.backends.local import LocalModel, open_local  # noqa: E402
from mop.backends.tokens import open_tokens  # noqa: E402
from mop.errors import BackendError, ConfigError, DataError, PromptTooLongError  # noqa: E402
from mop.prompts import simulation_prompt  # noqa: E402
from mop.types import Branch, Decoding, GenerateRequest, Record, ScoreRequest  # noqa: E402
from tiny_models import (  # noqa: E402
    byte_tokenizer,
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_qwen2,
    tiny_qwen3,
)

DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")),
]
BUILDERS = [tiny_llama, tiny_qwen2, tiny_qwen3, tiny_gpt2, tiny_gemma3]
TASK = "a short review"


def build(model=None, lanes=0, **settings):
    settings = {"name": "tiny", "revision": "0", "device": "cpu", "dtype": "float32", **settings}
    local = LocalModel(model or tiny_llama(), byte_tokenizer(), **settings)
    local.lanes = lanes
    return local


def requests():
    """Two personas, three exemplars, several records: shared, partly shared and alone."""
    exemplars = [
        Record(key=f"e{j}", context=f"Film {j}?", response=text)
        for j, text in enumerate(["the best film", "I hated it", "too long, but good"])
    ]
    texts = ["the story is good", "boring", "I like the actors and the film.", "é, 你好!", "ok"]
    found = [
        ScoreRequest(simulation_prompt(f"Film {i % 2}?", persona=persona, exemplars=[exemplar], task=TASK), text)
        for persona in ("You love films.", "You love food and hate films.")
        for exemplar in exemplars
        for i, text in enumerate(texts)
    ]
    found += [ScoreRequest(simulation_prompt("And?"), "yes"), found[3]]
    return found


def collect(batches):
    found = {}
    for batch in batches:
        for index, value in batch:
            assert index not in found
            found[index] = value
    return [found[index] for index in range(len(found))]


def next_log_probs(model, ids, beta):
    """One forward pass without cache for one next token."""
    with torch.inference_mode():
        logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1]
    return torch.log_softmax(beta * logits.double(), dim=-1)


def loop_log_lik(local, model, request, beta):
    ids = local.encoder.prompt_ids(request.prompt)
    total = 0.0
    for token in local.encoder.response_ids(request.response):
        total += float(next_log_probs(model, ids, beta)[token])
        ids = [*ids, token]
    return total


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_scores_equal_a_loop_that_asks_for_one_token_at_a_time(builder, device):
    local, model = build(builder(), device=device), builder()
    asked = requests()
    scores = collect(local.score(asked))
    assert len(scores) == len(asked)
    for request, score in zip(asked[::4], scores[::4], strict=True):
        assert score.n_tokens == len(local.encoder.response_ids(request.response))
        assert score.log_lik.shape == (len(BETAS),)
        for place in (0, BETAS.index(1.0), 17):
            expected = loop_log_lik(local, model, request, BETAS[place])
            assert score.log_lik[place] == pytest.approx(expected, abs=1e-3)


@pytest.mark.trial("15-token-boundary")
def test_responses_of_odd_edges_score_as_the_loop_does_and_come_back():
    local, model = build(tiny_llama()), tiny_llama()
    odd = ["  two blanks before", "a line end after\n", "\n\nlate", "\ttab", ".", "'s", "un", "</s>", "<|im_end|>",
           "ÄÖ ß", "雨が降る", "مرحبا", "👩‍🚒🙂"]  # fmt: skip
    asked = [ScoreRequest(simulation_prompt("What is new?", persona="You are brief."), text) for text in odd]
    for request, score in zip(asked, collect(local.score(asked)), strict=True):
        assert score.n_tokens >= 2
        assert score.log_lik[BETAS.index(1.0)] == pytest.approx(loop_log_lik(local, model, request, 1.0), abs=1e-4)
        assert local.encoder.text(local.encoder.response_ids(request.response)) == request.response


@pytest.mark.trial("16-padding-bf16")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("builder", [tiny_llama, tiny_gemma3])
def test_a_score_does_not_depend_on_what_else_is_asked_or_in_which_order(builder, device):
    asked = requests()
    together = collect(build(builder(), device=device).score(asked))
    alone = [collect(build(builder(), device=device).score([request]))[0] for request in asked[::5]]
    reverse = collect(build(builder(), device=device).score(asked[::-1]))[::-1]
    tight = build(builder(), device=device, memory_gib=5e-4)
    batches = list(tight.score(asked))
    assert len(batches) > 3
    for other, same in (
        (alone, together[::5]),
        (reverse, together),
        (collect(batches), together),
        (collect(build(builder(), device=device, lanes=2).score(asked)), together),
    ):
        for one, two in zip(other, same, strict=True):
            assert np.abs(one.log_lik - two.log_lik).max() < 1e-4


class Counting:
    """A body that writes down what it is asked for."""

    def __init__(self, body):
        self._body = body
        self.tokens = 0
        self.predicted = []

    def __getattr__(self, name):
        return getattr(self._body, name)

    def extend(self, groups):
        self.tokens += sum(len(row) for group in groups for row in group.rows)
        return self._body.extend(groups)

    def predict(self, groups):
        self.tokens += sum(len(row) for group in groups for row in group.rows)
        self.predicted.append(groups)
        return self._body.predict(groups)


def counted(**settings):
    local = build(**settings)
    local._body = Counting(local._load())
    return local, local._body


def test_what_prompts_share_is_computed_once():
    local, body = counted()
    asked = requests()
    list(local.score(asked))
    ids = [local.encoder.prompt_ids(one.prompt) + local.encoder.response_ids(one.response)[:-1] for one in asked]
    starts = [len(local.encoder.prompt_ids(one.prompt)) - 1 for one in asked]
    # Every beginning counts once, what follows a prompt once for each request.
    shared = {tuple(row[:end]) for row, start in zip(ids, starts, strict=True)
              for end in range(1, start + 1)}  # fmt: skip
    own = sum(len(row) - start for row, start in zip(ids, starts, strict=True))
    least, whole = len(shared) + own, sum(map(len, ids))
    assert least <= body.tokens < least + 8 * len(asked)  # stretches below 8 tokens are not shared
    assert body.tokens < whole / 2


def test_prompts_that_are_drawn_from_share_as_well():
    local, body = counted()
    asked = draws(30)
    list(local.generate(asked, Decoding(max_tokens=2)))
    prompts = [local.encoder.prompt_ids(one.branches[0].prompt) for one in asked]
    assert body.tokens < sum(map(len, prompts)) / 2


def test_many_short_responses_after_a_long_prompt_keep_to_the_memory():
    """The prefix is copied for each of them while attention looks at it."""
    prompt = simulation_prompt("x7" * 200, persona="You love films.")
    asked = [ScoreRequest(prompt, text) for text in ["good", "bad", "ok", "so so"] * 30]
    local, body = counted(memory_gib=0.004, lanes=1)
    list(local.score(asked))
    room = 0.004 * 2**30 / 4
    for groups in body.predicted:
        rows = sum(len(group.rows) for group in groups)
        # Keys and values of one layer: 2 heads of 8 numbers, 4 bytes.
        ahead = sum(len(g.rows) * g.prefix.length for g in groups if g.prefix) * 2 * 16 * 4
        assert rows == 1 or ahead < room
    assert len(body.predicted) > 1
    halves, half = counted(memory_gib=0.004, lanes=2)
    list(halves.score(asked))
    assert max(map(rows_of, half.predicted)) <= 0.6 * max(map(rows_of, body.predicted))


def rows_of(groups):
    return sum(len(group.rows) for group in groups)


@pytest.mark.model
def test_smollm2_scores_equal_the_plain_pass_one_request_at_a_time():
    """With and without company, in any order and in two lanes; shared and unshared prompts."""
    local = open_local("smollm2-135m", device="cpu", dtype="float32")
    texts = ["A tense and moving film.", "Dull; I left after an hour, and so did everybody else."]
    example = Record(key="e", context="Film: Ran. Verdict: fresh.", response="A masterpiece.")
    asked = [
        ScoreRequest(simulation_prompt(f"Film: {film}.", persona=persona, exemplars=[example], task=TASK), text)
        for persona in ("You love films and praise the actors.", "You are a grumpy critic.")
        for film in ("Heat", "Alien")
        for text in texts
        for _ in range(2)
    ]
    asked = [*asked[:-1], ScoreRequest(simulation_prompt("Write a line."), "Nobody shares this prompt.")]
    found = collect(local.score(asked))
    others = [collect(local.score(asked[::-1]))[::-1]]
    local.lanes = 2
    others.append(collect(local.score(asked)))
    for other in others:
        for one, two in zip(found, other, strict=True):
            assert np.abs(one.log_lik - two.log_lik)[: BETAS.index(1.0) + 1].max() < 1e-4
    model = local._given()
    for request, score in list(zip(asked, found, strict=True))[::2]:
        prompt = local.encoder.prompt_ids(request.prompt)
        response = local.encoder.response_ids(request.response)
        with torch.inference_mode():
            logits = model(torch.tensor([prompt + response]), use_cache=False).logits[0]
        for place in (BETAS.index(1.0), 17):
            log_probs = torch.log_softmax(BETAS[place] * logits.double(), dim=-1)
            picked = log_probs[range(len(prompt) - 1, len(prompt + response) - 1), response]
            assert score.log_lik[place] == pytest.approx(float(picked.sum()), abs=1e-3)


def test_the_single_node_gives_the_same_as_the_curve_at_temperature_one():
    asked = requests()
    curve, single = collect(build().score(asked)), collect(build(betas=ONE).score(asked))
    for whole, one in zip(curve, single, strict=True):
        assert one.log_lik.shape == (1,)
        assert one.log_lik[0] == pytest.approx(whole.log_lik[BETAS.index(1.0)], abs=1e-4)


def test_an_empty_list_gives_nothing():
    assert list(build().score([])) == []
    assert list(build().generate([], Decoding())) == []


def test_an_empty_response_is_refused():
    asked = [ScoreRequest(simulation_prompt("And?"), text) for text in ("ok", " ")]
    with pytest.raises(DataError, match="^request 1: a response to score is empty: ' '; at least"):
        list(build().score(asked))
    named = ScoreRequest(simulation_prompt("And?"), " ", "record 'r7'")
    with pytest.raises(DataError, match="^record 'r7': a response to score is empty"):
        list(build().score([named]))


def test_a_prompt_beyond_the_window_is_an_error_with_sizes():
    asked = [ScoreRequest(simulation_prompt("And?"), "ok"), ScoreRequest(simulation_prompt("x7" * 300), "ok")]
    with pytest.raises(PromptTooLongError, match=r"request 1 has 6\d\d prompt tokens .* tiny takes 512; use fewer"):
        list(build().score(asked))
    named = ScoreRequest(asked[1].prompt, "ok", "record 'r7'")
    with pytest.raises(PromptTooLongError, match=r"record 'r7' has 6\d\d prompt tokens"):
        list(build().score([named]))


def test_weights_that_are_not_numbers_are_an_error_not_a_score():
    model = tiny_llama()
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(BackendError, match="request 0 got the log-likelihood nan at τ = 3; it"):
        list(build(model).score(requests()[:1]))
    with pytest.raises(BackendError, match="logits that are not finite numbers for request 0, so"):
        list(build(model).generate(draws(1), Decoding()))


def test_a_positive_log_probability_is_an_error_that_says_where():
    local = build()
    local._load()
    item = local._item(3, ScoreRequest(simulation_prompt("And?"), "ok", "record 'r7'"))
    curve = -np.ones(len(BETAS))
    curve[BETAS.index(1.0)] = 0.01
    with pytest.raises(BackendError, match=r"record 'r7' got the log-likelihood 0\.01 at τ = 1; it must be finite"):
        local._checked(item, curve)
    curve[BETAS.index(1.0)] = 5e-4  # rounding of a sure response
    _, score = local._checked(item, curve)
    assert score.log_lik.max() == 0


class Small(torch.nn.Module):
    """A model whose memory ends when a batch has more than `most` tokens."""

    def __init__(self, model, most, error):
        super().__init__()
        self.inner, self.config, self.most, self.error = model, model.config, most, error
        self.largest = self.failures = 0

    def forward(self, input_ids, logits_to_keep=0, **rest):
        if input_ids.numel() > self.most:
            self.failures += 1
            raise self.error
        self.largest = max(self.largest, input_ids.numel())
        return self.inner(input_ids=input_ids, logits_to_keep=logits_to_keep, **rest)


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        MemoryError(),
    ],
)
def test_a_batch_that_runs_out_of_memory_is_halved_and_the_size_remembered(error):
    asked = requests()
    model = Small(tiny_llama(), 150, error)
    local = build(model)
    scores = collect(local.score(asked))
    expected = collect(build().score(asked))
    for one, two in zip(scores, expected, strict=True):
        assert np.abs(one.log_lik - two.log_lik).max() < 1e-4
    assert 60 < model.largest <= 150
    assert model.failures > 0
    model.failures = 0
    list(local.score(asked))
    assert model.failures == 0


class SmallNorm(torch.nn.Module):
    """The norm of a layer; its memory ends when more than `most` packed tokens come at a time."""

    def __init__(self, norm, most, meeting):
        super().__init__()
        self.norm, self.most, self.meeting, self.failures = norm, most, meeting, []

    def forward(self, hidden):
        tokens = hidden.shape[:-1].numel()
        if tokens > self.most:
            self.failures.append(tokens)
            with contextlib.suppress(threading.BrokenBarrierError):
                self.meeting.wait()  # in two lanes: let both fail before one halves
            raise MemoryError
        return self.norm(hidden)


@pytest.mark.parametrize("lanes", [1, 2])
def test_our_own_pass_survives_the_end_of_memory_too(lanes):
    asked = [
        ScoreRequest(simulation_prompt(f"{i} is a number of its own, and what of it?"), "fine") for i in range(100, 180)
    ]
    model = tiny_llama()
    norm = SmallNorm(model.model.layers[0].input_layernorm, 1000, threading.Barrier(lanes, timeout=5))
    model.model.layers[0].input_layernorm = norm
    local = build(model, lanes=lanes)
    scores = collect(local.score(asked))
    for one, two in zip(scores, collect(build().score(asked)), strict=True):
        assert np.abs(one.log_lik - two.log_lik).max() < 1e-4
    assert len(norm.failures) == lanes
    assert local._batch_tokens >= min(norm.failures) // 3  # halved once, not once for each lane
    norm.failures.clear()
    list(local.score(asked))
    assert norm.failures == []


class SmallSteps(Small):
    """Its memory ends when more than `most` rows are written at a time."""

    def forward(self, input_ids, **rest):
        if input_ids.shape[1] == 1 and input_ids.shape[0] > self.most:
            raise self.error
        return self.inner(input_ids=input_ids, **rest)


def test_memory_that_ends_while_texts_are_written_is_an_error_that_says_what_to_do():
    with pytest.raises(BackendError, match=r"memory ended while tiny wrote 24 rows of up to \d+ tokens side by side"):
        list(build(SmallSteps(tiny_llama(), 20, MemoryError())).generate(draws(24), Decoding()))


def test_a_request_that_never_fits_is_an_error():
    local = build(Small(tiny_llama(), 30, MemoryError()))
    with pytest.raises(BackendError, match="memory ended on a single request of tiny; give it"):
        list(local.score(requests()))


def test_another_error_of_the_model_is_not_taken_for_missing_memory():
    local = build(Small(tiny_llama(), 30, RuntimeError("shapes differ")))
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(local.score(requests()))


# Drawing


def draws(n, temperature=1.0, first=0):
    asked = requests()
    return [GenerateRequest((Branch(asked[i % len(asked)].prompt, temperature),), seed=first + i) for i in range(n)]


@pytest.mark.trial("16-padding-bf16")
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("builder", BUILDERS)
def test_a_drawn_text_depends_on_its_own_request_alone(builder, device):
    asked, decoding = draws(24), Decoding(max_tokens=12)
    local = build(builder(), device=device)
    together = collect(local.generate(asked, decoding))
    local._rows = 5  # rows that finish make room for waiting ones
    few = collect(local.generate(asked[::-1], decoding))[::-1]
    alone = [collect(local.generate([request], decoding))[0] for request in asked[::6]]
    halves = collect(build(builder(), device=device, lanes=2).generate(asked, decoding))
    same = together + together[::6] + together
    for one, two in zip(same, few + alone + halves, strict=True):
        assert (one.text, one.n_tokens, one.finish_reason) == (two.text, two.n_tokens, two.finish_reason)
        assert one.log_lik == pytest.approx(two.log_lik, abs=1e-4)
    assert min(one.n_tokens for one in together) < 12 or builder in (tiny_gpt2, tiny_gemma3)


@pytest.mark.parametrize("builder", [tiny_llama, tiny_gpt2])
def test_the_log_likelihood_of_a_draw_is_the_models_own(builder):
    local, model = build(builder()), builder()
    asked = draws(4, temperature=0.7)
    drafts = [local._draft(i, request) for i, request in enumerate(asked)]
    for request, draft, drawn in zip(
        asked, drafts, collect(local.generate(asked, Decoding(max_tokens=8))), strict=True
    ):
        again = ids_of(local, model, request, 8)
        total, ids = 0.0, draft.prompts[0]
        for token in again:
            total += float(next_log_probs(model, ids, 1 / 0.7)[token])
            ids = [*ids, token]
        assert drawn.n_tokens == len(again)
        assert drawn.log_lik == pytest.approx(total, abs=1e-4)
        assert drawn.text == local.encoder.text(again)


def ids_of(local, model, request, n):
    """Draw by the formula: the first token at which the distribution function passes draw t."""
    from mop.randomness import uniforms

    branch = request.branches[0]
    ids, drawn = local.encoder.prompt_ids(branch.prompt), []
    for place in range(n):
        probs = next_log_probs(model, ids, 1 / branch.temperature).exp().numpy()
        point = uniforms(request.seed, place, 1)[0]
        token = int(np.searchsorted(np.cumsum(probs), point, side="right"))
        drawn.append(token)
        ids = [*ids, token]
        if token in local.encoder.end_ids:
            break
    return drawn


def lettered(spread=0.05):
    """A model that writes the letters j, k, q, v, x, z and end-of-turn; all else is out of reach.

    Its tokens are single letters, so every text has one spelling.
    """
    model = tiny_llama(spread=spread)
    local = build(model)
    allowed = [*local.encoder._encode_data("jkqvxz"), local.encoder.end_id]
    with torch.no_grad():
        model.model.embed_tokens.weight[:, 31] = 3.0  # keeps the last column of the state large
        model.model.norm.weight.fill_(1.0)
        model.lm_head.weight[:, :31] *= 8
        model.lm_head.weight[:, 31] = -30.0
        model.lm_head.weight[allowed, 31] = 0.0
        model.lm_head.weight[allowed[-1], 31] = 0.2
    return local


def test_frequencies_of_short_texts_agree_with_their_scores():
    local = lettered()
    prompt = simulation_prompt("And?")
    n, temperature = 3000, 1.3
    asked = [GenerateRequest((Branch(prompt, temperature),), seed=i) for i in range(n)]
    drawn = collect(local.generate(asked, Decoding(max_tokens=3)))
    counts = Counter(one.text for one in drawn if one.finish_reason == "stop")
    texts = [x + y for x in "jkqvxz" for y in ["", *"jkqvxz"]]
    scores = collect(local.score([ScoreRequest(prompt, text) for text in texts]))
    probs = np.exp([float(score.log_lik @ weights(1 / temperature)) for score in scores])
    assert probs.max() > 2 * np.median(probs) > 0.005
    observed = np.array([counts[text] for text in texts])
    expected = np.append(n * probs, n * (1 - probs.sum()))
    assert stats.chisquare(np.append(observed, n - observed.sum()), expected).pvalue > 1e-3


def test_the_mean_score_of_drawn_texts_equals_the_samplers_own():
    local = lettered()
    asked = draws(40, temperature=1.7)
    drawn = collect(local.generate(asked, Decoding(max_tokens=60)))
    ended = [place for place, one in enumerate(drawn) if one.finish_reason == "stop" and one.text]
    assert len(ended) > 20
    pairs = [ScoreRequest(asked[place].branches[0].prompt, drawn[place].text) for place in ended]
    scores = collect(local.score(pairs))
    for place, score in zip(ended, scores, strict=True):
        assert score.n_tokens == drawn[place].n_tokens
        found = float(score.log_lik @ weights(1 / 1.7))
        assert found == pytest.approx(drawn[place].log_lik, abs=1e-3 * score.n_tokens)


def test_branches_are_mixed_token_by_token_in_equal_shares():
    local, model = build(), tiny_llama()
    prompts = [requests()[0].prompt, requests()[20].prompt]
    branches = (Branch(prompts[0], 0.8), Branch(prompts[1], 1.5))
    asked = [GenerateRequest(branches, seed=9), *draws(3)]
    drawn = collect(local.generate(asked, Decoding(max_tokens=6)))[0]
    ids = [local.encoder.prompt_ids(prompt) for prompt in prompts]
    total = 0.0
    again = []
    from mop.randomness import uniforms

    for place in range(drawn.n_tokens):
        one, two = (
            next_log_probs(model, tokens, 1 / branch.temperature).exp().numpy()
            for tokens, branch in zip(ids, branches, strict=True)
        )
        probs = 0.5 * one + 0.5 * two
        token = int(np.searchsorted(np.cumsum(probs), uniforms(9, place, 1)[0], side="right"))
        total += math.log(probs[token])
        again.append(token)
        ids = [[*tokens, token] for tokens in ids]
    assert drawn.text == local.encoder.text(again)
    assert drawn.log_lik == pytest.approx(total, abs=1e-4)


def test_truncation_to_one_token_is_greedy_and_certain():
    local, model = build(), tiny_llama()
    request = draws(1)[0]
    for decoding in (Decoding(max_tokens=5, top_k=1), Decoding(max_tokens=5, top_p=1e-6)):
        drawn = collect(local.generate([request], decoding))[0]
        ids = local.encoder.prompt_ids(request.branches[0].prompt)
        best = []
        for _ in range(drawn.n_tokens):
            best.append(int(next_log_probs(model, [*ids, *best], 1.0).argmax()))
        assert drawn.text == local.encoder.text(best)
        assert drawn.log_lik == pytest.approx(0, abs=1e-6)


def test_a_response_does_not_end_before_its_least_length():
    decoding = Decoding(max_tokens=30, min_tokens=9)
    drawn = collect(build().generate(draws(30), decoding))
    assert min(one.n_tokens for one in drawn) >= 10
    assert any(one.finish_reason == "stop" for one in drawn)


def test_drawn_text_holds_no_control_token():
    local = build(tiny_llama(spread=0.02))  # nearly uniform: control tokens are drawn often
    drawn = collect(local.generate(draws(60), Decoding(max_tokens=100)))
    assert any(one.finish_reason == "stop" for one in drawn)
    for one in drawn:
        assert not any(mark in one.text for mark in ("<|im", "think>"))
        assert not one.text.endswith("\ufffd")


def test_more_tokens_than_the_window_holds_are_refused():
    message = r"request 0 has \d+ prompt tokens and up to 500 response"
    with pytest.raises(PromptTooLongError, match=message):
        list(build().generate(draws(1), Decoding(max_tokens=500)))


def test_requests_that_cannot_be_drawn_are_refused():
    with pytest.raises(ConfigError, match="request 0 has temperature 0.0; a temperature is a fin"):
        list(build().generate(draws(1, temperature=0.0), Decoding()))
    with pytest.raises(ConfigError, match="request 0 has no branch; a response is drawn"):
        list(build().generate([GenerateRequest((), seed=1)], Decoding()))


# Settings and names


def test_both_protocols_are_met_and_identities_need_no_weights():
    def load():
        raise AssertionError("not needed")

    local = build(load)
    assert isinstance(local, Scorer)
    assert isinstance(local, Generator)
    assert local.name == "tiny"
    assert '"revision": "0"' in local.score_identity
    assert local.score_identity != build(load, betas=ONE).score_identity
    assert local.score_identity != build(load, dtype="bfloat16").score_identity
    assert local.generate_identity == build(load, betas=ONE).generate_identity


def test_the_weights_are_loaded_once_and_late():
    calls = []

    def load():
        calls.append(1)
        return tiny_llama()

    local = build(load)
    assert not calls
    list(local.score(requests()[:1]))
    list(local.generate(draws(1), Decoding(max_tokens=2)))
    assert calls == [1]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"device": "mps"}, "unknown device 'mps'; it must be cpu, cuda or cuda:N"),
        ({"dtype": "int3"}, "unknown dtype 'int3'; it must be one of float32, bfloat16, float16"),
        ({"memory_gib": 0}, "memory_gib must be a number above 0, got 0; leave it out"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        build(**settings)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="a model needs its tokenizer files beside it"):
        open_tokens(str(tmp_path))


def test_bfloat16_scores_are_close_to_float32_ones():
    asked = requests()
    exact, rough = (
        collect(build(tiny_llama(spread=0.1), dtype=dtype).score(asked)) for dtype in ("float32", "bfloat16")
    )
    assert any((one.log_lik != two.log_lik).any() for one, two in zip(exact, rough, strict=True))
    for one, two in zip(exact, rough, strict=True):
        place = BETAS.index(1.0)
        assert abs(one.log_lik[place] - two.log_lik[place]) / one.n_tokens < 0.02
