"""Make `search_spaces/priors.json`, the configurations of `--warm-start shipped`, from the results
of searches and grids on embedded data.

    python benchmarks/priors.py                      # from benchmarks/data
    python benchmarks/priors.py --add runs/fewshot   # first adds a study's trials to the data

A configuration must lie in today's space unchanged and beat the default, unless a grid measured it.
Configurations that most data sets have measured come first. Among them, those that add the most
data sets not yet represented come first, then those with the highest mean score over data sets,
which runs from 0, the median there, to 1, the best. Of two configurations that differ in fewer than
two parameters (numbers: by less than a factor of 2), only the better one is taken.
"""

import argparse
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from benchmarks.label_free_report import RECORD
from benchmarks.record_curves import RECORDED_WITH
from benchmarks.record_file import ROOT
from benchmarks.search_tables import DATA, Table, tables
from search_spaces.classify import BackboneSetting
from trainables.config import build, flatten
from tune.backbones.resolve import in_setting
from tune.cli.orientation import facing
from tune.experiments import EXPERIMENTS
from tune.search.space import Nearest, asked_for, fitted
from tune.study.record import read_record
from tune.study.warm_start import POINTS

PRIORS = ROOT / "search_spaces/priors.json"
STUDIES = DATA / "studies.jsonl"
"""Completed trials of studies, one study per line."""
DEFAULTS = DATA / "ssl_priors.jsonl"
"""Trainings of `ssl_priors.py`: the default of `ssl` under several seeds, among others."""
APART = 2
"""Number of parameters in which any two configurations of a prior must differ."""
FACTOR = 2.0
_UNVARIED = {"optim.weight_decay": RECORDED_WITH["optim.weight_decay"]}
"""Searched parameters that have the same value in all configurations of some grids."""

Config = Mapping[str, Any]
Trained = Mapping[str, Sequence[tuple[Config, float]]]
"""Data set -> its configurations, each with its objective."""


@dataclass(frozen=True)
class Space:
    """A search space that gets a prior."""

    experiment: str
    where: dict[str, Any]
    """Config values that a study must have."""
    tables: tuple[str, ...] = ()
    """Recorded grids of this space; the last word of a name is the data set."""
    record: tuple[str, ...] = ()
    """Tasks of `label_free.py`, trained in this space; the first word of a name is the data set."""


SPACES = (
    Space("ssl", {}, record=("digits-long", "earth-long")),
    Space("classify", {"freeze.policy": "all"}, ("head-digits", "head-earth", "head-glyphs")),
    Space(
        "classify",
        {"init.source": "scratch"},
        ("scratch-digits", "scratch-earth"),
    ),
    Space("fewshot", {"init.source": "scratch"}),
    Space("segment", {"init.source": "scratch"}),
)


def choose(trained: Trained, count: int = POINTS) -> list[dict[str, Any]]:
    """Return the configurations of a prior, best first: {"config", "values": data set ->
    objective}."""
    found: dict[str, dict[str, Any]] = {}
    for data, configurations in trained.items():
        values = [value for _, value in configurations]
        best, median = max(values), float(np.median(values))
        for config, value in configurations:
            key = json.dumps(sorted(config.items()))
            entry = found.setdefault(key, {"config": dict(config), "values": {}, "scores": []})
            entry["values"][data] = value
            entry["scores"].append((value - median) / (best - median or 1.0))

    chosen: list[dict[str, Any]] = []
    while len(chosen) < count:
        known = {data for one in chosen for data in one["values"]}
        apart = [
            entry
            for entry in found.values()
            if all(differing(entry["config"], one["config"]) >= APART for one in chosen)
        ]
        if not apart:
            break

        def rank(entry: dict[str, Any], known: set[str] = known) -> tuple[int, int, float]:
            scores = entry["scores"]
            return len(scores), len(entry["values"].keys() - known), float(np.mean(scores))

        best_of_all = max(apart, key=rank)
        chosen.append({key: best_of_all[key] for key in ("config", "values")})
    return chosen


def differing(one: Config, other: Config) -> int:
    """Return the number of parameters in which two configurations differ."""
    return sum(_differs(one.get(key), other.get(key)) for key in {**one, **other})


def _differs(one: Any, other: Any) -> bool:
    if isinstance(one, float) and isinstance(other, float) and min(one, other) > 0:
        return max(one, other) >= FACTOR * min(one, other)
    return bool(one != other)


# -- sources of configurations


def of_table(table: Table) -> list[tuple[Config, float]]:
    """Return the configurations of a grid, with the names of the config."""
    found = []
    for key, curve in table.curves.items():
        params = table.params(key)
        config = {name.replace("_", ".", 1): value for name, value in params.items()}
        found.append((_UNVARIED | config, max(curve)))
    return found


def add_study(folder: Path) -> None:
    """Append a study to the record: its completed trials with their searched parameters."""
    record = read_record(folder)
    manifest = record.manifest
    assert (manifest.preset, manifest.base.get("init.source", "scratch")) == ("tiny", "scratch")
    words = [f"python tune/run.py {manifest.experiment}", f"--data {manifest.base['data.name']}"]
    words += [f"--set {key}={value}" for key, value in manifest.pins.items()]
    frozen = record.frozen_trials()
    line = {
        "experiment": manifest.experiment,
        "data": manifest.base["data.name"],
        "metric": manifest.objective,
        "command": " ".join([*words, f"--trials {len(frozen)} --seed {manifest.seed}"]),
        "commit": str(manifest.commit)[:7],
        "trials": [
            {"trial": number, "value": round(value, 4), "config": frozen[number].params}
            for number, value in record.completed.items()
        ],
    }
    with STUDIES.open("a") as file:
        file.write(json.dumps(line) + "\n")


