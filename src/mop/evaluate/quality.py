"""What can be said of every single text: is it a valid answer, has it the label asked for, and is it whole."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.data.answers import options_chosen
from mop.evaluate.downstream import logistic_predictions
from mop.metrics.distances import Z_95, interval
from mop.types import FloatArray

Floats = NDArray[np.float64]


def share_interval(share: float, n: float) -> list[float]:
    """95 % interval of a share among n texts: Wilson's, which holds near 0 and 1 too.

    Examples
    --------
    >>> [round(end, 3) for end in share_interval(0.5, 80)], share_interval(0.0, 10)[0]
    ([0.393, 0.607], 0.0)
    """
    z = Z_95**2 / n
    centre, reach = share + z / 2, math.sqrt(z * (share * (1 - share) + z / 4))
    return [max(0.0, (centre - reach) / (1 + z)), min(1.0, (centre + reach) / (1 + z))]


class ClosedAnswers:
    """Answers to closed questions against those of real people.

    Parameters
    ----------
    options : mapping, length O
        See `mop.data.answers.options_of`.
    golden : sequence of str, length m
        Real answers.
    weight : sequence of float, length m, optional
        Survey weights of these.
    """

    def __init__(self, options: Mapping[str, str], golden: Sequence[str], weight: Sequence[float] | None) -> None:
        self.options = options
        self._golden = self._rows(golden, weight)
        self.shares = self._shares(*self._golden)
        """(O + 1,) of real answers; the last is what is none of the options."""
        self._of = {"golden": self.shares}

    def found(self) -> dict[str, Any]:
        """``options`` as they are spelled and ``shares`` of each set by its name, ``golden`` first; ready for JSON."""
        shares = {name: [round(float(share), 6) for share in of] for name, of in self._of.items()}
        return {"options": list(self.options.values()), "shares": shares}

    def _rows(self, texts: Sequence[str], weight: Sequence[float] | None) -> tuple[NDArray[np.int64], Floats]:
        row = np.array(options_chosen(texts, self.options), np.int64)
        even = np.ones(len(row)) if weight is None else np.asarray(weight, np.float64)
        return row, even / even.sum()

    def _shares(self, row: NDArray[np.int64], share: Floats) -> Floats:
        n = len(self.options) + 1
        return np.asarray(np.bincount(row % n, share, n), dtype=np.float64)

    def scores(
        self, name: str, texts: Sequence[str], weight: Sequence[float] | None
    ) -> tuple[dict[str, Any], dict[str, Floats]]:
        """Figures of a set of answers, empty ones included; its shares are kept under its name.

        Returns
        -------
        dict
            ``valid_answers``, the share that is an option, and ``total_variation`` of the shares of options from the
            real ones, each with its 95 % ``NAME_interval``: Wilson's for as many texts as the weights are worth, and
            that of a sum of signs, over both samples (first order).
        dict
            What each answer (and golden answer) adds to the error of either; see `mop.evaluate.paired`.

        Notes
        -----
        Total variation is half the sum of the differences between shares: the least share of answers that would have
        to change. Chance alone puts it above 0; the figure of other real texts says by how much.
        """
        row, share = self._rows(texts, weight)
        found = self._of[name] = self._shares(row, share)
        is_valid = (row >= 0).astype(np.float64)
        valid = min(1.0, float(share @ is_valid))
        sign = np.sign(found - self.shares) / 2  # TV = Σ_o sign_o (q_o - p_o)
        golden_row, golden_share = self._golden
        errors = np.concatenate(
            [share * (sign[row] - sign @ found), -golden_share * (sign[golden_row] - sign @ self.shares)]
        )
        variation = float(sign @ (found - self.shares))
        scores = {
            "valid_answers": valid,
            "valid_answers_interval": share_interval(valid, 1 / float(share @ share)),
            "total_variation": variation,
            "total_variation_interval": interval(variation, float(np.linalg.norm(errors)), low=0.0, high=1.0),
        }
        return scores, {"valid_answers": share * (is_valid - valid), "total_variation": errors}


def wrong_labels(
    vectors: FloatArray, labels: Sequence[str | None], asked: Mapping[str, tuple[FloatArray, Sequence[str | None]]]
) -> dict[str, dict[str, Any]]:
    """Share of texts whose label, as a classifier sees it, is another than the one they were asked for.

    Parameters
    ----------
    vectors : ndarray, shape (m, D)
        Embeddings of real texts, from which a logistic regression learns.
    labels : sequence of str or None, length m
        Theirs.
    asked : mapping
        Set name to embeddings (n, D) and the labels asked for. The classifier errs too: how often is seen from a set
        of other real texts.

    Returns
    -------
    dict
        Set name to ``wrong_label``, ``wrong_label_interval`` and ``labels_found``, the share of each label; empty where
        there is no label, one only, or more than one for every two records.
    """
    known = [i for i, label in enumerate(labels) if label is not None]
    if not 2 <= len({labels[i] for i in known}) <= len(known) / 2:  # names of records are no classes
        return {}
    rows = {name: [i for i, label in enumerate(of) if label is not None] for name, (_, of) in asked.items()}
    some = {name: of for name, of in rows.items() if of}
    if not some:
        return {}
    stacked = np.concatenate([asked[name][0][of] for name, of in some.items()])
    predicted = iter(logistic_predictions(vectors[known], [str(labels[i]) for i in known], stacked))
    found = {}
    for name, of in some.items():
        seen = [next(predicted) for _ in of]
        share = float(np.mean([label != asked[name][1][i] for label, i in zip(seen, of, strict=True)]))
        found[name] = {
            "wrong_label": share,
            "wrong_label_interval": share_interval(share, len(of)),
            "labels_found": {label: n / len(of) for label, n in Counter(seen).most_common()},
        }
    return found
