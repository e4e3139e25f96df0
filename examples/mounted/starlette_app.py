"""A hub mounted in a Starlette application, which publishes through it.

uvicorn examples.mounted.starlette_app:app
"""

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from quart_mercure import Hub, HubOptions, Update

KEY = "replace me: at least 32 random bytes"
hub = Hub(HubOptions(subscriber_key=KEY, publisher_key=KEY))


async def say(request):
    update = Update(topics=("messages",), data=request.path_params["text"])
    return PlainTextResponse(await hub.publish(update))


# The hub knows its own paths; mounted last, it answers for them and has 404 for the rest.
app = Starlette(routes=[Route("/say/{text}", say), Mount("/", hub)])
