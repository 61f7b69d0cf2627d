"""A frozen transformers model on this machine: exact scores, and draws that agree with them.

Scoring computes what prompts share once, asks the output layer about response positions only,
and gives the whole temperature curve. Drawing samples the model's own distribution at the
row's temperature. Neither depends on what else is in the list.
"""

from __future__ import annotations

import contextlib
import json
import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from mop.backends.curve import BETAS, token_curve
from mop.backends.decode import Draft, write
from mop.backends.forward import LLAMA_LIKE, Body, GeneralBody, Group, LlamaBody, Prefix, can_pack
from mop.backends.lanes import side_by_side
from mop.backends.tokens import PromptEncoder, load_tokenizer
from mop.backends.tree import Node, plan
from mop.backends.weights import causal_lm
from mop.errors import BackendError, ConfigError, MopError, PromptTooLongError, require
from mop.prompts import PROMPT_VERSION
from mop.types import Decoding, GenerateRequest, Generation, Prompt, Score, ScoreRequest

log = logging.getLogger(__name__)

ENGINE_VERSION = 4
"""Part of every identity; raised when the same request would get another score or draw."""

_BATCH_TOKENS = {"cpu": 2048, "cuda": 32768}
_ROWS = {"cpu": 256, "cuda": 512}
_LOGIT_BYTES = {"cpu": 24 * 2**20, "cuda": 2**28}
"""Of the logits of one piece. On a processor more than 32 MB would be fetched anew from the system each time."""
_DTYPES = ("float32", "bfloat16", "float16")
_Entry = TypeVar("_Entry")


