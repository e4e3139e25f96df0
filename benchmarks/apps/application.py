"""A Quart application that publishes through the hub in its own process."""

from __future__ import annotations

import time

from quart import Quart

from benchmarks.load import event_data
from benchmarks.targets import SECRET
from quart_mercure import MercureSSE

app = Quart(__name__)
app.config["SECRET_KEY"] = SECRET
sse = MercureSSE(app, hub=True)


@app.get("/one-by-one/<float:seconds>")
async def one_by_one(seconds: float) -> dict[str, float]:
    """Publish in a tight loop; return how many updates a second that makes."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        await sse.publish("bench", event_data())
        count += 1
    return {"updates/s": count / (time.monotonic() - begun)}


@app.get("/many/<float:seconds>")
async def many(seconds: float) -> dict[str, float]:
    """The same, a hundred updates at a time."""
    begun, count = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        await sse.publish_many([("bench", event_data()) for _ in range(100)])
        count += 100
    return {"updates/s": count / (time.monotonic() - begun)}
