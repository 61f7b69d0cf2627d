"""A scorer that turns wrong while it works is found out, and none of its wrong scores is ever used."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import pytest

from mop.backends import recheck
from mop.backends.ask import score_requests as ask
from mop.backends.base import as_scorer
from mop.backends.fake_server import FakeServer, Reply
from mop.backends.recheck import GAP, LAST, Question, Rechecks
from mop.backends.retry import CallError
from mop.config import RemoteSettings
from mop.errors import BackendError
from mop.prompts import simulation_prompt
from mop.randomness import uniforms
from mop.storage.store import Store, score_key
from mop.types import ScoreRequest
from test_remote import connect, exact

N_PROBES = 24  # calls before the first item


class Turning(FakeServer):
    """Honest up to a call; then its log-probabilities are halved, noisy, or those of the question before."""

    def __init__(self, mode: str, after: int, until: int = 10**9, share: float = 1.0) -> None:
        super().__init__("vllm")
        self.mode, self.after, self.until, self.share = mode, after, until, share
        self.before: list[float] = []

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        reply = super().reply(method, path, headers, body)
        if method != "POST" or reply.status != 200:
            return reply
        answer = json.loads(reply.body)
        rows = [next(iter(row.values())) for row in answer["choices"][0]["prompt_logprobs"][1:]]
        values = [row["logprob"] for row in rows]
        u = uniforms(self.calls, 0, len(values) + 1)
        if self.after < self.calls <= self.until and u[-1] < self.share:
            for place, row in enumerate(rows):
                if self.mode == "half":
                    row["logprob"] = values[place] / 2
                elif self.mode == "noise":
                    row["logprob"] = values[place] - float(u[place])
                elif place < len(self.before):
                    row["logprob"] = self.before[place]
        self.before = values
        return Reply(200, json.dumps(answer).encode())


def many(n: int) -> list[ScoreRequest]:
    endings = ["was long", "had a good song", "made me laugh out loud", "bored us", "ends too soon for my taste"]
    return [
        ScoreRequest(simulation_prompt(f"evening {i}", persona="you dance"), f"the show {i} {endings[i % 5]}")
        for i in range(n)
    ]


def wrong(store: Store, identity: str, requests: Sequence[ScoreRequest]) -> tuple[int, int]:
    """How many scores would be used, and how many of them are not the toy model's."""
    keys, truth = [score_key(identity, request) for request in requests], exact(requests)
    found = store.get_scores(keys)
    bad = [k for i, k in enumerate(keys) if k in found and abs(found[k].log_lik[0] - truth[i].log_lik[0]) > 1e-3]
    return len(found), len(bad)


@pytest.mark.audit("H3")
@pytest.mark.parametrize("mode", ["half", "noise", "stale"])
@pytest.mark.parametrize(
    ("n", "after"), [(60, 50), (120, 84), (300, 30), (300, 322), (700, 94), (700, 560), (1300, 1100)]
)
def test_no_wrong_score_is_ever_used(mode: str, n: int, after: int) -> None:
    requests = many(n)
    with Store(":memory:") as store:
        model = as_scorer(connect(Turning(mode, after)))
        with pytest.raises(BackendError, match="now scores a known sentence"):
            ask(requests, model, store)
        n_used, n_wrong = wrong(store, model.score_identity, requests)
        assert n_wrong == 0
        assert n_used >= min(after - N_PROBES, n) - 2 * GAP[1]  # what was confirmed stays
        assert "unchecked score" not in store.counts()
        again = ask(requests, as_scorer(connect(FakeServer("vllm"))), store)
        assert wrong(store, model.score_identity, requests) == (n, 0)
        assert len(again) == n
        assert store.verify() == []


@pytest.mark.audit("H3")
@pytest.mark.advice
@pytest.mark.parametrize("remedy", ["the earlier model again", "a new revision"])
def test_what_the_message_advises_works(remedy: str) -> None:
    requests = many(200)
    with Store(":memory:") as store:
        with pytest.raises(
            BackendError,
            match="will be asked again: run the same command when the earlier model is served again, or set a new "
            "revision for this server",
        ):
            ask(requests, as_scorer(connect(Turning("half", 100))), store)
        if remedy == "the earlier model again":
            found = ask(requests, as_scorer(connect(FakeServer("vllm"))), store)
            assert found[0].log_lik[0] == pytest.approx(exact(requests)[0].log_lik[0], abs=1e-3)
        else:
            model = as_scorer(connect(Turning("half", 0), settings=RemoteSettings(dialect="vllm", revision="2")))
            found = ask(requests, model, store)
            assert found[0].log_lik[0] == pytest.approx(exact(requests)[0].log_lik[0] / 2, abs=1e-3)


