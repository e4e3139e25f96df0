"""The commands of `quart-mercure`, which need no application."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from .errors import MercureError
from .hub import HubOptions
from .hub.options import DEFAULT_PATH
from .hub.policies import SlowClientPolicy
from .hub.transport import transport_from_url
from .operations import transport
from .server import Serving, serve, with_development_keys

_DEFAULTS = HubOptions()

_F = TypeVar("_F", bound=Callable[..., Any])


@click.group()
@click.version_option(package_name="quart-mercure")
def main() -> None:
    """Server push over the Mercure protocol."""


main.add_command(transport)


def _option(*names: str, env: tuple[str, ...] = (), **settings: Any) -> Callable[[_F], _F]:
    """Return an option that an environment variable can set, too."""
    return click.option(*names, envvar=list(env), show_envvar=bool(env), **settings)


@main.command()
@_option(
    "--bind",
    default="127.0.0.1:5500",
    show_default=True,
    env=("MERCURE_HUB_BIND",),
    help="Address and port to listen on.",
)
@_option(
    "--path",
    default=DEFAULT_PATH,
    show_default=True,
    env=("MERCURE_HUB_PATH",),
    help="Path of the hub.",
)
@_option(
    "--publisher-key",
    env=("MERCURE_PUBLISHER_SECRET_KEY", "MERCURE_PUBLISHER_JWT_KEY"),
    help="Secret or public key (PEM, or @FILE) that publishers' tokens are verified with.",
)
@_option(
    "--subscriber-key",
    env=("MERCURE_SUBSCRIBER_SECRET_KEY", "MERCURE_SUBSCRIBER_JWT_KEY"),
    help="The same for subscribers' tokens.",
)
@_option(
    "--key-algorithm",
    default="HS256",
    show_default=True,
    env=("MERCURE_KEY_ALGORITHM", "MERCURE_JWT_ALG"),
    help="Signature algorithm of these keys: HS256, EdDSA, ES256, RS256, PS256, ...",
)
@_option(
    "--resource-identifier",
    env=("MERCURE_RESOURCE_IDENTIFIER",),
    help="The `aud` of 1.0 tokens, and the hub's public URL.",
)
@_option(
    "--issuer",
    env=("MERCURE_ISSUER",),
    help="The `iss` of 1.0 tokens; the resource identifier by default.",
)
@_option(
    "--jwks-url",
    env=("MERCURE_JWKS_URL",),
    help="URL or file of the issuer's JWK Set, whose keys are trusted, too.",
)
@_option(
    "--protocol",
    "protocols",
    type=click.Choice(["0.x", "1.0"]),
    multiple=True,
    default=["0.x", "1.0"],
    show_default=True,
    env=("MERCURE_HUB_PROTOCOL_VERSIONS",),
    help="Version of the protocol to serve; may be given twice.",
)
@_option(
    "--anonymous/--no-anonymous",
    default=True,
    show_default=True,
    env=("MERCURE_HUB_ALLOW_ANONYMOUS",),
    help="Let clients without a token subscribe.",
)
@_option(
    "--subscriptions/--no-subscriptions",
    default=True,
    show_default=True,
    env=("MERCURE_HUB_SUBSCRIPTIONS",),
    help="Serve subscription events and their API.",
)
@_option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    env=("MERCURE_HUB_CORS_ORIGINS",),
    help="Origin whose pages may use the hub, like https://example.com; may be repeated.",
)
@_option(
    "--publish-origin",
    "publish_origins",
    multiple=True,
    env=("MERCURE_HUB_PUBLISH_ORIGINS",),
    help="Origin whose pages may publish with the cookie; may be repeated.",
)
@_option(
    "--cookie-name",
    default="mercureAuthorization",
    show_default=True,
    env=("MERCURE_AUTHZ_COOKIE_NAME",),
    help="Cookie that may hold a 0.x token.",
)
@_option(
    "--heartbeat",
    type=click.FloatRange(min=0),
    default=15.0,
    show_default=True,
    env=("MERCURE_HUB_KEEPALIVE_INTERVAL",),
    help="Seconds of silence after which a comment is sent; 0 for never.",
)
@_option(
    "--slow-client-policy",
    default="disconnect",
    show_default=True,
    env=("MERCURE_HUB_SLOW_CLIENT_POLICY",),
    type=click.Choice([policy.value for policy in SlowClientPolicy]),
    help="What to do when no more may wait for a client.",
)
@_option(
    "--queue-events",
    default=_DEFAULTS.queue_events,
    show_default=True,
    env=("MERCURE_HUB_QUEUE_EVENTS",),
    type=click.IntRange(min=1),
    help="Events that may wait for one client.",
)
@_option(
    "--queue-bytes",
    default=_DEFAULTS.queue_bytes,
    show_default=True,
    env=("MERCURE_HUB_QUEUE_BYTES",),
    type=click.IntRange(min=1),
    help="Bytes that may wait for one client.",
)
@_option(
    "--dispatch-timeout",
    default=10.0,
    show_default=True,
    env=("MERCURE_HUB_DISPATCH_TIMEOUT",),
    type=click.FloatRange(min=0),
    help="Seconds after which a client that takes nothing is disconnected; 0 for never.",
)
@_option(
    "--write-timeout",
    default=0.0,
    show_default=True,
    env=("MERCURE_HUB_WRITE_TIMEOUT",),
    type=click.FloatRange(min=0),
    help="Seconds that a stream may be open, spread over 80-100 %; 0 for no limit.",
)
@_option(
    "--max-flush-interval",
    default=0.01,
    show_default=True,
    env=("MERCURE_HUB_MAX_FLUSH_INTERVAL",),
    type=click.FloatRange(min=0),
    help="Longest pause between batches of updates under load, in seconds; 0 sends each at once.",
)
@_option(
    "--history",
    default=_DEFAULTS.reconciliation_length,
    show_default=True,
    env=("MERCURE_HUB_RECONCILIATION_LENGTH",),
    type=click.IntRange(min=0),
    help="Updates that memory:// keeps for clients that come back.",
)
@_option(
    "--transport",
    default="memory://",
    show_default=True,
    env=("MERCURE_TRANSPORT_URL",),
    help="Where updates are kept: memory://, sqlite:///path, redis://..., postgresql://...",
)
@_option(
    "--server",
    type=click.Choice(["hypercorn", "uvicorn", "granian"]),
    default="hypercorn",
    show_default=True,
    env=("MERCURE_HUB_SERVER",),
    help="ASGI server to run under.",
)
@_option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    env=("MERCURE_HUB_WORKERS",),
    help="Number of server processes.",
)
@_option(
    "--log-level",
    default="info",
    show_default=True,
    env=("MERCURE_HUB_LOG_LEVEL",),
    type=click.Choice(["debug", "info", "warning", "error", "critical"]),
    help="What to log.",
)
@_option(
    "--certfile",
    type=click.Path(exists=True),
    env=("MERCURE_HUB_CERTFILE",),
    help="Certificate to serve HTTPS with.",
)
@_option(
    "--keyfile",
    type=click.Path(exists=True),
    env=("MERCURE_HUB_KEYFILE",),
    help="The certificate's private key.",
)
def hub(**given: Any) -> None:
    """Serve a Mercure hub.

    Without any key it makes some for development and prints how to publish and to listen.
    """
    serving = Serving(
        **{name: given[name] for name in ("bind", "server", "workers", "log_level")},
        **{name: given[name] for name in ("certfile", "keyfile")},
    )
    try:
        options = with_development_keys(_hub_options(given, serving), serving)
        transport_from_url(options.transport_url, options)  # wrong ones are told before serving
        click.echo(f"Hub at {serving.origin}{options.path} ({', '.join(options.protocols)})")
        sys.stdout.flush()
        sys.exit(serve(options, serving))
    except MercureError as error:
        raise click.ClickException(str(error)) from error


_PASSED_ON = (
    *("slow_client_policy", "queue_events", "queue_bytes"),
    *("dispatch_timeout", "write_timeout", "max_flush_interval"),
)
"""Parameters of the command that are options of the hub by the same name."""


def _hub_options(given: dict[str, Any], serving: Serving) -> HubOptions:
    path = "/" + given["path"].strip("/")
    url = given["resource_identifier"] or f"{serving.origin}{path}"
    issuer = given["issuer"] or url
    return HubOptions(
        publisher_key=_key(given["publisher_key"]),
        subscriber_key=_key(given["subscriber_key"]),
        algorithm=given["key_algorithm"],
        path=path,
        url=url if url.startswith(("http://", "https://")) else None,
        resource_identifier=url,
        issuer=issuer,
        issuers=((issuer, given["jwks_url"]),) if given["jwks_url"] else (),
        protocols=tuple(sorted(set(given["protocols"]))),
        allow_anonymous=given["anonymous"],
        subscriptions=given["subscriptions"],
        cors_origins=given["cors_origins"],
        publish_origins=given["publish_origins"],
        cookie_name=given["cookie_name"],
        keepalive_interval=given["heartbeat"],
        transport_url=given["transport"],
        reconciliation_length=given["history"],
        **{name: given[name] for name in _PASSED_ON},
    )


def _key(given: str | None) -> str:
    if given is None or not given.startswith("@"):
        return given or ""
    try:
        return Path(os.path.expanduser(given[1:])).read_text()
    except OSError as error:
        raise click.BadParameter(f"{given[1:]}: {error.strerror}") from error
