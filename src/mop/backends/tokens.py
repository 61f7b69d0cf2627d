"""From typed segments to token ids, so that data can never speak as the system.

A chat template is rendered with placeholders, never with data, and cut at them. What lies
between the placeholders is our own text and is encoded with the model's tokenizer. What
stands for a placeholder is encoded with a copy of that tokenizer that knows no added tokens,
so a record that contains ``<|im_start|>`` or ``<think>`` becomes ordinary characters. Ids are
joined, never texts, and a last check refuses control ids outside template text.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from mop.backends.chat_template import check_template, within_limits
from mop.backends.weights import reading
from mop.errors import BackendError, ConfigError, DataError, require
from mop.prompts import PLAIN_END, PLAIN_LEAD, flatten, fold_system, plain
from mop.types import Prompt, Role, Segment

_FIXED_DATE = "01 Jan 2025"
# Some templates print today's date, which would give every day its own scores. Reasoning
# switches are set off, because a reply is written at once. Templates ignore what they do not use.
_TEMPLATE_ARGUMENTS: dict[str, Any] = {"enable_thinking": False, "date_string": _FIXED_DATE}
_FIXED_CLOCK = f"{{% macro strftime_now(_) %}}{_FIXED_DATE}{{% endmacro %}}"
_CACHE_SIZE = 50_000
_PROBE = "a"


class PromptEncoder:
    """Prompts and responses as the token ids of one model.

    Parameters
    ----------
    tokenizer : transformers.PreTrainedTokenizerBase
        With a `tokenizers` backend. If it has no chat template, the plain form of `mop.prompts.plain` is used.

    Attributes
    ----------
    end_id : int
        The id that ends a response and is scored with it.
    control_ids : frozenset of int
        Ids that only template text may produce. If a model draws one, the response ends there.
    end_ids : frozenset of int
        All ids that end a drawn response; contains `end_id` and `control_ids`.
    is_chat : bool
        Whether the chat template is used (else the plain form).
    fingerprint : str
        Hash of tokenizer and template: all that the ids of a prompt depend on besides `mop.prompts.PROMPT_VERSION`.

    Raises
    ------
    ConfigError
        If the tokenizer cannot be used, with the reason.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            raise ConfigError(
                f"the tokenizer {type(tokenizer).__name__} has no `tokenizers` backend; mop needs "
                "one to encode data without control tokens, so use a model with a tokenizer.json"
            )
        self._tokenizer = tokenizer
        state = json.loads(backend.to_str())
        self.control_ids = _control_ids(tokenizer, state)
        # A character outside the vocabulary becomes the unknown id. That is harmless, and no data
        # can spell it, so the check lets it pass unless it doubles as a begin or end token.
        unknown = {tokenizer.unk_token_id} - _frame_ids(tokenizer)
        self._refused = self.control_ids - unknown
        tokenizers = require("tokenizers", extra="local").Tokenizer
        self._data = tokenizers.from_str(json.dumps(_without_added_tokens(state, self.control_ids)))
        self._template = tokenizers.from_str(json.dumps(_bare(state)))
        template: str = getattr(tokenizer, "chat_template", None) or ""
        self.is_chat = bool(template)
        if self.is_chat:
            check_template(template)
        # A macro of the same name takes the place of the clock that templates may ask.
        self._chat = _FIXED_CLOCK + template if "strftime_now" in template else template
        self._skeletons: dict[tuple[Role, ...], list[list[int]] | None] = {}
        self._known: dict[Segment, list[int]] = {}
        self._has_system = True
        self._start = _start_ids(tokenizer)
        if self.is_chat:
            self._has_system = self._skeleton(("system", "user")) is not None
            self._lead, self.end_id = self._frame()
            self.end_ids = self.control_ids | {self.end_id}
        else:
            self._lead, (self.end_id, self.end_ids) = PLAIN_LEAD, self._line_ends()
        self.fingerprint = _digest(backend.to_str(), self._chat if self.is_chat else "plain", _FIXED_DATE)

    def prompt_ids(self, prompt: Prompt) -> list[int]:
        """Return the ids of a prompt, up to where the response begins.

        Raises
        ------
        ConfigError
            If the chat template refuses this order of roles.
        BackendError
            If data produced a control id, or the prompt has no id at all.
        """
        if not self.is_chat:
            ids = list(self._start)
            for segment in plain(prompt):
                ids += self._encode(segment)
        else:
            turns = prompt.turns if self._has_system else fold_system(prompt).turns
            roles = tuple(turn.role for turn in turns)
            skeleton = self._skeleton(roles)
            if skeleton is None:
                raise ConfigError(
                    f"the chat template of this model cannot render the roles {', '.join(roles)}; "
                    "it accepts other orders only, so use another model or fewer exemplars"
                )
            ids = list(skeleton[0])
            for turn, after in zip(turns, skeleton[1:], strict=True):
                for segment in turn.segments:
                    ids += self._encode(segment)
                ids += after
        if not ids:
            raise BackendError("a prompt came out as 0 tokens; a model needs at least one, so give a context")
        return ids

    def response_ids(self, text: str) -> list[int]:
        """Return the ids that generation would emit for a response, end-of-turn included.

        Raises
        ------
        DataError
            If the text has no visible character.
        BackendError
            If the text produced a control id.
        """
        body = text if self.is_chat else flatten(text)
        if not body.strip():
            raise DataError(
                f"a response to score is empty: {text!r}; at least one visible character is "
                "needed, so drop such records"
            )
        return [*self._encode_data(self._lead + body), self.end_id]

    @property
    def begin_ids(self) -> list[int]:
        """Ids that stand before a running text: a begin token, or none."""
        return list(self._start)

    @property
    def control_strings(self) -> tuple[str, ...]:
        """Texts of the control tokens, sorted: what data must not spell where it is sent as text."""
        texts = self._tokenizer.convert_ids_to_tokens(sorted(self.control_ids))
        return tuple(sorted({str(text) for text in texts}))

    def text(self, ids: Sequence[int]) -> str:
        """Return the text of drawn ids; those from the first end id on are left out.

        Bytes at the end that are not yet a whole character are dropped.
        """
        kept = list(takewhile(lambda token: token not in self.end_ids, ids))
        text: str = self._tokenizer.decode(kept, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        if self._lead and text.startswith(self._lead):
            text = text[len(self._lead) :]
        return text.rstrip("\ufffd")

    def _encode(self, segment: Segment) -> list[int]:
        """Encode a segment of a prompt; prompts repeat themselves, so the ids are kept."""
        found = self._known.get(segment)
        if found is None:
            found = self._encode_data(segment.text) if segment.is_data else _ids(self._template, segment.text)
            if len(self._known) >= _CACHE_SIZE:
                self._known.clear()
            self._known[segment] = found
        return found

    def _encode_data(self, text: str) -> list[int]:
        ids = _ids(self._data, text)
        found = self._refused.intersection(ids)
        if found:
            raise BackendError(
                f"data produced the control ids {sorted(found)} in a text of {len(text)} characters; only "
                "template text may, so this tokenizer cannot be used with this text: report it or drop the record"
            )
        return ids

    def _render(self, roles: Sequence[Role], marks: Sequence[str], *, prompt: bool) -> str:
        messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
        with within_limits():
            rendered: str = self._tokenizer.apply_chat_template(
                messages, chat_template=self._chat, tokenize=False, add_generation_prompt=prompt, **_TEMPLATE_ARGUMENTS
            )
        return rendered

    def _skeleton(self, roles: tuple[Role, ...]) -> list[list[int]] | None:
        """Return the template ids before, between and after the contents of these turns.

        None if the template refuses the roles or does not show every content once, in order.
        """
        if roles not in self._skeletons:
            texts = self._cut(roles)
            if texts is None:
                self._skeletons[roles] = None
            else:
                # Where a prompt opens, a tokenizer may put its own leading space.
                opening = _ids(self._tokenizer.backend_tokenizer, texts[0])
                self._skeletons[roles] = [opening, *(_ids(self._template, text) for text in texts[1:])]
        return self._skeletons[roles]

    def _cut(self, roles: tuple[Role, ...]) -> list[str] | None:
        jinja2 = require("jinja2", extra="local")
        marks = [f"mop{place:04d}content" for place in range(len(roles))]
        try:
            rest = self._render(roles, marks, prompt=True)
        except jinja2.exceptions.TemplateError:
            return None  # e.g. "System role not supported"
        texts = []
        for mark in marks:
            before, found, rest = rest.partition(mark)
            if not found or mark in rest:
                return None
            texts.append(before)
        return [*texts, rest]

    def _frame(self) -> tuple[str, int]:
        """Return what generation writes before a response (often nothing), and the end id."""
        opened = self._cut(("user",))
        marks = ["mop0000content", "mop0001content"]
        if opened is None:
            raise ConfigError(
                "the chat template of this model does not show the text of a user turn; mop "
                "needs a template for user and assistant turns, so choose an instruct model"
            )
        whole = self._render(("user", "assistant"), marks, prompt=False)
        before, _, tail = whole.partition(marks[1])
        prompt = opened[0] + marks[0] + opened[1]
        extra = before[len(prompt) :] if before.startswith(prompt) else ""
        # Only white space can open a response (Llama 2: " "); all else is a block of the template.
        lead = "" if extra.strip() else extra
        for token in _ids(self._template, tail):
            if token in self.control_ids:
                return lead, token
        end = self._tokenizer.eos_token_id
        if end is None:
            raise ConfigError(
                "this tokenizer has no end-of-turn token, neither in its chat template nor as "
                "eos_token; scoring and drawing responses need one"
            )
        return lead, int(end)

    def _line_ends(self) -> tuple[int, frozenset[int]]:
        ends = self._encode_data(PLAIN_END)
        if len(ends) != 1:
            raise ConfigError(
                f"a line break is {len(ends)} tokens for this tokenizer, which has no chat "
                "template; the plain form needs exactly 1, so use an instruct model"
            )
        size = len(self._tokenizer)
        texts = self._tokenizer.batch_decode([[token] for token in range(size)])
        return ends[0], self.control_ids | {token for token, text in enumerate(texts) if PLAIN_END in text}


def _ids(tokenizer: Any, text: str) -> list[int]:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False).ids
    return ids


