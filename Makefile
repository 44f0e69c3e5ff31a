# Needs only make and Python >= 3.11: everything else goes into .venv.
#
#   make demo   the Higgs job on simulated events: table on the terminal, files in results/
#   make test   lint, imports between wings, types, spelling and the whole test suite with doctests
#   make unit PYTEST_ARGS='-m "not slow"'   the quick run: tests and doctests without the long ones
#
# Another Python: make test PYTHON=/path/to/python3.12; on idle cores: make test PYTEST_ARGS="-n 2"

PYTHON ?= python3
VENV   := .venv
PY     := $(VENV)/bin/python
PIP    := $(PY) -m pip --disable-pip-version-check
PINS   := constraints-dev.txt
READY  := $(VENV)/.ready
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))

# A named PYTHON is taken or refused; with none named, a newer one on the path may serve.
ifeq ($(origin PYTHON),file)
CANDIDATES := $(PYTHON) python3.14 python3.13 python3.12 python3.11
else
CANDIDATES := $(PYTHON)
endif

.PHONY: help setup demo test lint imports typecheck spelling unit docs clean

help:
	@sed -n 's/^#   //p' Makefile

setup: $(READY)

$(PY):
	@for candidate in $(CANDIDATES); do \
	  if "$$candidate" -c '$(NEW_ENOUGH)' 2>/dev/null; then \
	    echo "$$candidate -m venv $(VENV)"; \
	    "$$candidate" -m venv --clear $(VENV) && exit; \
	    rm -rf $(VENV); exit 1; \
	  fi; \
	done; \
	echo "skhep_nn needs Python >= 3.11, tried: $(CANDIDATES)." >&2; \
	for candidate in $(CANDIDATES); do "$$candidate" --version >&2 2>/dev/null || true; done; \
	echo "Install one, or name it: make PYTHON=/path/to/python3.11" >&2; exit 1

$(READY): pyproject.toml $(PINS) | $(PY)
	@$(PY) -c '$(NEW_ENOUGH)' || \
	  { echo "$(VENV) is of a Python older than 3.11: remove it and run make again." >&2; exit 1; }
	$(PIP) install --quiet --constraint $(PINS) pip
	$(PIP) install --quiet --constraint $(PINS) --build-constraint $(PINS) \
	  --editable . --group dev
	@touch $@

demo: $(READY)
	$(PY) -m benchmarks.higgs.job --seeds 4

test: lint imports typecheck spelling unit

lint: $(READY)
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .

imports: $(READY)
	$(VENV)/bin/lint-imports

typecheck: $(READY)
	$(PY) -m mypy

spelling: $(READY)
	$(PY) -m codespell_lib

unit: $(READY)
	$(PY) -m pytest $(PYTEST_ARGS)

docs: $(READY)
	$(PY) -m nox -s docs

clean:
	rm -rf $(VENV) build dist results docs/_build .mypy_cache .ruff_cache .pytest_cache .hypothesis