class LocalModel:
    """A transformers causal LM that scores and writes responses.

    Parameters
    ----------
    model : transformers.PreTrainedModel or callable
        The model, or a function without parameters that loads it when it is first needed.
    tokenizer : transformers.PreTrainedTokenizerBase
        With a `tokenizers` backend.
    name : str
        As the user named it.
    revision : str
        What changes exactly when the weights change; part of every identity.
    device : str, optional
        ``cpu``, ``cuda`` or ``cuda:1``; CUDA if there is one, else the processor.
    dtype : str, optional
        ``float32``, ``bfloat16`` or ``float16``; see `default_dtype`.
    memory_gib : float, optional
        What keys, values and activations may take together; a third of what is free if None.
    betas : tuple of float
        Nodes of the score curves: `mop.backends.curve.BETAS`, or `mop.backends.curve.ONE` for τ = 1 alone.

    Attributes
    ----------
    encoder : PromptEncoder
        How prompts and responses become token ids.
    lanes : int
        Parts of the work that go side by side (`mop.backends.lanes`). If 0, it is chosen when the weights are loaded:
        two on a processor of two or more cores, if the model is one of `LLAMA_LIKE`.

    Raises
    ------
    ConfigError
        If a setting is out of range, or the tokenizer cannot be used.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        name: str,
        revision: str,
        device: str | None = None,
        dtype: str | None = None,
        memory_gib: float | None = None,
        betas: tuple[float, ...] = BETAS,
    ) -> None:
        if memory_gib is not None and not memory_gib > 0:
            raise ConfigError(
                f"memory_gib must be a number above 0, got {memory_gib}; leave it out to use a third of what is free"
            )
        self.name = name
        self._revision = revision
        self.betas = betas
        self._device = device or default_device()
        if self._device.partition(":")[0] not in _BATCH_TOKENS:
            raise ConfigError(
                f"unknown device {self._device!r}; it must be cpu, cuda or cuda:N (exact sums "
                "need float64, which others do not have); leave it out to let mop choose"
            )
        self._dtype = dtype or default_dtype(self._device)
        if self._dtype not in _DTYPES:
            raise ConfigError(
                f"unknown dtype {self._dtype!r}; it must be one of {', '.join(_DTYPES)}; leave it out to let mop choose"
            )
        self._memory_gib = memory_gib
        self.encoder = PromptEncoder(tokenizer)
        self._given = model
        self._body: Body | None = None
        self._window = 0
        self._batch_tokens = 0
        self._logit_rows = 0
        self._rows = 0
        self._per_ahead = self._per_wanted = 0.0  # in tokens of a batch, see `_cost`
        self.lanes = 0

    @property
    def score_identity(self) -> str:
        """All that a score depends on besides the request; needs no weights."""
        return self._identity(betas=[round(beta, 6) for beta in self.betas])

    @property
    def generate_identity(self) -> str:
        """All that a draw depends on besides request and decoding; needs no weights."""
        return self._identity()

    def _identity(self, **more: Any) -> str:
        parts = {
            "backend": "local",
            "engine": ENGINE_VERSION,
            "revision": self._revision,
            "tokens": self.encoder.fingerprint,
            "prompts": PROMPT_VERSION,
            "dtype": self._dtype,
        }
        return json.dumps({**parts, **more}, sort_keys=True)

    @property
    def window(self) -> int:
        """Tokens that prompt and response may have together; loads the weights."""
        self._load()
        return self._window

    def n_tokens(self, prompt: Prompt, response: str = "") -> int:
        """Tokens of a prompt, and of a response after it."""
        return len(self.encoder.prompt_ids(prompt)) + (len(self.encoder.response_ids(response)) if response else 0)

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        """Score every request once; yields finished batches of (index, score).

        Raises
        ------
        DataError
            If a response is empty.
        PromptTooLongError
            If prompt plus response exceed the model's window.
        BackendError
            If the model gives log-probabilities that are not finite or above 0, or one request
            alone does not fit into memory.
        """
        body = self._load()
        items = [self._item(index, request) for index, request in enumerate(requests)]
        items.sort(key=lambda item: item.ids)  # neighbours share beginnings
        parts = _parts(items, self.lanes)
        yield from side_by_side([partial(self._score_part, body, part) for part in parts])

    def _score_part(self, body: Body, items: list[_Item]) -> Iterator[list[tuple[int, Score]]]:
        """Score some items, yielding finished batches."""
        root = plan([item.ids for item in items], [item.start for item in items])
        ready: deque[tuple[_Item, Prefix | None]] = deque()
        for leaf, prefix in self._leaves(body, items, [(root, None)]):
            ready.append((leaf, prefix))
            while sum(self._cost(entry) for entry in ready) >= self._batch_tokens:
                yield self._score_batch(body, ready)
        while ready:
            yield self._score_batch(body, ready)

    def generate(
        self, requests: Sequence[GenerateRequest], decoding: Decoding
    ) -> Iterator[list[tuple[int, Generation]]]:
        """Draw every request once; yields finished batches of (index, generation).

        A drawn control token ends the response, whichever it is: the model has left the text.
        Its probability counts in `Generation.log_lik`, nothing is masked or renormalised.

        Raises
        ------
        ConfigError
            If a temperature is out of range.
        PromptTooLongError
            If prompt plus `decoding.max_tokens` exceed the model's window.
        BackendError
            If the model's logits are not finite, or memory ends.
        """
        body = self._load()
        drafts = [self._draft(index, request) for index, request in enumerate(requests)]
        for draft in drafts:
            longest = max(len(prompt) for prompt in draft.prompts)
            self._check_length(draft.name, longest, decoding.max_tokens)
        if not drafts:
            return
        drafts.sort(key=lambda draft: draft.prompts)  # neighbours share beginnings
        length = max(len(p) for draft in drafts for p in draft.prompts) + decoding.max_tokens
        # A third each for the rows, for the prefixes that come to fill them, and for batches.
        rows = min(self._rows, int(self._memory() / 3 / body.bytes_per_token / length))
        sizes = [len(draft.prompts) for draft in drafts]
        parts = _parts(drafts, self.lanes)
        rows = max(min(rows, sum(sizes)) // len(parts), max(sizes))
        pieces = [
            partial(
                write,
                body,
                part,
                decoding,
                end_ids=self.encoder.end_ids,
                rows=rows,
                prefill=lambda heads: self._prefill(body, heads),
            )
            for part in parts
        ]
        try:
            for finished in side_by_side(pieces):
                if finished:
                    yield [(draft.index, self._generation(draft)) for draft in finished]
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            raise BackendError(
                f"memory ended while {self.name} wrote {rows * len(parts)} rows of up to {length} "
                f"tokens side by side, which memory_gib = {self._memory() / 2**30:.3g} allows; "
                "give it a smaller number, so that fewer rows are written at a time"
            ) from error

    def _load(self) -> Body:
        """Bring the weights to the device, once, and choose how to run them."""
        if self._body is None:
            import torch

            given = self._given
            model = given if isinstance(given, torch.nn.Module) else given()
            model = model.to(device=self._device, dtype=getattr(torch, self._dtype)).eval()
            model.requires_grad_(False)
            self._window = _window(model.config)
            self._body = choose_body(model)
            kind = torch.device(self._device).type
            self._rows = _ROWS[kind]
            # Other bodies run the model's own code, which need not stand two threads at a time.
            is_safe = kind == "cpu" and isinstance(self._body, LlamaBody)
            if self.lanes == 0:
                self.lanes = min(2, torch.get_num_threads()) if is_safe else 1
            self._share_out(self._body, model, kind)
        return self._body

    def _share_out(self, body: Body, model: Any, kind: str) -> None:
        """Choose what a batch of one lane may hold: a quarter of the memory, and what is fast."""
        import torch

        room = self._memory() / 4 / self.lanes
        token = _activation_bytes(model) + body.bytes_per_token
        self._batch_tokens = max(1, int(min(_BATCH_TOKENS[kind], room / token)))
        self._per_ahead, self._per_wanted = body.bytes_ahead / token, body.bytes_per_wanted / token
        vocabulary = model.config.get_text_config(decoder=True).vocab_size
        row = vocabulary * getattr(torch, self._dtype).itemsize
        # Besides the logits there is room for float32 copies of them.
        self._logit_rows = max(1, int(min(_LOGIT_BYTES[kind] / row, room / 8 / vocabulary)))
        if isinstance(body, GeneralBody):
            body.room = room

    def _memory(self) -> float:
        """Bytes that keys, values and activations may take together."""
        if self._memory_gib is None:
            self._memory_gib = free_bytes(self._device) / 3 / 2**30
        return self._memory_gib * 2**30

    def _check_length(self, name: str, prompt: int, response: int) -> None:
        if prompt + response > self._window:
            raise PromptTooLongError(
                f"{name} has {prompt} prompt tokens and up to {response} response tokens, "
                f"together {prompt + response}; {self.name} takes {self._window}; use fewer or "
                "shorter exemplars, or a shorter response"
            )

    def _item(self, index: int, request: ScoreRequest) -> _Item:
        name = request.name or f"request {index}"
        with _naming(name):
            prompt = self.encoder.prompt_ids(request.prompt)
            response = self.encoder.response_ids(request.response)
        self._check_length(name, len(prompt), len(response))
        return _Item(index, prompt + response, len(prompt) - 1, name)

    def _draft(self, index: int, request: GenerateRequest) -> Draft:
        name = request.name or f"request {index}"
        if not request.branches:
            raise ConfigError(f"{name} has no branch; a response is drawn from at least one prompt")
        for branch in request.branches:
            if not 0 < branch.temperature < float("inf"):
                raise ConfigError(
                    f"{name} has temperature {branch.temperature}; a temperature is a finite number above 0, so choose "
                    "one such as 1.0"
                )
        with _naming(name):
            prompts = [self.encoder.prompt_ids(branch.prompt) for branch in request.branches]
        return Draft(
            index=index,
            prompts=prompts,
            temperatures=[branch.temperature for branch in request.branches],
            seed=request.seed,
            name=name,
        )

    def _generation(self, draft: Draft) -> Generation:
        assert draft.finish_reason is not None
        return Generation(
            text=self.encoder.text(draft.drawn),
            n_tokens=len(draft.drawn),
            finish_reason=draft.finish_reason,
            log_lik=draft.log_lik,
        )

    def _leaves(
        self, body: Body, items: Sequence[_Item], nodes: Sequence[tuple[Node, Prefix | None]]
    ) -> Iterator[tuple[_Item, Prefix | None]]:
        """Walk the tree depth first, a batch of nodes at a time; yields each item with its prefix.

        At each depth one batch of prefixes is alive, so memory stays bounded.
        """
        for node, prefix in nodes:
            for index in node.leaves:
                yield items[index], prefix
        waiting = deque(
            (child, prefix, items[child.example].ids[child.start : child.end])
            for node, prefix in nodes
            for child in node.children
        )
        while waiting:
            done = self._tried(
                waiting, lambda entry: entry[0].end, lambda batch: body.extend(_groups((ids, p) for _, p, ids in batch))
            )
            if done:
                yield from self._leaves(body, items, [(node, new) for (node, _, _), new in done])

    def _score_batch(self, body: Body, ready: deque[tuple[_Item, Prefix | None]]) -> list[tuple[int, Score]]:
        """Score as many ready items as a batch holds."""
        while True:
            found = self._tried(ready, self._cost, lambda batch: self._curves(body, batch))
            if found:
                return [self._checked(item, curve) for (item, _), curve in found]

    def _cost(self, entry: tuple[_Item, Prefix | None]) -> float:
        """What an item takes of a batch, in tokens: its own, the look at its prefix, its predictions."""
        item, prefix = entry
        before = prefix.length if prefix else 0
        wanted = len(item.ids) - 1 - item.start
        return len(item.ids) - before + self._per_ahead * before + self._per_wanted * wanted

    def _curves(self, body: Body, batch: Sequence[tuple[_Item, Prefix | None]]) -> Any:
        """Return the summed token curves of a batch, (items, G) float64."""
        import torch

        groups, targets, owners = [], [], []
        for prefix, members in _by_prefix(batch):
            before = prefix.length if prefix else 0
            rows = tuple(item.ids[before:-1] for item in members)
            wanted = tuple((item.start - before, len(item.ids) - 1 - before) for item in members)
            groups.append(Group(prefix, rows, wanted))
        for owner, (item, _) in enumerate(batch):
            targets += item.ids[item.start + 1 :]
            owners += [owner] * (len(item.ids) - 1 - item.start)
        with torch.inference_mode():
            handle = body.predict(groups)
            goal = torch.tensor(targets, device=handle.device)
            total = torch.zeros((len(batch), len(self.betas)), dtype=torch.float64)
            for low in range(0, len(targets), self._logit_rows):
                high = min(low + self._logit_rows, len(targets))
                curve = token_curve(body.logits(handle, low, high), goal[low:high], self.betas)
                total.index_add_(0, torch.tensor(owners[low:high]), curve.double().cpu())
        return total.numpy()

    def _checked(self, item: _Item, curve: Any) -> tuple[int, Score]:
        wrong = ~(np.isfinite(curve) & (curve <= 1e-3))
        if wrong.any():
            node = int(wrong.argmax())
            raise BackendError(
                f"{item.name} got the log-likelihood {curve[node]} at τ = {1 / self.betas[node]:.3g}; it must be "
                "finite and at most 0, so choose dtype='float32', or check the model's weights"
            )
        n_tokens = len(item.ids) - 1 - item.start
        return item.index, Score(np.minimum(curve, 0).astype(np.float32), n_tokens)

    def _prefill(self, body: Body, heads: Sequence[Sequence[int]]) -> list[Prefix | None]:
        """Return what the body knows of each prompt; shared beginnings are computed once."""
        import torch

        items = [_Item(index, list(ids), len(ids)) for index, ids in enumerate(heads)]
        found: list[Prefix | None] = [None] * len(items)
        waiting: deque[tuple[_Item, Prefix | None]] = deque()
        with torch.inference_mode():
            root = plan([item.ids for item in items], [item.start for item in items])
            for item, prefix in self._leaves(body, items, [(root, None)]):
                if len(item.ids) > (prefix.length if prefix else 0):
                    waiting.append((item, prefix))
                else:
                    found[item.index] = prefix
            while waiting:
                done = self._tried(
                    waiting,
                    lambda entry: len(entry[0].ids),
                    lambda batch: body.extend(_groups((item.ids[p.length if p else 0 :], p) for item, p in batch)),
                )
                for (item, _), new in done:
                    found[item.index] = new
        return found

    def _tried(
        self, waiting: deque[Any], cost: Callable[[Any], float], run: Callable[[list[Any]], Any]
    ) -> list[tuple[Any, Any]]:
        """Take a batch from the queue, at least one entry, and run it; returns entries with results.

        If memory ends, returns none, puts the batch back, and lets a batch hold half as much.
        """
        import torch

        batch = [waiting.popleft()]
        total = cost(batch[0])
        while waiting and total + cost(waiting[0]) <= self._batch_tokens:
            batch.append(waiting.popleft())
            total += cost(batch[-1])
        try:
            with torch.inference_mode():
                return list(zip(batch, run(batch), strict=True))
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if len(batch) == 1:
                raise BackendError(
                    f"memory ended on a single request of {self.name}; give it more with "
                    "memory_gib, or use a smaller model or shorter prompts"
                ) from error
        # Half of this batch, not of the limit: lanes that fail together halve it once.
        self._batch_tokens = max(1, min(self._batch_tokens, int(total) // 2))
        log.warning("out of memory: batches are now %d tokens", self._batch_tokens)
        waiting.extendleft(reversed(batch))
        return []


@contextlib.contextmanager
def _naming(name: str) -> Iterator[None]:
    """Let errors of what runs inside begin with the request's name."""
    try:
        yield
    except MopError as error:
        raise type(error)(f"{name}: {error}") from error


