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
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from mop import __version__
from mop.backends import open_model
from mop.backends.remote import RemoteGenerator, RemoteModel, parse_name
from mop.config import RemoteSettings
from mop.errors import MopError
from mop.prompts import simulation_prompt
from mop.redact import without_password
from mop.types import Branch, Decoding, GenerateRequest, ScoreRequest

Status = Literal["ok", "note", "problem"]

_DISTRIBUTION = "mixture-of-personas"
_LEAST_FREE_BYTES = 3 * 2**30  # what the embedded models take, roughly twice over while they are converted


def examine(
    servers: Sequence[str] = (),
    *,
    settings: RemoteSettings | None = None,
    cache: Path | None = None,
    tokenizer: str | None = None,
    probe: bool = False,
) -> dict[str, Any]:
    """Look around.

    Parameters
    ----------
    servers : sequence of str
        Served models as ``openai:MODEL@URL``; each is asked what it is and what it serves.
    settings : RemoteSettings, optional
        For the servers: key variable, leave to call foreign addresses, dialect.
    cache : Path, optional
        Cache folder, instead of the usual one.
    tokenizer : str, optional
        Whose tokenizer makes the ids that the servers are sent, as in `mop.backends.open_model`.
    probe : bool
        Draw one text from every server, and score one where it can, with all the checks that come
        before the first real call: about 6 short draws and 25 short scores, which may cost money.

    Returns
    -------
    dict
        ``version``, ``ok`` (no problem found) and ``findings``: a list of ``{"section", "what",
        "status", "detail", "advice"}``, status ``ok``, ``note`` or ``problem``; advice is empty
        where none is needed.
    """
    findings = [*_machine(), *_packages(), *_devices(), *_models(cache)]
    for name in servers:
        findings += _server(name, settings or RemoteSettings(), tokenizer, probe=probe)
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


def _finding(section: str, what: str, status: Status, detail: str, advice: str = "") -> dict[str, str]:
    return {"section": section, "what": what, "status": status, "detail": detail, "advice": advice}


