"""Report section on the cost of accuracy: the front of a study."""

from markupsafe import Markup

from tune.reports.cost_figure import cost_figure, costs_of
from tune.reports.front import front_conclusions, front_rows
from tune.reports.html_page import plot, render, table
from tune.study.record import Record


def cost_title(record: Record) -> str:
    """Return the section's title."""
    if len(record.objectives) > 1:
        return "Front of the objectives"
    return f"{record.objective} against training time"


def against_cost(record: Record) -> Markup:
    """Plot the first objective against each of the others, or against training time, above a table
    of the front."""
    points, objectives = costs_of(record)
    value, *costs = objectives
    figures = [
        plot(
            cost_figure(points, value, cost),
            f"{value.metric} against {cost.metric} of every completed trial",
            height=380,
        )
        for cost in costs
    ]
    header, rows = front_rows(points, objectives)
    return render(
        "front.html",
        figures=figures,
        table=table(header, rows, numeric=(0, *range(2, len(header)))),
        said=front_conclusions(record),
        single=len(record.objectives) == 1,
    )
