"""The log-likelihood of a text at every temperature, from one forward pass.

log p^τ(y|c) = Σ_t [ β z_t[y_t] − logsumexp_v β z_t[v] ] depends on the temperature through
β = 1/τ alone. It is kept as a curve: its values at the fixed nodes `BETAS`. Any β between the
outermost nodes is interpolated, so a fit may move τ without asking the model again.

**The coordinate.** As a function of β, the log-sum-exp bends where one likely token takes over from the many unlikely
ones, most sharply at small β. In x = 1/(β + 1/2) = 2τ/(2 + τ) the bends spread evenly, so a polynomial in x through
nodes that lie denser at both ends (near the Chebyshev points) is accurate. Measured on a four times finer grid than the
nodes', at 132 token positions of SmolLM2-135M: the worst error of any single token at any τ in [0.25, 3] is 2.3e-4
nats, on much sharper synthetic logits 4.4e-4 (`docs/engine.md`).

**The nodes** are multiples of 1/96 such that each is a sum of two earlier ones. Then one
exponential u = exp(z/96) is enough, and the sum over the vocabulary at each further node costs
a single multiplication: u^164 = u^113 · u^51. Multiplying is several times cheaper than another exp.

**Logits in bfloat16** take few values: 128 between two powers of two. On a processor they are counted,
one pass over the vocabulary, and every sum is one over values and counts, exact for these logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mop.errors import ConfigError

if TYPE_CHECKING:
    import torch

_STEP = 96
_SHIFT = 0.5
# power of exp(z/96): the two earlier powers whose product it is
_CHAIN = {
    2: (1, 1), 3: (2, 1), 4: (2, 2), 8: (4, 4), 16: (8, 8), 32: (16, 16), 33: (32, 1),
    35: (33, 2), 38: (35, 3), 42: (38, 4), 45: (42, 3), 51: (35, 16), 59: (51, 8), 67: (51, 16),
    80: (45, 35), 96: (51, 45), 113: (80, 33), 134: (96, 38), 164: (113, 51), 192: (96, 96),
    196: (164, 32), 234: (196, 38), 279: (234, 45), 321: (279, 42), 359: (321, 38),
    384: (192, 192),
}  # fmt: skip
_POWERS = tuple(power for power in _CHAIN if power >= 32 and power != 192)

BETAS: tuple[float, ...] = tuple(power / _STEP for power in _POWERS)
"""Nodes β = 1/τ, ascending, G = 20; τ = 3, τ = 1 and τ = 0.25 are among them."""

ONE: tuple[float, ...] = (1.0,)
"""The only node of a scorer that gives log-likelihoods at τ = 1 alone."""

_SLACK = 1e-6  # float32 betas may miss the ends of the range by rounding


def weights(beta: ArrayLike, betas: Sequence[float] = BETAS) -> NDArray[np.float64]:
    """Return w with log p at `beta` = curve · w.

    Parameters
    ----------
    beta : array_like, shape (...)
        Inverse temperatures within the range of `betas`. With the single node 1 every β is
        accepted and the weight is 1: such a scorer knows τ = 1 only.
    betas : sequence of float, shape (G,)
        Nodes of the scorer that made the curve.

    Returns
    -------
    ndarray, shape (..., G), float64

    Raises
    ------
    ConfigError
        If a β is outside the nodes' range.

    Examples
    --------
    >>> curve = -2.0 * np.array(BETAS)  # log p = -2 β
    >>> round(float(curve @ weights(1 / 0.7)), 6)
    -2.857143
    """
    value = np.asarray(beta, dtype=np.float64)
    if len(betas) == 1:
        return np.ones((*value.shape, 1))
    _check(float(value.min()), float(value.max()), betas)
    gaps_from, scale = _nodes(tuple(betas))
    gaps = 1.0 / (_SHIFT + value[..., None, None]) - gaps_from
    return np.asarray(np.prod(gaps, axis=-1) / scale)


def torch_weights(beta: torch.Tensor, betas: Sequence[float] = BETAS) -> torch.Tensor:
    """Return `weights` of a tensor, shape (K,) to (K, G), differentiable in β.

    In the dtype of `beta`, worked out in float64; errors are those of `weights`.
    """
    import torch

    if len(betas) == 1:
        return torch.ones_like(beta).unsqueeze(-1)
    _check(float(beta.detach().min()), float(beta.detach().max()), betas)
    gaps_from, scale = (torch.as_tensor(part, device=beta.device) for part in _nodes(tuple(betas)))
    gaps = 1.0 / (_SHIFT + beta.double()[..., None, None]) - gaps_from
    return (torch.prod(gaps, dim=-1) / scale).to(beta.dtype)


def token_curve(logits: torch.Tensor, targets: torch.Tensor, betas: Sequence[float] = BETAS) -> torch.Tensor:
    """Return the log-probability of each target token at every node.

    Parameters
    ----------
    logits : Tensor, shape (T, V)
        As the output layer gives them, in its own dtype. May be overwritten.
    targets : Tensor of int64, shape (T,)
    betas : sequence of float, shape (G,)
        `BETAS` or `ONE`.

    Returns
    -------
    Tensor, shape (T, G), float32
        Nats.

    Raises
    ------
    ConfigError
        If `betas` is neither.
    """
    import torch

    chosen = tuple(betas)
    if chosen not in (BETAS, ONE):
        raise ConfigError(
            f"a curve is made at the nodes BETAS or ONE of mop.backends.curve, got {len(chosen)} other "
            "nodes; pass one of the two"
        )
    is_counted = logits.dtype == torch.bfloat16 and logits.device.type == "cpu"
    if not is_counted:
        return _summed_curve(logits.float(), targets, chosen)
    curves = [
        _counted_curve(part, goal) if chosen == BETAS else _summed_curve(part.float(), goal, chosen)
        for part, goal in zip(torch.split(logits, _ROWS), torch.split(targets, _ROWS), strict=True)
    ]
    return torch.cat(curves)


def _summed_curve(logits: torch.Tensor, targets: torch.Tensor, chosen: tuple[float, ...]) -> torch.Tensor:
    """Return `token_curve` of float32 logits."""
    import torch

    most = logits.amax(dim=-1, keepdim=True)
    target = logits.gather(1, targets.unsqueeze(1)) - most
    if chosen == ONE:
        return target - logits.sub_(most).exp_().sum(dim=-1, keepdim=True).log_()
    # On an accelerator 2**22 numbers at 27 powers are 450 MB.
    sums = _power_sums(logits, most, 2**16 if logits.device.type == "cpu" else 2**22)
    scale = torch.tensor(BETAS, device=logits.device)
    return target * scale - sums.log_()


_ROWS = 16  # of bfloat16 logits at a time, so that counts and copies stay in a processor's cache
_LEAST = (127 - 14) << 7  # bfloat16 bits of 2**-14; smaller magnitudes count as this one
_PLACES = ((127 + 6) << 7) - _LEAST  # magnitudes from there to 2**6


def _counted_curve(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Return `token_curve` of a few rows of bfloat16 logits, by counting each value.

    Within an octave the bits of bfloat16 run through the values in order, so the bits of the
    magnitude are the place of a value, and those of negative ones are mirrored below zero.
    """
    import torch

    bits = logits.view(torch.int16)
    sign = bits >> 15  # 0 or -1
    place = (bits & 0x7FFF).clamp_(min=_LEAST).sub_(_LEAST)
    n = int(place.amax()) + 1
    if n > _PLACES:  # beyond ±64, or not a number: too wide for one table
        return _summed_curve(logits.float(), targets, BETAS)
    starts = torch.arange(n, 2 * n * len(logits), 2 * n, dtype=torch.int32)
    flat = place.bitwise_xor_(sign).int().add_(starts[:, None]).flatten()  # -1 - place if negative
    counts = torch.bincount(flat, minlength=2 * n * len(logits)).view(-1, 2 * n)
    up = torch.arange(_LEAST, _LEAST + n, dtype=torch.int16).view(torch.bfloat16).double()
    values = torch.cat([-up.flip(0), up])
    betas = torch.tensor(BETAS, dtype=torch.float64)
    most = values[counts.any(dim=0)][-1]  # no row is so far below that its sums vanish in float64
    sums = counts.double() @ torch.exp((values[:, None] - most) * betas)
    target = logits.gather(1, targets.unsqueeze(1)).double() - most
    return (target * betas - sums.log_()).float()


