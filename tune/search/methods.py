"""Samplers and pruners by the names of `--sampler` and `--pruner`. All of them keep two promises:
draws repeat after a kill, and a stop is recorded before it is reported.

`method_names.py` lists the names.
"""

import importlib.util
import warnings
from collections.abc import Callable, Sequence

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, RandomSampler, TPESampler

from trainables.config import nearest
from trainables.errors import UserError
from trainables.packages import install
from tune.search.method_names import (
    GRID,
    JOINT_TPE,
    PRUNERS,
    SAMPLERS,
    Rule,
    pruner_name,
    sampler_name,
)
from tune.search.pruner import DurableHalving, DurableHyperband, DurableStops
from tune.search.repeatable import Repeatable
from tune.search.sampler import Forgotten, SeededTPE, none_forgotten
from tune.search.sobol import SobolSampler


def check_sampler(name: str) -> None:
    """Check that a sampler exists and can run on this machine.

    Raises:
        UserError: it does not exist, or its package is missing.
    """
    if name not in SAMPLERS:
        raise UserError(f"unknown --sampler {name!r}{nearest(name, SAMPLERS)}")
    if name == "cmaes" and importlib.util.find_spec("cmaes") is None:
        raise UserError(f"--sampler cmaes needs a package that is missing: {install('cmaes')}")


def check_pruner(name: str) -> None:
    """Check that a pruner exists.

    Raises:
        UserError: it does not.
    """
    if name not in PRUNERS:
        raise UserError(f"unknown --pruner {name!r}{nearest(name, PRUNERS)}")


def make_sampler(
    rule: Rule,
    seed: int,
    parameters: Sequence[str],
    objectives: int = 1,
    forgotten: Forgotten = none_forgotten,
) -> BaseSampler:
    """Return the sampler of a study.

    Args:
        rule: rule in the study's manifest.
        parameters: all parameters that the space may ask for.
        objectives: number of the study's objectives.
        forgotten: as in `SeededTPE`; the other samplers learn from all trials.
    """
    name = sampler_name(rule)
    # The configurations of a grid are enqueued (`tune.study.fresh`).
    if name in (JOINT_TPE, GRID):
        return SeededTPE(seed, forgotten)
    if name == "sobol":
        return SobolSampler(seed, parameters)
    return Repeatable(_MAKE[name], seed, objectives)


def make_pruner(rule: Rule, epochs: int) -> BasePruner:
    """Return the pruner of a study whose trials have this many epochs."""
    name = pruner_name(rule)
    if name == "none":
        return NopPruner()
    if name == "median":
        return DurableStops(MedianPruner())
    if name == "hyperband":
        return DurableHyperband(epochs, rule)
    return DurableHalving(epochs, rule)


def why_stopped(rule: Rule, epoch: int) -> str:
    """Return the reason for which a trial was stopped."""
    if pruner_name(rule) == "median":
        return f"below the median at epoch {epoch}"
    return f"below its rung at epoch {epoch}"


def _tpe(seed: int) -> BaseSampler:
    return TPESampler(seed=seed)


def _gp(seed: int) -> BaseSampler:
    return GPSampler(seed=seed, warn_independent_sampling=False)


def _cmaes(seed: int) -> BaseSampler:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return CmaEsSampler(seed=seed, warn_independent_sampling=False)


def _random(seed: int) -> BaseSampler:
    return RandomSampler(seed=seed)


_MAKE: dict[str, Callable[[int], BaseSampler]] = {
    "tpe": _tpe,
    "random": _random,
    "gp": _gp,
    "cmaes": _cmaes,
}
