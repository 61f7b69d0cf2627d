"""Keep secrets and people's words out of logs, errors and files.

A key is read from a named environment variable into a `Secret`, which never prints itself and
which makes every `redact` and every `RedactingFilter` of the process know its value.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import logging
import os
import re
import string
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from typing import NoReturn
from urllib.parse import quote, unquote_plus

from mop.errors import ConfigError

HIDDEN = "[hidden]"

# What looks like a credential even if this process never read it: a server's error body may quote one.
_SHAPES = (
    re.compile(r"(?i)\b(bearer|basic)\s+[a-z0-9._~+/=-]{8,}"),
    re.compile(
        r"(?i)\b((?:api|access|secret)[_-]?(?:key|token)|authorization|password)([\"']?\s*[:=]\s*[\"']?)[^\s\"',;]{4,}"
    ),
    re.compile(r"\b(?:sk|pk|rk|hf|gsk|xai|fw|key)[-_][A-Za-z0-9_-]{16,}"),
)

_RUN = 12
"""Characters in a row that are a quotation: of a secret, or of what somebody wrote."""

# Every spelling of every value that this process ever read as a secret, in lower case, and its runs by their length.
# One set for the process, because a log filter that had to be told about each secret would leak the one it was not told
# about.
_known: set[str] = set()
_runs: dict[int, set[str]] = {}
_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


class Secret:
    """A value that shows itself to nobody but `reveal`.

    Parameters
    ----------
    value : str
        The secret; printable ASCII without spaces, since it travels in an HTTP header.
    source : str
        Where it came from, for messages: the name of an environment variable.

    Raises
    ------
    ConfigError
        If the value cannot be sent in a header. The value is not shown.

    Examples
    --------
    >>> Secret("abcd-efgh-ijkl", source="MY_KEY")
    Secret(from MY_KEY)
    """

    __slots__ = ("_value", "source")

    def __init__(self, value: str, *, source: str) -> None:
        if not re.fullmatch(r"[\x21-\x7e]{8,4096}", value):
            raise ConfigError(
                f"the key in {source} cannot be used: it has {len(value)} characters and must have 8 to 4096, "
                "all printable ASCII without spaces; check for a quote or a line end that was copied with it"
            )
        self._value = value
        self.source = source
        for spelling in _spellings(value) - _known:
            _known.add(spelling)
            width = min(_RUN, len(spelling))
            _runs.setdefault(width, set()).update(_windows(spelling, width))

    @classmethod
    def from_env(cls, name: str, environment: Mapping[str, str] | None = None) -> Secret:
        """Read a secret from the environment variable ``name``, in ``os.environ`` or the mapping given.

        Raises
        ------
        ConfigError
            If the variable is not set, or if ``name`` looks like a key itself.
        """
        check_variable(name)
        value = (os.environ if environment is None else environment).get(name, "")
        if not value:
            raise ConfigError(
                f"no API key: the environment variable {name} is not set or empty; "
                "set it in the shell that runs mop, or leave api_key_env out for a server without keys"
            )
        return cls(value, source=name)

    def reveal(self) -> str:
        """Return the value; call it only where a header is built."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret(from {self.source})"

    __str__ = __repr__

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} is not written to disk or sent to another process; read it there again")


def check_variable(name: str) -> None:
    """Refuse what cannot be the name of an environment variable that holds a key.

    Raises
    ------
    ConfigError
        Without the value: a person who misread the option has typed the key here.
    """
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,63}", name):
        raise ConfigError(
            "api_key_env must be the name of an environment variable, and what was given is no such name; "
            "put the key into a variable and give that variable's name, like OPENAI_API_KEY"
        )


def redact(text: str) -> str:
    """Replace every known secret, in any usual spelling, in part too (12 characters in a row), and what looks like one.

    Examples
    --------
    >>> redact("sent Authorization: Bearer abcdefgh12345678")
    'sent Authorization: [hidden]'
    """
    folded = text.translate(_LOWER)  # places stay the same
    is_secret = bytearray(len(text))
    for width, runs in _runs.items():
        for start, run in enumerate(_windows(folded, width)):
            if run in runs:
                is_secret[start : start + width] = b"\1" * width
    if any(is_secret):
        groups = itertools.groupby(range(len(text)), key=is_secret.__getitem__)
        text = "".join(HIDDEN if hidden else "".join(text[i] for i in places) for hidden, places in groups)
    text = _SHAPES[0].sub(HIDDEN, text)
    text = _SHAPES[1].sub(lambda found: f"{found[1]}{found[2]}{HIDDEN}", text)
    return _SHAPES[2].sub(HIDDEN, text)


