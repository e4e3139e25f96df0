"""Which subscribers select a topic, found without asking those who do not.

Exact topics are looked up. Patterns are kept under the text that everything they select begins
with, so that only those which could select a topic are tried, and what was found is remembered for
topics that come again.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator
from typing import Any, Generic, TypeVar

from .matchers import Kind, Matcher, kind_of, literal_prefix, matched_text

MAX_REMEMBERED_TOPICS = 10_000

_Member = TypeVar("_Member", bound=Hashable)


class MatcherIndex(Generic[_Member]):
    """The members that gave each matcher. Sets are dictionaries, which keep their order."""

    def __init__(self) -> None:
        self._exact: dict[str, dict[_Member, None]] = {}
        self._patterns: dict[Matcher, dict[_Member, None]] = {}
        self._by_prefix: dict[tuple[Kind, str], dict[Matcher, None]] = {}
        self._lengths: Counter[tuple[Kind, int]] = Counter()
        self._remembered: dict[str, tuple[Matcher, ...]] = {}

    def __len__(self) -> int:
        """Return how many different matchers there are."""
        return len(self._exact) + len(self._patterns)

    def add(self, matcher: Matcher, member: _Member) -> None:
        """Add a member under a matcher."""
        if matcher.is_exact:
            self._exact.setdefault(matcher.pattern, {})[member] = None
            return
        if matcher not in self._patterns:
            self._patterns[matcher] = {}
            self._file(matcher)
        self._patterns[matcher][member] = None

    def remove(self, matcher: Matcher, member: _Member) -> None:
        """Remove a member from a matcher; the last one takes the matcher along."""
        if matcher.is_exact:
            _remove(self._exact, matcher.pattern, member)
        elif _remove(self._patterns, matcher, member):
            self._take_out(matcher)

    def members(self, matcher: Matcher) -> Iterable[_Member]:
        """Return the members that gave exactly this matcher."""
        if matcher.is_exact:
            return tuple(self._exact.get(matcher.pattern, ()))
        return tuple(self._patterns.get(matcher, ()))

    def select(self, topics: Iterable[str]) -> dict[_Member, None]:
        """Return who selects one of `topics`; the caller must not keep or change it."""
        return union(self.groups(topics))

    def groups(self, topics: Iterable[str]) -> list[dict[_Member, None]]:
        """Return the members of each matcher that selects one of `topics`, as they are kept."""
        found: list[dict[_Member, None]] = []
        for topic in topics:
            if topic in self._exact:
                found.append(self._exact[topic])
            if self._patterns:
                found.extend(self._patterns[each] for each in self._selecting(topic))
        return found

    def _selecting(self, topic: str) -> tuple[Matcher, ...]:
        selecting = self._remembered.get(topic)
        if selecting is None:
            selecting = tuple(each for each in self._candidates(topic) if each.matches(topic))
            if len(self._remembered) >= MAX_REMEMBERED_TOPICS:
                self._remembered.clear()
            self._remembered[topic] = selecting
        return selecting

    def _candidates(self, topic: str) -> Iterator[Matcher]:
        """Yield the patterns whose prefix the topic has."""
        texts: dict[Kind, str | None] = {}
        for kind, length in self._lengths:
            if kind not in texts:
                texts[kind] = matched_text(kind, topic)
            text = texts[kind]
            if text is not None:
                yield from self._by_prefix.get((kind, text[:length]), ())

    def _file(self, matcher: Matcher) -> None:
        kind, prefix = kind_of(matcher), literal_prefix(matcher)
        self._by_prefix.setdefault((kind, prefix), {})[matcher] = None
        self._lengths[kind, len(prefix)] += 1
        self._remembered.clear()

    def _take_out(self, matcher: Matcher) -> None:
        kind, prefix = kind_of(matcher), literal_prefix(matcher)
        _remove(self._by_prefix, (kind, prefix), matcher)
        self._lengths[kind, len(prefix)] -= 1
        if not self._lengths[kind, len(prefix)]:
            del self._lengths[kind, len(prefix)]
        self._remembered.clear()


def union(groups: list[dict[_Member, None]]) -> dict[_Member, None]:
    """Return who is in one of the groups."""
    if len(groups) == 1:
        return groups[0]
    members: dict[_Member, None] = {}
    for group in groups:
        members.update(group)
    return members


def _remove(index: dict[Any, dict[Any, None]], key: Hashable, member: Hashable) -> bool:
    """Take a member out of an index; return whether that emptied its entry."""
    members = index[key]
    del members[member]
    if members:
        return False
    del index[key]
    return True
