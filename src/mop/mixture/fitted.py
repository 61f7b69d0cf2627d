"""A fitted mixture: personas, exemplars, weights and temperatures, apart from any language model."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from mop.backends.encoder import embed
from mop.data.own import own_exemplars
from mop.errors import ArtifactError, ConfigError, DataError
from mop.mixture.kernel import Counts, KernelGate
from mop.mixture.sums import Floats
from mop.storage.files import check_of, mode_of, read_json, refuse_link, system_errors, write_atomic, write_json
from mop.storage.typed import DamagedError, check, is_a, of_row
from mop.types import Persona, Progress, Record

if TYPE_CHECKING:
    from mop.backends.encoder import TextEncoder
    from mop.mixture.gate import Gate
    from mop.storage.store import Store


CHOSEN_WAY = "drawing.json"  # of `mop.simulate.way`, beside the mixture
FORMAT_VERSION = 3
"""Of the folder that `save_mixture` writes. Version 2 had no check of ``mixture.json`` itself, and is read too."""

_KERNEL = {
    "hg": "KD", "all_he": "NE", "log_tau": "K", "persona": "K", "exemplar": "N", "anchors": "AD", "record_weight": "A",
    "slope": "1", "prior": "1", "bandwidth": "1",
    **{f"of_persona.{name}": "P" for name in ("row", "column", "expected", "exposed")},
    **{f"of_exemplar.{name}": "X" for name in ("row", "column", "expected", "exposed")},
}  # fmt: skip
_PAPER = {"hg": "KD", "he": "NE", "log_tau": "K", "a": "K", "w_x": "dD", "w_g": "dD", "w_e": "dE"}
_REFERENCE = {"unconditional.log_tau": "K", "unconditional.persona": "K", "unconditional.exemplar": "N"}
"""Tensors of our gates, of the paper's, and of the reference beside ours, which may be missing, with their shapes.

K personas, N exemplars, A records of the fit, D embedding size, E = D or 2D, d size of the
paper's gates, P and X cells."""


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

    def __repr__(self) -> str:
        """What it is made of, on one line."""
        k, n, lm = len(self.personas), len(self.exemplars), self.info.get("lm")
        return f"FittedMixture({k} personas, {n} exemplars, lm={lm!r}, chosen={self.info.get('chosen')!r})"

    def check_encoder(self, identity: str) -> None:
        """Raise ConfigError unless contexts are embedded by the encoder that the gates know."""
        known = self.info["encoder_identity"]
        if identity != known:
            raise ConfigError(
                f"the gates were fitted on embeddings of {known!r}, got the encoder {identity!r}; "
                "use the encoder of the fit, or fit again"
            )

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
    hg, he = (_numpy(of).astype(np.float32) for of in (fitted.gate.hg, fitted.gate.he))
    gate = KernelGate.fixed(hg, he, float(fitted.info["uniform_tau"]))
    return replace(fitted, gate=gate, info={**fitted.info, "chosen": "uniform"})


def unconditional_mixture(fitted: FittedMixture) -> FittedMixture | None:
    """The same with the best weights that ignore the context; None if the fit kept none."""
    if fitted.unconditional is None:
        return None
    info = {**fitted.info, "chosen": "unconditional"}
    return replace(fitted, gate=fitted.unconditional, info=info)


def with_exemplars(fitted: FittedMixture, rows: Sequence[int]) -> FittedMixture:
    """The mixture over some of its exemplars, whose weights keep their proportions."""
    some = tuple(fitted.exemplars[row] for row in rows)
    return replace(fitted, exemplars=some, gate=fitted.gate.with_exemplars(rows), unconditional=None)


def with_temperatures(fitted: FittedMixture, tau: float | Floats) -> FittedMixture:
    """The same gates with other temperatures: one for all, or (K,)."""
    return replace(fitted, gate=fitted.gate.with_temperatures(tau))


