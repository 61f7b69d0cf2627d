"""The benchmark's arithmetic: claims, intervals, order of the pieces; its runs are not made here."""

import gzip
import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from mop.config import RunConfig

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "bench_paper.py"


@pytest.fixture(scope="module")
def bench():
    spec = importlib.util.spec_from_file_location("bench_paper", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    sys.modules["bench_paper"] = module
    spec.loader.exec_module(module)
    return module


def row(fid_excess, mauve, kl, f1, **more):
    return {"energy": fid_excess / 2, "fid_excess": fid_excess, "mauve": mauve, "kl_cosine": kl, "f1": f1,
            "fid_excess_interval": [fid_excess - 0.01, fid_excess + 0.01], **more}  # fmt: skip


def test_claims_are_relative_changes_against_the_rival_that_is_best_on_each_figure(bench):
    found = {
        "methods": {"mop": row(0.05, 0.8, 0.03, 0.85), "zerogen": row(0.1, 0.5, 0.2, 0.80),
                    "zero-shot@0.75": row(0.2, 0.64, 0.05, 0.7), "few-shot": row(0.01, 0.9, 0.0, 0.9)},
        "best_rivals": {"energy": "zerogen", "fid_excess": "zerogen", "mauve": "zero-shot@0.75",
                        "kl_cosine": "zero-shot@0.75", "f1": "zerogen"},
        "ablations": {"methods": {"mop": row(0.07, 0.8, 0.1, 0.8, prepare_tokens=90),
                                  "mop.paper-fit": row(0.1, 0.7, 0.1, 0.8, prepare_tokens=100)}},
    }  # fmt: skip
    claims = bench.claims_of("sst2", found)
    values = {name: (claim["value"], claim["met"]) for name, claim in claims.items()}
    assert values == {
        "energy_cut_sst2": (-50.0, True),
        "fid_cut_sst2": (-50.0, True),
        "mauve_gain_sst2": (25.0, True),
        "kl_cut_sst2": (-40.0, False),
        "f1_gain_sst2": (6.2, True),
        "energy_cut_vs_paper_sst2": (-30.0, True),
        "fid_cut_vs_paper_sst2": (-30.0, True),
    }
    assert claims["fid_cut_sst2"]["against"] == "best rival of 2: zerogen"
    low, high = claims["fid_cut_sst2"]["interval"]
    assert -62 < low < -50 < high < -35
    assert claims["mauve_gain_sst2"]["interval"] is None


def test_a_fit_that_spends_more_tokens_than_the_papers_does_not_meet_the_claim(bench):
    found = {"methods": {"mop": row(0.1, 1, 1, 1)}, "best_rivals": {},
             "ablations": {"methods": {"mop": row(0.05, 1, 1, 1, prepare_tokens=101),
                                       "mop.paper-fit": row(0.1, 1, 1, 1, prepare_tokens=100)}}}  # fmt: skip
    claims = bench.claims_of("imdb", found)
    assert {name: claim["met"] for name, claim in claims.items()} == {
        "energy_cut_vs_paper_imdb": False, "fid_cut_vs_paper_imdb": False
    }  # fmt: skip


def test_a_rival_as_good_as_real_texts_gives_no_percentage(bench):
    assert bench.change({"energy": 0.1}, {"energy": 0.0}, "energy") == (None, None)


def test_an_interval_keeps_to_what_a_figure_can_be_and_has_no_end_where_the_rivals_may_be_nothing(bench):
    mine = {"kl_cosine": 0.03, "kl_cosine_interval": [0.0, 0.08]}  # cut off at 0: 0.05 to either side
    low, high = bench.change(mine, {"kl_cosine": 0.1, "kl_cosine_interval": [0.1, 0.1]}, "kl_cosine")[1]
    assert (low, high) == (-100.0, pytest.approx(-20.0, abs=2.0))
    theirs = {"kl_cosine": 0.01, "kl_cosine_interval": [0.0, 0.022]}
    low, high = bench.change(mine, theirs, "kl_cosine")[1]
    assert low == -100.0
    assert high is None
    # What is 0 for real texts may be below 0 by chance.
    for metric in ("energy", "fid_excess"):
        low, _ = bench.change(
            {metric: 0.0, f"{metric}_interval": [-0.02, 0.02]}, {metric: 0.1, f"{metric}_interval": [0.1, 0.1]}, metric
        )[1]
        assert low == pytest.approx(-120.0, abs=2.0)


def test_absent_data_are_skipped_with_a_reason(bench, tmp_path, capsys):
    arguments = ["--sizes", "tiny", "--work", str(tmp_path / "work"), "--list", "--shared", str(tmp_path)]
    assert bench.main(arguments) == 0
    assert f"imdb: skipped, {tmp_path / 'data' / 'imdb'} is not there" in capsys.readouterr().err


def test_what_the_claims_rest_on_comes_before_further_ablations(bench, tmp_path):
    if not (bench.SHARED / "data" / "agnews").is_dir():
        pytest.skip("the data folder shared/ is not there")
    arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(tmp_path)])
    keys = [piece.key for piece in bench.plan(arguments, ["agnews", "sst2"])]
    assert len(set(keys)) == len(keys)
    assert keys[0] == "agnews/fit"
    assert keys.index("sst2/table") < keys.index("agnews-ablations/fit")
    assert keys[-1] == "agnews-ablations/table"
    for part in ("table", "ablations"):
        arguments.part = part
        some = [piece.key for piece in bench.plan(arguments, ["agnews", "sst2"])]
        assert some == [key for key in keys if ("ablations" in key) == (part == "ablations")]


