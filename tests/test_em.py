"""Weights from scores: exact values, EM that only rises, planted weights found again, and an honest choice."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.optimize import minimize

from mop.errors import DataError
from mop.mixture import em
from mop.mixture.cells import Cells, Problem
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
    return em.Scores(problem, cells, np.arange(len(problem.hx)), 1.0)


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
    found = em.fit_fixed(scores, prior, slope)
    assert np.diff(found.path).min() > -1e-9
    assert found.path[-1] - found.path[0] > 0.05
    he = problem.he.astype(float)

    def loss(z):
        log_pi, log_omega = z[:3] - log_sum_exp(z[:3]), z[3:] - log_sum_exp(z[3:])
        log_w = (log_pi[:, None] + log_omega).ravel() + slope * np.tile(problem.hx @ he.T, 3)
        log_w = np.where(cells.present, log_w, -np.inf)
        value = log_sum_exp(log_w + cells.curves[..., 0]) - log_sum_exp(log_w)
        return -value.sum() - prior * (log_pi.mean() + log_omega.mean())

    best = minimize(loss, np.zeros(7), method="BFGS", options={"gtol": 1e-7})
    assert found.path[-1] == pytest.approx(-best.fun, abs=1e-4)
    assert found.persona == pytest.approx(np.exp(best.x[:3] - log_sum_exp(best.x[:3])), abs=2e-3)


def test_the_weight_of_a_record_counts_as_so_many_records(partial, monkeypatch):
    monkeypatch.setattr(em, "ACCURACY", 1e-8)
    problem, cells = partial
    twice = np.concatenate([np.arange(40), [3, 3, 8]])
    repeated = replace(problem, hx=problem.hx[twice], own=problem.own[twice], weight=np.ones(43))
    of_repeated = em.Scores(repeated, cells.of(twice), np.arange(43), 1.0)
    weighted = scores_of(problem, cells)
    weighted.weight = np.where(np.arange(40) == 3, 3.0, np.where(np.arange(40) == 8, 2.0, 1.0))
    first, second = em.fit_fixed(weighted, 5.0), em.fit_fixed(of_repeated, 5.0)
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
    fixed = em.fit_fixed(scores, 5.0)
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
        again = em.fit_shape(em.Scores(problem, cells, rest, 1.0), choice.shape, 1.0)
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
        (log_sum_exp(curves @ em.curve_weights(1 / t, nodes)) - np.log(12)).mean() for t in np.linspace(0.4, 2.5, 400)
    ]
    assert value >= max(by_hand) - 1e-6
    assert tau == pytest.approx(np.linspace(0.4, 2.5, 400)[int(np.argmax(by_hand))], abs=0.01)


def test_a_score_that_is_not_finite_stops_the_fit(partial):
    problem, cells = partial
    cells.curves[4, 0] = np.nan
    with pytest.raises(DataError, match="a score that is not finite"):
        scores_of(problem, cells)
