"""Records that no component explains are found and described."""

import numpy as np
import pytest

from conftest import reviews
from mop.backends.fake import FakeModel
from mop.mixture.cells import Cells
from mop.mixture.coverage import component_gap, coverage, propose_persona
from mop.storage.store import Store


def cells(log_lik):
    n, m = log_lik.shape
    return Cells(
        np.tile(np.arange(m), (n, 1)), np.zeros((n, m), np.int64), log_lik[..., None].astype(np.float32),
        np.ones((n, m), bool),
    )  # fmt: skip


def test_the_gap_is_that_of_the_best_component_per_token():
    gap = component_gap(
        cells(np.array([[-10.0, -14.0], [-30.0, -21.0]])), np.array([[-12.0], [-20.0]]),
        np.array([4, 10]), np.ones(2), (1.0,),
    )  # fmt: skip
    assert gap.tolist() == pytest.approx([0.5, -0.1])


def test_uncovered_records_are_listed_first_and_get_a_persona():
    records, lm = reviews(24), FakeModel()
    log_lik = np.full((24, 2), -1.0)
    log_lik[[3, 8, 13, 18], :] = -900.0
    found = coverage(
        records, Cells(
            np.zeros((24, 2), np.int64), np.zeros((24, 2), np.int64),
            np.repeat(log_lik[..., None], len(lm.betas), axis=2).astype(np.float32),
            np.ones((24, 2), bool)),
        np.ones(1), n_examined=24, scorer=lm, store=Store(":memory:"), task="a review",
    )  # fmt: skip
    assert (found["n_examined"], found["n_uncovered"]) == (24, 4)
    assert {row["key"] for row in found["least"][:4]} == {"r3", "r8", "r13", "r18"}
    assert [row["is_uncovered"] for row in found["least"]] == [True] * 4 + [False] * 6
    assert found["proposed"].startswith("You")


def test_a_proposed_persona_speaks_of_what_sets_the_records_apart():
    records = reviews(32)
    bad = [i for i, record in enumerate(records) if record.label == "bad"]
    description = propose_persona(records, bad).description
    assert any(word in description for word in ("dull", "slow", "bore"))
    assert "joy" not in description
