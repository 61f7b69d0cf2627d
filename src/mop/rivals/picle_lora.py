"""PICLe's persona model: a copy of the language model, fine-tuned with LoRA on the texts of one label.

Choi and Li 2024 (see `mop.rivals.picle`). Needs the package ``peft`` and a model on this machine;
the model that writes the responses stays frozen, only the ratios come from here.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mop.errors import ConfigError, require
from mop.randomness import derive_seed, rng_of
from mop.rivals.ingredients import Ingredients
from mop.storage.store import score_key
from mop.types import Progress, Prompt, Score, ScoreRequest

if TYPE_CHECKING:
    from mop.backends.tokens import PromptEncoder

Floats = NDArray[np.float64]

RANK, ALPHA, LEARNING_RATE, WEIGHT_DECAY, BATCH, N_EPOCHS = 8, 32, 2e-5, 0.01, 8, 4
"""The published settings; dropout 0, no biases, linear decay, AdamW."""
MAX_TOKENS = 512
"""Tokens of a text that are trained on and scored (**ours**)."""
STAGE = "prepare/picle"
"""Under which name its scores are counted."""


def lora_ratio(given: Ingredients, *, n_epochs: int = N_EPOCHS, learning_rate: float = LEARNING_RATE) -> Floats:
    """Log p_persona(x) - log p_base(x) of each exemplar, the persona fine-tuned on the texts of its label.

    Parameters
    ----------
    given : Ingredients
        ``model.lm`` is one on this machine: an embedded name, ``hf:ORG/NAME`` or a folder. ``model.dtype`` is that
        of the frozen weights while the new ones, which are float32, are trained; both scores of a text are made in
        float32 with these same weights. New weights and the order of the texts depend on the seed of the run, so that
        all draws share them. The store keeps the scores, as ``prepare/picle``; a label whose scores are all there is
        not trained again.
    n_epochs, learning_rate
        The published values by default.

    Returns
    -------
    ndarray, shape (N,)
        Nats, summed over all tokens of the text but the first; over all of them for a model that puts a begin
        token before every text.

    Raises
    ------
    ConfigError
        If the language model is not one on this machine, or of a type that peft cannot fine-tune.
    MissingDependencyError
        If peft, torch or transformers is not installed.
    """
    lm, seed, exemplars, store = given.config.model.lm, given.config.seed, given.exemplars, given.store
    check_lora(lm)
    from mop.backends.local import default_device, default_dtype
    from mop.backends.tokens import open_tokens
    from mop.data import pull

    encoder = open_tokens(lm)
    begin = encoder.begin_ids
    device = given.config.model.torch_device or default_device()
    dtype = given.config.model.torch_dtype or default_dtype(device)
    ratio = np.empty(len(exemplars))
    for label in dict.fromkeys(record.label for record in exemplars):
        rows = [j for j, record in enumerate(exemplars) if record.label == label]
        texts = [exemplars[j].response for j in rows]
        identity = "picle-lora/2 " + json.dumps(
            {
                "revision": pull.revision(lm),
                "seed": seed,
                "epochs": n_epochs,
                "rate": learning_rate,
                "dtype": dtype,
                "settings": [RANK, ALPHA, WEIGHT_DECAY, BATCH, MAX_TOKENS],
                **({"begin": begin} if begin else {}),
                "label": label,
                "texts": texts,
            }
        )
        keys = [score_key(identity, ScoreRequest(Prompt(()), text), store.secret) for text in texts]
        known = store.get_scores(keys, stage=STAGE)
        if len(known) < len(set(keys)):
            tuning = _Tuning(device, dtype, derive_seed(seed, "picle", str(label)), n_epochs, learning_rate)
            scores = _label_scores(texts, lm, encoder, tuning, given.progress)
            store.put_scores(list(zip(keys, scores, strict=True)), stage=STAGE)
            known = store.get_scores(keys)
        for j, key in zip(rows, keys, strict=True):
            persona, base = known[key].log_lik.astype(np.float64)
            ratio[j] = persona - base
    return ratio


def check_lora(lm: str) -> None:
    """Refuse what `lora_ratio` cannot do before anything is paid for.

    Raises
    ------
    ConfigError
        If the language model is not one on this machine.
    MissingDependencyError
        If peft, torch or transformers is not installed.
    """
    if lm == "fake" or lm.startswith("openai:"):
        raise ConfigError(
            f"picle fine-tunes a copy of the language model and {lm!r} has no weights here; "
            "name an embedded model, hf:ORG/NAME or a folder; or use picle-prompted instead"
        )
    for package, extra in (("torch", "local"), ("transformers", "local"), ("peft", "picle")):
        require(package, extra=extra)


class _Tuning(NamedTuple):
    """How a copy of the model is fine-tuned."""

    device: str
    dtype: str
    seed: int
    n_epochs: int
    learning_rate: float


def _label_scores(
    texts: Sequence[str], lm: str, encoder: PromptEncoder, tuning: _Tuning, progress: Progress | None
) -> list[Score]:
    """(persona, base) log-likelihood of each text: score, fine-tune, score again."""
    torch = require("torch", extra="local")
    peft = require("peft", extra="picle")
    from mop.backends.weights import causal_lm
    from mop.data import pull

    # Without the end of the turn: the persona model is trained on running text. The first token, which is
    # not scored, is the model's begin token where it has one.
    ids = [[*encoder.begin_ids, *encoder.response_ids(text)[:-1][:MAX_TOKENS]] for text in texts]
    # peft and the new weights draw from torch's own stream, which is put back afterwards.
    with torch.random.fork_rng():
        torch.manual_seed(tuning.seed % 2**63)
        model = causal_lm(pull.resolve(lm, kind="lm"), tuning.dtype).to(tuning.device)
        config = peft.LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, bias="none", task_type="CAUSAL_LM")
        try:
            tuned = peft.get_peft_model(model, config)
        except ValueError as error:
            raise ConfigError(
                f"picle cannot fine-tune {lm!r}: peft does not know where to put its weights in a model of type "
                f"{model.config.model_type!r} ({error}); use picle-prompted, or another model"
            ) from error
        _fine_tune(tuned, ids, tuning, progress)
        tuned.float()
        persona = text_log_likelihoods(tuned, ids, tuning.device)
        with tuned.disable_adapter():
            base = text_log_likelihoods(tuned, ids, tuning.device)
    return [
        Score(np.array([p, b], dtype=np.float32), max(1, len(tokens) - 1))
        for p, b, tokens in zip(persona, base, ids, strict=True)
    ]


def _fine_tune(model: Any, ids: Sequence[Sequence[int]], tuning: _Tuning, progress: Progress | None) -> None:
    """AdamW on the mean loss of a batch's tokens, the rate falling to 0 in a line."""
    import torch

    n_steps = tuning.n_epochs * -(-len(ids) // BATCH)
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    optimiser = torch.optim.AdamW(weights, lr=tuning.learning_rate, weight_decay=WEIGHT_DECAY)
    decay = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: 1 - step / n_steps)
    model.train()
    step = 0
    for epoch in range(tuning.n_epochs):
        order = rng_of(tuning.seed, "epoch", epoch).permutation(len(ids)).tolist()
        for start in range(0, len(order), BATCH):
            values, _ = _token_log_probs(model, [ids[i] for i in order[start : start + BATCH]], tuning.device)
            loss = -values.mean()
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            decay.step()
            step += 1
            if progress is not None:
                progress("picle: fine-tune", step, n_steps)
    model.eval()


