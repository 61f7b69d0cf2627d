"""Pure functions on arrays and texts: distances between samples, and counts of words."""

from mop.metrics.distances import energy_distance, fid, frechet, kl_cosine, mauve
from mop.metrics.words import distinct_n, duplicate_share, near_copy_share, refusal_share, self_bleu

__all__ = [
    "distinct_n",
    "duplicate_share",
    "energy_distance",
    "fid",
    "frechet",
    "kl_cosine",
    "mauve",
    "near_copy_share",
    "refusal_share",
    "self_bleu",
]
