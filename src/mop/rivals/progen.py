"""ProGen: ZeroGen in rounds; a classifier says which texts help it, and those become examples.

Ye et al., *ProGen: Progressive Zero-shot Dataset Generation via In-context Feedback*, Findings of
EMNLP 2022. No real data is seen. The classifier here is a logistic regression on frozen embeddings,
whose influence scores are exact; the departures from the paper are in ``docs/baselines.md``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mop.backends.ask import FailedDraws
from mop.backends.encoder import embed
from mop.prompts import Domain, context_prompt, label_prompt
from mop.randomness import rng_of
from mop.rivals.ingredients import Ingredients
from mop.rivals.redraw import SAID, write_texts
from mop.rivals.zerogen import check_labelled, cut, draw_names, find_domain, pick_name
from mop.types import FloatArray, Prompt, Record, Response

Floats = NDArray[np.float64]

N_ROUNDS = 5
"""Rounds (**ours**; the paper doubles the size from round to round, up to 200,000 texts)."""
N_EXAMPLES = 8
FEEDBACK_RATIO = 0.5
"""Share of the batches that are written with examples."""
FEEDBACK_BATCH = 32
"""Texts of one label for which it is decided at once."""
POOL_SIZE = 50
"""Texts of one label that examples are drawn from, at the most."""
VALID_SHARE = 0.1
"""Share of the first round that is the synthetic validation set."""
OVERLAP = 0.9
"""A text with this share of an example's distinct words is dropped."""
WEIGHT_DECAY = 0.005
DAMPING = 1e-3
"""Added to the diagonal of the Hessian (**ours**: the paper's recursion damps by 0.005 at a scale of 10,000)."""

_WORD = re.compile(r"\w+")


def progen(contexts: Sequence[Record], given: Ingredients, *, method: str = "progen") -> list[Response]:
    """Write one text for each context's label, later ones partly after helpful earlier ones.

    Parameters
    ----------
    contexts : sequence of Record, length n
        As for `mop.rivals.zerogen.zerogen`; each needs a label.
    given : Ingredients
        As there; the classifier is trained on vectors of ``encoder``.
    method : str
        As there.

    Returns
    -------
    list of n Response
        In the order of the contexts. A text depends on the texts before it, so another choice of
        contexts gives other texts from the second round on.

    Raises
    ------
    DataError
        If a context has no label.
    BackendError
        If the model gives no name at all, or more draws failed than allowed.
    """
    check_labels(contexts)
    drawing, tau = given.drawing, given.tau
    domain = find_domain(given.config.compare.domain, contexts)
    names = draw_names(domain, drawing, n_contexts=len(contexts), temperature=tau, method=method)
    labels = [str(record.label) for record in contexts]
    state = _State(contexts, domain, names, given, method)
    valid: set[int] = set()
    failed = FailedDraws(len(contexts), drawing, method=method)
    for number, rows in enumerate(deal_rounds(labels, N_ROUNDS)):
        state.begin(rows, number)
        asked = [contexts[i] for i in rows]
        written = write_texts(asked, state.ask, state.accept, drawing, method=method, temperature=tau, failed=failed)
        state.found |= dict(zip(rows, written, strict=True))
        texts = [i for i in sorted(state.found) if state.found[i].response]
        if number == 0:
            valid = set(split_off(texts, seed=drawing.seed, method=method))
        if number < N_ROUNDS - 1 and texts:
            drawn = [state.found[i].response for i in texts]
            vectors = embed(drawn, given.encoder, store=given.store, progress=given.progress)
            state.pool = choose_pool(texts, vectors, labels, valid)
    failed.tell(SAID)
    return [state.found[i] for i in range(len(contexts))]


class _State:
    """What is written so far, and what the round at hand asks for and accepts."""

    def __init__(
        self, contexts: Sequence[Record], domain: Domain | None, names: Sequence[str], given: Ingredients, method: str
    ) -> None:
        self.contexts, self.domain, self.names = contexts, domain, names
        self.task, self.seed, self.method = given.config.data.task, given.seed, method
        self.min_words = given.config.compare.min_words
        self.found: dict[int, Response] = {}
        self.about: dict[int, str | None] = {}
        """Row to the name that its accepted text is about."""
        self.pool: dict[str, list[int]] = {}
        self.rows: Sequence[int] = ()
        self.with_feedback: Sequence[bool] = ()

    def begin(self, rows: Sequence[int], number: int) -> None:
        """Begin a round of some rows."""
        self.rows = rows
        labels = [str(self.contexts[i].label) for i in rows]
        self.with_feedback = draw_feedback(labels, number, seed=self.seed, method=self.method)

    def examples(self, i: int, attempt: int) -> list[int]:
        """Rows of the texts that text i of the round is shown."""
        if not self.with_feedback[i]:
            return []
        record = self.contexts[self.rows[i]]
        pool = self.pool.get(str(record.label), ())
        return draw_examples(pool, record.key, attempt, seed=self.seed, method=self.method)

    def name(self, i: int, attempt: int) -> str | None:
        """What text i of the round is about."""
        key = self.contexts[self.rows[i]].key
        return pick_name(self.names, self.seed, self.method, key, attempt)

    def ask(self, i: int, attempt: int) -> Prompt:
        """Request for text i of the round."""
        record = self.contexts[self.rows[i]]
        shown = [(self.about[j], self.found[j].response) for j in self.examples(i, attempt)]
        if self.domain is None:
            texts = [text for _, text in shown]
            return context_prompt(record.context, task=self.task, examples=texts)
        return label_prompt(self.domain, str(record.label), about=self.name(i, attempt), examples=shown)

    def accept(self, i: int, attempt: int, text: str) -> str | None:
        """What is kept of text i of the round."""
        kept = cut(text, min_words=self.min_words)
        shown = [self.found[j].response for j in self.examples(i, attempt)]
        if kept is None or repeats(kept, shown):
            return None
        self.about[self.rows[i]] = self.name(i, attempt)
        return kept


