"""`--plan`: print what would run and what it would cost, without running it."""

import itertools
from typing import Any

from optuna.distributions import BaseDistribution
from rich.console import Console
from rich.table import Table

from search_spaces.settings import Comparison
from trainables.errors import TrialFailed
from tune.cli.options import Options
from tune.cli.prepare import Prepared
from tune.cli.profiling import profile
from tune.experiments import Experiment
from tune.formatting import counted, duration, line_width, plain_console, print_prose
from tune.reports.disk import expected_disk
from tune.reports.search_power import DIFFERENCE, SEED_SD, power, splitting_loss
from tune.search.ranges import write_yaml
from tune.search.rungs import RULES, rungs, rungs_of
from tune.search.space import SOMETIMES, describe, ranges_of, show
from tune.study.group import LOG
from tune.study.log_state import read_state
from tune.study.manifest import Manifest
from tune.study.rules import RepeatRule
from tune.study.warm_start import beginning


def show_plan(prepared: Prepared, options: Options) -> None:
    """Print the resolved config, the search space, the rungs, the resources, and the time and disk
    space estimated from one profiled step."""
    out = plain_console()
    _show_search(prepared, options, out)
    if prepared.manifest.function:
        for line in function_cost(prepared, options.trial_count):
            print_prose(out, line)
        return

    version = prepared.manifest.rules["rungs"]
    print_prose(out, _rungs_line(prepared.config.train.epochs, version))
    _show_cost(prepared, options, out)
    if out.is_terminal:  # config and space fill more than a screen
        out.print()
        _show_data(prepared.data, out)


def _show_search(prepared: Prepared, options: Options, out: Console) -> None:
    """Print the study's data, config and search space."""
    experiment, manifest, data = prepared.experiment, prepared.manifest, prepared.data
    known = f"fingerprint {data.fingerprint[:12]}; " if data.fingerprint else ""

    print_prose(
        out,
        f"study {manifest.name}: {experiment.about}; preset {manifest.preset}, "
        f"{counted(options.trial_count, 'trial')}",
    )
    print_prose(out, f"data: {data.headline()}; {known}searched by {manifest.objective}")
    _show_data(data, out)
    out.print(_config_table(experiment, manifest))
    for line in (prepared.start, *prepared.notes, *beginning(manifest.warm_start)):
        if line:
            print_prose(out, line)
    out.print(space_as_typed(experiment, manifest))


def _show_data(data: Any, out: Console) -> None:
    """Print the summary of the data."""
    for line in data.summary.lines(line_width(out)):
        out.print(line)


def _show_cost(prepared: Prepared, options: Options, out: Console) -> None:
    """Print the study's resources, time and disk space, estimated from one profiled step."""
    experiment, manifest, config = prepared.experiment, prepared.manifest, prepared.config
    try:
        cost = profile(experiment, config, prepared.data)
    except TrialFailed as failed:
        print_prose(out, f"no estimate: the first steps of trial 0 fail: {failed}")
        return
    rule = RepeatRule(str(manifest.rules["repeats"]), experiment.top)
    repeats = _repeats(manifest, rule)
    version = manifest.rules["rungs"]
    epochs = total_epochs(options.trial_count, repeats, config.train.epochs, version)

    device = "1 GPU" if cost.gpu else f"{config.train.threads} CPU thread(s)"
    print_prose(out, f"resources: {device} per trial, {cost.parameters / 1e6:.2f} M parameters")
    for line in cost.numerics:
        print_prose(out, line)
    print_prose(
        out,
        f"estimate from one profiled step ({cost.step_s * 1e3:.0f} ms) and one validation "
        f"({cost.validation_s:.1f} s): {cost.epoch_s:.1f} s an epoch, {epochs:.0f} epochs with "
        f"pruning and {repeats} repeats, {duration(epochs * cost.epoch_s)} on one worker",
    )
    disk = expected_disk(
        options.trial_count, repeats, manifest.keep, cost.export_mb, cost.checkpoint_mb
    )
    print_prose(out, disk)
    if cost.setup_seconds:
        print_prose(
            out,
            "and once for each augmentation policy the features of the frozen backbone: "
            f"{cost.setup_seconds:.0f} s",
        )


