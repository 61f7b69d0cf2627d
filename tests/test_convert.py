"""A tiny GGUF written here and read back; the real model against what is known of it."""

import csv
import json
import zipfile

import numpy as np
import pytest

from mop.data.convert import convert_gguf, copy_member, film_title, gemma_tokenizer, halves_apart, plain_text
from mop.errors import PullError

TEMPLATE = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "a", "b", "Ġ", "1", "2", "ĠĠ", "ab", "12"]


def tiny_gguf(path, *, architecture="llama", pre="smollm", extra=()):
    """A llama of one layer: size 8, two heads, one key head, ten tokens; weights count upwards."""
    gguf = pytest.importorskip("gguf")
    out = gguf.GGUFWriter(path, architecture)
    out.add_context_length(32)
    out.add_embedding_length(8)
    out.add_block_count(1)
    out.add_feed_forward_length(6)
    out.add_head_count(2)
    out.add_head_count_kv(1)
    out.add_layer_norm_rms_eps(1e-5)
    out.add_rope_freq_base(10000.0)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre(pre)
    out.add_token_list(TOKENS)
    out.add_token_types([3, 3, 3] + [1] * (len(TOKENS) - 3))
    out.add_token_merges(["Ġ Ġ", "a b", "1 2"])
    out.add_bos_token_id(1)
    out.add_eos_token_id(2)
    out.add_unk_token_id(0)
    out.add_pad_token_id(2)
    out.add_chat_template(TEMPLATE)
    shapes = {
        "token_embd.weight": (len(TOKENS), 8),
        "output_norm.weight": (8,),
        "blk.0.attn_norm.weight": (8,),
        "blk.0.attn_q.weight": (8, 8),
        "blk.0.attn_k.weight": (4, 8),
        "blk.0.attn_v.weight": (4, 8),
        "blk.0.attn_output.weight": (8, 8),
        "blk.0.ffn_norm.weight": (8,),
        "blk.0.ffn_gate.weight": (6, 8),
        "blk.0.ffn_up.weight": (6, 8),
        "blk.0.ffn_down.weight": (8, 6),
        **dict(extra),
    }
    weights = {}
    for name, shape in shapes.items():
        weights[name] = np.arange(np.prod(shape), dtype=np.float32).reshape(shape) / 100
        out.add_tensor(name, weights[name])
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return weights


def test_every_weight_arrives_under_its_name_and_only_rotary_rows_move(tmp_path):
    from safetensors.numpy import load_file

    packed = tiny_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    assert len(weights) == len(packed)
    assert (weights["model.embed_tokens.weight"] == packed["token_embd.weight"]).all()
    assert (weights["model.layers.0.mlp.down_proj.weight"] == packed["blk.0.ffn_down.weight"]).all()
    # Two heads of four rows, each packed as x0 y0 x1 y1 and wanted as x0 x1 y0 y1.
    wanted = packed["blk.0.attn_q.weight"][[0, 2, 1, 3, 4, 6, 5, 7]]
    assert (weights["model.layers.0.self_attn.q_proj.weight"] == wanted).all()
    wanted = packed["blk.0.attn_k.weight"][[0, 2, 1, 3]]
    assert (weights["model.layers.0.self_attn.k_proj.weight"] == wanted).all()
    assert all(weight.dtype == np.float32 for weight in weights.values())


def test_the_config_says_what_the_file_says(tmp_path):
    tiny_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    expected = {
        "hidden_size": 8,
        "head_dim": 4,
        "intermediate_size": 6,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "num_hidden_layers": 1,
        "max_position_embeddings": 32,
        "rms_norm_eps": 1e-05,
        "rope_theta": 10000.0,
        "tie_word_embeddings": True,
        "vocab_size": len(TOKENS),
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    assert {key: config[key] for key in expected} == expected


def test_digits_stand_alone_and_control_tokens_are_told_apart(tmp_path):
    tokenizers = pytest.importorskip("tokenizers")
    tiny_gguf(tmp_path / "tiny.gguf")
    convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    tokenizer = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    # "12" is a token and a merge, and must not be used; two spaces before a digit are one token.
    assert tokenizer.encode("ab  12").tokens == ["ab", "ĠĠ", "1", "2"]
    assert tokenizer.encode("<|im_end|>").ids == [2]
    assert tokenizer.decode(tokenizer.encode("ab  12 a").ids) == "ab  12 a"
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert (config["bos_token"], config["eos_token"]) == ("<|im_start|>", "<|im_end|>")
    assert config["chat_template"] == TEMPLATE


def test_an_output_layer_of_its_own_is_kept(tmp_path):
    tiny_gguf(tmp_path / "tiny.gguf", extra={"output.weight": (len(TOKENS), 8)})
    convert_gguf(tmp_path / "tiny.gguf", tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["tie_word_embeddings"] is False


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"architecture": "mamba"}, r"holds a model of the architecture 'mamba'; 'llama' and 'gemma3' are"),
        ({"pre": "llama-bpe"}, r"has a tokenizer \('gpt2', 'llama-bpe'\); only \('gpt2', 'smollm'\)"),
        ({"extra": {"blk.0.ssm.weight": (2, 2)}}, r"has a tensor 'blk\.0\.ssm\.weight' that such"),
    ],
)
def test_other_files_are_refused(tmp_path, changes, sentence):
    tiny_gguf(tmp_path / "tiny.gguf", **changes)
    with pytest.raises(PullError, match=sentence):
        convert_gguf(tmp_path / "tiny.gguf", tmp_path)


def test_halves_apart_undoes_the_interleaving_of_every_head():
    halves = np.arange(24, dtype=np.float32).reshape(12, 2)  # 3 heads of 4 rows
    interleaved = np.concatenate([halves[h * 4 + np.array([0, 2, 1, 3])] for h in range(3)])
    assert (halves_apart(interleaved, 3) == halves).all()