def open_tokens(name: str) -> PromptEncoder:
    """Return how a model (an embedded name, ``hf:ORG/NAME`` or a folder) turns prompts into ids, without the model.

    Raises
    ------
    ConfigError
        If there is no such model, or its tokenizer cannot be used.
    """
    from mop.data import pull

    return PromptEncoder(load_tokenizer(pull.resolve(name, kind="lm")))


def load_tokenizer(place: Path) -> Any:
    """Return the transformers tokenizer in a folder.

    Raises
    ------
    ConfigError
        If there is none.
    """
    transformers = require("transformers", extra="local")
    with reading(place, "tokenizer", "AutoTokenizer"):
        return transformers.AutoTokenizer.from_pretrained(place, local_files_only=True, trust_remote_code=False)


def _control_ids(tokenizer: Any, state: dict[str, Any]) -> frozenset[int]:
    """Return the ids of all added tokens, but for plain white space."""
    named = {token["id"] for token in state["added_tokens"] if token["content"].replace("▁", " ").strip()}
    return frozenset(named | _frame_ids(tokenizer))


def _frame_ids(tokenizer: Any) -> set[int]:
    return {tokenizer.bos_token_id, tokenizer.eos_token_id} - {None}


def _bare(state: dict[str, Any]) -> dict[str, Any]:
    """Return the tokenizer state without wrapping, and without a space put before the text."""
    rest = {"post_processor": None, "padding": None, "truncation": None}
    cleaned: dict[str, Any] = _no_prefix({**state, **rest})
    return cleaned


