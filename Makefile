# Every command a contributor needs. `make` alone lists them; nothing has to be activated by hand.
# Kept to GNU make 3.81, the one macOS ships.

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.scribewire-setup

# The first Python on the PATH that constraints.txt has wheels for; `make setup PYTHON=...` chooses another.
# On a Mac one built for Intel runs under Rosetta, where MLX does not.
FITS := import platform, sys; sys.exit(not ((3, 11) <= sys.version_info < (3, 15) \
	and (platform.system(), platform.machine()) != ("Darwin", "x86_64")))
PYTHON ?= $(shell for candidate in python3 python3.14 python3.13 python3.12 python3.11; do \
	"$$candidate" -c '$(FITS)' >/dev/null 2>&1 && { echo "$$candidate"; break; }; done)

HOST ?= 127.0.0.1
PORT ?= 8765
MODEL ?= demo
# Processes that run tests; JOBS=0 runs them all in one, which --pdb and -s need.
JOBS ?= 2
NEEDS_MORE := torch or slow or gpu or network or weights or cjk

.PHONY: help
help: ## List what can be made
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' Makefile

.PHONY: setup
setup: $(STAMP) ## Make .venv with the locked dependencies and this project in it

$(STAMP): constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { \
		echo "scribewire needs Python 3.11 to 3.14 (on a Mac one for Apple silicon), and no python3 on the PATH is one of these."; \
		echo "Install one, or name it: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c '$(FITS)' || { \
		echo "scribewire needs Python 3.11 to 3.14 (on a Mac one for Apple silicon); $(PYTHON) is `"$(PYTHON)" --version 2>&1`."; \
		echo "Name another: make setup PYTHON=/path/to/python3.12"; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' || { \
		echo "$(PYTHON) has no venv module; on Debian and Ubuntu: apt-get install python3-venv"; exit 1; }
	@echo "Making $(VENV) with `"$(PYTHON)" --version 2>&1`."
	@"$(PYTHON)" -m venv $(VENV)
	@echo "Installing `grep -c == constraints.txt` locked packages in it; a minute or two, by the network, and pip is quiet meanwhile."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--require-hashes --only-binary :all: -r constraints.txt
	@echo "Installing this project, as it lies here."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--no-deps --no-build-isolation --no-index --editable .
	@touch $(STAMP)
	@echo "Done. Is this machine fit? $(BIN)/scribewire doctor. A server with the demo model: make run"

.PHONY: run
run: setup ## Serve the bundled demo model on 127.0.0.1:8765 (HOST, PORT and MODEL change that)
	$(BIN)/scribewire serve --model "$(MODEL)" --host "$(HOST)" --port "$(PORT)"

.PHONY: test
test: setup ## Run the tests: no network, no downloaded weights, no GPU (TESTS=... picks some, JOBS=0 in one process)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --max-worker-restart 0 $(TESTS)

.PHONY: test-tools
test-tools: setup ## Run the tests of tools/: recipe, benchmarks, evaluation, hostile and torture in short (3 minutes)
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --max-worker-restart 0 \
		-m "tools and not ($(NEEDS_MORE))" $(or $(TESTS),tests/tools)

.PHONY: test-all
test-all: setup ## Run both: everything that needs no network, downloaded weights or GPU
	$(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile --max-worker-restart 0 \
		-m "not ($(NEEDS_MORE))" $(TESTS)

.PHONY: test-like-mac
test-like-mac: setup ## Run the tests of the HTTP API in a Linux Python that lacks what macOS lacks (TESTS=... picks others)
	PYTHONPATH=tests/fakes/like_macos:. $(BIN)/python -m pytest --numprocesses $(JOBS) --dist loadfile \
		--max-worker-restart 0 -m "not tools and not mac and not ($(NEEDS_MORE))" $(or $(TESTS),tests/http)

.PHONY: lint
lint: setup ## Check style and formatting with ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: format
format: setup ## Sort imports and format every file
	$(BIN)/ruff check --select I --fix .
	$(BIN)/ruff format .

.PHONY: types
types: setup ## Check the types with mypy --strict, as on Linux and as on macOS
	$(BIN)/mypy --platform linux
	$(BIN)/mypy --platform darwin

.PHONY: bench
bench: setup ## Measure speed and memory; JSON with machine and versions, never a timed test
	$(BIN)/python -m tools.bench.run_bench

.PHONY: mac-check
mac-check: setup ## On a Mac: the tests that need one, then a quarter of an hour of measurements, as a page to post
	$(BIN)/python -m tools.bench.on_mac $(MAC_CHECK_FLAGS)

.PHONY: eval
eval: setup ## Measure the demo model's error rates and the demo aligner's times on held-out synthetic speech
	$(BIN)/python -m tools.eval.evaluate_demo
	$(BIN)/python -m tools.eval.evaluate_aligner

.PHONY: parity
parity: setup ## Plant porting bugs one at a time and see that the parity tests catch each
	$(BIN)/python tools/planted_bugs/plant_bugs.py

.PHONY: hostile
hostile: setup ## Run the whole hostile-input suite: 20,000 mutants, bombs, slow and leaving clients (about 15 minutes)
	$(BIN)/python -m tools.hostile.run_hostile $(HOSTILE_FLAGS)

.PHONY: torture
torture: setup ## Break everything: kills, hangs, full disks, jumping clocks, 40 minutes of load (90 minutes; TORTURE_FLAGS=--quick)
	$(BIN)/python -m tools.torture.run_torture $(TORTURE_FLAGS)

.PHONY: compat
compat: setup ## Run real clients and Schemathesis against a live server (CLIENTS=a,b picks some; asks the registries)
	$(BIN)/python -m tools.compat.run_compat --clients "$(CLIENTS)"
	@test -n "$(CLIENTS)" || $(BIN)/python -m tools.compat.schemathesis_run

.PHONY: demo-model
demo-model: setup ## Train the bundled demo model and aligner anew (needs torch and one GPU; see the model card)
	$(BIN)/python -m tools.demo_model
	$(BIN)/python -m tools.demo_model.alignment

.PHONY: wheel
wheel: setup ## Build the wheel into dist/ and check what is in it
	$(BIN)/python tools/release/check_wheel.py --out dist

.PHONY: container-replay
container-replay: setup ## Follow Dockerfile.dev step by step in a temporary folder, with no Docker engine
	$(BIN)/python tools/release/replay.py $(REPLAY_FLAGS)

.PHONY: lock
lock: setup ## Resolve the dependencies anew into constraints.txt, with hashes (asks the package index)
	$(BIN)/python tools/release/lock.py

.PHONY: clean
clean: ## Remove .venv, caches and build output
	rm -rf $(VENV) dist build .pytest_cache .mypy_cache .ruff_cache
