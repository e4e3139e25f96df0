"""The commands of `quart mercure`."""

from __future__ import annotations

import json

import jwt
import pytest
from quart import Quart

from quart_mercure import MercureSSE

from .conftest import SECRET
from .sse import RawSubscriber, parse


def run(app, *arguments):
    return app.test_cli_runner().invoke(args=["mercure", *arguments])


@pytest.fixture
def app():
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app)
    return app


def claim(output):
    return jwt.decode(output.strip(), SECRET, algorithms=["HS256"])["mercure"]


def test_a_secret_key(app):
    keys = {run(app, "gen-secret-key").output for _ in range(2)}
    assert len(keys) == 2
    assert all(len(bytes.fromhex(key)) == 32 for key in keys)


def test_tokens(app):
    assert claim(run(app, "subscriber-jwt").output) == {"subscribe": ["*"]}
    topics = ["--topic", "a", "-t", "b"]
    assert claim(run(app, "subscriber-jwt", *topics).output) == {"subscribe": ["a", "b"]}
    assert claim(run(app, "publisher-jwt").output) == {"publish": ["*"]}
    assert claim(run(app, "publisher-jwt", *topics).output) == {"publish": ["a", "b"]}


def test_publishing_to_a_running_hub(app, serve):
    server = serve("tests.apps.push:app")
    hub = f"{server.url}/.well-known/mercure"
    subscriber = RawSubscriber(f"{hub}?topic=a")
    options = ["--id", "one", "--type", "t", "--retry", "5"]
    result = run(app, "publish", "--hub", hub, *options, "a", "hello")
    assert (result.output, result.exit_code) == ("one\n", 0)
    [event] = parse(subscriber.until(b"hello\n\n"))
    assert (event.data, event.id, event.event, event.retry) == ("hello", "one", "t", 5)
    refused = run(app, "publish", "--hub", hub, "--jwt", "x", "--private", "a", "hello")
    assert refused.exit_code == 1
    assert "Error: the hub answered 401" in refused.output


def test_an_embedded_hub_is_not_in_the_commands_process():
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app, hub=True)
    result = run(app, "publish", "a", "hello")
    assert result.exit_code == 2
    assert "--hub" in result.output


def test_the_applications_transport_is_the_one_looked_into(tmp_path):
    app = Quart(__name__)
    app.config["SECRET_KEY"] = SECRET
    MercureSSE(app, hub=True, transport_url=f"sqlite:///{tmp_path}/hub.db")
    result = run(app, "transport", "info")
    assert result.exit_code == 0, result.output
    assert json.loads(result.output)["last_event_id"] == "earliest"
    assert (tmp_path / "hub.db").exists()


def test_the_memory_of_another_process_cannot_be_looked_into(app):
    result = run(app, "transport", "info")
    assert result.exit_code == 1
    assert "memory:// is not shared" in result.output
