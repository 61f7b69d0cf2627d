"""What AttrPrompt varies: the dimensions and values released for news, films and restaurants.

Source: Yu et al., *Large Language Model as Attributed Training Data Generator*, NeurIPS 2023 Datasets
and Benchmarks, and the lists released with it; wording ours. A population without a list here has
one written by the language model (`mop.rivals.attrprompt.propose_attributes`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from mop.errors import DataError

OTHERS = "others"
"""Added to every list that depends on the label, as the released loader does."""


@dataclass(frozen=True, slots=True)
class Attributes:
    """Dimensions and their values; one value of each is drawn for a text."""

    common: Mapping[str, Sequence[str]]
    """Dimension to values, the same for every label."""
    by_label: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Dimension to label (lower case) to values."""

    def of(self, label: str | None) -> dict[str, tuple[str, ...]]:
        """Dimension to the values for a label; those that depend on it come first.

        Raises
        ------
        DataError
            If a dimension has no values for the label.
        """
        own = {}
        for dimension, values in self.by_label.items():
            if (label or "").lower() not in values:
                raise DataError(
                    f"the dimension {dimension!r} has no values for the label {label!r}; it has them "
                    f"for {', '.join(values)}; rename the labels, or use the domain plain"
                )
            own[dimension] = (*values[(label or "").lower()], OTHERS)
        return {**own, **{name: tuple(values) for name, values in self.common.items()}}


def lengths(*least: int) -> tuple[str, ...]:
    """Values of the length dimension: between that number of words and 50 more.

    Examples
    --------
    >>> lengths(30)
    ('between 30 and 80 words',)
    """
    return tuple(f"between {n} and {n + 50} words" for n in least)


COUNTRIES = (
    "Germany", "France", "the United Kingdom", "Italy", "the Netherlands", "China", "India", "Japan",
    "South Korea", "Pakistan", "Nigeria", "Egypt", "South Africa", "Algeria", "Ethiopia",
    "the United States", "Canada", "Mexico", "Guatemala", "Costa Rica", "Brazil", "Argentina",
    "Colombia", "Peru", "Venezuela", "Australia", "New Zealand", "Papua New Guinea", "Vanuatu", "Samoa",
)  # fmt: skip

NEWS = Attributes(
    by_label={
        "sub-topic": {
            "world": (
                "international politics and diplomacy", "conflicts and war", "terrorism and security",
                "human rights and social justice", "migration and refugees",
                "climate and environmental policy", "global health and pandemics", "natural disasters",
                "cross-border crime and corruption", "cultural and social developments",
                "geopolitical tension and territorial disputes", "aid and development",
                "humanitarian relief", "cultural heritage", "international partnerships",
            ),
            "sports": (
                "soccer", "basketball", "baseball", "tennis", "golf", "cricket", "rugby", "athletics",
                "Formula 1", "Olympics", "boxing", "swimming", "volleyball", "ice hockey",
                "American football", "cycling", "motorsports", "martial arts", "horse racing", "surfing",
            ),
            "business": (
                "earnings and financial reports", "stock market", "mergers and acquisitions",
                "regulation and policy", "startups", "industry trends and forecasts",
                "economic indicators", "strategy and management", "governance and ethics",
                "consumer behaviour and market research", "leadership and executives",
                "banking and finance", "energy and sustainability", "retail and e-commerce",
                "real estate", "disruption and crisis management", "social responsibility",
            ),
            "sci/tech": (
                "artificial intelligence", "robotics", "quantum computing", "biotechnology",
                "nanotechnology", "internet of things", "renewable energy", "virtual reality",
                "augmented reality", "cybersecurity", "genetic engineering", "big data",
                "autonomous vehicles", "3D printing", "blockchain", "bioinformatics",
                "machine learning", "biomedical engineering", "clean technology",
            ),
        }
    },
    common={
        "length": lengths(30, 100),
        "style": (
            "investigative journalism, which digs up facts that somebody would rather hide",
            "an op-ed, which argues for the writer's own view",
            "feature writing, which tells a story around one subject",
            "news analysis, which explains what events mean",
            "a profile or interview, which presents one person",
        ),
        "location": COUNTRIES,
    },
)  # fmt: skip

FILMS = Attributes(
    by_label={
        "sub-topic": {
            "positive": (
                "compelling storyline", "well-developed characters", "skilful direction",
                "excellent acting", "cinematography", "engaging dialogue", "sound and music",
                "production design", "editing", "emotional impact",
            ),
            "negative": (
                "weak plot", "lacklustre performances", "poor production quality",
                "incoherent storyline", "unmemorable characters", "weak soundtrack", "poor dialogue",
                "disjointed atmosphere", "unresolved plot lines", "lack of entertainment value",
            ),
        }
    },
    common={
        "genre": ("action", "drama", "comedy", "thriller", "romance", "horror", "adventure",
                  "science fiction", "fantasy", "animation"),
        "length": lengths(30, 100),
        "style": (
            "descriptive, which paints what is seen and heard",
            "analytical, which takes the film apart",
            "persuasive, which wants the reader to agree",
            "comparative, which sets the film beside others",
        ),
    },
)  # fmt: skip

RESTAURANTS = Attributes(
    by_label={
        "sub-topic": {
            "positive": (
                "quality of food", "fresh ingredients", "menu variety", "presentation", "service",
                "value for money", "cleanliness", "special diets", "unique and creative dishes",
                "efficient operations",
            ),
            "negative": (
                "poor service", "unfriendly staff", "long waits", "incorrect orders",
                "unappetising presentation", "unpleasant ambience", "dirty or unhygienic",
                "limited menu", "poor food quality", "overpriced",
            ),
        }
    },
    common={
        "cuisine": (
            "Turkish", "Spanish", "Greek", "Italian", "French", "American", "Mexican", "Canadian",
            "Cajun", "Tex-Mex", "Brazilian", "Peruvian", "Argentinean", "Colombian", "Venezuelan",
            "Ethiopian", "Moroccan", "South African", "Nigerian", "Egyptian", "Chinese", "Japanese",
            "Indian", "Thai", "Korean", "Australian", "New Zealand", "Polynesian", "Hawaiian",
            "Singaporean",
        ),
        "length": lengths(30, 100),
        "style": (
            "descriptive, which paints what is seen and tasted",
            "a personal narrative, which tells of one visit",
            "an analysis, which weighs strengths and weaknesses",
            "comparative, which sets the place beside others",
            "gastronomic, which dwells on the dishes",
        ),
    },
)  # fmt: skip

ATTRIBUTES: Mapping[str, Attributes] = {"news": NEWS, "films": FILMS, "restaurants": RESTAURANTS}
"""By name of the domain."""
