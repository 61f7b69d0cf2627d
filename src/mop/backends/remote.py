"""Any server that speaks an OpenAI-like protocol, as a Generator and, where it can score, as a Scorer.

`open_remote` turns ``openai:MODEL@URL`` into an object. What is sent and accepted is in
`mop.backends.dialects`, the calling in `mop.backends.link`, the distrust in `mop.backends.probe`.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import json
import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import urlsplit

import numpy as np

from mop.backends import dialects
from mop.backends.base import what_now
from mop.backends.curve import ONE
from mop.backends.dialects import Json, Meter, ScoreDialect
from mop.backends.link import Clock, Job, Link, is_loopback
from mop.backends.neutral import messages_of, neutraliser
from mop.backends.probe import N_SENTENCES, check_known, probe_again, probe_scorer, sentences
from mop.backends.recheck import LAST, Question, Rechecks
from mop.backends.rehearsal import Ask, Form, check_sampling, check_temperature, find_form
from mop.backends.retry import CallError, Endpoint, RetryPolicy
from mop.backends.spending import PILOT_ITEMS
from mop.backends.tokens import PromptEncoder, open_tokens
from mop.backends.toy import ToyEncoder
from mop.config import SAMPLING, RemoteSettings
from mop.errors import BackendError, ConfigError, PromptTooLongError, require
from mop.prompts import PROMPT_VERSION, fold_system, simulation_prompt
from mop.randomness import derive_seed
from mop.redact import Secret, withhold_quotes, without_password
from mop.types import Branch, Decoding, GenerateRequest, Generation, Prompt, Score, ScoreRequest

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger(__name__)

T = TypeVar("T")

_STOP_IDS = 512  # servers walk this list for every token
_NOT_FIELDS = frozenset(("model", "messages", "prompt", "stream", "max_tokens", "stop", "stop_token_ids",
                         "return_token_ids", "add_special_tokens", "cache_salt"))  # fmt: skip


def open_remote(
    name: str,
    settings: RemoteSettings | None = None,
    *,
    encoder: PromptEncoder | ToyEncoder | None = None,
    policy: RetryPolicy | None = None,
    clock: Clock | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    **fields: Any,
) -> RemoteGenerator:
    """Open a served model: a `RemoteModel` if it can score, else a `RemoteGenerator`.

    With ``dialect="auto"`` the server is asked what it is (one free GET); with a named dialect nothing is sent
    until the first draw or score.

    Parameters
    ----------
    name : str
        ``openai:MODEL@URL`` or ``openai:MODEL@URL,URL2``: several addresses of one model share the load.
    settings : RemoteSettings, optional
        How to use it.
    encoder : PromptEncoder or ToyEncoder, optional
        Instead of the one made from ``settings.tokenizer``.
    policy, clock, transport
        Seams for tests: how patient to be, the time, and what stands for the network.
    **fields
        Fields of `RemoteSettings`, instead of or over those of ``settings``.

    Raises
    ------
    ConfigError
        If name, settings or addresses cannot be used.
    MissingDependencyError
        If httpx is not installed.
    BackendError
        If no server answers (``dialect="auto"`` only).

    Notes
    -----
    Scores are given at τ = 1 only: no server returns the logits that a curve over τ needs, and the
    common ones ignore the temperature when they score a prompt.
    """
    require("httpx", extra="remote")
    known = [field.name for field in dataclasses.fields(RemoteSettings)]
    if unknown := sorted(set(fields) - set(known)):
        raise ConfigError(f"a server has no setting {', '.join(unknown)}; its settings are {', '.join(known)}")
    settings = dataclasses.replace(settings or RemoteSettings(), **fields)
    model, urls = parse_name(name)
    for url in urls:
        check_url(url, allow_remote_data=settings.allow_remote_data)
    key = Secret.from_env(settings.api_key_env) if settings.api_key_env else None
    for url in urls:
        if key is not None and urlsplit(url).scheme == "http" and not is_loopback(url):
            raise ConfigError(f"a key would travel unencrypted to {url}; use https, or leave api_key_env out")
    if encoder is None and settings.tokenizer is not None:
        encoder = ToyEncoder() if settings.tokenizer == "fake" else open_tokens(settings.tokenizer)
    control = encoder.control_strings if encoder is not None else ()
    link = Link(
        name=name, model=model, urls=urls, settings=settings, key=key, policy=policy or RetryPolicy(),
        clock=clock or Clock(), transport=transport,
    )  # fmt: skip
    dialect = settings.dialect
    if dialect == "auto":
        kind = link.detect()
        dialect = kind if kind in ("vllm", "sglang") and encoder is not None else "openai-chat"
    if dialect == "openai-chat":
        return RemoteGenerator(link, None, control)
    if encoder is None:
        raise ConfigError(
            f"dialect {dialect!r} sends token ids and needs the model's own tokenizer, got none; "
            "set tokenizer to its folder or Hugging Face name, or use dialect 'openai-chat'"
        )
    if dialect == "openai-completions":
        return RemoteGenerator(link, encoder, control)
    return RemoteModel(link, encoder, control, dialect)


def rehearse(writer: object, scorers: Iterable[object], temperatures: Iterable[float], decoding: Decoding) -> None:
    """Ask those of some models that are served what they will be asked, before anything else is paid for.

    Raises
    ------
    BackendError
        If one does not take it; the message names the setting that helps.
    """
    if isinstance(writer, RemoteGenerator):
        writer.rehearse(temperatures, decoding)
    for scorer in scorers:
        if isinstance(scorer, RemoteModel):
            scorer.rehearse_scores()


def parse_name(name: str) -> tuple[str, tuple[str, ...]]:
    """Split ``openai:MODEL@URL,URL2`` into model and addresses.

    Raises
    ------
    ConfigError
        If the form is another one.

    Examples
    --------
    >>> parse_name("openai:org/model@http://127.0.0.1:8000/v1,http://127.0.0.1:8001")
    ('org/model', ('http://127.0.0.1:8000/v1', 'http://127.0.0.1:8001/v1'))
    """
    body = name.removeprefix("openai:")
    at = max(body.rfind("@http://"), body.rfind("@https://"))
    if body == name or at <= 0:
        raise ConfigError(
            f"{withhold_quotes(without_password(name), ())!r} does not name a served model; the form is "
            "openai:MODEL@URL, for example openai:qwen3-8b@http://127.0.0.1:8000"
        )
    urls = []
    for part in body[at + 1 :].split(","):
        url = part.strip().rstrip("/")
        # A bare host means its /v1; a longer path is taken as it stands, as providers have them.
        urls.append(url if urlsplit(url).path else f"{url}/v1")
    if len(set(urls)) < len(urls):
        raise ConfigError(f"an address occurs twice in {without_password(', '.join(urls))}; name each server once")
    return body[:at], tuple(urls)


def check_url(url: str, *, allow_remote_data: bool) -> None:
    """Refuse an address that is malformed, unsafe, or foreign without leave.

    Raises
    ------
    ConfigError
        With the reason.

    Notes
    -----
    Plain http is accepted on this machine and on private network addresses only; link-local
    addresses, where cloud machines keep their credentials, never.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        parts, host = urlsplit(""), ""
    if parts.scheme not in ("http", "https") or not host or any(c.isspace() or not c.isprintable() for c in url):
        raise ConfigError("a server address is not a URL like http://127.0.0.1:8000; correct it")
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        # Not shown: what stands there may be a password.
        raise ConfigError(
            f"the address of {host} holds a user name, a password, a query or a fragment; give scheme, host, port and "
            "path only, and a key through api_key_env"
        )
    if is_loopback(url):
        return
    address = _address(host)
    if address is not None and (
        address.is_link_local or address.is_unspecified or address.is_multicast or address.is_reserved
    ):
        raise ConfigError(f"{host} is a link-local or reserved address; give the server's own address")
    # A name without a dot belongs to the local network.
    is_private = address.is_private if address is not None else "." not in host
    if not allow_remote_data:
        raise ConfigError(
            f"records would leave this machine: {host} is not a loopback address and allow_remote_data is not set; set "
            "allow_remote_data = true if the people behind the records allow it, or serve the model here"
        )
    if parts.scheme == "http" and not is_private:
        raise ConfigError(f"{host} would be called without encryption; use https for an address outside your network")


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Read an IP address; None for a name. Other spellings of numbers are no names but disguises."""
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        last = host.rstrip(".").rpartition(".")[2].lower()
        if last.isdigit() or last.startswith("0x"):
            raise ConfigError(f"{host} is not a proper IP address; write it as four numbers from 0 to 255") from None
        return None


class RemoteGenerator:
    """A served model that can write; a `mop.backends.base.Generator`, from `open_remote`.

    It sends token ids, or chat messages if it has no encoder; in these, data has its control strings replaced.

    Attributes
    ----------
    ledger : Ledger
        Calls, tokens and money so far.
    findings : Findings
        What is known about the server.
    failures : dict of int to Failure
        Items of the latest `generate` or `score` that failed, by index; count them per persona.
    """

    def __init__(self, link: Link, encoder: PromptEncoder | ToyEncoder | None, control: Iterable[str]) -> None:
        self.name, self.ledger, self.findings, self.failures = link.name, link.ledger, link.findings, link.failures
        self._link = link
        self._encoder = encoder
        self._control = tuple(sorted(set(control)))
        self._neutral = neutraliser(self._control)
        self._touched: set[int] = set()
        self._form = Form()
        self._asked: dict[str, tuple[float, float]] = {}
        """Address to the lowest and the highest temperature that it was asked for."""

    @property
    def generate_identity(self) -> str:
        """Model, revision and the way prompts are sent; not the addresses, for the model is what counts."""
        return self._identity("remote-generate/1")

    def _identity(self, kind: str, **more: object) -> str:
        parts: dict[str, object] = {
            "model": self._link.model,
            "revision": self._link.settings.revision,
            "prompts": PROMPT_VERSION,
            "encoder": self._encoder.fingerprint if self._encoder else "chat",
            **more,
        }
        if self._encoder is None:
            parts["control"] = self._control
        if self._link.settings.fields:
            parts["fields"] = dict(self._link.settings.fields)
        return f"{kind} {json.dumps(parts, sort_keys=True, ensure_ascii=True)}"

    @property
    def window(self) -> int | None:
        """Tokens that prompt and response may have together, if the server says so and its tokenizer is known."""
        return None if self._encoder is None or self.findings.max_len is None else self.findings.max_len - 1

    def n_tokens(self, prompt: Prompt, response: str = "") -> int:
        """Tokens of a prompt, and of a response after it."""
        if self._encoder is None:
            raise BackendError(f"{self.name}: tokens cannot be counted without its tokenizer; set remote.tokenizer")
        ids = self._encoder
        return len(ids.prompt_ids(prompt)) + (len(ids.response_ids(response)) if response else 0)

    @property
    def why_no_scores(self) -> str:
        """Why this object is no Scorer."""
        reasons = {
            "llamacpp": "llama.cpp's server gives log-probabilities of generated tokens only",
            "ollama": "Ollama gives log-probabilities of generated tokens only",
            "vllm": "without the model's tokenizer no ids can be sent; set tokenizer",
            "sglang": "without the model's tokenizer no ids can be sent; set tokenizer",
        }
        dialect = self._link.settings.dialect
        if dialect != "auto" and self.findings.kind in ("vllm", "sglang"):
            kind = self.findings.kind
            return f"dialect {dialect!r} asks for texts only; set dialect {kind!r}, and tokenizer to the model's own"
        return reasons.get(self.findings.kind, "an endpoint for chat or plain completions does not score a given text")

    def detect(self) -> None:
        """Fill `findings` by asking the server what it is; free of charge."""
        self._link.detect()

    def rehearse(self, temperatures: Iterable[float], decoding: Decoding) -> None:
        """Ask now what draws will ask; `generate` does it otherwise.

        Raises
        ------
        BackendError
            If the server does not take it; the message names the setting that helps.
        """
        wanted = set(temperatures)
        for _ in self._link.stream(lambda: (), lambda client: self._rehearse(client, wanted, decoding)):
            pass

    def generate(
        self, requests: Sequence[GenerateRequest], decoding: Decoding
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Draw every request once; see `mop.backends.base.Generator`.

        Yields
        ------
        list of (index, Generation)
            Finished draws in batches; ``log_lik`` is nan.

        Raises
        ------
        BackendError
            Before any call, if a request mixes several branches; at the end, if more draws failed
            for good than ``max_failed_share`` allows. `failures` holds them.
        CeilingError
            At ``max_cost`` or ``max_lm_tokens``, after everything finished.
        """
        for index, request in enumerate(requests):
            if len(request.branches) != 1:
                raise BackendError(
                    f"request {index} mixes {len(request.branches)} agents token by token, which needs the model's "
                    "logits; a server draws from one branch; use exemplars_per_prompt, or a local model"
                )

        async def prepare(client: httpx.AsyncClient) -> None:
            await self._rehearse(client, {request.branches[0].temperature for request in requests}, decoding)

        link = self._link
        yield from link.stream(
            lambda: (self._draw_job(i, request, decoding, self._form) for i, request in enumerate(requests)), prepare
        )
        if len(self._touched) > self.findings.touched_texts:
            self.findings.touched_texts = len(self._touched)
            logger.warning(
                "%d texts of the data held control strings of chat formats, which were made harmless (%d in all)",
                len(self._touched),
                self.ledger.replaced_controls,
            )
        self._settle_failures(len(requests), link.settings.max_failed_share)

    def _settle_failures(self, n_items: int, allowed: float) -> None:
        """Raise if more items failed for good than allowed."""
        failures = self._link.failures
        if len(failures) <= allowed * n_items:
            return
        codes = sorted({failure.code for failure in failures.values()})
        first = failures[min(failures)]
        kind = PromptTooLongError if codes == ["too-long"] else BackendError
        raise kind(
            f"{len(failures)} of {n_items} items failed ({', '.join(codes)}); first, item {min(failures)}: "
            f"{first.message}; the others are kept; {what_now(failures.values())}"
        )

    def _draw_job(self, index: int, request: GenerateRequest, decoding: Decoding, form: Form) -> Job[Generation]:
        """Turn a request into a call; its seed is its own, so a repeated call asks for the same draw."""
        branch = request.branches[0]
        kind = self.findings.kind
        fields = dialects.sampling_fields(kind, decoding, temperature=branch.temperature, seed=request.seed)
        fields[form.token_field] = fields.pop("max_tokens")
        body: Json = dialects.with_fields({"model": self._link.model, **fields}, self._link.settings.fields)
        body = {name: value for name, value in body.items() if name not in form.without}
        encoder = self._encoder
        if encoder is None:
            prompt = fold_system(branch.prompt) if form.is_folded else branch.prompt
            body["messages"], n_replaced = messages_of(prompt, self._neutral)
            self.ledger.replaced_controls += n_replaced
            if n_replaced:
                self._touched |= {hash(text) for text in _data_texts(branch.prompt) if self._neutral(text)[1]}
            path = "/v1/chat/completions"
            # A token is at least one byte of text; 16 more frame each message.
            texts = [m["content"].encode(errors="surrogatepass") for m in body["messages"]]
            max_in = sum(len(text) + 16 for text in texts) + 16
        else:
            ids = encoder.prompt_ids(branch.prompt)
            body["prompt"] = ids
            path, max_in = "/v1/completions", len(ids)
            if kind in ("vllm", "sglang"):
                body["stop_token_ids"] = sorted(encoder.end_ids)[:_STOP_IDS]
            if kind == "vllm":
                body |= {"return_token_ids": True, "add_special_tokens": False}
                body |= {"cache_salt": self._link.salt} if self._link.salt else {}
            if not encoder.is_chat:
                body["stop"] = ["\n"]

        def read(answer: Json) -> tuple[Generation, Meter]:
            drawn = dialects.read_generation(
                answer, is_chat=encoder is None, max_tokens=decoding.max_tokens, private=private
            )
            text = drawn.text
            if encoder is not None:
                dialects.check_prompt_length(drawn.meter, max_in)
                if drawn.ids is not None:
                    text = encoder.text(drawn.ids)
                elif not encoder.is_chat:
                    text = text.removeprefix(" ")
            return Generation(text, drawn.meter.completion_tokens, drawn.finish_reason, math.nan), drawn.meter

        private = _data_texts(branch.prompt)
        if encoder is not None:
            private += (str(body["prompt"]),)  # ids can be turned back into text
        seed = derive_seed(request.seed, "retry")
        max_bytes = dialects.answer_bytes(0 if encoder is None else max_in, decoding.max_tokens)
        return Job(index, path, body, read, max_in, decoding.max_tokens, private, seed, index >= 0, max_bytes)

    async def _rehearse(self, client: httpx.AsyncClient, temperatures: set[float], decoding: Decoding) -> None:
        """Find out in which form every address takes what will be asked, and whether it samples at all."""
        link, added = self._link, self._link.settings.fields
        await link.find_kind(client)
        # What this kind of server cannot do is said before anything is paid for.
        dialects.sampling_fields(self.findings.kind, decoding, temperature=1.0, seed=0)
        # The farthest from 1 comes first: one draw shows most.
        ends = {min(temperatures), max(temperatures)} if temperatures and "temperature" not in added else set()
        is_new = not self._asked
        for endpoint in link.endpoints:
            low, high = self._asked.get(endpoint.url, (1.0, 1.0))
            taus = sorted((tau for tau in ends if not low <= tau <= high), key=lambda tau: -abs(math.log(tau)))

            async def ask(request: GenerateRequest, n: int, form: Form, endpoint: Endpoint = endpoint) -> Generation:
                short = dataclasses.replace(decoding, max_tokens=n, min_tokens=min(n, decoding.min_tokens))
                return await link.obtain(client, self._draw_job(-1, request, short, form), endpoint)

            if endpoint.url not in self._asked:
                await self._find_form(ask, taus.pop(0) if taus else 1.0, endpoint.url)
                is_seeded = await check_sampling(ask, self._form, endpoint.url)
                link.findings.is_seeded = is_seeded and link.findings.is_seeded is not False
            for tau in taus:
                await check_temperature(ask, tau, self._form, endpoint.url)
            self._asked[endpoint.url] = min(low, *ends, 1.0), max(high, *ends, 1.0)
        if is_new:
            self._doubt_what_cannot_be_seen()

    async def _find_form(self, ask: Ask, tau: float, where: str) -> None:
        trial = self._draw_job(-1, GenerateRequest((Branch(simulation_prompt("a"), tau),), 7), Decoding(), Form())
        found = await find_form(
            ask,
            tau,
            fields=[name for name in trial.body if name not in _NOT_FIELDS],
            added=self._link.settings.fields,
            is_chat=self._encoder is None,
            where=where,
        )
        # One form for all addresses: they are of one model.
        name = found.token_field if found.token_field != Form().token_field else self._form.token_field
        self._form = Form(name, is_folded=found.is_folded or self._form.is_folded)
        if name != Form().token_field:
            logger.info("%s knows the length limit as %s", where, name)
        if found.is_folded:
            self._link.doubt(f"{where} takes no system turn: task and persona stand before the first user turn instead")

    def _doubt_what_cannot_be_seen(self) -> None:
        link, fields = self._link, self._link.settings.fields
        if "temperature" in fields:
            link.doubt(
                f"{link.name}: the mixture's temperatures are not sent (remote.fields.temperature = "
                f"{fields['temperature']!r}): every draw comes at the server's own, whatever its row says"
            )
        if own := [name for name in fields if name in SAMPLING and name not in ("temperature", "seed")]:
            link.doubt(f"{link.name}: {', '.join(own)} as remote.fields says, or as the server has it, in every draw")
        names = sorted(set(link.findings.reported_models.values()))
        if len(names) > 1:
            link.doubt(
                f"{link.name}: the addresses answer as different models ({', '.join(names)}); draws "
                "are of one population only if these are one and the same"
            )
        if self.findings.kind in ("ollama", "other"):
            link.doubt(
                f"{link.name}: a server of this kind may cut the distribution by its own defaults (top-k, top-p, "
                "penalties), which cannot be seen from here; draws may then be less varied than the fitted model's"
            )
        if self._encoder is None:
            link.doubt(
                f"{link.name}: data is sent as chat messages, so control strings in it are replaced, and nothing else "
                "keeps a record from speaking as the system"
            )


