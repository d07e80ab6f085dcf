# Every target makes .venv first when it is missing.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/.installed
# Tests use one thread each; a file stays in one process, whose fixtures it shares.
TEST_PROCESSES ?= 2
PYTEST := $(BIN)/python -m pytest -q --numprocesses $(TEST_PROCESSES) --dist loadfile

.PHONY: install demo test test-slow check format bench clean

install: $(STAMP)

$(STAMP): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --editable '.[dev,lite]'
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python examples/demo.py

test: $(STAMP)
	$(PYTEST) --durations=5

test-slow: $(STAMP)
	$(PYTEST) -m slow

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright
	$(BIN)/python -m pytest -q tests/test_architecture.py

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)
	$(BIN)/python benchmarks/all.py

clean:
	rm -rf .venv .pytest_cache .ruff_cache
