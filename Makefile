# `make demo` and `make test` set up what they need in .venv; both start from Python 3.11 and make.

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check --quiet

.PHONY: demo test quick check docs clean

# One core computes and one reads clips: nets this small are slower on several threads.
demo: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(BIN)/nasvid run recipes/sned_pixel.yaml --scale cpu --out runs/demo

test: $(VENV)/.installed-dev debian check
	$(BIN)/python -m pytest -n 3 --dist worksteal

# All checks, and the tests that are not marked slow.
quick: check
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow"

check: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright
	$(BIN)/lint-imports

docs: $(VENV)/.installed-dev
	$(BIN)/python tools/recipe_reference.py
	$(BIN)/python tools/floors.py

$(VENV)/.created: constraints.txt
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed pyproject.toml
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@

# The report's tests open it in Chromium; torch.compile needs a C++ compiler.
.PHONY: debian
debian:
	@command -v chromium >/dev/null || { apt-get update -qq && apt-get install -y -qq chromium; }
	@command -v g++ >/dev/null || { apt-get update -qq && apt-get install -y -qq g++; }

clean:
	rm -rf $(VENV) runs .pytest_cache .ruff_cache .hypothesis .import_linter_cache
