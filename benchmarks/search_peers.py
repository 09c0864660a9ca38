"""Syne Tune, SMAC3, DEHB and HEBO as searchers of `search_regret.py`, in environments of their own
(`benchmarks/peers.txt`, `benchmarks/hebo.txt`).

Each is used through its public ask-and-tell interface and starts with the default configuration.
Its settings are its defaults except for the fidelities, which go from 1 epoch to all epochs by
factors of 3. Two of its trainings run at a time.
"""

import logging
import tempfile
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.search_regret import Job, axes_of, default_point, params_at
from benchmarks.search_tables import Table

if TYPE_CHECKING:
    import ConfigSpace

FACTOR = 3
_TRIALS = 100
"""Approximate number of trainings of any fidelity in 16 full ones, which SMAC needs to know: it
draws a quarter of them at random."""
_METRIC = "objective"
_EPOCH = "epoch"


class Points:
    """A table's space in terms that all peers understand: texts for choices, [0, 1] for ranges."""

    def __init__(self, table: Table):
        self._table = table
        self.axes = axes_of(table)

    def words(self, name: str) -> list[str] | None:
        """Return the choices of a parameter as texts; None for a range."""
        choices = self.axes[name]
        return None if choices is None else [str(choice) for choice in choices]

    def default(self) -> dict[str, Any]:
        """Return the default in these terms."""
        point = default_point(self._table)
        return {
            name: value if self.axes[name] is None else str(value) for name, value in point.items()
        }

    def params(self, said: dict[str, Any]) -> dict[str, Any]:
        """Return the table's parameters for a configuration in these terms."""
        point = {}
        for name, choices in self.axes.items():
            if choices is None:
                point[name] = said[name]
            else:
                point[name] = choices[self.words(name).index(said[name])]
        return params_at(self._table, point)


# -- Syne Tune


class SyneTune:
    """Asynchronous successive halving that stops trials (Li et al. 2020), with a sampler.

    Args:
        sampler: "random_search", "bore", "cqr" or "kde", by its name in Syne Tune.
    """

    def __init__(self, table: Table, seed: int, sampler: str):
        from syne_tune.config_space import choice, uniform
        from syne_tune.optimizer.schedulers.asha import AsynchronousSuccessiveHalving

        np.random.seed(seed)  # noqa: NPY002 - the scheduler draws a bracket from it
        self._points = Points(table)
        self._epochs = table.epochs
        self._count = 0
        space = {
            name: uniform(0.0, 1.0) if choices is None else choice(self._points.words(name))
            for name, choices in self._points.axes.items()
        }
        self._scheduler = AsynchronousSuccessiveHalving(
            space,
            metric=_METRIC,
            do_minimize=False,
            searcher=sampler,
            time_attr=_EPOCH,
            max_t=table.epochs,
            grace_period=1,
            reduction_factor=FACTOR,
            random_seed=seed,
            searcher_kwargs={"points_to_evaluate": [self._points.default()]},
        )

    def ask(self) -> Job:
        from syne_tune.backend.trial_status import Trial

        config = self._scheduler.suggest().config
        trial = Trial(self._count, config, datetime.now())
        self._count += 1
        self._scheduler.on_trial_add(trial)
        return Job(trial, self._points.params(config), range(self._epochs))

    def report(self, job: Job, epoch: int, value: float) -> bool:
        result = {_METRIC: value, _EPOCH: epoch}
        decision: str = self._scheduler.on_trial_result(job.handle, result)
        return decision == "CONTINUE"

    def end(self, job: Job, stopped: bool) -> None:
        self._scheduler.on_trial_remove(job.handle)


# -- peers that ask for a configuration and a fidelity


class _Kept:
    """The epochs for which each configuration was trained. A configuration that is asked for again
    resumes."""

    def __init__(self, points: Points):
        self._points = points
        self._epochs: dict[str, int] = {}

    def job(self, handle: Any, said: dict[str, Any], fidelity: float) -> Job:
        key = repr(sorted(said.items()))
        wanted = round(fidelity)
        begun = min(self._epochs.get(key, 0), wanted)
        self._epochs[key] = max(wanted, begun)
        return Job(handle, self._points.params(said), range(begun, wanted))


