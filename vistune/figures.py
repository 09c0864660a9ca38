"""The figures of a study's report, for a notebook."""

from typing import TYPE_CHECKING

from trainables.config import nearest
from trainables.errors import UserError
from tune.study.record import Record

if TYPE_CHECKING:
    import plotly.graph_objects as go

    from tune.reports.trial_points import ParameterAxis

_AXIS_WIDTH = 110  # pixels per axis of parallel coordinates
_WIDE = 700


class Figures:
    """Figures of a study, drawn from its record."""

    @property
    def record(self) -> Record:
        """The study's current record."""
        raise NotImplementedError

    def plot_curves(self) -> "go.Figure":
        """Plot the objective of every trial by epoch, with the best trial and the default
        highlighted.

        Raises:
            UserError: the record has no epochs yet.
        """
        from tune.reports.html_figures import curves

        record = self.record
        if not record.epochs:
            raise UserError(f"study {record.folder.name!r} has no epoch on record yet")
        return finished_figure(curves(record, record.best_number()), height=460)

    def plot_importances(self) -> "go.Figure":
        """Plot the share of the differences between trials that each parameter explains.

        Raises:
            UserError: too few trials have ended.
        """
        from tune.reports.html_figures import importance_bars
        from tune.reports.importances import FEW, importances
        from tune.reports.trial_points import first_rung

        record = self.record
        found = importances(record.frozen_trials(), first_rung(record))
        if not found:
            raise UserError(
                f"importances need {FEW} trials that ended at one epoch; study "
                f"{record.folder.name!r} has fewer: give more with trials="
            )
        names = {name for result in found for name in result.shares}
        return finished_figure(importance_bars(found), height=130 + 34 * len(names))

    def plot_parallel(self) -> "go.Figure":
        """Plot parallel coordinates: one line per trial, one axis per parameter.

        Raises:
            UserError: no trial has a searched parameter yet.
        """
        from tune.reports.parameter_figures import parallel
        from tune.reports.trial_points import first_rung, trial_points

        record = self.record
        axes = _axes(record)
        points = trial_points(record)
        drawn = parallel(points, list(axes.values()), first_rung(record))
        width = max(_WIDE, _AXIS_WIDTH * len(drawn.data[0].dimensions))
        return finished_figure(drawn, height=440, width=width)

    def plot_slice(self, parameter: str) -> "go.Figure":
        """Plot the objective against one searched parameter.

        Args:
            parameter: its config path, such as `optim.lr`.
        Raises:
            UserError: the parameter is not searched.
        """
        from tune.reports.parameter_figures import slices
        from tune.reports.trial_points import trial_points

        record = self.record
        axes = _axes(record)
        if parameter not in axes:
            raise UserError(f"{parameter!r} is not searched{nearest(parameter, axes)}")
        points = trial_points(record)
        drawn = slices(points, axes[parameter], record.objective, record.best_number())
        return finished_figure(drawn, height=300)

    def plot_best_of_n(self) -> "go.Figure":
        """Plot the best objective of n trials against n, with a 95 % band.

        Raises:
            UserError: too few trials have ended, or the objective is not in [0, 1].
        """
        from tune.reports.tuning_figure import tuning_figure

        record = self.record
        drawn = tuning_figure({record.folder.name: [record]})
        if drawn is None:
            raise UserError(
                f"study {record.folder.name!r} has too few trials with an objective in [0, 1]"
            )
        return finished_figure(drawn, height=420)

    def plot_front(self, cost: str | None = None) -> "go.Figure":
        """Plot the first objective of every completed trial against another objective, or against
        training time, with the front of the two.

        Args:
            cost: metric of the other objective; None: the second one, or the training time if there
                is only one objective.
        Raises:
            UserError: fewer than two trials are complete, or there is no such objective.
        """
        from tune.reports.cost_figure import cost_figure, costs_of

        record = self.record
        points, (value, *others) = costs_of(record)
        if len(points) < 2:
            raise UserError(f"study {record.folder.name!r} has fewer than two completed trials")
        costs = {other.metric: other for other in others}
        if cost is not None and cost not in costs:
            raise UserError(f"{cost!r} is not one of the further objectives{nearest(cost, costs)}")
        drawn = cost_figure(points, value, costs[cost or others[0].metric])
        return finished_figure(drawn, height=380)

    def plot_against_default(self) -> "go.Figure":
        """Plot the test metric of the best trial and of the default, under fresh seeds.

        Raises:
            UserError: one of them has fewer than two repeats.
        """
        from tune.reports.html_figures import against_default
        from tune.reports.verdict import claim, judge_study

        record = self.record
        verdict = judge_study(record)
        if verdict is None:
            raise UserError(f"nothing to draw: {claim(record, None)}")
        return finished_figure(against_default(record, verdict), height=240)


def _axes(record: Record) -> "dict[str, ParameterAxis]":
    """Return searched parameter -> its axis.

    Raises:
        UserError: there is nothing to draw.
    """
    from tune.reports.trial_points import parameter_axes

    axes = {axis.name: axis for axis in parameter_axes(record)}
    if not axes:
        raise UserError(f"study {record.folder.name!r} has searched no parameter yet")
    return axes


def finished_figure(figure: "go.Figure", *, height: int, width: int | None = None) -> "go.Figure":
    """Apply the layout that a report page would give to the figure."""
    from tune.reports.html_page import with_layout

    spec = with_layout(figure, height)
    layout = spec["layout"] | {"template": "none", "width": width}
    return type(figure)(spec["data"], layout)
