"""A hub mounted in Starlette, for the conformance suite."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.routing import Mount

from .standalone import hub

app = Starlette(routes=[Mount("/", hub)])
