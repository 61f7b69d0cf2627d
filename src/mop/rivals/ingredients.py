"""What a method may be made from; each takes the contexts and one `Ingredients`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from mop.backends.ask import Drawing
from mop.backends.base import Generator, Scorer
from mop.backends.encoder import TextEncoder
from mop.config import RunConfig
from mop.mixture.fitted import FittedMixture
from mop.storage.store import Store
from mop.types import Decoding, Progress, Record


@dataclass(frozen=True, kw_only=True)
class Ingredients:
    """All that a method may be made from."""

    config: RunConfig
    exemplars: Sequence[Record]
    """N real records that prompts may show."""
    mixture: FittedMixture | None
    """For the methods of `mop.rivals.methods.needs_mixture`; its exemplars are those above."""
    lm: Generator
    """The model that writes, for every method."""
    encoder: TextEncoder
    store: Store
    seed: int
    """Of the draws."""
    scorer: Scorer | None = None
    """The model that scores, for the methods of `mop.rivals.methods.needs_scorer`; by default the one that writes."""
    tau: float = 1.0
    """Temperature of the methods that have none of their own."""
    progress: Progress | None = None

    @property
    def drawing(self) -> Drawing:
        """How texts are drawn: by the same model, with the same length cap and truncation for every method."""
        settings = self.config.simulate
        return Drawing(
            generator=self.lm,
            store=self.store,
            seed=self.seed,
            decoding=Decoding(
                max_tokens=settings.max_tokens,
                min_tokens=settings.min_tokens,
                top_p=settings.top_p,
                top_k=settings.top_k,
            ),
            task=self.config.data.task,
            max_failed_share=self.config.remote.max_failed_share,
            progress=self.progress,
        )
