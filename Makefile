# `make demo` and `make test` set everything up by themselves, on any machine with Python 3.11+ and make.
PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python
# The demo's and the tests' own home: yours is never touched.
DEMO := $(CURDIR)/.demo
STANDIN = HOME=$(DEMO) $(RUN) -m tests.standin $(STANDIN_OPTIONS) --

.PHONY: demo app check deploy test lint bench pin clean
.DEFAULT_GOAL := demo

demo: $(DEMO)/.local/bin/hermes
ifdef Q
demo: export QUESTION = $(Q)
demo:
	@$(STANDIN) sh -c '$(RUN) setup_hermes.py && exec "$$HOME/.local/bin/hermes" chat -Q -q "$$QUESTION"'
else
demo:
	@$(STANDIN) $(RUN) app.py
endif

# On your workspace when DATABRICKS_HOST or a profile is there, else (or with STANDIN_OPTIONS) on the stand-in.
WITHOUT_WORKSPACE = [ -n '$(STANDIN_OPTIONS)' ] || \
	{ [ -z "$$DATABRICKS_HOST$$DATABRICKS_CONFIG_PROFILE" ] && [ ! -f "$$HOME/.databrickscfg" ]; }

app: $(DEMO)/.local/bin/hermes
	@if $(WITHOUT_WORKSPACE); then $(STANDIN) $(RUN) app.py; else exec $(RUN) app.py; fi

check: .venv/ready
	@mkdir -p $(DEMO)
	@if $(WITHOUT_WORKSPACE); then echo "This is the stand-in, not your workspace: DATABRICKS_HOST or a profile says which is yours."; \
	$(STANDIN) $(RUN) setup_hermes.py --check; else $(RUN) setup_hermes.py --check; fi

# What runs in the app, and all that is uploaded.
FILES := app.py setup_hermes.py utils.py hermes webapp app.yaml requirements.txt constraints.txt
APP ?= hermes
deploy:
	@[ -n '$(PROFILE)$(DRY)' ] || { echo 'PROFILE: it is not set; expected a profile of the Databricks CLI: make deploy PROFILE=...' >&2; exit 2; }
	@set -e; export DATABRICKS_CONFIG_PROFILE='$(or $(PROFILE),<profile>)'; \
	echo "export DATABRICKS_CONFIG_PROFILE=$$DATABRICKS_CONFIG_PROFILE"; \
	run() { echo "$$*"; [ -n '$(DRY)' ] || "$$@"; }; \
	field() { $(PYTHON) -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$$1"; }; \
	if [ -n '$(DRY)' ]; then me='<you>'; files='<files>'; echo '# <files>: $(FILES)'; \
	else me=$$(databricks current-user me -o json | field userName); \
	files=$$(mktemp -d); trap 'rm -rf "$$files"' EXIT; cp -r $(FILES) "$$files"; fi; \
	folder="/Workspace/Users/$$me/$(APP)"; \
	[ -z '$(DRY)' ] && databricks apps get $(APP) >/dev/null 2>&1 || run databricks apps create $(APP); \
	run databricks sync --full "$$files" "$$folder"; \
	run databricks apps deploy $(APP) --source-code-path "$$folder"; \
	[ -n '$(DRY)' ] || databricks apps get $(APP) -o json | field url

test: lint $(DEMO)/.local/bin/hermes
	NO_SKIPS=1 $(RUN) -m pytest --timeout 300 --faults

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
	$(RUN) -m pip install --quiet --disable-pip-version-check -r tests/requirements.txt
	@touch $@

# Without a workspace, setup installs Hermes and stops there.
$(DEMO)/.local/bin/hermes: .venv/ready
	@mkdir -p $(DEMO)
	@env -u DATABRICKS_HOST -u DATABRICKS_TOKEN DATABRICKS_CONFIG_FILE=/dev/null HOME=$(DEMO) $(RUN) setup_hermes.py
	@touch -c $@

clean:
	rm -rf .venv .demo .mypy_cache .pytest_cache .ruff_cache .hypothesis tests/screenshots
