"""Synthetic texts with the labels asked for to the macro-F1 of a classifier on real texts.

The labels are taken as they were asked for: texts that do not fit their label are part of what is
measured. Definitions: ``docs/metrics.md``; settings after Ye et al. 2022 (ZeroGen, ProGen).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.weights import reading
from mop.data.hub import hub_folder, hub_name, with_weights
from mop.errors import ConfigError, DataError, require
from mop.metrics.distances import interval
from mop.randomness import derive_seed, rng_of
from mop.types import FloatArray, Progress

LOGISTIC = "logistic"
"""Logistic regression on frozen embeddings, C = 1, standardised."""
N_EPOCHS, LEARNING_RATE, BATCH, WEIGHT_DECAY, MAX_LENGTH = 3, 2e-5, 32, 0.005, 256
"""Fine-tuning (ZeroGen's and ProGen's values); word pieces read of a text."""
VALID_SHARE = 0.1
"""Share of the training texts on which the best epoch is chosen."""
N_RETRAINED = 20
"""Trainings on resampled texts behind an interval."""


@dataclass(frozen=True, slots=True, eq=False)
class Labelled:
    """Texts and the label of each."""

    texts: Sequence[str]
    labels: Sequence[str]


def downstream_f1(
    train: Labelled,
    test: Labelled,
    *,
    embed: Callable[[Sequence[str]], FloatArray],
    classifier: str = LOGISTIC,
    seed: int,
    n_bootstrap: int = 200,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train a classifier on texts and their labels, and judge it on real ones.

    Parameters
    ----------
    train : Labelled
        n texts with the labels asked for; empty ones are left out.
    test : Labelled
        m real ones.
    embed : callable
        Texts to vectors of shape (n, D), for ``logistic``.
    classifier : str
        ``logistic``, or a transformer to fine-tune: ``hf:ORG/NAME`` or a folder.
    seed : int
        Of the resamples, and of fine-tuning.
    n_bootstrap : int
        Resamples of the test records behind the interval, at least 2.
    progress : callable, optional
        Of fine-tuning.

    Returns
    -------
    dict
        ``f1`` (macro-averaged over the labels of the test texts, 0 to 1), ``f1_interval`` (95 %,
        over fresh training texts and fresh test records), ``accuracy``, ``n_train``, ``n_test``,
        ``classifier``, and ``f1_errors``, what each resample adds to the error (see `mop.evaluate.paired`). A
        fine-tuned transformer is trained once: its ``f1_interval`` is over test records alone, and too short for a
        comparison of methods.

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
    for of in (train, test):
        if len(of.texts) != len(of.labels):
            raise DataError(
                f"got {len(of.texts)} texts with {len(of.labels)} labels; each text needs one label; "
                "pass lists of equal length"
            )
    kept = [i for i, text in enumerate(train.texts) if text.strip()]
    if not kept or not test.texts:
        raise DataError(
            f"there are {len(kept)} texts that are not empty and {len(test.texts)} test texts; a "
            "classifier needs at least one of each; simulate more"
        )
    train = Labelled([train.texts[i].strip() for i in kept], [train.labels[i] for i in kept])
    of_training: list[float] = []
    if len(set(train.labels)) == 1:
        predicted = [train.labels[0]] * len(test.texts)  # nothing to learn
    elif classifier == LOGISTIC:
        vectors, tests = embed(train.texts), embed([text.strip() for text in test.texts])
        predicted = logistic_predictions(vectors, train.labels, tests)
        of_training = _retrained_errors(vectors, train.labels, tests, test.labels, seed)
    else:
        predicted = fine_tuned_predictions(train, test.texts, model=classifier, seed=seed, progress=progress)
    f1 = macro_f1(test.labels, predicted)
    errors = [*_errors(_resampled_f1(test.labels, predicted, n_bootstrap, seed)), *of_training]
    return {
        "f1": f1,
        "f1_interval": interval(f1, float(np.linalg.norm(errors)), low=0.0, high=1.0),
        "f1_errors": errors,
        "accuracy": float(np.mean([a == b for a, b in zip(test.labels, predicted, strict=True)])),
        "n_train": len(train.texts),
        "n_test": len(test.texts),
        "classifier": classifier,
    }


def macro_f1(truth: Sequence[str], predicted: Sequence[str]) -> float:
    """Return the mean of 2 TP / (2 TP + FP + FN) over the labels that occur in the truth.

    Examples
    --------
    >>> macro_f1(["a", "a", "b", "b"], ["a", "b", "b", "b"]) == (2 / 3 + 4 / 5) / 2
    True
    """
    return _macro_f1(*_coded(truth, predicted))


def _coded(truth: Sequence[str], predicted: Sequence[str]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Labels as numbers; -1 for one that does not occur in the truth."""
    code = {name: i for i, name in enumerate(sorted(set(truth)))}
    return np.array([code[name] for name in truth]), np.array([code.get(name, -1) for name in predicted])


