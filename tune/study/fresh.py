"""Choose configurations that no trial has had. Under one seed, a second trial of a configuration
only repeats its result."""

import json
from collections.abc import Mapping
from typing import Any

from tune.experiments import SearchSpace
from tune.search.grid import LARGEST, gridded
from tune.search.method_names import GRID
from tune.search.small_space import Countable, countable, draw_new
from tune.search.space import Pinned
from tune.study.manifest import Manifest
from tune.study.rules import SMALL_SPACE, derived_seed
from tune.study.trials import TrialDatabase

Parameters = dict[str, Any]


class FreshConfigurations:
    """Prevents configurations from being tried twice, in spaces (or branches of spaces) so small
    that the sampler would draw them again.

    Sampler 1 is not restricted. In a grid, all configurations come from here.
    """

    def __init__(self, space: SearchSpace, manifest: Manifest, database: TrialDatabase):
        self._space = space
        self._preset = manifest.preset
        self._pins: Mapping[str, Any] = manifest.pins
        self._name = manifest.identity
        self._seed = manifest.seed
        self._database = database
        self._countable = self._find(manifest)

    def _find(self, manifest: Manifest) -> Countable | None:
        if manifest.rules["sampler"] == 1:
            return None
        if manifest.rules["sampler"] == GRID:
            return countable(gridded(self._space), self._preset, self._pins, LARGEST)
        return countable(self._space, self._preset, self._pins, SMALL_SPACE)

    def is_exhausted(self) -> bool:
        """True if all configurations of the space have been tried."""
        if self._countable is None or not self._countable.is_all:
            return False
        return not self._database.is_waiting() and not self._untried()

    def prepare_next(self) -> None:
        """Enqueue an untried configuration if the sampler might repeat one."""
        if self._countable is None or self._database.is_waiting():
            return
        if self._countable.is_all:
            self._database.enqueue_next(self._untried()[0])
            return

        tried = self._database.tried()
        draw = self._database.preview()
        self._space(Pinned(draw, self._pins), self._preset)
        if draw.said in tried:
            seed = derived_seed(self._name, f"draw {self._seed}", len(tried))
            new = draw_new(self._space, self._preset, self._pins, tried, seed)
            if new is not None:
                self._database.enqueue_next(new)

    def _untried(self) -> list[Parameters]:
        """Countable configurations that no trial has had, in an order that depends on the seed."""
        assert self._countable is not None

        def place(parameters: Parameters) -> int:
            return derived_seed(json.dumps(parameters, sort_keys=True), "order", self._seed)

        tried = self._database.tried()
        found = [one for one in self._countable.configurations if one not in tried]
        return sorted(found, key=place)
