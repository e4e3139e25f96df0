"""Topic matchers: which topics an expression selects. Pure: nothing here waits.

Protocol 1.0 has exact matchers and URL patterns; 0.x has one kind of expression, the *topic
selector*: a topic or a URI template. In both, `*` selects every topic. Patterns are matched by
engines whose time is linear in the topic's length, whatever the pattern: RE2 for templates, Rust's
regex for URL patterns.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from urllib.parse import unquote

import re2
from urlpattern import URLPattern

from ..errors import InvalidMatcher, InvalidUpdate
from ..update import check_text

MAX_PATTERN_LENGTH = 4096
"""The longest expression that is read, in characters."""

WILDCARD = "*"


class MatcherType(Enum):
    """How the text of a matcher is read; the value is the name in protocol 1.0."""

    EXACT = "exact"
    URL_PATTERN = "urlpattern"
    URI_TEMPLATE = "uritemplate"


@dataclass(frozen=True, slots=True)
class Matcher:
    """An expression that selects topics: its text and how the text is read.

    `base` is the hub's URL, against which relative URL patterns and topics are resolved.
    """

    type: MatcherType
    pattern: str
    base: str = ""

    @property
    def is_exact(self) -> bool:
        """Whether it selects the one topic that is its text."""
        return self.type is MatcherType.EXACT and self.pattern != WILDCARD

    def matches(self, topic: str) -> bool:
        """Return whether `topic` is selected."""
        if self.pattern == WILDCARD:
            return True
        if self.type is MatcherType.EXACT:
            return self.pattern == topic
        if self.type is MatcherType.URL_PATTERN:
            return bool(_url_pattern(self.pattern, self.base).test(topic, self.base))
        return self.pattern == topic or _template_predicate(self.pattern)(topic)


def exact(topic: str) -> Matcher:
    """Return the matcher of this topic alone, or of all for `"*"`."""
    return Matcher(MatcherType.EXACT, topic)


@lru_cache(maxsize=4096)
def parse_matcher(type_name: str, text: str, base: str) -> Matcher:
    """Read a topic matcher of protocol 1.0 (specification: Matcher Types).

    Raises `InvalidMatcher` for a type that is not known, and for text that is too long, has
    forbidden characters, or is no well-formed URL pattern.
    """
    names = (MatcherType.EXACT.value, MatcherType.URL_PATTERN.value)
    if text == WILDCARD:  # recognised before the type is
        return Matcher(MatcherType(type_name) if type_name in names else MatcherType.EXACT, text)
    if type_name not in names:
        raise InvalidMatcher(f"{type_name!r} is no matcher type")
    if len(text) > MAX_PATTERN_LENGTH:
        raise InvalidMatcher(f"a topic matcher is at most {MAX_PATTERN_LENGTH} characters long")
    try:
        check_text("match", text)
    except InvalidUpdate as error:
        raise InvalidMatcher(str(error)) from None
    if type_name == MatcherType.EXACT.value:
        return exact(text)
    _url_pattern(text, base)
    return Matcher(MatcherType.URL_PATTERN, text, base)


@lru_cache(maxsize=4096)
def _url_pattern(pattern: str, base: str) -> URLPattern:
    try:
        return URLPattern(pattern, base)
    except ValueError as error:
        raise InvalidMatcher(f"{pattern!r} is no URL pattern: {error}") from None


_ANY_URL = URLPattern({})
_UNRESERVED_OCTET = re.compile(
    "%(?:2[dDeE]|3[0-9]|4[1-9a-fA-F]|5[0-9aAfF]|6[1-9a-fA-F]|7[0-9aAeE])"
)


def resolved_path(topic: str, base: str) -> str | None:
    """Return the path of a topic resolved against the hub's URL; `None` if it is no URL reference.

    Dot segments are removed and percent-encoded unreserved characters decoded, so that all
    spellings of a path are the same (specification: Publication).
    """
    found = _ANY_URL.exec(topic, base)
    if found is None:
        return None
    path: str = found["pathname"]["input"]
    return _UNRESERVED_OCTET.sub(lambda octet: unquote(octet[0]), path)


Kind = tuple[MatcherType, str]
"""How a pattern is matched, and against which base: patterns of one kind see the same text."""

_SPECIAL_IN_PATH = re.compile(r"[*:{}(\\+?]")


def kind_of(matcher: Matcher) -> Kind:
    """Return the kind of a pattern; the wildcard is of one of its own."""
    if matcher.pattern == WILDCARD:
        return MatcherType.EXACT, ""
    return matcher.type, matcher.base


def matched_text(kind: Kind, topic: str) -> str | None:
    """Return the part of a topic whose beginning `literal_prefix` speaks of.

    That is the topic itself, or the path of the URL that a URL pattern sees; `None` where the
    topic is no URL reference, and no URL pattern selects it.
    """
    matcher_type, base = kind
    if matcher_type is not MatcherType.URL_PATTERN:
        return topic
    found = _ANY_URL.exec(topic, base)
    return None if found is None else str(found["pathname"]["input"])


@lru_cache(maxsize=4096)
def literal_prefix(matcher: Matcher) -> str:
    """Return what the matched text of every topic that a pattern selects begins with."""
    if matcher.pattern == WILDCARD:
        return ""
    if matcher.type is not MatcherType.URL_PATTERN:
        return matcher.pattern.partition("{")[0]
    path: str = _url_pattern(matcher.pattern, matcher.base).pathname
    special = _SPECIAL_IN_PATH.search(path)
    # The slash before a group belongs to the group and is as optional as that.
    return path if special is None else path[: special.start()].removesuffix("/")


@lru_cache(maxsize=4096)
def parse_selector(text: str) -> Matcher:
    """Read a topic selector of the 0.x protocol.

    Text that is not a well-formed URI template (RFC 6570) selects only itself. Raises
    `InvalidMatcher` when it is longer than `MAX_PATTERN_LENGTH`.
    """
    if len(text) > MAX_PATTERN_LENGTH:
        raise InvalidMatcher(f"a topic selector is at most {MAX_PATTERN_LENGTH} characters long")
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
