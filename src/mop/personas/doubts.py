"""What may be wrong with a persona: refusals, chatter, copies, instructions to the model."""

from __future__ import annotations

import logging
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType

from mop.personas.function_words import FUNCTION_WORDS
from mop.personas.units import is_finished, is_unspaced, units_of
from mop.types import Persona

logger = logging.getLogger(__name__)

FEW_RECORDS = 3
MAX_CHARACTERS = 1200
MIN_WORDS = 5
COPIED_WORDS = 8
FEW_WORDS = 2
SHOWN_CHARACTERS = 5000  # of all records that a model writes from; chosen to fit 2,048 tokens

DOUBTS: Mapping[str, str] = MappingProxyType(
    {
        "too-short": f"fewer than {MIN_WORDS} words",
        "too-long": f"more than {MAX_CHARACTERS} characters",
        "repetition": "the same words again and again",
        "refusal": "the writer declined or spoke of itself as a machine",
        "chatter": "opens by talking to whoever asked instead of describing",
        "voice": "is in English and does not begin with 'you'",
        "placeholder": "holds a blank that was to be filled in, such as [Name]",
        "copied": f"{COPIED_WORDS} words in a row are those of a source record or of the request",
        "link": "holds a web or e-mail address",
        "control": "holds control characters or the control tokens of a chat format",
        "instruction": "holds an order to the reader, such as 'ignore previous instructions'",
        "unfinished": "does not end like a sentence",
        "few-records": f"its cluster has fewer than {FEW_RECORDS} records: perhaps one person",
        "few-words": f"its cluster has fewer than {FEW_WORDS} words that set it apart",
        "options": "its typical words are answers to a closed question, not how somebody writes",
        "function-words": "says nothing of anybody: function words alone",
        "duplicate": "another persona has the same description",
    }
)
"""What may be found about a description, and what it means, in the order of reporting."""


def mark_duplicates(personas: Sequence[Persona]) -> list[Persona]:
    """Give every persona whose description occurs again, blanks aside, the doubt ``duplicate``."""
    n = Counter(_said(persona) for persona in personas)
    return [replace(p, doubts=doubts_in_order({*p.doubts, "duplicate"})) if n[_said(p)] > 1 else p for p in personas]


def join_identical(personas: Sequence[Persona]) -> list[Persona]:
    """Personas that differ: those whose descriptions are the same, blanks aside, become the first of them.

    Two would be one component of the mixture twice. The first has the records of all; a warning says how many are left.

    Examples
    --------
    >>> calm = Persona(key="a", description="You are calm.", size=2), Persona(key="b", description="You are calm. ")
    >>> [persona.key for persona in join_identical(calm)]
    ['a']
    """
    groups: dict[str, list[Persona]] = {}
    for persona in personas:
        groups.setdefault(_said(persona), []).append(persona)
    if len(groups) == len(personas):
        return list(personas)
    several = [of for of in groups.values() if len(of) > 1]
    named = "; ".join(f"{', '.join(p.key for p in of[:5])}{', ...' if len(of) > 5 else ''}" for of in several[:3])
    logger.warning(
        "%d of %d personas are left: %s have the same description, such as %r, and would be one persona several times. "
        "Give each its own description to keep them apart",
        len(groups), len(personas), f"{named}{'; ...' if len(several) > 3 else ''}", several[0][0].description[:80],
    )  # fmt: skip
    return [
        replace(
            of[0],
            size=sum(persona.size for persona in of),
            sources=tuple(dict.fromkeys(key for persona in of for key in persona.sources)),
            doubts=doubts_in_order({doubt for persona in of for doubt in persona.doubts} - {"duplicate"}),
        )
        for of in groups.values()
    ]


def _said(persona: Persona) -> str:
    return " ".join(persona.description.split())


def _any_of(*patterns: str) -> re.Pattern[str]:
    return re.compile("|".join(patterns), re.IGNORECASE)


