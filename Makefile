# Everything a newcomer needs: `make demo` trains and judges a small face model, `make test` runs the test suite.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo card test lint format docs clean

$(INSTALLED): setup.py
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_face needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/accelerate launch --cpu --num_processes 1 scripts/train.py recipes/demo/orl.yaml
	$(BIN)/python scripts/show_demo.py outputs/demo

card: demo  # what the demo's run wrote, kept in model_cards
	mkdir -p model_cards/demo_orl/figures
	cp outputs/demo/README.md model_cards/demo_orl/
	cp outputs/demo/figures/orl_roc.png model_cards/demo_orl/figures/

test: $(INSTALLED)
	$(BIN)/python -m pytest

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]'
	touch $@

docs: $(VENV)/.docs  # the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) outputs build site *.egg-info