class RemoteModel(RemoteGenerator):
    """A served model that can write and, asked in the dialect, score; also a `mop.backends.base.Scorer`."""

    betas = ONE

    def __init__(
        self, link: Link, encoder: PromptEncoder | ToyEncoder, control: Iterable[str], dialect: ScoreDialect
    ) -> None:
        super().__init__(link, encoder, control)
        self._ids = encoder
        self._dialect = dialect
        self.expected: tuple[float, ...] | None = None
        """As in `mop.backends.base.Recognisable`."""
        self._rechecks = Rechecks(derive_seed(0, "recheck", link.name))

    @property
    def confirmed(self) -> int:
        """As in `mop.backends.base.Confirming`."""
        return self._rechecks.confirmed

    @property
    def score_identity(self) -> str:
        """Model, revision, tokenizer and dialect."""
        return self._identity("remote-score/1", dialect=self._dialect)

    @property
    def reference(self) -> tuple[float, ...]:
        """What the probe found in this session, as in `mop.backends.base.Recognisable`."""
        found = list(self.findings.conformance.values())[:1]
        return tuple(value for one in found for row in one.reference for value in row)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        """Score every request once, prompts that begin alike one after the other; see `mop.backends.base.Scorer`.

        Raises
        ------
        ScoringUnsupportedError
            Before the first item, if the server fails the probe.
        PromptTooLongError
            Before the first item, if a request does not fit the window that the server states.
        CeilingError
            At ``max_cost`` or ``max_lm_tokens``, after everything finished.
        BackendError
            At once, if another model answers than before; after everything finished, if an item's
            answer could not be trusted however often it was asked.
        """
        encoded = [self._encode(request.prompt, request.response) for request in requests]
        # Neighbours share the longest prefix, which a server with a prefix cache computes once.
        order = sorted(range(len(requests)), key=lambda i: encoded[i][0])
        # The first items are the pilot of a forecast: some from everywhere.
        pilot = order[:: max(1, len(order) // PILOT_ITEMS)][:PILOT_ITEMS]
        first = frozenset(pilot)
        order = [*pilot, *(i for i in order if i not in first)]

        checks = self._rechecks

        async def prepare(client: httpx.AsyncClient) -> None:
            await self._probe_scoring(client)
            [found, *_] = self.findings.conformance.values()
            checks.begin([Question(*known, ()) for known in sentences(self._encode, found)])
            window = self.findings.max_len
            for i in order:
                if window is not None and len(encoded[i][0]) >= window:
                    raise PromptTooLongError(
                        f"request {i} has {len(encoded[i][0])} tokens, and the server takes {window - 1}; use shorter "
                        "exemplars or a model with a larger window"
                    )

        def noted(ids: Sequence[int], start: int, private: tuple[str, ...], log_probs: tuple[float, ...]) -> Score:
            checks.note(Question(ids, start, log_probs, private))
            return _as_score(log_probs)

        def jobs() -> Iterator[Job[Score | None]]:
            for i in order:
                if checks.is_due():
                    check, chosen = checks.choose(2)
                    self.ledger.checks += len(chosen)
                    for place, one in enumerate(chosen):
                        judge = partial(checks.judge, check, one)
                        yield self._score_job(-1 - place, one.ids, one.start, one.private, judge)
                ids, start = encoded[i]
                private = (*_data_texts(requests[i].prompt), requests[i].response, str(ids))
                yield self._score_job(i, ids, start, private, partial(noted, ids, start, private))

        for batch in self._link.stream(jobs, prepare, self._check_again, self._check_last):
            # Questions asked again have indices below 0.
            yield [(i, score) for i, score in batch if score is not None]
        for index in [i for i in self.failures if i < 0]:
            del self.failures[index]
        self._settle_failures(len(requests), 0.0)
        if checks.is_open:
            raise BackendError(
                f"{self.name} gave its last scores and then no answer to the questions that check them; these scores "
                "are kept and not used yet; run the same command again",
                retryable=True,
            )

    def _encode(self, prompt: Prompt, response: str) -> tuple[list[int], int]:
        ids = self._ids.prompt_ids(prompt)
        return [*ids, *self._ids.response_ids(response)], len(ids)

    def _score_job(
        self,
        index: int,
        ids: Sequence[int],
        start: int,
        private: tuple[str, ...],
        make: Callable[[tuple[float, ...]], T],
    ) -> Job[T]:
        path, body = dialects.score_request(self._dialect, self._link.model, ids, start, salt=self._link.salt)
        if path != "/generate":  # its fields have other places
            body = dialects.with_fields(body, self._link.settings.fields)

        def read(answer: Json) -> tuple[T, Meter]:
            scored = dialects.read_scores(self._dialect, answer, ids, start, token_text=lambda i: self._ids.text([i]))
            return make(scored.log_probs), scored.meter

        seed = derive_seed(0, "score", *ids[-8:], len(ids))
        max_bytes = dialects.answer_bytes(len(ids), 1)
        return Job(index, path, body, read, len(ids), 1, private, seed, index >= 0, max_bytes)

    def _asker(
        self, client: httpx.AsyncClient, endpoint: Endpoint, *, is_brief: bool = False
    ) -> Callable[..., Awaitable[tuple[float, ...]]]:
        async def ask(ids: Sequence[int], start: int) -> tuple[float, ...]:
            job = self._score_job(-1, ids, start, (), lambda values: values)
            return await self._link.obtain(client, job, endpoint, is_brief=is_brief)

        return ask

    def rehearse_scores(self) -> None:
        """Ask the questions that come before the first score now; `score` does it otherwise."""
        for _ in self._link.stream(lambda: (), self._probe_scoring):
            pass

    async def _probe_scoring(self, client: httpx.AsyncClient) -> None:
        link = self._link
        await link.find_kind(client)
        for endpoint in link.endpoints:
            if endpoint.url in self.findings.conformance:
                continue
            found = await probe_scorer(
                self._asker(client, endpoint),
                self._encode,
                where=endpoint.url,
                max_len=self.findings.max_len,
                affords=self._affords_long_question,
            )
            for other, before in self.findings.conformance.items():
                # Two addresses of one model must agree as one address agrees with itself.
                await probe_again(
                    self._asker(client, endpoint), self._encode, before, where=f"{endpoint.url} (beside {other})"
                )
                break
            self.findings.conformance[endpoint.url] = found
            logger.info("%s passed the scoring probe, noise %.2g nats per token", endpoint.url, found.noise)
        if self.expected is not None:
            check_known(self.reference, self.expected, where=link.endpoints[0].url)

    def _affords_long_question(self, n_tokens: int) -> bool:
        is_affordable = self.ledger.affords(n_tokens, 1)
        if not is_affordable:
            self._link.doubt(
                f"{self.name}: whether it refuses more than its window was not asked, since the "
                f"{n_tokens} tokens of that question are more than the ceiling leaves"
            )
        return is_affordable

    async def _check_last(self, client: httpx.AsyncClient) -> None:
        """Ask every address a few questions again when the last item is done; those that answer must all be right."""
        checks, endpoints = self._rechecks, self._link.endpoints
        if not checks.is_open:
            return
        check, chosen = checks.choose(LAST * len(endpoints))
        self.ledger.checks += len(chosen)
        check.n_open += 1  # confirmed below, when all addresses were asked
        is_answered = False
        for place, endpoint in enumerate(endpoints):
            try:
                for one in chosen[place :: len(endpoints)]:
                    job = self._score_job(-1, one.ids, one.start, one.private, partial(checks.judge, check, one))
                    await self._link.obtain(client, job, endpoint, is_brief=len(endpoints) > 1)
                    is_answered = True
            except CallError as error:
                if error.kind == "fatal":
                    raise
                logger.warning("%s could not be checked after the last item: %s", endpoint.url, error)
        if is_answered:
            checks.confirm(check)

    async def _check_again(self, client: httpx.AsyncClient, endpoint: Endpoint) -> None:
        self.ledger.checks += N_SENTENCES
        # With another address at hand, nobody waits for a server that is busy or gone.
        await probe_again(
            self._asker(client, endpoint, is_brief=len(self._link.endpoints) > 1),
            self._encode,
            self.findings.conformance[endpoint.url],
            where=endpoint.url,
        )


def _as_score(log_probs: tuple[float, ...]) -> Score:
    return Score(np.array([math.fsum(log_probs)], dtype=np.float32), len(log_probs))


def _data_texts(prompt: Prompt) -> tuple[str, ...]:
    return tuple(segment.text for turn in prompt.turns for segment in turn.segments if segment.is_data)
