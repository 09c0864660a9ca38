"""`python tune/report.py html STUDY`: the results of a study in one HTML file that works offline.

The page is built only from the record and written beside it, so the study may be running,
interrupted or finished.
"""

from collections.abc import Iterator
from pathlib import Path

from markupsafe import Markup

from trainables.files import write_result
from tune.formatting import moment
from tune.reports.html_classes import classes
from tune.reports.html_cost import against_cost, cost_title
from tune.reports.html_page import page, render
from tune.reports.html_parameters import parameter_sections
from tune.reports.html_pictures import pictures
from tune.reports.html_sections import (
    against_default,
    budget,
    data,
    failures,
    health,
    leaderboard,
    learning_curves,
    opening,
    reproduction,
)
from tune.reports.verdict import StudyVerdict, judge_study
from tune.study.record import Record, read_record


def write_report(folder: Path) -> Path:
    """Write `report.html` into a study's folder.

    Raises:
        UserError: there is no study.
    """
    record = read_record(folder)
    verdict = judge_study(record)
    manifest = record.manifest
    about = (
        f"{manifest.experiment} on {manifest.data['name']}, preset {manifest.preset}, "
        f"seed {manifest.seed}, begun {moment(manifest.created)}"
    )
    body = render(
        "study.html",
        name=manifest.name,
        about=about,
        opening=opening(record, verdict),
        sections=dict(_sections(record, verdict)),
    )
    path = folder / "report.html"
    write_result(path, page(f"{manifest.name}: report", body))
    return path


def _sections(record: Record, verdict: StudyVerdict | None) -> Iterator[tuple[str, Markup]]:
    """Yield title and content of each section, in the order of the page."""
    number = record.best_number()
    yield "Health checks", health(record)
    summary = record.manifest.data_summary
    if summary is not None:
        yield "Data", data(record, summary)
    if record.trials:
        yield "Leaderboard", leaderboard(record)
    if number is not None:
        yield "Best against default", against_default(record, number, verdict)
    if len(record.completed) > 1:
        yield cost_title(record), against_cost(record)
    if any(run.history for run in record.trials.values()):
        yield "Learning curves", learning_curves(record)
        yield from parameter_sections(record, number)
    yield "Budget", budget(record)
    yield "Failures", failures(record)
    if number is not None:
        by_class = classes(record, number)
        if by_class:
            yield f"Results by class of trial {number}", by_class
        shown = pictures(record, number)
        if shown:
            yield f"Pictures of trial {number}", shown
    yield "How to repeat it", reproduction(record, number)
