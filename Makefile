# ssl-transfer: `make demo` and `make test` each do all their own set-up. `make` lists the targets.

VENV := .venv
PY := $(VENV)/bin/python
# The first Python >= 3.11 that runs; set PYTHON=/path/to/python to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# A machine with a working NVIDIA driver searches neighbours on the GPU.
FAISS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo faiss-gpu || echo faiss-cpu)
STAMP := $(VENV)/.installed-$(FAISS)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-seeds test test-slow test-gpu lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## make the environment .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set PYTHON=/path/to/python"; exit 2; }
	@echo "== environment: $(VENV) ($(PYTHON), $(FAISS)); a first installation takes a few minutes"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),dev]'
	@touch $@

demo: install ## data, pre-training and k-NN on two small sets: about 10 minutes on 2 CPU cores
	@$(PY) benchmarks/demo.py

demo-seeds: install ## the demo's pre-training with three seeds: mean and spread of the gain over random weights
	@$(PY) benchmarks/demo.py --seeds 3

test: install ## all tests that take seconds, then the linters' targets are separate: `make lint`
	@$(PY) -m pytest -m "not slow and not gpu"

test-slow: install ## tests that take longer than half a minute each
	@$(PY) -m pytest -m "slow and not gpu"

test-gpu: install ## tests that need a CUDA device
	@$(PY) -m pytest -m gpu

lint: install ## ruff, mypy and the import contract
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

clean: ## remove the environment and caches, keep data and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
