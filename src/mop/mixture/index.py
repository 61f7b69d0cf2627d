"""Exact draws from a softmax over very many exemplars, without a look at each of them.

The exemplar gate is a softmax of q · e_j + b_j over N keys e_j = W_e h(e_j). Keys that lie together
are put into groups; within group c no logit exceeds

    U_c = q̃ · μ_c + |q̃| r_c        (Cauchy-Schwarz; μ_c centre, r_c radius, bias as a further coordinate)

where the key has the bias as a further coordinate and is turned to its principal axes; ' are the few
axes that hold nearly all of its variance and '' the others. So an exemplar drawn by c ∝ n_c exp(U_c),
then evenly within c, and accepted with probability exp(logit − U_c), is a draw from the softmax
itself: rejection changes the cost, not the distribution.
Letters: N exemplars, C groups, d size of the gate's space, B contexts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mop.mixture.sums import Floats, draw, log_sum_exp
from mop.randomness import uniforms

MINOR = 1e-3
"""Share of the variance that the minor axes may hold together."""
LEAF = 128
"""Exemplars in a group at the most."""
SAMPLE = 512
"""Rows that decide along which direction a group is cut."""
PROPOSALS = 512
"""Proposals for each context at a time; all of them estimate the normaliser, the first accepted is the draw."""
ROUNDS = 8
"""Times so many proposals before a context is drawn for by looking at every exemplar."""
BATCH = 64
"""Contexts in one matrix product, always: a product's last bits depend on its shape, a draw must not."""


