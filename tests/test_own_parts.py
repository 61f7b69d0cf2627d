"""Parts of one's own by name: found, made, and refused with what to do."""

import subprocess
import sys
from pathlib import Path

import pytest

from mop.backends import open_model
from mop.backends.encoder import open_encoder
from mop.config import method_and_tau, resolve_config
from mop.errors import ConfigError
from mop.own_parts import is_own, own_part, refuse_own, stamp_of

SOURCE = """
from mop.backends.encoder import FakeEncoder
from mop.backends.fake import FakeModel

class Mine(FakeEncoder):
    identity = "mine/1"

class Needy:
    def __init__(self, size): ...

model, number = FakeModel(), 3
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    """The folder of the command, with a module of the user's own."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parts_of_mine.py").write_text(SOURCE)
    yield tmp_path
    for name in [name for name in sys.modules if name.startswith(("parts_of_mine", "broken_part"))]:
        del sys.modules[name]


def test_a_name_is_code_only_in_its_form():
    assert is_own("a:b")
    assert is_own("pkg.mod:Cls")
    for name in (
        "hf:gpt2",
        "openai:m",
        "fake",
        "a/b",
        "C:/x",
        "a:",
        ":b",
        "a:b:c",
        "a b:c",
        None,
        "openai:toy@http://x:1",
    ):
        assert not is_own(name)


def test_an_encoder_and_a_model_are_found_by_name(here):
    assert open_encoder("parts_of_mine:Mine").identity == "mine/1"
    assert open_model("parts_of_mine:model").name == "fake"
    assert resolve_config(assignments=["model.encoder=parts_of_mine:Mine"]).model.encoder == "parts_of_mine:Mine"
    assert method_and_tau("parts_of_mine:model@0.5") == ("parts_of_mine:model", 0.5)
    assert stamp_of("parts_of_mine:Mine") == stamp_of("parts_of_mine:model@0.5") != ""
    assert stamp_of("zero-shot") == ""
    assert str(here) not in sys.path


@pytest.mark.parametrize(
    ("name", "message"),
    [("parts_of_mine:Min", r"has no 'Min'; did you mean parts_of_mine:Mine"),
     ("parts_of_mine:qqq", r"has no 'qqq'; write it in .*parts_of_mine\.py"),
     ("nosuchmodule:x", r"no module 'nosuchmodule'; run the command in the folder of nosuchmodule\.py, or"),
     ("parts_of_mine:Needy", r"Needy\(\) fails with TypeError: .*give it defaults, or name an object"),
     ("parts_of_mine:number", r"type int is no encoder: it lacks `identity`, `n_dims`, `encode`"),
     ("broken_part:x", r"broken_part fails with ZeroDivisionError"),
     ("broken_part2:x", r"broken_part2 needs nosuchpackage, which is not installed")],
)  # fmt: skip
def test_what_cannot_be_had_is_told(here, name, message):
    (here / "broken_part.py").write_text("1 / 0")
    (here / "broken_part2.py").write_text("import nosuchpackage.inner")
    with pytest.raises(ConfigError, match=message):
        open_encoder(name)


def test_a_model_that_is_none_is_told(here):
    with pytest.raises(Exception, match=r"can neither write nor score: to write it lacks `name`"):
        open_model("parts_of_mine:number")


@pytest.mark.advice
def test_the_folder_is_named_as_told(here, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    with pytest.raises(ConfigError, match="run the command in the folder of parts_of_mine.py"):
        own_part("parts_of_mine:Mine", "the encoder")
    monkeypatch.chdir(here)
    assert own_part("parts_of_mine:Mine", "the encoder").identity == "mine/1"


def test_a_file_of_the_folder_never_takes_the_place_of_a_package(here):
    (here / "json.py").write_text("raise SystemExit('shadowed')")
    (here / "numpy.py").write_text("raise SystemExit('shadowed')")
    code = "from mop.own_parts import own_part; print(own_part('parts_of_mine:Mine', 'x').encode(['a']).shape)"
    source = str(Path(__file__).parents[1] / "src")
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], cwd=here, env={"PYTHONPATH": source}, capture_output=True, text=True
    )
    assert done.stdout.strip() == "(1, 64)", done.stderr


def test_code_that_a_folder_names_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"names 'a:b', which is Python code, .*name it: load\(encoder='a:b'\)"):
        refuse_own("a:b", tmp_path, say="load(encoder='NAME')")
    refuse_own("minilm", tmp_path, say="")
    refuse_own(None, tmp_path, say="")
