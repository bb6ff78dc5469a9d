# The workshop. `make` alone says what there is.
# Nothing needs to be set up first: each target makes what it stands on, once.

# The environment's own Python where there is one, so that PYTHON=... is only needed the first time.
PYTHON ?= $(shell .venv/bin/python -c '' 2>/dev/null && echo .venv/bin/python || echo python3)
ARGS ?=
# How many processes run the suite. Two take two thirds of the time; a few tests of real processes then find the machine busy.
JOBS ?= 1
IMAGE ?= stepwell

# make demo GPU=cuda (or vulkan, metal): llama.cpp is compiled for it, and all layers are computed there.
ifdef GPU
ifeq ($(filter $(GPU),cuda vulkan metal),)
$(error GPU=$(GPU) is none of cuda, vulkan, metal)
endif
export LLAMA_GPU := $(GPU)
export STEPWELL_ENGINE_N_GPU_LAYERS ?= -1
endif

MAKEFLAGS += --no-print-directory
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

BIN := .venv/bin
PINS := pyproject.toml constraints.txt constraints-hashes.txt scripts/environment.py
DEMO_ENV := .venv/.made-for-demo$(GPU:%=-%)
TEST_ENV := .venv/.made-for-test$(GPU:%=-%)
RAY_ENV := .venv-ray/.made
OBJECTS_ENV := .venv-objects/.made
POLICY_ENV := .venv-policy/.made
VLLM_ENV := .venv-vllm/.made
POLICY_PYTHON := PYTHONPATH=src .venv-policy/bin/python

.PHONY: help setup demo review test test-nightly test-objects test-ray test-vllm test-vulkan policy policy-compiled check format docs image serve clean

help:
	@echo 'Stepwell: many agents on little fast memory.'
	@echo
	@echo '  make demo     the main job, end to end, on a real model (ARGS="--quick --json out.json")'
	@echo '  make review   a weekly review of markets from the sample week, in two languages'
	@echo '  make test     the whole test suite (ARGS="tests/policy -k evict")'
	@echo
	@echo '  make test-vllm  the room stepwell.vllm with the real vLLM, in an environment of its own (3 GB)'
	@echo
	@echo '  make test-nightly  what takes hours: every architecture moved and unmoved, 1,000 random schemas, two hours of load'
	@echo '  make test-vulkan  llama.cpp on Vulkan in software (lavapipe): exactness, pressure, throughput'
	@echo
	@echo '  make policy   scheduler and eviction rules alone: their tests and a small comparison; no llama.cpp'
	@echo
	@echo '  make policy-compiled  the policy compiled by mypyc (an option; minutes), its decisions compared, and a step timed'
	@echo
	@echo '  make test-objects  KV in an object store, against an S3 endpoint on this machine, in .venv-objects'
	@echo
	@echo '  make test-ray the front end of a fleet on real Ray, in .venv-ray (about 60 packages)'
	@echo
	@echo '  make setup    the environment alone, in .venv; the other targets do this by themselves'
	@echo '  make serve    an OpenAI-compatible server on port 8000 (ARGS="--device-kv-tokens 4096")'
	@echo '  make check    ruff, mypy --strict, the import arrows, house rules'
	@echo '  make format   let ruff format and fix what it can'
	@echo '  make docs     the documents as a site in build/site, every link checked'
	@echo '  make image    the container image "stepwell", by Docker or Podman (IMAGE=name:tag)'
	@echo '  make clean    remove the environment and everything generated'
	@echo
	@echo 'GPU=cuda, vulkan or metal before a target compiles llama.cpp for it (tried on no such machine yet)'
	@echo 'Needs Python 3.11+, a C++ compiler and make. Another Python: make demo PYTHON=python3.12'
	@echo 'The first run compiles llama.cpp (5 to 10 minutes); pip keeps the result for later ones.'

setup: $(DEMO_ENV)
	@echo "Ready: make demo, or $(BIN)/stepwell --help"

demo: $(DEMO_ENV)
	@$(BIN)/stepwell demo $(ARGS)

review: $(DEMO_ENV)
	@$(BIN)/stepwell review write $(ARGS)

serve: $(DEMO_ENV)
	@$(BIN)/stepwell serve $(ARGS)

# A worker that died is not replaced: its replacement begins with the test that ended it, again and again.
test: $(TEST_ENV)
	@$(BIN)/pytest $(if $(filter-out 1,$(JOBS)),-n $(JOBS) --dist loadfile --max-worker-restart 0) $(ARGS)

