.DEFAULT_GOAL := help
SHELL := /bin/bash
.SHELLFLAGS := -o pipefail -c
BIN := .venv/bin
PYTHON ?= $(shell for p in python3.11 python3.12 python3; do $$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null && echo $$p && break; done)
# Tools called by name (dvc calls python, tests call dvc) are those of this project.
export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export MLFLOW_DISABLE_TELEMETRY := true
# Whatever the environment prefers: without kept bytecode each of many processes compiles the project, and the tests, anew;
# the others break Python, or hide this checkout from git and DVC (a hook of git sets them).
unexport PYTHONDONTWRITEBYTECODE PYTHONHOME PYTHONWARNINGS GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE GIT_PREFIX
# DVC asks for the user's name, which a container may not know.
export LOGNAME ?= $(shell id -un 2>/dev/null || echo user)
# Experiments at a time. They share the cores evenly: threads of two processes that wait for each other are far slower.
JOBS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo 1 || echo 2)
ifeq ($(shell [[ "$(JOBS)" =~ ^[1-9][0-9]{0,3}$$ ]] && echo yes),)
$(error JOBS is how many experiments run at a time, a whole number from 1 on; '$(JOBS)' is not)
endif
THREADS_EACH = $(shell echo $$(( ($$(getconf _NPROCESSORS_ONLN) + $(JOBS) - 1) / $(JOBS) )))
# Tests at a time: one more than there are cores, because some wait for servers; eight have enough to share.
TEST_JOBS ?= $(shell n=$$(getconf _NPROCESSORS_ONLN); echo $$(( n < 7 ? n + 1 : 8 )))
# make repro EXPERIMENTS="at-1 generalist_t-1" trains and attacks these alone.
EXPERIMENTS ?=

# Refuses to replace a params.yaml that was edited by hand, unless OVERWRITE=1.
COMPOSE = python -m stages.compose $(if $(OVERWRITE),--overwrite)

# What `make bench` runs, the headline first; `python -m benchmarks grid` is run by hand.
BENCH ?= step methods savings mixture peak profile compilation scaling evaluation autoattack theory theorems memory ood_memory imagefolder equality warm_ups

.PHONY: help setup repro paper publish plan ablation search beyond audit-deps test test-slow test-all tables figures report reproduction explain compare suite prepare ui bench doctor lint format clean

help: ## Show this list
	@grep -hE '^[a-z0-9-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 18

setup: $(BIN)/.installed ## Install everything into .venv (and LaTeX and Chromium, as root on Debian)

# Scripts in .venv name the folder that it was made in: a checkout that was moved is installed anew.
ifneq ($(shell cat $(BIN)/.installed 2>/dev/null),$(CURDIR))
.PHONY: $(BIN)/.installed
endif
$(BIN)/.installed: constraints.txt pyproject.toml
	@test -n "$(PYTHON)" || { echo "error: Python 3.11 or 3.12 is needed; give it as make PYTHON=/path/to/python3.11"; exit 2; }
	$(if $(findstring %,$(CURDIR)),$(error MLflow makes no database where it is installed below a folder with a '%' in its name, as here; rename it))
	rm -rf .venv # which the path begins with: a broken one must not be what makes the new one
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^uv==' constraints.txt)"
	$(BIN)/uv pip install --compile-bytecode --python $(BIN)/python -r constraints.txt
	$(BIN)/uv pip install --python $(BIN)/python --no-deps --no-build-isolation -e .
	.ci/system-packages
	@pwd -P > $@ # which may have letters that a shell takes for its own

repro: setup ## Run the suite in params.yaml to its tables: [SUITE=name] first, [JOBS=n] at a time, [EXPERIMENTS="at-1 nt-1"] alone
	@if [ -n "$$SUITE" ]; then $(COMPOSE) "suite=$$SUITE" $(SET); fi
	dvc repro prepare # and addresses before it
	python -m stages.experiments --jobs $(JOBS) $(EXPERIMENTS)
	$(if $(EXPERIMENTS),python -m stages.tables,dvc repro)

paper: setup ## The papers' experiment as far as a lease lasts: BUDGET=8h [SUITE=cifar10_narrow]; the same command goes on
	@[ -n "$(BUDGET)" ] || { echo "error: give the time that there is, as make paper BUDGET=8h"; exit 2; }
	$(COMPOSE) suite=$(or $(SUITE),cifar10) $(SET)
	dvc repro prepare
	python -m stages.experiments --jobs $(JOBS) --stop-after $(BUDGET) $(EXPERIMENTS) || [ $$? = 75 ]
	@if compgen -G "results/$(or $(SUITE),cifar10)/*/evaluate/metrics.json" > /dev/null; then python -m stages.tables; \
	else echo "nothing is done yet, so there is no table; the same command goes on"; fi

