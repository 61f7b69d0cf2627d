"""An interrupt during the import of a library that does not survive one is heard when the import is over."""

import signal
import subprocess
import sys
import threading
import time

import pytest

from mop.runs.interrupts import import_whole, undisturbed

FRAGILE = """
import os, signal
before = "began"
os.kill(os.getpid(), signal.{name})
after = "ended"
"""
PROGRAM = """
import importlib.util, signal, sys, time
from mop.runs.interrupts import import_whole
def stop(number, frame):
    raise KeyboardInterrupt
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, stop)
import_whole("fragile")
import_whole("fragile")
importlib.util.find_spec("fragile")  # to look is not to import
try:
    import fragile
    time.sleep(30)
except KeyboardInterrupt:
    print("heard", vars(sys.modules["fragile"]).get("after"))
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_an_import_runs_to_its_end_before_an_interrupt_is_heard(tmp_path, name):
    (tmp_path / "fragile.py").write_text(FRAGILE.format(name=name))
    found = subprocess.run([sys.executable, "-c", PROGRAM], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert found.stdout == "heard ended\n"


def test_without_it_the_import_breaks_off(tmp_path):
    (tmp_path / "fragile.py").write_text(FRAGILE.format(name="SIGINT") + "open('ended', 'w').close()\n")
    subprocess.run([sys.executable, "-c", "import fragile"], cwd=tmp_path, capture_output=True)
    assert not (tmp_path / "ended").exists()


def test_a_module_that_is_not_there_is_missing_as_ever():
    import_whole("no_such_module_at_all")
    with pytest.raises(ModuleNotFoundError, match="no_such_module_at_all"):
        __import__("no_such_module_at_all")


def test_handlers_come_back_and_other_threads_touch_none():
    before = signal.getsignal(signal.SIGINT)
    with undisturbed():
        assert signal.getsignal(signal.SIGINT) is not before
        inside = []

        def look() -> None:
            with undisturbed():
                inside.append(signal.getsignal(signal.SIGINT))

        thread = threading.Thread(target=look)
        thread.start()
        thread.join()
        assert inside == [signal.getsignal(signal.SIGINT)]
    assert signal.getsignal(signal.SIGINT) is before
    with pytest.raises(KeyboardInterrupt):
        with undisturbed():
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
        time.sleep(30)
