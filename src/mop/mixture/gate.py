"""The paper's gates: embeddings of context, personas and exemplars to log mixing weights. Ours: `mop.mixture.kernel`.

Letters: B contexts, K personas, N exemplars, D embedding size, d gate size.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mop.errors import DataError

_SAFE = 1e-200
"""Sums of exponentials below this may have lost terms to underflow (they end at 1e-308)."""
_CONTEXTS = 64
"""Contexts whose weights of all exemplars are in memory together."""


class Gate(nn.Module):
    """Persona gate π and exemplar gate Ω, with one temperature per persona.

    ::

        π_k(x)  = softmax_k  a_k + (W_x h(x)) · (W_g h(g_k))
        Ω_kj(x) = softmax_j  (W_x h(x) + W_g h(g_k)) · (W_e h(e_j))

    Parameters
    ----------
    hg : Tensor, shape (K, D)
        Unit-norm persona embeddings.
    he : Tensor, shape (N, D) or (N, 2D)
        Exemplar embeddings, see `mop.mixture.fitted.exemplar_vectors`.
    dim : int
        d, the size of the shared space.
    init_scale : float
        Standard deviation of the initial W_g and W_e relative to W_x; 0 starts at
        uniform gates exactly.
    log_tau : float
        Initial log temperature, the same for all personas.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, section 3. The paper has no a; it is not learned, and serves
    persona weights that are given (`with_persona_weights`).
    Values are float64: the tables are small and the exponents are not.
    """

    def __init__(
        self, hg: Tensor, he: Tensor, *, dim: int = 128, seed: int, init_scale: float = 0.0, log_tau: float = 0.0
    ) -> None:
        super().__init__()
        size = hg.shape[-1]
        if hg.ndim != 2 or he.ndim != 2 or he.shape[1] not in (size, 2 * size):
            raise DataError(
                "personas need embeddings of some size D, exemplars of D or 2D, "
                f"got {tuple(hg.shape)} and {tuple(he.shape)}"
            )
        self.register_buffer("hg", hg.double())
        self.register_buffer("he", he.double())
        self.register_buffer("a", torch.zeros(len(hg), dtype=torch.float64))
        rng = torch.Generator().manual_seed(seed % 2**63)

        def weight(scale: float, n: int = size) -> nn.Parameter:
            values = torch.randn(dim, n, generator=rng, dtype=torch.float64)
            return nn.Parameter(values * scale / size**0.5)

        self.w_x = weight(1.0)
        self.w_g = weight(init_scale)
        self.w_e = weight(init_scale, he.shape[1])
        self.log_tau = nn.Parameter(torch.full((len(hg),), log_tau, dtype=torch.float64))

    hg: Tensor
    he: Tensor
    a: Tensor

    def with_exemplars(self, rows: Sequence[int]) -> Gate:
        """The same gate over some of its exemplars; all else is shared, not copied."""
        some = copy(self)
        some._buffers = {**self._buffers, "he": self.he[torch.as_tensor(rows)]}
        return some

    def log_pi(self, hx: Tensor) -> Tensor:
        """Log persona weights of contexts hx (B, D): shape (B, K), ``exp`` sums to 1 over K."""
        logits = self.a + (hx.double() @ self.w_x.T) @ (self.hg @ self.w_g.T).T
        return torch.log_softmax(logits, dim=-1)

    def log_omega(self, hx: Tensor, persona: Tensor, own: Tensor | None = None) -> Tensor:
        """Log exemplar weights (B, N) of each context under one given persona each (B,).

        ``own`` (B,) names the exemplar that a context must not use, -1 for none; its weight is 0.
        """
        query = hx.double() @ self.w_x.T + (self.hg[persona] @ self.w_g.T)  # (B, d)
        return torch.log_softmax(_without(own, query @ (self.he @ self.w_e.T).T), dim=-1)

    def log_weight(self, hx: Tensor, persona: Tensor, exemplar: Tensor, own: Tensor | None = None) -> Tensor:
        """Log mixing weight π_k Ω_kj of given components.

        Parameters
        ----------
        hx : Tensor, shape (B, D)
        persona, exemplar : Tensor of int, shape (B, M)
            Component m of context b.
        own : Tensor of int, shape (B,), optional
            As in `log_omega`.

        Returns
        -------
        Tensor, shape (B, M)
            Normalised over all K × N components, whatever M is; minus infinity for the own exemplar.
        """
        keys = self.he @ self.w_e.T  # (N, d)
        from_context = _without(own, (hx.double() @ self.w_x.T) @ keys.T)  # (B, N)
        from_persona = (self.hg @ self.w_g.T) @ keys.T  # (K, N)
        norm = _log_norm(from_context, from_persona)
        logit = from_context.gather(1, exemplar) + from_persona[persona, exemplar]
        return (self.log_pi(hx) - norm).gather(1, persona) + logit

    def mean_weight(self, hx: Tensor, own: Tensor) -> Tensor:
        """Average weight (K·N,) of every component over contexts; component (k, j) at k·N + j, sum 1."""
        total = self.hg.new_zeros((len(self.hg), len(self.he)))
        for rows, mine in zip(torch.split(hx, _CONTEXTS), torch.split(own, _CONTEXTS), strict=True):
            pi = self.log_pi(rows).exp()
            for k in range(len(self.hg)):
                total[k] += pi[:, k] @ self.log_omega(rows, torch.full((len(rows),), k), mine).exp()
        return total.reshape(-1) / total.sum()

    def temperatures(self) -> Tensor:
        """τ_k > 0, shape (K,)."""
        return torch.exp(self.log_tau)

    def with_temperatures(self, tau: float | NDArray[np.float64]) -> Gate:
        """The same gate with other temperatures: one for all, or (K,)."""
        log_tau = torch.log(torch.as_tensor(tau, dtype=torch.float64)).expand(len(self.hg)).clone()
        some = copy(self)
        some._parameters = {**self._parameters, "log_tau": nn.Parameter(log_tau, requires_grad=False)}
        return some

    def with_persona_weights(self, weights: NDArray[np.float64]) -> Gate:
        """The same gate with persona weights (K,), > 0, for every context.

        Notes
        -----
        π sees W_x and W_g only in the product of W_x h(x) and W_g h(g), Ω only in their products with
        W_e h(e). With twice the dimensions, W_x = [W_x; 0], W_g = [0; W_g] and W_e = [W_e; W_e], the
        first product vanishes and the other two are what they were.
        """
        gate = Gate(self.hg, self.he, dim=2 * len(self.w_x), seed=0)
        nothing = torch.zeros_like(self.w_x)
        with torch.no_grad():
            gate.w_x.copy_(torch.cat([self.w_x, nothing]))
            gate.w_g.copy_(torch.cat([nothing, self.w_g]))
            gate.w_e.copy_(torch.cat([self.w_e, self.w_e]))
            gate.a.copy_(torch.as_tensor(np.log(weights)))
            gate.log_tau.copy_(self.log_tau)
        return gate.requires_grad_(False)


def _without(own: Tensor | None, logits: Tensor) -> Tensor:
    """Exemplar logits (B, N), minus infinity for the own exemplar (B,) of each context."""
    if own is None:
        return logits
    return logits.masked_fill(own[:, None] == torch.arange(logits.shape[1]), -torch.inf)


def _log_norm(from_context: Tensor, from_persona: Tensor) -> Tensor:
    """Log normaliser of Ω for every context and persona, (B, K), from what (B, N) and (K, N) add up to its logits.

    The logit is a sum of two halves, so the sum of its exponentials over N exemplars
    is one matrix product: no table B × K × N is ever built.
    """
    top_context = from_context.detach().amax(dim=1, keepdim=True)
    top_persona = from_persona.detach().amax(dim=1, keepdim=True)
    total = torch.exp(from_context - top_context) @ torch.exp(from_persona - top_persona).T
    vanishing = total < _SAFE
    norm = torch.log(torch.where(vanishing, 1.0, total)) + top_context + top_persona.T
    if bool(vanishing.any()):  # context and persona want opposite things, very strongly
        i, k = torch.nonzero(vanishing, as_tuple=True)
        norm = norm.index_put((i, k), torch.logsumexp(from_context[i] + from_persona[k], dim=1))
    return norm
