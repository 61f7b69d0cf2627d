"""Clusters of records, or a file of the user, to `Persona`s, whose scores are asked for next.

Writers: `keyword_personas` (counts turned into a plain paragraph), `llm_personas` (a language
model summarises the records nearest each centre), `record_personas` and `random_personas`
(real texts in place of a persona, for ablations) and `read_personas` (a person wrote it).
"""

from __future__ import annotations

import difflib
import functools
import json
import logging
import math
import re
import sys
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from mop.backends.base import Fallible, Generator
from mop.errors import BackendError, ConfigError, DataError
from mop.prompts import persona_prompt
from mop.randomness import derive_seed
from mop.randomness import generator as random_generator
from mop.storage.run_folder import write_jsonl
from mop.storage.store import Store, generation_key
from mop.types import (
    Branch,
    Decoding,
    GenerateRequest,
    Generation,
    Persona,
    Progress,
    Prompt,
    Record,
)

if TYPE_CHECKING:
    from mop.personas.cluster import Clustering

logger = logging.getLogger(__name__)

FEW_RECORDS = 3
N_TRIES = 3
MAX_CHARACTERS = 1200
MIN_WORDS = 5
COPIED_WORDS = 8
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
        "duplicate": "another persona has the same description",
    }
)
"""What may be found about a description, and what it means, in the order of reporting."""

# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, kana, Han.
_UNSPACED = (
    "\u0e01-\u0e3a\u0e40-\u0e4e\u0e81-\u0ece\u1000-\u103f\u1780-\u17d3\u3005-\u3007\u3041-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af"
)
# Share of words on the English list from which texts count as English.
_ENGLISH_SHARE = 0.3
_ENGLISH_TAILS = re.compile(r"(?:n['’]t|['’](?:s|m|d|re|ve|ll))$")
_MORE_STOP_WORDS = frozenset(
    [
        "does",
        "did",
        "doing",
        "dont",
        "im",
        "ive",
        "ll",
        "re",
        "ve",
        "wo",
        "ca",
        "n't",
        "nt",
        "lrb",
        "rrb",
    ]
)
_TERMINAL = ".!?…。！？｡।؟۔"
_CLOSING = "\"'”’»)]）」』`*_ \n\t"


# --------------------------------------------------------------------------- words


@functools.cache
def _unit_pattern() -> re.Pattern[str]:
    r"""Match a word of a spaced script or a letter of an unspaced one, with its combining marks.

    The marks are listed because ``\w`` leaves out most of them and would cut Hindi words apart.
    """
    marks = "".join(
        re.escape(chr(c))
        for c in range(0x300, sys.maxunicode)
        if unicodedata.category(chr(c))[0] == "M"
    )
    letter = rf"(?:(?![{_UNSPACED}])[^\W_]|[{marks}])"
    return re.compile(
        rf"(?P<sign>(?=[^\W_])[{_UNSPACED}][{marks}]*)|(?=[^\W_]){letter}+(?:['’\u200c\u200d-]{letter}+)*"
    )


def _units(text: str) -> list[str]:
    """Words, casefolded; in scripts without spaces every letter with its marks counts as one."""
    return [match.group().casefold() for match in _unit_pattern().finditer(text)]


def _is_unspaced(text: str) -> bool:
    """Whether most letters belong to a script that is written without spaces."""
    n_signs = len(re.findall(f"[{_UNSPACED}]", text))
    return 2 * n_signs > sum(map(str.isalpha, text))


@dataclass(frozen=True, slots=True)
class _Term:
    """One countable term of a text."""

    surface: str
    key: str
    follows: bool
    """One space stands between this word and the term before it."""


def _terms(text: str) -> list[_Term]:
    """Words with a letter in them; in scripts without spaces, overlapping pairs of letters."""
    terms: list[_Term] = []
    last: re.Match[str] | None = None
    text = unicodedata.normalize("NFC", text)
    for match in _unit_pattern().finditer(text):
        surface = match.group()
        if match["sign"] is not None:
            if last is not None and last["sign"] is not None and last.end() == match.start():
                terms.append(_Term(last.group() + surface, last.group() + surface, False))
        elif any(map(str.isalpha, surface)):
            follows = (
                last is not None
                and last["sign"] is None
                and text[last.end() : match.start()] == " "
            )
            key = re.sub("['’]s$", "", surface.casefold())
            terms.append(_Term(surface, key, follows))
        last = match
    return terms


