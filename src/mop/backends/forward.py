"""Forward passes of a frozen transformers model over prompts that share beginnings.

Two bodies with the same methods. `GeneralBody` asks the model's own forward pass and works with any causal LM.
`LlamaBody` does the arithmetic of Llama-like models itself: tokens of all rows are packed side by side without padding
for the matrix products, only attention looks at single groups of rows, and the weights of products that read the same
input are joined. It is used after a comparison with the model's own pass on a few tokens.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate, count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True, eq=False)
class Prefix:
    """Keys and values of the tokens that a group of rows has in front of it."""

    keys: torch.Tensor
    """Shape (layers, heads, P, D)."""
    values: torch.Tensor

    @property
    def length(self) -> int:
        """P, tokens."""
        return int(self.keys.shape[2])


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Rows of token ids that continue the same prefix."""

    prefix: Prefix | None
    rows: tuple[Sequence[int], ...]
    wanted: tuple[tuple[int, int], ...] = ()
    """For each row, from which to which of its tokens the prediction is wanted; empty for none."""


class GeneralBody:
    """Any transformers causal LM, through its own forward pass.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        In evaluation mode.

    Attributes
    ----------
    room : float
        Bytes that keys, values and logits of one padded batch may take; a row that takes more goes alone.
    bytes_per_token : int
        Of keys and values.
    bytes_per_wanted : int
        What `predict` keeps for each wanted prediction.
    bytes_ahead : int
        What `predict` takes for each row and token of its prefix, besides the prefix itself.
    """

    bytes_ahead = 0  # its padded batches keep to `room`, prefixes included

    def __init__(self, model: Any) -> None:
        import inspect

        self.room = float("inf")
        self.bytes_per_token = self.bytes_per_wanted = 0  # until a first pass says
        self._model = model
        self._device = next(model.parameters()).device
        self._keeps = "logits_to_keep" in inspect.signature(model.forward).parameters
        prefix = self.extend([Group(None, ((0,),))])[0]
        size = prefix.keys.numel() + prefix.values.numel()
        self.bytes_per_token = size * prefix.keys.element_size()
        vocabulary: int = model.config.get_text_config(decoder=True).vocab_size
        self.bytes_per_wanted = vocabulary * prefix.keys.element_size()

    def predict(self, groups: Sequence[Group]) -> torch.Tensor:
        """Return what `logits` takes, packed in the order of groups and rows: here the wanted logits themselves."""
        rows = _rows(groups)
        ends = list(accumulate(high - low for low, high in (row.wanted for row in rows)))
        found: torch.Tensor | None = None
        for batch in self._batches(rows):
            low, high = min(row.wanted[0] for row in batch), max(row.wanted[1] for row in batch)
            logits, _ = self._run(batch, (low, high))
            if found is None:
                found = logits.new_empty((ends[-1], logits.shape[-1]))
            for place, row in enumerate(batch):
                first, last = row.wanted
                end = ends[row.order]
                found[end - (last - first) : end] = logits[place, first - low : last - low]
            del logits  # before the next batch makes its own
        assert found is not None
        return found

    def logits(self, handle: torch.Tensor, low: int, high: int) -> torch.Tensor:
        """Return wanted predictions ``low`` to ``high``, (high - low, V) in the model's dtype.

        The caller may overwrite them, and the next call in the same thread may too.
        """
        return handle[low:high].clone()

    def extend(self, groups: Sequence[Group]) -> list[Prefix]:
        """Return the prefix that each row becomes, in the order of groups and rows."""
        import torch

        found: dict[int, Prefix] = {}
        for batch in self._batches(_rows(groups)):
            _, cache = self._run(batch, (0, 1))
            before = max(row.before for row in batch)
            keys = torch.stack([layer.keys for layer in cache.layers])
            values = torch.stack([layer.values for layer in cache.layers])
            for place, row in enumerate(batch):
                span = slice(before - row.before, before + len(row.tokens))
                found[row.order] = Prefix(keys[:, place, :, span].clone(), values[:, place, :, span].clone())
        return [found[order] for order in range(len(found))]

    def slots(self, rows: int, length: int) -> _GeneralSlots:
        """Return room for ``rows`` rows of up to ``length`` tokens that are written one token at a time."""
        del rows, length  # this cache grows as it is needed
        return _GeneralSlots(self._model, self._device)

    def _batches(self, rows: Sequence[_Row]) -> list[list[_Row]]:
        """Return the rows in batches of similar length that keep to the room.

        So little of a batch is padding, and what padding there is counts.
        """
        batches: list[list[_Row]] = []
        before = low = high = longest = 0
        for row in sorted(rows, key=lambda row: -len(row.tokens)):
            before = max(before, row.before)
            low, high = min(low, row.wanted[0]), max(high, row.wanted[1])
            # Keys and values count twice: as given, and as the model joins them with new ones.
            each = 2 * (before + longest) * self.bytes_per_token
            each += (high - low) * self.bytes_per_wanted
            similar = batches and len(row.tokens) >= _EVEN * longest
            if similar and (len(batches[-1]) + 1) * each <= self.room:
                batches[-1].append(row)
            else:
                batches.append([row])
                before, (low, high), longest = row.before, row.wanted, len(row.tokens)
        return batches

    def _run(self, batch: Sequence[_Row], span: tuple[int, int]) -> tuple[torch.Tensor, Any]:
        """Run one padded batch: prefixes end in the same column, the rows' tokens begin there.

        So within a row no padding lies between two tokens, and windows of attention are right.
        """
        import torch
        from transformers import DynamicCache

        longest = max(len(row.tokens) for row in batch)
        before = max(row.before for row in batch)
        ids = torch.zeros((len(batch), longest), dtype=torch.long)
        mask = torch.zeros((len(batch), before + longest), dtype=torch.long)
        for place, row in enumerate(batch):
            ids[place, : len(row.tokens)] = torch.tensor(row.tokens)
            mask[place, before - row.before : before + len(row.tokens)] = 1
        places = torch.tensor([row.before for row in batch])[:, None] + torch.arange(longest)
        cache = DynamicCache()
        if before:
            keys = _side_by_side([row.prefix.keys if row.prefix else None for row in batch])
            values = _side_by_side([row.prefix.values if row.prefix else None for row in batch])
            cache = DynamicCache(list(zip(keys, values, strict=True)))
        found = self._model(
            input_ids=ids.to(self._device),
            attention_mask=mask.to(self._device),
            position_ids=places.to(self._device),
            past_key_values=cache,
            use_cache=True,
            **({"logits_to_keep": torch.arange(*span, device=self._device)} if self._keeps else {}),
        )
        logits = found.logits if self._keeps else found.logits[:, span[0] : span[1]]
        return logits, found.past_key_values


