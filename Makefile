# The commands of this project. `make run VIDEO=clip.mp4` and `make test` work on a fresh machine: the first use makes
# .venv, installs what constraints.txt pins, and builds the extension.

VENV := .venv
PYTHON := $(VENV)/bin/python
# The interpreter that .venv is made with, and the one that the GPU targets use as it is (no .venv, no network).
SYSTEM_PYTHON ?= python3

CPP_FILES := $(shell find csrc tests/cuda tests/native -name '*.cpp' -o -name '*.h' -o -name '*.cu' 2>/dev/null)

# The peers that benchmarks compare with have an environment of their own.
BENCH_VENV := .venv-bench
BENCH := $(BENCH_VENV)/bin/python -m bench
# Where the figures of the full form go: make bench-full RESULTS=/tmp/new
RESULTS ?= bench/results
# The name of this processor in the files' names.
MACHINE ?= $(shell $(BENCH_VENV)/bin/python -m bench.machine)
GPU_RESULTS ?= bench/results

.PHONY: help setup run wheel test test-all fuzz lint format bench bench-full bench-setup report sanitize test-gpu sanitize-gpu bench-gpu clean

help:
	@echo 'make run [VIDEO=clip.mp4] [STYLE=name|file] [ARGS="..."]   translate a video (default: the sample clip)'
	@echo 'make wheel       build a wheel for this Python into dist/; it installs without a compiler'
	@echo 'make test        all tests but the slow ones'
	@echo 'make test-all    the slow ones too: some minutes more'
	@echo 'make fuzz [MINUTES=10]   mutated videos and checkpoints; prints the seeds of what fails'
	@echo 'make lint        ruff, mypy, clang-format, and whether the documents say what bench/results says'
	@echo 'make format      rewrite the sources in the format that lint asks for'
	@echo 'make bench       this project beside its peers on this machine: some minutes; figures go to build/bench'
	@echo 'make bench-full  all generators, sizes and benchmarks: an hour; figures go to bench/results'
	@echo 'make report      write the tables and charts of README.md and docs/performance.md from bench/results'
	@echo 'make sanitize    the tests of the operators with the address and undefined-behaviour sanitizers'
	@echo 'make test-gpu    the tests that need a CUDA device, 8 minutes at most, with the Python in SYSTEM_PYTHON'
	@echo 'make sanitize-gpu some of them under compute-sanitizer, for minutes'
	@echo 'make bench-gpu   the measurements on a CUDA device, 8 minutes at most, with the Python in SYSTEM_PYTHON'
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

wheel: setup
	$(PYTHON) -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	@ls dist/*.whl

test: setup
	$(PYTHON) -m pytest

test-all: setup
	$(PYTHON) -m pytest -m 'slow or not slow'

fuzz: setup
	$(PYTHON) -m tests.fuzz --minutes $(or $(MINUTES),10)

lint: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTHON) -m bench report --check
	$(VENV)/bin/clang-format --dry-run -Werror $(CPP_FILES)

format: setup
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .
	$(VENV)/bin/clang-format -i $(CPP_FILES)

# The peers, in what is otherwise the same environment.
bench-setup: $(BENCH_VENV)/.installed

$(BENCH_VENV)/.installed: $(VENV)/.installed
	test -x $(BENCH_VENV)/bin/python || $(SYSTEM_PYTHON) -m venv $(BENCH_VENV)
	@echo 'installing the peers into $(BENCH_VENV): some minutes, once'
	$(BENCH_VENV)/bin/python -m pip install --quiet --constraint constraints.txt torch setuptools wheel pybind11 cmake ninja
	$(BENCH_VENV)/bin/python -m pip install --quiet --constraint constraints.txt --no-build-isolation --editable '.[bench]'
	@touch $@

bench: bench-setup
	$(BENCH) ops --ops float32 --processes 1 --rounds 4 --json build/bench/ops-$(MACHINE).json
	$(BENCH) model --quick --json build/bench/model-$(MACHINE).json
	$(BENCH) pipeline --seconds 2 --rounds 1 --generator-seconds 1 --json build/bench/pipeline-$(MACHINE).json
	$(BENCH) latency --seconds 3 --rates 0.5x 1.5x --json build/bench/latency-$(MACHINE).json

bench-full: bench-setup
	$(BENCH) ops --json $(RESULTS)/ops-$(MACHINE).json
	$(BENCH) model --json $(RESULTS)/model-$(MACHINE).json
	$(BENCH) backends --json $(RESULTS)/backends-$(MACHINE).json
	$(BENCH) scaling --json $(RESULTS)/scaling-$(MACHINE).json
	$(BENCH) pipeline --json $(RESULTS)/pipeline-$(MACHINE).json
	$(BENCH) training --json $(RESULTS)/training-$(MACHINE).json
	$(BENCH) latency --json $(RESULTS)/latency-$(MACHINE).json

report: bench-setup
	$(BENCH) report

# What torch.compile does with an operator is left out: a compiler under the sanitizers takes minutes. So is a library that
# stands in for the system's, which the sanitizers need themselves. Memory is filled
# with NaN, so that what is read before it is written shows in the results.
sanitize: $(VENV)/.installed
	STREAMGAN_SANITIZE=ON $(PYTHON) setup.py --quiet build_ext --inplace
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libubsan.so)" \
	  ASAN_OPTIONS=detect_leaks=0:protect_shadow_gap=0:allocator_may_return_null=1:max_malloc_fill_size=1000000000:malloc_fill_byte=255 \
	  UBSAN_OPTIONS=halt_on_error=1 $(PYTHON) -m pytest tests/ops $(filter-out %_norms.py %_norm_rules.py,$(wildcard tests/engine/fused/test_*.py)) \
	  tests/engine/runners/test_packed.py -k 'not operator_like and not elsewhere and not noticed and not refuses'; status=$$?; \
	  $(PYTHON) setup.py --quiet build_ext --inplace; exit $$status

# In steps with a time limit each, eight minutes in all: tests/gpu/__main__.py.
test-gpu:
	@$(SYSTEM_PYTHON) -m tests.gpu test

# Without torch's cache of memory, so that each tensor has limits of its own.
sanitize-gpu:
	for tool in memcheck racecheck synccheck; do \
	  echo "compute-sanitizer $$tool"; \
	  STREAMGAN_REQUIRE_CUDA=1 PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $$tool --error-exitcode 9 \
	    --target-processes all $(SYSTEM_PYTHON) -m pytest -m needs_cuda tests/cuda \
	    -k 'mirror or aligned or crops or paddings or padded or statistics' || exit 1; \
	done

bench-gpu:
	@$(SYSTEM_PYTHON) -m tests.gpu bench --results $(GPU_RESULTS)

clean:
	rm -rf $(VENV) $(BENCH_VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache engine/lib engine/_native*.so
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
