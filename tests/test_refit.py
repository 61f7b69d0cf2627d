"""Weights for a model that cannot score: planted ones are found, the rest of the mixture stays, it says what it is."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from conftest import quick_run, reviews
from mop import MixtureOfPersonas
from mop.backends.ask import Drawing
from mop.backends.fake import FakeModel
from mop.backends.fake_server import FakeServer, Faults, start
from mop.cli import FAILED, OK, main
from mop.errors import ConfigError, DataError
from mop.mixture.fitted import FittedMixture, load_mixture, persona_shares, save_mixture, with_persona_weights
from mop.mixture.gate import Gate
from mop.report.report_data import report_data
from mop.runs.verbs import match
from mop.simulate.draw import draw_agents
from mop.simulate.refit import SURROGATE, _order, refit_black_box, samples_of_personas
from mop.simulate.write import simulate
from mop.storage.run_folder import RunFolder
from mop.storage.store import Store
from mop.types import Decoding, Persona, Record

LETTERS = "abcdefghijklmnopqrstuvwxyz .,'!?-#"
TRUTH = np.array([0.55, 0.3, 0.15, 0.0])


class LetterEncoder:
    """Which letters a text is made of; enough to tell the personas below apart."""

    identity = "letters/1"
    n_dims = len(LETTERS)

    def encode(self, texts):
        counts = np.array([[1e-3 + t.count(letter) for letter in LETTERS] for t in texts])
        return (counts / np.linalg.norm(counts, axis=1, keepdims=True)).astype(np.float32)


def unfitted(n_exemplars=3, seed=0):
    """Four personas with letters of their own, three exemplars, a random gate."""
    personas = tuple(Persona(key=f"p{k}", description=letter * 30) for k, letter in enumerate("ajrz"))
    exemplars = tuple(Record(key=f"e{j}", context="x", response=("e", "o", "eo")[j]) for j in range(n_exemplars))
    encoder = LetterEncoder()
    hg = torch.as_tensor(encoder.encode([p.description for p in personas]))
    he = torch.as_tensor(encoder.encode([e.response for e in exemplars]))
    gate = Gate(hg, he, dim=5, seed=seed, init_scale=3.0)
    with torch.no_grad():
        for parameter in (gate.a, gate.log_tau):
            parameter.copy_(torch.linspace(-0.3, 0.4, len(parameter)))
    gate.requires_grad_(False)
    info = {"encoder_identity": encoder.identity, "uniform_tau": 1.0, "lm": "fake", "encoder": None}
    return FittedMixture(personas, exemplars, gate, "letters", info)


def planted(mixture, truth, n, model, store, seed=0):
    """n records written by the model itself, with known persona weights."""
    contexts = [Record(key=f"c{i}", context="xyz"[i % 3], response="") for i in range(n)]
    hx = LetterEncoder().encode([c.context for c in contexts])
    agents = draw_agents(with_persona_weights(mixture, truth), hx, contexts, seed=seed)
    drawing = drawn_by(model, store, Decoding(max_tokens=40, min_tokens=2), seed=seed, task=mixture.task)
    written = simulate(contexts, agents, mixture.personas, mixture.exemplars, drawing, method="planted")
    return [replace(c, response=w.response) for c, w in zip(contexts, written, strict=True)]


def drawn_by(model, store, decoding, **more):
    return Drawing(generator=model, store=store, decoding=decoding, **{"seed": 0, **more})


def matched(mixture, population, store, model=None, samples_per_persona=60, encoder=None, min_tokens=2, **more):
    drawing = drawn_by(model or FakeModel(), store, Decoding(max_tokens=40, min_tokens=min_tokens), **more)
    return refit_black_box(
        mixture, population, drawing, encoder=encoder or LetterEncoder(), samples_per_persona=samples_per_persona
    )


def samples(mixture, contexts, n_tokens, *, model=None, store=None, seed=0, **more):
    drawing = drawn_by(model or FakeModel(), store or Store(":memory:"), Decoding(max_tokens=n_tokens), seed=seed)
    return samples_of_personas(mixture, contexts, drawing, encoder=LetterEncoder(), **more)


def test_planted_weights_are_found_without_a_single_score():
    store, mixture = Store(":memory:"), unfitted()
    population = planted(mixture, TRUTH, 400, FakeModel(), store)
    result = matched(mixture, population, store)
    about = result.info["persona_weights"]
    assert 0.5 * np.abs(about["weights"] - TRUTH).sum() < 0.07
    assert 0.5 * np.abs(0.25 - TRUTH).sum() > 0.3
    assert about["mmd2"] < 0.1 * about["mmd2_uniform"]
    assert about["mmd2"] <= about["mmd2_before"]
    assert store.counts()["score"] == 0


def test_samples_are_drawn_at_the_temperatures_of_the_simulation():
    drawn = samples(unfitted(), [Record(key="c", context="abc", response="so")] * 2, 4, tau_factor=0.5)
    fitted = unfitted().temperatures
    assert [row.temperature for own in drawn for row in own] == pytest.approx(np.repeat(fitted / 2, 2))


def test_samples_show_what_the_simulation_shows():
    mixture = unfitted()
    labels = dict(zip(("e0", "e1", "e2"), "aab", strict=True))
    mixture = replace(mixture, exemplars=tuple(replace(e, label=labels[e.key]) for e in mixture.exemplars))
    records = [Record(key=f"c{i}", context="x", response="so", label="a") for i in range(20)]
    for same_label in (True, False):
        drawn = samples(mixture, records, 4, same_label=same_label)
        assert all(labels[row.exemplar] == "a" for own in drawn for row in own) == same_label


def test_given_weights_hold_in_every_context_and_the_exemplar_gate_stays():
    mixture = unfitted()
    changed = with_persona_weights(mixture, np.array([0.5, 0.25, 0.25, 0.0]))
    hx = LetterEncoder().encode(["abc", "zzz", "hello there"])
    np.testing.assert_allclose(np.exp(changed.log_pi(hx)), [[0.5, 0.25, 0.25, 0.0]] * 3, atol=1e-11)
    assert np.ptp(mixture.log_pi(hx), axis=0).max() > 0.05  # it did look at the context
    own = np.array([-1, 1, 2])
    for k in range(4):
        persona = np.full(3, k)
        before, after = mixture.log_omega(hx, persona, own), changed.log_omega(hx, persona, own)
        assert np.ptp(before[0]) > 0.05
        np.testing.assert_allclose(after, before, atol=1e-12)
    np.testing.assert_array_equal(changed.temperatures, mixture.temperatures)


def test_changed_weights_survive_the_file(tmp_path):
    changed = with_persona_weights(unfitted(), TRUTH)
    save_mixture(changed, tmp_path)
    hx = LetterEncoder().encode(["abc"])
    np.testing.assert_array_equal(load_mixture(tmp_path).log_pi(hx), changed.log_pi(hx))


@pytest.mark.parametrize("weights", [[0.5, 0.5], [0.5, 0.5, 0.5, 0.5], [1.5, -0.5, 0, 0], [np.nan, 1, 0, 0]])
def test_what_are_no_weights_is_refused(weights):
    with pytest.raises(DataError, match="4 numbers of at least 0 that add up to 1 are needed"):
        with_persona_weights(unfitted(), np.array(weights))


def test_mean_weights_are_those_of_a_loop_over_contexts():
    mixture, weight = unfitted(), np.array([1.0, 3.0])
    hx = LetterEncoder().encode(["abc", "zzz"])
    one, other = (np.exp(mixture.log_pi(row[None]))[0] for row in hx)
    np.testing.assert_allclose(persona_shares(mixture, hx, weight), (one + 3 * other) / 4)


def test_survey_weights_count():
    store, mixture = Store(":memory:"), unfitted()
    population = planted(mixture, np.full(4, 0.25), 400, FakeModel(), store)
    heavy = [replace(r, weight=9.0 if r.response.count("z") > 3 else 1.0) for r in population]
    plain = matched(mixture, population, store).info["persona_weights"]["weights"]
    tilted = matched(mixture, heavy, store).info["persona_weights"]["weights"]
    assert tilted[3] > plain[3] + 0.3


def test_a_second_call_asks_the_model_for_nothing_and_finds_the_same():
    store, mixture, drawn = Store(":memory:"), unfitted(), []
    population = planted(mixture, TRUTH, 60, FakeModel(), store)
    first = matched(mixture, population, store, FakeModel(on_batch=drawn.append), samples_per_persona=10)
    assert sum(drawn) == 40
    again = matched(mixture, population, store, FakeModel(on_batch=drawn.append), samples_per_persona=10)
    assert sum(drawn) == 40
    assert again.info == first.info


def test_every_persona_answers_the_same_contexts_and_no_record_sees_itself():
    store, mixture = Store(":memory:"), unfitted(n_exemplars=2)
    shown = []

    class Watched(FakeModel):
        def generate(self, requests, decoding):
            shown.extend(requests)
            return super().generate(requests, decoding)

    asked = [mixture.exemplars[row] for row in _order(mixture.exemplars, 5, seed=3)]
    texts = samples(mixture, asked, 8, model=Watched(), store=store, seed=3)
    assert [len(own) for own in texts] == [5] * 4
    assert {one.method for own in texts for one in own} == {"black-box"}
    last = [[t.segments[-1].text for t in r.branches[0].prompt.turns][-1] for r in shown]
    assert last[:5] * 4 == last
    # With two exemplars, a context that is one of them leaves the other: e0 answers "e", e1 "eo".
    assert len({r.branches[0].prompt for r in shown}) == 8


def test_an_encoder_that_the_gates_do_not_know_is_refused():
    class Other(LetterEncoder):
        identity = "letters/2"

    with pytest.raises(ConfigError, match="fitted on embeddings of 'letters/1', got the encoder 'letters/2'"):
        matched(unfitted(), reviews(4), Store(":memory:"), encoder=Other())


def test_too_little_to_match_is_refused():
    with pytest.raises(ConfigError, match="samples_per_persona must be at least 2, got 1; try 20"):
        matched(unfitted(), reviews(4), Store(":memory:"), samples_per_persona=1)
    silent = [replace(r, response=" ") for r in reviews(3)]
    with pytest.raises(DataError, match="0 of 3 records hold a response; at least 2 are needed"):
        matched(unfitted(), silent, Store(":memory:"))
    mute = FakeModel(mean_length=1e-9)
    with pytest.raises(DataError, match="0 of 4 samples of persona p0 hold any text; at least 2"):
        matched(unfitted(), reviews(4), Store(":memory:"), mute, samples_per_persona=4, min_tokens=0)


# ------------------------------------------------------------------------------------------ on a run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    return quick_run(tmp_path_factory.mktemp("refit"), "evaluate")


def test_a_run_is_refitted_on_what_it_was_fitted_on_and_never_on_what_it_is_judged_by(finished, tmp_path):
    config, path = finished
    whole = match(config, path, samples_per_persona=5, out=tmp_path / "whole")
    shutil.copytree(path, tmp_path / "run")
    for split in ("test", "golden"):
        (tmp_path / "run" / "records" / f"{split}.jsonl").unlink()
    part = match(config, tmp_path / "run", samples_per_persona=5)
    assert part["out"] == str(tmp_path / "run" / "mixture-black-box")
    assert part["persona_weights"] == whole["persona_weights"]
    assert part["persona_weights"]["n_targets"] == config.data.train + config.data.valid


def test_the_new_mixture_says_that_it_is_a_surrogate_and_for_which_model(finished, tmp_path):
    config, path = finished
    match(config, path, lm="fake", samples_per_persona=5, out=tmp_path / "mixture")
    info = load_mixture(tmp_path / "mixture").info
    assert info["chosen"] == "surrogate: matched embeddings"
    assert info["persona_weights"]["kind"] == "surrogate: matched embeddings"
    assert (info["lm"], info["persona_weights"]["model"]) == ("fake", "fake")


def test_a_report_on_such_a_mixture_says_so(finished, tmp_path):
    config, path = finished
    shutil.copytree(path, tmp_path / "run")
    match(config, path, samples_per_persona=5, out=tmp_path / "run" / "mixture")
    problems = {
        name: report_data(RunFolder.open(folder), config, versions={}, spent={}).problems["Persona weights"]
        for name, folder in (("fitted", path), ("matched", tmp_path / "run"))
    }
    assert problems["fitted"] == []
    assert problems["matched"][0].startswith(f"{SURROGATE}: not fitted by likelihood")


def test_the_verb_prints_the_weights_with_their_label(finished, tmp_path, capsys):
    _, path = finished
    command = ["match", str(path), "--samples-per-persona", "5", "--out", str(tmp_path)]
    assert main(command) == OK
    out = capsys.readouterr().out
    assert "personas (shares of simulated responses) for fake, surrogate: matched embeddings" in out
    assert f"mixture: {tmp_path}" in out
    assert main([*command, "--json"]) == OK
    rows = json.loads(capsys.readouterr().out)["personas"]
    assert sum(row["weight"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert sum(row["before"] for row in rows) == pytest.approx(1, abs=1e-5)


def test_samples_that_a_server_refuses_are_left_out_and_counted_by_persona(finished, tmp_path, capsys):
    _, path = finished
    faults = Faults(script=("ok",) * 5 + ("filter", "ok", "filter"))  # after five draws of the probe

    def command(server, share):
        return [
            "match", str(path), "--lm", f"openai:toy@{server.url}", "--out", str(tmp_path),
            "--samples-per-persona", "4", "--json", "--set", 'remote.dialect="openai-chat"',
            "--set", "remote.max_concurrency=1", "--set", f"remote.max_failed_share={share}",
        ]  # fmt: skip

    with start(FakeServer("openai", faults=faults)) as server:
        assert main(command(server, 0.0)) == FAILED
    assert "could not draw 2 of the" in capsys.readouterr().err
    RunFolder.open(path).store.unlink()  # ask for all again
    with start(FakeServer("openai", faults=faults)) as server:
        assert main(command(server, 0.5)) == OK
    rows = json.loads(capsys.readouterr().out)["personas"]
    assert [row["failed"] for row in rows] == [2] + [0] * (len(rows) - 1)
    assert sum(row["weight"] for row in rows) == pytest.approx(1, abs=1e-5)
    about = load_mixture(tmp_path).info["persona_weights"]
    assert (about["failed"], about["n_empty"]) == ([2] + [0] * (len(rows) - 1), 0)


def test_the_estimator_allows_its_servers_share_of_failed_samples():
    records = reviews(24)
    faults = Faults(script=("ok",) * 5 + ("filter",))
    with start(FakeServer("openai", faults=faults)) as server:
        model = MixtureOfPersonas(2, lm="fake", encoder="fake").fit(records)
        model.set_params(
            lm=f"openai:toy@{server.url}",
            remote={"dialect": "openai-chat", "max_failed_share": 0.2, "max_concurrency": 1},
        )
        model.refit_black_box(records, samples_per_persona=4)
    assert model.mixture_.info["persona_weights"]["failed"] == [1, 0]


def test_contexts_are_asked_as_often_as_their_weights_say():
    records = [Record(key=f"c{i}", context="x", response="so", weight=1.0 + 2 * (i == 3)) for i in range(4)]
    order = _order(records, 60, seed=0)
    assert np.bincount(order).tolist() == [10, 10, 10, 30]
    even = _order([replace(r, weight=1.0) for r in records], 6, seed=0)
    assert sorted(np.bincount(even).tolist()) == [1, 1, 2, 2]
