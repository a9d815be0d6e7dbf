# Each target sets up what it needs by itself; `make help` lists them.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
export PATH := $(PATH):/usr/local/sbin:/usr/sbin:/sbin

BIN := .venv/bin
READY := .venv/.ready
TESTS ?= tests
KEEP ?=
OPTIONS ?=
NAME ?=
SEED ?=
SEEDS ?=
FIRST ?=
A ?=
B ?=
UPGRADE ?=

# Programs that tests start, each with the Debian packages it comes from; a benchmark compares with more.
TOOLS := ip:iproute2 ping:iputils-ping sysctl:procps faketime:faketime pg_ctlcluster:postgresql haproxy:haproxy iperf3:iperf3 cc:gcc+libc6-dev nft:nftables dig:bind9-dnsutils curl:curl dbus-daemon:dbus-daemon pkcheck:polkitd setfacl:acl \
  ssh:openssh-client sshd:openssh-server mbpoll:mbpoll mosquitto:mosquitto mosquitto_sub:mosquitto-clients
PEERS := stunnel:stunnel4 nebula:nebula wireguard-go:wireguard-go wg:wireguard-tools openvpn:openvpn
bench: TOOLS := ip:iproute2 haproxy:haproxy iperf3:iperf3 cc:gcc+libc6-dev $(PEERS)

# Defines install(), which gets Debian packages when we are root and otherwise says what to do.
define INSTALL
install() {
  local why="$$1"; shift
  if [ "$$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
    echo "installing Debian packages: $$*"
    local said
    said=$$(apt-get update -q 2>&1 && \
      DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$$@" 2>&1) \
      || { echo "$$said" >&2; return 1; }
  else
    echo "$$why: as root, run apt-get install $$* (or what your system calls them)." >&2
    return 1
  fi
}
endef

# Defines find_python(), which prints the first interpreter that is new enough and can make a venv.
define FIND_PYTHON
find_python() {
  local name
  for name in python3 python3.14 python3.13 python3.12 python3.11; do
    if "$$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$$name"; return 0
    fi
  done
  return 1
}
endef

export INSTALL FIND_PYTHON

.PHONY: help
help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /  make \1\t/p' $(MAKEFILE_LIST) | expand -t 24

.PHONY: venv
venv: $(READY) ## make .venv with every command and development tool

$(READY): requirements/dev.lock pyproject.toml
	@eval "$$INSTALL"; eval "$$FIND_PYTHON"
	python=$$(find_python) || {
	  install "Python 3.11 or newer with its venv module is needed" python3 python3-venv
	  python=$$(find_python) || { echo "Python 3.11 or newer is needed: $$(python3 --version) is too old." >&2; exit 1; }
	}
	if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then "$$python" -m venv --clear .venv; fi
	echo "installing the locked packages into .venv"
	$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements/dev.lock
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

.PHONY: tools
tools:
	@eval "$$INSTALL"; packages=()
	for pair in $(TOOLS); do
	  list="$${pair##*:}"
	  command -v "$${pair%%:*}" >/dev/null || packages+=($${list//+/ })
	done
	why="What needs these programs will be left out or fail"
	if [ "$${#packages[@]}" -gt 0 ] && ! install "$$why" "$${packages[@]}" && [ "$$(id -u)" -eq 0 ]; then
	  for package in "$${packages[@]}"; do install "$$why" "$$package" || true; done  # one unknown name stops no other
	fi

.PHONY: demo
demo: $(READY) ## watch a poll being denied, allowed and cut off; KEEP=1 leaves it running
	@KEEP=$(KEEP) $(BIN)/python -m deploy.demo.first_poll

.PHONY: demo-plant
demo-plant: TOOLS := ip:iproute2 sysctl:procps ping:iputils-ping
demo-plant: $(READY) tools ## watch an HMI read a PLC of another plant with the same addresses (root); KEEP=1 as above
	@KEEP=$(KEEP) $(BIN)/python -m deploy.demo.two_plants

.PHONY: test
test: $(READY) tools ## run all tests; TESTS=tests/unit/wire runs some
	@none=5  # what pytest returns when it was given no test: allowed only when TESTS chose some
	[ "$(TESTS)" != tests ] || none=0
	$(BIN)/python -bb -m pytest -n auto --durations=10 -m "not system" $(TESTS) || [ "$$?" -eq "$$none" ]
	$(BIN)/python -bb -m pytest -n 2 --dist loadscope --no-loadscope-reorder --durations=20 -m system $(TESTS) || [ "$$?" -eq "$$none" ]

.PHONY: check
check: $(READY) ## format, lint, types, import contracts, documents
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m tests.support.docs --check

.PHONY: bench
bench: $(READY) tools ## measure Ferrule next to its peers (root); OPTIONS="--profile short" and others
	$(BIN)/python -m bench $(OPTIONS)

.PHONY: bench-compare
bench-compare: $(READY) ## which differences of two results are noise: A=before.json B=after.json
	@[ -n "$(A)" ] && [ -n "$(B)" ] || { echo "say which: make bench-compare A=before.json B=after.json" >&2; exit 2; }
	$(BIN)/python -m bench compare "$(A)" "$(B)" $(OPTIONS)

.PHONY: soak
soak: $(READY) ## 100,000 circuits through three nodes in one process: does anything leak? COUNT=20000 for fewer
	$(BIN)/python -m tests.support.soak $(or $(COUNT),100000)

.PHONY: simulate
simulate: $(READY) ## whole plants under seeded faults: SEEDS=5000 FIRST=1000 runs so many from there on, SEED=7 replays one with its trace; OPTIONS="--brief --jobs 2"
	$(BIN)/python -m tests.simulation $(if $(SEED),--seed $(SEED),--seeds $(or $(SEEDS),1000) --first $(or $(FIRST),0)) $(OPTIONS)

.PHONY: growth
growth: $(READY) ## how traffic, work and memory grow with edges and routers, as tables (5 to 10 minutes of CPU); OPTIONS="--edges 10 100" for other sizes
	$(BIN)/python -m tests.simulation.growth $(OPTIONS)

.PHONY: model
model: $(READY) ## search all that can happen to a circuit, in larger numbers than the tests (10 to 15 minutes of CPU); NAME="two paths" for some
	$(BIN)/python -m tests.model $(NAME)

.PHONY: lock
lock: ## resolve the locked requirements again; UPGRADE=1 takes newer versions
	@eval "$$FIND_PYTHON"; python=$$(find_python); dir=$$(mktemp -d); trap 'rm -rf "$$dir"' EXIT
	"$$python" -m venv "$$dir/venv"
	"$$dir/venv/bin/python" -m pip install -q --disable-pip-version-check 'uv>=0.13.9,<0.14'
	compile() {
	  local output="$$1"; shift
	  "$$dir/venv/bin/uv" pip compile pyproject.toml --quiet $(if $(UPGRADE),--upgrade) --universal \
	    --python-version 3.11 --generate-hashes --no-header --no-emit-index-url --no-annotate \
	    --output-file "requirements/$$output.lock" "$$@"
	  echo "requirements/$$output.lock: $$(grep -c '^[a-z].*==' "requirements/$$output.lock") packages"
	}
	compile dev --all-extras --group dev
	compile router --constraint requirements/dev.lock --extra router
	compile edge --constraint requirements/dev.lock --extra edge
	compile controller --constraint requirements/dev.lock --extra controller --extra cli

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf .venv build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

.ONESHELL:
