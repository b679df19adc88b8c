# Two commands after a clone: `make demo` and `make test`. `make` alone lists everything.
PYTHON ?= python3
VENV   ?= .venv
PY      = $(VENV)/bin/python
# What DeepSpeed is built for: cpu or cuda; empty chooses cuda where nvidia-smi answers.
DS_ACCELERATOR ?=
# uv or pip; empty prefers uv.
INSTALLER ?=
# 0 leaves KubeRay's operator, or ours, out of `make operator-dev`.
KUBERAY ?= 1
OPERATOR ?= 1
# So many processes share the tests; 0 runs them in one, for a debugger.
PROCESSES ?= 2
SHARED = -n $(PROCESSES) --dist loadfile --no-loadscope-reorder
# What needs neither a GPU nor root nor hours.
HERE = not bench and not gpu and not nodes and not soak
# Extra words for pytest, for instance ARGS="-k resume -x".
ARGS ?=
# Ray tells its makers about each run unless it is told not to.
export RAY_USAGE_STATS_ENABLED ?= 0

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-operator test-trainer soak test-cluster soak-cluster gpu lint types contracts verify generate format bench bench-gpu \
	constraints operator-dev cluster cluster-down image-operator clean

help: ## List these verbs
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' Makefile

setup: ## Make or renew .venv and the test S3 server; does nothing when they are current
	@$(PYTHON) tools/set_up.py --venv $(VENV) $(if $(DS_ACCELERATOR),--accelerator $(DS_ACCELERATOR)) $(if $(INSTALLER),--installer $(INSTALLER))

demo: setup ## Train, fine-tune and evaluate a small model on this machine (S3=1: over a real S3 server)
	@$(if $(S3),$(PY) tools/s3_server.py --data demo-output/s3 --bucket demo --) $(PY) examples/demo/demo.py $(if $(S3),--s3)

operator-dev: setup ## Run the operator on a real control plane here, for kubectl (KUBERAY=0, OPERATOR=0: without)
	@$(PY) tools/operator_dev.py $(if $(filter 0,$(KUBERAY)),--no-kuberay) $(if $(filter 0,$(OPERATOR)),--no-operator)

cluster: setup ## Bring up a Kubernetes with two nodes, KubeRay and S3 on this machine, for kubectl (needs root)
	@PYTHONPATH=tools $(PY) -m cluster up

cluster-down: ## End it and remove all that it left, also after a crash
	@PYTHONPATH=tools $(PY) -m cluster down

test: test-operator test-trainer ## Run the tests that need no GPU and no root (ARGS="-k name -x")

# No test of that name (exit code 5) is no failure: it may be in the other half.
test-operator: setup ## The operator's half of them
	@$(PY) -m pytest $(SHARED) -m "$(HERE)" tests/operator tests/house tests/tools tests/bench $(ARGS) || [ $$? -eq 5 ]

test-trainer: setup ## The trainer's half
	@$(PY) -m pytest $(SHARED) -m "$(HERE)" tests/examples tests/trainer $(ARGS) || [ $$? -eq 5 ]

soak: setup ## Run the long trials of data stream and store in full (SOAK_TRIALS=100: so many of each)
	@$(PY) -m pytest -m soak tests/trainer tests/examples $(ARGS)

test-cluster: setup ## Run the tests on a Kubernetes with two nodes, which they bring up here (needs root)
	@$(PY) -m pytest -m "nodes and not soak" --timeout 1800 tests/end_to_end $(ARGS)

soak-cluster: setup ## The same, with every fault there is, 50 evictions and 20 jobs at once (2 hours)
	@$(PY) -m pytest -m nodes --timeout 7200 tests/end_to_end $(ARGS)

image-operator: setup ## Build the operator's image without a registry and print the archive's path (needs root)
	@$(PY) tools/operator_image.py

gpu: setup ## Run the tests that need an NVIDIA GPU
	@$(PY) -m pytest -m "gpu and not bench" $(ARGS)

bench: setup ## Measure ratios to bare DeepSpeed, TRL, LitData, S3 libraries and Kubeflow Trainer, and the operator with 10,000 jobs
	@$(PY) -m pytest -m "bench and not gpu" --timeout 3600 --capture no tests/bench tests/operator $(ARGS)

bench-gpu: setup ## Measure training on an NVIDIA GPU against TRL
	@$(PY) -m pytest -m "bench and gpu" --timeout 3600 --capture no tests/bench $(ARGS)

lint: setup ## Check style (ruff) and formatting
	@$(PY) -m ruff check --no-cache . && $(PY) -m ruff format --check --quiet .

types: setup ## Check types (mypy --strict)
	@$(PY) -m mypy

contracts: setup ## Check which package may import which (import-linter)
	@$(VENV)/bin/lint-imports --no-cache

verify: setup ## Fail if a generated file differs from what generates it
	@$(PY) tools/generate.py --check

generate: setup ## Write the generated files (CRDs, chart, reference pages, rendered examples)
	@$(PY) tools/generate.py

format: setup ## Format the Python files and sort their imports
	@$(PY) -m ruff check --quiet --fix . ; $(PY) -m ruff format .

constraints: setup ## Renew constraints.txt from pyproject.toml, to the newest versions in range
	@$(VENV)/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 --upgrade \
		--no-emit-index-url --no-header --no-annotate --quiet --output-file constraints.txt
	@git --no-pager diff --stat constraints.txt

clean: ## Remove the environment and everything that tools left here; the caches in ~/.cache stay
	rm -rf $(VENV) build dist demo-output .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
