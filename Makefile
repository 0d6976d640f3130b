# SPDX-License-Identifier: BSD-3-Clause
# Everything a developer runs, on a fresh machine: `make train`, `make test`.
#
#   PYTHON=python3.12          the interpreter that .venv is made with
#   TORCH='torch==2.12.1'      the torch to build against; none given and none in .venv: 2.13.0
#   MAX_JOBS=4                 compilers, or processes of tests, at once; default: one for each core
#   CMAKE_ARGS='-DA=B'         passed to CMake
#   CUDA_TORCH=torch==2.14.1   the CUDA build of torch that cuda-build takes

PYTHON ?= python3
TORCH ?=
CUDA_TORCH ?= torch==2.14.1
DEFAULT_TORCH := torch==2.13.0
VENV ?= .venv
BUILD := build/cmake
MAX_JOBS ?= $(shell nproc 2>/dev/null || echo 2)

export MAX_JOBS
export CMAKE_ARGS
export FUSED_CE_BUILD_DIR := $(BUILD)
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# .venv first: there are cmake and ninja where the system has none.
export PATH := $(abspath $(VENV))/bin:$(PATH)

PY := $(VENV)/bin/python
PIP := $(PY) -m pip --quiet
# A file for each thing installed, so that a second call finds nothing to do.
STAMPS := $(VENV)/stamps

# What the library is made of: the editable install is redone when one of them changes.
LIBRARY_SOURCES := CMakeLists.txt setup.py pyproject.toml python/fused_ce/__init__.py \
    $(shell find cmake csrc kernels -type f)
CXX_SOURCES = $(shell find csrc kernels tests examples -name '*.h' -o -name '*.cpp' -o -name '*.cu' \
    -o -name '*.cuh')

# Files that name their licence (make lint).
LICENSED := $(patsubst %,'*%',.cpp .h .cu .cuh .py .pyi .cmake .cmake.in .yml CMakeLists.txt) Makefile .ci/run

# The kernels and their tests alone; with CMAKE_ARGS, as the package is built.
TORCH_FREE = -DFUSED_CE_KERNELS_ONLY=ON -DFUSED_CE_BUILD_TESTS=ON $(CMAKE_ARGS)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.SUFFIXES:

# ---- What to call ----------------------------------------------------------------------------------

# A target's `##` describes it in this list; `###` puts it below, among those that few need.
.PHONY: help
help: ## This list
	@for mark in '##' '###'; do \
	    sed -nE "s/^([a-z-]+):[^#]*$$mark ([^#]*)/  make \1\t\2/p" Makefile | expand -t 24; \
	    test $$mark = '###' || printf '\nFor maintainers:\n'; \
	done
	@printf '\nVariables:\n' && sed -n 's/^#   /  /p' Makefile

.PHONY: build
build: $(STAMPS)/fused_ce ## .venv with torch, and the package, installed editable

.PHONY: test
test: cpptest pytest ## All tests: GoogleTest and pytest

.PHONY: train
train: build $(STAMPS)/train $(STAMPS)/hugging_face ## The examples, end to end: digits, a language model, C++, a tutorial
	$(PY) examples/digits.py
	$(PY) examples/language_model.py --linear
	$(PY) examples/evaluation.py
	$(PY) examples/policy_gradient.py
	$(PY) examples/vocabulary_parallel.py
	$(PY) examples/segmentation.py
	$(PY) examples/hugging_face.py
	@$(build_cpp_example)
	$(PY) examples/softmax_and_cross_entropy.py

.PHONY: lint
lint: $(STAMPS)/train $(STAMPS)/lint ## ruff, mypy --strict, clang-format; workflows, licence headers, MANIFEST.in, stale reports
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy --strict python/fused_ce examples tests/mutation benchmarks tests/cuda \
	    tests/wheel build_tools
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_SOURCES)
	$(VENV)/bin/actionlint
	@git grep -L 'SPDX-License-Identifier: BSD-3-Clause' -- $(LICENSED); test $$? -eq 1 || \
	    { $(call say,the files above do not name the licence); }
	$(VENV)/bin/check-manifest --no-build-isolation
	$(PY) tests/cuda/stale.py

.PHONY: docs
docs: build doxygen $(STAMPS)/docs ## The documents and the API reference as a site, build/docs/index.html
	$(VENV)/bin/sphinx-build --quiet --fail-on-warning --keep-going docs build/docs

