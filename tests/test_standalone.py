"""`quart-mercure hub`: the hub alone, as a command."""

from __future__ import annotations

import re
import subprocess
import sys

import httpx
import pytest
from click.testing import CliRunner

from quart_mercure import ConfigurationError
from quart_mercure import main as main_module
from quart_mercure.hub import HubOptions
from quart_mercure.main import main
from quart_mercure.server import Serving, hub_from_environment, serve
from quart_mercure.tokens import mint, mint_access_token

from .conftest import ROOT, SERVERS, Server, coverage_environment, free_port, wait_until_it_listens
from .sse import RawSubscriber, parse

KEY = "a key of the hub, 32 bytes or more"


@pytest.fixture
def start(tmp_path):
    started = []

    def start(*arguments, **environment):
        port = free_port()
        log = tmp_path / f"hub-{port}.log"
        command = [sys.executable, "-m", "quart_mercure", "hub", "--bind", f"127.0.0.1:{port}"]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, *arguments],
                cwd=ROOT,
                env=coverage_environment() | environment,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        server = Server("hub", f"http://127.0.0.1:{port}", process, log)
        started.append(server)
        wait_until_it_listens(server, port)
        return server

    yield start
    for server in started:
        if server.process.poll() is None:
            server.process.terminate()
            server.process.wait(15)


@pytest.mark.parametrize("server", SERVERS)
def test_without_keys_it_prints_how_to_use_it(start, server):
    hub = start("--server", server)
    printed = hub.log.read_text()
    listen = re.search(r"curl -N '(.*)'", printed)[1]
    header, url = re.search(
        r"curl -H '(.*)' -d topic=messages -d data=hello (.*)", printed
    ).groups()
    assert f"Hub at {url} (0.x, 1.0)" in printed
    subscriber = RawSubscriber(listen)
    published = httpx.post(
        url,
        data={"topic": "messages", "data": "hello"},
        headers=[tuple(header.split(": ", 1))],
    )
    [event] = parse(subscriber.until(b"hello\n\n"))
    assert (event.id, event.data) == (published.text, "hello")
    assert hub.stop() == 0
    assert b"retry: " in subscriber.until_it_ends()


def test_options_and_the_environment(start):
    hub = start(
        "--path",
        "/hub",
        "--protocol",
        "1.0",
        "--no-anonymous",
        "--issuer",
        "https://issuer.example",
        "--resource-identifier",
        "https://hub.example/hub",
        MERCURE_PUBLISHER_JWT_KEY=KEY,
        MERCURE_SUBSCRIBER_SECRET_KEY=KEY,
        MERCURE_HUB_CORS_ORIGINS="https://one.example https://two.example",
    )
    assert "development" not in hub.log.read_text()
    url = f"{hub.url}/hub"
    assert httpx.get(url, params={"match": "a"}).status_code == 401
    token = mint_access_token(
        KEY,
        issuer="https://issuer.example",
        audience="https://hub.example/hub",
        lifetime=60,
        subscribe=[{"match": "a"}],
        publish=[{"match": "*"}],
    )
    headers = {"Authorization": f"Bearer {token}", "Origin": "https://two.example"}
    subscriber = RawSubscriber(f"{url}?match=a", headers=headers)
    assert subscriber.headers["access-control-allow-origin"] == "https://two.example"
    assert httpx.post(url, data={"topic": "a", "data": "x"}, headers=headers).status_code == 200
    subscriber.until(b"data: x\n\n")
    metadata = httpx.get(f"{hub.url}/.well-known/oauth-protected-resource/hub").json()
    assert metadata["resource"] == "https://hub.example/hub"
    legacy = mint(KEY, {"publish": ["*"]})
    refused = httpx.post(url, data={"topic": "a"}, headers={"Authorization": f"Bearer {legacy}"})
    assert refused.status_code == 401


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--bind", "nowhere"], "must be host:port"),
        (["--bind", "127.0.0.1:99999"], "must be host:port"),
        (["--transport", "pigeon://loft"], "pigeon:// is no transport"),
        (["--transport", "sqlite:////no/such/folder/hub.db"], "no folder"),
        (["--protocol", "2.0"], "2.0"),
        (["--publisher-key", "@/not/there"], "No such file"),
        (["--heartbeat", "-1"], "-1"),
        (["--workers", "0"], "0"),
    ],
)
def test_bad_options_are_told(arguments, reason):
    result = CliRunner().invoke(main, ["hub", *arguments])
    assert result.exit_code != 0
    assert reason in result.output


def invoke(monkeypatch, *arguments, **environment):
    """Run the command up to the point where it would serve, and return what it would serve."""
    served = []
    monkeypatch.setattr(main_module, "serve", lambda *what: served.append(what) or 0)
    result = CliRunner().invoke(main, ["hub", *arguments], env=environment)
    assert result.exit_code == 0, result.output
    return served[0], result.output


def test_what_the_options_mean(monkeypatch, tmp_path):
    key = tmp_path / "key.pem"
    key.write_text("KEY")
    (options, serving), output = invoke(
        monkeypatch,
        *("--publisher-key", f"@{key}", "--subscriber-key", "secret", "--path", "hub/"),
        *("--jwks-url", "jwks.json", "--bind", "[::]:5501", "--server", "granian"),
        *("--publish-origin", "https://a.example", "--heartbeat", "0", "--no-subscriptions"),
    )
    assert (options.publisher_key, options.subscriber_key) == ("KEY", "secret")
    assert options.base == options.audience == options.trusted_issuer
    assert options.base == "http://localhost:5501/hub"
    assert options.issuers == ((options.base, "jwks.json"),)
    assert (serving.address, serving.server) == (("::", 5501), "granian")
    assert (options.keepalive_interval, options.subscriptions) == (0, False)
    assert options.publish_origins == ("https://a.example",)
    assert output == "Hub at http://localhost:5501/hub (0.x, 1.0)\n"


def test_development_keys(monkeypatch):
    (options, _), output = invoke(monkeypatch)
    assert options.publisher_key in output
    assert options.subscriber_key in output


@pytest.mark.parametrize("server", SERVERS)
def test_the_server_is_told_everything(monkeypatch, server):
    from quart_mercure import server as server_module

    monkeypatch.delenv("QUART_MERCURE_STANDALONE_HUB", raising=False)
    monkeypatch.setattr(server_module, f"_{server}", lambda serving: 0)
    options = HubOptions(publisher_key=KEY, issuers=((("i"), "u"),), cors_origins=("https://a",))
    serving = Serving(bind="127.0.0.1:5500", server=server)
    assert serve(options, serving) == 0
    assert hub_from_environment().options == options


def test_many_workers_with_a_memory_transport_are_warned_of(monkeypatch, capsys):
    from quart_mercure import server as server_module

    monkeypatch.delenv("QUART_MERCURE_STANDALONE_HUB", raising=False)
    monkeypatch.setattr(server_module, "_hypercorn", lambda serving: 0)
    serve(HubOptions(), Serving(bind="127.0.0.1:5500", workers=4))
    assert "4 workers with a memory transport" in capsys.readouterr().err


def test_a_server_that_is_not_installed_is_named(monkeypatch):
    from quart_mercure import server as server_module

    def missing(serving):
        raise ImportError("No module named 'granian'")

    monkeypatch.delenv("QUART_MERCURE_STANDALONE_HUB", raising=False)
    monkeypatch.setattr(server_module, "_granian", missing)
    with pytest.raises(ConfigurationError, match=r"quart-mercure\[granian\]"):
        serve(HubOptions(), Serving(bind="127.0.0.1:5500", server="granian"))
