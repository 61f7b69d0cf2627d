"""A fitted mixture: draws, files and what damaged files say."""

import hashlib
import itertools
import json
import logging
import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file, save

from mop.backends.encoder import FakeEncoder, embed
from mop.config import SimulateConfig
from mop.errors import ArtifactError, DataError
from mop.mixture.fitted import (
    FittedMixture,
    exemplar_text,
    exemplar_vectors,
    load_mixture,
    save_mixture,
    unconditional_mixture,
    uniform_mixture,
    with_persona_weights,
    with_temperatures,
)
from mop.mixture.gate import Gate
from mop.mixture.kernel import Counts, KernelGate
from mop.simulate.draw import Similar, draw_agents
from mop.storage.files import check_of
from mop.types import Persona, Record

MODES = {
    "alone": {},
    "agents": {"agents_per_response": 3},
    "gates": {"exemplars_per_prompt": 3},
    "similar": {"exemplars_per_prompt": 3, "exemplars_from": "similar"},
}
"""Ways to draw, by name."""
SEVERAL = {name: mode for name, mode in MODES.items() if name != "alone"}


def drawn(fitted, hx, people, *, seed, chunk=64, **settings):
    return draw_agents(fitted, hx, people, SimulateConfig(**settings), seed=seed, chunk=chunk)


def exemplar(j):
    return Record(key=f"e{j}", context=f"c{j}", response=f"r{j} \u2028 é\x00", attributes={"a": "b"})


@pytest.fixture(params=[5, 10], ids=["exemplars D", "exemplars 2D"])
def fitted(request):
    rng = torch.Generator().manual_seed(0)
    gate = Gate(
        torch.randn(3, 5, generator=rng), torch.randn(4, request.param, generator=rng), dim=2, seed=1, init_scale=2.0
    )
    with torch.no_grad():
        gate.log_tau.copy_(torch.tensor([-0.2, 0.0, 0.3]))
    return FittedMixture(
        tuple(Persona(key=f"p{k}", description=f"persona {k}", sources=("e0",)) for k in range(3)),
        tuple(exemplar(j) for j in range(4)),
        gate.requires_grad_(False),
        "a line",
        {"uniform_tau": 0.9, "lm": "fake", "encoder_identity": "fake"},
    )


def test_the_gates_see_of_an_exemplar_its_text_and_its_context():
    encoder, records = FakeEncoder(), [exemplar(j) for j in range(3)]
    found = exemplar_vectors(records, encoder)
    assert found.shape == (3, 2 * encoder.encode(["c0"]).shape[1])
    text, context = np.split(found, 2, axis=1)
    assert text.tolist() == embed([exemplar_text(r) for r in records], encoder).tolist()
    assert context.tolist() == embed(["c0", "c1", "c2"], encoder).tolist()


def contexts(n):
    return [Record(key=f"x{i}", context="?", response="") for i in range(n)]


def test_drawn_frequencies_follow_the_gates(fitted):
    n = 8000
    hx = np.tile(np.array([[0.3, -1.0, 0.5, 0.1, 0.8]], np.float32), (n, 1))
    found = drawn(fitted, hx, contexts(n), seed=0, chunk=500)
    pi = np.exp(fitted.log_pi(hx[:1])[0])
    count = Counter((a.persona, a.exemplars[0]) for (a,) in found)
    for k in range(3):
        omega = np.exp(fitted.log_omega(hx[:1], np.array([k]), np.array([-1]))[0])
        for j in range(4):
            expected = n * pi[k] * omega[j]
            assert abs(count[k, j] - expected) < 4.5 * max(expected, 1) ** 0.5


def test_a_draw_depends_on_seed_and_key_alone(fitted):
    hx = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    people = contexts(20)
    whole = drawn(fitted, hx, people, seed=3, agents_per_response=2)
    assert drawn(fitted, hx[7:9], people[7:9], seed=3, agents_per_response=2, chunk=1) == whole[7:9]
    assert drawn(fitted, hx, people, seed=4, agents_per_response=2) != whole


def labelled(fitted, labels):
    """The mixture with labels on its exemplars."""
    exemplars = tuple(replace(one, label=label) for one, label in zip(fitted.exemplars, labels, strict=True))
    return replace(fitted, exemplars=exemplars)


