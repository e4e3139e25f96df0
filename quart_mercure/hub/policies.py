"""What happens to a client that does not keep up: the bound of its queue, and the policy beyond."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING

from .matchers import Matcher, any_matches, parse_selector
from .options import HubOptions

if TYPE_CHECKING:
    from .queue import ClientQueue


class SlowClientPolicy(Enum):
    """What becomes of an update for which a client's queue has no room.

    With `DISCONNECT` the client is disconnected: it comes back with its last event id and is
    replayed what it missed. With `DROP_OLDEST` the oldest waiting updates of the same policy make
    room; with `DROP_NEWEST` the update itself is dropped. With `CONFLATE` an update replaces the
    one of its (canonical) topic that still waits, whether the queue is full or not; where even one
    per topic is too much, the client is disconnected.
    """

    DISCONNECT = "disconnect"
    DROP_OLDEST = "drop_oldest"
    DROP_NEWEST = "drop_newest"
    CONFLATE = "conflate"


@dataclass(slots=True)
class Counters:
    """What a broker has done since it began, in updates and clients.

    Attributes:
        published: updates that were published.
        delivered: updates handed to clients' connections, or put into their queues.
        dropped: updates that a client was to receive and did not: by a dropping policy, or
            because it was disconnected (then a replay brings them when it comes back).
        conflated: updates replaced by a newer one of their topic before they were sent.
        slow_clients: clients disconnected because their queue was full.
        timed_out: clients disconnected because a send did not finish in time.
        gaps: how often all streams were ended because the transport had lost events.
    """

    published: int = 0
    delivered: int = 0
    dropped: int = 0
    conflated: int = 0
    slow_clients: int = 0
    timed_out: int = 0
    gaps: int = 0


class QueueRules:
    """What all clients' queues of one broker have in common, and whom they tell.

    `policies` says which topics are treated otherwise than `policy` has it: the first matcher
    that selects one of an update's topics decides.
    """

    __slots__ = ("_policy_of", "counters", "max_bytes", "max_events", "on_change")

    def __init__(
        self,
        max_events: int,
        max_bytes: int,
        policy: SlowClientPolicy = SlowClientPolicy.DISCONNECT,
        policies: Sequence[tuple[Matcher, SlowClientPolicy]] = (),
    ) -> None:
        self.max_events = max_events
        self.max_bytes = max_bytes
        self.counters = Counters()
        self.on_change: Callable[[ClientQueue], None] = lambda _queue: None
        """Called when a queue falls behind and when it has caught up."""

        @lru_cache(maxsize=4096)
        def policy_of(topics: tuple[str, ...]) -> SlowClientPolicy:
            selecting = (chosen for matcher, chosen in policies if any_matches((matcher,), topics))
            return next(selecting, policy)

        self._policy_of: Callable[[tuple[str, ...]], SlowClientPolicy] = (
            policy_of if policies else lambda _topics: policy
        )

    def policy_of(self, topics: tuple[str, ...]) -> SlowClientPolicy:
        """Return the policy for an update of these topics."""
        return self._policy_of(topics)


def queue_rules(options: HubOptions) -> QueueRules:
    """Return the rules that the options ask for.

    Raises `ValueError` for a policy that there is not, `InvalidMatcher` for a selector that cannot
    be read.
    """
    return QueueRules(
        options.queue_events,
        options.queue_bytes,
        SlowClientPolicy(options.slow_client_policy),
        [
            (parse_selector(selector), SlowClientPolicy(policy))
            for selector, policy in options.slow_client_policies
        ],
    )
