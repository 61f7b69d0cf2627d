"""Function words of the language of a text, and of none where none is known."""

from collections import Counter

import pytest

from mop.personas.function_words import FUNCTION_WORDS, function_words

TEXTS = {
    "en": "the rent is too high and we have no choice",
    "de": "die miete ist zu hoch und wir haben keine wahl",
    "fr": "le loyer est trop cher et nous ne pouvons pas choisir",
    "es": "el alquiler es muy caro y no hay más que pagar",
    "it": "il costo della casa è alto e non si può scegliere",
    "pt": "o aluguel é muito caro e não há mais o que fazer",
    "nl": "de huur is te hoog en we hebben er niet over te zeggen",
}


@pytest.mark.parametrize("language", sorted(FUNCTION_WORDS))
def test_the_language_is_found_by_its_own_words(language):
    assert function_words(Counter(TEXTS[language].split())) == FUNCTION_WORDS[language]


@pytest.mark.parametrize("text", ["", "rents buses parks", "wysokie czynsze i mało autobusów na wsi"])
def test_no_language_has_no_words(text):
    assert function_words(Counter(text.split())) == frozenset()