def table(fitted, hx, own=-1):
    """π·Ω of one context for every persona and exemplar, (K, N)."""
    pi = np.exp(fitted.log_pi(hx))[0]
    rows = [fitted.log_omega(hx, np.array([k]), np.array([own]))[0] for k in range(len(fitted.personas))]
    return pi[:, None] * np.exp(rows)


@pytest.fixture
def sharp():
    """Two personas who want different exemplars very much, and labels that cut across what they want."""
    rng = torch.Generator().manual_seed(10)
    gate = Gate(
        torch.randn(2, 5, generator=rng), torch.randn(5, 5, generator=rng), dim=3, seed=5, init_scale=3.0
    ).requires_grad_(False)
    personas = tuple(Persona(key=f"p{k}", description=f"persona {k}") for k in range(2))
    exemplars = tuple(replace(exemplar(j), label="aabab"[j]) for j in range(5))
    return FittedMixture(personas, exemplars, gate, "a line", {"uniform_tau": 1.0})


SHARP_CONTEXT = np.array([[0.3, -1.0, 0.5, 0.1, 0.8]], np.float32)


def chances(fitted, mode, label):
    """Probability of what one response is written from, (persona, exemplars) or L such pairs, by enumeration."""
    weight = table(fitted, SHARP_CONTEXT)
    if label is not None:
        weight = weight * [e.label == label for e in fitted.exemplars]
        weight = weight / weight.sum()
    found = Counter()
    for k, row in enumerate(weight):
        shown = np.flatnonzero(row)
        for j in shown:
            if mode == "alone":
                found[k, (j,)] = row[j]
            elif mode == "similar":
                found[k, (j, *nearest(fitted, j, shown)[:2])] = row[j]
        if mode == "gates":
            for order in itertools.permutations(shown, min(3, len(shown))):
                found[k, order] = row.sum()
                for turn, j in enumerate(order):
                    left = [i for i in shown if i not in order[:turn]]
                    found[k, order] *= row[j] / row[left].sum()
    if mode == "agents":
        one = chances(fitted, "alone", label)
        for pairs in itertools.product(one, repeat=3):
            found[pairs] = math.prod(one[pair] for pair in pairs)
    return found


@pytest.mark.parametrize("label", [None, "a", "b"])
@pytest.mark.parametrize("mode", MODES)
def test_every_mode_draws_with_the_probability_that_it_reports(sharp, mode, label):
    n = 6000
    people = [replace(one, label=label) for one in contexts(n)]
    found = drawn(sharp, np.repeat(SHARP_CONTEXT, n, axis=0), people, seed=1, same_label=True, **MODES[mode])
    seen, said = Counter(), {}
    for agents in found:
        components = tuple((agent.persona, agent.exemplars) for agent in agents)
        what = components if mode == "agents" else components[0]
        seen[what] += 1
        said[what] = math.exp(sum(agent.log_pi + agent.log_omega for agent in agents))
    expected = chances(sharp, mode, label)
    assert sum(expected.values()) == pytest.approx(1)
    assert said == pytest.approx({what: expected[what] for what in said}, abs=1e-9)
    assert 0.9 < sum(said.values()) <= 1 + 1e-9
    (commonest, times), *_ = seen.most_common(1)
    share = said[commonest]
    assert abs(times / n - share) < 4 * (share * (1 - share) / n) ** 0.5
    # Pearson's statistic over what is expected often enough, about its degrees of freedom.
    often = [what for what in expected if n * expected[what] >= 5]
    chi2 = sum((seen[what] - n * expected[what]) ** 2 / (n * expected[what]) for what in often)
    assert chi2 < len(often) + 5 * (2 * len(often)) ** 0.5


def test_the_label_moves_personas_as_bayes_says(sharp):
    """The exemplars of one label are not equally likely under both personas, so the label tells of the persona."""
    weight = table(sharp, SHARP_CONTEXT)
    given = weight[:, [0, 1, 3]].sum(axis=1) / weight[:, [0, 1, 3]].sum()
    assert np.abs(given - weight.sum(axis=1)).max() > 0.3
    people = [replace(one, label="a") for one in contexts(300)]
    found = drawn(sharp, np.repeat(SHARP_CONTEXT, 300, axis=0), people, seed=0, same_label=True)
    assert {agent.persona: math.exp(agent.log_pi) for (agent,) in found} == pytest.approx(dict(enumerate(given)))


