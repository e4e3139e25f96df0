"""URL patterns against the standard's implementation in a real browser.

No npm package ships the web-platform-tests' cases, so cases are generated here, and Chromium's
own `URLPattern` says what is right: same pattern, same base, same topic, same answer.
"""

from __future__ import annotations

import itertools
import random
from typing import Any

import pytest
from playwright.sync_api import sync_playwright

from quart_mercure import InvalidMatcher
from quart_mercure.hub.matchers import kind_of, literal_prefix, matched_text, parse_matcher

from .conftest import chromium_path

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="there is no Chromium here")

BASE = "https://hub.example/.well-known/mercure"

ORIGINS = ["", "https://example.com", "http{s}?://example.com", "https://:sub.example.com"]
ORIGINS += ["https://*.example.com:8443", "*://example.com", "HTTPS://EXAMPLE.com", "https://[::1]"]
PATHS = ["/books", "/books/:id", "/books/:id?", "/books/:id+", "/books/:id*", "/books/*", "*"]
PATHS += ["/books{/:id}?", "/:a-:b", "/books/:id(\\d+)", "/(a|b)/c", "/b%C3%BCcher/:x", "/büch/*"]
PATHS += ["/a/../b", "/a/./b", "books/:id", "?q=:q", "#:part", "/books?page=:n", "/x.:ext", "{/x"]
PATHS += ["/:", "/books/(", "/:id/:id", "/\\:x", "/%6Dercure", "/mercure/", "//other.example/x"]

TOPICS = [
    "https://example.com/books",
    "https://example.com/books/1",
    "http://example.com/books/1/2",
]
TOPICS += [
    "https://a.example.com/books/x",
    "https://b.example.com:8443/books/",
    "/books/1",
    "/books",
]
TOPICS += ["/books/", "books/1", "/a-b", "/a/c", "/b%C3%BCcher/1", "/bücher/1", "/büch/1", "/b"]
TOPICS += ["/a/../b", "?q=1", "#top", "/books?page=2", "/x.png", "urn:uuid:1", "/:x", "/mercure"]
TOPICS += [
    "/%6Dercure",
    "//other.example/x",
    "https://EXAMPLE.COM/books",
    "/Books/1",
    "",
    "http://[",
]
TOPICS += ["https://[::1]/books", "data:text/plain,x", "https://user:pw@example.com/books", "/a b"]

EVALUATE = """([base, cases]) => cases.map(([pattern, topic]) => {
  let made;
  try { made = new URLPattern(pattern, base); } catch { return 'invalid'; }
  return made.test(topic, base);
})"""


def cases() -> list[tuple[str, str]]:
    fixed = list(itertools.product((o + p for o in ORIGINS for p in PATHS), TOPICS))
    chance = random.Random(20)
    pieces = ["/", "a", "b", ":x", "*", "?", "+", "{", "}", "(a)", "\\d", "(\\d+)", ".", "-", "%41"]
    made = ["/" + "".join(chance.choices(pieces, k=chance.randint(1, 7))) for _ in range(1500)]
    topics = [
        "/",
        "/a",
        "/b",
        "/ab",
        "/a/b",
        "/a.b",
        "/a-b",
        "/A",
        "/1",
        "/a/",
        "/*",
        "/a?b",
        "/x1",
    ]
    return fixed + [(pattern, topic) for pattern in made for topic in topics]


def ours(pattern: str, topic: str) -> Any:
    try:
        matcher = parse_matcher("urlpattern", pattern, BASE)
    except InvalidMatcher:
        return "invalid"
    matches = matcher.matches(topic)
    if matches:
        path = matched_text(kind_of(matcher), topic)
        assert path is not None
        assert path.startswith(literal_prefix(matcher)), "where the index looks for it"
    return matches


def test_a_browser_agrees_on_what_url_patterns_select():
    asked = [case for case in cases() if case[0] != "*"]  # the wildcard of the protocol
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=chromium_path(), args=["--no-sandbox", "--disable-gpu"]
        )
        theirs = browser.new_page().evaluate(EVALUATE, [BASE, asked])
        browser.close()
    differ = [
        (case, answer, mine)
        for case, answer in zip(asked, theirs, strict=True)
        if (mine := ours(*case)) != answer
    ]
    assert differ == []
    assert min(map(theirs.count, (True, False, "invalid"))) > 900
