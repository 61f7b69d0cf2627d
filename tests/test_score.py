"""Scoring through the store: once each, in order, never with oneself, resumable."""

import math

import numpy as np
import pytest

from mop.backends.ask import score_requests
from mop.backends.fake import FakeModel
from mop.errors import BackendError, DataError
from mop.mixture.score import (
    Scoring,
    cell_scorer,
    component_requests,
    score_cells,
    score_table,
)
from mop.prompts import simulation_prompt
from mop.storage.store import Store
from mop.types import Persona, Record, Score, ScoreRequest

BETAS = (0.5, 1.0, 2.0)
RECORDS = [
    Record(key=f"r{i}", context=f"Film {i}.", response=text)
    for i, text in enumerate(["good fun", "dull", "a bore, a chore", "fine fine fine"])
]
PERSONAS = [Persona(key="p0", description="zzz"), Persona(key="p1", description="good good")]
EXEMPLARS = [Record(key="e0", context="Film 9.", response="dull and dim"), RECORDS[2]]
COMPONENTS = [(0, 0), (1, None), (None, 1), (None, None), (1, 1)]
TASK = "a film review"


class Wrong:
    """A scorer that breaks one promise."""

    name = "wrong"
    score_identity = "wrong/1"
    betas = BETAS

    def __init__(self, answer):
        self.answer = answer

    def score(self, requests):
        yield self.answer(requests)


def fake(**options):
    return FakeModel(BETAS, **options)


def requests(n):
    return [ScoreRequest(simulation_prompt("x" * i), "some text") for i in range(n)]


def scoring(store, *, personas=PERSONAS, exemplars=EXEMPLARS, scorer=None, **options):
    return Scoring(
        personas=personas, exemplars=exemplars, scorer=scorer or fake(), store=store, task=TASK, **options
    )  # fmt: skip


def by_hand(record, persona, exemplar):
    """Scores of one cell, straight from the model."""
    prompt = simulation_prompt(
        record.context, persona=persona, exemplars=[] if exemplar is None else [exemplar], task=TASK
    )
    [[(_, score)]] = fake().score([ScoreRequest(prompt, record.response)])
    return score


def test_scores_come_in_the_order_of_the_requests_and_equal_ones_are_asked_once():
    sizes = []
    model = fake(batch_size=4, on_batch=sizes.append)
    asked = requests(10)
    with Store(":memory:") as store:
        found = score_requests([*asked, *asked[::-1]], model, store)
        assert sum(sizes) == 10
        assert store.counts()["score"] == 10
        for request, score in zip([*asked, *asked[::-1]], found, strict=True):
            [[(_, alone)]] = fake().score([request])
            assert (score.log_lik == alone.log_lik).all()


def test_what_the_store_has_is_not_asked_again_and_is_the_same_to_the_bit():
    sizes = []
    model = fake(on_batch=sizes.append)
    with Store(":memory:") as store:
        first = score_requests(requests(5), model, store)
        again = score_requests(requests(8), model, store)
        assert sizes == [5, 3]
        assert all((one.log_lik == two.log_lik).all() for one, two in zip(first, again, strict=False))
        assert again[0].log_lik.dtype == np.float32


def test_another_model_does_not_find_the_scores_of_the_first():
    with Store(":memory:") as store:
        score_requests(requests(3), fake(), store)
        score_requests(requests(3), fake(strength=2.0), store)
        assert store.counts() == {"score": 6, "generation": 0, "embedding": 0, "conflict": 0}


def test_a_crash_keeps_all_batches_before_it():
    sizes = []

    def crash(n):
        sizes.append(n)
        if len(sizes) == 3:
            raise KeyboardInterrupt

    with Store(":memory:") as store:
        with pytest.raises(KeyboardInterrupt):
            score_requests(requests(20), fake(batch_size=4, on_batch=crash), store)
        assert store.counts()["score"] == 8
        assert store.spent()["score"].calls == 8
        score_requests(requests(20), fake(on_batch=sizes.append), store)
        assert sizes[3:] == [12]


def test_progress_counts_what_was_there_and_ends_at_the_total():
    calls = []
    with Store(":memory:") as store:
        score_requests(requests(3), fake(), store)
        score_requests(requests(8), fake(batch_size=2), store, stage="fit", progress=lambda *c: calls.append(c))
    assert calls == [("fit", 3, 8), ("fit", 5, 8), ("fit", 7, 8), ("fit", 8, 8)]


