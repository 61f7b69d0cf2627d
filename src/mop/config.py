"""Settings: one frozen dataclass per stage, TOML in, JSON out; unknown keys and wrong values are errors.

Precedence: the defaults below < preset < file < ``--set section.key=value``.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import inspect
import json
import logging
import math
import re
import tomllib
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from mop.errors import ConfigError
from mop.own_parts import is_own
from mop.redact import check_variable

SHOWN = 200
"""Letters of a value that a message shows."""

SPLITS = ("exemplars", "train", "valid", "test", "golden")
"""What the records are divided into."""

MIN_TEXTS = 4
"""Texts of a method, and golden ones, that an evaluation needs: fewer have subsamples without a covariance."""


MANY = 10**8
"""No count of a setting is above this: beyond it a number is a slip, and an array of it would not fit."""


class UpTo(int):
    """A number that nobody insists on: it falls to what the data allow. In settings it is written ``up to N``."""

    def __str__(self) -> str:
        return f"up to {int(self)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a number must be, as part of a setting's type; and what to do, for the message."""

    least: float = -math.inf
    above: float = -math.inf
    most: float = math.inf
    hint: str = ""

    def __str__(self) -> str:
        bounds = {"above": self.above, "at least": self.least, "at most": self.most}
        return " and ".join(f"{word} {bound:g}" for word, bound in bounds.items() if abs(bound) < MANY)


