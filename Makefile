# ssl-transfer: `make demo` and `make test` set up everything they need. `make` lists the targets.

VENV := .venv
PY := $(VENV)/bin/python
# The first Python >= 3.11 that runs; set PYTHON=/path/to/python to choose another.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
# Which FAISS: faiss-cpu or faiss-gpu; without the latter torch searches on a GPU.
FAISS ?= faiss-cpu
STAMP := $(VENV)/.installed-$(FAISS)

.DEFAULT_GOAL := help
.PHONY: help install demo demo-seeds test test-avx2 test-slow test-gpu gpu bench soak fuzz kinds load lint clean

help: ## list the targets
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

install: $(STAMP) ## create the environment .venv and install everything

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "error: no Python >= 3.11 found; install one or set PYTHON=/path/to/python"; exit 2; }
	@echo "== environment: $(VENV) ($(PYTHON), $(FAISS)); the first installation takes a few minutes"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[$(FAISS),detection,report,segmentation,hf,fsspec,cluster,dev]'
	@$(PY) -c 'import cv2' 2>/dev/null || { echo "== no libGL on this machine: OpenCV without windows"; \
		$(PY) -m pip uninstall -qq --yes opencv-python; \
		$(PY) -m pip install -qq --disable-pip-version-check opencv-python-headless; }
	@$(PY) evaluate/install_detectron2.py
	@touch $@
	@echo "== installed; the commands of the README need this environment: . $(VENV)/bin/activate"

demo: install ## the whole pipeline on small data: pre-train, evaluate, compare; writes report/index.html
	@echo "== pre-training on rendered scenes"
	@$(MAKE) --no-print-directory THREADS=$$((($(CORES) + 1) / 2)) pretrained-demo
	@echo "== k-NN, linear, detection and segmentation, $(JOBS) at once"
	@$(PY) evaluate/suite.py --suite demo --jobs $(JOBS) --results results/demo --ckpts \
		'random init=random:runs/demo' 'pre-trained=runs/demo' pixels
	@$(PY) evaluate/table.py results/demo --out report/table.md --html report

demo-seeds: install ## k-NN of the demo's main recipe on both data sets with three seeds: mean and standard deviation
	@$(MAKE) --no-print-directory -j$(JOBS) $(SEEDS:%=pretrained-demo-seed%-fashion-mnist) $(SEEDS:%=pretrained-demo-seed%)
	@$(PY) evaluate/suite.py --suite demo_knn_scenes --seeds 3 --jobs $(JOBS) --results results/demo-seeds --ckpts \
		'random init=random:runs/demo-seed{seed}' 'per-view + cutout=runs/demo-seed{seed}' pixels
	@$(PY) evaluate/suite.py --suite demo_knn_fashion_mnist --seeds 3 --jobs $(JOBS) --results results/demo-seeds --ckpts \
		'random init, Fashion-MNIST=random:runs/demo-seed{seed}-fashion-mnist' \
		'per-view + cutout, Fashion-MNIST=runs/demo-seed{seed}-fashion-mnist' pixels

# Jobs in parallel: one with a GPU, otherwise one per core, at most four.
CORES := $(shell nproc 2>/dev/null || echo 1)
JOBS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo $$(($(CORES) < 4 ? $(CORES) : 4)))
# Threads of a pre-training run; a loader process comes on top.
THREADS ?= $$(($(CORES) / $(JOBS)))
SEEDS := 0 1 2
# Tests: one process per core, the ten slowest named at the end.
PARALLEL := -n $(CORES) --dist worksteal --durations 10
RECIPE_demo := demo_scenes
$(foreach seed,$(SEEDS),$(eval RECIPE_demo-seed$(seed) := demo_scenes)$(eval SEED_demo-seed$(seed) := $(seed)))
$(foreach seed,$(SEEDS),$(eval RECIPE_demo-seed$(seed)-fashion-mnist := demo_fashion_mnist)$(eval \
	SEED_demo-seed$(seed)-fashion-mnist := $(seed)))

# Pre-trains runs/NAME; a finished run is kept. A run of another recipe or of other images is moved to runs/replaced,
# together with its results, which would otherwise be mixed with the new ones.
pretrained-%: SHELL := /bin/bash
pretrained-%:
	@set -o pipefail; mkdir -p runs; log=runs/.$*.log; for try in 1 2; do \
		OMP_NUM_THREADS=$(THREADS) $(PY) pretrain/run.py --config configs/pretrain/$(RECIPE_$*).yaml \
			--out runs/$* seed=$(or $(SEED_$*),0) 2>&1 | stdbuf -oL tr '\r' '\n' | tee $$log | sed -u '/^ *$$/d; s/^/[$*] /' && exit 0; \
		[ $$try = 1 ] && grep -q "holds a run with another config\|was trained on other images" $$log || exit 1; \
		old=runs/replaced/$$(date +%Y%m%d-%H%M%S); mkdir -p $$old; mv runs/$* $$old/$*; \
		mv $(if $(findstring seed,$*),results/demo-seeds,results/demo) $$old 2>/dev/null; \
		echo "== runs/$* came from another recipe or other images: moved it to $$old with its results; starting from scratch"; \
	done

test: install ## run the tests that take seconds each, in parallel (about nine minutes on two cores)
	@$(PY) -m pytest -m "not slow and not gpu" $(PARALLEL)

test-avx2: install ## run the tests of pre-training and evaluation on the kernels of CPUs without AVX-512
	@ONEDNN_MAX_CPU_ISA=AVX2 ATEN_CPU_CAPABILITY=avx2 $(PY) -m pytest -m "not slow and not gpu" $(PARALLEL) tests/pretrain tests/evaluate

test-slow: install ## run the tests that take longer than half a minute each
	@$(PY) -m pytest -m "slow and not gpu"

test-gpu: install ## run the tests that need a CUDA device
	@$(PY) -m pytest -m gpu

gpu: install ## test and measure on a GPU (at most nine minutes on an H100)
	@$(PY) benchmarks/gpu.py --minutes 9 --json benchmarks/results/gpu.json

bench: install ## compare speed and memory with other implementations (about ten minutes on an idle machine)
	@$(PY) benchmarks/run.py
	@$(PY) benchmarks/report.py $$(ls -t benchmarks/results/*.json | head -1)

soak: install ## kill runs at many points, resume them and compare (about 15 minutes)
	@OMP_NUM_THREADS=1 $(PY) -m tests.reliability.soak --out results/soak.json

fuzz: install ## open 28,800 damaged or odd inputs, different ones each time (about 6 minutes)
	@$(PY) tests/fuzz/fuzz.py

kinds: install ## open a small checkpoint of every kind and compare its features with its own code's (about three minutes)
	@$(PY) -m pip install -qq --disable-pip-version-check -c constraints.txt -e '.[kinds]'
	@$(PY) tests/kinds/kinds.py --write

load: install ## measure memory and time for large inputs
	@$(PY) tests/reliability/load.py

lint: install ## run ruff, mypy and the import contract
	@$(VENV)/bin/ruff check .
	@$(VENV)/bin/ruff format --check .
	@$(VENV)/bin/mypy
	@$(VENV)/bin/lint-imports

clean: ## remove the environment and caches, keep data and runs
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache *.egg-info
