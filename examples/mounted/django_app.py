"""A hub in front of a Django ASGI application, which publishes through it.

uvicorn examples.mounted.django_app:app
"""

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.http import HttpResponse
from django.urls import path

from quart_mercure import Hub, HubOptions, Update

KEY = "replace me: at least 32 random bytes"
hub = Hub(HubOptions(subscriber_key=KEY, publisher_key=KEY))


async def say(_request, text):
    return HttpResponse(await hub.publish(Update(topics=("messages",), data=text)))


urlpatterns = [path("say/<text>", say)]

settings.configure(ROOT_URLCONF=__name__, SECRET_KEY=KEY, ALLOWED_HOSTS=["*"])
django.setup()
django_app = get_asgi_application()


async def app(scope, receive, send):
    """Give the hub its own requests, and the lifespan, which Django does not take."""
    ours = scope["type"] == "lifespan" or (scope["type"] == "http" and hub.serves(scope["path"]))
    await (hub if ours else django_app)(scope, receive, send)
