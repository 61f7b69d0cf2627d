"""Folders of models: no code, no pickles, our own errors."""

import ast
import contextlib
import json
from pathlib import Path

import pytest

pytest.importorskip("transformers")

import torch

from mop.backends import open_model
from mop.backends.encoder import open_encoder
from mop.errors import ConfigError
from mop.prompts import simulation_prompt
from mop.types import Branch, Decoding, GenerateRequest
from tiny_models import byte_tokenizer, tiny_llama

SRC = Path(__file__).parents[1] / "src" / "mop"
LOADERS = {"from_pretrained", "SentenceTransformer"}


def draw(folder):
    model = open_model(str(folder), device="cpu", dtype="float32")
    request = GenerateRequest((Branch(simulation_prompt("Hi"), 1.0),), 7)
    return [found for batch in model.generate([request], Decoding(max_tokens=3)) for found in batch]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A model that can be loaded, and nobody to answer a question on the terminal."""
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("builtins.input", lambda *a: pytest.fail("the terminal was asked"))
    place = tmp_path / "model"
    tiny_llama().save_pretrained(place)
    byte_tokenizer().save_pretrained(place)
    return place


def changed(file, **values):
    file.write_text(json.dumps({**json.loads(file.read_text()), **values}))


@pytest.mark.audit("H5")
def test_every_call_that_loads_a_model_refuses_code_pickles_and_the_network():
    found = 0
    for path in SRC.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if (
                not isinstance(node, ast.Call)
                or not isinstance(node.func, ast.Attribute)
                or node.func.attr not in LOADERS
            ):
                continue
            found += 1
            said = {word.arg: ast.unparse(word.value) for word in node.keywords}
            where = f"{path.name}:{node.lineno}"
            assert said.get("trust_remote_code") == "False", where
            assert said.get("local_files_only") == "True", where
            if "Tokenizer" not in ast.unparse(node.func):
                assert (
                    "'use_safetensors': True" in said.get("model_kwargs", "") or said.get("use_safetensors") == "True"
                ), where
    assert found >= 4


@pytest.mark.audit("H5")
def test_code_in_a_folder_is_never_run(folder):
    ran = folder.parent / "ran"
    (folder / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nfrom transformers import LlamaConfig as C, LlamaForCausalLM as M\n"
        "class Own(C):\n    model_type = 'own'\nclass OwnModel(M):\n    config_class = Own\n"
    )
    changed(
        folder / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Own", "AutoModelForCausalLM": "own.OwnModel"},
    )
    with pytest.raises(ConfigError, match=r"needs Python code of its own folder, which mop never runs; choose a model"):
        draw(folder)
    assert not ran.exists()


@pytest.mark.audit("H5")
def test_code_of_a_tokenizer_is_never_run(folder):
    ran = folder.parent / "ran"
    (folder / "own.py").write_text(f"open({str(ran)!r}, 'w')\n")
    changed(folder / "tokenizer_config.json", tokenizer_class="Own", auto_map={"AutoTokenizer": ["own.Own", None]})
    with contextlib.suppress(ConfigError):  # transformers may have a class of its own for these files
        draw(folder)
    assert not ran.exists()


@pytest.mark.audit("H5")
@pytest.mark.parametrize("kind", ["own.Own", "os.system"])
def test_code_of_an_encoder_is_never_run(tmp_path, monkeypatch, kind):
    monkeypatch.setenv("MOP_CACHE", str(tmp_path / "cache"))
    place, ran = tmp_path / "encoder", tmp_path / "ran"
    place.mkdir()
    (place / "own.py").write_text(
        f"open({str(ran)!r}, 'w')\nclass Own:\n    load = classmethod(lambda c, *a, **k: c())\n"
    )
    (place / "modules.json").write_text(json.dumps([{"idx": 0, "name": "0", "path": f"touch {ran}", "type": kind}]))
    (place / "config.json").write_text("{}")
    with pytest.raises(ConfigError, match=r"the encoder in .* cannot be loaded|never runs"):
        open_encoder(place).encode(["hello"])
    assert not ran.exists()


@pytest.mark.audit("H5")
@pytest.mark.advice
def test_weights_in_a_pickle_are_refused_and_the_cure_works(folder, capsys):
    weights = tiny_llama().state_dict()
    (folder / "model.safetensors").unlink()
    torch.save(weights, folder / "pytorch_model.bin")
    with pytest.raises(
        ConfigError, match=r"weights as a pickle \(pytorch_model\.bin\), which mop does not read"
    ) as error:
        draw(folder)
    advice = str(error.value).partition('python -c "')[2].removesuffix('"')
    exec(advice, {})  # what the message tells to do
    assert draw(folder)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"model_type": 3}', "null"])
def test_a_damaged_folder_is_an_error_of_ours(folder, text):
    (folder / "config.json").write_text(text)
    with pytest.raises(ConfigError, match=r"cannot be loaded"):
        draw(folder)


def test_an_adapter_without_its_base_is_refused(folder):
    (folder / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ConfigError, match=r"is an adapter without its base model; merge"):
        draw(folder)


def test_the_bounds_refuse_versions_that_run_code():
    bounds = (Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8")
    for bound in ("sentence-transformers>=6.0", "torch>=2.10", "datasets>=4.0"):
        assert f'"{bound}"' in bounds
