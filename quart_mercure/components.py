"""Components: ours for streams and presence, and the application's own, callable from Python."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import jinja_super_macros
from jinja2 import Environment, Template
from jinja2.filters import do_xmlattr
from jinja2.nodes import EvalContext
from jinja_super_macros.registry import MacroRegistry
from markupsafe import Markup
from quart import Quart, has_app_context, render_template

if TYPE_CHECKING:
    from .extension import MercureSSE

_OWN_MACRO_FILES = ("__macros__.html",)
_OWN_COMPONENT_SUFFIX = ".macro.html"
_OWN_FOLDER = "components/"

_PRESENCE_TRIGGER = ", ".join(
    ("load", *(f"sse:{name} delay:100ms" for name in ("message", "Subscription", "mercure")))
)
"""The names that hubs give to subscription events: none in 0.x, flask-mercure-sse's, 1.0's.

The delay makes one request of many events that come together.
"""


class ComponentRegistry(MacroRegistry):  # type: ignore[misc]
    """The macros of an environment, together with the components that are functions of ours.

    An application's components are the macros of its `__macros__.html` and of the templates below
    `components/`, and its templates named `*.macro.html`. They are looked for when one is first
    used, so blueprints may be registered, and files added, at any time before.
    """

    def __init__(self, environment: Environment) -> None:
        super().__init__(environment)
        self._functions: set[str] = set()
        self._looked = False

    def add_function(self, name: str, function: Callable[..., Any]) -> None:
        """Make a function a component, as a tag and as a callable of every template."""
        self._functions.add(name)
        self.environment.globals[name] = function

    def resolve(self, name: str) -> tuple[str | None, str | None]:
        """Return the macro of a component and the template that defines it (or `None`: global)."""
        if name in self._functions:
            return name, None
        found: tuple[str | None, str | None] = super().resolve(name)
        # Names in lower case may well be HTML elements: for these, one look is enough.
        if found[0] is None and not (name.islower() and self._looked):
            self._looked = True
            self._find_own()
            found = super().resolve(name)
        return found

    def _find_own(self) -> None:
        known = set(self.macro_templates.values())
        try:
            templates = self.environment.list_templates(extensions=["html", "jinja"])
        except TypeError:  # a loader that cannot list
            return
        for template in templates:
            if template in known:
                continue
            if template.endswith(_OWN_COMPONENT_SUFFIX):
                self.create_from_template(template)
            elif template in _OWN_MACRO_FILES or template.startswith(_OWN_FOLDER):
                self.register_from_template(template)


class Rendering:
    """A component with its properties, rendered when awaited."""

    def __init__(self, render: Callable[[], Awaitable[Markup]]) -> None:
        self._render = render

    def __await__(self) -> Generator[Any, None, Markup]:
        return self._render().__await__()


class Components:
    """An application's components from Python: `await app.components.Card(title="hello")`."""

    def __init__(self, app: Quart, registry: ComponentRegistry) -> None:
        self._app = app
        self._registry = registry
        self._calls: dict[str, Template] = {}

    def __getattr__(self, name: str) -> Callable[..., Rendering]:
        if name.startswith("_"):
            raise AttributeError(name)
        macro, template = self._registry.resolve(name)
        if macro is None:
            raise AttributeError(f"there is no component {name} in the application's templates")

        def component(*args: Any, **properties: Any) -> Rendering:
            return Rendering(lambda: self._render(macro, template, args, properties))

        return component

    async def _render(
        self, macro: str, template: str | None, args: tuple[Any, ...], properties: dict[str, Any]
    ) -> Markup:
        async with nullcontext() if has_app_context() else self._app.app_context():
            if template is None:
                function: Any = self._registry.environment.globals[macro]
                return Markup(await function(*args, **properties))
            # Quart takes a template as well as a name, though it does not say so.
            name: Any = self._call(macro, template)
            return Markup(await render_template(name, args_=args, properties_=properties))

    def _call(self, macro: str, template: str) -> Template:
        """Return a template that only calls a macro; it is compiled once."""
        if macro not in self._calls:
            self._calls[macro] = self._app.jinja_env.from_string(
                f'{{% from "{template}" import {macro} with context %}}'
                f"{{{{ {macro}(*args_, **properties_) }}}}"
            )
        return self._calls[macro]