def test_given_a_label_the_record_itself_is_left_out_of_its_share(sharp):
    itself = [replace(sharp.exemplars[0], key=f"x{i}") for i in range(300)]
    found = drawn(sharp, np.repeat(SHARP_CONTEXT, 300, axis=0), itself, seed=0, same_label=True)
    weight = table(sharp, SHARP_CONTEXT, own=0)[:, [1, 3]]
    expected = weight / weight.sum()
    for (agent,) in found:
        chance = math.exp(agent.log_pi + agent.log_omega)
        assert chance == pytest.approx(expected[agent.persona, [1, 3].index(agent.exemplars[0])])


def test_where_exemplars_run_out_all_are_shown_and_a_warning_says_so(sharp, caplog):
    people = [replace(one, label="ab"[i % 2]) for i, one in enumerate(contexts(20))]
    hx = np.repeat(SHARP_CONTEXT, 20, axis=0)
    for mode in ("gates", "similar"):
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            found = drawn(sharp, hx, people, seed=0, same_label=True, **MODES[mode])
        assert [len(agent.exemplars) for (agent,) in found] == [3, 2] * 10
        assert "10 of 20 prompts show fewer than 3 exemplars" in caplog.text
    itself = [replace(sharp.exemplars[0], key="x")]
    with caplog.at_level(logging.WARNING):
        ((agent,),) = drawn(sharp, hx[:1], itself, seed=0, exemplars_per_prompt=9)
    assert sorted(agent.exemplars) == [1, 2, 3, 4]
    assert "1 of 1 prompts show fewer than 9 exemplars" in caplog.text


def test_a_label_that_fewer_than_two_exemplars_have_restricts_nobody(fitted):
    mixture, hx = labelled(fitted, ["a", "b", "a", None]), np.ones((200, 5), np.float32)
    for label in (None, "b", "c"):
        people = [replace(one, label=label) for one in contexts(200)]
        found = drawn(mixture, hx, people, seed=0, same_label=True)
        assert found == drawn(mixture, hx, people, seed=0)
    only = [replace(mixture.exemplars[0], key=f"x{i}") for i in range(50)]
    shown = drawn(mixture, hx[:50], only, seed=0, same_label=True)
    assert {agent.exemplars for (agent,) in shown} == {(2,)}  # the other is the record itself


def test_a_draw_within_labels_depends_on_seed_and_key_alone(fitted):
    mixture = labelled(fitted, ["a", "b", "a", "b"])
    hx = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    people = [replace(one, label=("a", "b", None)[i % 3]) for i, one in enumerate(contexts(20))]
    whole = drawn(mixture, hx, people, seed=3, agents_per_response=2, same_label=True)
    part = drawn(mixture, hx[7:11], people[7:11], seed=3, agents_per_response=2, same_label=True, chunk=1)
    assert part == whole[7:11]


def nearest(fitted, j, among):
    """Of some exemplars those most like j, by cosine, worked out for each pair."""
    he = fitted.gate.he.double().numpy()
    cosine = {i: he[i] @ he[j] / np.linalg.norm(he[i]) / np.linalg.norm(he[j]) for i in among if i != j}
    return sorted(cosine, key=cosine.get, reverse=True)


def test_neighbours_are_the_exemplars_most_like_the_one_drawn(fitted):
    similar = Similar(fitted.gate.he.numpy())
    for j in range(4):
        order = nearest(fitted, j, range(4))
        assert similar.to(j, 2) == order[:2]
        assert similar.to(j, 2, own=order[0]) == order[1:3]
        assert similar.to(j, 9) == order
    n = 50
    hx = np.random.default_rng(0).normal(size=(n, 5)).astype(np.float32)
    alone = drawn(fitted, hx, contexts(n), seed=0)
    found = drawn(fitted, hx, contexts(n), seed=0, **MODES["similar"])
    for (agent,), (shows_more,) in zip(alone, found, strict=True):
        first = agent.exemplars[0]
        assert shows_more == replace(agent, exemplars=(first, *nearest(fitted, first, range(4))[:2]))


