"""From objects to topics and data."""

from __future__ import annotations

import json

import pytest
from markupsafe import Markup
from sqlalchemy import ForeignKey, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from quart_mercure import InvalidUpdate, as_topic
from quart_mercure.topics import as_data, split_publication


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "author"
    number: Mapped[int] = mapped_column(primary_key=True)


class Credit(Base):
    __tablename__ = "credit"
    author: Mapped[int] = mapped_column(ForeignKey("author.number"), primary_key=True)
    book: Mapped[str] = mapped_column(primary_key=True)


class Plain:
    def __init__(self, **attributes):
        vars(self).update(attributes)


class WithAttribute:
    __mercure_sse_topic__ = "declared"


class WithProperty:
    @property
    def __mercure_sse_topic__(self):
        return "property"


class WithMethod:
    def __mercure_sse_topic__(self):
        return "method"


class PerClassAndObject:
    """What Hyperflask's models do: one descriptor for the class and its objects."""

    class Topic:
        def __get__(self, instance, owner):
            return owner.__name__ if instance is None else f"{owner.__name__}/one"

    __mercure_sse_topic__ = Topic()


class Undecided:
    id = 3
    __mercure_sse_topic__ = None


@pytest.mark.parametrize(
    ("obj", "topic"),
    [
        ("messages", "messages"),
        (Markup("a&b"), "a&b"),
        (Plain, "Plain"),
        (WithAttribute, "declared"),
        (WithAttribute(), "declared"),
        (WithProperty, "WithProperty"),
        (WithProperty(), "property"),
        (WithMethod, "WithMethod"),
        (WithMethod(), "method"),
        (PerClassAndObject, "PerClassAndObject"),
        (PerClassAndObject(), "PerClassAndObject/one"),
        (Undecided(), "Undecided/3"),
        (Plain(id=1), "Plain/1"),
        (Plain(id=0), "Plain/0"),
        (Plain(pk="x"), "Plain/x"),
        (Plain(id=1, pk=2), "Plain/1"),
        (Plain(id=None, pk=2), "Plain/2"),
        (Author(number=7), "Author/7"),
        (Credit(author=7, book="Dune"), "Credit/7/Dune"),
        (Author, "Author"),
    ],
)
def test_what_stands_for_a_topic(obj, topic):
    assert as_topic(obj) == topic
    assert type(as_topic(obj)) is str


@pytest.mark.parametrize("obj", [None, 1, 1.5, b"bytes", {}, Plain(), Plain(id=None), Author()])
def test_what_does_not_is_a_clear_error(obj):
    with pytest.raises(TypeError, match=f"{type(obj).__name__} object is no topic"):
        as_topic(obj)


def test_a_declared_topic_must_be_text():
    with pytest.raises(TypeError, match="__mercure_sse_topic__ of Plain must be a string"):
        as_topic(Plain(__mercure_sse_topic__=7))


def test_a_saved_model_has_a_topic():
    engine = create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        author = Author()
        session.add(author)
        session.flush()
        assert as_topic(author) == "Author/1"


class Saying(Plain):
    def __mercure_sse_data__(self):
        return self.data


class SayingAsync(Plain):
    async def __mercure_sse_data__(self):
        return self.data


async def coroutine(value):
    return value


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: "text", "text"),
        (lambda: "", ""),
        (lambda: "café".encode(), "café"),
        (lambda: bytearray(b"x"), "x"),
        (lambda: Markup("<b>x</b>"), "<b>x</b>"),
        (lambda: Plain(__html__=lambda: "<i>x</i>"), "<i>x</i>"),
        (lambda: {"a": [1, None]}, '{"a": [1, null]}'),
        (lambda: 7, "7"),
        (lambda: coroutine("later"), "later"),
        (lambda: coroutine(coroutine({"a": 1})), '{"a": 1}'),
        (lambda: Saying(data="said"), "said"),
        (lambda: Saying(data={"a": 1}), '{"a": 1}'),
        (lambda: SayingAsync(data=Markup("<p>")), "<p>"),
        (lambda: coroutine(Saying(data=coroutine(b"deep"))), "deep"),
    ],
)
async def test_what_is_data(make, text):
    data = await as_data(make(), json.dumps)
    assert data == text
    assert type(data) is str


@pytest.mark.parametrize(
    ("obj", "rule"),
    [(b"\xff", "UTF-8"), (object(), "cannot be written as JSON"), ({1: object()}, "JSON")],
)
async def test_what_is_not(obj, rule):
    with pytest.raises(InvalidUpdate, match=rule):
        await as_data(obj, json.dumps)


async def test_data_that_never_ends_is_an_error():
    endless = Saying()
    endless.data = endless
    with pytest.raises(InvalidUpdate, match="still Saying"):
        await as_data(endless, json.dumps)


@pytest.mark.parametrize(
    ("obj", "publication"),
    [
        ("messages", ("messages", "")),
        (["a", "b"], (["a", "b"], "")),
        (Plain(__mercure_sse__=lambda: ("topic", "data")), ("topic", "data")),
    ],
)
def test_an_object_published_alone(obj, publication):
    assert split_publication(obj) == publication


def test_an_object_published_alone_is_its_own_data():
    plain, declared = Plain(id=1), WithAttribute()
    assert split_publication(plain) == ("Plain", plain)
    assert split_publication(declared) == ("declared", declared)
