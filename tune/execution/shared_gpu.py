"""`--concurrent auto`: find out how many trials share a GPU. One is timed alone, then twice as many
each time, as long as they fit and get more done together."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from trainables.errors import first_line

MOST = 8
"""Maximum number of trials that share a GPU."""
_GAIN = 1.1
"""Twice as many trials must get this many times as much done, because each of them takes longer."""
_BUSY = 0.9
"""A GPU that computes for this part of the time has no capacity for more trials."""
_MEMORY = 0.9
"""Part of a GPU's memory that may be filled: a trial may need more than its first steps show."""
_NO_MEMORY = "out of memory"
_PARTS = 10_000  # Ray counts resources in ten-thousandths


@dataclass(frozen=True)
class Together:
    """A number of trials that have trained side by side for a few seconds."""

    steps_per_s: float
    """Steps of all of them together."""
    memory: float | None = None
    """Part of the device's memory that is in use, in [0, 1]; None: not known."""
    busy: float | None = None
    """Part of the time in which the device computed, in [0, 1]; None: not known."""


@dataclass(frozen=True)
class Choice:
    """The number of trials that share a GPU, and why it is no larger."""

    count: int
    why: str
    measured: dict[int, Together]
    """Number of concurrent trials -> what was measured."""

    def describe(self) -> str:
        """Describe the choice in one line."""
        trials = "1 trial" if self.count == 1 else f"{self.count} trials"
        line = f"--concurrent auto: {trials} at a time on each GPU, because {self.why}"
        speeds = [f"{count}: {one.steps_per_s:.3g}" for count, one in self.measured.items()]
        return f"{line} (steps/s of all: {', '.join(speeds)})" if speeds else line


def choose_together(measure: Callable[[int], Together], most: int = MOST) -> Choice:
    """Choose how many trials share a GPU: 1, then twice as many each time, as long as that pays.

    Args:
        measure: lets this many trials train side by side.
        most: maximum number of concurrent trials, from 1, such as the number with a processor core.
    Raises:
        Exception: from `measure`, if not even one trial can be timed.
    """
    measured = {1: measure(1)}
    count = 1
    for following in _doubled(most):
        why = _no_room(measured[count], following / count)
        if why:
            return Choice(count, why, measured)

        try:
            measured[following] = measure(following)
        except Exception as error:  # of many types; fewer of them have just trained
            return Choice(count, _why_not(following, error), measured)
        gained = measured[following].steps_per_s / measured[count].steps_per_s
        if gained < _GAIN:
            why = f"{following} get {gained:.2f} times as much done"
            return Choice(count, why, measured)
        count = following
    return Choice(count, "no more are tried", measured)


def _doubled(most: int) -> Iterator[int]:
    """Yield 2, 4, 8, ..., ending with `most`."""
    count = 1
    while count < most:
        count = min(2 * count, most)
        yield count


def share_of_gpu(count: int) -> float:
    """Share of a GPU that each of `count` trials gets. It is rounded down to what Ray can count:
    six times 0.1667 would be more than one GPU, and the sixth trial would wait for ever."""
    return _PARTS // count / _PARTS


def _why_not(count: int, error: Exception) -> str:
    """Say why so many trials could not be timed side by side."""
    if _NO_MEMORY in str(error):
        return f"{count} do not fit into its memory"
    return f"{count} cannot be timed: {first_line(error)}"


def _no_room(found: Together, times: float) -> str:
    """Return the reason why the GPU cannot hold `times` as many trials; "" if it may."""
    if found.busy is not None and found.busy > _BUSY:
        return f"it computes {found.busy:.0%} of the time"
    if found.memory is not None and found.memory * times > _MEMORY:
        return f"they take {found.memory:.0%} of its memory"
    return ""
