# Two commands do all set-up: `make demo` and `make test`. `make help` lists the rest.
# Every step leaves a stamp and is skipped while what it depends on is unchanged.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

PYTHON ?= python3
JOBS ?= 2
MODELS ?=
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet

# cmake, ninja and clang-format come from pip; the first two are found through PATH.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export CMAKE_BUILD_PARALLEL_LEVEL := $(JOBS)
export PYTHONPATH := $(CURDIR)

comma := ,
CSRC := $(shell find csrc -type f 2>/dev/null) CMakeLists.txt
CPP := $(shell find csrc examples benchmarks/native -name '*.cpp' -o -name '*.h' -o -name '*.c')

.PHONY: help
help: ## List the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1|\2/p' Makefile | awk -F'|' '{printf "%-12s %s\n", $$1, $$2}'

# ---- environment --------------------------------------------------------------------------------

$(VENV)/.stamp-venv:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo 'graphopt needs Python 3.11 or newer; try: make PYTHON=python3.11' >&2; exit 1; }
	@echo '== virtual environment'
	@$(PYTHON) -m venv $(VENV) \
	  || { echo 'python3 -m venv failed; on Debian: apt install python3-venv python3-dev' >&2; exit 1; }
	@$(PIP) install 'pip>=24' 'cmake>=3.26' 'nanobind>=2.4' 'ninja>=1.11' 'scikit-build-core>=0.10'
	@touch $@

# The packages that compile and check a model, and graphopt itself, from this checkout.
$(VENV)/.stamp-all: $(VENV)/.stamp-venv pyproject.toml
	@echo '== packages'
	@$(PIP) install --no-build-isolation --editable '.[all]'
	@touch $@

build/release/.stamp: $(VENV)/.stamp-venv $(CSRC)
	@command -v g++ >/dev/null || { echo 'no g++ found; on Debian: apt install g++' >&2; exit 1; }
	@echo '== build (log: build/release.log)'
	@mkdir -p $(@D)
	@cmake -S . -B $(@D) -G Ninja -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
	  -DGRAPHOPT_BUILD_TESTS=OFF -DGRAPHOPT_WERROR=OFF >build/release.log 2>&1 \
	  || { tail -n 30 build/release.log >&2; \
	       echo 'configuring failed; are the Python headers there? apt install python3-dev' >&2; exit 1; }
	@cmake --build $(@D) >>build/release.log 2>&1 || { tail -n 60 build/release.log >&2; exit 1; }
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp-all
	@echo '== test and lint tools'
	@$(PIP) install --no-build-isolation --editable '.[dev]'
	@touch $@

# What exports models that no package ships as ONNX. torch is large: nothing else installs it.
$(VENV)/.stamp-zoo: $(VENV)/.stamp-all
	@echo '== torch and transformers, to export models'
	@$(PIP) install --no-build-isolation --editable '.[zoo]'
	@touch $@

$(VENV)/.stamp-docs: $(VENV)/.stamp-all
	@$(PIP) install --no-build-isolation --editable '.[docs]'
	@touch $@

.PHONY: env zoo-deps
env: $(VENV)/.stamp-all build/release/.stamp ## Create .venv, install what graphopt needs, build the extension

zoo-deps: env $(VENV)/.stamp-zoo ## Install torch and what else the zoo exports models with

# ---- the product --------------------------------------------------------------------------------

.PHONY: demo bench
demo: env ## Fetch real models, compile, run, check against onnxruntime (MODELS="a b")
	@$(BIN)/python -m benchmarks.demo $(MODELS)

bench: zoo-deps ## Speed, compile time and load time beside onnxruntime
	@$(BIN)/python -m benchmarks.zoo fetch
	@$(BIN)/python -m benchmarks.cpu
	@$(BIN)/python -m benchmarks.compile_time
	@$(BIN)/python -m benchmarks.load_time

# ---- checks -------------------------------------------------------------------------------------

.PHONY: test lint format native-test thread-test wheel-test pytest test-zoo docs
test: lint native-test thread-test wheel-test pytest ## Everything but the zoo

lint: $(VENV)/.stamp-dev ## ruff, mypy and clang-format, changing nothing
	@echo '== lint'
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(CPP)

format: $(VENV)/.stamp-dev ## Rewrite Python and C++ sources in the house style
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CPP)

native-test: build/asan/.stamp ## Native tests under AddressSanitizer and UBSan

thread-test: build/tsan/.stamp ## Thread pool and executor tests under ThreadSanitizer

# sanitized(folder, sanitizers, ctest options)
define sanitized
	@echo '== native tests: $(2)'
	@mkdir -p $(1)
	@cmake -S . -B $(1) -G Ninja -DGRAPHOPT_SANITIZE=$(2) -DCMAKE_BUILD_TYPE=Debug \
	  -DCMAKE_CXX_FLAGS_DEBUG='-O1 -g1' >$(1).log 2>&1 \
	  || { tail -n 30 $(1).log >&2; exit 1; }
	@cmake --build $(1) >>$(1).log 2>&1 || { tail -n 60 $(1).log >&2; exit 1; }
	@ctest --test-dir $(1) --output-on-failure --no-tests=error $(3)
	@touch $(1)/.stamp
endef

build/asan/.stamp: $(VENV)/.stamp-venv $(CSRC)
	$(call sanitized,build/asan,address$(comma)undefined,--parallel $(JOBS))

build/tsan/.stamp: $(VENV)/.stamp-venv $(CSRC)
	$(call sanitized,build/tsan,thread,-R 'thread|executor|session')

pytest: env $(VENV)/.stamp-dev ## Python tests, without the zoo and without slow ones
	@echo '== pytest'
	@mkdir -p build
	@$(BIN)/python -m pytest -n $(JOBS) -m 'not zoo and not slow' | tee build/pytest.log

# The wheel, in an environment that holds numpy and nothing else, away from the checkout; and C.
wheel-test: env ## Build the wheel, run it beside numpy alone, and run the C example
	@echo '== wheel'
	@$(BIN)/python -m tests.wheel.smoke build/wheel build/release/csrc/runtime

test-zoo: zoo-deps $(VENV)/.stamp-dev ## Real models: error, determinism, no fallback (30 minutes)
	@$(BIN)/python -m benchmarks.zoo fetch
	@$(BIN)/python -m pytest -m zoo

docs: $(VENV)/.stamp-docs ## Build the documentation into site/
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo 'site/index.html'

.PHONY: clean
clean: ## Remove what was built, keep .venv and the zoo
	@rm -rf build site graphopt/_native*.so