@dataclass(frozen=True, slots=True, eq=False)
class _Row:
    """One row of a group, on its own."""

    order: int
    prefix: Prefix | None
    tokens: Sequence[int]
    wanted: tuple[int, int]

    @property
    def before(self) -> int:
        return self.prefix.length if self.prefix else 0


_EVEN = 0.75
"""A row shorter than this share of the longest starts a batch of its own kind."""


def _rows(groups: Sequence[Group]) -> list[_Row]:
    """Return all rows in order."""
    order = count()
    return [
        _Row(next(order), group.prefix, tokens, group.wanted[place] if group.wanted else (0, 1))
        for group in groups
        for place, tokens in enumerate(group.rows)
    ]


def _side_by_side(parts: Sequence[torch.Tensor | None], known: torch.Tensor | None = None) -> torch.Tensor:
    """Put rows (layers, heads, P, D) below known ones, all ending in the same column.

    Returns (layers, rows, heads, longest P, D), padded in front with zeros.
    """
    given = [part for part in parts if part is not None]
    like = known[:, 0] if known is not None else given[0]
    layers, heads, _, size = like.shape
    old, seen = (known.shape[1], known.shape[3]) if known is not None else (0, 0)
    width = max([seen, *(part.shape[2] for part in given)])
    joined = like.new_zeros((layers, old + len(parts), heads, width, size))
    if known is not None:
        joined[:, :old, :, width - seen :] = known
    for row, part in enumerate(parts, start=old):
        if part is not None:
            joined[:, row, :, width - part.shape[2] :] = part
    return joined


