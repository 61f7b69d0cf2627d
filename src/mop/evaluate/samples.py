"""Responses of several methods and real texts to a table of scores with intervals and a floor.

Every method, and the floor, is judged on the same number of texts, because most scores here move
with that number. The result goes to `mop.report.page`; what the scores mean is in ``docs/metrics.md``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.config import MIN_TEXTS
from mop.data.answers import options_of
from mop.errors import ConfigError, DataError
from mop.evaluate.own import Metric, open_metrics, own_figures
from mop.evaluate.quality import ClosedAnswers, wrong_labels
from mop.metrics import distances, words
from mop.metrics.distances import Gaussian, Shown, interval
from mop.randomness import derive_seed, rng_of, uniforms
from mop.types import FloatArray, Progress

FLOOR, GOLDEN = "floor", "golden"
"""The names of other real texts, which are scored, and of those that all are compared with."""
HISTOGRAM_EDGES = tuple(np.linspace(-1, 1, distances.N_BINS + 1).round(6).tolist())
"""Edges of the cosine bins of `Evaluation.histograms`."""
TAKEN = frozenset((
    "energy", "fid", "fid_excess", "mauve", "kl_cosine", "kl_cosine_reverse", "sense", "improbable", "mean_words",
    "refusals", "empty", "near_copies", "duplicates", "distinct_1", "distinct_2", "self_bleu_4", "n", "n_received",
    "cut_share", "f1", "valid_answers", "total_variation", "wrong_label", "labels_found",
))  # fmt: skip
"""Names that a metric of the user's own cannot have."""
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
    labels: Sequence[str | None] | None = None
    """The label that each text was asked for, or that a real one has."""
    cut: Sequence[bool] | None = None
    """Whether each text was cut at the length limit."""


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
    limited_by: str | None = None
    """The set that has no more than n texts, where others have."""
    closed: dict[str, Any] | None = None
    """Where questions are closed (`mop.data.answers.options_of`): ``options`` as they are spelled, ``n_real`` answers
    that say so, and ``shares`` of the options, and last of what is none, by method, ``floor`` and ``golden``."""
    errors: dict[str, dict[str, NDArray[np.float64]]] = field(default_factory=dict)
    """Method and figure to what each text, or subsample, adds to its error; see `mop.evaluate.paired`."""


@dataclass(frozen=True, slots=True, eq=False)
class _Golden:
    """What is worked out once for the real side."""

    vectors: FloatArray
    weight: NDArray[np.float64] | None
    moments: Gaussian
    within: NDArray[np.float64]
    histogram: NDArray[Any]


class _Limit(NamedTuple):
    """FID for endless texts, and its errors."""

    value: float
    errors: NDArray[np.float64]


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

    def errors(self, replicates: Sequence[float]) -> NDArray[np.float64]:
        """Errors of the score of n fresh texts, from the scores of the subsamples; their squares sum to the variance.

        By the delete-d jackknife (Shao and Wu 1989) its standard deviation is (m / (n - m))^(1/2) times theirs.
        """
        m, scores = self.subsamples.shape[1], np.asarray(replicates, dtype=np.float64)
        return np.asarray(math.sqrt(m / (len(self.vectors) - m) / (len(scores) - 1)) * (scores - scores.mean()))


