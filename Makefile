# Each target sets up what it needs, once: a virtual environment in .venv with this package in it.
#     make demo     five concepts in 25 unlabelled images, from training to scores, in minutes and with no download
#     make test     the tests, offline
#     make test-all the slow ones, too
#     make bench    what a training step costs, and sampling and composition
#     make gpu      what needs a CUDA device, with the python3 that has one: equality with the CPU, kills, memory, times
#     make docs     docs/commands.md and docs/recipe.md, from the options and the settings
#     make dist     the wheel and the source distribution, in dist/
#     make pictures the pictures of README.md and docs/, from the built-in model's runs
#     make lint     ruff, mypy, and the contracts of who may import whom
#     make audit    known faults of what is installed, and unsafe calls in the code: needs the network

PYTHON ?= python3
VENV ?= .venv
ifeq ($(OS),Windows_NT)
BIN = $(VENV)/Scripts
EXE = .exe
else
BIN = $(VENV)/bin
EXE =
endif
PIP = $(BIN)/python -m pip --disable-pip-version-check install --quiet

# A stamp says that what pyproject.toml asks for is installed.
PACKAGE = $(VENV)/.ucd-package
TESTS = $(VENV)/.ucd-tests
LINT = $(VENV)/.ucd-lint

MODEL ?= sd21
MINUTES ?= 5

.PHONY: demo test test-all bench gpu docs dist pictures lint audit clean

demo: export UCD_RUN = runs/demo
demo: $(PACKAGE)
	$(BIN)/ucd train quickstart --output $(UCD_RUN) --force
	$(BIN)/ucd sample --concept all --num-images 16 --grid > /dev/null
	$(BIN)/ucd compose t2 t4 --num-images 4 --grid
	$(BIN)/ucd visualize --num-images 4 --grid > /dev/null
	$(BIN)/ucd evaluate --metric all
	$(BIN)/ucd report
	@echo "what was discovered, one concept per row: $(UCD_RUN)/samples/grid.png"

test: $(TESTS)
	$(BIN)/python -m pytest

test-all: $(TESTS)
	$(BIN)/python -m pytest -m ""

bench: $(TESTS)
	$(BIN)/python -m tests.bench

# Installs nothing: a machine with a GPU has its own PyTorch.
gpu:
	$(PYTHON) -m pytest -m gpu tests/gpu
	$(PYTHON) -m tests.bench.real_size $(MODEL) --device cuda --minutes $(MINUTES)

docs: $(PACKAGE)
	PYTHONPATH=. $(BIN)/python docs/generate.py

dist: $(PACKAGE)
	$(PIP) 'build>=1.2'
	$(BIN)/python -m build

pictures: $(TESTS)
	BIN=$(BIN) docs/pictures.sh

lint: $(LINT)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PYTHONPATH=. $(BIN)/lint-imports

audit: $(PACKAGE)
	$(PIP) 'bandit>=1.8' 'pip-audit>=2.7'
	$(BIN)/bandit --quiet --recursive concepts_cli
	$(BIN)/pip-audit --local --skip-editable

clean:
	rm -rf .venv dist

$(BIN)/python$(EXE):
	$(PYTHON) -m venv $(VENV)

$(PACKAGE): pyproject.toml | $(BIN)/python$(EXE)
	@echo "installing ucd into $(VENV): takes a few minutes, once"
	$(PIP) --editable .
	@touch $@

# daam's own requirements pin old releases; --no-deps takes it without them (see pyproject.toml).
$(TESTS): $(PACKAGE)
	@echo "installing what the tests need into $(VENV)"
	$(PIP) --editable '.[test]'
	$(PIP) --no-deps daam==0.2.0
	@touch $@ $(LINT)

# mypy reads the types of the libraries that the package uses, so they have to be there.
$(LINT): $(PACKAGE)
	$(PIP) 'ruff>=0.6' 'import-linter>=2.1' 'mypy>=2.0' 'types-PyYAML>=6.0'
	@touch $@
