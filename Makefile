# Every target sets up what it needs by itself, in .venv and .mpi, and starts at once the next time.
#   make demo        train a small GPT on two ranks under mpirun
#   make test        the C++ and Python tests; test-slow: those that take minutes
#   make lint        all static checks; tidy: clang-tidy; format: rewrite to the house style
#   make sanitize    the C++ tests under the thread, address and undefined-behaviour sanitizers
#   make bench       Quoit beside its peers
#   make test-cuda   on a GPU: the CUDA kernels beside their CPU twins, tensors and arrays; bench-cuda: what
#                    the kernels take
#   make build       build and install into .venv;  make clean: remove what was built
# PYTHON=python3.12 chooses the interpreter of a new .venv; CXX chooses the compiler.
SHELL := /bin/bash
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: demo test test-slow test-cuda bench-cuda cuda lint format tidy sanitize bench build cpp clean

PYTHON ?= python3
QUOIT_WERROR ?= OFF
export PYTHON
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
BOOTSTRAP := tools/bootstrap.sh

# Folders are listed too: their time changes when a file comes or goes.
SOURCES := $(shell find csrc python cmake -not -path '*/__pycache__*') CMakeLists.txt pyproject.toml
CPP_FILES = $(shell find csrc tests -name '*.h' -o -name '*.cpp' -o -name '*.cu' -o -name '*.cuh')
TEXT = README.md CHANGELOG.md CONTRIBUTING.md csrc python tests bench examples docs tools
DEMO_MPI := $(if $(shell command -v mpirun),,.mpi/mpich/installed)

demo: $(STAMPS)/quoit $(STAMPS)/demo $(DEMO_MPI)
	@tools/mpirun.sh -n 2 $(BIN)/python examples/train_gpt.py

test: $(STAMPS)/quoit $(STAMPS)/test .mpi/mpich/installed .mpi/openmpi/installed cpp
	@QUOIT_CPP_BUILD=build/cpp PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest $(ARGS)

test-slow: $(STAMPS)/quoit $(STAMPS)/test .mpi/mpich/installed .mpi/openmpi/installed cpp
	@QUOIT_CPP_BUILD=build/cpp PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m slow $(ARGS)

# The types are checked against torch's own, so the checkers need what the tests need.
lint: $(STAMPS)/lint
	@$(BIN)/ruff check --quiet . && echo 'ruff check: clean'
	@$(BIN)/ruff format --quiet --check . && echo 'ruff format: clean'
	@$(BIN)/mypy
	@$(BIN)/clang-format --dry-run -Werror $(CPP_FILES) && echo 'clang-format: clean'
	@$(BIN)/codespell $(wildcard $(TEXT)) && echo 'codespell: clean'

format: $(STAMPS)/lint
	@$(BIN)/ruff check --quiet --fix . ; $(BIN)/ruff format --quiet .
	@$(BIN)/clang-format -i $(CPP_FILES)

tidy: $(STAMPS)/lint cpp
	@find csrc -name '*.cpp' -not -path 'csrc/python/*' -not -path 'csrc/torch/*' -print0 | \
	  xargs -0 -n 1 -P $$(nproc) $(BIN)/clang-tidy --quiet -p build/cpp

sanitize: $(STAMPS)/build
	@tools/sanitize.sh $(BIN) build/tsan thread
	@tools/sanitize.sh $(BIN) build/asan address

bench: $(STAMPS)/quoit $(STAMPS)/test .mpi/mpich/installed .mpi/openmpi/installed
	@$(BIN)/python bench/results.py $(ARGS)

# CHECK='compute-sanitizer --tool memcheck' (or racecheck) runs the tests of kernels under it.
test-cuda: cuda $(STAMPS)/quoit $(STAMPS)/test
	@$(CHECK) build/cuda/tests/test_cuda_kernels
	@QUOIT_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/test_torch_device.py \
	  -m "slow or not slow" -k processes $(ARGS)
	@QUOIT_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/test_torch_device_compression.py \
	  -m "slow or not slow" -k processes $(ARGS)
	@QUOIT_TEST_DEVICE=cuda $(BIN)/python -m pytest tests/test_device_arrays.py -k gpu $(ARGS)

bench-cuda: cuda $(STAMPS)/quoit
	@$(BIN)/python bench/cuda_kernels.py
	@$(BIN)/python bench/cuda_kernels.py --run build/cuda/tests/bench_cuda_kernels
	@$(BIN)/python bench/cuda_overlap.py

# The kernels and what needs a GPU, with the nvcc on PATH or in CUDACXX.
cuda: $(STAMPS)/build
	@tools/build_cpp.sh $(BIN) build/cuda -DQUOIT_CPP_TESTS=OFF -DQUOIT_CUDA=ON -DQUOIT_CUDA_TESTS=ON \
	  -DQUOIT_WERROR=$(QUOIT_WERROR)

build: $(STAMPS)/quoit

cpp: $(STAMPS)/build
	@tools/build_cpp.sh $(BIN) build/cpp -DQUOIT_WERROR=$(QUOIT_WERROR)

clean:
	@rm -rf build dist .pytest_cache .mypy_cache .ruff_cache $(STAMPS)/quoit
	@find csrc python tests bench examples tools -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/pip:
	@$(BOOTSTRAP) venv $(PYTHON) $(VENV)

$(STAMPS)/torch: | $(BIN)/pip
	@$(BOOTSTRAP) torch $(VENV)
	@mkdir -p $(@D) && touch $@

$(STAMPS)/build $(STAMPS)/demo $(STAMPS)/test $(STAMPS)/lint: $(STAMPS)/%: tools/requirements-%.txt | $(BIN)/pip
	@$(BOOTSTRAP) requirements $(VENV) $<
	@mkdir -p $(@D) && touch $@
$(STAMPS)/lint: | $(STAMPS)/torch $(STAMPS)/build $(STAMPS)/test

$(STAMPS)/quoit: $(SOURCES) | $(STAMPS)/torch $(STAMPS)/build
	@$(BOOTSTRAP) quoit $(VENV)
	@touch $@

.mpi/%/installed:
	@$(BOOTSTRAP) mpi $* .mpi/$*
	@touch $@
