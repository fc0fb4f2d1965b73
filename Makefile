# Needs python3 (3.11 or newer) and make, nothing else. Everything is installed into .venv, which any target
# makes on its first use and renews only when pyproject.toml or constraints.txt has changed.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
# More arguments for the tool behind the target, such as ARGS='-k keys' for `make test`.
ARGS ?=
# The first seed of `make simulate`, and how many follow it.
SEED ?= 1
RUNS ?= 1000

SOURCES := schemas worker brook_client emulator
SCRIPTS := $(wildcard examples bench docsite)

.DEFAULT_GOAL := help
.PHONY: help install demo bench bench-quick bench-profile soak test chaos bench-large bench-emulator bench-scaling explore simulate schemas lint types audit format docs docs-serve picture diagrams clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | while IFS='|' read -r target text; do \
		printf '%-22s %s\n' "$$target" "$$text"; done

install: $(STAMP) ## Make .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "$(PYTHON) must be Python 3.11 or newer, but is $$($(PYTHON) --version 2>&1 | tail -n 1);" \
			"install one and run: make $(MAKECMDGOALS) PYTHON=python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## Send real commands through the embedded services and the worker, and check every event
	@$(BIN)/brook-worker demo $(ARGS)

bench: $(STAMP) ## Compare the worker with the plain flow and with one that only replies (under 10 minutes)
	@$(BIN)/python -m bench full $(ARGS)

bench-quick: $(STAMP) ## The same, small (under 90 s)
	@$(BIN)/python -m bench quick $(ARGS)

bench-profile: $(STAMP) ## Show where the worker's processor time goes, and the time of a single command
	@$(BIN)/python -m bench.profile $(ARGS)
	@$(BIN)/python -m bench.split
	@$(BIN)/python -m bench.floor

soak: $(STAMP) ## 200,000 commands: memory, connections and files must not grow (about 10 minutes)
	@$(BIN)/python -m bench.soak $(ARGS)

# Many tests wait for sockets and processes more than they compute: twice as many as a small machine has cores. They start
# hundreds of processes, which would all compile the same modules anew where the environment forbids to keep them.
TEST_PROCESSES ?= 4

test: $(STAMP) ## Run all tests
	@PYTHONDONTWRITEBYTECODE= $(BIN)/pytest -n $(TEST_PROCESSES) $(ARGS)

chaos: $(STAMP) ## Kill workers fifty times under load and faults, and check every event and reply
	@$(BIN)/python -m tests.chaos $(ARGS)

explore: $(STAMP) ## Walk through every state that a few writers can bring a brook into, and find out every mutant
	@$(BIN)/python -m tests.simulation.explore $(ARGS)

simulate: $(STAMP) ## Run random schedules of workers and faults; SEED=7 RUNS=100 to choose
	@$(BIN)/python -m tests.simulation.simulate --seed $(SEED) --runs $(RUNS) $(ARGS)

bench-large: $(STAMP) ## A large append beside the bare SDK, and what its recovery takes
	@$(BIN)/python -m bench.large $(ARGS)

bench-emulator: $(STAMP) ## What the embedded services cost, and which targets they reach
	@$(BIN)/python -m bench.emulator_servicebus
	@$(BIN)/python -m bench.emulator_cosmos --least 1500 || true
	@$(BIN)/python -m bench.emulator_blob

schemas: $(STAMP) ## Write the JSON Schema files and the AsyncAPI document into schemas/json
	@$(BIN)/python -m schemas.export $(ARGS)

bench-scaling: $(STAMP) ## One, two and four workers on the same work (under 3 minutes)
	@$(BIN)/python -m bench.scaling $(ARGS)

lint: $(STAMP) ## Check style and formatting
	@$(BIN)/ruff check $(SOURCES) $(SCRIPTS) tests
	@$(BIN)/ruff format --check $(SOURCES) $(SCRIPTS) tests

types: $(STAMP) ## Check types
	@$(BIN)/mypy
	@$(BIN)/mypy $(SCRIPTS) tests

audit: $(STAMP) ## Look for known vulnerabilities among the pinned dependencies
	@$(BIN)/python -m tests.audit

format: $(STAMP) ## Format the code and mend what can be mended
	@$(BIN)/ruff check --fix $(SOURCES) $(SCRIPTS) tests
	@$(BIN)/ruff format $(SOURCES) $(SCRIPTS) tests

# Material for MkDocs otherwise tells at each build that it will end one day.
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs
DOCS_ADDRESS ?= 127.0.0.1:8000

docs: $(STAMP) ## Build the documentation's site in site/; a warning or a broken link fails it
	@$(MKDOCS) build --strict $(ARGS)

docs-serve: $(STAMP) ## Show the documentation while it is written; DOCS_ADDRESS=127.0.0.1:8000
	@$(MKDOCS) serve --dev-addr $(DOCS_ADDRESS) $(ARGS)

picture: $(STAMP) ## Run the demo and make the picture of it that README shows
	@$(BIN)/python -m docsite.picture

diagrams: $(STAMP) ## Draw the documentation's diagrams
	@$(BIN)/python -m docsite.diagrams

clean: ## Remove .venv, caches and what the demo left
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .demo build dist site
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
