"""The tree of shared beginnings against what it must be: every token once, nothing shared too far."""

from __future__ import annotations

import random

from mop.backends.tree import plan


def walk(root, sequences):
    """Yield (sequence, where its own rest begins, the ids on the way there)."""

    def visit(node, before):
        ids = before
        if node is not root:
            assert node.start == len(before)
            ids = before + sequences[node.example][node.start : node.end]
        for leaf in node.leaves:
            yield leaf, node.end, ids
        for child in node.children:
            yield from visit(child, ids)

    return list(visit(root, []))


def test_three_prompts_with_two_common_stretches():
    persona, exemplar = list(range(10, 30)), list(range(50, 70))
    sequences = [persona + exemplar + [1], persona + exemplar + [2], [*persona, 3], [4, 5]]
    root = plan(sequences, [len(ids) - 1 for ids in sequences])
    (child,) = root.children
    assert (child.start, child.end, child.leaves) == (0, 20, [2])
    (grandchild,) = child.children
    assert (grandchild.start, grandchild.end, grandchild.leaves) == (20, 40, [0, 1])
    assert root.leaves == [3]


def test_every_sequence_hangs_once_below_its_own_beginning():
    draw = random.Random(0)
    parts = [[draw.randrange(9) for _ in range(draw.randrange(1, 20))] for _ in range(6)]
    sequences = [
        [token for part in draw.choices(parts, k=draw.randrange(1, 5)) for token in part] + [99] for _ in range(200)
    ]
    limits = [draw.randrange(len(ids)) for ids in sequences]
    found = walk(plan(sequences, limits), sequences)
    assert sorted(leaf for leaf, _, _ in found) == list(range(200))
    for leaf, start, ids in found:
        assert sequences[leaf][:start] == ids
        assert start <= limits[leaf]


def test_a_shared_stretch_is_computed_once():
    shared = list(range(100))
    sequences = [[*shared, token] for token in range(5)]
    root = plan(sequences, [100] * 5)
    assert [(node.start, node.end, len(node.leaves)) for node in root.children] == [(0, 100, 5)]


def test_a_stretch_that_saves_next_to_nothing_gets_no_node():
    root = plan([[1, 2, 3], [1, 2, 4]], [2, 2])
    assert root.children == []
    assert sorted(root.leaves) == [0, 1]


def test_long_chains_of_prefixes_end_at_a_depth_and_lose_nothing():
    text = list(range(10_000))
    sequences = [text[: 9 * n] for n in range(1, 1000)]
    found = walk(plan(sequences, [len(ids) - 1 for ids in sequences]), sequences)
    assert sorted(leaf for leaf, _, _ in found) == list(range(999))
    assert all(sequences[leaf][:start] == ids for leaf, start, ids in found)


def test_nothing_gives_an_empty_tree():
    root = plan([], [])
    assert (root.children, root.leaves) == ([], [])
