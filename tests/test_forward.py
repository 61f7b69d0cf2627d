"""Both bodies against the model's own pass without cache, padding or sharing."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from mop.backends.forward import (  # noqa: E402
    BLOCK,
    GeneralBody,
    Group,
    LlamaBody,
    _attention,
    _normed,
)
from mop.backends.local import choose_body  # noqa: E402
from tiny_models import (  # noqa: E402
    tiny_gemma3,
    tiny_gpt2,
    tiny_llama,
    tiny_qwen2,
    tiny_qwen3,
)


def packed(model):
    """`LlamaBody` with the products that are for bfloat16, here in float32, so that they can be compared."""
    return LlamaBody(model, is_packed=True)


BUILDERS = [tiny_llama, tiny_qwen2, tiny_qwen3, tiny_gpt2, tiny_gemma3]
CASES = [(GeneralBody, builder) for builder in BUILDERS]
CASES += [(LlamaBody, builder) for builder in (tiny_llama, tiny_qwen2, tiny_qwen3)]
if torch.backends.mkldnn.is_available():
    CASES += [(packed, builder) for builder in (tiny_llama, tiny_qwen2, tiny_qwen3)]
PREFIXES = [list(range(5, 30)), list(range(40, 47))]
ROWS = [[1, 2, 3, 4], [9] * 11, [7, 8]]


@pytest.fixture(params=CASES, ids=lambda case: f"{case[0].__name__}-{case[1].__name__}")
def case(request):
    kind, builder = request.param
    with torch.inference_mode():
        yield kind(builder()), builder()


def plain_logits(model, ids):
    return model(input_ids=torch.tensor([ids]), use_cache=False).logits[0]


def test_predictions_after_prefixes_equal_the_plain_pass(case):
    body, model = case
    prefixes = body.extend([Group(None, tuple(PREFIXES))])
    wanted = ((1, 4), (0, 11), (1, 2))
    groups = [Group(prefix, tuple(ROWS), wanted) for prefix in (*prefixes, None)]
    handle = body.predict(groups)
    expected = torch.cat(
        [
            plain_logits(model, [*before, *row])[len(before) + low : len(before) + high]
            for before in (*PREFIXES, [])
            for row, (low, high) in zip(ROWS, wanted, strict=True)
        ]
    )
    parts = [(0, 20), (20, len(expected))]  # a call may overwrite what the one before returned
    found = torch.cat([body.logits(handle, *part).clone() for part in parts])
    assert torch.allclose(found, expected, atol=1e-4)


def test_a_prefix_of_a_prefix_is_a_prefix(case):
    body, model = case
    (first,) = body.extend([Group(None, (PREFIXES[0],))])
    second, third, fourth = body.extend([Group(first, (PREFIXES[1], [3])), Group(None, ([8],))])
    assert [one.length for one in (first, second, third, fourth)] == [25, 32, 26, 1]
    groups = [Group(second, ([1, 2],), ((0, 2),))]
    groups += [Group(prefix, ([6],), ((0, 1),)) for prefix in (third, fourth)]
    handle = body.predict(groups)
    expected = torch.cat(
        [
            plain_logits(model, [*PREFIXES[0], *PREFIXES[1], 1, 2])[-2:],
            plain_logits(model, [*PREFIXES[0], 3, 6])[-1:],
            plain_logits(model, [8, 6])[-1:],
        ]
    )
    assert torch.allclose(body.logits(handle, 0, 4), expected, atol=1e-4)


@pytest.mark.parametrize("is_plain", [False, True])
def test_rows_that_come_and_go_are_written_as_if_alone(case, is_plain, monkeypatch):
    # The layout and the products that are for bfloat16, here in float32, so that they can be compared.
    monkeypatch.setattr("mop.backends.forward._is_plain", lambda like: is_plain)
    body, model = case
    prefixes = body.extend([Group(None, tuple(PREFIXES))])
    slots = body.slots(4, 60)
    texts = [[*PREFIXES[0]], [*PREFIXES[1]], []]
    slots.admit([*prefixes, None])

    def check(tokens):
        found = slots.step(tokens)
        for text, token in zip(texts, tokens, strict=True):
            text.append(token)
        for row, text in enumerate(texts):
            assert torch.allclose(found[row], plain_logits(model, text)[-1], atol=1e-4)

    check([1, 2, 3])
    check([4, 5, 6])
    slots.keep([1, 2])
    del texts[0]
    check([7, 8])
    slots.admit([prefixes[0]])
    texts.append([*PREFIXES[0]])
    check([9, 10, 11])
    slots.keep([0, 2])
    del texts[1]
    check([12, 13])
    slots.keep([])
    texts.clear()
    slots.admit([prefixes[1]])
    texts.append([*PREFIXES[1]])
    check([14])


def test_rows_without_a_past_may_come_first():
    for builder in (tiny_llama, tiny_gpt2):
        with torch.inference_mode():
            body, model = choose_body(builder()), builder()
            slots = body.slots(3, 60)
            slots.admit([None])
            slots.admit(body.extend([Group(None, (PREFIXES[1],))]))
            found = slots.step([1, 2])
            assert torch.allclose(found[0], plain_logits(model, [1])[-1], atol=1e-4)
            assert torch.allclose(found[1], plain_logits(model, [*PREFIXES[1], 2])[-1], atol=1e-4)


def test_llama_like_models_run_on_our_own_pass_and_others_on_theirs():
    kinds = [type(choose_body(builder())) for builder in BUILDERS]
    assert kinds == [LlamaBody, LlamaBody, LlamaBody, GeneralBody, GeneralBody]


def test_a_model_that_only_looks_like_llama_runs_on_its_own_pass(caplog):
    class LlamaForCausalLM(type(tiny_llama())):
        """The same name, another output layer."""

        def forward(self, *arguments, **settings):
            found = super().forward(*arguments, **settings)
            found.logits = 0.5 * found.logits
            return found

    model = tiny_llama()
    model.__class__ = LlamaForCausalLM
    assert isinstance(choose_body(model), GeneralBody)
    assert "own forward pass differs by" in caplog.text


def test_a_model_that_our_own_pass_cannot_run_runs_on_its_own(caplog):
    class Odd(torch.nn.Module):
        """Rotary positions that take another argument, as a model of one's own may have them."""

        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, x, position_ids):
            if position_ids.shape[-1] == 9:  # the first tokens of the comparison
                raise ValueError("what positions are these?")
            return self.inner(x, position_ids)

    model = tiny_llama()
    model.model.rotary_emb = Odd(model.model.rotary_emb)
    assert isinstance(choose_body(model), GeneralBody)
    assert "own forward pass cannot run this model (what positions are these?)" in caplog.text


