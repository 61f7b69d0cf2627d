"""Weights from scores: exact values, EM that only rises, planted weights found again, and an honest choice."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from mop.backends.curve import weights as curve_weights
from mop.errors import DataError
from mop.mixture import em
from mop.mixture.cells import Cells, Problem
from mop.mixture.kernel import KernelGate
from mop.mixture.sums import log_sum_exp
from planted import plant, unit


def table(log_lik, n_personas, *, scored=None, hx=None, weight=None):
    """A problem and its cells at one temperature; component (k, j) in column k·N + j."""
    n, n_all = log_lik.shape
    n_exemplars = n_all // n_personas
    rng = np.random.default_rng(7)
    problem = Problem(
        hx=unit(rng, n, 4) if hx is None else hx, hg=unit(rng, n_personas, 4),
        he=unit(rng, n_exemplars, 4), own=np.full(n, -1),
        weight=np.ones(n) if weight is None else weight, n_train=n - 2, betas=(1.0,),
    )  # fmt: skip
    flat = np.tile(np.arange(n_all), (n, 1))
    present = np.ones(flat.shape, bool) if scored is None else scored
    return problem, Cells(flat // n_exemplars, flat % n_exemplars, log_lik[..., None].astype(np.float32), present)


def scores_of(problem, cells):
    return em.Scores.of(problem, cells, np.arange(len(problem.hx)), 1.0)


@pytest.fixture
def partial():
    """40 records, 3 x 4 components, each scored with chance one half."""
    rng = np.random.default_rng(0)
    scored = rng.random((40, 12)) < 0.5
    scored[:, 0] = True
    return table(rng.normal(-30, 2, (40, 12)), 3, scored=scored)


def test_a_value_is_that_of_weights_renormalised_over_what_was_scored(partial):
    problem, cells = partial
    weight = np.random.default_rng(1).dirichlet(np.ones(12), size=40)
    log_lik = cells.curves[..., 0].astype(float)
    by_hand = [
        np.log(sum(w * np.exp(v) for w, v, s in zip(*row, strict=True) if s)
               / sum(w for w, _, s in zip(*row, strict=True) if s))
        for row in zip(weight, log_lik, cells.present, strict=True)
    ]  # fmt: skip
    assert scores_of(problem, cells).values(weight) == pytest.approx(by_hand)


def test_the_value_of_fully_scored_cells_is_the_exact_log_likelihood():
    rng = np.random.default_rng(0)
    log_lik = rng.normal(-300, 3, (9, 6)).astype(np.float32).astype(float)
    weight = rng.dirichlet(np.ones(6), size=9)
    exact = log_sum_exp(log_lik + np.log(weight))
    assert scores_of(*table(log_lik, 2)).values(weight) == pytest.approx(exact)


@pytest.mark.parametrize("slope", [0.0, 4.0])
@pytest.mark.parametrize("prior", [0.5, 20.0])
def test_em_never_falls_and_ends_at_the_optimum(partial, prior, slope, monkeypatch):
    problem, cells = partial
    monkeypatch.setattr(em, "ACCURACY", 1e-10)
    monkeypatch.setattr(em, "N_STEPS", 5_000)
    scores = scores_of(problem, cells)
    found, path = em.fit_fixed(scores, prior, slope)
    assert np.diff(path).min() > -1e-9
    assert path[-1] - path[0] > 0.05
    he = problem.he.astype(float)

    def loss(z):
        log_pi, log_omega = z[:3] - log_sum_exp(z[:3]), z[3:] - log_sum_exp(z[3:])
        log_w = (log_pi[:, None] + log_omega).ravel() + slope * np.tile(problem.hx @ he.T, 3)
        log_w = np.where(cells.present, log_w, -np.inf)
        value = log_sum_exp(log_w + cells.curves[..., 0]) - log_sum_exp(log_w)
        return -value.sum() - prior * (log_pi.mean() + log_omega.mean())

    best = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-7})
    assert path[-1] == pytest.approx(-best.fun, abs=1e-4)
    assert found.persona == pytest.approx(np.exp(best.x[:3] - log_sum_exp(best.x[:3])), abs=2e-3)


def test_the_weight_of_a_record_counts_as_so_many_records(partial, monkeypatch):
    monkeypatch.setattr(em, "ACCURACY", 1e-8)
    problem, cells = partial
    twice = np.concatenate([np.arange(40), [3, 3, 8]])
    repeated = replace(problem, hx=problem.hx[twice], own=problem.own[twice], weight=np.ones(43))
    of_repeated = em.Scores.of(repeated, cells.of(twice), np.arange(43), 1.0)
    weighted = scores_of(problem, cells)
    weighted.weight = np.where(np.arange(40) == 3, 3.0, np.where(np.arange(40) == 8, 2.0, 1.0))
    first, second = em.fit_fixed(weighted, 5.0)[0], em.fit_fixed(of_repeated, 5.0)[0]
    assert first.persona == pytest.approx(second.persona)
    assert first.exemplar == pytest.approx(second.exemplar)
    local = em.Shape("context", fixed=5.0, slope=2.0, local=2.0, bandwidth=0.5)
    monkeypatch.setattr(em, "mean_distance", lambda hx: 0.8)
    gates = [em.fit_shape(scores, local, 1.0) for scores in (weighted, of_repeated)]
    assert gates[0].log_pi(problem.hx) == pytest.approx(gates[1].log_pi(problem.hx), abs=1e-4)


def test_the_scale_of_survey_weights_does_not_matter(partial):
    problem, cells = partial
    weight = np.random.default_rng(0).random(40) + 0.5
    found = [
        em.choose(replace(problem, weight=scale * weight), cells, 3, seed=0).gate.log_pi(problem.hx)
        for scale in (1.0, 1000.0)
    ]
    assert found[0] == pytest.approx(found[1])


def test_a_local_step_is_the_mean_of_neighbours_responsibilities_and_the_prior(partial):
    """At the end of smoothed EM, weights and responsibilities agree; by loops, for one record."""
    problem, cells = partial
    scores = scores_of(problem, cells)
    fixed, _ = em.fit_fixed(scores, 5.0)
    shape = em.Shape("context", fixed=5.0, local=3.0, bandwidth=0.5)
    gate = em.fit_shape(scores, shape, 1.0, fixed)
    pi = np.exp(gate.log_pi(problem.hx))
    omega = np.exp(gate.log_omega(problem.hx, np.zeros(40, int)))
    h = 0.5 * em.mean_distance(problem.hx)
    top, below = 3.0 * fixed.persona, np.full(3, 3.0)
    for a in range(40):
        kappa = np.exp((float(problem.hx[7].astype(float) @ problem.hx[a].astype(float)) - 1) / h)
        weight = np.outer(pi[a], omega[a]).ravel() * cells.present[a]
        joint = weight * np.exp(cells.curves[a, :, 0].astype(float) - cells.curves[a, :, 0].max())
        resp = (joint / joint.sum()).reshape(3, 4)
        top = top + kappa * resp.sum(axis=1)
        below = below + kappa * (weight.reshape(3, 4) / pi[a][:, None]).sum(axis=1) / weight.sum()
    expected = top / below / (top / below).sum()
    assert pi[7] == pytest.approx(expected, abs=2e-3)


def planted_weights(n, seed, contexts=1):
    """Components that a record tells apart well; other ones are common in each context."""
    rng = np.random.default_rng(seed)
    centres = unit(np.random.default_rng(5), contexts, 4)
    x = rng.integers(contexts, size=n)
    pi = np.roll(np.array([[0.7, 0.2, 0.1]]), 0) if contexts == 1 else np.eye(3)[:contexts] * 0.7 + 0.1
    omega = np.array([0.55, 0.25, 0.1, 0.1])
    k = np.array([rng.choice(3, p=pi[i]) for i in x])
    j = rng.choice(4, p=omega, size=n)
    seen = rng.normal(size=(n, 12))
    seen[np.arange(n), k * 4 + j] += 3.0
    return table(-50 + 3.0 * seen, 3, hx=centres[x]), pi, omega, centres


def test_planted_weights_are_found_again():
    (problem, cells), pi, omega, _ = planted_weights(1500, 0)
    choice = em.choose(problem, cells, 4, seed=0)
    assert choice.shape.kind == "unconditional"  # there is one context
    assert choice.gate.persona == pytest.approx(pi[0], abs=0.05)
    assert choice.gate.exemplar == pytest.approx(omega, abs=0.05)


def test_planted_weights_that_depend_on_the_context_are_found_again():
    (problem, cells), pi, _, centres = planted_weights(450, 1, contexts=3)
    choice = em.choose(problem, cells, 4, seed=0)
    assert choice.shape.kind == "context"
    assert np.exp(choice.gate.log_pi(centres)) == pytest.approx(pi, abs=0.08)
    gain = choice.gain(problem)
    assert gain["mean"] > 0.2
    assert gain["mean"] > 5 * gain["standard_error"]


def test_few_scored_components_find_the_weights_too():
    (problem, cells), pi, _, centres = planted_weights(450, 1, contexts=3)
    scored = np.random.default_rng(0).permuted(np.tile(np.arange(12) < 6, (450, 1)), axis=1)
    choice = em.choose(problem, replace(cells, present=scored), 4, seed=0)
    assert choice.shape.kind == "context"
    # The sum over half of the components sees less, and stays nearer to equal weights.
    assert np.exp(choice.gate.log_pi(centres)) == pytest.approx(pi, abs=0.25)


def test_without_any_effect_nothing_is_claimed():
    """30 tables of noise, 72 records: the honest gain is 0 on average, the best of the grid is not."""
    honest, best = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        problem, cells = table(rng.normal(-50, 1.5, (72, 12)), 3, hx=unit(rng, 72, 3))
        trial = []
        original = em._Trial.choice

        def kept(self, trial=trial, original=original):
            trial.append(self)
            return original(self)

        em._Trial.choice = kept
        try:
            choice = em.choose(problem, cells, 4, seed=seed)
        finally:
            em._Trial.choice = original
        uniform = choice.others["uniform"].mean()
        honest.append(choice.values.mean() - uniform)
        best.append(max(map(trial[0].mean, trial[0].values)) - uniform)
    error = np.std(honest) / 30**0.5
    assert np.mean(honest) <= 2 * error + 1e-9
    assert np.mean(best) > 0.005  # choosing the best of many promises something


def test_equal_weights_are_kept_unless_others_win_by_a_standard_error():
    rng = np.random.default_rng(0)
    problem, cells = table(rng.normal(-50, 1.5, (60, 12)), 3)
    trial = em._Trial(problem, cells, 3, 0, None)
    uniform, free = em.Shape("uniform"), em.Shape("unconditional", 10.0)
    gain = rng.normal(0, 1, 60)
    for shift, expected in ((0.05, uniform), (1.0, free), (-1.0, uniform)):
        trial.values = {uniform: np.zeros(60), free: gain - gain.mean() + shift}
        assert trial.best(np.arange(60)) == expected


def test_a_fold_is_judged_by_what_the_other_folds_choose():
    """Each of two settings is good where the other is bad: whoever chooses on the rest gets the bad one."""
    rng = np.random.default_rng(0)
    problem, cells = table(rng.normal(-50, 1.5, (60, 12)), 3)
    trial = em._Trial(problem, cells, 2, 0, None)
    trial.validate(em.Shape("uniform"))
    for kind, shape in (("a", em.Shape("unconditional", 10.0)), ("b", em.Shape("unconditional", 3.0))):
        trial.validate(shape)
        trial.values[shape] = trial.values[em.Shape("uniform")] + 1.0
        trial.values[shape][trial.folds[0 if kind == "a" else 1]] += 5.0
    trial.validate(em.Shape("unconditional", em.PRIORS_FIXED[-1]))
    choice = trial.choice()
    assert choice.values - choice.others["uniform"] == pytest.approx(np.ones(60))


def test_all_personas_under_a_prior_lose_little_where_all_are_equal():
    """24 equally common personas, 100 records."""
    losses = []
    for seed in range(6):
        rng = np.random.default_rng(seed)
        log_lik = rng.normal(size=(2100, 24))
        log_lik[np.arange(2100), rng.integers(24, size=2100)] += 2
        problem, cells = table(log_lik[:100], 24, hx=np.ones((100, 2), np.float32))
        gate = em.choose(problem, cells, 4, seed=seed).gate
        test = log_lik[100:]
        losses.append(log_sum_exp(test - np.log(24)).mean() - log_sum_exp(test + np.log(gate.persona)).mean())
    assert np.mean(losses) <= 0.03


def test_folds_do_not_see_what_they_judge():
    """A record that is its fold's alone: other values of it change only how it is judged."""
    rng = np.random.default_rng(0)
    log_lik = rng.normal(-50, 1.5, (40, 12))
    problem, cells = table(log_lik, 3)
    choice = em.choose(problem, cells, 4, seed=0)
    for gate, fold in zip(choice.fold_gates, em.folds(problem, 4, 0), strict=True):
        rest = np.setdiff1d(np.arange(40), fold)
        again = em.fit_shape(em.Scores.of(problem, cells, rest, 1.0), choice.shape, 1.0)
        assert again.log_pi(problem.hx) == pytest.approx(gate.log_pi(problem.hx))