def _macro_f1(truth: NDArray[np.int64], predicted: NDArray[np.int64]) -> float:
    f1s = []
    for label in np.unique(truth):
        hits = int(np.sum((truth == label) & (predicted == label)))
        f1s.append(2 * hits / int(np.sum(truth == label) + np.sum(predicted == label)))
    return float(np.mean(f1s))


def _resampled_f1(truth: Sequence[str], predicted: Sequence[str], n_bootstrap: int, seed: int) -> list[float]:
    a, b = _coded(truth, predicted)
    rows = rng_of(seed, "downstream", "bootstrap").integers(len(a), size=(n_bootstrap, len(a)))
    return [_macro_f1(a[row], b[row]) for row in rows]


def _errors(replicates: Sequence[float]) -> list[float]:
    """Errors whose squares sum to the variance of the replicates."""
    values = np.asarray(replicates, dtype=np.float64)
    return [float(value) for value in (values - values.mean()) / np.sqrt(len(values) - 1)]


def _retrained_errors(
    vectors: FloatArray, labels: Sequence[str], test_vectors: FloatArray, test_labels: Sequence[str], seed: int
) -> list[float]:
    """Errors of F1 over resampled training texts; see `downstream_f1`."""
    f1s = []
    for again in range(N_RETRAINED):
        rows = rng_of(seed, "downstream", "train", again).integers(len(vectors), size=len(vectors))
        predicted = logistic_predictions(vectors[rows], [labels[i] for i in rows], test_vectors)
        f1s.append(macro_f1(test_labels, predicted))
    return _errors(f1s)


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
    train: Labelled,
    test_texts: Sequence[str],
    *,
    model: str,
    seed: int,
    n_epochs: int = N_EPOCHS,
    learning_rate: float = LEARNING_RATE,
    progress: Progress | None = None,
) -> list[str]:
    """Labels that a fine-tuned transformer gives to test texts, from its epoch with the best validation F1.

    Parameters
    ----------
    train : Labelled
        n texts; a tenth of them, drawn by the seed, validates.
    test_texts : sequence of str, length m
    model : str
        ``hf:ORG/NAME`` (``hf:distilbert-base-uncased`` is usual) or a folder.
    seed : int
        Of the new output layer, the order of the batches and dropout.
    n_epochs, learning_rate
        AdamW with linear decay.
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
    place = Path(model).expanduser()
    if model.startswith("hf:"):
        place = with_weights(hub_folder(hub_name(model, f"give {LOGISTIC}, hf:ORG/NAME or a folder")))
    texts, labels = train.texts, train.labels
    names = sorted(set(labels))
    # The new layer and dropout draw from torch's own stream, which is put back afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(derive_seed(seed, "downstream", "layer") % 2**63)
        with reading(place, "classifier", "AutoModelForSequenceClassification"):
            tokenizer = transformers.AutoTokenizer.from_pretrained(
                place, local_files_only=True, trust_remote_code=False
            )
            net = transformers.AutoModelForSequenceClassification.from_pretrained(
                place, num_labels=len(names), local_files_only=True, trust_remote_code=False, use_safetensors=True
            )
        device = "cuda" if torch.cuda.is_available() else "cpu"
        net = net.to(device)
        order = rng_of(seed, "downstream", "split").permutation(len(texts))
        n_valid = max(1, round(VALID_SHARE * len(texts)))
        valid, fitted = order[:n_valid].tolist(), order[n_valid:].tolist()
        targets = torch.tensor([names.index(label) for label in labels])

        def batch(some: Sequence[str]) -> Any:
            encoded = tokenizer(list(some), truncation=True, max_length=MAX_LENGTH, padding=True, return_tensors="pt")
            return encoded.to(device)

        def predict(some: Sequence[str]) -> list[str]:
            net.eval()
            found: list[str] = []
            with torch.inference_mode():
                for start in range(0, len(some), BATCH):
                    logits = net(**batch(some[start : start + BATCH])).logits
                    found += [names[i] for i in logits.argmax(dim=1).tolist()]
            return found

        n_steps = n_epochs * max(1, -(-len(fitted) // BATCH))
        optimiser = torch.optim.AdamW(net.parameters(), lr=learning_rate, weight_decay=WEIGHT_DECAY)
        decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / n_steps)
        best, predicted, step = -1.0, predict(test_texts), 0
        for epoch in range(n_epochs):
            net.train()
            shuffled = rng_of(seed, "downstream", "epoch", epoch).permutation(fitted).tolist()
            for start in range(0, len(shuffled), BATCH):
                rows = shuffled[start : start + BATCH]
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