def test_padded_batches_of_the_models_own_pass_keep_to_the_room():
    class Watched(torch.nn.Module):
        def __init__(self, model):
            super().__init__()
            self.inner, self.config, self.seen = model, model.config, []

        def forward(self, input_ids, past_key_values, logits_to_keep, **rest):
            before = past_key_values.get_seq_length()
            found = self.inner(
                input_ids=input_ids, past_key_values=past_key_values,
                logits_to_keep=logits_to_keep, **rest,
            )  # fmt: skip
            rows, tokens = input_ids.shape
            # 2 layers, keys and values of 32 numbers each, 4 bytes; 300 logits of 4 bytes.
            kept = 2 * (before + tokens) * 2 * 2 * 32 * 4 + len(logits_to_keep) * 300 * 4
            self.seen.append((rows, rows * kept))
            return found

    with torch.inference_mode():
        body = GeneralBody(Watched(tiny_gpt2()))
        (long,) = body.extend([Group(None, (list(range(200)),))])
        groups = [
            Group(prefix, tuple([7] * n for n in (40, 39, 38, 12, 11, 10)), ((2, 10),) * 6) for prefix in (long, None)
        ]
        whole = body.predict(groups)
        assert max(used for _, used in body._model.seen) > 1e6
        body.room, body._model.seen = 6e5, []
        parts = body.predict(groups)
    assert all(used <= 6e5 or rows == 1 for rows, used in body._model.seen)
    assert max(rows for rows, _ in body._model.seen) > 1
    assert torch.allclose(whole, parts, atol=1e-5)


