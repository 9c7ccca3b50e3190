# What can be done here: `make help`. Everything runs in .venv, which `make setup` builds from the pins.

PYTHON ?= python3
PIP_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
SOAKS := benchmarks/fuzz.py benchmarks/hour.py benchmarks/soak.py $(wildcard benchmarks/year*.py)
SCALE := benchmarks/scale.py
SPEED := $(addprefix benchmarks/, $(addsuffix .py, ar bench feeding fresh growth memory one_price record results \
	startup step stream stream_load train walkforward windows))
QUALITY := $(filter-out $(SOAKS) $(SCALE) $(SPEED), $(sort $(wildcard benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint contracts types check bench bench-quality soak soak-year scale clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## build .venv from the pins; PYTHON=python3.12 chooses the interpreter, PIP_ARGS goes to pip

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo "statecast needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
		echo "Name another one: make setup PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv .venv
	# torch first, in the build (CPU or CUDA) that pip's own settings give on this machine
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt torch
	$(BIN)/python -m pip install $(PIP_ARGS) -c constraints.txt -e '.[dev,scale,servers,vendors]'
	@touch $@

demo: $(STAMP) ## from bundled prices to a served champion and its forecasts
	$(BIN)/statecast demo

test: $(STAMP) ## run the tests, file by file in two processes
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

lint: $(STAMP) ## check format and lint
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

contracts: $(STAMP) ## check who imports whom
	$(BIN)/lint-imports

types: $(STAMP) ## check types
	$(BIN)/pyright

check: lint contracts types test ## everything that CI checks, the cheapest first

bench: $(STAMP) ## run the benchmarks of speed in some minutes, and name what moved against the record
	$(BIN)/python benchmarks/bench.py

bench-quality: $(STAMP) ## run the benchmarks of forecasts, checks and files in turn, which takes hours
	@set -e; for script in $(QUALITY); do echo "== $$script"; $(BIN)/python $$script; done

soak: $(STAMP) ## break the stream in every way for two hours, and say what came of it
	$(BIN)/python benchmarks/soak.py --kills 1000 --minutes 60
	$(BIN)/python benchmarks/hour.py --minutes 60
	$(BIN)/python benchmarks/fuzz.py

scale: $(STAMP) ## retrain ten thousand series on one worker and on two, which takes the better part of an hour
	$(BIN)/python $(SCALE)

YEAR_ARGS ?=

soak-year: $(STAMP) ## a simulated year of retrains, swaps and failures; YEAR_ARGS='--power FILE --stocks FILE' names prices
	$(BIN)/python benchmarks/year.py $(YEAR_ARGS)

clean: ## remove the environment and all caches; data folders stay
	rm -rf .venv build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find models pipeline flows tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
