"""Shell completion of names after options of `tune/run.py`."""

import typer

from tune.experiments import EXPERIMENTS, Experiment
from tune.search.method_names import PRUNERS, SAMPLERS
from tune.tracking.logs import LOGS


def experiments(incomplete: str) -> list[str]:
    return [name for name in EXPERIMENTS if name.startswith(incomplete)]


def _typed_experiment(context: typer.Context) -> Experiment | None:
    """Find the experiment in a command line that is being completed and cannot be parsed yet."""
    words = [context.params.get("experiment"), *context.args]
    return next((EXPERIMENTS[word] for word in words if word in EXPERIMENTS), None)


def presets(context: typer.Context, incomplete: str) -> list[str]:
    experiment = _typed_experiment(context)
    names = experiment.presets if experiment else ()
    return [name for name in names if name.startswith(incomplete)]


def samplers(incomplete: str) -> list[str]:
    return [name for name in SAMPLERS if name.startswith(incomplete)]


def pruners(incomplete: str) -> list[str]:
    return [name for name in PRUNERS if name.startswith(incomplete)]


def settings(context: typer.Context, incomplete: str) -> list[str]:
    experiment = _typed_experiment(context)
    comparisons = experiment.comparisons.values() if experiment else ()
    names = [name for comparison in comparisons for name in comparison.settings]
    return [name for name in names if name.startswith(incomplete)]


def comparisons(context: typer.Context, incomplete: str) -> list[str]:
    experiment = _typed_experiment(context)
    names = experiment.comparisons if experiment else ()
    return [name for name in names if name and name.startswith(incomplete)]


def logs(incomplete: str) -> list[str]:
    return [name for name in LOGS if name.startswith(incomplete)]
