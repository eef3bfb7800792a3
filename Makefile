# Needs Python 3.11 or newer, make, and for the tests gcc. Everything else comes from the lock files.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=

.PHONY: demo test test-gpu test-vllm check gen bench bench-decisions fuzz fuzz-decisions lock goldens tools clean

## make demo: the whole product on this machine, without GPU or cluster. ARGS="--scenario sick-gpu --duration 30"
demo: $(VENV)/.run
	@$(BIN)/plimsoll demo $(ARGS)

## make test: every test. ARGS="-k walk" picks some
test: $(VENV)/.dev tools
	$(BIN)/pytest -n auto --maxprocesses 4 $(ARGS)

## make test-gpu: the NVML source against this machine's own driver; if all is well, what it saw is kept in
##   tests/fixtures/nvml, else left in build/gpu. ARGS="[--patience SECONDS] [DIRECTORY]"
test-gpu: $(VENV)/.dev
	@$(BIN)/python -m tests.gpu $(ARGS)

## make test-vllm: the exporter against a real vLLM under queueing load, its CPU build and a tiny random model; the first
##   time it installs 2.5 GB into build/vllm-venv. Skipped with one line where vLLM cannot be had. See docs/vllm-lane.md
test-vllm: $(VENV)/.dev
	@$(BIN)/python -m tests.vllm

## make check: style, types, layers, generated code
check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(BIN)/python tools/generate.py --check

## make gen: write the generated files again (gRPC code, docs/metrics.md)
gen: $(VENV)/.dev
	$(BIN)/python tools/generate.py

## make bench: every figure of docs/benchmarks.md, measured here and now. ARGS="scrape" picks one
bench: $(VENV)/.dev
	$(BIN)/python -m bench $(ARGS)

## make bench-decisions: our decisions against a clairvoyant's and the peers' on recorded loads, and the whole of
##   docs/decisions.md; hours. ARGS="plimsoll" measures one policy and keeps the others' rows, ARGS="page" only writes
bench-decisions: $(VENV)/.dev
	$(BIN)/python -m bench.decisions $(ARGS)

## make fuzz: malformed expositions at release size, a million of them, and 100,000 valid ones; says what took longest
fuzz: $(VENV)/.dev
	PLIMSOLL_FUZZ_EXAMPLES=1000000 $(BIN)/pytest --timeout=3600 -s tests/exporter/test_exposition_*.py $(ARGS)

## make fuzz-decisions: the decision under 10,000 random loads instead of 300. ARGS="-x" stops at the first fault
fuzz-decisions: $(VENV)/.dev
	PLIMSOLL_RANDOM_TRACES=10000 $(BIN)/pytest --timeout=3600 -n auto tests/simulate/test_random_traces.py $(ARGS)

## make goldens: accept what /metrics says now as the golden outputs
goldens: $(VENV)/.dev
	$(BIN)/pytest tests/exporter/test_golden.py tests/doctor --update-goldens

## make lock: the lock files again, from pyproject.toml
lock: $(VENV)/.dev
	$(VENV)/bin/pip install -q pip-tools
	for extra in run dev; do \
	  $(BIN)/pip-compile -q -U --generate-hashes --strip-extras --allow-unsafe --no-emit-index-url --no-emit-trusted-host \
	    --no-emit-find-links --no-header --extra build $$( [ $$extra = dev ] && echo --extra dev ) \
	    -o $$( [ $$extra = dev ] && echo requirements-dev.lock || echo requirements.lock ) pyproject.toml; done

# Debian packages that the tests use: gcc builds the NVML library, prometheus brings promtool and a real server.
tools:
	@sh tools/debian.sh

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	@echo "setting up $(VENV) (once, about a minute)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "make: $(PYTHON) is too old: Plimsoll needs Python 3.11 or newer; try make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
	  { rm -rf $(VENV); echo "make: $(PYTHON) cannot make a virtual environment; on Debian: apt-get install python3-venv"; exit 1; }

$(VENV)/.run: requirements.lock pyproject.toml | $(VENV)/bin/python
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: requirements-dev.lock $(VENV)/.run
	@$(BIN)/pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
