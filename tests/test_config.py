"""Settings: precedence, types, and errors that name what was meant."""

import dataclasses
import json
import math

import pytest

from mop import config as settings
from mop.config import (
    PRESETS,
    REMOVED,
    SECTIONS,
    RemoteSettings,
    SimulateConfig,
    config_from_dict,
    config_to_dict,
    describe,
    resolve_config,
)
from mop.errors import ConfigError


def test_assignments_beat_file_beats_preset_beats_defaults(tmp_path):
    file = tmp_path / "c.toml"
    file.write_text("seed = 5\n[fit]\nn_rounds = 7\nn_folds = 9\n[personas]\nn_personas = 4\n")
    config = resolve_config(file=file, preset="paper", assignments=["fit.n_rounds=3", "model.lm=fake"])
    assert (config.fit.n_rounds, config.fit.n_folds, config.personas.n_personas) == (3, 9, 4)
    assert (config.fit.method, config.model.encoder, config.seed) == ("paper", "mpnet", 5)
    assert config.model.lm == "fake"


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_is_valid(preset):
    resolve_config(preset=preset)


def test_json_and_back_is_the_same():
    config = resolve_config(preset="demo", assignments=["fit.n_folds=7"])
    assert config_from_dict(json.loads(json.dumps(config_to_dict(config)))) == config
    assert config.fit.n_folds == 7


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("fit.n_round=1", r"unknown setting fit\.n_round; did you mean fit\.n_rounds\?"),
        ("n_rounds=1", r"unknown setting n_rounds; did you mean fit\.n_rounds\?"),
        ("fitt.n_rounds=1", r"unknown setting fitt; did you mean fit\?"),
        ("fit.n_rounds=1.5", r"fit\.n_rounds must be of type int, got 1\.5 \(float\)"),
        ("fit.n_rounds=true", r"fit\.n_rounds must be of type int, got True \(bool\)"),
        ("fit.n_rounds=0", r"fit\.n_rounds must be at least 1, got 0"),
        ("fit=3", r"fit must be a table of settings, got 3"),
        ("fit.n_folds=1", r"fit\.n_folds must be at least 2, got 1"),
        ("model.dtype=float3", r"model\.dtype must be one of .*, got 'float3'; did you mean 'float32'\?"),
        ("model.memory_gib=0", r"model\.memory_gib must be above 0, got 0\.0; leave it out for a"),
        ("simulate.top_p=1.5", r"^simulate\.top_p must be above 0 and at most 1, got 1\.5"),
        (
            "simulate.control_tau=0.8",
            r"simulate\.control_tau is no longer .*; name the method with its temperature, as",
        ),
        ("fit.max_lm_tokens=-1", r"fit\.max_lm_tokens must be at least 0, got -1"),
        ("remote.max_concurrency=0", r"remote\.max_concurrency must be at least 1 and at most 4096, got 0; try 64"),
        ("remote.price_in=-1", r"remote\.price_in must be at least 0, got -1\.0; leave it out for none"),
        ("simulate.tau_factor=0", r"simulate\.tau_factor must be above 0, got 0\.0"),
        ("simulate.exemplars_from=similar", r"simulate\.exemplars_from = \"similar\" .*exemplars_per_prompt is 1, so"),
        ("simulate.exemplars_from=agents", r"simulate\.exemplars_from must be one of gates, similar, got 'agents'"),
        ("simulate.mix=prompt", r"simulate\.mix is no longer a setting; write simulate\.exemplars_per_prompt = 3"),
        ("simulate.n_agents=3", r"simulate\.n_agents is no longer.*or simulate\.agents_per_response = 3"),
        ('simulate.controls=["zeroshot"]', r"simulate\.controls must be one of .*did you mean 'zero-shot'\?"),
        (
            "simulate.n_responses=3",
            r"simulate\.n_responses must be at least 4, got 3; an evaluation needs as many texts",
        ),
        ("data.golden=2", r"data\.golden must be at least 4, got 2; an evaluation needs"),
        ("personas.n_personas=ten", r"n_personas must be a whole number or auto, got 'ten'$"),
        ("seed.x=3", r"seed must be of type int, got"),
        ("simulate.n_responses=500", r"simulate\.n_responses \(500\) is above data\.test \(up to 400\)"),
        ("personas.writer=file", r"personas\.path goes with personas\.writer = \"file\".*set both or neither"),
        ("data.label=3", r"data\.label must be of type str or nothing, got 3 \(int\)"),
        ("no equals sign", r"--set takes section\.key=value, got 'no equals sign'"),
        ("a.b.c=1", r"--set takes section\.key=value, got 'a\.b\.c=1'"),
        (f"seed={'9' * 5000}", r"^seed must be of type int, got 9{100}\.\.\.9{50} \(str\)$"),
        ("seed=99999999999999999999", r"^seed must be a whole number of at most 18 digits, got 9{20}$"),
        (f"fit.n_rounds={'[' * 5000}", r"^fit\.n_rounds must be of type int, got \[{100}\.\.\."),
        ("simulate.max_tokens=1000000000000", r"^simulate\.max_tokens must be at least 1 and at most 100000, got"),
        ("evaluate.n_bootstrap=1000000000", r"^evaluate\.n_bootstrap must be at least 10 and at most 10000, got"),
        ("fit.n_rounds=10000000000", r"^fit\.n_rounds must be at most 100000000, got"),
    ],
)
def test_a_bad_setting_is_named(assignment, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(assignments=[assignment])


def test_a_setting_that_can_be_left_out_is_read_with_a_warning(caplog):
    assert resolve_config(assignments=["fit.max_steps=40", "fit.n_rounds=2"]).fit.n_rounds == 2
    assert caplog.messages == [
        'fit.max_steps is no longer a setting and is ignored: fit.method = "paper" has the paper\'s own'
    ]


@pytest.mark.parametrize("name", settings.IGNORED)
def test_no_setting_is_both_ignored_and_known(name):
    section, _, setting = name.partition(".")
    assert setting not in describe(SECTIONS[section])
    resolve_config(assignments=[f"{name}=1"])


@pytest.mark.parametrize("name", REMOVED)
def test_no_setting_is_both_removed_and_known(name):
    section, _, setting = name.partition(".")
    assert setting not in describe(SECTIONS[section])
    with pytest.raises(ConfigError, match="is no longer a setting; "):
        resolve_config(assignments=[f"{name}=1"])


@pytest.mark.parametrize("word", ["", "none"])
def test_none_can_be_written(word):
    assert resolve_config(assignments=["data.key=id", f"data.key={word}"]).data.key is None


@pytest.mark.parametrize(("suffix", "text"), [("toml", "a = " + "[" * 5000), ("json", "[" * 100_000)])
def test_a_file_nested_too_deep_is_no_settings(tmp_path, suffix, text):
    (tmp_path / f"a.{suffix}").write_text(text)
    with pytest.raises(ConfigError, match=f"a.{suffix} is not valid {suffix.upper()}: "):
        resolve_config(file=tmp_path / f"a.{suffix}")


def test_an_unknown_preset_is_named():
    with pytest.raises(ConfigError, match="unknown preset 'demi'; known presets: demo, paper, texts, quick"):
        resolve_config(preset="demi")


def test_settings_made_in_code_are_checked_too():
    with pytest.raises(ConfigError, match=r"^deadline_s must be a finite number, got inf; try 120$"):
        RemoteSettings(deadline_s=math.inf)
    with pytest.raises(ConfigError, match=r"^max_cost = 5.0 needs prices"):
        RemoteSettings(max_cost=5.0)


def test_what_may_be_left_out_can_be_taken_back(tmp_path):
    assert resolve_config(preset="demo").data.label is not None
    assert resolve_config(preset="demo", assignments=["data.label="]).data.label is None
    (tmp_path / "c.toml").write_text('data.label = ""\nmodel.memory_gib = ""')
    config = resolve_config(preset="demo", file=tmp_path / "c.toml")
    assert (config.data.label, config.model.memory_gib) == (None, None)


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "c.toml").write_text("seed = 7", encoding="utf-8-sig")
    assert resolve_config(file=tmp_path / "c.toml").seed == 7


