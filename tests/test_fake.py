"""The toy model: scores by hand, draws by frequency, the same whatever the batch."""

import math
from collections import Counter

import numpy as np
import pytest

from mop.backends import curve
from mop.backends.base import Generator, Scorer
from mop.backends.fake import OTHER, FakeModel
from mop.errors import BackendError, ConfigError
from mop.types import Branch, Decoding, GenerateRequest, Prompt, ScoreRequest, Segment, Turn

BETAS = (0.5, 1.0, 2.0)


def said(data, template="Template text never counts."):
    return Prompt((Turn("user", (Segment(template, False), Segment(data, True))),))


def scores(model, *requests):
    found = dict(pair for batch in model.score(requests) for pair in batch)
    return [found[i] for i in range(len(requests))]


def draws(model, requests, decoding=None):
    batches = model.generate(requests, decoding or Decoding())
    found = dict(pair for batch in batches for pair in batch)
    return [found[i] for i in range(len(requests))]


def draw_requests(n, data="", temperature=1.0):
    return [GenerateRequest((Branch(said(data), temperature),), seed) for seed in range(n)]


def test_it_is_a_scorer_and_a_generator():
    model = FakeModel(BETAS)
    assert isinstance(model, Scorer)
    assert isinstance(model, Generator)
    assert (model.name, model.betas) == ("fake", BETAS)


def test_the_default_betas_are_those_of_the_curves():
    assert FakeModel().betas == curve.BETAS


def test_scores_are_the_sums_of_logs_that_the_docstring_promises():
    # alphabet "ab": weights a = 1 + 3, b = 1, OTHER = 1, end = 6 / 2 = 3; in all 9
    model = FakeModel(BETAS, alphabet="ab", mean_length=2)
    score, empty = scores(model, ScoreRequest(said("aaa"), "aab"), ScoreRequest(said("aaa"), ""))
    assert score.n_tokens == 4
    for beta, log_lik in zip(BETAS, score.log_lik, strict=True):
        z = 4**beta + 1 + 1 + 3**beta
        expected = 2 * math.log(4**beta / z) + math.log(1 / z) + math.log(3**beta / z)
        assert log_lik == pytest.approx(expected, rel=1e-6)
    assert empty.n_tokens == 1
    assert empty.log_lik[1] == pytest.approx(math.log(3 / 9), rel=1e-6)


def test_probabilities_of_all_short_texts_and_the_rest_add_up_to_one():
    model = FakeModel([1.0], alphabet="ab", mean_length=1)
    texts = ["", *"ab", OTHER, *(x + y for x in "ab" + OTHER for y in "ab" + OTHER)]
    requests = [ScoreRequest(said("ab"), text) for text in texts]
    total = sum(math.exp(score.log_lik[0]) for score in scores(model, *requests))
    assert total == pytest.approx(1 - 0.5**3, rel=1e-6)  # each token is not the end with p = 1/2


def test_every_text_can_be_scored_and_unknown_characters_are_one():
    model = FakeModel(BETAS, alphabet="ab")
    one, two = scores(model, ScoreRequest(said("漢"), "字\x00"), ScoreRequest(said(OTHER), OTHER * 2))
    assert one.log_lik.tolist() == two.log_lik.tolist()
    assert np.isfinite(one.log_lik).all()


def test_what_the_prompt_says_becomes_likelier_unless_strength_is_zero():
    request = [ScoreRequest(said(data), "aa") for data in ("bbbb", "aaaa")]
    apart = scores(FakeModel(BETAS), *request)
    assert (apart[1].log_lik > apart[0].log_lik).all()
    deaf = scores(FakeModel(BETAS, strength=0), *request)
    assert (deaf[1].log_lik == deaf[0].log_lik).all()


def test_template_text_does_not_count():
    model = FakeModel(BETAS)
    one, two = scores(model, ScoreRequest(said("b", "aaaa"), "a"), ScoreRequest(said("b", "zz"), "a"))
    assert (one.log_lik == two.log_lik).all()


def test_results_do_not_depend_on_the_batch():
    sizes = []
    requests = [ScoreRequest(said("abc" * i), "a" * i) for i in range(10)]
    drawn = draw_requests(10, "abc")
    big = FakeModel(BETAS, batch_size=64)
    small = FakeModel(BETAS, batch_size=3, on_batch=sizes.append)
    for one, two in zip(scores(big, *requests), scores(small, *requests), strict=True):
        assert (one.log_lik == two.log_lik).all()
    assert draws(big, drawn) == draws(small, drawn)
    assert draws(big, drawn[4:5]) == draws(big, drawn)[4:5]
    assert sizes == [3, 3, 3, 1] * 2


def test_the_hook_comes_before_the_batch_is_handed_over():
    def crash(_):
        raise KeyboardInterrupt

    model = FakeModel(BETAS, on_batch=crash)
    with pytest.raises(KeyboardInterrupt):
        next(model.score([ScoreRequest(said(""), "a")]))


def test_drawn_characters_have_the_frequencies_of_the_model():
    # weights a = 3, b = 1, OTHER = 1, end = 5/4; at temperature 2 square roots of these
    model = FakeModel(BETAS, alphabet="ab", mean_length=4)
    drawn = draws(model, draw_requests(3000, "aa", temperature=2.0))
    assert {g.finish_reason for g in drawn} == {"stop"}
    counts = Counter("".join(g.text for g in drawn))
    counts["end"] = len(drawn)
    n = sum(counts.values())
    assert n == sum(g.n_tokens for g in drawn)
    weights = {"a": 3**0.5, "b": 1.0, OTHER: 1.0, "end": 1.25**0.5}
    for token, weight in weights.items():
        p = weight / sum(weights.values())
        assert abs(counts[token] - n * p) < 4 * math.sqrt(n * p * (1 - p))


