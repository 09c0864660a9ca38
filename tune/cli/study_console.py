"""Create the console for a run of a study, and print the lines to read before it starts."""

from optuna.trial import FrozenTrial

from tune.cli.caller import Caller
from tune.cli.clock import Clock
from tune.cli.console import Console
from tune.cli.options import Options
from tune.cli.prepare import Prepared
from tune.formatting import line_width
from tune.study.study import Study
from tune.study.warm_start import beginning


def console_of(
    study: Study, prepared: Prepared, options: Options, caller: Caller, clock: Clock
) -> Console:
    """Create the console of this run, including the trials of earlier runs."""
    console = _empty_console(study, options, caller, clock)

    without_labels = study.objective.startswith(("val/view_", "val/rankme"))
    unlabelled = without_labels and prepared.data.gallery is None
    why = " (there are no labels for kNN)" if unlabelled else ""
    console.line(
        f"study {study.manifest.name}: {prepared.data.headline()}; "
        f"searched by {study.objective}{why}, preset {study.manifest.preset}"
    )
    for line in prepared.data.summary.short_lines(line_width(console.out)):
        console.line(line)
    for line in (prepared.start, *prepared.notes, *beginning(study.manifest.warm_start)):
        if line:
            console.line(line)

    for trial in study.frozen_trials():
        if trial.state.is_finished() or trial.intermediate_values:
            _show_earlier(console, trial)

    return console


def _empty_console(study: Study, options: Options, caller: Caller, clock: Clock) -> Console:
    """Create a console for a terminal, a notebook, a pipe, or no output."""
    about = (study.objective, study.epochs, options.trial_count)
    if caller.shows_table:
        from tune.cli.notebook import NotebookConsole

        return NotebookConsole(*about, clock=clock)

    # A live table would draw over the prompt of a debugger.
    as_lines = options.local or caller.progress == "text"
    return Console(
        *about,
        interactive=False if as_lines else None,
        quiet=caller.progress == "none",
        clock=clock,
    )


def _show_earlier(console: Console, trial: FrozenTrial) -> None:
    values = trial.intermediate_values
    best = trial.value
    if best is None:
        best = max(values.values(), default=None)

    state = trial.state.name.lower() if trial.state.is_finished() else "running"
    reason = trial.user_attrs.get("reason", "")
    console.know(trial.number, state, max(values, default=0), best, reason)
