# make demo   the whole chain on three photographs, on a CPU
# make explore  a page that is asked, with the mouse, why a network says what it says
# make test   the tests
# make lint   style and format
# make docs   the documentation as a site, in site/
# make env    the environment alone, in .venv

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.relseg-installed

# The first that works is taken; PYTHON=... chooses another.
PYTHON ?= python3.11 python3.12 python3.13 python3
FITS := import sys; sys.exit(sys.version_info[:2] < (3, 11))

.PHONY: help env demo explore test lint docs

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

env: $(STAMP)

# An environment that is there and fits is kept: what was installed into it by hand stays, and an interrupted
# installation goes on.
$(STAMP): pyproject.toml
	@if ! "$(BIN)/python" -c '$(FITS)' 2>/dev/null; then \
	  for python in $(PYTHON); do \
	    if "$$python" -c '$(FITS)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 or newer among: $(PYTHON); install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	    exit 2; \
	  fi; \
	  echo "$$found -m venv $(VENV)"; \
	  "$$found" -m venv --clear "$(VENV)"; \
	fi
	@"$(BIN)/python" -c 'import pip' 2>/dev/null || "$(BIN)/python" -m ensurepip
	@echo "installing into $(VENV): PyTorch and others, about 6 GB, some minutes"
	@"$(BIN)/python" -m pip install --disable-pip-version-check -q -e '.[dev,docs,export,oracles,explorer]' || { \
	  echo "error: the installation failed, see above" >&2; \
	  exit 2; \
	}
	@"$(BIN)/python" -m pip install --disable-pip-version-check -q -e '.[published-crf]' 2>/dev/null || \
	  echo "note: pydensecrf2 cannot be built here (a C++ compiler, or Python's headers: apt install g++ python3-dev);" \
	    "nothing needs it but the tests that compare with it, which are skipped"
	@touch "$@"

demo: env
	@"$(BIN)/python" demo/demo.py

NETWORK ?= demo/checkpoints/segmentation_cnn.safetensors
PORT ?= 7860

explore: env
	@"$(BIN)/cnnseg" explore --network "$(NETWORK)" --port $(PORT)

# One thread each: the tests are many small computations, and several of them start processes of their own.
test: env
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m pytest

lint: env
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .

# Runs the notebooks (NOTEBOOKS=no leaves their outputs out); any warning, a broken link among them, is an error.
docs: env
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m mkdocs build --strict --quiet
	@echo "site/index.html"
