"""`MercureSSE`: what an application holds."""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

import httpx
from blinker import Signal
from quart import (
    Blueprint,
    Quart,
    after_this_request,
    current_app,
    g,
    has_request_context,
    request,
)

from . import components
from .cli import cli
from .config import DEFAULT_HUB_URL, MercureConfig
from .dialects import Dialect, Draft, Legacy
from .embedded import HubInFront
from .encryption import encrypt
from .errors import ConfigurationError, HubUnavailable, InvalidUpdate, SubscriptionNotFound
from .hub import Hub
from .hub.options import DEFAULT_PATH
from .negotiation import Negotiation
from .publisher import Clients, HTTPPublisher, Publisher
from .signals import SignalCallback, connect_signal
from .topics import as_data, as_topic, split_publication
from .update import Update, new_id
from .urls import CookieScope, cookie_scope, discovery_links

logger = logging.getLogger("quart_mercure")

EXTENSION = "mercure_sse"
STATIC_PATH = "/_mercure"

_CURSOR_TOPIC = "urn:quart-mercure:cursor"
"""A topic nobody subscribes to: asking who does is the cheapest way to a hub's last event id."""

_GRANTED = "_mercure_granted"
_EVENT_ID = "_mercure_event_id"

_PayloadGetter = TypeVar("_PayloadGetter", bound=Callable[[Any], Any])


