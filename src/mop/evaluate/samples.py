"""Responses of several methods and real texts to a table of scores with intervals and a floor.

Every method, and the floor, is judged on the same number of texts, because most scores here move
with that number. The result goes to `mop.report.page`; what the scores mean is in ``docs/distances.md``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.backends.encoder import TextEncoder, embed
from mop.config import MIN_TEXTS
from mop.errors import ConfigError, DataError
from mop.metrics import distances, words
from mop.metrics.distances import Z_95, Gaussian, Shown
from mop.randomness import derive_seed, rng_of, uniforms
from mop.storage.store import Store
from mop.types import FloatArray, Progress

FLOOR = "floor"
"""The name under which other real texts are scored."""
KEPT_SHARE = 0.8
"""Share of the texts in a subsample; see `_subsamples`."""
IMPROBABLE = 0.01
"""A text is improbable below this quantile of real ones."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Evaluation:
    """What an evaluation found; `methods`, `notes` and `histograms` are ready for JSON."""

    methods: dict[str, dict[str, Any]]
    """Method name, and ``floor`` last, to scores; see `evaluate`."""
    n: int
    """Texts per method that were compared."""
    n_golden: int
    """Real texts they were compared with."""
    encoder: str
    """Identity of the encoder: scores of different encoders are not comparable."""
    notes: tuple[str, ...]
    """What a reader must know: texts left out, samples too small."""
    histogram_edges: tuple[float, ...]
    """Edges of the cosine bins, from -1 to 1."""
    histograms: dict[str, list[float]]
    """``golden``, each method and ``floor`` to pairs per cosine bin; whole numbers without weights."""
    rows: dict[str, NDArray[np.intp]]
    """Set name to the rows of the texts that were used, in the caller's numbering."""
    vectors: dict[str, NDArray[np.float32]]
    """Set name to the embeddings of those rows, shape (n, D)."""
    judge: str = ""
    """Model under which `sense` was measured; empty where nothing was judged."""


@dataclass(frozen=True, slots=True, eq=False)
class _Golden:
    """What is worked out once for the real side."""

    vectors: NDArray[np.float32]
    weight: NDArray[np.float64] | None
    moments: Gaussian
    within: NDArray[np.float64]
    histogram: NDArray[Any]


class _Limit(NamedTuple):
    """FID for endless texts, and its error."""

    value: float
    sd: float