def check_labels(contexts: Sequence[Record]) -> None:
    """Refuse contexts without labels; see `mop.rivals.zerogen.check_labelled`."""
    check_labelled(contexts, "ProGen trains a classifier on labels", "leave progen out")


def deal_rounds(labels: Sequence[str], n_rounds: int) -> list[list[int]]:
    """Rows of each round: every label's rows in order, in parts that are equal to within one.

    Examples
    --------
    >>> deal_rounds(["a", "a", "b", "a", "b"], 2)
    [[0, 1, 2], [3, 4]]
    """
    rounds: list[list[int]] = [[] for _ in range(n_rounds)]
    for label in dict.fromkeys(labels):
        rows = [i for i, other in enumerate(labels) if other == label]
        for number, part in enumerate(np.array_split(np.array(rows), n_rounds)):
            rounds[number] += part.tolist()
    return [sorted(rows) for rows in rounds]


def draw_feedback(labels: Sequence[str], number: int, *, seed: int, method: str) -> list[bool]:
    """Whether each text of a round is written with examples: decided per label and 32 texts."""
    seen: dict[str, int] = {}
    decided = []
    for label in labels:
        batch = seen.get(label, 0) // FEEDBACK_BATCH
        seen[label] = seen.get(label, 0) + 1
        draw = rng_of(seed, method, "feedback", number, label, batch).random()
        decided.append(number > 0 and bool(draw < FEEDBACK_RATIO))
    return decided


def draw_examples(pool: Sequence[int], key: str, attempt: int, *, seed: int, method: str) -> list[int]:
    """Draw rows of the pool without replacement, `N_EXAMPLES` or all there are, for one text."""
    n = min(N_EXAMPLES, len(pool))
    rng = rng_of(seed, method, "examples", key, attempt)
    return [pool[int(i)] for i in rng.choice(len(pool), n, replace=False)] if n else []


def repeats(text: str, examples: Sequence[str]) -> bool:
    """Whether a text holds 90 % of the distinct words of an example.

    Examples
    --------
    >>> repeats("A dull, DULL film about war.", ["dull film"]), repeats("A film.", ["dull film"])
    (True, False)
    """
    words = set(_WORD.findall(text.lower()))
    for example in examples:
        theirs = set(_WORD.findall(example.lower()))
        if theirs and len(words & theirs) >= OVERLAP * len(theirs):
            return True
    return False


def split_off(rows: Sequence[int], *, seed: int, method: str) -> list[int]:
    """Draw a tenth of the rows, at least one, for validation."""
    n = max(1, round(VALID_SHARE * len(rows)))
    rng = rng_of(seed, method, "valid")
    return [rows[int(i)] for i in rng.choice(len(rows), min(n, len(rows)), replace=False)]


def choose_pool(
    rows: Sequence[int], vectors: FloatArray, labels: Sequence[str], valid: set[int]
) -> dict[str, list[int]]:
    """For each label the most helpful training texts, the most helpful first.

    Parameters
    ----------
    rows : sequence of int, length m
        Texts that there are.
    vectors : ndarray, shape (m, D)
    labels : sequence of str
        Of all texts, by row.
    valid : set of int
        Rows that validate and are never shown.

    Returns
    -------
    dict of str to list of int
        At most `POOL_SIZE` rows of each label, all with a negative influence.
    """
    names = sorted({labels[i] for i in rows})
    code = np.array([names.index(labels[i]) for i in rows])
    is_valid = np.array([i in valid for i in rows])
    if is_valid.all() or not is_valid.any() or len(names) < 2:
        return {}
    wide = np.asarray(vectors, np.float64)
    scores = influence(wide[~is_valid], code[~is_valid], wide[is_valid], code[is_valid], n_labels=len(names))
    pool: dict[str, list[int]] = {}
    train = [i for i in rows if i not in valid]
    for place in np.argsort(scores, kind="stable"):
        kept = pool.setdefault(labels[train[place]], [])
        if scores[place] < 0 and len(kept) < POOL_SIZE:
            kept.append(train[place])
    return pool


