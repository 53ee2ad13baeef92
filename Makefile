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
.PHONY: help install demo demo-seeds demo-seed test test-slow test-gpu lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## make the environment .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set PYTHON=/path/to/python"; exit 2; }
	@echo "== environment: $(VENV) ($(PYTHON), $(FAISS)); a first installation takes a few minutes"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),detection,segmentation,dev]'
	@$(PY) -c 'import cv2' 2>/dev/null || { echo "== no libGL on this machine: OpenCV without windows"; \
		$(PY) -m pip uninstall -qq --yes opencv-python; \
		$(PY) -m pip install -qq --disable-pip-version-check opencv-python-headless; }
	@$(PY) evaluate/install_detectron2.py
	@touch $@

demo: install ## data, pre-training and k-NN on two small sets, with a table at the end
	@$(MAKE) --no-print-directory demo-seed SEED=0 RUN=runs/demo RESULTS=results/demo
	@$(PY) evaluate/table.py results/demo

demo-seeds: install ## the demo with three seeds: mean and spread
	@for seed in 0 1 2; do \
		$(MAKE) --no-print-directory demo-seed SEED=$$seed RUN=runs/demo-seed$$seed RESULTS=results/demo-seeds || exit; \
	done
	@$(PY) evaluate/table.py results/demo-seeds

# Pre-trains on both sets and scores raw pixels, untrained weights and the result; runs that are finished are kept.
demo-seed:
	@echo "== pre-training on scenes, seed $(SEED)"
	@$(PY) pretrain/run.py --config configs/pretrain/demo_scenes.yaml --out $(RUN) seed=$(SEED)
	@echo "== pre-training on Fashion-MNIST, seed $(SEED)"
	@$(PY) pretrain/run.py --config configs/pretrain/demo_fashion_mnist.yaml --out $(RUN)-fashion-mnist seed=$(SEED)
	@echo "== k-NN accuracy, seed $(SEED)"
	@for ckpt in pixels random:$(RUN) $(RUN); do \
		$(PY) evaluate/knn.py --protocol knn_scenes_64px --ckpt $$ckpt --seed $(SEED) \
			--out $(RESULTS)/scenes/$$(echo $$ckpt | tr ':/' '--')-seed$(SEED) || exit; \
	done
	@for ckpt in pixels random:$(RUN)-fashion-mnist $(RUN)-fashion-mnist; do \
		$(PY) evaluate/knn.py --protocol knn_fashion_mnist_32px --ckpt $$ckpt --seed $(SEED) \
			--out $(RESULTS)/fashion-mnist/$$(echo $$ckpt | tr ':/' '--')-seed$(SEED) || exit; \
	done

test: install ## all tests that take seconds each
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
