"""The application that most tests with a real server use."""

from __future__ import annotations

from quart import Quart, request

from quart_mercure import MercureSSE
from tests.conftest import SECRET

app = Quart(__name__)
app.config["SECRET_KEY"] = SECRET
app.config.from_prefixed_env()
MercureSSE(app, hub=True, hub_allow_publish=True)


@app.get("/")
async def index():
    return "ok"


@app.post("/publish/<topic>")
async def publish(topic):
    return await app.sse.publish(topic, await request.get_data(as_text=True), **request.args)


@app.post("/flood/<topic>/<int:count>")
async def flood(topic, count):
    for number in range(count):
        await app.sse.publish(topic, str(number), id=f"n{number}")
    return "done"


@app.get("/connected/<topic>")
async def connected(topic):
    subscriptions = await app.sse.get_subscriptions(topic)
    return [subscription["subscriber"] for subscription in subscriptions["subscriptions"]]


@app.get("/counters")
async def counters():
    hub = app.sse.hub
    broker = hub.broker
    return {
        "subscribers": len(broker),
        "indexed": len(broker.index) + len(broker.granted),
        "slow_clients": broker.counters.slow_clients,
        "dropped": broker.counters.dropped,
    }