Positive = Annotated[int, Limits(least=1, most=MANY)]
Count = Annotated[int, Limits(least=0, most=MANY)]
AtLeast2 = Annotated[int, Limits(least=2, most=MANY)]
Texts = Annotated[int, Limits(least=MIN_TEXTS, most=MANY, hint="an evaluation needs as many texts")]
Seeds = Annotated[int, Limits(least=1, most=1000)]
PositiveReal = Annotated[float, Limits(above=0)]
Amount = Annotated[float | None, Limits(least=0, hint="leave it out for none")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """Settings that are checked when they are made: numbers against `Limits`, words against a `Literal`.

    Raises
    ------
    ConfigError
        Its message begins with the name of the setting; `config_from_dict` puts the section's before it.
    """

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self), include_extras=True).items():
            value = getattr(self, name)
            if typing.get_origin(hint) is Literal:
                _one_of(name, value, typing.get_args(hint))
            elif typing.get_origin(hint) is Annotated and value is not None:
                limits = hint.__metadata__[0]
                if not (limits.least <= value <= limits.most and value > limits.above and math.isfinite(value)):
                    wanted = f"at most {MANY}" if value > limits.most == MANY else limits
                    wanted = wanted if math.isfinite(value) else "a finite number"
                    hint = f"; {limits.hint}" if limits.hint else ""
                    raise ConfigError(f"{name} must be {wanted}, got {_short(value)}{hint}")


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig(Section):
    """Which records, and how they are divided."""

    source: str = ""
    """A file (CSV, TSV, JSONL, Parquet; .gz too), a folder with one file per split (exemplars, train, test, golden;
    valid is taken from train unless it has one too), `rotten-tomatoes`, or hf:ORG/NAME."""
    context: str = "context"
    """Column of the context, or a template such as "Film: {film}. Verdict: {verdict}."."""
    response: str = "response"
    """Column of the text that a person wrote."""
    label: str | None = None
    """Column of a class, if any."""
    key: str | None = None
    """Column that names each record; none: a name is made from the content."""
    weight: str | None = None
    """Column of survey weights, if any."""
    group: str | None = None
    """Column of what must not be split apart (a film, a respondent), if any."""
    attributes: tuple[str, ...] = ()
    """Further columns, kept with each record as text and written beside its responses: ["age", "region"]."""
    task: str = ""
    """One line for the language model: what a response is ("a one-sentence film review")."""
    duplicates: Literal["auto", "drop", "keep"] = "auto"
    """drop, or keep: a row with the context, response and group of an earlier one. Keep the equal answers of a
    survey. auto: keep where data.key or data.weight is named, else drop."""
    too_long: Literal["drop", "cut"] = "drop"
    """drop, or cut: a text that the model's window does not hold with the longest exemplars and personas beside it."""
    encoding: str = "auto"
    """Of a file of text: found out from the whole file, or a name such as cp1252, utf-16 or shift_jis."""
    delimiter: str = "auto"
    """Between the cells of a CSV: found out from the whole file, or one character, or tab."""
    decimal: Literal["auto", ".", ","] = "auto"
    """Mark of the decimals of weights: found out from the whole column, or "." or ","."""
    max_lost: Annotated[float, Limits(least=0, most=1)] = 0.05
    """Share of the rows that may be left out before the run stops; further header rows and blank rows do not count."""
    strict: bool = False
    """Stop at the first bad row instead of leaving it out and counting it."""
    exemplars: AtLeast2 = UpTo(300)
    """N: records that prompts may show; personas are found in them too. Here and below a number is kept to, and
    "up to 300" falls in proportion where there are fewer records."""
    train: AtLeast2 = UpTo(200)
    """Records that weights and the temperature are fitted on."""
    valid: AtLeast2 = UpTo(80)
    """Records that the same components are scored for: they decide when the paper's recipe stops."""
    test: Texts = UpTo(400)
    """Held-out records: their contexts are simulated, their real responses are the floor."""
    golden: Texts = UpTo(2000)
    """Records of the real population that the metrics compare with; never shown to a method."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig(Section):
    """The frozen language model and the frozen sentence encoder."""

    lm: str = "smollm2-135m"
    """smollm2-135m or gemma3-270m, hf:ORG/NAME, a folder, openai:MODEL@URL, fake, or module:attribute. It writes the
    responses."""
    scorer: str = ""
    """Model whose likelihoods weights and temperature are fitted to, if not lm: a small one, where lm is too large or
    cannot score. Empty: lm itself."""
    encoder: str = "minilm"
    """minilm, mpnet, hf:ORG/NAME, a folder, fake, or module:attribute (docs/plug.md)."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ... for language model and encoder."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """auto, float32, bfloat16 or float16."""
    memory_gib: Annotated[float | None, Limits(above=0, hint="leave it out for a third of what is free")] = None
    """GiB that batches and shared prefixes may take, besides the weights. Left out: a third of what is free."""

    @property
    def torch_device(self) -> str | None:
        """As torch names it; None: to be chosen."""
        return None if self.device == "auto" else self.device

    @property
    def torch_dtype(self) -> str | None:
        """Of the language model, as torch names it; None: to be chosen."""
        return None if self.dtype == "auto" else self.dtype


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings(Section):
    """The user's prices and limits.

    Raises
    ------
    ConfigError
        If a number is negative, or if a cost ceiling comes without prices.
    """

    price_in: Amount = None
    """Money per million prompt tokens, in whatever currency you think in."""
    price_out: Amount = None
    """Money per million generated tokens."""
    max_cost: Amount = None
    """Stop, keeping what is done, before all calls of the run together cost more money than this."""
    max_lm_tokens: Annotated[int | None, Limits(least=0, hint="leave it out for none")] = None
    """Stop, keeping what is done, before all calls of the run together use more tokens (prompt and generated)."""

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if self.max_cost is not None and (self.price_in is None or self.price_out is None):
            raise ConfigError(
                f"max_cost = {self.max_cost} needs prices, got price_in = {self.price_in} and "
                f"price_out = {self.price_out}; give both, in money per million tokens, from your "
                "provider's price list"
            )

    def cost(self, tokens_in: float, tokens_out: float) -> float:
        """Return the money for so many tokens; 0 without prices."""
        return (tokens_in * (self.price_in or 0.0) + tokens_out * (self.price_out or 0.0)) / 1e6

    @property
    def has_price(self) -> bool:
        """Whether money is counted."""
        return self.price_in is not None or self.price_out is not None

    def allow(self, tokens: float, cost: float) -> bool:
        """Whether all calls of the run together may use so much."""
        return (self.max_lm_tokens is None or tokens <= self.max_lm_tokens) and (
            self.max_cost is None or cost <= self.max_cost
        )


SAMPLING = (
    "temperature", "top_p", "seed", "top_k", "min_p", "typical_p", "min_tokens",
    "repeat_penalty", "repetition_penalty", "presence_penalty", "frequency_penalty",
)  # fmt: skip
"""Fields of a request that say how is drawn; some servers refuse some of them."""

