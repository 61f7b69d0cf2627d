"""Counter-based randomness: a draw for item i is a function of (seed, i), never of order, batch or worker."""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray


def derive_seed(seed: int, *parts: str | int) -> int:
    """Return a 64-bit seed for one purpose and one item.

    ``parts`` say what the seed is for, most general first: ``derive_seed(0, "simulate", "mop", "rt-17")``.

    Notes
    -----
    BLAKE2b over a length-prefixed encoding, so that ("ab", "c") and ("a", "bc") differ.

    Examples
    --------
    >>> derive_seed(0, "a", 1) == derive_seed(0, "a", 1)
    True
    >>> derive_seed(0, "a", 1) == derive_seed(0, "a1")
    False
    """
    digest = hashlib.blake2b(digest_size=8)
    for part in (seed, *parts):
        kind = b"i" if isinstance(part, int | np.integer) else b"s"
        raw = str(part).encode("utf-8", "surrogatepass")
        digest.update(kind + len(raw).to_bytes(8, "little") + raw)
    return int.from_bytes(digest.digest(), "little")


def rng_of(seed: int, *parts: str | int) -> np.random.Generator:
    """Return a Philox generator for one purpose and one item."""
    return np.random.Generator(np.random.Philox(key=derive_seed(seed, *parts)))


def uniforms(seed: int, start: int, n: int) -> NDArray[np.float64]:
    """Return draws ``start`` to ``start + n - 1`` of the stream ``seed``, each uniform on [0, 1).

    Any stretch of the stream can be had without the ones before it: token t of a response
    uses draw t, wherever and whenever it is computed.

    Returns
    -------
    ndarray, shape (n,), float64

    Examples
    --------
    >>> bool((uniforms(7, 0, 9)[5:] == uniforms(7, 5, 4)).all())
    True
    """
    block, offset = divmod(start, 4)  # one Philox block holds four 64-bit numbers
    philox = np.random.Philox(key=seed)
    philox.advance(block)
    raw = philox.random_raw(offset + n)[offset:]
    return (raw >> np.uint64(11)).astype(np.float64) * 2.0**-53
