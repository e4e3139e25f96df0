"""What ASGI servers offer beyond ASGI: news of their shutdown, and a way to drop a connection.

ASGI says `lifespan.shutdown` only after the last response has ended, which an event stream never
does by itself. So a hub also listens where each server can be heard earlier: uvicorn and granian
act on a signal in the process that serves; hypercorn's workers set an event. What a server lacks is
skipped: the hub then learns of the shutdown from the lifespan alone.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from types import FrameType, FunctionType, MethodType
from typing import Any, cast

Send = Callable[[Any], Awaitable[None]]

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SILENCE_LIMIT_MS = 60_000

_MOST_WRAPPERS = 50


def configured_workers(
    arguments: Sequence[str] | None = None, environment: Mapping[str, str] = os.environ
) -> int:
    """Return how many processes this server was told to run, as far as that can be seen; or 1.

    That is in the server's command line, which its workers know, too, or in the environment.
    """
    arguments = sys.argv if arguments is None else arguments
    given = [environment.get(name, "") for name in ("WEB_CONCURRENCY", "GRANIAN_WORKERS")]
    for option, value in zip(arguments, (*arguments[1:], ""), strict=True):
        name, _, joined = option.partition("=")
        if name in ("--workers", "-w"):
            given.append(joined or value)
    return max((int(each) for each in given if each.isascii() and each.isdigit()), default=1)


class SignalListener:
    """Hears the signals that end a server, and hands them on to the server's own handlers."""

    def __init__(self, callback: Callable[[], None], loop: asyncio.AbstractEventLoop) -> None:
        self._callback = callback
        self._loop = loop
        self._previous: dict[int, Callable[[int, FrameType | None], Any]] = {}

    def start(self) -> None:
        """Go before the handlers that are there.

        Where none is, the process's default of ending at once is left alone.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        for number in _SIGNALS:
            previous = signal.getsignal(number)
            if callable(previous) and previous is not signal.default_int_handler:
                self._previous[number] = previous
                signal.signal(number, self._heard)

    def stop(self) -> None:
        """Put the handlers back that were there before, unless somebody replaced them since."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number, previous in self._previous.items():
            if signal.getsignal(number) == self._heard:
                signal.signal(number, previous)
        self._previous.clear()

    def _heard(self, number: int, frame: FrameType | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._callback)
        previous = self._previous.get(number)
        if previous is not None:
            previous(number, frame)


def _owners(send: Send) -> Iterator[Any]:
    """Yield the objects that `send` is a method of, looking through what middleware wraps it in.

    Middleware hands a closure on, or a method of an object that holds the `send` it was given.
    """
    pending: list[Any] = [send]
    seen: set[int] = set()
    while pending and len(seen) < _MOST_WRAPPERS:
        function = pending.pop(0)
        if id(function) in seen:
            continue
        seen.add(id(function))
        owner = getattr(function, "__self__", None)
        if owner is not None:
            yield owner
            pending.append(getattr(owner, "send", None))
        cells = getattr(function, "__closure__", None) or ()
        pending.extend(cell.cell_contents for cell in cells if _is_function(cell))
        pending = [each for each in pending if callable(each)]


def _is_function(cell: Any) -> bool:
    try:
        return isinstance(cell.cell_contents, FunctionType | MethodType)
    except ValueError:  # an empty cell
        return False


def termination_event(send: Send) -> Any | None:
    """Return hypercorn's event of the worker's end, found from a request's `send`, or `None`."""
    for owner in _owners(send):
        terminated = getattr(getattr(owner, "context", None), "terminated", None)
        if callable(getattr(terminated, "wait", None)):
            return terminated
    return None


def transport_of(send: Send) -> asyncio.WriteTransport | None:
    """Return the connection under a request's `send`, where it carries this request alone."""
    for owner in _owners(send):
        transport: Any = getattr(owner, "transport", None)  # uvicorn
        if transport is None:  # hypercorn: the stream, its protocol, the connection
            protocol = getattr(getattr(owner, "send", None), "__self__", None)
            if type(protocol).__name__ == "H2Protocol":
                return None
            connection = getattr(getattr(protocol, "send", None), "__self__", None)
            transport = getattr(getattr(connection, "writer", None), "transport", None)
        if hasattr(transport, "abort"):
            return cast("asyncio.WriteTransport", transport)
    return None


def abort(send: Send) -> None:
    """Drop the connection of a client that does not read, so that it holds nothing up."""
    transport = transport_of(send)
    if transport is not None:
        transport.abort()


def limit_silence(send: Send) -> None:
    """Let the kernel give up a client whose network is gone: it acknowledges nothing any more."""
    transport = transport_of(send)
    option = getattr(socket, "TCP_USER_TIMEOUT", None)
    if transport is None or option is None:
        return
    connection = transport.get_extra_info("socket")
    if connection is not None and connection.family in (socket.AF_INET, socket.AF_INET6):
        connection.setsockopt(socket.IPPROTO_TCP, option, _SILENCE_LIMIT_MS)
