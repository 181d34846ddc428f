# Each target makes or refreshes .venv by itself; nothing is installed again while nothing changed.
PYTHON ?= python3
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	--constraint constraints.txt --editable

# `make bench` takes minutes; `make bench BENCH=matching` any other file of benchmarks/, some hours.
BENCH ?= house bias_ratio

.PHONY: demo test check bench docs reproduced clean

demo: .venv/demo
	$(BIN)/seepage demo

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: .venv/dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: .venv/dev
	@set -e; for name in $(BENCH); do $(BIN)/python benchmarks/$$name.py; done

# The site is site/html/index.html; its pictures take a few minutes the first time.
docs: .venv/docs
	$(BIN)/python docs/build.py

# Every published result in its quick form; the table is docs/reproduced.md.
reproduced: .venv/dev
	$(BIN)/seepage reproduce --all --quick --out runs/reproduced

clean:
	rm -rf .venv runs dist site

.venv/bin/python:
	$(PYTHON) -m venv .venv

# The demo needs little; tests need every integration, and a browser (see .ci/run).
.venv/demo .venv/docs .venv/dev: pyproject.toml constraints.txt | .venv/bin/python
	$(INSTALL) ".[$(@F)]"
	touch $@
