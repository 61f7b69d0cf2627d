"""What the client scripts share: checks that are noted one by one, and the document that they print in the end."""

import json
from importlib.metadata import version

_checks = {}


def check(name, call):
    """Note whether a call gives True."""
    try:
        said = call()
        _checks[name] = "" if said is True else f"got {said!r}"[:200]
    except Exception as error:  # noqa: BLE001 - every failure is a finding
        _checks[name] = f"{type(error).__name__}: {error}"[:200]


def report(package):
    """Print the version of the client's package and what was noted."""
    print(json.dumps({"version": version(package), "checks": _checks}))