def test_a_member_is_read_by_its_exact_name_and_never_becomes_a_path(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("../evil", "bad")
        archive.writestr("good", "fine")
    copy_member(tmp_path / "x.zip", "good", tmp_path / "in" / "target")
    assert (tmp_path / "in" / "target").read_text() == "fine"
    assert not (tmp_path / "evil").exists()
    with pytest.raises(PullError, match=r"cannot read 'evil' in x\.zip"):
        copy_member(tmp_path / "x.zip", "evil", tmp_path / "other")


def test_a_file_that_is_no_archive_is_refused(tmp_path):
    (tmp_path / "x.whl").write_text("no zip")
    with pytest.raises(PullError, match=r"cannot read 'm' in x\.whl: File is not a zip file"):
        copy_member(tmp_path / "x.whl", "m", tmp_path / "m")


@pytest.mark.parametrize(
    ("film_id", "title"),
    [
        ("about_a_boy", "About A Boy"),
        ("trip_the", "The Trip"),
        ("a", "A"),
        ("im_going_home", "Im Going Home"),
        ("paix%e3o_de_jacobina_a", "A Paixão De Jacobina"),
    ],
)
def test_titles_are_read_from_web_addresses(film_id, title):
    assert film_title(film_id) == title


def test_review_texts_are_made_plain():
    assert plain_text("  PB&amp; J\r\n sandwich\x85 ") == "PB& J sandwich…"


GEMMA = [
    *("<pad>", "<eos>", "<bos>", "<unk>", "\n", "\n\n", "  ", "<0xF0>", "<0x9F>", "<0xAB>", "<0xA9>"),
    *("▁", "a", "b", "▁a", "ab", "▁ab"),
]


def gemma_tables():
    kinds = [3, 3, 3, 3, 4, 4, 4, 6, 6, 6, 6] + [1] * 6
    scores = [-1000.0] * 7 + [0.0] * 4 + [-6.0, -5.0, -4.0, -2.0, -3.0, -1.0]
    tables = {"tokens": GEMMA, "token_type": kinds, "scores": scores}
    ids = {"bos_token_id": 2, "eos_token_id": 1, "padding_token_id": 0, "unknown_token_id": 3}
    return {f"tokenizer.ggml.{name}": value for name, value in (tables | ids).items()}


def test_gemmas_tokenizer_merges_by_score_and_falls_back_to_bytes():
    pytest.importorskip("tokenizers")
    tokenizer = gemma_tokenizer(gemma_tables())
    text = "ab ab  b\n\n🫩"
    found = tokenizer.encode(text)
    assert found.tokens == [*("<bos>", "ab", "▁ab", "▁▁", "b", "\n\n", "<0xF0>", "<0x9F>", "<0xAB>", "<0xA9>")]
    assert tokenizer.decode(found.ids) == text


def test_data_read_without_added_tokens_splits_the_same():
    """Prompts encode data with such a tokenizer, so that it can never hold a control token."""
    tokenizers = pytest.importorskip("tokenizers")
    full = gemma_tokenizer(gemma_tables())
    bare = tokenizers.Tokenizer.from_str(json.dumps({**json.loads(full.to_str()), "added_tokens": []}))
    for text in ("ab ab  b", "a\n\nb", "  "):
        assert full.encode(text).ids == bare.encode(text).ids
    assert 1 not in bare.encode("<eos>").ids


@pytest.fixture(scope="module")
def smollm2():
    """The real model and tokenizer."""
    transformers = pytest.importorskip("transformers")
    from mop.data.pull import pull

    folder = pull("smollm2-135m")
    model = transformers.AutoModelForCausalLM.from_pretrained(folder).eval()
    return model, transformers.AutoTokenizer.from_pretrained(folder)


@pytest.mark.model
def test_smollm2_prefers_english_to_shuffled_english(smollm2):
    import torch

    model, tokenizer = smollm2

    def perplexity(text):
        ids = tokenizer(text, return_tensors="pt").input_ids
        with torch.inference_mode():
            return float(model(ids, labels=ids).loss.exp())

    assert model.dtype == torch.float32
    # transformers' own reading of the GGUF gave 29.68 on 2026-11-23.
    assert perplexity("A stylish thriller that keeps you guessing until the very end.") < 32
    assert perplexity("end very thriller A the until stylish guessing. keeps you that") > 500


@pytest.mark.model
def test_smollm2_answers_a_question_and_ends_its_turn(smollm2):
    model, tokenizer = smollm2
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Name the capital of France."}],
        add_generation_prompt=True,
        return_tensors="pt",
        return_dict=True,
    )
    out = model.generate(**prompt, max_new_tokens=12, do_sample=False)[0]
    assert tokenizer.decode(out).endswith("The capital of France is Paris.<|im_end|>")


@pytest.mark.model
def test_the_tokenizer_of_smollm2_is_whole(smollm2):
    _, tokenizer = smollm2
    control = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    assert tokenizer.convert_tokens_to_ids(control) == [0, 1, 2]
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 2)
    assert len(tokenizer) == 49152
    assert tokenizer.tokenize("x  1987") == ["x", "ĠĠ", "1", "9", "8", "7"]


@pytest.mark.model
def test_every_review_survives_the_tokenizer(smollm2):
    from mop.data.pull import pull

    _, tokenizer = smollm2
    with (pull("rotten-tomatoes") / "records.csv").open(encoding="utf-8", newline="") as opened:
        texts = [row["text"] for row in csv.DictReader(opened)][::10]
    for text, ids in zip(texts, tokenizer(texts)["input_ids"], strict=True):
        assert tokenizer.decode(ids) == text
