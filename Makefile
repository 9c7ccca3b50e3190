# What can be done here: `make help`. Everything runs in .venv, which `make setup` builds from the pins.

PYTHON ?= python3
PIP_ARGS ?=

BIN := .venv/bin
STAMP := .venv/.installed
SOAKS := benchmarks/fuzz.py benchmarks/hour.py benchmarks/soak.py $(wildcard benchmarks/year*.py)
SCALE := benchmarks/scale.py
SPEED := $(addprefix benchmarks/, $(addsuffix .py, ar bench feeding fresh growth growth_figure memory one_price record results \
	startup step stream stream_load train walkforward windows))
QUALITY := $(filter-out $(SOAKS) $(SCALE) $(SPEED), $(sort $(wildcard benchmarks/*.py)))

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint contracts types check bench bench-peers bench-quality soak soak-year scale clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(STAMP) ## build .venv from the pins; PYTHON=python3.12 chooses the interpreter, PIP_ARGS goes to pip

define supported
@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
	echo "statecast needs Python 3.11, 3.12 or 3.13, but $(PYTHON) is: $$($(PYTHON) --version 2>&1)."; \
	echo "Name another one: make setup PYTHON=python3.12"; exit 1; }
endef

$(STAMP): pyproject.toml constraints.txt
	$(supported)
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

PEERS ?= darts neuralforecast
PEERS_JSON ?= build/peers.jsonl

bench-peers: $(PEERS:%=.venv-peers/%/.installed) ## measure beside other libraries, in an environment each; PEERS names them
	@mkdir -p $(dir $(PEERS_JSON))
	@set -e; for peer in $(PEERS); do echo "== $$peer"; \
		PYTHONPATH=.:benchmarks OMP_NUM_THREADS=1 \
		.venv-peers/$$peer/bin/python benchmarks/peers/compare.py $$peer --json $(PEERS_JSON); done

.venv-peers/%/.installed: benchmarks/peers/%.txt benchmarks/peers/ours.txt constraints.txt
	$(supported)
	@echo "$*: building its environment in .venv-peers/$*, which takes some minutes"
	@rm -rf .venv-peers/$*
	@$(PYTHON) -m venv .venv-peers/$*
	# what a peer pins itself, it takes in place of our pin; not all go with all that statecast needs, hence ours.txt
	@awk -F == 'NR == FNR { theirs[$$1]; next } !($$1 in theirs)' $< constraints.txt > $(@D)/constraints.txt
	@.venv-peers/$*/bin/python -m pip install --no-compile $(PIP_ARGS) -c $(@D)/constraints.txt torch \
		&& .venv-peers/$*/bin/python -m pip install --no-compile $(PIP_ARGS) -c $(@D)/constraints.txt -r benchmarks/peers/ours.txt -r $< || { \
		echo "The environment of $* could not be built; what pip said is above. $< has its pins."; \
		echo "To measure without it, name the others: make bench-peers PEERS='...'"; exit 1; }
	@touch $@

soak: $(STAMP) ## break the stream in every way for two hours, and say what came of it
	$(BIN)/python benchmarks/soak.py --kills 1000 --minutes 60
	$(BIN)/python benchmarks/hour.py --minutes 60
	$(BIN)/python benchmarks/fuzz.py

scale: $(STAMP) ## retrain ten thousand series on one worker and on two, twice, which takes half an hour
	$(BIN)/python $(SCALE)

YEAR_ARGS ?=

soak-year: $(STAMP) ## a simulated year of retrains, swaps and failures; YEAR_ARGS='--power FILE --stocks FILE' names prices
	$(BIN)/python benchmarks/year.py $(YEAR_ARGS)

clean: ## remove the environment and all caches; data folders stay
	rm -rf .venv .venv-peers build dist *.egg-info .pytest_cache .hypothesis .ruff_cache .import_linter_cache
	find models pipeline flows tests benchmarks -name __pycache__ -prune -exec rm -rf {} +
