"""Scores wait, marked, until a check has passed; a killed command leaves them so."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from mop.backends.ask import score_requests
from mop.backends.fake import FakeModel
from mop.backends.fake_server import FakeServer, start
from mop.backends.remote import open_remote
from mop.backends.retry import CallError
from mop.errors import BackendError
from mop.prompts import simulation_prompt
from mop.storage.store import Store, score_key
from mop.types import Score, ScoreRequest

REQUESTS = [ScoreRequest(simulation_prompt(f"evening {i}"), "we danced " + "and sang " * (i % 3)) for i in range(40)]


class Confirming(FakeModel):
    """Confirms every ten answers, and fails a check after so many of them."""

    name = "confirming"
    confirmed = 0

    def __init__(self, fails_at: int = 10**9, *, shift: float = 0.0, code: str = "swapped") -> None:
        super().__init__([1.0], batch_size=4)
        self.fails_at, self.shift, self.code = fails_at, shift, code
        self.asked = 0

    def score(self, requests: Sequence[ScoreRequest]) -> Iterator[list[tuple[int, Score]]]:
        self.confirmed, done = 0, 0
        for batch in super().score(requests):
            self.asked += len(batch)
            yield [(i, Score(one.log_lik + np.float32(self.shift), one.n_tokens)) for i, one in batch]
            done += len(batch)
            if done >= self.fails_at:
                raise CallError("stopped: other values", kind="fatal", code=self.code)
            self.confirmed = done // 10 * 10
        self.confirmed = done


def keys(model: FakeModel) -> list[bytes]:
    return [score_key(model.score_identity, request) for request in REQUESTS]


@pytest.mark.audit("H3")
def test_a_failed_check_drops_what_came_since_the_last_good_one() -> None:
    with Store(":memory:") as store:
        with pytest.raises(BackendError, match="other values"):
            score_requests(REQUESTS, Confirming(26), store)
        assert store.counts()["score"] == 20
        assert "unchecked score" not in store.counts()
        model = Confirming()
        found = score_requests(REQUESTS, model, store)
        assert model.asked == 20
        plain = score_requests(REQUESTS, FakeModel([1.0]), Store(":memory:"))
        assert [one.log_lik for one in found] == [one.log_lik for one in plain]
        assert store.spent()["score"].calls == 48  # eight were paid for twice


def test_another_error_keeps_what_was_not_checked_and_the_next_command_looks_at_some() -> None:
    with Store(":memory:") as store:
        with pytest.raises(BackendError, match="other values"):
            score_requests(REQUESTS, Confirming(26, code="timeout"), store)
        assert (store.counts()["score"], store.counts()["unchecked score"]) == (20, 8)
        assert store.get_scores(keys(Confirming())).keys() & store.get_unchecked(keys(Confirming())).keys() == set()
        model = Confirming()
        score_requests(REQUESTS, model, store)
        assert model.asked == 5 + 12
        assert store.counts() == {"score": 40, "generation": 0, "embedding": 0, "conflict": 0}
        assert store.spent()["score"].calls == 40


def test_unchecked_scores_that_come_out_otherwise_are_asked_again(caplog: pytest.LogCaptureFixture) -> None:
    with Store(":memory:") as store:
        with pytest.raises(BackendError):
            score_requests(REQUESTS, Confirming(26, code="timeout", shift=-3.0), store)
        model = Confirming()
        found = score_requests(REQUESTS, model, store)
        assert "8 scores that no check had followed come out otherwise now" in caplog.text
        assert model.asked == 5 + 20
        assert len(found) == 40


def test_what_is_unchecked_survives_and_is_verified_like_the_rest(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    with Store(file) as store:
        some = [(key, Score(np.array([-1.0], np.float32), 2)) for key in keys(FakeModel())[:3]]
        store.put_scores(some, is_checked=False)
    with Store(file) as store:
        assert store.verify() == []
        assert list(store.get_unchecked(keys(FakeModel()))) == [key for key, _ in some]
        store._db.execute("UPDATE unchecked SET payload = x'00' WHERE key = ?", (some[0][0],))
        assert store.verify() == ["1 unchecked rows are damaged and count as missing"]
        store.accept_scores([key for key, _ in some])
        assert store.counts()["score"] == 2  # the damaged one is missing, and asked again
        store.drop_scores(keys(FakeModel()))
        assert store.counts()["score"] == 2


@pytest.mark.audit("H3")
def test_a_command_that_is_killed_between_two_checks_leaves_its_scores_marked(tmp_path: Path) -> None:
    file = tmp_path / "s.db"
    code = f"""
        import os, signal, sys
        from mop.backends.ask import score_requests
        from mop.backends.remote import open_remote
        from mop.prompts import simulation_prompt
        from mop.storage.store import Store
        from mop.types import ScoreRequest
        R = [
            ScoreRequest(simulation_prompt(f"evening {{i}}"), "we danced " + "and sang " * (i % 3)) for i in range(150)
        ]
        def tell(stage, done, total):
            if done:
                os.kill(os.getpid(), signal.SIGKILL)
        with Store({str(file)!r}) as store:
            model = open_remote(sys.argv[1], tokenizer="fake", dialect="vllm", max_concurrency=4)
            score_requests(R, model, store, progress=tell)
    """
    requests = [
        ScoreRequest(simulation_prompt(f"evening {i}"), "we danced " + "and sang " * (i % 3)) for i in range(150)
    ]
    server = FakeServer("vllm", delay_s=0.02)
    with start(server) as running:
        name = f"openai:toy@{running.url}"
        done = subprocess.run([sys.executable, "-c", textwrap.dedent(code), name], env={**os.environ}, timeout=60)
        assert done.returncode == -signal.SIGKILL
        with Store(file) as store:
            n_waiting = store.counts()["unchecked score"]
            assert (store.counts()["score"], n_waiting > 0) == (0, True)
            before = server.calls
            model = open_remote(name, tokenizer="fake", dialect="vllm", max_concurrency=4)
            assert len(score_requests(requests, model, store)) == 150
            # The probe, five of the waiting, the others, and a check after each of the two.
            assert server.calls - before == 24 + min(5, n_waiting) + (150 - n_waiting) + 2 * 3
            assert store.counts() == {"score": 150, "generation": 0, "embedding": 0, "conflict": 0}
            assert store.spent()["score"].calls == 150
