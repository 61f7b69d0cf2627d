"""What is installed, which devices, models and servers are there, and what to do about what is missing.

`examine` returns plain data, `describe` turns it into text. Nothing is changed or downloaded, and
servers are asked only what is free of charge, unless they are to be probed.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import re
import shutil
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from mop import __version__
from mop.backends import open_model
from mop.backends.rehearsal import LIKELY_TAUS
from mop.backends.remote import RemoteGenerator, RemoteModel, parse_name
from mop.config import RemoteSettings
from mop.errors import MopError
from mop.redact import without_password
from mop.types import Decoding

Status = Literal["ok", "note", "problem"]
Finding = dict[str, str]

_DISTRIBUTION = "mixture-of-personas"
_LEAST_FREE_BYTES = 3 * 2**30  # what the embedded models take, roughly twice over while they are converted


def examine(
    servers: Sequence[str] = (),
    *,
    settings: RemoteSettings | None = None,
    cache: Path | None = None,
    probe: bool = False,
) -> dict[str, Any]:
    """Look around.

    Parameters
    ----------
    servers : sequence of str
        Served models as ``openai:MODEL@URL``; each is asked what it is and what it serves.
    settings : RemoteSettings, optional
        For the servers: key variable, leave to call foreign addresses, dialect, tokenizer.
    cache : Path, optional
        Cache folder, instead of the usual one.
    probe : bool
        Ask every server what a run asks first: persona, exemplar, temperatures, and known questions where it can
        score: about 6 short draws and 25 short scores, which may cost money.

    Returns
    -------
    dict
        ``version``, ``ok`` (no problem found) and ``findings``: a list of ``{"section", "what",
        "status", "detail", "advice"}``, status ``ok``, ``note`` or ``problem``; advice is empty
        where none is needed.
    """
    findings = [*_machine(), *_packages(), *_devices(), *_models(cache)]
    for name in servers:
        findings += _server(name, settings or RemoteSettings(), probe=probe)
    return {
        "version": __version__,
        "ok": all(finding["status"] != "problem" for finding in findings),
        "findings": findings,
    }


def describe(result: dict[str, Any]) -> str:
    """Turn the result of `examine` into text: one line per finding, advice below it.

    Examples
    --------
    >>> finding = {"section": "extras", "what": "remote", "status": "note", "detail": "httpx is missing"}
    >>> finding["advice"] = "pip install httpx"
    >>> print(describe({"version": "1", "ok": True, "findings": [finding]}))
    mop 1
    extras
      - remote: httpx is missing
          -> pip install httpx
    no problems
    """
    marks = {"ok": "+", "note": "-", "problem": "!"}
    lines = [f"mop {result['version']}"]
    section = None
    for finding in result["findings"]:
        if finding["section"] != section:
            section = finding["section"]
            lines.append(section)
        lines.append(f"  {marks[finding['status']]} {finding['what']}: {finding['detail']}")
        if finding["advice"]:
            lines.append(f"      -> {finding['advice']}")
    n = sum(finding["status"] == "problem" for finding in result["findings"])
    lines.append("no problems" if n == 0 else f"{n} problem{'s' if n > 1 else ''}, marked with !")
    return "\n".join(lines)


def _finding(section: str, what: str, status: Status, detail: str, advice: str = "") -> Finding:
    return {"section": section, "what": what, "status": status, "detail": detail, "advice": advice}


def _machine() -> Iterator[Finding]:
    version = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    yield _finding("machine", "python", "ok", version)
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_bytes()
    size = f", {memory / 2**30:.0f} GiB of memory" if memory else ""
    yield _finding("machine", "processor", "ok", f"{n_cores} cores{size}")


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None  # not every system says


def _packages() -> Iterator[Finding]:
    """One finding per extra: what of it is installed, in which version."""
    try:
        lines = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        yield _finding("packages", "mop", "note", "runs from a folder, without an installed distribution")
        return
    extras: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if name is not None and name[0] != _DISTRIBUTION:
            least = re.search(r">=\s*([\d.]+)", requirement)
            extras.setdefault(extra[1] if extra else "core", []).append((name[0], least[1] if least else ""))
    yield from (_extra(name, packages) for name, packages in extras.items() if name not in ("all", "dev"))


def _extra(name: str, packages: Sequence[tuple[str, str]]) -> Finding:
    there, missing = [], []
    for package, least in packages:
        try:
            version = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            missing.append(package)
            continue
        if _numbers(version) < _numbers(least):
            missing.append(f"{package} (is {version}, must be at least {least})")
        else:
            there.append(f"{package} {version}")
    if not missing:
        return _finding("packages", name, "ok", ", ".join(there))
    wanted = _DISTRIBUTION if name == "core" else f"'{_DISTRIBUTION}[{name}]'"
    advice = f"if you need it: {Path(sys.executable).name} -m pip install --upgrade {wanted}"
    status: Status = "problem" if name == "core" else "note"
    return _finding("packages", name, status, f"missing: {', '.join(missing)}", advice)


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version; enough to compare with a lower bound."""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