def evaluate(
    methods: Mapping[str, Sample],
    golden: Sample,
    floor: Sample,
    *,
    embed: Callable[[Sequence[str]], FloatArray],
    seed: int,
    others: Sequence[str] = (),
    metrics: Mapping[str, Metric | str] | None = None,
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
    others : sequence of str
        Further real texts, which tell whether questions are closed and what can be answered, and which texts repeat.
    metrics : mapping, optional
        Figures of your own: name to ``metric(texts, golden)``, or to ``module:function`` (``docs/plug.md``). They come
        without an interval.
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
        ``self_bleu_4``, ``mean_words``, ``refusals``, ``duplicates`` and ``near_copies`` (of the
        exemplars shown and of ``others``; None without either); ``n``; ``empty`` and ``cut_share``, the shares of empty
        and of cut texts among the ``n_received`` that came in; with labels what `mop.evaluate.quality.wrong_labels`
        gives, and for closed questions what `mop.evaluate.quality.ClosedAnswers.scores` gives.

    Raises
    ------
    ConfigError
        If a method has a reserved name, or ``n_seeds`` or ``n_bootstrap`` is too small.
    DataError
        If there is no method, a text is no text (None, nan), a golden one is empty, fewer than 4 are left of a set,
        what is known of texts is not one entry each, a weight is negative, a judged figure is infinite, or fewer than
        2 texts were judged.
    """
    _check_settings(methods, n_seeds, n_bootstrap)
    own_metrics = open_metrics(metrics, TAKEN)
    scored = {**methods, FLOOR: floor}
    every = {**scored, GOLDEN: golden}
    for name, sample in every.items():
        _check_lengths(name, sample)
    nats = {name: _judged(name, sample) for name, sample in scored.items() if sample.judged is not None}
    least = _least_probable(*nats[FLOOR]) if FLOOR in nats else None
    filled = {name: [i for i, text in enumerate(sample.texts) if text.strip()] for name, sample in every.items()}
    n = _common_size(filled, every)
    is_limited = any(len(filled[name]) > n for name in scored)
    limited_by = min(scored, key=lambda name: len(filled[name])) if is_limited else None
    rows = {name: choice(filled[name], n, seed) for name in scored} | {GOLDEN: np.arange(len(golden.texts))}
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
    errors: dict[str, dict[str, NDArray[np.float64]]] = {}
    copies = words.Copies(others) if others else None
    known = [*golden.texts, *floor.texts, *others]
    closed = ClosedAnswers(options, golden.texts, golden.weights) if (options := options_of(known)) else None
    asked = {
        name: (vectors[name], [sample.labels[i] for i in rows[name]])
        for name, sample in scored.items()
        if sample.labels is not None
    }
    wrong = {} if golden.labels is None else wrong_labels(vectors[GOLDEN], golden.labels, asked)
    floors: _Limit | None = None  # FID of the floor for endless texts; it comes first for that
    for done, (name, sample) in enumerate({FLOOR: floor, **methods}.items()):
        if progress is not None:
            progress("compare", done, len(scored))
        of = _Set(vectors[name], weights[name], subsamples)
        fid, own = _fid(of, real, floors)
        floors = floors or own
        kl, histogram = _kl(of, real, seed)
        mauve = _mauve(of, real, [derive_seed(seed, "evaluate", "mauve", s) for s in range(n_seeds)])
        scored_so = [_energy(of, real), fid, mauve, kl]
        if closed is not None:
            scored_so.append(closed.scores(name, sample.texts, sample.weights))
        shown = [sample.shown[i] for i in rows[name]] if sample.shown is not None else [None] * n
        scores[name] = {
            **{key: value for figures, _ in scored_so for key, value in figures.items()},
            **_sense(nats.get(name), least),
            **_wording(texts[name], shown, copies, seed=seed),
            **own_figures(own_metrics, texts[name], texts[GOLDEN]),
            "n": n,
            "n_received": len(sample.texts),
            "empty": words.empty_share(sample.texts),
            "cut_share": None if sample.cut is None else float(np.mean(sample.cut)),
            **wrong.get(name, {}),
        }
        errors[name] = {key: value for _, of_figures in scored_so for key, value in of_figures.items()}
        histograms[name] = histogram.tolist()
    for found in (scores, histograms):
        found[FLOOR] = found.pop(FLOOR)  # and goes last
    if progress is not None:
        progress("compare", len(scored), len(scored))
    return Evaluation(
        methods=scores,
        n=n,
        n_golden=len(golden.texts),
        notes=_notes(
            {name: filled[name] for name in scored}, scored, n, limited_by, None if closed else vectors[GOLDEN].shape
        ),
        limited_by=limited_by,
        histograms=histograms,
        rows=rows,
        vectors=vectors,
        closed=None if closed is None else {"n_real": sum(bool(t.strip()) for t in known), **closed.found()},
        errors=errors,
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
    words.check_texts(sample.texts, f"the texts of {name!r}")
    known = {"weights": sample.weights, "exemplars": sample.shown, "judged figures": sample.judged,
             "labels": sample.labels, "marks of cut texts": sample.cut}  # fmt: skip
    for what, of in known.items():
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


def choice(rows: Sequence[int], n: int, seed: int) -> NDArray[np.intp]:
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


Scored = tuple[dict[str, Any], dict[str, NDArray[np.float64]]]
"""Figures, and what adds to the errors of some of them."""


def _energy(of: _Set, golden: _Golden) -> Scored:
    distance, errors = distances.energy_errors(
        golden.vectors, of.vectors, golden.weight, of.weight, golden_within=golden.within
    )
    return {"energy": distance, "energy_interval": interval(distance, _sd(errors))}, {"energy": errors}


def _fid(of: _Set, golden: _Golden, floor: _Limit | None) -> tuple[Scored, _Limit]:
    """FID as it is, and for endless texts over that of the floor; and the latter alone.

    The floor is compared with itself, as if with another set of real texts of the same error.
    """
    fid = distances.frechet(golden.moments, of.vectors, weight=of.weight)
    fids = [
        distances.frechet(golden.moments, of.vectors[rows], weight=weight, is_rough=True) for rows, weight in of.parts()
    ]
    own = _Limit(fid.limit, of.errors([each.limit for each in fids]))
    floor, errors = floor or own, of.errors([each.distance for each in fids])
    excess = own.value - floor.value
    scores = {
        "fid": fid.distance,
        "fid_interval": interval(fid.distance, _sd(errors), low=0.0),
        "fid_excess": excess,
        "fid_excess_interval": interval(excess, _sd(own.errors), _sd(floor.errors)),
    }
    return (scores, {"fid": errors, "fid_excess": own.errors}), own


def _sd(errors: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(errors))


def _kl(of: _Set, golden: _Golden, seed: int) -> tuple[Scored, NDArray[Any]]:
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
    errors = of.errors(kls)
    scores = {
        "kl_cosine": kl.golden_synthetic,
        "kl_cosine_interval": interval(kl.golden_synthetic, _sd(errors), low=0.0),
        "kl_cosine_reverse": kl.synthetic_golden,
    }
    return (scores, {"kl_cosine": errors}), histogram


def _mauve(of: _Set, golden: _Golden, seeds: Sequence[int]) -> Scored:
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
    errors = of.errors([float(np.mean(by_seed(rows, weight))) for rows, weight in of.parts()])
    ends = interval(mauve, _sd(errors), spread, low=0.0, high=1.0)
    return {"mauve": mauve, "mauve_interval": ends, "mauve_spread": spread}, {"mauve": errors}


def _wording(texts: Sequence[str], shown: Sequence[Shown], known: words.Copies | None, *, seed: int) -> dict[str, Any]:
    """Measure what can be read off the words alone."""
    have_words = sum(bool(words.words(text)) for text in texts)
    return {
        "distinct_1": words.distinct_n(texts, 1),
        "distinct_2": words.distinct_n(texts, 2),
        "self_bleu_4": words.self_bleu(texts, seed=seed) if have_words > 1 else None,
        "mean_words": words.mean_words(texts),
        "refusals": words.refusal_share(texts),
        "near_copies": words.near_copy_share(texts, shown, known),
        "duplicates": words.duplicate_share(texts),
    }


def _notes(
    filled: Mapping[str, list[int]],
    samples: Mapping[str, Sample],
    n: int,
    limited_by: str | None,
    golden: tuple[int, ...] | None,
) -> tuple[str, ...]:
    """Say what was left out, and what the sizes (n_golden, D) of golden vectors, if they count, forbid to conclude."""
    notes = [
        f"{name}: {n_empty} of {len(samples[name].texts)} texts are empty; they are counted, not compared"
        for name, rows in filled.items()
        if (n_empty := len(samples[name].texts) - len(rows))
    ]
    if limited_by is not None:
        notes.append(
            f"every set is compared on {n} texts, because {limited_by} has no more that are not empty; others have up "
            f"to {max(map(len, filled.values()))}, and without {limited_by} all figures would be of more"
        )
    if golden is None:
        return tuple(notes)
    n_golden, n_dimensions = golden
    if min(n, n_golden) < n_dimensions:
        notes.append(
            f"FID from {n} against {n_golden} texts in {n_dimensions} dimensions is dominated by "
            "sample size, which favours narrow methods; read energy or fid_excess"
        )
    if min(n, n_golden) < distances.MAUVE_ADVISED:
        notes.append(f"MAUVE from {n} against {n_golden} texts is optimistic; compare it with other real texts only")
    return tuple(notes)
