# Each target sets up all that it needs: a virtual environment and the locked packages.
# Needs Python 3.11 or later with pip, and network access to package registries.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO_ARGS ?=
TEST_ARGS ?=
BENCH_ARGS ?=
INSTALLED := $(VENV)/.installed

.PHONY: help demo test check bench faults offline lock format clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "metercarbon needs Python 3.11 or later; PYTHON=$(PYTHON) is $$($(PYTHON) --version 2>&1)" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: $(INSTALLED)  ## a cement plant's two days through the whole pipeline, on this machine
	$(BIN)/python -m deploy.local $(DEMO_ARGS)

test: $(INSTALLED)  ## all tests, with real services where they can be had
	$(BIN)/python -m tests.support.prepare
	$(BIN)/python -m pytest -n 3 --dist loadgroup $(TEST_ARGS)

check: $(INSTALLED)  ## lint, format, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(INSTALLED)  ## benchmarks, written to benchmarks/results.json
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

faults: $(INSTALLED)  ## fault suite, written to faults-report.json
	@echo "make faults: there is no fault suite to run yet; the kill tests are part of 'make test'" >&2; exit 1

offline: $(INSTALLED)  ## all wheels of an agent in one file in dist/, for gateways without internet
	$(BIN)/python -m deploy.offline

format: $(INSTALLED)  ## format the code
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

lock: $(INSTALLED)  ## renew requirements.lock from pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
	  --no-emit-index-url --no-header pyproject.toml -o requirements.lock

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