def without_password(url: str) -> str:
    """Return an address, or a name that ends in addresses, without user name, password and query.

    Examples
    --------
    >>> without_password("openai:m@http://user:secret@host:8000/v1?key=abc")
    'openai:m@http://[hidden]@host:8000/v1?[hidden]'
    """
    # Greedy and over everything: a password may hold any character. Where the scheme was forgotten,
    # it is MODEL@user:password@host.
    before = "//" if "//" in url else "@"
    url = re.sub(rf"(?s){before}.*@", f"{before}{HIDDEN}@", url)
    return re.sub(r"(?s)\?.*", f"?{HIDDEN}", url)


class RedactingFilter(logging.Filter):
    """Rewrites every log record so that no known secret leaves the process; put it on handlers, not on loggers.

    A handler's filter sees the records of every library, a logger's only its own.
    """

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact message, arguments and traceback; the record always passes."""
        try:
            message = record.getMessage()
        except Exception:  # noqa: BLE001 - a library's slip must not stop the run that logs it
            message = f"{record.msg} [its arguments do not fit and are left out]"
        record.msg = redact(message)
        record.args = None
        if record.exc_info:
            # The formatter would print the traceback itself, past us; it prefers exc_text if that is set.
            record.exc_text = redact(logging.Formatter().formatException(record.exc_info))
        elif record.exc_text:
            record.exc_text = redact(record.exc_text)
        return True


def withhold_quotes(message: str, private: Iterable[str], *, limit: int = 200) -> str:
    """Return a foreign message fit for a log: one line of at most ``limit`` characters, without secrets.

    Whatever comes from a server goes through here before it is part of a message, a code or a name: servers repeat a
    request in their errors, and the request holds a key and people's words. What quotes either is withheld.

    Notes
    -----
    Compared are letters and digits only, in lower case, as they stand and with escapes and entities undone, so that
    escaping, quoting and spacing hide nothing. Withheld is a message with a run of 12 of them in common with a private
    text or a spelling of a secret, or with a shorter one as a whole; one of 5 to 11 that occurs in a private text; and
    one that puts 5 or more of them, or 6 digits, in common within quotation marks. No more than 10 times ``limit``
    characters are looked at, so the time goes with the length of the private texts.

    Examples
    --------
    >>> withhold_quotes("bad value in 'I loved this film so much'", ["I loved this film so much."])
    "[withheld: the server's message repeats the request]"
    >>> withhold_quotes("max_tokens is too large", ["I loved this film so much."])
    'max_tokens is too large'
    """
    message = redact(message[: 10 * limit])
    readings = [message, _ESCAPE.sub(_unescaped, message), unquote_plus(message), html.unescape(message)]
    plain = [_letters(reading) for reading in dict.fromkeys(readings)]
    # A whole message of a word or two, what stands in quotation marks, and longer numbers are quoted by less.
    words = [one for one in plain if len(one) < _RUN]
    words += [_letters(quoted) for reading in readings for quoted in _QUOTED.findall(reading)]
    words += [number for one in plain for number in _NUMBER.findall(one)]
    words = [word for word in words if len(word) >= 5]
    runs: dict[int, set[str]] = {}
    for text in itertools.chain(private, _known):
        letters = _letters(text)
        width = min(_RUN, len(letters))
        if width < 5:
            continue
        if width not in runs:
            runs[width] = {run for one in plain for run in _windows(one, width)}
        if any(word in letters for word in words) or not runs[width].isdisjoint(_windows(letters, width)):
            return "[withheld: the server's message repeats the request]"
    line = " ".join("".join(c if c.isprintable() else " " for c in message).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"


_ESCAPE = re.compile(r"\\(?:[nrtbf]|x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4}))")
_QUOTED = re.compile(r"""['"`‘’“”«»]([^'"`‘’“”«»]{5,200})(?=['"`‘’“”«»])""")
_NUMBER = re.compile(r"[0-9]{6,}")


def _unescaped(found: re.Match[str]) -> str:
    digits = found[1] or found[2]
    return chr(int(digits, 16)) if digits else " "


def _letters(text: str) -> str:
    return "".join(filter(str.isalnum, unicodedata.normalize("NFKD", text).lower()))


def _windows(text: str, width: int) -> Iterator[str]:
    """All runs of so many characters."""
    return (text[start : start + width] for start in range(len(text) - width + 1))


def _spellings(value: str) -> set[str]:
    """Return a secret as it may turn up, in lower case: plain, backwards, in a URL, JSON, Python, hex, in base64."""
    raw = value.encode()
    found = {value, value[::-1], quote(value, safe=""), json.dumps(value)[1:-1], repr(value)[1:-1], raw.hex()}
    for before in range(3):  # how many bytes of what stands before it share its first letters
        coded = base64.b64encode(b"\0" * before + raw).decode().rstrip("=")[(0, 2, 3)[before] :]
        found |= {coded, coded[:-1], coded.replace("+", "-").replace("/", "_")}
    return {spelling.translate(_LOWER) for spelling in found}
