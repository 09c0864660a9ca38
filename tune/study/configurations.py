"""Choose the configuration of the next trial: the default first, then configurations that the user
enqueued, then those of an earlier study in their turns. The sampler draws all others and, in a
small space, none twice."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.experiments import SearchSpace
from tune.search.own_configuration import own_configuration
from tune.search.space import asked_for
from tune.study.enqueued import Queue, enqueue
from tune.study.fresh import FreshConfigurations
from tune.study.manifest import Manifest
from tune.study.trials import TrialDatabase
from tune.study.warm_turns import enqueued, next_point

REFUSED = "enqueued.refused"
"""Tag of a study: why an enqueued configuration is not tried."""


class Configurations:
    """Chooses the configuration of each new trial.

    Args:
        folder: folder of the study.
        note_refusal: called with the reason why an enqueued configuration is not tried.
    """

    def __init__(
        self,
        folder: Path,
        space: SearchSpace,
        manifest: Manifest,
        database: TrialDatabase,
        note_refusal: Callable[[str], None],
    ):
        self._folder = folder
        self._space = space
        self._manifest = manifest
        self._database = database
        self._note_refusal = note_refusal
        self._queue = Queue(folder)
        self._fresh = FreshConfigurations(space, manifest, database)

    def enqueue_first(self) -> None:
        """Enqueue the default, and the configurations that always follow it."""
        self._database.enqueue([self._default(), *enqueued(self._manifest.warm_start)])

    def prepare_next(self) -> None:
        """Enqueue the configuration of the next trial, unless the sampler draws it."""
        self._take_named()
        self._take_warm_turn()
        self._fresh.prepare_next()

    def name(self, configurations: Sequence[dict[str, Any]]) -> None:
        """Let configurations be tried once each, before all that are drawn from now on.

        Args:
            configurations: searched parameter -> value; missing parameters keep their default.
        """
        enqueue(self._folder, configurations)

    def waiting(self) -> int:
        """Number of the user's configurations that no trial has had yet."""
        tried = self._database.tried()
        left = [self._completed(given) for given in self._queue.rest()]
        return sum(params is not None and params not in tried for params in left)

    def are_exhausted(self) -> bool:
        """True if all configurations of the space have been tried."""
        return self._fresh.is_exhausted() and not self.waiting()

    def _default(self) -> dict[str, Any]:
        """The default configuration: searched parameter -> value."""
        manifest = self._manifest
        searched = asked_for(self._space, manifest.preset, manifest.base, manifest.pins)
        return {name: manifest.base[name] for name in searched}

    def _take_named(self) -> None:
        """Enqueue the first of the user's configurations that no trial has had."""
        while self._queue.rest() and not self._database.is_waiting():
            given = self._queue.next()
            params = self._completed(given)
            if params is not None and params not in self._database.tried():
                self._database.enqueue_next(params, own=True)

    def _take_warm_turn(self) -> None:
        """Enqueue a configuration of the earlier study if the next trial is its turn."""
        start = self._manifest.warm_start
        if start is None or self._database.is_waiting():
            return
        point = next_point(start, self._database.frozen())
        if point is not None:
            self._database.enqueue_next(point)

    def _completed(self, given: dict[str, Any]) -> dict[str, Any] | None:
        """Return all searched parameters of a user's configuration; None, with a note, if the space
        does not allow it."""
        manifest = self._manifest
        try:
            return own_configuration(
                self._space, manifest.preset, manifest.base, manifest.pins, given
            )
        except UserError as error:
            self._note_refusal(str(error))
            return None
