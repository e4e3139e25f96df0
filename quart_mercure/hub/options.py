"""What a hub can be told, with defaults that suit one process."""

from __future__ import annotations

from dataclasses import dataclass

DEFAULT_PATH = "/.well-known/mercure"


@dataclass(frozen=True, slots=True, kw_only=True)
class HubOptions:
    """The options of a `Hub`. Durations are in seconds, sizes in bytes.

    Attributes:
        subscriber_key: verifies subscribers' tokens: a secret, or a public key in PEM.
        publisher_key: verifies publishers' tokens.
        algorithm: the one signature algorithm that these two keys are for.
        protocols: the versions of the protocol that are served, of `"0.x"` and `"1.0"`.
        url: the public URL of the hub, against which relative topics and URL patterns are resolved;
            by default `path` on `https://localhost`.
        resource_identifier: what the `aud` of a 1.0 token must be; by default `url`.
        issuer: what the `iss` of a 1.0 token signed with the two keys must be; by default the
            resource identifier.
        issuers: other issuers of 1.0 tokens, each with the URL or file of its JWK Set.
        jwks_algorithms: the signature algorithms that keys of JWK Sets may be for.
        path: where the hub is served.
        allow_publish: whether updates may be published over HTTP.
        allow_anonymous: whether subscribers without a token receive public updates.
        subscriptions: whether subscription events and the subscriptions API are served.
        subscription_event_type: the `event` of subscription events; `None` leaves them unnamed.
        keepalive_interval: how long a stream may be silent before a comment is sent; 0 for never.
        transport_url: where updates are kept, and shared with other hubs: `memory://`,
            `sqlite:///path`, `redis://...`, `postgresql://...` (see `hub.transport`).
        reconciliation_length: how many updates `memory://` keeps for clients that come back.
        cookie_name: the cookie that may hold a 0.x token.
        access_token_cookie_name: the cookie that may hold a 1.0 token.
        cors_origins: the origins whose pages may use the hub with credentials; `"*"` in it lets
            every origin in, but without credentials.
        publish_origins: the other origins whose pages may publish with the cookie.
        queue_events: how many events may wait for one client.
        queue_bytes: how many bytes may.
        slow_client_policy: what becomes of an update for which there is no room: `"disconnect"`
            the client, `"drop_oldest"`, `"drop_newest"`, or `"conflate"` (see `SlowClientPolicy`).
        slow_client_policies: the same for topics, each a topic selector and a policy; the first
            that selects one of an update's topics counts.
        dispatch_timeout: how long a client may take to accept what was sent to it before it is
            disconnected; 0 for ever.
        max_flush_interval: the longest time between updates being sent in batches, under load; 0
            sends each update by itself, at once.
        publish_backlog: how many publications over HTTP may wait for subscribers that fall behind
            before others are refused (503).
        max_streams: how many streams may be open in total; 0 for any number.
        max_streams_per_address: how many from one client address (which is the proxy's, behind one
            that the server does not know of).
        max_streams_per_token: how many under one token.
        write_timeout: how long a stream may be open before it is ended and comes back, spread over
            80 to 100 % of that; 0 for as long as its token lasts.
        shutdown_timeout: over how long open streams are ended when the server stops.
        max_body: the largest request body.
    """

    subscriber_key: str | bytes = ""
    publisher_key: str | bytes = ""
    algorithm: str = "HS256"
    protocols: tuple[str, ...] = ("0.x", "1.0")
    url: str | None = None
    resource_identifier: str | None = None
    issuer: str | None = None
    issuers: tuple[tuple[str, str], ...] = ()
    jwks_algorithms: tuple[str, ...] = ("EdDSA", "ES256", "ES384", "PS256", "RS256")
    path: str = DEFAULT_PATH
    allow_publish: bool = True
    allow_anonymous: bool = True
    subscriptions: bool = True
    subscription_event_type: str | None = None
    keepalive_interval: float = 15.0
    transport_url: str = "memory://"
    reconciliation_length: int = 500
    cookie_name: str = "mercureAuthorization"
    access_token_cookie_name: str = "__Secure-mercure_access_token"
    cors_origins: tuple[str, ...] = ()
    publish_origins: tuple[str, ...] = ()
    queue_events: int = 10_000
    queue_bytes: int = 1024 * 1024
    slow_client_policy: str = "disconnect"
    slow_client_policies: tuple[tuple[str, str], ...] = ()
    dispatch_timeout: float = 10.0
    max_flush_interval: float = 0.01
    publish_backlog: int = 100
    max_streams: int = 0
    max_streams_per_address: int = 0
    max_streams_per_token: int = 0
    write_timeout: float = 0.0
    shutdown_timeout: float = 1.0
    max_body: int = 1024 * 1024

    @property
    def base(self) -> str:
        """The hub's URL."""
        return self.url or f"https://localhost{self.path}"

    @property
    def audience(self) -> str:
        """The hub's resource identifier."""
        return self.resource_identifier or self.base

    @property
    def trusted_issuer(self) -> str:
        """The issuer that the two keys belong to."""
        return self.issuer or self.audience
