"""The file that a benchmark leaves behind: its claims, and on what they were measured."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mop.storage.files import write_json

ROOT = Path(__file__).resolve().parent.parent


def write_results_file(path: Path, claims: Mapping[str, Any], seconds: float, **more: Any) -> dict[str, Any]:
    """Write ``claims`` (ID to ``value``, ``unit``, ``against``, ...) with commit, machine and time; return it all.

    ``more`` is written as it is. Folders are made.
    """
    document = {"claims": dict(claims), "commit": commit(), "machine": machine(), "seconds": round(seconds, 1), **more}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, document)
    return document


def commit() -> str | None:
    """What is checked out, or None outside a repository."""
    found = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, capture_output=True, text=True, check=False)
    return found.stdout.strip() or None


def machine() -> str:
    """Processor, cores, what torch runs with, and the accelerator."""
    model = platform.processor() or platform.machine()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    except OSError:
        pass
    parts = [model, f"{os.cpu_count()} cores"]
    try:
        import torch
    except ImportError:
        return ", ".join(parts)
    parts += [f"torch {torch.__version__}", f"{torch.get_num_threads()} threads"]
    if torch.cuda.is_available():
        parts.append(torch.cuda.get_device_name())
    return ", ".join(parts)
