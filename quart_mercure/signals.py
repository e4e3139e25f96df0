"""Blinker signals as event sources."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from blinker import Signal

if TYPE_CHECKING:
    from .extension import MercureSSE

SignalCallback = Callable[[dict[str, Any]], Any]


def connect_signal(
    sse: Callable[[], MercureSSE],
    signal: Signal,
    topic: Any = None,
    data: Any = None,
    *,
    signal_name_as_type: bool = False,
    signal_kwargs_as_data: bool = False,
    marshaler: Callable[[Any], Any] | None = None,
    callback: SignalCallback | None = None,
    **publish_options: Any,
) -> Callable[..., Any]:
    """Publish an update each time `signal` is sent; return the receiver that was connected.

    The update's topic is `topic`, else the signal's name. `signal_kwargs_as_data` adds what the
    signal is sent with to `data`, and `marshaler` makes the update's data of that. A sender may
    give publish arguments of its own in a mapping `__mercure_publish__`. Last, `callback` may
    change the publish arguments, or return `False` to publish nothing.

    The receiver does not wait: publishing goes on in a background task of the application, which
    is what the signal's `send` returns for it.
    """

    def receiver(sender: Any, **sent: Any) -> Any:
        value = {**(data or {}), **sent} if signal_kwargs_as_data else data
        arguments = {**publish_options, "topic": topic}
        arguments["data"] = marshaler(value) if marshaler is not None else value
        if signal_name_as_type:
            arguments["type"] = signal.name  # type: ignore[attr-defined]
        own = getattr(sender, "__mercure_publish__", None)
        if isinstance(own, Mapping):
            arguments.update(own)
        if callback is not None and callback(arguments) is False:
            return None
        if arguments["topic"] is None:
            arguments["topic"] = signal.name  # type: ignore[attr-defined]
        if arguments["data"] is None:
            arguments["data"] = ""
        return sse().publish_in_background(**arguments)

    signal.connect(receiver, weak=False)
    return receiver
