"""The Python face behaves like an estimator."""

import contextlib
import math
from dataclasses import replace

import numpy as np
import pytest

from conftest import reviews
from mop import MixtureOfPersonas, Persona
from mop.backends.encoder import FakeEncoder
from mop.backends.fake import FakeModel
from mop.config import FitConfig
from mop.data.given import records_given
from mop.data.records import load_records
from mop.errors import ArtifactError, ConfigError, DataError, NotFittedError, ScoringUnsupportedError
from mop.evaluate.likelihood import mean_interval
from mop.mixture.score import clusters
from mop.types import Decoding, Record

SETTINGS = FitConfig(components_per_record=8, records_per_component=8, valid_components=10)


@pytest.fixture(scope="module")
def model():
    return MixtureOfPersonas(
        3, lm="fake", encoder="fake", n_exemplars=12, task="a film review", settings=SETTINGS, score_components=100
    ).fit(reviews(48))


def test_scores_are_log_likelihoods_and_score_is_their_mean(model):
    held = reviews(64)[48:]
    samples = model.score_samples(held)
    assert samples.shape == (16,)
    assert (samples < 0).all()
    assert model.score(held) == pytest.approx(samples.mean())


def test_loaded_rows_and_tables_can_be_fitted_to_with_their_labels_and_weights():
    import pandas as pd

    rows = [
        {"context": r.context, "response": r.response, "label": r.label, "weight": 1 + i % 3, "group": f"g{i}"}
        for i, r in enumerate(reviews(24))
    ]
    loaded = load_records(rows, label="label", weight="weight", group="group")
    assert [records_given(given) for given in (loaded, rows, pd.DataFrame(rows))] == [loaded.records] * 3
    assert {record.label for record in loaded} == {"good", "bad"}
    assert len(loaded) == 24
    table = pd.DataFrame(rows).assign(label=pd.array([None, *[r["label"] for r in rows[1:]]], dtype="string"))
    assert [record.label for record in records_given(table)][:2] == [None, rows[1]["label"]]


def test_a_path_is_no_record():
    with pytest.raises(DataError, match=r"the path 'reviews\.csv'.*load_records"):
        MixtureOfPersonas(2, lm="fake", encoder="fake").fit("reviews.csv")


@pytest.mark.advice
def test_a_figure_for_every_row_that_is_given_or_an_error(model):
    row = {"context": "Film: Up.", "response": "good fun"}
    first, second = model.score_samples([row, row])
    assert first == second
    with pytest.raises(DataError, match=r"row 2 has no text in 'response'; .*none can be left out"):
        model.predict_proba([row, {"context": "Film: Up.", "response": " "}])
    rows = [row, row, *({"context": "c", "response": f"dull {i}"} for i in range(12))]
    fresh = MixtureOfPersonas(1, lm="fake", encoder="fake", n_exemplars=4, settings=SETTINGS)
    with pytest.raises(
        DataError, match=r"1 of 14 rows left out, all for duplicate .*7%.* fit to mop.data.load_records"
    ):
        fresh.fit(rows)
    fitted = fresh.fit(load_records(rows))
    assert len(fitted.mixture_.exemplars) == 4


def test_rows_of_predict_proba_sum_to_one(model):
    posterior = model.predict_proba(reviews(52)[48:])
    assert posterior.shape == (4, 3)
    assert posterior.sum(axis=1) == pytest.approx(np.ones(4))


def test_samples_are_reproducible_and_carry_their_provenance(model):
    first = model.sample(["Verdict: good."] * 3, seed=1)
    assert model.sample(["Verdict: good."] * 3, seed=1) == first
    assert {r.persona for r in model.sample(["Verdict: good."] * 40, seed=2)} <= {
        p.key for p in model.mixture_.personas
    }
    assert len({r.seed for r in first}) == 3
    assert model.sample([]) == []


