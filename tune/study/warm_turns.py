"""The turns of a warm start: when the configurations of an earlier study are tried, and when the
sampler forgets them.

They come between the study's own trials, and only while they are worth it: if the first one shows
that the earlier study misleads, the second is not tried. A study whose manifest names no turns
began under an earlier rule, by which all of them follow the default.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from statistics import median
from typing import Any

from optuna.trial import FrozenTrial, TrialState

TURNS = (1, 3, 5)
"""Numbers of the trials that may take a configuration of the earlier study."""

FORGOTTEN = 12
"""From this trial on, the sampler learns only from the study's own trials (version 2 of the rule
`warm_start`). Otherwise a search stays where the earlier study was good."""

WarmStart = Mapping[str, Any]


def enqueued(start: WarmStart | None) -> list[dict[str, Any]]:
    """Configurations that follow the default in any case: all of them, in a study without turns."""
    if start is None or "turns" in start:
        return []
    return [point["params"] for point in start["points"]]


def next_point(start: WarmStart | None, trials: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    """Return the configuration of the next trial if it comes from the earlier study.

    Args:
        start: the warm start as the manifest holds it.
        trials: all trials so far.
    Returns:
        None if the search continues by itself: the trial has no turn, all points have been tried,
        or none of those that have ended is above the median of the study's own completed trials.
    """
    if start is None or len(trials) not in start.get("turns", []):
        return None
    taken = warm_trials(start, trials)
    if len(taken) == len(start["points"]):
        return None

    ended = [trials[number] for number in taken if trials[number].state.is_finished()]
    own = [
        _value(trial)
        for trial in trials
        if trial.state == TrialState.COMPLETE and trial.number not in taken
    ]
    if ended and own and max(map(_value, ended)) <= median(own):
        return None
    params: dict[str, Any] = start["points"][len(taken)]["params"]
    return params


def forgotten(
    start: WarmStart | None, trials: Sequence[FrozenTrial], number: int, version: int
) -> Collection[int]:
    """Return the numbers of the trials from which the sampler does not learn when it draws a trial.

    Args:
        start: the warm start as the manifest holds it.
        trials: all trials so far.
        number: number of the trial that is drawn.
        version: version of the rule `warm_start`.
    """
    if start is None or version == 1 or number < FORGOTTEN:
        return ()
    return warm_trials(start, trials).keys()


def warm_trials(start: WarmStart, trials: Sequence[FrozenTrial]) -> dict[int, dict[str, Any]]:
    """Trial -> the point that it was taken from. Points are tried in their order."""
    left = list(start["points"])
    turns = start.get("turns", range(1, len(left) + 1))
    found = {}
    for trial in trials:
        params = trial.params or trial.system_attrs.get("fixed_params", {})
        if trial.number in turns and left and params == left[0]["params"]:
            found[trial.number] = left.pop(0)
    return found


def _value(trial: FrozenTrial) -> float:
    """Objective of a completed trial; minus infinity for any other."""
    if trial.state != TrialState.COMPLETE or trial.value is None:
        return -math.inf
    return trial.value
