"""Personas from the words of a cluster: class-based TF-IDF turned into a plain sentence; no language model."""

from __future__ import annotations

import functools
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from mop.data.answers import options_of
from mop.personas.cluster import Clustering
from mop.personas.doubts import FEW_WORDS, doubts_in_order, mark_duplicates, security_doubts
from mop.personas.from_cluster import members_of, persona_of
from mop.personas.function_words import function_words
from mop.personas.units import UNSPACED, unit_pattern
from mop.types import Persona, Record

N_KEYWORDS = 8
"""Most words or two-word phrases that a description names; fewer if fewer are typical. Chosen, not tuned."""

# Share of words on the English list from which texts count as English.
_ENGLISH_SHARE = 0.3
_ENGLISH_TAILS = re.compile(r"(?:n['’]t|['’](?:s|m|d|re|ve|ll))$")
_MORE_STOP_WORDS = frozenset(
    ["does", "did", "doing", "dont", "im", "ive", "ll", "re", "ve", "wo", "ca", "n't", "nt", "lrb", "rrb"]
)


@dataclass(frozen=True, slots=True)
class _Term:
    """One countable term of a text."""

    surface: str
    key: str
    follows: bool
    """One space stands between this word and the term before it."""


_EMOJI = (
    "(?P<emoji>[\u2600-\u27bf\u2b00-\u2bff\U0001f1e6-\U0001faff](?:[\ufe0f\U0001f3fb-\U0001f3ff]"
    "|\u200d[\u2600-\u27bf\U0001f300-\U0001faff])*)"
)
_ESCAPES = re.compile("(?:\x1b\\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?")
"""What drives a terminal: its letters are no words."""
_KANA = re.compile("[\u3041-\u30ff]")
# In Japanese, what is written in Chinese characters or in katakana is a word or most of one; the rest is grammar.
_JAPANESE = "(?P<run>[\u3005\u4e00-\u9fff]{2,}|[\u30a1-\u30fa\u30fc]{2,})"


@functools.cache
def _term_pattern(is_japanese: bool) -> re.Pattern[str]:
    parts = (_EMOJI, *([_JAPANESE] if is_japanese else []), unit_pattern().pattern)
    return re.compile("|".join(parts))


def _terms(text: str) -> list[_Term]:
    """Words with a letter in them, and emoji.

    Of Japanese, stretches of Chinese characters and of katakana; in other scripts without spaces, overlapping pairs of
    letters.
    """
    terms: list[_Term] = []
    last: re.Match[str] | None = None
    text = unicodedata.normalize("NFC", _ESCAPES.sub(" ", text))
    is_japanese = _KANA.search(text) is not None
    for match in _term_pattern(is_japanese).finditer(text):
        surface = match.group()
        if match["emoji"] is not None or (is_japanese and match["run"] is not None):
            terms.append(_Term(surface, re.sub("[\ufe0f\U0001f3fb-\U0001f3ff]", "", surface), False))
        elif match["sign"] is not None:
            if not is_japanese and last is not None and last["sign"] is not None and last.end() == match.start():
                terms.append(_Term(last.group() + surface, last.group() + surface, False))
        elif any(map(str.isalpha, surface)):
            follows = last is not None and last["sign"] is None and text[last.end() : match.start()] == " "
            key = re.sub("['’]s$", "", surface.casefold())
            terms.append(_Term(surface, key, follows))
        last = match
    return terms


