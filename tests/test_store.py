"""The store: keys by content, round trips, damage, conflicts, several processes, a full disk."""

import itertools
import math
import os
import shutil
import sqlite3
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from mop.errors import ArtifactError, BackendError
from mop.prompts import simulation_prompt
from mop.storage.store import Cost, Store, embedding_key, generation_key, score_key
from mop.types import Branch, Decoding, GenerateRequest, Generation, Prompt, Score, ScoreRequest, Segment, Turn

NAUGHTY = ["", "\x00NUL\x00", "\u2028", "lone \ud800", "漢字 👩‍👩‍👧", "'; DROP TABLE score; --"]


def prompt(*segments, role="user"):
    return Prompt((Turn(role, tuple(Segment(text, is_data) for text, is_data in segments)),))


def key(number):
    return number.to_bytes(16, "little")


def score(*log_lik, n_tokens=3):
    return Score(np.array(log_lik, dtype=np.float32), n_tokens)


def generation(text="text", **changes):
    return Generation(**({"text": text, "n_tokens": 2, "finish_reason": "stop", "log_lik": -1.5} | changes))


def run_child(code, *arguments):
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )


def test_a_reference_is_kept_by_identity_and_also_in_a_store_that_was_made_without_any(tmp_path):
    path = tmp_path / "store.sqlite"
    Store(path).close()
    with sqlite3.connect(path) as db:
        db.execute("DROP TABLE reference")
    db.close()
    with Store(path) as store:
        assert store.get_reference("m") is None
        store.put_reference("m", (-1.5, -0.25))
        assert store.get_reference("m") == (-1.5, -0.25)
        assert store.get_reference("n") is None
        assert store.verify() == []
        store.put_reference("m", (-2.5,))
        assert store.get_reference("m") == (-2.5,)


def test_every_part_of_a_score_request_changes_its_key():
    requests = [
        ScoreRequest(prompt(("ab", True)), "y"),
        ScoreRequest(prompt(("ab", False)), "y"),
        ScoreRequest(prompt(("a", True), ("b", True)), "y"),
        ScoreRequest(prompt(("ab", True), role="system"), "y"),
        ScoreRequest(prompt(("ab", True)), "y "),
        ScoreRequest(prompt(("ab", True), ("", True)), "y"),
        ScoreRequest(prompt(("aby", True)), ""),
        ScoreRequest(Prompt(prompt(("ab", True)).turns * 2), "y"),
        ScoreRequest(Prompt(()), "aby"),
    ]
    keys = [score_key(identity, r) for identity in ("m", "n", "mu") for r in requests]
    assert len(set(keys)) == 3 * len(requests)
    assert {len(k) for k in keys} == {16}


def test_equal_requests_have_equal_keys():
    one, two = (ScoreRequest(prompt(("ab", True)), "y") for _ in range(2))
    assert one is not two
    assert score_key("m", one) == score_key("m", two)


def test_every_part_of_a_draw_changes_its_key():
    branch = Branch(prompt(("ab", True)), 0.6)
    request, decoding = GenerateRequest((branch,), 1), Decoding()
    variants = [
        ("m", request, decoding),
        ("n", request, decoding),
        ("m", replace(request, seed=2**64 - 1), decoding),
        ("m", replace(request, branches=(branch, branch)), decoding),
        ("m", replace(request, branches=(replace(branch, temperature=0.7),)), decoding),
        ("m", replace(request, branches=(replace(branch, prompt=prompt(("ac", True))),)), decoding),
        ("m", request, replace(decoding, max_tokens=127)),
        ("m", request, replace(decoding, min_tokens=1)),
        ("m", request, replace(decoding, top_p=0.9)),
        ("m", request, replace(decoding, top_k=50)),
    ]
    assert len({generation_key(*variant) for variant in variants}) == len(variants)


def test_keys_of_draws_are_those_of_earlier_versions():
    asked = simulation_prompt("Film: Up.", persona="You love films.")
    one, two = Branch(asked, 0.6), Branch(asked, 1.0)
    keys = [
        generation_key("m", GenerateRequest((one,), 3), Decoding()),
        generation_key("m", GenerateRequest((one, two), 3), Decoding(max_tokens=7)),
    ]
    assert [key.hex() for key in keys] == ["d30d2f81423909889914c7e1f83d068e", "cee0b27a52ac979a28e507ea9f9abc12"]


