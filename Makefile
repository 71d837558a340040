# Two commands for a newcomer: `make demo` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DOCUMENT := $(BIN)/python manage.py spectacular --validate --fail-on-warn

.DEFAULT_GOAL := help
.PHONY: help demo run test test-faults storm check openapi format bench bench-providers bench-api clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.runtime ## start everything, post one photo, save its picture in var/demo, stop
	@$(BIN)/python manage.py demo

run: $(VENV)/.runtime ## start everything and stay: admin, API and booth endpoint on port 8000 (PORT); SANDBOX=1: the paid providers are played
	@$(BIN)/python $(if $(SANDBOX),-m tests.sandbox run,manage.py run)

test: $(VENV)/.dev ## all tests but those of test-faults, on an embedded Postgres (or TEST_DATABASE_URL)
	$(BIN)/python -m pytest -n 2 --dist worksteal --ignore tests/faults

test-faults: $(VENV)/.dev ## processes killed and frozen, connections cut, guards removed, and a short storm
	$(BIN)/python -m pytest -n 2 --dist loadfile tests/faults --ignore tests/faults/test_storm.py
	$(BIN)/python -m pytest tests/faults/test_storm.py

storm: $(VENV)/.dev ## thousands of photos while everything breaks (PHOTOS, SEED, MINUTES): what must hold afterwards
	$(BIN)/python -m tests.faults.storm $(if $(PHOTOS),--photos $(PHOTOS)) $(if $(SEED),--seed $(SEED)) $(if $(MINUTES),--minutes $(MINUTES)) $(ARGS)

check: $(VENV)/.dev ## style, types, imports, migrations, the published document and what breaks with the last one
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .
	$(BIN)/lint-imports
	PUBLIC_BASE_URL=https://photos.example $(BIN)/python manage.py check --deploy --fail-level WARNING
	$(BIN)/python manage.py makemigrations --check --dry-run
	@mkdir -p var && $(DOCUMENT) --file var/openapi.yaml
	@diff -u openapi.yaml var/openapi.yaml || { echo "The code has gone on: make openapi"; exit 1; }
	@$(BIN)/python -m tests.api_changes

openapi: $(VENV)/.dev ## write openapi.yaml, the API's published document, from the code
	$(DOCUMENT) --file openapi.yaml

format: $(VENV)/.dev ## put the code into its usual form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev ## overhead, photos a second and booths held, beside the floor
	$(BIN)/python -m bench

bench-providers: $(VENV)/.dev ## what the service adds to each provider's time, a worker's memory, what preparing saves
	$(BIN)/python -m bench --providers

bench-api: $(VENV)/.dev ## how quick the staff API is with a million jobs, and what Postgres reads for it
	$(BIN)/python -m bench --api

clean: ## remove the virtual environment and caches (data in var/ and secrets/ stay)
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: requirements.txt | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@
