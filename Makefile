# Each target sets up what it needs, once: a virtual environment in .venv and this package in it.
#     make demo     five concepts in 25 unlabelled images, from training to scores: some minutes, nothing to download
#     make test     the tests, offline
#     make bench    what a step of training costs, and sampling and composition
#     make lint     ruff, mypy, and the contracts of who may import whom

PYTHON ?= python3
VENV ?= .venv
PIP = $(VENV)/bin/python -m pip --disable-pip-version-check install --quiet

# A stamp says that what pyproject.toml asks for is installed.
PACKAGE = $(VENV)/.ucd-package
TESTS = $(VENV)/.ucd-tests
LINT = $(VENV)/.ucd-lint

.PHONY: demo test bench lint clean

demo: export UCD_RUN = runs/demo
demo: $(PACKAGE)
	$(VENV)/bin/ucd train quickstart --output $(UCD_RUN) --force
	$(VENV)/bin/ucd sample --concept all --num-images 16 --grid > /dev/null
	$(VENV)/bin/ucd compose t1 t3 --num-images 4
	$(VENV)/bin/ucd visualize --concept t1 --num-images 4
	$(VENV)/bin/ucd evaluate --metric all
	$(VENV)/bin/ucd report
	@echo "what was discovered, a concept a row: $(UCD_RUN)/samples/grid.png"

test: $(TESTS)
	$(VENV)/bin/python -m pytest

bench: $(TESTS)
	$(VENV)/bin/python -m tests.bench

lint: $(LINT)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	PYTHONPATH=. $(VENV)/bin/lint-imports

clean:
	rm -rf .venv dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(PACKAGE): pyproject.toml | $(VENV)/bin/python
	@echo "installing ucd into $(VENV): some minutes, once"
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
