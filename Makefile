PYTHON ?= python3
BIN := .venv/bin
PIP := PIP_DISABLE_PIP_VERSION_CHECK=1 $(BIN)/python -m pip install

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo demo-qstash test check bench clean

help:
	@echo "make demo    run the welcome-placeholder example; make demo-qstash: the same on QStash"
	@echo "make test    run the tests"
	@echo "make check   lint, formatting, types, import rules, house rules"
	@echo "make bench   run the benchmarks; PEERS=DIR: beside other queues, by the run_peers.py of DIR"
	@echo "make clean   remove the environment, caches and build output"

demo: .venv/.runtime
	@$(BIN)/python -m examples.welcome_placeholder.demo

demo-qstash: .venv/.runtime
	@$(BIN)/python -m examples.welcome_placeholder.demo_qstash

test: .venv/.dev
	@$(BIN)/python -m pytest -n auto --dist worksteal

check: .venv/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/python -m pyright
	@$(BIN)/lint-imports --no-logo --no-cache
	@$(BIN)/python -m pytest -q tests/house

bench: .venv/.dev
	@$(BIN)/python -m benchmarks
ifdef PEERS
	@$(BIN)/python -m benchmarks.peers $(PEERS)
endif

clean:
	@rm -rf .venv .python .python.log tests/sdk/js/node_modules build dist .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamp is written last, so that an environment whose making was interrupted is made again.
.venv/.made:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "batchflow needs Python 3.11 or newer, and '$(PYTHON)' is not installed." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "batchflow needs Python 3.11 or newer; '$(PYTHON)' is $$($(PYTHON) -V 2>&1). Try: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "'$(PYTHON)' cannot make virtual environments; on Debian and Ubuntu, install python3-venv." >&2; exit 1; }
	@$(PYTHON) -m venv --clear .venv
	@touch $@

.venv/.runtime: pyproject.toml | .venv/.made
	@echo "Installing batchflow and what it needs into .venv; this takes about a minute."
	@$(PIP) -e .
	@touch $@

.venv/.dev: pyproject.toml | .venv/.made
	@echo "Installing batchflow and its development tools into .venv; this takes about a minute."
	@$(PIP) -e '.[dev]'
	@touch .venv/.runtime $@
