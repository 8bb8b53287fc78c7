# `make help` lists what there is. Each sets up by itself what it needs, with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
# Where Hermes is for the demo and the tests, and a home for each run: yours is never touched.
DEMO := $(CURDIR)/.demo
# HERMES=<what uv installs>: another Hermes, in a folder of its own, for `make demo` and `make test`.
ifeq ($(origin HERMES),command line)
DEMO := $(DEMO)/hermes-$(firstword $(shell echo '$(HERMES)' | cksum))
export HERMES_PIP_URL := $(HERMES)
export OTHER_HERMES := $(DEMO)
# Hermes 0.22 keeps no session where a program called pytest has started it.
PYTEST = $(RUN) -c 'import sys, pytest; sys.exit(pytest.main(sys.argv[1:]))'
endif
PYTEST ?= $(RUN) -m pytest
# uv trusts what the machine trusts, as pip does: a company's own certificate authority too.
export UV_SYSTEM_CERTS ?= 1
# Where it is set, each of the programs that are started here would compile its modules anew.
unexport PYTHONDONTWRITEBYTECODE
STANDIN = $(RUN) -m tests.standin --home $(DEMO) $(STANDIN_OPTIONS) --

.PHONY: help demo app check report deploy status undeploy coda test lint bench docs pin clean
.DEFAULT_GOAL := demo

define HELP
make demo                  the app on a workspace that runs on this machine; Ctrl-C ends it
make demo Q="hello"        one question to Hermes on that workspace, and its answer
make app                   the app on this machine, on your workspace; Ctrl-C ends it
make check                 what each route of your workspace says; writes nothing
make report                what your workspace refuses, as a table and a file for an issue: YES=1
make deploy                the app on Databricks: PROFILE= HOST= APP= SET= VOLUME= DRY=1 FORCE=1
make status, undeploy      shows that app, deletes it: PROFILE= HOST= APP=
make coda CODA=../coda     puts the fix into a checkout of CODA; UNDO=1 takes it out again
make test, lint, bench     every test, ruff and mypy, the figures of docs/figures.md
make docs                  docs/check.md and the pictures anew, by running the program
make pin, clean            new versions for constraints.txt; removes all that was set up here

STANDIN_OPTIONS="..."      what the workspace on this machine is like: see tests.standin --help
HERMES=...                 another Hermes, for demo and test: a package as uv takes it
endef

help:
	@: $(info $(HELP))

demo: $(DEMO)/.local/bin/hermes
ifdef Q
demo: export QUESTION = $(value Q)
demo:
	@exec $(STANDIN) sh -c 'ENABLE_HERMES=true $(RUN) setup_hermes.py && \
		exec "$$HOME/.local/bin/hermes" chat -Q -q "$$QUESTION"'
else
demo:
	@exec $(STANDIN) $(RUN) app.py
endif

# On your workspace where DATABRICKS_HOST or a profile says which, else on the stand-in.
WITHOUT_WORKSPACE = $(if $(ELSEWHERE),$(error $(firstword $(ELSEWHERE)): it is for make deploy alone; \
	expected DATABRICKS_CONFIG_PROFILE= or DATABRICKS_HOST=)) [ -n '$(STANDIN_OPTIONS)' ] || \
	{ [ -z "$$DATABRICKS_HOST$$DATABRICKS_CONFIG_PROFILE" ] && [ ! -f "$$HOME/.databrickscfg" ] && \
	echo "This is the stand-in, not your workspace:" \
	"DATABRICKS_HOST or a profile says which is yours."; }

app: $(DEMO)/.local/bin/hermes
	@if $(WITHOUT_WORKSPACE); then exec $(STANDIN) $(RUN) app.py; else exec $(RUN) app.py; fi

# A flag is 1, or not given.
flag = $(filter 1,$($1))$(if $(filter-out 1,$($1)),$(error $1: '$($1)' is not valid; expected 1))

