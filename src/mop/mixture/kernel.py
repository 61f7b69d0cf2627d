"""Mixing weights that depend on the context: those of the records near it, pulled towards fixed ones.

Letters: B contexts, A records that the weights were learned from (anchors), K personas, N exemplars, D embedding size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from mop.mixture.sums import Floats

Ints = NDArray[np.int64]
Vectors = NDArray[np.float32]


@dataclass(frozen=True)
class Counts:
    """What each of A records says about the options of one factor, personas or exemplars; sparse."""

    row: Ints
    """(m,) which record."""
    column: Ints
    """(m,) which option; a record names an option once."""
    expected: Floats
    """(m,) responsibility of the option for the record."""
    exposed: Floats
    """(m,) how much the record would add to the count of the option, were all components alike."""

    @classmethod
    def none(cls) -> Counts:
        """No record says anything."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0), np.zeros(0))

    def summed(self, values: Floats, kappa: Floats, n_options: int) -> Floats:
        """Sums over records of some values of these cells, weighted by ``kappa`` (B, A): (B, n_options)."""
        from scipy.sparse import csr_matrix

        shape = kappa.shape[1], n_options
        return np.asarray((csr_matrix((values, (self.row, self.column)), shape=shape).T @ kappa.T).T)

    def local(self, kappa: Floats, base: Floats, prior: float) -> Floats:
        """Weights (B, n) near contexts: what records say by their nearness, and ``prior`` records that say ``base``.

        Parameters
        ----------
        kappa : ndarray, shape (B, A)
            Nearness times survey weight.
        base : ndarray, shape (n,) or (B, n)
            Weights without these records, sum 1.
        prior : float
            Above 0.
        """
        expected = self.summed(self.expected, kappa, base.shape[-1])
        exposed = self.summed(self.exposed, kappa, base.shape[-1])
        weight = (expected + prior * base) / (exposed + prior)
        return np.asarray(weight / weight.sum(axis=1, keepdims=True))


def cosines(hx: Vectors, vectors: Vectors) -> Floats:
    """Cosine of contexts (B, D) and the last D columns of other vectors (m, D) or (m, 2D): (B, m)."""
    return np.asarray(_unit(hx) @ _unit(vectors[:, -hx.shape[1] :]).T)


def nearness(hx: Vectors, anchors: Vectors, bandwidth: float) -> Floats:
    """exp((cosine - 1) / bandwidth) of contexts (B, D) and anchors (A, D): (B, A), 1 for equal contexts."""
    return np.asarray(np.exp((np.minimum(cosines(hx, anchors), 1.0) - 1.0) / bandwidth))


def mean_distance(hx: Vectors) -> float:
    """Mean of 1 - cosine over pairs of contexts (B, D); above 0 also where all are equal."""
    return float(max(1.0 - np.square(np.linalg.norm(_unit(hx).mean(axis=0))), 1e-6))


def _unit(vectors: Vectors) -> Floats:
    found = vectors.astype(np.float64)
    return np.asarray(found / (np.linalg.norm(found, axis=1, keepdims=True) + 1e-12))