def with_persona_weights(fitted: FittedMixture, weights: Floats) -> FittedMixture:
    """The same mixture with the given persona weights for every context; exemplar gate and temperatures stay.

    Parameters
    ----------
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
            f"{n_personas} numbers of at least 0 that add up to 1 are needed; divide them by their sum"
        )
    return replace(fitted, gate=fitted.gate.with_persona_weights(np.maximum(given, 1e-12)))


def persona_shares(fitted: FittedMixture, hx: NDArray[np.float32], weight: Floats) -> Floats:
    """Mean persona weights over contexts hx (n, D), each counted ``weight`` (n,) times: (K,), sum 1."""
    share: Floats = weight @ np.exp(fitted.log_pi(hx)) / weight.sum()
    return share


def save_mixture(fitted: FittedMixture, folder: Path) -> None:
    """Write a folder that `load_mixture` can read by itself: ``gate.safetensors`` and ``mixture.json``."""
    from safetensors.numpy import save

    with system_errors(folder):
        folder.mkdir(mode=0o777 if mode_of(folder) == 0o666 else 0o700, parents=True, exist_ok=True)
    gate, free = fitted.gate, fitted.unconditional
    names = _KERNEL if isinstance(gate, KernelGate) else _PAPER
    state = {name: np.atleast_1d(_numpy(attrgetter(name)(gate))) for name in names}
    if free is not None:
        state |= {name: getattr(free, name.removeprefix("unconditional.")) for name in _REFERENCE}
    weights = save({name: np.ascontiguousarray(array) for name, array in state.items()})
    document = {
        "format_version": FORMAT_VERSION,
        "weights": hashlib.sha256(weights).hexdigest(),
        "contains": f"{len(fitted.exemplars)} real records, word for word (exemplars): audit before passing it on",
        "task": fitted.task,
        "info": fitted.info,
        "personas": [asdict(persona) for persona in fitted.personas],
        "exemplars": [asdict(record) for record in fitted.exemplars],
    }
    document["check"] = check_of(document)
    (folder / CHOSEN_WAY).unlink(missing_ok=True)  # of another mixture
    write_atomic(folder / "gate.safetensors", weights)
    write_json(folder / "mixture.json", document)


def load_mixture(folder: Path) -> FittedMixture:
    """Read what `save_mixture` wrote.

    Raises
    ------
    ArtifactError
        If a file is missing, damaged, of another format version, or holds something that `save_mixture` does not
        write: another field or type, numbers that are not finite or cannot be, shapes that do not agree.
    """
    document, state = _read(folder)
    try:
        for name, kind in (("task", str), ("info", dict), ("personas", list), ("exemplars", list)):
            check(isinstance(document.get(name), kind), f"mixture.json has no {name} of type {kind.__name__}")
        info = document["info"]
        _check_info(info)
        personas = tuple(of_row(Persona, row) for row in document["personas"])
        exemplars = tuple(of_row(Record, row) for row in document["exemplars"])
        gate, free = _gates(state, len(personas), len(exemplars))
    except DamagedError as error:
        raise ArtifactError(f"the fitted mixture in {folder} is damaged: {error}; fit again") from error
    return FittedMixture(personas, exemplars, gate, document["task"], info, free)


def _check_info(info: Mapping[str, Any]) -> None:
    """Stop at what a later use of the mixture would stumble over."""
    check(is_a(info.get("encoder_identity"), str), "info has no encoder_identity")
    check(is_a(info.get("uniform_tau"), float) and 0 < info["uniform_tau"] < np.inf, "info has no uniform_tau")
    hints: dict[str, Any] = {"lm": str, "scorer": str, "encoder": str, "seed": int, "score_components": int,
                             "betas": tuple[float, ...], "persona_weights": dict}  # fmt: skip
    for name, hint in hints.items():
        check(info.get(name) is None or is_a(info[name], hint), f"info has {str(info.get(name))[:40]!r} as {name}")
    check(is_a((info.get("persona_weights") or {"kind": ""}).get("kind"), str), "persona_weights have no kind")


def _way_to_one(folder: Path) -> str:
    """Where a mixture lies instead, or how to get one."""
    if (folder / "config.json").is_file() and (folder / "manifest.json").is_file():
        return f"it is a run that is not fitted; fit it with: mop fit {folder}"
    near = [found.parent for form in ("*", "*/*") for found in Path().glob(f"{form}/mixture/mixture.json")]
    where = f", such as {near[0]}" if near else ", or of a run: mop fit RUN --config FILE makes one"
    return f"give the folder that MixtureOfPersonas.save wrote{where}"


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    """Both files of a mixture that belong together, of this format version."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with system_errors(folder, "read"):
        for name in ("mixture.json", "gate.safetensors"):
            refuse_link(folder / name)
            if not (folder / name).is_file():
                raise ArtifactError(f"{folder} holds no fitted mixture: {name} is missing; {_way_to_one(folder)}")
        weights = (folder / "gate.safetensors").read_bytes()
    try:
        document = read_json(folder / "mixture.json")
        state = load(weights)
    # KeyError: a kind of number that numpy does not have. RuntimeError: sizes beyond all memory.
    except (ArtifactError, ValueError, KeyError, RuntimeError, MemoryError, SafetensorError) as error:
        raise ArtifactError(f"the fitted mixture in {folder} is damaged ({error}); fit again") from error
    version = document.get("format_version") if isinstance(document, dict) else None
    if version not in (2, FORMAT_VERSION) or isinstance(version, bool):
        raise ArtifactError(
            f"the fitted mixture in {folder} has format version {version}, this program reads "
            f"version {FORMAT_VERSION}; use the version of mop that wrote it, or fit again: scores are kept"
        )
    if document.get("weights") != hashlib.sha256(weights).hexdigest():
        raise ArtifactError(
            f"gate.safetensors and mixture.json in {folder} are of two different fits: saving was cut off, or "
            "one was replaced; save or fit again"
        )
    if version > 2 and document.get("check") != check_of(document):
        raise ArtifactError(
            f"{folder / 'mixture.json'} was changed since it was saved; put it back as it was, or save or fit again"
        )
    return document, state