def _config_space(points: Points, seed: int) -> "ConfigSpace.ConfigurationSpace":
    import ConfigSpace

    default = points.default()
    space = ConfigSpace.ConfigurationSpace(seed=seed)
    for name in points.axes:
        words = points.words(name)
        if words is None:
            value = min(1.0, max(0.0, default[name]))
            space.add(ConfigSpace.Float(name, (0.0, 1.0), default=value))
        else:
            space.add(ConfigSpace.Categorical(name, words, default=default[name]))
    return space


class Smac:
    """SMAC3's multi-fidelity facade: Hyperband, with proposals by a random forest (Lindauer et al.
    2022)."""

    def __init__(self, table: Table, seed: int):
        from smac import MultiFidelityFacade, Scenario

        points = Points(table)
        self._kept = _Kept(points)
        self._folder = tempfile.TemporaryDirectory(prefix="smac-")
        space = _config_space(points, seed)
        scenario = Scenario(
            space,
            deterministic=True,
            n_trials=_TRIALS,
            min_budget=1,
            max_budget=table.epochs,
            seed=seed,
            output_directory=self._folder.name,
        )
        design = MultiFidelityFacade.get_initial_design(scenario)
        drawn = design.select_configurations
        # SMAC would put our configuration after those that it draws.
        design.select_configurations = lambda: [space.get_default_configuration(), *drawn()]
        self._smac = MultiFidelityFacade(
            scenario,
            lambda config, seed, budget: 0.0,
            initial_design=design,
            overwrite=True,
            logging_level=logging.ERROR,
        )

    def ask(self) -> Job:
        info = self._smac.ask()
        return self._kept.job(info, dict(info.config), info.budget)

    def report(self, job: Job, epoch: int, value: float) -> bool:
        return True

    def end(self, job: Job, stopped: bool) -> None:
        from smac.runhistory import TrialValue

        self._smac.tell(job.handle, TrialValue(cost=-job.seen[-1]), save=False)


class Dehb:
    """DEHB: Hyperband, with proposals by differential evolution (Awad et al. 2021)."""

    def __init__(self, table: Table, seed: int):
        from dehb import DEHB

        points = Points(table)
        self._kept = _Kept(points)
        self._is_first = True
        self._folder = tempfile.TemporaryDirectory(prefix="dehb-")
        self._space = _config_space(points, seed)
        self._dehb = DEHB(
            f=None,
            cs=self._space,
            min_fidelity=1,
            max_fidelity=table.epochs,
            eta=FACTOR,
            n_workers=1,
            output_path=self._folder.name,
            save_freq="end",
            seed=seed,
            log_level="ERROR",
        )

    def ask(self) -> Job:
        info = self._dehb.ask()
        if self._is_first:
            info["config"] = self._space.get_default_configuration()
            self._is_first = False
        return self._kept.job(info, dict(info["config"]), info["fidelity"])

    def report(self, job: Job, epoch: int, value: float) -> bool:
        return True

    def end(self, job: Job, stopped: bool) -> None:
        self._dehb.tell(job.handle, {"fitness": -job.seen[-1], "cost": len(job.epochs)})


# -- peers that stop nothing


class Hebo:
    """HEBO: a Gaussian process on warped inputs and outputs, with several acquisition functions at
    once (Cowen-Rivers et al. 2022). It has no fidelities, so every training runs to its end."""

    def __init__(self, table: Table, seed: int):
        import torch
        from hebo.design_space.design_space import DesignSpace
        from hebo.optimizers.hebo import HEBO

        np.random.seed(seed)  # noqa: NPY002 - its evolutionary search draws from it
        torch.manual_seed(seed)
        self._points = Points(table)
        self._epochs = table.epochs
        self._is_first = True
        axes: list[dict[str, Any]] = []
        for name in self._points.axes:
            words = self._points.words(name)
            if words is None:
                axes.append({"name": name, "type": "num", "lb": 0.0, "ub": 1.0})
            else:
                axes.append({"name": name, "type": "cat", "categories": words})
        self._hebo = HEBO(DesignSpace().parse(axes), scramble_seed=seed)

    def ask(self) -> Job:
        said = self._hebo.suggest(n_suggestions=1)
        if self._is_first:
            for name, value in self._points.default().items():
                said[name] = value
            self._is_first = False
        words = {name: said[name].iloc[0] for name in self._points.axes}
        return Job(said, self._points.params(words), range(self._epochs))

    def report(self, job: Job, epoch: int, value: float) -> bool:
        return True

    def end(self, job: Job, stopped: bool) -> None:
        self._hebo.observe(job.handle, np.array([[-max(job.seen)]]))
