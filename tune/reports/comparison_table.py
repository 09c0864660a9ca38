"""The verdict on a comparison of settings: accuracy with intervals, paired differences, what it
cost, and what each setting chose.

    python tune/report.py table [GROUP]          # prints it, and writes table.md, table.csv, table.html and table.png in the group's folder
"""

import base64
import csv
import io
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from rich.console import Console
from rich.table import Table

from search_spaces.settings import Comparison
from trainables.errors import UserError
from trainables.files import write_atomically
from trainables.plots.curves import draw_curves
from trainables.plots.style import COLOURS
from tune.formatting import DEFAULT, assignments, plain_console
from tune.reports.config_differences import config_differences, same_data
from tune.reports.html_page import escape, page
from tune.reports.html_page import table as html_table
from tune.reports.statistics import LEVEL, Interval, difference, holm, mean_of
from tune.reports.verdict import test_metric
from tune.study.group import Group, members
from tune.study.record import Record, chosen, leaders, read_record, table_of

_FILE_WIDTH = 150  # columns, where the output is no terminal
FILES = ("table.md", "table.csv", "table.html", "table.png")


@dataclass(frozen=True)
class Row:
    """One setting. Accuracies are shares of the test split, over the repeats of the chosen
    configuration; None where there are none."""

    name: str
    about: str
    record: Record
    number: int | None
    accuracy: Interval | None
    default: Interval | None
    seeds: int

    @property
    def setting(self) -> str:
        return f"{self.name}: {self.about}"

    @property
    def configuration(self) -> str:
        if self.number is None:
            return ""
        return assignments(self.record.departures(self.number)) or DEFAULT

    @property
    def backbone(self) -> str:
        base = self.record.manifest.base
        return (
            f"{base['init.origin'] or Path(base['init.file']).name} ({base['init.sha256'][:8]})"
            if base["init.file"]
            else "-"
        )

    @property
    def minutes(self) -> float:
        """Training time of trials and repeats."""
        return (
            sum(
                run.seconds for run in [*self.record.trials.values(), *self.record.repeats.values()]
            )
            / 60
        )


@dataclass(frozen=True)
class Difference:
    """One setting's accuracy minus another's."""

    name: str
    gain: Interval
    p_holm: float

    @property
    def verdict(self) -> str:
        """Which is better, where all differences of the table together leave no doubt: an interval
        alone would be wrong once in twenty questions, and a table asks several."""
        first, _, second = self.name.partition("-")
        if self.p_holm >= 1 - LEVEL:
            return "not decided"
        return f"{first} is better" if self.gain.mean > 0 else f"{second} is better"

    def __str__(self) -> str:
        return f"{self.verdict}: {self.gain}, p = {self.p_holm:.2g} among all questions"


@dataclass(frozen=True)
class Verdict:
    """All of the table."""

    group: str
    comparison: Comparison
    command: str
    metric: str
    rows: list[Row]
    differences: list[Difference]
    missing: list[str]

    @property
    def title(self) -> str:
        return f"{self.group}: {self.comparison.title}"

    @property
    def questions(self) -> Mapping[str, str]:
        return self.comparison.questions


def verdict(folder: Path) -> Verdict:
    """The table of a group.

    Raises:
        UserError: none of its settings has been begun.
    """
    begun = members(folder)
    if begun is None:
        raise UserError(
            f"no setting of {folder.name!r} in {folder.parent}: run `python tune/run.py classify` first"
        )
    comparison = begun.comparison
    records = {name: read_record(path) for name, path in begun.folders.items()}
    metric = test_metric(next(iter(records.values())).manifest.objective)
    rows = [
        _row(name, comparison.settings[name].about, record, metric)
        for name, record in records.items()
    ]
    found = {row.name: row for row in rows if row.accuracy is not None}
    gains = {}
    for name in comparison.questions:
        first, _, second = name.partition("-")
        if (
            first in found
            and second in found
            and (gain := _gain(found[first], found[second], metric)) is not None
        ):
            gains[name] = gain
    adjusted = holm([gain.p for gain in gains.values()])
    differences = [
        Difference(name, gain, p) for (name, gain), p in zip(gains.items(), adjusted, strict=True)
    ]
    missing = [name for name in comparison.settings if name not in found]
    return Verdict(folder.name, comparison, begun.command, metric, rows, differences, missing)


def _row(name: str, about: str, record: Record, metric: str) -> Row:
    number = chosen(record.completed, record.top, record.finals(), record.manifest.objective)
    numbers, scores = table_of(record.finals(), leaders(record.completed, record.top), metric)
    known = number in numbers and scores.shape[1] > 1
    _, default = table_of(record.finals(), [0], metric)
    return Row(
        name,
        about,
        record,
        number,
        mean_of(scores, numbers.index(number)).clipped_to_unit() if known else None,  # type: ignore[arg-type]
        mean_of(default, 0).clipped_to_unit() if default.shape[1:] > (1,) else None,
        scores.shape[1],
    )