def _machine() -> list[dict[str, str]]:
    found = [
        _finding("machine", "python", "ok", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    ]
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    memory = _memory_bytes()
    size = f", {memory / 2**30:.0f} GiB of memory" if memory else ""
    found.append(_finding("machine", "processor", "ok", f"{n_cores} cores{size}"))
    return found


def _memory_bytes() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None  # not every system says


def _packages() -> list[dict[str, str]]:
    """One finding per extra: what of it is installed, in which version."""
    try:
        lines = importlib.metadata.requires(_DISTRIBUTION) or []
    except importlib.metadata.PackageNotFoundError:
        return [_finding("packages", "mop", "note", "runs from a folder, without an installed distribution")]
    extras: dict[str, list[tuple[str, str]]] = {}
    for line in lines:
        requirement, _, marker = line.partition(";")
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", marker)
        name = re.match(r"[A-Za-z0-9._-]+", requirement.strip())
        if name is not None and name[0] != _DISTRIBUTION:
            least = re.search(r">=\s*([\d.]+)", requirement)
            extras.setdefault(extra[1] if extra else "core", []).append((name[0], least[1] if least else ""))
    return [_extra(name, packages) for name, packages in extras.items() if name not in ("all", "dev")]


def _extra(name: str, packages: Sequence[tuple[str, str]]) -> dict[str, str]:
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
    return _finding(
        "packages",
        name,
        "problem" if name == "core" else "note",
        f"missing: {', '.join(missing)}",
        f"if you need it: {Path(sys.executable).name} -m pip install --upgrade {wanted}",
    )


def _numbers(version: str) -> tuple[int, ...]:
    """Leading numbers of a version; enough to compare with a lower bound."""
    return tuple(int(n) for n in re.findall(r"\d+", version.partition("+")[0])[:3])


def _devices() -> list[dict[str, str]]:
    if importlib.util.find_spec("torch") is None:
        return [_finding("devices", "torch", "note", "not installed: models on this machine cannot run")]
    import torch

    found = [_finding("devices", "cpu", "ok", f"{torch.get_num_threads()} threads, torch {torch.__version__}")]
    for i in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        free, total = torch.cuda.mem_get_info(i)
        size = f"{free / 2**30:.1f} of {total / 2**30:.1f} GiB free"
        found.append(_finding("devices", f"cuda:{i}", "ok", f"{torch.cuda.get_device_name(i)}, {size}"))
    if torch.backends.mps.is_available():
        found.append(_finding("devices", "mps", "note", "Apple GPU, not used: it has no float64"))
    if len(found) == 1:
        advice = "a GPU, or a server named as openai:MODEL@URL, is faster"
        found.append(_finding("devices", "gpu", "note", "none that torch can use", advice))
    return found


def _models(cache: Path | None) -> list[dict[str, str]]:
    from mop.data import pull
    from mop.data.catalogue import EMBEDDED

    folder = cache or pull.cache_folder()
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    free = shutil.disk_usage(place).free
    detail = f"{folder}, {free / 2**30:.1f} GiB free"
    if not os.access(place, os.W_OK):
        found = [_finding("models", "cache", "problem", f"{detail}, not writable", "set MOP_CACHE to another folder")]
    elif free < _LEAST_FREE_BYTES:
        found = [_finding("models", "cache", "problem", detail, "free some space, or set MOP_CACHE to another disk")]
    else:
        found = [_finding("models", "cache", "ok", detail)]
    if cache is None:
        for name in EMBEDDED:
            is_there = pull.is_pulled(name)
            advice = "" if is_there else f"mop pull {name}"
            found.append(
                _finding(
                    "models", name, "ok" if is_there else "note", "there" if is_there else "not pulled yet", advice
                )
            )
    return found


def _server(name: str, settings: RemoteSettings, tokenizer: str | None, *, probe: bool) -> list[dict[str, str]]:
    """Ask a server what it is; a refusal is a finding, not an error."""
    shown = without_password(name)
    try:
        parse_name(name)  # a name of another kind would open a model on this machine
        model = open_model(name, tokenizer=tokenizer or settings.tokenizer, settings=settings)
        assert isinstance(model, RemoteGenerator)  # what that form of name stands for
        if settings.dialect != "auto":
            model.detect()
    except MopError as error:
        advice = "mop fake-server is one to try things with"
        return [_finding("servers", shown, "problem", str(error).replace(name, shown), advice)]
    seen = model.findings
    window = f", window {seen.max_len} tokens" if seen.max_len else ""
    could_score = seen.kind in ("vllm", "sglang")
    if isinstance(model, RemoteModel):
        can = "generates, and scores if it passes the probe"
        found = [_finding("servers", shown, "ok", f"{seen.kind}{window}; {can}")]
    else:
        scores = "generates only: " + model.why_no_scores
        found = [
            _finding(
                "servers",
                shown,
                "note" if could_score else "ok",
                f"{seen.kind}{window}; {scores}",
                "name its tokenizer: --tokenizer NAME, the model's embedded name, hf:ORG/NAME or folder"
                if could_score
                else "fit with a model on this machine as scorer, and generate here",
            )
        ]
    return [*found, *_probed(shown, model)] if probe else found


def _probed(name: str, model: RemoteGenerator) -> list[dict[str, str]]:
    """Draw one text, score one text: what comes before the first real call is what is of interest."""
    prompt = simulation_prompt("Write some random words.")
    found = []
    try:
        for _ in model.generate([GenerateRequest((Branch(prompt, 1.0),), 0)], Decoding(max_tokens=8)):
            pass
    except MopError as error:
        found.append(_finding("servers", f"{name}, draws", "problem", str(error)))
    else:
        seeded = "gives the same text" if model.findings.is_seeded else "does not give the same text"
        doubts = "".join(f"; {doubt}" for doubt in model.findings.doubts)
        status: Status = "note" if doubts else "ok"
        detail = f"it samples; the same seed {seeded} again{doubts}"
        found.append(_finding("servers", f"{name}, draws", status, detail))
    if not isinstance(model, RemoteModel):
        return found
    try:
        for _ in model.score([ScoreRequest(prompt, "rain")]):
            pass
    except MopError as error:
        found.append(_finding("servers", f"{name}, scores", "problem", str(error)))
    else:
        noise = max(one.noise for one in model.findings.conformance.values())
        detail = f"passes the probe, noise {noise:.2g} nats per token"
        found.append(_finding("servers", f"{name}, scores", "ok", detail))
    return found
