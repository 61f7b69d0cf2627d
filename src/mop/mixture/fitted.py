"""A fitted mixture: personas, exemplars, weights and temperatures, apart from any language model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.encoder import embed
from mop.data.own import own_exemplars
from mop.errors import ArtifactError, ConfigError, DataError
from mop.mixture.kernel import Counts, KernelGate
from mop.mixture.sums import Floats
from mop.storage.run_folder import write_atomic
from mop.types import Persona, Progress, Record

if TYPE_CHECKING:
    from mop.backends.encoder import TextEncoder
    from mop.mixture.gate import Gate
    from mop.storage.store import Store


FORMAT_VERSION = 2
"""Of the folder that `save_mixture` writes; 1 knew the paper's gates alone, and is read as well."""

_TENSORS = ("w_x", "w_g", "w_e", "log_tau", "a", "delta", "v", "hg", "he")
_OF_KERNEL = ("hg", "all_he", "log_tau", "persona", "exemplar", "anchors", "record_weight")
_COUNTS = ("row", "column", "expected", "exposed")
_SCALARS = ("slope", "prior", "bandwidth")
_OF_REFERENCE = ("log_tau", "persona", "exemplar")
_REFERENCE = "unconditional."
"""Before the names of the reference's tensors; a file may lack them."""


def context_text(record: Record) -> str:
    """What the encoder sees of a context x; an empty one is named, since encoders need a text."""
    return record.context if record.context.strip() else "(no context)"


def exemplar_text(record: Record) -> str:
    """What the encoder sees of an exemplar e_j = (x_j, y_j)."""
    return f"{record.context}\n{record.response}"