def _devices() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield _finding("devices", "torch", "note", "not installed: models on this machine cannot run")
        return
    import torch

    yield _finding("devices", "cpu", "ok", f"{torch.get_num_threads()} threads, torch {torch.__version__}")
    n_gpus, has_mps = torch.cuda.device_count() if torch.cuda.is_available() else 0, torch.backends.mps.is_available()
    for i in range(n_gpus):
        free, total = torch.cuda.mem_get_info(i)
        size = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        yield _finding("devices", f"cuda:{i}", "ok", f"{torch.cuda.get_device_name(i)}, {size}")
    if has_mps:
        yield _finding("devices", "mps", "note", "Apple GPU, not used: it has no float64")
    elif not n_gpus:
        advice = "a GPU, or a server named as openai:MODEL@URL, is faster"
        yield _finding("devices", "gpu", "note", "none that torch can use", advice)


def _models(cache: Path | None) -> Iterator[Finding]:
    from mop.data import pull
    from mop.data.catalogue import EMBEDDED

    folder = cache or pull.cache_folder()
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if not os.access(place, os.W_OK):
        yield _finding("models", "cache", "problem", f"{detail}, not writable", "set MOP_CACHE to another folder")
    elif free < _LEAST_FREE_BYTES:
        yield _finding("models", "cache", "problem", detail, "free some space, or set MOP_CACHE to another disk")
    else:
        yield _finding("models", "cache", "ok", detail)
    for name in EMBEDDED if cache is None else ():
        if pull.is_pulled(name):
            yield _finding("models", name, "ok", "there")
        else:
            yield _finding("models", name, "note", "not pulled yet", f"mop pull {name}")


def _server(name: str, settings: RemoteSettings, *, probe: bool) -> Iterator[Finding]:
    """Ask a server what it is; a refusal is a finding, not an error."""
    shown = without_password(name)
    try:
        parse_name(name)  # a name of another kind would open a model on this machine
        model = open_model(name, settings=settings)
        assert isinstance(model, RemoteGenerator)  # what that form of name stands for
        if settings.dialect != "auto":
            model.detect()
    except MopError as error:
        advice = "mop fake-server is one to try things with"
        yield _finding("servers", shown, "problem", str(error).replace(name, shown), advice)
        return
    seen = model.findings
    window = f", window {seen.max_len} tokens" if seen.max_len else ""
    if isinstance(model, RemoteModel):
        detail = f"{seen.kind}{window}; generates, and scores if it passes the probe"
        yield _finding("servers", shown, "ok", detail)
    else:
        detail = f"{seen.kind}{window}; generates only: {model.why_no_scores}"
        if seen.kind in ("vllm", "sglang"):
            advice = "name its tokenizer: --tokenizer NAME, the model's embedded name, hf:ORG/NAME or folder"
            yield _finding("servers", shown, "note", detail, advice)
        else:
            advice = "fit with a model on this machine as scorer, and generate here"
            yield _finding("servers", shown, "ok", detail, advice)
    if probe:
        yield from _probed(shown, model)


def _probed(name: str, model: RemoteGenerator) -> Iterator[Finding]:
    """Ask what a run asks before it pays for anything: persona, exemplar, temperatures, and known questions."""
    try:
        model.rehearse(LIKELY_TAUS, Decoding())
    except MopError as error:
        yield _finding("servers", f"{name}, draws", "problem", str(error))
    else:
        seeded = "gives the same text" if model.findings.is_seeded else "does not give the same text"
        doubts = "".join(f"; {doubt}" for doubt in model.findings.doubts)
        detail = f"it samples; the same seed {seeded} again{doubts}"
        yield _finding("servers", f"{name}, draws", "note" if doubts else "ok", detail)
    if not isinstance(model, RemoteModel):
        return
    try:
        model.rehearse_scores()
    except MopError as error:
        yield _finding("servers", f"{name}, scores", "problem", str(error))
    else:
        noise = max(one.noise for one in model.findings.conformance.values())
        yield _finding("servers", f"{name}, scores", "ok", f"passes the probe, noise {noise:.2g} nats per token")
