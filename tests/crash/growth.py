"""Memory, handles, threads, processes and disk must not grow during a long study.

For each start of the driver that saw enough trials, its resources at the end are those after its
first trials. A trial takes no more disk in the second half of the study than in the first.
"""

import statistics
from dataclasses import dataclass, field

_SETTLING = 10
"""Trials of a start before its resources count, because not all of its processes are there yet."""
_ENOUGH = 40
"""Further trials that a start needs for its resources to be compared."""


@dataclass
class Use:
    """Resources of the driver at one moment, and the number of its processes."""

    trials: int
    memory_mb: float
    handles: float
    threads: float
    processes: float


ALLOWED = {"memory_mb": (0.10, 20.0), "handles": (0.0, 8), "threads": (0.0, 8), "processes": (0, 3)}
"""Resource -> growth that is allowed: a share, plus an absolute amount. A study remembers its
trials."""
_DISK_ALLOWED = 1.25
"""Allowed bytes per trial in the second half of a study, relative to the first half."""


@dataclass
class Growth:
    """Watch the resources of a study's driver, and its folder."""

    uses: list[list[Use]] = field(default_factory=list)
    """One list for each start of the driver."""
    sizes: list[tuple[int, int]] = field(default_factory=list)
    """Trials, and bytes of the study's folder, at intervals."""

    def begin(self) -> None:
        """Note that the driver starts."""
        self.uses.append([])

    def spans(self) -> list[tuple[Use, Use]]:
        """For each start of the driver that saw enough trials, its resources after the first of
        them and at the end."""
        spans = []
        for uses in self.uses:
            settled = [use for use in uses if use.trials >= uses[0].trials + _SETTLING]
            if settled and settled[-1].trials - settled[0].trials >= _ENOUGH:
                quarter = max(1, len(settled) // 4)
                spans.append((_median(settled[:quarter]), _median(settled[-quarter:])))
        return spans

    def check(self) -> list[str]:
        """Return the resources that grew from the first trials of a start to its last, and disk use
        that grew from the first half of the study to the second."""
        wrong = []
        for first, last in self.spans():
            for name, (share, more) in ALLOWED.items():
                before, after = getattr(first, name), getattr(last, name)
                if after > before * (1 + share) + more:
                    trials = f"trials {first.trials} to {last.trials}"
                    wrong.append(f"{name} grew from {before:g} to {after:g} ({trials})")

        halves = self._bytes_of_a_trial()
        if halves is not None and halves[1] > _DISK_ALLOWED * halves[0]:
            wrong.append(f"bytes of a trial grew from {halves[0]:.0f} to {halves[1]:.0f}")
        return wrong

    def _bytes_of_a_trial(self) -> tuple[float, float] | None:
        """Bytes per trial in the first half of the study and in the second, or None if there are no
        halves."""
        looks = [(trials, size) for trials, size in self.sizes if trials >= _SETTLING]
        if not looks:
            return None
        first, last = looks[0], looks[-1]
        middle = min(looks, key=lambda look: abs(2 * look[0] - first[0] - last[0]))
        if not first[0] < middle[0] < last[0]:
            return None
        early = (middle[1] - first[1]) / (middle[0] - first[0])
        return early, (last[1] - middle[1]) / (last[0] - middle[0])

    def lines(self) -> list[str]:
        """The resources of the starts and the disk use, as text."""
        lines = [
            f"trials {first.trials} to {last.trials}: memory {first.memory_mb:.0f} to "
            f"{last.memory_mb:.0f} MB, handles {first.handles:g} to {last.handles:g}, threads "
            f"{first.threads} to {last.threads}, processes {first.processes} to {last.processes}"
            for first, last in self.spans()
        ]
        halves = self._bytes_of_a_trial()
        if halves is not None:
            lines.append(f"bytes of a trial: {halves[0]:.0f} first, then {halves[1]:.0f}")
        return lines


def _median(uses: list[Use]) -> Use:
    """The median of each resource, with the trials of the last look."""
    middle = {name: statistics.median(getattr(use, name) for use in uses) for name in ALLOWED}
    return Use(uses[-1].trials, **middle)
