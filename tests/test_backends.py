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


def test_settings_of_a_server_are_refused_for_other_models():
    with pytest.raises(ConfigError, match="the settings tokenizer are for a server, but 'fake' is"):
        open_model("fake", tokenizer="smollm2-135m")


def test_a_name_of_no_known_form_is_refused():
    with pytest.raises(ConfigError, match="nothing-like-this"):
        open_model("nothing-like-this")