.PHONY: bench
bench: build $(STAMPS)/train ## Speed and memory beside torch, with charts (BENCH=--quick: seven minutes)
	$(PY) benchmarks/bench.py $(BENCH)
	$(PY) benchmarks/chart.py
	$(PY) benchmarks/loss_head.py $(filter --quick,$(BENCH))
	$(PY) benchmarks/linear.py $(filter --quick,$(BENCH))
	$(if $(BENCH),,$(PY) benchmarks/readme_chart.py)
	$(PY) benchmarks/distributed.py $(filter --quick,$(BENCH))

.PHONY: clean
clean: ## Remove what was built; .venv stays
	rm -rf build dist python/fused_ce/_C*.so python/fused_ce/lib python/fused_ce/include
	rm -rf python/*.egg-info $(STAMPS)/fused_ce

# ---- What few need ----------------------------------------------------------------------------------

.PHONY: accuracy
accuracy: build $(STAMPS)/train ### Errors in ulp beside torch, and their chart
	$(PY) benchmarks/accuracy.py

# Not in `make test`: minutes, and 13 GB of memory.
.PHONY: largetest
largetest: build $(STAMPS)/test ### Tests of more than 2^31 logits
	$(PY) -m pytest -m large

.PHONY: tidy
tidy: $(STAMPS)/tidy $(STAMPS)/fused_ce ### clang-tidy (optional, slow)
	$(VENV)/bin/clang-tidy -p $(BUILD) --quiet $(wildcard csrc/*.cpp)

.PHONY: wheel
wheel: $(STAMPS)/torch ### A wheel in dist/
	rm -rf dist/*.whl
	$(PIP) wheel --no-build-isolation --no-deps --wheel-dir dist .
	@ls -l dist/*.whl

.PHONY: wheel-check
wheel-check: wheel ### What is in that wheel, what its libraries need, and whether it computes
	$(call check_wheel,dist)

# In a manylinux container: the name tells the torch it is for, and the oldest glibc.
.PHONY: release-wheel
release-wheel: $(STAMPS)/release ### A wheel for a release in dist/release/, checked
	FUSED_CE_RELEASE_WHEEL=1 $(MAKE) wheel
	rm -rf dist/release
	$(VENV)/bin/auditwheel repair --exclude 'libtorch*' --exclude 'libc10*' --exclude 'libcudart*' \
	    --wheel-dir dist/release dist/*.whl
	$(call check_wheel,dist/release)

# As a user's machine has it: unpacked outside of this tree, and beside torch the tools of the build alone.
SDIST_VENV := build/sdist-venv
SDIST_PIP := PATH="$(abspath $(SDIST_VENV))/bin:$$PATH" $(SDIST_VENV)/bin/python -m pip --quiet
.PHONY: sdist-check
sdist-check: $(STAMPS)/sdist ### The source distribution, installed where there is nothing else
	rm -rf dist/*.tar.gz $(SDIST_VENV)
	$(PY) -m build --quiet --sdist --no-isolation
	$(VENV)/bin/twine check --strict dist/*.tar.gz
	$(PYTHON) -m venv $(SDIST_VENV)
	$(SDIST_PIP) install '$(or $(TORCH),$(DEFAULT_TORCH))' cmake ninja 'setuptools>=77'
	$(SDIST_PIP) install --no-build-isolation dist/*.tar.gz
	$(SDIST_VENV)/bin/python -I tests/wheel/installed.py

# Not in .ci/run: torch with CUDA is a download of some 3 GB, and nvcc takes minutes for all
# architectures (TORCH_CUDA_ARCH_LIST=9.0 for one). No GPU is needed, nvcc is: PATH or CUDA_HOME.
CUDA_VENV := build/cuda-venv
.PHONY: cuda-build
cuda-build: ### Build with nvcc, against torch with CUDA; check, and run the CPU tests there
	test -x $(CUDA_VENV)/bin/python || $(PYTHON) -m venv $(CUDA_VENV)
	$(CUDA_VENV)/bin/python -m pip --quiet install $(CUDA_TORCH) cmake ninja 'setuptools>=77' \
	    expecttest hypothesis numpy pytest
	FORCE_CUDA=1 FUSED_CE_BUILD_DIR=build/cmake-cuda PATH="$(abspath $(CUDA_VENV))/bin:$$PATH" \
	    $(CUDA_VENV)/bin/python setup.py --quiet build --build-lib build/cuda-package
	PYTHONPATH=build/cuda-package $(CUDA_VENV)/bin/python tests/cuda/check_build.py

# nvcc's toolkit may have no disassembler: PyPI has. SASS=--quick takes minutes, and prints; everything takes
# half an hour, writes tests/cuda/report.md, and fails where tests/cuda/expected.json is missed (tests/cuda/expect).
NVDISASM_VENV := build/nvdisasm-venv
.PHONY: cuda-report cuda-model nvdisasm
cuda-report: nvdisasm ### What nvcc made of the CUDA kernels, without a GPU (SASS=--quick: a selection)
	PYTHONPATH=tests/cuda $(PYTHON) -m sass --jobs $(MAX_JOBS) $(or $(SASS),--markdown tests/cuda/report.md)
	$(if $(SASS),,PYTHONPATH=tests/cuda $(PYTHON) -m expect --jobs $(MAX_JOBS))

cuda-model: nvdisasm ### How fast they would be, by a model: without a GPU, in minutes
	PYTHONPATH=tests/cuda $(PYTHON) -m model --jobs $(MAX_JOBS)

nvdisasm:
	@command -v nvdisasm > /dev/null || test -x $(NVDISASM_VENV)/bin/pip || $(PYTHON) -m venv $(NVDISASM_VENV)
	@command -v nvdisasm > /dev/null || \
	    $(NVDISASM_VENV)/bin/pip install --quiet nvidia-cuda-nvdisasm==13.5.37

.PHONY: gpu
gpu: ### On a GPU, in ten minutes and without a network: tests, benchmarks, compute-sanitizer
	$(PYTHON) tests/cuda/gpu.py

# The torch-free tests, without those of the longest rows. ThreadSanitizer: those that have threads, of
# the CPU or of CUDA (a randomized address space may lie where it wants its own memory).
# SANITIZE_TESTS: another regular expression.
NO_ASLR = $(shell setarch -R true 2> /dev/null && echo setarch -R)
.PHONY: sanitize sanitize-address sanitize-thread
sanitize: sanitize-address sanitize-thread ### Kernel tests under AddressSanitizer, UBSan and ThreadSanitizer
sanitize-address: SANITIZE_TESTS ?= Kernel|CudaGrid|CudaTicket|CudaWaiting|Simt|fuzz
sanitize-thread: SANITIZE_TESTS ?= Threads|Cuda(Kernel|Grid|Waiting).*/fifo_(float|half)|CudaTicket|Simt|fuzz.cuda
sanitize-address sanitize-thread: sanitize-%: gtest
	cmake -S . -B build/$* $(TORCH_FREE) -DFUSED_CE_SANITIZE=$*
	cmake --build build/$* --parallel $(MAX_JOBS)
	$(NO_ASLR) ctest --test-dir build/$* --output-on-failure --no-tests=error --parallel $(MAX_JOBS) \
	    -R '$(SANITIZE_TESTS)' -E 'LongRows|OffsetsBeyond31Bits|Million'

