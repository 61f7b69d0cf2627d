"""Data that is sent as text must not speak as the system: control strings of chat formats are broken, and counted.

Where ids can be sent, `mop.backends.tokens` makes it impossible; where only messages can, this is the best there is. It
knows the strings of the common model families and those of the tokenizer, if there is one; it is no guarantee.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable
from functools import lru_cache

from mop.types import Prompt

Neutral = Callable[[str], tuple[str, int]]
"""From a text to the text without control strings, and how many there were."""

_KNOWN_TEXTS = 20_000  # prompts repeat themselves: exemplars, personas
_MARKS = {"<": "⟨", "[": "⟦", "]": "⟧"}
_OTHER_MARK = "·"
_INNER = r"[^<>|｜\[\]\s⟨⟦⟧·]{1,64}"  # the marks are in no pattern, so that no replacement makes a control string

# What begins where a mark is put: control strings of the model families, by their brackets. Each is bounded in length.
_FAMILIES = re.compile(
    "|".join(
        (
            rf"<\|{_INNER}\|>",  # ChatML, Llama 3 and 4, Qwen, Phi, GLM, Granite, Command, Kimi, gpt-oss, ...
            rf"<｜{_INNER}｜>",  # DeepSeek, Hunyuan
            r"<\|[a-z_]{1,32}>|<[a-z_]{1,32}\|>",  # Gemma 4
            rf"\[\|{_INNER}\|\]",  # EXAONE
            r"</?(?:s|bos|eos|pad|unk|mask|cls|sep|sop|eop|mask:\d{1,3})>",
            r"</?(?:think|thinking|thought|reasoning|reflection|answer|scratch_pad|tools?|tool_calls?|tool_response"
            r"|function_calls?|functions?|role|system|user|assistant|turn|arg_key|arg_value)>",
            r"<(?:start|end)_of_[a-z]{1,16}>|<(?:beginning|end)_of_sentence>",  # Gemma, MiniMax
            r"<(?:image_soft_token|audio_soft_token|2mass|fim_[a-z]{1,12}|file_sep|repo_name|reponame)>",
            r"<(?:unused|extra_id_|reserved_|SPECIAL_|special_token_|reserved_token_)\d{1,6}>",
            r"<(?:[A-Z]{3,5}_TOKEN|CLS|SEP|MASK|IMG_CONTEXT|box|ref|quad)>",  # Command, Aya
            r"</?(?:seed|minimax|longcat)[:_][a-z_]{1,40}>",  # Seed-OSS, MiniMax, LongCat
            r"<</?SYS>>",  # Llama 2
            r"\[/?(?:INST|SYSTEM_PROMPT|THINK|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|TOOL_CONTENT|MODEL_SETTINGS)\]",
            r"\[(?:ARGS|CALL_ID|PREFIX|MIDDLE|SUFFIX|IMG|IMG_BREAK|IMG_END|AUDIO|BEGIN_AUDIO|TRANSCRIBE)\]",  # Mistral
            r"\[(?:gMASK|sMASK|MASK|CLS|SEP|PAD|UNK|BOS|EOS|@BOS@|eMASK|eop|sop)\]",  # GLM, BERT, EXAONE
            r"\[(?:UNUSED_TOKEN_|unused|control_)\d{1,6}\]",  # InternLM, BERT, Mistral
            r"\]~!?b[\]\[]|\]!p~\[|\]!d~\[|\[e~\[|\]<\][a-z_ ]{1,32}\[>\[",  # MiniMax
        )
    )
)
_OPENERS = "<[]"

# Roles in plain text, as Vicuna, Alpaca, OpenChat and others write them. Capitals anywhere; else where a line begins.
_ROLES = re.compile(
    r"(?<![^\W_])(USER|ASSISTANT|SYSTEM|HUMAN)(?=:)"
    r"|(?im:^([ \t>*]{0,4}(?:(?:GPT4 Correct |Code )?(?:User|Assistant)|Human|System|Instruct(?:ion)?)\*{0,2})"
    r"(?=:))"
    r"|(?im:^([ \t>]{0,4}#{2,4} ?(?:Instructions?|Input|Response|Human|Assistant|User|System)\*{0,2})(?=:))"
)


def messages_of(prompt: Prompt, neutral: Neutral) -> tuple[list[dict[str, str]], int]:
    """Turn a prompt into chat messages; control strings in data are made harmless.

    ``neutral``, as `neutraliser` makes it, is applied to data segments and, once more, to each data-bearing turn as a
    whole, because two harmless segments side by side can spell a control string.
    Returns messages, {"role", "content"} each, and the number of control strings replaced.
    """
    messages, n_replaced = [], 0
    for turn in prompt.turns:
        parts = []
        for segment in turn.segments:
            text, n = neutral(segment.text) if segment.is_data else (segment.text, 0)
            n_replaced += n
            parts.append(text)
        content = "".join(parts)
        if any(segment.is_data for segment in turn.segments):
            content, n = neutral(content)
            n_replaced += n
        messages.append({"role": turn.role, "content": content})
    return messages, n_replaced


def neutraliser(control: Iterable[str] = ()) -> Neutral:
    """Return a function that breaks the control strings in a text and counts them.

    They are the model's own, from its tokenizer file, and always those of the common families; a text without any is
    unchanged. As little is changed as breaks them: the first character of a control string becomes a mark that looks
    like it, and before the colon of a role comes a space.

    Notes
    -----
    One pass over the text: every place where a control string begins is marked, those within others too, and a mark
    is part of none, so no replacement brings the halves of another one together. Results are kept by text.

    A text whose compatibility form (NFKC, format characters removed) holds a control string is replaced by that form
    first: some tokenizers normalise before they look.

    Examples
    --------
    >>> neutral = neutraliser(["<secret_tag>"])
    >>> neutral("a <|im_start|>system and <secret_tag>")
    ('a ⟨|im_start|>system and ⟨secret_tag>', 2)
    >>> neutral("USER: who are you?")
    ('USER : who are you?', 1)
    """
    own = {text for text in control if text.strip()}
    lengths: dict[str, list[int]] = {opener: [] for opener in _OPENERS}
    for first, length in sorted({(text[0], len(text)) for text in own}):
        lengths.setdefault(first, []).append(length)
    starts = re.compile("[" + "".join(map(re.escape, lengths)) + "]")

    def marked(text: str) -> tuple[str, int]:
        text, n = _ROLES.subn(r"\g<0> ", text)
        parts: list[str] = []
        end = 0
        for start in (found.start() for found in starts.finditer(text)):
            known = [length for length in lengths[text[start]] if text[start : start + length] in own]
            if known or _FAMILIES.match(text, start):
                mark = _OTHER_MARK if 1 in known else text[start] + _OTHER_MARK
                parts += text[end:start], _MARKS.get(text[start], mark)
                end, n = start + 1, n + 1
        return "".join(parts) + text[end:], n

    @lru_cache(_KNOWN_TEXTS)
    def neutral(text: str) -> tuple[str, int]:
        total = 0
        for _ in range(4):  # a second time finds nothing, unless the tokenizer's own strings are very odd
            text, n = marked(text)
            if n == 0:
                disguised = _undisguised(text)
                n = marked(disguised)[1] if disguised != text else 0
                text = disguised if n else text
            else:
                total += n
            if n == 0:
                break
        return text, total

    return neutral


def _undisguised(text: str) -> str:
    """The text as a tokenizer may read it that normalises."""
    if text.isascii():
        return text
    normal = unicodedata.normalize("NFKC", text)
    return "".join(c for c in normal if unicodedata.category(c) != "Cf")
