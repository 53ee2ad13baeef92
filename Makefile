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
.PHONY: help install demo demo-seeds test test-avx2 test-slow test-gpu bench soak fuzz load lint clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## make the environment .venv and install everything into it

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set PYTHON=/path/to/python"; exit 2; }
	@echo "== environment: $(VENV) ($(PYTHON), $(FAISS)); a first installation takes a few minutes"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),detection,report,segmentation,dev]'
	@$(PY) -c 'import cv2' 2>/dev/null || { echo "== no libGL on this machine: OpenCV without windows"; \
		$(PY) -m pip uninstall -qq --yes opencv-python; \
		$(PY) -m pip install -qq --disable-pip-version-check opencv-python-headless; }
	@$(PY) evaluate/install_detectron2.py
	@touch $@

demo: install ## the whole story on small data: pre-train, measure, compare; ends with report/index.html
	@echo "== pre-training, $(JOBS) at once: three recipes on scenes"
	@$(MAKE) --no-print-directory -j$(JOBS) pretrained-demo pretrained-demo-shared pretrained-demo-2globals
	@echo "== k-NN, linear, detection and segmentation, $(JOBS) at once"
	@$(PY) evaluate/suite.py --suite demo --jobs $(JOBS) --results results/demo --ckpts \
		'random init=random:runs/demo' 'two global views=runs/demo-2globals' \
		'shared predictor, multi-crop=runs/demo-shared' 'per-view + cutout=runs/demo' pixels
	@$(PY) evaluate/table.py results/demo --out report/table.md --html report

demo-seeds: install ## k-NN of the demo's main recipe on both sets with three seeds: mean and spread
	@$(MAKE) --no-print-directory -j$(JOBS) $(SEEDS:%=pretrained-demo-seed%-fashion-mnist) $(SEEDS:%=pretrained-demo-seed%)
	@$(PY) evaluate/suite.py --suite demo_knn_scenes --seeds 3 --jobs $(JOBS) --results results/demo-seeds --ckpts \
		'random init=random:runs/demo-seed{seed}' 'per-view + cutout=runs/demo-seed{seed}' pixels
	@$(PY) evaluate/suite.py --suite demo_knn_fashion_mnist --seeds 3 --jobs $(JOBS) --results results/demo-seeds --ckpts \
		'random init, Fashion-MNIST=random:runs/demo-seed{seed}-fashion-mnist' \
		'per-view + cutout, Fashion-MNIST=runs/demo-seed{seed}-fashion-mnist' pixels

# What runs at once: with a GPU one thing, else one for each core, four at most.
CORES := $(shell nproc 2>/dev/null || echo 1)
JOBS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo $$(($(CORES) < 4 ? $(CORES) : 4)))
SEEDS := 0 1 2
# Tests: one process per core, the ten slowest named at the end.
PARALLEL := -n $(CORES) --dist worksteal --durations 10
RECIPE_demo := demo_scenes
RECIPE_demo-2globals := demo_scenes_2globals
RECIPE_demo-shared := demo_scenes_shared_multicrop
$(foreach seed,$(SEEDS),$(eval RECIPE_demo-seed$(seed) := demo_scenes)$(eval SEED_demo-seed$(seed) := $(seed)))
$(foreach seed,$(SEEDS),$(eval RECIPE_demo-seed$(seed)-fashion-mnist := demo_fashion_mnist)$(eval \
	SEED_demo-seed$(seed)-fashion-mnist := $(seed)))

# Pre-trains runs/NAME; a finished run is kept. One that was trained by another recipe or on other images is moved to
# runs/replaced together with the results, which would otherwise stand beside the new ones.
pretrained-%: SHELL := /bin/bash
pretrained-%:
	@set -o pipefail; mkdir -p runs; log=runs/.$*.log; for try in 1 2; do \
		OMP_NUM_THREADS=$$(($(CORES) / $(JOBS))) $(PY) pretrain/run.py --config configs/pretrain/$(RECIPE_$*).yaml \
			--out runs/$* seed=$(or $(SEED_$*),0) 2>&1 | stdbuf -oL tr '\r' '\n' | tee $$log | sed -u '/^ *$$/d; s/^/[$*] /' && exit 0; \
		[ $$try = 1 ] && grep -q "holds a run with another config\|was trained on other images" $$log || exit 1; \
		old=runs/replaced/$$(date +%Y%m%d-%H%M%S); mkdir -p $$old; mv runs/$* $$old/$*; \
		mv $(if $(findstring seed,$*),results/demo-seeds,results/demo) $$old 2>/dev/null; \
		echo "== runs/$* came from another recipe or other images: it is now in $$old with its results; starts anew"; \
	done

test: install ## all tests that take seconds each, in parallel (about ten minutes on two cores)
	@$(PY) -m pytest -m "not slow and not gpu" $(PARALLEL)

test-avx2: install ## pre-training and evaluation once more with the arithmetic of CPUs that lack AVX-512
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PY) -m pytest -m "not slow and not gpu" $(PARALLEL) tests/pretrain tests/evaluate

test-slow: install ## tests that take longer than half a minute each
	@$(PY) -m pytest -m "slow and not gpu"

test-gpu: install ## tests that need a CUDA device
	@$(PY) -m pytest -m gpu

bench: install ## speed and memory side by side, about ten minutes on a quiet machine
	@$(PY) benchmarks/run.py
	@$(PY) benchmarks/report.py $$(ls -t benchmarks/results/*.json | head -1)

soak: install ## kill runs at many moments, resume them and compare (about 15 minutes)
	@OMP_NUM_THREADS=1 $(PY) -m tests.reliability.soak --out results/soak.json

fuzz: install ## open 28,800 damaged and odd inputs, others each time (about 6 minutes)
	@$(PY) tests/fuzz/fuzz.py

load: install ## memory and time of large inputs
	@$(PY) tests/reliability/load.py

lint: install ## ruff, mypy and the import contract
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

clean: ## remove the environment and caches, keep data and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