# The second goes on where it was stopped.
test-nightly: $(TEST_ENV)
	@mkdir -p out
	@$(BIN)/stepwell bench exactness --zoo --json out/zoo.json $(ARGS)
	@$(BIN)/stepwell bench schemas --schemas 1000 --json out/schemas.json --resume
	@$(BIN)/stepwell bench soak --json out/soak.json

# In .venv, where llama.cpp is compiled anew for it; 'make setup' afterwards brings the build for CPUs back.
test-vulkan:
	@command -v glslc >/dev/null && ls /usr/share/vulkan/icd.d/lvp_icd* >/dev/null 2>&1 || \
	  { echo 'make test-vulkan needs glslc and lavapipe, which are not here: apt-get install glslc spirv-headers libvulkan-dev mesa-vulkan-drivers' >&2; exit 1; }
	@$(MAKE) GPU=vulkan setup
	@VK_ICD_FILENAMES=$$(ls /usr/share/vulkan/icd.d/lvp_icd* | head -1) scripts/gpu.sh $(ARGS)

# vLLM's own warnings are not ours to turn into errors.
test-vllm: $(VLLM_ENV)
	@.venv-vllm/bin/python -m pytest -q -W default tests/vllm $(ARGS)

policy: $(POLICY_ENV)
	@$(POLICY_PYTHON) -m pytest -q tests/policy tests/driver/test_same_again.py $(ARGS)
	@$(POLICY_PYTHON) -m stepwell bench policies --quick --trace generated --room 1/4 --declared silent --policy lru,stepwell,oracle

policy-compiled: $(TEST_ENV)
	@$(BIN)/python scripts/compile_policy.py
	@$(BIN)/pytest -q tests/policy/test_compiled.py
	@$(BIN)/stepwell bench decisions $(ARGS)
	@PYTHONPATH=build/policy-compiled $(BIN)/python -m stepwell bench decisions $(ARGS)

test-ray: $(RAY_ENV)
	@.venv-ray/bin/pytest -q tests/ray $(ARGS)

# The endpoint, moto, brings a web framework and an S3 client that nothing else here needs.
test-objects: $(OBJECTS_ENV)
	@PYTHONPATH=src .venv-objects/bin/python -m pytest -q -W default -o addopts=--import-mode=importlib tests/tiers/test_shared_contract.py tests/tiers/test_objects.py $(ARGS)

$(OBJECTS_ENV): constraints-objects.txt
	@$(PYTHON) -m venv .venv-objects
	@.venv-objects/bin/pip install -q --no-deps -r constraints-objects.txt
	@touch $@

$(RAY_ENV): pyproject.toml constraints.txt constraints-ray.txt
	@$(PYTHON) -m venv .venv-ray
	@.venv-ray/bin/pip install -q -c constraints.txt -c constraints-ray.txt -e '.[ray]' hypothesis pytest pytest-timeout
	@touch $@

check: $(TEST_ENV)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/pytest -q tests/test_tidy.py tests/test_public.py

format: $(TEST_ENV)
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

docs: $(TEST_ENV)
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo 'The site: build/site/index.html'

image:
	@if command -v docker >/dev/null && docker info >/dev/null 2>&1; then docker build -f Containerfile -t $(IMAGE) .; \
	elif command -v podman >/dev/null; then podman build --format docker -f Containerfile -t $(IMAGE) .; \
	else echo 'make image needs Docker (running) or Podman' >&2; exit 1; fi

clean:
	rm -rf .venv .venv-objects .venv-policy .venv-ray .venv-vllm .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist out
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The test environment holds everything the demo's does, so that neither undoes the other.
$(DEMO_ENV): $(PINS)
	@$(python-is-new-enough)
	@$(PYTHON) scripts/environment.py demo
	@touch $@

$(TEST_ENV): $(PINS)
	@$(python-is-new-enough)
	@$(PYTHON) scripts/environment.py test
	@touch $(DEMO_ENV) $@

$(POLICY_ENV): $(PINS)
	@$(python-is-new-enough)
	@$(PYTHON) scripts/environment.py policy
	@touch $@

$(VLLM_ENV): pyproject.toml constraints-vllm.txt scripts/environment.py
	@$(python-is-new-enough)
	@$(PYTHON) scripts/environment.py vllm
	@touch $@

define python-is-new-enough
command -v $(PYTHON) >/dev/null || { echo 'Stepwell needs Python 3.11 or newer and "$(PYTHON)" is not there; say which one to use: make PYTHON=python3.12' >&2; exit 1; }; \
$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Stepwell needs Python 3.11 or newer and $(PYTHON) is " + sys.version.split()[0] + "; say which one to use: make PYTHON=python3.12")'
endef
