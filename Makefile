# Everything runs in .venv, which is made once and again only when the dependencies change.

# The first Python that is new enough; `make PYTHON=python3.13 setup` names one.
PYTHON ?= $(shell for each in python3 python3.13 python3.12 python3.11; do \
	$$each -c 'import sys; raise SystemExit(sys.version_info < (3, 11))' 2>/dev/null && echo $$each && break; done)
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test engines compile test-compiled interpreted check setup format generated

demo: setup ## Start Headgate on two small models that come with it
	@$(BIN)/headgate demo

test: setup ## Run the whole suite
	$(BIN)/python -m pytest

engines: setup ## Install real engines outside the checkout, and test with them
	$(BIN)/python -m tests.engines.install
	$(BIN)/python -m pytest tests/engines

compile: setup ## Compile the request path to C, in place: about half its cost. Again after every change of its files
	HEADGATE_COMPILE=1 $(BIN)/python setup.py --quiet build_ext --inplace

# What is compiled, and what is built from it, end to end.
COMPILED_TESTS := $(addprefix tests/gateway/,exchange link protocol server telemetry upstream wire test_worker.py test_supervisor.py) tests/contracts tests/e2e

test-compiled: compile ## Run the suite of the request path over the compiled modules
	$(BIN)/python -m pytest $(COMPILED_TESTS)

interpreted: ## Undo `compile`
	find gateway -name '*.so' -delete
	rm -rf build

check: setup ## Lint, types, import rules, tidy tests, and what a request costs the interpreter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m loadtests.interpreter --hold
	$(BIN)/python -m pytest tests/tidy

format: setup ## Format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

generated: setup ## Write the pages that are made from the code
	$(BIN)/headgate reference > docs/policy-reference.md
	$(BIN)/headgate schema > docs/headgate.schema.json
	$(BIN)/headgate reference metrics > docs/metrics.md

setup: $(INSTALLED) ## Make .venv and install into it

$(INSTALLED): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Headgate needs Python 3.11 or newer (make PYTHON=/path/to/python3.12 ...)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV)" >&2
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt setuptools
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --no-build-isolation --editable '.[dev]'
	@touch $@
