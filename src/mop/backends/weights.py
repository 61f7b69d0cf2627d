"""Folders of models to models: safetensors only, no Python of theirs, nothing fetched."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from mop.data.hub import with_weights
from mop.errors import ConfigError, MopError, require

_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


def causal_lm(place: Path, dtype: str) -> Any:
    """The causal language model of a folder, as transformers has it.

    Raises
    ------
    ConfigError
        If it cannot be loaded, or only with code or pickles of the folder.
    """
    transformers = require("transformers", extra="local")
    transformers.utils.logging.disable_progress_bar()  # loading takes a second; progress is shown by mop
    torch = require("torch", extra="local")
    with reading(place, "language model", "AutoModelForCausalLM"):
        return transformers.AutoModelForCausalLM.from_pretrained(
            with_weights(place),
            dtype=getattr(torch, dtype),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )


@contextmanager
def reading(place: Path, what: str, loader: str = "AutoModel") -> Iterator[None]:
    """Turn what a library says of a folder that it cannot load into a `ConfigError` with a cure.

    Parameters
    ----------
    place : Path
        The folder.
    what : str
        What it should be ("language model").
    loader : str
        The class of transformers that would read it.
    """
    try:
        if (place / "adapter_config.json").is_file():
            raise ConfigError(
                f"the {what} in {str(place)!r} is an adapter without its base model; merge the two where you made "
                "it (peft: merge_and_unload, then save_pretrained) and name the merged folder"
            )
        yield
    except MopError:
        raise
    except Exception as error:
        raise ConfigError(_cure(place, what, loader, error)) from error


def _cure(place: Path, what: str, loader: str, error: Exception) -> str:
    said = str(error).strip().partition("\n")[0] or type(error).__name__
    if "trust_remote_code" in str(error) or _names_code(place):
        return (
            f"the {what} in {str(place)!r} needs Python code of its own folder, which mop never runs; choose a model "
            "whose code is part of transformers"
        )
    pickles = sorted(path.name for pattern in _PICKLES for path in place.glob(pattern))
    if pickles and not any(place.rglob("*.safetensors")):
        return (
            f"the {what} in {str(place)!r} has its weights as a pickle ({pickles[0]}), which mop does not read; if you "
            'trust its maker, write them as safetensors: python -c "from transformers import '
            f'{loader} as m; m.from_pretrained({str(place)!r}).save_pretrained({str(place)!r})"'
        )
    needs = "a model needs its tokenizer files beside it, such as tokenizer.json; " if what == "tokenizer" else ""
    return f"the {what} in {str(place)!r} cannot be loaded ({said}); {needs}check its files, or name another folder"


def _names_code(place: Path) -> bool:
    """Whether a small file of the folder names classes in Python files."""
    for name in ("config.json", "tokenizer_config.json"):
        with suppress(OSError, ValueError, RecursionError):
            told = json.loads((place / name).read_text(encoding="utf-8"))
            if isinstance(told, dict) and told.get("auto_map"):
                return True
    return False