def _no_prefix(part: Any) -> Any:
    if isinstance(part, list):
        return [_no_prefix(item) for item in part]
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return {"type": "Sequence", "normalizers": []}
    changed = {key: _no_prefix(value) if key in _STAGES else value for key, value in part.items()}
    if part.get("type") == "Metaspace":
        changed["prepend_scheme"] = "never"
    elif part.get("type") == "ByteLevel" and "add_prefix_space" in part:
        changed["add_prefix_space"] = False
    return changed


# The parts of a tokenizer state that can put a space before a text.
_STAGES = {"normalizer", "normalizers", "pre_tokenizer", "pretokenizers"}


def _without_added_tokens(state: dict[str, Any], control_ids: frozenset[int]) -> dict[str, Any]:
    """Return the tokenizer state in which no text can become a control id.

    Added tokens go (white space ones may stay); a control token that is also a piece of the
    model's own vocabulary gets a name that no text contains, and no merge leads to it.
    """
    bare = _bare(state)
    model = dict(bare["model"])
    vocabulary = model.get("vocab", {})
    if isinstance(vocabulary, dict):
        hidden = {piece for piece, token in vocabulary.items() if token in control_ids}
        model["vocab"] = {_hidden(token) if piece in hidden else piece: token for piece, token in vocabulary.items()}
    else:  # Unigram: a list of [piece, score], its place is the id
        hidden = {piece for token, (piece, _) in enumerate(vocabulary) if token in control_ids}
        model["vocab"] = [
            [_hidden(token) if piece in hidden else piece, score] for token, (piece, score) in enumerate(vocabulary)
        ]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, hidden)]
    if model.get("unk_token") in hidden:
        model["unk_token"] = _hidden(vocabulary[model["unk_token"]])
    kept = [token for token in state["added_tokens"] if token["id"] not in control_ids]
    return {**bare, "model": model, "added_tokens": kept}


def _hidden(token: int) -> str:
    # NUL cannot occur in text: `mop.data.records` refuses it, and byte-level tokenizers write it otherwise.
    return f"\0{token}\0"


def _touches(merge: str | list[str], hidden: set[str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return not hidden.isdisjoint((left, right, left + right))


def _start_ids(tokenizer: Any) -> list[int]:
    """Return the ids that this tokenizer puts before every text (a begin token, or nothing)."""
    with_start = tokenizer(_PROBE, add_special_tokens=True)["input_ids"]
    without = tokenizer(_PROBE, add_special_tokens=False)["input_ids"]
    if not without or without[0] not in with_start:
        return []
    return list(with_start[: with_start.index(without[0])])


def _digest(*parts: str) -> str:
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        raw = part.encode("utf-8", "surrogatepass")
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()
