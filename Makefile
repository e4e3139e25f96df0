# `make chat` and `make test` need Python 3.11 or newer and nothing else.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 5000
BIN := $(VENV)/bin

.PHONY: chat test bench check clean system-packages browser-scripts

chat: $(VENV)/.installed
	PORT=$(PORT) $(BIN)/python -m examples.chat.app

test: $(VENV)/.installed-dev system-packages browser-scripts
	$(BIN)/python -m pytest --cov --cov-report=term --cov-fail-under=95 $(ARGS)

bench: $(VENV)/.installed-bench system-packages
	$(BIN)/python -m benchmarks $(ARGS)

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict quart_mercure

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group dev
	touch $@

$(VENV)/.installed-bench: $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --group bench
	touch $@

# Chromium, redis-server and PostgreSQL for the tests that use them, where the package manager has them and
# may install them; those tests are skipped, and say so, where they are missing.
system-packages:
	@sh tests/install-system-packages.sh

# The browser tests serve the page's scripts from here instead of from the network.
browser-scripts:
	@sh tests/fetch-browser-scripts.sh

clean:
	rm -rf $(VENV) .cache .coverage .mypy_cache .pytest_cache .ruff_cache .hypothesis
