"""Tables filled in from what was scored of them."""

import numpy as np
import pytest

from mop.mixture.cells import Cells, Problem
from mop.mixture.completion import MOST_CELLS, Completion, _Model
from mop.mixture.em import FilledIn, Scores, fit_fixed, gate_of
from mop.mixture.kernel import KernelGate

K, J, N = 6, 4, 120
EVERY = np.arange(N)


def whole_table(seed=0, *, n=N, nodes=1):
    """Log-likelihoods (n, K·J, nodes) that are nearly sums of effects, of records that are very different."""
    rng = np.random.default_rng(99)  # the population is the same, records differ by seed
    loads, of_persona, of_exemplar = (rng.normal(size=(2, K)), rng.normal(0, 1.0, K), 2 * rng.normal(size=J))
    rng = np.random.default_rng(seed)
    persona = rng.normal(0, 0.6, (n, 2)) @ loads + of_persona
    exemplar = rng.normal(0, 2.0, (n, J)) + of_exemplar
    table = persona[:, :, None] + exemplar[:, None, :] + rng.normal(0, 0.1, (n, K, J))
    table = table.reshape(n, -1) + rng.normal(-80, 20, (n, 1))
    return np.stack([table * (1 + 0.1 * g) for g in range(nodes)], axis=2).astype(np.float32)


def problem_of(n=N, betas=(1.0,), own=None):
    return Problem(
        hx=np.eye(n, 8, dtype=np.float32), hg=np.eye(K, 8, dtype=np.float32),
        he=np.eye(J, 8, dtype=np.float32), own=np.full(n, -1) if own is None else own,
        weight=np.ones(n), n_train=n // 2, betas=betas,
    )  # fmt: skip