def test_a_factor_on_the_temperatures_and_exemplars_in_one_prompt(model):
    contexts = ["Verdict: good."] * 20
    plain = model.sample(contexts, seed=1)
    cooler = model.sample(contexts, seed=1, tau_factor=0.5)
    assert [r.persona for r in cooler] == [r.persona for r in plain]
    assert [r.temperature for r in cooler] == pytest.approx([r.temperature / 2 for r in plain])
    shown = [r.exemplar.split() for r in model.sample(contexts, exemplars_per_prompt=5)]
    assert all(1 <= len(keys) <= 5 and len(set(keys)) == len(keys) for keys in shown)
    assert max(map(len, shown)) > 1
    shown = [r.exemplar.split() for r in model.sample(contexts, exemplars_per_prompt=5, exemplars_from="similar")]
    assert all(len(set(keys)) == 5 for keys in shown)
    labels = {record.key: record.label for record in model.mixture_.exemplars}
    asked = [Record(key=f"r{i}", context="Verdict: good.", response="", label="bad") for i in range(20)]
    alike = [r.exemplar for r in model.sample(asked, same_label=True)]
    assert {labels[key] for key in alike} == {"bad"}
    assert "good" in {labels[r.exemplar] for r in model.sample(asked)}
    with pytest.raises(ConfigError, match=r"tau_factor must be above 0, got -1"):
        model.sample(contexts, tau_factor=-1)
    with pytest.raises(ConfigError, match=r"simulate.mix is no longer a setting; write simulate.exemplars_per_prompt"):
        model.sample(contexts, mix="prompt", n_agents=3)
    with pytest.raises(TypeError, match="sample\\(\\) has no parameter 'temperature'"):
        model.sample(contexts, temperature=3)


def test_draws_without_a_seed_are_those_of_the_constructors(model):
    contexts, records = ["Verdict: good."] * 20, reviews(24)
    other = MixtureOfPersonas(**{**model.get_params(), "seed": 5})
    other.mixture_ = model.mixture_
    assert other.sample(contexts) == model.sample(contexts, seed=5) != model.sample(contexts)
    weights = []
    for seed in (None, 5, 6):
        other.mixture_ = model.mixture_
        other.refit_black_box(records, samples_per_persona=4, seed=seed)
        weights.append(other.mixture_.info["persona_weights"]["mmd2"])
    assert weights[0] == weights[1] != weights[2]


def test_saved_and_loaded_gives_the_same_scores_and_samples(model, tmp_path):
    model.save(tmp_path / "critics")
    again = MixtureOfPersonas.load(tmp_path / "critics", score_components=100)
    held = reviews(52)[48:]
    assert again.score_samples(held).tolist() == model.score_samples(held).tolist()
    assert again.sample(["Verdict: bad."], seed=4) == model.sample(["Verdict: bad."], seed=4)
    assert (again.lm, again.encoder, again.task) == ("fake", "fake", "a film review")


def test_explain_ranks_all_personas_and_some_exemplars(model):
    explained = model.explain(reviews(49)[48], n_exemplars=4)
    posterior = [row["posterior"] for row in explained["personas"]]
    assert posterior == sorted(posterior, reverse=True)
    assert sum(posterior) == pytest.approx(1)
    assert len(explained["exemplars"]) == 4
    assert math.isfinite(explained["log_lik"])


def test_score_report_compares_with_untrained_gates(model):
    report = model.score_report(reviews(64)[48:])
    assert report["gain"] == pytest.approx(report["mop"] - report["mop-uniform"])


def test_personas_can_be_given():
    mine = [Persona(key="a", description="You love films."), Persona(key="b", description="You hate films.")]
    model = MixtureOfPersonas(lm="fake", encoder="fake", personas=mine, settings=SETTINGS).fit(reviews(24))
    assert [p.key for p in model.mixture_.personas] == ["a", "b"]


def test_the_language_model_can_write_the_personas():
    model = MixtureOfPersonas(2, lm="fake", encoder="fake", writer="llm", task="a review", settings=SETTINGS)
    model.fit(reviews(24))
    assert [p.writer for p in model.mixture_.personas] == ["llm", "llm"]


def test_parameters_can_be_read_and_set():
    model = MixtureOfPersonas(4, seed=3)
    assert model.get_params()["n_personas"] == 4
    assert model.set_params(n_personas=5).n_personas == 5
    assert repr(model) == "MixtureOfPersonas(n_personas=5, seed=3)"
    assert MixtureOfPersonas(**model.get_params()).get_params() == model.get_params()
    with pytest.raises(ConfigError, match="MixtureOfPersonas has no parameter 'k'; known: n_personas, lm"):
        model.set_params(k=3)


def test_use_before_fit_is_an_error():
    with pytest.raises(NotFittedError, match=r"no weights yet; call fit\(records\) or load\(folder\) first"):
        MixtureOfPersonas(lm="fake", encoder="fake").score([{"context": "a", "response": "b"}])


def test_too_few_records_are_an_error():
    with pytest.raises(DataError, match="2 records with valid_share 0.25 leave too few to fit on"):
        MixtureOfPersonas(lm="fake", encoder="fake").fit(reviews(2))


