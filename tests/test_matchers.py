"""Topic selectors of the 0.x protocol."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quart_mercure import InvalidMatcher
from quart_mercure.hub.matchers import MAX_PATTERN_LENGTH, MatcherType, parse_selector

SELECTED = [
    ("*", "anything at all"),
    ("messages", "messages"),
    ("https://example.com/books/{id}", "https://example.com/books/1"),
    ("https://example.com/books/{id}", "https://example.com/books/"),
    ("https://example.com/books/{id}", "https://example.com/books/a%20b"),
    ("https://example.com/books/{id}", "https://example.com/books/{id}"),
    ("/books/{id}/pages/{page}", "/books/1/pages/2"),
    ("/books{/id}", "/books"),
    ("/books{/id}", "/books/1"),
    ("/books{/id,page}", "/books/1/2"),
    ("/books{/path*}", "/books/1/2/3"),
    ("/files/{+path}", "/files/a/b/c?d=e"),
    ("/page{#fragment}", "/page#top"),
    ("/logo{.format}", "/logo.png"),
    ("/search{?q,page}", "/search?q=a&page=2"),
    ("/search?fixed=1{&q}", "/search?fixed=1&q=a"),
    ("/map{;lat,long}", "/map;lat=1;long=2"),
    ("{a,b}", "1,2"),
    ("{list}", "1,2,3"),
    ("{name:3}", "abc"),
    ("(.*){id}", "(.*)1"),
]

NOT_SELECTED = [
    ("messages", "message"),
    ("Messages", "messages"),
    ("message*", "messages"),
    ("https://example.com/books/{id}", "https://example.com/books/1/2"),
    ("https://example.com/books/{id}", "https://example.com/book/1"),
    ("https://example.com/books/{id}", "https://example.com/books/a b"),
    ("https://example.com/books/{id}", "x https://example.com/books/1"),
    ("/books/{id}", "/books/1\n"),
    ("/books{/id}", "/books/1/2"),
    ("/books{/id}", "/booksx"),
    ("(.*){id}", "xx1"),
]

NO_TEMPLATES = ["{", "}", "a{b", "a}b{c}", "{}", "{a b}", "{a,}", "{{a}}", "{a:0}", "{a:x}", "{!a}"]


@pytest.mark.parametrize(("selector", "topic"), SELECTED)
def test_selected(selector, topic):
    assert parse_selector(selector).matches(topic)


@pytest.mark.parametrize(("selector", "topic"), NOT_SELECTED)
def test_not_selected(selector, topic):
    assert not parse_selector(selector).matches(topic)


@pytest.mark.parametrize("text", NO_TEMPLATES)
def test_what_is_no_uri_template_selects_only_itself(text):
    matcher = parse_selector(text)
    assert matcher.type is MatcherType.EXACT
    assert matcher.matches(text)
    assert not matcher.matches("a")


def test_a_template_too_large_to_compile_selects_only_itself():
    text = "{" + ",".join("a" * 1500) + "}"
    assert parse_selector(text).matches(text)


def test_a_selector_has_a_longest_length():
    with pytest.raises(InvalidMatcher, match="4096"):
        parse_selector("a" * (MAX_PATTERN_LENGTH + 1))


def test_a_hostile_template_is_matched_in_bounded_time():
    assert not parse_selector("{a}" * 200).matches("a" * 5000 + "!")


@given(st.text(max_size=50), st.text(max_size=50))
def test_any_text_is_a_selector(selector, topic):
    assert parse_selector(selector).matches(selector)
    parse_selector(selector).matches(topic)


@given(st.lists(st.text(string.ascii_letters + string.digits, min_size=1), max_size=4))
def test_a_template_selects_what_it_expands_to(values):
    selector = "".join(f"/x{{v{n}}}" for n in range(len(values))) or "{none}"
    assert parse_selector(selector).matches("".join(f"/x{value}" for value in values))
