"""What one writes without a hub: sse-starlette, and an asyncio queue for each client."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from urllib.parse import parse_qs

from sse_starlette import EventSourceResponse, ServerSentEvent
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

queues: dict[str, set[asyncio.Queue[ServerSentEvent]]] = {}


async def subscribe(request: Request) -> Response:
    topics = request.query_params.getlist("topic")

    async def events() -> AsyncIterator[ServerSentEvent]:
        queue: asyncio.Queue[ServerSentEvent] = asyncio.Queue()
        for topic in topics:
            queues.setdefault(topic, set()).add(queue)
        try:
            yield ServerSentEvent(comment="")
            while True:
                yield await queue.get()
        finally:
            for topic in topics:
                queues[topic].discard(queue)

    return EventSourceResponse(events(), sep="\n")


async def publish(request: Request) -> Response:
    form = parse_qs((await request.body()).decode())
    event = ServerSentEvent(form["data"][0], id=f"urn:uuid:{uuid.uuid4()}", sep="\n")
    for queue in queues.get(form["topic"][0], ()):
        queue.put_nowait(event)
    return PlainTextResponse(event.id)


app = Starlette(
    routes=[
        Route("/.well-known/mercure", subscribe, methods=["GET"]),
        Route("/.well-known/mercure", publish, methods=["POST"]),
    ]
)
