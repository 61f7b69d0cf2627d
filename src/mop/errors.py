"""The exceptions of the package; every one says what was wrong, what was received and what to do.

::

    MopError
      ConfigError             (ValueError)    a setting is missing, unknown or out of range
      DataError               (ValueError)    an input file or row cannot be used
      NotFittedError          (RuntimeError)  weights were asked for before fit; scikit-learn's, too
      ArtifactError           (RuntimeError)  a run folder or store is incomplete, foreign, damaged or full
      PullError               (RuntimeError)  an embedded model or data set could not be fetched or is damaged
      MissingDependencyError  (ImportError)   an extra is not installed
      BackendError            (RuntimeError)  a language model could not answer; has ``retryable``
        PromptTooLongError                    prompt plus response exceed the context window
        ScoringUnsupportedError               this backend cannot give log-likelihoods
"""

from __future__ import annotations

import functools
import importlib
from types import ModuleType


class MopError(Exception):
    """Base of all errors that the package raises on purpose."""


class ConfigError(MopError, ValueError):
    """A setting is missing, unknown or out of range."""


class DataError(MopError, ValueError):
    """An input file or row cannot be used."""


class NotFittedError(MopError, RuntimeError):
    """Weights were asked for before ``fit``; scikit-learn's error of that name, too."""

    def __new__(cls, *args: object) -> NotFittedError:
        """Be an instance of scikit-learn's class as well, which is imported when an error is made and not before."""
        return super().__new__(_with_scikit_learns() if cls is NotFittedError else cls, *args)

    def __reduce__(self) -> tuple[type, tuple[object, ...]]:
        """Cross from one process to another under this name."""
        return NotFittedError, self.args


@functools.cache
def _with_scikit_learns() -> type[NotFittedError]:
    theirs = importlib.import_module("sklearn.exceptions").NotFittedError
    return type("NotFittedError", (NotFittedError, theirs), {"__module__": __name__})


class ArtifactError(MopError, RuntimeError):
    """A run folder or store is incomplete, foreign, damaged, of another version, or its disk is full."""


class PullError(MopError, RuntimeError):
    """An embedded model or data set could not be fetched, or what came is damaged."""


class MissingDependencyError(MopError, ImportError):
    """A package that an optional feature needs is not installed."""


class BackendError(MopError, RuntimeError):
    """A language model could not answer; ``retryable`` if the same request may succeed later."""

    def __init__(self, message: str, *, retryable: bool = False) -> None:
        super().__init__(message)
        self.retryable = retryable


class PromptTooLongError(BackendError):
    """Prompt plus response exceed the context window of the model."""


class ScoringUnsupportedError(BackendError):
    """A backend cannot give log-likelihoods of a given text."""


def require(module: str, *, extra: str) -> ModuleType:
    """Import an optional module by its dotted name, or say which extra of this distribution installs it.

    Raises
    ------
    MissingDependencyError
        If the module's top-level package is not installed.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        top = module.partition(".")[0]
        if error.name is None or error.name.partition(".")[0] != top:
            raise
        raise MissingDependencyError(
            f"this needs the package {top!r}, which is not installed; "
            f"install it with: pip install 'mixture-of-personas[{extra}]'"
        ) from error
