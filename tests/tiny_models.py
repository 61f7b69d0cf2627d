"""Tiny random language models and tokenizers for tests: a few thousand weights, built in memory."""

from __future__ import annotations

from typing import Any

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

CHAT = (
    "{% if messages[0].role != 'system' %}<|im_start|>system\nBe helpful.<|im_end|>\n{% endif %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
NO_SYSTEM = (
    "<s>{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}"
    "{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }}</s>{% endif %}{% endfor %}"
)
_TEXT = [
    "the film is good and the actors are better than the story of the film",
    "system user assistant Be helpful. I hated it, boring and too long.",
]


def byte_tokenizer(template: str | None = CHAT, size: int = 300) -> PreTrainedTokenizerFast:
    """Byte-level BPE with two special tokens and two added ones that are not special."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size - 4, show_progress=False, initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    tokenizer.train_from_iterator(_TEXT * 20, trainer)
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<|im_end|>", special=True, normalized=False)])
    tokenizer.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    tokenizer.add_tokens([AddedToken("</think>", special=False, normalized=False)])
    return _wrapped(tokenizer, template, eos_token="<|im_end|>", pad_token="<|im_end|>")


def metaspace_tokenizer(template: str | None = NO_SYSTEM) -> PreTrainedTokenizerFast:
    """SentencePiece-like BPE: spaces are ▁, one is put before every text, control pieces inside."""
    letters = [*sorted(set("".join(_TEXT)) - {" "}), "<", ">", "/", "[", "]", "▁", "\n"]
    names = ["<unk>", "<s>", "</s>", *dict.fromkeys(letters), "▁t", "▁th", "▁the"]
    tokenizer = Tokenizer(
        models.BPE(
            vocab={name: place for place, name in enumerate(names)},
            merges=[("▁", "t"), ("▁t", "h"), ("▁th", "e")],
            unk_token="<unk>",
        )
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always", split=False)
    for name in ("<unk>", "<s>", "</s>"):
        tokenizer.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    return _wrapped(tokenizer, template, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def _wrapped(tokenizer: Tokenizer, template: str | None, **names: str) -> PreTrainedTokenizerFast:
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)
    wrapped.chat_template = template
    return wrapped


def tiny_llama(vocab: int = 300, seed: int = 0, spread: float = 0.3, **more: Any) -> Any:
    """Two layers of width 32; `spread` is the standard deviation of the weights."""
    return _built(LlamaForCausalLM, LlamaConfig, vocab, seed, spread, **more)


def tiny_qwen2(vocab: int = 300, seed: int = 0) -> Any:
    """With biases in the attention inputs."""
    return _built(Qwen2ForCausalLM, Qwen2Config, vocab, seed, 0.3)


def tiny_qwen3(vocab: int = 300, seed: int = 0) -> Any:
    """With norms on queries and keys."""
    return _built(Qwen3ForCausalLM, Qwen3Config, vocab, seed, 0.3, head_dim=8)


def tiny_gemma3(vocab: int = 300, seed: int = 0) -> Any:
    """With windows of 16 tokens in every other layer: the general body only."""
    more = {"layer_types": ["sliding_attention", "full_attention"], "sliding_window": 16}
    return _built(Gemma3ForCausalLM, Gemma3TextConfig, vocab, seed, 0.3, head_dim=8, **more)


def tiny_gpt2(vocab: int = 300, seed: int = 0) -> Any:
    """With learned positions: the general body only."""
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=4, n_positions=512, initializer_range=0.3)
    return GPT2LMHeadModel(config).eval()


def _built(kind: Any, config: Any, vocab: int, seed: int, spread: float, **more: Any) -> Any:
    torch.manual_seed(seed)
    settings = {
        "vocab_size": vocab,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "initializer_range": spread,
    }
    model = kind(config(**{**settings, **more})).eval()
    with torch.no_grad():  # norms and biases that are not all one or zero
        for name, weight in model.named_parameters():
            if "norm" in name or "bias" in name:
                weight.add_(0.2 * torch.randn_like(weight))
    return model