# Memcheck sees what the sanitizers do not: decisions on values that nobody wrote, in the code as it is
# shipped. It knows no AVX-512, and its long double has 64 bits, too few to judge double by. Where it has
# found something, CMAKE_ARGS=-DCMAKE_BUILD_TYPE=RelWithDebInfo tells the lines. A selection, for time.
VALGRIND_TESTS ?= Kernel.References*:Kernel.FindsAFar*:Kernel.Gradient*:Kernel.RowsWithout*:-*double*:*avx512*
.PHONY: valgrind
valgrind: gtest ### Kernel tests under valgrind
	@command -v valgrind > /dev/null || { $(call say,no valgrind: sudo apt-get install valgrind); }
	cmake -S . -B build/valgrind $(TORCH_FREE)
	cmake --build build/valgrind --parallel $(MAX_JOBS) --target kernel_tests
	@build/valgrind/tests/cpp/kernel_tests --gtest_list_tests --gtest_filter='$(VALGRIND_TESTS)' | \
	    grep -q '^  ' || { $(call say,no test matches $(VALGRIND_TESTS)); }
	valgrind --quiet --error-exitcode=1 build/valgrind/tests/cpp/kernel_tests \
	    --gtest_filter='$(VALGRIND_TESTS)'

# Not in .ci/run: minutes to build. libasan comes before everything else in the process, and libstdc++
# with it, whose exceptions it watches. The interpreter and torch leak what they keep to the end.
SANITIZE_PYTESTS ?= edges errors misfits
.PHONY: sanitize-python
sanitize-python: build $(STAMPS)/test ### The operator's tests, the library under AddressSanitizer and UBSan
	CMAKE_ARGS='$(CMAKE_ARGS) -DFUSED_CE_SANITIZE=address' FUSED_CE_BUILD_DIR=build/cmake-address \
	    $(PY) setup.py --quiet build --build-lib build/address-package
	LD_PRELOAD="$$(c++ -print-file-name=libasan.so) $$(c++ -print-file-name=libstdc++.so)" \
	    ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 PYTHONPATH=build/address-package \
	    $(PY) -m pytest $(SANITIZE_PYTESTS:%=tests/python/test_%.py)

