"""Optuna's samplers and pruners as searchers of `search_regret.py`."""

import warnings
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.pruners import BasePruner, HyperbandPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, GPSampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from benchmarks.search_regret import Job, axes_of, default_point, params_at
from benchmarks.search_tables import Table

FACTOR = 3


class OptunaPositions:
    """`study.ask`, `trial.report`, `trial.should_prune` and `study.tell`, as in Optuna's tutorial.

    Args:
        sampler: "random", "tpe" or "gp", with Optuna's defaults.
        pruner: "none", "halving" or "hyperband", by 3 from the first epoch.
    """

    def __init__(self, table: Table, seed: int, sampler: str, pruner: str):
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self._table = table
        self._space = space_of(table)
        self._study = optuna.create_study(
            direction="maximize",
            sampler=sampler_of(sampler, seed),
            pruner=pruner_of(pruner, table.epochs),
        )
        self._study.enqueue_trial(default_point(table))

    def ask(self) -> Job:
        trial = self._study.ask(self._space)
        params = params_at(self._table, trial.params)
        return Job(trial, params, range(self._table.epochs))

    def report(self, job: Job, epoch: int, value: float) -> bool:
        job.handle.report(value, epoch)
        should_stop: bool = job.handle.should_prune()
        return not should_stop

    def end(self, job: Job, stopped: bool) -> None:
        if stopped:
            self._study.tell(job.handle, state=TrialState.PRUNED)
        else:
            self._study.tell(job.handle, max(job.seen))


def space_of(table: Table) -> dict[str, BaseDistribution]:
    """Return the table's space, with ranges as [0, 1]."""
    space: dict[str, BaseDistribution] = {}
    for name, choices in axes_of(table).items():
        if choices is None:
            space[name] = FloatDistribution(0.0, 1.0)
        else:
            space[name] = CategoricalDistribution(choices)
    return space


def sampler_of(name: str, seed: int) -> BaseSampler:
    """Return the sampler of Optuna that our name stands for."""
    makers: dict[str, Any] = {"random": RandomSampler, "tpe": TPESampler, "gp": GPSampler}
    sampler: BaseSampler = makers[name](seed=seed)
    return sampler


def pruner_of(name: str, epochs: int) -> BasePruner:
    """Return the pruner of Optuna that our name stands for."""
    if name == "halving":
        return SuccessiveHalvingPruner(min_resource=1, reduction_factor=FACTOR)
    if name == "hyperband":
        return HyperbandPruner(min_resource=1, max_resource=epochs, reduction_factor=FACTOR)
    return NopPruner()
