# `make demo` and `make test` set everything up by themselves, on any machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
# The demo's and the tests' own home: yours is never touched.
DEMO := $(CURDIR)/.demo
# HERMES=<what uv installs>: another Hermes, in a home of its own; `make test` then runs the tests that use it.
ifeq ($(origin HERMES),command line)
DEMO := $(DEMO)/hermes-$(firstword $(shell echo '$(HERMES)' | cksum))
export HERMES_PIP_URL := $(HERMES)
export OTHER_HERMES := $(DEMO)
endif
HERE = $(DEMO)
STANDIN = env HOME=$(HERE) $(RUN) -m tests.standin $(STANDIN_OPTIONS) --

.PHONY: demo app check deploy status undeploy test lint bench pin clean
.DEFAULT_GOAL := demo

demo: $(DEMO)/.local/bin/hermes
ifdef Q
demo: export QUESTION = $(value Q)
demo: HERE = $(DEMO)/asked
demo:
	@mkdir -p $(HERE) && ln -sfn ../.local $(HERE)/.local  # a demo that runs keeps its config, and the token in it
	@exec $(STANDIN) sh -c 'ENABLE_HERMES=true $(RUN) setup_hermes.py && exec "$$HOME/.local/bin/hermes" chat -Q -q "$$QUESTION"'
else
demo:
	@exec $(STANDIN) $(RUN) app.py
endif

# On your workspace when DATABRICKS_HOST or a profile is there, else (or with STANDIN_OPTIONS) on the stand-in.
WITHOUT_WORKSPACE = [ -n '$(STANDIN_OPTIONS)' ] || \
	{ [ -z "$$DATABRICKS_HOST$$DATABRICKS_CONFIG_PROFILE" ] && [ ! -f "$$HOME/.databrickscfg" ]; }

app: $(DEMO)/.local/bin/hermes
	@if $(WITHOUT_WORKSPACE); then exec $(STANDIN) $(RUN) app.py; else exec $(RUN) app.py; fi

check: .venv/ready
	@mkdir -p $(DEMO)
	@if $(WITHOUT_WORKSPACE); then \
	[ -n '$(STANDIN_OPTIONS)' ] || echo "This is the stand-in, not your workspace: DATABRICKS_HOST or a profile says which is yours."; \
	$(STANDIN) $(RUN) setup_hermes.py --check; else $(RUN) setup_hermes.py --check; fi

# To the app on Databricks: see deploy.py. What is given to make itself goes there as it is, through no shell; an APP or a HOST
# of the environment is something else's.
GIVEN := APP PROFILE HOST SET VOLUME DRY FORCE
$(foreach name,$(GIVEN),$(if $(filter command,$(origin $(name))),$(eval export DEPLOY_$(name) := $$(value $(name)))))
unexport $(GIVEN)

deploy status undeploy: .venv/ready
	@$(RUN) deploy.py $@

test: lint $(DEMO)/.local/bin/hermes
	NO_SKIPS=1 $(RUN) -m pytest --numprocesses 3 --dist worksteal --timeout 300 --faults

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

bench: $(DEMO)/.local/bin/hermes
	$(RUN) -m tests.bench

# Everything below the five lines of requirements.txt, for the Python that Databricks Apps runs.
pin: .venv/ready
	grep -v '^-c' requirements.txt | $(RUN) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --no-annotate --custom-compile-command 'make pin' --output-file constraints.txt -

.venv/ready: requirements.txt constraints.txt tests/requirements.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=")'
	$(PYTHON) -m venv .venv
	$(RUN) -m pip install --quiet --disable-pip-version-check "$$(grep ^uv= requirements.txt)"
	$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) -r tests/requirements.txt
	@touch $@

# Without a workspace, setup installs Hermes and stops there.
$(DEMO)/.local/bin/hermes: .venv/ready
	@mkdir -p $(DEMO)
	@env -u DATABRICKS_HOST -u DATABRICKS_TOKEN DATABRICKS_CONFIG_FILE=/dev/null HOME=$(DEMO) $(RUN) setup_hermes.py
	@touch -c $@

clean:
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/screenshots
