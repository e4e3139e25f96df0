"""Every code block of the README is run, and its table of keys is the code's."""

from __future__ import annotations

import ast
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
from importlib.metadata import metadata
from types import CodeType

import httpx
import pytest
import quart
from quart import render_template_string

from quart_mercure import MercureConfig
from quart_mercure.config import key_of

from .asgi import PATH, subscribe
from .conftest import ROOT, coverage_environment, free_port
from .sse import RawSubscriber, parse

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def blocks(language):
    return [text for name, text in BLOCKS if name == language]


def test_every_block_is_in_a_language_that_is_run_here():
    assert {name for name, _ in BLOCKS} == {"python", "jinja", "bash"}


async def execute(source, namespace):
    code = compile(source, "README.md", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    assert isinstance(code, CodeType)
    result = eval(code, namespace)
    if result is not None:
        await result


async def test_the_python_and_jinja_blocks(tmp_path):
    components = tmp_path / "templates" / "components"
    components.mkdir(parents=True)
    for number, source in enumerate(blocks("jinja")):
        if "{% macro" in source:
            (components / f"block_{number}.html").write_text(source)
    namespace = {"__name__": "app", "make_response": quart.make_response}
    namespace |= {"redirect": quart.redirect, "session": quart.session}
    first, *others = blocks("python")
    exec(first, namespace)
    app = namespace["app"]
    app.root_path = tmp_path
    app.debug = True
    app.jinja_env.cache.clear()

    stream = await subscribe(app.asgi_app, "topic=*")
    async with app.test_request_context("/"):
        for source in others:
            await execute(source, namespace)
    received = await stream.received(10)
    objects = [json.loads(data) for data in received if data.startswith("{")]
    assert objects == [{"anything": ["JSON", "can say"]}, {"number": 7}]
    assert [data for data in received if not data.startswith("{")] == [
        "some text",
        "also to those who listen to all books",
        "more",
        "first",
        "<p><strong>Ada</strong> hello</p>",
        "sold out",
        "<article>Dune</article>",
        "<article>Dune</article>",
    ]

    async with app.test_request_context("/"):
        for source in blocks("jinja"):
            html = await render_template_string(source, book=namespace["book"])
            assert "{MercureStream" not in html

    page = await (await app.test_client().get("/")).get_data(as_text=True)
    assert f'"http://localhost{PATH}?topic=messages\\u0026lastEventID=' in page


async def test_the_quick_start_as_a_user_runs_it(tmp_path):
    (tmp_path / "app.py").write_text(blocks("python")[0])
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "quart", *["--app", "app", "--debug", "run", "--port"], str(port)],
        cwd=tmp_path,
        env=coverage_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,  # the reloader runs the application in a process of its own
    )
    try:
        while b"Running on http" not in process.stdout.readline():
            assert process.poll() is None
        url = f"http://127.0.0.1:{port}"
        async with httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(retries=10)) as client:
            await client.get(url)
            subscriber = RawSubscriber(f"{url}{PATH}?topic=messages")
            identifier = (await client.get(f"{url}/say/hello")).text
        [event] = parse(subscriber.until(b"hello\n\n"))
        assert (event.id, event.data) == (identifier, "hello")
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(15)
        process.stdout.close()


def test_the_shell_blocks(tmp_path):
    lines = [
        line.partition("  #")[0].strip() for text in blocks("bash") for line in text.splitlines()
    ]
    assert lines[:2] == ["make chat", "make test"]
    known = {
        "pip install quart-mercure",
        "quart --app app --debug run",  # above
        "quart-mercure hub",  # test_standalone.py
        "uvicorn --http quart_mercure.uvicorn:Protocol app:app",  # test_servers.py
        "QUART_MERCURE_TRANSPORT_URL=sqlite:///hub.db QUART_MERCURE_HUB=true"
        " hypercorn --workers 4 app:app",  # test_many_hubs.py
        "quart mercure publish --hub http://localhost:5500/.well-known/mercure messages hello",
    }
    (tmp_path / "app.py").write_text(blocks("python")[0])
    for line in lines:
        if line in known:
            continue
        command = line.split()
        if command[0] == "make":
            command.insert(1, "--dry-run")
        where = ROOT if command[0] == "make" else tmp_path
        if command[0] == "quart":
            command[0:1] = [sys.executable, "-m", "quart"]
        subprocess.run(
            command, cwd=where, env=coverage_environment(), check=True, capture_output=True
        )


def test_the_distribution_is_named_as_the_readme_says():
    assert metadata("quart-mercure")["Name"] == "quart-mercure"


def config_table() -> str:
    rows = ["", "| Key | Meaning | Default |", "|---|---|---|"]
    for each in dataclasses.fields(MercureConfig):
        default = each.default
        if default is None or default == ():
            shown = ""
        elif isinstance(default, float):
            shown = f"`{default:g}`"
        else:
            shown = f"`{default}`"
        meaning = each.metadata["meaning"].replace("|", "\\|")
        rows.append(f"| `{key_of(each)}` | {meaning} | {shown} |")
    return "\n".join([*rows, ""])


def test_the_table_of_keys():
    shown = README.partition("<!-- config -->\n")[2].partition("\n<!-- /config -->")[0]
    assert shown == config_table()


CONFORMANCE = (ROOT / "docs" / "conformance.md").read_text()
SECTIONS = re.findall(
    r"^### .* \((\d+) MUST, (\d+) SHOULD\)\n\n((?:\|.*\n)+)", CONFORMANCE, re.MULTILINE
)
ROWS = [
    [cell.strip() for cell in row.strip("|").split(" | ")]
    for _, _, table in SECTIONS
    for row in table.splitlines()[2:]
]


def test_the_table_of_conformance_names_what_is_there():
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    for requirement, _level, rooms, proof in ROWS:
        name = re.fullmatch(r"`(test_\w+)`", proof)
        assert name or len(proof) > 20, f"neither a test nor a reason: {requirement}"
        assert name is None or f"def {name[1]}(" in tests, proof
        assert (rooms == "") == (name is None), requirement
        for room in re.findall(r"`([a-zA-Z_.]+)", rooms.partition(" (")[0]):
            path = ROOT / "quart_mercure" / room.replace(".", "/")
            above = path.parent.with_suffix(".py"), path.parent / "__init__.py"
            exists = path.with_suffix(".py").exists() or path.is_dir()
            assert exists or any(each.exists() for each in above), room


@pytest.mark.parametrize("level", [0, 1], ids=["MUST", "SHOULD"])
def test_the_rows_of_conformance_answer_as_much_as_each_section_asks(level):
    name = ("MUST", "SHOULD")[level]
    total = 0
    for *asked, table in SECTIONS:
        levels = re.findall(
            rf"\b{name}(?: x (\d+))?", re.sub(r"^\|.*?\|(.*?)\|.*$", r"\1", table, flags=re.M)
        )
        answered = sum(int(times or 1) for times in levels)
        assert answered == int(asked[level]), table
        total += answered
    assert f"{total} {name}" in CONFORMANCE.partition("##")[0]


@pytest.mark.parametrize("name", ["stream_url", "publish_many", "last_event_id"])
def test_the_changelog_names_what_is_new(name):
    assert name in (ROOT / "CHANGELOG.md").read_text()