def install(app: Quart, sse: MercureSSE) -> None:
    """Give the application's templates our components, and the application `app.components`."""
    environment = app.jinja_env
    registry = getattr(environment, "macros", None)
    if not isinstance(registry, ComponentRegistry):
        registry = ComponentRegistry(environment)
        jinja_super_macros.configure_environment(environment)
    ours = MercureComponents(sse, environment)
    for function in (ours.MercureStream, ours.MercureStreamContext, ours.MercurePresence):
        registry.add_function(function.__name__, function)
    if not hasattr(app, "components"):
        app.components = Components(app, registry)  # type: ignore[attr-defined]


class MercureComponents:
    """The components `MercureStream`, `MercureStreamContext` and `MercurePresence` (htmx 2)."""

    def __init__(self, sse: MercureSSE, environment: Environment) -> None:
        self._sse = sse
        self._environment = environment

    async def MercureStream(
        self,
        topic: Any = None,
        private: bool = False,
        hx_swap: str = "beforeend",
        type: str | None = None,
        auto_scroll: bool = False,
        with_subscriptions: bool = False,
        caller: Callable[[], Any] | None = None,
        **attributes: Any,
    ) -> Markup:
        """Show the updates of a topic as they come.

        Inside a `MercureStreamContext` `topic` may be left out; `type` then tells which events of
        the context are this component's.
        """
        own: dict[str, Any] = {}
        if topic is not None and type is None and self._sse.config.type_is_topic:
            type = self._sse.topic(_first(topic))
        if topic is not None:
            own |= await self._connection(topic, private, topic if with_subscriptions else ())
        own |= {"sse-swap": type or "message", "hx-swap": hx_swap}
        script = Markup("")
        if auto_scroll:
            own["data-mercure-auto-scroll"] = True
            script = Markup('<script type="module" src="{}"></script>').format(
                self._sse.script_url()
            )
        return await self._div("mercure-stream", own, attributes, caller) + script

    async def MercureStreamContext(
        self,
        topics: Any,
        private: bool = False,
        with_subscriptions: bool = False,
        caller: Callable[[], Any] | None = None,
        **attributes: Any,
    ) -> Markup:
        """Open one stream for the components inside it."""
        own = await self._connection(topics, private, topics if with_subscriptions else ())
        return await self._div("mercure-stream-context", own, attributes, caller)

    async def MercurePresence(
        self,
        hx_get: str,
        topic: Any = None,
        caller: Callable[[], Any] | None = None,
        **attributes: Any,
    ) -> Markup:
        """Load `hx_get`, and again whenever somebody starts or stops listening to `topic`.

        Inside a `MercureStreamContext` with `with_subscriptions`, `topic` may be left out.
        """
        own: dict[str, Any] = {}
        if topic is not None:
            own |= await self._connection((), False, presence=topic)
        own |= {"hx-get": hx_get, "hx-trigger": _PRESENCE_TRIGGER}
        return await self._div("mercure-presence", own, attributes, caller)

    async def _connection(self, topics: Any, private: bool, presence: Any) -> dict[str, str]:
        url = await self._sse.stream_url(topics, private=private, presence=presence)
        return {"hx-ext": "sse", "sse-connect": url}

    async def _div(
        self,
        css_class: str,
        own: Mapping[str, Any],
        attributes: Mapping[str, Any],
        caller: Callable[[], Any] | None,
    ) -> Markup:
        inner = caller() if caller is not None else ""
        if inspect.isawaitable(inner):
            inner = await inner
        rendered = self._attributes(css_class, own, attributes)
        return Markup("<div{}>{}</div>").format(rendered, Markup(inner))

    def _attributes(
        self, css_class: str, own: Mapping[str, Any], given: Mapping[str, Any]
    ) -> Markup:
        """Return attributes with escaped values; `data_id` is `data-id`, `True` a bare name."""
        merged: dict[str, Any] = {"class": css_class, **own}
        for name, value in given.items():
            attribute = name.rstrip("_").replace("_", "-")
            if attribute == "class":
                value = f"{css_class} {value}"
            merged[attribute] = value
        written = {
            name: "" if value is True else value
            for name, value in merged.items()
            if value is not False and value is not None
        }
        return Markup(do_xmlattr(EvalContext(self._environment), written))


def _first(topic: Any) -> Any:
    return topic[0] if isinstance(topic, Sequence) and not isinstance(topic, str) else topic
