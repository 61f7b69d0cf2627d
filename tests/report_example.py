"""A made-up run with the look of a real one: film critics, three methods; used by the tests and to
look at the page."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mop.randomness import rng_of
from mop.report.page import ExemplarUse, MapPoint, PersonaRow, ReportData, write_report
from mop.report.reading import side_by_side
from mop.simulate.write import outcomes
from mop.types import Record, Response

VOICES = (
    "I watch a lot of small, quiet films and forgive almost anything but noise; I notice light, pauses and faces.",
    "I review for a daily paper. I have four hundred words, I name what works, and I warn the reader early.",
    "I came for the jokes. If a comedy makes me laugh three times it has done its job.",
    "I grew up on horror and judge every scare by the silence before it.",
    "I care about plot. When a story cheats, I say so, and I count the holes.",
    "I write about documentaries and ask of every film whom it lets speak.",
    "I take my children to the cinema; I want warmth, a clear story and no cruelty for its own sake.",
    "I compare everything with the seventies and mostly find it wanting.",
    "I love actors. A fine performance carries me through a weak script.",
    "I am tired of sequels, and I am rude about them.",
    "I look for what a film says about its time, and I dislike being lectured.",
    "I follow action films for their craft: cuts, stunts, geography.",
)
OPENINGS = (
    "a quiet film about grief",
    "the third sequel nobody asked for",
    "an uneven but warm comedy",
    "a thriller with no pulse",
    "this patient documentary",
    "a first feature of rare tact",
    "an overlong costume drama",
    "a heist picture in love with its own cleverness",
    "the kind of horror that trusts the dark",
    "an animated fable for all ages",
)
MIDDLES = (
    "finds its feet in the last half hour",
    "never decides what it wants to be",
    "is carried by two fine performances",
    "mistakes volume for feeling",
    "earns its tears honestly",
    "runs out of ideas before the first act is over",
    "looks wonderful and says little",
    "stays with you longer than you expect",
    "is sharper than it pretends",
    "knows exactly when to stop",
)
ENDINGS = (
    "and that is enough .",
    "which makes the ending all the sadder .",
    "but the script lets everyone down .",
    "and i laughed more than i should have .",
    "; see it on a big screen or not at all .",
    "though half of it could go .",
    "and nobody involved seems to mind .",
    "with a last shot worth the ticket .",
)
LABELS = ("positive", "negative")
METHODS = ("mop", "mop-uniform", "zero-shot")


def review(draw: np.random.Generator) -> str:
    """One made-up review."""
    parts = (OPENINGS, MIDDLES, ENDINGS)
    return " ".join(str(part[draw.integers(len(part))]) for part in parts)


def example(
    *, n_responses: int = 300, n_real: int = 400, n_personas: int = 12, n_exemplars: int = 200, seed: int = 0
) -> ReportData:
    """A report of a plausible run of any size."""
    draw = rng_of(seed, "example")
    weights = draw.dirichlet(np.full(n_personas, 2.0))
    texts = [review(draw) for _ in range(n_exemplars)]
    personas = [
        PersonaRow(
            key=f"p{k:02d}",
            description=VOICES[k % len(VOICES)],
            weight=float(weights[k]),
            temperature=float(0.7 + 0.5 * draw.random()),
            size=int(draw.integers(20, 180)),
            writer="keywords" if k % 3 else "llm",
            sources=[review(draw) for _ in range(4)],
            doubts=("repetition",) if k == 7 else (),
        )
        for k in range(n_personas)
    ]
    popularity = draw.dirichlet(np.full(n_exemplars, 0.35))
    uses = draw.multinomial(n_responses, popularity)
    exemplars = [
        ExemplarUse(
            key=f"rt-{j}",
            context=f"a {LABELS[j % 2]} sentence from a film review",
            response=texts[j],
            uses=int(uses[j]),
        )
        for j in range(n_exemplars)
    ]
    responses = []
    for method in METHODS:
        for i in range(n_responses):
            k, j = (int(draw.choice(n_personas, p=weights)), int(draw.choice(n_exemplars, p=popularity)))
            has_persona = method != "zero-shot"
            responses.append(
                Response(
                    id=f"t{i}",
                    context=f"Write a {LABELS[i % 2]} sentence from a film review.",
                    response=review(draw),
                    label=LABELS[i % 2],
                    persona=f"p{k:02d}" if has_persona else None,
                    exemplar=f"rt-{j}" if has_persona else None,
                    temperature=round(personas[k].temperature, 3) if has_persona else 1.0,
                    log_pi=float(np.log(weights[k])) if has_persona else 0.0,
                    log_omega=float(np.log(popularity[j] + 1e-9)) if has_persona else 0.0,
                    seed=int(draw.integers(2**63)),
                    model="smollm2-135m",
                    prompt_version=1,
                    finish_reason="length" if i % 29 == 0 else "stop",
                    n_tokens=int(draw.integers(8, 60)),
                    method=method,
                )
            )
    edges = np.linspace(-1, 1, 101)
    middle = (edges[:-1] + edges[1:]) / 2

    def bell(centre: float, width: float) -> list[float]:
        return list(np.round(1e5 * np.exp(-(((middle - centre) / width) ** 2) / 2)))

    asked = [
        Record(key=row.id, context=row.context, response=review(rng_of(seed, "real", i)), label=row.label)
        for i, row in enumerate(responses[:n_responses])
    ]
    steps = np.arange(16)
    return ReportData(
        title="Film critics",
        task="film reviews",
        language_model="smollm2-135m",
        judge="gemma3-270m",
        encoder="minilm",
        n_records=2000,
        n_held_out=500,
        methods={
            "zero-shot": {
                "labels_found": {"positive": 0.7, "negative": 0.3},
                "wrong_label": 0.2,
                "cut_share": 0.035,
                "energy": 0.0492,
                "energy_interval": [0.0471, 0.0513],
                "fid_excess": 0.081,
                "fid_excess_interval": [0.068, 0.094],
                "sense": -3.91,
                "sense_interval": [-4.02, -3.80],
                "improbable": 0.013,
                "fid": 0.310,
                "fid_interval": [0.297, 0.325],
                "mauve": 0.262,
                "mauve_interval": [0.22, 0.31],
                "kl_cosine": 0.216,
                "kl_cosine_interval": [0.181, 0.252],
                "n": 300,
                "mauve_spread": 0.01,
                "mean_words": 31.2,
                "distinct_2": 0.81,
                "refusals": 0.013,
                "empty": 0.0,
                "near_copies": 0.0,
            },
            "mop-uniform": {
                "energy": 0.0251,
                "energy_interval": [0.0236, 0.0266],
                "fid_excess": 0.036,
                "fid_excess_interval": [0.024, 0.048],
                "sense": -4.21,
                "sense_interval": [-4.33, -4.09],
                "improbable": 0.043,
                "fid": 0.260,
                "fid_interval": [0.25, 0.271],
                "mauve": 0.712,
                "mauve_interval": [0.66, 0.77],
                "kl_cosine": 0.037,
                "kl_cosine_interval": [0.026, 0.05],
                "n": 300,
                "mauve_spread": 0.01,
                "mean_words": 24.4,
                "distinct_2": 0.88,
                "refusals": 0.003,
                "empty": 0.0,
                "near_copies": 0.027,
            },
            "mop": {
                "labels_found": {"positive": 0.55, "negative": 0.45},
                "wrong_label": 0.2,
                "cut_share": 0.035,
                "energy": 0.0226,
                "energy_interval": [0.0212, 0.0240],
                "fid_excess": 0.029,
                "fid_excess_interval": [0.017, 0.041],
                "sense": -4.15,
                "sense_interval": [-4.27, -4.03],
                "improbable": 0.037,
                "fid": 0.247,
                "fid_interval": [0.236, 0.259],
                "mauve": 0.781,
                "mauve_interval": [0.73, 0.83],
                "kl_cosine": 0.028,
                "kl_cosine_interval": [0.018, 0.041],
                "n": 300,
                "mauve_spread": 0.01,
                "mean_words": 23.1,
                "distinct_2": 0.89,
                "refusals": 0.0,
                "empty": 0.0,
                "near_copies": 0.033,
            },
            "floor": {
                "energy": 0.0003,
                "energy_interval": [-0.0009, 0.0015],
                "fid_excess": 0.0,
                "fid_excess_interval": [-0.011, 0.011],
                "sense": -4.32,
                "sense_interval": [-4.43, -4.21],
                "improbable": 0.01,
                "fid": 0.195,
                "fid_interval": [0.187, 0.203],
                "mauve": 0.991,
                "mauve_interval": [0.98, 1.0],
                "kl_cosine": 0.003,
                "kl_cosine_interval": [0.001, 0.006],
                "n": 300,
                "mauve_spread": 0.01,
                "mean_words": 21.0,
                "distinct_2": 0.93,
            },
        },
        held_out={"mop": -115.8, "mop-uniform": -117.4, "gain": 1.6, "gain_interval": [1.1, 2.1]},
        map_points=map_points(draw, n_real=n_real, n_each=min(n_responses, 1500)),
        personas=personas,
        exemplars=exemplars,
        gate_groups=LABELS,
        gates=np.array([draw.dirichlet(weights * 40 + 0.05) for _ in LABELS]),
        history=[
            {
                "epoch": int(s),
                "train_bound": float(-118.5 + 2.2 * (1 - np.exp(-s / 4))),
                "valid": float(-117.4 + 1.6 * (1 - np.exp(-s / 3)) - 0.012 * max(0, s - 9) ** 2),
            }
            for s in steps
        ],
        best_step=9,
        histogram_edges=list(edges),
        histograms={
            "golden": bell(0.16, 0.11),
            "mop": bell(0.18, 0.115),
            "mop-uniform": bell(0.2, 0.12),
            "zero-shot": bell(0.31, 0.13),
        },
        source="reviews.csv",
        real=[record.response for record in asked],
        side_by_side=side_by_side(asked, {name: [r for r in responses if r.method == name] for name in METHODS}),
        outcomes=outcomes(row for row in responses if row.method == "mop"),
        responses=responses,
        problems={
            "Rows left out": ["reviews.csv, line 17: the response is empty", "reviews.csv, line 203: repeats line 41"],
            "Near copies of the example shown": [f"mop-{i} repeats rt-{i * 3}" for i in range(10)],
        },
        settings={
            "seed": 0,
            "personas": {"n": 12, "writer": "keywords"},
            "fit": {"lr": 0.001, "epochs": 30, "patience": 5, "preset": "paper"},
            "simulate": {"n": 300, "mauve_spread": 0.01, "max_tokens": 128, "top_p": 1.0},
        },
        versions={"mop": "0.1.0", "python": "3.11.9", "torch": "2.6.0", "transformers": "4.56.0"},
        cost={"lm_calls": 48210, "prompt_tokens": 9120334, "generated_tokens": 27113, "seconds": 335.0},
        origins=[
            {
                "name": "smollm2-135m",
                "kind": "language model",
                "licence": "Apache-2.0",
                "source": "SmolLM2-135M-Instruct",
            },
            {"name": "minilm", "kind": "encoder", "licence": "Apache-2.0", "source": "all-MiniLM-L6-v2"},
            {"name": "rotten-tomatoes", "kind": "data", "licence": "see source", "source": "Pang and Lee, 2005"},
        ],
        command="mop run runs/demo --preset demo --set seed=0",
    )


def map_points(draw: np.random.Generator, *, n_real: int, n_each: int) -> list[MapPoint]:
    """Three lobes of real texts; plain prompting finds one of them, the mixture all."""
    centres = np.array([[0.0, 0.0], [3.0, 1.2], [1.2, 3.0]])
    shares = {
        "real": (0.4, 0.3, 0.3),
        "mop": (0.45, 0.28, 0.27),
        "mop-uniform": (0.5, 0.25, 0.25),
        "zero-shot": (0.93, 0.05, 0.02),
    }
    points = []
    for kind, share in shares.items():
        n = n_real if kind == "real" else n_each
        lobes = draw.choice(3, size=n, p=share)
        spread = 0.45 if kind == "zero-shot" else 0.85
        places = centres[lobes] + draw.normal(scale=spread, size=(n, 2))
        points += [
            MapPoint(x=float(x), y=float(y), kind=kind, text=review(draw), label=LABELS[lobe % 2])
            for (x, y), lobe in zip(places, lobes, strict=True)
        ]
    return points


if __name__ == "__main__":
    write_report(example(), Path("report.html"))
