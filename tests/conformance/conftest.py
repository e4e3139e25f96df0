"""The hubs that the conformance suite runs against: ours in every shape, or any at `--hub-url`."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
from httpx_sse import ServerSentEvent, connect_sse

from quart_mercure.tokens import mint, mint_access_token

from ..conftest import AUDIENCE, WAYS

PATH = "/.well-known/mercure"


@dataclass
class Dialect:
    """How one version of the protocol says what both can."""

    version: str
    hub_url: str
    publisher_key: str
    subscriber_key: str
    audience: str
    issuer: str

    def topics(self, *topics: str) -> list[tuple[str, str]]:
        return [("topic" if self.version == "0.x" else "match", topic) for topic in topics]

    def pattern(self, template: str, url_pattern: str) -> tuple[str, str]:
        if self.version == "0.x":
            return "topic", template
        return "match_urlpattern", url_pattern

    def cursor(self, identifier: str) -> tuple[str, str]:
        return ("lastEventID" if self.version == "0.x" else "last_event_id"), identifier

    @property
    def cursor_header(self) -> str:
        return "last-event-id" if self.version == "0.x" else "mercure-last-event-id"

    def token(self, action: str, *topics: str, payload: Any = None, key: str | None = None) -> str:
        own = self.publisher_key if action == "publish" else self.subscriber_key
        if self.version == "0.x":
            claim = {action: list(topics)} | ({} if payload is None else {"payload": payload})
            return mint(key or own, claim)
        matchers = [
            {"match": topic, "match_type": "urlpattern"} if ":" in topic[1:] else {"match": topic}
            for topic in topics
        ]
        return mint_access_token(
            key or own,
            issuer=self.issuer,
            audience=self.audience,
            lifetime=300,
            payload=payload,
            **{action: matchers},
        )

    def publish(self, topics: Any, data: str = "", token: str | None = None, **fields: str) -> Any:
        form = {"topic": topics, "data": data, **fields}
        token = token or self.token("publish", "*")
        headers = {"authorization": f"Bearer {token}"}
        return httpx.post(self.hub_url, data=form, headers=headers, timeout=10)

    def subscribe(self, *parameters: tuple[str, str], token: str | None = None, **headers: str):
        if token is not None:
            headers["authorization"] = f"Bearer {token}"
        return Subscription(self.hub_url, list(parameters), headers)


@dataclass
class Subscription:
    """A client of httpx-sse in a thread, and what it has received."""

    url: str
    parameters: list[tuple[str, str]]
    headers: dict[str, str]
    events: list[ServerSentEvent] = field(default_factory=list)

    def __enter__(self) -> Subscription:
        self._client = httpx.Client(timeout=httpx.Timeout(10, read=30))
        self._source = connect_sse(
            self._client, "GET", self.url, params=self.parameters, headers=self.headers
        )
        source = self._source.__enter__()
        self.response = source.response
        assert self.response.status_code == 200, self.response.read()
        self._thread = threading.Thread(target=self._read, args=(source,), daemon=True)
        self._thread.start()
        return self

    def _read(self, source: Any) -> None:
        try:
            for event in source.iter_sse():
                self.events.append(event)
        except (httpx.HTTPError, OSError, RuntimeError):
            pass

    def received(self, count: int) -> list[str]:
        deadline = time.monotonic() + 10
        while len(self.events) < count:
            assert time.monotonic() < deadline, f"received only {self.events}"
            time.sleep(0.005)
        return [event.data for event in self.events]

    def __exit__(self, *_: object) -> None:
        # Closing alone would not reach the connection while the thread waits for it.
        stream = self.response.extensions["network_stream"]
        stream.get_extra_info("socket").shutdown(socket.SHUT_RDWR)
        self._thread.join(10)
        self._client.close()


SHAPES = ["embedded", "mounted", *(f"standalone-{server}" for server in WAYS)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "dialect" not in metafunc.fixturenames:
        return
    config = metafunc.config
    shapes = ["given"] if config.getoption("--hub-url") else SHAPES
    marker = metafunc.definition.get_closest_marker("versions")
    versions = marker.args if marker else ("0.x", "1.0")
    offered = config.getoption("--hub-versions").split(",")
    cases = [(shape, version) for shape in shapes for version in versions if version in offered]
    metafunc.parametrize(
        "dialect", cases, indirect=True, ids=lambda case: "-".join(case), scope="session"
    )


@pytest.fixture(scope="session")
def hubs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Start each shape of hub once, when it is first needed."""
    from ..conftest import start_server

    started: dict[str, Any] = {}

    def url_of(shape: str) -> str:
        if shape not in started:
            server, app = {
                "embedded": ("hypercorn", "tests.apps.push:app"),
                "mounted": ("uvicorn", "tests.apps.mounted:app"),
            }.get(shape, (shape.partition("-")[2], "tests.apps.standalone:hub"))
            log = tmp_path_factory.mktemp("conformance") / f"{shape}.log"
            started[shape] = start_server(
                app, server, log, QUART_MERCURE_RESOURCE_IDENTIFIER=AUDIENCE
            )
        return f"{started[shape].url}{PATH}"

    yield url_of
    for server in started.values():
        server.process.terminate()
        server.process.wait(15)


@pytest.fixture(scope="session")
def dialect(request: pytest.FixtureRequest, hubs: Any) -> Dialect:
    shape, version = request.param
    option = request.config.getoption
    return Dialect(
        version=version,
        hub_url=option("--hub-url") or hubs(shape),
        publisher_key=option("--hub-publisher-key"),
        subscriber_key=option("--hub-subscriber-key"),
        audience=option("--hub-audience"),
        issuer=option("--hub-issuer"),
    )


@pytest.fixture
def topic(request: pytest.FixtureRequest) -> str:
    """A topic of this test alone: the hub is shared."""
    return f"https://topics.example/{abs(hash(request.node.nodeid))}"