class _GeneralSlots:
    """Rows padded on the left, in one growing cache of the model's own kind."""

    def __init__(self, model: Any, device: torch.device) -> None:
        self._model = model
        self._device = device
        self._lengths: list[int] = []
        self._keys: torch.Tensor | None = None  # (layers, rows, heads, S, D)
        self._values: torch.Tensor | None = None

    def admit(self, prefixes: Sequence[Prefix | None]) -> None:
        """Add rows after the ones there are."""
        old = len(self._lengths)
        self._lengths += [prefix.length if prefix else 0 for prefix in prefixes]
        if self._keys is None and not any(prefixes):
            return  # no row has seen anything yet
        # Rows that are there but have seen nothing come first.
        empty: list[torch.Tensor | None] = [None] * old if self._keys is None else []
        keys = [*empty, *(prefix.keys if prefix else None for prefix in prefixes)]
        values = [*empty, *(prefix.values if prefix else None for prefix in prefixes)]
        self._keys = _side_by_side(keys, self._keys)
        self._values = _side_by_side(values, self._values)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        """Append one token to every row and return the logits after it, (rows, V) float32."""
        import torch
        from transformers import DynamicCache

        cache = DynamicCache()
        if self._keys is not None and self._values is not None:
            cache = DynamicCache(list(zip(self._keys, self._values, strict=True)))
        lengths = torch.tensor(self._lengths)
        seen = self._keys.shape[3] if self._keys is not None else 0
        mask = torch.arange(seen + 1) >= seen - lengths[:, None]
        found = self._model(
            input_ids=torch.tensor(tokens)[:, None].to(self._device),
            attention_mask=mask.long().to(self._device),
            position_ids=lengths[:, None].to(self._device),
            past_key_values=cache,
            use_cache=True,
        )
        layers = found.past_key_values.layers
        self._keys = torch.stack([layer.keys for layer in layers])
        self._values = torch.stack([layer.values for layer in layers])
        self._lengths = [length + 1 for length in self._lengths]
        logits: torch.Tensor = found.logits[:, -1].float()
        return logits

    def keep(self, rows: Sequence[int]) -> None:
        """Forget all rows but these."""
        import torch

        self._lengths = [self._lengths[row] for row in rows]
        if self._keys is None or self._values is None:
            return
        if not rows:
            self._keys = self._values = None
            return
        longest = max(self._lengths)
        chosen = torch.tensor(rows, device=self._device)
        self._keys = self._keys[:, chosen, :, self._keys.shape[3] - longest :]
        self._values = self._values[:, chosen, :, self._values.shape[3] - longest :]


