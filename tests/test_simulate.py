"""Simulation: provenance, seeds, streaming, mixing, and runs that are killed or run out of disk."""

import itertools
import logging
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from mop.backends.ask import Drawing, FailedDraws
from mop.backends.base import Failure
from mop.backends.fake import FakeModel
from mop.errors import ArtifactError, BackendError, DataError
from mop.mixture.score import Scoring, score_table
from mop.prompts import PROMPT_VERSION, simulation_prompt
from mop.randomness import derive_seed
from mop.simulate.rows import read_responses, write_responses
from mop.simulate.write import CUT_SHARE, cut_notes, cut_share, simulate
from mop.storage.files import read_jsonl
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store
from mop.types import Agent, Branch, Decoding, GenerateRequest, Persona, Record

BETAS = (0.5, 1.0, 2.0)
WORDS = ["good", "dull", "fine", "odd", "long", "sharp", "slow"]
RECORDS = [
    Record(key=f"r{i}", context=f"Film {i}.", response=f"{WORDS[i % 7]} {WORDS[i * i % 5]} {i}", label="ab"[i % 2])
    for i in range(40)
]
PERSONAS = [Persona(key=f"p{k}", description=word * 3) for k, word in enumerate(WORDS[:3])]
EXEMPLARS = [Record(key="e0", context="x", response="zzz"), *RECORDS[:2]]
COMPONENTS = [(k, j) for k in (0, 1, None) for j in (0, 1, None)]
SEED = 7


def run(contexts, agents, *, method="mop", store=None, model=None, **options):
    with Store(":memory:") if store is None else _kept(store) as store:
        drawing = Drawing(generator=model or FakeModel(BETAS), store=store, seed=SEED, **options)
        return list(simulate(contexts, agents, PERSONAS, EXEMPLARS, drawing, method=method))


@contextmanager
def _kept(store):
    yield store


def agents_for(contexts):
    return [Agent(i % 3, (i % 3,), 0.5 + i % 2, log_pi=-1.0, log_omega=-0.5) for i in range(len(contexts))]


def test_a_response_is_what_the_model_draws_for_that_prompt_and_seed():
    agent = Agent(1, (2,), 0.8, log_pi=-1.25, log_omega=-0.5)
    (response,) = run(RECORDS[5:6], [agent], method="control", task="a review")
    prompt = simulation_prompt("Film 5.", persona="dulldulldull", exemplars=[EXEMPLARS[2]], task="a review")
    seed = derive_seed(SEED, "simulate", "control", "r5")
    request = GenerateRequest((Branch(prompt, 0.8),), seed)
    [[(_, generation)]] = FakeModel(BETAS).generate([request], Decoding())
    assert response.response == generation.text
    assert response.n_tokens == generation.n_tokens
    assert response.finish_reason == generation.finish_reason
    assert (response.id, response.context, response.label) == ("r5", "Film 5.", "b")
    assert (response.persona, response.exemplar) == ("p1", "r1")
    assert (response.temperature, response.log_pi, response.log_omega) == (0.8, -1.25, -0.5)
    assert (response.seed, response.model, response.method) == (seed, "fake", "control")
    assert response.prompt_version == PROMPT_VERSION


def test_the_responses_of_the_contexts_are_never_used():
    blank = [replace(record, response="") for record in RECORDS]
    agents = agents_for(RECORDS)
    assert run(RECORDS, agents) == run(blank, agents)


def test_plain_prompting_is_an_agent_without_persona_and_exemplar():
    (response,) = run(RECORDS[:1], [Agent(None, (), 1.0)], method="zero-shot")
    assert (response.persona, response.exemplar) == (None, None)


def test_a_response_depends_on_neither_order_nor_batch_nor_the_others():
    agents = agents_for(RECORDS)
    whole = run(RECORDS, agents)
    assert [r.id for r in whole] == [record.key for record in RECORDS]
    assert run(RECORDS, agents, model=FakeModel(BETAS, batch_size=3)) == whole
    assert run(RECORDS[::-1], agents[::-1]) == whole[::-1]
    assert run(RECORDS[9:10], agents[9:10]) == whole[9:10]


