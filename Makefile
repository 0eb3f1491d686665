# make demo   the whole chain on three photographs, on a CPU
# make explore  a page that is asked, with the mouse, why a network says what it says
# make test   the tests, two at a time (PROCESSES=4: four)
# make lint   style, format and types
# make docs   the documentation as a site, in site/
# make env    the environment alone, in .venv (CPU=1: PyTorch without CUDA, which is far smaller)

VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.relseg-installed

# The first that works is taken; PYTHON=... chooses another.
PYTHON ?= python3.11 python3.12 python3.13 python3.14 python3
FITS := import sys; sys.exit(sys.version_info[:2] < (3, 11))
# Whether a Python has a PyTorch that fits, of its own: in a virtual environment a new one would not find it.
HAS_TORCH := import sys; from importlib.metadata import version; \
  of = lambda name: tuple(map(int, version(name).split(".")[:2])); \
  sys.exit(sys.prefix != sys.base_prefix or of("torch") < (2, 6) or of("torchvision") < (0, 21))
INDEX := $(if $(CPU),--extra-index-url https://download.pytorch.org/whl/cpu)
INSTALL = "$(BIN)/python" -m pip install --disable-pip-version-check -q $(INDEX)

.PHONY: help env demo explore test lint docs

help:
	@sed -n 's/^# \(make .*\)/\1/p' Makefile

env: $(STAMP)

# An environment that is there and fits is kept: what was installed into it by hand stays, and an interrupted
# installation goes on. A new one takes the PyTorch of the Python that it is made with, if that has one.
$(STAMP): pyproject.toml
	@if ! "$(BIN)/python" -c '$(FITS)' 2>/dev/null; then \
	  for python in $(PYTHON); do \
	    if "$$python" -c '$(FITS)' 2>/dev/null; then found=$$python; break; fi; \
	  done; \
	  if [ -z "$$found" ]; then \
	    echo "error: no Python 3.11 or newer among: $(PYTHON); install one, or name it: make PYTHON=/path/to/python3.12" >&2; \
	    exit 2; \
	  fi; \
	  if "$$found" -c '$(HAS_TORCH)' 2>/dev/null; then shared=--system-site-packages; fi; \
	  echo "$$found -m venv$${shared:+ $$shared} $(VENV)"; \
	  "$$found" -m venv --clear $$shared "$(VENV)"; \
	fi
	@"$(BIN)/python" -c 'import pip' 2>/dev/null || "$(BIN)/python" -m ensurepip
	@"$(BIN)/python" -c 'import torch, torchvision' 2>/dev/null && echo "installing into $(VENV), beside its PyTorch" || \
	  echo "installing into $(VENV): PyTorch and others, $(if $(CPU),without CUDA,about 7 GB), some minutes"
	@$(INSTALL) -e '.[all]' || { \
	  echo "error: the installation failed, see above" >&2; \
	  exit 2; \
	}
	@$(INSTALL) -e '.[published-crf]' 2>/dev/null || \
	  echo "note: pydensecrf2 cannot be built here (a C++ compiler, or Python's headers: apt install g++ python3-dev);" \
	    "nothing needs it but the tests that compare with it, which are skipped"
	@touch "$@"

demo: env
	@"$(BIN)/python" demo/demo.py

NETWORK ?= demo/checkpoints/segmentation_cnn.safetensors
PORT ?= 7860

explore: env
	@"$(BIN)/cnnseg" explore --network "$(NETWORK)" --port $(PORT)

# One thread each: the tests are many small computations, and several of them start processes of their own. A file is
# the work of one process, as its tests share fixtures. Each process takes about 2 GB.
PROCESSES ?= 2

test: env
	OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m pytest -n $(PROCESSES) --dist loadfile

lint: env
	"$(BIN)/ruff" check .
	"$(BIN)/ruff" format --check .
	"$(BIN)/mypy"

# Runs the notebooks (NOTEBOOKS=no leaves their outputs out); any warning, a broken link among them, is an error.
docs: env
	NO_MKDOCS_2_WARNING=1 OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} "$(BIN)/python" -m mkdocs build --strict
	@echo "site/index.html"
