"""Which texts are compared, what is said about them, and how far an interval can be trusted."""

import json
import math
from functools import partial

import numpy as np
import pytest

from mop.backends.encoder import FakeEncoder, embed
from mop.errors import ConfigError, DataError
from mop.evaluate.map import text_map
from mop.evaluate.samples import HISTOGRAM_EDGES, Sample, evaluate
from mop.metrics import distances as metrics
from mop.metrics import words
from mop.storage.store import Store

NOUNS = ["film", "plot", "cast", "end", "scene", "joke"]
NOUNS += ["hero", "song", "war", "town", "ship", "dog"]
MOODS = ["dull", "good", "long", "sad", "loud", "warm", "thin", "odd", "bright", "slow"]


def reviews(n, seed, nouns=NOUNS):
    rng = np.random.default_rng(seed)

    def review():
        (thing, part), (mood, other) = rng.choice(nouns, 2), rng.choice(MOODS, 2)
        return f"a {mood} {thing} and the {part} is {other}"

    return [review() for _ in range(n)]


GOLDEN, FLOOR, GOOD = reviews(60, 1), reviews(40, 2), reviews(40, 3)
NARROW = reviews(40, 4, nouns=NOUNS[:2])


def judged(methods, golden=GOLDEN, floor=FLOOR, *, weights=None, shown=None, nats=None, **settings):
    def sample(name, texts):
        return Sample(texts, *((of or {}).get(name) for of in (weights, shown, nats)))

    settings = {"seed": 0, "n_seeds": 2, "n_bootstrap": 8, "embed": FakeEncoder().encode} | settings
    methods = {name: sample(name, texts) for name, texts in methods.items()}
    return evaluate(methods, sample("golden", golden), sample("floor", floor), **settings)


@pytest.fixture(scope="module")
def evaluation():
    return judged({"good": GOOD, "narrow": NARROW})


def test_every_method_and_the_floor_have_every_score(evaluation):
    assert list(evaluation.methods) == ["good", "narrow", "floor"]
    for scores in evaluation.methods.values():
        assert set(scores) == {
            "energy", "energy_interval", "fid", "fid_interval", "fid_excess",
            "fid_excess_interval", "sense", "sense_interval", "improbable",
            "mauve", "mauve_interval", "mauve_spread", "kl_cosine", "kl_cosine_interval", "kl_cosine_reverse",
            "distinct_1", "distinct_2", "self_bleu_4", "mean_words", "refusals", "empty",
            "near_copies", "duplicates", "n", "n_received", "cut_share",
        }  # fmt: skip
        assert scores["n"] == evaluation.n == 40
        assert next(iter(scores)) == "energy"
        for name in ("energy", "fid", "fid_excess", "mauve", "kl_cosine"):
            low, high = scores[f"{name}_interval"]
            assert low <= scores[name] <= high
            assert low >= 0 or name in ("energy", "fid_excess")


def test_what_goes_to_a_file_is_json_without_nan(evaluation):
    parts = [evaluation.methods, evaluation.notes, evaluation.histograms]
    assert json.loads(json.dumps(parts, allow_nan=False))[0] == evaluation.methods
    assert (len(HISTOGRAM_EDGES), HISTOGRAM_EDGES[0], HISTOGRAM_EDGES[-1]) == (101, -1, 1)
    assert {len(counts) for counts in evaluation.histograms.values()} == {100}
    assert sum(evaluation.histograms["golden"]) == 60 * 59 / 2
    assert set(evaluation.histograms) == {"golden", "good", "narrow", "floor"}


def test_a_narrow_method_scores_worse_than_real_texts(evaluation):
    narrow, floor = evaluation.methods["narrow"], evaluation.methods["floor"]
    assert narrow["fid"] > floor["fid"]
    assert narrow["energy_interval"][0] > floor["energy_interval"][1]
    assert narrow["fid_excess_interval"][0] > 0
    assert narrow["mauve"] < floor["mauve"]
    assert narrow["kl_cosine"] > floor["kl_cosine"]
    assert narrow["self_bleu_4"] > floor["self_bleu_4"]


