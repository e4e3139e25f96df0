"""From objects to what is published: any object to a topic name, any object to text."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

from .errors import InvalidUpdate

_MAX_UNWRAPPED = 10


class URLPattern(str):
    """A topic that is a URL pattern, for protocol 1.0: `URLPattern("/books/:id")`.

    It selects topics in subscriptions and in tokens; nothing is published to it.
    """

    __slots__ = ()

    def __str__(self) -> str:
        return str.__str__(self)


def as_topic(obj: Any) -> str:
    """Return the topic that `obj` stands for.

    A string is itself; a class is its name; any other object is what its `__mercure_sse_topic__`
    says, else `ClassName/{id}` with its primary key, `id` or `pk`. `__mercure_sse_topic__` may be
    a string, a property or a method, on the class too. Raises `TypeError` when none applies.
    """
    if isinstance(obj, URLPattern):
        return obj
    if isinstance(obj, str):
        return str(obj)
    declared = declared_topic(obj)
    if declared is not None:
        return declared
    if isinstance(obj, type):
        return obj.__name__
    identity = _identity(obj)
    if identity is None:
        raise TypeError(
            f"{type(obj).__name__} object is no topic: pass a string, a class, or an object with "
            "__mercure_sse_topic__, an id, a pk or a primary key that is set"
        )
    return f"{type(obj).__name__}/{identity}"


def declared_topic(obj: Any) -> str | None:
    """Return what the `__mercure_sse_topic__` of `obj` says, or `None` when it has none."""
    topic = getattr(obj, "__mercure_sse_topic__", None)
    if isinstance(obj, type) and not isinstance(topic, str):
        return None  # a property or a method, meant for the instances
    if callable(topic):
        topic = topic()
    if topic is None or isinstance(topic, str):
        return topic
    raise TypeError(f"__mercure_sse_topic__ of {type(obj).__name__} must be a string")


def _identity(obj: Any) -> str | None:
    sqlalchemy = sys.modules.get("sqlalchemy")
    if sqlalchemy is not None:
        state = sqlalchemy.inspect(obj, raiseerr=False)
        if state is not None and hasattr(state, "mapper"):
            key = state.mapper.primary_key_from_instance(obj)
            return None if None in key else "/".join(map(str, key))
    for name in ("id", "pk"):
        value = getattr(obj, name, None)
        if value is not None:
            return str(value)
    return None


def split_publication(obj: Any) -> tuple[Any, Any]:
    """Return the topic and the data of an object that is published alone.

    A string, or a list of topics, is published without data. An object may say both in
    `__mercure_sse__`; otherwise it is the data, its topic the declared one, or its class.
    """
    if isinstance(obj, str | list | tuple):
        return obj, ""
    if hasattr(obj, "__mercure_sse__"):
        topic, data = obj.__mercure_sse__()
        return topic, data
    return declared_topic(obj) or type(obj).__name__, obj


async def as_data(obj: Any, dumps: Callable[[Any], str]) -> str:
    """Return the text of an update.

    Awaitables are awaited and `__mercure_sse_data__` (plain or async) is called, until there is
    text, UTF-8 bytes, markup, or something that `dumps` makes JSON of. Raises `InvalidUpdate` for
    anything else.
    """
    for _ in range(_MAX_UNWRAPPED):
        if inspect.isawaitable(obj):
            obj = await obj
        elif hasattr(obj, "__mercure_sse_data__") and not isinstance(obj, type):
            obj = obj.__mercure_sse_data__()
        else:
            return _as_text(obj, dumps)
    raise InvalidUpdate("data", f"is still {type(obj).__name__} after {_MAX_UNWRAPPED} steps")


def _as_text(obj: Any, dumps: Callable[[Any], str]) -> str:
    if isinstance(obj, str):
        return str(obj)
    if isinstance(obj, bytes | bytearray):
        try:
            return obj.decode()
        except UnicodeDecodeError:
            raise InvalidUpdate("data", "must be UTF-8 when it is bytes") from None
    if hasattr(obj, "__html__"):
        return str(obj.__html__())
    try:
        return dumps(obj)
    except (TypeError, ValueError) as error:
        raise InvalidUpdate("data", f"cannot be written as JSON: {error}") from error
