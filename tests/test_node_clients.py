"""Independent clients: `eventsource` and `@microsoft/fetch-event-source` of the npm registry."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading

import httpx
import pytest

from quart_mercure.tokens import mint, mint_access_token

from .conftest import AUDIENCE, ROOT, SECRET, eventually

MODULES = ROOT / ".cache" / "node"
PATH = "/.well-known/mercure"

pytestmark = pytest.mark.skipif(
    shutil.which("node") is None or not (MODULES / "node_modules" / "eventsource").is_dir(),
    reason="there is no node here, or no client for it",
)


class Client:
    """A client process, and what it has reported."""

    def __init__(self, library: str, url: str, token: str = "", last_event_id: str = "") -> None:
        self.events: list[dict] = []
        self.process = subprocess.Popen(
            ["node", ROOT / "tests" / "node" / "client.mjs", library, url, token, last_event_id],
            env=dict(os.environ) | {"NODE_MODULES_OF": str(MODULES)},
            stdout=subprocess.PIPE,
        )
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()
        eventually(lambda: self.events == [{"open": True}] or len(self.events) > 1)

    def _read(self) -> None:
        for line in self.process.stdout:
            self.events.append(json.loads(line))

    def received(self, count: int) -> list[dict]:
        eventually(lambda: len(self.events) > count)
        return self.events[1:]

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self._thread.join()
        self.process.stdout.close()


@pytest.fixture
def client():
    started = []

    def start(*arguments):
        started.append(Client(*arguments))
        return started[-1]

    yield start
    for each in started:
        each.stop()


def tokens(version):
    if version == "0.x":
        return mint(SECRET, {"subscribe": ["*"], "publish": ["*"], "payload": {"n": 1}})
    every = [{"match": "*"}]
    return mint_access_token(
        SECRET,
        issuer=AUDIENCE,
        audience=AUDIENCE,
        lifetime=600,
        publish=every,
        subscribe=every,
        payload={"n": 1},
    )


@pytest.mark.parametrize("library", ["eventsource", "fetch-event-source"])
@pytest.mark.parametrize("version", ["0.x", "1.0"])
def test_subscribe_private_replay_presence(serve, client, library, version):
    hub = f"{serve('tests.apps.standalone:hub', 'uvicorn').url}{PATH}"
    token, name = tokens(version), "topic" if version == "0.x" else "match"

    def publish(data, **fields):
        form = {"topic": "a", "data": data, **fields}
        headers = {"authorization": f"Bearer {token}"}
        return httpx.post(hub, data=form, headers=headers).raise_for_status().text

    def data(listening, count):
        return [event["data"] for event in listening.received(count)]

    anonymous = client(library, f"{hub}?{name}=a")
    allowed = client(library, f"{hub}?{name}=a", token)
    first = publish("one\ntwo", type="kind")
    publish("secret", private="on")
    publish("public")
    assert data(allowed, 3) == ["one\ntwo", "secret", "public"]
    assert data(anonymous, 2) == ["one\ntwo", "public"]
    assert anonymous.events[1] == {"type": "kind", "data": "one\ntwo", "id": first}

    returning = client(library, f"{hub}?{name}=a", token, first)
    assert data(returning, 2) == ["secret", "public"]

    events = "/subscriptions/b{/subscriber}" if version == "0.x" else "/subscriptions/exact/b/:who"
    pattern = "topic" if version == "0.x" else "match_urlpattern"
    watcher = client(library, f"{hub}?{httpx.QueryParams({pattern: PATH + events})}", token)
    client(library, f"{hub}?{name}=b", token).stop()
    started, ended = map(json.loads, data(watcher, 2))
    assert (started["active"], ended["active"]) == (True, False)
    assert started["payload"] == {"n": 1}
