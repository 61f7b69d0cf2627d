"""A fitted mixture: personas, exemplars, weights and temperatures, apart from any language model."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.encoder import embed
from mop.errors import ArtifactError, ConfigError, DataError
from mop.mixture.index import ExemplarIndex
from mop.mixture.kernel import Counts, KernelGate
from mop.mixture.score import own_exemplars
from mop.mixture.sums import Floats, draw, log_sum_exp
from mop.randomness import derive_seed, uniforms
from mop.storage.run_folder import write_atomic
from mop.types import Agent, Persona, Progress, Record

if TYPE_CHECKING:
    from mop.backends.encoder import EmbeddingCache, Encoder
    from mop.mixture.gate import Gate

logger = logging.getLogger(__name__)

FORMAT_VERSION = 2
"""Of the folder that `save_mixture` writes; 1 knew the paper's gates alone, and is read as well."""

MANY = 50_000
"""Exemplars above which draws of one exemplar for a prompt go through an index: see `mop.mixture.index`."""

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
    encoder: Encoder,
    *,
    store: EmbeddingCache | None = None,
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
    def index(self) -> ExemplarIndex | None:
        """Exemplars in groups, for draws that need not look at each; None for few exemplars, or weights by context."""
        if len(self.exemplars) <= MANY or isinstance(self.gate, KernelGate):
            return None
        gate, size = self.gate, 65536
        w_e, v = gate.w_e.float(), gate.v.float()
        parts = [gate.he[start : start + size].float() for start in range(0, len(gate.he), size)]
        keys = np.concatenate([(part @ w_e.T).numpy() for part in parts])
        bias = np.concatenate([(part @ v).numpy() for part in parts]) + gate.delta.numpy()
        return ExemplarIndex.build(keys, bias.astype(np.float32))

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

    def queries(self, hx: NDArray[np.float32], persona: NDArray[np.int64]) -> NDArray[np.float32]:
        """W_x h(x) + W_g h(g_k) of each context and its persona, (n, d), as the `index` knows them."""
        import torch

        gate = self.gate
        assert not isinstance(gate, KernelGate)
        with torch.inference_mode():
            value = torch.as_tensor(hx).double() @ gate.w_x.T + gate.hg[persona] @ gate.w_g.T
        return np.asarray(value.float().numpy())

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

    def log_omega(
        self, hx: NDArray[np.float32], persona: NDArray[np.int64], own: NDArray[np.int64]
    ) -> Floats:
        """Log exemplar weights (n, N) of each context under one given persona each (n,)."""
        return self._of_gate("log_omega", hx, persona, own)

    def log_weight(
        self,
        hx: NDArray[np.float32],
        persona: NDArray[np.int64],
        exemplar: NDArray[np.int64],
        own: NDArray[np.int64],
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


def draw_writers(
    fitted: FittedMixture,
    hx: NDArray[np.float32],
    contexts: Sequence[Record],
    *,
    seed: int,
    n_agents: int = 1,
    mix: str = "none",
    tau_factor: float = 1.0,
    same_label: bool = False,
) -> list[Agent | tuple[Agent, ...]]:
    """Draw who writes each response, as the settings ``simulate`` say: ``n_agents`` (L) and ``mix`` together.

    Parameters
    ----------
    mix : str
        ``none``: one agent. ``tokens``: L agents, each drawn from the mixture, whose next-token distributions are
        averaged. ``prompt``: one persona, and L exemplars drawn one after another without replacement, in one prompt.
        ``neighbours``: one agent, whose prompt shows the L - 1 exemplars most like its own as well. All but the
        first are ours: the paper does not say how, and exemplars that have something in common tell a model more of a
        kind of text than exemplars of several kinds do.
    fitted, hx, contexts, seed, n_agents, tau_factor, same_label
        As for `draw_agents`.
    """
    drawn = draw_agents(
        fitted, hx, contexts, seed=seed, tau_factor=tau_factor, same_label=same_label,
        n_agents=n_agents if mix in ("none", "tokens") else 1,
        n_exemplars=n_agents if mix == "prompt" else 1,
        n_neighbours=n_agents - 1 if mix == "neighbours" else 0,
    )  # fmt: skip
    return [agents[0] if len(agents) == 1 else agents for agents in drawn]


def draw_agents(
    fitted: FittedMixture,
    hx: NDArray[np.float32],
    contexts: Sequence[Record],
    *,
    seed: int,
    n_agents: int = 1,
    n_exemplars: int = 1,
    n_neighbours: int = 0,
    tau_factor: float = 1.0,
    same_label: bool = False,
    chunk: int = 64,
) -> list[tuple[Agent, ...]]:
    """Draw persona, then exemplars, for every context: the first two steps of the simulation.

    Parameters
    ----------
    fitted : FittedMixture
    hx : ndarray, shape (n, D)
        Context embeddings.
    contexts : sequence of n Record
        The draw for a context depends on (seed, its key) alone, with ``same_label`` on its label as
        well; its response is not looked at, except that a record never gets itself as exemplar.
    seed : int
    n_agents : int
        L, agents for one response (the paper's persona mixing at inference), drawn independently.
    n_exemplars : int
        Exemplars of an agent: from its persona's weights, one after another without replacement.
    n_neighbours : int
        Exemplars that an agent shows after those that it drew: the ones most like the first that may be shown.
    tau_factor : float
        Multiplies the fitted temperatures. Ours: likelihood asks for warmer draws than make sense
        to a reader, since a model is judged on real beginnings and writes on from its own.
    same_label : bool
        Draw from the mixture given that the exemplar has the record's label, where at least two have it. Ours: the
        gates learn how much a label matters for the likelihood of a text, which is less than it matters to who
        wants texts of that label.
    chunk : int
        Contexts at a time; memory is chunk × N, or for more than `MANY` exemplars that of
        the index, one float32 key for each. Several exemplars and ``same_label`` take chunk × N for any N,
        ``same_label`` a second copy of the exemplars' embeddings as well.

    Returns
    -------
    list of n tuples of L agents
        ``log_pi`` and ``log_omega`` of an agent add up to the log-probability of its persona and of its exemplars in
        their order. Where fewer exemplars may be shown than asked for, all of these are, and a warning is
        logged. Of one exemplar among more than `MANY`, ``log_omega`` is an estimate (see `mop.mixture.index`); the draws
        are exact.

    Notes
    -----
    Source: Bui et al. 2025, arXiv 2504.05019, ancestral sampling.
    """
    if len(hx) != len(contexts):
        raise DataError(f"every context needs an embedding, got {len(contexts)} and {len(hx)}")
    tau = fitted.temperatures * tau_factor
    found: list[list[Agent]] = [[] for _ in contexts]
    for places, shown, mixture in pools(fitted, contexts, same_label=same_label):
        people = [contexts[place] for place in places]
        own, own_of_all = mixture.own(people), fitted.own(people)
        for start in range(0, len(places), chunk):
            part = slice(start, start + chunk)
            some = list(places[part])
            log_pi = mixture.log_pi(hx[some])
            if mixture is not fitted:
                log_pi += _log_share(fitted, mixture, shown, hx[some], own_of_all[part], own[part])
                log_pi -= log_sum_exp(log_pi)[:, None]
            seeds = [derive_seed(seed, "agent", record.key) for record in people[part]]
            drawn = _draw_some(mixture, log_pi, hx[some], own[part], seeds, n_agents, n_exemplars)
            for personas, exemplars, log_k, log_j in drawn:
                for i, (place, k) in enumerate(zip(some, personas, strict=True)):
                    # Beyond 12 digits weights vary with the batch.
                    weights = round(float(log_k[i]), 12), round(float(log_j[i]), 12)
                    rows = [j for j in exemplars[i].tolist() if j >= 0]
                    if n_neighbours:
                        rows += mixture.neighbours(rows[0], n_neighbours, own=int(own[start + i]))
                    exemplars_shown = tuple(shown[row] for row in rows)
                    found[place].append(Agent(int(k), exemplars_shown, float(tau[k]), *weights))
    wanted = n_exemplars + n_neighbours
    n_short = sum(len(agents[0].exemplars) < wanted for agents in found)
    if n_short:
        logger.warning(
            "%d of %d prompts show fewer than %d exemplars, for no more may be shown there%s; give more exemplars, "
            "or lower n_agents",
            n_short, len(found), wanted, " (same_label)" if same_label else "",
        )  # fmt: skip
    return [tuple(agents) for agents in found]


def _log_share(
    fitted: FittedMixture,
    part: FittedMixture,
    shown: Sequence[int],
    hx: NDArray[np.float32],
    own: NDArray[np.int64],
    own_of_part: NDArray[np.int64],
) -> Floats:
    """Log share of each persona's exemplar weight that is on those of a part, (n, K): log Σ_j Ω_kj over the part.

    A weight in the part is that in the whole, divided by this share: so one exemplar of the part tells it.
    """
    shape = len(hx), len(fitted.personas)
    persona = np.tile(np.arange(shape[1]), (shape[0], 1))
    one = np.repeat(np.where(own_of_part == 0, 1, 0)[:, None], shape[1], axis=1)
    whole = fitted.log_weight(hx, persona, np.asarray(shown)[one], own)
    return whole - part.log_weight(hx, persona, one, own_of_part)


def _draw_some(
    fitted: FittedMixture,
    log_pi: Floats,
    hx: NDArray[np.float32],
    own: NDArray[np.int64],
    seeds: Sequence[int],
    n_agents: int,
    n_exemplars: int,
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Floats, Floats]]:
    """Yield one agent for each context, n_agents times.

    Persona (n,), exemplars (n, n_exemplars) with -1 where there are no more, and the log-probabilities (n,) of both.
    """
    rows = np.arange(len(hx))
    u = np.stack([uniforms(item, 0, n_agents * (1 + n_exemplars)) for item in seeds])
    for slot, (u_persona, *u_exemplars) in enumerate(np.split(u.T, n_agents)):
        k = draw(log_pi, u_persona)
        if n_exemplars == 1 and fitted.index is not None:
            j, log_drawn = fitted.index.draw(fitted.queries(hx, k), own, seeds, slot)
            exemplars = j[:, None]
        else:
            exemplars, log_drawn = _draw_in_turn(fitted.log_omega(hx, k, own), u_exemplars)
        yield k, exemplars, log_pi[rows, k], log_drawn


