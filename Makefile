# Every target sets itself up: its own environment in .venv, once, with the versions of constraints.txt.
#
#   make demo     draw, edit, ask, and judge what came out
#   make test     unit tests, then the notebooks
#   make lab      the notebooks in JupyterLab
#   make setup    the environment alone
#
# PYTHON=python3.12 chooses an interpreter, VENV=folder another place, and with uv TORCH=cpu the small PyTorch without CUDA.

VENV ?= .venv
TORCH ?=
EXTRAS = notebook,dev
BIN = $(VENV)/bin
READY = $(VENV)/.hb-ready
CANDIDATES = $(PYTHON) python3.11 python3.12 python3.13 python3 python

.PHONY: help demo test lab setup

help:
	@sed -n 's/^#   make/make/p' Makefile

demo: $(READY)
	@$(BIN)/hb demo

lab: $(READY)
	@$(BIN)/hb lab

test: $(READY)
	@echo "==> Unit tests (pytest, on two cores)"
	@$(BIN)/python -m pytest -n 2 --dist loadfile -p no:nbmake
	@if ls notebooks/*.ipynb >/dev/null 2>&1; then \
	  echo "==> Notebooks, from top to bottom with small settings (HB_FAST=1 pytest --nbmake)"; \
	  HB_FAST=1 $(BIN)/python -m pytest --nbmake notebooks; \
	else \
	  echo "==> No notebooks yet: nothing to run"; \
	fi

setup: $(READY)
	@echo "==> $(VENV) is ready. Next: make demo, make test or make lab"

# The stamp is older than a changed pyproject.toml or constraints.txt, and then this runs again.
$(READY): pyproject.toml constraints.txt
	@set -e; \
	PY=""; \
	for p in $(CANDIDATES); do \
	  if $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' >/dev/null 2>&1; then PY=$$p; break; fi; \
	done; \
	if command -v uv >/dev/null 2>&1; then \
	  echo "==> Setting up $(VENV) with uv: about 1.5 GB on a CPU, more with CUDA; half a minute to some minutes, once"; \
	  UV_FIND_LINKS="$${PIP_FIND_LINKS:-}"; export UV_FIND_LINKS; \
	  if [ ! -x $(BIN)/python ]; then uv venv --quiet --python "$${PY:-3.11}" $(VENV); fi; \
	  uv pip install --python $(BIN)/python $(if $(TORCH),--torch-backend=$(TORCH)) -c constraints.txt -e '.[$(EXTRAS)]'; \
	else \
	  if [ -z "$$PY" ]; then \
	    echo "hb needs Python 3.11, 3.12 or 3.13, and I found none of them (I tried: $(CANDIDATES))." >&2; \
	    echo "Install one, or say where it is: make $(or $(MAKECMDGOALS),setup) PYTHON=path/to/python3" >&2; \
	    exit 1; \
	  fi; \
	  echo "==> Setting up $(VENV) with pip and $$PY: about 2 GB on a CPU, more with CUDA; some minutes, once"; \
	  if [ ! -x $(BIN)/python ]; then \
	    $$PY -m venv $(VENV) || { echo "$$PY cannot make an environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; \
	  fi; \
	  $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'; \
	fi; \
	touch $@
