"""Runs laid out on processes, one after another, to see when the last of them ends."""

import heapq
from collections.abc import Iterable


class Timetable:
    """Processes with the time at which each is free, in seconds from now."""

    def __init__(self, processes: int):
        self._busy: list[float] = []
        self._processes = processes
        self.end = 0.0
        """The end of all that has been laid out."""

    def running(self, seconds: float) -> None:
        """A run that has a process has so long to go."""
        heapq.heappush(self._busy, seconds)
        self.end = max(self.end, seconds)

    def beside(self, seconds: Iterable[float]) -> None:
        """The same of runs whose end is not awaited by what follows."""
        for one in seconds:
            self.running(one)

    def all(self, seconds: Iterable[float]) -> None:
        """Lay out runs that wait, in their order, each on the first free process."""
        for one in seconds:
            start = 0.0
            if len(self._busy) >= self._processes:
                start = heapq.heappop(self._busy)
            self.running(start + one)

    def not_before(self, moment: float) -> None:
        """Nothing that follows begins before that moment."""
        self._busy = [max(moment, free) for free in self._busy]
        self._busy += [moment] * (self._processes - len(self._busy))
        heapq.heapify(self._busy)
