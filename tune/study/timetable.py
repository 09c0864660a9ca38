"""Layout of runs on processes, one after another, to see when the last of them ends."""

import heapq
from collections.abc import Iterable


class Timetable:
    """Times at which processes become free, in seconds from now."""

    def __init__(self, processes: int):
        self._busy: list[float] = []
        self._processes = processes
        self.end = 0.0
        """Time at which everything laid out so far ends."""

    def running(self, seconds: float) -> None:
        """Add a run that already has a process and needs this many more seconds."""
        heapq.heappush(self._busy, seconds)
        self.end = max(self.end, seconds)

    def beside(self, seconds: Iterable[float]) -> None:
        """Add several runs that already have a process, beside the others."""
        for one in seconds:
            self.running(one)

    def all(self, seconds: Iterable[float]) -> None:
        """Lay out waiting runs in their order, each on the process that is free first."""
        for one in seconds:
            start = 0.0
            if len(self._busy) >= self._processes:
                start = heapq.heappop(self._busy)
            self.running(start + one)

    def not_before(self, moment: float) -> None:
        """Let nothing that follows begin before this moment."""
        self._busy = [max(moment, free) for free in self._busy]
        self._busy += [moment] * (self._processes - len(self._busy))
        heapq.heapify(self._busy)