def exemplar_vectors(
    exemplars: Sequence[Record],
    encoder: TextEncoder,
    *,
    store: Store | None = None,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """What the gates see of exemplars: h(e_j) and h(x_j) side by side, shape (N, 2D).

    The paper has h(e_j) alone. In it a short context is drowned by the response, and whether an exemplar
    answers a context like the one at hand is what says most about it.
    """
    texts = [exemplar_text(e) for e in exemplars] + [context_text(e) for e in exemplars]
    vectors = embed(texts, encoder, store=store, progress=progress)
    return np.concatenate(np.split(vectors, 2), axis=1)


_CONTEXTS = 512  # looked at together


@dataclass(frozen=True)
class FittedMixture:
    """What a simulation needs besides a language model."""

    personas: tuple[Persona, ...]
    """K personas."""
    exemplars: tuple[Record, ...]
    """N records that prompts may show."""
    gate: KernelGate | Gate
    """Holds the embeddings of both, the weights and the temperatures; a `Gate` if fitted by the paper's recipe."""
    task: str
    """One line on what is being written; part of every prompt."""
    info: dict[str, Any]
    """JSON-able: encoder, language model, prompt version, betas, how it was fitted, single best τ."""
    unconditional: KernelGate | Gate | None = None
    """The best weights that ignore the context, fitted to the same scores: a reference."""

    def check_encoder(self, identity: str) -> None:
        """Raise ConfigError unless contexts are embedded by the encoder that the gates know."""
        known = self.info["encoder_identity"]
        if identity != known:
            raise ConfigError(
                f"the gates were fitted on embeddings of {known!r}, got the encoder {identity!r}; "
                "use the encoder of the fit, or fit again"
            )

    @cached_property
    def labels(self) -> dict[str, list[int]]:
        """Rows of the exemplars of each label that at least two have."""
        rows: dict[str, list[int]] = {}
        for row, exemplar in enumerate(self.exemplars):
            if exemplar.label is not None:
                rows.setdefault(exemplar.label, []).append(row)
        return {label: own for label, own in rows.items() if len(own) > 1}

    @cached_property
    def _of_label(self) -> dict[str, FittedMixture]:
        """What `of_label` has made so far."""
        return {}

    def of_label(self, label: str) -> FittedMixture:
        """The mixture over the exemplars of one of `labels` alone; kept, with a copy of their embeddings."""
        if label not in self._of_label:
            rows = self.labels[label]
            self._of_label[label] = replace(
                self,
                exemplars=tuple(self.exemplars[row] for row in rows),
                gate=self.gate.with_exemplars(rows),
                unconditional=None,
            )
        return self._of_label[label]

    def neighbours(self, exemplar: int, n: int, *, own: int = -1) -> list[int]:
        """Rows of the n exemplars most like one, the most similar first; ``own`` is not among them.

        By the cosine of what the gates see of them (`exemplar_vectors`); fewer where there are no more.
        """
        if (exemplar, n) not in self._neighbours:
            he = self._vectors
            # One exemplar at a time: a product's last bits depend on its shape, a choice must not.
            similar = (he @ he[exemplar]) / self._lengths
            similar[exemplar] = -np.inf
            # One to spare, for `own` may be among them.
            first = np.argsort(-similar, kind="stable")[: min(n + 1, len(similar) - 1)]
            self._neighbours[exemplar, n] = first.tolist()
        return [row for row in self._neighbours[exemplar, n] if row != own][:n]

    @cached_property
    def _vectors(self) -> Floats:
        """What the gates see of the exemplars, (N, D) or (N, 2D)."""
        return np.asarray(self.gate.he, dtype=np.float64)

    @cached_property
    def _lengths(self) -> Floats:
        """Of these vectors, (N,)."""
        return np.asarray(np.linalg.norm(self._vectors, axis=1) + 1e-12)

    @cached_property
    def _neighbours(self) -> dict[tuple[int, int], list[int]]:
        """What `neighbours` has found so far."""
        return {}

    @property
    def temperatures(self) -> Floats:
        """(K,) τ of each persona."""
        return self._of_gate("temperatures")

    def _of_gate(self, name: str, *arrays: NDArray[Any]) -> Floats:
        """What a method of the gate says of arrays; the paper's gates work with tensors."""
        method = getattr(self.gate, name)
        if isinstance(self.gate, KernelGate):
            return np.asarray(method(*arrays), dtype=np.float64)
        import torch

        with torch.inference_mode():
            value = method(*(torch.as_tensor(array) for array in arrays))
        return np.asarray(value.numpy(), dtype=np.float64)

    def own(self, records: Sequence[Record]) -> NDArray[np.int64]:
        """Row of the exemplar that is the record itself (n,), -1 for a record that is no exemplar."""
        return own_exemplars(records, self.exemplars)

    def log_pi(self, hx: NDArray[np.float32]) -> Floats:
        """Log persona weights of contexts hx (n, D): shape (n, K)."""
        return self._of_gate("log_pi", hx)

    def log_omega(self, hx: NDArray[np.float32], persona: NDArray[np.int64], own: NDArray[np.int64]) -> Floats:
        """Log exemplar weights (n, N) of each context under one given persona each (n,)."""
        return self._of_gate("log_omega", hx, persona, own)

    def mean_weight(self, hx: NDArray[np.float32], own: NDArray[np.int64]) -> Floats:
        """Average weight (K·N,) of every component over contexts; component (k, j) at k·N + j, sum 1."""
        return self._of_gate("mean_weight", hx, own)

    def log_weight(
        self, hx: NDArray[np.float32], persona: NDArray[np.int64], exemplar: NDArray[np.int64], own: NDArray[np.int64]
    ) -> Floats:
        """Log weights (n, m) of given components of each context, (n, m) each, normalised over all K × N."""
        every = hx, np.ascontiguousarray(persona), np.ascontiguousarray(exemplar), own
        value = np.empty(persona.shape)
        for start in range(0, len(hx), _CONTEXTS):  # the gates look at all exemplars of each
            rows = slice(start, start + _CONTEXTS)
            value[rows] = self._of_gate("log_weight", *(of[rows] for of in every))
        return value


def uniform_mixture(fitted: FittedMixture) -> FittedMixture:
    """The same personas and exemplars with equal weights and the single temperature that suits them best."""
    gate = KernelGate.fixed(*_embeddings(fitted.gate), float(fitted.info["uniform_tau"]))
    return replace(fitted, gate=gate, info={**fitted.info, "chosen": "uniform"})


def _embeddings(gate: KernelGate | Gate) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of personas and exemplars."""
    return np.asarray(gate.hg, dtype=np.float32), np.asarray(gate.he, dtype=np.float32)


def unconditional_mixture(fitted: FittedMixture) -> FittedMixture | None:
    """The same with the best weights that ignore the context; None if the fit kept none."""
    if fitted.unconditional is None:
        return None
    info = {**fitted.info, "chosen": "unconditional"}
    return replace(fitted, gate=fitted.unconditional, info=info)


def with_temperatures(fitted: FittedMixture, tau: float | Floats) -> FittedMixture:
    """The same gates with other temperatures: one for all, or (K,)."""
    return replace(fitted, gate=fitted.gate.with_temperatures(tau))


def with_persona_weights(fitted: FittedMixture, weights: Floats) -> FittedMixture:
    """The same mixture with the given persona weights for every context; exemplar gate and temperatures stay.

    Parameters
    ----------
    fitted : FittedMixture
    weights : ndarray, shape (K,)
        ≥ 0, sum 1. Below 1e-12 a weight counts as 1e-12, since the file of a mixture holds finite
        numbers only.

    Raises
    ------
    DataError
        If they are no such weights.
    """
    given = np.asarray(weights, dtype=np.float64)
    n_personas = len(fitted.personas)
    if (
        given.shape != (n_personas,)
        or not (np.isfinite(given).all() and (given >= 0).all())
        or abs(given.sum() - 1) > 1e-6
    ):
        raise DataError(
            f"persona weights of shape {given.shape} with sum {given.sum():.6g} were given; "
            f"{n_personas} numbers of at least 0 that add up to 1 are needed; divide them by "
            "their sum"
        )
    return replace(fitted, gate=fitted.gate.with_persona_weights(np.maximum(given, 1e-12)))


def persona_shares(fitted: FittedMixture, hx: NDArray[np.float32], weight: Floats) -> Floats:
    """Mean persona weights over contexts hx (n, D), each counted ``weight`` (n,) times: (K,), sum 1."""
    share: Floats = weight @ np.exp(fitted.log_pi(hx)) / weight.sum()
    return share


def save_mixture(fitted: FittedMixture, folder: Path) -> None:
    """Write a folder that `load_mixture` can read by itself: ``gate.safetensors`` and ``mixture.json``."""
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    gate, free = fitted.gate, fitted.unconditional
    if isinstance(gate, KernelGate):
        state = _kernel_state(gate)
    else:
        state = {name: getattr(gate, name).detach().contiguous().numpy() for name in _TENSORS}
    if free is not None:
        state |= {_REFERENCE + name: getattr(free, name) for name in _OF_REFERENCE}
    weights = save({name: np.ascontiguousarray(array) for name, array in state.items()})
    document = {
        "format_version": FORMAT_VERSION,
        "weights": hashlib.sha256(weights).hexdigest(),
        "task": fitted.task,
        "info": fitted.info,
        "personas": [asdict(persona) for persona in fitted.personas],
        "exemplars": [asdict(record) for record in fitted.exemplars],
    }
    write_atomic(folder / "gate.safetensors", weights)
    text = json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False)
    write_atomic(folder / "mixture.json", text.encode("utf-8"))


def load_mixture(folder: Path) -> FittedMixture:
    """Read what `save_mixture` wrote.

    Raises
    ------
    ArtifactError
        If a file is missing, damaged, of another format version, or holds numbers that are
        not finite or shapes that do not agree.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        document = json.loads((folder / "mixture.json").read_text(encoding="utf-8"))
        weights = (folder / "gate.safetensors").read_bytes()
        state = load(weights)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ArtifactError(
            f"{folder} holds no fitted mixture: {Path(error.filename).name} is missing; "
            "give the folder that `mop fit` or `save` wrote"
        ) from error
    except (ValueError, SafetensorError) as error:
        raise ArtifactError(f"the fitted mixture in {folder} is damaged ({error}); fit again") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version not in (1, FORMAT_VERSION):
        raise ArtifactError(
            f"the fitted mixture in {folder} has format version {version}, this program reads "
            f"versions 1 and {FORMAT_VERSION}; use the version of mop that wrote it, or fit again"
        )
    known = document.get("weights", "")  # earlier files have none
    if known and known != hashlib.sha256(weights).hexdigest():
        raise ArtifactError(
            f"gate.safetensors and mixture.json in {folder} are of two different fits: saving was cut off, or "
            "one was replaced; save or fit again"
        )
    personas = tuple(
        Persona(**{**p, "sources": tuple(p["sources"]), "doubts": tuple(p["doubts"])}) for p in document["personas"]
    )
    exemplars = tuple(Record(**record) for record in document["exemplars"])
    names = set(_TENSORS) if "w_x" in state else {*_OF_KERNEL, *_SCALARS, *_of_counts()}
    missing = names - set(state)
    if missing or any(not bool(np.isfinite(array).all()) for array in state.values()):
        raise ArtifactError(
            f"the weights in {folder} are incomplete or not finite (missing: {sorted(missing)}); fit again"
        )
    n_personas, n_exemplars = len(state["hg"]), len(state["he" if "w_x" in state else "all_he"])
    if n_personas != len(personas) or n_exemplars != len(exemplars):
        raise ArtifactError(
            f"the weights in {folder} are for {n_personas} personas and {n_exemplars} exemplars, "
            f"mixture.json lists {len(personas)} and {len(exemplars)}; fit again"
        )
    gate = _kernel_gate(state)
    if gate is None:
        return FittedMixture(personas, exemplars, _paper_gate(state), document["task"], document["info"])
    free = None
    if all(_REFERENCE + name in state for name in _OF_REFERENCE):
        of: dict[str, Any] = {name: state[_REFERENCE + name] for name in _OF_REFERENCE}
        free = replace(KernelGate.fixed(gate.hg, gate.all_he, 1.0), **of)
    return FittedMixture(personas, exemplars, gate, document["task"], document["info"], free)


def _of_counts() -> list[str]:
    return [f"{factor}.{name}" for factor in ("of_persona", "of_exemplar") for name in _COUNTS]


def _kernel_state(gate: KernelGate) -> dict[str, NDArray[Any]]:
    state = {name: np.asarray(getattr(gate, name)) for name in _OF_KERNEL}
    state |= {name: np.array([getattr(gate, name)], dtype=np.float64) for name in _SCALARS}
    for name in _of_counts():
        factor, _, field = name.partition(".")
        state[name] = getattr(getattr(gate, factor), field)
    return state


def _kernel_gate(state: dict[str, NDArray[Any]]) -> KernelGate | None:
    """The gate of a file; None if it is the paper's."""
    if "w_x" in state:
        return None
    fields: dict[str, Any] = {name: state[name] for name in _OF_KERNEL}
    fields |= {name: float(state[name][0]) for name in _SCALARS}
    for factor in ("of_persona", "of_exemplar"):
        fields[factor] = Counts(*(state[f"{factor}.{name}"] for name in _COUNTS))
    return KernelGate(**fields)


def _paper_gate(state: dict[str, NDArray[Any]]) -> Gate:
    import torch

    from mop.mixture.gate import Gate

    # A copy, since the file's arrays cannot be written to.
    tensors = {name: torch.as_tensor(state[name].copy()) for name in _TENSORS}
    gate = Gate(tensors["hg"], tensors["he"], dim=len(tensors["w_x"]), seed=0)
    gate.load_state_dict(tensors)
    return gate.requires_grad_(False)