class MercureSSE:
    """Server push for a Quart application.

    `MercureSSE(app)`, or `init_app` later, makes itself `app.sse`. Options are the `MERCURE_*`
    configuration keys in lower case, without the prefix: see `MercureConfig`.
    """

    app: Quart
    config: MercureConfig

    def __init__(self, app: Quart | None = None, **options: Any) -> None:
        self._payload_getter: Callable[[Any], Any] | None = None
        self._hub: Hub | None = None
        if app is not None:
            self.init_app(app, **options)

    def init_app(self, app: Quart, **options: Any) -> None:
        """Set the extension up on an application.

        Raises `ConfigurationError`, naming the key, when an option is missing, unknown or wrong.
        """
        self.app = app
        self.config = config = MercureConfig.load(app.config, options)
        self._clients = Clients(config.publish_timeout, config.publish_connections)
        self._negotiation = Negotiation(self._clients)
        self._dialects: dict[str, Dialect] = {"0.x": Legacy(config), "1.0": Draft(config)}
        app.extensions[EXTENSION] = self
        app.sse = self  # type: ignore[attr-defined]
        front = HubInFront(app.asgi_app, lambda: self.hub, self.aclose)
        app.asgi_app = front  # type: ignore[method-assign]
        app.register_blueprint(
            Blueprint(EXTENSION, __name__, static_folder="static", static_url_path=STATIC_PATH)
        )
        app.jinja_env.globals.update(
            mercure_hub_url=self._template_hub_url,
            mercure_authentified_hub_url=self._template_authentified_hub_url,
            mercure_subscriber_jwt=self.create_subscription_jwt,
            mercure_topic=as_topic,
            mercure_subscription_topic=self.subscription_topic,
            mercure_subscriptions=self._template_subscriptions,
        )
        components.install(app, self)
        app.cli.add_command(cli)
        app.before_request(self._negotiate)

    # The hub ------------------------------------------------------------------------------------

    @property
    def hub(self) -> Hub | None:
        """The embedded hub, or `None` when this application uses an external one.

        It is embedded when `MERCURE_HUB` says so; when that is not set, in debug mode and under
        test, unless `MERCURE_HUB_URL` names a hub.
        """
        embedded = self.config.hub
        if embedded is None:
            named = isinstance(self.config.hub_url, str)
            embedded = not named and (self.app.debug or self.app.testing)
        if not embedded:
            return None
        if self._hub is None:
            self._hub = Hub(self.config.hub_options())
        return self._hub

    async def aclose(self) -> None:
        """Close the connections to an external hub; done when serving ends."""
        await self._clients.aclose()

    @property
    def protocol_version(self) -> str:
        """The version of the protocol that is spoken: `"0.x"` or `"1.0"`.

        Where `MERCURE_PROTOCOL_VERSION` is `"auto"`, it is the newest that the embedded hub
        serves; an external hub is asked before the first request or publication.
        """
        version = self.config.protocol_version
        if version != "auto":
            return version
        if self.hub is not None:
            return max(self.config.hub_protocol_versions)
        return self._negotiation.version

    @property
    def _dialect(self) -> Dialect:
        return self._dialects[self.protocol_version]

    async def _negotiate(self) -> None:
        if self.config.protocol_version == "auto" and self.hub is None:
            url = self.hub_base_url(public=False)
            await self._negotiation.settle(url, self.config.audience)

    def hub_base_url(self, public: bool = True) -> str:
        """Return the URL of the hub: for browsers, or the application's own requests to it.

        An embedded hub is on the host of the current request; outside a request its URL is a path.
        """
        config = self.config
        url = config.hub_url
        if public and config.public_hub_url:
            url = config.public_hub_url
        if url is True or (self.hub is not None and not url):
            if not has_request_context():
                return DEFAULT_PATH
            return f"{request.host_url.rstrip('/')}{request.root_path.rstrip('/')}{DEFAULT_PATH}"
        return url or DEFAULT_HUB_URL

    def script_url(self) -> str:
        """Return the URL of the script that some components need."""
        root = request.root_path.rstrip("/") if has_request_context() else ""
        return f"{root}{STATIC_PATH}/mercure.js"

    # Subscribing --------------------------------------------------------------------------------

    def topic(self, obj: Any) -> str:
        """Return the topic that an object stands for: see `quart_mercure.topics.as_topic`."""
        return as_topic(obj)

    def subscription_topic(self, topic: Any = None, subscriber: str | None = None) -> str:
        """Return the topic of the subscriptions to `topic`, or of the one of `subscriber`.

        Without `subscriber` it is a selector: of the events of all those subscriptions, and of
        the address of their list.
        """
        return self._dialect.presence_name(None if topic is None else as_topic(topic), subscriber)

    def hub_url(
        self,
        topics: Any = None,
        subscriber_jwt: str | None = None,
        with_subscriptions: bool = False,
        public: bool = True,
    ) -> str:
        """Return the URL to subscribe to topics; `with_subscriptions` adds who listens to them."""
        names = self._listened(topics, with_subscriptions)
        base = self.hub_base_url(public=public)
        return self._dialect.subscribe_url(base, names, jwt=subscriber_jwt)

    def authentified_hub_url(
        self, topics: Any = None, payload: Any = None, with_subscriptions: bool = False
    ) -> str:
        """Return the URL to subscribe to topics with a token, which also opens private updates.

        In protocol 1.0 the token goes into the authorization cookie of the current response.
        """
        granted = self._listened(topics, with_subscriptions) or ("*",)
        jwt = self._token_for_url(granted, payload)
        return self.hub_url(topics, jwt, with_subscriptions=with_subscriptions)

    def _listened(self, topics: Any, with_subscriptions: bool) -> tuple[str, ...]:
        """Return what a URL for topics selects: them, and perhaps who listens to them."""
        names = _names(topics)
        return (*names, *map(self.subscription_topic, names)) if with_subscriptions else names

    async def stream_url(self, topics: Any, *, private: bool = False, presence: Any = ()) -> str:
        """Return the URL that a page opens: the components' way to subscribe.

        `private` opens the private updates of `topics`; `presence` are topics of which to receive
        who starts and stops listening. The URL carries the hub's last event id.
        """
        names = _names(topics)
        watched = tuple(map(self.subscription_topic, _names(presence)))
        granted = (*(names if private else ()), *watched)
        jwt = self._token_for_url(granted) if granted else None
        return self._dialect.subscribe_url(
            self.hub_base_url(),
            (*names, *watched),
            jwt=jwt,
            last_event_id=await self._page_event_id(),
        )

    def _token_for_url(self, granted: tuple[str, ...], payload: Any = None) -> str | None:
        """Return a token to put in a URL; where none may be, arrange the cookie and return `None`.

        All that one response's page is granted goes into one cookie.
        """
        if self._dialect.token_in_url:
            return self.create_subscription_jwt(granted, payload)
        if not has_request_context():
            raise RuntimeError("in protocol 1.0 a token goes into the cookie of a response")
        names: dict[str, None] = g.get(_GRANTED, {})
        if not names:
            setattr(g, _GRANTED, names)

            @after_this_request
            def set_cookie(response: Any) -> Any:
                return self.set_authz_cookie(response, list(names), payload=payload)

        names.update(dict.fromkeys(granted))
        return None

    def payload_getter(self, function: _PayloadGetter) -> _PayloadGetter:
        """Register the function that returns, for given topics, the payload of a new token."""
        if inspect.iscoroutinefunction(function):
            raise TypeError("a payload getter must be a plain function: tokens are made in URLs")
        self._payload_getter = function
        return function

    def create_jwt(self, key: str, **claim: Any) -> str:
        """Return a token that grants what `publish` and `subscribe` list, with a `payload`.

        In 0.x it has a `mercure` claim; in 1.0 it is an access token that lives
        `MERCURE_JWT_LIFETIME` seconds. `key` names the secret that it is signed with:
        `"publisher_secret_key"` or `"subscriber_secret_key"`. Raises `ConfigurationError` when
        that is not set.
        """
        secret = getattr(self.config, key)
        if not secret:
            raise ConfigurationError(f"MERCURE_{key.upper()}", "is missing: set it, or SECRET_KEY")
        return self._dialect.mint(secret, claim)

    def create_subscription_jwt(self, topics: Any, payload: Any = None) -> str:
        """Return a token that opens the private updates of topics.

        The payload describes the subscriber to those who see its subscriptions. What the payload
        getter returns is part of it.
        """
        claim: dict[str, Any] = {"subscribe": list(_names(topics))}
        if self._payload_getter is not None:
            common = self._payload_getter(topics)
            payload = common if payload is None else {**(common or {}), **payload}
        if payload is not None:
            claim["payload"] = payload
        return self.create_jwt("subscriber_secret_key", **claim)

    async def discover(
        self,
        response: Any,
        topic: Any = None,
        *,
        type: str | None = None,
        content_type: str | None = None,
    ) -> Any:
        """Add the `Link` headers by which clients find the hub, and the topic of this resource.

        They carry the hub's last event id, so that a client misses nothing since. `type` is the
        event type, `content_type` the media type of the updates, where all have the same. Returns
        the response (specification: Discovery).
        """
        links = discovery_links(
            self.hub_base_url(),
            None if topic is None else as_topic(topic),
            last_event_id=await self._page_event_id(),
            type=type,
            content_type=content_type,
        )
        for link in links:
            response.headers.add("Link", link)
        return response

    def set_authz_cookie(
        self,
        response: Any,
        topics: Any = None,
        jwt: str | None = None,
        payload: Any = None,
        secure: bool | None = None,
        **options: Any,
    ) -> Any:
        """Set the cookie that authorizes a browser at the hub; return the response.

        Without `jwt`, a token for `topics` (all, by default) is made. `options` are those of
        `Response.set_cookie`; without them the cookie goes to the hub only, and not to scripts.
        """
        token = jwt or self.create_subscription_jwt(topics or ("*",), payload=payload)
        options = {"httponly": True, **self._cookie_options(secure), **options}
        response.set_cookie(self._dialect.cookie_name(), token, **options)
        return response

    def delete_authz_cookie(self, response: Any, **options: Any) -> Any:
        """Delete the cookie that `set_authz_cookie` set; return the response."""
        options = {"httponly": True, **self._cookie_options(None), **options}
        response.delete_cookie(self._dialect.cookie_name(), **options)
        return response

    def _cookie_options(self, secure: bool | None) -> dict[str, Any]:
        if secure is None and self._dialect.version == "1.0":
            secure = True
        in_request = has_request_context()
        host = request.host.partition(":")[0] if in_request else None
        scope: CookieScope = cookie_scope(
            self.hub_base_url(), host, app_is_secure=in_request and request.is_secure
        )
        return {
            "domain": scope.domain,
            "path": scope.path,
            "secure": scope.secure if secure is None else secure,
            "samesite": "Strict",
        }

    # Publishing ---------------------------------------------------------------------------------

    async def publish(
        self,
        topic: Any,
        data: Any = None,
        private: bool = False,
        id: str | None = None,
        type: str | bool | None = None,
        retry: int | None = None,
        jwt: str | None = None,
        hub_url: str | None = None,
        encrypt_for: Mapping[str, Any] | None = None,
        connection: Any = None,
    ) -> str:
        """Publish an update to all who listen; return its identifier.

        `topic` is anything `as_topic` takes, or a list: the first is canonical, the others are
        alternates. `data` is text, UTF-8 bytes, markup, anything JSON can say, an object with
        `__mercure_sse_data__`, or an awaitable of these. An object alone is topic and data.
        `private` updates reach only those whose token grants one of the topics. `type` names the
        event (`True`: after its topic); `retry` is in milliseconds. With `encrypt_for`, a JWK or a
        JWK set, not even the hub can read the data. With `connection`, where the embedded hub's
        transport is PostgreSQL, the update is part of that connection's transaction: see
        `Hub.publish_in`.

        Raises `InvalidUpdate` for a field that breaks a rule, `PublishError` when an external hub
        does not accept the update, and `TransportError` when the embedded hub's transport fails.
        """
        await self._negotiate()
        update = await self._update(topic, data, private, id, type, retry, encrypt_for)
        if connection is not None:
            if self.hub is None:
                raise ConfigurationError("MERCURE_HUB", "must be on for `connection`")
            return (await self.hub.publish_in(connection, [update]))[0]
        return await self._publisher(jwt, hub_url).publish(update)

    async def publish_many(
        self, updates: Iterable[Any], jwt: str | None = None, hub_url: str | None = None
    ) -> list[str]:
        """Publish several updates in order; return their identifiers.

        Each is a tuple or a mapping of the arguments of `publish`, an `Update`, or an object that
        can be published alone. Nothing is published when one of them is not valid.
        """
        await self._negotiate()
        made = [await self._update_of(update) for update in updates]
        return await self._publisher(jwt, hub_url).publish_many(made)

    async def publish_after_commit(
        self, session: Any, topic: Any, data: Any = None, **options: Any
    ) -> str:
        """Publish an update once a SQLAlchemy session has committed; return its identifier.

        When the transaction, or the savepoint it is called in, rolls back, nothing is sent. The
        data is made now, and publishing goes on in the background after the commit: a process that
        ends in between loses the update, which `publish(..., connection=...)` never does. `options`
        are others of `publish`.
        """
        from .outbox import wait_for_commit  # SQLAlchemy is the application's choice

        update = await self._update(topic, data, **options)
        wait_for_commit(session, [update], partial(self._in_background, self.publish_many))
        return update.id

    def publish_in_background(self, **arguments: Any) -> None:
        """Publish without waiting, from any thread; failures go to the application's log."""
        self._in_background(self.publish, **arguments)

    def _in_background(self, function: Callable[..., Any], *given: Any, **named: Any) -> None:
        task = partial(self.app.add_background_task, function, *given, **named)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            loop = self._hub.loop if self._hub is not None else None
            if loop is None:
                raise RuntimeError(
                    "publishing in the background needs a running event loop"
                ) from None
            loop.call_soon_threadsafe(task)
        else:
            task()

    def publish_signal(
        self,
        signal: Signal,
        topic: Any = None,
        data: Any = None,
        signal_name_as_type: bool = False,
        signal_kwargs_as_data: bool = False,
        marshaler: Callable[[Any], Any] | None = None,
        callback: SignalCallback | None = None,
        **publish_options: Any,
    ) -> Callable[..., Any]:
        """Publish an update each time a signal is sent: see `quart_mercure.signals`."""
        return connect_signal(
            lambda: self,
            signal,
            topic,
            data,
            signal_name_as_type=signal_name_as_type,
            signal_kwargs_as_data=signal_kwargs_as_data,
            marshaler=marshaler,
            callback=callback,
            **publish_options,
        )

    async def _update_of(self, update: Any) -> Update:
        if isinstance(update, Update):
            return update
        if isinstance(update, Mapping):
            return await self._update(**update)
        if isinstance(update, tuple):
            return await self._update(*update)
        return await self._update(update)

    async def _update(
        self,
        topic: Any,
        data: Any = None,
        private: bool = False,
        id: str | None = None,
        type: str | bool | None = None,
        retry: int | None = None,
        encrypt_for: Mapping[str, Any] | None = None,
    ) -> Update:
        if data is None:
            topic, data = split_publication(topic)
        topics = _names(topic)
        if not topics:
            raise InvalidUpdate("topic", "is missing: an update needs at least one")
        if type is True or (type is None and self.config.type_is_topic):
            type = topics[0]
        text = await as_data(data, self.app.json.dumps)
        return Update(
            topics=topics,
            data=text if encrypt_for is None else encrypt(text, encrypt_for),
            private=private,
            id=id or new_id(),
            type=type or None,
            retry=retry,
        )

    def _publisher(self, jwt: str | None, hub_url: str | None) -> Hub | Publisher:
        hub = self.hub
        if hub is not None and hub_url is None:
            return hub
        jwt = jwt or self.config.publisher_jwt
        if jwt is None:
            jwt = self.create_jwt("publisher_secret_key", publish=["*"])
        url = hub_url or self.hub_base_url(public=False)
        return HTTPPublisher(url, jwt, self._clients, self.config.publish_retries)

    # Presence -----------------------------------------------------------------------------------

    async def get_subscriptions(
        self, topic: Any = None, subscriber: str | None = None
    ) -> dict[str, Any]:
        """Return the hub's document of the open subscriptions: all, or those to `topic`.

        With `subscriber` it is the document of that one subscription. Raises
        `SubscriptionNotFound` when there is none, and `HubUnavailable` when an external hub
        cannot be asked.
        """
        await self._negotiate()
        name = None if topic is None else as_topic(topic)
        if self.hub is not None:
            matcher = None if name is None else self._dialect.matcher(name)
            return await self.hub.subscriptions(matcher, subscriber, self._dialect.version)
        document, _ = await self._fetch_subscriptions(name, subscriber)
        return document

    async def is_connected(self, topic: Any, **payload_filter: Any) -> bool:
        """Return whether somebody, whose token's payload has these items, listens to `topic`."""
        found = await self.get_subscriptions(topic)
        payloads = [subscription.get("payload") for subscription in found["subscriptions"]]
        if not payload_filter:
            return bool(payloads)
        return any(
            isinstance(payload, Mapping) and payload_filter.items() <= payload.items()
            for payload in payloads
        )

    async def last_event_id(self) -> str:
        """Return the identifier of the hub's last event; `"earliest"` when it had none.

        Raises `HubUnavailable` when an external hub does not say.
        """
        if self.hub is not None:
            return self.hub.last_event_id
        await self._negotiate()
        return self._dialect.cursor(*await self._fetch_subscriptions(_CURSOR_TOPIC, None))

    async def _fetch_subscriptions(
        self, topic: str | None, subscriber: str | None
    ) -> tuple[dict[str, Any], Mapping[str, str]]:
        path = self._dialect.subscriptions_path(topic, subscriber)
        jwt = self.create_jwt("subscriber_secret_key", subscribe=[path])
        url = self.hub_base_url(public=False) + path.removeprefix(DEFAULT_PATH)
        try:
            response = await self._clients.here().get(
                url, headers={"authorization": f"Bearer {jwt}"}
            )
        except httpx.TransportError as error:
            raise HubUnavailable(f"no hub answers at {url} ({error})") from error
        if response.status_code == 404 and subscriber is not None:
            raise SubscriptionNotFound(path)
        if not response.is_success:
            raise HubUnavailable(f"{url} answered {response.status_code}: {response.text[:200]}")
        document: dict[str, Any] = response.json()
        return document, response.headers

    async def _page_event_id(self) -> str | None:
        """Return the event id for stream URLs in pages; a hub that does not say is no error.

        It is the same for all of a page: that of the first time it is asked for.
        """
        if not self.config.url_last_event_id:
            return None
        if not has_request_context():
            return await self._known_event_id()
        if _EVENT_ID not in g:
            setattr(g, _EVENT_ID, await self._known_event_id())
        identifier: str | None = g.get(_EVENT_ID)
        return identifier

    async def _known_event_id(self) -> str | None:
        try:
            return await self.last_event_id()
        except (HubUnavailable, ConfigurationError, KeyError, ValueError) as error:
            logger.warning("stream URLs go without a last event id: %s", error)
            return None

    async def _template_hub_url(
        self,
        topics: Any = None,
        subscriber_jwt: str | None = None,
        with_subscriptions: bool = False,
        public: bool = True,
    ) -> str:
        names = self._listened(topics, with_subscriptions)
        return self._dialect.subscribe_url(
            self.hub_base_url(public=public),
            names,
            jwt=subscriber_jwt,
            last_event_id=await self._page_event_id() if names else None,
        )

    async def _template_authentified_hub_url(
        self, topics: Any = None, payload: Any = None, with_subscriptions: bool = False
    ) -> str:
        granted = self._listened(topics, with_subscriptions) or ("*",)
        jwt = self._token_for_url(granted, payload)
        return await self._template_hub_url(topics, jwt, with_subscriptions)

    async def _template_subscriptions(self, topic: Any = None) -> list[dict[str, Any]]:
        document = await self.get_subscriptions(topic)
        subscriptions: list[dict[str, Any]] = document["subscriptions"]
        return subscriptions


def _names(topics: Any) -> tuple[str, ...]:
    """Return the names of one topic or of a list of them; nothing for `None`."""
    if topics is None:
        return ()
    if isinstance(topics, list | tuple):
        return tuple(map(as_topic, topics))
    return (as_topic(topics),)


async def mercure_publish(topic: Any, data: Any = None, **options: Any) -> str:
    """Publish an update through the current application: see `MercureSSE.publish`."""
    sse: MercureSSE = current_app.extensions[EXTENSION]
    return await sse.publish(topic, data, **options)


def publish_signal(
    signal: Signal, *arguments: Any, sse: MercureSSE | None = None, **options: Any
) -> Callable[..., Any]:
    """Publish an update each time a signal is sent, through `sse` or the current application.

    The arguments are those of `quart_mercure.signals.connect_signal`.
    """
    return connect_signal(
        lambda: sse or current_app.extensions[EXTENSION], signal, *arguments, **options
    )
