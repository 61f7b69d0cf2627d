"""Models of the Hugging Face Hub by name: a commit's folder in the Hub's cache, never a folder of the same name.

Only weights in safetensors and small text files are fetched: no pickles, no Python.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from mop.errors import ConfigError, PullError, require

SMALL = ("*.json", "*.txt", "*.model", "*.jinja", "*.tiktoken")
"""Configuration, tokenizer and modules of a model."""
WEIGHTS = ("*.safetensors",)
_ELSEWHERE = ("onnx/*", "openvino/*", "original/*", "consolidated*")
"""The same weights for other programs."""
_NAME = re.compile(r"(?:[A-Za-z0-9_][\w.-]*/)?[A-Za-z0-9_][\w.-]*")
_COMMITS: dict[tuple[str, str], str] = {}
"""Commit of each name that was looked up, so that all parts of a model are of the same one."""
_ORIGINAL = re.compile(r"models--(?P<name>.+)")


def is_offline() -> bool:
    """Whether ``MOP_OFFLINE`` (``1``, ``true``, ``yes`` or ``on``) forbids fetching anything."""
    return os.environ.get("MOP_OFFLINE", "").strip().lower() in {"1", "true", "yes", "on"}


def hub_name(text: str, remedy: str) -> str:
    """``ORG/NAME`` of ``hf:ORG/NAME``.

    Raises
    ------
    ConfigError
        For what is no such name: a path (``hf:.``, ``hf:../x``) never is.
    """
    name = text.removeprefix("hf:")
    if not _NAME.fullmatch(name) or ".." in name or "--" in name:
        raise ConfigError(
            f"{text!r} is no Hugging Face name; it is written hf:ORG/NAME, and a folder without hf:, as its path; "
            f"{remedy}"
        )
    return name


def hub_folder(name: str, patterns: tuple[str, ...] = SMALL, *, commit: str | None = None) -> Path:
    """Folder of a commit in the Hub's cache with the files that match ``patterns``; fetched unless it is offline.

    Raises
    ------
    PullError
        If they are neither in the cache nor to be had.
    """
    hub = require("huggingface_hub", extra="local")
    cache = require("huggingface_hub.constants", extra="local").HF_HUB_CACHE
    offline, known = is_offline(), (str(cache), name)
    try:
        found = hub.snapshot_download(
            name,
            revision=commit or _COMMITS.get(known),
            allow_patterns=list(patterns),
            ignore_patterns=list(_ELSEWHERE),
            local_files_only=offline,
        )
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        if offline:
            raise PullError(
                f"'hf:{name}' is not in the Hugging Face cache {cache}, and "
                "MOP_OFFLINE=1 forbids fetching it; run the same command once with MOP_OFFLINE unset, or name a folder"
            ) from error
        raise PullError(
            f"cannot find 'hf:{name}': {first or type(error).__name__}; check the name, the network, "
            "or HF_TOKEN if the model is not open to all; without a network, name a folder"
        ) from error
    _COMMITS[known] = Path(found).name
    return Path(found)


def with_weights(place: Path) -> Path:
    """Fetch the weights of a folder that `hub_folder` gave, unless they are there; any other folder is as it is."""
    found = _ORIGINAL.fullmatch(place.parents[1].name) if place.parent.name == "snapshots" else None
    if found is None or _has_weights(place):
        return place
    return hub_folder(found["name"].replace("--", "/"), (*SMALL, *WEIGHTS), commit=place.name)


def _has_weights(place: Path) -> bool:
    """Whether each file of weights that the indices name is there, or any if there is no index."""
    indices = list(place.glob("*.safetensors.index.json"))
    if not indices:
        return any(place.rglob("*.safetensors"))
    named: set[str] = set()
    for index in indices:
        shards: dict[str, Any] = json.loads(index.read_text(encoding="utf-8")).get("weight_map", {})
        named |= {str(shard) for shard in shards.values()}
    return all((place / shard).is_file() for shard in named)
