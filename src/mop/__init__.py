"""Mixture of Personas: a frozen language model that answers like a population.

``from mop import MixtureOfPersonas`` is the Python face; ``mop --help`` the command line.
Stages are functions, in packages in the order of the data flow: `mop.data`, `mop.personas`, `mop.mixture`,
`mop.simulate`, `mop.evaluate`, `mop.report`. Importing this package loads neither torch nor transformers.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from mop.errors import MopError
from mop.estimator import MixtureOfPersonas
from mop.types import Decoding, Persona, Record, Response

if TYPE_CHECKING:
    from mop.backends import open_model
    from mop.config import FitConfig
    from mop.data.records import load_records

__all__ = [
    "Decoding", "FitConfig", "MixtureOfPersonas", "MopError", "Persona", "Record", "Response", "load_records",
    "open_model",
]  # fmt: skip

_LATER = {"FitConfig": "mop.config", "load_records": "mop.data.records", "open_model": "mop.backends"}
"""What is imported when it is first asked for, and from where."""


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_LATER[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


__version__ = "0.1.0"