def test_methods_have_draws_of_their_own():
    agents = [Agent(None, (), 1.0)] * len(RECORDS)
    one, two = (run(RECORDS, agents, method=name) for name in ("a", "b"))
    assert sum(x.response == y.response for x, y in zip(one, two, strict=True)) < 5


def test_several_exemplars_of_one_agent_share_a_prompt():
    (response,) = run(RECORDS[5:6], [Agent(None, (2, 0), 1.0)])
    assert response.exemplar == "r1 e0"
    prompt = simulation_prompt("Film 5.", exemplars=[EXEMPLARS[2], EXEMPLARS[0]])
    request = GenerateRequest((Branch(prompt, 1.0),), response.seed)
    [[(_, generation)]] = FakeModel(BETAS).generate([request], Decoding())
    assert response.response == generation.text


def test_several_agents_write_one_response_token_by_token():
    together = (
        Agent(0, (1,), 0.5, log_pi=math.log(0.3), log_omega=math.log(0.5)),
        Agent(1, (), 1.0, log_pi=math.log(0.45)),
    )
    (response,) = run(RECORDS[5:6], [together])
    assert (response.persona, response.exemplar) == ("p0 p1", "r0 -")
    assert response.temperature == pytest.approx(0.75)
    assert response.log_pi == pytest.approx(math.log(0.3 * 0.45))
    assert response.log_omega == pytest.approx(math.log(0.5))
    branches = (
        Branch(simulation_prompt("Film 5.", persona="goodgoodgood", exemplars=[EXEMPLARS[1]]), 0.5),
        Branch(simulation_prompt("Film 5.", persona="dulldulldull"), 1.0),
    )
    [[(_, generation)]] = FakeModel(BETAS).generate([GenerateRequest(branches, response.seed)], Decoding())
    assert response.response == generation.text


class Recorder(FakeModel):
    """The toy model, and what it was asked."""

    def __init__(self):
        super().__init__(BETAS)
        self.asked = []

    def generate(self, requests, decoding):
        self.asked += requests
        return super().generate(requests, decoding)


def test_over_many_responses_agents_count_as_often_as_their_weight_says():
    """Shares of next-token distributions average to the weights by which agents are drawn, not to their squares."""
    weight, n = np.array([0.7, 0.2, 0.1]), 1500
    drawn = np.random.default_rng(0).choice(3, size=(n, 3), p=weight)
    contexts = [replace(RECORDS[0], key=f"c{i}") for i in range(n)]
    agents = [tuple(Agent(k, (), 1.0, math.log(weight[k])) for k in row) for row in drawn.tolist()]
    model = Recorder()
    run(contexts, agents, model=model, decoding=Decoding(max_tokens=1))
    found = Counter()
    for request in model.asked:
        for branch in request.branches:
            found[branch.prompt] += 1 / (len(request.branches) * n)
    for k in range(3):
        prompt = simulation_prompt(RECORDS[0].context, persona=PERSONAS[k].description)
        assert found[prompt] == pytest.approx(weight[k], abs=4 * 0.5 / (3 * n) ** 0.5)


@pytest.mark.parametrize(("mean_length", "is_said"), [(40, True), (1, False)])
def test_many_cut_texts_are_warned_about(caplog, mean_length, is_said):
    model = FakeModel(BETAS, mean_length=mean_length)
    with caplog.at_level(logging.WARNING):
        rows = run(RECORDS, agents_for(RECORDS), model=model, decoding=Decoding(max_tokens=12))
    share = cut_share(rows)
    assert (share > CUT_SHARE) == is_said
    note = f"mop: {share:.0%} of the texts were cut at 12 tokens"
    assert (note in caplog.text) == is_said
    assert ("raise simulate.max_tokens" in caplog.text) == is_said