def scored(table, per_record, seed=0, own=None):
    """Evenly drawn cells of a whole table, the same number for each record."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(len(table)):
        allowed = [c for c in range(K * J) if own is None or c % J != own[i]]
        rows.append(np.sort(rng.permutation(allowed)[:per_record]))
    flat = np.array(rows)
    curves = np.take_along_axis(table, flat[:, :, None], axis=1)
    return Cells(flat // J, flat % J, curves, np.ones(flat.shape, dtype=bool))


def complete(problem, cells, rows, *, seed):
    completion = Completion(problem, cells, tau=1.0, seed=seed)
    return completion.filled(rows) if completion.applies else None


def around_their_mean(table):
    return table - table.mean(axis=1, keepdims=True)


def test_what_is_missing_follows_from_what_is_there():
    table = whole_table()
    cells = scored(table, 9)
    filled = complete(problem_of(), cells, EVERY, seed=0)
    missing = np.ones((N, K * J), dtype=bool)
    np.put_along_axis(missing, cells.persona * J + cells.exemplar, False, axis=1)
    error = around_their_mean((filled.curves - table)[:, :, 0])[missing]
    assert np.median(np.abs(error)) < 0.3  # of a draw; the table itself has a standard deviation of 2.2
    assert filled.present.all()
    component = filled.persona * J + filled.exemplar
    assert (component == np.arange(K * J)).all()


def test_what_was_scored_stays_as_it_is():
    table = whole_table(nodes=3)
    cells = scored(table, 9)
    filled = complete(problem_of(betas=(0.5, 1.0, 2.0)), cells, EVERY, seed=0)
    flat = cells.persona * J + cells.exemplar
    assert (np.take_along_axis(filled.curves, flat[:, :, None], axis=1) == cells.curves).all()


def test_doubt_at_other_temperatures_is_that_of_one_in_proportion():
    table = whole_table(nodes=2)
    filled = complete(problem_of(betas=(1.0, 2.0)), scored(table, 9), EVERY, seed=0)
    assert filled.curves[:, :, 1] == pytest.approx(1.1 * filled.curves[:, :, 0], abs=0.3)


def test_draws_are_as_uncertain_as_they_say():
    """The error of an expected value and the spread of the draws around it have the same variance."""
    table = whole_table(seed=3, n=400)
    problem, cells = problem_of(400), scored(table, 8, seed=3)
    every = np.arange(400)
    draws = [around_their_mean(complete(problem, cells, every, seed=s).curves[:, :, 0]) for s in range(12)]
    missing = np.ones((400, K * J), dtype=bool)
    np.put_along_axis(missing, cells.persona * J + cells.exemplar, False, axis=1)
    expected, spread = np.mean(draws, axis=0), np.var(draws, axis=0, ddof=1)
    error = (around_their_mean(table[:, :, 0]) - expected) ** 2
    ratio = error[missing].mean() / (spread[missing].mean() * (1 + 1 / 12))
    assert 0.8 < ratio < 1.25


def test_means_are_learned_from_the_rows_that_are_filled_in_alone():
    """Other records that favour a component make no difference to what it may be for these."""
    table = whole_table()
    other = table.copy()
    other[1::2, 5] += 3.0
    rows = np.arange(0, N, 2)
    first, second = (complete(problem_of(), scored(t, 9), rows, seed=0) for t in (table, other))
    shift = around_their_mean((second.curves - first.curves)[rows][:, :, 0])
    assert np.abs(shift.mean(axis=0)).max() < 0.1
    assert first.present[rows].all()
    assert not first.present[1::2].any()


def test_a_record_never_sees_itself():
    own = np.where(EVERY % 5 == 0, EVERY % J, -1)
    filled = complete(problem_of(own=own), scored(whole_table(), 9, own=own), EVERY, seed=0)
    mine = filled.exemplar == own[:, None]
    assert mine.any()
    assert (filled.present == ~mine).all()
    assert not filled.curves[mine].any()


def test_the_same_seed_fills_in_the_same():
    cells = scored(whole_table(), 9)
    first, same, other = (complete(problem_of(), cells, EVERY, seed=s).curves for s in (0, 0, 1))
    assert (first == same).all()
    assert (first != other).any()


def test_draws_belong_to_the_record_whatever_is_filled_in_with_it():
    """Else a fold would be judged on the accidents of the records that its fit has seen."""
    even, odd = EVERY[::2], EVERY[1::2]
    twins = scored(whole_table(), 9).of(np.repeat(even, 2))  # every second record is like the one before

    def draws(rows):
        """(len(rows), cells): what two seeds differ in, for expectations are the same."""
        one, other = (complete(problem_of(), twins, rows, seed=s).curves[rows, :, 0] for s in (0, 1))
        return one - other

    def alike(one, other):
        return np.corrcoef(one.ravel(), other.ravel())[0, 1]

    assert alike(draws(even), draws(EVERY)[::2]) > 0.95
    assert abs(alike(draws(even), draws(odd))) < 0.5


def test_nothing_is_filled_in_where_too_little_is_known():
    assert complete(problem_of(), scored(whole_table(), 2), EVERY, seed=0) is None
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2.0, (N, K * J, 1)).astype(np.float32)
    assert complete(problem_of(), scored(noise, 9), EVERY, seed=0) is None


def test_nothing_is_filled_in_where_nothing_is_missing_or_too_much():
    table = whole_table()
    assert complete(problem_of(), scored(table, K * J), EVERY, seed=0) is None
    n = MOST_CELLS // (K * J) + 1
    many = scored(whole_table(n=n), 9)
    assert complete(problem_of(n), many, np.arange(n), seed=0) is None


def test_the_scale_of_a_record_does_not_touch_what_others_are_filled_in_with():
    """One record with enormous differences counts little: departures have Student's t."""
    table = whole_table()
    wild = table.copy()
    wild[:1] = 40 * around_their_mean(wild[:1])
    there, here = (_Model.of(scored(t, 9), np.ones(N), K, J) for t in (wild, table))
    there.learn(scored(wild, 9).curves[:, :, 0].astype(float))
    here.learn(scored(table, 9).curves[:, :, 0].astype(float))
    assert there.scale[0] < 0.02
    assert there.v == pytest.approx(here.v, rel=0.3)


def test_a_fit_to_filled_in_tables_is_nearly_that_to_whole_ones():
    """Held-out value of context-free weights: with a third of the cells, most of what all cells give."""
    table, fresh = whole_table(seed=1, n=160), whole_table(seed=2, n=440)
    problem, cells, every = problem_of(160), scored(table, 8), np.arange(160)
    test = Scores(problem_of(440), scored(fresh, K * J), np.arange(440), 1.0)

    def value(scores):
        fixed = fit_fixed(scores, 10.0)
        return test.of_gate(gate_of(problem, fixed, 1.0)).mean()

    least = test.of_gate(KernelGate.fixed(problem.hg, problem.he, 1.0)).mean()
    everything = value(Scores(problem, scored(table, K * J), every, 1.0)) - least
    filled = value(FilledIn(problem, cells, 1.0, seed=0).scores(every)) - least
    as_scored = value(Scores(problem, cells, every, 1.0)) - least
    assert everything > 0.3
    assert filled > 0.9 * everything
    assert filled > as_scored + 0.05


def test_nothing_of_the_size_of_a_huge_table_is_made():
    """A thousand personas and a hundred million exemplars, as far as shapes go: one byte a cell would be 10^13."""
    huge = Problem(
        hx=np.zeros((100, 1), np.float32), hg=np.zeros((1000, 1), np.float32),
        he=np.broadcast_to(np.zeros((1, 1), np.float32), (100_000_000, 1)), own=np.full(100, -1),
        weight=np.ones(100), n_train=50, betas=(1.0,),
    )  # fmt: skip
    assert not Completion(huge, scored(whole_table(n=100), 9), tau=1.0, seed=0).applies