def test_kinds_of_keys_do_not_meet_and_lone_surrogates_are_told_apart():
    texts = ["", "a", "\ud800", "\ud801", "\ufffd", "?"]
    assert len({embedding_key("m", t) for t in texts}) == len(texts)
    assert embedding_key("ab", "c") != embedding_key("a", "bc")


@pytest.mark.parametrize("where", [":memory:", "store.sqlite"])
def test_what_is_put_comes_back_to_the_bit(tmp_path, where):
    path = where if where == ":memory:" else tmp_path / where
    scores = {key(i): score(-0.1 * i, -1e30, n_tokens=i + 1) for i in range(1200)}
    generations = {key(i): generation(text, finish_reason="length") for i, text in enumerate(NAUGHTY)}
    vectors = {key(i): np.full(384, i / 3, dtype=np.float32) for i in range(5)}
    with Store(path) as store:
        store.put_scores(scores.items())
        store.put_generations(generations.items())
        store.put_embeddings(vectors.items())
        back = store.get_scores([*scores, key(9999), key(1)])
        assert list(back.keys() - scores.keys()) == []
        assert all((back[k].log_lik == scores[k].log_lik).all() for k in scores)
        assert all(back[k].n_tokens == scores[k].n_tokens for k in scores)
        assert store.get_generations(generations) == generations
        found = store.get_embeddings(vectors)
        assert all((found[k] == v).all() and found[k].dtype == np.float32 for k, v in vectors.items())
        assert store.counts() == {"score": 1200, "generation": 6, "embedding": 5, "conflict": 0}
        assert store.verify() == []


def test_a_draw_without_a_log_likelihood_keeps_its_nan():
    with Store(":memory:") as store:
        store.put_generations([(key(1), generation(log_lik=math.nan))])
        assert math.isnan(store.get_generations([key(1)])[key(1)].log_lik)


def test_a_closed_store_holds_everything_in_one_file_beside_its_secret(tmp_path):
    with Store(tmp_path / "store.sqlite") as store:
        store.put_scores([(key(1), score(-1.0))])
    assert sorted(p.name for p in tmp_path.iterdir()) == ["store.sqlite", "store.sqlite.secret"]
    with Store(tmp_path / "store.sqlite") as store:
        assert store.get_scores([key(1)])[key(1)].log_lik.tolist() == [-1.0]


def test_the_first_value_stays_and_a_different_second_one_is_counted():
    with Store(":memory:") as store:
        store.put_scores([(key(1), score(-1.0))])
        store.put_scores([(key(1), score(-1.0))])
        assert store.counts()["conflict"] == 0
        store.put_scores([(key(1), score(-2.0))])
        store.put_scores([(key(1), score(-2.0))])  # the same again is no news
        assert store.get_scores([key(1)])[key(1)].log_lik.tolist() == [-1.0]
        assert store.counts()["conflict"] == 1
        assert store.verify() == ["1 times a question got a second, different answer"]


def test_a_row_costs_once_however_often_it_is_put():
    with Store(":memory:") as store:
        pairs = [(key(i), score(-1.0 * i, n_tokens=4)) for i in range(3)]
        store.put_scores(pairs)
        store.put_scores(pairs)
        store.put_scores([*pairs, (key(9), score(-9.0, n_tokens=5)), (key(9), score(-9.0, n_tokens=5))])
        store.put_generations([(key(1), generation())] * 2)
        assert store.counts() == {"score": 4, "generation": 1, "embedding": 0, "conflict": 0}
        assert store.spent() == {"score": Cost(4, 17), "simulate": Cost(1, 2)}


def test_costs_add_up_by_stage_and_survive():
    with Store(":memory:") as store:
        store.put_scores([(key(1), score(-1.0, n_tokens=4)), (key(2), score(-1.0, n_tokens=5))])
        store.put_scores([(key(3), score(-1.0, n_tokens=6))], stage="fit")
        store.put_generations([(key(1), generation(n_tokens=7))])
        store.put_scores([(key(4), score(-1.0, n_tokens=1))])
        store.put_scores([])
        assert store.spent() == {"score": Cost(3, 10), "fit": Cost(1, 6), "simulate": Cost(1, 7)}


