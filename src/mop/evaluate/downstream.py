"""Synthetic texts with the labels asked for to the macro-F1 of a classifier on real texts.

The labels are taken as they were asked for: texts that do not fit their label are part of what is
measured. Definitions: ``docs/metrics.md``; settings after Ye et al. 2022 (ZeroGen, ProGen).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.encoder import TextEncoder, embed
from mop.errors import ConfigError, DataError, require
from mop.randomness import derive_seed, rng_of
from mop.storage.store import Store
from mop.types import FloatArray, Progress

LOGISTIC = "logistic"
"""Logistic regression on frozen embeddings, C = 1, standardised."""
N_EPOCHS, LEARNING_RATE, BATCH, WEIGHT_DECAY, MAX_LENGTH = 3, 2e-5, 32, 0.005, 256
"""Fine-tuning (ZeroGen's and ProGen's values); word pieces read of a text."""
VALID_SHARE = 0.1
"""Share of the training texts on which the best epoch is chosen."""
N_RETRAINED = 20
"""Trainings on resampled texts behind an interval."""


def downstream_f1(
    texts: Sequence[str],
    labels: Sequence[str],
    test_texts: Sequence[str],
    test_labels: Sequence[str],
    *,
    encoder: TextEncoder,
    store: Store | None = None,
    classifier: str = LOGISTIC,
    seed: int,
    n_bootstrap: int = 200,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a classifier on texts and their labels, and judge it on real ones.

    Parameters
    ----------
    texts, labels : sequence of str, length n
        Empty texts are left out.
    test_texts, test_labels : sequence of str, length m
        Real.
    encoder, store
        For the embeddings of ``logistic``.
    classifier : str
        ``logistic``, or a transformer to fine-tune: ``hf:ORG/NAME`` or a folder.
    seed : int
        Of the resamples, and of fine-tuning.
    n_bootstrap : int
        Resamples of the test records behind the interval, at least 2.
    progress : callable, optional

    Returns
    -------
    dict
        ``f1`` (macro-averaged over the labels of the test texts, 0 to 1), ``f1_interval`` (95 %,
        over fresh training texts and fresh test records), ``accuracy``, ``n_train``, ``n_test``,
        ``classifier``. A fine-tuned transformer is trained once: its ``f1_interval`` is over test
        records alone, and too short for a comparison of methods.

    Raises
    ------
    DataError
        If texts and labels differ in number, or nothing is left to train or test on.
    ConfigError
        If the transformer cannot be loaded.

    Notes
    -----
    The interval is ``f1`` ± 1.96 s within 0 to 1, s² = s_test² + s_train²: standard deviations over
    resampled test records, and over `N_RETRAINED` classifiers trained on resampled texts. Only their
    spread is used, since a classifier of resampled texts is a worse one. Parts of 0.8 n different texts
    (delete-d jackknife) gave a spread 1.4 to 2.2 times too large, resampling 0.8 to 1.4.
    """
    if len(texts) != len(labels) or len(test_texts) != len(test_labels):
        raise DataError(
            f"got {len(texts)} texts with {len(labels)} labels and {len(test_texts)} test texts "
            f"with {len(test_labels)}; each text needs one label; pass lists of equal length"
        )
    kept = [i for i, text in enumerate(texts) if text.strip()]
    if not kept or not test_texts:
        raise DataError(
            f"there are {len(kept)} texts that are not empty and {len(test_texts)} test texts; a "
            "classifier needs at least one of each; simulate more"
        )
    train = [texts[i].strip() for i in kept]
    wanted = [labels[i] for i in kept]
    sd_train = 0.0
    if len(set(wanted)) == 1:
        predicted = [wanted[0]] * len(test_texts)  # nothing to learn
    elif classifier == LOGISTIC:
        vectors = embed(train, encoder, store=store, progress=progress)
        tests = embed([t.strip() for t in test_texts], encoder, store=store, progress=progress)
        predicted = logistic_predictions(vectors, wanted, tests)
        sd_train = _retrained_sd(vectors, wanted, tests, test_labels, seed)
    else:
        predicted = fine_tuned_predictions(train, wanted, test_texts, model=classifier, seed=seed, progress=progress)
    f1 = macro_f1(test_labels, predicted)
    sd_test = float(np.std(_resampled_f1(test_labels, predicted, n_bootstrap, seed), ddof=1))
    reach = 1.96 * math.hypot(sd_test, sd_train)
    return {
        "f1": f1,
        "f1_interval": [max(0.0, f1 - reach), min(1.0, f1 + reach)],
        "accuracy": float(np.mean([a == b for a, b in zip(test_labels, predicted, strict=True)])),
        "n_train": len(train),
        "n_test": len(test_texts),
        "classifier": classifier,
    }


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the mean of 2 TP / (2 TP + FP + FN) over the labels that occur in the truth.

    Examples
    --------
    >>> macro_f1(["a", "a", "b", "b"], ["a", "b", "b", "b"]) == (2 / 3 + 4 / 5) / 2
    True
    """
    names = sorted(set(truth))
    code = {name: i for i, name in enumerate(names)}
    return _macro_f1(
        np.array([code[name] for name in truth]), np.array([code.get(name, -1) for name in predicted]), len(names)
    )


def _macro_f1(truth: NDArray[np.int64], predicted: NDArray[np.int64], n_labels: int) -> float:
    f1s = []
    for label in range(n_labels):
        if not np.any(truth == label):
            continue  # of a resample: the labels that occur in its truth
        hits = int(np.sum((truth == label) & (predicted == label)))
        size = int(np.sum(truth == label) + np.sum(predicted == label))
        f1s.append(2 * hits / size)
    return float(np.mean(f1s))


def _resampled_f1(truth: Sequence[str], predicted: Sequence[str], n_bootstrap: int, seed: int) -> list[float]:
    names = sorted(set(truth))
    code = {name: i for i, name in enumerate(names)}
    a = np.array([code[name] for name in truth])
    b = np.array([code.get(name, -1) for name in predicted])
    rng = rng_of(seed, "downstream", "bootstrap")
    rows = rng.integers(len(a), size=(n_bootstrap, len(a)))
    return [_macro_f1(a[row], b[row], len(names)) for row in rows]


def _retrained_sd(
    vectors: FloatArray, labels: Sequence[str], test_vectors: FloatArray, test_labels: Sequence[str], seed: int
) -> float:
    """Standard deviation of F1 over resampled training texts; see `downstream_f1`."""
    f1s = []
    for again in range(N_RETRAINED):
        rows = rng_of(seed, "downstream", "train", again).integers(len(vectors), size=len(vectors))
        predicted = logistic_predictions(vectors[rows], [labels[i] for i in rows], test_vectors)
        f1s.append(macro_f1(test_labels, predicted))
    return float(np.std(f1s, ddof=1))


def logistic_predictions(vectors: FloatArray, labels: Sequence[str], test_vectors: FloatArray) -> list[str]:
    """Labels (m,) that a logistic regression gives to test vectors (m, D) after training on (n, D).

    Dimensions are standardised by the training vectors; C = 1, all labels in one softmax. Of a single
    label nothing can be learnt: it is predicted throughout.
    """
    if len(set(labels)) == 1:
        return [str(labels[0])] * len(test_vectors)
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    model = make_pipeline(StandardScaler(), LogisticRegression(C=1.0, max_iter=5000))
    model.fit(np.asarray(vectors, np.float64), np.asarray(labels, dtype=object))
    return [str(label) for label in model.predict(np.asarray(test_vectors, np.float64))]


def check_classifier(classifier: str) -> None:
    """Refuse a name that can be no classifier before work begins.

    Raises
    ------
    ConfigError
        If it is neither ``logistic`` nor ``hf:ORG/NAME`` nor a folder.
    """
    if classifier != LOGISTIC and not classifier.startswith("hf:") and not Path(classifier).is_dir():
        raise ConfigError(
            f"the classifier {classifier!r} is not known and is no folder; give {LOGISTIC}, hf:ORG/NAME "
            "or a folder with a transformer and its tokenizer"
        )


def fine_tuned_predictions(
    texts: Sequence[str],
    labels: Sequence[str],
    test_texts: Sequence[str],
    *,
    model: str,
    seed: int,
    n_epochs: int = N_EPOCHS,
    learning_rate: float = LEARNING_RATE,
    batch_size: int = BATCH,
    max_length: int = MAX_LENGTH,
    progress: Progress | None = None,
) -> list[str]:
    """Labels that a fine-tuned transformer gives to test texts, from its epoch with the best validation F1.

    Parameters
    ----------
    texts, labels : sequence of str, length n
        A tenth of them, drawn by the seed, validates.
    test_texts : sequence of str, length m
    model : str
        ``hf:ORG/NAME`` (``hf:distilbert-base-uncased`` is usual) or a folder.
    seed : int
        Of the new output layer, the order of the batches and dropout.
    n_epochs, learning_rate, batch_size, max_length
        AdamW with linear decay; ``max_length`` in word pieces.
    progress : callable, optional

    Raises
    ------
    ConfigError
        If the model cannot be loaded.
    MissingDependencyError
        If torch or transformers is not installed.
    """
    torch = require("torch", extra="local")
    transformers = require("transformers", extra="local")
    place = model.removeprefix("hf:")
    names = sorted(set(labels))
    # The new layer and dropout draw from torch's own stream, which is put back afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "downstream", "layer") % 2**63)
        try:
            tokenizer = transformers.AutoTokenizer.from_pretrained(place)
            net = transformers.AutoModelForSequenceClassification.from_pretrained(place, num_labels=len(names))
        except (OSError, ValueError, RuntimeError) as error:  # RuntimeError: other output layer
            raise ConfigError(
                f"the classifier {model!r} cannot be loaded ({error}); give {LOGISTIC}, hf:ORG/NAME "
                "or a folder with a transformer and its tokenizer"
            ) from error
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net = net.to(device)
        order = rng_of(seed, "downstream", "split").permutation(len(texts))
        n_valid = max(1, round(VALID_SHARE * len(texts)))
        valid, train = order[:n_valid].tolist(), order[n_valid:].tolist()
        targets = torch.tensor([names.index(label) for label in labels])

        def batch(some: Sequence[str]) -> Any:
            return tokenizer(
                list(some), truncation=True, max_length=max_length, padding=True,
                return_tensors="pt",
            ).to(device)  # fmt: skip

        def predict(some: Sequence[str]) -> list[str]:
            net.eval()
            found: list[str] = []
            with torch.inference_mode():
                for start in range(0, len(some), batch_size):
                    logits = net(**batch(some[start : start + batch_size])).logits
                    found += [names[i] for i in logits.argmax(dim=1).tolist()]
            return found

        n_steps = n_epochs * max(1, -(-len(train) // batch_size))
        optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / n_steps)
        best, predicted, step = -1.0, predict(test_texts), 0
        for epoch in range(n_epochs):
            net.train()
            shuffled = rng_of(seed, "downstream", "epoch", epoch).permutation(train).tolist()
            for start in range(0, len(shuffled), batch_size):
                rows = shuffled[start : start + batch_size]
                loss = net(**batch([texts[i] for i in rows]), labels=targets[rows].to(device)).loss
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                decay.step()
                step += 1
                if progress is not None:
                    progress("fine-tune", step, n_steps)
            score = macro_f1([labels[i] for i in valid], predict([texts[i] for i in valid]))
            if score > best:
                best, predicted = score, predict(test_texts)
    return predicted
