"""Samples of texts to figures with floors and intervals."""

from mop.evaluate.samples import evaluate

__all__ = ["evaluate"]