_LEAST = 8
"""Requests that make a part of the work worth a thread of its own."""


def _parts(entries: list[_Entry], n: int) -> list[list[_Entry]]:
    """Return up to ``n`` runs of neighbours, of almost equal number."""
    n = max(1, min(n, len(entries) // _LEAST))
    ends = [round(len(entries) * place / n) for place in range(n + 1)]
    return [entries[low:high] for low, high in pairwise(ends)]


@dataclass(slots=True, eq=False)
class _Item:
    """A request as token ids."""

    index: int
    ids: list[int]
    start: int
    """The first token whose prediction is wanted; none before it is."""
    name: str = ""


def open_local(
    name: str, *, device: str | None = None, dtype: str | None = None, memory_gib: float | None = None
) -> LocalModel:
    """Return a `LocalModel` by its name; the weights are loaded at first use.

    A name is an embedded one (pulled if need be), ``hf:ORG/NAME``, or the path of a folder.

    Raises
    ------
    ConfigError
        If the name or a setting cannot be used.
    PullError
        If an embedded model cannot be fetched.
    MissingDependencyError
        If torch or transformers is not installed.
    """
    from mop.data import pull

    place = pull.resolve(name, kind="lm")

    model: LocalModel = LocalModel(
        lambda: causal_lm(place, model._dtype),
        load_tokenizer(place),
        name=name,
        revision=pull.revision(name),
        device=device,
        dtype=dtype,
        memory_gib=memory_gib,
    )
    return model


def default_device() -> str:
    """Return ``cuda`` if there is one, else ``cpu``."""
    torch = require("torch", extra="local")
    return "cuda" if torch.cuda.is_available() else "cpu"


def default_dtype(device: str) -> str:
    """Return the fastest dtype that scores well on a device.

    bfloat16 on CUDA and on processors with bfloat16 instructions (AVX-512 BF16 or AMX), float32 elsewhere: without such
    instructions bfloat16 products are ten times slower than float32 ones (`docs/engine.md`).
    """
    torch = require("torch", extra="local")
    if torch.device(device).type == "cuda":
        return "bfloat16" if torch.cuda.is_bf16_supported() else "float32"
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bfloat16" if fast else "float32"


def choose_body(model: Any) -> Body:
    """Return a `LlamaBody` where it does what the model's own forward pass does, else general."""
    import torch

    with torch.inference_mode():
        general = GeneralBody(model)
        if not _is_llama_like(model):
            return general
        limit = 1e-3 if model.dtype == torch.float32 else 0.1
        for is_packed in (True, False) if can_pack(model) else (False,):
            instead = "plain products are tried" if is_packed else "the model's own is used"
            try:
                body = LlamaBody(model, is_packed=is_packed)
                worst = _difference(body, general, model.config.vocab_size)
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                if is_out_of_memory(error):
                    raise
                log.warning("own forward pass cannot run this model (%s); %s", error, instead)
                continue
            if worst < limit:
                return body
            log.warning("own forward pass differs by %.2g from the model's; %s", worst, instead)
    return general


def _difference(one: Body, other: Body, vocabulary: int) -> float:
    """Return how far the logits of two bodies differ on a few tokens, relative to the largest."""
    tokens = [(7 * place + 3) % vocabulary for place in range(24)]
    head, rest = tokens[:9], tokens[9:]
    found = []
    for body in (one, other):
        prefix = body.extend([Group(None, (head,))])[0]
        handle = body.predict([Group(prefix, (rest,), ((0, len(rest)),))])
        found.append(body.logits(handle, 0, len(rest)))
    return float((found[0] - found[1]).abs().max() / (1 + found[1].abs().max()))


def _is_llama_like(model: Any) -> bool:
    config = model.config
    rope = getattr(config, "rope_parameters", None) or {}
    return (
        type(model).__name__ in LLAMA_LIKE
        and config.hidden_act == "silu"
        and rope.get("rope_type", "default") in {"default", "linear", "llama3", "yarn"}
        and not getattr(config, "mlp_bias", False)
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and (getattr(config, "sliding_window", None) is None or hasattr(config, "layer_types"))
    )


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether an exception means that memory ended, on any device."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    text = str(error)
    signs = ("can't allocate memory", "not enough memory", "STATUS_ALLOC_FAILED")
    return any(sign in text for sign in signs)


def free_bytes(device: str) -> int:
    """Return the memory that is free on a device now, bytes."""
    import os

    torch = require("torch", extra="local")
    if torch.device(device).type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    with contextlib.suppress(OSError):
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):  # what files keep cached is free as well
                return int(line.split()[1]) * 1024
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return 4 * 2**30  # a system that does not say


def _window(config: Any) -> int:
    for name in ("max_position_embeddings", "n_positions", "seq_length"):
        value = getattr(config.get_text_config(decoder=True), name, None)
        if value:
            return int(value)
    return 2**31


def _activation_bytes(model: Any) -> int:
    """Roughly what one token of a batch takes while it passes a layer."""
    config = model.config.get_text_config(decoder=True)
    inner = getattr(config, "intermediate_size", None) or 4 * config.hidden_size
    return int(4 * (8 * config.hidden_size + 4 * inner))


def _by_prefix(entries: Iterable[tuple[_Entry, Prefix | None]]) -> Iterator[tuple[Prefix | None, list[_Entry]]]:
    """Return runs of neighbours with the same prefix."""
    for _, run in groupby(entries, key=lambda entry: id(entry[1])):
        members = list(run)
        yield members[0][1], [member for member, _ in members]


def _groups(entries: Iterable[tuple[Sequence[int], Prefix | None]]) -> list[Group]:
    """Put neighbours with the same prefix into one group."""
    return [Group(prefix, tuple(rows)) for prefix, rows in _by_prefix(entries)]
