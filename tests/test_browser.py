"""The chat in a real browser: `examples/chat` as `make chat` starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

from .conftest import (
    ROOT,
    Server,
    chromium_path,
    coverage_environment,
    free_port,
    wait_until_it_listens,
)
from .test_many_hubs import four_workers, launch, redis, transport_url  # noqa: F401

pytestmark = pytest.mark.skipif(chromium_path() is None, reason="there is no Chromium here")

SCRIPTS = ROOT / ".cache" / "npm"
CDN = "https://cdn.jsdelivr.net/npm/"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(
            executable_path=chromium_path(),
            args=["--no-sandbox", "--disable-gpu", "--disable-background-networking"],
        )
        yield chromium
        chromium.close()


@pytest.fixture
def chat(tmp_path: Path) -> Iterator[object]:
    """Start the chat as `make chat` does; more processes may stand behind it."""
    processes: list[subprocess.Popen[bytes]] = []

    def start(port: int, **environment: str) -> Server:
        log = tmp_path / f"chat-{port}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "examples.chat.app"],
                cwd=ROOT,
                env=coverage_environment() | environment | {"PORT": str(port)},
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        processes.append(process)
        server = Server("chat", f"http://127.0.0.1:{port}", process, log)
        wait_until_it_listens(server, port)
        return server

    yield start
    for process in processes:
        process.terminate()
        process.wait(15)


def open_window(browser: Browser, url: str, name: str | None = None) -> Page:
    """Open the chat as another person: cookies of their own, and perhaps a name."""
    context = browser.new_context(viewport={"width": 640, "height": 480})
    if SCRIPTS.is_dir():
        serve_scripts(context)
    page = context.new_page()
    page.goto(url)
    if name:
        page.get_by_label("Your name").fill(name)
        page.get_by_role("button", name="Log in").click()
        expect(page.get_by_role("button", name="Log out")).to_be_visible()
    expect(page.locator("#presence li")).not_to_have_count(0)
    return page


def serve_scripts(context: BrowserContext) -> None:
    """Answer for the CDN; the browser still checks the integrity of what it is given."""

    def answer(route):
        route.fulfill(
            path=SCRIPTS / route.request.url.removeprefix(CDN),
            headers={
                "access-control-allow-origin": "*",
                "content-type": "text/javascript",
            },
        )

    context.route(f"{CDN}**", answer)


def say(page: Page, text: str, private: bool = False) -> None:
    page.get_by_label("Message").fill(text)
    if private:
        page.get_by_label("only to those logged in").check()
    page.get_by_role("button", name="Send").click()
    expect(page.get_by_label("Message")).to_have_value("")


def a_conversation(browser: Browser, url: str) -> None:
    ada = open_window(browser, url, "Ada")
    bob = open_window(browser, url, "Bob")
    guest = open_window(browser, url)
    for page in (ada, bob, guest):
        expect(page.locator("#presence li")).to_have_text(["Ada", "Bob", "1 guest"])

    say(guest, "<b>hello</b> from a guest")
    for page in (ada, bob, guest):
        expect(page.locator(".message span")).to_have_text(["<b>hello</b> from a guest"])

    say(ada, "between us", private=True)
    for page in (ada, bob):
        expect(page.locator(".message.private span")).to_have_text(["between us"])
    say(bob, "for all")
    expect(guest.locator(".message span")).to_have_text(["<b>hello</b> from a guest", "for all"])

    if folder := os.environ.get("SCREENSHOTS"):
        for name, page in (("ada", ada), ("guest", guest)):
            page.screenshot(path=f"{folder}/{name}.png")

    bob.context.close()
    expect(ada.locator("#presence li")).to_have_text(["Ada", "1 guest"])
    ada.get_by_role("button", name="Log out").click()
    expect(guest.locator("#presence li")).to_have_text(["2 guests"])


def test_a_conversation_over_the_embedded_hub(browser, chat):
    server = chat(free_port())
    a_conversation(browser, server.url)
    assert f"Running on {server.url}" in server.log.read_text()


def test_the_same_conversation_over_a_hub_in_another_process(browser, chat, serve):
    port = free_port()
    hub = serve("examples.chat.hub:hub", "hypercorn", CHAT_ORIGINS=f"http://127.0.0.1:{port}")
    server = chat(port, QUART_MERCURE_HUB_URL=f"{hub.url}/.well-known/mercure")
    a_conversation(browser, server.url)


def test_the_same_conversation_in_protocol_1_0(browser, chat, serve):
    port = free_port()
    hub = serve(
        "examples.chat.hub:hub",
        "hypercorn",
        CHAT_ORIGINS=f"http://127.0.0.1:{port}",
        CHAT_HUB_URL="https://hub.example/hub",
    )
    server = chat(
        port,
        QUART_MERCURE_PROTOCOL_VERSION="1.0",
        QUART_MERCURE_RESOURCE_IDENTIFIER="https://hub.example/hub",
        QUART_MERCURE_HUB_URL=f"{hub.url}/.well-known/mercure",
    )
    a_conversation(browser, server.url)
    assert "eyJ" not in server.log.read_text() + hub.log.read_text(), "no token in a URL or a log"


@pytest.mark.parametrize("name", ["sqlite", "redis"])
def test_browsers_on_four_workers_have_one_conversation(browser, launch, redis, tmp_path, name):  # noqa: F811
    url = transport_url(name, redis, tmp_path)
    a_conversation(browser, four_workers(launch, "examples.chat.app:app", url).url)


def test_the_list_follows_its_end_until_the_reader_scrolls_up(browser, chat):
    page = open_window(browser, chat(free_port()).url)
    at_bottom = "e => e.scrollHeight - e.scrollTop - e.clientHeight <= 4"
    messages = page.locator("#messages")
    for number in range(30):
        say(page, f"message {number}")
    expect(page.locator(".message")).to_have_count(30)
    assert messages.evaluate("e => e.scrollHeight > e.clientHeight")
    assert messages.evaluate(at_bottom)
    messages.evaluate("e => new Promise(done => { e.onscroll = done; e.scrollTop = 0; })")
    say(page, "unread")
    expect(page.locator(".message")).to_have_count(31)
    assert messages.evaluate("e => e.scrollTop") == 0


def test_what_is_published_while_a_page_loads_is_not_lost(browser, chat):
    server = chat(free_port())
    writer = open_window(browser, server.url)
    say(writer, "before the page")
    context = browser.new_context()
    serve_scripts(context)
    page = context.new_page()

    def hold(route):
        say(writer, "while it loads")
        route.continue_()

    page.route("**/.well-known/mercure**", hold, times=1)
    page.goto(server.url)
    expect(page.locator(".message span")).to_have_text(["while it loads"])


def test_a_window_comes_back_after_a_restart(browser, chat):
    port = free_port()
    server = chat(port)
    page = open_window(browser, server.url)
    say(page, "one")
    server.stop()
    again = chat(port)
    expect(page.locator("#presence li")).to_have_text(["1 guest"])
    with page.expect_response("**/presence", timeout=30_000):
        pass
    say(page, "two")
    expect(page.locator(".message span")).to_have_text(["one", "two"])
    assert again.process.poll() is None