@pytest.mark.audit("H3")
def test_a_fault_of_a_third_of_the_answers_is_found_in_nine_runs_of_ten() -> None:
    requests = many(900)
    found = 0
    for seed in range(20):
        with Store(":memory:") as store:
            model = connect(Turning("noise", 40 + seed, share=1 / 3))
            model._rechecks = Rechecks(seed)  # type: ignore[attr-defined]
            try:
                ask(requests, as_scorer(model), store)
            except BackendError:
                found += 1
                assert "unchecked score" not in store.counts()
    assert found >= 18


def test_an_honest_server_costs_two_calls_in_a_hundred_and_changes_nothing() -> None:
    for n in (150, 400, 1000, 3000):
        server, requests = FakeServer("vllm"), many(n)
        model = connect(server)
        with Store(":memory:") as store:
            found = ask(requests, as_scorer(model), store, stage="fit")
            assert store.spent() == {"fit": (n, sum(one.n_tokens for one in found))}
            assert store.counts()["score"] == n
            assert wrong(store, as_scorer(model).score_identity, requests) == (n, 0)
        extra = server.calls - N_PROBES - n
        assert extra == model.ledger.checks
        assert f" calls ({extra} of them checks)" in model.ledger.line()
        assert LAST <= extra <= 0.02 * n + 1


def test_two_addresses_are_each_checked_at_the_end() -> None:
    servers = FakeServer("vllm"), Turning("half", 60)
    requests = many(120)
    with Store(":memory:") as store:
        model = as_scorer(connect(*servers))
        with pytest.raises(BackendError, match=r"http://127.0.0.1:2/v1: stopped: it now scores a known sentence"):
            ask(requests, model, store)
        assert wrong(store, model.score_identity, requests)[1] == 0


def test_scores_that_could_not_be_checked_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    class Falling(FakeServer):
        def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
            reply = super().reply(method, path, headers, body)
            return Reply(400, b"{}") if method == "POST" and self.calls > N_PROBES + 50 else reply

    requests = many(50)
    with Store(":memory:") as store:
        model = as_scorer(connect(Falling("vllm")))
        with pytest.raises(BackendError, match="these scores are kept and not used yet; run the same command again"):
            ask(requests, model, store)
        assert wrong(store, model.score_identity, requests) == (0, 0)
        assert store.counts()["unchecked score"] == 50
        server = FakeServer("vllm")
        assert len(ask(requests, as_scorer(connect(server)), store)) == 50  # the advice
        assert server.calls == N_PROBES + 5 + LAST
        assert store.spent()["score"].calls == 50  # none is paid twice in the account of stages
        assert "unchecked score" not in store.counts()


# ---------------------------------------------------------------- the choice of questions, without a server


def question(i: int) -> Question:
    return Question([i], 1, (-1.0, -2.0, float(-i)), ())


def test_a_check_asks_what_is_known_and_what_is_new_and_confirms_what_came_before_it() -> None:
    checks = Rechecks(3)
    checks.begin([question(i) for i in range(5)])
    for i in range(100, 110):
        checks.note(question(i))
    check, [known, recent] = checks.choose(2)
    assert known.ids[0] < 5
    assert recent.ids[0] >= 100
    checks.note(question(200))
    for one in (known, recent):
        assert checks.confirmed == 0
        checks.judge(check, one, one.log_probs)
    assert checks.confirmed == 10
    assert checks.is_open
    later, questions = checks.choose(2)
    earlier, _ = checks.choose(2)
    for one in questions:
        checks.judge(later, one, one.log_probs)
    assert (checks.confirmed, checks.is_open) == (11, False)
    checks.confirm(earlier)  # nothing is taken back
    assert checks.confirmed == 11
    with pytest.raises(CallError, match="now scores a known sentence 0.5 nats per token"):
        checks.judge(earlier, known, tuple(value - 0.5 for value in known.log_probs))


def test_checks_come_at_random_and_go_on_over_short_streams() -> None:
    places = [i for i in range(30_000) if (checks := _kept(i)) and checks.is_due()]
    gaps = [b - a for a, b in pairwise(places)]
    assert min(gaps) >= GAP[0]
    assert max(gaps) <= GAP[1]
    assert len(set(gaps)) > 50


_CHECKS: dict[str, Any] = {}


def _kept(i: int) -> Rechecks:
    checks: Rechecks = _CHECKS.setdefault("one", Rechecks(1))
    if i % 40 == 0:
        checks.begin([])
    return checks


def test_memory_of_good_answers_is_bounded() -> None:
    checks = Rechecks(1)
    for i in range(1000):
        checks.note(question(i))
        if i % 50 == 49:
            checks.confirm(checks.choose(0)[0])
    assert len(checks._good) == recheck._KEPT
    assert len({one.ids[0] // 100 for one in checks._good}) >= 3
