"""The gates against plain loops and the laws of probability."""

import math

import pytest
import torch

from mop.errors import DataError
from mop.mixture.gate import Gate


@pytest.fixture(params=[5, 10], ids=["exemplars D", "exemplars 2D"])
def gate(request):
    rng = torch.Generator().manual_seed(0)
    g = Gate(
        torch.randn(3, 5, generator=rng), torch.randn(4, request.param, generator=rng), dim=2, seed=1, init_scale=2.0
    )
    with torch.no_grad():
        g.a.copy_(torch.randn(g.a.shape, generator=rng))
    return g.requires_grad_(False)


@pytest.fixture
def hx():
    return torch.randn(2, 5, generator=torch.Generator().manual_seed(9))


def loop_log_weight(gate, x, k, j, own=-1):
    """π_k Ω_kj as the formulas read."""
    wx, wg, we = (w.detach().numpy() for w in (gate.w_x, gate.w_g, gate.w_e))
    hg, he, a = (t.detach().numpy() for t in (gate.hg, gate.he, gate.a))
    x = x.double().numpy()
    pi = [math.exp(a[q] + (wx @ x) @ (wg @ hg[q])) for q in range(len(hg))]
    omega = [0.0 if m == own else math.exp((wx @ x + wg @ hg[k]) @ (we @ he[m])) for m in range(len(he))]
    return math.log(pi[k] / sum(pi) * omega[j] / sum(omega))


def every(gate, n):
    flat = torch.arange(12).expand(n, -1)
    return flat // 4, flat % 4


def test_weights_equal_the_formulas(gate, hx):
    own = torch.tensor([-1, 2])
    log_w = gate.log_weight(hx, *every(gate, 2), own)
    for i in range(2):
        for c in range(12):
            if c % 4 != int(own[i]):
                assert float(log_w[i, c]) == pytest.approx(loop_log_weight(gate, hx[i], c // 4, c % 4, int(own[i])))


def test_weights_sum_to_one_and_the_own_exemplar_has_none(gate, hx):
    log_w = gate.log_weight(hx, *every(gate, 2), torch.tensor([-1, 2]))
    assert log_w.exp().sum(1).tolist() == pytest.approx([1, 1])
    assert torch.isneginf(log_w[1, 2::4]).all()


def test_log_omega_agrees_with_log_weight(gate, hx):
    persona = torch.tensor([0, 2])
    own = torch.tensor([-1, 2])
    log_omega = gate.log_omega(hx, persona, own)
    log_w = gate.log_weight(hx, persona[:, None].expand(2, 4), torch.arange(4).expand(2, 4), own)
    log_pi = gate.log_pi(hx).gather(1, persona[:, None])
    torch.testing.assert_close(log_w - log_pi, log_omega)


def test_an_untrained_gate_is_uniform():
    g = Gate(torch.randn(3, 5), torch.randn(4, 5), seed=0)
    log_w = g.log_weight(torch.randn(2, 5), *every(g, 2)).detach()
    torch.testing.assert_close(log_w, torch.full((2, 12), -math.log(12), dtype=torch.float64))


def test_an_untrained_gate_has_a_gradient_to_follow(hx):
    g = Gate(torch.randn(3, 5), torch.randn(4, 5), seed=0)
    (-g.log_weight(hx, torch.tensor([[0], [1]]), torch.tensor([[1], [2]])).sum()).backward()
    assert float(g.w_g.grad.abs().max()) > 0
    assert float(g.w_e.grad.abs().max()) > 0


def test_opposing_preferences_stay_finite(gate, hx):
    with torch.no_grad():
        gate.w_e.mul_(100.0)
    log_w = gate.log_weight(hx, *every(gate, 2))
    assert torch.isfinite(log_w).all()
    assert log_w.exp().sum(1).tolist() == pytest.approx([1, 1])


def test_mean_weight_is_the_average_over_contexts(gate, hx, monkeypatch):
    monkeypatch.setattr("mop.mixture.gate._CONTEXTS", 1)
    own = torch.tensor([-1, 2])
    by_hand = gate.log_weight(hx, *every(gate, 2), own).exp().mean(0)
    torch.testing.assert_close(gate.mean_weight(hx, own), by_hand)


def test_embeddings_of_different_size_are_refused():
    with pytest.raises(DataError, match=r"exemplars of D or 2D, got \(3, 5\) and \(4, 6\)"):
        Gate(torch.zeros(3, 5), torch.zeros(4, 6), seed=0)