def _stop_words(keys: Iterable[str]) -> frozenset[str]:
    """Take the list of the language of the texts; where none is known, the weights alone do it."""
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    counts = Counter(keys)
    listed = function_words(counts)
    n_stop = sum(n for key, n in counts.items() if key in ENGLISH_STOP_WORDS)
    if not counts or n_stop < _ENGLISH_SHARE * counts.total():
        return listed
    listed = listed | ENGLISH_STOP_WORDS | _MORE_STOP_WORDS
    return frozenset(
        key for key in counts if key in listed or len(key) < 2 or _ENGLISH_TAILS.sub("", key) in listed | {""}
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
    if re.match(f"[{UNSPACED}]", short):
        return short[0] == long[-1] or short[-1] == long[0]
    alike = next((i for i, pair in enumerate(zip(a, b, strict=False)) if len(set(pair)) > 1), len(short))
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


def _keywords(vocabulary: _Vocabulary, weights: Mapping[str, float], whole: Counter[str], size: int) -> list[str]:
    """Choose the `N_KEYWORDS` heaviest words of one cluster, each word form once, as they are usually spelled.

    A word counts if 3 % of the records of the cluster have it, and two (one person's word is
    neither typical nor ours to tell), and it is at least twice as frequent as in the other clusters
    (``whole`` counts all of them).
    """
    n_words = vocabulary.counts.total()
    n_others = whole.total() - n_words
    able = [
        key
        for key, n in vocabulary.counts.items()
        if vocabulary.in_records[key] >= max(2, 0.03 * size) and n * n_others >= 2 * n_words * (whole[key] - n)
    ]
    chosen: list[str] = []
    used: list[str] = []
    for key in sorted(able, key=lambda k: (-weights[k], vocabulary.first[k])):
        if len(chosen) == N_KEYWORDS:
            break
        if any(_is_variant(key, other) for other in used):
            continue
        phrase = _phrase(vocabulary, key)
        if any(part in used for part in phrase):
            phrase = (key,)
        used += phrase
        chosen.append(" ".join(_surface(vocabulary, part) for part in phrase))
    return chosen


def _and(items: Sequence[str]) -> str:
    return " and ".join(filter(None, (", ".join(items[:-1]), items[-1])))


def _is_pair(word: str) -> bool:
    """Whether it is two letters of a script without spaces, which need not be a word."""
    return re.fullmatch(f"[{UNSPACED}]{{2}}", word) is not None


def _label_sentence(here: Counter[str], everywhere: Counter[str]) -> str:
    """Name the label that is commoner in a cluster than among all records, if one is."""
    if not here or len(everywhere) < 2:
        return ""
    label = min(here, key=lambda name: (-here[name], name))
    share, among_all = here[label] / here.total(), everywhere[label] / everywhere.total()
    two_errors = 2 * math.sqrt(among_all * (1 - among_all) / here.total())
    if share < among_all + max(0.1, two_errors) or not _is_plain(label):
        return ""
    if share >= 0.9:
        return f'Nearly all you write is labelled "{label}".'
    if share >= 0.6:
        return f'Most of what you write is labelled "{label}".'
    return f'You write more that is labelled "{label}" than others do.'


def _is_plain(label: str) -> bool:
    """Whether a label may stand in a sentence: short, one line, no quotes, no orders."""
    return len(label) <= 40 and '"' not in label and label.isprintable() and not security_doubts(label)


def keyword_personas(records: Sequence[Record], clustering: Clustering) -> list[Persona]:
    """Describe every cluster by the words and the label that set it apart, all of them counted.

    Parameters
    ----------
    records : sequence of n Record
        What was clustered, in the same order. Only responses and labels are read.
    clustering : Clustering
        Its ``labels`` (n,) and ``nearest``.

    Returns
    -------
    list of K Persona
        In order of cluster number, ``writer="keywords"``. No randomness is involved.

    Raises
    ------
    DataError
        If the clustering does not fit the records.

    Notes
    -----
    Words are ranked by `class_tf_idf`. A label is left out unless its share of the cluster's records is 10 points and
    two standard errors above that among all records. Manner (length, punctuation) is left to the exemplars: sentences
    about it made texts no more like the records (``docs/log.md``). Nothing is inferred about the people. The
    thresholds are chosen, not tuned.
    """
    members = members_of(records, clustering)
    # Terms are found twice, since kept they would take 8 kB a record.
    options = options_of(record.response for record in records)
    stop = _stop_words(term.key for record in records for term in _terms(record.response))
    vocabularies = [_vocabulary((_terms(records[i].response) for i in rows), stop) for rows in members]
    weights = class_tf_idf([vocabulary.counts for vocabulary in vocabularies])
    total = sum((vocabulary.counts for vocabulary in vocabularies), Counter())
    labels = [Counter(label for i in rows if (label := records[i].label) is not None) for rows in members]
    every_label = sum(labels, Counter())
    is_japanese = any(_KANA.search(record.response) for record in records)
    personas = []
    for k, rows in enumerate(members):
        words = _keywords(vocabularies[k], weights[k], total, len(rows))
        what = "pairs of letters" if not is_japanese and any(map(_is_pair, words)) else "words"
        opening = f"You are a writer whose typical {what} are {_and(words)}." if words else "You are a writer."
        description = " ".join(filter(None, (opening, _label_sentence(labels[k], every_label))))
        persona = persona_of(k, description, records, clustering, "keywords")
        found = {name for name, is_so in (("few-words", len(words) < FEW_WORDS), ("options", options)) if is_so}
        personas.append(replace(persona, doubts=doubts_in_order({*persona.doubts, *found})))
    return mark_duplicates(personas)
