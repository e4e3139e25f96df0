"""Real servers, real sockets and a real browser for the tests."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

ROOT = Path(__file__).parent.parent
AUDIENCE = "https://hub.example/.well-known/mercure"
SECRET = "a secret for the tests, of 32 bytes or more"

UVICORN = ["uvicorn", "--host", "127.0.0.1", "--port", "{port}", "--log-level", "warning"]
SERVERS = {
    "hypercorn": ["hypercorn", "--bind", "127.0.0.1:{port}", "--graceful-timeout", "5"],
    "uvicorn": UVICORN,
    "granian": [
        *("granian", "--interface", "asgi", "--host", "127.0.0.1", "--port", "{port}"),
        *("--backpressure", "1000", "--log-level", "warning", "--workers-kill-timeout", "5"),
    ],
}


WAYS = SERVERS | {"uvicorn-direct": [*UVICORN, "--http", "quart_mercure.uvicorn:Protocol"]}
"""The servers, and the other ways in which they can be told to serve."""


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("conformance", "the hub to test, instead of ours")
    group.addoption("--hub-url", help="URL of a running hub")
    group.addoption("--hub-publisher-key", default=SECRET)
    group.addoption("--hub-subscriber-key", default=SECRET)
    group.addoption("--hub-audience", default=AUDIENCE)
    group.addoption("--hub-issuer", default=AUDIENCE)
    group.addoption("--hub-versions", default="0.x,1.0")


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@dataclass
class Server:
    """A server process; its output is in `log`."""

    name: str
    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def stop(self, timeout: float = 20) -> int:
        """End it as a service manager does, and return its exit status."""
        self.process.terminate()
        return self.process.wait(timeout)


Serve = Callable[..., Server]


def start_server(app: str, server: str, log: Path, port: int = 0, **environment: str) -> Server:
    """Start `module:app` under a server."""
    port = port or free_port()
    command = [part.format(port=port) for part in WAYS[server]]
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", *command, app],
            cwd=ROOT,
            env=coverage_environment() | environment,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    running = Server(server, f"http://127.0.0.1:{port}", process, log)
    wait_until_it_listens(running, port)
    return running


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Start `module:app` under a server; it is gone when the test ends."""
    started: list[Server] = []

    def start(app: str, server: str = "hypercorn", port: int = 0, **environment: str) -> Server:
        log = tmp_path / f"server-{len(started)}.log"
        started.append(start_server(app, server, log, port, **environment))
        return started[-1]

    yield start
    for running in started:
        if running.process.poll() is None:
            running.process.terminate()
            try:
                running.process.wait(10)
            except subprocess.TimeoutExpired:
                running.process.kill()
                running.process.wait()


def coverage_environment() -> dict[str, str]:
    return dict(os.environ) | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}


def wait_until_it_listens(server: Server, port: int, timeout: float = 30) -> None:
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            raise RuntimeError(f"{server.name} did not start:\n{server.log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError(f"{server.name} does not listen:\n{server.log.read_text()}")


def eventually(condition: Callable[[], bool], timeout: float = 15) -> None:
    """Wait for what another process does; fail when it does not come."""
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.02)


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=10) as client:
        yield client


def chromium_path() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    return next(filter(None, map(shutil.which, names)), None)
