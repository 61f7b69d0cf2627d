"""Each different text once, found again by content; a real encoder against plain arithmetic."""

import json
import logging

import numpy as np
import pytest

from mop.backends.encoder import STEP, FakeEncoder, embed, open_encoder, unit_rows
from mop.randomness import derive_seed, uniforms
from mop.storage.store import Store


class Counting:
    """An encoder that remembers what it was asked: (length, first character's code, 1)."""

    identity = "counting/1"
    n_dims = 3

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked.append(list(texts))
        return np.array([[len(t), ord(t[0]), 1] for t in texts], dtype=np.float32)


def test_rows_belong_to_their_texts_and_each_different_text_is_encoded_once():
    encoder = Counting()
    vectors = embed(["bb", "a", "bb", "ccc", "a"], encoder)
    assert vectors.dtype == np.float32
    assert vectors[:, 0].tolist() == [2, 1, 2, 3, 1]
    assert vectors[:, 1].tolist() == [98, 97, 98, 99, 97]
    assert encoder.asked == [["a", "bb", "ccc"]]


def test_a_stored_text_is_not_encoded_again():
    with Store(":memory:") as store:
        first, second = Counting(), Counting()
        once = embed(["a", "bb"], first, store=store)
        again = embed(["bb", "new", "a"], second, store=store)
    assert second.asked == [["new"]]
    assert again[[2, 0]].tolist() == once.tolist()


def test_another_encoder_does_not_find_the_vectors_of_the_first():
    class Other(Counting):
        identity = "counting/2"

    with Store(":memory:") as store:
        embed(["a"], Counting(), store=store)
        other = Other()
        embed(["a"], other, store=store)
    assert other.asked == [["a"]]


def test_work_that_was_interrupted_is_kept_step_by_step():
    class Breaking(Counting):
        def encode(self, texts):
            if self.asked:
                raise KeyboardInterrupt
            return super().encode(texts)

    texts = [f"text {i:05d}" for i in range(STEP + 3)]
    with Store(":memory:") as store:
        with pytest.raises(KeyboardInterrupt):
            embed(texts, Breaking(), store=store)
        rest = Counting()
        embed(texts, rest, store=store)
    assert rest.asked == [texts[STEP:]]


def test_progress_counts_different_texts():
    seen = []
    embed(["a", "b", "a"], Counting(), progress=lambda *args: seen.append(args))
    assert seen == [("embed", 0, 2), ("embed", 2, 2)]


def test_no_texts_give_no_rows_of_the_right_width():
    assert embed([], FakeEncoder()).shape == (0, 64)


@pytest.mark.parametrize("empty", ["", "  \n\t"])
def test_an_empty_text_is_named_by_its_row(empty):
    with pytest.raises(ValueError, match=r"text 1 of 2 is empty .*leave such rows out"):
        embed(["fine", empty], FakeEncoder())


def test_the_fake_encoder_gives_unit_vectors_that_share_words_with_their_neighbours():
    encoder = open_encoder("fake")
    funny, funnier, tax = encoder.encode(["a very funny film", "A very, very FUNNY film!", "income tax law of 1987"])
    for vector in (funny, funnier, tax):
        assert np.linalg.norm(vector) == pytest.approx(1, abs=1e-6)
    assert funny @ funnier > 0.85
    assert abs(funny @ tax) < 0.5


