"""What a run will ask of a server that writes, asked first: before a fit begins, or anything else is paid for.

Hosted services refuse what others take: a system turn, a temperature but 1, a seed, the name of the length limit. A few
short draws find that out, in whatever words it is refused. What can be put in another form is; for the rest the message
names the setting.
"""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mop.backends.base import Scorer
from mop.backends.retry import CallError
from mop.errors import BackendError
from mop.prompts import simulation_prompt
from mop.types import Branch, GenerateRequest, Generation, Prompt, Record

LIKELY_TAUS = (0.75, 1.25)
"""Temperatures that a fit may find, as far as it is known before."""

_PERSONA = "You like short answers."
_EXAMPLE = Record(key="", context="Write some random colours.", response="green, amber, dark red")
_QUESTION = "Write some random words."
_SAMPLED = (7, 7, 8, 9)  # seeds of draws that tell whether it samples, and whether equal seeds give equal texts
_TOKEN_FIELDS = ("max_tokens", "max_completion_tokens")
_TURNS = ("system", "exemplar")
_REFUSED = re.compile(r"(?:http|error)-(?:400|405|409|413|415|422|500|501)")


@dataclass(frozen=True, slots=True)
class Form:
    """How requests are put to one model."""

    token_field: str = "max_tokens"
    """Name of the length limit; newer hosted models know no other than max_completion_tokens."""
    is_folded: bool = False
    """Whether the system turn goes before the first user turn, for models without one."""
    without: frozenset[str] = frozenset()
    """Parts left out, to see which are refused; none once the form is found."""


Ask = Callable[[GenerateRequest, int, Form], Awaitable[Generation]]
"""From a request, the most tokens that it may bring, and its form to the draw."""


def likely_taus(scorer: Scorer, factor: float = 1.0) -> set[float]:
    """Temperatures at which draws may come that a fit by ``scorer`` leads to."""
    return {factor * tau for tau in (LIKELY_TAUS if len(scorer.betas) > 1 else (1.0,))}


def rehearsed(form: Form) -> Prompt:
    """The prompt of a trial: a task, a persona and an exemplar, as in a run, but for what the form leaves out."""
    is_whole = "system" not in form.without
    return simulation_prompt(
        _QUESTION,
        persona=_PERSONA if is_whole else None,
        task="a few words" if is_whole else "",
        exemplars=() if "exemplar" in form.without else (_EXAMPLE,),
    )


async def find_form(
    ask: Ask, tau: float, *, fields: Sequence[str], added: Mapping[str, Any], is_chat: bool, where: str
) -> Form:
    """Return the form in which a server takes what a run will ask.

    Parameters
    ----------
    ask : callable
    tau : float
        A temperature of the run, if possible not 1.
    fields : sequence of str
        Names of the fields of a request that could be left out.
    added : mapping
        ``remote.fields``, which the user set.
    is_chat : bool
        Whether turns are sent, and not ids.
    where : str
        Its address, for messages.

    Raises
    ------
    BackendError
        If it refuses something that has no other form, with the setting that helps.
    CallError
        If the call fails for another reason.

    Notes
    -----
    If the whole request is refused, the barest is tried, and then its parts are put back one by one: what is refused
    again is the reason, in whatever words. A refused call costs nothing, a taken one at most two tokens.
    """
    trials = _Trials(ask, tau)
    if await trials.takes(Form(), is_whole=True):
        return Form()
    whole = trials.said
    renamed = Form(token_field=_TOKEN_FIELDS[1])
    if renamed.token_field in whole and await trials.takes(renamed):
        return renamed
    parts = [*(_TURNS if is_chat else ()), *fields]
    for token_field in _TOKEN_FIELDS:
        form = Form(token_field=token_field, without=frozenset(parts))
        if await trials.takes(form):
            break
    else:
        raise BackendError(f"{where} refuses even a plain request, so no setting of remote.fields helps: {whole}")
    refused = []
    for part in parts:
        fuller = replace(form, without=form.without - {part})
        if await trials.takes(fuller):
            form = fuller
        elif part == "system" and await trials.takes(replace(fuller, is_folded=True)):
            form = replace(fuller, is_folded=True)
        else:
            refused.append(f"{_remedy(part, tau, added)}; it says: {trials.said}")
    if refused:
        raise BackendError(f"{where} does not take what the run would ask: {'; '.join(refused)}")
    return form


class _Trials:
    """Whether requests are taken, and what was said to the last one that was not."""

    def __init__(self, ask: Ask, tau: float) -> None:
        self._ask, self._tau = ask, tau
        self.said = ""

    async def takes(self, form: Form, *, is_whole: bool = False) -> bool:
        try:
            await self._ask(GenerateRequest((Branch(rehearsed(form), self._tau),), 7), 2, form)
        except CallError as error:
            if is_refusal(error):
                self.said = str(error)
                return False
            if is_whole or error.kind != "item":  # a model that declines or thinks has taken the request
                raise
        return True


def is_refusal(error: CallError) -> bool:
    """Whether a server refused the form of a request, rather than this item, this key or this moment."""
    return _REFUSED.fullmatch(error.code) is not None


async def check_temperature(ask: Ask, tau: float, form: Form, where: str) -> None:
    """Ask for a further temperature of the run.

    Raises
    ------
    BackendError
        If it is refused, with the setting that helps.
    """
    trials = _Trials(ask, tau)
    if not await trials.takes(form, is_whole=True):
        raise BackendError(
            f"{where} does not take what the run would ask: {_remedy('temperature', tau, {})}; it says: {trials.said}"
        )


def _remedy(part: str, tau: float, added: Mapping[str, Any]) -> str:
    if part == "temperature" and "temperature" not in added:
        return (
            f"temperature {tau:g}, and the mixture draws at temperatures of its own; set remote.fields.temperature = "
            '"fixed" to draw at the server\'s own all the same (the run then says so), or use another model'
        )
    if part == "exemplar":
        return (
            'earlier turns of user and assistant, which show the exemplars; use dialect = "openai-completions" with '
            "the model's own tokenizer, or another model"
        )
    if part == "system":
        return "a system turn, neither as such nor before the first user turn; use another model"
    if part in added:
        return f"the field {part} = {json.dumps(added[part])} of remote.fields; leave it out there"
    return f"the field {part}; set remote.fields.{part} = false to leave it out"


async def check_sampling(ask: Ask, form: Form, where: str) -> bool:
    """Refuse a server that does not draw at random; return whether equal seeds give equal texts.

    Raises
    ------
    BackendError
        If all draws are empty, or all are one text.
    """
    prompt = simulation_prompt(_QUESTION)
    texts = [(await ask(GenerateRequest((Branch(prompt, 1.0),), seed), 24, form)).text for seed in _SAMPLED]
    if not any(texts):
        raise BackendError(
            f"{where} writes nothing: {len(texts)} draws of at most 24 tokens are empty; see what the model answers to "
            f"{_QUESTION!r}, and use a chat model, or the tokenizer that is its own; a model that thinks out of sight "
            'is kept from it by remote.fields.reasoning_effort = "none", where the server knows that'
        )
    if len(set(texts)) == 1:
        raise BackendError(
            f"{where} does not sample: {len(texts)} draws of 24 tokens at temperature 1 with 3 seeds are one and the "
            "same text; a population needs a server that draws at random, so switch sampling on in the server's own "
            "settings"
        )
    return texts[0] == texts[1]
