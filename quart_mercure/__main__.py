"""`python -m quart_mercure` is `quart-mercure`."""

from .main import main

main(prog_name="quart-mercure")
