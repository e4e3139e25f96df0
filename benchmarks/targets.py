"""The servers that are compared: how each is started, and what one should know of it."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from urllib.parse import urlsplit

from quart_mercure.tokens import mint

from .processes import ServerProcess, free_port

SECRET = "a secret for benchmarks, 32 bytes or more"
PATH = "/.well-known/mercure"
TOKEN = mint(SECRET, {"publish": ["*"]})

_HUB = ["-m", "quart_mercure", "hub", "--log-level", "error", "--bind", "127.0.0.1:{port}"]


@dataclass(frozen=True)
class Target:
    """A server under test. `ours` are the rows that the goals are about."""

    name: str
    command: tuple[str, ...]
    packages: tuple[str, ...] = ()
    ours: bool = False
    history: bool = True
    topics: bool = True
    answers_at_once: bool = True
    """Whether a stream's head comes before its first event."""
    environment: Mapping[str, str] = field(default_factory=dict)
    quiet: tuple[str, ...] = ()
    """What turns its subscription events off."""
    path: str = PATH
    token: str = TOKEN

    def start(self, *, subscriptions: bool = True) -> ServerProcess:
        port = free_port()
        extra = () if subscriptions else self.quiet
        command = [part.replace("{port}", str(port)) for part in (*self.command, *extra)]
        return ServerProcess([sys.executable, *command], port, self.environment)

    @property
    def versions(self) -> dict[str, str]:
        return {package: version(package) for package in self.packages}


@dataclass(frozen=True)
class RunningHub(Target):
    """A hub that is running already, whose processes are not ours to look at."""

    url: str = ""

    def start(self, *, subscriptions: bool = True) -> ServerProcess:
        return _Elsewhere(urlsplit(self.url).port or 80)


class _Elsewhere(ServerProcess):
    def __init__(self, port: int) -> None:
        self.port = port

    def cpu_seconds(self) -> float:
        return float("nan")

    def resident_bytes(self) -> int:
        return 0

    def stop(self) -> None:
        pass


def _hub(name: str, server: str, *packages: str) -> Target:
    return Target(
        name,
        (*_HUB, "--server", server),
        (server, *packages),
        ours=True,
        environment={
            "MERCURE_PUBLISHER_SECRET_KEY": SECRET,
            "MERCURE_SUBSCRIBER_SECRET_KEY": SECRET,
        },
        quiet=("--no-subscriptions",),
    )


_UVICORN = ("-m", "uvicorn", "--log-level", "error", "--no-access-log", "--port", "{port}")

TARGETS = {
    target.name: target
    for target in (
        Target(
            "raw writer",
            ("-m", "benchmarks.apps.raw", "{port}"),
            ("uvloop",),
            history=False,
            topics=False,
        ),
        _hub("uvicorn", "uvicorn", "uvloop", "httptools"),
        Target(
            "uvicorn, plain ASGI",
            (*_UVICORN, "benchmarks.apps.hub:hub"),
            ("uvicorn", "uvloop", "httptools"),
            ours=True,
        ),
        _hub("granian", "granian", "uvloop"),
        _hub("hypercorn", "hypercorn", "uvloop"),
        Target(
            "sse-starlette broadcaster",
            (*_UVICORN, "benchmarks.apps.broadcaster:app"),
            ("sse-starlette", "uvicorn"),
            history=False,
        ),
        Target(
            "flask-mercure-sse",
            (
                *("-m", "flask_mercure_sse.server", "--host", "127.0.0.1", "--port", "{port}"),
                *("--publisher-secret", SECRET, "--subscriber-secret", SECRET),
            ),
            ("flask-mercure-sse", "gevent"),
            history=False,
            answers_at_once=False,
            quiet=("--no-subscriptions",),
        ),
    )
}

APPLICATION = Target(
    "Quart under uvicorn",
    (*_UVICORN, "--http", "quart_mercure.uvicorn:Protocol", "benchmarks.apps.application:app"),
    ("quart", "uvicorn"),
    ours=True,
)
"""An application with the hub in its process."""


def running_hub(url: str, publisher_key: str) -> Target:
    """Return the target of a hub that runs at `url`."""
    token = mint(publisher_key, {"publish": ["*"]})
    return RunningHub("given hub", (), path=urlsplit(url).path, token=token, url=url)
