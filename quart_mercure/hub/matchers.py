"""Topic matchers: which topics an expression selects. Pure: nothing here waits.

The 0.x protocol has one kind of expression, the *topic selector*: a topic, a URI template, or `*`.
Template matching runs on RE2, whose time is linear in the topic's length whatever the template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache

import re2

from ..errors import InvalidMatcher

MAX_PATTERN_LENGTH = 4096
"""The longest expression that is compiled, in characters."""


class MatcherType(Enum):
    """How the text of a matcher is read."""

    ANY = "*"
    EXACT = "exact"
    URI_TEMPLATE = "uritemplate"


@dataclass(frozen=True, slots=True)
class Matcher:
    """An expression that selects topics: its text and how the text is read."""

    type: MatcherType
    pattern: str

    def matches(self, topic: str) -> bool:
        """Return whether `topic` is selected."""
        if self.type is MatcherType.EXACT:
            return self.pattern == topic
        if self.type is MatcherType.ANY:
            return True
        return self.pattern == topic or _template_predicate(self.pattern)(topic)


ANY = Matcher(MatcherType.ANY, "*")


def exact(topic: str) -> Matcher:
    """Return the matcher of this topic alone."""
    return Matcher(MatcherType.EXACT, topic)


@lru_cache(maxsize=4096)
def parse_selector(text: str) -> Matcher:
    """Read a topic selector of the 0.x protocol.

    Text that is not a well-formed URI template (RFC 6570) selects only itself. Raises
    `InvalidMatcher` when it is longer than `MAX_PATTERN_LENGTH`.
    """
    if len(text) > MAX_PATTERN_LENGTH:
        raise InvalidMatcher(f"a topic selector is at most {MAX_PATTERN_LENGTH} characters long")
    if text == "*":
        return ANY
    if "{" in text:
        try:
            _template_predicate(text)
        except InvalidMatcher:
            return exact(text)
        return Matcher(MatcherType.URI_TEMPLATE, text)
    return exact(text)


def any_matches(matchers: Iterable[Matcher], topics: Iterable[str]) -> bool:
    """Return whether one of `matchers` selects one of `topics`."""
    topics = tuple(topics)
    return any(matcher.matches(topic) for matcher in matchers for topic in topics)


@lru_cache(maxsize=4096)
def _template_predicate(template: str) -> Callable[[str], bool]:
    options = re2.Options()
    options.log_errors = False
    try:
        compiled = re2.compile(template_expression(template), options)
    except re2.error as error:  # the compiled form would be larger than RE2 allows
        raise InvalidMatcher(f"the URI template is too complex: {template!r}") from error
    return lambda topic: compiled.fullmatch(topic) is not None


# RFC 6570, 3.2.1: operator -> (what comes first, separator, names are written, reserved allowed)
_OPERATORS = {
    "": ("", ",", False, False),
    "+": ("", ",", False, True),
    "#": ("#", ",", False, True),
    ".": (".", ".", False, False),
    "/": ("/", "/", False, False),
    ";": (";", ";", True, False),
    "?": ("?", "&", True, False),
    "&": ("&", "&", True, False),
}
_VARIABLE = re.compile(
    r"(?P<name>(?:\w|%[0-9A-Fa-f]{2})+(?:\.(?:\w|%[0-9A-Fa-f]{2})+)*)"
    r"(?P<modifier>\*|:[1-9]\d{0,3})?",
    re.ASCII,
)
_UNRESERVED = r"\-.0-9A-Z_a-z~"
_RESERVED = r":/?#\[\]@!$&'()*+,;="


def template_expression(template: str) -> str:
    """Return the regular expression of every text that `template` can expand to.

    Raises `InvalidMatcher` when it is not a URI template. Each expression may be absent, and a
    variable takes any run of the characters that its operator lets through.
    """
    parts: list[str] = []
    position = 0
    for match in re.finditer(r"\{([^{}]*)\}", template):
        parts.append(_literal(template[position : match.start()]))
        parts.append(_expression(match[1]))
        position = match.end()
    parts.append(_literal(template[position:]))
    return "".join(parts)


def _literal(text: str) -> str:
    if "{" in text or "}" in text:
        raise InvalidMatcher("a URI template needs matching braces")
    return str(re2.escape(text))


def _expression(text: str) -> str:
    operator = text[:1] if text[:1] in _OPERATORS else ""
    first, separator, named, reserved = _OPERATORS[operator]
    variables = []
    for spec in text[len(operator) :].split(","):
        variable = _VARIABLE.fullmatch(spec)
        if variable is None:
            raise InvalidMatcher(f"a URI template has no variable like {spec!r}")
        variables.append(variable)
    exploded = any(variable["modifier"] == "*" for variable in variables)
    value = _characters(reserved=reserved, pairs=named or exploded)
    more = rf"(?:{re2.escape(separator)}{value})"
    repeat = "*" if exploded else f"{{0,{len(variables) - 1}}}" if len(variables) > 1 else "{0}"
    return f"(?:{re2.escape(first)}{value}{more}{repeat})?"


def _characters(*, reserved: bool, pairs: bool) -> str:
    allowed = _UNRESERVED + ("," if not reserved else _RESERVED) + ("=" if pairs else "")
    return rf"(?:[{allowed}]|%[0-9A-Fa-f]{{2}})*"
