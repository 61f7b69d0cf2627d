"""PICLe's persona model on a tiny Llama: base scores one token at a time, a persona that learns its label."""

from dataclasses import replace

import pytest

from conftest import ingredients
from mop.backends.fake import FakeModel
from mop.errors import ConfigError
from mop.rivals.methods import prepare, respond
from mop.rivals.picle_lora import lora_ratio, text_log_likelihoods
from mop.storage.store import Store
from mop.types import Record


def ratio_of(lm, *settings, records=None, store=None, progress=None, **more):
    given = ingredients(
        FakeModel(),
        f'model.lm="{lm}"',
        "model.device=cpu",
        *settings,
        exemplars=texts() if records is None else records,
        store=store or Store(":memory:"),
        progress=progress,
    )
    return lora_ratio(given, **more)


@pytest.mark.parametrize("lm", ["fake", "openai:some@http://localhost:1/v1"])
def test_a_model_without_weights_here_is_refused(lm):
    with pytest.raises(ConfigError, match="picle fine-tunes a copy of the language model"):
        ratio_of(lm, records=[])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip("peft", reason="peft is not installed: pip install 'mixture-of-personas[picle]'")
    from tiny_models import byte_tokenizer, tiny_llama

    path = tmp_path_factory.mktemp("tiny")
    byte_tokenizer().save_pretrained(path)
    tiny_llama(spread=0.1).save_pretrained(path)
    return str(path)


def texts():
    good = [f"the film is good and {w}" for w in ("the story", "the actors", "good", "better")]
    bad = [f"I hated it, boring and {w}" for w in ("too long", "boring", "it", "too too")]
    return [
        Record(key=f"{label}{i}", context="?", response=text, label=label)
        for label, some in (("good", good), ("bad", bad))
        for i, text in enumerate(some)
    ]


def test_a_text_is_scored_as_running_text_without_its_first_token():
    import torch

    from tiny_models import tiny_llama

    model = tiny_llama()
    ids = [[5, 7, 9, 11], [3, 4], [250, 2, 250, 2, 8, 100]]
    wanted = []
    for tokens in ids:
        total = 0.0
        for t in range(1, len(tokens)):
            with torch.inference_mode():
                logits = model(torch.tensor([tokens[:t]])).logits[0, -1]
            total += float(logits.log_softmax(dim=0)[tokens[t]])
        wanted.append(total)
    assert text_log_likelihoods(model, ids, "cpu") == pytest.approx(wanted, abs=1e-4)


@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft asks transformers for an old name
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_trained_persona_likes_its_own_texts_and_is_trained_once(folder, dtype):
    steps = []
    store = Store(":memory:")
    setting, options = f"model.dtype={dtype}", {"store": store, "n_epochs": 10, "learning_rate": 0.02}
    ratio = ratio_of(folder, setting, progress=lambda what, done, total: steps.append(done), **options)
    assert (ratio > 5).all()
    assert steps == [*range(1, 11), *range(1, 11)]  # two labels, one batch, ten epochs
    assert store.spent()["prepare/picle"].calls == 8
    again = ratio_of(folder, setting, progress=lambda *_: pytest.fail("trained again"), **options)
    assert (again == ratio).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_new_weights_change_nothing_before_they_are_trained(folder):
    ratio = ratio_of(folder, n_epochs=1, learning_rate=0.0)
    assert abs(ratio).max() < 1e-4


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_begin_token_is_what_is_not_scored(folder, tmp_path):
    from tokenizers.processors import TemplateProcessing

    from mop.backends.tokens import PromptEncoder
    from tiny_models import byte_tokenizer, tiny_llama

    tokenizer = byte_tokenizer()
    begin = tokenizer.convert_tokens_to_ids("<|im_start|>")
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", begin)]
    )
    assert PromptEncoder(byte_tokenizer()).begin_ids == []
    encoder = PromptEncoder(tokenizer)
    assert encoder.begin_ids == [begin]
    tokenizer.save_pretrained(tmp_path)
    tiny_llama(spread=0.1).save_pretrained(tmp_path)
    store, records = Store(":memory:"), texts()
    ratio_of(str(tmp_path), store=store, n_epochs=1)
    # One token more is scored than without a begin token.
    plain = Store(":memory:")
    ratio_of(folder, store=plain, n_epochs=1)
    spent = [of.spent()["prepare/picle"] for of in (store, plain)]
    assert spent[0].tokens == spent[1].tokens + len(records)


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_the_method_shows_the_exemplars_that_its_persona_likes_most(folder):
    store, records = Store(":memory:"), texts()
    given = ingredients(FakeModel(), f'model.lm="{folder}"', "seed=4", exemplars=records, store=store, seed=9)
    prepare("picle", given)
    given = replace(given, progress=lambda *_: pytest.fail("trained again, or with another seed"))
    ratio = lora_ratio(given)
    contexts = [Record(key="c", context="?", response="-", label="bad")]
    (row,) = respond("picle", contexts, given)
    best = sorted(range(4, 8), key=lambda j: ratio[j])[-3:]
    assert row.exemplar.split() == [records[j].key for j in best]


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_kind_of_model_that_peft_does_not_know_is_named(folder, monkeypatch):
    import peft

    def refuse(model, config):
        raise ValueError("Please specify `target_modules` in `peft_config`")

    monkeypatch.setattr(peft, "get_peft_model", refuse)
    with pytest.raises(ConfigError, match=r"picle cannot fine-tune .* of type 'llama'"):
        ratio_of(folder)
