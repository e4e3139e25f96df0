"""Components: ours as tags and in plain Jinja, and the application's own from Python."""

from __future__ import annotations

import inspect
from html.parser import HTMLParser
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from markupsafe import Markup
from quart import Blueprint, Quart, render_template_string

from quart_mercure import MercureSSE

from .asgi import subscribe
from .conftest import SECRET


@pytest.fixture
def templates(tmp_path):
    folder = tmp_path / "templates"
    (folder / "components").mkdir(parents=True)
    (folder / "__macros__.html").write_text(
        "{% macro Greeting(name) %}<p>hello {{ name }}</p>{% endmacro %}"
        "{% macro shout(text) %}{{ text|upper }}{% endmacro %}"
    )
    (folder / "components" / "cards.html").write_text(
        "{% macro Card(title) %}<b>{{ title }}</b>{{ caller() if caller }}{% endmacro %}"
        "{% macro Local() %}{{ g.who }}{{ url_for('index') }}{% endmacro %}"
    )
    (folder / "Whole.macro.html").write_text("<i>{{ props.text }}</i>")
    return folder


@pytest.fixture
def app(templates, tmp_path):
    app = make_app(tmp_path)

    @app.get("/")
    async def index():
        return ""

    return app


def make_app(root, **options):
    app = Quart(__name__, root_path=str(root))
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app, hub=True, **options)
    return app


class Elements(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.elements = []
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))


async def rendered(app, source, **context):
    async with app.test_request_context("/"):
        return await render_template_string(source, **context)


async def element(app, source, **context):
    html = await rendered(app, source, **context)
    return Elements(html).elements[0][1]


def url_query(attributes):
    return parse_qs(urlsplit(attributes["sse-connect"]).query)


def granted(attributes):
    token = url_query(attributes)["authorization"][0]
    return jwt.decode(token, SECRET, algorithms=["HS256"])["mercure"]["subscribe"]


BOTH_WAYS = pytest.mark.parametrize(
    "source",
    [
        '<{MercureStream topic="a" id="x" data-n=7}><p>{{ 1 + 1 }}</p></{MercureStream}>',
        '{% call MercureStream(topic="a", id="x", data_n=7) %}<p>{{ 1 + 1 }}</p>{% endcall %}',
    ],
)


@BOTH_WAYS
async def test_a_stream_as_a_tag_and_in_plain_jinja(app, source):
    html = await rendered(app, source)
    attributes = Elements(html).elements[0][1]
    assert attributes.pop("sse-connect").startswith("http://localhost/.well-known/mercure?topic=a&")
    assert attributes == {
        "class": "mercure-stream",
        "hx-ext": "sse",
        "sse-swap": "message",
        "hx-swap": "beforeend",
        "id": "x",
        "data-n": "7",
    }
    assert html.endswith("><p>2</p></div>")


@pytest.mark.parametrize(
    ("properties", "expected"),
    [
        ('hx_swap="innerHTML"', {"hx-swap": "innerHTML"}),
        ('type="chat"', {"sse-swap": "chat"}),
        ('class="big"', {"class": "mercure-stream big"}),
        ('class_="big"', {"class": "mercure-stream big"}),
        ("hidden=True", {"hidden": ""}),
        ("hidden=False", {"hidden": None}),
        ("title=none", {"title": None}),
        ("auto_scroll=True", {"data-mercure-auto-scroll": ""}),
        ("auto_scroll=False", {"data-mercure-auto-scroll": None}),
    ],
)
async def test_properties(app, properties, expected):
    attributes = await element(app, f'<{{MercureStream topic="a" {properties} }}/>')
    assert {name: attributes.get(name) for name in expected} == expected


async def test_auto_scroll_brings_its_script(app):
    html = await rendered(app, '<{MercureStream topic="a" auto_scroll=True }/>')
    [_, (tag, script)] = Elements(html).elements
    assert (tag, script) == ("script", {"type": "module", "src": "/_mercure/mercure.js"})
    response = await app.test_client().get(script["src"])
    assert response.status_code == 200
    assert "javascript" in response.headers["Content-Type"]


async def test_values_are_escaped(app):
    hostile = '"><script>alert(1)</script>'
    source = "<{MercureStream topic=hostile type=hostile title=hostile class=hostile }/>"
    html = await rendered(app, source, hostile=hostile)
    [(_, attributes)] = Elements(html).elements
    assert attributes["title"] == attributes["sse-swap"] == hostile
    assert url_query(attributes)["topic"] == [hostile]


async def test_an_attribute_name_cannot_break_out(app):
    with pytest.raises(ValueError, match="Invalid character"):
        await rendered(app, '{{ MercureStream("a", **{"x onclick": 1}) }}')


