"""Updates: which are valid, and how they look on the wire."""

from __future__ import annotations

import re
import unicodedata

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quart_mercure import InvalidUpdate, Update
from quart_mercure.update import encode
from tests.sse import parse


def is_plain(text: str) -> bool:
    return all(unicodedata.category(character) not in ("Cc", "Cf", "Cs") for character in text)


plain_text = st.text(
    st.characters(exclude_categories=("Cc", "Cf", "Cs")), min_size=1, max_size=40
).filter(is_plain)
ids = plain_text.filter(lambda text: not text.startswith("#") and text != "earliest")
# Text with every kind of line end, alone, doubled and mixed.
data = st.lists(
    st.text(st.characters(exclude_categories=("Cs",)), max_size=30)
    | st.sampled_from(["\r", "\n", "\r\n", "\n\n", "\r\r", ":", " ", "data: ", "\0", "\u2028"])
).map("".join)


@settings(max_examples=1000)
@given(data=data, id=ids, type=st.none() | plain_text, retry=st.none() | st.integers(0, 10**9))
def test_what_is_encoded_is_what_a_client_reads(data, id, type, retry):
    update = Update(topics=("topic",), data=data, id=id, type=type, retry=retry)
    [event] = parse(encode(update))
    assert event.data == re.sub("\r\n|\r", "\n", data)
    assert event.id == id
    assert event.event == (type or "message")
    assert event.retry == retry


@settings(max_examples=200)
@given(st.lists(data, min_size=2, max_size=8))
def test_events_that_are_sent_together_stay_apart(texts):
    together = b"".join(encode(Update(topics=("topic",), data=text)) for text in texts)
    assert [event.data for event in parse(together)] == [
        re.sub("\r\n|\r", "\n", text) for text in texts
    ]


@pytest.mark.parametrize(
    ("update", "wire"),
    [
        ({"data": "hello"}, b"id: 1\ndata: hello\n\n"),
        ({"data": ""}, b"id: 1\ndata: \n\n"),
        ({"data": "a\nb"}, b"id: 1\ndata: a\ndata: b\n\n"),
        ({"data": "a\rb\r\nc\n"}, b"id: 1\ndata: a\ndata: b\ndata: c\ndata: \n\n"),
        ({"data": "\n"}, b"id: 1\ndata: \ndata: \n\n"),
        ({"data": " a"}, b"id: 1\ndata:  a\n\n"),
        ({"data": "café ☕"}, "id: 1\ndata: café ☕\n\n".encode()),
        ({"data": "x", "type": "t"}, b"event: t\nid: 1\ndata: x\n\n"),
        ({"data": "x", "type": ""}, b"id: 1\ndata: x\n\n"),
        ({"data": "x", "retry": 0}, b"retry: 0\nid: 1\ndata: x\n\n"),
        ({"data": "x", "retry": 2500}, b"retry: 2500\nid: 1\ndata: x\n\n"),
    ],
)
def test_the_bytes(update, wire):
    assert encode(Update(topics=("topic",), id="1", **update)) == wire


CONTROL = ["\0", "\n", "\r", "\t", "\x1f", "\x7f", "\x80", "\x85", "\x9f"]
INVISIBLE = ["\u200b", "\u200d", "\u202e", "\ufeff", "\u2066", "\U000e0001"]


@pytest.mark.parametrize("character", CONTROL + INVISIBLE + ["\ud800"])
@pytest.mark.parametrize("field", ["topic", "id", "type"])
def test_forbidden_characters_are_refused_and_never_injected(field, character):
    text = f"a{character}data: forged"
    fields = {"topics": ("topic",)} | ({"topics": (text,)} if field == "topic" else {field: text})
    with pytest.raises(InvalidUpdate) as refused:
        Update(**fields)
    assert refused.value.field == field
    assert str(refused.value).startswith(f'"{field}" must')


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"topics": ()}, "topic"),
        ({"topics": ("",)}, "topic"),
        ({"topics": ("*",)}, "topic"),
        ({"topics": ("a", "*")}, "topic"),
        ({"topics": ("a",), "id": ""}, "id"),
        ({"topics": ("a",), "id": "#1"}, "id"),
        ({"topics": ("a",), "id": "earliest"}, "id"),
        ({"topics": ("a",), "retry": -1}, "retry"),
        ({"topics": ("a",), "data": "\udc00"}, "data"),
    ],
)
def test_other_rules(fields, field):
    with pytest.raises(InvalidUpdate) as refused:
        Update(**fields)
    assert refused.value.field == field


def test_every_update_has_an_identifier_of_its_own():
    made = {Update(topics=("topic",)).id for _ in range(100)}
    assert len(made) == 100
    assert all(identifier.startswith("urn:uuid:") for identifier in made)