def _draw_in_turn(
    log_weight: Floats, uniform: Sequence[Floats]
) -> tuple[NDArray[np.int64], Floats]:
    """Draw m of N columns per row one after another, each from what is left: rows (n, m), log-probabilities (n,).

    In this order they have probability Π_i w_i / (1 - w_1 - … - w_{i-1}). Where none is left the column is -1.
    """
    drawn = np.full((len(log_weight), len(uniform)), -1, dtype=np.int64)
    log_drawn, left, some = np.zeros(len(log_weight)), log_weight, np.arange(len(log_weight))
    for turn, u in enumerate(uniform):
        if turn:
            left[some, drawn[some, turn - 1]] = -np.inf
            some = some[np.isfinite(left[some]).any(axis=1)]
            left[some] -= log_sum_exp(left[some])[:, None]
        j = draw(left[some], u[some])
        drawn[some, turn] = j
        log_drawn[some] += left[some, j]
    return drawn, log_drawn


def pools(
    fitted: FittedMixture, contexts: Sequence[Record], *, same_label: bool
) -> Iterator[tuple[Sequence[int], Sequence[int], FittedMixture]]:
    """Split contexts by the exemplars that they may be shown.

    All of them, or with ``same_label`` those of the context's own label where at least two have it.

    Yields
    ------
    places : sequence of int
        Which contexts.
    shown : sequence of int
        Which exemplars.
    mixture : FittedMixture
        Over these alone.
    """
    everything = range(len(fitted.exemplars))
    if not same_label:
        yield range(len(contexts)), everything, fitted
        return
    places: dict[str | None, list[int]] = {}
    for place, record in enumerate(contexts):
        label = record.label if record.label in fitted.labels else None
        places.setdefault(label, []).append(place)
    for label, some in places.items():
        if label is None:
            yield some, everything, fitted
        else:
            yield some, fitted.labels[label], fitted.of_label(label)


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
        raise ArtifactError(
            f"the fitted mixture in {folder} is damaged ({error}); fit again"
        ) from error
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
        Persona(**{**p, "sources": tuple(p["sources"]), "doubts": tuple(p["doubts"])})
        for p in document["personas"]
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
        return FittedMixture(
            personas, exemplars, _paper_gate(state), document["task"], document["info"]
        )
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