_MACHINE = r"(?:ai\b|artificial intelligence|(?:(?:large|ai) )?language model)"
_DECLINED = (
    r"(?:help|assist|provide|write|create|generate|fulfil|comply|do that|answer|describe"
    r"|summari[sz]e|produce)"
)
_REFUSAL = _any_of(
    rf"\bas an? {_MACHINE}",
    rf"\b(?:i am|i['’]m|being) (?:just |only )?an? {_MACHINE}",
    r"\b(?:ai|helpful|virtual|writing) assistant\b|\bchat ?bot\b",
    rf"\bi (?:cannot|can not|can['’]?t|won['’]?t|will not) {_DECLINED}",
    rf"\bi(?: a|['’])m (?:unable|not able) to {_DECLINED}",
    r"(?:^|[.!?\n]\s{0,9})(?:i['’]m |i am )?(?:so |very |deeply )?(?:sorry|i apologi[sz]e)\b",
)
_CHATTER = _any_of(
    r"^\W*(?:sure|certainly|of course|absolutely|okay|ok|let me know)\b",
    r"^\W*(?:here (?:is|are)|here['’]s|the following (?:is|are)|based on (?:the|these|your))\b",
    r"^\W*(?:persona|description|persona description)\W*:",
    r"\bhow (?:can|may) i (?:help|assist)\b|\blet me know if\b",
)
_PLACEHOLDER = _any_of(r"\[(?:your|insert|name|persona|the|film|movie|title|topic)\b[^\]\n]{0,60}\]")
_TOP_LEVEL = "com|org|net|io|co|info|ru|cn|de|uk|gov|edu|dev|ai|app|xyz"
# Runs are bounded: without, a long text of dots takes minutes.
_LINK = _any_of(
    r"\b[a-z][a-z0-9+.-]{0,20}://",
    r"\bwww\.",
    r"\b(?:data|javascript|mailto):\S",
    r"\b[\w.+-]{1,64}@[\w-]{1,64}\.\w{2}",
    rf"\b[a-z0-9-]{{1,63}}\.(?:{_TOP_LEVEL})\b",
)
_CONTROL_TOKEN = _any_of(
    r"<[|｜][^<>\n]{1,40}[|｜]>",
    r"</?(?:s|bos|eos|pad|unk|think|tool_call|start_of_turn|end_of_turn)>",
    r"\[/?INST\]|<</?SYS>>",
)
_DROP = r"\b(?:ignore|disregard|forget|override|bypass)\b[^.!?\n]{0,40}"
_RULES = r"(?:rule|guideline|direction|command|message|context|restriction)s?"
_ANSWER = r"(?:say|reply|respond|answer|output|print|write|repeat)"
_INSTRUCTION = _any_of(
    rf"{_DROP}\b(?:instruction|prompt)s?\b",
    rf"{_DROP}\b(?:previous|prior|above|earlier|your|these)\b[^.!?\n]{{0,25}}\b{_RULES}\b",
    rf"{_DROP}\b{_RULES} (?:above|before|you were given)\b",
    r"\bsystem (?:prompt|message|instruction)s?\b|\b(?:new|updated|real) instructions?\b",
    r"\b(?:do anything now|jail ?break\w*|developer mode|god mode|prompt injection)\b",
    r"\b(?:no|without(?: any)?|free (?:of|from)(?: all)?) (?:rules|restrictions|filters)\b",
    r"\b(?:reveal|print|repeat|output|show|leak)\b[^.!?\n]{0,20}\b(?:your|the|this)\b"
    r"[^.!?\n]{0,20}\b(?:prompt|instructions?|configuration|password|secret|key)\b",
    rf"\b{_ANSWER} (?:only|just|exactly|nothing (?:but|except)|back)\b",
    rf"\b{_ANSWER} with (?:only |just )?(?:the |this |a )?(?:exact |single )?(?:word|phrase)s?\b",
    r"\bfrom now on\b",
    rf"\byou (?:must|will|shall) (?:now |always |only )*(?:obey|comply|ignore|pretend|{_ANSWER})\b",
    r"(?:^|\n)[ \t]{0,20}#{0,6}[ \t]{0,20}(?:system|assistant|user|human|instruction)s?\s*:",
)


_SAYS_NOTHING = FUNCTION_WORDS["en"] | {"person", "somebody", "typical", "whose", "words", "write", "writer"}
_ENGLISH = frozenset(["the", "a", "an", "and", "is", "of", "who", "with", "by", "to", "for", "that"])