def evaluate(
    methods: Mapping[str, Sequence[str]],
    golden: Sequence[str],
    floor: Sequence[str],
    *,
    encoder: TextEncoder,
    store: Store | None = None,
    n_seeds: int = 5,
    n_bootstrap: int = 200,
    seed: int,
    exemplar_texts: Mapping[str, Sequence[Shown]] | None = None,
    judged: Mapping[str, Sequence[float]] | None = None,
    judge: str = "",
    weights: Mapping[str, Sequence[float]] | None = None,
    progress: Progress | None = None,
) -> Evaluation:
    """Score every method, and other real texts, against the golden texts.

    All are judged on the same number n of texts: that of the smallest after empty texts are left
    out. From a larger set n texts are chosen by the seed and their place in the list alone, so that
    aligned lists give aligned choices.

    Parameters
    ----------
    methods : mapping of str to sequence of str
        The responses of each method; ``floor`` and ``golden`` are taken as names.
    golden : sequence of str
        The real texts to compare with, all of them used; never shown to a method.
    floor : sequence of str
        Other real texts, at best as many as each method has. Their scores are what other people's
        texts get at this size; a narrow method can get below their plain FID.
    encoder : TextEncoder
        Frozen sentence encoder.
    store : Store, optional
        Where embeddings are kept.
    n_seeds : int
        k-means runs behind MAUVE; its mean is reported.
    n_bootstrap : int
        Subsamples behind each interval, at least 2.
    seed : int
        64-bit.
    exemplar_texts : mapping of str to sequence of str, of sequence of str, or of None, optional
        For a method, the exemplar, or several, that each response was written from.
    judged : mapping of str to sequence of float, optional
        Log-likelihood per token of each text under a judge model, nats, for methods and ``floor``;
        nan where a text was not judged, as empty ones are not. All that were judged count.
    judge : str
        Name of that model.
    weights : mapping of str to sequence of float, optional
        Survey weight of each text, for methods, ``floor`` and ``golden``; even where missing. They
        count in every distance and in `sense`, not in what is read off the words, nor in the
        choice of n texts.
    progress : callable, optional
        Called as ``progress(what, done, total)``.

    Returns
    -------
    Evaluation
        ``methods[name]`` holds ``energy`` and ``energy_interval`` (for the populations); ``fid``,
        ``mauve`` (mean over seeds), ``kl_cosine`` (golden ‖ synthetic, nats); ``fid_interval``,
        ``mauve_interval``, ``kl_cosine_interval`` ([low, high], 95 %, over the choice of the n
        texts); ``fid_excess`` (FID for endless texts minus that of the floor, whose own is 0 by
        definition) and ``fid_excess_interval`` (over the choice of the n texts and of the floor's);
        ``mauve_spread`` (standard deviation over seeds; 0 with one), ``mauve_star``,
        ``frontier_integral``, ``kl_cosine_reverse``; ``sense`` (mean log-likelihood per token under
        the judge, nats), ``sense_interval`` and ``improbable`` (share of texts below the first
        percentile of the floor), on the texts that were judged, None where none was; on the n texts
        ``distinct_1``, ``distinct_2``, ``self_bleu_4`` (None if fewer than two texts have words),
        ``mean_words``, ``refusals``, ``duplicates`` and ``near_copies`` (None without exemplars);
        ``n``; ``empty``, the share of empty texts among the ``n_received`` that came in.

    Raises
    ------
    ConfigError
        If a method has a reserved name, ``n_seeds`` or ``n_bootstrap`` is too small, or a judge has
        no name.
    DataError
        If there is no method, a golden text is empty, fewer than 4 texts are left of a method,
        exemplars, weights or judged figures and texts differ in number, a weight is negative, a
        judged figure is infinite, or fewer than 2 texts of a method were judged.
    """
    _settled(methods, n_seeds, n_bootstrap)
    if judged and not judge:
        raise ConfigError(
            "figures of a judge were given and no name; accepted is the name of the model whose "
            "log-likelihoods they are; pass it as judge"
        )
    texts = {**methods, FLOOR: floor}
    shots = _shots(texts, exemplar_texts or {})
    weight = _per_text("weights", weights or {}, {**texts, "golden": golden})
    nats = {
        name: _judged(of, weight.get(name), name)
        for name, of in _per_text("judged figures", judged or {}, texts).items()
    }
    filled = {name: [i for i, text in enumerate(of) if text.strip()] for name, of in texts.items()}
    n = _common_size(texts, filled, golden)
    rows = {name: _choice(of, n, seed) for name, of in filled.items()}
    rows["golden"] = np.arange(len(golden))
    weight = {
        name: scaled
        for name, of in weight.items()
        if (scaled := distances.scaled_weight(of[rows[name]], len(rows[name]), name=name)) is not None
    }
    least = _least_probable(*nats[FLOOR]) if FLOOR in nats else None
    vectors = {
        name: embed([of[i].strip() for i in rows[name]], encoder, store=store, progress=progress)
        for name, of in {**texts, "golden": golden}.items()
    }
    of_golden = weight.get("golden")
    real = _Golden(
        vectors["golden"],
        of_golden,
        distances.gaussian(vectors["golden"], weight=of_golden),
        distances.within_distances(vectors["golden"], weight=of_golden),
        distances.cosine_histogram(vectors["golden"], seed=seed, weight=of_golden),
    )
    scores: dict[str, dict[str, Any]] = {}
    histograms = {"golden": real.histogram.tolist()}
    limit: _Limit | None = None  # of the floor, which comes first for that
    for done, name in enumerate([FLOOR, *methods]):
        if progress is not None:
            progress("compare", done, len(texts))
        chosen = [texts[name][i] for i in rows[name]]
        measured, histogram, own = _distances(
            vectors[name], weight.get(name), real, limit, n_seeds=n_seeds, n_subsamples=n_bootstrap, seed=seed
        )
        limit = limit or own
        scores[name] = {
            **measured,
            **_sense(nats.get(name), least),
            **_wording(chosen, [shots[name][i] for i in rows[name]], seed=seed),
            "n": n,
            "n_received": len(texts[name]),
            "empty": words.empty_share(texts[name]),
        }
        histograms[name] = histogram.tolist()
    for of in (scores, histograms):
        of[FLOOR] = of.pop(FLOOR)  # and goes last
    if progress is not None:
        progress("compare", len(texts), len(texts))
    return Evaluation(
        methods=scores,
        n=n,
        n_golden=len(golden),
        encoder=encoder.identity,
        notes=_notes(filled, texts, n, len(golden), vectors["golden"].shape[1]),
        histogram_edges=tuple(np.linspace(-1, 1, distances.N_BINS + 1).round(6).tolist()),
        histograms=histograms,
        rows=rows,
        vectors=vectors,
        judge=judge if judged else "",
    )


