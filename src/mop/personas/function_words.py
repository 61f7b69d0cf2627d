"""Words that every text of a language has: they say nothing of who wrote it."""

from __future__ import annotations

from collections import Counter

# The most frequent articles, pronouns, prepositions and forms of "to be" and "to have"; our own choice.
_LISTS = {
    "en": "the a an and or but is are was were be been am of to in on at by for with from as that this these those "
    "it its he she they we you i me my your his her our their them him us so not no if who what which there "
    "here have has had do does did will would can could all more than then very just too now up out about "
    "into",
    "de": "der die das den dem des ein eine einen einem einer und oder aber ist sind war waren sein hat haben ich "
    "du er sie es wir ihr mich mir dich uns sich von zu zum zur in im an am auf mit für bei aus nach als auch "
    "nicht so wie dass daß wenn man noch nur schon sehr mehr hier",
    "fr": "le la les l un une des du de d et ou mais est sont était être a ont avoir je j tu il elle on nous vous "
    "ils elles me se ce c cette ces que qu qui ne n pas plus dans en sur pour par avec au aux comme très y "
    "son sa ses mon ma",
    "es": "el la los las un una unos unas de del al y o pero es son era ser está hay ha han yo tú él ella nosotros "
    "ellos me se te le lo que no más en con por para como muy su sus mi si ya este esta",
    "it": "il lo la i gli le un uno una di del della dei delle da in con su per tra e o ma è sono era essere ho ha "
    "hanno io tu lui lei noi voi loro mi si che non più come molto ci al alla nel nella anche questo questa",
    "pt": "o a os as um uma de do da dos das em no na e ou mas é são era ser está há tem eu ele ela nós eles me se "
    "que não mais com por para como muito seu sua ao à este esta",
    "nl": "de het een en of maar is zijn was waren ben heb heeft hebben ik je jij hij zij ze we wij van te in op "
    "aan met voor bij uit als ook niet er dat die dit deze zo nog wel",
}
FUNCTION_WORDS = {language: frozenset(words.split()) for language, words in _LISTS.items()}
SHARE = 0.25
"""Share of the words of texts, at the least, that are function words of their language."""


def function_words(counts: Counter[str]) -> frozenset[str]:
    """The list of the language of texts, by how often each word in lower case occurs; empty if none is known.

    Examples
    --------
    >>> "aber" in function_words(Counter("die rente ist zu niedrig aber wir haben keine wahl".split()))
    True
    >>> function_words(Counter("rents rents rents".split()))
    frozenset()
    """
    n = {language: sum(counts[word] for word in of) for language, of in FUNCTION_WORDS.items()}
    best = max(n, key=lambda language: n[language])
    return FUNCTION_WORDS[best] if n[best] >= SHARE * counts.total() > 0 else frozenset()