def test_a_draw_scores_what_its_sampler_said():
    model = FakeModel([1 / 0.8], alphabet="ab", mean_length=5)
    requests = draw_requests(20, "ab", temperature=0.8)
    drawn = draws(model, requests)
    scored = scores(model, *(ScoreRequest(r.branches[0].prompt, g.text) for r, g in zip(requests, drawn, strict=True)))
    for generation, score in zip(drawn, scored, strict=True):
        assert generation.log_lik == pytest.approx(float(score.log_lik[0]), rel=1e-5)
        assert generation.n_tokens == score.n_tokens


def test_a_response_is_as_long_on_average_as_asked_for():
    drawn = draws(FakeModel(BETAS, mean_length=10), draw_requests(2000, "hello"))
    lengths = [len(g.text) for g in drawn]
    assert np.mean(lengths) == pytest.approx(10, abs=4 * math.sqrt(110 / 2000))  # geometric


def test_a_response_that_goes_on_is_cut_and_says_so():
    model = FakeModel(BETAS, mean_length=1e6)
    (cut,) = draws(model, draw_requests(1), Decoding(max_tokens=5))
    assert (len(cut.text), cut.n_tokens, cut.finish_reason) == (5, 5, "length")


def test_a_longer_limit_only_continues_a_text():
    model = FakeModel(BETAS, mean_length=20)
    short = draws(model, draw_requests(20), Decoding(max_tokens=5))
    long = draws(model, draw_requests(20), Decoding(max_tokens=50))
    assert [g.text[:5] for g in long] == [g.text for g in short]


def test_the_end_does_not_come_before_the_least_number_of_tokens():
    model = FakeModel(BETAS, alphabet="ab", mean_length=0.5)
    drawn = draws(model, draw_requests(300), Decoding(min_tokens=3))
    assert min(len(g.text) for g in drawn) == 3
    # three characters, each 1/3 of what is no end; then the end with p = 2/3
    shortest = next(g for g in drawn if len(g.text) == 3)
    assert shortest.log_lik == pytest.approx(3 * math.log(1 / 3) + math.log(2 / 3))


def test_truncation_keeps_only_the_likeliest_tokens():
    model = FakeModel(BETAS, alphabet="abc", mean_length=1)
    # weights a = 5, b = 3, c = 1, OTHER = 1, end = 10; shares .25 .15 .05 .05 .5
    requests = draw_requests(400, "aaaabb")
    for decoding, kept in [
        (Decoding(top_k=1), ""),
        (Decoding(top_k=3), "ab"),
        (Decoding(top_p=0.75), "a"),
        (Decoding(top_p=0.76), "ab"),
        (Decoding(top_p=0.6, top_k=2), ""),  # of the two, the end has 2/3
        (Decoding(top_p=0.7, top_k=2), "a"),
    ]:
        assert set("".join(g.text for g in draws(model, requests, decoding))) == set(kept)


def test_several_branches_are_averaged_token_by_token():
    # a is drawn by the first three branches only, b by the last only
    model = FakeModel(BETAS, alphabet="ab", strength=1e9, mean_length=1)
    branches = (*[Branch(said("a"), 1.0)] * 3, Branch(said("b"), 1.0))
    requests = [GenerateRequest(branches, seed) for seed in range(2000)]
    counts = Counter("".join(g.text for g in draws(model, requests)))
    n = counts["a"] + counts["b"]
    assert counts[OTHER] == 0
    assert abs(counts["a"] - 0.75 * n) < 4 * math.sqrt(n * 0.75 * 0.25)


def test_a_draw_needs_a_branch_and_a_positive_temperature():
    for branches in [(), (Branch(said(""), 0.0),), (Branch(said(""), math.nan),)]:
        with pytest.raises(BackendError, match="at least one branch, each with a temperature above 0"):
            draws(FakeModel(BETAS), [GenerateRequest(branches, 1)])


def test_the_identity_names_every_constant():
    models = [
        FakeModel(BETAS),
        FakeModel(BETAS[:2]),
        FakeModel(BETAS, alphabet="ab"),
        FakeModel(BETAS, strength=2),
        FakeModel(BETAS, mean_length=2),
    ]
    assert len({m.score_identity for m in models}) == 5
    assert len({m.generate_identity for m in models}) == 4  # a draw does not depend on betas
    assert FakeModel(BETAS, batch_size=1).score_identity == FakeModel(BETAS).score_identity


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"betas": []}, "betas must be positive and ascending"),
        ({"betas": [2.0, 1.0]}, "betas must be positive and ascending"),
        ({"betas": [0.0, 1.0]}, "betas must be positive and ascending"),
        ({"alphabet": "aa"}, "the alphabet must be distinct characters"),
        ({"alphabet": ""}, "the alphabet must be distinct characters"),
        ({"strength": -1}, "give strength ≥ 0, mean_length > 0 and batch_size ≥ 1"),
        ({"mean_length": 0}, "give strength ≥ 0, mean_length > 0 and batch_size ≥ 1"),
        ({"batch_size": 0}, "give strength ≥ 0, mean_length > 0 and batch_size ≥ 1"),
    ],
)
def test_constants_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        FakeModel(**({"betas": BETAS} | options))