def test_scores_are_those_of_the_metrics_themselves(evaluation):
    ours, real = evaluation.vectors["good"], evaluation.vectors["golden"]
    scores = evaluation.methods["good"]
    assert scores["fid"] == metrics.frechet(metrics.gaussian(real), ours).distance
    assert scores["kl_cosine"] == metrics.kl_cosine(real, ours, seed=0).golden_synthetic
    energy = metrics.energy_distance(real, ours)
    assert [scores["energy"], *scores["energy_interval"]] == pytest.approx([*energy])
    assert scores["distinct_1"] == words.distinct_n(GOOD, 1)
    assert np.array_equal(real, FakeEncoder().encode(GOLDEN))


def test_the_same_texts_get_the_same_scores_under_any_name_and_company(evaluation):
    alone = judged({"other": GOOD})
    assert alone.methods["other"] == evaluation.methods["good"]
    assert alone.methods["floor"] == evaluation.methods["floor"]


def test_all_are_compared_at_the_size_of_the_smallest():
    evaluation = judged({"long": GOOD, "short": NARROW[:25]})
    assert evaluation.n == 25
    assert {len(v) for name, v in evaluation.vectors.items() if name != "golden"} == {25}
    assert evaluation.methods["long"]["n_received"] == 40
    assert evaluation.limited_by == "short"
    (note,) = [note for note in evaluation.notes if "because short has no more that are not empty" in note]
    assert "others have up to 40" in note
    assert np.array_equal(evaluation.rows["long"], evaluation.rows["floor"])
    assert len(set(evaluation.rows["long"].tolist())) == 25


def test_a_choice_does_not_depend_on_texts_that_come_later():
    few = judged({"a": GOOD[:30]}, floor=FLOOR[:20]).rows["a"]
    more = judged({"a": GOOD}, floor=FLOOR[:20]).rows["a"]
    assert set(more[more < 30]) <= set(few)


def test_empty_texts_are_counted_and_not_compared():
    evaluation = judged({"gaps": ["", *GOOD[:20], "  \n", *GOOD[20:38]]})
    scores = evaluation.methods["gaps"]
    assert (scores["empty"], scores["n"], scores["n_received"]) == (0.05, 38, 40)
    assert not {0, 21} & set(evaluation.rows["gaps"].tolist())
    assert "gaps: 2 of 40 texts are empty; they are counted, not compared" in evaluation.notes


def test_the_excess_is_that_of_the_limit_over_the_floors(evaluation):
    golden = metrics.gaussian(evaluation.vectors["golden"])
    limits = {name: metrics.frechet(golden, evaluation.vectors[name]).limit
              for name in evaluation.methods}  # fmt: skip
    for name, scores in evaluation.methods.items():
        assert scores["fid_excess"] == pytest.approx(limits[name] - limits["floor"])
    low, high = evaluation.methods["floor"]["fid_excess_interval"]
    assert low == pytest.approx(-high)
    assert evaluation.methods["floor"]["fid_excess"] == 0 < high


def test_even_weights_are_no_weights(evaluation):
    weights = {"good": [3] * 40, "narrow": [0.5] * 40, "floor": [2] * 40, "golden": [7] * 60}
    weighted = judged({"good": GOOD, "narrow": NARROW}, weights=weights)
    assert weighted.methods == evaluation.methods
    assert weighted.histograms == evaluation.histograms


