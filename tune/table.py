"""The verdict on settings A to E: accuracy with intervals, paired differences, what it cost, and what each setting chose.

    python tune/report.py table [GROUP]          # prints it, and writes table.md, table.csv, table.html and table.png in the group's folder
"""

import base64
import csv
import io
import sys
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from search_spaces.classify import SETTINGS
from trainables.curve_plots import draw_curves
from trainables.errors import UserError
from trainables.plot_style import COLOURS
from tune.evidence import test_metric
from tune.group import Group
from tune.html_page import escape, page
from tune.html_page import table as html_table
from tune.intervals import Interval, difference, holm, mean_of
from tune.manifest import write_atomically
from tune.record import Record, chosen, leaders, read_record, table_of
from tune.wording import DEFAULT, assignments

COMPARED = {
    "C-A": "does pre-training without labels help",
    "C-B": "does it beat pre-training with labels",
    "E-D": "the same, backbone frozen",
    "B-A": "does pre-training with labels help",
}
REPORTS = {
    "A": (62.1, 41.0, 48.28, 23.0), "B": (61.3, 59.5, 49.26, 35.0), "C": (63.5, 49.6, 55.67, 46.0),
    "D": (26.0, 53.9, 22.66, 36.0), "E": (47.9, 34.0, 22.91, 44.0),
}  # fmt: skip
"""Office-Home accuracy in percent of four course reports (R0 to R3; R4 has none), each one run per setting."""
_FILE_WIDTH = 150  # columns, where the output is no terminal
FILES = ("table.md", "table.csv", "table.html", "table.png")


@dataclass(frozen=True)
class Row:
    """One setting. Accuracies are shares of the test split, over the repeats of the chosen configuration; None where there are none."""

    letter: str
    record: Record
    number: int | None
    accuracy: Interval | None
    default: Interval | None
    seeds: int

    @property
    def setting(self) -> str:
        s = SETTINGS[self.letter]
        return f"{self.letter}: {s.init}, {'all trains' if s.trains == 'all' else 'head alone'}"

    @property
    def configuration(self) -> str:
        if self.number is None:
            return ""
        return assignments(self.record.departures(self.number)) or DEFAULT

    @property
    def backbone(self) -> str:
        base = self.record.manifest.base
        return f"{base['init.origin'] or Path(base['init.file']).name} ({base['init.sha256'][:8]})" if base["init.file"] else "-"

    @property
    def minutes(self) -> float:
        """Training time of trials and repeats."""
        return sum(run.seconds for run in [*self.record.trials.values(), *self.record.repeats.values()]) / 60


@dataclass(frozen=True)
class Comparison:
    """One setting's accuracy minus another's."""

    name: str
    gain: Interval
    p_holm: float

    @property
    def verdict(self) -> str:
        first, _, second = self.name.partition("-")
        if not self.gain.decided:
            return "not decided"
        return f"{first} is better" if self.gain.low > 0 else f"{second} is better"


@dataclass(frozen=True)
class Verdict:
    """All of the table."""

    group: str
    metric: str
    rows: list[Row]
    comparisons: list[Comparison]
    missing: list[str]


def verdict(folder: Path) -> Verdict:
    """The table of a group.

    Raises:
        UserError: none of its settings has been begun.
    """
    members = {letter: folder.parent / f"{folder.name}-{letter}" for letter in SETTINGS}
    records = {letter: read_record(path) for letter, path in members.items() if (path / "study.json").exists()}
    if not records:
        raise UserError(f"no setting of {folder.name!r} in {folder.parent}: run `python tune/run.py classify` first")
    metric = test_metric(next(iter(records.values())).manifest.objective)
    rows = [_row(letter, record, metric) for letter, record in records.items()]
    found = {row.letter: row for row in rows if row.accuracy is not None}
    gains = {}
    for name in COMPARED:
        first, _, second = name.partition("-")
        if first in found and second in found and (gain := _gain(found[first], found[second], metric)) is not None:
            gains[name] = gain
    adjusted = holm([gain.p for gain in gains.values()])
    comparisons = [Comparison(name, gain, p) for (name, gain), p in zip(gains.items(), adjusted, strict=True)]
    missing = [letter for letter in SETTINGS if letter not in found]
    return Verdict(folder.name, metric, rows, comparisons, missing)


