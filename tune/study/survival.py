"""Expected lengths of the trials of a search whose rungs stop some of them early."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from tune.search.rungs import RULES, rungs_of

_PRIOR_TRIALS = 2.0
"""The expectation counts as much as this many trials of the study."""


@dataclass(frozen=True)
class Survival:
    """Chance of each trial to pass each rung, if the order of values is random.

    The first trial at a rung passes. Of c trials that have reached it, the best max(1, c // n)
    pass, so a further one is among them with probability max(1, c / n) / c.
    """

    epochs: int
    """Epochs of a trial that runs to its end."""

    passes: tuple[Mapping[int, float], ...]
    """For each trial number: epoch of a rung -> chance that a trial at the rung continues."""

    def expected(self, number: int, after: int = 0) -> float:
        """Expected total epochs of a trial, given that it continues after epoch `after`."""
        total = float(after)
        share = 1.0
        before = after
        passes = self.passes[min(number, len(self.passes) - 1)]
        for epoch, chance in passes.items():
            if epoch <= after:
                continue
            total += share * (epoch - before)
            share *= chance
            before = epoch
        return total + share * (self.epochs - before)

    def longer(self, ended: Mapping[int, int]) -> float:
        """Return the factor by which the trials of this study run longer than expected.

        A few trials say little, so the expectation counts as much as two of them.

        Args:
            ended: number of a trial that has ended -> its epochs. The default is left out, because
                it is never stopped.
        """
        numbers = [number for number in ended if number != 0]
        if not numbers:
            return 1.0
        expected = sum(self.expected(number) for number in numbers)
        prior = _PRIOR_TRIALS * expected / len(numbers)
        observed = sum(ended[number] for number in numbers)
        return (prior + observed) / (prior + expected)


def survival(trials: int, epochs: int, version: int | str) -> Survival:
    """Return the chances of the trials of a study.

    Args:
        trials: number of trials, at least 1.
        version: version of the rungs, or name of another pruner.
    """
    rule = RULES[version]
    found = rungs_of(epochs, version)
    arrived = dict.fromkeys(found, 0.0)
    passes: list[dict[int, float]] = []

    for number in range(max(1, trials)):
        share = 1.0
        chances: dict[int, float] = {}
        for rung in found:
            arrived[rung] += share
            is_stopped = number > 0 and rung.stops(number, rule)
            chance = _chance(arrived[rung], rung.factor) if is_stopped else 1.0
            if is_stopped and rule.needs_rival and rung == found[-1]:
                rivals = arrived[rung] - share - 1  # trial 0 is not a rival
                chance = max(chance, 1 - rivals)
            chances[rung.epoch(epochs)] = chance
            share *= chance
        passes.append(chances)
    return Survival(epochs, tuple(passes))


def _chance(arrived: float, factor: int) -> float:
    """Chance to be among the best of all that have arrived."""
    places = max(1.0, math.floor(arrived / factor))
    return places / max(1.0, arrived)
