"""Sections of a study's report: verdict, health, leaderboard, curves, costs, reproduction."""

import re
import shlex
from collections.abc import Iterator

from markupsafe import Markup

from trainables.data_summary import DataSummary
from tune.backbones.seen import seen_tags
from tune.command_line import replay_command
from tune.formatting import assignments, format_value
from tune.reports import html_figures as figures
from tune.reports.budget import budget_rows
from tune.reports.doubts import FEW_TRIALS, doubts
from tune.reports.html_page import plot, render, table
from tune.reports.html_pictures import picture_of
from tune.reports.selection import MARK, configuration, selection
from tune.reports.trial_points import reached
from tune.reports.verdict import StudyVerdict, claim
from tune.search.method_names import pruner_name, sampler_name
from tune.startup import ROOT, is_checkout
from tune.study.record import Record, Run

_SHOWN = 10  # trials of the leaderboard
_FOLDED = 90  # further trials, shown on click
_NAMED = 12  # runs listed per failure reason


def opening(record: Record, verdict: StudyVerdict | None) -> Markup:
    """Render the verdict as a sentence, with up to four numbers."""
    number = record.best_number()
    sentence = claim(record, verdict)
    if not record.finished:
        sentence = f"The study has not ended: this is what is known so far. {sentence}"

    facts = {}
    if number is not None:
        value = record.completed[number]
        facts[f"{record.objective} of trial {number} in the search"] = f"{value:.4f}"
    facts["trials"] = str(len(record.trials))
    facts["epochs trained"] = str(record.epochs)
    if record.trials:
        facts["of the epochs saved by pruning"] = f"{record.saved:.0%}"
    chosen = selection(record, len(record.trials))
    said = None if chosen is None else chosen.sentence.removeprefix("chosen: ")
    return render("opening.html", sentence=sentence, facts=facts, chosen=said)


def health(record: Record) -> Markup:
    """Render the reasons to doubt the study's result, with remedies."""
    found = doubts(record, record.folder.parent)
    return render("health.html", doubts=found, few_trials=FEW_TRIALS)


def data(record: Record, summary: DataSummary) -> Markup:
    """Render the summary of the data."""
    rows = []
    before = ""
    for label, text in summary.rows():
        if label == "folders":  # aligned with spaces, which HTML would collapse
            text = re.sub(" {2,}", " · ", text)
        rows.append(["" if label == before else label, text])
        before = label
    return render(
        "data.html",
        warnings=summary.warnings,
        table=table(["", ""], rows, long=(1,)),
        picture=picture_of(record.folder / "plots" / "data.png", "Images of each split."),
    )


def leaderboard(record: Record) -> Markup:
    """Render the best trials, completed ones first."""
    ranked = _ranked(record)
    shown = ranked[:_SHOWN]
    following = ranked[_SHOWN : _SHOWN + _FOLDED]
    folded = None
    if following:
        folded = _leaderboard_table(record, following)
    return render(
        "leaderboard.html",
        first=_leaderboard_table(record, shown),
        folded=folded,
        folded_count=len(following),
        left=len(ranked) - len(shown) - len(following),
        mark=MARK,
    )


def _leaderboard_table(record: Record, numbers: list[int]) -> Markup:
    header = ["trial", "state", "epochs", record.objective, "differs from default"]
    best = record.best_number()
    best_row = numbers.index(best) if best in numbers else -1
    return table(
        header,
        [_leaderboard_row(record, number) for number in numbers],
        numeric=(0, 2, 3),
        long=(4,),
        best=best_row,
    )


def _ranked(record: Record) -> list[int]:
    """Return the trial numbers, completed trials first, best first."""

    def key(number: int) -> tuple[bool, float, int]:
        run = record.trials[number]
        value = reached(run, record.objective)
        descending = float("inf") if value is None else -value
        return run.state != "COMPLETE", descending, number

    return sorted(record.trials, key=key)


def _leaderboard_row(record: Record, number: int) -> list[str]:
    run = record.trials[number]
    value = reached(run, record.objective)
    mark = f"{MARK} " if number == record.best_number() else ""
    return [
        f"{mark}{number}",
        run.state.lower(),
        str(len(run.history)),
        "" if value is None else f"{value:.4f}",
        configuration(record, number),
    ]


def against_default(record: Record, number: int, verdict: StudyVerdict | None) -> Markup:
    """Render both configurations side by side, and their scores on the test split.

    Args:
        number: number of the best trial.
    """
    differences = record.differences(number)
    differing = None
    same = []
    if differences:
        differing = _differences_table(record, number)
        config = record.trials[number].config
        for name in sorted(record.manifest.space):
            if name in config and name not in differences:
                same.append(name)

    figure = None
    covered = ""
    if verdict is not None:
        drawn = figures.against_default(record, verdict)
        figure = plot(drawn, f"{verdict.metric} over fresh seeds", height=220)
        covered = verdict.covered
    return render(
        "against_default.html", differing=differing, same=same, figure=figure, covered=covered
    )