def _gain(first: Row, second: Row, metric: str) -> Interval | None:
    """Paired by seed; the noise is estimated from all configurations that were repeated in either
    setting. None of other images."""
    if not same_data(first.record, second.record):
        return None
    finals = {
        (f"{row.name}{n}", seed): m
        for row in (first, second)
        for (n, seed), m in row.record.finals().items()
    }
    names = [
        f"{row.name}{n}"
        for row in (first, second)
        for n in leaders(row.record.completed, row.record.top)
    ]
    rows, scores = table_of(finals, names, metric)
    if scores.shape[1] < 2:
        return None
    return difference(
        scores,
        rows.index(f"{first.name}{first.number}"),
        rows.index(f"{second.name}{second.number}"),
    )


def as_cells(found: Verdict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the first table, as text."""
    header = ["setting", "test accuracy", "95 % interval", "untuned default"]
    header += ["trials", "epochs", "minutes", "backbone"]
    references = found.comparison.references
    if references:
        header.append(found.comparison.reference_title)
    rows = []
    for row in found.rows:
        accuracy = (
            ("-", "-")
            if row.accuracy is None
            else (f"{row.accuracy.mean:.3f}", range_of(row.accuracy))
        )
        rows.append(
            [
                row.setting,
                *accuracy,
                "-" if row.default is None else f"{row.default.mean:.3f}",
                str(len(row.record.trials)),
                str(row.record.epochs),
                f"{row.minutes:.1f}",
                row.backbone,
                *([" / ".join(f"{x:g}" for x in references[row.name])] if references else []),
            ]
        )
    return header, rows


class Answered(Protocol):
    """A table's second part."""

    @property
    def questions(self) -> Mapping[str, str]: ...
    @property
    def differences(self) -> list[Difference]: ...


def comparison_cells(found: Answered) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the second table."""
    header = ["difference", "question", "estimate", "95 % interval", "p", "p (Holm)", "verdict"]
    return header, [
        [
            d.name,
            found.questions[d.name],
            f"{d.gain.mean:+.3f}",
            range_of(d.gain),
            f"{d.gain.p:.3g}",
            f"{d.p_holm:.3g}",
            d.verdict,
        ]
        for d in found.differences
    ]


def notes(found: Verdict) -> list[str]:
    """How to read it."""
    known = [row for row in found.rows if row.accuracy is not None]
    seeds = " or ".join(map(str, sorted({row.seeds for row in known}))) or "no"
    said = [
        f"Test accuracy: mean over {seeds} fresh seeds of the configuration whose repeats have the best mean on the validation split; the "
        "test split has been looked at by nothing else.",
        "Intervals are about the randomness of training, paired by seed (two-way block design, Student t); they cover neither another "
        "draw of images nor another search (`table --with` does, over searches). Holm's p-values hold for all "
        f"differences at once, and decide under {1 - LEVEL:.2f}.",
        *filter(None, [found.comparison.reference_note]),
    ]
    for row in known[1:]:
        if differing := config_differences(known[0].record, row.record, found.comparison):
            apart = (
                ""
                if same_data(known[0].record, row.record)
                else ", so that a difference of theirs would say nothing and is left out"
            )
            said.append(
                f"{known[0].name} and {row.name} were not searched alike: {', '.join(differing)}{apart}."
            )
    if found.missing:
        said.append(
            f"Without repeats so far: {', '.join(found.missing)}. `{found.command}` goes on with them."
        )
    return said


def show(found: Verdict, out: Console) -> None:
    """Print both tables."""
    print_cells(out, "", *as_cells(found))
    print_cells(out, "differences, paired by seed", *comparison_cells(found))
    for row in found.rows:
        if row.number is not None:
            out.print(f"{row.name}: trial {row.number}, {row.configuration}")
    for note in notes(found):
        out.print(f"note: {note}")


def print_cells(out: Console, title: str, header: list[str], rows: list[list[str]]) -> None:
    """A table of texts, and an empty line."""
    table = Table(
        box=None, pad_edge=False, header_style="bold", title=title or None, title_justify="left"
    )
    for column in header:
        table.add_column(column, overflow="fold")
    for cells in rows:
        table.add_row(*cells)
    out.print(table)
    out.print()


def wide_console() -> Console:
    """For tables: as wide as the terminal, and wide where the output is none."""
    return plain_console(None if sys.stdout.isatty() else _FILE_WIDTH)


def publish(group: Path | Group) -> Verdict:
    """Write the table's files into the group's folder and, where a group is given, put them on
    record for MLflow."""
    folder = group.folder if isinstance(group, Group) else group
    found = verdict(folder)
    folder.mkdir(exist_ok=True)
    figure = draw(found, folder / "table.png")
    write_atomically(folder / "table.md", markdown(found))
    write_atomically(folder / "table.csv", as_csv(found))
    write_atomically(folder / "table.html", as_html(found, figure))
    show(found, wide_console())
    if isinstance(group, Group):
        for name in FILES:
            group.say("artifact", trial=None, path=name, to="table")
        metrics = {
            f"{found.metric}/{row.name}": row.accuracy.mean
            for row in found.rows
            if row.accuracy is not None
        }
        metrics |= {f"{found.metric}/{d.name}": d.gain.mean for d in found.differences}
        group.say(
            "summary",
            metrics=metrics,
            tags={f"verdict.{d.name}": str(d) for d in found.differences},
        )
    return found


def markdown(found: Verdict) -> str:
    """Both tables in Markdown."""
    parts = [f"# {found.title}", ""]
    for header, rows in (as_cells(found), comparison_cells(found)):
        parts += [
            f"| {' | '.join(header)} |",
            "|" + "---|" * len(header),
            *(f"| {' | '.join(row)} |" for row in rows),
            "",
        ]
    parts += [
        f"- {row.name}: trial {row.number}, {row.configuration}"
        for row in found.rows
        if row.number is not None
    ]
    return "\n".join([*parts, "", *(f"- {note}" for note in notes(found)), ""])


def as_csv(found: Verdict) -> str:
    """One line a setting and one a difference, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(
        [
            "row",
            "estimate",
            "low",
            "high",
            "p",
            "p_holm",
            "seeds",
            "trials",
            "epochs",
            "minutes",
            "chosen_trial",
            "backbone",
        ]
    )
    for row in found.rows:
        a = row.accuracy
        estimate = ["", "", ""] if a is None else [a.mean, a.low, a.high]
        cost = [len(row.record.trials), row.record.epochs, row.minutes]
        writer.writerow([row.name, *estimate, "", "", row.seeds, *cost, row.number, row.backbone])
    for d in found.differences:
        writer.writerow(
            [d.name, d.gain.mean, d.gain.low, d.gain.high, d.gain.p, d.p_holm, *[""] * 6]
        )
    return text.getvalue()


def as_html(found: Verdict, figure: bytes) -> str:
    """One self-contained page."""
    return page(found.title, f"<h1>{escape(found.title)}</h1>{html_body(found, figure)}")


def html_body(found: Verdict, figure: bytes) -> str:
    """Tables, picture, what was chosen, and how to read it.

    Args:
        figure: what `draw` returned.
    """
    picture = base64.b64encode(figure).decode()
    known = [row for row in found.rows if row.number is not None]
    choices = "".join(
        f"<li><b>{row.name}</b>: trial {row.number}, {escape(row.configuration)}</li>"
        for row in known
    )
    said = "".join(f"<li><small>{escape(note)}</small></li>" for note in notes(found))
    return (
        f"{html_table(*as_cells(found), long=(8,))}"
        f'<img alt="test accuracy with intervals, and learning curves" src="data:image/png;base64,{picture}">'
        f"<h2>Differences, paired by seed</h2>{html_table(*comparison_cells(found))}"
        f"<h2>Chosen configurations</h2><ul>{choices}</ul><h2>How to read it</h2><ul>{said}</ul>"
    )


def draw(found: Verdict, path: Path) -> bytes:
    """Accuracy with intervals beside the learning curves of the chosen configurations; also
    returned as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    curves = {row.setting: runs for row in found.rows if (runs := _curves(row))}
    colours = {
        row.setting: COLOURS[list(found.comparison.settings).index(row.name)] for row in found.rows
    }
    for y, row in enumerate(found.rows):
        colour = colours[row.setting]
        if row.accuracy is not None:
            bounds = [
                [max(0.0, row.accuracy.mean - row.accuracy.low)],
                [row.accuracy.high - row.accuracy.mean],
            ]
            left.errorbar(row.accuracy.mean, y, xerr=bounds, fmt="o", color=colour, capsize=4)
        if row.default is not None:
            left.plot(row.default.mean, y, "|", color="0.45", markersize=13)
    left.set_yticks(range(len(found.rows)), [row.setting for row in found.rows])
    left.invert_yaxis()
    left.set_xlabel("test accuracy, 95 % interval; bar: untuned default")
    if curves:
        draw_curves(right, curves, found.rows[0].record.objective, colours)
    else:
        right.set_axis_off()
    for ax in (left, right):
        ax.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=130)
    return path.read_bytes()


def _curves(row: Row) -> list[list[float]]:
    """Validation metric of the chosen configuration's repeats by epoch."""
    runs = [
        run
        for (number, _), run in row.record.repeats.items()
        if number == row.number and run.state == "COMPLETE"
    ]
    return [
        [metrics[row.record.objective] for metrics in run.history] for run in runs if run.history
    ]


def range_of(interval: Interval) -> str:
    """Its bounds, in three digits."""
    return f"{interval.low:.3f} to {interval.high:.3f}"
