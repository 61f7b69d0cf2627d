"""Names of the Hub are commits in its cache, never folders here; nothing is fetched when that is forbidden."""

import pytest

pytest.importorskip("huggingface_hub")

import huggingface_hub as hub
import huggingface_hub.constants

from mop.backends import open_model
from mop.data.hub import hub_folder, is_offline, with_weights
from mop.data.pull import resolve, revision
from mop.data.sources import open_source
from mop.errors import ConfigError, DataError, PullError

COMMIT = "0123456789" * 4


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache that has the small files of one model, while nothing may be fetched; the working folder is another."""
    cache = tmp_path / "hub"
    folder = cache / "models--org--name" / "snapshots" / COMMIT
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    refs = folder.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(COMMIT)
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setenv("MOP_OFFLINE", "1")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.mark.audit("M3")
def test_a_folder_here_never_takes_the_place_of_a_name_of_the_hub(cached, tmp_path):
    shadow = tmp_path / "here" / "org" / "name"
    shadow.mkdir(parents=True)
    (shadow / "config.json").write_text('{"model_type": "llama"}')
    assert resolve("hf:org/name", kind="lm") == cached
    assert resolve("hf:org/name", kind="encoder") == cached
    assert revision("hf:org/name") == COMMIT
    assert resolve("org/name", kind="lm").resolve() == shadow  # without hf: it is the folder
    with pytest.raises(DataError, match=r"a folder 'org/name' lies here"):
        open_source("hf:org/name")


@pytest.mark.audit("M3")
@pytest.mark.parametrize(
    "name", ["hf:.", "hf:..", "hf:../x", "hf:./x", "hf:x/..", "hf:/etc", "hf:~/m", "hf:a/b/c", "hf:", "hf:-x/y"]
)
def test_a_path_is_no_name_of_the_hub(cached, name):
    for ask in (lambda: resolve(name, kind="lm"), lambda: revision(name), lambda: open_model(name)):
        with pytest.raises(ConfigError, match=r"is no Hugging Face name; it is written hf:ORG/NAME"):
            ask()


@pytest.mark.parametrize("said", ["1", "true", "YES", " on "])
def test_offline_nothing_is_asked_for(cached, monkeypatch, said):
    monkeypatch.setenv("MOP_OFFLINE", said)
    asked = []
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *a, **k: asked.append(a) or (_ for _ in ()).throw(OSError("no net"))
    )
    assert is_offline()
    with pytest.raises(PullError, match=r"'hf:no/such' is not in the Hugging Face cache .*MOP_OFFLINE=1 forbids"):
        open_model("hf:no/such")
    with pytest.raises(DataError, match=r"MOP_OFFLINE=1 forbids fetching 'hf:no/data'"):
        open_source("hf:no/data")
    assert not asked


def test_without_a_network_few_calls_are_tried(cached, monkeypatch):
    monkeypatch.delenv("MOP_OFFLINE")
    asked = []
    monkeypatch.setattr(
        "socket.getaddrinfo", lambda *a, **k: asked.append(a) or (_ for _ in ()).throw(OSError("no net"))
    )
    with pytest.raises(PullError, match=r"cannot find 'hf:no/such': .*check the name, the network, or HF_TOKEN"):
        revision("hf:no/such")
    assert len(asked) <= 2


def test_only_text_and_safetensors_are_fetched_and_weights_when_they_are_needed(cached, monkeypatch):
    monkeypatch.delenv("MOP_OFFLINE")
    calls = []

    def fetched(name, **how):
        calls.append(how["allow_patterns"])
        assert name == "org/name"
        if len(calls) > 1:
            assert how["revision"] == COMMIT  # all parts are of one commit
            (cached / "model.safetensors").write_bytes(b"")
        return str(cached)

    monkeypatch.setattr(hub, "snapshot_download", fetched)
    folder = hub_folder("org/name")
    assert with_weights(with_weights(folder)) == cached
    assert [pattern for pattern in calls[0] if "safetensors" in pattern] == []
    assert len(calls) == 2
    assert not [pattern for call in calls for pattern in call if pattern.endswith((".py", ".bin", "*"))]
    (cached / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-00001-of-00002.safetensors"}}')
    with_weights(folder)
    assert len(calls) == 3  # a part is missing