def _gates(
    state: dict[str, NDArray[Any]], n_personas: int, n_exemplars: int
) -> tuple[KernelGate | Gate, KernelGate | None]:
    """The gates of a file, and the reference beside them."""
    is_paper, has_reference = "w_x" in state, "unconditional.log_tau" in state
    shapes = _PAPER if is_paper else {**_KERNEL, **(_REFERENCE if has_reference else {})}
    missing = sorted(set(shapes) - set(state))
    # Earlier versions kept biases of the paper's gates; where they are 0 they say nothing.
    unknown = sorted(name for name in set(state) - set(shapes) if np.any(state[name]))
    check(not missing and not unknown, f"weights are missing ({missing}) or unknown ({unknown})")
    sizes = {"1": 1, "K": n_personas, "N": n_exemplars}
    for name, letters in shapes.items():
        array, are_rows = state[name], name.endswith((".row", ".column"))
        fits = array.ndim == len(letters) and all(
            sizes.setdefault(letter, size) == size for letter, size in zip(letters, array.shape, strict=True)
        )
        check(
            fits,
            f"{name} has shape {array.shape}, for {n_personas} personas and {n_exemplars} exemplars in mixture.json",
        )
        check(
            array.dtype.kind == ("i" if are_rows else "f")
            and array.dtype.itemsize >= 4
            and bool(np.isfinite(array).all()),
            f"{name} holds something other than {'whole' if are_rows else 'finite'} numbers",
        )
    check(n_personas > 0 and n_exemplars > 0, "mixture.json lists no persona or no exemplar")
    check(sizes["E"] in (sizes["D"], 2 * sizes["D"]), "embeddings of personas and exemplars have different sizes")
    if is_paper:
        import torch

        from mop.mixture.gate import Gate

        tensors = {name: torch.as_tensor(state[name].copy()) for name in _PAPER}  # the file's cannot be written to
        paper = Gate(tensors["hg"], tensors["he"], dim=len(tensors["w_x"]), seed=0)
        paper.load_state_dict(tensors)
        return paper.requires_grad_(False), None
    for name in shapes:
        kind = name.rpartition(".")[2]
        if kind in ("hg", "all_he", "anchors", "slope", "log_tau"):
            check(bool((np.abs(state[name]) <= 1e6).all()), f"{name} holds a number beyond 1e6")
        if kind in ("persona", "exemplar", "prior", "bandwidth"):
            check(bool((state[name] > 0).all()), f"{name} holds a number that is not above 0")
        elif kind in ("record_weight", "expected", "exposed"):
            check(bool((state[name] >= 0).all()), f"{name} holds a number below 0")
    for factor, n_options in (("of_persona", n_personas), ("of_exemplar", n_exemplars)):
        for name, n in (("row", sizes["A"]), ("column", n_options)):
            array = state[f"{factor}.{name}"]
            check(bool(((array >= 0) & (array < n)).all()), f"{factor}.{name} names one beyond the {n} that there are")
    fields: dict[str, Any] = {name: state[name] for name in _KERNEL if "." not in name}
    fields |= {name: float(state[name][0]) for name, letters in _KERNEL.items() if letters == "1"}
    for factor in ("of_persona", "of_exemplar"):
        fields[factor] = Counts(*(state[name] for name in _KERNEL if name.startswith(f"{factor}.")))
    gate = KernelGate(**fields)
    if not has_reference:
        return gate, None
    of: dict[str, Any] = {name.removeprefix("unconditional."): state[name] for name in _REFERENCE}
    return gate, replace(KernelGate.fixed(gate.hg, gate.all_he, 1.0), **of)


def _numpy(values: Any) -> NDArray[Any]:
    """An array of ours, or a tensor of the paper's gates."""
    return np.asarray(values.detach().numpy() if hasattr(values, "detach") else values)
