"""Drawing responses token by token, many rows at a time.

Token t of a request is found by inverting the distribution function of the model's next-token
distribution at draw t of the request's own stream. So a text depends on its request and the
model, not on what else is written beside it. Rows that finish make room for waiting ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from mop.backends.forward import Body, Prefix
from mop.errors import BackendError
from mop.randomness import uniforms
from mop.types import Decoding, FinishReason

if TYPE_CHECKING:
    import torch

_BLOCK = 256  # tokens whose probabilities are summed before the search looks inside


@dataclass(slots=True, eq=False)
class Draft:
    """A response that is being written."""

    index: int
    """Place of its request in the list that was asked for."""
    prompts: list[list[int]]
    """Token ids of each branch."""
    temperatures: list[float]
    seed: int
    drawn: list[int] = field(default_factory=list)
    log_lik: float = 0.0
    finish_reason: FinishReason | None = None
    name: str = ""
    """What errors call its request."""


def write(
    body: Body,
    drafts: Sequence[Draft],
    decoding: Decoding,
    *,
    end_ids: frozenset[int],
    rows: int,
    prefill: Callable[[Sequence[Sequence[int]]], list[Prefix | None]],
) -> Iterator[list[Draft]]:
    """Finish every draft, taken up in order; yields after each step those that it has finished, maybe none.

    A drawn id of ``end_ids`` ends a response. So many ``rows`` (branches) are written at the same time, at least as
    many as a draft has. ``prefill`` turns prompts into what the body knows of them and shares what they have in common.

    Raises
    ------
    BackendError
        If the model returns logits that are not numbers.
    """
    import torch

    waiting = deque(drafts)
    longest = max(len(prompt) for draft in drafts for prompt in draft.prompts)
    slots = body.slots(rows, longest + decoding.max_tokens)
    live: list[Draft] = []
    while waiting or live:
        used = sum(len(draft.prompts) for draft in live)
        if waiting and (not live or rows - used >= max(1, rows // 8)):
            new = _next(waiting, rows - used)
            if new:
                heads = [prompt[:-1] for draft in new for prompt in draft.prompts]
                slots.admit(prefill(heads))
                live += new
        # A row that was just taken up is fed the last token of its prompt, others their last draw.
        tokens = [draft.drawn[-1] if draft.drawn else prompt[-1] for draft in live for prompt in draft.prompts]
        with torch.inference_mode():
            logits = slots.step(tokens)
            _append(live, logits, decoding, end_ids)
        finished = [draft for draft in live if draft.finish_reason]
        if finished:
            owners = [draft for draft in live for _ in draft.prompts]
            slots.keep([row for row, draft in enumerate(owners) if not draft.finish_reason])
            live = [draft for draft in live if not draft.finish_reason]
        yield finished


def _next(waiting: deque[Draft], room: int) -> list[Draft]:
    """Take drafts from the queue as long as their branches find room."""
    taken = []
    while waiting and len(waiting[0].prompts) <= room:
        taken.append(waiting.popleft())
        room -= len(taken[-1].prompts)
    return taken


def _append(live: Sequence[Draft], logits: torch.Tensor, decoding: Decoding, end_ids: frozenset[int]) -> None:
    """Draw the next token of every draft from the logits of its branches."""
    import torch

    device = logits.device
    temperatures = [value for draft in live for value in draft.temperatures]
    logits /= torch.tensor(temperatures, device=device)[:, None]
    owners = [place for place, draft in enumerate(live) for _ in draft.prompts]
    early = [row for row, owner in enumerate(owners) if len(live[owner].drawn) < decoding.min_tokens]
    if early:
        ends = torch.tensor(sorted(end_ids), device=device)
        logits[torch.tensor(early, device=device)[:, None], ends] = -torch.inf
    most = logits.amax(dim=-1, keepdim=True)
    if not bool(torch.isfinite(most).all()):
        draft = live[owners[int((~torch.isfinite(most[:, 0])).nonzero()[0])]]
        raise BackendError(
            f"the model returned logits that are not finite numbers for {draft.name or f'request {draft.index}'}, so "
            "nothing can be drawn; choose float32 with dtype='float32', or check the model's weights"
        )
    masses = logits.sub_(most).exp_()
    if len(owners) > len(live):
        shares = torch.tensor([1 / len(draft.prompts) for draft in live for _ in draft.prompts], device=device)
        parts = masses * (shares / masses.sum(dim=-1))[:, None]
        masses = parts.new_zeros((len(live), parts.shape[1]))
        masses.index_add_(0, torch.tensor(owners, device=device), parts)
    if decoding.top_k or decoding.top_p < 1:
        masses = _truncated(masses, decoding)
    points = [float(uniforms(draft.seed, len(draft.drawn), 1)[0]) for draft in live]
    drawn, log_liks = invert(masses, torch.tensor(points, dtype=torch.float64, device=device))
    for draft, token, log_lik in zip(live, drawn.tolist(), log_liks.tolist(), strict=True):
        draft.drawn.append(token)
        draft.log_lik += log_lik
        if token in end_ids:
            draft.finish_reason = "stop"
        elif len(draft.drawn) == decoding.max_tokens:
            draft.finish_reason = "length"


def _truncated(masses: torch.Tensor, decoding: Decoding) -> torch.Tensor:
    """Set to zero what top-k and top-p leave out."""
    ordered, places = masses.sort(dim=-1, descending=True)
    if decoding.top_k:
        ordered[:, decoding.top_k :] = 0
    if decoding.top_p < 1:
        before = ordered.double().cumsum(dim=-1) - ordered
        ordered[before >= decoding.top_p * ordered.sum(dim=-1, keepdim=True)] = 0
    return masses.zero_().scatter_(1, places, ordered)


def invert(masses: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the token at which the running sum of each row passes its point.

    Parameters
    ----------
    masses : Tensor, shape (B, V), float32
        Not negative, any positive sum.
    points : Tensor, shape (B,), float64
        In [0, 1).

    Returns
    -------
    tokens : Tensor of int64, shape (B,)
    log_liks : Tensor of float64, shape (B,)
        Natural log of mass / sum of the row.

    Notes
    -----
    The vocabulary is summed in blocks; only the block that holds the point is looked into.
    """
    import torch

    missing = -masses.shape[1] % _BLOCK
    if missing:
        masses = torch.nn.functional.pad(masses, (0, missing))
    blocks = masses.view(len(masses), -1, _BLOCK)
    ends = blocks.sum(dim=-1).double().cumsum(dim=-1)
    total = ends[:, -1:]
    goal = points[:, None] * total
    block = torch.searchsorted(ends, goal, right=True).clamp_(max=ends.shape[1] - 1)
    ahead = torch.where(block > 0, ends.gather(1, (block - 1).clamp(min=0)), 0.0)
    rows = torch.arange(len(masses), device=masses.device)
    inside = blocks[rows, block[:, 0]].double()
    sums = inside.cumsum(dim=-1)
    # Block sums and running sums are rounded apart, so the rest is kept below the block's sum.
    rest = torch.minimum(goal - ahead, sums[:, -1:] * (1 - 2**-50))
    place = torch.searchsorted(sums, rest, right=True)
    log_lik = (inside.gather(1, place) / total).log()
    return (block * _BLOCK + place)[:, 0], log_lik[:, 0]