def test_neighbours_have_the_label_asked_for_and_are_never_the_record_itself(fitted):
    mixture = labelled(fitted, ["a", "b", "a", "a"])
    itself = [replace(mixture.exemplars[0], key=f"x{i}") for i in range(20)]
    settings = {"exemplars_per_prompt": 4, "exemplars_from": "similar", "same_label": True}
    found = drawn(mixture, np.ones((20, 5), np.float32), itself, seed=0, **settings)
    assert {agent.exemplars for (agent,) in found} <= {(2, 3), (3, 2)}


def test_a_prompt_shows_as_many_exemplars_as_asked_for_and_counts_the_chance_of_all(sharp):
    """Peaked weights draw one exemplar again and again, unless what was drawn is left out."""
    found = drawn(sharp, np.repeat(SHARP_CONTEXT, 100, axis=0), contexts(100), seed=0, **MODES["gates"])
    alone = drawn(sharp, np.repeat(SHARP_CONTEXT, 100, axis=0), contexts(100), seed=0)
    assert {len(set(agent.exemplars)) for (agent,) in found} == {3}
    assert all(one.log_omega > few.log_omega for (one,), (few,) in zip(alone, found, strict=True))


def test_several_agents_can_show_several_exemplars_each(fitted):
    found = drawn(fitted, np.ones((20, 5), np.float32), contexts(20), seed=0, **MODES["agents"], **MODES["similar"])
    assert {(len(agents), *(len(agent.exemplars) for agent in agents)) for agents in found} == {(3, 3, 3, 3)}


@pytest.mark.parametrize("mode", SEVERAL)
@pytest.mark.parametrize("same_label", [False, True])
def test_what_writes_together_depends_on_seed_and_key_alone(fitted, mode, same_label):
    mixture = labelled(fitted, ["a", "b", "a", "b"])
    hx = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    people = [replace(one, label=("a", "b", None)[i % 3]) for i, one in enumerate(contexts(20))]
    settings = {**MODES[mode], "same_label": same_label}
    whole = drawn(mixture, hx, people, seed=3, **settings)
    assert drawn(mixture, hx[7:11], people[7:11], seed=3, **settings) == whole[7:11]
    assert drawn(mixture, hx[::-1], people[::-1], seed=3, **settings)[::-1] == whole
    assert drawn(mixture, hx, people, seed=4, **settings) != whole


def test_all_modes_begin_with_the_persona_and_exemplar_drawn_alone(fitted):
    hx = np.random.default_rng(0).normal(size=(20, 5)).astype(np.float32)
    alone = drawn(fitted, hx, contexts(20), seed=3, tau_factor=0.5)
    for settings in SEVERAL.values():
        found = drawn(fitted, hx, contexts(20), seed=3, tau_factor=0.5, **settings)
        for (one,), (first, *_) in zip(alone, found, strict=True):
            assert (one.persona, one.exemplars[0], one.temperature) == (
                first.persona, first.exemplars[0], first.temperature,
            )  # fmt: skip


def test_an_agent_carries_its_temperature_and_log_weights(fitted):
    hx = np.ones((1, 5), np.float32)
    ((agent,),) = drawn(fitted, hx, contexts(1), seed=0)
    assert agent.temperature == pytest.approx(float(np.exp([-0.2, 0.0, 0.3][agent.persona])))
    assert agent.log_pi == pytest.approx(fitted.log_pi(hx)[0, agent.persona])
    omega = fitted.log_omega(hx, np.array([agent.persona]), np.array([-1]))
    assert agent.log_omega == pytest.approx(omega[0, agent.exemplars[0]])


def test_a_context_never_gets_its_own_record(fitted):
    people = [replace(fitted.exemplars[2], key=f"dup{i}") for i in range(300)]
    found = drawn(fitted, np.ones((300, 5), np.float32), people, seed=0)
    assert 2 not in {a.exemplars[0] for (a,) in found}


def test_uniform_gates_have_one_temperature(fitted):
    uniform = uniform_mixture(fitted)
    assert uniform.temperatures.tolist() == pytest.approx([0.9] * 3)
    assert np.exp(uniform.log_pi(np.ones((1, 5), np.float32)))[0] == pytest.approx([1 / 3] * 3)


