"""Chat templates that never end are refused before anything waits for them."""

import sys

import pytest

pytest.importorskip("transformers")

from mop.backends.chat_template import check_template
from mop.backends.tokens import PromptEncoder
from mop.errors import ConfigError
from mop.prompts import simulation_prompt
from tiny_models import CHAT, byte_tokenizer

LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
ENDLESS = {
    "loops": LOOPS,
    "deep loops": "{% for i in range(999) %}" * 3 + "x" + "{% endfor %}" * 3,
    "in a macro": "{% macro m(n) %}{% for i in range(99) %}{{ m(n) }}{% endfor %}{% endmacro %}{{ m(1) }}",
    "over text": "{% set s = 'x' * 99999 %}{% for a in s %}{% for b in s %}{% endfor %}{% endfor %}",
    "filters": "{% for i in range(99999) %}{{ range(99999) | map('string') | join }}{% endfor %}",
    "doubling": "{% set n = namespace(s='xx') %}{% for i in range(99) %}{% set n.s = n.s + n.s %}{% endfor %}",
    "a power": "{{ 9 ** 9 ** 9 }}",
    "a huge number": "{{ 'x' * 99999999999 }}",
    "late": CHAT + "{% if messages | length > 1 %}" + LOOPS + "{% endif %}",
}


@pytest.mark.parametrize("template", ENDLESS.values(), ids=ENDLESS)
def test_a_template_without_end_is_refused(template):
    before = sys.gettrace()
    with pytest.raises(ConfigError, match=r"the chat template of this model is refused: .*choose another model"):
        PromptEncoder(byte_tokenizer(template)).prompt_ids(simulation_prompt("x", persona="You."))
    assert sys.gettrace() is before


def test_what_is_no_template_is_an_error_of_ours():
    with pytest.raises(ConfigError, match="the chat template of this model cannot be read"):
        check_template("{{ 'open }}")


def test_a_long_dialogue_is_within_the_limits():
    from mop.types import Record

    shown = [Record(key=str(i), context="c" * 2000, response="r" * 2000) for i in range(100)]
    assert PromptEncoder(byte_tokenizer()).prompt_ids(simulation_prompt("x", persona="You.", exemplars=shown))
