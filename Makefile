# The commands of this project. `make run VIDEO=clip.mp4` and `make test` work on a fresh machine: the first use makes
# .venv, installs what constraints.txt pins, and builds the extension.

VENV := .venv
PYTHON := $(VENV)/bin/python
# The interpreter that .venv is made with, and the one that the GPU targets use as it is (no .venv, no network).
SYSTEM_PYTHON ?= python3

CPP_FILES := $(shell find csrc -name '*.cpp' -o -name '*.h' -o -name '*.cu' 2>/dev/null)

.PHONY: help setup run test lint format bench test-gpu bench-gpu clean

help:
	@echo 'make run [VIDEO=clip.mp4] [STYLE=name|file] [ARGS="..."]   translate a video (default: the sample clip)'
	@echo 'make test        all tests'
	@echo 'make lint        ruff, mypy, clang-format'
	@echo 'make format      rewrite the sources in the format that lint asks for'
	@echo 'make bench       measure operators and the whole way of a frame on this machine'
	@echo 'make test-gpu    the tests that need a CUDA device, with the Python in SYSTEM_PYTHON'
	@echo 'make bench-gpu   the measurements on a CUDA device, with the Python in SYSTEM_PYTHON'
	@echo 'make setup       only make .venv, install and build'
	@echo 'make clean       remove .venv and everything built'

setup: $(VENV)/.installed

# Torch and the build tools come first, because the extension is built against the torch that it will run with.
$(VENV)/.installed: pyproject.toml constraints.txt setup.py CMakeLists.txt $(CPP_FILES)
	@command -v $(SYSTEM_PYTHON) > /dev/null || { echo "error: $(SYSTEM_PYTHON) not found: install Python 3.10 or newer, with venv" >&2; exit 1; }
	test -x $(PYTHON) || $(SYSTEM_PYTHON) -m venv $(VENV)
	@echo 'installing into $(VENV) and building the extension: some minutes, once'
	$(PYTHON) -m pip install --quiet --constraint constraints.txt torch setuptools wheel pybind11 cmake ninja
	$(PYTHON) -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[dev,train]'
	@touch $@

run: setup
	@$(PYTHON) -m engine.run $(if $(VIDEO),"$(VIDEO)") $(if $(STYLE),--style "$(STYLE)") $(ARGS)

test: setup
	$(PYTHON) -m pytest

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP_FILES)

bench: setup
	$(PYTHON) -m bench ops
	$(PYTHON) -m bench pipeline

test-gpu:
	$(SYSTEM_PYTHON) setup.py --quiet build_ext --inplace
	STREAMGAN_REQUIRE_CUDA=1 $(SYSTEM_PYTHON) -m pytest -m needs_cuda tests/ops tests/engine/test_translator.py

bench-gpu:
	$(SYSTEM_PYTHON) setup.py --quiet build_ext --inplace
	$(SYSTEM_PYTHON) -m bench pipeline --device cuda --generator-only

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache engine/lib engine/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
