"""How many streams may be open: in total, for one client address, and under one token."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable

from ..errors import RequestRejected
from .options import HubOptions


class StreamLimits:
    """Counts open streams and refuses more than the options allow; 0 allows any number."""

    def __init__(self, options: HubOptions) -> None:
        self._limits = {
            "in total": options.max_streams,
            "from one address": options.max_streams_per_address,
            "under one token": options.max_streams_per_token,
        }
        self._open: Counter[tuple[str, Hashable]] = Counter()

    def take(self, address: Hashable, token: Hashable) -> tuple[tuple[str, Hashable], ...]:
        """Count one stream more; return what `release` takes when it is over.

        What is `None` (no known address, no token) is not counted. Raises `RequestRejected` (429)
        where it is one too many.
        """
        keys = {"in total": "", "from one address": address, "under one token": token}
        counted = tuple(
            (kind, key) for kind, key in keys.items() if self._limits[kind] and key is not None
        )
        for kind, key in counted:
            if self._open[kind, key] >= self._limits[kind]:
                raise RequestRejected(
                    429, f"too many streams {kind}: {self._limits[kind]}", (("retry-after", "10"),)
                )
        self._open.update(counted)
        return counted

    def release(self, counted: tuple[tuple[str, Hashable], ...]) -> None:
        """Count one stream less."""
        self._open.subtract(counted)
        for counter in counted:
            if not self._open[counter]:
                del self._open[counter]