@pytest.mark.advice
def test_with_a_higher_limit_as_advised_nothing_is_cut(caplog):
    for limit in (4, 400):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            run(
                RECORDS, agents_for(RECORDS), model=FakeModel(BETAS, mean_length=8), decoding=Decoding(max_tokens=limit)
            )
        assert ("raise simulate.max_tokens (in Python, max_tokens of the decoding)" in caplog.text) == (limit == 4)


def test_failed_draws_are_neither_cut_nor_counted():
    (row,) = run(RECORDS[:1], [Agent(None, (), 1.0)])
    rows = [replace(row, finish_reason=reason) for reason in ("stop", "length", "refused", "failed")]
    assert cut_share(rows) == 0.5
    assert cut_share(rows[2:]) == 0
    assert cut_notes({"mop": 0.05, "zero-shot": 0.0}, 50) == []
    (note,) = cut_notes({"mop": 0.06, "zero-shot": 0.5, "few-shot": 0.01}, 50)
    assert note.startswith("Of the texts, 6% by mop, 50% by zero-shot were cut at 50 tokens")
    assert note.count("simulate.tau_factor") == 1


def test_a_tuple_of_one_agent_is_that_agent():
    agent = Agent(0, (1,), 0.7, log_pi=-2.0)
    assert run(RECORDS[:1], [agent]) == run(RECORDS[:1], [(agent,)])


def test_responses_stream_while_later_ones_are_not_yet_drawn():
    sizes = []
    model = FakeModel(BETAS, batch_size=5, on_batch=sizes.append)
    with Store(":memory:") as store:
        drawing = Drawing(generator=model, store=store, seed=SEED)
        stream = simulate(RECORDS, agents_for(RECORDS), PERSONAS, EXEMPLARS, drawing)
        assert [r.id for r in itertools.islice(stream, 3)] == ["r0", "r1", "r2"]
        assert sizes == [5]
        assert store.counts()["generation"] == 5


def test_what_was_drawn_is_not_drawn_again_and_costs_are_by_method():
    sizes, calls = [], []
    agents = agents_for(RECORDS)
    with Store(":memory:") as store:
        run(RECORDS[:10], agents[:10], store=store, method="mop")
        again = run(
            RECORDS,
            agents,
            store=store,
            method="mop",
            model=FakeModel(BETAS, batch_size=20, on_batch=sizes.append),
            progress=lambda *c: calls.append(c),
        )
        assert sizes == [20, 10]
        assert calls == [("simulate/mop", done, 40) for done in (10, 30, 40)]
        assert again == run(RECORDS, agents)
        spent = store.spent()["simulate/mop"]
        assert spent == (40, sum(r.n_tokens for r in again))


def test_a_generator_that_leaves_a_request_out_is_stopped():
    class Lazy:
        name = "lazy"
        generate_identity = "lazy/1"

        def generate(self, requests, decoding):
            yield next(FakeModel(BETAS, batch_size=1).generate(requests, decoding))

    with pytest.raises(BackendError, match="lazy left out 2 of 3 requests; each must be answered"):
        run(RECORDS[:3], agents_for(RECORDS[:3]), model=Lazy())


def test_agents_must_fit_the_contexts():
    with pytest.raises(DataError, match="got 40 contexts and 1 agents; give one agent per context"):
        run(RECORDS, [Agent(None, (), 1.0)])
    with pytest.raises(DataError, match="got an empty tuple of agents"):
        run(RECORDS[:1], [()])


def test_two_contexts_with_one_key_are_refused():
    twins = [RECORDS[0], RECORDS[0]]
    with pytest.raises(DataError, match="key 'r0' occurs twice among the contexts; keys must differ"):
        run(twins, agents_for(twins))


