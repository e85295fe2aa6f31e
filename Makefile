# Everything a newcomer needs: `make run`, then `make test`. Each target sets up .venv from requirements.lock by itself.

PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

.PHONY: setup run test lint bench lock sbom clean

setup: $(READY)

# The environment is done when this file is there; what it is made from makes it again, and nothing else does.
$(READY): requirements.lock pyproject.toml $(wildcard model/*.c model/*.h)
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --requirement requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)

run: setup
	@$(BIN)/brickroad run

test: setup
	$(BIN)/python -m pytest

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive flows tasks model storage 2> .venv/bandit.log || { cat .venv/bandit.log; exit 1; }
	$(BIN)/python .ci/audit.py requirements.lock

bench: setup
	$(BIN)/python -m bench.dataset

# Exact versions for Python 3.11 to 3.13 on every platform, from the bounds in pyproject.toml. CUDA itself is left
# out: torch pins each of them exactly itself, and its CPU build needs none.
lock: setup
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip compile pyproject.toml --group dev --universal --upgrade --no-header --no-annotate --quiet --output-file .venv/lock
	grep -v -E '^(nvidia-[cn]|cuda-|triton)' .venv/lock > requirements.lock

# What the lock pins, as a CycloneDX bill of materials: sbom.json.
sbom: setup
	$(BIN)/python -m venv .venv/sbom
	.venv/sbom/bin/pip install --quiet --disable-pip-version-check 'cyclonedx-bom>=7,<8'
	.venv/sbom/bin/cyclonedx-py requirements requirements.lock --output-reproducible --output-file sbom.json

clean:
	rm -rf .venv build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
