"""The commands about transports, in `quart mercure transport` and `quart-mercure transport`."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import IO, Any

import click
from quart.cli import ScriptInfo

from .errors import ConfigurationError, MercureError
from .hub.events import Event
from .hub.options import DEFAULT_PATH, HubOptions
from .hub.transport import transport_from_url
from .hub.transport.shared import Append, Retention, SharedTransport, Store, load_update
from .hub.transport.shared import dump_update as dump

_BATCH = 500


@click.group()
@click.option(
    "--url",
    envvar=["MERCURE_TRANSPORT_URL", "QUART_MERCURE_TRANSPORT_URL"],
    show_envvar=True,
    help="The transport's URL; in `quart mercure`, the application's by default.",
)
@click.pass_context
def transport(context: click.Context, url: str | None) -> None:
    """Look into, trim and copy what a transport keeps."""
    script = context.find_object(ScriptInfo)
    if url is None and script is not None:
        url = script.load_app().extensions["mercure_sse"].config.transport_url
    context.obj = url


def _with_store(work: Callable[[Store], Coroutine[Any, Any, None]]) -> None:
    """Do something with the store that the command is about."""

    async def run() -> None:
        store = store_at(click.get_current_context().obj)
        await store.open()
        try:
            await work(store)
        finally:
            await store.aclose()

    try:
        asyncio.run(run())
    except MercureError as error:
        raise click.ClickException(str(error)) from error


def store_at(url: str | None) -> Store:
    """Return the store of a transport's URL. Raises `ConfigurationError` where there is none."""
    if not url:
        raise ConfigurationError("--url", "is missing: give it, or set MERCURE_TRANSPORT_URL")
    found = transport_from_url(url, HubOptions())
    if not isinstance(found, SharedTransport):
        raise ConfigurationError("--url", f"{url} is not shared: only its own process can use it")
    return found.store


@transport.command()
def info() -> None:
    """Print what is kept, as JSON."""

    async def work(store: Store) -> None:
        click.echo(json.dumps(dataclasses.asdict(await store.summary()), indent=2))

    _with_store(work)


@transport.command()
@click.option("--history", type=click.IntRange(min=0), help="Keep so many updates; 0: any number.")
@click.option("--max-age", type=click.FloatRange(min=0), help="Keep so many seconds.")
@click.option("--max-bytes", type=click.IntRange(min=0), help="Keep so many bytes of data.")
def trim(history: int | None, max_age: float | None, max_bytes: int | None) -> None:
    """Forget old updates: by the URL's limits, or by those given."""
    retention = None
    if (history, max_age, max_bytes) != (None, None, None):
        retention = Retention(events=history or 0, age=max_age or 0.0, size=max_bytes or 0)

    async def work(store: Store) -> None:
        click.echo(f"{await store.trim(retention)} forgotten")

    _with_store(work)


@transport.command("export")
@click.argument("file", type=click.File("w", encoding="utf-8"), default="-")
def export(file: IO[str]) -> None:
    """Write the application's updates to FILE, one JSON object a line, oldest first."""

    async def work(store: Store) -> None:
        total = (await store.summary()).updates
        to_stdout = file.name == "<stdout>"
        with click.progressbar(length=total, label="Exporting", hidden=to_stdout) as bar:
            async for event in _kept(store):
                file.write(dump(event.update) + "\n")
                bar.update(1)

    _with_store(work)


async def _kept(store: Store) -> AsyncIterator[Event]:
    """Yield what is kept of the application's updates."""
    until, _ = await store.end()
    after = 0
    while events := await store.read(after, until, _BATCH):
        after = events[-1].position
        for event in events:
            if not event.update.topics[0].startswith(f"{DEFAULT_PATH}/subscriptions/"):
                yield event


@transport.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8"))
def import_(file: IO[str]) -> None:
    """Publish the updates in FILE, as `export` writes them, in order and under their ids."""

    async def work(store: Store) -> None:
        lines = [line for line in file if line.strip()]
        try:
            updates = [load_update(line) for line in lines]
        except (KeyError, TypeError, ValueError) as error:
            raise click.ClickException(f"this is no export: {error}") from error
        with click.progressbar(length=len(updates), label="Importing") as bar:
            for start in range(0, len(updates), _BATCH):
                batch = updates[start : start + _BATCH]
                await store.write([Append(update) for update in batch])
                bar.update(len(batch))

    _with_store(work)