def test_an_unknown_writer_is_an_error():
    class Asked:
        identity = "asked"

        def encode(self, texts):
            raise AssertionError("the writer is wrong, so nothing should be embedded")

    for writer, message in (
        ("gpt", "writer must be one of keywords, llm, file, record, random, got 'gpt'"),
        ("file", 'give their file: personas="mine.jsonl"'),
    ):
        with pytest.raises(ConfigError, match=message):
            MixtureOfPersonas(2, lm="fake", encoder=Asked(), writer=writer).fit(reviews(24))


class Overheard(FakeModel):
    """Remembers the responses whose likelihood it was asked for."""

    def __init__(self):
        super().__init__()
        self.responses = set()

    def score(self, requests):
        self.responses |= {request.response for request in requests}
        return super().score(requests)


@pytest.mark.parametrize("groups", [True, False])
def test_neither_personas_nor_exemplars_are_records_that_are_fitted_or_judged(groups):
    records = [replace(record, group=record.group if groups else None) for record in reviews(48)]
    lm = Overheard()
    model = MixtureOfPersonas(2, lm=lm, encoder="fake", n_exemplars=16, settings=SETTINGS).fit(records)
    exemplars = model.mixture_.exemplars
    assert 8 <= len(exemplars) <= 16
    assert {key for persona in model.mixture_.personas for key in persona.sources} <= {e.key for e in exemplars}
    known = {record.response for record in records}
    assert len(lm.responses & known) >= 24
    assert not {exemplar.response for exemplar in exemplars} & lm.responses
    if groups:
        fitted = {record.group for record in records if record.response in lm.responses}
        assert not {exemplar.group for exemplar in exemplars} & fitted


@pytest.mark.parametrize(("size", "unused"), [(3, 0), (40, 24)])
def test_what_is_no_exemplar_is_fitted_unless_its_group_was_cut(size, unused, caplog):
    records = [replace(r, response=f"{r.response} {i}", group=f"g{i // size}") for i, r in enumerate(reviews(120))]
    model = MixtureOfPersonas(2, lm="fake", encoder="fake", n_exemplars=16)
    parts = model._divided(records)
    assert 8 <= len(parts["exemplars"]) <= 16
    assert sum(len(part) for part in parts.values()) == 120 - unused
    groups = [group for part in parts.values() for group in {record.group for record in part}]
    assert len(groups) == len(set(groups))
    assert ("24 of 40 records are not used" in caplog.text) == bool(unused)


def test_half_of_a_few_records_are_exemplars_and_all_others_are_fitted():
    lm = Overheard()
    records = [replace(record, group=None) for record in reviews(24)]
    model = MixtureOfPersonas(2, lm=lm, encoder="fake", settings=SETTINGS).fit(records)
    assert len(model.mixture_.exemplars) == 12
    assert len({record.response for record in records} & lm.responses) == 12


@pytest.mark.parametrize("writer", ["record", "random"])
def test_the_writers_of_a_run_are_those_of_the_estimator(writer):
    model = MixtureOfPersonas(2, lm="fake", encoder="fake", writer=writer, settings=SETTINGS).fit(reviews(24))
    assert [persona.writer for persona in model.mixture_.personas] == [writer, writer]
    texts = {exemplar.response for exemplar in model.mixture_.exemplars}
    assert {persona.description for persona in model.mixture_.personas} <= texts


def test_personas_can_be_read_from_a_file(tmp_path):
    (tmp_path / "mine.txt").write_text("You love films.\nYou hate films.\n")
    model = MixtureOfPersonas(lm="fake", encoder="fake", personas=tmp_path / "mine.txt", settings=SETTINGS)
    model.fit(reviews(24))
    assert [p.description for p in model.mixture_.personas] == ["You love films.", "You hate films."]


def test_a_label_that_no_context_has_is_told(model, caplog):
    model.sample(["Verdict: good."], same_label=True)
    assert "same_label changes nothing: no context has a label that at least two exemplars have" in caplog.text
    caplog.clear()
    model.sample([{"context": "Verdict: good.", "label": "good"}], same_label=True)
    assert "same_label changes nothing" not in caplog.text


def test_a_sampler_that_departs_from_the_fit_is_told(model, caplog):
    model.sample(["Verdict: good."], seed=1)
    assert "the fitted model" not in caplog.text
    for more, said in (
        ({"tau_factor": 0.5}, "Temperatures of the mixture are multiplied by 0.5"),
        ({"decoding": Decoding(min_tokens=3)}, "No text ends before 3 tokens"),
        ({"decoding": Decoding(top_p=0.9)}, "Top-p or top-k is on"),
        ({"exemplars_per_prompt": 2}, "A prompt shows 2 exemplars"),
    ):
        caplog.clear()
        model.sample(["Verdict: good."], **more)
        assert said in caplog.text