def test_saved_and_loaded_is_the_same(fitted, tmp_path):
    save_mixture(fitted, tmp_path / "m")
    again = load_mixture(tmp_path / "m")
    assert (again.personas, again.exemplars, again.task, again.info) == (
        fitted.personas, fitted.exemplars, fitted.task, fitted.info,
    )  # fmt: skip
    for name, tensor in fitted.gate.state_dict().items():
        assert torch.equal(tensor, again.gate.state_dict()[name]), name


def test_contexts_and_embeddings_must_agree(fitted):
    with pytest.raises(DataError, match="every context needs an embedding, got 2 and 1"):
        drawn(fitted, np.ones((1, 5), np.float32), contexts(2), seed=0)


def test_an_empty_folder_is_no_mixture(tmp_path):
    with pytest.raises(ArtifactError, match=r"holds no fitted mixture: mixture\.json is missing; give the folder"):
        load_mixture(tmp_path)


def test_every_cut_of_the_weights_is_noticed(fitted, tmp_path):
    save_mixture(fitted, tmp_path)
    file = tmp_path / "gate.safetensors"
    whole = file.read_bytes()
    for cut in range(0, len(whole), 37):
        file.write_bytes(whole[:cut])
        with pytest.raises(ArtifactError, match="is damaged"):
            load_mixture(tmp_path)


def _edit(folder, change, *, is_signed=True):
    document = json.loads((folder / "mixture.json").read_text())
    change(document)
    if is_signed:  # as somebody would who knows how it is made
        document["check"] = check_of(document)
    (folder / "mixture.json").write_text(json.dumps(document))


@pytest.mark.audit("M4")
def test_a_changed_word_is_seen_where_the_mixture_is_used(fitted, tmp_path):
    save_mixture(fitted, tmp_path)
    _edit(tmp_path, lambda d: d["exemplars"][0].update(response="I never said so."), is_signed=False)
    with pytest.raises(ArtifactError, match=r"mixture\.json was changed since it was saved; put it back as it was"):
        load_mixture(tmp_path)


@pytest.mark.audit("M2")
def test_a_mixture_of_links_is_refused(fitted, tmp_path):
    save_mixture(fitted, tmp_path / "real")
    (tmp_path / "linked").mkdir()
    for name in ("mixture.json", "gate.safetensors"):
        (tmp_path / "linked" / name).symlink_to(tmp_path / "real" / name)
    with pytest.raises(ArtifactError, match=r"mixture\.json is a link to .*; none is followed"):
        load_mixture(tmp_path / "linked")


def test_a_mixture_of_the_version_before_is_read(fitted, tmp_path):
    save_mixture(fitted, tmp_path)

    def older(document):
        document["format_version"] = 2
        del document["check"], document["contains"]

    _edit(tmp_path, older, is_signed=False)
    assert load_mixture(tmp_path).exemplars == fitted.exemplars


@pytest.mark.audit("M9")
def test_a_saved_mixture_says_that_it_holds_real_records(fitted, tmp_path):
    save_mixture(fitted, tmp_path)
    document = json.loads((tmp_path / "mixture.json").read_text())
    assert document["contains"] == "4 real records, word for word (exemplars): audit before passing it on"


def test_another_version_is_refused(fitted, tmp_path):
    save_mixture(fitted, tmp_path)
    _edit(tmp_path, lambda d: d.update(format_version=9))
    with pytest.raises(ArtifactError, match="has format version 9, this program reads version 3; use the version"):
        load_mixture(tmp_path)


def test_weights_for_other_personas_are_refused(fitted, tmp_path):
    save_mixture(fitted, tmp_path)
    _edit(tmp_path, lambda d: d["personas"].pop())
    with pytest.raises(ArtifactError, match=r"has shape \(3, 5\), for 2 personas and 4 exemplars in mixture\.json"):
        load_mixture(tmp_path)


def test_weights_that_are_not_finite_are_refused(fitted, tmp_path):
    fitted.gate.w_x[0, 0] = float("nan")
    save_mixture(fitted, tmp_path)
    with pytest.raises(ArtifactError, match=r"w_x holds something other than finite numbers; fit again"):
        load_mixture(tmp_path)


