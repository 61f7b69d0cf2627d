"""Texts to unit vectors: h(·) of the method, a frozen sentence encoder; `mop.personas.cluster` is next.

Whatever was encoded once is found in the cache by content, and the model is not even loaded.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from mop import randomness
from mop.backends.base import missing
from mop.backends.weights import reading
from mop.data.catalogue import EMBEDDED
from mop.data.hub import with_weights
from mop.data.pull import resolve, revision
from mop.errors import ConfigError, DataError, MopError, require
from mop.own_parts import is_own, own_part
from mop.storage.store import Store, embedding_key
from mop.types import Progress

log = logging.getLogger(__name__)

DTYPES = ("float32", "bfloat16")
"""Arithmetic that an encoder may use."""

BATCH = 64
"""Texts encoded at once; small enough for a laptop, large enough to be fast."""
STEP = 512
"""Texts between two writes to the cache."""
FAKE_DIMS = 64


class TextEncoder(Protocol):
    """A frozen sentence encoder."""

    @property
    def identity(self) -> str:
        """All that a vector depends on besides the text, as one canonical string."""
        ...

    @property
    def n_dims(self) -> int:
        """D."""
        ...

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape (n, D), of unit length, in the order of the texts."""
        ...


def embed(
    texts: Sequence[str], encoder: TextEncoder, *, store: Store | None = None, progress: Progress | None = None
) -> NDArray[np.float32]:
    """Encode texts, each different one once.

    Parameters
    ----------
    texts : sequence of str
        None of them empty.
    encoder : TextEncoder
        From `open_encoder`.
    store : Store, optional
        Asked first, and filled as the work goes on: an interrupted call loses one step at most.
    progress : callable, optional
        Called with the different texts done and in all.

    Returns
    -------
    ndarray, shape (n, D), float32
        Row i belongs to ``texts[i]``; equal texts have equal rows.

    Raises
    ------
    DataError
        If a text is empty or white space.
    """
    for index, text in enumerate(texts):
        if not text.strip():
            raise DataError(
                f"text {index} of {len(texts)} is empty ({text!r}); an encoder needs at least one "
                f"character that is not white space; leave such rows out"
            )
    secret = b"" if store is None else store.secret
    keys = {text: embedding_key(encoder.identity, text, secret) for text in dict.fromkeys(texts)}
    known = store.get_embeddings(keys.values()) if store is not None else {}
    # Texts of like length share a batch, so that little is spent on padding.
    missing = sorted((text for text in keys if keys[text] not in known), key=len)
    for start in range(0, len(missing), STEP):
        if progress is not None:
            progress("embed", len(keys) - len(missing) + start, len(keys))
        step = missing[start : start + STEP]
        fresh = list(zip((keys[text] for text in step), _encoded(step, encoder), strict=True))
        if store is not None:
            store.put_embeddings(fresh)
        known.update(fresh)
    if progress is not None:
        progress("embed", len(keys), len(keys))
    vectors = np.empty((len(texts), encoder.n_dims), dtype=np.float32)
    for index, text in enumerate(texts):
        vectors[index] = known[keys[text]]
    return vectors


def open_encoder(name: str | Path, *, device: str | None = None, dtype: str = "float32") -> TextEncoder:
    """Find an encoder by name; a model is loaded when the first text has to be encoded.

    Parameters
    ----------
    name : str or Path
        ``minilm``, ``mpnet``, ``hf:ORG/NAME``, a folder that sentence-transformers can read, or
        ``fake``, see `FakeEncoder`; or ``module:attribute`` for one of your own (``docs/plug.md``).
    device : str, optional
        As torch names it; by default an accelerator if there is one.
    dtype : {"float32", "bfloat16"}
        Of the model's arithmetic; part of the identity unless it is float32.

    Raises
    ------
    ConfigError
        If the name or ``dtype`` is unknown.
    MissingDependencyError
        If sentence-transformers is not installed.
    PullError
        If an embedded encoder cannot be fetched.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype of the encoder {name!r} is {dtype!r}; choose one of: {', '.join(DTYPES)}")
    if name == "fake":
        return FakeEncoder()
    if is_own(name):
        return as_encoder(own_part(str(name), "the encoder"))
    place = resolve(name, kind="encoder")
    # Where a folder lies says nothing about its vectors.
    short = str(name) if str(name) in EMBEDDED or str(name).startswith("hf:") else place.name
    return SentenceEncoder(short, place, revision=revision(name), device=device, dtype=dtype)


def as_encoder(given: object) -> TextEncoder:
    """Return ``given`` if it has the members of an encoder.

    Raises
    ------
    ConfigError
        Naming those that it lacks.
    """
    if isinstance(given, type):
        raise ConfigError(f"the class {given.__name__} is no encoder, an object of it may be; give {given.__name__}()")
    if lacks := missing(given, ("identity", "n_dims", "encode")):
        raise ConfigError(
            f"an object of the type {type(given).__name__} is no encoder: it lacks {lacks}; give it these members "
            '(docs/plug.md has an encoder of ten lines), or name one, such as "minilm"'
        )
    return cast(TextEncoder, given)


def _encoded(texts: Sequence[str], encoder: TextEncoder) -> list[NDArray[np.float32]]:
    """Vectors of texts, checked: an encoder may be anybody's."""
    try:
        vectors = np.asarray(encoder.encode(texts), dtype=np.float32)
    except MopError:
        raise
    except (TypeError, ValueError) as error:
        raise DataError(
            f"the encoder {encoder.identity} fails on {len(texts)} texts: {error}; mend its encode"
        ) from error
    if vectors.shape != (len(texts), encoder.n_dims) or not np.isfinite(vectors).all():
        raise DataError(
            f"the encoder {encoder.identity} gave vectors of the shape {vectors.shape} for {len(texts)} texts; "
            f"finite numbers of the shape ({len(texts)}, n_dims) with n_dims = {encoder.n_dims} are needed"
        )
    if not np.linalg.norm(vectors, axis=1).all():
        raise DataError(
            f"the encoder {encoder.identity} gave a vector of zeros, which has no direction; let no text have one, and "
            "let encode return mop.backends.encoder.unit_rows(vectors)"
        )
    return list(vectors)