# Minutes: beside the sources there is LibTorch alone, which is .venv's torch.
.PHONY: libtorch
libtorch: $(STAMPS)/torch ### The library and a program without Python, as docs/cpp.md says
	cmake -DTORCH_DIR="$$($(PY) -c 'import torch; print(torch.utils.cmake_prefix_path)')/Torch" \
	    -P tests/consumer/run.cmake

# An emulated processor, and a reference whose long double is software there: all but the slowest tests, of
# two types, and the fuzzer's problems, which are of all four.
ARM := -DCMAKE_TOOLCHAIN_FILE=$(CURDIR)/cmake/aarch64-linux-gnu.cmake
ARM_GTEST := $(CURDIR)/build/arm-gtest
ARM_TESTS ?= Math|Scratch|default_(float|half)|fuzz.cpu
ARM_SLOW ?= EqualsTheFormula|ExpOfEveryFloat|Million|HardRows|SomeGradients
.PHONY: arm
arm: $(STAMPS)/venv ### The CPU kernels for ARM, cross-compiled, and some of their tests in qemu
	@$(call apt,g++-aarch64-linux-gnu qemu-user googletest,command -v aarch64-linux-gnu-g++ && \
	    command -v qemu-aarch64 && test -d /usr/src/googletest)
	cmake -S /usr/src/googletest -B $(ARM_GTEST) $(ARM) -DBUILD_GMOCK=OFF \
	    -DCMAKE_INSTALL_PREFIX=$(ARM_GTEST)/prefix
	cmake --build $(ARM_GTEST) --parallel $(MAX_JOBS) --target install
	cmake -S . -B build/arm $(TORCH_FREE) $(ARM) -DGTest_ROOT=$(ARM_GTEST)/prefix
	cmake --build build/arm --parallel $(MAX_JOBS) --target kernel_tests fuzz_cpu
	ctest --test-dir build/arm --output-on-failure --no-tests=error --parallel $(MAX_JOBS) \
	    -R '$(ARM_TESTS)' -E '$(ARM_SLOW)'

# clang 16 or newer: FUZZ_CXX=clang++-16 where that is not its name. Inputs that found new code are kept
# in build/fuzz/corpus, and an input that failed is written here: build/fuzz/tests/fuzz/fuzz_cpu FILE
# runs it again.
FUZZ_CXX ?= clang++
FUZZ_SECONDS ?= 60
.PHONY: fuzz
fuzz: gtest ### Fuzz the CPU and the CUDA kernels, FUZZ_SECONDS=60 each (clang)
	cmake -S . -B build/fuzz $(TORCH_FREE) -DFUSED_CE_SANITIZE=address -DFUSED_CE_BUILD_FUZZERS=ON \
	    -DCMAKE_CXX_COMPILER=$(FUZZ_CXX)
	cmake --build build/fuzz --parallel $(MAX_JOBS) --target fuzz_cpu fuzz_cuda
	for device in cpu cuda; do \
	    mkdir -p build/fuzz/corpus/$$device && \
	    build/fuzz/tests/fuzz/fuzz_$$device build/fuzz/corpus/$$device tests/fuzz/corpus -max_len=160 \
	        -len_control=0 -max_total_time=$(FUZZ_SECONDS) -print_final_stats=1 || exit 1; \
	done

# ---- The parts of `make test` ----------------------------------------------------------------------

.PHONY: cpptest
cpptest: build gtest ### GoogleTest, through ctest
	cmake -S . -B $(BUILD) -DFUSED_CE_BUILD_TESTS=ON > $(BUILD)/configure.log || \
	    { cat $(BUILD)/configure.log; exit 1; }
	cmake --build $(BUILD) --parallel $(MAX_JOBS)
	ctest --test-dir $(BUILD) --output-on-failure --no-tests=error --parallel $(MAX_JOBS)

# A file is one process's: its tests may share what they have started, and measure their memory.
.PHONY: pytest
pytest: build $(STAMPS)/test ### pytest
	OMP_WAIT_POLICY=passive $(PY) -m pytest --numprocesses $(MAX_JOBS) --dist loadfile --no-loadscope-reorder

# GoogleTest comes from the system, where the compiler finds it (GTest_ROOT names another place).
.PHONY: gtest
gtest: $(STAMPS)/torch
ifndef GTest_ROOT
	@$(call apt,libgtest-dev,echo '#include <gtest/gtest.h>' | c++ -x c++ -E -)
endif

# Reads the C++ API for the documents.
.PHONY: doxygen
doxygen:
	@$(call apt,doxygen,command -v doxygen)