def _power_sums(logits: torch.Tensor, most: torch.Tensor, size: int) -> torch.Tensor:
    """Return Σ_v exp((logit_v − most) / 96)^power for every power of the nodes, (T, G).

    The vocabulary is cut into blocks of `size` numbers over all rows, so that on a processor the
    powers of one block stay in its cache.
    """
    import torch

    extra = [power for power in (1, *_CHAIN) if power not in _POWERS]
    places = {power: place for place, power in enumerate([*extra, *_POWERS])}
    n_rows = len(logits)
    blocks = torch.split(logits, max(256, size // n_rows), dim=-1)
    room = logits.new_empty((len(places), blocks[0].numel()))
    total = logits.new_zeros((len(_POWERS), n_rows))
    for block in blocks:
        powers = room[:, : block.numel()].view(len(places), n_rows, -1)
        torch.sub(block, most, out=powers[0]).div_(_STEP).exp_()
        for power, (one, other) in _CHAIN.items():
            torch.mul(powers[places[one]], powers[places[other]], out=powers[places[power]])
        total += powers[len(extra) :].sum(dim=-1)
    return total.T


@lru_cache(maxsize=8)
def _nodes(betas: tuple[float, ...]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of the Lagrange basis L_g(x) = Π_{h≠g} (x − x_h) / scale_g of a grid: all x_h, (G, G-1), and scales, (G,)."""
    place = 1.0 / (_SHIFT + np.array(betas))
    others = np.stack([np.delete(place, g) for g in range(len(betas))])
    return others, np.prod(place[:, None] - others, axis=-1)


def _check(least: float, most: float, betas: Sequence[float]) -> None:
    low, high = min(betas), max(betas)
    if not (low * (1 - _SLACK) <= least and most <= high * (1 + _SLACK)):
        worst = least if not low * (1 - _SLACK) <= least else most
        raise ConfigError(
            f"the temperature {1 / worst if worst else float('inf'):.4g} (β = {worst:.4g}) is outside what scores are "
            f"kept for: τ from {1 / high:.4g} to {1 / low:.4g}; keep temperatures within that range"
        )