def test_more_folds_than_records_are_as_many_as_there_are():
    problem = replace(table(np.zeros((3, 12)), 3)[0], cluster=np.array([0, 0, 1]))
    found = [fold.tolist() for fold in em.folds(problem, 5, seed=0)]
    assert found in ([[0, 1], [2]], [[2], [0, 1]])


def test_records_of_a_group_are_never_divided_between_folds():
    problem, _ = table(np.zeros((40, 12)), 3)
    grouped = replace(problem, cluster=np.arange(40) % 9 + 5)
    found = em.folds(grouped, 4, seed=0)
    assert sorted(np.concatenate(found).tolist()) == list(range(40))
    assert [len(set(fold % 9)) * 4 <= len(fold) * 1.1 + 4 for fold in found] == [True] * 4
    parts = [set(grouped.clusters[fold].tolist()) for fold in found]
    assert sum(len(part) for part in parts) == 9
    one = replace(problem, cluster=np.zeros(40, dtype=int))
    assert len(em.folds(one, 4, seed=0)) == 4  # one group of all can only be divided


def test_a_group_counts_as_one_observation():
    problem, _ = table(np.zeros((40, 12)), 3)
    gain = np.random.default_rng(0).normal(size=10)
    alone, _ = table(np.zeros((10, 12)), 3)
    fourfold = replace(problem, cluster=np.arange(40) % 10)
    assert em.mean_and_error(np.tile(gain, 4), fourfold) == pytest.approx(em.mean_and_error(gain, alone))