@pytest.mark.skipif(
    not torch.backends.mkldnn.is_available() or not torch.ops.mkldnn._is_mkldnn_bf16_supported(),
    reason="oneDNN has no bfloat16 products on this processor",
)
def test_small_models_in_bfloat16_are_packed_and_large_ones_are_not(monkeypatch):
    model, group = tiny_llama().bfloat16(), [Group(None, tuple(ROWS), ((0, 4), (0, 11), (0, 2)))]
    with torch.inference_mode():
        body = choose_body(model)
        assert body.is_packed
        found = body.logits(body.predict(group), 0, 17).clone()
        monkeypatch.setattr("mop.backends.forward.PACKED", 1000)
        plain = choose_body(model)
        assert not plain.is_packed
        expected = plain.logits(plain.predict(group), 0, 17)
    assert torch.allclose(found, expected, atol=0.02 * float(expected.abs().max()))


def test_where_packing_fails_products_are_plain(monkeypatch, caplog):
    def fails(weight):
        raise RuntimeError("no such operator")

    monkeypatch.setattr("mop.backends.local.can_pack", lambda model: True)
    monkeypatch.setattr("mop.backends.forward._packed", fails)
    body = choose_body(tiny_llama())
    assert not body.is_packed
    assert "cannot run this model (no such operator); plain products are tried" in caplog.text


def test_joined_weights_stay_the_models_own():
    model, same = tiny_llama(), tiny_llama()
    LlamaBody(model)
    layer = model.model.layers[0].self_attn
    assert layer.k_proj.weight.data_ptr() != layer.q_proj.weight.data_ptr()
    storages = {part.weight.untyped_storage().data_ptr() for part in (layer.q_proj, layer.k_proj, layer.v_proj)}
    assert len(storages) == 1
    with torch.inference_mode():
        assert torch.allclose(plain_logits(model, ROWS[1]), plain_logits(same, ROWS[1]), atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("rows", "tokens", "before"), [(3, 5, 0), (2, BLOCK + 9, 0), (40, 7, 300), (1, 3 * BLOCK, 11), (9, 1, 4)]
)  # fmt: skip
def test_attention_is_that_of_the_formula(dtype, rows, tokens, before):
    draw = torch.Generator().manual_seed(0)
    queries = torch.randn(rows, tokens, 6, 16, generator=draw).to(dtype).transpose(1, 2)
    keys, values = torch.randn(2, rows, 2, before + tokens, 16, generator=draw).to(dtype)
    mask = torch.ones(tokens, before + tokens, dtype=torch.bool).tril(before)
    every_head = [each.double().repeat_interleave(3, dim=1) for each in (keys, values)]
    scores = queries.double() @ every_head[0].mT / 4
    expected = scores.masked_fill(~mask, -torch.inf).softmax(-1) @ every_head[1]
    found = _attention(queries, keys, values, mask)
    assert found.shape == queries.shape
    assert torch.allclose(found.double(), expected, atol=1e-5 if dtype == torch.float32 else 0.03)


def test_attention_in_pieces_is_that_in_one(monkeypatch):
    draw = torch.Generator().manual_seed(1)
    queries = torch.randn(7, 6, 20, 16, generator=draw).bfloat16()
    keys, values = torch.randn(2, 7, 2, 50, 16, generator=draw).bfloat16()
    mask = torch.ones(20, 50, dtype=torch.bool).tril(30)
    whole = _attention(queries, keys, values, mask)
    monkeypatch.setattr("mop.backends.forward.PIECE", 1)
    monkeypatch.setattr("mop.backends.forward.BLOCK", 3)
    assert torch.allclose(_attention(queries, keys, values, mask), whole, atol=0.02)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_norm_is_the_models_own_and_leaves_its_input(dtype):
    norm = tiny_llama().to(dtype).model.norm
    hidden = torch.randn(5, 3, norm.weight.shape[0], generator=torch.Generator().manual_seed(2)).to(dtype)
    before = hidden.clone()
    with torch.inference_mode():
        found = _normed(norm, hidden, norm.variance_epsilon)
        expected = norm(hidden)
    assert torch.equal(hidden, before)
    assert found.dtype == dtype
    assert torch.allclose(found.float(), expected.float(), rtol=1e-6 if dtype == torch.float32 else 8e-3)
