"""The curve over temperatures against direct evaluation, and its weights against arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from mop.backends.curve import BETAS, ONE, torch_weights, weights
from mop.errors import ConfigError

torch = pytest.importorskip("torch")

from mop.backends.curve import token_curve  # noqa: E402

GRID = np.concatenate([np.linspace(1 / 3, 4, 80), 1 / np.linspace(0.25, 3, 120)])


def direct(logits, targets, beta):
    """The formula of DESIGN, in float64."""
    scaled = beta * logits.double()
    chosen = scaled.gather(1, targets[:, None])[:, 0]
    return (chosen - torch.logsumexp(scaled, dim=1)).numpy()


def model_like_logits(n=40, vocabulary=10_000):
    """One likely token, a few rivals, and a broad bulk far below, as language models give."""
    torch.manual_seed(1)
    logits = 2.5 * torch.randn(n, vocabulary) - 3
    for row in range(n):
        rivals = 1 + row % 7
        logits[row, :rivals] = torch.linspace(12 + row % 9, 8, rivals)
    return logits, torch.randint(0, 12, (n,))


def test_the_nodes_cover_temperatures_from_a_quarter_to_three_and_hold_one():
    assert min(BETAS) == pytest.approx(1 / 3)
    assert max(BETAS) == 4
    assert 1.0 in BETAS
    assert list(BETAS) == sorted(set(BETAS))
    assert ONE == (1.0,)


def test_the_curve_equals_direct_evaluation_at_every_node():
    logits, targets = model_like_logits()
    curve = token_curve(logits.clone(), targets).numpy()
    for place, beta in enumerate(BETAS):
        assert np.abs(curve[:, place] - direct(logits, targets, beta)).max() < 1e-4
    single = token_curve(logits.clone(), targets, ONE).numpy()
    assert np.abs(single[:, 0] - direct(logits, targets, 1.0)).max() < 1e-5


def test_counted_bfloat16_logits_give_their_own_curve_exactly():
    logits, targets = model_like_logits()
    rough = logits.bfloat16()
    rough[3] -= 30  # rows far apart in height, and values of both signs near zero
    rough[4, 50:90] = torch.linspace(-1e-3, 1e-3, 40)
    curve = token_curve(rough.clone(), targets).numpy()
    for place, beta in enumerate(BETAS):
        assert np.abs(curve[:, place] - direct(rough, targets, beta)).max() < 1e-5
    single = token_curve(rough.clone(), targets, ONE).numpy()
    assert np.abs(single[:, 0] - direct(rough, targets, 1.0)).max() < 1e-5


def test_bfloat16_logits_too_wide_to_count_are_summed_and_a_broken_row_stays_alone():
    logits, targets = model_like_logits()
    wide = logits.bfloat16()
    wide[0, 7] = 100.0
    wide[20, 7] = float("nan")
    curve = token_curve(wide.clone(), targets).numpy()
    assert np.isnan(curve[20]).all()
    assert np.isfinite(np.delete(curve, 20, axis=0)).all()
    for place, beta in enumerate(BETAS):
        found = np.abs(curve[:, place] - direct(wide, targets, beta))
        assert np.delete(found, 20).max() < 1e-3


def test_between_the_nodes_the_error_is_below_a_thousandth_of_a_nat():
    logits, targets = model_like_logits()
    curve = token_curve(logits.clone(), targets).double().numpy()
    worst = max(np.abs(curve @ weights(b) - direct(logits, targets, b)).max() for b in GRID)
    assert worst < 1e-3


@pytest.mark.model
def test_on_a_real_model_the_error_is_below_a_thousandth_of_a_nat_per_token():
    from mop.backends.local import open_local
    from mop.prompts import simulation_prompt

    local = open_local("smollm2-135m", device="cpu", dtype="float32")
    model = local._given()
    texts = ["A dull film.", "Funny, warm and well acted; see it twice.", "Zwei Stunden Langeweile!"]
    for text in texts:
        prompt = simulation_prompt("Film: Heat.", persona="You are a critic.", task="a review")
        ids = local.encoder.prompt_ids(prompt)
        answer = local.encoder.response_ids(text)
        with torch.inference_mode():
            logits = model(torch.tensor([ids + answer])).logits[0, len(ids) - 1 : -1]
        targets = torch.tensor(answer)
        curve = token_curve(logits.clone(), targets).double().numpy()
        for beta in GRID[::5]:
            assert np.abs(curve @ weights(beta) - direct(logits, targets, beta)).max() < 1e-3


def test_weights_at_a_node_pick_that_node_and_always_sum_to_one():
    assert np.allclose(weights(np.array(BETAS)), np.eye(len(BETAS)), atol=1e-12)
    assert np.allclose(weights(GRID).sum(axis=-1), 1)
    assert weights(GRID.reshape(20, 10)).shape == (20, 10, len(BETAS))


def test_the_torch_weights_are_the_same_and_their_gradient_that_of_differences():
    betas = torch.tensor([0.35, 1.0, 1 / 0.6, 3.7], dtype=torch.float64, requires_grad=True)
    curve = torch.randn(len(BETAS), dtype=torch.float64)
    found = torch_weights(betas)
    assert np.allclose(found.detach().numpy(), weights(betas.detach().numpy()))
    (found @ curve).sum().backward()
    beta, step = betas.detach().numpy(), 1e-5
    expected = (weights(beta + step) - weights(beta - step)) / (2 * step) @ curve.numpy()
    assert np.allclose(betas.grad.numpy(), expected, rtol=1e-4, atol=1e-3)
    assert torch_weights(betas.detach().float()).dtype == torch.float32


def test_a_single_node_is_constant():
    assert weights(0.01, ONE).tolist() == [1.0]
    assert torch_weights(torch.tensor([7.0]), ONE).tolist() == [[1.0]]


@pytest.mark.parametrize(
    ("beta", "message"),
    [
        (0.3, r"the temperature 3\.333 .* is outside what scores are kept for: τ from 0\.25 to 3;"),
        (5.0, r"the temperature 0\.2 .* is outside what scores are kept for: τ from 0\.25 to 3;"),
        (float("nan"), "the temperature nan"),
    ],
)
def test_temperatures_beyond_the_nodes_are_refused(beta, message):
    for ask in (weights, lambda b: torch_weights(torch.tensor([b]))):
        with pytest.raises(ConfigError, match=message):
            ask(beta)


def test_other_nodes_are_refused_when_a_curve_is_made():
    with pytest.raises(ConfigError, match="a curve is made at the nodes BETAS or ONE of mop.backends.curve"):
        token_curve(torch.zeros(1, 5), torch.tensor([0]), (0.5, 1.0))