def test_draws_have_the_seed_of_the_constructor(model):
    contexts = ["Verdict: good."] * 3
    model.set_params(seed=5)
    try:
        assert model.sample(contexts) == model.sample(contexts, seed=5)
    finally:
        model.set_params(seed=0)
    assert model.sample(contexts) == model.sample(contexts, seed=0)


class OnlyWrites:
    name = "mute"
    generate_identity = "mute"

    def generate(self, requests, decoding):
        yield []


def test_a_model_that_cannot_score_is_refused_before_work_begins():
    model = MixtureOfPersonas(2, lm=OnlyWrites(), encoder="fake")
    with pytest.raises(ScoringUnsupportedError, match="mute can write but not say how likely a given text is"):
        model.fit(reviews(24))


def test_another_encoder_than_the_gates_know_is_refused(model, tmp_path):
    model.save(tmp_path / "m")

    class Other(FakeEncoder):
        identity = "other"

    again = MixtureOfPersonas.load(tmp_path / "m", encoder=Other())
    with pytest.raises(ConfigError, match="the gates were fitted on embeddings of .* got the encoder 'other'"):
        again.score(reviews(52)[48:])


def test_a_ready_made_model_has_to_be_passed_again(tmp_path):
    from mop.backends.fake import FakeModel

    model = MixtureOfPersonas(2, lm=FakeModel(), encoder="fake", settings=SETTINGS).fit(reviews(24))
    model.save(tmp_path / "m")
    with pytest.raises(ConfigError, match="ready-made lm that has no name; pass one"):
        MixtureOfPersonas.load(tmp_path / "m")
    assert MixtureOfPersonas.load(tmp_path / "m", lm="fake").score(reviews(26)[24:]) < 0


def test_an_empty_context_can_be_answered(model):
    assert len(model.sample([""])) == 1


def test_scores_come_with_their_standard_errors(model):
    held = reviews(64)[48:]
    exact, zero = model.score_samples(held, return_std=True)
    assert zero.tolist() == [0.0] * 16
    few = MixtureOfPersonas(lm="fake", encoder="fake", task="a film review", score_components=12)
    few.mixture_ = model.mixture_
    values, errors = few.score_samples(held, return_std=True)
    assert (errors > 0).all()
    assert np.mean(np.abs(values - exact) < 4 * errors + 0.01) > 0.9
    mean, error = few.score(held, return_std=True)
    assert mean == pytest.approx(values.mean())
    assert error > 0
    groups = mean_interval(exact, np.ones(16), clusters(held))
    assert model.score(held, return_std=True)[1] == pytest.approx(groups["standard_error"])


def test_explain_shows_the_score_table_behind_its_posteriors(model):
    explained = model.explain(reviews(49)[48], n_components=100)
    rows = explained["components"]
    assert explained["kind"] == "exact"
    assert len(rows) == explained["n_scored"] == 3 * 12
    log_joint = np.array([row["log_lik"] + row["log_weight"] for row in rows])
    share = np.exp(log_joint - explained["log_lik"])
    assert share == pytest.approx([row["posterior"] for row in rows], abs=1e-6)
    first = explained["personas"][0]
    assert first["posterior"] == pytest.approx(
        sum(row["posterior"] for row in rows if row["persona"] == first["persona"])
    )


def test_a_report_can_hold_the_mixture_against_plain_prompts(model):
    report = model.score_report(reviews(64)[48:], plain=True)
    assert {"zero-shot", "no-persona", "unconditional"} <= set(report["references"])
    assert report["references"]["mop-uniform"]["gain"] == pytest.approx(report["gain"])


def test_temperatures_can_be_refitted_for_another_model(model, tmp_path):
    model.save(tmp_path / "m")
    other = MixtureOfPersonas.load(tmp_path / "m", lm="fake", score_components=100)
    sample = reviews(64)[48:]
    before = other.score(sample)
    assert other.refit_tau(sample).score(sample) >= before - 1e-6


def test_the_number_of_personas_can_be_left_to_the_data():
    model = MixtureOfPersonas("auto", lm="fake", encoder="fake", task="a review", settings=SETTINGS)
    model.fit(reviews(48))
    # One for every five exemplars that differ, all of which are kept.
    vectors = FakeEncoder().encode([e.response for e in model.mixture_.exemplars])
    assert len(model.mixture_.personas) == len(np.unique(vectors, axis=0)) // 5