@dataclass(frozen=True, eq=False)
class ExemplarIndex:
    """Keys in groups, ready for draws."""

    main: NDArray[np.float32]
    """(N, d') keys, group by group, along the main axes: what a proposal looks at first."""
    minor: NDArray[np.float32]
    """(N, d + 1 - d') the same keys along the other axes."""
    axes: NDArray[np.float32]
    """(d + 1, d + 1) principal axes of keys with their bias, those with the largest variance first."""
    rows: NDArray[np.int64]
    """(N,) which exemplar each key belongs to."""
    starts: NDArray[np.int64]
    """(C + 1,) where each group begins."""
    centres: NDArray[np.float32]
    """(C, d + 1)"""
    radii: Floats
    """(C, 2) along the main axes, and along the others."""

    @property
    def n_main(self) -> int:
        """d', how many axes hold nearly all of the variance."""
        return int(self.main.shape[1])

    @classmethod
    def build(cls, keys: NDArray[np.float32], bias: NDArray[np.float32]) -> ExemplarIndex:
        """Cut the keys in two along the direction in which they differ most, again and again.

        Parameters
        ----------
        keys : ndarray, shape (N, d)
            W_e h(e_j).
        bias : ndarray, shape (N,)
            b_j.
        """
        points = np.concatenate([keys, bias[:, None]], axis=1, dtype=np.float32)
        sample = points[:: max(1, len(points) // 20_000)].astype(np.float64)
        variance, axes = np.linalg.eigh(np.cov(sample.T, ddof=0))
        variance, axes = variance[::-1].clip(min=0.0), axes[:, ::-1].astype(np.float32)
        left = variance.sum() - np.cumsum(variance)
        n_main = 1 + int(np.argmax(left <= MINOR * variance.sum()))
        for start in range(0, len(points), 65536):  # in place: a second table of keys is not needed
            points[start : start + 65536] = points[start : start + 65536] @ axes
        groups = _groups(points[:, :n_main])
        order = np.concatenate(groups)
        sizes = np.array([len(group) for group in groups])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        main, minor = points[order, :n_main], points[order, n_main:]
        del points
        centres = np.concatenate(
            [np.add.reduceat(part, starts[:-1], axis=0, dtype=np.float64) / sizes[:, None] for part in (main, minor)],
            axis=1,
        ).astype(np.float32)
        away = np.empty((len(order), 2))
        for begin in range(0, len(sizes), 1024):
            rows = slice(starts[begin], starts[min(begin + 1024, len(sizes))])
            centre = np.repeat(centres[begin : begin + 1024], sizes[begin : begin + 1024], axis=0)
            away[rows, 0] = np.linalg.norm(main[rows] - centre[:, :n_main], axis=1)
            away[rows, 1] = np.linalg.norm(minor[rows] - centre[:, n_main:], axis=1)
        # A hair wider, since float32 rounds.
        radii = np.maximum.reduceat(away, starts[:-1], axis=0) * (1 + 1e-5) + 1e-6
        return cls(main, minor, axes, order, starts, centres, radii)

    def draw(
        self, queries: NDArray[np.float32], own: NDArray[np.int64], seeds: Sequence[int], first: int
    ) -> tuple[NDArray[np.int64], Floats]:
        """Draw one exemplar for each context.

        Parameters
        ----------
        queries : ndarray, shape (B, d)
            W_x h(x) + W_g h(g_k) of the drawn persona.
        own : ndarray of int, shape (B,)
            Exemplar that must not be drawn, -1 for none.
        seeds : sequence of B int
            The draw for a context is a function of its seed and ``first``.
        first : int
            Number of the draw of this context.

        Returns
        -------
        rows : ndarray of int, shape (B,)
        log_omega : ndarray, shape (B,)
            Log weight of each; its normaliser is estimated from all proposals made, to about 0.05
            nats, unless every exemplar was looked at.
        """
        rows, log_omega = np.empty(len(queries), np.int64), np.empty(len(queries))
        for start in range(0, len(queries), BATCH):
            part = slice(start, start + BATCH)
            rows[part], log_omega[part] = self._draw(queries[part], own[part], seeds[part], first)
        return rows, log_omega

    def _draw(
        self, queries: NDArray[np.float32], own: NDArray[np.int64], seeds: Sequence[int], first: int
    ) -> tuple[NDArray[np.int64], Floats]:
        n = len(queries)
        full = np.zeros((BATCH, queries.shape[1] + 1), dtype=np.float32)
        full[:n, :-1], full[:, -1] = queries, 1.0
        full = full @ self.axes
        d, sizes = self.n_main, np.diff(self.starts)
        reach = [np.linalg.norm(part[:n].astype(np.float64), axis=1)[:, None]
                 for part in (full[:, :d], full[:, d:])]  # fmt: skip
        # Bounds (n, C) of what each group's keys add to a logit, along the main and along the other axes.
        upper = (full[:, :d] @ self.centres[:, :d].T)[:n] + reach[0] * self.radii[:, 0]
        upper_minor = (full[:, d:] @ self.centres[:, d:].T)[:n] + reach[1] * self.radii[:, 1]
        log_mass = upper + upper_minor + np.log(sizes)
        top = log_mass.max(axis=1, keepdims=True)
        cumulative = np.cumsum(np.exp(log_mass - top), axis=1)
        log_total = np.log(cumulative[:, -1]) + top[:, 0]
        rows, log_omega = np.full(n, -1, dtype=np.int64), np.empty(n)
        for i in range(n):
            accepted = 0.0
            for round_ in range(ROUNDS):
                start = (first * ROUNDS + round_) * 3 * PROPOSALS
                # Streams of their own, so that no number serves two purposes.
                u = uniforms(seeds[i] ^ _PROPOSAL_STREAM, start, 3 * PROPOSALS)
                which, within, level = u.reshape(3, PROPOSALS)
                group = np.searchsorted(cumulative[i], which * cumulative[i, -1], side="right")
                group = np.minimum(group, len(sizes) - 1)
                place = self.starts[group] + (within * sizes[group]).astype(np.int64)
                # At most what the whole key would give: only proposals that pass are looked at in full.
                chance = np.exp(self.main[place] @ full[i, :d] - upper[i, group])
                chance = np.where(self.rows[place] == own[i], 0.0, chance)
                accepted += float((chance * np.exp(-reach[1][i] * self.radii[group, 1])).mean())
                for hit in np.flatnonzero(level < chance):
                    minor = float(self.minor[place[hit]] @ full[i, d:]) - upper_minor[i, group[hit]]
                    if level[hit] < chance[hit] * np.exp(minor):
                        rows[i] = self.rows[place[hit]]
                        log_share = np.log(chance[hit]) + minor  # of the group's bound
                        bound = upper[i, group[hit]] + upper_minor[i, group[hit]]
                        log_norm = log_total[i] + np.log(accepted / (round_ + 1))
                        log_omega[i] = log_share + bound - log_norm
                        break
                if rows[i] >= 0:
                    break
            else:
                rows[i], log_omega[i] = self._draw_from_all(full[i], int(own[i]), seeds[i], first)
        return rows, log_omega

    def _draw_from_all(self, query: NDArray[np.float32], own: int, seed: int, first: int) -> tuple[int, float]:
        """The plain way: every logit, one draw by inverse CDF."""
        d = self.n_main
        logits = (self.main @ query[:d] + self.minor @ query[d:]).astype(np.float64)
        logits[self.rows == own] = -np.inf
        place = int(draw(logits[None], uniforms(seed ^ _PLAIN_STREAM, first, 1))[0])
        return int(self.rows[place]), float(logits[place] - log_sum_exp(logits))


def _groups(points: NDArray[np.float32]) -> list[NDArray[np.int64]]:
    """Rows in groups of at most `LEAF`, cut in two along the direction in which they differ most."""
    groups: list[NDArray[np.int64]] = []
    work = [np.arange(len(points))]
    while work:
        rows = work.pop()
        if len(rows) <= LEAF:
            groups.append(rows)
            continue
        some = points[rows]
        sample = some[:: max(1, len(rows) // SAMPLE)]
        centred = sample - sample.mean(axis=0)
        axis = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        order = np.argpartition(some @ axis, len(rows) // 2)
        work += [rows[order[: len(rows) // 2]], rows[order[len(rows) // 2 :]]]
    return groups


_PROPOSAL_STREAM, _PLAIN_STREAM = 0x5BD1E995A3C59AC3, 0x2545F4914F6CDD1D
