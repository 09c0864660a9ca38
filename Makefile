# The whole project through one .venv, which every target makes itself where it is missing.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STORAGE ?= runs
OPTIONS ?=
export MPLBACKEND := Agg

CLUSTER ?= cluster.yaml

# Of `make image`: cpu or cuda.
DEVICE ?= cpu

SHELL := bash
.DEFAULT_GOAL := help

.PHONY: help run table ui
.PHONY: test test-heavy test-slow test-crash soak lint calibration docs check bench bench-record gpu-check
.PHONY: cluster-check cluster-up cluster-lab lock image clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-15s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

$(VENV)/installed: pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "vistune needs Python 3.11 or newer; name one with make PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[dev]'
	touch $@

run: $(VENV)/installed  ## a BYOL search on embedded data, minutes on two cores
	$(BIN)/python tune/run.py ssl --storage $(STORAGE) $(OPTIONS)

# Processes share the studies of the comparison. A process has one trial at a time, so that nothing
# depends on which trial comes first: killed and resumed, the table is the same.
JOBS ?= $(shell nproc)
SEARCHES ?= 5
CLASSIFY = $(BIN)/python tune/run.py classify --searches $(SEARCHES) --trials 4 --repeats 1 --local --storage $(STORAGE) $(OPTIONS)
PROGRESS := ^(study|untrained|trial|chosen)

table: $(VENV)/installed  ## settings A to E on embedded data: SEARCHES=5 searches of each, from pre-training to the verdict
	@for job in $$(seq 2 $(JOBS)); do \
		$(CLASSIFY) | (trap '' INT; grep --line-buffered -E '$(PROGRESS)' | sed -u "s/^/process $$job: /") & \
	done; \
	$(CLASSIFY); code=$$?; wait; exit $$code

# Tests have one thread each, and some wait for a process or a server: one process more than there are cores.
# Whole files, as the tests of one share what is slow to make.
TESTERS := $(shell expr $$(nproc) + 1)
FAST := -m pytest -n $(TESTERS) --maxprocesses 5 --dist loadfile --no-loadscope-reorder
test: $(VENV)/installed  ## the fast suite, on all cores
	$(BIN)/python $(FAST)

test-heavy: $(VENV)/installed  ## tests that start processes or whole commands: four minutes
	$(BIN)/python $(FAST) -m "heavy and not slow"

test-slow: $(VENV)/installed  ## kills, servers, browsers, whole studies
	$(BIN)/python -m pytest -m slow

# With four processes killed on Ray, half of them of trials of two workers.
test-crash: $(VENV)/installed  ## kill, torn write and power cut at every change of a file in tiny studies
	$(BIN)/python -m tests.crash --ray 2

soak: $(VENV)/installed  ## two thousand trials, fifty kills of random processes: half an hour
	$(BIN)/python -m tests.crash.soak

lint: $(VENV)/installed  ## style, types, density of the code
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python benchmarks/density.py --limit 7.5

calibration: $(VENV)/installed  ## how often the rules behind verdicts decide wrongly: two minutes
	$(BIN)/python benchmarks/verdict_calibration.py --quick

docs: $(VENV)/installed  ## the documentation site, into build/site; a broken link is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

check: lint calibration docs test test-heavy  ## everything that must be green before a commit

ui: $(VENV)/installed  ## MLflow on 127.0.0.1, with links that open on the trials
	$(BIN)/python -m tune.ui --storage $(STORAGE)

cluster-check: $(VENV)/installed  ## what is wrong with cluster.yaml (or CLUSTER=...), before `ray up`
	@$(BIN)/python -m tune.cluster_check $(CLUSTER)

cluster-up: cluster-check  ## the check, then `ray up`; on-prem without autoscaler v2, which starts one worker too few there
	RAY_UP_enable_autoscaler_v2=$$(grep -q 'type: local' $(CLUSTER) && echo 0 || echo 1) $(BIN)/ray up -y --disable-usage-stats $(CLUSTER)

cluster-lab: $(VENV)/installed  ## a cluster of namespaces on this machine, from `ray up` to `ray down`: four to six minutes; needs root on Linux
	$(BIN)/python -m pip install --quiet -e '.[dev,cluster]'
	$(BIN)/python -m pytest -m slow -x -s -rs tests/cluster/test_cluster_lab.py

# Those that are no claim against a peer: what records and reads tables, what compares two checkouts, what compares our own defaults, for hours,
# and what simulates verdicts.
NO_CLAIM := $(addprefix benchmarks/,against.py classify_default.py density.py earlier_tree.py earlier_winners.py experiment_page.py fewshot_default.py figure_text.py mutation.py record_curves.py same_numbers.py search_rungs.py search_tables.py \
	evidence_page.py gpu_check.py gpu_rows.py gpu_table.py gpu_work.py record_file.py record_seeds.py record_speed.py recorded_seeds.py results.py search_luck.py \
	scenes.py search_cqr.py search_earlier.py search_optuna.py search_page.py search_peers.py search_races_page.py search_records.py search_regret.py search_variants.py search_words.py speed_claims.py speed_page.py speed_records.py table_intervals.py verdict_calibration.py verdict_rules.py verdict_simulation.py)
BENCHMARKS := $(filter-out $(NO_CLAIM),$(wildcard benchmarks/*.py))
gpu-check: $(VENV)/installed  ## every claim about GPUs, on the card of this machine: under 8 minutes (docs/gpu.md)
	$(BIN)/python benchmarks/gpu_check.py $(OPTIONS)

bench: $(VENV)/installed  ## every claim about speed, measured against its peer
	$(BIN)/python -m pip install --quiet -e '.[dev,bench]'
	for script in $(BENCHMARKS); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

bench-record: $(VENV)/installed  ## the records of docs/benchmarks.md, on a quiet machine: 40 minutes
	$(BIN)/python -m pip install --quiet -e '.[dev,bench]'
	$(BIN)/python benchmarks/record_speed.py $(OPTIONS)

lock: $(VENV)/installed  ## constraints-cpu.txt and constraints-cuda.txt, from what is installed
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/python .ci/lock.py

image:  ## a container image, vistune:cpu; with DEVICE=cuda, vistune:cuda
	@docker info >/dev/null 2>&1 || { echo "make image: no docker daemon answers on this machine; start or install docker" >&2; exit 2; }
	docker build --build-arg DEVICE=$(DEVICE) --tag vistune:$(DEVICE) .

clean:  ## removes everything but studies
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache .mypy_cache
