"""Inversion, truncation and the coming and going of rows, with a body whose logits are by hand."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from mop.backends.decode import Draft, invert, write  # noqa: E402
from mop.errors import BackendError  # noqa: E402
from mop.randomness import uniforms  # noqa: E402
from mop.types import Decoding  # noqa: E402

END = 4
LOGITS = torch.log(torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05]))


class Fixed:
    """A body that knows one distribution, and writes down how many rows each step had."""

    def __init__(self):
        self.steps = []

    def slots(self, rows, length):
        assert rows <= 6
        self._rows = 0
        return self

    def admit(self, prefixes):
        self._rows += len(prefixes)

    def step(self, tokens):
        assert len(tokens) == self._rows <= 6
        self.steps.append(len(tokens))
        return LOGITS.repeat(len(tokens), 1)

    def keep(self, rows):
        self._rows = len(rows)


def draft(index, temperature=1.0, branches=1):
    return Draft(
        index=index,
        prompts=[[0, 1]] * branches,
        temperatures=[temperature] * branches,
        seed=1000 + index,
    )


def run(drafts, decoding, body=None):
    found = {}
    for batch in write(
        body or Fixed(), drafts, decoding, end_ids=frozenset({END}), rows=6, prefill=lambda heads: [None] * len(heads)
    ):
        found.update({one.index: one for one in batch})
    return found


def expected(seed, probs, n):
    edges, drawn = np.cumsum(probs) / np.sum(probs), []
    while len(drawn) < n and END not in drawn:
        drawn.append(int(np.searchsorted(edges, uniforms(seed, len(drawn), 1)[0], side="right")))
    return drawn


@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_every_draft_follows_its_own_stream(temperature):
    probs = torch.softmax(LOGITS.double() / temperature, 0).numpy()
    found = run([draft(i, temperature) for i in range(40)], Decoding(max_tokens=9))
    for i in range(40):
        assert found[i].drawn == expected(1000 + i, probs, 9)
        assert found[i].log_lik == pytest.approx(np.log(probs[found[i].drawn]).sum(), abs=1e-5)
        assert found[i].finish_reason == ("stop" if END in found[i].drawn else "length")


def test_finished_rows_make_room_for_waiting_ones():
    body = Fixed()
    run([draft(i) for i in range(40)], Decoding(max_tokens=30), body)
    assert max(body.steps) == 6
    busy = body.steps[: -len(body.steps) // 4]
    assert np.mean(busy) > 5


def test_drafts_of_several_branches_take_several_rows():
    body = Fixed()
    found = run([draft(i, branches=1 + i % 3) for i in range(12)], Decoding(max_tokens=5), body)
    alone = run([draft(i) for i in range(12)], Decoding(max_tokens=5))
    assert {i: one.drawn for i, one in found.items()} == {i: one.drawn for i, one in alone.items()}


@pytest.mark.parametrize(
    ("decoding", "kept"),
    [
        (Decoding(max_tokens=9, top_k=2), [0, 1]),
        (Decoding(max_tokens=9, top_p=0.5), [0, 1]),
        (Decoding(max_tokens=9, top_p=0.71), [0, 1, 2]),
        (Decoding(max_tokens=9, top_k=4, top_p=0.8), [0, 1, 2]),
        (Decoding(max_tokens=9, min_tokens=9), [0, 1, 2, 3]),
    ],
)
def test_truncation_leaves_out_exactly_the_least_likely(decoding, kept):
    probs = np.zeros(5)
    probs[kept] = torch.softmax(LOGITS.double(), 0).numpy()[kept]
    found = run([draft(i) for i in range(30)], decoding)
    for i in range(30):
        assert found[i].drawn == expected(1000 + i, probs, 9)
        shares = (probs / probs.sum())[found[i].drawn]
        assert found[i].log_lik == pytest.approx(np.log(shares).sum(), abs=1e-5)


def test_a_piece_says_after_every_step_that_it_is_alive():
    """So that whoever runs it beside others can end it between two steps."""
    body = Fixed()
    pieces = write(
        body, [draft(0)], Decoding(max_tokens=9, min_tokens=9), end_ids=frozenset({END}),
        rows=6, prefill=lambda heads: [None] * len(heads),
    )  # fmt: skip
    assert [len(finished) for finished in pieces] == [0] * 8 + [1]


def test_logits_that_are_not_numbers_name_the_request():
    class Broken(Fixed):
        def step(self, tokens):
            logits = super().step(tokens)
            logits[2] = torch.nan
            return logits

    drafts = [draft(0, branches=2), draft(1), draft(2)]
    drafts[1].name = "record 'r7'"
    with pytest.raises(BackendError, match="not finite numbers for record 'r7', so nothing can"):
        run(drafts, Decoding(max_tokens=3), Broken())


def test_a_prefill_is_asked_for_only_if_there_is_room():
    asked = []
    drafts = [draft(i, branches=4) for i in range(3)]
    for _ in write(
        Fixed(), drafts, Decoding(max_tokens=3), end_ids=frozenset({END}), rows=6,
        prefill=lambda heads: asked.append(len(heads)) or [None] * len(heads),
    ):  # fmt: skip
        pass
    assert asked == [4, 4, 4]


def test_inversion_finds_every_token_at_its_share():
    torch.manual_seed(3)
    masses = torch.rand(700)
    masses[100:400] = 0
    edges = torch.cumsum(masses.double(), 0) / masses.double().sum()
    points = torch.linspace(0, 1, 3001, dtype=torch.float64)[:-1]
    tokens, log_liks = invert(masses.expand(3000, -1), points)
    expected_tokens = torch.searchsorted(edges, points, right=True)
    # At a border, rounding may pick the neighbour.
    assert (tokens != expected_tokens).float().mean() < 0.002
    assert torch.allclose(log_liks.exp(), (masses / masses.sum())[tokens].double(), atol=1e-9)
    assert (masses[tokens] > 0).all()


def test_inversion_at_the_very_end_finds_the_last_token_that_has_mass():
    masses = torch.zeros(1, 600)
    masses[0, [3, 511]] = torch.tensor([1.0, 1e-3])
    token, _ = invert(masses, torch.tensor([1 - 2**-53], dtype=torch.float64))
    assert token.tolist() == [511]
