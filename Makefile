# The whole project through one .venv: `make run` and `make test` make it themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= runs
OPTIONS ?=
export MPLBACKEND := Agg

CLUSTER ?= cluster.yaml

SHELL := bash

.PHONY: run table table-ssl table-pretrain table-A table-B table-C table-D table-E test test-slow check ui cluster-check cluster-up cluster-lab bench clean

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vistune needs Python 3.11 or newer; name one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

run: $(VENV)/installed  ## a BYOL search on embedded data, minutes on two cores
	$(BIN)/python tune/run.py ssl --storage $(STORAGE) $(OPTIONS)

# One trial at a time in every study, so that nothing depends on which trial comes first: killed and gone on with, the table is the same.
# Studies that do not need each other run side by side.
JOBS ?= $(shell nproc)
STUDY = @set -o pipefail; $(BIN)/python tune/run.py $(1) --storage $(STORAGE) --concurrent 1 $(OPTIONS) | (trap '' INT; sed -u 's/^/$(2): /')

table: $(VENV)/installed  ## settings A to E on embedded data, from pre-training to the verdict: half an hour on two cores
	@$(MAKE) --no-print-directory -j $(JOBS) table-ssl table-pretrain table-A table-B table-D table-C table-E
	$(BIN)/python tune/run.py classify --storage $(STORAGE) --concurrent 1 $(OPTIONS)

table-ssl table-pretrain:
	$(call STUDY,$(@:table-%=%),$(@:table-%=%))
table-A table-B table-C table-D table-E:
	$(call STUDY,classify --setting $(@:table-%=%),$(@:table-%=%))
table-B table-D: table-pretrain
table-C table-E: table-ssl

# Tests have one thread each: a process for every core. Whole files, as the tests of one share what is slow to make.
FAST := -m pytest -n logical --maxprocesses 4 --dist loadfile --no-loadscope-reorder
test: $(VENV)/installed  ## the fast suite, six minutes on two cores
	$(BIN)/python $(FAST)

test-slow: $(VENV)/installed  ## kills, servers, browsers, whole studies
	$(BIN)/python -m pytest -m slow

check: $(VENV)/installed  ## lint, types, fast tests
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python $(FAST)

ui: $(VENV)/installed  ## MLflow on 127.0.0.1, with links that open on the trials
	$(BIN)/python -m tune.ui --storage $(STORAGE)

cluster-check: $(VENV)/installed  ## what is wrong with cluster.yaml (or CLUSTER=...), before `ray up`
	@$(BIN)/python -m tune.cluster_check $(CLUSTER)

cluster-up: cluster-check  ## the check, then `ray up`; on-prem without autoscaler v2, which starts one worker too few there
	RAY_UP_enable_autoscaler_v2=$$(grep -q 'type: local' $(CLUSTER) && echo 0 || echo 1) $(BIN)/ray up -y --disable-usage-stats $(CLUSTER)

cluster-lab: $(VENV)/installed  ## a cluster of namespaces on this machine, from `ray up` to `ray down`, four to six minutes; root of a Linux machine alone
	$(BIN)/python -m pip install --quiet -e '.[dev,cluster]'
	$(BIN)/python -m pytest -m slow -x -s -rs tests/cluster/test_cluster_lab.py

# Those that are no claim against a peer: what records and reads tables, and what compares our own defaults, for hours.
BENCHMARKS := $(filter-out $(addprefix benchmarks/,record_curves.py search_tables.py search_variants.py),$(wildcard benchmarks/*.py))
bench: $(VENV)/installed  ## every claim about speed, measured against its peer
	$(BIN)/python -m pip install --quiet -e '.[dev,bench]'
	for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

clean:  ## everything but studies
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
