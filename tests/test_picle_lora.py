"""PICLe's persona model on a tiny Llama: base scores one token at a time, a persona that learns its label."""

import pytest

from mop.baselines.picle_lora import lora_ratio, text_log_likelihoods
from mop.errors import ConfigError
from mop.store import Store
from mop.types import Record


@pytest.mark.parametrize("lm", ["fake", "openai:some@http://localhost:1/v1"])
def test_a_model_without_weights_here_is_refused(lm):
    with pytest.raises(ConfigError, match="picle fine-tunes a copy of the language model"):
        lora_ratio([], lm=lm, store=Store(":memory:"), seed=0)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    pytest.importorskip(
        "peft", reason="peft is not installed: pip install 'mixture-of-personas[picle]'"
    )
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
    records, steps = texts(), []
    store = Store(":memory:")
    options = {"lm": folder, "seed": 0, "device": "cpu", "dtype": dtype, "n_epochs": 10,
               "learning_rate": 0.02}  # fmt: skip
    ratio = lora_ratio(
        records, store=store, progress=lambda what, done, total: steps.append(done), **options
    )
    assert (ratio > 5).all()
    assert steps == [*range(1, 11), *range(1, 11)]  # two labels, one batch, ten epochs
    assert store.spent()["prepare/picle"].calls == 8
    again = lora_ratio(
        records, store=store, progress=lambda *_: pytest.fail("trained again"), **options
    )
    assert (again == ratio).all()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_new_weights_change_nothing_before_they_are_trained(folder):
    ratio = lora_ratio(
        texts(), lm=folder, store=Store(":memory:"), seed=0, device="cpu", n_epochs=1,
        learning_rate=0.0,
    )  # fmt: skip
    assert abs(ratio).max() < 1e-4
