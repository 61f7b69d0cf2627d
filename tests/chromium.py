"""A headless Chromium driven over its debugging pipe: what a page asks for, says and pops up is
written down."""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")

FLAGS = (
    "--headless",
    "--hide-scrollbars",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--remote-debugging-pipe",
)


class Browser:
    """One browser with one page; ``events`` is all that it reported."""

    def __init__(self, profile: Path) -> None:
        assert CHROMIUM is not None
        to_read, self._write = os.pipe()
        self._read, to_write = os.pipe()
        # Chromium reads commands from file descriptor 3 and answers on 4, separated by NUL.
        line = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(
            ["bash", "-c", line, CHROMIUM, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            pass_fds=(to_read, to_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(to_write)
        self._buffer = b""
        self._count = 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        pages = [t for t in self.call("Target.getTargets")["targetInfos"] if t["type"] == "page"]
        self._session = self.call("Target.attachToTarget", targetId=pages[0]["targetId"], flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        os.close(self._write)
        self._process.terminate()
        self._process.wait(timeout=20)
        os.close(self._read)

    def _message(self, timeout_s: float) -> dict[str, Any] | None:
        end = time.monotonic() + timeout_s
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._read], [], [], max(0.0, end - time.monotonic()))
            if not ready:
                return None
            chunk = os.read(self._read, 1 << 20)
            if not chunk:
                raise RuntimeError("the browser ended")
            self._buffer += chunk
        raw, _, self._buffer = self._buffer.partition(b"\0")
        message: dict[str, Any] = json.loads(raw)
        if message.get("method") == "Page.javascriptDialogOpening":
            self._send("Page.handleJavaScriptDialog", {"accept": False})
        if "method" in message:
            self.events.append(message)
        return message

    def _send(self, method: str, params: dict[str, Any]) -> int:
        self._count += 1
        command: dict[str, Any] = {"id": self._count, "method": method, "params": params}
        if self._session:
            command["sessionId"] = self._session
        os.write(self._write, json.dumps(command).encode() + b"\0")
        return self._count

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Send a command and wait for its answer."""
        number = self._send(method, params)
        while True:
            message = self._message(60)
            if message is None:
                raise RuntimeError(f"no answer to {method}")
            if message.get("id") == number:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                result: dict[str, Any] = message["result"]
                return result

    def open(self, path: Path) -> None:
        """Open a file and wait until it has loaded."""
        self.events.clear()
        self.call("Page.navigate", url=path.resolve().as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            if self._message(60) is None:
                raise RuntimeError("the page did not load")
        self.settle()

    def settle(self, quiet_s: float = 0.4) -> None:
        """Wait until the page has said nothing for a while."""
        while self._message(quiet_s) is not None:
            pass

    def run(self, script: str) -> Any:
        """Evaluate an expression in the page."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def emulate(self, *, width: int, height: int = 900, dark: bool = False, media: str = "") -> None:
        """Pretend a screen."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", media=media, features=[scheme])

    def picture(self, path: Path, *, clip: tuple[float, float, float, float] | None = None) -> None:
        """Save a picture of the page, or of a part (x, y, width, height)."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        x, y, width, height = clip or (0, 0, size["width"], size["height"])
        shot = self.call(
            "Page.captureScreenshot",
            captureBeyondViewport=True,
            clip={"x": x, "y": y, "width": width, "height": height, "scale": 1},
        )
        path.write_bytes(base64.b64decode(shot["data"]))

    def named(self, *methods: str) -> list[dict[str, Any]]:
        """Events of these kinds."""
        return [event["params"] for event in self.events if event["method"] in methods]

    @property
    def dialogs(self) -> list[str]:
        """Messages of the dialogs that opened."""
        return [event["message"] for event in self.named("Page.javascriptDialogOpening")]

    @property
    def complaints(self) -> list[str]:
        """Everything that reached the console, errors and refusals by the content policy
        included."""
        logged = [event["entry"]["text"] for event in self.named("Log.entryAdded")]
        called = [json.dumps(event["args"]) for event in self.named("Runtime.consoleAPICalled")]
        thrown = [json.dumps(event["exceptionDetails"]) for event in self.named("Runtime.exceptionThrown")]
        return logged + called + thrown

    @property
    def requests(self) -> list[str]:
        """Addresses that the page asked for."""
        return [event["request"]["url"] for event in self.named("Network.requestWillBeSent")]
