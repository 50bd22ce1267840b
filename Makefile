# make demo: a verified, private chat with a real model. make test: the tests. Both set themselves up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
STATE ?= .cloister
BIN := $(VENV)/bin

.PHONY: demo test test-all bench-smoke check slow-tests quick-tests machines clean

demo: $(VENV)/.demo
	$(BIN)/cloister demo --state $(STATE)

# Checks and the two halves of the tests side by side, each shown when it has ended: most of them wait for something.
test: $(VENV)/.dev machines
	-$(BIN)/cloister demo --state $(STATE) --fetch-only
	$(MAKE) --no-print-directory --jobs=2 --keep-going --output-sync=target slow-tests quick-tests check

slow-tests: $(VENV)/.dev
	$(BIN)/python -m pytest tests/attacks tests/e2e

quick-tests: $(VENV)/.dev
	$(BIN)/python -m pytest -o cache_dir=.pytest_cache/quick --ignore=tests/attacks --ignore=tests/e2e

test-all: $(VENV)/.dev check machines
	$(BIN)/cloister demo --state $(STATE) --fetch-only
	$(BIN)/python -m pytest --exhaustive

# Every bench once, as small as it goes: that they run, not how fast anything is.
bench-smoke: $(VENV)/.dev
	$(BIN)/cloister demo --state $(STATE) --fetch-only
	$(BIN)/python -m benchmarks.smoke --state $(STATE)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy attestation ohttp measurements client_sdk enclave_runtime images benchmarks

# What boots images in tests (QEMU, OVMF, a virtual TPM) and checks volumes; tests skip, saying so, where it is not.
MACHINES := qemu-system-x86 ovmf swtpm swtpm-tools erofs-utils cryptsetup-bin
machines:
	-@if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && ! dpkg -s $(MACHINES) >/dev/null 2>&1; then \
		(apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq install -y --no-install-recommends \
		$(MACHINES)) >/dev/null 2>&1 || echo "images are not booted in tests: apt-get could not install $(MACHINES)"; fi

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

# The compiled decoder is built with the package, so what it is made of calls for a new one.
DECODER := $(wildcard enclave_runtime/engine/cpu/*.[ch] enclave_runtime/engine/cpu/*.inc)

# Where there is no C compiler PyTorch computes, a tenth as fast.
$(VENV)/.demo: pyproject.toml $(DECODER) | $(VENV)/bin/python
	if command -v gcc || command -v cc || command -v clang; then extras=node,images,witness; else extras=runtime; fi >/dev/null; \
		$(BIN)/python -m pip install --quiet --editable ".[$$extras]"
	touch $@

$(VENV)/.dev: pyproject.toml $(DECODER) | $(VENV)/bin/python
	$(BIN)/python -m pip install --quiet --editable '.[runtime,images,bench,dev]'
	touch $@ $(VENV)/.demo

clean:
	rm -rf $(VENV) $(STATE) build *.egg-info
