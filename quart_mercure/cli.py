"""The commands of `quart mercure`."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING

import click
from quart.cli import AppGroup, ScriptInfo, pass_script_info

from .errors import MercureError
from .operations import transport

if TYPE_CHECKING:
    from .extension import MercureSSE

cli = AppGroup("mercure", help="Keys, tokens and publishing for Mercure.")

cli.add_command(transport)

_TOPIC = click.option(
    "--topic", "-t", multiple=True, default=["*"], show_default=True, help="A topic to grant."
)


def _sse(info: ScriptInfo) -> MercureSSE:
    sse: MercureSSE = info.load_app().extensions["mercure_sse"]
    return sse


@cli.command()
def gen_secret_key() -> None:
    """Print a new secret key, for MERCURE_SUBSCRIBER_SECRET_KEY or MERCURE_PUBLISHER_SECRET_KEY."""
    click.echo(secrets.token_hex(32))


@cli.command()
@_TOPIC
@pass_script_info
def subscriber_jwt(info: ScriptInfo, topic: tuple[str, ...]) -> None:
    """Print a token to subscribe to topics with; it has no payload."""
    click.echo(_sse(info).create_jwt("subscriber_secret_key", subscribe=list(topic)))


@cli.command()
@_TOPIC
@pass_script_info
def publisher_jwt(info: ScriptInfo, topic: tuple[str, ...]) -> None:
    """Print a token to publish to topics with."""
    click.echo(_sse(info).create_jwt("publisher_secret_key", publish=list(topic)))


@cli.command()
@click.option("--hub", help="URL of the hub; MERCURE_HUB_URL by default.")
@click.option("--jwt", help="Token to publish with; one is made by default.")
@click.option("--private", is_flag=True, help="Only for subscribers whose token grants the topic.")
@click.option("--id", help="Identifier of the update; a new one by default.")
@click.option("--type", help="Name of the event.")
@click.option("--retry", type=int, help="Reconnection time for browsers, in milliseconds.")
@click.argument("topic")
@click.argument("data")
@pass_script_info
def publish(
    info: ScriptInfo,
    topic: str,
    data: str,
    hub: str | None,
    jwt: str | None,
    private: bool,
    id: str | None,
    type: str | None,
    retry: int | None,
) -> None:
    """Publish DATA to TOPIC and print the identifier of the update."""
    sse = _sse(info)
    if hub is None and sse.hub is not None:
        raise click.UsageError(
            "the hub of this application lives in its server process: give that hub's URL with "
            "--hub (the server needs MERCURE_HUB_ALLOW_PUBLISH)"
        )

    async def run() -> str:
        try:
            return await sse.publish(topic, data, private, id, type, retry, jwt, hub)
        finally:
            await sse.aclose()

    try:
        click.echo(asyncio.run(run()))
    except MercureError as error:
        raise click.ClickException(str(error)) from error
