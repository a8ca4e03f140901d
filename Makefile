# hftctl: the two commands are `make up` (brings up the trading floor) and `make test` (passes the tests).
# Everything is installed into .venv, pinned and hashed. `make up` installs what a floor needs to run; the targets
# that lint, type-check and test install the rest when they are first used.

PYTHON ?= $(shell for p in python3.11 python3.12 python3.13 python3; do command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && { echo $$p; break; }; done)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEV := $(VENV)/.installed-dev
PROVISION := $(VENV)/.installed-provision
# One at a time: two of them in one environment at once, as under make -j, would break each other.
PIP := flock $(VENV)/.pip-lock $(BIN)/python -m pip install --quiet --disable-pip-version-check
ARGS ?=

.PHONY: help install dev provision up down status test test-full check lint types imports unit contract fuzz integration fault story soak on-consul store-table bench lock clean etcd consul servers promtool

help:            ## list the targets
	@grep -hE '^[a-z-]+: .*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

install: $(STAMP)            ## install what a floor needs to run into .venv, pinned and hashed

dev: $(DEV)            ## install what checks the code as well: lint, types, import contracts, tests

provision: $(PROVISION)            ## install what prepares hosts as well: Ansible and testinfra

$(STAMP): requirements.lock pyproject.toml hftd/native/market.c
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is missing: apt-get install python3 python3-venv (Ubuntu 22.04: apt-get install python3.11 python3.11-venv)"; exit 2; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "the venv module of $(PYTHON) is missing: apt-get install python3-venv (Ubuntu 22.04: python3.11-venv)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements.lock
	@rm -f hftd/native/*.so  # an old build must not survive a failed one
	$(PIP) --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'import hftd.native._market' 2>/dev/null || echo "no C compiler: the Python decoder is used; apt-get install gcc python3-dev builds the native one"
	@touch $(STAMP)

# Each of these locks has the runtime's pins in it too, so pip finds those installed and adds what is missing.
$(DEV): requirements-dev.lock $(STAMP)
	$(PIP) --require-hashes -r requirements-dev.lock
	@touch $(DEV)

$(PROVISION): requirements-provision.lock $(STAMP)
	$(PIP) --require-hashes -r requirements-provision.lock
	@touch $(PROVISION)

up: install            ## bring up the floor: make up ARGS="--tape DIR --detach"; on Consul: make consul up STORE=consul
	@exec $(BIN)/hftctl up $(if $(STORE),--store $(STORE)) $(ARGS)

down: install            ## take the floor down
	@exec $(BIN)/hftctl down $(ARGS)

status: install            ## show what runs where, and whether it is healthy
	@exec $(BIN)/hftctl status $(ARGS)

test: check contract fuzz integration fault on-consul            ## run all tests, fast ones first

check: lint types imports unit story            ## run format, lint, types, import contracts, unit tests and the story: under two minutes

lint: dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: dev
	$(BIN)/mypy

imports: dev
	$(BIN)/lint-imports --no-cache

unit: dev
	$(BIN)/pytest -q -n auto --dist worksteal tests/unit

etcd: dev            ## get an etcd that keeps data safely, for the tests (cached outside the tree)
	@$(BIN)/python -m tests.support.servers etcd

servers: etcd consul            ## get the other versions of both that the contract runs on; what cannot be had is said, and skipped there by name
	@for version in 3.6.16 3.4.23; do $(BIN)/python -m tests.support.servers etcd --version $$version || true; done
	@$(BIN)/python -m tests.support.consul_servers 1.15.4 || true

contract: servers

consul: dev            ## get a Consul, for the tests and for `up` (HFT_CONSUL, PATH, or built once by Go; cached)
	@$(BIN)/python -m tests.support.consul_servers

promtool: dev            ## get promtool out of Debian's package, for the tests (cached outside the tree)
	@$(BIN)/python -m tests.support.promtool

integration: provision promtool

fuzz: dev            ## feed every decoder with bytes that are almost right, for some two minutes
	$(BIN)/pytest -q tests/fuzz

contract integration fault: consul

contract integration fault story: dev etcd
	HFT_ETCD=$$($(BIN)/python -m tests.support.servers etcd) $(BIN)/pytest -q tests/$@

on-consul: dev consul            ## the story and the faults of stores and leadership, on a floor with Consul
	HFT_TEST_STORE=consul HFT_CONSUL=$$($(BIN)/python -m tests.support.consul_servers) $(BIN)/pytest -q tests/story tests/fault/test_stale_tokens.py tests/fault/test_lost_run_folder.py

# Each suite's results are kept, with the store that each test ran on, for the table in docs.
RESULTS := build/store-results.json
RECORDED := HFT_STORE_RESULTS=$(CURDIR)/$(RESULTS) $(BIN)/pytest -q -p tests.support.store_results

test-full: check fuzz provision promtool servers            ## everything, with every floor on both stores, and the table of it (some two hours)
	rm -f $(RESULTS)
	HFT_ETCD=$$($(BIN)/python -m tests.support.servers etcd) $(RECORDED) tests/contract tests/story tests/integration tests/fault
	HFT_TEST_STORE=consul HFT_CONSUL=$$($(BIN)/python -m tests.support.consul_servers) $(RECORDED) tests/story tests/integration tests/fault
	$(MAKE) store-table

store-table: dev            ## write docs/tests-by-store.md from the results that test-full kept
	$(BIN)/python -m tests.support.store_table $(RESULTS) docs/tests-by-store.md

soak: dev etcd            ## ten minutes of random kills, freezes and rubbish on a floor (HFT_SOAK_S, HFT_SOAK_SEED)
	HFT_SOAK_S=$${HFT_SOAK_S:-600} HFT_SOAK_SEED=$${HFT_SOAK_SEED:-$$(date +%N | sed "s/^0*//")} HFT_ETCD=$$($(BIN)/python -m tests.support.servers etcd) $(BIN)/pytest -q -s tests/fault/test_random_floor.py

bench: dev            ## measure: each figure beside its baseline from the same run
	@for each in benchmarks/[a-z]*.py; do echo "== $$each"; $(BIN)/python $$each || exit 1; done

UV_COMPILE := uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url pyproject.toml --extra build

lock:            ## pin the dependencies again (needs uv): the runtime first, the others keep its pins
	$(UV_COMPILE) -o requirements.lock
	$(UV_COMPILE) --extra dev -c requirements.lock -o requirements-dev.lock
	$(UV_COMPILE) --extra provision -c requirements.lock -o requirements-provision.lock

clean:
	rm -rf $(VENV) build *.egg-info hftd/native/*.so .mypy_cache .ruff_cache .pytest_cache .hypothesis