def test_a_tally_counts_what_was_asked_for_found_or_put_once_each():
    with Store(":memory:") as store:
        store.put_generations([(key(1), generation(n_tokens=7)), (key(2), generation(n_tokens=5))])
        with store.tally() as tally:
            store.get_generations([key(1), key(1), key(3)], stage="simulate")
            store.put_generations([(key(3), generation(n_tokens=2))])
            store.get_generations([key(3)], stage="simulate")
            store.get_generations([key(2)])
            store.put_scores([(key(1), score(-1.0, n_tokens=4))], stage="fit")
        store.get_generations([key(2)], stage="simulate")
        assert tally.costs() == {"fit": Cost(1, 4), "simulate": Cost(2, 9)}
        assert store.spent()["simulate"] == Cost(3, 14)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_whole_batch(bad):
    with Store(":memory:") as store:
        message = r"a score of shape \(2,\) with 1 numbers that are not finite was to be stored"
        with pytest.raises(BackendError, match=message):
            store.put_scores([(key(1), score(-1.0, -2.0)), (key(2), score(-1.0, bad))])
        with pytest.raises(BackendError, match=r"an embedding of shape \(1,\) with 1 numbers"):
            store.put_embeddings([(key(1), np.array([bad], dtype=np.float32))])
        assert store.counts() == dict.fromkeys(("score", "generation", "embedding", "conflict"), 0)
        assert store.spent() == {}


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_an_infinite_likelihood_of_a_draw_is_refused_with_its_whole_batch(bad):
    with Store(":memory:") as store:
        with pytest.raises(BackendError, match=f"a draw with the log-likelihood {bad} was to be"):
            store.put_generations([(key(1), generation()), (key(2), generation(log_lik=bad))])
        assert store.counts()["generation"] == 0


def test_verify_finds_numbers_that_are_not_finite_under_a_right_checksum(tmp_path, monkeypatch):
    with monkeypatch.context() as patched, Store(tmp_path / "store.sqlite") as store:
        patched.setattr("numpy.isfinite", np.ones_like)  # as if an earlier version had let them in
        patched.setattr("math.isinf", lambda _: False)
        store.put_scores([(key(1), score(math.nan)), (key(2), score(-1.0))])
        store.put_embeddings([(key(1), np.array([1.0, -math.inf], dtype=np.float32))])
        store.put_generations([(key(1), generation(log_lik=-math.inf))])
        store.put_generations([(key(2), generation(log_lik=math.nan))])
    with Store(tmp_path / "store.sqlite") as store:
        assert store.verify() == [
            "1 score rows hold numbers that are not finite",
            "1 generation rows hold numbers that are not finite",
            "1 embedding rows hold numbers that are not finite",
        ]


def test_a_damaged_row_counts_as_missing_and_is_replaced(tmp_path, caplog):
    path = tmp_path / "store.sqlite"
    with Store(path) as store:
        store.put_scores([(key(i), score(-1.0 * i)) for i in range(3)])
        store.put_generations([(key(1), generation("before"))])
    db = sqlite3.connect(path)
    db.execute("UPDATE score SET payload = ? WHERE key = ?", (b"\x03\0\0\0\0\0\0\0", key(1)))
    db.execute("UPDATE generation SET payload = CAST('text' AS TEXT)")
    db.commit()
    db.close()
    with Store(path) as store:
        assert set(store.get_scores(map(key, range(3)))) == {key(0), key(2)}
        assert store.get_generations([key(1)]) == {}
        assert "1 damaged score rows" in caplog.text
        assert store.verify() == [
            "1 score rows are damaged and count as missing",
            "1 generation rows are damaged and count as missing",
        ]
        store.put_scores([(key(1), score(-1.0))])
        store.put_generations([(key(1), generation("after"))])
        assert store.spent() == {"score": Cost(4, 12), "simulate": Cost(2, 4)}
        assert store.get_scores([key(1)])[key(1)].log_lik.tolist() == [-1.0]
        assert store.get_generations([key(1)])[key(1)].text == "after"
        assert store.verify() == []


def test_no_flipped_byte_is_ever_served(tmp_path):
    path = tmp_path / "store.sqlite"
    values = {key(i): generation(f"text number {i} " * 3, log_lik=-i / 7) for i in range(60)}
    with Store(path) as store:
        store.put_generations(values.items())
    sound = path.read_bytes()
    rng = np.random.default_rng(5)
    n_missing = n_refused = 0
    for offset in rng.integers(0, len(sound), 400):
        damaged = bytearray(sound)
        damaged[offset] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            with Store(path) as store:
                found = store.get_generations(values)
        except ArtifactError:
            n_refused += 1
            continue
        assert all(values[k] == found[k] for k in found)
        n_missing += len(found) < len(values)
    assert n_missing > 20
    assert n_missing + n_refused < 400  # much of the file is empty space


