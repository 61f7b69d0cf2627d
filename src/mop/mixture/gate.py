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
from mop.mixture.kernel import KernelGate

_SAFE = {torch.float64: 1e-200, torch.float32: 1e-20}
"""Sums of exponentials below this may have lost terms to underflow (they end at 1e-308 and 1e-38)."""


class Gate(nn.Module):
    """Persona gate π and exemplar gate Ω, with one temperature per persona.

    ::

        π_k(x)  = softmax_k  a_k + (W_x h(x)) · (W_g h(g_k))
        Ω_kj(x) = softmax_j  b_j + (W_x h(x) + W_g h(g_k)) · (W_e h(e_j))

    Parameters
    ----------
    hg : Tensor, shape (K, D)
        Unit-norm persona embeddings.
    he : Tensor, shape (N, D) or (N, 2D)
        Exemplar embeddings; in 2D columns that of the text and that of its context, see
        `mop.mixture.fitted.exemplar_vectors`.
    dim : int
        d, the size of the shared space.
    biases : bool
        Whether a and b are learned. The paper has none; with them the gates are a departure from
        weights that ignore the context. b_j = v · h(e_j) + δ_j, so that it says
        something about exemplars that were never scored.
    seed : int
        Of the initial weights.
    init_scale : float
        Standard deviation of the initial W_g and W_e relative to W_x; 0 starts at
        uniform gates exactly.
    log_tau : float
        Initial log temperature, the same for all personas.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, section 3. The biases are ours.
    Values are float64: the tables are small and the exponents are not.
    """

    def __init__(
        self,
        hg: Tensor,
        he: Tensor,
        *,
        dim: int = 128,
        biases: bool = True,
        seed: int,
        init_scale: float = 0.0,
        log_tau: float = 0.0,
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
        rng = torch.Generator().manual_seed(seed % 2**63)

        def weight(scale: float, n: int = size) -> nn.Parameter:
            values = torch.randn(dim, n, generator=rng, dtype=torch.float64)
            return nn.Parameter(values * scale / size**0.5)

        self.w_x = weight(1.0)
        self.w_g = weight(init_scale)
        self.w_e = weight(init_scale, he.shape[1])
        self.log_tau = nn.Parameter(torch.full((len(hg),), log_tau, dtype=torch.float64))
        self.a = nn.Parameter(torch.zeros(len(hg), dtype=torch.float64), requires_grad=biases)
        self.delta = nn.Parameter(torch.zeros(len(he), dtype=torch.float64), requires_grad=biases)
        self.v = nn.Parameter(torch.zeros(he.shape[1], dtype=torch.float64), requires_grad=biases)

    hg: Tensor
    he: Tensor

    def with_exemplars(self, rows: Sequence[int]) -> Gate:
        """The same gate over some of its exemplars; all else is shared, not copied."""
        some, place = copy(self), torch.as_tensor(rows)
        some._buffers = {**self._buffers, "he": self.he[place]}
        delta = nn.Parameter(self.delta.detach()[place], requires_grad=False)
        some._parameters = {**self._parameters, "delta": delta}
        return some

    def log_pi(self, hx: Tensor) -> Tensor:
        """Log persona weights of contexts hx (B, D): shape (B, K), ``exp`` sums to 1 over K."""
        logits = self.a + (hx.double() @ self.w_x.T) @ (self.hg @ self.w_g.T).T
        return torch.log_softmax(logits, dim=-1)

    def exemplar_logits(self, hx: Tensor, own: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The two halves whose sum is the exemplar logit: (B, N) from the context, (K, N) from the persona.

        ``own`` (B,) names the exemplar that a context must not use, -1 for none; its
        logit is minus infinity.
        """
        return self._exemplar_logits(hx.double() @ self.w_x.T, self.hg @ self.w_g.T, own, torch.float64)

    def _exemplar_logits(
        self, from_x: Tensor, from_g: Tensor, own: Tensor | None, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """`exemplar_logits` of projected contexts (B, d) and personas (K, d)."""
        he = self.he.to(dtype)
        keys = he @ self.w_e.to(dtype).T  # (N, d)
        from_context = from_x @ keys.T + (he @ self.v.to(dtype) + self.delta.to(dtype))
        if own is not None and bool((own >= 0).any()):
            rows = torch.nonzero(own >= 0).squeeze(1)
            blocked = torch.zeros_like(from_context, dtype=torch.bool)
            blocked[rows, own[rows]] = True
            from_context = from_context.masked_fill(blocked, -torch.inf)
        return from_context, from_g @ keys.T

    def log_omega_norm(self, from_context: Tensor, from_persona: Tensor) -> Tensor:
        """Log normaliser of Ω for every context and persona: shape (B, K).

        The logit is a sum of two halves, so the sum of its exponentials over N exemplars
        is one matrix product: no table B × K × N is ever built.
        """
        top_context = from_context.detach().amax(dim=1, keepdim=True)
        top_persona = from_persona.detach().amax(dim=1, keepdim=True)
        total = torch.exp(from_context - top_context) @ torch.exp(from_persona - top_persona).T
        vanishing = total < _SAFE[total.dtype]
        norm = torch.log(torch.where(vanishing, 1.0, total)) + top_context + top_persona.T
        if bool(vanishing.any()):  # context and persona want opposite things, very strongly
            i, k = torch.nonzero(vanishing, as_tuple=True)
            exact = torch.logsumexp(from_context[i] + from_persona[k], dim=1)
            norm = norm.index_put((i, k), exact)
        return norm

    def log_weight(
        self,
        hx: Tensor,
        persona: Tensor,
        exemplar: Tensor,
        own: Tensor | None = None,
        *,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Log mixing weight π_k Ω_kj of given components.

        Parameters
        ----------
        hx : Tensor, shape (B, D)
        persona, exemplar : Tensor of int, shape (B, M)
            Component m of context b.
        own : Tensor of int, shape (B,), optional
            As in `exemplar_logits`.
        dtype : torch dtype
            Of the products; float32 is several times faster, and good to 1e-5 where logits are
            of ordinary size: enough to find an optimum, not to state a value.

        Returns
        -------
        Tensor, shape (B, M), float64
            Normalised over all K × N components, whatever M is; minus infinity for the own exemplar.
        """
        from_x = hx.to(dtype) @ self.w_x.to(dtype).T
        from_g = self.hg.to(dtype) @ self.w_g.to(dtype).T
        from_context, from_persona = self._exemplar_logits(from_x, from_g, own, dtype)
        norm = self.log_omega_norm(from_context, from_persona)
        logit = from_context.gather(1, exemplar) + from_persona[persona, exemplar]
        log_pi = torch.log_softmax(self.a.to(dtype) + from_x @ from_g.T, dim=-1)
        return ((log_pi - norm).gather(1, persona) + logit).double()

    def log_omega(self, hx: Tensor, persona: Tensor, own: Tensor | None = None) -> Tensor:
        """Log exemplar weights (B, N) of each context under one given persona each (B,)."""
        query = hx.double() @ self.w_x.T + (self.hg[persona] @ self.w_g.T)  # (B, d)
        logits = query @ (self.he @ self.w_e.T).T + (self.he @ self.v + self.delta)
        if own is not None:
            rows = torch.nonzero(own >= 0).squeeze(1)
            logits[rows, own[rows]] = -torch.inf
        return torch.log_softmax(logits, dim=-1)

    def temperatures(self) -> Tensor:
        """τ_k > 0, shape (K,)."""
        return torch.exp(self.log_tau)

    def with_temperatures(self, tau: float | NDArray[np.float64]) -> Gate:
        """The same gate with other temperatures: one for all, or (K,)."""
        gate = Gate(self.hg, self.he, dim=len(self.w_x), seed=0)
        gate.load_state_dict(self.state_dict())
        with torch.no_grad():
            given = torch.as_tensor(tau, dtype=torch.float64)
            gate.log_tau.copy_(torch.log(given).expand(len(self.hg)))
        return gate.requires_grad_(False)

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
            for name in ("log_tau", "delta", "v"):
                getattr(gate, name).copy_(getattr(self, name))
        return gate.requires_grad_(False)


def mean_weight(
    gate: Gate | KernelGate, hx: NDArray[np.float32], own: NDArray[np.int64], *, chunk: int = 64
) -> NDArray[np.float64]:
    """Average gate weight of every component over some contexts.

    Parameters
    ----------
    gate : Gate or KernelGate
    hx : ndarray, shape (n, D)
    own : ndarray of int, shape (n,)
        Row of the exemplar that a context must not use, -1 for none.
    chunk : int
        Contexts at a time; memory is chunk × N.

    Returns
    -------
    ndarray, shape (K·N,)
        Component (k, j) at k·N + j; sums to 1.
    """
    if isinstance(gate, KernelGate):
        return gate.mean_weight(hx, own)
    n_personas, n_exemplars = len(gate.hg), len(gate.he)
    total = np.zeros((n_personas, n_exemplars))
    with torch.inference_mode():
        for start in range(0, len(hx), chunk):
            rows = torch.as_tensor(hx[start : start + chunk])
            mine = torch.as_tensor(own[start : start + chunk])
            pi = gate.log_pi(rows).exp()
            from_context, from_persona = gate.exemplar_logits(rows, mine)
            for k in range(n_personas):
                omega = torch.softmax(from_context + from_persona[k], dim=1)
                total[k] += (pi[:, k] @ omega).numpy()
    return np.asarray(total.reshape(-1) / total.sum(), dtype=np.float64)