def test_contexts_can_be_rows_and_tables(model):
    import pandas as pd

    texts = ["Film A?", "Film B?"]
    plain = [r.response for r in model.sample(texts)]
    rows = [{"context": text, "label": "good"} for text in texts]
    for given in (rows, pd.DataFrame(rows), iter(texts), pd.Series(texts), pd.Index(texts)):
        assert [r.response for r in model.sample(given)] == plain
    assert [r.label for r in model.sample(rows)] == ["good", "good"]
    named = [{"context": text, "key": f"k{i}"} for i, text in enumerate(texts)]
    assert [r.id for r in model.sample(named)] == ["k0", "k1"]


@pytest.mark.parametrize(
    ("contexts", "message"),
    [("Film?", r"got the one string 'Film\?'; put it into a list"),
     ([{"context": "Film?"}, {"context": None}], "row 2 is blank in every column"),
     ([{"text": "Film?"}], "context"), ([5], "row 1, which is a int; a row must be an object")],
)  # fmt: skip
def test_what_is_no_context_is_named(model, contexts, message):
    with pytest.raises(DataError, match=message):
        model.sample(contexts)


def test_scikit_learn_can_cross_validate_and_search():
    from sklearn.model_selection import GridSearchCV, cross_val_score

    model = MixtureOfPersonas(2, lm="fake", encoder="fake", n_exemplars=6, settings=SETTINGS)
    values = cross_val_score(model, reviews(24), cv=2)
    assert values.shape == (2,)
    assert (values < 0).all()
    search = GridSearchCV(model, {"n_personas": [2, 3]}, cv=2, refit=False).fit(reviews(24))
    assert search.best_params_["n_personas"] in (2, 3)


def test_numpys_integers_are_the_same_seeds(tmp_path):
    found = []
    for seed in (1, np.int64(1)):
        model = MixtureOfPersonas(
            2, lm="fake", encoder="fake", n_exemplars=6, settings=SETTINGS, seed=seed,
            score_components=type(seed)(64),
        )  # fmt: skip
        model.fit(reviews(24)).save(tmp_path / "m")
        found.append(model.score(reviews(26)[24:]))
    assert found[0] == found[1]


def test_a_loaded_model_scores_as_the_saved_one_did(tmp_path):
    model = MixtureOfPersonas(
        3, lm="fake", encoder="fake", n_exemplars=12, settings=SETTINGS, seed=7, score_components=9
    ).fit(reviews(48))
    model.save(tmp_path / "m")
    held = reviews(64)[48:]
    assert MixtureOfPersonas.load(tmp_path / "m").score(held) == model.score(held)
    assert MixtureOfPersonas.load(tmp_path / "m", seed=8).score(held) != model.score(held)


def test_another_name_is_another_model():
    model = MixtureOfPersonas(2, lm="fake", encoder="fake", n_exemplars=6, settings=SETTINGS)
    model.fit(reviews(24))
    opened = model._open_lm()
    assert model._open_lm() is opened
    model.lm = "nosuch"
    with pytest.raises(ConfigError, match="nosuch"):
        model.score(reviews(26)[24:])


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [({"n_exemplars": 1}, ConfigError, "n_exemplars must be a whole number from 2 on, got 1"),
     ({"personas": []}, DataError, "each with a key of its own, got none"),
     ({"personas": [3]}, DataError, r"personas are texts or of the type mop\.Persona, got 3 at place 0"),
     ({"personas": [Persona(key="p", description="a"), Persona(key="p", description="b")]}, DataError,
      "got several with the key 'p'")],
)  # fmt: skip
def test_unusable_parts_of_a_mixture_are_named(more, error, message):
    model = MixtureOfPersonas(2, lm="fake", encoder="fake", settings=SETTINGS, **more)
    with pytest.raises(error, match=message):
        model.fit(reviews(24))


def test_a_persona_that_is_there_twice_is_one(caplog):
    model = MixtureOfPersonas(lm="fake", encoder="fake", settings=SETTINGS, personas=["A critic", "A fan", "A critic "])
    assert {row["description"] for row in model.fit(reviews(24)).summary()} == {"A critic", "A fan"}
    assert "2 of 3 personas are left: p000, p002 have the same description" in caplog.text