def _repeats(manifest: Manifest, rule: RepeatRule) -> int:
    """Return the number of final trainings. With several objectives the balanced trial is repeated
    too."""
    repeated = rule.configurations + (manifest.objectives is not None)
    return repeated * (manifest.repeats or 0)


def function_cost(prepared: Prepared, trials: int) -> list[str]:
    """Say when trials of a function are compared and how long the study takes, based on its
    recorded epochs. Nothing else is known about a function.

    Args:
        trials: number of trials of the study.
    """
    manifest = prepared.manifest
    version = manifest.rules["rungs"]
    state = read_state(prepared.directory / LOG)
    runs = [run for run in state.runs.values() if run.epochs]
    length = max((run.length for run in runs), default=0)
    if not length:
        return _before_any_epoch(prepared.experiment, manifest)

    repeats = _repeats(
        manifest, RepeatRule(str(manifest.rules["repeats"]), prepared.experiment.top)
    )
    seen = sum(len(run.epochs) for run in runs)
    epoch_s = sum(run.occupied_ms for run in runs) / 1000 / seen
    epochs = total_epochs(trials, repeats, length, version)
    return [
        _rungs_line(length, version),
        f"estimate from {seen} epochs on record ({epoch_s:.2g} s each): {epochs:.0f} epochs with "
        f"pruning and {repeats} repeats, {duration(epochs * epoch_s)} on one worker, of which "
        f"{duration(min(seen, epochs) * epoch_s)} are done",
    ]


def _before_any_epoch(experiment: Experiment, manifest: Manifest) -> list[str]:
    """Say what is known before anything has run: for a command its length, if that was given."""
    assert experiment.function is not None
    call = experiment.function.call
    later = "known once trial 0 has reported an epoch, also while it runs"
    length = getattr(call, "epochs", None)
    if isinstance(length, str):  # name of the config value that has it
        length = manifest.base[length]
    if length:
        return [_rungs_line(int(length), manifest.rules["rungs"]), f"time: {later}"]

    is_command = getattr(call, "resumes_itself", False)
    says = "--epochs N" if is_command else "run.epochs(n)"
    return [
        f"rungs and time: {later}; {says} says how long a trial is, and without it none is stopped "
        "early"
    ]


def show_searches(comparison: Comparison, options: Options, searches: int, finals: int) -> None:
    """Print how many studies a comparison of several searches consists of, and what to expect from
    it, before the plan of the first study.

    Args:
        finals: final trainings of each search's choice.
    """
    settings = len(comparison.settings)
    out = plain_console()
    print_prose(
        out,
        f"{comparison.title}: {searches} searches of each of {settings} settings, "
        f"{options.trial_count} trials and the final trainings each; below is the first study",
    )
    print_prose(out, expectation(searches, options.trial_count, finals, comparison))


def expectation(searches: int, trials: int, finals: int, comparison: Comparison) -> str:
    """Say how likely the comparison is to find a difference, and what splitting into searches
    costs."""
    questions = len(comparison.questions)
    if searches < 2:
        return "one search of each setting says nothing about the settings"

    found = power(searches, trials, finals, questions)
    loss = splitting_loss(searches, trials)
    return (
        f"power: {found:.0%} of such comparisons find a difference of {DIFFERENCE} between two "
        f"settings ({questions} questions, sd {SEED_SD} between seeds, searches that vary like "
        f"recorded ones); one search of {searches * trials} trials would choose better by "
        f"{loss:.3f}; docs/notes/evidence.md has the tables"
    )