def test_the_best_single_temperature_is_found():
    planted = plant(n=200, n_train=100, strength=0.0, seed=5)
    nodes = planted.problem.betas
    flat = np.tile(np.arange(12), (200, 1))
    curves = np.stack([[planted.curve(i, c) for c in range(12)] for i in range(200)])
    cells = Cells(flat // 4, flat % 4, curves, np.ones(flat.shape, bool))
    tau, value = em.best_single_tau(cells, np.ones(200), nodes)
    by_hand = [
        (log_sum_exp(curves @ curve_weights(1 / t, nodes)) - np.log(12)).mean() for t in np.linspace(0.4, 2.5, 400)
    ]
    assert value >= max(by_hand) - 1e-6
    assert tau == pytest.approx(np.linspace(0.4, 2.5, 400)[int(np.argmax(by_hand))], abs=0.01)


def test_a_score_that_is_not_finite_stops_the_fit(partial):
    problem, cells = partial
    cells.curves[4, 0] = np.nan
    with pytest.raises(DataError, match="a score that is not finite"):
        scores_of(problem, cells)


# ------------------------------------------------------------------------------------ filled-in tables

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


def complete(problem, cells, rows, *, seed, tau=1.0):
    """Whole tables (len(rows), K·J), components in their order; None where nothing is filled in."""
    filled = em.FilledIn(problem, cells, tau, seed=seed)
    if not filled.applies:
        return None
    scores = filled.scores(rows)
    assert (scores.options[0] * J + scores.options[1] == np.arange(K * J)).all()
    with np.errstate(divide="ignore"):
        return np.log(scores.ratio) + scores.top[:, None]


def around_their_mean(table):
    return table - table.mean(axis=1, keepdims=True)


def test_what_is_missing_follows_from_what_is_there():
    table = whole_table()
    cells = scored(table, 9)
    filled = complete(problem_of(), cells, EVERY, seed=0)
    missing = np.ones((N, K * J), dtype=bool)
    np.put_along_axis(missing, cells.persona * J + cells.exemplar, False, axis=1)
    error = around_their_mean(filled - table[:, :, 0])[missing]
    assert np.median(np.abs(error)) < 0.8  # of a draw; the table itself has a standard deviation of 2.2


def test_what_was_scored_stays_as_it_is():
    table = whole_table(nodes=3)
    cells = scored(table, 9)
    flat = cells.persona * J + cells.exemplar
    for node, beta in enumerate((0.5, 1.0, 2.0)):
        filled = complete(problem_of(betas=(0.5, 1.0, 2.0)), cells, EVERY, seed=0, tau=1 / beta)
        assert np.take_along_axis(filled, flat, axis=1) == pytest.approx(cells.curves[..., node], abs=1e-3)


def test_draws_are_as_uncertain_as_they_say():
    """The error of an expected value and the spread of the draws around it have the same variance."""
    table = whole_table(seed=3, n=400)
    problem, cells = problem_of(400), scored(table, 8, seed=3)
    every = np.arange(400)
    draws = [around_their_mean(complete(problem, cells, every, seed=s)) for s in range(12)]
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
    assert np.abs(around_their_mean(second - first).mean(axis=0)).max() < 0.1


def test_a_record_never_sees_itself():
    own = np.where(EVERY % 5 == 0, EVERY % J, -1)
    filled = complete(problem_of(own=own), scored(whole_table(), 9, own=own), EVERY, seed=0)
    assert (np.isneginf(filled) == (np.arange(K * J) % J == own[:, None])).all()


def test_the_same_seed_fills_in_the_same():
    cells = scored(whole_table(), 9)
    first, same, other = (complete(problem_of(), cells, EVERY, seed=s) for s in (0, 0, 1))
    assert (first == same).all()
    assert (first != other).any()


def test_draws_belong_to_the_record_whatever_is_filled_in_with_it():
    """Else a fold would be judged on the accidents of the records that its fit has seen."""
    even, odd = EVERY[::2], EVERY[1::2]
    twins = scored(whole_table(), 9).of(np.repeat(even, 2))  # every second record is like the one before

    def draws(rows):
        """(len(rows), cells): what two seeds differ in, for expectations are the same."""
        one, other = (complete(problem_of(), twins, rows, seed=s) for s in (0, 1))
        return one - other

    def alike(one, other):
        return np.corrcoef(one.ravel(), other.ravel())[0, 1]

    # Not quite the same: effects of exemplars that a record has not met are drawn from those of all that are there.
    assert alike(draws(even), draws(EVERY)[::2]) > 0.7
    assert abs(alike(draws(even), draws(odd))) < 0.5


def test_nothing_is_filled_in_where_too_little_is_known():
    assert complete(problem_of(), scored(whole_table(), 2), EVERY, seed=0) is None
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2.0, (N, K * J, 1)).astype(np.float32)
    assert complete(problem_of(), scored(noise, 9), EVERY, seed=0) is None


