# Two commands on a fresh machine: `make demo` and `make test`. Both make .venv first.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow check bench docs-results lock clean

demo: $(INSTALLED)
	$(BIN)/sclitmus demo --out sclitmus-demo

test: $(INSTALLED)
	$(BIN)/pytest -n 2 --dist loadfile -m "not slow"

test-slow: $(INSTALLED)
	$(BIN)/pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Scoring speed and agreement beside scib-metrics; installs it into .venv.
bench: $(INSTALLED)
	$(BIN)/pip install --quiet -r requirements-bench.lock
	$(BIN)/python benchmarks/scoring.py

$(INSTALLED): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "scLitmus needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) --version)."; \
		  echo "Name another one: make PYTHON=/path/to/python3.11 demo"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -e .
	touch $@

# Solve the dependencies of pyproject.toml anew. torch is pinned by hand: with the exact version
# pip takes a CPU wheel where one is at hand (PIP_FIND_LINKS), and the index's build elsewhere.
lock:
	rm -rf .venv-lock
	$(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 -e '.[dev]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' \
		> requirements.lock
	.venv-lock/bin/python -m pip install --quiet torch==2.13.0 -e '.[dev,bench]'
	.venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+.*/\1/' \
		> requirements-bench.lock
	rm -rf .venv-lock

clean:
	rm -rf $(VENV) sclitmus-demo .mypy_cache .ruff_cache .pytest_cache
