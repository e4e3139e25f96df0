"""A hub mounted in a FastAPI application, which publishes through it.

uvicorn examples.mounted.fastapi_app:app
"""

from fastapi import FastAPI

from quart_mercure import Hub, HubOptions, Update

KEY = "replace me: at least 32 random bytes"
hub = Hub(HubOptions(subscriber_key=KEY, publisher_key=KEY))
app = FastAPI()


@app.get("/say/{text}")
async def say(text: str) -> str:
    return await hub.publish(Update(topics=("messages",), data=text))


# The hub knows its own paths; mounted last, it answers for them and has 404 for the rest.
app.mount("/", hub)
