"""What a file is by its first bytes, and in which encoding its text is: found out from the whole file."""

from __future__ import annotations

import codecs
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from mop.errors import ConfigError, DataError
from mop.types import without_surrogates

KINDS = ".csv, .tsv, .jsonl, .ndjson, .json (each also with .gz) or .parquet"

_MAGIC = (
    (b"PAR1", "a Parquet file", "give it a name that ends in .parquet"),
    (b"\x1f\x8b", "packed by gzip", "give it a name that ends in .gz, as in reviews.csv.gz"),
    (b"PK\x03\x04", "a zip archive, or an Excel file (.xlsx)", "unzip it; or save the sheet as CSV"),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls)", "open it and save the sheet as CSV"),
    (b"$FL", "an SPSS file (.sav)", ".sav"),
    (b"<stata_dta>", "a Stata file (.dta)", ".dta"),
    (b"ARROW1", "an Arrow or Feather file", ".feather"),
    (b"BZh", "packed by bzip2", "unpack it with bunzip2"),
    (b"\xfd7zXZ", "packed by xz", "unpack it with unxz"),
    (b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it with unzstd"),
    (b"SQLite format 3", "an SQLite database", "export the table as CSV"),
    (b"%PDF", "a PDF file", "get the table itself, as CSV"),
)
_MARKUP = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|table|\?xml)", re.IGNORECASE)
_JSON = re.compile(rb'(?:\xef\xbb\xbf)?\s*(?:\[\s*)?\{\s*"[^"]*"\s*:')

_PANDAS = {
    ".dta": ("stata", ""),
    ".sav": ("spss", " pyreadstat"),
    ".sas7bdat": ("sas", ""),
    ".xpt": ("sas", ""),
    ".xlsx": ("excel", " openpyxl"),
    ".xls": ("excel", " xlrd"),
    ".ods": ("excel", " odfpy"),
    ".feather": ("feather", ""),
}


def conversion(name: str, ending: str) -> str:
    """The command that makes a CSV of such a file."""
    reader, needs = _PANDAS[ending.lower()]
    target = name.removesuffix(ending) + ".csv"
    code = f"import pandas; pandas.read_{reader}({name!r}).to_csv({target!r}, index=False)"
    return f'pip install pandas{needs}, then python -c "{code}", then load {target!r}'


def unknown_ending(name: str, ending: str) -> str:
    """What to do about a file that is of no kind we read."""
    if ending.lower() in _PANDAS:
        return f"{name} is not read as it is; make a CSV of it: {conversion(name, ending)}"
    return (
        f"{name} has the ending {ending!r}, which is not known; if it is text with a separator (comma, semicolon, "
        f"tab or |), copy it to a name that ends in .csv; else convert it to {KINDS}"
    )


def refuse_misnamed(name: str, start: bytes, *, packed: bool, is_csv: bool) -> None:
    """Stop if a file of text is something else than its name says.

    Raises
    ------
    DataError
        Says what the file is, and what to do.
    """
    if packed:
        if start and not start.startswith(b"\x1f\x8b"):
            what, advice = _kind_of(start, name) or ("plain text", "give it a name without .gz")
            raise DataError(f"{name} is not packed by gzip; it is {what}; {advice}")
        return
    found = _kind_of(start, name)
    if is_csv and found is None and _JSON.match(start):
        found = "JSON", "give it a name that ends in .jsonl, or in .json if it begins with ["
    if found is not None:
        raise DataError(f"{name} is not what its name says; it is {found[0]}; {found[1]}")


def _kind_of(start: bytes, name: str) -> tuple[str, str] | None:
    for magic, what, advice in _MAGIC:
        if start.startswith(magic):
            return what, conversion(name, advice) if advice in _PANDAS else advice
    if re.match(rb"[\x69-\x73][\x01\x02]\x01\x00", start):
        return "an old Stata file (.dta)", conversion(name, ".dta")
    if b"\0\0" in start[:64] and not _wide(start):
        return "no text", "export it as CSV from the program that wrote it"
    return ("a web page", "fetch the file itself") if _MARKUP.match(start) else None


class Content(NamedTuple):
    """What a look at all bytes of a file of text tells."""

    encoding: str
    note: str
    """What a person should know about it; empty for UTF-8."""
    has_quotes: bool
    has_backslash_quotes: bool