def _row(letter: str, record: Record, metric: str) -> Row:
    number = chosen(record.completed, record.top, record.finals(), record.manifest.objective)
    numbers, scores = table_of(record.finals(), leaders(record.completed, record.top), metric)
    known = number in numbers and scores.shape[1] > 1
    _, default = table_of(record.finals(), [0], metric)
    return Row(
        letter, record, number, mean_of(scores, numbers.index(number)) if known else None,  # type: ignore[arg-type]
        mean_of(default, 0) if default.shape[1:] > (1,) else None, scores.shape[1],
    )  # fmt: skip


def _gain(first: Row, second: Row, metric: str) -> Interval | None:
    """Paired by seed; the noise is estimated from all configurations that were repeated in either setting."""
    finals = {(f"{row.letter}{n}", seed): m for row in (first, second) for (n, seed), m in row.record.finals().items()}
    names = [f"{row.letter}{n}" for row in (first, second) for n in leaders(row.record.completed, row.record.top)]
    rows, scores = table_of(finals, names, metric)
    if scores.shape[1] < 2:
        return None
    return difference(scores, rows.index(f"{first.letter}{first.number}"), rows.index(f"{second.letter}{second.number}"))


def as_cells(found: Verdict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the first table, as text."""
    header = ["setting", "test accuracy", "95 % interval", "untuned default"]
    header += ["trials", "epochs", "minutes", "backbone", "reports R0-R3 (%)"]
    rows = []
    for row in found.rows:
        accuracy = ("-", "-") if row.accuracy is None else (f"{row.accuracy.mean:.3f}", _range(row.accuracy))
        rows.append([
            row.setting, *accuracy, "-" if row.default is None else f"{row.default.mean:.3f}", str(len(row.record.trials)),
            str(row.record.epochs), f"{row.minutes:.1f}", row.backbone, " / ".join(f"{x:g}" for x in REPORTS[row.letter]),
        ])  # fmt: skip
    return header, rows


def comparison_cells(found: Verdict) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the second table."""
    header = ["difference", "question", "estimate", "95 % interval", "p", "p (Holm)", "verdict"]
    return header, [
        [c.name, COMPARED[c.name], f"{c.gain.mean:+.3f}", _range(c.gain), f"{c.gain.p:.3g}", f"{c.p_holm:.3g}", c.verdict]
        for c in found.comparisons
    ]


def notes(found: Verdict) -> list[str]:
    """How to read it."""
    seeds = min((row.seeds for row in found.rows), default=0)
    said = [
        f"Test accuracy: mean over {seeds} fresh seeds of the configuration whose repeats have the best mean on the validation split; the "
        "test split has been looked at by nothing else.",
        "Intervals are about the randomness of training, paired by seed (two-way block design, Student t); they do not cover another draw "
        "of the test images. Holm's p-values hold for all differences at once.",
        "The reports' figures are single runs on Office-Home, each with its own amount of tuning: beside, not to be compared with, these.",
    ]
    if found.missing:
        said.append(f"Without repeats so far: {', '.join(found.missing)}. `python tune/run.py classify` goes on with them.")
    return said


def show(found: Verdict, out: Console) -> None:
    """Print both tables."""
    for title, (header, rows) in (("", as_cells(found)), ("differences, paired by seed", comparison_cells(found))):
        table = Table(box=None, pad_edge=False, header_style="bold", title=title or None, title_justify="left")
        for column in header:
            table.add_column(column, overflow="fold")
        for cells in rows:
            table.add_row(*cells)
        out.print(table)
        out.print()
    for row in found.rows:
        if row.number is not None:
            out.print(f"{row.letter}: trial {row.number}, {row.configuration}", markup=False)
    for note in notes(found):
        out.print(f"note: {note}", markup=False)


def publish(group: Path | Group) -> Verdict:
    """Write the table's files into the group's folder and, where a group is given, put them on record for MLflow."""
    folder = group.folder if isinstance(group, Group) else group
    found = verdict(folder)
    folder.mkdir(exist_ok=True)
    figure = draw(found, folder / "table.png")
    write_atomically(folder / "table.md", markdown(found))
    write_atomically(folder / "table.csv", as_csv(found))
    write_atomically(folder / "table.html", as_html(found, figure))
    show(found, Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _FILE_WIDTH))
    if isinstance(group, Group):
        for name in FILES:
            group.say("artifact", trial=None, path=name, to="table")
        metrics = {f"{found.metric}/{row.letter}": row.accuracy.mean for row in found.rows if row.accuracy is not None}
        metrics |= {f"{found.metric}/{c.name}": c.gain.mean for c in found.comparisons}
        group.say("summary", metrics=metrics, tags={f"verdict.{c.name}": f"{c.verdict}: {c.gain}" for c in found.comparisons})
    return found