class LlamaBody:
    """Llama-like models: root-mean-square norms, rotary positions, gated feed-forward blocks.

    Parameters
    ----------
    model : transformers.PreTrainedModel
        One of `LLAMA_LIKE`. Its weights are shared: where products are joined, the model's own
        weights become views of the joined ones.
    is_packed : bool
        Whether the layers are copied as well, in the order in which oneDNN reads them: see `can_pack`.
    """

    def __init__(self, model: Any, *, is_packed: bool = False) -> None:
        config = model.config
        decoder = model.model
        self.is_packed = is_packed
        self._embed = decoder.embed_tokens.weight
        self._rotary = decoder.rotary_emb
        self._norm = decoder.norm
        self._head = model.lm_head
        self._room = threading.local()
        first = decoder.layers[0].self_attn
        self._size: int = first.head_dim
        self._heads: int = config.num_attention_heads
        self._shared: int = config.num_key_value_heads
        self._eps: float = config.rms_norm_eps
        self._layers = [_Layer(layer, is_packed=is_packed) for layer in decoder.layers]
        numbers = 2 * len(self._layers) * self._shared * self._size
        self.bytes_per_token = numbers * self._embed.element_size()
        self.bytes_ahead = self.bytes_per_token // len(self._layers)  # one layer at a time
        self.bytes_per_wanted = 2 * config.hidden_size * self._embed.element_size()

    def predict(self, groups: Sequence[Group]) -> torch.Tensor:
        """Return the hidden states of the wanted tokens, (wanted, width)."""
        hidden = self._run(groups, None)
        assert hidden is not None
        return hidden

    def logits(self, handle: torch.Tensor, low: int, high: int) -> torch.Tensor:
        """Apply the output layer to a part of what `predict` found."""
        import torch

        rows, weight = handle[low:high], self._head.weight
        if self._head.bias is not None:
            found: torch.Tensor = self._head(rows)
            return found
        # Tens of megabytes: fresh memory each time costs a third more than the product.
        room: torch.Tensor | None = getattr(self._room, "logits", None)
        if room is None or len(room) < len(rows):
            room = self._room.logits = rows.new_empty((len(rows), len(weight)))
        return torch.mm(rows, weight.T, out=room[: len(rows)])

    def extend(self, groups: Sequence[Group]) -> list[Prefix]:
        """Return the prefix that each row becomes."""
        found: list[Prefix] = []
        for group in groups:
            before = group.prefix.length if group.prefix else 0
            for row in group.rows:
                shape = (len(self._layers), self._shared, before + len(row), self._size)
                prefix = Prefix(self._embed.new_empty(shape), self._embed.new_empty(shape))
                if group.prefix:
                    prefix.keys[:, :, :before] = group.prefix.keys
                    prefix.values[:, :, :before] = group.prefix.values
                found.append(prefix)
        self._run(groups, found)
        return found

    def slots(self, rows: int, length: int) -> _LlamaSlots:
        """Return rows in a cache of fixed size, each filled from the left."""
        return _LlamaSlots(self, rows, length)

    def _run(self, groups: Sequence[Group], kept: list[Prefix] | None) -> torch.Tensor | None:
        """Run packed rows through all layers; fill `kept`, or return what is wanted."""
        import torch

        layouts = _layouts(groups, self._embed.device, kept)
        ids = [token for group in groups for row in group.rows for token in row]
        places = torch.cat([layout.places for layout in layouts])
        hidden = torch.nn.functional.embedding(torch.tensor(ids, device=self._embed.device), self._embed)
        turn = self._turns(hidden, places)
        last = len(self._layers) - 1
        for depth, layer in enumerate(self._layers):
            joined = self._project(layer, hidden, turn)
            if kept is not None:
                for layout in layouts:
                    layout.store(depth, *self._parts(joined, 1)[1:])
                if depth == last:
                    return None  # nobody asks for what the last layer makes of this
            mixed = hidden.new_empty((len(hidden), self._heads, self._size))
            for layout in layouts:
                queries, keys, values = self._parts(layout.spread(joined), 2)
                layout.attend(depth, queries, keys, values, mixed)
            mixed = mixed.flatten(1)
            if depth == last:  # from here on only wanted tokens matter
                chosen = torch.cat([layout.wanted for layout in layouts])
                mixed, hidden = mixed[chosen], hidden[chosen]
            hidden = self._finish(layer, hidden, mixed)
        return _normed(self._norm, hidden, self._eps)

    def _turns(self, like: torch.Tensor, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return cosines and sines of the rotary positions, (N, 1, D) each; sines of the lower half negated."""
        import torch

        cos, sin = self._rotary(like, places[None])
        low, high = sin[0, :, None].chunk(2, dim=-1)
        return cos[0, :, None], torch.cat([-low, high], dim=-1)

    def _parts(self, joined: torch.Tensor, dim: int) -> tuple[torch.Tensor, ...]:
        """Return queries, keys and values as views of what `_project` made."""
        import torch

        return torch.split(joined, [self._heads, self._shared, self._shared], dim)

    def _project(self, layer: _Layer, hidden: torch.Tensor, turn: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        """Return queries, keys and values side by side: (N, heads + 2 · shared heads, D)."""
        import torch

        joined = layer.qkv(_normed(layer.norm_in, hidden, self._eps))
        joined = joined.view(len(hidden), -1, self._size)
        if layer.norm_q is not None and layer.norm_k is not None:
            queries, keys, _ = self._parts(joined, 1)
            queries.copy_(_normed(layer.norm_q, queries, self._eps))
            keys.copy_(_normed(layer.norm_k, keys, self._eps))
        both = joined[:, : self._heads + self._shared]
        cos, sin = turn
        low, high = both.chunk(2, dim=-1)
        swapped = torch.cat([high, low], dim=-1)
        both.mul_(cos).addcmul_(swapped, sin)
        return joined

    def _finish(self, layer: _Layer, hidden: torch.Tensor, mixed: torch.Tensor) -> torch.Tensor:
        """Add what attention found, then the feed-forward block."""
        import torch

        hidden = layer.out(mixed).add_(hidden)
        normed = _normed(layer.norm_out, hidden, self._eps)
        step = CHUNK if hidden.device.type == "cpu" else len(hidden)
        for part, given in zip(torch.split(hidden, step), torch.split(normed, step), strict=True):
            part.add_(layer.down(layer.gated(given)))
        return hidden


def _normed(norm: Any, hidden: torch.Tensor, eps: float) -> torch.Tensor:
    """What a root-mean-square norm makes of (..., width), rounded where the model's own rounds.

    Three passes instead of six: a ninth of the time on a CPU.
    """
    import torch

    wide = hidden.float()
    length = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale = torch.rsqrt(length.square_().div_(hidden.shape[-1]).add_(eps))
    scaled = wide * scale if wide is hidden else wide.mul_(scale)
    return scaled.to(hidden.dtype).mul_(norm.weight)


CHUNK = 256
"""Tokens whose feed-forward block is worked out together on a CPU: what is between its products stays in the cache."""
BLOCK, PIECE = 64, 500_000
"""Tokens that look back together, and weights that are worked out together (2 MB: they should stay in the cache)."""


def _is_plain(like: torch.Tensor) -> bool:
    """Whether attention is made of plain products: in bfloat16 on a CPU torch's own is slow."""
    import torch

    return like.device.type == "cpu" and like.dtype == torch.bfloat16


def _attention(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """Let tokens look back: queries (B, heads, T, D) at keys and values (B, shared heads, P + T, D).

    The mask, (T, P + T), is True where a token may look: everything before it and itself. In bfloat16 on a CPU as plain
    products, a piece at a time, two to six times as fast as torch's own, with weights rounded as in the plain attention
    of transformers.
    """
    import torch

    if not _is_plain(queries):
        return torch.nn.functional.scaled_dot_product_attention(queries, keys, values, attn_mask=mask, enable_gqa=True)
    n_rows, heads, n_tokens, size = queries.shape
    shared, before = keys.shape[1], keys.shape[2] - n_tokens
    bias = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
    each = queries.view(n_rows, shared, -1, n_tokens, size)
    # In memory by tokens, as the caller packs them.
    found = queries.new_empty((n_rows, n_tokens, heads, size)).transpose(1, 2)
    for low in range(0, n_tokens, BLOCK):
        high = min(n_tokens, low + BLOCK)
        seen, n = before + high, high - low
        step = max(1, PIECE // (heads * n * seen))
        for first in range(0, n_rows, step):
            rows = slice(first, min(n_rows, first + step))
            asked = each[rows, :, :, low:high].flatten(0, 1).flatten(1, 2)
            scores = (asked @ keys[rows, :, :seen].flatten(0, 1).mT).view(len(asked), -1, n, seen)
            weights = torch.add(bias[low:high, :seen], scores, alpha=size**-0.5).softmax(-1)
            mixed = weights.to(values.dtype).flatten(1, 2) @ values[rows, :, :seen].flatten(0, 1)
            found[rows, :, low:high] = mixed.view(-1, heads, n, size)
    return found


LLAMA_LIKE = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "MistralForCausalLM"}
"""Classes of transformers whose arithmetic `LlamaBody` knows."""


class _Layer:
    """The weights of one layer, with products of the same input joined."""

    def __init__(self, layer: Any, *, is_packed: bool) -> None:
        attention, block = layer.self_attn, layer.mlp
        self.norm_in = layer.input_layernorm
        self.norm_out = layer.post_attention_layernorm
        self.norm_q = getattr(attention, "q_norm", None)
        self.norm_k = getattr(attention, "k_norm", None)
        parts = [attention.q_proj, attention.k_proj, attention.v_proj]
        bias = _join(parts, "bias") if parts[0].bias is not None else None
        product = _packed_product if is_packed else _product
        self.qkv = product(_join(parts, "weight"), bias)
        self.out = product(attention.o_proj.weight, attention.o_proj.bias)
        self.down = product(block.down_proj.weight, None)
        gate_up = _join([block.gate_proj, block.up_proj], "weight")
        self.gated = _packed_gate(gate_up) if is_packed else _gate(gate_up)


def _product(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """A linear map, (N, in) to (N, out)."""
    import torch

    return partial(torch.nn.functional.linear, weight=weight, bias=bias)


def _gate(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """silu(G x) · U x, (N, in) to (N, out), with the weights of G above those of U."""
    from torch.nn.functional import linear, silu

    def gated(given: torch.Tensor) -> torch.Tensor:
        gate, up = linear(given, weight).chunk(2, -1)
        return silu(gate, inplace=True).mul_(up)

    return gated


def _packed_product(weight: torch.Tensor, bias: torch.Tensor | None) -> Callable[[torch.Tensor], torch.Tensor]:
    """`_product` with a copy of the weights in the order in which oneDNN reads them."""
    import torch

    product: Any = torch.ops.mkldnn._linear_pointwise
    packed = _packed(weight)
    return lambda given: product(given, packed, bias, "none", [], "")


def _packed_gate(weight: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
    """`_gate` with packed weights; the product itself applies silu, the next one multiplies."""
    import torch

    product: Any = torch.ops.mkldnn._linear_pointwise
    gate, up = map(_packed, weight.chunk(2))
    return lambda given: product.binary(given, product(given, gate, None, "swish", [], ""), up, None, "mul")


PACKED = 2**30
"""Bytes of layers up to which their weights are kept a second time, packed for oneDNN."""


def can_pack(model: Any) -> bool:
    """Whether layers are small enough, and this torch has products with packed weights for them.

    They are private operators, made for torch's own compiler.
    """
    import torch

    size = sum(part.nbytes for layer in model.model.layers for part in layer.parameters())
    return size <= PACKED and (
        _is_plain(model.model.embed_tokens.weight)
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    )


def _packed(weight: torch.Tensor) -> torch.Tensor:
    import torch

    found: torch.Tensor = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), CHUNK)
    return found


def _join(modules: Sequence[Any], name: str) -> torch.Tensor:
    """Put weights below each other, and make the modules' own weights views of that."""
    import torch

    parts = [getattr(module, name) for module in modules]
    joined = torch.cat([part.data for part in parts])
    low = 0
    for part in parts:
        part.data = joined[low : low + len(part)]
        low += len(part)
    return joined


@dataclass(slots=True, eq=False)
class _Layout:
    """Where the rows of one group lie among the packed tokens, and how they attend."""

    prefix: Prefix | None
    low: int
    lengths: list[int]
    places: torch.Tensor
    """Positions in the text of the group's tokens."""
    wanted: torch.Tensor
    """Packed places of the tokens whose prediction is wanted."""
    padded: torch.Tensor | None
    """(B · T) packed place of each token, padding repeats the last; None for rows of one length."""
    back: torch.Tensor | None
    """For each packed token its place in the padded layout."""
    mask: torch.Tensor
    """(T, P + T), True where a token may look."""
    kept: list[Prefix] | None

    def store(self, depth: int, keys: torch.Tensor, values: torch.Tensor) -> None:
        """Copy the new keys and values of one layer into the prefixes that are kept."""
        assert self.kept is not None
        low = self.low
        for length, prefix in zip(self.lengths, self.kept, strict=True):
            new = slice(prefix.length - length, prefix.length)
            prefix.keys[depth, :, new] = keys[low : low + length].transpose(0, 1)
            prefix.values[depth, :, new] = values[low : low + length].transpose(0, 1)
            low += length

    def spread(self, packed: torch.Tensor) -> torch.Tensor:
        """Return the group's tokens, (B, T, heads, D), of all tokens, (N, heads, D)."""
        if self.padded is None:
            part = packed[self.low : self.low + sum(self.lengths)]
        else:
            part = packed.index_select(0, self.padded)
        return part.view(len(self.lengths), -1, *packed.shape[1:])

    def attend(
        self, depth: int, queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mixed: torch.Tensor
    ) -> None:
        """Let each token, (B, T, heads, D), look at the prefix and at the earlier tokens of its row.

        What it finds goes to its place in `mixed`, (N, heads, D).
        """
        import torch

        queries, keys, values = (part.transpose(1, 2) for part in (queries, keys, values))
        if self.prefix is not None:
            ahead = self.prefix.keys[depth].expand(len(self.lengths), -1, -1, -1)
            keys = torch.cat([ahead, keys], dim=2)
            ahead = self.prefix.values[depth].expand(len(self.lengths), -1, -1, -1)
            values = torch.cat([ahead, values], dim=2)
        found = _attention(queries, keys, values, self.mask).transpose(1, 2).flatten(0, 1)
        high = self.low + sum(self.lengths)
        if self.back is None:
            mixed[self.low : high] = found
        else:
            torch.index_select(found, 0, self.back, out=mixed[self.low : high])


def _layouts(groups: Sequence[Group], device: torch.device, kept: list[Prefix] | None) -> list[_Layout]:
    import torch

    found, low, done = [], 0, 0
    for group in groups:
        lengths = [len(row) for row in group.rows]
        before = group.prefix.length if group.prefix else 0
        longest = max(lengths)
        starts = torch.tensor([0, *lengths[:-1]]).cumsum(0) + low
        columns = torch.arange(longest)
        inside = columns < torch.tensor(lengths)[:, None]
        equal = bool(inside.all())
        padded = starts[:, None] + torch.minimum(columns, torch.tensor(lengths)[:, None] - 1)
        mask = torch.ones((longest, before + longest), dtype=torch.bool).tril(before)
        wanted = [
            torch.arange(start + first, start + last)
            for start, (first, last) in zip(starts.tolist(), group.wanted, strict=False)
        ]
        found.append(
            _Layout(
                prefix=group.prefix,
                low=low,
                lengths=lengths,
                places=(columns.expand(len(lengths), -1)[inside] + before).to(device),
                wanted=torch.cat([torch.empty(0, dtype=torch.long), *wanted]).to(device),
                padded=None if equal else padded.flatten().to(device),
                back=None if equal else inside.flatten().nonzero()[:, 0].to(device),
                mask=mask.to(device),
                kept=None if kept is None else kept[done : done + len(lengths)],
            )
        )
        low += sum(lengths)
        done += len(lengths)
    return found


class _LlamaSlots:
    """Rows filled from the left in keys and values of fixed size.

    In bfloat16 on a CPU keys lie with their positions last, and attention is two plain products: 7 to 13
    times as fast as torch's own, which is made for many tokens at a time.
    """

    def __init__(self, body: LlamaBody, rows: int, length: int) -> None:
        like = body._embed
        shape = (len(body._layers), rows, body._shared, length, body._size)
        self._body = body
        self._is_plain = _is_plain(like)
        self._keys = like.new_zeros((*shape[:3], *shape[:2:-1]) if self._is_plain else shape)
        self._values = like.new_zeros(shape)
        self._lengths: list[int] = []

    def _by_place(self, depth: int | slice) -> torch.Tensor:
        """Keys of some layers, (rows, shared heads, length, D) each, whichever way they lie."""
        keys: torch.Tensor = self._keys[depth]
        return keys.transpose(-1, -2) if self._is_plain else keys

    def admit(self, prefixes: Sequence[Prefix | None]) -> None:
        for prefix in prefixes:
            row, length = len(self._lengths), 0
            if prefix is not None:
                length = prefix.length
                self._by_place(slice(None))[:, row, :, :length] = prefix.keys
                self._values[:, row, :, :length] = prefix.values
            self._lengths.append(length)

    def step(self, tokens: Sequence[int]) -> torch.Tensor:
        import torch

        body, device = self._body, self._keys.device
        places = torch.tensor(self._lengths, device=device)
        rows = torch.arange(len(tokens), device=device)
        seen = max(self._lengths) + 1
        mask = torch.arange(seen, device=device) <= places[:, None]
        if self._is_plain:  # what is added to the scores instead
            mask = torch.zeros(mask.shape).masked_fill_(~mask, -torch.inf)
        hidden = torch.nn.functional.embedding(torch.tensor(tokens, device=device), body._embed)
        turn = body._turns(hidden, places)
        for depth, layer in enumerate(body._layers):
            queries, keys, values = body._parts(body._project(layer, hidden, turn), 1)
            self._by_place(depth)[rows, :, places] = keys
            self._values[depth, rows, :, places] = values
            if self._is_plain:
                mixed = self._attention(depth, queries, mask)
            else:
                mixed = torch.nn.functional.scaled_dot_product_attention(
                    queries[:, :, None],
                    self._keys[depth, : len(tokens), :, :seen],
                    self._values[depth, : len(tokens), :, :seen],
                    attn_mask=mask[:, None, None],
                    enable_gqa=True,
                )
            hidden = body._finish(layer, hidden, mixed.reshape(len(tokens), -1))
        self._lengths = [length + 1 for length in self._lengths]
        logits: torch.Tensor = body._head(_normed(body._norm, hidden, body._eps)).float()
        return logits

    def _attention(self, depth: int, queries: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        """Let the last token of each row look at what the row holds: (rows · shared heads, heads of each, D).

        Queries are (rows, heads, D); the bias, (rows, seen), is zero where a row may look, else minus infinity.
        """
        import torch

        n, heads, size = queries.shape
        seen = bias.shape[1]
        keys = self._keys[depth, :n].flatten(0, 1)[..., :seen]
        values = self._values[depth, :n].flatten(0, 1)[:, :seen]
        asked = (queries * size**-0.5).view(len(keys), -1, size)
        scores = torch.bmm(asked, keys).view(n, heads, seen)
        weights = (scores + bias[:, None]).softmax(-1).to(values.dtype)
        return torch.bmm(weights.view(len(keys), -1, seen), values)

    def keep(self, rows: Sequence[int]) -> None:
        keys = self._by_place(slice(None))
        for new, old in enumerate(rows):  # rows ascend, so no row is overwritten before its move
            if new != old:
                length = self._lengths[old]
                keys[:, new, :, :length] = keys[:, old, :, :length]
                self._values[:, new, :, :length] = self._values[:, old, :, :length]
        self._lengths = [self._lengths[row] for row in rows]


Body = GeneralBody | LlamaBody
"""A frozen model as the scorer and the sampler use it."""
