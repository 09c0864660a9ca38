"""One setting over several searches, as a row of the table in `pooled_table.py`."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np

from search_spaces.settings import Comparison
from trainables.outcomes import ImageOutcomes
from tune.reports.comparison_table import ComparisonTable, TableRow
from tune.reports.components import Components, components
from tune.reports.sampling_error import overlap_is_known, sampling_variance
from tune.reports.statistics import Interval, mean_of


@dataclass(frozen=True)
class PooledRow:
    """One setting over all searches; accuracies are in [0, 1], on the test splits."""

    name: str
    about: str

    searches: dict[str, TableRow]
    """Search -> the setting's row in that search's table, for searches with a test accuracy."""

    accuracies: dict[str, float]
    """Search -> mean test accuracy over the repeats of its chosen configuration."""

    defaults: dict[str, float]
    """Search -> mean test accuracy over the repeats of the default, if it was repeated."""

    accuracy: Interval | None
    """Mean over searches; None for fewer than two."""

    images: float | None
    """Standard deviation of one search's accuracy over draws of its test images; None if outcomes
    are missing."""

    shared: float | None
    """Variance, over draws of test images, that all searches share because their test sets overlap;
    None if that is not on record."""

    @property
    def components(self) -> Components | None:
        """Variance components over searches; None if outcomes or repeats are missing."""
        if self.images is None:
            return None
        scores = [list(row.scores.values()) for row in self.searches.values()]
        return components(scores, self.images**2, self.shared or 0.0)

    @property
    def parts(self) -> dict[str, float]:
        """Variance component -> standard deviation if it were the only one; empty if the components
        are unknown."""
        found = self.components
        return {} if found is None else found.deviations

    @property
    def spread(self) -> float | None:
        """Standard deviation of the accuracies over searches."""
        if len(self.accuracies) < 2:
            return None
        return float(np.std(list(self.accuracies.values()), ddof=1))

    @property
    def setting(self) -> str:
        """The setting's name and description."""
        return f"{self.name}: {self.about}"

    @property
    def epochs(self) -> int:
        """Epochs of the trials of all searches."""
        return sum(row.record.epochs for row in self.searches.values())

    @property
    def minutes(self) -> float:
        """Training time of trials and repeats, in minutes."""
        return sum(row.minutes for row in self.searches.values())


def pooled_row(
    name: str, comparison: Comparison, tables: Mapping[str, ComparisonTable]
) -> PooledRow:
    """Build the row of a setting.

    Args:
        tables: search -> its table.
    """
    searches = {}
    for search, table in tables.items():
        for row in table.rows:
            if row.name == name and row.scores:
                searches[search] = row

    accuracies = {
        search: float(np.mean(list(row.scores.values()))) for search, row in searches.items()
    }
    defaults = {
        search: row.default.mean for search, row in searches.items() if row.default is not None
    }
    metric = next(iter(tables.values())).metric
    outcomes = outcomes_of_searches(searches, tables)
    accuracy = shared = None
    if len(accuracies) > 1:
        shared = sampling_variance(metric, outcomes)
        accuracy = mean_of(list(accuracies.values()), shared or 0.0).clipped_to_unit()
    return PooledRow(
        name=name,
        about=comparison.settings[name].about,
        searches=searches,
        accuracies=accuracies,
        defaults=defaults,
        accuracy=accuracy,
        images=_image_error(searches, metric),
        shared=shared if overlap_is_known(outcomes.values()) else None,
    )


def outcomes_of_searches(
    rows: Mapping[str, TableRow], searches: Iterable[str]
) -> dict[int, ImageOutcomes]:
    """Return index of a search -> outcomes of one of its final runs. One run suffices, because runs
    of the same search share more than their test images."""
    found = {}
    for place, search in enumerate(searches):
        one = rows.get(search)
        if one is not None and one.outcomes:
            found[place] = next(iter(one.outcomes.values()))
    return found


def _image_error(searches: Mapping[str, TableRow], metric: str) -> float | None:
    """Return the standard deviation of an average search's accuracy over draws of test images."""
    variances = []
    for row in searches.values():
        variance = sampling_variance(metric, row.outcomes)
        if variance is None:
            return None
        variances.append(variance)
    return float(np.sqrt(np.mean(variances))) if variances else None