def _settled(methods: Mapping[str, Sequence[str]], n_seeds: int, n_bootstrap: int) -> None:
    """Stop at settings that cannot work."""
    if not methods:
        raise DataError("0 methods were given to evaluate; it needs at least 1; simulate one first")
    for name in (FLOOR, "golden"):
        if name in methods:
            raise ConfigError(
                f"a method is named {name!r}; accepted is any name but 'floor' and 'golden', which "
                "stand for real texts; rename the method"
            )
    if n_seeds < 1 or n_bootstrap < 2:
        raise ConfigError(
            f"n_seeds is {n_seeds} and n_bootstrap is {n_bootstrap}; accepted are at least 1 and "
            "at least 2; leave them at 5 and 200"
        )


def _shots(texts: Mapping[str, Sequence[str]], given: Mapping[str, Sequence[Shown]]) -> dict[str, Sequence[Shown]]:
    """Return the exemplars of every response, None where there is none."""
    for name, of in given.items():
        if name not in texts or len(of) != len(texts[name]):
            raise DataError(
                f"exemplars were given for {name!r}: {len(of)}, with "
                f"{len(texts.get(name, ()))} responses; each response needs its exemplars or None; "
                "pass lists of equal length under the name of the method"
            )
    return {name: given.get(name, [None] * len(of)) for name, of in texts.items()}


def _per_text(
    what: str, given: Mapping[str, Sequence[float]], texts: Mapping[str, Sequence[str]]
) -> dict[str, NDArray[np.float64]]:
    """One figure per text of each set for which there are some."""
    for name, of in given.items():
        if name not in texts or len(of) != len(texts[name]):
            raise DataError(
                f"{what} were given for {name!r}: {len(of)}, with {len(texts.get(name, ()))} "
                f"texts; accepted are {', '.join(texts)}, each with one figure per text"
            )
    return {name: np.asarray(of, dtype=np.float64) for name, of in given.items()}


def _common_size(texts: Mapping[str, Sequence[str]], filled: Mapping[str, list[int]], golden: Sequence[str]) -> int:
    """How many texts every set can contribute."""
    for name, rows in filled.items():
        if len(rows) < MIN_TEXTS:
            raise DataError(
                f"{name!r} has {len(rows)} texts that are not empty, of {len(texts[name])}; an "
                f"evaluation needs at least {MIN_TEXTS}; simulate more or leave the method out"
            )
    empty = [i for i, text in enumerate(golden) if not text.strip()]
    if empty or len(golden) < MIN_TEXTS:
        raise DataError(
            f"there are {len(golden)} golden texts, {len(empty)} of them empty; accepted are at "
            f"least {MIN_TEXTS}, none empty; leave empty records out when loading"
        )
    return min(map(len, filled.values()))


def _choice(rows: Sequence[int], n: int, seed: int) -> NDArray[np.intp]:
    """Take n of the rows in a random order that is a function of (seed, row) alone; ascending."""
    places = np.asarray(rows, dtype=np.intp)
    order = uniforms(derive_seed(seed, "evaluate", "choice"), 0, int(places[-1]) + 1)[places]
    return np.sort(places[np.argsort(order, kind="stable")[:n]])


def _subsamples(n: int, n_subsamples: int, seed: int) -> tuple[NDArray[np.intp], float]:
    """Rows of each subsample, and the factor from their spread to that of n texts.

    Drawing n of n with replacement repeats texts, and repetition is what these metrics punish: the
    bootstrap would lie beside the score, not around it. Subsamples of m = 0.8 n *different* texts
    keep the spread right: by the delete-d jackknife (Shao and Wu 1989), sqrt(m / (n - m)) times
    their standard deviation estimates the standard deviation of the score of n fresh texts.
    """
    m = min(max(2, round(KEPT_SHARE * n)), n - 1)
    rows = [rng_of(seed, "evaluate", "subsample", b).permutation(n)[:m] for b in range(n_subsamples)]
    return np.stack(rows), math.sqrt(m / (n - m))


