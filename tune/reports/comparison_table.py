"""Compare an experiment's settings: accuracies with intervals, and paired differences.

This module computes the table. `table_text.py`, `table_figure.py` and `html_comparison.py` show it;
`table_files.py` writes it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from search_spaces.settings import Comparison, sides
from trainables.errors import UserError
from tune.command_line import command
from tune.formatting import DEFAULT, assignments
from tune.reports.config_differences import same_data
from tune.reports.sampling_error import Runs, outcomes_of, sampling_variance
from tune.reports.statistics import Interval, holm, mean_of, significance
from tune.reports.verdict import difference, diverged_without_baseline, repeat_scores
from tune.study.group import members
from tune.study.record import Record, Run, read_record
from tune.study.rules import test_metric

ONE_SEARCH = "'s configuration"
"""Subject of a verdict over one search, which compares only the configurations found by that
search."""


@dataclass(frozen=True)
class TableRow:
    """One setting of a comparison. Accuracies are in [0, 1], on the test split."""

    name: str
    about: str
    record: Record

    number: int | None
    """The chosen trial; None if no trial has completed."""

    scores: dict[int, float]
    """Seed -> test accuracy of the chosen trial's repeats."""

    outcomes: Runs
    """Seed -> outcomes of the test images in these repeats, where known."""

    accuracy: Interval | None
    """Test accuracy over the chosen trial's repeats; None if there are too few repeats."""

    default: Interval | None
    """Test accuracy over the default's repeats; None if there are too few repeats."""

    @property
    def seeds(self) -> int:
        """Number of repeats of the chosen trial."""
        return len(self.scores)

    @property
    def setting(self) -> str:
        """The setting's name and description."""
        return f"{self.name}: {self.about}"

    @property
    def configuration(self) -> str:
        """The values in which the chosen trial differs from the default."""
        if self.number is None:
            return ""
        return assignments(self.record.differences(self.number)) or DEFAULT

    @property
    def backbone(self) -> str:
        """Origin and hash of the pretrained weights; `-` for random initialization."""
        base = self.record.manifest.base
        if not base.get("init.file"):
            return "-"
        origin = base["init.origin"] or Path(base["init.file"]).name
        return f"{origin} ({base['init.sha256'][:8]})"

    @property
    def minutes(self) -> float:
        """Training time of trials and repeats, in minutes."""
        runs = [*self.record.trials.values(), *self.record.repeats.values()]
        return sum(run.seconds for run in runs) / 60

    @property
    def chosen_repeats(self) -> list[Run]:
        """The completed repeats of the chosen trial."""
        return [
            run
            for (number, _), run in self.record.repeats.items()
            if number == self.number and run.state == "COMPLETE"
        ]


@dataclass(frozen=True)
class Difference:
    """The test accuracy of one setting minus that of another."""

    name: str
    """Names of the two settings, such as `C-A`."""

    gain: Interval

    p_holm: float
    """P-value corrected for all differences of the table (Holm)."""

    level: float = significance(1)
    """Significance level: the difference is decided if `p_holm` is below it."""

    withheld: str = ""
    """Reason to give no verdict, regardless of the p-value; "" if there is none."""

    about: str = ""
    """Suffix of the better setting's name in the verdict, such as `'s configuration`; "" if the
    verdict is about the setting itself."""

    @property
    def verdict(self) -> str:
        """Name the better setting, or say `not decided`.

        The corrected p-value decides. A single 95 % interval is wrong once in twenty questions, and
        a table asks several.
        """
        first, second = sides(self.name)
        if self.withheld:
            return self.withheld
        if not self.p_holm < self.level:
            return "not decided"
        better = first if self.gain.mean > 0 else second
        return f"{better}{self.about} is better"

    def __str__(self) -> str:
        return f"{self.verdict}: {self.gain}, p = {self.p_holm:.2g} among all questions"