def test_nothing_to_score_needs_no_model():
    with Store(":memory:") as store:
        assert score_requests([], Wrong(lambda _: 1 / 0), store) == []


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda r: [(0, Score(np.zeros(3), 1))], "wrong left out 1 of 2 requests"),
        (
            lambda r: [(i, Score(np.zeros(2), 1)) for i in range(2)],
            r"wrong gave a score of shape \(2,\) over 1 tokens; expected \(3,\)",
        ),
        (lambda r: [(i, Score(np.zeros(3), 0)) for i in range(2)], r"wrong gave a score of shape \(3,\) over 0 tokens"),
        (
            lambda r: [(i, Score(np.array([0, 0, math.nan]), 1)) for i in range(2)],
            "wrong gave request 0 the log-likelihood nan at τ = 0.5; it must be finite",
        ),
        (
            lambda r: [(i, Score(np.array([-1, 0.5, -1]), 1)) for i in range(2)],
            "wrong gave request 0 the log-likelihood 0.5 at τ = 1; it must be finite and at most",
        ),
    ],
)
def test_a_scorer_that_breaks_its_promise_is_stopped(answer, message):
    with Store(":memory:") as store, pytest.raises(BackendError, match=message):
        score_requests(requests(2), Wrong(answer), store)


def test_a_request_that_shows_a_record_to_itself_is_refused():
    with pytest.raises(DataError, match=r"record 'r2' was to be scored with itself .*\('r2'\)"):
        component_requests(RECORDS, [(2, None, 1)], scoring(None))


def test_a_request_is_called_by_what_it_is_made_of():
    made = component_requests(RECORDS, [(0, 1, 0), (3, None, None)], scoring(None))
    assert [request.name for request in made] == ["record 'r0' under persona 'p1' with exemplar 'e0'", "record 'r3'"]


def test_the_table_has_the_score_of_every_cell_but_of_a_record_with_itself():
    with Store(":memory:") as store:
        table = score_table(RECORDS, COMPONENTS, scoring(store))
        assert table.curves.shape == (4, 5, 3)
        assert table.curves.dtype == np.float32
        for i, record in enumerate(RECORDS):
            assert table.n_tokens[i] == len(record.response) + 1
            for c, (k, j) in enumerate(COMPONENTS):
                is_own = i == 2 and j == 1
                assert table.present[i, c] != is_own
                if is_own:
                    assert (table.curves[i, c] == 0).all()
                else:
                    score = by_hand(
                        record, None if k is None else PERSONAS[k].description, None if j is None else EXEMPLARS[j]
                    )
                    assert (table.curves[i, c] == score.log_lik).all()
        assert store.counts()["score"] == 4 * 5 - 2  # what is absent never reached the model


def test_a_record_that_sees_only_itself_has_no_tokens():
    with Store(":memory:") as store:
        table = score_table(RECORDS, [(0, 1)], scoring(store))
    assert table.n_tokens.tolist() == [9, 5, 0, 15]


def test_a_table_without_records_or_components_is_empty():
    with Store(":memory:") as store:
        none = score_table([], COMPONENTS, scoring(store))
        assert none.curves.shape == (0, 5, 3)
        none = score_table(RECORDS, [], scoring(store))
        assert none.curves.shape == (4, 0, 3)


def test_a_response_whose_tokens_depend_on_the_prompt_is_refused():
    wrong = Wrong(lambda r: [(i, Score(np.zeros(3), 1 + i)) for i in range(len(r))])
    with Store(":memory:") as store, pytest.raises(BackendError, match="in the one response of record 'r0'"):
        score_table(RECORDS[:1], [(0, None), (1, None)], scoring(store, exemplars=[], scorer=wrong))


def test_cells_come_back_in_their_order_and_only_new_ones_cost_tokens():
    cells = [(3, 1, 0), (0, None, None), (1, 0, None), (0, 1, 0)]
    calls = []
    with Store(":memory:") as store:
        found = score_cells(RECORDS, cells, scoring(store, progress=lambda *c: calls.append(c)))
        for (i, k, j), score in zip(cells, found, strict=True):
            persona = None if k is None else PERSONAS[k].description
            expected = by_hand(RECORDS[i], persona, None if j is None else EXEMPLARS[j])
            assert (score.log_lik == expected.log_lik).all()
        assert store.spent()["score"].tokens == 15 + 9 + 5 + 9
        assert calls == [("score", 0, 4), ("score", 4, 4)]
        score_cells(RECORDS, cells, scoring(store))
        assert store.spent()["score"].tokens == 15 + 9 + 5 + 9


def test_fit_asks_by_arrays_of_rows():
    with Store(":memory:") as store:
        ask = cell_scorer(RECORDS, scoring(store, stage="fit"))
        curves, spent = ask(np.array([0, 3]), np.array([1, 0]), np.array([1, 0]))
        assert (curves[0] == by_hand(RECORDS[0], "good good", EXEMPLARS[1]).log_lik).all()
        assert (curves[1] == by_hand(RECORDS[3], "zzz", EXEMPLARS[0]).log_lik).all()
        assert spent == 9 + 15
        assert store.spent()["fit"].tokens == 24
        empty, _ = ask(*np.zeros((3, 0), dtype=np.int64))
        assert empty.shape == (0, 3)


def test_without_personas_or_exemplars_row_zero_stands_for_none():
    with Store(":memory:") as store:
        ask = cell_scorer(RECORDS, scoring(store, personas=[], exemplars=[]))
        curves, _ = ask(*np.zeros((3, 1), dtype=np.int64))
        assert (curves[0] == by_hand(RECORDS[0], None, None).log_lik).all()