def test_a_json_that_is_no_configuration_is_refused(tmp_path):
    (tmp_path / "l.json").write_text("[]")
    with pytest.raises(ConfigError, match=r"l\.json holds a list; it must hold an object"):
        resolve_config(file=tmp_path / "l.json")


def test_a_missing_file_and_a_broken_file_are_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no configuration file at .*none\.toml; give the path of a TOML file"):
        resolve_config(file=tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("a = = 1")
    with pytest.raises(ConfigError, match=r"bad\.toml is not valid TOML: .*; fix it and run again"):
        resolve_config(file=tmp_path / "bad.toml")
    with pytest.raises(ConfigError, match=r"cannot be read: .*; give a readable TOML file"):
        resolve_config(file=tmp_path)


@pytest.mark.parametrize("section", SECTIONS)
def test_every_setting_says_what_it_means(section):
    names = {field.name for field in dataclasses.fields(SECTIONS[section])}
    assert {name for name, meaning in describe(SECTIONS[section]).items() if meaning} == names


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("remote.dialect=vlm", r"remote\.dialect must be one of auto, openai-chat, .*, got 'vlm'"),
        ("remote.max_cost=5.0", r"remote\.max_cost = 5.0 needs prices"),
        ("remote_scorer.deadline_s=0", r"remote_scorer\.deadline_s must be above 0"),
        ("remote.max_costs=1", r"unknown setting remote.max_costs; did you mean remote.max_cost\?"),
    ],
)
def test_settings_of_servers_name_their_section(assignment, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(assignments=[assignment])


def test_settings_of_servers_are_read_from_a_file(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        '[model]\nlm = "openai:m@http://127.0.0.1:1"\nscorer = "fake"\n'
        '[remote]\napi_key_env = "MY_KEY"\nprice_in = 0.15\nprice_out = 0.6\nmax_cost = 5\n'
    )
    config = resolve_config(file=file)
    assert config.model.scorer == "fake"
    assert config.remote == RemoteSettings(api_key_env="MY_KEY", price_in=0.15, price_out=0.6, max_cost=5.0)
    assert config.remote_scorer == RemoteSettings()
    assert config_from_dict(config_to_dict(config)) == config


def test_memory_is_left_to_the_machine_unless_it_is_given():
    assert all(resolve_config(preset=preset).model.memory_gib is None for preset in PRESETS)
    assert resolve_config(assignments=["model.memory_gib=2"]).model.memory_gib == 2.0


@pytest.mark.parametrize(
    ("assignment", "message"),
    [("compare.n_ablation=3", r"compare.n_ablation must be 0 .*, or 4 to 400 .*, got 3"),
     ("compare.n_ablation=500", "or 4 to 400 .*, got 500"),
     ("compare.methods=zerogen", r'compare.methods must be a list, such as \["a", "b"\], got'),
     ("compare.n_seeds_best=1", "compare.n_seeds_best must be at least 2 .*, got 1")],
)  # fmt: skip
def test_sizes_of_a_comparison_that_cannot_be_are_refused(assignment, message):
    with pytest.raises(ConfigError, match=message):
        resolve_config(assignments=["compare.n_seeds=2", assignment])
    assert resolve_config(assignments=["compare.n_seeds=2"]).compare.n_seeds_best == 0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, None),
        ({"max_tokens": 7}, None),
        ({"min_tokens": 2}, "No text ends before 2 tokens (simulate.min_tokens)"),
        ({"top_k": 5}, "Top-p or top-k is on"),
        ({"tau_factor": 0.75}, "multiplied by 0.75 (simulate.tau_factor)"),
        ({"same_label": True}, "drawn given that the exemplar has the record's label"),
        ({"agents_per_response": 3}, "of 3 agents are averaged in equal shares (simulate.agents_per_response)"),
        (
            {"exemplars_per_prompt": 3},
            "3 exemplars drawn one after another under one persona (simulate.exemplars_per_prompt)",
        ),
        (
            {"exemplars_per_prompt": 3, "exemplars_from": "similar"},
            "the exemplar that was drawn and the 2 most like it (simulate.exemplars_per_prompt)",
        ),
    ],
)  # fmt: skip
def test_what_makes_the_sampler_another_than_the_fitted_model_is_named(settings, said):
    found = SimulateConfig(**settings).departures()
    assert len(found) == (said is not None)
    assert said is None or said in found[0]


def test_the_preset_texts_draws_as_the_published_tables_do():
    import bench_paper

    simulate = resolve_config(preset="texts").simulate
    drawing = {name: getattr(simulate, name) for name in bench_paper.CORPORA["agnews"].drawing}
    assert drawing == bench_paper.CORPORA["agnews"].drawing
    sizes, data = bench_paper.SIZES["paper"], resolve_config(preset="texts").data
    assert [getattr(data, name) for name in settings.SPLITS] == [sizes[name] for name in settings.SPLITS]
    assert resolve_config(preset="texts").personas.n_personas == sizes["personas"]


@pytest.mark.parametrize("value", ["up to 3", '"up to 300"', "7"])
def test_sizes_are_numbers_or_up_to_numbers(value):
    size = resolve_config(assignments=[f"data.train={value}"]).data.train
    assert int(size) == int(value.strip('"').removeprefix("up to "))
    assert isinstance(size, settings.UpTo) == ("up to" in value)


@pytest.mark.parametrize("value", ["up to 1", "up to many", "upto 3"])
def test_what_is_no_size_is_refused(value):
    with pytest.raises(ConfigError, match="data.train"):
        resolve_config(assignments=[f"data.train={value}"])
