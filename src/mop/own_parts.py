"""Parts of the user's own by name, ``module:attribute``: an encoder, a model, a rival, a metric.

Reading such a name runs the code of its module, so only the user's own command or file may give one. Where a name
comes from a folder, `refuse_own` comes first.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
import sys
from pathlib import Path
from typing import Any

from mop.errors import ConfigError, MopError

_FORM = re.compile(r"(?!hf:|openai:)[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")


def is_own(name: object) -> bool:
    """Whether a name is of the form ``module:attribute``.

    Examples
    --------
    >>> is_own("my.parts:Encoder"), is_own("hf:gpt2"), is_own("openai:m@http://x")
    (True, False, False)
    """
    return isinstance(name, str) and _FORM.fullmatch(name) is not None


def own_part(name: str, what: str) -> Any:
    """What ``module:attribute`` names; a class is called without arguments.

    The folder of the command is searched after all others, so that nothing in it takes the place of a package.

    Raises
    ------
    ConfigError
        If the module or attribute is not there, or its own code fails.
    """
    module, _, attribute = name.partition(":")
    here = str(Path.cwd())
    sys.path.append(here)
    try:
        found = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise ConfigError(f"{what} {name!r}: {module} needs {error.name}, which is not installed") from error
        raise ConfigError(
            f"{what} {name!r}: there is no module {module!r}; run the command in the folder of "
            f"{module.partition('.')[0]}.py, or set PYTHONPATH to that folder"
        ) from error
    except Exception as error:
        raise ConfigError(f"{what} {name!r}: {module} fails with {type(error).__name__}: {error}; mend it") from error
    finally:
        sys.path.remove(here)
    if not hasattr(found, attribute):
        near = difflib.get_close_matches(attribute, vars(found), n=1)
        hint = f"; did you mean {module}:{near[0]}?" if near else f"; write it in {getattr(found, '__file__', module)}"
        raise ConfigError(f"{what} {name!r}: {module} has no {attribute!r}{hint}")
    part = getattr(found, attribute)
    if not isinstance(part, type):
        return part
    try:
        return part()
    except MopError:
        raise
    except Exception as error:
        raise ConfigError(
            f"{what} {name!r}: {attribute}() fails with {type(error).__name__}: {error}; a class that is named is "
            "called without arguments, so give it defaults, or name an object"
        ) from error


def stamp_of(name: str) -> str:
    """Hash of the source that a part is in, so that what an earlier one made is not reused; empty for other names."""
    if not is_own(name.partition("@")[0]):
        return ""
    own_part(name.partition("@")[0], "the part")
    file = getattr(sys.modules[name.partition(":")[0]], "__file__", None)
    return hashlib.sha256(Path(file).read_bytes()).hexdigest() if file else ""


def refuse_own(name: object, folder: Path, *, say: str) -> None:
    """Refuse a name of code that comes out of a folder; ``say`` is how the user names it, with NAME for the name.

    Raises
    ------
    ConfigError
    """
    if is_own(name):
        raise ConfigError(
            f"{folder} names {name!r}, which is Python code, and code is run at your own word only; if you know it, "
            f"name it: {say.replace('NAME', str(name))}"
        )
