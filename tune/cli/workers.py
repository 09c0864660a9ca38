"""Check the number of workers per trial (`--workers`)."""

from collections.abc import Collection, Mapping
from typing import Any

from trainables.errors import UserError
from tune.experiments import Experiment
from tune.search.space import describe


def check_workers(workers: int, max_workers: int, data: Any) -> None:
    """Refuse more workers than a batch, or the validation or test split, can be divided among.

    Args:
        max_workers: limit given by the batch.
    Raises:
        UserError: there are too many workers.
    """
    most = min(max_workers, len(data.val), len(data.test))
    if workers <= most:
        return

    each = "2 images of a batch (few-shot: an episode) and 1 of the validation and the test split"
    raise UserError(
        f"--workers {workers}: each needs {each}; use at most {most}, or a larger train.batch_size"
    )


def check_shares(
    workers: int,
    experiment: Experiment,
    preset: str,
    base: Mapping[str, Any],
    pins: Mapping[str, Any],
) -> None:
    """Check that workers can divide every batch size equally: the default's and those of the space.

    Raises:
        UserError: a batch size is not a multiple of the number of workers.
    """
    key = "train.batch_size"
    variants = describe(experiment.space, preset, pins).get(key, [])

    sizes = {base[key]}
    for _, distribution in variants:
        sizes |= set(_values(distribution))

    uneven = [size for size in sorted(sizes) if size % workers]
    if uneven:
        raise UserError(
            f"--workers {workers}: {key} can be {uneven[0]}, and the loss of {experiment.name} "
            f"needs equal shares; use another number of workers, or --set {key}=N with a multiple "
            f"of {workers}"
        )


def _values(distribution: Any) -> Collection[Any]:
    """Return the values that a searched integer can have."""
    choices: Collection[Any] | None = getattr(distribution, "choices", None)
    if choices is not None:
        return choices
    return range(distribution.low, distribution.high + 1, distribution.step)