_BOMS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
_LETTER = rb"a-zA-Z\x8a\x8c\x8e\x9a\x9c\x9e\x9f\xc0-\xd6\xd8-\xf6\xf8-\xff"
_SIGN = rb"\x80-\x84\x86-\x89\x8b\x91\x93-\x95\x98\x99\x9b\xa1-\xac\xae-\xb3\xb5\xb6\xb8-\xbf"
_NOT_WESTERN = re.compile(  # a capital or a sign in the middle of a word
    rb"(?<=[a-z\xdf-\xf6\xf8-\xff])[\xc0-\xd6\xd8-\xde\x8a\x8c\x8e\x9f](?=["
    + _LETTER + rb"])|(?<=[" + _LETTER + rb"])[" + _SIGN + rb"](?=[" + _LETTER + rb"])"
)  # fmt: skip
_UNDEFINED = b"\x81\x8d\x8f\x90\x9d"


def content_of(name: str, chunks: Callable[[], Iterator[bytes]], encoding: str = "auto") -> Content:
    """Go over a file: its encoding, unless it is given, and whether it has quotes.

    Without a byte order mark it is UTF-8 if it can be; UTF-16 by its zeros; UTF-8 with damaged rows if most of what is
    not ASCII is UTF-8; else Windows-1252 (which holds Latin-1), if the letters look like it.

    Raises
    ------
    DataError
        If it is none of these.
    ConfigError
        If there is no encoding of the name given.
    """
    start, quotes, escaped, is_utf8 = next(chunks(), b""), False, False, True
    wide = _wide(start) if encoding == "auto" else ""
    decoder = codecs.getincrementaldecoder("utf-8")()
    for chunk in chunks():
        quotes = quotes or b'"' in chunk
        escaped = escaped or b'\\"' in chunk or b'\\\0"' in chunk
        try:
            is_utf8 = is_utf8 and decoder.decode(chunk) is not None
        except UnicodeDecodeError:
            is_utf8 = False
    if encoding != "auto":
        try:
            b"a a".decode(encoding, errors_of(encoding))
        except (LookupError, ValueError):
            raise ConfigError(
                f"data.encoding must be auto or an encoding that Python knows, such as cp1252, latin-1, utf-16 or "
                f"shift_jis, got {encoding!r}"
            ) from None
        try:
            codecs.getincrementaldecoder(encoding)(errors_of(encoding)).decode(start)
        except UnicodeError as error:
            raise DataError(f"{name} is not encoded as {encoding} ({error}); leave data.encoding at auto") from None
        return Content(codecs.lookup(encoding).name, "", quotes, escaped)
    if is_utf8 or wide:
        return Content(wide or "utf-8", "", quotes, escaped)
    return Content(*_one_byte(name, chunks()), quotes, escaped)


def errors_of(encoding: str) -> str:
    """What becomes of broken bytes: lone surrogates, which no encoding can hold, so that the row stays countable."""
    return "replace" if codecs.lookup(encoding).name.startswith(("utf-16", "utf-32")) else "surrogateescape"


def _wide(start: bytes) -> str:
    """UTF-16 or -32 by its mark, or by where the zeros of ASCII letters stand."""
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return "utf-32" if start[2:4] == b"\0\0" else encoding
    head = start[:1000]
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) * 4 < len(head) or min(even, odd) * 4 > max(even, odd):
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _one_byte(name: str, chunks: Iterable[bytes]) -> tuple[str, str]:
    counts: Counter[int] = Counter()
    n_utf8 = n_broken = strange = 0
    for chunk in chunks:
        counts.update(chunk)
        strange += len(_NOT_WESTERN.findall(chunk))
        for line in chunk.splitlines():
            if not line.isascii():
                is_broken = without_surrogates(text := line.decode("utf-8", "surrogateescape")) != text
                n_broken, n_utf8 = n_broken + is_broken, n_utf8 + (not is_broken)
    if n_utf8 * 10 > n_broken:
        return "utf-8", ""  # the rows with broken bytes are bad
    high = Counter({byte: n for byte, n in counts.items() if byte >= 0x80})
    letters = sum(n for byte, n in counts.items() if byte < 0x80 and chr(byte).isalpha())
    undefined = sum(high[byte] for byte in _UNDEFINED)
    if undefined * 50 > high.total() or strange * 5 > high.total() or high.total() > max(20, letters):
        raise DataError(
            f"{name} is neither UTF-8 nor Windows-1252; set data.encoding to what it was saved as, such as mac_roman, "
            "cp850 (DOS), cp1250 (Central Europe), cp1251 (Cyrillic), shift_jis or gb18030; or save it as UTF-8"
        )
    seen = "".join(bytes([byte]).decode("cp1252", "replace") for byte, _ in high.most_common(12))
    return "cp1252", f"{name} is not UTF-8 and is read as Windows-1252, with {seen!r}; else set data.encoding"