def total_epochs(trials: int, repeats: int, epochs: int, version: int | str) -> float:
    """Estimate the epochs of a study. Trial 0 and the repeats run to the end; other trials are
    pruned, but the first few not before the rule's first look.

    Args:
        version: version of the rungs, or name of another pruner.
    """
    complete = (1 + repeats) * epochs
    pruned = max(0, trials - 1)
    rule = RULES[version]
    looked_at = min(pruned, max(0, rule.first_look - 1))

    found = rungs_of(epochs, version)
    every = {rung.epoch(epochs): rung.factor for rung in found}
    late = {rung.epoch(epochs): rung.factor for rung in found if rung.stops(0, rule)}
    first = looked_at * expected_epochs(late, epochs)
    return complete + first + (pruned - looked_at) * expected_epochs(every, epochs)


def expected_epochs(all_rungs: dict[int, int], epochs: int) -> float:
    """Estimate the epochs of an average trial if each rung lets its share of trials continue.

    Args:
        all_rungs: epoch of a rung -> n, if the best 1/n continue there.
        epochs: epochs of a complete trial.
    """
    share, total, before = 1.0, 0.0, 0

    for rung, factor in {**all_rungs, epochs: 1}.items():
        total += share * (rung - before)
        share /= factor
        before = rung

    return total


def space_as_typed(experiment: Experiment, manifest: Manifest) -> str:
    """Return the search space in the format of `--space FILE`."""
    found = ranges_of(experiment.space, manifest.preset, manifest.pins)
    readable = {
        key: [one for one in variants if one.when is not SOMETIMES]
        for key, variants in found.items()
    }
    hidden = [key for key, variants in readable.items() if len(variants) < len(found[key])]
    written = write_yaml({key: variants for key, variants in readable.items() if variants})

    lines = ["space, as --space reads it from a file (.yaml):", written.rstrip()]
    lines += [f"# with --no-search {key}" for key in manifest.unsearched]
    if hidden:
        lines.append(f"# by a condition in code, which a file cannot hold: {', '.join(hidden)}")
    return "\n".join(lines)


def _config_table(experiment: Experiment, manifest: Manifest) -> Table:
    """Build a table of trial 0's config, with the range in which each value is searched."""
    spaces = describe(experiment.space, manifest.preset, manifest.pins)
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="config of trial 0, and what is searched",
        title_justify="left",
    )
    table.add_column("key", no_wrap=True)  # wrapped names cannot be copied
    for column in ("trial 0", "searched"):
        table.add_column(column, overflow="fold")

    for key, value in manifest.base.items():
        text = f"{value:.6g}" if isinstance(value, float) else str(value)
        ranges = [_range(*one) for one in spaces.get(key, [])]
        searched = "pinned" if key in manifest.pins else "\n".join(ranges)
        table.add_row(key, text, searched)

    return table


def _range(condition: str, distribution: BaseDistribution) -> str:
    text = show(distribution)
    return f"{text}  ({condition})" if condition else text


_SHARES = {2: "half", 3: "third", 4: "quarter"}


def _rungs_line(epochs: int, version: int | str) -> str:
    """Say which trials continue, such as `the best third continues after epoch 1, the best half
    after epochs 2, 3 and 6; 12 epochs in all`."""
    found = rungs(epochs, version)
    if not found:
        return "rungs: none"
    steps: list[str] = []
    for factor, group in itertools.groupby(found, key=lambda epoch: found[epoch]):
        share = _SHARES.get(factor, f"{1 / factor:.0%}")
        verb = "" if steps else " continues"
        steps.append(f"the best {share}{verb} after {_epochs(list(group))}")
    line = f"rungs: {', '.join(steps)}; {epochs} epochs in all"

    rule = RULES[version]
    late = [rung.epoch(epochs) for rung in rungs_of(epochs, version) if rung.stops(0, rule)]
    if rule.first_look:
        before = f"before epoch {late[0]}" if late else "early"
        line += f"; none of the first {rule.first_look} trials is stopped {before}"
    if rule.needs_rival:
        line += "; the first beside the default that reaches the last of them runs to its end"
    return line


def _epochs(numbers: list[int]) -> str:
    """Spell [2, 3, 6] as `epochs 2, 3 and 6`."""
    *others, last = map(str, numbers)
    if not others:
        return f"epoch {last}"
    return f"epochs {', '.join(others)} and {last}"
