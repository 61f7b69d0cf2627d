"""Words of a text in any script, and whether it ends as a finished text does."""

from __future__ import annotations

import functools
import re
import sys
import unicodedata

# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
_TERMINAL = ".!?…。！？｡।؟۔"
_CLOSING = "\"'”’»)]）」』`*_ \n\t"


@functools.cache
def unit_pattern() -> re.Pattern[str]:
    r"""Match a word of a spaced script or a letter of an unspaced one, with its combining marks.

    The marks are listed because ``\w`` leaves out most of them and would cut Hindi words apart.
    """
    marks = "".join(re.escape(chr(c)) for c in range(0x300, sys.maxunicode) if unicodedata.category(chr(c))[0] == "M")
    letter = rf"(?:(?![{UNSPACED}])[^\W_]|[{marks}])"
    return re.compile(rf"(?P<sign>(?=[^\W_])[{UNSPACED}][{marks}]*)|(?=[^\W_]){letter}+(?:['’\u200c\u200d-]{letter}+)*")


def units_of(text: str) -> list[str]:
    """Words, casefolded; in scripts without spaces every letter with its marks counts as one."""
    return [match.group().casefold() for match in unit_pattern().finditer(text)]


def is_unspaced(text: str) -> bool:
    """Whether most letters belong to a script that is written without spaces."""
    n_signs = len(re.findall(f"[{UNSPACED}]", text))
    return 2 * n_signs > sum(map(str.isalpha, text))


def is_finished(text: str) -> bool:
    """Whether a text ends as sentences do."""
    return text.rstrip(_CLOSING).endswith(tuple(_TERMINAL))