@pytest.fixture
def ours(fitted):
    """The same personas and exemplars with weights by context as our fit finds them."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(7 * 3), 3)
    of_persona = Counts(row, column, rng.random(21), rng.random(21))
    row, column = np.nonzero(rng.random((7, 4)) < 0.5)
    of_exemplar = Counts(row, column, rng.random(len(row)), rng.random(len(row)))
    gate = KernelGate(
        np.asarray(fitted.gate.hg, np.float32), np.asarray(fitted.gate.he, np.float32),
        np.log([0.8, 1.0, 1.2]), rng.dirichlet(np.ones(3)), rng.dirichlet(np.ones(4)), 2.0,
        rng.normal(size=(7, 5)).astype(np.float32), rng.random(7), of_persona, of_exemplar, 3.0, 0.2,
    )  # fmt: skip
    free = KernelGate.fixed(gate.hg, gate.all_he, 0.7, gate.persona[::-1], gate.exemplar[::-1])
    return replace(fitted, gate=gate, unconditional=free)


def test_weights_by_context_are_saved_and_loaded(ours, tmp_path):
    save_mixture(ours, tmp_path)
    again = load_mixture(tmp_path)
    hx = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    own, k = np.array([0, -1, 2, -1, 3, 1]), np.array([0, 1, 2, 0, 1, 2])
    assert np.array_equal(again.log_pi(hx), ours.log_pi(hx))
    assert np.array_equal(again.log_omega(hx, k, own), ours.log_omega(hx, k, own))
    assert np.array_equal(again.temperatures, ours.temperatures)
    free, known = unconditional_mixture(again), unconditional_mixture(ours)
    assert np.array_equal(free.log_pi(hx), known.log_pi(hx))
    assert np.array_equal(free.log_omega(hx, k, own), known.log_omega(hx, k, own))
    assert free.temperatures == pytest.approx([0.7] * 3)
    save_mixture(replace(ours, unconditional=None), tmp_path / "none")
    assert unconditional_mixture(load_mixture(tmp_path / "none")) is None


def test_weights_by_context_are_drawn_as_often_as_they_say(ours):
    hx = np.tile(np.random.default_rng(1).normal(size=5).astype(np.float32), (4000, 1))
    contexts = [Record(key=f"x{i}", context="c", response="r") for i in range(4000)]
    found = Counter((a.persona, a.exemplars[0]) for (a,) in drawn(ours, hx, contexts, seed=0))
    flat = np.arange(12)[None]
    weight = np.exp(ours.log_weight(hx[:1], flat // 4, flat % 4, np.array([-1])))[0]
    for c in range(12):
        share, error = found[c // 4, c % 4] / 4000, np.sqrt(weight[c] * (1 - weight[c]) / 4000)
        assert abs(share - weight[c]) < 4 * error


def test_a_mixture_by_context_can_be_changed_like_any_other(ours):
    hx = np.random.default_rng(1).normal(size=(6, 5)).astype(np.float32)
    assert with_temperatures(ours, np.array([0.5, 1.0, 2.0])).temperatures == pytest.approx([0.5, 1, 2])
    share = np.exp(with_persona_weights(ours, np.array([0.0, 0.25, 0.75])).log_pi(hx))
    assert share == pytest.approx(np.tile([0.0, 0.25, 0.75], (6, 1)), abs=1e-9)


def test_damaged_weights_by_context_are_refused(ours, tmp_path):
    ours.gate.record_weight[2] = np.nan
    save_mixture(ours, tmp_path)
    with pytest.raises(ArtifactError, match="record_weight holds something other than finite numbers; fit again"):
        load_mixture(tmp_path)


def test_other_temperatures_leave_the_gates_alone(fitted):
    warm = with_temperatures(fitted, 1.5)
    assert warm.temperatures.tolist() == pytest.approx([1.5] * 3)
    assert torch.equal(warm.gate.w_e, fitted.gate.w_e)
    assert fitted.temperatures[0] != 1.5


def test_weights_of_another_fit_are_noticed(fitted, tmp_path):
    save_mixture(fitted, tmp_path / "one")
    save_mixture(with_temperatures(fitted, 0.5), tmp_path / "two")
    (tmp_path / "two" / "gate.safetensors").replace(tmp_path / "one" / "gate.safetensors")
    with pytest.raises(ArtifactError, match="are of two different fits"):
        load_mixture(tmp_path / "one")


JUNK = [None, -1, 0, 2.5, True, "", "x", [], {}, ["x"], [3], {"x": 1}, float("nan"), float("inf"), "\ud800", 10**400]


def places(document, path=()):
    """Every path in nested JSON."""
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for name, value in items:
        yield (*path, name)
        yield from places(value, (*path, name))


def spoil_document(document, rng):
    *above, last = list(places(document))[rng.integers(len(list(places(document))))]
    for name in above:
        document = document[name]
    match rng.integers(3):
        case 0:
            del document[last]
        case 1:
            document[last] = JUNK[rng.integers(len(JUNK))]
        case 2 if isinstance(document, dict):
            document[f"{last}x"] = document[last]


def spoil_tensors(state, rng):
    name = sorted(state)[rng.integers(len(state))]
    array = state[name]
    match rng.integers(7):
        case 0:
            del state[name]
        case 1:
            state[f"{name}x"] = array
        case 2:
            state[name] = array.reshape(-1)[: rng.integers(array.size + 1)]
        case 3:
            state[name] = np.concatenate([array, array])
        case 4:
            state[name] = array.astype([np.int32, np.float16, np.bool_, np.uint8, np.int64][rng.integers(5)])
        case 5 if array.dtype.kind == "f" and array.size:
            array.reshape(-1)[rng.integers(array.size)] = [np.nan, np.inf, -np.inf, -1e30][rng.integers(4)]
        case 6 if array.size:
            array.reshape(-1)[rng.integers(array.size)] = -7


@pytest.mark.parametrize("kind", ["ours", "paper"])
def test_of_a_broken_folder_there_is_one_kind_of_error(kind, ours, fitted, tmp_path):
    """150 of each kind of gate, with hashes that are right; what can be read can be used."""
    n_refused = 0
    for seed in range(150):
        rng, folder = np.random.default_rng(seed), tmp_path / str(seed)
        save_mixture(ours if kind == "ours" else fitted, folder)
        document = json.loads((folder / "mixture.json").read_text())
        state = {name: array.copy() for name, array in load_file(folder / "gate.safetensors").items()}
        for _ in range(rng.integers(1, 4)):
            if rng.random() < 0.5:
                spoil_document(document, rng)
            elif state:
                spoil_tensors(state, rng)
        weights = save(state)
        if "weights" in document:
            document["weights"] = hashlib.sha256(weights).hexdigest()
        (folder / "gate.safetensors").write_bytes(weights)
        text = json.dumps(document)
        (folder / "mixture.json").write_text(text if seed % 10 else text[: rng.integers(len(text))])
        try:
            mixture = load_mixture(folder)
        except ArtifactError:
            n_refused += 1
            continue
        hx = np.ones((2, mixture.gate.hg.shape[1]), np.float32)
        drawn(mixture, hx, contexts(2), seed=0)
        uniform_mixture(mixture)
    assert n_refused > 75


@pytest.mark.parametrize(("change", "message"), [
    (lambda d: d.pop("personas"), "mixture.json has no personas of type list"),
    (lambda d: d.update(info=[]), "mixture.json has no info of type dict"),
    (lambda d: d["personas"][0].update(colour="red"), "a Persona is \"{"),
    (lambda d: d["personas"][0].pop("description"), "missing 1 required keyword-only argument: 'description'"),
    (lambda d: d["exemplars"][1].update(weight="1"), "weight of a Record is '1'"),
    (lambda d: d["info"].update(uniform_tau=0), "info has no uniform_tau"),
])  # fmt: skip
def test_what_is_wrong_with_a_file_is_named(fitted, tmp_path, change, message):
    save_mixture(fitted, tmp_path)
    _edit(tmp_path, change)
    with pytest.raises(ArtifactError) as caught:
        load_mixture(tmp_path)
    assert message in str(caught.value)
    assert str(caught.value).endswith("; fit again")


def test_similar_exemplars_are_found_in_blocks_of_single_precision(ours, monkeypatch):
    whole = [Similar(ours.gate.he).to(j, 3) for j in range(4)]
    monkeypatch.setattr("mop.simulate.draw.BLOCK", 3)
    similar = Similar(ours.gate.he)
    assert [similar.to(j, 3) for j in range(4)] == whole
    assert similar._vectors is ours.gate.he  # no copy in double precision