@pytest.mark.parametrize("weight", [-1.0, 0.0, float("nan")])
def test_a_weight_that_is_none_is_named(weight):
    records = reviews(24)
    records[3] = Record(key="w", context="c", response="r", weight=weight)
    model = MixtureOfPersonas(2, lm="fake", encoder="fake", settings=SETTINGS)
    with pytest.raises(DataError, match="the record 'w' has the weight"):
        model.fit(records)


def test_a_fitted_model_can_be_copied_pickled_and_sent_to_workers(model, tmp_path):
    import copy
    import pickle

    held = reviews(64)[48:]
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert twin.score(held) == model.score(held)


def test_pipelines_and_searches_score_too(model):
    from sklearn.model_selection import GridSearchCV
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer

    plain = MixtureOfPersonas(2, lm="fake", encoder="fake", n_exemplars=6, settings=SETTINGS)
    search = GridSearchCV(plain, {"n_personas": [2]}, cv=2).fit(reviews(24))
    assert search.score(reviews(26)[24:]) < 0
    chain = make_pipeline(FunctionTransformer(), plain).fit(reviews(24))
    assert chain.score(reviews(26)[24:]) < 0
    assert model.score(reviews(50)[48:], None) == model.score(reviews(50)[48:])


def test_a_mean_leaves_out_unusable_rows_with_a_warning(model, caplog):
    rows = [{"context": r.context, "response": r.response} for r in reviews(52)[48:]]
    assert model.score([*rows, {"context": "c", "response": " "}]) == model.score(rows)
    assert "the records given: 1 of 5 rows left out, all for empty_response" in caplog.text


@pytest.mark.advice
def test_equal_answers_of_different_people_count():
    rows = [{"context": "Tea?", "response": ["yes", "no"][i % 4 == 0], "key": f"p{i}"} for i in range(24)]
    assert len(records_given(rows, drops_repeated=True)) == 24
    plain = [{"context": row["context"], "response": row["response"]} for row in rows]
    with pytest.raises(DataError, match="22 of 24 rows left out, all for duplicate"):
        records_given(plain, on_unusable="warn", drops_repeated=True)
    assert len(records_given(load_records(plain, duplicates="keep"), drops_repeated=True)) == 24


@pytest.mark.parametrize(
    ("more", "message"),
    [({"n_personas": "3"}, 'n_personas must be a whole number from 1 on or "auto", got \'3\''),
     ({"n_personas": True}, "n_personas must be"), ({"n_personas": 2.5}, "n_personas must be"),
     ({"settings": 3}, "settings must be a mop.FitConfig, a dict of its settings or the name of a preset, got 3"),
     ({"settings": {"rounds": 1}}, r"unknown setting fit\.rounds; did you mean fit\.n_rounds"),
     ({"settings": "fast"}, r"settings must be a preset with a fit \(.*quick.*\) or a dict, got 'fast'"),
     ({"remote": {"dialekt": "vllm"}, "lm": "openai:x@http://127.0.0.1:1"},
      r"unknown setting remote\.dialekt; did you mean remote\.dialect"),
     ({"valid_share": "0.2"}, "valid_share must be a number"),
     ({"valid_share": math.nan}, "valid_share must be"), ({"task": None}, "task must be a text"),
     ({"seed": 1.5}, "seed must be a whole number, got 1.5"), ({"store": 3}, "store must be the path"),
     ({"encoder": None}, "encoder must be"), ({"score_components": 0}, "score_components must be")],
)  # fmt: skip
def test_parameters_are_checked_before_anything_is_done(more, message):
    with pytest.raises(ConfigError, match=message):
        MixtureOfPersonas(**{"lm": "fake", "encoder": "fake", **more}).fit(reviews(24))


def test_a_saved_mixture_keeps_its_own(model, tmp_path):
    model.save(tmp_path / "m")
    with pytest.raises(ConfigError, match="task is that of the saved mixture; leave it out"):
        MixtureOfPersonas.load(tmp_path / "m", task="x")
    (tmp_path / "f").write_text("x")
    with pytest.raises(ArtifactError, match="holds no fitted mixture"):
        MixtureOfPersonas.load(tmp_path / "f")


def test_an_unusable_record_is_named(model):
    with pytest.raises(DataError, match="the record 'k' has no text in its response"):
        model.score([Record(key="k", context="c", response="")])
    with pytest.raises(DataError, match="the record 'k' has the weight nan"):
        model.score([Record(key="k", context="c", response="r", weight=math.nan)])


# ----------------------------------------------------- what scikit-learn and a notebook ask of an estimator