_NOT_YOURS = {
    "is what is asked": ("model", "messages", "prompt", "input_ids"),
    "would bring more than the one text that is read and counted": ("n", "best_of", "stream", "stream_options"),
    "is what the ceilings are kept by; set simulate.max_tokens": ("max_tokens", "max_completion_tokens"),
    "says where a text ends": ("stop", "stop_token_ids"),
    "is how scores are asked for": ("echo", "logprobs", "top_logprobs", "prompt_logprobs", "return_token_ids",
                                    "add_special_tokens", "cache_salt", "sampling_params"),
    "would let the model do other things than write": ("tools", "tool_choice", "functions"),
    "is a word of a client library; write what it holds as fields of their own": ("extra_body",),
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings(Ceilings):
    """How to use a server."""

    api_key_env: str | None = None
    """Name of the environment variable that holds the key; none for a server without keys."""
    allow_remote_data: bool = False
    """Whether records may be sent to an address that is not this machine's own."""
    dialect: Literal["auto", "openai-chat", "openai-completions", "vllm", "sglang", "echo"] = "auto"
    """auto (ask the server), openai-chat, openai-completions, vllm, sglang, or echo."""
    tokenizer: str | None = None
    """Whose tokenizer the served model has: an embedded name, hf:ORG/NAME, a folder, or fake; needed to score and to
    send ids."""
    revision: str = ""
    """Which weights are served, in your words; part of the identity of every stored score and draw."""
    max_concurrency: Annotated[int, Limits(least=1, most=4096, hint="try 64")] = 64
    """Calls in flight per address at the most; a good number below it is found."""
    deadline_s: Annotated[float, Limits(above=0, hint="try 120")] = 120.0
    """Seconds for one call, from connecting to the last byte."""
    max_failed_share: Annotated[float, Limits(least=0, most=1, hint="try 0.01")] = 0.0
    """Share of the draws that may fail for good (refused, filtered) without stopping the run; their rows say so."""
    fields: Mapping[str, Any] = field(default_factory=dict)
    """Fields of each request, as a table: seed = false or top_p = false leaves out one that the server refuses,
    temperature = "fixed" draws at the server's own, and any other name is the vendor's own, sent as it stands
    (reasoning_effort = "none")."""

    def __post_init__(self) -> None:
        Ceilings.__post_init__(self)
        for name, value in self.fields.items():
            _check_field(name, value)
        if self.api_key_env is not None:
            check_variable(self.api_key_env)


def _check_field(name: str, value: Any) -> None:
    """Refuse a field of a request that would break accounting or safety, or whose value cannot be meant."""
    for reason, names in _NOT_YOURS.items():
        if name in names:
            raise ConfigError(f"fields.{name} {reason}; leave it out of fields")
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"fields.{name} = {value!r} cannot be sent as JSON ({error}); give another value") from None
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in SAMPLING and not (is_number or value is False or (name, value) == ("temperature", "fixed")):
        also = ', "fixed" (the same)' if name == "temperature" else ""
        raise ConfigError(f"fields.{name} must be false (to leave it out){also} or a number, got {value!r}")


