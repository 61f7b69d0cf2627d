"""Every method behind one call: rows for each context, needs that are said, draws that do not depend on others."""

from dataclasses import replace

import pytest

import conftest
from mop.config import FIXED_TAU, METHODS, resolve_config
from mop.errors import ConfigError, NotFittedError, ScoringUnsupportedError
from mop.mixture.fitted import uniform_mixture, with_temperatures
from mop.rivals.methods import needs_mixture, needs_scorer, respond
from mop.runs.ablations import draw_ablation
from scripted import Scripted


def ingredients(small_run, *assignments, mixture=True):
    return conftest.ingredients(
        small_run.lm,
        "data.task=a film review",
        *assignments,
        exemplars=small_run.fitted.exemplars,
        mixture=small_run.fitted if mixture else None,
        encoder=small_run.encoder,
    )


def even(small_run):
    """The mixture with gates that prefer nothing, so that no draw depends on what a fit of the toy model finds."""
    return with_temperatures(uniform_mixture(small_run.fitted), small_run.fitted.temperatures)


HERE = [method for method in METHODS if method != "picle"]  # which needs weights: see test_picle_lora


@pytest.mark.parametrize("method", ["mop", *HERE])
def test_every_method_answers_every_context_once_with_its_label(small_run, method):
    given = ingredients(small_run)
    rows = list(respond(method, small_run.held_out, given))
    assert [row.id for row in rows] == [record.key for record in small_run.held_out]
    assert [row.label for row in rows] == [record.label for record in small_run.held_out]
    assert {row.method for row in rows} == {method}
    assert given.store.spent()[f"simulate/{method}"].calls >= len(rows)


@pytest.mark.parametrize("method", HERE)
def test_a_row_does_not_depend_on_the_other_contexts(small_run, method):
    if method == "progen":
        pytest.skip("its examples come from the texts before: see test_progen")
    whole = list(respond(method, small_run.held_out, ingredients(small_run)))
    some = list(respond(method, small_run.held_out[5:7], ingredients(small_run)))
    assert some == whole[5:7]


@pytest.mark.parametrize("method", [method for method in HERE if method in FIXED_TAU])
def test_a_method_can_be_drawn_at_a_temperature_of_its_own(small_run, method):
    name = f"{method}@0.6"
    rows = list(respond(name, small_run.held_out, ingredients(small_run)))
    assert {(row.method, row.temperature) for row in rows} == {(name, 0.6)}
    given = replace(ingredients(small_run), tau=0.6)
    assert list(respond(method, small_run.held_out, given, name=name)) == rows


@pytest.mark.parametrize("method", ["few-shot", "few-shot-3", "persona-only"])
def test_another_temperature_shows_the_same_exemplars_and_personas(small_run, method):
    plain = respond(method, small_run.held_out, ingredients(small_run))
    cooler = respond(f"{method}@0.6", small_run.held_out, ingredients(small_run))
    shown = [(row.persona, row.exemplar) for row in plain]
    assert [(row.persona, row.exemplar) for row in cooler] == shown
    assert len(set(shown)) > 1


@pytest.mark.parametrize("method", ["mop", "mop-uniform"])
def test_a_factor_multiplies_the_temperatures_of_the_mixture(small_run, method):
    plain = list(respond(method, small_run.held_out, ingredients(small_run)))
    given = ingredients(small_run, "simulate.tau_factor=0.75")
    cooler = list(respond(method, small_run.held_out, given))
    drawn = [(row.persona, row.exemplar, row.seed) for row in plain]
    assert [(row.persona, row.exemplar, row.seed) for row in cooler] == drawn
    assert [row.temperature for row in cooler] == pytest.approx([0.75 * row.temperature for row in plain])


@pytest.mark.parametrize("method", ["mop", "mop-uniform", "any-label", "no-gates", "paper-drawing"])
def test_a_run_shows_exemplars_of_the_label_asked_for(small_run, method):
    given = replace(ingredients(small_run, "simulate.same_label=true"), mixture=even(small_run))
    if method.startswith("mop"):
        rows = list(respond(method, small_run.held_out, given))
    else:
        rows = draw_ablation(method, small_run.held_out, given, name=method)
    labels = {exemplar.key: exemplar.label for exemplar in small_run.fitted.exemplars}
    is_same = [labels[row.exemplar] == row.label for row in rows]
    assert all(is_same) == (method not in ("any-label", "paper-drawing"))


