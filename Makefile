# azure_port_sync: `make run` does the main job, `make test` proves it, `make dev` opens the Dagster UI.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
# The first interpreter of a supported version; override with `make PYTHON=/path/to/python`.
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1 && { echo $$p; break; }; done)

.PHONY: help install run test test-quick soak matrix screenshots dev sandbox check docs clean

help:
	@echo "make run      sync once: your tenant when credentials are set, otherwise the embedded sandbox"
	@echo "make dev      sandbox (or your tenant) with the Dagster UI and the schedules"
	@echo "make test     the tests"
	@echo "make test-quick  those of core, queries, state and engine, with few random examples and no long histories: about a minute"
	@echo "make soak     thousands of random histories (about 1,500 an hour and core): make soak HISTORIES=5000"
	@echo "make matrix   every fault on the way to Port, and the page docs/fault-matrix.md of what it does"
	@echo "make screenshots  walk through the Dagster UI in Chromium, and the pictures of it in docs/screenshots"
	@echo "make check    lint, types and definitions"
	@echo "make sandbox  the sandbox alone: Azure and Port on loopback"
	@echo "make docs     bring docs/configuration.md up to date"
	@echo "make install  only install"

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11, 3.12 or 3.13 was not found: install one, or name it: make PYTHON=/path/to/python install"; exit 1; }
	@echo "Installing into $(VENV) with $$($(PYTHON) --version) (first time: about a minute) ..."
	@$(PYTHON) -m venv $(VENV)
	@PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --upgrade pip
	@PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet --progress-bar off --editable '.[sandbox,postgres]' --group dev
	@touch $@

run: install
	@$(BIN)/python -m azure_port_sync run

dev: install
	@exec $(BIN)/python -m azure_port_sync dev

docs: install
	@$(BIN)/python -m azure_port_sync docs

sandbox: install
	@exec $(BIN)/python -m azure_port_sync.sandbox

test: install
	@$(BIN)/python -m pytest

QUICK := core state engine resource_graph/test_kql.py sandbox/test_kql.py
# Tests of the engine that play whole histories, tick after tick.
SLOW := matrix quarantine histories changes grace soak verify parents
test-quick: install
	@HYPOTHESIS_PROFILE=quick $(BIN)/python -m pytest $(addprefix azure_port_sync_tests/,$(QUICK)) \
		$(foreach name,$(SLOW),--ignore=azure_port_sync_tests/engine/test_$(name).py)

HISTORIES ?= 5000
soak: install
	@HYPOTHESIS_PROFILE=soak SOAK_HISTORIES=$(HISTORIES) $(BIN)/python -m pytest azure_port_sync_tests/engine/test_soak.py

matrix: install
	@FAULT_MATRIX=docs/fault-matrix.md $(BIN)/python -m pytest azure_port_sync_tests/engine/test_matrix.py

screenshots: install
	@SCREENSHOTS=docs/screenshots $(BIN)/python -m pytest --numprocesses=0 azure_port_sync_tests/e2e/test_browser.py

check: install
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy --num-workers auto
	@$(BIN)/dagster definitions validate -m azure_port_sync.definitions

clean:
	rm -rf $(VENV) .sandbox .mypy_cache .ruff_cache .pytest_cache .hypothesis *.egg-info