def test_weights_count_in_every_distance_and_not_in_the_words():
    mixed = GOOD[:20] + NARROW[:20]
    plain = judged({"mixed": mixed}).methods["mixed"]
    # What hardly weighs anything hardly counts: the good half is left.
    light = judged({"mixed": mixed}, weights={"mixed": [1] * 20 + [1e-9] * 20}).methods["mixed"]
    half, golden = FakeEncoder().encode(mixed)[:20], FakeEncoder().encode(GOLDEN)
    assert light["energy"] == pytest.approx(metrics.energy_distance(golden, half).distance)
    moments = metrics.gaussian(golden)
    assert light["fid"] == pytest.approx(metrics.frechet(moments, half).distance, rel=1e-4)
    pairs = metrics.cosine_histogram(half, seed=0) * (40 * 39) / (20 * 19)
    of_golden = metrics.cosine_histogram(golden, seed=0)
    kl = metrics.kl_of_histograms(of_golden, pairs).golden_synthetic
    assert light["kl_cosine"] == pytest.approx(kl, rel=1e-4)
    assert light["mauve"] > plain["mauve"]
    for name in ("distinct_1", "self_bleu_4", "mean_words", "duplicates", "n"):
        assert light[name] == plain[name]


def test_weights_of_golden_texts_move_the_target():
    golden = NARROW + GOOD
    targets = {name: judged({"narrow": NARROW}, golden, weights={"golden": of}).methods["narrow"]
               for name, of in (("narrow", [1] * 40 + [0.01] * 40),
                                ("good", [0.01] * 40 + [1] * 40))}  # fmt: skip
    for name in ("energy", "fid", "kl_cosine"):
        assert targets["narrow"][name] < targets["good"][name]
    assert targets["narrow"]["mauve"] > targets["good"]["mauve"]


def test_sense_is_the_mean_under_the_judge():
    figures = {"good": [-3.0, -2.0, math.nan, -1.0] * 10, "floor": np.linspace(-4, -1, 40)}
    good, narrow, floor = judged({"good": GOOD, "narrow": NARROW}, nats=figures).methods.values()
    assert good["sense"] == pytest.approx(-2)
    reach = 1.96 * np.std([-3.0, -2, -1] * 10, ddof=1) / math.sqrt(30)
    assert good["sense_interval"] == pytest.approx([-2 - reach, -2 + reach])
    assert (good["improbable"], floor["improbable"]) == (0, 0)
    assert narrow["sense"] is narrow["sense_interval"] is narrow["improbable"] is None
    figures["good"][0] = -5.0
    assert judged({"good": GOOD}, nats=figures).methods["good"]["improbable"] == pytest.approx(1 / 30)
    del figures["floor"]
    assert judged({"good": GOOD}, nats=figures).methods["good"]["improbable"] is None


def test_sense_is_weighted_too():
    figures = {"good": [-3.0] * 20 + [-1.0] * 20, "floor": [-2.0] * 39 + [-4.0]}
    weights = {"good": [3] * 20 + [1] * 20, "floor": [1] * 39 + [0.1]}
    found = judged({"good": GOOD}, nats=figures, weights=weights).methods
    assert found["good"]["sense"] == pytest.approx(-2.5)
    assert found["good"]["improbable"] == pytest.approx(0.75)  # below -2, the first percentile


def test_near_copies_are_looked_for_among_the_chosen_texts():
    shots = [GOOD[0], *["the sea was calm and blue"] * 19, *[None] * 20]
    scores = judged({"good": GOOD}, shown={"good": shots}).methods
    assert scores["good"]["near_copies"] == 0.05
    assert scores["floor"]["near_copies"] is None


def test_texts_without_words_are_scored_all_the_same():
    scores = judged({"dots": ["...", "!!", "?", ";;"] * 10}).methods["dots"]
    assert scores["self_bleu_4"] is None
    assert scores["distinct_1"] == 0.0
    assert math.isfinite(scores["fid"])


def test_a_method_that_repeats_one_text_is_scored():
    scores = judged({"one": ["a dull film"] * 40}).methods["one"]
    assert scores["duplicates"] == 39 / 40
    assert scores["mauve"] < 0.5
    assert scores["fid_interval"] == pytest.approx([scores["fid"]] * 2)


