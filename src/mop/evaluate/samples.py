"""Responses of several methods and real texts to a table of scores with intervals and a floor.

Every method, and the floor, is judged on the same number of texts, because most scores here move
with that number. The result goes to `mop.report.page`; what the scores mean is in ``docs/metrics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.config import MIN_TEXTS
from mop.errors import ConfigError, DataError
from mop.metrics import distances, words
from mop.metrics.distances import Gaussian, Shown, interval
from mop.randomness import derive_seed, rng_of, uniforms
from mop.types import FloatArray, Progress

FLOOR, GOLDEN = "floor", "golden"
"""The names of other real texts, which are scored, and of those that all are compared with."""
HISTOGRAM_EDGES = tuple(np.linspace(-1, 1, distances.N_BINS + 1).round(6).tolist())
"""Edges of the cosine bins of `Evaluation.histograms`."""
KEPT_SHARE = 0.8
"""Share of the texts in a subsample; see `_subsamples`."""
IMPROBABLE = 0.01
"""A text is improbable below this quantile of real ones."""


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """The texts of a method, or of people, and what is known of each of them."""

    texts: Sequence[str]
    weights: Sequence[float] | None = None
    """Survey weights; None: even. They count in every distance and in ``sense``, not in what is read off the words,
    nor in the choice of texts."""
    shown: Sequence[Shown] | None = None
    """The exemplar, or several, that each text was written from."""
    judged: Sequence[float] | None = None
    """Log-likelihood per token of each text under a judge model, nats; nan where a text was not judged."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What an evaluation found; `methods`, `notes` and `histograms` are ready for JSON."""

    methods: dict[str, dict[str, Any]]
    """Method name, and ``floor`` last, to scores; see `evaluate`."""
    n: int
    """Texts per method that were compared."""
    n_golden: int
    """Real texts they were compared with."""
    notes: tuple[str, ...]
    """What a reader must know: texts left out, samples too small."""
    histograms: dict[str, list[float]]
    """``golden``, each method and ``floor`` to pairs per cosine bin; whole numbers without weights."""
    rows: dict[str, NDArray[np.intp]]
    """Set name to the rows of the texts that were used, in the caller's numbering."""
    vectors: dict[str, FloatArray]
    """Set name to the embeddings of those rows, shape (n, D)."""


@dataclass(frozen=True, slots=True, eq=False)
class _Golden:
    """What is worked out once for the real side."""

    vectors: FloatArray
    weight: NDArray[np.float64] | None
    moments: Gaussian
    within: NDArray[np.float64]
    histogram: NDArray[Any]


class _Limit(NamedTuple):
    """FID for endless texts, and its error."""

    value: float
    sd: float


@dataclass(frozen=True, slots=True, eq=False)
class _Set:
    """One set of n texts that is scored, and the subsamples behind its intervals."""

    vectors: FloatArray
    weight: NDArray[np.float64] | None
    subsamples: NDArray[np.intp]
    """Shape (n_bootstrap, m): rows."""

    def parts(self) -> list[tuple[NDArray[np.intp], NDArray[np.float64] | None]]:
        """Rows and weights of each subsample."""
        return [(rows, None if self.weight is None else self.weight[rows]) for rows in self.subsamples]

    def sd(self, replicates: Sequence[float]) -> float:
        """Standard deviation of the score of n fresh texts, from the scores of the subsamples.

        By the delete-d jackknife (Shao and Wu 1989) it is (m / (n - m))^(1/2) times theirs.
        """
        m = self.subsamples.shape[1]
        return math.sqrt(m / (len(self.vectors) - m)) * float(np.std(replicates, ddof=1))


