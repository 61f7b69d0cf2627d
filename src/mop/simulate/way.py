"""The way of drawing that pilot draws chose for a fitted mixture: where it is kept, and what it changes.

It lies beside the mixture, so that whoever draws from it draws that way. `mop.runs.tune` chooses it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mop.config import WAY, SimulateConfig, config_from_dict
from mop.errors import ArtifactError, ConfigError
from mop.mixture.fitted import CHOSEN_WAY, FittedMixture, load_mixture
from mop.storage.files import check_of, read_json, refuse_link, write_json

Way = Mapping[str, Any]
"""Settings of ``simulate`` other than their defaults."""

STEPS = (("tau_factor",), ("exemplars_per_prompt", "exemplars_from"), ("same_label",))
"""Settings that are tried together, in turn. If a person gave one of them, none of these is chosen."""
N_PILOTS = 48
"""Texts of each way: of the fitted sampler and four others, of which two are temperatures, 240."""
MIN_PILOTS = 32
"""With fewer contexts distances say too little to choose by."""
MOST_REAL = 200
"""Real texts that pilots are compared with, at the most: the judge reads each."""


def is_free(settings: SimulateConfig, names: Iterable[str]) -> bool:
    """Whether settings that are tried together are left to pilot draws."""
    return settings.tune and all(getattr(settings, name) == getattr(SimulateConfig(), name) for name in names)


def n_pilots(settings: SimulateConfig, n_seen: int) -> tuple[int, int]:
    """Pilot draws at the most, and texts that are judged for them, where the fit has seen so many records."""
    n_free = sum(is_free(settings, names) for names in STEPS)
    n_ways = 1 + n_free + is_free(settings, STEPS[0]) if n_free and n_seen >= MIN_PILOTS else 0
    drawn = n_ways * min(N_PILOTS, n_seen)
    return drawn, drawn + min(MOST_REAL, n_seen) if drawn else 0


def as_chosen(settings: SimulateConfig, fitted: FittedMixture, given: Collection[str] = ()) -> SimulateConfig:
    """Settings of draws from a mixture: those of a person, and for the rest what pilot draws chose for it.

    ``given`` are names of settings that a person gave although they may be the defaults.
    """
    way = (fitted.info.get("drawing") or {}).get("way", {})
    open_to = [names for names in STEPS if is_free(settings, names) and not set(names) & set(given)]
    return replace(settings, **{name: way[name] for names in open_to for name in names if name in way})


def way_notes(drawing: Mapping[str, Any] | None) -> list[str]:
    """How a way of drawing was chosen, a sentence each; none where nothing was."""
    if not drawing:
        return []
    told = [
        f"The way of drawing was chosen by {drawing['n_pilots']} pilot texts of each way, beside {drawing['n_real']} "
        "real texts of the fit (simulate.tune). Energy distances of embeddings and of sense (nats per token) are in "
        "standard deviations between two samples of real texts; what counts is the mean of their logs, from 2 on."
    ]
    for row in drawing["tried"]:
        name = ", ".join(f"{key} = {value}" for key, value in row["way"].items()) or "the fitted sampler"
        gain = f", nearer by {row['gain']:.2f} ± {row['error']:.2f}" if "gain" in row else ""
        told.append(
            f"{name}: {row['distance']:.2f} (embeddings {row['embeddings']:.1f}, sense {row['sense']:.1f})"
            f"{gain}; {'kept' if row['is_kept'] else 'not kept'}."
        )
    return told


def save_way(folder: Path, drawing: Mapping[str, Any]) -> Path:
    """Keep what pilot draws chose (``way``), and from what, beside the mixture that they were drawn from."""
    document = {**drawing, "mixture": check_of(read_json(folder / "mixture.json"))}
    write_json(folder / CHOSEN_WAY, {**document, "check": check_of(document)})
    return folder / CHOSEN_WAY


def load_with_way(folder: Path) -> FittedMixture:
    """Read a mixture and the way of drawing that lies beside it: its ``info["drawing"]``, if any was chosen.

    Raises
    ------
    ArtifactError
        As `mop.mixture.fitted.load_mixture`; or if the way of drawing was changed, or is that of another mixture.
    """
    fitted, path = load_mixture(folder), folder / CHOSEN_WAY
    refuse_link(path)
    drawing: Any = fitted.info.get("drawing")
    if path.is_file():
        drawing = read_json(path)
        is_own = isinstance(drawing, dict) and drawing.get("mixture") == check_of(read_json(folder / "mixture.json"))
        if not is_own or drawing.get("check") != check_of(drawing):
            raise ArtifactError(
                f"{path} was changed since it was made, or belongs to another mixture; put it back as it was, make it "
                "anew with: mop tune RUN, or remove it to draw from the fitted mixture"
            )
    try:
        way = {} if drawing is None else drawing["way"]
        if not set(way) <= set(WAY):
            raise ConfigError(f"{sorted(way)} are no settings of a way of drawing")
        config_from_dict({"simulate": way})
    except (ConfigError, LookupError, TypeError) as error:
        raise ArtifactError(f"the way of drawing of the mixture in {folder} is damaged ({error}); fit again") from error
    return fitted if drawing is None else replace(fitted, info={**fitted.info, "drawing": drawing})