def test_nothing_is_filled_in_where_nothing_is_missing_or_too_much():
    table = whole_table()
    assert complete(problem_of(), scored(table, K * J), EVERY, seed=0) is None
    n = em.MOST_CELLS // (K * J) + 1
    many = scored(whole_table(n=n), 9)
    assert complete(problem_of(n), many, np.arange(n), seed=0) is None


def test_a_fit_to_filled_in_tables_is_nearly_that_to_whole_ones():
    """Held-out value of context-free weights: with a third of the cells, most of what all cells give."""
    table, fresh = whole_table(seed=1, n=160), whole_table(seed=2, n=440)
    problem, cells, every = problem_of(160), scored(table, 8), np.arange(160)
    test = em.Scores.of(problem_of(440), scored(fresh, K * J), np.arange(440), 1.0)

    def value(scores):
        return test.of_gate(em.fit_fixed(scores, 10.0)[0]).mean()

    least = test.of_gate(KernelGate.fixed(problem.hg, problem.he, 1.0)).mean()
    everything = value(em.Scores.of(problem, scored(table, K * J), every, 1.0)) - least
    filled = value(em.FilledIn(problem, cells, 1.0, seed=0).scores(every)) - least
    as_scored = value(em.Scores.of(problem, cells, every, 1.0)) - least
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
    assert not em.FilledIn(huge, scored(whole_table(n=100), 9), 1.0, seed=0).applies
