# Everything a contributor runs. `make` alone prints what there is.

PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin

# --no-compile: modules are compiled when they are first imported, which is a few seconds less before the demo starts.
PIP_INSTALL := $(BIN)/python -m pip --disable-pip-version-check --quiet --no-input install \
	--no-compile --require-hashes --no-deps
UV_COMPILE := $(UV) pip compile pyproject.toml --quiet --universal --python-version 3.11 \
	--generate-hashes --no-emit-index-url --no-emit-find-links --no-header

# The embedded servers answer on loopback with credentials of their own: no bundle of this machine's, no cloud metadata.
unexport AWS_CA_BUNDLE
export AWS_EC2_METADATA_DISABLED := true
# Every command is a process of its own: without compiled modules each would compile the libraries anew.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.NOTPARALLEL:
.DELETE_ON_ERROR:
.PHONY: help install demo test lint format bench soak lock clean distclean

help: ## print this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(VENV)/.dev ## make .venv with everything: runtime, embedded servers, development tools

demo: $(VENV)/.demo ## replicate real objects between embedded servers; KEEP=1 leaves them up until Ctrl-C
	@$(BIN)/python starter.py demo $(if $(KEEP),--keep)

test: lint ## everything that CI runs: lint, then every test
	$(BIN)/python -m pytest -m "not soak" --numprocesses 3 --dist worksteal

lint: $(VENV)/.dev ## ruff format and check, mypy strict, direction of imports
	$(BIN)/ruff format --check --quiet .
	$(BIN)/ruff check --quiet .
	$(BIN)/mypy .
	$(BIN)/python -m pytest --quiet --durations=0 tests/meta/test_imports.py

format: $(VENV)/.dev ## rewrite the sources as ruff wants them
	$(BIN)/ruff check --quiet --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.bench ## measure against peers on the same servers, in the same run
	$(BIN)/python -m benchmarks

soak: $(VENV)/.dev ## the long runs that `make test` leaves out
	$(BIN)/python -m pytest -m soak --timeout=0

lock: ## resolve the dependencies anew into requirements/*.lock (needs uv)
	$(UV_COMPILE) --upgrade --extra embedded -o requirements/demo.lock
	$(UV_COMPILE) --upgrade -c requirements/demo.lock -o requirements/runtime.lock
	$(UV_COMPILE) --upgrade --extra embedded --extra dev -c requirements/demo.lock -o requirements/dev.lock
	$(UV_COMPILE) --upgrade --extra embedded --extra bench -c requirements/demo.lock -c requirements/dev.lock -o requirements/bench.lock

clean: ## remove caches and build products
	rm -rf build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## the same, and .venv
	rm -rf $(VENV)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Drayage needs Python 3.11 or newer; '$(PYTHON)' is not: make PYTHON=python3.12 …" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || \
		{ rm -rf $(VENV); echo "'$(PYTHON) -m venv' failed: install the venv module (Debian: apt install python3-venv)" >&2; exit 1; }

# The demo needs no development tools; where those are installed, the lock they came from holds its packages too.
$(VENV)/.demo: requirements/demo.lock | $(BIN)/python
	@if [ $(VENV)/.dev -nt $< ]; then touch $@; exit; fi; \
	echo "Installing $< into $(VENV) (half a minute)"; $(PIP_INSTALL) -r $< && touch $@

$(VENV)/.dev: requirements/dev.lock | $(BIN)/python
	@echo "Installing $< into $(VENV) (a minute)"
	@$(PIP_INSTALL) -r $<
	@touch $@

$(VENV)/.bench: requirements/bench.lock | $(BIN)/python
	@echo "Installing $< into $(VENV)"
	@$(PIP_INSTALL) -r $<
	@touch $@
