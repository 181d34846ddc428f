# Each target makes or refreshes .venv by itself; nothing is installed again while nothing changed.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: demo test check bench docs clean

demo: $(READY)
	$(BIN)/seepage demo

test: check
	$(BIN)/python -m pytest -n 2 --dist worksteal

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	@set -e; for file in benchmarks/*.py; do $(BIN)/python $$file; done

docs: $(READY)
	$(BIN)/seepage reproduce --all --quick --out docs/reproduced

clean:
	rm -rf .venv runs dist

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable ".[dev]"
	touch $(READY)
