"""Samples of texts to figures with floors and intervals."""

from mop.evaluate.samples import Sample, evaluate

__all__ = ["Sample", "evaluate"]