def test_naughty_text_survives_prompt_store_and_file(tmp_path):
    texts = ["\x00", "\u2028\u2029\x85", "lone \ud800", "<|im_end|>", "👩‍👩‍👧", "'; DROP TABLE x"]
    contexts = [Record(key=f"n{i}\n{t}", context=t, response="") for i, t in enumerate(texts)]
    model = FakeModel(BETAS, alphabet="".join(sorted(set("".join(texts)))))
    with Store(tmp_path / "store.sqlite") as store:
        agents = [Agent(None, (), 1.0)] * len(texts)
        responses = run(contexts, agents, store=store, model=model)
        assert responses == run(contexts, agents, store=store, model=model)
    assert write_responses(tmp_path / "responses.jsonl", responses) == len(texts)
    assert list(read_responses(tmp_path / "responses.jsonl")) == responses
    assert "\u2028" in "".join(r.response for r in responses)


def test_a_file_appears_only_when_it_is_whole(tmp_path):
    path = tmp_path / "responses.jsonl"
    responses = run(RECORDS, agents_for(RECORDS))

    def stream():
        yield from responses[:5]
        assert not path.exists()
        yield from responses[5:]

    assert write_responses(path, stream()) == 40
    assert [row["id"] for row in read_jsonl(path)] == [record.key for record in RECORDS]


def test_a_row_that_is_no_response_is_named(tmp_path):
    path = tmp_path / "responses.jsonl"
    path.write_text('{"id": "a"}\n')
    with pytest.raises(ArtifactError, match=r"responses\.jsonl, row 1: not a response"):
        list(read_responses(path))