TOY = {"n_personas": 2, "lm": "fake", "encoder": "fake", "settings": "quick", "score_components": 4}
ROWS = [{"context": "AB"[i % 2], "response": f"{['loud', 'calm', 'warm', 'dull'][i % 4]} {i}"} for i in range(36)]


@pytest.mark.trial("30-sklearn-protocol")
def test_not_fitted_is_scikit_learns_error_too():
    import pickle

    from sklearn.exceptions import NotFittedError as Theirs
    from sklearn.utils.validation import check_is_fitted

    for ask in (lambda m: m.score(ROWS), lambda m: m.sample(["A"]), lambda m: m.predict(ROWS), lambda m: m.summary()):
        with pytest.raises(Theirs, match="no weights yet") as error:
            ask(MixtureOfPersonas(**TOY))
        assert isinstance(error.value, NotFittedError | ValueError)
        assert isinstance(pickle.loads(pickle.dumps(error.value)), Theirs)
    with pytest.raises(Theirs):
        check_is_fitted(MixtureOfPersonas(**TOY))


@pytest.mark.trial("30-sklearn-protocol")
def test_the_likeliest_persona_is_predicted(model):
    held = reviews(64)[48:]
    assert model.predict(held).tolist() == model.predict_proba(held).argmax(axis=1).tolist()


@pytest.mark.trial("30-sklearn-protocol")
@pytest.mark.parametrize("value", [np.array([1, 2]), np.array(["a", "b"]), [np.zeros(2)]])
def test_it_can_be_shown_with_any_parameter(value):
    assert "personas=" in repr(MixtureOfPersonas(personas=value))


@pytest.mark.trial("30-sklearn-protocol")
@pytest.mark.parametrize("n", [4, 5, 7, 8])
def test_a_few_records_are_fitted_or_refused_and_give_no_nan(n):
    small = {"components_per_record": 2, "records_per_component": 2, "valid_components": 3}
    model = MixtureOfPersonas(**{**TOY, "settings": small})
    with contextlib.suppress(ConfigError, DataError):  # with a message of ours
        model.fit(ROWS[:n])
        assert np.isfinite(model.score_samples(ROWS)).all()
        assert "nan" not in str(model.summary()).lower()


@pytest.mark.trial("30-sklearn-protocol")
@pytest.mark.advice
def test_a_number_of_samples_is_no_context_and_the_contexts_that_are_told_work(model):
    with pytest.raises(
        DataError, match=r"contexts to respond to are expected, got the number 3; .*give so many"
    ) as error:
        model.sample(3)
    call = str(error.value).partition("such as ")[2]
    assert len(eval(f"model.{call}", {"model": model})) == 3


@pytest.mark.advice
@pytest.mark.parametrize("number", [-3, 0, 2.5, True])
def test_what_is_no_number_of_samples_is_told_a_call_that_works(model, number):
    with pytest.raises(DataError, match=f"got the number {number}; give a list of them") as error:
        model.sample(number)
    call = str(error.value).partition("such as ")[2]
    assert len(eval(f"model.{call}", {"model": model})) == len(model.mixture_.exemplars)


@pytest.mark.parametrize("asked", [3, "Film?", [], ["Film?"]])
def test_without_a_fit_that_is_what_is_missing_whatever_is_asked(asked):
    with pytest.raises(NotFittedError, match=r"call fit\(records\) or load\(folder\) first"):
        MixtureOfPersonas(**TOY).sample(asked)


@pytest.mark.advice
def test_too_few_records_tell_how_many_are_needed_and_so_many_are_enough():
    with pytest.raises(DataError, match="give at least 7 records") as error:
        MixtureOfPersonas(**{**TOY, "n_personas": 1}).fit(ROWS[:3])
    n = int(str(error.value).partition("at least ")[2].split()[0])
    assert MixtureOfPersonas(**{**TOY, "n_personas": 1}).fit(ROWS[:n]).score(ROWS) < 0


def test_a_notebook_shows_parameters_and_personas_and_nothing_of_the_data_is_markup():
    nasty = "<img src=x onerror=alert(1)>"
    rows = [{"context": nasty, "response": f"{nasty} {i}"} for i in range(24)]
    model = MixtureOfPersonas(**TOY, task="<b>task</b>", personas=[nasty, "You are calm."]).fit(rows)
    page = model._repr_html_() + model.sample([nasty])._repr_html_()
    assert "<img" not in page
    assert "<b>task" not in page
    assert "MixtureOfPersonas" in page
    assert "&lt;img src=x" in page
    assert len(repr(model.mixture_)) < 200
    assert len(model.summary().to_frame()) == 2
    assert list(model.sample(["a", "b"]).to_frame().context) == ["a", "b"]