def test_a_store_cut_short_is_refused_or_read_without_wrong_values(tmp_path):
    path = tmp_path / "store.sqlite"
    values = {key(i): generation(f"text number {i}") for i in range(200)}
    with Store(path) as store:
        store.put_generations(values.items())
    sound = path.read_bytes()
    for length in range(1, len(sound), 1999):
        path.write_bytes(sound[:length])
        try:
            with Store(path) as store:
                found = store.get_generations(values)
        except ArtifactError:
            continue
        assert all(values[k] == found[k] for k in found)


def test_a_file_that_is_no_database_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    path.write_text("hello, I am a text file and not a database at all\n" * 100)
    with pytest.raises(ArtifactError, match=r"store\.sqlite is damaged or no store of mop"):
        Store(path)


def test_a_foreign_database_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "store.sqlite"
    db = sqlite3.connect(path)
    db.execute("CREATE TABLE mails (id)")
    db.close()
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match="is an SQLite file, but not a store of mop"):
        Store(path)
    assert path.read_bytes() == before


def test_another_schema_version_is_refused(tmp_path):
    path = tmp_path / "store.sqlite"
    Store(path).close()
    db = sqlite3.connect(path)
    db.execute("PRAGMA user_version = 7")
    db.close()
    with pytest.raises(ArtifactError, match="is a store of version 7, this mop reads and writes 2"):
        Store(path)


def test_a_folder_that_is_not_there_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"cannot write .*store\.sqlite: No such file or directory; give a folder"):
        Store(tmp_path / "nowhere" / "store.sqlite")


FILL = """
import resource, sys
import numpy as np
from mop.errors import ArtifactError
from mop.storage.store import Store
from mop.types import Generation

store = Store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
n = 0
try:
    for n in range(10_000):
        text = str(n) * 500
        store.put_generations([(n.to_bytes(16, "little"), Generation(text, 1, "stop", 0.0))])
except ArtifactError as error:
    print(n, error)
"""


def test_a_full_disk_loses_nothing_and_the_run_goes_on_when_there_is_space(tmp_path):
    path = tmp_path / "store.sqlite"
    child = run_child(FILL, path)
    out, err = child.communicate(timeout=60)
    assert child.returncode == 0, err
    n, _, message = out.partition(" ")
    assert message.startswith(f"no space left to write {path}")
    with Store(path) as store:
        assert store.verify() == []
        assert store.counts()["generation"] == int(n) > 10
        assert store.spent()["simulate"].calls == int(n)
        store.put_generations([(key(int(n)), generation())])
        assert store.counts()["generation"] == int(n) + 1


WRITE = """
import sys
import numpy as np
from mop.storage.store import Store
from mop.types import Score

first = int(sys.argv[2])
with Store(sys.argv[1]) as store:
    for start in range(first, first + 600, 20):
        store.put_scores([
            (n.to_bytes(16, "little"), Score(np.array([-n], dtype=np.float32), 1))
            for n in range(start, start + 20)
        ])
"""


def test_several_processes_may_fill_a_new_store_at_once(tmp_path):
    path = tmp_path / "store.sqlite"
    children = [run_child(WRITE, path, first) for first in (0, 300, 600)]
    errors = [child.communicate(timeout=60)[1] for child in children]
    assert [child.returncode for child in children] == [0, 0, 0], errors
    with Store(path) as store:
        assert store.counts() == {"score": 1200, "generation": 0, "embedding": 0, "conflict": 0}
        found = store.get_scores(map(key, range(1200)))
        assert all(found[key(n)].log_lik[0] == -n for n in range(1200))
        assert store.spent()["score"].calls == 1200
        assert store.verify() == []


def test_a_copy_taken_under_a_dead_writer_is_whole(tmp_path):
    path, copy = tmp_path / "store.sqlite", tmp_path / "copy"
    copy.mkdir()
    store = Store(path)
    store.put_scores([(key(n), score(-1.0)) for n in range(50)])
    for file in tmp_path.glob("store.sqlite*"):  # the write-ahead log still holds the rows
        shutil.copy(file, copy)
    store.close()
    with Store(copy / "store.sqlite") as again:
        assert again.counts()["score"] == 50
        assert again.verify() == []


def test_many_keys_are_looked_up_in_chunks():
    with Store(":memory:") as store:
        store.put_scores([(key(n), score(-1.0)) for n in range(0, 3000, 2)])
        found = store.get_scores(itertools.chain(map(key, range(3000)), map(key, range(3000))))
        assert set(found) == {key(n) for n in range(0, 3000, 2)}