def of_study(study: Mapping[str, Any]) -> list[tuple[Config, float]]:
    """Return the trials that beat the default, which is the first."""
    default, *others = study["trials"]
    beaten = default["value"]
    return [(trial["config"], trial["value"]) for trial in others if trial["value"] > beaten]


def sources_of(space: Space) -> tuple[dict[str, Any], dict[str, list[tuple[Config, float]]]]:
    """Return {data set: the source of its trainings} and {data set: the trainings}."""
    sources: dict[str, Any] = {}
    trained: dict[str, list[tuple[Config, float]]] = {}
    for table in tables(space.tables) if space.tables else []:
        data = table.name.rpartition("-")[2]
        sources[data] = {
            "command": f"python benchmarks/record_curves.py {table.name}",
            "commit": _commit_of(DATA / f"curves-{table.name}.csv"),
            "metric": "val/top1",
            "configurations": len(table.curves),
        }
        trained[data] = of_table(table)
    for task in space.record:
        runs = recorded(task)
        if not runs:
            continue
        data = task.partition("-")[0]
        trained[data] = of_record(task)
        sources[data] = {
            "command": f"python benchmarks/label_free.py --every 99 --only {task} --runs 40",
            "commit": _commit_of(RECORD),
            "metric": "val/knn_top1",
            "configurations": len(runs),
        }
    for line in STUDIES.read_text().splitlines():
        study = json.loads(line)
        if study["experiment"] == space.experiment and not space.tables:
            _add(study, sources, trained)
    return sources, trained


def _add(study: Mapping[str, Any], sources: dict[str, Any], trained: dict[str, Any]) -> None:
    """Add a recorded study to the sources of its data set."""
    data = study["data"]
    found = of_study(study)
    if data not in sources:
        sources[data] = {key: study[key] for key in ("command", "commit", "metric")}
        sources[data]["configurations"] = len(study["trials"])
        trained[data] = found
        return
    sources[data]["command"] += f"; {study['command']}"
    sources[data]["configurations"] += len(study["trials"])
    trained[data] += found


def recorded(task: str) -> list[dict[str, Any]]:
    """Return the trainings of random configurations that `label_free.py` has recorded."""
    runs = [json.loads(line) for line in RECORD.read_text().splitlines()]
    return [run for run in runs if run["data"] == task]


def of_record(task: str) -> list[tuple[Config, float]]:
    """Return the random configurations of a task that beat the mean of its default."""
    beaten = float(np.mean(defaults_of(task)))
    values = [(run["config"], run["last"]["truth"]["val.knn"]) for run in recorded(task)]
    return [(config, value) for config, value in values if value > beaten]


def defaults_of(task: str) -> list[float]:
    """Return kNN of the default on a task, one value per seed."""
    if not DEFAULTS.exists():
        return []
    runs = [json.loads(line) for line in DEFAULTS.read_text().splitlines()]
    return [run["val.knn"] for run in runs if (run["data"], run["name"]) == (task, "default")]


def _commit_of(path: Path) -> str:
    """Return the commit that last changed a file."""
    command = ["git", "log", "-1", "--format=%h", "--", str(path)]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.strip()


# -- today's spaces


def in_space(space: Space, config: Config) -> dict[str, Any] | None:
    """Return the configuration as today's search would draw it; None if it would not."""
    experiment = EXPERIMENTS[space.experiment]
    base = flatten(build(experiment.config, experiment.presets["tiny"])) | space.where
    for setting in experiment.settings.values():
        if isinstance(setting, BackboneSetting) and space.where.items() <= setting.values.items():
            experiment = in_setting(experiment, setting)
            break
    base["data.up"] = "all" if "aug.vflip" in config else "none"
    search_space = facing(experiment, base).space
    nearest = Nearest(config, base)
    said = fitted(nearest, search_space, "tiny", {})
    if nearest.all_notes(config):
        return None
    asked = asked_for(search_space, "tiny", said, {})
    return {key: _plain(asked[key], value) for key, value in said.items() if key in config}


def _plain(distribution: BaseDistribution, value: Any) -> Any:
    """Return a choice as the space writes it, 32 for 32.0, or a number rounded to four digits."""
    if isinstance(distribution, CategoricalDistribution):
        return distribution.to_external_repr(distribution.to_internal_repr(value))
    return float(f"{value:.4g}")


def make() -> list[dict[str, Any]]:
    """Return all priors, as the file contains them."""
    priors = []
    for space in SPACES:
        sources, trained = sources_of(space)
        admitted: dict[str, list[tuple[Config, float]]] = {data: [] for data in trained}
        for data, found in trained.items():
            for config, value in found:
                fit = in_space(space, config)
                if fit is not None:
                    admitted[data].append((fit, value))
        points = choose({data: found for data, found in admitted.items() if found})
        about = {"experiment": space.experiment, "preset": "tiny", "where": space.where}
        if points:
            priors.append({**about, "sources": sources, "points": points})
    return priors


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--add", type=Path, nargs="*", default=[], help="folders of studies")
    for folder in parser.parse_args().add:
        add_study(folder)
    made = {"command": "python benchmarks/priors.py", "priors": make()}
    PRIORS.write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main()