# ---- What the targets stand on ---------------------------------------------------------------------

# $(call say,MESSAGE): a reason in one line, and failure.
say = echo "error: $(1)" >&2; exit 1

# $(call apt,PACKAGES,TEST): Debian's packages, where TEST fails. They are installed for root; others are
# told what to type.
define apt
available() { { $(2); } > /dev/null 2>&1; }; \
if ! available && [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
    echo 'missing: apt-get install $(1)'; \
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $(1) > /dev/null || true; \
fi; \
available || { $(call say,this needs other packages: sudo apt-get install $(1)); }
endef

$(STAMPS)/venv:
	@command -v $(PYTHON) > /dev/null || { $(call say,no $(PYTHON): sudo apt-get install python3); }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
	    { $(call say,$(PYTHON) is older than 3.10: name another with PYTHON=); }
	@$(PYTHON) -c 'import ensurepip, venv' 2> /dev/null || \
	    { $(call say,$(PYTHON) cannot make a venv: sudo apt-get install python3-venv); }
	@command -v c++ > /dev/null || { $(call say,no C++ compiler: sudo apt-get install g++); }
	@echo 'int main() {}' | c++ -std=c++20 -x c++ -fsyntax-only - || \
	    { $(call say,the C++ compiler does not know C++20: gcc 11 or newer does); }
	@$(PYTHON) -c 'import os, sys, sysconfig as s; \
	    sys.exit(not os.path.exists(os.path.join(s.get_path("include"), "Python.h")))' || \
	    { $(call say,no Python headers: sudo apt-get install python3-dev); }
	test -x $(PY) || $(PYTHON) -m venv $(VENV)
	$(PIP) install 'pip>=25.1' 'setuptools>=77' wheel
	@command -v cmake > /dev/null || $(PIP) install 'cmake>=3.22'
	@command -v ninja > /dev/null || $(PIP) install ninja
	@mkdir -p $(@D) && touch $@

# Rewritten only when TORCH changes, so that another TORCH installs another torch.
.PHONY: FORCE
$(STAMPS)/torch.spec: $(STAMPS)/venv FORCE
	@echo '$(TORCH)' | cmp -s - $@ || echo '$(TORCH)' > $@

$(STAMPS)/torch: $(STAMPS)/torch.spec
	@if [ -n '$(TORCH)' ]; then \
	    set -x; $(PIP) install '$(TORCH)'; \
	elif ! $(PY) -c 'import torch' 2> /dev/null; then \
	    set -x; $(PIP) install $(DEFAULT_TORCH); \
	fi
	@touch $@

$(STAMPS)/fused_ce: $(STAMPS)/torch $(LIBRARY_SOURCES)
	@echo 'compiling fused_ce: a few minutes the first time'
	$(PIP) install --no-build-isolation --no-deps --editable .
	@touch $@

# Dependency groups of pyproject.toml.
$(STAMPS)/train $(STAMPS)/hugging_face $(STAMPS)/test $(STAMPS)/lint $(STAMPS)/tidy $(STAMPS)/sdist $(STAMPS)/release \
$(STAMPS)/docs: $(STAMPS)/torch pyproject.toml
	$(PIP) install --group $(@F)
	@touch $@

# $(call check_wheel,FOLDER): its content, and that it computes where there is torch of .venv, and nothing else
# of it.
WHEEL_VENV := build/wheel-venv
SITE_PACKAGES = $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("platlib"))')
define check_wheel
$(PY) tests/wheel/check.py $(1)/*.whl
$(PY) -m venv --clear $(WHEEL_VENV)
echo "$(call SITE_PACKAGES,$(VENV))" > "$(call SITE_PACKAGES,$(WHEEL_VENV))/torch.pth"
$(WHEEL_VENV)/bin/python -m pip --quiet install --no-deps $(1)/*.whl
$(WHEEL_VENV)/bin/python -I tests/wheel/installed.py
endef

# A user's build: out of the tree, with nothing but the installed package and torch.
define build_cpp_example
build=$$(mktemp -d) && trap 'rm -rf "$$build"' EXIT && set -ex && \
prefix=$$($(PY) -c 'import fused_ce, torch.utils; \
    print(fused_ce.cmake_prefix_path, torch.utils.cmake_prefix_path, sep=";")') && \
cp -r examples/cpp "$$build/source" && \
cmake -S "$$build/source" -B "$$build/build" -DCMAKE_BUILD_TYPE=Release \
    -DCMAKE_PREFIX_PATH="$$prefix" && \
cmake --build "$$build/build" && \
"$$build/build/train"
endef