def doubts(description: str, sources: Sequence[str] = ()) -> tuple[str, ...]:
    """Say what looks wrong with the description of a persona.

    Parameters
    ----------
    description : str
        The text of the persona.
    sources : sequence of str
        The texts that its writer was shown.

    Returns
    -------
    tuple of str
        Names of `DOUBTS`, in their order; empty if nothing was found. Doubts are remarks: the
        description is never changed.

    Notes
    -----
    Words are compared without case and punctuation; in scripts without spaces a word is one
    letter, and the lengths of word runs below are doubled.

    - ``too-short``: fewer than 5 words. ``too-long``: more than 1,200 characters.
    - ``repetition``: one word 4 times in a row, or a run of 2 to 8 words 3 times in a row, or any
      4 words in a row found 3 times, or under 40 % different words among 20 or more, or one
      character other than a space 8 times in a row.
    - ``refusal``, ``chatter``, ``placeholder``, ``link``, ``control``, ``instruction``: patterns
      for English and for chat formats; other languages are not covered.
    - ``voice``: has two of twelve common English words and does not begin with *you*.
    - ``function-words``: nothing but English function words and those of "a writer whose typical words are".
    - ``copied``: 8 words in a row are those of a source; or all of a source that has 5 to 7.
    - ``unfinished``: the last character, closing quotes and brackets aside, ends no sentence.

    Examples
    --------
    >>> doubts("You are a film critic who loves slow, quiet dramas.")
    ()
    >>> doubts("As an AI language model, I cannot describe these people.")
    ('refusal',)
    >>> doubts("You love the film, the film, the film, the film, the")
    ('repetition', 'unfinished')
    """
    scale = 2 if is_unspaced(description) else 1
    words = units_of(description)
    found = security_doubts(description)
    if len(words) < MIN_WORDS:
        found.add("too-short")
    if len(description) > MAX_CHARACTERS:
        found.add("too-long")
    if _is_repetitive(description, words, scale):
        found.add("repetition")
    for name, pattern in (("refusal", _REFUSAL), ("chatter", _CHATTER), ("placeholder", _PLACEHOLDER)):
        if pattern.search(description):
            found.add(name)
    if len(_ENGLISH.intersection(words)) >= 2 and not re.match(r"\W*you(?!r\b)", description, re.I):
        found.add("voice")
    has_signs = any(unicodedata.category(character) == "So" for character in description)  # emoji say something
    if words and _SAYS_NOTHING.issuperset(words) and not has_signs:
        found.add("function-words")
    if any(_is_copied(words, units_of(source), scale) for source in sources):
        found.add("copied")
    if not is_finished(description):
        found.add("unfinished")
    return doubts_in_order(found)


def security_doubts(text: str) -> set[str]:
    """Find what may steer a reader or a program instead of describing a person."""
    # NFKC turns full-width and other look-alike letters into the plain ones that the patterns know.
    plain = unicodedata.normalize("NFKC", text)
    found = {name for name, pattern in (("link", _LINK), ("instruction", _INSTRUCTION)) if pattern.search(plain)}
    if _CONTROL_TOKEN.search(text) or _CONTROL_TOKEN.search(plain) or any(map(_is_control, text)):
        found.add("control")
    return found


def _is_control(character: str) -> bool:
    """Whether it is a control, invisible, private or unassigned character; joiners are needed."""
    return character not in "\n\t\u200c\u200d" and unicodedata.category(character)[0] == "C"


def _runs(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _is_repetitive(text: str, words: Sequence[str], scale: int) -> bool:
    if re.search(r"(\S)\1{7}", text):
        return True
    for n in range(scale, 8 * scale + 1):
        times = 4 if n == scale else 3
        alike = 0  # words in a row that equal the word n places before
        for i in range(n, len(words)):
            alike = alike + 1 if words[i] == words[i - n] else 0
            if alike == n * (times - 1):
                return True
    runs = Counter(_runs(words, 4 * scale))
    return any(times >= 3 for times in runs.values()) or (
        scale == 1 and len(words) >= 20 and len(set(words)) < 0.4 * len(words)
    )


def _is_copied(words: Sequence[str], source: Sequence[str], scale: int) -> bool:
    if len(source) < MIN_WORDS * scale:
        return False
    n = min(COPIED_WORDS * scale, len(source))
    return not set(_runs(words, n)).isdisjoint(_runs(source, n))


def doubts_in_order(found: Iterable[str]) -> tuple[str, ...]:
    """Names of doubts in the order of `DOUBTS`, others after them."""
    found = set(found)
    return tuple(name for name in DOUBTS if name in found) + tuple(sorted(found - DOUBTS.keys()))