async def test_topics_are_strings_objects_or_lists(app):
    class Book:
        id = 1

    source = "<{MercureStream topic=topic }/>"
    assert url_query(await element(app, source, topic=Book()))["topic"] == ["Book/1"]
    assert url_query(await element(app, source, topic=["a", Book]))["topic"] == ["a", "Book"]


async def test_the_event_is_named_after_the_topic_when_types_are_topics(tmp_path):
    app = make_app(tmp_path, type_is_topic=True)
    assert (await element(app, '<{MercureStream topic=["a", "b"] }/>'))["sse-swap"] == "a"
    assert (await element(app, '<{MercureStream topic="a" type="t" }/>'))["sse-swap"] == "t"
    assert (await element(app, "<{MercureStream }/>"))["sse-swap"] == "message"


async def test_private_streams_carry_a_token(app):
    public = await element(app, '<{MercureStream topic="a" }/>')
    assert "authorization" not in url_query(public)
    private = await element(app, '<{MercureStream topic="a" private=True }/>')
    assert granted(private) == ["a"]


async def test_a_context_holds_one_stream_for_what_is_inside(app):
    html = await rendered(
        app,
        """
        <{MercureStreamContext topics=["a", "b"] with_subscriptions=True id="c"}>
          <{MercureStream type="chat" }/><{MercurePresence hx_get="/who" }/>
        </{MercureStreamContext}>
        """,
    )
    [(_, context), (_, stream), (_, presence)] = Elements(html).elements
    assert context["class"] == "mercure-stream-context"
    events = [f"/.well-known/mercure/subscriptions/{topic}{{/subscriber}}" for topic in "ab"]
    assert url_query(context)["topic"] == ["a", "b", *events]
    assert granted(context) == events
    assert stream == {"class": "mercure-stream", "sse-swap": "chat", "hx-swap": "beforeend"}
    assert presence["hx-get"] == "/who"
    assert "sse-connect" not in presence
    private = await element(app, '<{MercureStreamContext topics="a" private=True }/>')
    assert granted(private) == ["a"]


async def test_presence_alone_watches_its_topic(app):
    presence = await element(app, '<{MercurePresence topic="a" hx_get="/who" }/>')
    events = "/.well-known/mercure/subscriptions/a{/subscriber}"
    assert url_query(presence)["topic"] == granted(presence) == [events]
    triggers = [trigger.split()[0] for trigger in presence["hx-trigger"].split(", ")]
    assert triggers == ["load", "sse:message", "sse:Subscription", "sse:mercure"]
    own = await element(app, '<{MercurePresence topic="a" hx_get="/x" hx_trigger="click" }/>')
    assert own["hx-trigger"] == "click"


# The application's own --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "html"),
    [
        ('<{Greeting name="Ada" }/>', "<p>hello Ada</p>"),
        ('<{Card title="a<b"}>inside</{Card}>', "<b>a&lt;b</b>inside"),
        ('<{Whole text="x" }/>', "<i>x</i>"),
        ('<{shout text="x" }/>', "X"),
        ('<{section class="plain"}>html</{section}>', '<section class="plain">html</section>'),
        ('{% from "components/cards.html" import Card %}{{ Card("t") }}', "<b>t</b>"),
    ],
)
async def test_own_components_in_templates(app, source, html):
    assert await rendered(app, source) == html


async def test_own_components_from_python(app):
    component = app.components.Greeting(name="<Ada>")
    assert inspect.isawaitable(component)
    html = await component
    assert html == "<p>hello &lt;Ada&gt;</p>"
    assert isinstance(html, Markup)
    assert await component == html
    assert await app.components.Card("title") == "<b>title</b>"
    assert await app.components.Whole(text="x") == "<i>x</i>"


async def test_ours_from_python(app):
    html = await app.components.MercureStream(topic="a", private=True)
    assert html.startswith('<div class="mercure-stream"')


async def test_own_components_are_data(app):
    stream = await subscribe(app.asgi_app, "topic=messages")
    await app.sse.publish("messages", app.components.Greeting(name="Ada"))
    assert await stream.received(1) == ["<p>hello Ada</p>"]


async def test_own_components_see_what_templates_see(app):
    @app.context_processor
    def who():
        return {"who": "nobody"}

    @app.get("/card")
    async def card():
        from quart import g

        g.who = "Ada"
        return await app.components.Local()

    response = await app.test_client().get("/card")
    assert await response.get_data(as_text=True) == "Ada/"


async def test_a_component_that_is_not_there(app):
    with pytest.raises(AttributeError, match="no component Missing"):
        app.components.Missing  # noqa: B018
    assert not hasattr(app.components, "_private")


async def test_components_of_a_blueprint_registered_later(app, tmp_path):
    folder = tmp_path / "blueprint"
    (folder / "components").mkdir(parents=True)
    (folder / "components" / "late.html").write_text("{% macro Late() %}late{% endmacro %}")
    app.register_blueprint(Blueprint("late", __name__, template_folder=str(folder)))
    assert await app.components.Late() == "late"