def chain(folder):
    """Score, choose, simulate and write, as a run does; may be killed and called again."""
    folder = Path(folder)
    calls = os.open(folder.with_suffix(".calls"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    model = FakeModel(BETAS, batch_size=8, on_batch=lambda n: os.write(calls, b"x" * n))
    with RunFolder.create(folder) as run_folder, Store(run_folder.store) as store:
        if not run_folder.stage_done("simulate", "inputs"):
            table = score_table(
                RECORDS, COMPONENTS, Scoring(personas=PERSONAS, exemplars=EXEMPLARS, scorer=model, store=store)
            )
            best = [COMPONENTS[c] for c in np.argmax(table.curves[:, :, 1], axis=1)]
            agents = [Agent(k, () if j is None else (j,), 0.8) for k, j in best]
            drawing = Drawing(generator=model, store=store, seed=SEED)
            stream = simulate(RECORDS, agents, PERSONAS, EXEMPLARS, drawing)
            write_responses(run_folder.responses, stream)
            write_responses(run_folder.responses_parquet, read_responses(run_folder.responses))
            run_folder.finish_stage("simulate", "inputs", files=[run_folder.responses, run_folder.responses_parquet])
    os.close(calls)


def child_environment():
    path = [str(Path(__file__).parent), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path), "OPENBLAS_NUM_THREADS": "1"}


N_CELLS = 40 * 9 - 3  # record 0 is exemplar 1
N_ROWS = {"score": N_CELLS, "generation": 40, "embedding": 0, "conflict": 0}


NURSERY = """
import os, pathlib, signal, sys, time
import pandas, pyarrow.parquet  # pyarrow looks for pandas; here, and not in each child
from test_simulate import chain

print("ready", flush=True)
for line in sys.stdin:
    folder, kill_after_calls = line.rstrip("\\n").split("\\t")
    calls = pathlib.Path(folder).with_suffix(".calls")
    before = calls.stat().st_size if calls.exists() else 0
    child = os.fork()
    if child == 0:
        chain(folder)
        os._exit(0)
    ended, status = 0, 0
    while kill_after_calls and not ended:
        time.sleep(0.0005)
        ended, status = os.waitpid(child, os.WNOHANG)
        if not ended and calls.exists() and calls.stat().st_size >= before + int(kill_after_calls):
            os.kill(child, signal.SIGKILL)  # not yet waited for, so its number is still its own
            break
    print(status if ended else os.waitpid(child, 0)[1], flush=True)
"""


@contextmanager
def nursery():
    """Yield a function that runs the chain in a child and says whether it was killed."""
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", NURSERY],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    ) as process:

        def attempt(folder, kill_after_calls=""):
            process.stdin.write(f"{folder}\t{kill_after_calls}\n")
            process.stdin.flush()
            status = int(process.stdout.readline())
            assert status in (0, signal.SIGKILL)
            return status != 0

        assert process.stdout.readline() == "ready\n"
        yield attempt
        process.stdin.close()


def test_thirty_random_kills_lose_nothing_and_double_nothing(tmp_path):
    rng = np.random.default_rng(11)
    unbroken = tmp_path / "unbroken"
    kills = {}
    with nursery() as attempt:
        assert not attempt(unbroken)
        while sum(kills.values()) < 30:
            folder = tmp_path / f"run{len(kills)}"
            kills[folder] = 0
            while sum(kills.values()) < 30 and attempt(folder, rng.integers(0, 80)):
                kills[folder] += 1
            assert not attempt(folder)
    assert len(kills) < 15  # the kills did hit runs in their middle
    for folder, n_kills in kills.items():
        for name in ("responses.jsonl", "responses.parquet"):
            assert (folder / name).read_bytes() == (unbroken / name).read_bytes()
        with Store(folder / "store.sqlite") as store:
            assert store.counts() == N_ROWS
            assert store.verify() == []
            assert {stage: cost.calls for stage, cost in store.spent().items()} == {
                "score": N_CELLS,
                "simulate/mop": 40,
            }
        n_calls = folder.with_suffix(".calls").stat().st_size
        assert N_CELLS + 40 <= n_calls <= N_CELLS + 40 + 8 * n_kills  # one batch per kill at most
        assert not list(folder.rglob("*.mop-tmp"))


@pytest.mark.parametrize("batch", [1, 20, 45, 46, 50])
def test_a_kill_between_drawing_and_storing_loses_only_that_batch(tmp_path, batch):
    sizes = []

    def crash(n):
        sizes.append(n)
        if len(sizes) == batch:
            raise KeyboardInterrupt

    with Store(tmp_path / "store.sqlite") as store:
        agents = agents_for(RECORDS)
        model = FakeModel(BETAS, batch_size=8, on_batch=crash)

        def work():
            score_table(RECORDS, COMPONENTS, Scoring(personas=PERSONAS, exemplars=EXEMPLARS, scorer=model, store=store))
            run(RECORDS, agents, store=store, model=model)

        with pytest.raises(KeyboardInterrupt):
            work()
        counts = store.counts()
        assert counts["score"] + counts["generation"] == sum(sizes[:-1])
        assert run(RECORDS, agents, store=store) == run(RECORDS, agents)


LIMITED = """
import resource, sys
from test_simulate import chain
from mop.errors import ArtifactError

resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]),) * 2)
try:
    chain(sys.argv[1])
except ArtifactError as error:
    print(error)
"""


def test_a_run_that_fills_the_disk_goes_on_when_there_is_space(tmp_path):
    chain(tmp_path / "unbroken")
    folder = tmp_path / "run"
    for limit in (5_000, 60_000, 150_000):
        child = subprocess.run(
            [sys.executable, "-c", LIMITED, str(folder), str(limit)],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            env=child_environment(),
        )
        assert child.stdout.startswith(f"no space left to write {folder}"), limit
    chain(folder)
    for name in ("responses.jsonl", "responses.parquet"):
        assert (folder / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    with Store(folder / "store.sqlite") as store:
        assert store.verify() == []
        assert store.counts() == N_ROWS


def test_so_many_draws_may_fail_and_not_one_more():
    def of(n, share):
        drawing = Drawing(generator=FakeModel(), store=Store(":memory:"), seed=0, max_failed_share=share)
        return FailedDraws(n, drawing, method="mop")

    failed = of(24, 0.1)  # 2.4
    for _ in range(2):
        assert failed.settle(Failure("http-400", "bad"))[1] == "failed"
        failed.check()
    assert failed.settle(Failure("refusal", "no"))[1] == "refused"
    with pytest.raises(BackendError, match=r"fake could not draw 3 of the 24 responses of mop \(http-"):
        failed.check()
    exact = of(100, 0.29)  # 100 * 0.29 is 28.999999999999996
    for _ in range(29):
        exact.settle(Failure("refusal", "no"))
    exact.check()
