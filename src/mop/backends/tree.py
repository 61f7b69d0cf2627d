"""Which beginnings several prompts share, and in what order to compute them.

Sorted as lists of ids, prompts with a common beginning stand next to each other. The plan is a tree: an inner node is a
stretch of tokens that at least two prompts share, a leaf is what remains of one prompt. Each stretch is computed once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise

_LEAST_SAVING = 8
"""Tokens that a shared stretch must save, all its users together, to be worth a step of its own."""

_DEEPEST = 64
"""Shared stretches on one way from the root: what is shared below is computed again."""


@dataclass(slots=True)
class Node:
    """Tokens ``start`` to ``end`` of sequence ``example``, shared by all leaves below."""

    example: int
    start: int
    end: int
    children: list[Node] = field(default_factory=list)
    leaves: list[int] = field(default_factory=list)
    """Indices of the sequences whose own rest begins at ``end``."""


def plan(sequences: Sequence[Sequence[int]], limits: Sequence[int]) -> Node:
    """Return the root (an empty stretch) of the tree of shared beginnings of sequences of token ids.

    Limits say how many tokens of each may be shared: what is wanted from later ones is computed in its own leaf.
    """
    order = sorted(range(len(sequences)), key=lambda index: list(sequences[index]))
    shared = [0]
    for before, after in pairwise(order):
        most = min(limits[before], limits[after])
        shared.append(_common(sequences[before], sequences[after], most))
    root = Node(example=-1, start=0, end=0)
    _fill(root, order, shared, 0, len(order), _DEEPEST)
    return root


def _fill(node: Node, order: list[int], shared: list[int], low: int, high: int, deep: int) -> None:
    """Hang the sequences ``order[low:high]``, which share the node's stretch, below it."""
    first = low
    while first < high:
        last = first + 1
        while last < high and shared[last] > node.end:
            last += 1
        _attach(node, order, shared, first, last, deep)
        first = last


def _attach(node: Node, order: list[int], shared: list[int], low: int, high: int, deep: int) -> None:
    """Hang a run in which every neighbour shares more than the node does, up to ``deep`` levels."""
    if high - low > 1 and deep:
        end = min(shared[low + 1 : high])
        if (end - node.end) * (high - low - 1) >= _LEAST_SAVING:
            child = Node(example=order[low], start=node.end, end=end)
            node.children.append(child)
            _fill(child, order, shared, low, high, deep - 1)
            return
        # The run shares too little as a whole, but parts of it may share more.
        cut = [place for place in range(low + 1, high) if shared[place] == end]
        for first, last in zip([low, *cut], [*cut, high], strict=True):
            _attach(node, order, shared, first, last, deep)
        return
    node.leaves += order[low:high]


def _common(one: Sequence[int], other: Sequence[int], most: int) -> int:
    length = min(most, len(one), len(other))
    if one[:length] == other[:length]:
        return length
    low, high = 0, length  # the first `low` are equal, the first `high` are not
    while high - low > 1:
        middle = (low + high) // 2
        if one[:middle] == other[:middle]:
            low = middle
        else:
            high = middle
    return low