class FakeEncoder:
    """Sums a fixed random direction per word: texts that share words lie near each other.

    For tests, examples and dry runs. It depends on nothing but numpy, and its vectors are the same on every machine.

    Examples
    --------
    >>> near, far = FakeEncoder().encode(["a dull film", "A dull, dull film!", "tax law"])[1:]
    >>> first = FakeEncoder().encode(["a dull film"])[0]
    >>> bool(first @ near > 0.8), bool(abs(first @ far) < 0.5)
    (True, True)
    """

    identity = f"fake-encoder/1 D={FAKE_DIMS}"
    n_dims = FAKE_DIMS

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape (n, D), of unit length."""
        directions: dict[str, NDArray[np.float64]] = {}
        vectors = np.empty((len(texts), FAKE_DIMS), dtype=np.float64)
        for index, text in enumerate(texts):
            words = re.findall(r"\w+", text.lower()) or list(text)
            for word in words:
                if word not in directions:
                    seed = randomness.derive_seed(0, "fake-encoder", word)
                    directions[word] = randomness.uniforms(seed, 0, FAKE_DIMS) - 0.5
            vectors[index] = np.sum([directions[word] for word in words], axis=0)
        return unit_rows(vectors)


class SentenceEncoder:
    """A model of sentence-transformers, from `open_encoder`.

    Attributes
    ----------
    max_length : int
        Word pieces read of each text, the two marks around it included.
    """

    def __init__(self, name: str, place: Path, *, revision: str, device: str | None, dtype: str) -> None:
        self._place = place
        self._dtype = dtype
        self._device = device
        self._loaded: Any = None
        self.n_dims, self.max_length = _published(place) or self._measured()
        parts = {"encoder": name, "revision": revision, "n_dims": self.n_dims, "max_length": self.max_length}
        parts |= {"normalize": True} if dtype == "float32" else {"normalize": True, "dtype": dtype}
        self.identity = json.dumps(parts, sort_keys=True)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return one vector per text, shape (n, D), of unit length.

        A text beyond ``max_length`` is read up to there, which is how these models are made; how
        many were is logged. A lone surrogate, which no tokenizer takes, is read as a question mark.
        """
        model = self._model()
        readable = [text.encode("utf-8", "replace").decode("utf-8") for text in texts]
        self._say_what_is_cut(readable)
        vectors = model.encode(readable, batch_size=BATCH, show_progress_bar=False, convert_to_numpy=True)
        return unit_rows(np.asarray(vectors, dtype=np.float32).reshape(len(texts), self.n_dims))

    def _measured(self) -> tuple[int, int]:
        """Ask the model itself for what `_published` tells."""
        model = self._model()
        (vector,) = model.encode(["x"], show_progress_bar=False, convert_to_numpy=True)
        return len(vector), int(model.max_seq_length)

    def _model(self) -> Any:
        """Return the model, reading the weights the first time; a local folder fetches nothing."""
        if self._loaded is not None:
            return self._loaded
        package = require("sentence_transformers", extra="local")
        require("transformers.utils.logging", extra="local").disable_progress_bar()  # progress is shown by mop
        with reading(self._place, "encoder"):
            loaded = package.SentenceTransformer(
                str(with_weights(self._place)),
                device=self._device,
                local_files_only=True,
                trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )
        self._loaded = loaded.bfloat16() if self._dtype == "bfloat16" else loaded.float()
        return self._loaded

    def _say_what_is_cut(self, texts: Sequence[str]) -> None:
        """Log how many texts are longer than what is read."""
        # A word piece has at least one character; two pieces are marks around the text.
        suspects = [text for text in texts if len(text) > self.max_length - 2]
        if not suspects:
            return
        pieces = self._model().tokenizer(suspects, truncation=False, verbose=False)["input_ids"]
        n_cut = sum(len(ids) > self.max_length for ids in pieces)
        if n_cut:
            log.warning(
                "%d of %d texts are longer than the %d word pieces that the encoder reads; their ends do not count",
                n_cut,
                len(texts),
                self.max_length,
            )


def unit_rows(vectors: NDArray[Any]) -> NDArray[np.float32]:
    """Scale every row to unit length, in float64 until the last step.

    Parameters
    ----------
    vectors : ndarray, shape (n, D)

    Examples
    --------
    >>> unit_rows(np.array([[3.0, 4.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929]]
    """
    wide = vectors.astype(np.float64)
    scaled: NDArray[np.float32] = (wide / np.linalg.norm(wide, axis=1, keepdims=True)).astype(np.float32)
    return scaled


def _published(place: Path) -> tuple[int, int] | None:
    """D and word pieces read, from a folder's small files; None if not told."""
    try:
        n_dims, n_pieces = (json.loads((place / file).read_text(encoding="utf-8")).get(key) for file, key in _TOLD)
    except FileNotFoundError:
        return None
    return (n_dims, n_pieces) if isinstance(n_dims, int) and isinstance(n_pieces, int) else None


_TOLD = (("1_Pooling/config.json", "word_embedding_dimension"), ("sentence_bert_config.json", "max_seq_length"))
