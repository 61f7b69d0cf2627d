"""A port of this machine behind which something answers HTTP requests, well or as badly as it is told."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Protocol

from mop.errors import ConfigError

_MAX_REQUEST_BYTES = 8 * 2**20


@dataclass(slots=True)
class Reply:
    """An answer before it is sent, and what is done to it on the way."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)
    is_reset: bool = False
    """Close without an answer."""
    cut_at: int | None = None
    """Close after so many bytes of the body."""
    wait_s: float = 0.0
    """Before the first byte."""
    drip_s: float = 0.0
    """Between pieces of 16 bytes."""
    is_endless: bool = False
    """Repeat the body for ever."""


class Answering(Protocol):
    """What may stand behind a port; called from several threads."""

    def reply(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> Reply:
        """Answer one request; header names are in lower case."""
        ...


class RunningServer(ThreadingHTTPServer):
    """A port of this machine with something that answers behind it; a context manager."""

    daemon_threads = True
    block_on_close = False  # connections that hang are left to their threads
    request_queue_size = 256

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def wait(self) -> None:
        """Serve until interrupted."""
        while True:
            time.sleep(1.0)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that went away is what this server is for."""

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


def start(server: Answering, *, port: int = 0) -> RunningServer:
    """Serve on loopback in a thread; port 0 is any free one.

    Raises
    ------
    ConfigError
        If the port is taken, or above 65,535.
    """
    handler = type("Handler", (_Handler,), {"fake": server})
    try:
        running = RunningServer(("127.0.0.1", port), handler)
    except (OSError, OverflowError) as error:  # taken, or no number of a port
        why = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"port {port} of this machine cannot be used ({why}); give another one, or 0 for any"
        ) from error
    threading.Thread(target=running.serve_forever, args=(0.05,), daemon=True).start()
    return running


class _Handler(BaseHTTPRequestHandler):
    fake: Answering
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self._send(b"")

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        is_length = length.isascii() and length.isdigit()
        if not is_length or int(length[:20]) > _MAX_REQUEST_BYTES:
            self.close_connection = True
            self.send_error(413 if is_length else 411)
            return
        self._send(self.rfile.read(int(length)))

    def _send(self, body: bytes) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        reply = self.fake.reply(self.command, self.path, headers, body)
        if reply.is_reset:
            self.close_connection = True
            return
        time.sleep(reply.wait_s)
        with suppress(OSError):
            self._write(reply)

    def _write(self, reply: Reply) -> None:
        self.send_response_only(reply.status)
        headers = {"content-type": "application/json", **reply.headers}
        headers["content-length"] = "999999999" if reply.is_endless else str(len(reply.body))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        body = reply.body[: reply.cut_at]
        if reply.cut_at is not None or reply.is_endless:
            self.close_connection = True
        while True:
            step = 16 if reply.drip_s else len(body) or 1
            for place in range(0, len(body), step):
                self.wfile.write(body[place : place + step])
                self.wfile.flush()
                time.sleep(reply.drip_s)
            if not reply.is_endless:
                return

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing: requests hold people's words."""
