"""Whose word it is that a server gets records or a key: the user's own command, never that of a file from elsewhere.

A mixture never names a server. The settings of a run folder may, if the folder was made or trusted on this machine: a
mark in the cache folder says so, keyed with a secret of this user, of where the folder lies and what it names.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

from mop.backends.link import is_loopback
from mop.backends.remote import parse_name
from mop.config import RunConfig
from mop.data.pull import cache_folder
from mop.errors import ConfigError
from mop.own_parts import is_own, refuse_own
from mop.redact import without_password

_SERVED = "openai:"


class Server(NamedTuple):
    """A served model that settings name, and what it would get."""

    setting: str
    """Which setting names it: ``model.lm``, ``model.scorer`` or ``evaluate.judge``."""
    name: str
    section: str
    """Where the other settings for it are."""
    variable: str | None
    """Environment variable whose value it gets as the key."""
    is_elsewhere: bool
    """Whether records would leave this machine."""

    def unsaid(self, said: Collection[str]) -> bool:
        """Whether it gets something that needs the user's word, and ``said``, the settings given, are not that word."""
        has_key = self.variable is not None
        needed = [self.setting] if has_key or self.is_elsewhere else []
        needed += [f"{self.section}.api_key_env"] * has_key + [f"{self.section}.allow_remote_data"] * self.is_elsewhere
        return not set(needed) <= set(said)


def servers_of(config: RunConfig) -> list[Server]:
    """The served models that a configuration names, each once."""
    model, found = config.model, {}
    for setting, name, section in (
        ("model.lm", model.lm, "remote"),
        ("model.scorer", model.scorer, "remote_scorer"),
        ("evaluate.judge", config.evaluate.judge, "remote_scorer"),
    ):
        if name.startswith(_SERVED) and name not in found:
            remote = getattr(config, section)
            found[name] = Server(setting, name, section, remote.api_key_env, _is_elsewhere(name))
    return list(found.values())


def require_word(config: RunConfig, folder: Path, *, said: Collection[str] = (), trusts: bool = False) -> None:
    """Refuse to follow a run folder from elsewhere to a server that gets a key, or records that leave this machine.

    ``config`` is what the folder's ``config.json`` and the command say together, ``said`` the names of settings that
    the command itself gives, and ``trusts`` the user's word that all of it is meant.

    Raises
    ------
    ConfigError
        Naming each server and variable in full, and how to say yes or no.
    """
    if trusts:
        return
    parts = [part for part in parts_of(config) if part[0] not in said and not _is_marked(folder, part[1], None)]
    if parts:
        code = " and ".join(f"{name!r} ({setting})" for setting, name in parts)
        raise _unsaid(folder, f"run Python code: {code}. If you know that code", "name another with --set")
    asked = [server for server in servers_of(config) if server.unsaid(said)]
    if not all(_is_marked(folder, server.name, server.variable) for server in asked):
        own = " ".join(f"--set {server.setting}=smollm2-135m" for server in asked)
        what = f"send {' and '.join(map(_told, asked))}. If you mean that"
        raise _unsaid(folder, what, f"name a model of yours: {own}")


def _unsaid(folder: Path, what: str, instead: str) -> ConfigError:
    return ConfigError(
        f"the settings in {folder / 'config.json'} are not from a command on this machine, and would {what}, add "
        "--trust (asked once for this folder; in Python: read_config(PATH, trusts=True)). If not, " + instead
    )


def parts_of(config: RunConfig) -> list[tuple[str, str]]:
    """Setting and name of each part of one's own (`mop.own_parts`) that a configuration names."""
    found = []
    for section in ("model", "simulate", "evaluate", "compare"):
        for name, value in asdict(getattr(config, section)).items():
            values = value if isinstance(value, list | tuple) else [value]
            found += [(f"{section}.{name}", v) for v in values if isinstance(v, str) and is_own(v.partition("@")[0])]
    return found


def remember(config: RunConfig, folder: Path) -> None:
    """Mark a run folder as this user's, with the servers that a command has named for it, and its mixture too."""
    for server in servers_of(config):
        if server.unsaid(()):
            _set_mark(folder, server.name, server.variable)
    for _, name in parts_of(config):
        _set_mark(folder, name, None)
    remember_mixture(config.model.lm, config.remote.api_key_env, folder / "mixture")


def remember_mixture(name: object, variable: str | None, folder: Path) -> None:
    """Mark a mixture that a command on this machine makes for a served model."""
    if isinstance(name, str) and name.startswith(_SERVED):
        _set_mark(folder, name, variable)


def refuse_address(name: object, variable: str | None, folder: Path, *, say: str) -> None:
    """Refuse the served model that a mixture is for, unless it was made for it on this machine, with the same key.

    ``say`` is how the user names a model, with NAME for the name.

    Raises
    ------
    ConfigError
    """
    refuse_own(name, folder, say=say)
    if isinstance(name, str) and name.startswith(_SERVED) and not _is_marked(folder, name, variable):
        shown = without_password(name)
        raise ConfigError(
            f"the mixture in {folder} is for {shown!r}, a server, and a mixture from elsewhere does not choose where "
            f"records and keys go; if you mean that server, name it: {say.replace('NAME', shown)}"
        )


def _told(server: Server) -> str:
    what = "records" if server.is_elsewhere else "prompts"
    key = f" and the key in the environment variable {server.variable} ({server.section}.api_key_env)"
    name = without_password(server.name)
    return f"{what}{'' if server.variable is None else key} to {name!r} ({server.setting})"


def _is_elsewhere(name: str) -> bool:
    try:
        return not all(map(is_loopback, parse_name(name)[1]))
    except (ConfigError, ValueError):  # no address: it is refused where it is opened
        return False


def _is_marked(folder: Path, name: str, variable: str | None) -> bool:
    mark = _mark(folder, name, variable, makes_key=False)
    return mark is not None and mark.is_file()


def _set_mark(folder: Path, name: str, variable: str | None) -> None:
    mark = _mark(folder, name, variable, makes_key=True)
    if mark is not None:  # else it cannot be written, and later commands ask whether the server is meant
        with suppress(OSError):
            mark.touch(mode=0o600)


def _mark(folder: Path, name: str, variable: str | None, *, makes_key: bool) -> Path | None:
    """Where the mark of a folder, a server and its key variable lies; None if there is no secret to make it with."""
    place = cache_folder() / "trusted"
    file = place / f"key-{os.getuid()}"
    try:
        if makes_key and not file.exists():
            place.mkdir(parents=True, exist_ok=True)
            new = file.with_suffix(f".{os.getpid()}")
            new.touch(mode=0o600)
            new.write_text(secrets.token_hex(32), encoding="ascii")
            new.replace(file)
        key = file.read_text(encoding="ascii").encode("ascii")
    except (OSError, UnicodeDecodeError):
        return None
    content = json.dumps([str(folder.resolve()), name, variable], ensure_ascii=True).encode("ascii")
    return place / hashlib.blake2b(content, key=key[:64], digest_size=16).hexdigest() if key else None


def said_by(assignments: Collection[str], *, lm: str | None = None) -> set[str]:
    """Names of the settings that ``--set`` and ``--lm`` of a command give."""
    return {one.partition("=")[0].strip() for one in assignments} | ({"model.lm"} if lm is not None else set())