def test_only_some_versions_can_be_made(bench, tmp_path):
    if not (bench.SHARED / "data" / "agnews").is_dir():
        pytest.skip("the data folder shared/ is not there")
    some = ["--ablations", "no-gates", "k-2", "--part", "ablations"]
    arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(tmp_path), *some])
    found = bench.plan(arguments, ["agnews"])
    assert [piece.name for piece in found] == ["fit", "mop", "mop.paper-fit", "mop.no-gates", "mop.k-2", "table"]
    assert "--ablations no-gates k-2 " in bench.command(arguments, found[-1])


def test_claims_that_rest_on_plain_fid_stay_as_they_were_made_and_are_said_to(bench, tmp_path):
    """The figures of the paper's tables as they stand: no energy distance, FID's excess without an interval."""
    arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(tmp_path)])
    kept = SCRIPT.parent / "results" / "paper.json"
    before = json.loads(kept.read_text(encoding="utf-8"))
    old = [name for name, run in before["runs"].items() if "energy" not in run["methods"]["mop"]]
    if not old:
        pytest.skip("all tables have an energy distance by now")
    bench.write_json(arguments.out, before)
    document = bench.results([], [], {}, arguments, bench.Ledger(tmp_path / "pieces.json"))
    text = arguments.docs.read_text()
    for name in old:
        for claim in (f"fid_cut_{name}", f"fid_cut_vs_paper_{name}"):
            assert document["claims"][claim] == before["claims"][claim]
        assert f"energy_cut_{name}" not in document["claims"]
        assert bench.CORPORA[name].title in text.partition("**: figures from before")[0]


def test_a_reduced_table_has_the_methods_named_and_no_fit_of_the_papers(bench, tmp_path):
    if not (bench.SHARED / "data" / "agnews").is_dir():
        pytest.skip("the data folder shared/ is not there")
    reduced = ["--methods", "zero-shot", "mop-uniform", "--best-seeds", "1", "--no-paper-fit"]
    arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(tmp_path), "--part", "table", *reduced])
    found = bench.plan(arguments, ["agnews"])
    assert [piece.name for piece in found] == [
        "fit", "zero-shot", "mop-uniform", "mop", "ceiling", "table"
    ]  # fmt: skip
    said = bench.command(arguments, found[-1])
    for option in ("--methods zero-shot mop-uniform", "--best-seeds 1", "--no-paper-fit"):
        assert option in said


def test_a_later_run_keeps_what_an_earlier_one_found_of_other_data_sets(bench, tmp_path):
    arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(tmp_path)])
    run = {
        "claims": {"fid_cut_imdb": {"value": -1.0, "interval": None, "target": -50.0, "met": False, "against": "x"}},
        "command": "command of the run", "commit": "abc", "machine": "a machine", "seconds": 3600.0, "seed": 0,
        "lm": "fake", "encoders": ["fake"], "encoder_dtype": "float32", "sizes": {"personas": 3},
        "drawing": bench.CORPORA["agnews"].drawing, "versions": {"python": "3"}, "methods": {"mop": {}},
        "floor": {}, "best_rivals": {},
        "n_responses": 24, "n_golden": 60, "text": ["| the table |"],
    }  # fmt: skip
    changed = {
        **run,
        "command": "command of the ablations",
        "text": ["| the ablations |"],
        "claims": {"fid_cut_vs_paper_imdb": {**run["claims"]["fid_cut_imdb"], "value": -2.0}},
    }
    bench.write_json(arguments.out, {"runs": {"imdb": run}, "changed": {"imdb": changed}})
    ledger = bench.Ledger(tmp_path / "pieces.json")
    document = bench.results([], [], {"sst2": "is not there"}, arguments, ledger)
    assert document["runs"] == {"imdb": run}
    assert document["changed"] == {"imdb": changed}
    assert document["claims"] == run["claims"] | changed["claims"]
    text = arguments.docs.read_text()
    for part in ("| `fid_cut_imdb` | -1.0 % | – | -50 % | no | x |",
                 "| `fid_cut_vs_paper_imdb` | -2.0 % |", "## IMDB", "    command of the run",
                 "commit abc; 1.00 hours", "in a prompt 3 (one drawn, and those most like it), of the label",
                 "factor on temperatures 0.75", "| the table |",
                 "    command of the ablations", "| the ablations |",
                 "SST-2: skipped", "**IMDB**: figures from before energy distance."):  # fmt: skip
        assert part in text