def test_notes_say_when_samples_are_small(evaluation):
    assert evaluation.notes == (
        "FID from 40 against 60 texts in 64 dimensions is dominated by sample size, which "
        "favours narrow methods; read energy or fid_excess",
        "MAUVE from 40 against 60 texts is optimistic; compare it with other real texts only",
    )


def test_embeddings_are_kept_in_the_store(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        judged({"good": GOOD}, embed=partial(embed, encoder=FakeEncoder(), store=store))
        assert store.counts()["embedding"] == len({*GOOD, *GOLDEN, *FLOOR})


def test_progress_reaches_its_total():
    steps = []
    judged({"good": GOOD}, progress=lambda *step: steps.append(step))
    assert [step for step in steps if step[0] == "compare"] == [
        ("compare", 0, 2), ("compare", 1, 2), ("compare", 2, 2),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("methods", "settings", "kind", "sentence"),
    [
        ({}, {}, DataError, "0 methods were given to evaluate; it needs at least 1"),
        ({"floor": GOOD}, {}, ConfigError, "a method is named 'floor'; 'floor' and 'golden' stand"),
        ({"golden": GOOD}, {}, ConfigError, "a method is named 'golden'; 'floor' and 'golden' stand"),
        ({"a": GOOD}, {"n_seeds": 0}, ConfigError, "n_seeds is 0 and n_bootstrap is 8; they must"),
        ({"a": GOOD}, {"n_bootstrap": 1}, ConfigError, "n_seeds is 2 and n_bootstrap is 1; they"),
        (
            {"a": ["x", "", "y", "z"]},
            {},
            DataError,
            "'a' has 3 texts that are not empty, of 4; an evaluation needs at least 4",
        ),
        ({"a": GOOD}, {"floor": []}, DataError, "'floor' has 0 texts that are not empty, of 0"),
        (
            {"a": GOOD},
            {"golden": [*GOLDEN, " "]},
            DataError,
            "there are 61 golden texts, 1 of them empty; none may be",
        ),
        ({"a": GOOD}, {"golden": GOLDEN[:3]}, DataError, "'golden' has 3 texts that are not empty, of 3"),
        ({"a": GOOD}, {"weights": {"golden": [1]}}, DataError, "'golden' has 1 weights and 60 texts"),
        ({"a": GOOD}, {"weights": {"a": [-1.0] * 40}}, DataError, "the a weights .* 40 of them negative"),
        (
            {"a": GOOD},
            {"nats": {"a": [1.0] * 39}},
            DataError,
            "'a' has 39 judged figures and 40 texts; each text needs its own",
        ),
        (
            {"a": GOOD},
            {"nats": {"a": [-math.inf] + [-1.0] * 39}},
            DataError,
            "40 of 40 texts of 'a' were judged, 1 of them as infinite; figures are nats per token",
        ),
        (
            {"a": GOOD},
            {"shown": {"a": ["x"]}},
            DataError,
            "'a' has 1 exemplars and 40 texts; each text needs its own",
        ),
    ],
)
def test_what_cannot_be_evaluated_is_named(methods, settings, kind, sentence):
    with pytest.raises(kind, match=sentence):
        judged(methods, **settings)


def test_the_smallest_evaluation_has_four_texts():
    scores = judged({"a": GOOD[:4]}, golden=GOLDEN[:4], floor=FLOOR[:4]).methods["a"]
    assert all(math.isfinite(scores[name]) for name in ("fid", "mauve", "kl_cosine"))


def test_intervals_cover_the_mean_score_of_fresh_texts():
    # 24 fresh samples of a skewed population; a 95 % interval misses their mean score about once.
    # The wide bound is for the small simulation; docs/metrics.md has a large one.
    fresh = [judged({"s": reviews(40, seed, NOUNS[:6])}, n_bootstrap=40, n_seeds=3)
             for seed in range(100, 124)]  # fmt: skip
    for name in ("fid", "mauve", "kl_cosine"):
        scores = [e.methods["s"][name] for e in fresh]
        ends = [e.methods["s"][f"{name}_interval"] for e in fresh]
        covered = sum(low <= np.mean(scores) <= high for low, high in ends)
        assert covered >= 19
        widths = [high - low for low, high in ends]
        assert np.mean(widths) < 4 * 1.96 * np.std(scores)  # an endless interval covers, too


def test_a_map_places_real_and_synthetic_texts_but_not_the_floor(evaluation):
    places = text_map(evaluation, seed=0, limit=12)
    assert set(places) == {"good", "narrow", "golden"}
    for name, (rows, plane) in places.items():
        assert plane.shape == (12, 2)
        assert set(rows) <= set(evaluation.rows[name])


@pytest.mark.trial("14-metrics-small-n")
@pytest.mark.parametrize("nothing", [None, float("nan"), 7])
@pytest.mark.parametrize("where", ["golden", "floor", "m"])
def test_what_is_no_text_is_named_with_its_place(nothing, where):
    sets = {"m": list(GOOD), "floor": list(FLOOR), "golden": list(GOLDEN)}
    sets[where][3] = nothing
    with pytest.raises(DataError, match=f"the texts of '{where}' hold {nothing!r} at index 3"):
        judged({"m": sets["m"]}, sets["golden"], sets["floor"])


@pytest.mark.advice
@pytest.mark.parametrize("advice", ["leave it out", "pass ''"])
def test_the_advice_for_what_is_no_text_works(advice):
    texts = [*GOOD, None]
    with pytest.raises(DataError, match=advice):
        judged({"m": texts})
    followed = GOOD if advice == "leave it out" else [*GOOD, ""]
    found = judged({"m": followed})
    assert found.methods["m"]["empty"] == pytest.approx(0.0 if advice == "leave it out" else 1 / 41)


@pytest.mark.advice
def test_a_method_with_few_texts_can_be_left_out_as_advised():
    with pytest.raises(DataError, match="'few' has 2 texts .* leave the method out"):
        judged({"good": GOOD, "few": ["", "a", "b"]})
    assert list(judged({"good": GOOD}).methods) == ["good", "floor"]


@pytest.mark.trial("14-metrics-small-n")
@pytest.mark.parametrize(
    ("texts", "golden"),
    [(list("abcd"), GOLDEN), (["a good film"] * 40, GOLDEN), ([""] * 30 + list("abcde"), GOLDEN), (GOOD, ["one"] * 40)],
)
def test_few_equal_and_empty_texts_have_finite_figures(texts, golden):
    found = judged({"m": texts}, golden)
    assert json.dumps(found.methods, allow_nan=False)
    assert found.notes


def test_closed_answers_have_valid_ones_and_shares():
    people = ["Yes", "No", "Not sure", "yes."] * 15
    ours = ["yes", "Yes; No", "maybe so", "NO"] * 10
    found = judged({"m": ours}, people, people[:40])
    assert found.closed["options"] == ["Yes", "No", "Not sure"]
    assert found.closed["n_real"] == 100
    assert found.methods["m"]["valid_answers"] == pytest.approx(0.5)
    assert found.methods["m"]["total_variation"] == pytest.approx(0.5)
    assert found.methods["floor"]["valid_answers"] == 1.0
    assert found.closed["shares"]["m"] == [0.25, 0.25, 0.0, 0.5]
    assert judged({"m": ours}).closed is None


def test_no_metric_of_ones_own_can_have_the_name_of_a_figure_that_there_is():
    people = ["Yes", "No"] * 20
    sample = Sample(people, labels=["a", "b"] * 20, cut=[False] * 40)
    found = evaluate({"m": sample}, sample, sample, embed=FakeEncoder().encode, seed=0, n_seeds=2, n_bootstrap=8)
    assert "wrong_label" in found.methods["m"]
    ours = [name for name in found.methods["m"] if not name.endswith(("_interval", "_spread"))]
    for name in ours:
        with pytest.raises(ConfigError, match=f"there is a figure '{name}' already"):
            judged({"m": people}, metrics={name: lambda texts, golden: 0.0})