@dataclass(frozen=True)
class KernelGate:
    """Persona weights π(x), exemplar weights Ω(x), and the temperatures.

    ::

        π_k(x) ∝ (Σ_a κ_a r_ak + n π_k) / (Σ_a κ_a d_ak + n)        κ_a = ω_a exp((cos(x, x_a) - 1) / h)
        Ω_j(x) ∝ (Σ_a κ_a r_aj + n Ω⁰_j(x)) / (Σ_a κ_a d_aj + n)    Ω⁰_j(x) ∝ Ω_j exp(s cos(x, x_j))

    r are responsibilities of the records of the fit, d what they could say (1 where everything was scored, see
    `mop.mixture.em`), n and h the strength of the weights without them and the bandwidth, s what likeness of contexts
    counts for. Ω is the same for all personas.
    """

    hg: Vectors
    """(K, D) persona embeddings."""
    all_he: Vectors
    """(N, D) or (N, 2D) exemplar embeddings, see `mop.mixture.fitted.exemplar_vectors`."""
    log_tau: Floats
    """(K,)"""
    persona: Floats
    """(K,) fixed weights π_k, > 0, sum 1."""
    exemplar: Floats
    """(N,) fixed weights Ω_j, > 0, sum 1."""
    slope: float
    """s, nats for a cosine of one."""
    anchors: Vectors
    """(A, D) embeddings of the records' contexts."""
    record_weight: Floats
    """(A,) ω_a."""
    of_persona: Counts
    of_exemplar: Counts
    prior: float = 1.0
    """n, records."""
    bandwidth: float = 1.0
    """h"""
    shown: Ints | None = None
    """Rows of the exemplars that may be drawn; None: all N."""

    @classmethod
    def fixed(
        cls,
        hg: Vectors,
        he: Vectors,
        tau: float,
        persona: Floats | None = None,
        exemplar: Floats | None = None,
        slope: float = 0.0,
    ) -> KernelGate:
        """Weights without anchors, equal ones where none are given, and one temperature."""
        return cls(
            hg, he, np.full(len(hg), np.log(tau)),
            np.full(len(hg), 1 / len(hg)) if persona is None else persona,
            np.full(len(he), 1 / len(he)) if exemplar is None else exemplar,
            slope, np.zeros((0, hg.shape[1]), np.float32), np.zeros(0), Counts.none(), Counts.none(),
        )  # fmt: skip

    @property
    def he(self) -> Vectors:
        """Embeddings of the exemplars that may be drawn."""
        return self.all_he if self.shown is None else self.all_he[self.shown]

    def temperatures(self) -> Floats:
        """τ_k > 0, shape (K,)."""
        return np.asarray(np.exp(self.log_tau))

    def log_pi(self, hx: Vectors) -> Floats:
        """Log persona weights of contexts hx (B, D): shape (B, K), ``exp`` sums to 1 over K."""
        return self._log_pi(self._kappa(hx))

    def log_omega(self, hx: Vectors, persona: Ints, own: Ints | None = None) -> Floats:
        """Log exemplar weights (B, N) of each context; ``persona`` (B,) makes no difference.

        ``own`` (B,) names the exemplar that a context must not use, -1 for none; its weight is 0.
        """
        del persona
        return self._log_omega(hx, self._kappa(hx), own)

    def log_weight(self, hx: Vectors, persona: Ints, exemplar: Ints, own: Ints | None = None) -> Floats:
        """Log weights (B, M) of given components (B, M), normalised over all K · N; -inf for the own exemplar."""
        kappa = self._kappa(hx)
        of_persona = np.take_along_axis(self._log_pi(kappa), persona, axis=1)
        omega = self._log_omega(hx, kappa, own)
        return np.asarray(of_persona + np.take_along_axis(omega, exemplar, axis=1))

    def _kappa(self, hx: Vectors) -> Floats:
        return nearness(hx, self.anchors, self.bandwidth) * self.record_weight

    def _log_pi(self, kappa: Floats) -> Floats:
        return np.asarray(np.log(self.of_persona.local(kappa, self.persona, self.prior)))

    def _log_omega(self, hx: Vectors, kappa: Floats, own: Ints | None) -> Floats:
        weight = self.of_exemplar.local(kappa, self.without_anchors(hx), self.prior)
        if self.shown is not None:
            weight = weight[:, self.shown]
        if own is not None:
            rows = np.flatnonzero(own >= 0)
            weight[rows, own[rows]] = 0.0
        weight /= weight.sum(axis=1, keepdims=True)
        with np.errstate(divide="ignore"):
            return np.asarray(np.log(weight))

    def mean_weight(self, hx: Vectors, own: Ints) -> Floats:
        """Average weight (K·N,) of every component over contexts; component (k, j) at k·N + j, sum 1."""
        pi, omega = np.exp(self.log_pi(hx)), np.exp(self.log_omega(hx, own, own))
        return np.asarray((pi.T @ omega).reshape(-1) / len(hx))

    def with_exemplars(self, rows: Sequence[int]) -> KernelGate:
        """The same gate over some of its exemplars; their weights keep their proportions."""
        every = np.arange(len(self.all_he)) if self.shown is None else self.shown
        return replace(self, shown=every[list(rows)])

    def with_temperatures(self, tau: float | Floats) -> KernelGate:
        """The same weights with other temperatures: one for all, or (K,)."""
        given = np.broadcast_to(np.asarray(tau, dtype=np.float64), self.log_tau.shape)
        return replace(self, log_tau=np.log(given))

    def with_persona_weights(self, weights: Floats) -> KernelGate:
        """The same with persona weights (K,), > 0, for every context."""
        return replace(self, persona=weights / weights.sum(), of_persona=Counts.none())

    def without_anchors(self, hx: Vectors) -> Floats:
        """Ω⁰(x), (B, N) where likeness counts, else (N,)."""
        if not self.slope:
            return self.exemplar
        tilted = self.exemplar * np.exp(self.slope * (cosines(hx, self.all_he) - 1.0))
        return np.asarray(tilted / tilted.sum(axis=1, keepdims=True))