plan: setup ## Say what repro and the ablation grid will cost in time, disk and memory
	python -m stages.plan --workers $(JOBS) $(GRID)

ablation: setup ## Run the ablation grid with Prefect, draw its figures: [JOBS=n] workers, [GRID="--studies optimizers"]
	python -m stages.ablation --workers $(JOBS) $(GRID)
	python -m stages.figures

search: setup ## Search settings with Optuna through the grid, draw what it found: [JOBS=n] workers, [SEARCH="--trials 40"]
	python -m stages.search --workers $(JOBS) $(SEARCH)
	python -m stages.figures pareto

beyond: setup ## What the papers leave open, on the digits: suite digits_beyond, docs/findings.md (minutes)
	$(COMPOSE) suite=digits_beyond
	python -m stages.ablation --workers $(JOBS) --yes
	python -m stages.stability
	python -m stages.search --workers $(JOBS)
	python -m stages.corrupt
	dvc stage list --name-only | sed -n 's/^ood@\(.*\)-\(.*\)/\1 --seed \2/p' | OMP_NUM_THREADS=$(THREADS_EACH) \
		xargs -P $(JOBS) -I ARGUMENTS sh -c 'python -m stages.ood ARGUMENTS --grid; code=$$?; [ $$code != 75 ] || code=255; exit $$code'
	python -m stages.reproduction
	python -m stages.figures
	python -m stages.report --examples 0

audit-deps: setup ## Look up known vulnerabilities of every pinned package; fails where that is not possible
	python -m pip_audit --requirement constraints.txt --strict --no-deps --disable-pip --vulnerability-service pypi \
		--progress-spinner off

test: setup ## Run the tests that take minutes, in TEST_JOBS processes
	python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder -m "not slow" --durations 10

test-slow: setup ## Run the tests that make test leaves out, [UNTIL=s] those that begin before so many seconds since 1970
	python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder -m slow --durations 25 $(if $(UNTIL),--begin-until $(UNTIL) -rs --no-fold-skipped)

test-all: setup ## Run every test, in TEST_JOBS processes
	python -m pytest -n $(TEST_JOBS) --no-loadscope-reorder --durations 25

tables: setup ## Write tables from MLflow alone: the suite's, [PRINTED=table1] suites side by side as the papers print them
	python -m stages.tables
	$(if $(PRINTED),python -m stages.printed $(PRINTED))

figures: setup ## Draw the figures of the suite from MLflow alone (PDF, PNG, SVG)
	python -m stages.figures

report: setup ## Write the report: one HTML file with all tables, figures and experiments, [EXAMPLES=n] images each
	python -m stages.report $(if $(EXAMPLES),--examples $(EXAMPLES))

reproduction: setup ## Say what the suite's runs tell of the papers: claims, switches, verdicts of every image
	python -m stages.reproduction

publish: setup ## Copy what the suite gave to reports/published/ for git, without losing anything that is there
	python -m stages.publish

explain: setup ## Say where a number comes from: make explain CELL=table1:generalist_t:aa_linf
	@test -n "$$CELL" || { echo "error: name a cell: make explain CELL=table1:generalist_t:aa_linf"; exit 2; }
	@python -m stages.explain "$$CELL"

compare: setup ## Compare two models image by image: make compare A=at-1 B=generalist_t-1, or cells, or folders of results
	@test -n "$$A" -a -n "$$B" || { echo "error: name two: make compare A=at-1 B=generalist_t-1"; exit 2; }
	@python -m stages.compare "$$A" "$$B"

suite: setup ## Switch params.yaml: make suite SUITE=cifar10 [SET="architecture=wrn32_10 protocol=reference_code"]
	$(COMPOSE) "suite=$${SUITE:-digits}" $(SET)

prepare: setup ## Download or find the data of the suite, and check it
	python -m stages.prepare

ui: setup ## Browse the runs in MLflow: [PORT=5000], [OPEN=1] in the browser
	python -m stages.ui --port $(or $(PORT),5000) $(if $(OPEN),--open)

bench: setup ## Measure speed and memory, write docs/performance.md: [BENCH="step peak"] [QUICK=1]
	for name in $(BENCH); do \
		python -m benchmarks $$name $(if $(QUICK),--quick) || exit; \
	done
	$(if $(QUICK),,python -m benchmarks.performance)

doctor: setup ## Check this machine and this checkout, and say how to mend what is wrong
	python -m stages.doctor

lint: setup ## Check style, the direction of imports, and types
	ruff check .
	ruff format --check .
	lint-imports
	mypy

format: setup ## Put the code in style
	ruff check --fix .
	ruff format .

clean: ## Remove what runs left: runs/, results/, prepared and corrupted data, the MLflow store, Prefect's
	rm -rf .prefect runs results data/prepared data/corrupted mlflow.db mlflow.db-* mlflow.db.lock mlartifacts