def test_stages_are_logged_with_their_counts(caplog):
    with caplog.at_level("INFO", logger="mop"):
        MixtureOfPersonas(**TOY).fit(ROWS).sample(["A"])
    said = [r.message for r in caplog.records if r.name == "mop.estimator"]
    assert [line for line in said if line.endswith("begins")] == [
        f"{name}: begins" for name in ("records", "personas", "fit", "simulate")
    ]
    assert any(line.startswith("personas: done in") and line.endswith(", 2 personas") for line in said)


class StoppedError(Exception):
    pass


def test_what_progress_raises_stops_the_work_and_what_is_stored_is_not_asked_again(tmp_path, caplog):
    def stop(what, done, total):
        if what.startswith("fit") and done > 0:
            raise StoppedError

    model = MixtureOfPersonas(**TOY, store=tmp_path / "kept.sqlite", progress=stop)
    with caplog.at_level("INFO", logger="mop"), pytest.raises(StoppedError):
        model.fit(ROWS)
    assert "fit: stopped after" in caplog.text
    assert not hasattr(model, "mixture_")
    model.progress = None
    assert model.fit(ROWS).score(ROWS) == MixtureOfPersonas(**TOY).fit(ROWS).score(ROWS)


def test_settings_can_be_a_dict_or_a_preset_and_writers_those_of_a_run(tmp_path):
    as_dict = MixtureOfPersonas(**{**TOY, "settings": {"n_rounds": 1, "components_per_record": 4}}).fit(ROWS)
    as_config = MixtureOfPersonas(**{**TOY, "settings": FitConfig(n_rounds=1, components_per_record=4)}).fit(ROWS)
    assert as_dict.score(ROWS) == as_config.score(ROWS)
    mine = tmp_path / "mine.csv"
    mine.write_text("name,age\nCleo,52\nDan,19\n")
    model = MixtureOfPersonas(**TOY, writer="file", personas=mine).fit(ROWS)
    assert [persona.description for persona in model.mixture_.personas] == ["name: Cleo; age: 52", "name: Dan; age: 19"]
    for writer in ("record", "random"):
        assert MixtureOfPersonas(**TOY, writer=writer).fit(ROWS).mixture_.personas[0].writer == writer


def test_a_pickle_leaves_progress_out():
    import pickle

    model = MixtureOfPersonas(**TOY, progress=lambda what, done, total: None)
    assert pickle.loads(pickle.dumps(model)).progress is None


@pytest.mark.advice
def test_the_folder_of_a_run_is_loaded_and_what_is_none_says_what_to_do(model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model.save(tmp_path / "runs" / "mine" / "mixture")
    assert MixtureOfPersonas.load("runs/mine").score(reviews(4)) == MixtureOfPersonas.load("runs/mine/mixture").score(
        reviews(4)
    )
    with pytest.raises(
        ArtifactError, match=r"give the folder that MixtureOfPersonas\.save wrote, such as (\S+)"
    ) as error:
        MixtureOfPersonas.load("runs/other")
    told = str(error.value).rpartition("such as ")[2]
    assert MixtureOfPersonas.load(told).mixture_.task == "a film review"


@pytest.mark.advice
@pytest.mark.parametrize("part", ["lm", "encoder"])
def test_a_class_in_place_of_a_part_is_told_and_its_object_works(part):
    kind = {"lm": FakeModel, "encoder": FakeEncoder}[part]
    with pytest.raises(Exception, match=rf"the class {kind.__name__} is no .*; give (\w+)\(\)") as error:
        MixtureOfPersonas(**{**TOY, part: kind}).fit(ROWS)
    told = str(error.value).rpartition("give ")[2]
    given = eval(told, {"FakeModel": FakeModel, "FakeEncoder": FakeEncoder})
    assert MixtureOfPersonas(**{**TOY, part: given}).fit(ROWS).score(ROWS) < 0


@pytest.mark.trial("30-sklearn-protocol")
def test_tables_of_other_packages_are_the_same_records(model):
    import pandas as pd
    import pyarrow as pa

    rows = [{"context": r.context, "response": r.response} for r in reviews(52)[48:]]
    expected = model.score_samples(rows).tolist()
    tables = [pd.DataFrame(rows), pa.Table.from_pylist(rows)]
    with contextlib.suppress(ImportError):
        import polars as pl

        tables.append(pl.DataFrame(rows))
    for table in tables:
        assert model.score_samples(table).tolist() == expected
