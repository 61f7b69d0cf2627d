"""Scores of records under components to weights: the only thing that learns."""

from mop.mixture.fit import fit_mixture
from mop.mixture.fitted import FittedMixture, load_mixture, save_mixture, uniform_mixture
from mop.mixture.sums import log_mixture, unconditional_weights

__all__ = [
    "FittedMixture",
    "fit_mixture",
    "load_mixture",
    "log_mixture",
    "save_mixture",
    "unconditional_weights",
    "uniform_mixture",
]
