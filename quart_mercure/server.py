"""The standalone hub: `quart-mercure hub`, under any of three ASGI servers."""

from __future__ import annotations

import dataclasses
import gc
import json
import os
import secrets
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import click

from .errors import ConfigurationError
from .hub import Hub, HubOptions
from .tokens import mint

ServerName = Literal["hypercorn", "uvicorn", "granian"]

_ENVIRONMENT = "QUART_MERCURE_STANDALONE_HUB"
_TARGET = f"{__name__}:hub_from_environment"

MAX_STREAMS = 100_000
"""What granian is told of its backpressure, and the kernel's limit of open files bounds anyway."""


MAX_REQUESTS = 1_000_000
"""How many requests hypercorn serves on one connection; its own default is 1,000."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """How the standalone hub is served."""

    bind: str
    server: ServerName = "hypercorn"
    workers: int = 1
    log_level: str = "info"
    certfile: str | None = None
    keyfile: str | None = None

    @property
    def address(self) -> tuple[str, int]:
        """The host and the port. Raises `ConfigurationError` when `bind` is not `host:port`."""
        host, _, port = self.bind.rpartition(":")
        if not port.isascii() or not port.isdigit() or int(port) > 65535:
            raise ConfigurationError("--bind", f"must be host:port, not {self.bind!r}")
        return host.strip("[]") or "0.0.0.0", int(port)

    @property
    def origin(self) -> str:
        """The URL of the server for a client on the same machine."""
        scheme = "https" if self.certfile else "http"
        host, port = self.address
        return f"{scheme}://{'localhost' if host in ('0.0.0.0', '::') else host}:{port}"


def hub_from_environment() -> Hub:
    """Return the hub that `serve` describes to the processes that serve it."""
    # A hub's objects live long and are in few cycles: looking for those often only costs time.
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
    stored = json.loads(os.environ[_ENVIRONMENT])
    restored: dict[str, Any] = {
        name: _as_tuples(value) if isinstance(value, list) else value
        for name, value in stored.items()
    }
    return Hub(HubOptions(**restored))


def _as_tuples(value: list[Any]) -> tuple[Any, ...]:
    return tuple(_as_tuples(item) if isinstance(item, list) else item for item in value)


def serve(options: HubOptions, serving: Serving) -> int:
    """Serve a hub until the process is told to end; return its exit status."""
    if serving.workers > 1 and options.transport_url.startswith("memory:"):
        click.echo(
            f"WARNING: {serving.workers} workers with a memory transport are as many hubs: a "
            "subscriber sees only what is published to its own worker. Use one worker, or another "
            "--transport.",
            err=True,
        )
    os.environ[_ENVIRONMENT] = json.dumps(dataclasses.asdict(options))
    runners: dict[str, Callable[[Serving], int]] = {
        "hypercorn": _hypercorn,
        "uvicorn": _uvicorn,
        "granian": _granian,
    }
    try:
        return runners[serving.server](serving)
    except ImportError as error:
        raise ConfigurationError(
            "--server", f"needs: pip install 'quart-mercure[{serving.server}]' ({error})"
        ) from error


def _hypercorn(serving: Serving) -> int:
    from hypercorn.config import Config
    from hypercorn.run import run

    config = Config()
    config.application_path = f"{_TARGET}()"
    config.bind = [serving.bind]
    config.workers = serving.workers
    config.loglevel = serving.log_level
    config.certfile, config.keyfile = serving.certfile, serving.keyfile
    config.keep_alive_max_requests = MAX_REQUESTS  # publishers keep their connections
    config.worker_class = "uvloop" if _has_uvloop() else "asyncio"
    return run(config)


def _uvicorn(serving: Serving) -> int:
    import uvicorn

    from .uvicorn import Protocol

    host, port = serving.address
    # uvicorn ends by raising the signal that ended it once more; let that be no failure.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    uvicorn.run(
        _TARGET,
        factory=True,
        host=host,
        port=port,
        workers=serving.workers,
        log_level=serving.log_level,
        access_log=False,
        http=Protocol,
        ssl_certfile=serving.certfile,
        ssl_keyfile=serving.keyfile,
    )
    return 0


def _granian(serving: Serving) -> int:
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from granian.server import Server

    host, port = serving.address
    Server(
        _TARGET,
        factory=True,
        address=host,
        port=port,
        interface=Interfaces.ASGI,
        workers=serving.workers,
        backpressure=MAX_STREAMS,
        workers_kill_timeout=5,
        log_level=LogLevels(serving.log_level),
        ssl_cert=Path(serving.certfile) if serving.certfile else None,
        ssl_key=Path(serving.keyfile) if serving.keyfile else None,
    ).serve()
    return 0


def _has_uvloop() -> bool:
    try:
        import uvloop  # noqa: F401
    except ImportError:
        return False
    return True


def with_development_keys(options: HubOptions, serving: Serving) -> HubOptions:
    """Return options with keys: where none is given, new ones, printed with a way to use them."""
    if options.publisher_key or options.subscriber_key or options.issuers:
        return options
    options = dataclasses.replace(
        options, publisher_key=secrets.token_hex(32), subscriber_key=secrets.token_hex(32)
    )
    url = f"{serving.origin}{options.path}"
    publisher = mint(options.publisher_key, {"publish": ["*"]})
    lines = (
        "No keys were given: these are for development, and gone when the hub ends.",
        f"  publisher key:  {options.publisher_key!s}",
        f"  subscriber key: {options.subscriber_key!s}",
        "",
        "Listen:",
        f"  curl -N '{url}?topic=messages'",
        "Publish:",
        f"  curl -H 'Authorization: Bearer {publisher}' -d topic=messages -d data=hello {url}",
        "",
    )
    click.echo("\n".join(lines))
    sys.stdout.flush()
    return options
