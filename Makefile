# Everything a newcomer needs: `make demo` trains and judges a small face model, `make test` runs the test suite.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# One thread a process: the processes share the cores. Files stay whole, since their tests share what they build.
PYTEST := OMP_NUM_THREADS=1 $(abspath $(BIN))/python -m pytest --numprocesses auto --dist loadfile
INSTALLED := $(VENV)/.installed

.PHONY: demo card test test-latest test-lowest faults conformance mutation lint format docs notebooks lock clean

$(INSTALLED): setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hf_face needs Python 3.11 or newer")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]' --constraint constraints.txt
	touch $@

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet uv

demo: $(INSTALLED)
	$(BIN)/accelerate launch --cpu --num_processes 1 scripts/train.py recipes/demo/orl.yaml
	$(BIN)/python scripts/show_demo.py outputs/demo

card: demo  # what the demo's run wrote, kept in model_cards
	mkdir -p model_cards/demo_orl/figures
	cp outputs/demo/README.md model_cards/demo_orl/
	cp outputs/demo/figures/orl_roc.png model_cards/demo_orl/figures/

test: $(INSTALLED)
	$(PYTEST)

test-latest: $(BIN)/uv  # with the newest versions that setup.py admits
	$(BIN)/uv venv --quiet --clear --python $(BIN)/python $(VENV)-latest
	$(BIN)/uv pip install --quiet --python $(VENV)-latest --editable '.[dev]'
	$(VENV)-latest/bin/python -m pytest

test-lowest: $(BIN)/uv  # with the lowest, Python's included
	$(BIN)/uv venv --quiet --clear --python 3.11 $(VENV)-lowest
	$(BIN)/uv pip install --quiet --python $(VENV)-lowest --resolution lowest-direct --editable '.[dev]'
	$(VENV)-lowest/bin/python -m pytest

faults: $(INSTALLED)  # kills work 200 times, of which `test` does 20, and prints what came of it
	FAULT_KILLS=$${FAULT_KILLS:-200} OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/faults

conformance: $(INSTALLED)  # transformers' own tests on our models; not in `test`: it downloads them from PyPI
	$(BIN)/python -m pip install --quiet 'parameterized>=0.9'
	$(BIN)/python scripts/conformance.py

mutation: $(INSTALLED)  # small mistakes that the tests must notice; `make mutation MUTATION="--seed 3 hf_face/heads"`
	$(BIN)/python -m pip install --quiet 'mutmut>=3.8,<4' 'libcst>=1.9' 'coverage>=7.10'
	OMP_NUM_THREADS=1 $(BIN)/python scripts/mutation.py $(MUTATION)

lock: $(BIN)/uv  # constraints.txt, anew with the newest versions
	$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --extra dev --extra docs \
		--upgrade --no-annotate --custom-compile-command 'make lock, for Python 3.11 and newer on any system' \
		--output-file constraints.txt setup.py

lint: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/.docs: $(INSTALLED)
	$(BIN)/python -m pip install --quiet --editable '.[docs]' --constraint constraints.txt
	touch $@

docs: $(VENV)/.docs  # the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

notebooks: $(INSTALLED)  # pages of the documentation as notebooks
	$(BIN)/python docs/notebooks.py notebooks

clean:
	rm -rf $(VENV) $(VENV)-latest $(VENV)-lowest outputs build site notebooks *.egg-info