def test_labels_that_nobody_has_are_said_to_change_nothing(small_run, caplog):
    given = ingredients(small_run, "simulate.same_label=true")
    some = [replace(record, label=None) for record in small_run.held_out]
    list(respond("mop", some, given))
    assert "same_label changes nothing" in caplog.text


def test_a_changed_mop_draws_as_the_run_does_and_the_papers_as_the_paper(small_run):
    given = ingredients(small_run, "simulate.tau_factor=0.5", "simulate.exemplars_per_prompt=3")
    given = replace(given, mixture=even(small_run))
    tau = dict(zip((p.key for p in small_run.fitted.personas), small_run.fitted.temperatures, strict=True))  # fmt: skip
    for ablation, factor, most in (
        ("fitted-tau", 1.0, 3), ("paper-drawing", 1.0, 1), ("paper-fit", 1.0, 1),
        ("no-exemplars", 0.5, 0),
        ("prompt-1", 0.5, 1), ("prompt-2", 0.5, 2), ("neighbours-1", 0.5, 1), ("neighbours-2", 0.5, 2),
    ):  # fmt: skip
        rows = draw_ablation(ablation, small_run.held_out, given, name=ablation)
        assert [row.temperature for row in rows] == pytest.approx([factor * tau[row.persona] for row in rows])
        assert max(len((row.exemplar or "").split()) for row in rows) == most


def test_methods_without_personas_need_no_fit(small_run):
    given = ingredients(small_run, mixture=False)
    assert len(list(respond("few-shot-3", small_run.held_out, given))) == len(small_run.held_out)
    assert [m for m in METHODS if needs_mixture(m)] == ["persona-only", "mop-uniform"]
    with pytest.raises(NotFittedError, match="the method mop draws from a fitted mixture"):
        respond("mop", small_run.held_out, given)


def test_picle_says_that_it_needs_weights(small_run):
    with pytest.raises(ConfigError, match="picle fine-tunes a copy of the language model and 'fake'"):
        respond("picle", small_run.held_out, ingredients(small_run))


def test_an_unknown_method_is_named():
    with pytest.raises(ConfigError, match="unknown method 'zerogem'; known: mop, zero-shot"):
        needs_mixture("zerogem")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("zerogem@0.5", "unknown method 'zerogem@0.5'"),
        ("mop@0.5", "mop has temperatures of its own, got 'mop@0.5'; set simulate.tau_factor"),
        ("zerogen@cold", "with a TAU above 0, got 'zerogen@cold'; e.g. zerogen@0.75"),
        ("zerogen@0", "with a TAU above 0, got 'zerogen@0'"),
        ("zerogen@inf", "with a TAU above 0, got 'zerogen@inf'"),
        ("zerogen@0.70", "got 'zerogen@0.70'; write it zerogen@0.7"),
        ("zerogen@1_0", "got 'zerogen@1_0'; write it zerogen@10"),
    ],
)
def test_a_temperature_that_cannot_be_is_refused(name, message):
    with pytest.raises(ConfigError, match=message):
        needs_mixture(name)
    with pytest.raises(ConfigError, match=r"compare\.methods"):
        resolve_config(assignments=[f'compare.methods=["{name}"]'])


def test_one_model_writes_and_another_scores(small_run):
    writer = Scripted(lambda i, prompt: "fine")
    given = replace(ingredients(small_run), lm=writer, scorer=small_run.lm)
    rows = list(respond("picle-prompted", small_run.held_out, given))
    assert {(row.model, row.response) for row in rows} == {("scripted", "fine")}
    assert len(writer.prompts) == len(rows)
    assert given.store.spent()["prepare/picle-prompted"].calls > 0
    assert [m for m in METHODS if needs_scorer(m)] == [
        "picle-prompted", "persona-only", "mop-uniform"
    ]  # fmt: skip
    with pytest.raises(ScoringUnsupportedError, match="scripted can write but not say how likely"):
        respond("picle-prompted", small_run.held_out, replace(given, scorer=None))
