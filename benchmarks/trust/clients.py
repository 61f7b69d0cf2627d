"""Real clients against ``mop fake-server``: the openai package, LangChain and inspect-ai, at once and streamed.

    PYTHONPATH=src:benchmarks python -m trust.clients

Each client lives in an environment of its own below ``.venv-clients``, made from the package registry at the first
call. A client that the registry does not have is skipped with the reason. `clients_ok` is what ``make bench-trust``
counts; 3 are required.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from mop.backends.fake_server import FakeServer, start

HERE = Path(__file__).parent
ENVIRONMENTS = HERE.parents[1] / ".venv-clients"
REQUIRED = 3
INSTALL_LIMIT_S, LIMIT_S = 1200, 300

CLIENTS = {
    "openai": ("openai",),
    "langchain": ("langchain-openai",),
    "inspect": ("inspect-ai", "openai"),
}
"""Name of the script ``client_NAME.py`` to the packages that it needs."""


def environment(name: str) -> tuple[Path, str]:
    """Make a client's environment, once; return its Python and why it cannot be had, empty if it can."""
    folder = ENVIRONMENTS / name
    python, ready = folder / "bin" / "python", folder / ".ready"
    if ready.is_file():
        return python, ""
    try:
        subprocess.run([sys.executable, "-m", "venv", folder], check=True, capture_output=True, timeout=300)
        install = [python, "-m", "pip", "install", "--quiet", *CLIENTS[name]]
        done = subprocess.run(install, capture_output=True, text=True, timeout=INSTALL_LIMIT_S)
    except (OSError, subprocess.SubprocessError) as error:
        return python, f"no environment: {type(error).__name__}"
    if done.returncode:
        return python, f"the registry lacks {' or '.join(CLIENTS[name])}: {done.stderr.strip().splitlines()[-1][:200]}"
    ready.touch()
    return python, ""


def run_client(name: str, url: str) -> dict[str, Any]:
    """What one client got: ``skipped`` with a reason, or ``checks`` with an empty text for each that holds."""
    python, missing = environment(name)
    if missing:
        return {"skipped": missing}
    script = [python, HERE / f"client_{name}.py", url]
    try:
        done = subprocess.run(script, capture_output=True, text=True, timeout=LIMIT_S, cwd=ENVIRONMENTS)
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    except (subprocess.SubprocessError, ValueError, IndexError) as error:
        return {"checks": {"the script": f"{type(error).__name__}: {error}"[:300]}}
    return found


def clients_ok() -> dict[str, Any]:
    """Try every client.

    Returns
    -------
    dict
        ``clients_ok``: clients whose every check holds; ``required``; ``clients``: name to what it got.
    """
    with start(FakeServer("openai")) as openai, start(FakeServer("vllm")) as vllm:
        found = {
            name: run_client(name, f"{(vllm if name == 'inspect' else openai).url}/v1") for name in CLIENTS
        }  # fmt: skip
    good = [name for name, got in found.items() if got.get("checks") and not any(got["checks"].values())]
    return {"clients_ok": len(good), "required": REQUIRED, "clients": found}


if __name__ == "__main__":
    result = clients_ok()
    print(json.dumps(result, indent=1))
    skipped = sum("skipped" in got for got in result["clients"].values())
    sys.exit(0 if result["clients_ok"] + skipped >= REQUIRED else 1)
