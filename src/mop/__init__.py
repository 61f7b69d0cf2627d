"""Mixture of Personas: a frozen language model that answers like a population.

``from mop import MixtureOfPersonas`` is the Python face; ``mop --help`` the command line.
Stages are functions, in packages in the order of the data flow: `mop.data`, `mop.personas`, `mop.mixture`,
`mop.simulate`, `mop.evaluate`, `mop.report`. Importing this package loads neither torch nor transformers.
"""

from mop.errors import MopError
from mop.estimator import MixtureOfPersonas
from mop.types import Decoding, Persona, Record, Response

__all__ = ["Decoding", "MixtureOfPersonas", "MopError", "Persona", "Record", "Response"]

__version__ = "0.1.0"