MAX_PERSONAS = 24
"""K of ``n_personas = "auto"`` at the most; chosen, not tuned."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PersonaConfig(Section):
    """Where the personas come from."""

    n_personas: int | str = UpTo(12)
    """K, clusters of the exemplars ("up to 12": no more than there are different texts); auto: one for every five
    different texts, up to 24; weights say what each is worth."""
    writer: Literal["keywords", "llm", "file", "record", "random"] = "keywords"
    """keywords (from the cluster's words), llm (the language model summarises), file; for ablations
    record (the record nearest the centre is the persona) and random (a random record is)."""
    path: str | None = None
    """Your personas, for writer = "file": JSONL, one a line in a .txt, or agents of other tools (CSV, JSON)."""

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if isinstance(self.n_personas, int) and self.n_personas < 1:
            raise ConfigError(f"n_personas must be at least 1, got {self.n_personas}")
        if isinstance(self.n_personas, str) and self.n_personas != "auto":
            raise ConfigError(f"n_personas must be a whole number or auto, got {self.n_personas!r}")
        if (self.writer == "file") != (self.path is not None):
            raise ConfigError(
                f'path goes with personas.writer = "file", got writer {self.writer!r} '
                f"and path {self.path!r}; set both or neither"
            )

    def n_clusters(self, n_distinct: int) -> int:
        """K, or the number of candidates if K is to be found: at least five different texts for each."""
        if isinstance(self.n_personas, int):
            return min(self.n_personas, n_distinct) if isinstance(self.n_personas, UpTo) else self.n_personas
        return max(1, min(MAX_PERSONAS, n_distinct // 5))


@dataclass(frozen=True, slots=True, kw_only=True)
class FitConfig(Section):
    """How weights and the temperature are learned."""

    method: Literal["rounds", "paper"] = "rounds"
    """rounds (ours: EM) or paper (the paper's recipe: sum over the gates' top components)."""
    n_rounds: Positive = 3
    """Rounds of proposing, scoring and fitting at the most."""
    max_lm_tokens: Count = 0
    """Tokens of responses that may be scored, those found in the store included; 0: no limit."""
    components_per_record: Positive = 24
    """Components (persona, exemplar) newly scored for each training record in a round."""
    records_per_component: Positive = 16
    """Training records that share a component, and with it the computed prefix of the prompt."""
    valid_components: Positive = 32
    """Components newly scored for every validation record in a round."""
    n_folds: AtLeast2 = 4
    """Folds of the cross-validation that chooses how far weights depart from equal ones."""


RIVALS = ("zero-shot", "zerogen", "attrprompt", "progen", "picle-prompted", "picle")
"""Methods that mop has to beat."""
CONTROLS = ("few-shot", "few-shot-3", "persona-only", "mop-uniform")
"""Methods that share something with mop."""
METHODS = (*RIVALS, *CONTROLS)
"""Methods that can be drawn beside mop."""
FIXED_TAU = tuple(method for method in METHODS if method != "mop-uniform")
"""Methods without temperatures of their own; ``NAME@TAU`` draws one at another than 1."""


def method_and_tau(name: str) -> tuple[str, float | None]:
    """Split ``zerogen@0.7`` into the method and the temperature that it is to be drawn at, None for none.

    Raises
    ------
    ConfigError
        For an unknown method, a temperature that is no positive number, or one for a method that has its own.

    Examples
    --------
    >>> method_and_tau("few-shot@0.75")
    ('few-shot', 0.75)
    """
    method, at, text = name.partition("@")
    if method not in ("mop", *METHODS) and not is_own(method):
        near = difflib.get_close_matches(method, METHODS, n=1, cutoff=0.0)[0]
        raise ConfigError(f"unknown method {name!r}; known: mop, {', '.join(METHODS)}; did you mean {near!r}?")
    if not at:
        return method, None
    if method not in FIXED_TAU and not is_own(method):
        raise ConfigError(
            f"{method} has temperatures of its own, got {name!r}; set simulate.tau_factor, which multiplies them"
        )
    try:
        tau = float(text)
    except ValueError:
        tau = math.nan
    if not 0 < tau < math.inf:
        raise ConfigError(
            f"a method at a temperature is written NAME@TAU with a TAU above 0, got {name!r}; e.g. {method}@0.75"
        )
    if text != f"{tau:g}":  # one spelling, for it names rows and files
        raise ConfigError(f"got {name!r}; write it {method}@{tau:g}")
    return method, tau


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulateConfig(Section):
    """What is drawn."""

    n_responses: Texts = UpTo(400)
    """Responses per method, one for each of the first test contexts (at most data.test)."""
    max_tokens: Annotated[int, Limits(least=1, most=100_000)] = 96
    """A response that is still going on there is cut; above 5 % cut ones a warning says so."""
    min_tokens: Count = 0
    """The end-of-turn token is not drawn before so many tokens."""
    top_p: Annotated[float, Limits(above=0, most=1)] = 1.0
    """Nucleus truncation; below 1 the sampler is no longer the fitted model."""
    top_k: Count = 0
    """Truncation to the k likeliest tokens; above 0 the sampler is no longer the fitted model."""
    exemplars_per_prompt: Positive = 1
    """Exemplars in an agent's prompt; the fit scored one at a time."""
    exemplars_from: Literal["gates", "similar"] = "gates"
    """Where those after the first come from: gates (drawn one after another from the persona's weights) or similar
    (those most like the first)."""
    agents_per_response: Positive = 1
    """Agents that write a response together: their next-token distributions are averaged. Above 1 needs a local
    model."""
    controls: tuple[str, ...] = ("zero-shot", "mop-uniform")
    """Methods drawn beside mop for comparison: zero-shot, few-shot (one random exemplar), mop-uniform, ...; all
    in docs/baselines.md. Those without temperatures of their own draw at 1, or at TAU if named NAME@TAU
    (zerogen@0.75)."""
    tau_factor: PositiveReal = 1.0
    """Multiplies the mixture's temperatures; other than 1 the sampler is no longer the fitted model. Small models write
    more sense at 0.75 (docs/log.md)."""
    same_label: bool = False
    """Draw from the mixture given that the exemplar has the record's label, if at least two have it; the fitted model
    draws from all."""
    tune: bool = True
    """After the fit, pilot draws choose tau_factor, exemplars_per_prompt, exemplars_from and same_label as far as they
    are not given. Off: as they say, by default the fitted model as in the paper."""

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        if self.exemplars_from == "similar" and self.exemplars_per_prompt == 1:
            raise ConfigError(
                'exemplars_from = "similar" shows exemplars that are like the first, and exemplars_per_prompt is 1, '
                'so there are none; set exemplars_per_prompt to 2 or more, or exemplars_from to "gates"'
            )
        _are_methods("controls", self.controls)

    def departures(self) -> list[str]:
        """What makes the sampler another than the fitted model, a sentence each."""
        said = []
        if self.top_p < 1 or self.top_k > 0:
            said.append("Top-p or top-k is on: the sampler is not the fitted model.")
        if self.min_tokens > 0:
            said.append(
                f"No text ends before {self.min_tokens} tokens (simulate.min_tokens): the sampler is not the fitted "
                "model."
            )
        if self.tau_factor != 1:
            said.append(
                f"Temperatures of the mixture are multiplied by {self.tau_factor:g} (simulate.tau_factor): the "
                "sampler is not the fitted model."
            )
        if self.same_label:
            said.append(
                "Personas and exemplars are drawn given that the exemplar has the record's label, where at least two "
                "have it (simulate.same_label); the fitted model draws from all exemplars."
            )
        if self.agents_per_response > 1:
            said.append(
                f"The next-token distributions of {self.agents_per_response} agents are averaged in equal shares "
                "(simulate.agents_per_response); the fitted model draws one agent for a response."
            )
        if self.exemplars_per_prompt > 1:
            which = (
                f"the exemplar that was drawn and the {self.exemplars_per_prompt - 1} most like it"
                if self.exemplars_from == "similar"
                else f"{self.exemplars_per_prompt} exemplars drawn one after another under one persona"
            )
            said.append(
                f"A prompt shows {which} (simulate.exemplars_per_prompt); the fit scored one exemplar at a time."
            )
        return said


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluateConfig(Section):
    """How the figures are made."""

    n_seeds: Seeds = 5
    """k-means seeds of MAUVE."""
    n_bootstrap: Annotated[int, Limits(least=10, most=10_000)] = 200
    """Resamples behind each interval."""
    test_records: AtLeast2 = 80
    """Test records whose held-out likelihood is taken."""
    test_components: AtLeast2 = 48
    """Prompts scored for each of them under the mixture, and under each simpler model; all of them, and exactly, if
    there are no more. The others are imputed."""

    judge: str = ""
    """Model under which texts are judged to make sense, at best another one than lm (names as for lm). Empty: the
    model that scores."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CompareConfig(Section):
    """What is compared with what, for `mop compare`; and how the rival methods are run."""

    methods: tuple[str, ...] = (*RIVALS[:-1], *CONTROLS)
    """Rivals and controls beside mop; module:attribute is one of your own. Name picle yourself: it needs the package
    peft and a model on this machine."""
    ablations: tuple[str, ...] = ()
    """Versions of mop without something, or with something changed: no-exemplars, raw-records, k-5, tokens-4, ..."""
    n_responses: Texts = 400
    """Responses of each method, in equal shares of the labels."""
    n_ablation: int = 0
    """Responses of each ablation, at most n_responses; 0: as many as of the methods."""
    n_seeds: Seeds = 1
    """Times that each method draws, each with another seed."""
    n_seeds_best: int = 0
    """Times that mop and the best rivals draw, at least n_seeds; 0: as many as all others."""
    domain: Literal["plain", "films", "restaurants", "news"] = "plain"
    """What rivals are asked for: films, restaurants, news (by label), or plain (by the record's context)."""
    min_words: Positive = 10
    """ZeroGen and ProGen drop shorter texts."""
    encoders: tuple[str, ...] = ()
    """Encoders of the metrics, the headline one first; none: model.encoder."""
    encoder_dtype: Literal["float32", "bfloat16"] = "float32"
    """float32, or bfloat16: several times faster where the processor has instructions for it, cosines off by up to
    0.004."""
    classifier: str = "logistic"
    """Downstream classifier: logistic (on frozen embeddings), or hf:ORG/NAME or a folder, which is fine-tuned."""

    def __post_init__(self) -> None:
        Section.__post_init__(self)
        _are_methods("methods", self.methods)
        if self.n_ablation and not MIN_TEXTS <= self.n_ablation <= self.n_responses:
            raise ConfigError(
                f"n_ablation must be 0 (as many as compare.n_responses), or {MIN_TEXTS} to {self.n_responses} "
                f"(compare.n_responses), got {self.n_ablation}"
            )
        if 0 < self.n_seeds_best < self.n_seeds:
            raise ConfigError(f"n_seeds_best must be at least {self.n_seeds} (n_seeds), got {self.n_seeds_best}")


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides what a run computes."""

    seed: int = 0
    """Of every draw."""
    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    remote: RemoteSettings = field(default_factory=RemoteSettings)
    remote_scorer: RemoteSettings = field(default_factory=RemoteSettings)
    personas: PersonaConfig = field(default_factory=PersonaConfig)
    fit: FitConfig = field(default_factory=FitConfig)
    simulate: SimulateConfig = field(default_factory=SimulateConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    compare: CompareConfig = field(default_factory=CompareConfig)

    def __post_init__(self) -> None:
        if abs(self.seed) >= 2**63:
            raise ConfigError(f"seed must be a whole number of at most 18 digits, got {_short(self.seed)}")
        if self.simulate.n_responses > self.data.test and not isinstance(self.simulate.n_responses, UpTo):
            raise ConfigError(
                f"simulate.n_responses ({self.simulate.n_responses}) is above data.test "
                f"({self.data.test}): each response needs a test context; lower the one or raise the other"
            )


PRESETS: Mapping[str, Mapping[str, Any]] = {
    "demo": {
        "data": {
            "source": "rotten-tomatoes",
            "context": "Film: {film}. Verdict: {verdict}.",
            "response": "text",
            "label": "verdict",
            "key": "key",
            "group": "film_id",
            "task": "a film critic's verdict on the given film in one sentence, as printed in a newspaper",
            "exemplars": 300, "train": 48, "valid": 24, "test": 300, "golden": 2000,
        },
        # Small, so that two slow cores need minutes; the defaults suit a real study better.
        "fit": {"n_rounds": 2, "components_per_record": 5, "records_per_component": 12,
                "valid_components": 5},
        "simulate": {"n_responses": "up to 300"},
        "evaluate": {"test_records": 60, "test_components": 16, "n_bootstrap": 100},
    },
    "paper": {
        "data": {"exemplars": "up to 1000"},
        "model": {"encoder": "mpnet"},
        "personas": {"n_personas": "up to 100", "writer": "llm"},
        "fit": {"method": "paper"},
        "simulate": {"tune": False},
    },
    "texts": {
        "data": {"exemplars": "up to 1000", "test": "up to 1500", "golden": "up to 2500"},
        "personas": {"n_personas": "up to 20"},
        "simulate": {"n_responses": "up to 1000", "exemplars_from": "similar", "exemplars_per_prompt": 3,
                     "tau_factor": 0.75, "same_label": True},
    },
    "quick": {
        "data": {"exemplars": "up to 24", "train": "up to 16", "valid": "up to 8", "test": "up to 24",
                 "golden": "up to 48"},
        "model": {"lm": "fake", "encoder": "fake"},
        "personas": {"n_personas": "up to 3"},
        "fit": {"n_rounds": 2, "components_per_record": 8, "records_per_component": 4, "valid_components": 12},
        "simulate": {"n_responses": "up to 24", "max_tokens": 24},
        "evaluate": {"n_seeds": 2, "n_bootstrap": 20, "test_components": 12, "test_records": 12},
        "compare": {"n_responses": 24, "min_words": 1},
    },
}  # fmt: skip
"""Named starting points. ``demo``: film critics; ``paper``: the paper's recipe (its sizes; smaller models are
yours to name); ``texts``: for texts of your own, best with labels, as the tables of docs/results.md draw
them; ``quick``: the built-in toy model, for trying a configuration in seconds."""


def resolve_config(
    *, file: Path | None = None, preset: str | None = None, assignments: Sequence[str] = ()
) -> RunConfig:
    """Settings from defaults, preset, file and ``section.key=value`` assignments, later ones winning.

    Raises
    ------
    ConfigError
        For an unknown preset, section or key (the nearest known one is named), a value of
        the wrong type or out of range, a file that is missing or no TOML.
    """
    merged: dict[str, Any] = {}
    if preset is not None:
        if preset not in PRESETS:
            raise ConfigError(f"unknown preset {preset!r}; known presets: {', '.join(PRESETS)}")
        _merge(merged, PRESETS[preset])
    if file is not None:
        _merge(merged, _read_file(file))
    _merge(merged, merge_assignments(assignments))
    brought = PRESETS[preset].get("data", {}).get("source") if preset is not None else None
    config = config_from_dict(merged)
    if brought not in (None, config.data.source):
        raise ConfigError(
            f"the preset {preset} brings its own records, {brought}, with their columns and sizes, got data.source = "
            f"{_short(config.data.source)}; leave the preset out, or take --preset texts for texts of yours"
        )
    return config


def merge_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """``section.key=value`` texts as nested values, later ones winning.

    Examples
    --------
    >>> merge_assignments(["fit.n_rounds=3", "model.lm=fake"])
    {'fit': {'n_rounds': 3}, 'model': {'lm': 'fake'}}
    """
    merged: dict[str, Any] = {}
    for assignment in assignments:
        _merge(merged, _parse_assignment(assignment))
    return _kept(merged)


WAY = ("tau_factor", "exemplars_per_prompt", "exemplars_from", "same_label")
"""Settings of ``simulate`` that pilot draws may choose: those at their defaults."""


def _kept(values: dict[str, Any]) -> dict[str, Any]:
    """Settings of a person. Whoever writes a default of `WAY` wants it, so nothing is chosen unless they say so too."""
    default, given = SimulateConfig(), values.get("simulate")
    if isinstance(given, dict) and any(name in given and given[name] == getattr(default, name) for name in WAY):
        given.setdefault("tune", False)
    return values


def config_from_dict(values: Mapping[str, Any]) -> RunConfig:
    """Build and check a configuration from nested plain values."""
    return typing.cast(RunConfig, _build(RunConfig, values, ""))


def config_to_dict(config: RunConfig) -> dict[str, Any]:
    """Nested plain values, ready for JSON."""
    values = typing.cast(dict[str, Any], json.loads(json.dumps(dataclasses.asdict(config))))
    for section, key in (name.split(".") for name in FOLLOWS):
        if isinstance(value := getattr(getattr(config, section), key), UpTo):
            values[section][key] = str(value)
    return values


def describe(section: type) -> dict[str, str]:
    """Name and meaning of every setting of a section, read from its source."""
    meaning: dict[str, str] = {}
    for part in reversed(section.__mro__[:-1]):  # without `object`
        tree = ast.parse(inspect.getsource(part)).body[0]
        assert isinstance(tree, ast.ClassDef)
        for node, after in zip(tree.body, tree.body[1:], strict=False):
            match node, after:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    meaning[name] = " ".join(text.split())
    return meaning


_DRAWING = (
    'write simulate.exemplars_per_prompt = 3 (it was n_agents = 3 with mix = "prompt"), the same with '
    'simulate.exemplars_from = "similar" (mix = "neighbours"), or simulate.agents_per_response = 3 (mix = "tokens")'
)

REMOVED: Mapping[str, str] = {
    "simulate.control_tau": "name the method with its temperature, as in zero-shot@0.75",
    "simulate.mix": _DRAWING,
    "simulate.n_agents": _DRAWING,
}
"""``section.name`` of earlier versions, and what to write instead: it follows "NAME is no longer a setting;"."""

IGNORED: Mapping[str, str] = {
    "compare.form": "rivals ask in the chat form",
    "compare.max_tries": "a text of a rival is drawn 8 times at the most",
    "compare.n_names": "ZeroGen and ProGen have 500 names made up",
    "compare.rounds": "ProGen has 5 rounds",
    "evaluate.reference_components": "simpler models have as many as evaluate.test_components",
    "fit.completion": "scores that are missing are imputed",
    "fit.coverage_records": "records that no component explains are no longer looked for",
    "fit.decays": "the fit chooses them",
    "fit.min_gain": "a round must gain 0.02 nats per record for another to follow; set fit.n_rounds",
    "fit.max_minutes": "limit the fit by fit.max_lm_tokens or fit.n_rounds",
    "fit.tau_spread": "the fit chooses it",
    **dict.fromkeys(
        [
            "fit.dim",
            "fit.learning_rate",
            "fit.max_steps",
            "fit.patience",
            "fit.top_m",
            "fit.batch_size",
            "fit.start_tau",
        ],
        'fit.method = "paper" has the paper\'s own',
    ),
    "personas.max_personas": 'n_personas = "auto" finds up to 24',
    "personas.n_keywords": "a persona names up to 8 words",
    "personas.n_sources": "a writer looks at the 10 records nearest the centre",
}
"""``section.name`` of earlier versions that can be left out, and what holds now; read with a warning."""

FOLLOWS = (*(f"data.{name}" for name in SPLITS), "personas.n_personas", "simulate.n_responses")
"""Settings that may be ``up to N``: then they follow the data."""

SECTIONS: Mapping[str, type] = {
    name: hint for name, hint in typing.get_type_hints(RunConfig).items() if hint is not int
}


def refuse_removed(name: str) -> None:
    """Refuse a setting of an earlier version, ``section.name``, and pass any other name.

    Raises
    ------
    ConfigError
        Says what to write instead.
    """
    if name in REMOVED:
        raise ConfigError(f"{name} is no longer a setting; {REMOVED[name]}")


def _build(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where or 'the configuration'} must be a table of settings, got {_short(values)}")
    hints = typing.get_type_hints(cls, include_extras=True)
    unknown = [key for key in values if key not in hints]
    for key in [key for key in unknown if f"{where}.{key}" in IGNORED]:
        name = f"{where}.{key}"
        logging.getLogger(__name__).warning("%s is no longer a setting and is ignored: %s", name, IGNORED[name])
        unknown.remove(key)
    if unknown:
        name = f"{where}.{unknown[0]}" if where else unknown[0]
        refuse_removed(name)
        near = difflib.get_close_matches(unknown[0], hints, n=1, cutoff=0.0)[0]
        if not where:  # a setting whose section was left out
            inside = [f"{part}.{unknown[0]}" for part, section in SECTIONS.items() if unknown[0] in describe(section)]
            near = inside[0] if inside else near
        raise ConfigError(
            f"unknown setting {name}; did you mean {f'{where}.{near}' if where else near}? "
            f"Known here: {', '.join(hints)}"
        )
    built = {}
    for key, hint in hints.items():
        if key not in values:
            continue
        name, value = f"{where}.{key}" if where else key, values[key]
        built[key] = (
            _build(typing.cast(type, hint), value, name)
            if dataclasses.is_dataclass(hint)
            else _coerce(hint, value, name)
        )
    try:
        return cls(**built)
    except ConfigError as error:
        raise ConfigError(f"{where}.{error}" if where else str(error)) from None


def _short(value: Any) -> str:
    """A value in a message; of a long one the beginning and the end."""
    try:
        text = value if isinstance(value, str) and len(value) > SHOWN else repr(value)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list of thousands of levels
        text = f"a {type(value).__name__} too long to show"
    return text if len(text) <= SHOWN else f"{text[: SHOWN // 2]}...{text[-SHOWN // 4 :]}"


def _coerce(hint: Any, value: Any, name: str) -> Any:
    if typing.get_origin(hint) is Annotated:
        hint = typing.get_args(hint)[0]
    elif typing.get_origin(hint) is Literal:
        hint = str
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if name in FOLLOWS and (up_to := re.fullmatch(r"up to ([0-9]{1,9})", str(value))):
        return UpTo(up_to[1])
    if type(None) in options and value in (None, "", "none"):  # TOML has no null
        return None
    for option in options:
        if option is float and isinstance(value, int | float) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise ConfigError(f"{name} must be a finite number, got {value}")
            return float(value)
        if option in (int, str, bool) and type(value) is option:
            return value
        if typing.get_origin(option) is Mapping and isinstance(value, Mapping):
            return dict(value)
        if typing.get_origin(option) is tuple and isinstance(value, list | tuple):
            item = typing.get_args(option)[0]
            return tuple(_coerce(item, v, f"{name}[{i}]") for i, v in enumerate(value))
    if any(typing.get_origin(option) is tuple for option in options):
        raise ConfigError(f'{name} must be a list, such as ["a", "b"], got {_short(value)}')
    wanted = " or ".join(getattr(o, "__name__", str(o)) for o in options).replace("NoneType", "nothing")
    wanted = wanted.replace("Mapping", "table, such as {seed = false},")
    raise ConfigError(f"{name} must be of type {wanted}, got {_short(value)} ({type(value).__name__})")


def _parse_assignment(text: str) -> dict[str, Any]:
    path, sign, raw = text.partition("=")
    keys = path.strip().split(".")
    if not sign or not all(keys) or len(keys) > 2 + ("fields" in keys[1:2]):
        raise ConfigError(f"--set takes section.key=value, got {_short(text)}; for example --set fit.n_rounds=3")
    try:
        value = tomllib.loads(f"value = {raw}")["value"]
    except (ValueError, RecursionError):
        value = raw.strip()  # a bare word is text: --set model.lm=fake
    for key in reversed(keys):
        value = {key: value}
    return typing.cast(dict[str, Any], value)


def _read_file(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8-sig")  # some editors begin a file with a mark
        # A .json is the config.json of another run.
        found = json.loads(text) if file.suffix == ".json" else _kept(tomllib.loads(text))
    except FileNotFoundError as error:
        raise ConfigError(f"no configuration file at {file}; give the path of a TOML file") from error
    except (ValueError, RecursionError) as error:
        kind = "JSON" if file.suffix == ".json" else "TOML"
        raise ConfigError(f"{file} is not valid {kind}: {_short(str(error))}; fix it and run again") from error
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}; give a readable TOML file") from error
    if not isinstance(found, dict):
        raise ConfigError(
            f"{file} holds a {type(found).__name__}; it must hold an object with sections, as in a run's config.json"
        )
    return found


def _merge(into: dict[str, Any], values: Mapping[str, Any]) -> None:
    for key, value in values.items():
        if isinstance(value, Mapping) and isinstance(into.get(key), dict):
            _merge(into[key], value)
        else:
            into[key] = dict(value) if isinstance(value, Mapping) else value


def _are_methods(name: str, given: Sequence[str]) -> None:
    for method in given:
        if not is_own(method.partition("@")[0]):
            _one_of(name, method.partition("@")[0], METHODS)
        try:
            method_and_tau(method)
        except ConfigError as error:
            raise ConfigError(f"{name}: {error}") from None


def _one_of(name: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        near = difflib.get_close_matches(str(value), known, n=1, cutoff=0.0)[0]
        raise ConfigError(f"{name} must be one of {', '.join(known)}, got {_short(value)}; did you mean {near!r}?")