@dataclass(frozen=True)
class ComparisonTable:
    """All settings of a comparison that have started."""

    group: str
    comparison: Comparison

    command: str
    """The command that resumes the settings."""

    metric: str
    rows: list[TableRow]
    differences: list[Difference]

    missing: list[str]
    """Settings without repeats."""

    @property
    def title(self) -> str:
        """Names of the group and of the comparison."""
        return f"{self.group}: {self.comparison.title}"

    @property
    def questions(self) -> Mapping[str, str]:
        """Name of a difference -> the question that it answers."""
        return self.comparison.questions

    @property
    def judged(self) -> list[TableRow]:
        """The rows that have repeats."""
        return [row for row in self.rows if row.accuracy is not None]

    @property
    def covers_images(self) -> bool:
        """True if all intervals also cover another draw of test images."""
        return all(row.outcomes for row in self.judged)


def compare_settings(folder: Path, search: int | None = None) -> ComparisonTable:
    """Compare the settings of a group.

    Args:
        folder: the group's folder; it need not exist.
        search: number of the search, if the group has several searches of each setting.
    Raises:
        UserError: no setting has started.
    """
    begun = members(folder, search)
    if begun is None and (folder / "study.json").exists():
        show = command("report", "show", folder.name, storage=folder.parent)
        raise UserError(f"{folder.name!r} is one study, not a comparison of settings: `{show}`")
    if begun is None:
        raise UserError(
            f"no setting of {folder.name!r} in {folder.parent}: "
            f"run `{command('run', 'classify', storage=folder.parent)}` first"
        )

    comparison = begun.comparison
    records = {name: read_record(path) for name, path in begun.folders.items()}
    first = next(iter(records.values()))
    metric = test_metric(first.objective)

    rows = []
    for name, record in records.items():
        rows.append(row_of(name, comparison.settings[name].about, record, metric))

    judged = {row.name: row for row in rows if row.accuracy is not None}
    return ComparisonTable(
        group=folder.name,
        comparison=comparison,
        command=begun.command,
        metric=metric,
        rows=rows,
        differences=corrected(
            _gains(comparison.questions, judged, metric),
            len(comparison.questions),
            about=ONE_SEARCH,
        ),
        missing=[name for name in comparison.settings if name not in judged],
    )


def corrected(gains: Mapping[str, Interval], questions: int, **common: Any) -> list[Difference]:
    """Correct the p-values of a table's differences.

    Args:
        gains: the differences that could be estimated.
        questions: number of questions that the comparison asks.
        common: further fields of every `Difference`.
    """
    p_values = holm([gain.p for gain in gains.values()], questions)
    return [
        Difference(name, gain, p_holm, **common)
        for (name, gain), p_holm in zip(gains.items(), p_values, strict=True)
    ]


def row_of(name: str, about: str, record: Record, metric: str) -> TableRow:
    """Build the table row of one study from its record.

    Args:
        metric: metric on the test split.
    """
    number = record.best_number()
    scores = {}
    outcomes: Runs = {}
    if number is not None:
        scores = repeat_scores(record, number, metric)
        outcomes = outcomes_of(record, number)
    default_scores = repeat_scores(record, 0, metric)
    if diverged_without_baseline(record, number or 0):
        scores, default_scores = {}, {}
    of_default = sampling_variance(metric, outcomes_of(record, 0))
    return TableRow(
        name=name,
        about=about,
        record=record,
        number=number,
        scores=scores,
        outcomes=outcomes,
        accuracy=_accuracy(record, scores, sampling_variance(metric, outcomes)),
        default=_accuracy(record, default_scores, of_default),
    )


def _accuracy(
    record: Record, scores: Mapping[int, float], of_images: float | None
) -> Interval | None:
    """Estimate the mean over a configuration's repeats; None for fewer than two.

    Args:
        of_images: variance over other samples of test images; None if it is unknown.
    """
    if len(scores) < 2:
        return None
    mean = mean_of(list(scores.values()), of_images or 0.0)
    if record.manifest.function and of_images is None:
        return mean  # the range of its metric is unknown
    return mean.clipped_to_unit()


def _gains(
    questions: Mapping[str, str], judged: Mapping[str, TableRow], metric: str
) -> dict[str, Interval]:
    """Return the differences that can be estimated, in the order of the questions."""
    gains = {}
    for name in questions:
        first, second = sides(name)
        if first not in judged or second not in judged:
            continue
        row, other = judged[first], judged[second]
        if same_data(row.record, other.record):
            of_images = sampling_variance(metric, row.outcomes, other.outcomes)
            gains[name] = difference(row.scores, other.scores, of_images or 0.0)
    return gains
