"""`open_model` is the one place where a name becomes a model."""

from __future__ import annotations

import pytest

from mop.backends import open_model
from mop.backends.base import Generator, Scorer
from mop.backends.fake import FakeModel
from mop.errors import ConfigError


def test_fake_is_the_toy_model():
    assert isinstance(open_model("fake"), FakeModel)


def test_a_folder_is_a_local_model(tmp_path):
    pytest.importorskip("transformers")
    from tiny_models import byte_tokenizer, tiny_llama

    byte_tokenizer().save_pretrained(tmp_path)
    tiny_llama().save_pretrained(tmp_path)
    model = open_model(str(tmp_path), device="cpu", dtype="float32", memory_gib=1)
    assert isinstance(model, Scorer)
    assert isinstance(model, Generator)
    assert model.name == str(tmp_path)


@pytest.mark.model
def test_an_embedded_name_scores_and_writes():
    from mop.prompts import simulation_prompt
    from mop.types import Branch, Decoding, GenerateRequest, ScoreRequest

    model = open_model("smollm2-135m", dtype="float32")
    prompt = simulation_prompt("Film: Heat. Verdict: fresh.", persona="You love films.")
    ((_, score),) = next(iter(model.score([ScoreRequest(prompt, "A tense and moving film.")])))
    assert -60 < score.log_lik[model.betas.index(1.0)] < -5
    asked = [GenerateRequest((Branch(prompt, 1.0),), seed=3)]
    ((_, drawn),) = next(iter(model.generate(asked, Decoding(max_tokens=8))))
    assert drawn.text
    assert drawn.n_tokens <= 8


def test_a_servers_tokenizer_brings_its_control_strings(tmp_path):
    pytest.importorskip("transformers")
    from mop.backends.fake_server import FakeServer, start
    from mop.prompts import simulation_prompt
    from mop.types import Branch, Decoding, GenerateRequest
    from tiny_models import byte_tokenizer

    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<own-mark>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path)
    prompt = simulation_prompt("say <own-mark> aloud")
    fake = FakeServer("openai")
    with start(fake) as server:
        name = f"openai:toy@{server.url}"
        model = open_model(name, dialect="openai-chat", tokenizer=str(tmp_path))
        list(model.generate([GenerateRequest((Branch(prompt, 1.0),), 3)], Decoding(max_tokens=4)))
        sent = fake.requests[-1]["messages"][-1]["content"]
    assert sent.endswith("say ⟨own-mark> aloud")


def test_the_toy_models_tokenizer_has_a_name():
    from mop.backends.remote import RemoteModel

    model = open_model("openai:toy@http://127.0.0.1:1", dialect="vllm", tokenizer="fake")
    assert isinstance(model, RemoteModel)
    assert '"toy/1"' in model.score_identity


def test_settings_of_a_server_are_refused_for_other_models():
    with pytest.raises(ConfigError, match="the settings tokenizer are for a server, but 'fake' is"):
        open_model("fake", tokenizer="smollm2-135m")


def test_a_name_of_no_known_form_is_refused():
    with pytest.raises(ConfigError, match="nothing-like-this"):
        open_model("nothing-like-this")