def _interval(
    score: float, replicates: Sequence[float], factor: float, *, top: float, other_sd: float = 0.0
) -> list[float]:
    """Symmetric 95 % interval around a score, within the range of the metric."""
    reach = Z_95 * math.hypot(factor * float(np.std(replicates, ddof=1)), other_sd)
    return [max(0.0, score - reach), min(top, score + reach)]


def _judged(
    nats: NDArray[np.float64], weight: NDArray[np.float64] | None, name: str
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Figures of the texts that were judged, and their shares of the survey weight."""
    rows = np.flatnonzero(~np.isnan(nats))
    values = nats[rows]
    if len(rows) < 2 or not np.isfinite(values).all():
        raise DataError(
            f"{len(rows)} of {len(nats)} texts of {name!r} were judged, {np.isinf(values).sum()} of them "
            "as infinite; accepted are nats per token, nan where a text was not judged, of at least "
            "2 texts; judge them again"
        )
    even = np.ones(len(rows)) if weight is None else weight[rows]
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
    reach = Z_95 * math.sqrt(n / (n - 1) * float(share**2 @ (values - mean) ** 2))
    return {
        "sense": mean,
        "sense_interval": [mean - reach, mean + reach],
        "improbable": None if least is None else float(share @ (values < least)),
    }


def _distances(
    vectors: NDArray[np.float32],
    weight: NDArray[np.float64] | None,
    golden: _Golden,
    floor: _Limit | None,
    *,
    n_seeds: int,
    n_subsamples: int,
    seed: int,
) -> tuple[dict[str, Any], NDArray[Any], _Limit]:
    """Distances of one set with their intervals, its cosine histogram, and its FID for endless texts.

    The floor is compared with itself, as if with another set of real texts of the same error.
    """
    subsamples, factor = _subsamples(len(vectors), n_subsamples, seed)
    weights = [None if weight is None else weight[rows] for rows in subsamples]
    energy = distances.energy_distance(
        golden.vectors, vectors, golden_weight=golden.weight, synthetic_weight=weight, golden_within=golden.within
    )

    fid = distances.frechet(golden.moments, vectors, weight=weight)
    fids = [
        distances.frechet(golden.moments, vectors[rows], weight=of, is_rough=True)
        for rows, of in zip(subsamples, weights, strict=True)
    ]
    own = _Limit(fid.limit, factor * float(np.std([each.limit for each in fids], ddof=1)))
    floor = floor or own
    excess = own.value - floor.value
    reach = Z_95 * math.hypot(own.sd, floor.sd)

    first, second, bins = distances.pair_bins(vectors, seed=seed)
    histogram = distances.count_pairs(first, second, bins, weight)
    kl = distances.kl_of_histograms(golden.histogram, histogram)
    kls = []
    for rows in subsamples:
        kept = np.zeros(len(vectors), dtype=bool)
        kept[rows] = True
        both = kept[first] & kept[second]
        inside = distances.count_pairs(first[both], second[both], bins[both], weight)
        kls.append(distances.kl_of_histograms(golden.histogram, inside).golden_synthetic)

    seeds = [derive_seed(seed, "evaluate", "mauve", s) for s in range(n_seeds)]
    memberships, k = distances.joint_clusters(vectors, golden.vectors, seeds=seeds)
    theirs = [np.bincount(real, golden.weight, minlength=k) for _, real in memberships]
    results = [
        distances.mauve_of_counts(np.bincount(ours, weight, minlength=k), real)
        for (ours, _), real in zip(memberships, theirs, strict=True)
    ]
    mauve = float(np.mean([result.mauve for result in results]))
    spread = float(np.std([result.mauve for result in results], ddof=1)) if n_seeds > 1 else 0.0
    mauves = [
        float(
            np.mean(
                [
                    distances.mauve_of_counts(np.bincount(ours[rows], of, minlength=k), real).mauve
                    for (ours, _), real in zip(memberships, theirs, strict=True)
                ]
            )
        )
        for rows, of in zip(subsamples, weights, strict=True)
    ]
    scores = {
        "energy": energy.distance,
        "energy_interval": [energy.low, energy.high],
        "fid": fid.distance,
        "fid_interval": _interval(fid.distance, [each.distance for each in fids], factor, top=math.inf),
        "fid_excess": excess,
        "fid_excess_interval": [excess - reach, excess + reach],
        "mauve": mauve,
        # Subsamples keep the clusters of the full set; fresh texts would be clustered afresh.
        "mauve_interval": _interval(mauve, mauves, factor, top=1.0, other_sd=spread),
        "mauve_spread": spread,
        "mauve_star": float(np.mean([r.mauve_star for r in results])),
        "frontier_integral": float(np.mean([r.frontier_integral for r in results])),
        "kl_cosine": kl.golden_synthetic,
        "kl_cosine_interval": _interval(kl.golden_synthetic, kls, factor, top=math.inf),
        "kl_cosine_reverse": kl.synthetic_golden,
    }
    return scores, histogram, own


def _wording(texts: Sequence[str], shots: Sequence[Shown], *, seed: int) -> dict[str, Any]:
    """Measure what can be read off the words alone."""
    have_words = sum(bool(words.words(text)) for text in texts)
    return {
        "distinct_1": words.distinct_n(texts, 1),
        "distinct_2": words.distinct_n(texts, 2),
        "self_bleu_4": words.self_bleu(texts, seed=seed) if have_words > 1 else None,
        "mean_words": words.mean_words(texts),
        "refusals": words.refusal_share(texts),
        "near_copies": words.near_copy_share(texts, shots),
        "duplicates": words.duplicate_share(texts),
    }


def _notes(
    filled: Mapping[str, list[int]], texts: Mapping[str, Sequence[str]], n: int, n_golden: int, n_dimensions: int
) -> tuple[str, ...]:
    """Say what was left out and what the sizes forbid to conclude."""
    notes = []
    for name, rows in filled.items():
        if len(rows) < len(texts[name]):
            notes.append(
                f"{name}: {len(texts[name]) - len(rows)} of {len(texts[name])} texts are empty; "
                "they are counted, not compared"
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
        notes.append(f"MAUVE from {n} against {n_golden} texts is optimistic; read it beside the floor only")
    return tuple(notes)


def projection(vectors: FloatArray, *, seed: int) -> NDArray[np.float64]:
    """Lay texts out in the plane so that similar texts lie together.

    Principal components first (50 at most, signs fixed), then t-SNE on them, started from the first
    two. Distances between far-apart groups mean nothing; that texts share a place does.

    Parameters
    ----------
    vectors : ndarray, shape (n, D)
        All sets of the map together, n of at least 2. Above 3,000 it takes minutes.
    seed : int
        64-bit.

    Returns
    -------
    ndarray, shape (n, 2), float64
        Up to 10 texts: the first two principal components.

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

    start = plane / spread * 1e-4  # t-SNE unfolds badly from a start of larger spread
    return np.asarray(
        TSNE(perplexity=min(30.0, (n - 1) / 3), init=start.astype(np.float32), random_state=seed % 2**32).fit_transform(
            components.astype(np.float32)
        ),
        dtype=np.float64,
    )


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
        Texts per set at most; the choice is a function of (seed, row).

    Returns
    -------
    dict of str to (ndarray (m,), ndarray (m, 2))
        ``golden`` and each method, not the floor, to rows in the caller's numbering and places.

    Raises
    ------
    ConfigError
        If ``limit`` is below 2.
    """
    if limit < 2:
        raise ConfigError(f"limit is {limit}; accepted is at least 2; leave it at 500")
    chosen = {name: _choice(range(len(rows)), limit, seed) for name, rows in evaluation.rows.items() if name != FLOOR}
    stack = np.concatenate([evaluation.vectors[name][places] for name, places in chosen.items()])
    plane = projection(stack, seed=seed)
    ends = np.cumsum([len(places) for places in chosen.values()])[:-1]
    return {
        name: (evaluation.rows[name][places], part)
        for (name, places), part in zip(chosen.items(), np.split(plane, ends), strict=True)
    }
