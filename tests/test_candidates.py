"""Candidates for the weights: exact values, recovered truth, and a certificate that holds."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from mop.candidates import (
    Candidate,
    FilledIn,
    Part,
    _Trial,
    axes_of,
    best_component,
    best_single_tau,
    certificate,
    choose,
    component_gains,
    fit_candidate,
    log_lik_of,
    new_gate,
    paired_interval,
    tau_intervals,
    temperature_report,
    values_of,
)
from mop.cells import Problem, pack_cells
from mop.config import FitConfig
from mop.errors import DataError
from planted import plant

FAST = FitConfig(
    n_rounds=2, components_per_record=9, records_per_component=40, valid_components=12, dim=4,
    learning_rate=0.08, max_steps=100, n_folds=2, decays=(0.5,), tau_spread=1.0, start_tau=1.0,
)  # fmt: skip


def all_cells(planted):
    n, n_all = len(planted.problem.hx), len(planted.logits)
    return pack_cells(
        [list(range(n_all))] * n, planted.curve, np.zeros((n, n_all)),
        n_exemplars=len(planted.problem.he), n_nodes=len(planted.problem.betas),
    )  # fmt: skip


def everyone(planted, cells):
    return Part(planted.problem, cells, np.arange(len(planted.problem.hx)))


@pytest.fixture(scope="module")
def small():
    planted = plant(n=120, n_train=80, blocks=True)
    return planted, all_cells(planted)


def test_the_value_of_fully_scored_cells_is_the_exact_log_likelihood():
    planted = plant(n=20, n_train=10)
    rows = np.arange(5)
    cells = pack_cells(
        [list(range(12))] * 5,
        planted.curve,
        np.zeros((5, 12)),
        n_exemplars=4,
        n_nodes=len(planted.problem.betas),
    )
    with torch.inference_mode():
        value = log_lik_of(
            planted.gate, cells, torch.as_tensor(planted.problem.hx[:5]),
            torch.as_tensor(planted.problem.own[:5]), planted.problem.betas,
        )  # fmt: skip
    assert value.numpy() == pytest.approx(planted.log_lik(planted.gate, rows), abs=1e-3)


def test_the_best_single_temperature_is_found():
    planted = plant(n=200, n_train=100, strength=0.0, seed=5)
    with torch.no_grad():
        planted.gate.log_tau.fill_(np.log(0.8))
    rng = np.random.default_rng(0)
    for i in range(200):
        z = planted.logits[rng.integers(12)] / 0.8
        planted.outcomes[i] = rng.choice(12, p=np.exp(z) / np.exp(z).sum())
    cells = pack_cells(
        [list(range(12))] * 200,
        planted.curve,
        np.zeros((200, 12)),
        n_exemplars=4,
        n_nodes=len(planted.problem.betas),
    )
    tau, value = best_single_tau(cells, np.ones(200), planted.problem.betas)
    assert _uniform(planted, tau) == pytest.approx(value, abs=1e-3)
    assert value == pytest.approx(
        max(_uniform(planted, t) for t in np.linspace(0.5, 1.5, 101)), abs=1e-3
    )


def _uniform(planted, tau):
    z = planted.logits / tau
    log_p = z - np.log(np.exp(z).sum(1, keepdims=True))
    return float(np.log(np.exp(log_p[:, planted.outcomes]).mean(0)).mean())


def test_planted_temperatures_lie_in_their_intervals():
    # One exemplar and words of its own for each persona: otherwise temperatures are hardly identified.
    planted = plant(n=500, n_train=400, n_personas=2, n_exemplars=1, strength=1.0, blocks=True)
    cells = all_cells(planted)
    gate = fit_candidate(Candidate("unconditional"), everyone(planted, cells), FAST, seed=0)
    assert gate.temperatures().tolist() == pytest.approx([0.6, 1.6], rel=0.2)
    for tau, (low, high) in zip(
        (0.6, 1.6), tau_intervals(gate, planted.problem, cells, FAST), strict=True
    ):
        assert low < tau < high
        assert high / low < 1.8


def test_a_candidate_that_is_clearly_worse_is_given_up(small):
    planted, cells = small
    trial = _Trial(FilledIn(planted.problem, cells, FAST, seed=0), FAST, 0, None)
    uniform, free = Candidate("uniform"), Candidate("unconditional")
    assert trial.validate(uniform)
    rng, bound = np.random.default_rng(0), trial.values[uniform]
    trial.values[uniform] = bound + 10 + rng.normal(size=len(bound))
    assert not trial.validate(free, rival=uniform)
    assert free not in trial.values
    trial.values[uniform] = bound - 10 + rng.normal(size=len(bound))
    assert trial.validate(free, rival=uniform)


def test_a_temperature_interval_is_the_curvature_of_the_likelihood():
    """One persona: the second derivative by finite differences of the sum over records."""
    planted = plant(n=60, n_train=40, n_personas=1, n_exemplars=1, strength=1.0)
    cells = all_cells(planted)
    gate = fit_candidate(Candidate("unconditional"), everyone(planted, cells), FAST, seed=0)
    centre, step = float(gate.log_tau[0].detach()), 1e-2

    def total(log_tau):
        with torch.no_grad():
            gate.log_tau.fill_(log_tau)
        return values_of(gate, planted.problem, cells, np.arange(60)).sum()

    bend = (total(centre + step) - 2 * total(centre) + total(centre - step)) / step**2
    total(centre)
    ((low, high),) = tau_intervals(gate, planted.problem, cells, FAST)
    assert math.log(high / low) == pytest.approx(2 * 1.96 / math.sqrt(-bend), rel=0.02)


def test_a_temperature_per_persona_is_kept_only_if_it_pays(small):
    planted, cells = small
    choice = choose(planted.problem, cells, FAST, seed=0)
    report = temperature_report(choice, planted.problem, cells, FAST, seed=0)
    assert report["gain_interval"][0] <= report["gain_over_single"] <= report["gain_interval"][1]
    assert report["is_single"] == (report["gain_over_single"] <= 0)
    assert ("one temperature" in choice.candidate.name) == report["is_single"]


def test_the_chosen_candidate_validates_no_worse_than_the_references(small):
    planted, cells = small
    choice = choose(planted.problem, cells, FAST, seed=0)
    for name in ("uniform", "unconditional"):
        assert choice.values.mean() >= choice.others[name].mean()


def test_the_optimum_does_not_depend_on_where_a_fit_starts(small):
    planted, cells = small
    part = everyone(planted, cells)
    gates = Candidate("gates", 10.0)
    cold = fit_candidate(gates, part, FAST, seed=0)
    start = fit_candidate(Candidate("unconditional"), part, FAST, seed=0)
    warm = fit_candidate(gates, part, FAST, seed=0, start=start)
    assert part.values(warm).mean() == pytest.approx(part.values(cold).mean(), abs=0.01)


def test_a_stronger_decay_keeps_gates_nearer_to_context_free_weights(small):
    planted, cells = small
    part = everyone(planted, cells)
    sizes = [
        float(fit_candidate(Candidate("gates", decay), part, FAST, seed=0).w_e.detach().norm())
        for decay in (0.5, 20.0, 20_000.0)
    ]
    assert sizes[0] > sizes[1] > sizes[2]
    assert sizes[2] < 1e-2


@pytest.fixture(scope="module")
def alike():
    """Three kinds of context; a record is explained by the exemplars of its kind, and few cells are scored."""
    rng = np.random.default_rng(0)
    n, n_personas, n_exemplars, size = 60, 2, 30, 8
    centres = np.linalg.qr(rng.standard_normal((size, 3)))[0].T
    kind, kind_e = rng.integers(0, 3, n), rng.integers(0, 3, n_exemplars)

    def near(kinds):
        rows = centres[kinds] + 0.05 * rng.standard_normal((len(kinds), size))
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    text = rng.standard_normal((n_exemplars, size)) / size**0.5
    problem = Problem(
        hx=near(kind), hg=(rng.standard_normal((n_personas, size)) / size**0.5).astype(np.float32),
        he=np.hstack([text, near(kind_e)]).astype(np.float32), own=np.full(n, -1), weight=np.ones(n),
        n_train=40, betas=(1.0,),
    )  # fmt: skip
    names = [
        sorted(rng.choice(n_personas * n_exemplars, 10, replace=False).tolist()) for _ in range(n)
    ]

    def curve(i, c):
        fits = kind[i] == kind_e[c % n_exemplars]
        return np.array([-20.0 + 4.0 * fits + rng.normal(0, 1)], np.float32)

    cells = pack_cells(
        names, curve, np.zeros((n, n_personas * n_exemplars)), n_exemplars=n_exemplars, n_nodes=1
    )
    return problem, cells, kind_e, centres


def test_exemplars_with_a_context_like_the_one_at_hand_are_found_from_few_scores(alike):
    problem, cells, kind_e, centres = alike
    choice = choose(problem, cells, replace(FAST, dim=16), seed=0)
    assert choice.candidate.kind == "similar"
    hx = torch.as_tensor(centres)
    for kind in range(3):
        omega = choice.gate.log_omega(hx[kind : kind + 1], torch.tensor([0])).exp()[0]
        assert float(omega[kind_e == kind].sum().detach()) > 0.8
    unconditional = choice.others["unconditional"].mean()
    assert choice.values.mean() > unconditional + 0.3


def test_similarity_moves_two_factors_and_its_optimum_does_not_depend_on_the_start(alike):
    problem, cells, *_ = alike
    part, settings = Part(problem, cells, np.arange(60)), replace(FAST, dim=16)
    similar = Candidate("similar")
    cold = fit_candidate(similar, part, settings, seed=0)
    warm = fit_candidate(similar, part, settings, seed=0, start=cold)
    assert part.values(warm).mean() == pytest.approx(part.values(cold).mean(), abs=1e-3)
    axes = axes_of(new_gate(problem, settings, 1.0, 0).w_x.detach(), problem)
    assert int((axes.abs().sum(dim=1) > 0).sum()) == 4
    w_e, size = cold.w_e.detach(), problem.hx.shape[1]
    assert float(w_e[:, :size].abs().max()) < 1e-12
    spans = torch.from_numpy(problem.bases[2])
    factor = float((w_e[:, size:] * axes).sum() / axes.square().sum())
    along = torch.cat([torch.zeros_like(axes), axes], dim=1) @ spans
    assert torch.allclose(w_e @ spans, factor * along, atol=0.05 * abs(factor))
    assert factor > 1


@pytest.mark.parametrize("dim", [1, 3])
def test_a_gate_too_small_for_axes_is_fitted_without_them(alike, dim):
    problem, cells, *_ = alike
    choice = choose(problem, cells, replace(FAST, dim=dim), seed=0)
    assert choice.candidate.kind != "similar"
    assert np.isfinite(choice.values).all()


def test_embeddings_that_are_all_equal_have_no_axes(alike):
    problem = alike[0]
    same = replace(
        problem, **{name: np.ones_like(getattr(problem, name)) for name in ("hx", "hg", "he")}
    )
    assert len(same.axes) == 0
    assert new_gate(same, FAST, 1.0, 0).w_x.shape == (FAST.dim, problem.hx.shape[1])


def test_axes_are_orthonormal_and_have_one_sign(alike):
    problem = alike[0]
    axes = problem.axes
    assert np.allclose(axes @ axes.T, np.eye(len(axes)))
    assert (axes[np.arange(len(axes)), np.abs(axes).argmax(axis=1)] > 0).all()
    rows = np.concatenate([problem.hx, problem.hg, problem.he[:, -8:]])
    spread = (rows @ axes.T).var(axis=0)
    assert (np.diff(spread) <= 1e-9).all()


def test_weights_without_context_have_no_projections_and_fit_better_than_uniform(small):
    planted, cells = small
    part = everyone(planted, cells)
    free = fit_candidate(Candidate("unconditional"), part, FAST, seed=0)
    uniform = fit_candidate(Candidate("uniform"), part, FAST, seed=0)
    assert float(free.w_g.detach().abs().max()) == 0
    assert part.values(free).mean() > part.values(uniform).mean()


def test_the_certificate_holds_against_every_weighting_tried(small):
    """Brute force: a grid on the simplex of three components at a time, and the EM optimum."""
    planted, cells = small
    gate = fit_candidate(Candidate("unconditional"), everyone(planted, cells), FAST, seed=0)
    found = certificate(gate, planted.problem, cells)
    rows = np.arange(80, 120)
    assert (found["n_records"], found["n_components"]) == (40, 12)
    value = values_of(gate, planted.problem, cells, rows).mean()
    z = planted.logits / np.repeat(gate.temperatures().detach().numpy(), 4)[:, None]
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    p = p[:, planted.outcomes[rows]]  # (12, 40)
    gains = []
    rng = np.random.default_rng(0)
    for _ in range(4000):
        weight = rng.dirichlet(np.full(12, rng.choice([0.05, 0.3, 1.0])))
        gains.append(np.log(weight @ p).mean() - value)
    assert max(gains) <= found["bound"]
    assert max(gains) <= found["best_fixed"] + found["best_fixed_slack"]
    assert found["best_fixed"] <= found["bound"] + 1e-9
    d = (p / np.exp(values_of(gate, planted.problem, cells, rows))).mean(axis=1)
    assert found["bound"] == pytest.approx(np.log(d.max()), abs=1e-3)
    assert found["largest"][0][:2] == [int(d.argmax()) // 4, int(d.argmax()) % 4]


def test_without_common_components_there_is_no_certificate():
    planted = plant(n=20, n_train=10)
    cells = pack_cells(
        [[i % 12] for i in range(20)], planted.curve, np.zeros((20, 12)), n_exemplars=4, n_nodes=20
    )
    gate = fit_candidate(Candidate("uniform"), everyone(planted, cells), FAST, seed=0)
    assert certificate(gate, planted.problem, cells) is None


def test_gains_of_fully_scored_components_are_ratios_shrunk_towards_their_margins(small):
    planted, cells = small
    gate = fit_candidate(Candidate("uniform"), everyone(planted, cells), FAST, seed=0)
    gains = component_gains(gate, planted.problem, cells)
    z = planted.logits / float(gate.temperatures()[0].detach())
    p = np.exp(z) / np.exp(z).sum(1, keepdims=True)
    p = p[:, planted.outcomes]
    ratio = np.minimum(p / p.mean(axis=0), math.exp(3)).mean(axis=1)
    assert np.corrcoef(gains, ratio)[0, 1] > 0.98
    assert np.abs(gains - ratio).max() < 0.2


def test_the_best_component_is_the_one_with_the_largest_mean(small):
    planted, cells = small
    found = best_component(planted.problem, cells)
    rows = np.arange(80, 120)
    best = max(
        (np.log(np.exp(z[v]) / np.exp(z).sum()).mean(), c)
        for c in range(12) for beta in np.linspace(1 / 3, 4, 60)
        for z, v in [(planted.logits[c] * beta, planted.outcomes[rows])]
    )  # fmt: skip
    assert found["persona"] * 4 + found["exemplar"] == best[1]


def test_a_paired_interval_covers_the_mean_as_the_normal_one_does():
    difference = np.random.default_rng(0).normal(0.3, 1.0, 400)
    low, high = paired_interval(difference, np.ones(400), seed=0)
    assert low == pytest.approx(difference.mean() - 1.96 * difference.std() / 20, abs=0.02)
    assert high == pytest.approx(difference.mean() + 1.96 * difference.std() / 20, abs=0.02)


def test_a_score_that_is_not_finite_stops_the_fit(small):
    planted, cells = small
    curves = cells.curves.copy()
    curves[3, 2, 0] = np.nan
    part = everyone(planted, replace(cells, curves=curves))
    with pytest.raises(
        DataError, match="a score that is not finite; check the scores with: mop verify"
    ):
        fit_candidate(Candidate("unconditional"), part, FAST, seed=0)