def text_log_likelihoods(model: Any, ids: Sequence[Sequence[int]], device: str) -> list[float]:
    """Sum of the log-probabilities of all tokens but the first of each text, nats.

    Parameters
    ----------
    model : transformers.PreTrainedModel
    ids : sequence of token id lists
        Running texts, without prompt.
    device : str
    """
    import torch

    model.eval()
    found: list[float] = []
    with torch.inference_mode():
        for start in range(0, len(ids), BATCH):
            some = ids[start : start + BATCH]
            values, rows = _token_log_probs(model, some, device)
            found += torch.zeros(len(some), device=device).index_add(0, rows, values).tolist()
    return found


def _token_log_probs(model: Any, ids: Sequence[Sequence[int]], device: str) -> tuple[Any, Any]:
    """Log-probability of each token but the first of its text, and the text's place: both (m,)."""
    import torch

    length = max(2, *map(len, ids))
    padded = torch.zeros((len(ids), length), dtype=torch.long)
    mask = torch.zeros((len(ids), length), dtype=torch.long)
    for row, tokens in enumerate(ids):
        padded[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    padded, mask = padded.to(device), mask.to(device)
    is_target = mask[:, 1:].bool()
    logits = model(input_ids=padded, attention_mask=mask).logits[:, :-1][is_target].float()
    loss = torch.nn.functional.cross_entropy(logits, padded[:, 1:][is_target], reduction="none")
    return -loss, is_target.nonzero()[:, 0]