def markdown(found: Verdict) -> str:
    """Both tables in Markdown."""
    parts = [f"# {found.group}: settings A to E", ""]
    for header, rows in (as_cells(found), comparison_cells(found)):
        parts += [f"| {' | '.join(header)} |", "|" + "---|" * len(header), *(f"| {' | '.join(row)} |" for row in rows), ""]
    parts += [f"- {row.letter}: trial {row.number}, {row.configuration}" for row in found.rows if row.number is not None]
    return "\n".join([*parts, "", *(f"- {note}" for note in notes(found)), ""])


def as_csv(found: Verdict) -> str:
    """One line a setting and one a difference, numbers in full."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["row", "estimate", "low", "high", "p", "p_holm", "seeds", "trials", "epochs", "minutes", "chosen_trial", "backbone"])
    for row in found.rows:
        a = row.accuracy
        estimate = ["", "", ""] if a is None else [a.mean, a.low, a.high]
        cost = [len(row.record.trials), row.record.epochs, row.minutes]
        writer.writerow([row.letter, *estimate, "", "", row.seeds, *cost, row.number, row.backbone])
    for c in found.comparisons:
        writer.writerow([c.name, c.gain.mean, c.gain.low, c.gain.high, c.gain.p, c.p_holm, *[""] * 6])
    return text.getvalue()


def as_html(found: Verdict, figure: bytes) -> str:
    """One self-contained page."""
    return page(f"{found.group}: settings A to E", f"<h1>{escape(found.group)}: settings A to E</h1>{html_body(found, figure)}")


def html_body(found: Verdict, figure: bytes) -> str:
    """Tables, picture, what was chosen, and how to read it.

    Args:
        figure: what `draw` returned.
    """
    picture = base64.b64encode(figure).decode()
    known = [row for row in found.rows if row.number is not None]
    choices = "".join(f"<li><b>{row.letter}</b>: trial {row.number}, {escape(row.configuration)}</li>" for row in known)
    said = "".join(f"<li><small>{escape(note)}</small></li>" for note in notes(found))
    return (
        f"{html_table(*as_cells(found), long=(8,))}"
        f'<img alt="test accuracy with intervals, and learning curves" src="data:image/png;base64,{picture}">'
        f"<h2>Differences, paired by seed</h2>{html_table(*comparison_cells(found))}"
        f"<h2>Chosen configurations</h2><ul>{choices}</ul><h2>How to read it</h2><ul>{said}</ul>"
    )


def draw(found: Verdict, path: Path) -> bytes:
    """Accuracy with intervals beside the learning curves of the chosen configurations; also returned as PNG."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 3.8), layout="constrained")
    FigureCanvasAgg(figure)
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    curves = {row.setting: runs for row in found.rows if (runs := _curves(row))}
    colours = {row.setting: COLOURS[list(SETTINGS).index(row.letter)] for row in found.rows}
    for y, row in enumerate(found.rows):
        colour = colours[row.setting]
        if row.accuracy is not None:
            bounds = [[max(0.0, row.accuracy.mean - row.accuracy.low)], [row.accuracy.high - row.accuracy.mean]]
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
    runs = [run for (number, _), run in row.record.repeats.items() if number == row.number and run.state == "COMPLETE"]
    return [[metrics[row.record.objective] for metrics in run.history] for run in runs if run.history]


def _range(interval: Interval) -> str:
    return f"{interval.low:.3f} to {interval.high:.3f}"