# ----------------------------------------------------------------------------------------- influence


def probabilities(x: Floats, weights: Floats) -> Floats:
    """Of each label, shape (n, C), for vectors with a one at the end, (n, D + 1), and weights (D + 1, C)."""
    from scipy.special import softmax

    return np.asarray(softmax(x @ weights, axis=1))


def with_one(x: Floats) -> Floats:
    """Vectors (n, D) with a one at the end, (n, D + 1), which carries the bias."""
    return np.hstack([x, np.ones((len(x), 1))])


def train_softmax(x: Floats, labels: NDArray[np.int64], *, n_labels: int, weight_decay: float = WEIGHT_DECAY) -> Floats:
    """Minimise mean cross-entropy + ``weight_decay`` / 2 · |W|², biases not decayed; weights (D + 1, C), biases last.

    Parameters
    ----------
    x : ndarray, shape (n, D)
    labels : ndarray, shape (n,)
        Numbers 0 to C - 1.
    n_labels : int
        C.
    """
    from scipy.optimize import minimize

    wide = with_one(x)
    target = np.eye(n_labels)[labels]
    decay = _decay(wide.shape[1], n_labels, weight_decay)

    def value_and_slope(flat: Floats) -> tuple[float, Floats]:
        weights = flat.reshape(-1, n_labels)
        p = probabilities(wide, weights)
        loss = -np.log(np.maximum(p[target == 1], 1e-300)).mean()
        slope = wide.T @ (p - target) / len(wide) + decay * weights
        return float(loss + 0.5 * (decay * weights**2).sum()), slope.ravel()

    start = np.zeros(wide.shape[1] * n_labels)
    done = minimize(
        value_and_slope, start, jac=True, method="L-BFGS-B",
        options={"maxiter": 2000, "ftol": 1e-15, "gtol": 1e-9},
    )  # fmt: skip
    return np.asarray(done.x).reshape(-1, n_labels)


def influence(
    train_x: Floats,
    train_labels: NDArray[np.int64],
    valid_x: Floats,
    valid_labels: NDArray[np.int64],
    *,
    n_labels: int,
    weight_decay: float = WEIGHT_DECAY,
    damping: float = DAMPING,
) -> Floats:
    """Influence of each training text on the validation loss; negative means helpful.

    ``I(z) = -∇L(z) · (H + damping)⁻¹ ∇V`` at the trained classifier: L is cross-entropy plus weight
    decay, H the Hessian of its mean, V the mean reverse cross-entropy of the validation texts plus
    weight decay. Leaving z out raises V by about -I(z) / n.

    Parameters
    ----------
    train_x, valid_x : ndarray, shape (n, D) and (m, D)
    train_labels, valid_labels : ndarray, shape (n,) and (m,)
        Numbers 0 to C - 1.
    n_labels : int
        C.
    weight_decay, damping : float

    Returns
    -------
    ndarray, shape (n,)

    Notes
    -----
    Source: Ye et al. 2022, section 3; Koh and Liang 2017. The paper approximates the inverse
    Hessian by a stochastic recursion; here the model is small enough to solve exactly.
    """
    weights = train_softmax(train_x, train_labels, n_labels=n_labels, weight_decay=weight_decay)
    x, v = with_one(train_x), with_one(valid_x)
    p, q = probabilities(x, weights), probabilities(v, weights)
    decay = _decay(x.shape[1], n_labels, weight_decay)
    cost = _reverse_cost(n_labels)[valid_labels]
    slope = q * (cost - (q * cost).sum(axis=1, keepdims=True))  # of each validation loss, by logit
    grad_v = v.T @ slope / len(v) + decay * weights
    hessian = _hessian(x, p) + np.diag((decay + damping).ravel())
    s = np.linalg.solve(hessian, grad_v.ravel()).reshape(grad_v.shape)
    residual = p - np.eye(n_labels)[train_labels]
    own: Floats = ((x @ s) * residual).sum(axis=1) + (decay * weights * s).sum()
    return -own


def _hessian(x: Floats, p: Floats) -> Floats:
    """Of the mean cross-entropy, over weights in the order (dimension, label)."""
    n, d = x.shape
    c = p.shape[1]
    hessian = np.zeros((d, c, d, c))
    for a in range(c):
        for b in range(a, c):
            weight = p[:, a] * ((a == b) - p[:, b]) / n
            block = (x * weight[:, None]).T @ x
            hessian[:, a, :, b] = block
            hessian[:, b, :, a] = block
    return hessian.reshape(d * c, d * c)


def _decay(d: int, c: int, weight_decay: float) -> Floats:
    """Weight decay of each weight (D + 1, C): none of the biases."""
    decay = np.full((d, c), weight_decay)
    decay[-1] = 0.0
    return decay


def _reverse_cost(c: int) -> Floats:
    """-log of softmax(one-hot), (C, C): a row per label."""
    eye = np.eye(c)
    return np.asarray(np.log(np.exp(eye).sum(axis=1, keepdims=True)) - eye)