def _stop_words(keys: Iterable[str]) -> frozenset[str]:
    """Take the English list if the texts are mostly English; elsewhere the weights alone do it."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts = Counter(keys)
    n_stop = sum(n for key, n in counts.items() if key in ENGLISH_STOP_WORDS)
    if not counts or n_stop < _ENGLISH_SHARE * counts.total():
        return frozenset()
    listed = frozenset(ENGLISH_STOP_WORDS) | _MORE_STOP_WORDS
    return frozenset(
        key
        for key in counts
        if key in listed or len(key) < 2 or _ENGLISH_TAILS.sub("", key) in listed | {""}
    )


# --------------------------------------------------------------------------- keywords


def class_tf_idf(counts: Sequence[Mapping[str, int]]) -> list[dict[str, float]]:
    """How typical each word is of each class of texts.

    Parameters
    ----------
    counts : sequence of K mappings
        Occurrences of every word in all texts of a class together.

    Returns
    -------
    list of K dicts
        W[x, c] = √(n[x, c] / Σ_x n[x, c]) · ln(1 + A / f[x]), where n[x, c] counts word x in class
        c, f[x] = Σ_c n[x, c], and A is the mean number of words per class.

    Notes
    -----
    Source: Grootendorst 2022, *BERTopic: Neural topic modeling with a class-based TF-IDF
    procedure*, arXiv 2203.05794; the term frequency is normalised to sum to one over a class, and
    its square root taken, as the BERTopic documentation describes for ``reduce_frequent_words``.
    Without the root, words such as "just" and "make" led the lists of short film reviews.

    Examples
    --------
    Class 0 has 4 words, class 1 has 2, so A = 3; "gore" fills half of class 0 and f = 2.

    >>> weights = class_tf_idf([{"gore": 2, "film": 2}, {"film": 1, "love": 1}])
    >>> weights[0]["gore"] == math.sqrt(2 / 4) * math.log(1 + 3 / 2)
    True
    >>> weights[0]["film"] == math.sqrt(2 / 4) * math.log(1 + 3 / 3)
    True
    """
    total: Counter[str] = Counter()
    for of_class in counts:
        total.update(of_class)
    mean = total.total() / max(1, len(counts))
    return [
        {key: math.sqrt(n / n_words) * math.log1p(mean / total[key]) for key, n in of_class.items()}
        for of_class, n_words in ((c, sum(c.values())) for c in counts)
    ]


@dataclass(slots=True)
class _Vocabulary:
    """Counts of one cluster."""

    counts: Counter[str]
    """Occurrences, stop words left out."""
    in_records: Counter[str]
    """Records that have the word."""
    surfaces: dict[str, Counter[str]]
    pairs: Counter[tuple[str, str]]
    """Neighbouring words, neither a stop word."""
    first: dict[str, int]
    """Order of first occurrence, to break ties."""


def _vocabulary(texts: Iterable[Sequence[_Term]], stop: frozenset[str]) -> _Vocabulary:
    result = _Vocabulary(Counter(), Counter(), defaultdict(Counter), Counter(), {})
    for terms in texts:
        for i, term in enumerate(terms):
            if term.key in stop:
                continue
            result.counts[term.key] += 1
            result.surfaces[term.key][term.surface] += 1
            result.first.setdefault(term.key, len(result.first))
            if term.follows and terms[i - 1].key not in stop and terms[i - 1].key != term.key:
                result.pairs[terms[i - 1].key, term.key] += 1
        result.in_records.update({term.key for term in terms} - stop)
    return result


def _is_variant(a: str, b: str) -> bool:
    """Whether two words say the same: forms of one word, or letter pairs that overlap."""
    if a == b:
        return True
    short, long = sorted((a, b), key=len)
    if re.match(f"[{_UNSPACED}]", short):
        return short[0] == long[-1] or short[-1] == long[0]
    alike = next(
        (i for i, pair in enumerate(zip(a, b, strict=False)) if len(set(pair)) > 1), len(short)
    )
    if alike == len(short):
        return alike >= 4 and len(long) - alike <= 3
    return alike >= 6 and alike >= 0.6 * len(long)


def _surface(vocabulary: _Vocabulary, key: str) -> str:
    """Spell a word as usual: in lower case if a fifth of its uses are, since headlines are not."""
    spellings = vocabulary.surfaces[key]
    if 5 * spellings[key] >= spellings.total():
        return key
    return min(spellings, key=lambda s: (-spellings[s], s))


def _phrase(vocabulary: _Vocabulary, key: str) -> tuple[str, ...]:
    """Widen a word to a phrase of two that are each other's most frequent neighbours.

    At least half of the uses of the word must belong to it, and two.
    """
    pair = _best_pair(vocabulary, key)
    if pair is None or vocabulary.pairs[pair] < max(2, vocabulary.counts[key] / 2):
        return (key,)
    return pair if all(_best_pair(vocabulary, part) == pair for part in pair) else (key,)


def _best_pair(vocabulary: _Vocabulary, key: str) -> tuple[str, str] | None:
    near = (pair for pair in vocabulary.pairs if key in pair)
    return min(near, key=lambda pair: (-vocabulary.pairs[pair], pair), default=None)


def _keywords(
    vocabulary: _Vocabulary,
    weights: Mapping[str, float],
    whole: Counter[str],
    n_keywords: int,
    size: int,
) -> list[str]:
    """Choose the heaviest words of one cluster, each word form once, as they are usually spelled.

    A word counts if 3 % of the records of the cluster have it, and two (one person's word is
    neither typical nor ours to tell), and it is at least twice as frequent as in the other clusters
    (``whole`` counts all of them).
    """
    n_words = vocabulary.counts.total()
    n_others = whole.total() - n_words
    able = [
        key
        for key, n in vocabulary.counts.items()
        if vocabulary.in_records[key] >= max(2, 0.03 * size)
        and n * n_others >= 2 * n_words * (whole[key] - n)
    ]
    chosen: list[str] = []
    used: list[str] = []
    for key in sorted(able, key=lambda k: (-weights[k], vocabulary.first[k])):
        if len(chosen) == n_keywords:
            break
        if any(_is_variant(key, other) for other in used):
            continue
        phrase = _phrase(vocabulary, key)
        if any(part in used for part in phrase):
            phrase = (key,)
        used += phrase
        chosen.append(" ".join(_surface(vocabulary, part) for part in phrase))
    return chosen


# --------------------------------------------------------------------------- style

_ENGLISH_CUES: tuple[tuple[str, str], ...] = (
    ('say "I"', r"(?<![\w.])(?:i|me|my|mine|myself)(?![\w.])(?!')|\bi['’ ]+(?:m|d|ve|ll)\b"),
    ('address the reader as "you"', r"\b(?:you|your|yours)\b"),
)
_CUES: tuple[tuple[str, str], ...] = (
    ("use exclamation marks", r"[!！]"),
    ("ask questions", r"[?？؟\u037e]"),
    ("use quotation marks", r"[\"“”„«»「」『』]|``"),
    ("give figures", r"\d"),
    ("add remarks in brackets", r"[(（]"),
    ("trail off with dots", r"\.\.\.|…|\. \. \."),
    ("break off with dashes", r"[—–]|(?<!-)--(?!-)| - "),
    ("use emoji", "[\u2600-\u27bf\U0001f300-\U0001faff]"),
    ("use hashtags", r"(?<!\w)#\w"),
    ("start new lines", r"\S[^\S\n]*\n"),
)
_LOWER = "write in lower case only"
_OPEN_END = "leave out the full stop at the end"


def _is_lower(text: str) -> bool:
    return text == text.lower() and text != text.upper()


def _is_finished(text: str) -> bool:
    return text.rstrip(_CLOSING).endswith(tuple(_TERMINAL))


@dataclass(frozen=True, slots=True)
class _Style:
    """What can be counted about the manner of n texts."""

    n_words: np.ndarray[Any, np.dtype[np.float64]]
    """Shape (n,); letters in scripts without spaces."""
    marks: dict[str, np.ndarray[Any, np.dtype[np.bool_]]]
    """Cue to shape (n,)."""
    labels: tuple[str | None, ...]

    def of(self, rows: np.ndarray[Any, np.dtype[np.intp]]) -> _Style:
        return _Style(
            self.n_words[rows],
            {cue: marks[rows] for cue, marks in self.marks.items()},
            tuple(self.labels[i] for i in rows),
        )


def _style(records: Sequence[Record], *, is_english: bool) -> _Style:
    texts = [record.response for record in records]
    marks = {
        cue: np.array([re.search(pattern, text, re.IGNORECASE) is not None for text in texts])
        for cue, pattern in (*(_ENGLISH_CUES if is_english else ()), *_CUES)
    }
    marks[_LOWER] = np.array([_is_lower(text) for text in texts])
    marks[_OPEN_END] = np.array([not _is_finished(text) for text in texts])
    n_words = [len(_units(text)) for text in texts]
    labels = tuple(record.label for record in records)
    return _Style(np.array(n_words, float), marks, labels)


def _differs(share: float, whole: float, n: int) -> bool:
    """Whether a share of n records is two standard errors away from the share in the whole."""
    return abs(share - whole) >= 2 * math.sqrt(whole * (1 - whole) / max(1, n))


def _length_sentence(style: _Style, whole: _Style) -> str:
    """Say if the texts are clearly shorter or longer than most."""
    here, usual = float(np.median(style.n_words)), float(np.median(whole.n_words))
    if here < usual and here <= 0.8 * usual:
        return "You write shorter texts than most."
    if here > usual and here >= 1.25 * usual:
        return "You write longer texts than most."
    return ""


def _cue_sentence(style: _Style, whole: _Style) -> str:
    """Name up to four habits that clearly more records have here, or fewer, than among all."""
    n = len(style.labels)
    found: list[tuple[int, float, str, str]] = []
    for cue, marks in style.marks.items():
        share, among_all = float(marks.mean()), float(whole.marks[cue].mean())
        if not _differs(share, among_all, n):
            continue
        gap = -abs(share - among_all)
        if share >= 0.8 and share > among_all:
            found.append((0, gap, "you nearly always", cue))
        elif share >= 0.4 and share >= 1.25 * among_all:
            found.append((1, gap, "you often", cue))
        elif share >= 0.15 and share >= 1.5 * among_all:
            found.append((2, gap, "more than most, you", cue))
        elif among_all >= 0.2 and share <= 0.5 * among_all:
            found.append((3, gap, "you seldom", cue))
    parts: dict[str, list[str]] = {}
    for _, _, how, cue in sorted(sorted(found, key=lambda f: f[:2])[:4]):
        parts.setdefault(how, []).append(cue)
    clauses = [f"{how} {_and(cues)}" for how, cues in parts.items()]
    text = "; ".join(clauses)
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _and(items: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _label_sentence(style: _Style, whole: _Style) -> str:
    """Name the label that is commoner here than in the whole, if one is."""
    here = Counter(label for label in style.labels if label is not None)
    everywhere = Counter(label for label in whole.labels if label is not None)
    if not here or len(everywhere) < 2:
        return ""
    label = min(here, key=lambda name: (-here[name], name))
    share, among_all = here[label] / here.total(), everywhere[label] / everywhere.total()
    if (
        share < among_all + 0.1
        or not _differs(share, among_all, here.total())
        or not _is_plain(label)
    ):
        return ""
    if share >= 0.9:
        return f'Nearly all you write is labelled "{label}".'
    if share >= 0.6:
        return f'Most of what you write is labelled "{label}".'
    return f'You write more that is labelled "{label}" than others do.'


def _is_plain(label: str) -> bool:
    """Whether a label may stand in a sentence: short, one line, no quotes, no orders."""
    return (
        len(label) <= 40
        and '"' not in label
        and label.isprintable()
        and not _security_doubts(label)
    )


def _opening(task: str, words: Sequence[str]) -> str:
    """Say what the person writes, if known, and with which words."""
    task = " ".join(task.split()).rstrip(".")
    typical = f"typical words are {_and(words)}." if words else ""
    if task:
        return f"You are one of many who write this: {task}." + (typical and f" Your {typical}")
    return f"You are a writer whose {typical}" if typical else "You are a writer."


def keyword_personas(
    records: Sequence[Record],
    clustering: Clustering,
    *,
    task: str = "",
    n_keywords: int = 8,
    n_sources: int = 10,
) -> list[Persona]:
    """Describe every cluster by the words, length and habits that set it apart, all of them counted.

    Parameters
    ----------
    records : sequence of N Record
        What was clustered, in the same order. Only responses and labels are read.
    clustering : Clustering
        Its ``labels`` (N,) and ``nearest``.
    task : str
        What the responses are, in one line ("a one-sentence film review by a critic"); opens the
        description, or does not if empty.
    n_keywords : int
        Most words or two-word phrases to name; fewer if fewer are typical.
    n_sources : int
        Records nearest the centre whose keys are kept as sources.

    Returns
    -------
    list of K Persona
        In order of cluster number, ``writer="keywords"``. No randomness is involved.

    Raises
    ------
    DataError
        If the clustering does not fit the records.
    ConfigError
        If ``n_keywords`` or ``n_sources`` is below 1.

    Notes
    -----
    Words are ranked by `class_tf_idf`. Every statement about manner is a share of the cluster's
    records compared with the share among all records; it is left out unless it is at least two
    standard errors away. What all records have in common is left to the exemplars and the task:
    told in every persona it makes a small model's texts more alike, and no more like the records.
    Nothing is inferred about the people. The thresholds are chosen, not tuned.
    """
    _check_counts(n_keywords=n_keywords, n_sources=n_sources)
    members = _members(records, clustering)
    # Terms are found twice, since kept they would take 8 kB a record.
    stop = _stop_words(term.key for record in records for term in _terms(record.response))
    vocabularies = [
        _vocabulary((_terms(records[i].response) for i in rows), stop) for rows in members
    ]
    weights = class_tf_idf([vocabulary.counts for vocabulary in vocabularies])
    total = sum((vocabulary.counts for vocabulary in vocabularies), Counter())
    whole = _style(records, is_english=bool(stop))
    personas = []
    for k, rows in enumerate(members):
        style = whole.of(rows)
        words = _keywords(vocabularies[k], weights[k], total, n_keywords, len(rows))
        sentences = (
            _opening(task, words),
            _label_sentence(style, whole),
            _length_sentence(style, whole),
            _cue_sentence(style, whole),
        )
        description = " ".join(filter(None, sentences))
        personas.append(
            _persona(k, description, records, clustering, n_sources, len(rows), "keywords")
        )
    return _mark_duplicates(personas)


# --------------------------------------------------------------------------- other writers


def llm_personas(
    records: Sequence[Record],
    clustering: Clustering,
    generator: Generator,
    *,
    seed: int,
    task: str = "",
    n_sources: int = 10,
    store: Store | None = None,
    temperature: float = 0.7,
    max_tokens: int = 160,
    progress: Progress | None = None,
) -> list[Persona]:
    """Let a language model describe every cluster from the records nearest its centre.

    Parameters
    ----------
    records, clustering
        As in `keyword_personas`.
    task : str
        What the responses are, in one line; empty if unknown.
    generator : Generator
        The model that writes.
    seed : int
        Seed of the run; try t of cluster k uses a seed of its own.
    n_sources : int
        Records shown per cluster, nearest the centre first. Together they have `SHOWN_CHARACTERS`
        characters; a record longer than its share is shown up to there, followed by "…", and the
        number of such records is logged.
    store : Store or None
        Where drawn texts are kept, so that the same call draws nothing twice.
    temperature : float
        Of the draw, > 0.
    max_tokens : int
        A description still going on there is cut, and then in doubt as ``unfinished``.
    progress : Progress or None
        Called as ``progress("personas, try 1", done, total)``.

    Returns
    -------
    list of K Persona
        ``writer="llm"``; `Persona.doubts` says what still looks wrong.

    Raises
    ------
    DataError
        If the clustering does not fit the records.
    ConfigError
        If a number is below 1 or the temperature not positive.
    BackendError
        If the model wrote nothing at all for a cluster, `N_TRIES` times.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, which summarises the records nearest each centre.
    Ours: the checks; and a doubtful text is drawn up to
    `N_TRIES` times, of which the one with the fewest doubts is kept, the first of equals.
    """
    _check_counts(n_sources=n_sources, max_tokens=max_tokens)
    if not temperature > 0:
        raise ConfigError(
            f"the temperature of the persona writer is {temperature}; it must be above 0; give one such as 0.7"
        )
    members = _members(records, clustering)
    shown = [
        [records[i].response for i in clustering.nearest[k][:n_sources]]
        for k in range(len(members))
    ]
    share = SHOWN_CHARACTERS // n_sources
    n_cut = sum(len(text) > share for texts in shown for text in texts)
    if n_cut:
        logger.info("%d long records are shown up to character %d", n_cut, share)
    prompts = [
        persona_prompt([t if len(t) <= share else t[:share] + "…" for t in texts], task)
        for texts in shown
    ]
    best: dict[int, Persona] = {}
    reason = ""
    for attempt in range(N_TRIES):
        due = [k for k in range(len(members)) if k not in best or best[k].doubts]
        requests = [
            GenerateRequest(
                (Branch(prompts[k], temperature),), derive_seed(seed, "personas", k, attempt)
            )
            for k in due
        ]
        drawn = generate_cached(generator, requests, Decoding(max_tokens=max_tokens), store)
        for n_done, (i, generation) in enumerate(drawn, start=1):
            k = due[i]
            if progress is not None:
                progress(f"personas, try {attempt + 1}", n_done, len(due))
            text = generation.text.strip()
            if not text:
                continue
            persona = _persona(k, text, records, clustering, n_sources, len(members[k]), "llm")
            if "copied" in doubts(text, _request(prompts[k])):
                persona = replace(persona, doubts=_in_order({*persona.doubts, "copied"}))
            if k not in best or len(persona.doubts) < len(best[k].doubts):
                best[k] = persona
        if isinstance(generator, Fallible) and generator.failures and not reason:
            reason = f" (its first failure: {generator.failures[min(generator.failures)].message})"
    blank = [k for k in range(len(members)) if k not in best]
    if blank:
        raise BackendError(
            f"the persona writer {generator.name!r} wrote nothing for cluster {blank[0]} "
            f"({len(blank)} of {len(members)} clusters) in {N_TRIES} tries{reason}; a description of a few "
            "sentences is needed; use another model or seed, or the writer 'keywords'"
        )
    return _mark_duplicates([best[k] for k in range(len(members))])


def _request(prompt: Prompt) -> list[str]:
    """Return our own words in a prompt; small models recite them."""
    return [part.text for turn in prompt.turns for part in turn.segments if not part.is_data]


def record_personas(records: Sequence[Record], clustering: Clustering) -> list[Persona]:
    """Take the response nearest each centre for a persona: the ablation without a writer.

    Parameters
    ----------
    records, clustering
        As in `keyword_personas`.

    Returns
    -------
    list of K Persona
        ``writer="record"``; not checked, since a record is no description.

    Raises
    ------
    DataError
        If the clustering does not fit the records.
    """
    members = _members(records, clustering)
    return [
        Persona(
            key=_key(k, len(members)),
            description=records[int(clustering.nearest[k][0])].response,
            cluster=k,
            size=len(rows),
            sources=(records[int(clustering.nearest[k][0])].key,),
            writer="record",
        )
        for k, rows in enumerate(members)
    ]


def random_personas(records: Sequence[Record], n_personas: int, *, seed: int) -> list[Persona]:
    """Draw responses of different wording at random for personas: the ablation without clusters.

    Parameters
    ----------
    records : sequence of N Record
    n_personas : int
        K, at least 1 and at most the number of different non-blank responses.
    seed : int
        Seed of the run.

    Returns
    -------
    list of K Persona
        ``writer="random"``, without cluster.

    Raises
    ------
    ConfigError
        If ``n_personas`` is out of range.

    Examples
    --------
    >>> records = [Record(key=str(i), context="", response=f"Text {i}.") for i in range(9)]
    >>> [persona.key for persona in random_personas(records, 2, seed=0)]
    ['p000', 'p001']
    """
    different = {
        record.response.strip(): record for record in reversed(records) if record.response.strip()
    }
    pool = list(reversed(different.values()))
    if not 1 <= n_personas <= len(pool):
        raise ConfigError(
            f"{n_personas} random personas were asked for; the records have {len(pool)} different "
            f"responses, so ask for 1 to {len(pool)}"
        )
    rows = random_generator(seed, "personas", "random").choice(
        len(pool), size=n_personas, replace=False
    )
    return [
        Persona(
            key=_key(k, n_personas),
            description=pool[row].response,
            sources=(pool[row].key,),
            writer="random",
        )
        for k, row in enumerate(rows)
    ]


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise ConfigError(
                f"{name} is {value}; the persona writer needs a whole number of at least 1"
            )


def _members(
    records: Sequence[Record], clustering: Clustering
) -> list[np.ndarray[Any, np.dtype[np.intp]]]:
    """Rows of every cluster, checked against the records."""
    if len(clustering.labels) != len(records):
        raise DataError(
            f"the clustering has labels for {len(clustering.labels)} records, but {len(records)} "
            "records were given; pass the records that were clustered, in the same order"
        )
    members = [np.flatnonzero(clustering.labels == k) for k in range(len(clustering.centres))]
    empty = [k for k, rows in enumerate(members) if not len(rows) or not len(clustering.nearest[k])]
    if empty:
        raise DataError(
            f"cluster {empty[0]} ({len(empty)} of {len(members)}) has no records; a persona needs "
            "at least one; cluster into fewer groups"
        )
    return members


def _key(k: int, n: int) -> str:
    return f"p{k:0{max(3, len(str(n - 1)))}d}"


def _persona(
    k: int,
    description: str,
    records: Sequence[Record],
    clustering: Clustering,
    n_sources: int,
    size: int,
    writer: str,
) -> Persona:
    """One checked persona of cluster k."""
    shown = [records[int(i)] for i in clustering.nearest[k][:n_sources]]
    found = set(doubts(description, [record.response for record in shown]))
    if size < FEW_RECORDS:
        found.add("few-records")
    return Persona(
        key=_key(k, len(clustering.centres)),
        description=description,
        cluster=k,
        size=size,
        sources=tuple(record.key for record in shown),
        writer=writer,
        doubts=_in_order(found),
    )


def _in_order(found: Iterable[str]) -> tuple[str, ...]:
    found = set(found)
    return tuple(name for name in DOUBTS if name in found) + tuple(sorted(found - DOUBTS.keys()))


def _mark_duplicates(personas: Sequence[Persona]) -> list[Persona]:
    """Give every persona whose description occurs again the doubt ``duplicate``."""
    n = Counter(persona.description for persona in personas)
    return [
        replace(p, doubts=_in_order({*p.doubts, "duplicate"})) if n[p.description] > 1 else p
        for p in personas
    ]


def generate_cached(
    generator: Generator,
    requests: Sequence[GenerateRequest],
    decoding: Decoding,
    store: Store | None,
) -> Iterator[tuple[int, Generation]]:
    """Draw every request once, unless the store has it already.

    Parameters
    ----------
    generator : Generator
    requests : sequence of GenerateRequest
    decoding : Decoding
    store : Store or None
        None keeps nothing.

    Yields
    ------
    index, generation : int, Generation
        What the store has comes first, the rest as it is finished and kept.
    """
    keys = [generation_key(generator.generate_identity, r, decoding) for r in requests]
    known = store.get_generations(keys, stage="personas") if store is not None else {}
    yield from ((i, known[key]) for i, key in enumerate(keys) if key in known)
    due = [i for i, key in enumerate(keys) if key not in known]
    for batch in generator.generate([requests[i] for i in due], decoding) if due else ():
        finished = [(due[j], generation) for j, generation in batch]
        if store is not None:
            store.put_generations([(keys[i], drawn) for i, drawn in finished], stage="personas")
        yield from finished


# --------------------------------------------------------------------------- doubts


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
_PLACEHOLDER = _any_of(
    r"\[(?:your|insert|name|persona|the|film|movie|title|topic)\b[^\]\n]{0,60}\]"
)
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


_ENGLISH = frozenset(
    ["the", "a", "an", "and", "is", "of", "who", "with", "by", "to", "for", "that"]
)


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
    scale = 2 if _is_unspaced(description) else 1
    words = _units(description)
    found = _security_doubts(description)
    if len(words) < MIN_WORDS:
        found.add("too-short")
    if len(description) > MAX_CHARACTERS:
        found.add("too-long")
    if _is_repetitive(description, words, scale):
        found.add("repetition")
    for name, pattern in (
        ("refusal", _REFUSAL),
        ("chatter", _CHATTER),
        ("placeholder", _PLACEHOLDER),
    ):
        if pattern.search(description):
            found.add(name)
    if len(_ENGLISH.intersection(words)) >= 2 and not re.match(r"\W*you(?!r\b)", description, re.I):
        found.add("voice")
    if any(_is_copied(words, _units(source), scale) for source in sources):
        found.add("copied")
    if not _is_finished(description):
        found.add("unfinished")
    return _in_order(found)


def _security_doubts(text: str) -> set[str]:
    """Find what may steer a reader or a program instead of describing a person."""
    # NFKC turns full-width and other look-alike letters into the plain ones that the patterns know.
    plain = unicodedata.normalize("NFKC", text)
    found = {
        name
        for name, pattern in (("link", _LINK), ("instruction", _INSTRUCTION))
        if pattern.search(plain)
    }
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


# --------------------------------------------------------------------------- files

_FIELDS = tuple(field.name for field in fields(Persona))
# A person's "a film student" needs no full stop to be a good persona.
_OF_WRITERS_ONLY = frozenset({"too-short", "unfinished", "chatter", "voice"})
# Findings that cannot be made again from the description alone.
_KEPT = frozenset({"copied", "few-records"})


def save_personas(personas: Sequence[Persona], path: Path | str) -> None:
    """Write personas as JSON Lines, one to a line, for `read_personas` and for a text editor.

    Parameters
    ----------
    personas : sequence of Persona
    path : path
        Ends in ``.jsonl``; an existing file is replaced at once or not at all.

    Raises
    ------
    DataError
        If the name ends otherwise.
    ArtifactError
        If the file cannot be written.
    """
    path = Path(path)
    if path.suffix != ".jsonl":
        raise DataError(
            f"personas cannot be written to {path}: the name must end in .jsonl; rename it"
        )
    write_jsonl(path, map(asdict, personas))


def read_personas(path: Path | str) -> list[Persona]:
    """Read personas that a writer made, a person edited, or a person wrote.

    Parameters
    ----------
    path : path
        ``.jsonl``: one object per line, of which only ``description`` is needed. ``.txt``: one
        description per line. UTF-8; blank lines are skipped.

    Returns
    -------
    list of Persona
        In the order of the file. Missing keys are numbered by position (``p000``, ...); cluster,
        size, sources and writer are kept as they stand. `Persona.doubts` is found anew from the
        description, since it may have been edited; ``copied`` and ``few-records``, which cannot be,
        stay until they are deleted from the line. A text of the writers ``user``, ``record`` and
        ``random`` may be short and need not end like a sentence.

    Raises
    ------
    DataError
        With file and line, if the file cannot be read, has no personas, an unknown field, a field
        of the wrong type, or a key or description that occurred before (the latter passes on lines
        that say ``duplicate`` among their doubts).
    """
    rows = _read_rows(Path(path))
    taken = {row["key"] for _, row in rows if "key" in row}
    first: dict[str, str] = {}
    personas = []
    for i, (where, row) in enumerate(rows):
        if "key" not in row:
            free = (_key(j, len(rows)) for j in range(i, i + len(rows) + 1))
            row["key"] = next(key for key in free if key not in taken)
            taken.add(row["key"])
        _refuse_repeated(row, "key", first, where)
        if "duplicate" not in row.get("doubts", ()):
            _refuse_repeated(row, "description", first, where)
        personas.append(_from_row(row))
    return _mark_duplicates(personas)


def _read_rows(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """Read (file:line, checked row) of every line that is not blank."""
    if path.suffix not in {".jsonl", ".txt"}:
        raise DataError(
            f"personas cannot be read from {path}: the name must end in .jsonl or .txt; rename it"
        )
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"the persona file {path} cannot be read ({error.strerror}); give the path of a .jsonl or .txt file"
        ) from error
    rows = []
    # Lines end at \n alone: str.splitlines would also cut at characters that a text may hold.
    for number, line in enumerate(raw.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        where = f"{path}:{number}"
        try:
            text = line.decode("utf-8").strip()
        except UnicodeDecodeError as error:
            raise DataError(
                f"{where}: byte {error.start + 1} of the line is not UTF-8; save the file as UTF-8"
            ) from error
        if text:
            row = {"description": text} if path.suffix == ".txt" else _parse(text, where)
            rows.append((where, row))
    if not rows:
        raise DataError(f"{path} has no personas; write one description per line")
    return rows


def _refuse_repeated(row: Mapping[str, Any], name: str, first: dict[str, str], where: str) -> None:
    """Note where a key or description stands, and refuse its second occurrence."""
    value = f"{name} {_shown(row[name])}"
    found = first.setdefault(f"{name} {row[name]}", where)
    if found != where:
        raise DataError(
            f"{where}: the {value} was used before, at {found}; every persona needs its own, "
            "so change or delete one of the two"
        )


def _from_row(row: Mapping[str, Any]) -> Persona:
    """Make a persona of a checked row, with its doubts found anew."""
    lists = {name: tuple(row.get(name, ())) for name in ("sources", "doubts")}
    persona = Persona(**{**row, **lists})
    found = set(doubts(persona.description))
    if persona.writer not in {"keywords", "llm"}:
        found -= _OF_WRITERS_ONLY
    return replace(persona, doubts=_in_order(found | _KEPT.intersection(persona.doubts)))


def _parse(text: str, where: str) -> dict[str, Any]:
    """One checked row of a JSON Lines file."""
    try:
        row = json.loads(text)
    except (ValueError, RecursionError) as error:  # RecursionError: nested without end
        raise DataError(
            f'{where}: not a JSON object ({error}); a line looks like {{"description": "You are ..."}}'
        ) from error
    if not isinstance(row, dict):
        raise DataError(
            f'{where}: a line holds {_shown(row)} instead of an object; write it as {{"description": "You are ..."}}'
        )
    for name in row:
        if name not in _FIELDS:
            near = difflib.get_close_matches(name, _FIELDS, n=1)
            hint = f"did you mean {near[0]!r}" if near else "delete it"
            raise DataError(
                f"{where}: unknown field {name!r}; a persona has {', '.join(_FIELDS)}; {hint}"
            )
    for name, (is_right, wanted) in _CHECKS.items():
        if name in row and not is_right(row[name]):
            raise DataError(
                f"{where}: {name} is {_shown(row[name])}, but must be {wanted}; correct the line"
            )
    if "description" not in row:
        raise DataError(
            f'{where}: no description; every persona needs one, as in {{"description": "You are ..."}}'
        )
    return row


def _shown(value: object) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:60] + "…"


def _is_text(value: object) -> bool:
    # A lone surrogate can be written in JSON but not in UTF-8, so no later file could hold it.
    return (
        isinstance(value, str) and bool(value.strip()) and not re.search("[\ud800-\udfff]", value)
    )


def _is_name(value: object) -> bool:
    return (
        isinstance(value, str)
        and _is_text(value)
        and len(value) <= 64
        and value.isprintable()
        and " " not in value
    )


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value))


_CHECKS = {
    "key": (_is_name, "a name of 1 to 64 characters without spaces"),
    "description": (_is_text, "text that is not blank and has no lone surrogates"),
    "cluster": (
        lambda value: value is None or _is_count(value),
        "a whole number from 0 up, or null",
    ),
    "size": (_is_count, "a whole number from 0 up"),
    "sources": (_is_texts, "a list of record keys"),
    "writer": (_is_name, "a name such as keywords, llm or user"),
    "doubts": (_is_texts, "a list of names"),
}
