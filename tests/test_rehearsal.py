"""What a run will ask is asked first: odd servers are found out before the fit, and the advice that follows works."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from conftest import reviews
from mop import MixtureOfPersonas
from mop.backends.fake_server import FakeServer, Reply, start
from mop.backends.remote import RemoteGenerator
from mop.cli.command import main
from mop.config import RemoteSettings, resolve_config
from mop.errors import BackendError, ConfigError
from mop.pipeline import run
from mop.runs.doctor import examine
from mop.runs.work import Models
from mop.simulate.rows import read_responses
from mop.storage.files import read_json
from mop.types import Decoding
from test_remote import N_PROBES, connect, draw_requests, drawn, error_reply
from test_remote_run import WRITER, served, settings, write


def without_temperature(body: Mapping[str, Any]) -> Reply | None:
    if "max_tokens" in body:
        return error_reply(400, "Unknown name of the limit; try 'max_completion_tokens'.", "unsupported")
    if body.get("temperature", 1) != 1:
        return error_reply(400, "This model has one temperature.", "unsupported")
    return None


def without_a_high_temperature(body: Mapping[str, Any]) -> Reply | None:
    return error_reply(400, "at most 1.0", None) if body.get("temperature", 1) > 1 else None


def without_system(body: Mapping[str, Any]) -> Reply | None:
    roles = [message["role"] for message in body["messages"]] if "messages" in body else []
    return error_reply(400, "Instructions are not enabled.", None) if "system" in roles else None


def without_system_by_500(body: Mapping[str, Any]) -> Reply | None:
    return error_reply(500, "template error", None) if without_system(body) else None


def without_earlier_turns(body: Mapping[str, Any]) -> Reply | None:
    roles = [message["role"] for message in body.get("messages", ())]
    return error_reply(422, "One question, please.", None) if "assistant" in roles else None


def without(*names: str) -> Any:
    def rule(body: Mapping[str, Any]) -> Reply | None:
        if not set(names) <= body.keys():
            return None
        return Reply(422, json.dumps({"detail": [{"loc": ["body"], "msg": "not permitted"}]}).encode())

    return rule


class Odd(FakeServer):
    """Refuses what a rule refuses, and thinks, if it does, unless it is told not to."""

    def __init__(self, rule: Any = None, *, kind: str = "openai", thinks: str = "") -> None:
        super().__init__(kind)
        self.rule, self.thinks = rule, thinks
        self.taken: list[dict[str, Any]] = []

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        request = json.loads(body) if method == "POST" else {}
        if request and self.rule is not None and (refusal := self.rule(request)) is not None:
            self.calls += 1
            return refusal
        reply = super().reply(method, path, headers, body)
        if not request:
            return reply
        self.taken.append(request)
        is_told = request.get("reasoning_effort") == "none" or request.get("chat_template_kwargs") == {
            "enable_thinking": False
        }
        if self.thinks and not is_told:
            answer = json.loads(reply.body)
            if self.thinks == "aloud":
                answer["choices"][0]["message"] |= {"content": "", "reasoning": "They ask for words, so"}
            elif self.thinks == "counted":
                answer["usage"]["completion_tokens_details"] = {"reasoning_tokens": 300}
                answer["usage"]["completion_tokens"] += 300
            else:
                answer["choices"][0]["message"]["content"] = ""
            reply.body = json.dumps(answer).encode()
        return reply


def chat(server: FakeServer, **more: Any) -> RemoteGenerator:
    return connect(server, settings=RemoteSettings(dialect="openai-chat", **more))


ADVICE: Sequence[tuple[Any, dict[str, Any], str, dict[str, Any]]] = [
    (without_temperature, {}, 'set remote.fields.temperature = "fixed"', {"temperature": "fixed"}),
    (without_a_high_temperature, {}, 'set remote.fields.temperature = "fixed"', {"temperature": "fixed"}),
    (without("seed"), {}, "set remote.fields.seed = false", {"seed": False}),
    (without("temperature", "top_p"), {}, "set remote.fields.top_p = false", {"top_p": False}),
    (None, {"thinks": "aloud"}, 'remote.fields.reasoning_effort = "none"', {"reasoning_effort": "none"}),
    (None, {"thinks": "counted"}, "remote.fields.chat_template_kwargs = {enable_thinking = false}",
     {"chat_template_kwargs": {"enable_thinking": False}}),
    (None, {"thinks": "in silence"}, 'remote.fields.reasoning_effort = "none"', {"reasoning_effort": "none"}),
]  # fmt: skip


@pytest.mark.advice
@pytest.mark.parametrize(("rule", "habit", "advice", "fields"), ADVICE)
def test_the_setting_that_the_refusal_names_helps(
    rule: Any, habit: dict[str, Any], advice: str, fields: dict[str, Any], tmp_path: Path
) -> None:
    source = tmp_path / "reviews.jsonl"
    write(source, {})
    config = resolve_config(preset="quick", assignments=settings(source, WRITER, 'model.scorer="fake"'))
    first = Odd(rule, **habit)
    with pytest.raises(BackendError) as caught:
        run(config, tmp_path / "run", models=Models(config, lm=served(first, dialect="openai-chat")))
    assert advice in str(caught.value)
    assert "run the same command" not in str(caught.value)
    assert first.calls <= 20
    assert not (tmp_path / "run" / "mixture" / "mixture.json").exists()  # before the fit
    again = Odd(rule, **habit)
    lm = served(again, dialect="openai-chat", fields=fields)
    run(config, tmp_path / "run", until="simulate", models=Models(config, lm=lm))
    assert len(list(read_responses(tmp_path / "run" / "responses.jsonl"))) == 24
    doubts = read_json(tmp_path / "run" / "manifest.json")["about"]["servers"]["lm"]["doubts"]
    assert any("temperatures are not sent" in doubt for doubt in doubts) == ("temperature" in fields)


@pytest.mark.advice
def test_a_server_without_earlier_turns_takes_ids_instead() -> None:
    with pytest.raises(BackendError, match='use dialect = "openai-completions" with the model\'s own tokenizer'):
        chat(Odd(without_earlier_turns)).rehearse([1.0], Decoding())
    model = connect(Odd(without_earlier_turns), settings=RemoteSettings(dialect="openai-completions"))
    assert len(drawn(model, draw_requests(5))) == 5


@pytest.mark.advice
def test_a_field_of_the_users_that_is_refused_is_left_out_there() -> None:
    rule = without("reasoning_effort")
    with pytest.raises(BackendError, match='the field reasoning_effort = "none" of remote.fields; leave it out there'):
        chat(Odd(rule), fields={"reasoning_effort": "none"}).rehearse([1.0], Decoding())
    assert len(drawn(chat(Odd(rule)), draw_requests(5))) == 5


@pytest.mark.trial("18-hosted-temperature")
def test_one_temperature_and_another_name_of_the_limit_are_found_before_the_fit(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tmp_path / "reviews.jsonl"
    write(source, {})
    server = Odd(without_temperature)
    with start(server) as running:
        name = f"openai:toy@{running.url}"
        probed = examine([name], settings=RemoteSettings(dialect="openai-chat"), cache=tmp_path, probe=True)
        assert not probed["ok"]
        assert "the mixture draws at temperatures of its own" in json.dumps(probed)
        given = [*settings(source), f"model.lm={name}", "model.scorer=fake", "remote.dialect=openai-chat"]
        command = ["run", str(tmp_path / "run"), "--preset", "quick"]
        assert main([*command, *(part for one in given for part in ("--set", one))]) == 1
        said = capsys.readouterr().err
        assert 'remote.fields.temperature = "fixed"' in said
        assert "run the same command" not in said
        assert main(["run", str(tmp_path / "run"), "--set", "remote.fields.temperature=fixed"]) == 0
        fixed = ["--set", "remote.fields.temperature=fixed", "--dialect", "openai-chat", "--probe", "--server", name]
        assert main(["doctor", *fixed]) == 0
    assert all("temperature" not in body for body in server.taken[-24:])
    assert all("max_completion_tokens" in body for body in server.taken[-24:])


@pytest.mark.trial("20-hosted-no-system")
@pytest.mark.parametrize("rule", [without_system, without_system_by_500])
def test_a_model_without_a_system_turn_reads_it_before_the_question(
    rule: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = Odd(rule)
    model = chat(server)
    with caplog.at_level(logging.WARNING, logger="mop.backends.link"):
        assert len(drawn(model, draw_requests(3))) == 3
    assert "takes no system turn: task and persona stand before the first user turn instead" in caplog.text
    [sent] = server.taken[-1]["messages"]
    assert sent == {"role": "user", "content": "a fan of old films\n\nfilm 2"}


@pytest.mark.trial("21-thinking-model")
@pytest.mark.parametrize("thinks", ["aloud", "counted", "in silence"])
def test_thoughts_are_named_as_the_reason_and_the_switch_is_sent(thinks: str) -> None:
    with pytest.raises(BackendError, match='remote.fields.reasoning_effort = "none"'):
        chat(Odd(thinks=thinks)).rehearse([1.0], Decoding())
    server = Odd(thinks=thinks)
    assert len(drawn(chat(server, fields={"reasoning_effort": "none"}), draw_requests(3))) == 3
    assert all(body["reasoning_effort"] == "none" for body in server.taken)


def test_a_run_on_a_plain_server_costs_no_more_calls_than_before() -> None:
    server = Odd()
    model = chat(server)
    model.rehearse([1.0], Decoding())
    assert server.calls == N_PROBES
    first = server.taken[0]["messages"]
    assert [message["role"] for message in first] == ["system", "user", "assistant", "user"]
    drawn(model, draw_requests(4, tau=1.0))
    assert server.calls == N_PROBES + 4
    drawn(model, draw_requests(4, tau=0.6))  # a temperature that was not asked for is asked for
    assert server.calls == N_PROBES + 4 + 1 + 4
    assert server.taken[N_PROBES + 4]["temperature"] == 0.6


def test_the_estimator_asks_before_it_fits() -> None:
    with start(Odd(without("seed"))) as running:
        model = MixtureOfPersonas(
            n_personas=2,
            lm=f"openai:toy@{running.url}",
            scorer="fake",
            encoder="fake",
            remote={"dialect": "openai-chat"},
        )
        with pytest.raises(BackendError, match=r"set remote.fields.seed = false"):
            model.fit(reviews(40))


class Later(FakeServer):
    """Refuses everything once the probe is over, always in the same words but for a number."""

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        reply = super().reply(method, path, headers, body)
        if method == "POST" and self.calls > N_PROBES:
            return error_reply(400, f"request {self.calls} is not for this model", None)
        return reply


def test_a_refusal_in_the_same_words_stops_after_a_dozen_calls() -> None:
    server = Later("openai")
    with pytest.raises(BackendError, match="stopped: call after call is refused in the same words") as caught:
        drawn(chat(server, max_failed_share=1.0), draw_requests(500))
    assert "run the same command" not in str(caught.value)
    assert server.calls <= N_PROBES + 12


def test_a_few_refusals_at_the_start_stop_nothing() -> None:
    class Some(FakeServer):
        def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
            reply = super().reply(method, path, headers, body)
            is_refused = method == "POST" and N_PROBES < self.calls <= N_PROBES + 11
            return error_reply(400, "no", None) if is_refused else reply

    model = chat(Some("openai"), max_failed_share=1.0)
    assert len(drawn(model, draw_requests(100))) == 89


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"max_tokens": 5}, "is what the ceilings are kept by; set simulate.max_tokens"),
        ({"messages": []}, "is what is asked"),
        ({"n": 4}, "would bring more than the one text"),
        ({"stream": True}, "would bring more than the one text"),
        ({"logprobs": True}, "is how scores are asked for"),
        ({"extra_body": {}}, "write what it holds as fields of their own"),
        ({"seed": True}, "must be false"),
        ({"temperature": "cold"}, r'must be false \(to leave it out\), "fixed"'),
        ({"user": {1, 2}}, "cannot be sent as JSON"),
    ],
)
def test_fields_that_would_break_the_account_or_the_form_are_refused(fields: dict[str, Any], reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        RemoteSettings(fields=fields)


def test_a_vendors_false_is_sent_and_ours_is_left_out() -> None:
    server = Odd()
    drawn(chat(server, fields={"enable_thinking": False, "seed": False, "top_p": 0.9}), draw_requests(1))
    assert server.taken[-1]["enable_thinking"] is False
    assert server.taken[-1]["top_p"] == 0.9
    assert "seed" not in server.taken[-1]


def test_fields_are_set_in_a_file_and_on_the_command_line(tmp_path: Path) -> None:
    file = tmp_path / "run.toml"
    file.write_text("[remote.fields]\nseed = false\nprovider = {order = ['a']}\n")
    config = resolve_config(file=file, assignments=["remote.fields.reasoning_effort=none"])
    assert config.remote.fields == {"seed": False, "provider": {"order": ["a"]}, "reasoning_effort": "none"}
    with pytest.raises(ConfigError, match=r"remote.fields must be of type table, such as \{seed = false\}"):
        resolve_config(assignments=["remote.fields=none at all"])
    with pytest.raises(ConfigError, match="remote.fields.n would bring more"):
        resolve_config(assignments=["remote.fields.n=2"])


def test_fields_are_part_of_what_a_draw_is() -> None:
    assert chat(Odd()).generate_identity != chat(Odd(), fields={"top_p": 0.9}).generate_identity
