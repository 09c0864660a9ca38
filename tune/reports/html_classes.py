"""Results by class of a trial, as a section of the study's report."""

from collections.abc import Sequence

from markupsafe import Markup

from trainables.class_metrics import CLASS_HEADER, class_rows, read_class_results, shown_classes
from trainables.files import CLASS_RESULTS
from tune.object_store import s3
from tune.reports.html_page import render, table
from tune.study.record import Record

_SHOWN = 40  # classes; if there are more, those with the lowest F1


def classes(record: Record, number: int) -> Markup:
    """Show count, precision, recall, F1 and IoU of each class; empty if the trial has no results by
    class.

    Args:
        number: the trial's number.
    """
    path = s3.present(record.folder / "trials" / f"{number:04d}" / CLASS_RESULTS)
    if not path.exists():
        return Markup()

    results = read_class_results(path)
    shown = shown_classes(results, _SHOWN)
    never = [result.name for result in results if result.count and not result.predicted]
    return render(
        "classes.html",
        table=table(list(CLASS_HEADER), class_rows(shown), numeric=(1, 2, 3, 4, 5)),
        shown=len(shown),
        total=len(results),
        counted="pixels" if record.manifest.experiment == "segment" else "images",
        never=_named(never),
    )


def _named(names: Sequence[str]) -> str:
    """Join the first names for a sentence."""
    more = ", ..." if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
