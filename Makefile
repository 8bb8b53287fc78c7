# `make demo` and `make test` set everything up by themselves, on any machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
# The demo's and the tests' own home: yours is never touched.
DEMO := $(CURDIR)/.demo
STANDIN = HOME=$(DEMO) $(RUN) -m tests.standin $(STANDIN_OPTIONS) --

.PHONY: demo test lint check bench clean
.DEFAULT_GOAL := demo

demo: $(DEMO)/.local/bin/hermes
ifdef Q
	@$(STANDIN) sh -c '$(RUN) setup_hermes.py && exec "$$HOME/.local/bin/hermes" chat -Q -q "$$1"' sh "$$QUESTION"
else
	@$(STANDIN) sh -c '$(RUN) setup_hermes.py && exec "$$HOME/.local/bin/hermes" chat'
endif
demo: export QUESTION = $(Q)

test: lint $(DEMO)/.local/bin/hermes
	NO_SKIPS=1 $(RUN) -m pytest

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

# On your workspace when DATABRICKS_HOST or a profile is there, else (or with STANDIN_OPTIONS) on the stand-in.
WITHOUT_WORKSPACE = [ -n '$(STANDIN_OPTIONS)' ] || \
	{ [ -z "$$DATABRICKS_HOST$$DATABRICKS_CONFIG_PROFILE" ] && [ ! -f "$$HOME/.databrickscfg" ]; }
check: .venv/ready
	@mkdir -p $(DEMO)
	@if $(WITHOUT_WORKSPACE); then $(STANDIN) $(RUN) setup_hermes.py --check; else $(RUN) setup_hermes.py --check; fi

.venv/ready: requirements.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# Without a workspace, setup installs Hermes and stops there.
$(DEMO)/.local/bin/hermes: .venv/ready
	@mkdir -p $(DEMO)
	@env -u DATABRICKS_HOST -u DATABRICKS_TOKEN DATABRICKS_CONFIG_FILE=/dev/null HOME=$(DEMO) $(RUN) setup_hermes.py
	@touch -c $@

bench: $(DEMO)/.local/bin/hermes
	$(RUN) -m tests.bench

clean:
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/screenshots
