# `make` alone lists the targets. Everything happens in .venv, which is made on first use.
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
PEERS_INSTALLED := $(VENV)/.peers-installed
PAGE_CHECKS := scripts/javascript
PAGE_CHECKS_INSTALLED := $(PAGE_CHECKS)/node_modules/.installed

.PHONY: help
help:  ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort | while IFS="	" read -r t d; do printf '  make %-14s %s\n' "$$t" "$$d"; done

# Says at once, before anything is installed, what is missing.
define require-python
command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is not on PATH. Say which Python to use: make PYTHON=python3.12 ..."; exit 1; }; \
$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
  || { echo "umbel needs Python 3.11 or newer, $(PYTHON) is older. Say which to use: make PYTHON=python3.12 ..."; exit 1; }; \
$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null \
  || { echo "$(PYTHON) cannot make virtual environments: install its venv package (Debian: $(notdir $(PYTHON))-venv)."; exit 1; }
endef

$(INSTALLED): pyproject.toml
	@$(call require-python)
	@echo "Installing umbel and everything for development into $(VENV) (one to three minutes, the first time) ..."
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@ $(VENV)/.umbel-installed

# Only what running needs: a fifth of what development needs.
$(VENV)/.umbel-installed: pyproject.toml
	@$(call require-python)
	@echo "Installing umbel into $(VENV) (half a minute, the first time) ..."
	$(PYTHON) -m venv $(CLEAR) $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

# Asked for a Python, with a .venv of another one: the .venv is made again.
ifneq ($(origin PYTHON),file)
ifneq ($(shell { $(PYTHON) -V; } 2>/dev/null),$(shell { $(BIN)/python -V; } 2>/dev/null))
CLEAR := --clear
$(INSTALLED) $(VENV)/.umbel-installed: FORCE
endif
endif
FORCE:

.PHONY: install
install: $(INSTALLED)  ## Make .venv and install umbel with everything for development

.PHONY: demo
demo: $(VENV)/.umbel-installed  ## Audit the standard library's sources (or TREE=folder) on an embedded Redis and worker
	$(BIN)/umbel run --pool prefork examples/code_audit.py $(addprefix path=,$(TREE))

# The tests start hundreds of processes. Where the environment forbids byte code, each of them would compile umbel anew.
test smoke chaos: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: check  ## Everything that must pass: check, then all tests on a real Redis and real workers
	$(BIN)/pytest --numprocesses 4 --dist loadfile

.PHONY: smoke
smoke: $(INSTALLED)  ## Install, demo and a few tests on every other Python of this machine that umbel supports
	$(BIN)/python scripts/smoke.py

.PHONY: check
check: $(INSTALLED) check-page  ## Formatting, lint, types, import contracts of all languages (half a minute)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/python scripts/typecheck.py
	$(BIN)/lint-imports importlinter.toml
	$(BIN)/python scripts/lint_lua.py

# The page itself has no build step: Node is needed for its checks only, and only where there is Node are they made.
.PHONY: check-page
check-page:  ## Formatting, lint, types of the console page's JavaScript (needs npm)
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(PAGE_CHECKS_INSTALLED) \
	  && npm --prefix $(PAGE_CHECKS) run --silent check && echo "JavaScript: no problems"; \
	else echo "WARNING: the page's JavaScript is NOT checked: npm is missing. Install Node.js 20.19 or newer."; fi

$(PAGE_CHECKS_INSTALLED): $(PAGE_CHECKS)/package.json $(PAGE_CHECKS)/package-lock.json
	npm --prefix $(PAGE_CHECKS) ci --ignore-scripts
	@touch $@

.PHONY: docs
docs: $(INSTALLED)  ## Build the documentation as a site in build/site; every warning is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --config-file scripts/site/mkdocs.yml
	@echo "Open build/site/index.html"

.PHONY: format
format: $(INSTALLED)  ## Format, and fix what can be fixed automatically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory $(PAGE_CHECKS_INSTALLED) \
	  && npm --prefix $(PAGE_CHECKS) run --silent format; fi

.PHONY: bench
bench: $(PEERS_INSTALLED)  ## Measure beside Celery and other peers (three quarters of an hour; BENCH=--quick: a minute; BENCH=--write)
	$(BIN)/python -m benchmarks.run $(BENCH)

$(PEERS_INSTALLED): $(INSTALLED)
	$(BIN)/python -m benchmarks.install_peers
	@touch $@

.PHONY: waiting
waiting: $(INSTALLED)  ## 10,000 runs wait for a human, everything is killed, all are answered
	$(BIN)/python -m benchmarks.waiting

.PHONY: sessions
sessions: $(INSTALLED)  ## 1,000 sessions of 20 runs, 50 callers, workers killed: no answer may go astray
	$(BIN)/python -m benchmarks.sessions --kill-seconds 12

# One seed replays what failed: make chaos SEED=2, make soak SEED=815 MINUTES=3
comma := ,
.PHONY: chaos
chaos: $(INSTALLED)  ## Every fault with three seeds, every failpoint, every guard taken out (under 20 minutes; SEED=…)
	$(BIN)/pytest tests/chaos --chaos-full --chaos-seeds=$(or $(SEED),1$(comma)2$(comma)3) \
	  --numprocesses 2 --dist worksteal; matrix=$$?; MODEL_SCRIPTS=20000 $(BIN)/pytest tests/model --numprocesses 2 \
	  && $(BIN)/python tests/chaos/mutations.py && exit $$matrix

.PHONY: soak
soak: $(INSTALLED)  ## Random faults over thousands of mixed runs (MINUTES=15, SEED=…)
	PYTHONPATH=tests $(BIN)/python tests/chaos/soak.py --minutes $(or $(MINUTES),15) $(addprefix --seed ,$(SEED))

.PHONY: clean
clean:  ## Remove .venv and caches
	rm -rf $(VENV) $(PAGE_CHECKS)/node_modules *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