def _differences_table(record: Record, number: int) -> Markup:
    manifest = record.manifest
    rows = []
    for name, value in sorted(record.differences(number).items()):
        default = format_value(manifest.base[name])
        ranges = "; ".join(manifest.space[name])
        rows.append([name, default, format_value(value), ranges])
    header = ["parameter", "default", f"trial {number}", "searched over"]
    return table(header, rows, long=(3,))


def learning_curves(record: Record) -> Markup:
    """Plot the objective of every trial by epoch."""
    drawn = figures.curves(record, record.best_number())
    figure = plot(drawn, f"{record.objective} by epoch of every trial", height=460)
    return render("learning_curves.html", figure=figure)


def budget(record: Record) -> Markup:
    """Render the study's cost and savings."""
    return table(["", ""], budget_rows(record), long=(1,))


def failures(record: Record) -> Markup:
    """List, by reason, the runs that failed or were stopped for a reason other than a rung."""
    reasons: dict[str, list[str]] = {}
    for name, run in _named_runs(record):
        stopped_early = run.state == "PRUNED" and run.reason and "rung" not in run.reason
        if run.state == "FAIL" or stopped_early:
            reasons.setdefault(run.reason or "no reason on record", []).append(name)
    if not reasons:
        return render("failures.html", table=None)

    rows = []
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        which = ", ".join(names[:_NAMED])
        if len(names) > _NAMED:
            which += ", ..."
        rows.append([str(len(names)), reason, which])
    header = ["runs", "reason", "which"]
    return render("failures.html", table=table(header, rows, numeric=(0,), long=(1, 2)))


def _named_runs(record: Record) -> Iterator[tuple[str, Run]]:
    for number, run in sorted(record.trials.items()):
        yield f"trial {number}", run
    for (number, seed), run in sorted(record.repeats.items()):
        yield f"trial {number} seed {seed}", run


def reproduction(record: Record, number: int | None) -> Markup:
    """Render the command that replays the best trial, and everything that defines the study.

    Args:
        number: number of the best trial; None before any trial has completed.
    """
    manifest = record.manifest
    commit = manifest.commit or ""
    return render(
        "reproduction.html",
        number=number,
        replay=None if number is None else _replay(record, number),
        modified=commit.endswith("+"),
        facts=table(["", ""], _facts(record), long=(1,)),
        space=_space(record),
        config=_config(record, number),
    )


def _replay(record: Record, number: int) -> str:
    """Return the commands that run a trial again at the study's commit."""
    manifest = record.manifest
    lines = []
    if manifest.commit and is_checkout():
        lines.append(f"cd {shlex.quote(str(ROOT))}")
        lines.append(f"git checkout {manifest.commit.removesuffix('+')}")
    replay = replay_command(manifest.typed_experiment, record.folder, number, anywhere=True)
    lines.append(replay)
    return "\n".join(lines)


def _facts(record: Record) -> list[list[str]]:
    manifest = record.manifest
    data = manifest.data
    about_data = (
        f"{data['name']}, {data['images']} training images, "
        f"fingerprint {data['fingerprint']}, from {data['path']}"
    )
    if manifest.function:
        about_data = f"{data['name']}, read by the function itself: nothing else is on record"
    repeat_seeds = {seed for _, seed in record.repeats}
    shown_seeds = ", ".join(str(seed) for seed in sorted(repeat_seeds)) or "none"
    versions = [f"{name} {version}" for name, version in manifest.versions.items()]
    facts = [
        ["commit", manifest.commit or "not on record"],
        ["data", about_data],
        ["seeds", f"search and trials {manifest.seed}; repeats {shown_seeds}"],
        ["sampler", sampler_name(manifest.rules["sampler"])],
        ["pruner", pruner_name(manifest.rules["rungs"])],
        ["pinned", assignments(manifest.pins) or "nothing"],
        ["versions", ", ".join(versions)],
    ]
    if manifest.ranges:
        given = [f"{key}={text}" for key, texts in manifest.ranges.items() for text in texts]
        facts.append(["ranges of the user's own", "; ".join(given)])
    if manifest.base.get("init.file"):
        seen = seen_tags(manifest).get("lineage.seen_images", "not on record")
        facts.append(["images that the backbone has seen", seen])
    return facts


def _space(record: Record) -> Markup:
    manifest = record.manifest
    rows = []
    for name, ranges in manifest.space.items():
        default = format_value(manifest.base[name])
        rows.append([name, "; ".join(ranges), default])
    header = ["parameter", "searched over", "default"]
    return table(header, rows, long=(1,))


def _config(record: Record, number: int | None) -> Markup:
    """List all config values, next to those of the best trial."""
    header = ["key", "default"]
    config = None
    if number is not None:
        header.append(f"trial {number}")
        config = record.trials[number].config

    rows = []
    for key, value in record.manifest.base.items():
        row = [key, format_value(value)]
        if config is not None:
            row.append(format_value(config.get(key)))
        rows.append(row)
    return table(header, rows)