def evaluate(
    methods: Mapping[str, Sample],
    golden: Sample,
    floor: Sample,
    *,
    embed: Callable[[Sequence[str]], FloatArray],
    seed: int,
    n_seeds: int = 5,
    n_bootstrap: int = 200,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every method, and other real texts, against the golden texts.

    All are judged on the same number n of texts: that of the smallest after empty texts are left
    out. From a larger set n texts are chosen by the seed and their place in the list alone, so that
    aligned lists give aligned choices.

    Parameters
    ----------
    methods : mapping of str to Sample
        The responses of each method; ``floor`` and ``golden`` are taken as names.
    golden : Sample
        The real texts to compare with, all of them used; never shown to a method.
    floor : Sample
        Other real texts, at best as many as each method has. Their scores are what other people's
        texts get at this size; a narrow method can get below their plain FID.
    embed : callable
        n texts to vectors of shape (n, D): a frozen sentence encoder's ``encode``, or
        `mop.backends.encoder.embed` with its encoder and store.
    seed : int
        64-bit.
    n_seeds : int
        k-means runs behind MAUVE; its mean is reported.
    n_bootstrap : int
        Subsamples behind each interval, at least 2.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Evaluation
        ``methods[name]`` holds ``energy`` and ``energy_interval`` (for the populations); ``fid``, ``mauve`` (mean over
        seeds), ``kl_cosine`` (golden ‖ synthetic, nats) and their ``NAME_interval`` ([low, high], 95 %, over the choice
        of the n texts); ``fid_excess`` (FID for endless texts minus that of the floor, whose own is 0 by definition)
        and ``fid_excess_interval`` (over the choice of the n texts and of the floor's); ``mauve_spread`` (standard
        deviation over seeds; 0 with one), ``kl_cosine_reverse``; ``sense`` (mean log-likelihood per token under the
        judge, nats), ``sense_interval`` and ``improbable`` (share of texts below the first percentile of the floor), on
        all texts that were judged, None where none was; on the n texts ``distinct_1``, ``distinct_2``,
        ``self_bleu_4``, ``mean_words``, ``refusals``, ``duplicates`` and ``near_copies`` (None without
        exemplars); ``n``; ``empty``, the share of empty texts among the ``n_received`` that came in.

    Raises
    ------
    ConfigError
        If a method has a reserved name, or ``n_seeds`` or ``n_bootstrap`` is too small.
    DataError
        If there is no method, a golden text is empty, fewer than 4 texts are left of a set, what is known of texts
        is not one entry each, a weight is negative, a judged figure is infinite, or fewer than 2 texts were judged.
    """
    _check_settings(methods, n_seeds, n_bootstrap)
    scored = {**methods, FLOOR: floor}
    every = {**scored, GOLDEN: golden}
    for name, sample in every.items():
        _check_lengths(name, sample)
    nats = {name: _judged(name, sample) for name, sample in scored.items() if sample.judged is not None}
    least = _least_probable(*nats[FLOOR]) if FLOOR in nats else None
    filled = {name: [i for i, text in enumerate(sample.texts) if text.strip()] for name, sample in every.items()}
    n = _common_size(filled, every)
    rows = {name: _choice(filled[name], n, seed) for name in scored} | {GOLDEN: np.arange(len(golden.texts))}
    texts = {name: [sample.texts[i] for i in rows[name]] for name, sample in every.items()}
    weights = {name: _scaled(name, sample.weights, rows[name]) for name, sample in every.items()}
    vectors = {name: embed([text.strip() for text in of]) for name, of in texts.items()}
    real = _Golden(
        vectors[GOLDEN],
        weights[GOLDEN],
        distances.gaussian(vectors[GOLDEN], weight=weights[GOLDEN]),
        distances.within_distances(vectors[GOLDEN], weight=weights[GOLDEN]),
        distances.cosine_histogram(vectors[GOLDEN], seed=seed, weight=weights[GOLDEN]),
    )
    subsamples = _subsamples(n, n_bootstrap, seed)
    scores: dict[str, dict[str, Any]] = {}
    histograms = {GOLDEN: real.histogram.tolist()}
    floors: _Limit | None = None  # FID of the floor for endless texts; it comes first for that
    for done, (name, sample) in enumerate({FLOOR: floor, **methods}.items()):
        if progress is not None:
            progress("compare", done, len(scored))
        of = _Set(vectors[name], weights[name], subsamples)
        fid, own = _fid(of, real, floors)
        floors = floors or own
        kl, histogram = _kl(of, real, seed)
        shown = [sample.shown[i] for i in rows[name]] if sample.shown is not None else [None] * n
        scores[name] = {
            **_energy(of, real),
            **fid,
            **_mauve(of, real, [derive_seed(seed, "evaluate", "mauve", s) for s in range(n_seeds)]),
            **kl,
            **_sense(nats.get(name), least),
            **_wording(texts[name], shown, seed=seed),
            "n": n,
            "n_received": len(sample.texts),
            "empty": words.empty_share(sample.texts),
        }
        histograms[name] = histogram.tolist()
    for found in (scores, histograms):
        found[FLOOR] = found.pop(FLOOR)  # and goes last
    if progress is not None:
        progress("compare", len(scored), len(scored))
    return Evaluation(
        methods=scores,
        n=n,
        n_golden=len(golden.texts),
        notes=_notes({name: filled[name] for name in scored}, scored, n, vectors[GOLDEN].shape),
        histograms=histograms,
        rows=rows,
        vectors=vectors,
    )


def _check_settings(methods: Mapping[str, Sample], n_seeds: int, n_bootstrap: int) -> None:
    if not methods:
        raise DataError("0 methods were given to evaluate; it needs at least 1; simulate one first")
    for name in (FLOOR, GOLDEN):
        if name in methods:
            raise ConfigError(
                f"a method is named {name!r}; 'floor' and 'golden' stand for real texts; rename the method"
            )
    if n_seeds < 1 or n_bootstrap < 2:
        raise ConfigError(
            f"n_seeds is {n_seeds} and n_bootstrap is {n_bootstrap}; they must be at least 1 and "
            "at least 2; leave them at 5 and 200"
        )


def _check_lengths(name: str, sample: Sample) -> None:
    for what, of in (("weights", sample.weights), ("exemplars", sample.shown), ("judged figures", sample.judged)):
        if of is not None and len(of) != len(sample.texts):
            raise DataError(
                f"{name!r} has {len(of)} {what} and {len(sample.texts)} texts; each text needs its own; "
                "pass lists of equal length"
            )


def _scaled(name: str, weights: Sequence[float] | None, rows: NDArray[np.intp]) -> NDArray[np.float64] | None:
    """Weights of the chosen rows."""
    if weights is None:
        return None
    return distances.scaled_weight(np.asarray(weights, np.float64)[rows], len(rows), name=name)


def _common_size(filled: Mapping[str, list[int]], samples: Mapping[str, Sample]) -> int:
    """How many texts every set can contribute, by the rows of each that are not empty."""
    for name, rows in filled.items():
        if len(rows) < MIN_TEXTS:
            raise DataError(
                f"{name!r} has {len(rows)} texts that are not empty, of {len(samples[name].texts)}; an "
                f"evaluation needs at least {MIN_TEXTS}; simulate more or leave the method out"
            )
    n_golden = len(samples[GOLDEN].texts)
    if len(filled[GOLDEN]) < n_golden:
        raise DataError(
            f"there are {n_golden} golden texts, {n_golden - len(filled[GOLDEN])} of them empty; none may be; "
            "leave empty records out when loading"
        )
    return min(len(rows) for name, rows in filled.items() if name != GOLDEN)


def _choice(rows: Sequence[int], n: int, seed: int) -> NDArray[np.intp]:
    """Take n of the rows in a random order that is a function of (seed, row) alone; ascending."""
    places = np.asarray(rows, dtype=np.intp)
    order = uniforms(derive_seed(seed, "evaluate", "choice"), 0, int(places[-1]) + 1)[places]
    return np.sort(places[np.argsort(order, kind="stable")[:n]])


def _subsamples(n: int, n_subsamples: int, seed: int) -> NDArray[np.intp]:
    """Rows of each subsample, of m = 0.8 n *different* texts.

    Drawing n of n with replacement repeats texts, and repetition is what these metrics punish: the
    bootstrap would lie beside the score, not around it.
    """
    m = min(max(2, round(KEPT_SHARE * n)), n - 1)
    return np.stack([rng_of(seed, "evaluate", "subsample", b).permutation(n)[:m] for b in range(n_subsamples)])


def _judged(name: str, sample: Sample) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Figures of the texts that were judged, and their shares of the survey weight."""
    nats = np.asarray(sample.judged, np.float64)
    rows = np.flatnonzero(~np.isnan(nats))
    values = nats[rows]
    if len(rows) < 2 or not np.isfinite(values).all():
        raise DataError(
            f"{len(rows)} of {len(nats)} texts of {name!r} were judged, {np.isinf(values).sum()} of them "
            "as infinite; figures are nats per token, nan where a text was not judged, of at least "
            "2 texts; judge them again"
        )
    even = np.ones(len(rows)) if sample.weights is None else np.asarray(sample.weights, np.float64)[rows]
    return values, even / even.sum()


def _least_probable(values: NDArray[np.float64], share: NDArray[np.float64]) -> float:
    """First percentile of real texts under the judge."""
    order = np.argsort(values)
    return float(values[order[np.searchsorted(np.cumsum(share[order]), IMPROBABLE)]])


def _sense(nats: tuple[NDArray[np.float64], NDArray[np.float64]] | None, least: float | None) -> dict[str, Any]:
    """Say how probable the texts are to the judge."""
    if nats is None:
        return {"sense": None, "sense_interval": None, "improbable": None}
    values, share = nats
    mean, n = float(share @ values), len(values)
    return {
        "sense": mean,
        "sense_interval": interval(mean, math.sqrt(n / (n - 1) * float(share**2 @ (values - mean) ** 2))),
        "improbable": None if least is None else float(share @ (values < least)),
    }


def _energy(of: _Set, golden: _Golden) -> dict[str, Any]:
    found = distances.energy_distance(
        golden.vectors,
        of.vectors,
        golden_weight=golden.weight,
        synthetic_weight=of.weight,
        golden_within=golden.within,
    )
    return {"energy": found.distance, "energy_interval": [found.low, found.high]}


def _fid(of: _Set, golden: _Golden, floor: _Limit | None) -> tuple[dict[str, Any], _Limit]:
    """FID as it is, and for endless texts over that of the floor; and the latter alone.

    The floor is compared with itself, as if with another set of real texts of the same error.
    """
    fid = distances.frechet(golden.moments, of.vectors, weight=of.weight)
    fids = [
        distances.frechet(golden.moments, of.vectors[rows], weight=weight, is_rough=True) for rows, weight in of.parts()
    ]
    own = _Limit(fid.limit, of.sd([each.limit for each in fids]))
    floor = floor or own
    excess = own.value - floor.value
    scores = {
        "fid": fid.distance,
        "fid_interval": interval(fid.distance, of.sd([each.distance for each in fids]), low=0.0),
        "fid_excess": excess,
        "fid_excess_interval": interval(excess, own.sd, floor.sd),
    }
    return scores, own


def _kl(of: _Set, golden: _Golden, seed: int) -> tuple[dict[str, Any], NDArray[Any]]:
    """KL-cosine, and the cosine histogram."""
    first, second, bins = distances.pair_bins(of.vectors, seed=seed)
    histogram = distances.count_pairs(first, second, bins, of.weight)
    kl = distances.kl_of_histograms(golden.histogram, histogram)
    kls = []
    for rows in of.subsamples:
        kept = np.zeros(len(of.vectors), dtype=bool)
        kept[rows] = True
        both = kept[first] & kept[second]
        inside = distances.count_pairs(first[both], second[both], bins[both], of.weight)
        kls.append(distances.kl_of_histograms(golden.histogram, inside).golden_synthetic)
    scores = {
        "kl_cosine": kl.golden_synthetic,
        "kl_cosine_interval": interval(kl.golden_synthetic, of.sd(kls), low=0.0),
        "kl_cosine_reverse": kl.synthetic_golden,
    }
    return scores, histogram


def _mauve(of: _Set, golden: _Golden, seeds: Sequence[int]) -> dict[str, Any]:
    memberships, k = distances.joint_clusters(of.vectors, golden.vectors, seeds=seeds)
    theirs = [np.bincount(real, golden.weight, minlength=k) for _, real in memberships]

    def by_seed(rows: NDArray[np.intp] | slice, weight: NDArray[np.float64] | None) -> list[float]:
        return [
            distances.mauve_of_counts(np.bincount(ours[rows], weight, minlength=k), real)
            for (ours, _), real in zip(memberships, theirs, strict=True)
        ]

    scores = by_seed(slice(None), of.weight)
    mauve = float(np.mean(scores))
    spread = float(np.std(scores, ddof=1)) if len(seeds) > 1 else 0.0
    # Subsamples keep the clusters of the full set; fresh texts would be clustered afresh.
    sd = of.sd([float(np.mean(by_seed(rows, weight))) for rows, weight in of.parts()])
    return {"mauve": mauve, "mauve_interval": interval(mauve, sd, spread, low=0.0, high=1.0), "mauve_spread": spread}


def _wording(texts: Sequence[str], shown: Sequence[Shown], *, seed: int) -> dict[str, Any]:
    """Measure what can be read off the words alone."""
    have_words = sum(bool(words.words(text)) for text in texts)
    return {
        "distinct_1": words.distinct_n(texts, 1),
        "distinct_2": words.distinct_n(texts, 2),
        "self_bleu_4": words.self_bleu(texts, seed=seed) if have_words > 1 else None,
        "mean_words": words.mean_words(texts),
        "refusals": words.refusal_share(texts),
        "near_copies": words.near_copy_share(texts, shown),
        "duplicates": words.duplicate_share(texts),
    }


def _notes(
    filled: Mapping[str, list[int]], samples: Mapping[str, Sample], n: int, golden: tuple[int, ...]
) -> tuple[str, ...]:
    """Say what was left out and what the sizes, (n_golden, D) of the golden vectors, forbid to conclude."""
    n_golden, n_dimensions = golden
    notes = []
    for name, rows in filled.items():
        n_received = len(samples[name].texts)
        if len(rows) < n_received:
            notes.append(
                f"{name}: {n_received - len(rows)} of {n_received} texts are empty; they are counted, not compared"
            )
    if max(map(len, filled.values())) > n:
        smallest = min(filled, key=lambda name: len(filled[name]))
        notes.append(f"every set is compared on {n} texts, because {smallest} has no more that are not empty")
    if min(n, n_golden) < n_dimensions:
        notes.append(
            f"FID from {n} against {n_golden} texts in {n_dimensions} dimensions is dominated by "
            "sample size, which favours narrow methods; read energy or fid_excess"
        )
    if min(n, n_golden) < distances.MAUVE_ADVISED:
        notes.append(f"MAUVE from {n} against {n_golden} texts is optimistic; compare it with other real texts only")
    return tuple(notes)


def projection(vectors: FloatArray, *, seed: int) -> NDArray[np.float64]:
    """Lay texts (n, D) out in the plane (n, 2) so that similar texts lie together; above 3,000 it takes minutes.

    Principal components first (50 at most, signs fixed), then t-SNE on them, started from the first
    two; up to 10 texts, the components themselves. Distances between far-apart groups mean nothing.

    Raises
    ------
    DataError
        If the vectors are not (n, D) with n of at least 2, or not finite.
    """
    centred, axes, _ = distances.principal_axes(vectors)
    components = centred @ axes[:, :50]
    n = len(components)
    plane = np.zeros((n, 2))
    plane[:, : min(2, components.shape[1])] = components[:, :2]
    spread = plane[:, 0].std()
    if n <= 10 or not spread:
        return plane
    from sklearn.manifold import TSNE

    start = (plane / spread * 1e-4).astype(np.float32)  # t-SNE unfolds badly from a start of larger spread
    tsne = TSNE(perplexity=min(30.0, (n - 1) / 3), init=start, random_state=seed % 2**32)
    return np.asarray(tsne.fit_transform(components.astype(np.float32)), dtype=np.float64)


def text_map(
    evaluation: Evaluation, *, seed: int, limit: int = 500
) -> dict[str, tuple[NDArray[np.intp], NDArray[np.float64]]]:
    """Place real and synthetic texts on one map.

    Parameters
    ----------
    evaluation : Evaluation
    seed : int
        64-bit.
    limit : int
        Texts per set at most, at least 2; the choice is a function of (seed, row).

    Returns
    -------
    dict of str to (ndarray (m,), ndarray (m, 2))
        ``golden`` and each method, not the floor, to rows in the caller's numbering and places.
    """
    chosen = {name: _choice(range(len(rows)), limit, seed) for name, rows in evaluation.rows.items() if name != FLOOR}
    stack = np.concatenate([evaluation.vectors[name][places] for name, places in chosen.items()])
    plane = projection(stack, seed=seed)
    ends = np.cumsum([len(places) for places in chosen.values()])[:-1]
    return {
        name: (evaluation.rows[name][places], part)
        for (name, places), part in zip(chosen.items(), np.split(plane, ends), strict=True)
    }