def test_claims_of_earlier_runs_are_worked_out_anew_and_those_that_cannot_be_are_kept(bench, tmp_path):
    arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(tmp_path)])
    old = {"value": 1.0, "interval": None, "target": 0.0, "met": False, "against": "x"}
    run = {
        "claims": {"mauve_gain_imdb": old, "fid_cut_vs_paper_imdb": old},
        "methods": {"mop": row(0.05, 0.8, 0.03, 0.85), "zerogen": row(0.1, 0.5, 0.2, 0.8)},
        "best_rivals": {"mauve": "zerogen"}, "command": "c", "commit": "abc", "machine": "m", "seconds": 1.0,
        "seed": 0, "lm": "fake", "encoders": ["fake"], "encoder_dtype": "float32", "sizes": {}, "text": [],
        "drawing": bench.CORPORA["imdb"].drawing, "versions": {}, "n_responses": 24, "n_golden": 60,
        "drawn_by": ["abc", "def"],
    }  # fmt: skip
    bench.write_json(arguments.out, {"runs": {"imdb": run}})
    document = bench.results([], [], {}, arguments, bench.Ledger(tmp_path / "pieces.json"))
    assert document["claims"]["mauve_gain_imdb"]["value"] == 60.0
    assert document["claims"]["fid_cut_vs_paper_imdb"] == old
    assert "from before energy distance" not in arguments.docs.read_text()
    assert "commit abc (responses also by def);" in arguments.docs.read_text()


def test_a_piece_that_came_out_as_it_was_was_made_when_it_first_was(bench, tmp_path, monkeypatch):
    ledger = bench.Ledger(tmp_path / "pieces.json")
    for commit, digest, made_by in (("a", "x", "a"), ("b", "x", "a"), ("c", "y", "c"), ("d", None, "d")):
        monkeypatch.setattr(bench, "made_now", lambda commit=commit: {"commit": commit})
        ledger.finish(bench.Piece("agnews", "table", "mop", 60.0, RunConfig()), 1.0, digest)
        assert ledger.done["agnews/mop"]["made"]["commit"] == made_by
        assert ledger.commits("agnews") == ([made_by] if digest else [])


def test_a_further_ablation_makes_the_table_anew_and_nothing_else(bench, tmp_path):
    ledger, config = bench.Ledger(tmp_path / "pieces.json"), RunConfig()
    more = replace(config, compare=replace(config.compare, ablations=("no-gates",)))
    for name in ("mop", "table"):
        ledger.finish(bench.Piece("agnews", "ablations", name, 60.0, config), 1.0, None)
        assert ledger.is_done(bench.Piece("agnews", "ablations", name, 60.0, more)) == (name == "mop")


def test_texts_that_are_cut_lie_apart_for_each_tokenizer_and_source(bench, tmp_path, monkeypatch):
    shared, work = tmp_path / "shared", tmp_path / "work"
    (shared / "data" / "imdb").mkdir(parents=True)

    def texts(folder):
        with gzip.open(folder / "train.jsonl.gz", "rt") as stream:
            return json.loads(stream.read())["response"]

    def prepared(text, tokens):
        for split in bench.SPLITS:
            packed = gzip.compress(json.dumps({"response": text}).encode(), mtime=0)
            (shared / "data" / "imdb" / f"{split}.jsonl.gz").write_bytes(packed)
        monkeypatch.setattr(bench, "cutter", lambda lm, n: (lambda text: text[:tokens], str(tokens)))
        arguments = bench.arguments_of(["--sizes", "tiny", "--work", str(work), "--shared", str(shared)])
        return bench.prepared("imdb", arguments)

    first, other, changed = prepared("abcdef", 3), prepared("abcdef", 2), prepared("xyz", 3)
    assert [texts(folder) for folder in (first, other, changed)] == ["abc", "ab", "xyz"]
    assert prepared("abcdef", 3) == first


def test_a_piece_made_again_has_the_time_of_the_longer_attempt(bench, tmp_path):
    ledger = bench.Ledger(tmp_path / "pieces.json")
    for seed, seconds in ((0, 70.0), (1, 5.0), (2, 80.0)):
        config = replace(RunConfig(), seed=seed)
        piece = bench.Piece("agnews", "table", "mop", 60.0, config)
        assert not ledger.is_done(piece)
        ledger.finish(piece, seconds, None)
        assert bench.Ledger(ledger.file).is_done(piece)
        assert ledger.seconds("agnews") == max(70.0, seconds)