def test_the_fake_encoder_reads_texts_without_words():
    vectors = FakeEncoder().encode(["!?", "🙂", "\ud800", "\x00"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-6)


def test_the_fake_encoder_gives_the_same_numbers_everywhere():
    # The two numbers at the end were recorded once; another machine must find the same.
    raw = uniforms(derive_seed(0, "fake-encoder", "film"), 0, 64) - 0.5
    assert FakeEncoder().encode(["Film"])[0] == pytest.approx(raw / np.linalg.norm(raw), abs=1e-6)
    assert raw[:2] == pytest.approx([-0.3252164170055092, 0.48245554072515895], abs=1e-12)


def test_unit_rows_survive_very_small_and_very_large_vectors():
    rows = unit_rows(np.array([[1e-30, 0.0], [3e30, 4e30]], dtype=np.float32))
    assert rows.ravel() == pytest.approx([1, 0, 0.6, 0.8], abs=1e-6)


def test_an_unknown_encoder_is_refused_with_the_nearest_name():
    with pytest.raises(ValueError, match=r"no encoder is called 'minilmm'.*did you mean 'minilm'"):
        open_encoder("minilmm")


REVIEWS = [
    "A stylish thriller.",
    "Witless but watchable.",
    "The story drifts so inexorably into cliches about tortured artists that one stops caring.",
    "Ein Film, der nicht endet.",
]


@pytest.fixture(scope="module")
def minilm():
    pytest.importorskip("sentence_transformers")
    return open_encoder("minilm", device="cpu")


@pytest.mark.model
def test_minilm_is_the_mean_of_its_last_layer(minilm):
    """The pooling of the published model, written out."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    from mop.data.pull import pull

    tokenizer = AutoTokenizer.from_pretrained(pull("minilm"))
    model = AutoModel.from_pretrained(pull("minilm")).eval()
    vectors = embed(REVIEWS, minilm)
    for text, vector in zip(REVIEWS, vectors, strict=True):
        with torch.inference_mode():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        mean = hidden.mean(dim=0).numpy()
        assert vector == pytest.approx(mean / np.linalg.norm(mean), abs=1e-5)


@pytest.mark.model
def test_order_and_company_do_not_change_a_vector(minilm):
    together = embed(REVIEWS, minilm)
    reversed_order = embed(REVIEWS[::-1], minilm)[::-1]
    alone = np.concatenate([minilm.encode([text]) for text in REVIEWS])
    assert np.abs(together - reversed_order).max() < 1e-6
    assert np.abs(together - alone).max() < 1e-6


@pytest.mark.model
def test_the_identity_names_all_that_a_vector_depends_on(minilm):
    identity = json.loads(minilm.identity)
    assert identity == {
        "encoder": "minilm",
        "revision": "0.1.0+b9a0018dff09.1",
        "n_dims": 384,
        "max_length": 256,
        "normalize": True,
    }


def test_an_unknown_dtype_is_refused():
    with pytest.raises(ValueError, match=r"dtype of the encoder 'fake' is 'float16'; choose one of"):
        open_encoder("fake", dtype="float16")


@pytest.mark.model
def test_bfloat16_vectors_are_nearly_the_same_and_have_an_identity_of_their_own(minilm):
    half = open_encoder("minilm", device="cpu", dtype="bfloat16")
    assert half.identity != minilm.identity
    vectors, rough = minilm.encode(REVIEWS), half.encode(REVIEWS)
    assert 1e-6 < np.abs(vectors - rough).max() < 0.02
    assert np.linalg.norm(rough, axis=1) == pytest.approx(1.0, abs=1e-6)


@pytest.mark.model
def test_a_text_beyond_the_limit_is_read_up_to_it_and_said(minilm, caplog):
    with caplog.at_level(logging.WARNING, logger="mop.backends.encoder"):
        cut, whole = minilm.encode(["one " * 254 + "two three", "one"])
    assert np.abs(cut - minilm.encode(["one " * 254])[0]).max() < 1e-6
    assert np.abs(cut - whole).max() > 1e-2
    assert caplog.messages == [
        "1 of 2 texts are longer than the 256 word pieces that the encoder reads; their ends do not count"
    ]


@pytest.mark.model
def test_hostile_strings_do_not_stop_the_encoder(minilm):
    vectors = minilm.encode(["\ud800 lone", "nul \x00", "[SEP] [CLS] [PAD]", "‮right to left"])
    assert np.linalg.norm(vectors, axis=1) == pytest.approx(1, abs=1e-5)


@pytest.mark.model
def test_a_folder_is_read_like_the_name_and_an_unusual_one_is_measured(minilm, tmp_path):
    import shutil

    from mop.data.pull import pull

    folder = tmp_path / "mine"
    shutil.copytree(pull("minilm"), folder)
    (folder / "sentence_bert_config.json").write_text('{"do_lower_case": false}')
    mine = open_encoder(folder, device="cpu")
    assert mine.n_dims == 384
    assert np.abs(mine.encode(REVIEWS) - minilm.encode(REVIEWS)).max() < 1e-6
    assert json.loads(mine.identity)["encoder"] == "mine"
    assert json.loads(mine.identity)["revision"].startswith("sha256:")