report: ANSWER = $(if $(call flag,YES),--yes)
check report: .venv/ready
	@mkdir -p $(DEMO)
	@if $(WITHOUT_WORKSPACE); then exec $(STANDIN) $(RUN) setup_hermes.py --$@ $(ANSWER); \
	else exec $(RUN) setup_hermes.py --$@ $(ANSWER); fi

coda: export FOLDER = $(value CODA)
coda: .venv/ready
	@$(RUN) patch_coda.py $(if $(call flag,UNDO),--undo) -- "$$FOLDER"

# To the app on Databricks: see deploy.py. What is given to make itself goes there as it is: make does
# not read it, and the shell sees it as a variable's value alone. An APP or a HOST of the environment
# is something else's.
GIVEN := APP PROFILE HOST SET VOLUME DRY FORCE
# Those of some variables that were given on the command line.
typed = $(strip $(foreach name,$1,$(if $(filter command,$(origin $(name))),$(name))))
$(foreach name,$(call typed,$(GIVEN)),$(eval export DEPLOY_$(name) := $$(value $(name))))
unexport $(GIVEN)
ELSEWHERE = $(call typed,$(GIVEN))
ODD = $(filter-out $(GIVEN) PYTHON STANDIN_OPTIONS,$(call typed,$(.VARIABLES)))
ASKED = $${DEPLOY_APP+"--app=$$DEPLOY_APP"} $${DEPLOY_PROFILE+"--profile=$$DEPLOY_PROFILE"} \
	$${DEPLOY_HOST+"--host=$$DEPLOY_HOST"} $${DEPLOY_SET+"--set=$$DEPLOY_SET"} \
	$${DEPLOY_VOLUME+"--volume=$$DEPLOY_VOLUME"} $${DEPLOY_DRY+"--dry=$$DEPLOY_DRY"} \
	$${DEPLOY_FORCE+"--force=$$DEPLOY_FORCE"}

deploy status undeploy: .venv/ready
	$(if $(ODD),$(error $(ODD): not valid; expected $(GIVEN)))
	@mkdir -p $(DEMO)
	@$(if $(STANDIN_OPTIONS),$(STANDIN:--=--apps --)) $(RUN) deploy.py $@ $(ASKED)

test: lint $(DEMO)/.local/bin/hermes
	NO_SKIPS=1 $(PYTEST) --numprocesses 4 --dist worksteal --timeout 300 --faults

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy .

bench: $(DEMO)/.local/bin/hermes
	$(RUN) -m tests.bench

docs: $(DEMO)/.local/bin/hermes
	$(RUN) -m tests.documents

# Everything below the five lines of requirements.txt, for the Python that Databricks Apps runs.
pin: .venv/ready
	grep -v '^-c' requirements.txt | $(RUN) -m uv pip compile --quiet --upgrade --universal --python-version 3.11 \
	  --no-annotate --custom-compile-command 'make pin' --output-file constraints.txt -

.venv/ready: requirements.txt constraints.txt tests/requirements.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or later is needed; PYTHON= names one")'
	@echo "Setting up .venv, once ..."
	@$(PYTHON) -m venv .venv
	@$(RUN) -m pip install --quiet --disable-pip-version-check "$$(grep ^uv= requirements.txt)"
	@$(RUN) -m uv pip install --quiet --compile-bytecode --python $(RUN) -r tests/requirements.txt
	@touch $@

# Without a workspace, setup installs Hermes and stops there.
$(DEMO)/.local/bin/hermes: .venv/ready
	@mkdir -p $(DEMO)
	@echo "Installing Hermes below .demo, once for all demos ..."
	@env -u DATABRICKS_HOST -u DATABRICKS_TOKEN DATABRICKS_CONFIG_FILE=/dev/null HOME=$(DEMO) \
		PATH="$(DEMO)/.local/bin:$$PATH" $(RUN) setup_hermes.py >/dev/null
	@touch -c $@

clean:
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/screenshots
