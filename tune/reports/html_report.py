"""`python tune/report.py html STUDY`: what a study found, in one HTML file that needs no network.

The file is written beside the record, from the record alone: a study may be running, interrupted or
finished.
"""

import base64
import io
import os
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.files import write_atomically
from tune.formatting import DEFAULT, assignments, duration, format_value
from tune.object_store import s3
from tune.reports import html_figures as figures
from tune.reports.html_page import escape, page, plot, table
from tune.reports.importances import FEW, METHOD, importances
from tune.reports.verdict import FEW_TRIALS, Verdict, claim, doubts, verdict
from tune.study.manifest import replay_command
from tune.study.record import Record, Run, read_record

_TOP, _MORE = 10, 100  # trials of the leaderboard that are in sight, and that are in the page
_WIDEST = 1000  # pixels of a picture
_PNG_END = b"\0\0\0\0IEND\xaeB`\x82"
_EPOCH = re.compile(r"(?P<kind>.+?)(?:-(?P<epoch>\d{4}))?\.png")


def write_report(folder: Path) -> Path:
    """Write `report.html` into a study's folder.

    Raises:
        UserError: there is no study.
    """
    record = read_record(folder)
    found = verdict(record)
    sections = list(_sections(record, found))
    links = " ".join(
        f'<a href="#s{i}">{escape(title)}</a>' for i, (title, _) in enumerate(sections)
    )
    parts = [
        f'<h2 id="s{i}">{escape(title)}</h2>{content}'
        for i, (title, content) in enumerate(sections)
    ]
    manifest = record.manifest
    about = f"{manifest.experiment} on {manifest.data['name']}, preset {manifest.preset}, seed {manifest.seed}, begun {manifest.created}"
    head = f"<h1>Study {escape(manifest.name)}</h1><p class=said>{escape(about)}</p>{opening(record, found)}<nav>{links}</nav>"
    path = folder / "report.html"
    write_atomically(path, page(f"{manifest.name}: report", head + "".join(parts)))
    return path


def _sections(record: Record, found: Verdict | None) -> Iterator[tuple[str, str]]:
    """(title, HTML) in the order of the page."""
    number = record.best_number()
    yield "Health checks", health(record)
    if record.trials:
        yield "Leaderboard", leaderboard(record)
    if number is not None:
        yield "Best against default", against_default(record, number, found)
    if any(run.history for run in record.trials.values()):
        yield "Learning curves", learning_curves(record)
        yield from of_parameters(record, number)
    yield "Budget", budget(record)
    yield "Failures", failures(record)
    if number is not None and (shown := pictures(record, number)):
        yield f"Pictures of trial {number}", shown
    yield "How to repeat it", reproduction(record, number)


def opening(record: Record, found: Verdict | None) -> str:
    """The verdict in a sentence, and four numbers."""
    number = record.best_number()
    state = "" if record.finished else "The study has not ended: this is what is known so far. "
    facts = [(str(len(record.trials)), "trials"), (str(record.epochs), "epochs trained")]
    if number is not None:
        facts.insert(
            0, (f"{record.completed[number]:.4f}", f"{record.objective} of trial {number}")
        )
    if record.trials:
        facts.append((f"{record.saved:.0%}", "of the epochs saved by pruning"))
    tiles = "".join(f"<div><b>{escape(value)}</b>{escape(name)}</div>" for value, name in facts)
    return (
        f"<p class=verdict>{escape(state + claim(record, found))}</p><div class=facts>{tiles}</div>"
    )


def health(record: Record) -> str:
    """What the study does not know, and what to do about it."""
    if problems := doubts(record):
        return "".join(f"<p class=doubt>{escape(problem)}</p>" for problem in problems)
    return (
        f"<p class=fine>Nothing found: at least {FEW_TRIALS} trials, few failures, better than the untrained network, no best value at the "
        "edge of its range, a gain larger than the noise between seeds (where there are repeats), no rise at the last epoch.</p>"
    )


def leaderboard(record: Record) -> str:
    """The first of the trials, complete ones first, best first."""
    order = sorted(
        record.trials.items(),
        key=lambda item: (item[1].state != "COMPLETE", -_score(item[1], record), item[0]),
    )
    rows = []
    for number, run in order[:_MORE]:
        value = figures.reached(run, record.objective)
        departures = assignments(record.departures(number)) or DEFAULT
        rows.append(
            [
                str(number),
                run.state.lower(),
                str(len(run.history)),
                "" if value is None else f"{value:.4f}",
                departures,
            ]
        )
    best = next(
        (i for i, (number, _) in enumerate(order[:_TOP]) if number == record.best_number()), -1
    )
    header = ["trial", "state", "epochs", record.objective, "departs from the default in"]
    parts = [table(header, rows[:_TOP], numeric=(0, 2, 3), long=(4,), best=best)]
    if rows[_TOP:]:
        rest = table(header, rows[_TOP:], numeric=(0, 2, 3), long=(4,))
        left = (
            ""
            if len(order) <= _MORE
            else f"; the other {len(order) - _MORE} are in the figures below"
        )
        parts.append(
            f"<details><summary>The next {len(rows) - _TOP} trials{left}</summary>{rest}</details>"
        )
    return (
        "".join(parts)
        + "<p class=said>Of trials that did not run to the end: the best value they reached.</p>"
    )


def against_default(record: Record, number: int, found: Verdict | None) -> str:
    """Configurations side by side, and scores on the test split."""
    config, base, space = record.trials[number].config, record.manifest.base, record.manifest.space
    rows = [
        [name, format_value(base[name]), format_value(value), "; ".join(space[name])]
        for name, value in sorted(record.departures(number).items())
    ]
    same = [
        name for name in sorted(space) if name not in record.departures(number) and name in config
    ]
    header = ["parameter", "default", f"trial {number}", "searched over"]
    parts = [table(header, rows, long=(3,)) if rows else "<p>The default is the best.</p>"]
    if rows and same:
        parts.append(f"<p class=said>Equal, or without effect here: {escape(', '.join(same))}.</p>")
    if found is not None:
        parts.append(
            plot(
                figures.against_default(record, found),
                f"{found.metric} over fresh seeds",
                height=220,
            )
        )
        parts.append(
            "<p class=said>The test split has been looked at by no search. Points: seeds; diamonds: means with 95 % intervals over the "
            "randomness of training, which do not cover another draw of the test images.</p>"
        )
    return "".join(parts)


def learning_curves(record: Record) -> str:
    """Every trial."""
    figure = figures.curves(record, record.best_number())
    return (
        plot(figure, f"{record.objective} by epoch of every trial", height=460)
        + "<p class=said>A cross: stopped there.</p>"
    )


def of_parameters(record: Record, number: int | None) -> Iterator[tuple[str, str]]:
    """Parallel coordinates, importances, slices."""
    points, axes, rung = (
        figures.points_of(record),
        figures.axes_of(record),
        figures.first_rung_of(record),
    )
    if not axes or len(points) < 2:
        return
    found = importances(record.frozen_trials(), rung)
    if found:
        yield "Importance of parameters", _importances(record, found)
    else:
        yield (
            "Importance of parameters",
            f"<p>Fewer than {FEW} trials can be compared: too few to say.</p>",
        )
    figure, many = figures.parallel(points, axes, record.objective, rung)
    at = "the end" if rung is None else f"epoch {rung}, where all can still be compared"
    said = f"Colour: {record.objective} at {at}. Drag along an axis to choose trials; - where a trial has no such parameter or value."
    drawn = plot(figure, "parallel coordinates of all trials", height=440, min_width=96 * many)
    yield "Parallel coordinates", f"{drawn}<p class=said>{escape(said)}</p>"
    shares = found[0].shares if found else {}
    ordered = sorted(axes, key=lambda axis: (-shares.get(axis.name, 0.0), axis.name))
    cells = [
        plot(
            figures.slices(points, a, record.objective, number),
            f"{record.objective} against {a.name}",
            height=250,
        )
        for a in ordered
    ]
    told = "Dots ran to the end, crosses were stopped earlier (the best value they reached), the star is the best trial."
    yield (
        "One parameter at a time",
        f"<div class=slices>{''.join(cells)}</div><p class=said>{told}</p>",
    )


def _importances(record: Record, found: list[Any]) -> str:
    names = {name for one in found for name in one.shares}
    drawn = plot(
        figures.importance_bars(found), "importance of parameters", height=130 + 34 * len(names)
    )
    best = "; ".join(
        f"at {one.fidelity} the best {one.best:.0%} of {one.trials} trials" for one in found
    )
    return drawn + (
        f"<p class=said>Method: {METHOD}, as Optuna computes it: what tells the best trials from the others ({escape(best)}). Pruning lets "
        "little of what is bad reach the end, so that the two may differ; with few trials both are guesses.</p>"
    )


def budget(record: Record) -> str:
    """What it cost, and what was saved."""
    states = Counter(run.state for run in record.trials.values())
    rows = [
        [
            "trials",
            ", ".join(f"{n} {state.lower()}" for state, n in sorted(states.items())) or "none",
        ]
    ]
    rows.append(
        [
            "epochs of trials",
            f"{record.epochs} of {len(record.trials) * int(record.manifest.base['train.epochs'])}",
        ]
    )
    rows.append(
        ["epochs saved by pruning and failures", f"{record.epochs_saved[0]} ({record.saved:.0%})"]
    )
    runs = [*record.trials.values(), *record.repeats.values()]
    rows.append(["epochs saved by kept features", _saved_by_features(runs)])
    repeats = sum(len(run.history) for run in record.repeats.values())
    rows.append(["epochs of repeats on fresh seeds", f"{repeats} in {len(record.repeats)} runs"])
    gpu = sum(run.gpu_seconds for run in runs)
    rows.append(["CPU time, cores that were kept", duration(sum(run.cpu_seconds for run in runs))])
    rows.append(["GPU time", duration(gpu) if gpu else "none"])
    starts, ends = (
        [at for run in runs if (at := getattr(run, name))] for name in ("started", "ended")
    )
    if starts and ends:
        rows.append(
            [
                "from the first start to the last end",
                duration((max(ends) - min(starts)) / 1000) + ", interruptions included",
            ]
        )
    return table(["", ""], rows, long=(1,))


def _saved_by_features(runs: list[Run]) -> str:
    """In epochs of a network whose backbone is computed at every step."""
    epochs = [m for run in runs for m in run.history if m.get("features/cached")]
    saved, spent = (
        sum(m.get(key) or 0.0 for m in epochs) for key in ("time/saved_s", "time/features_s")
    )
    whole = saved + sum(m.get("time/epoch_s") or 0.0 for m in epochs)
    if not saved:
        return "none: nothing was looked up"
    worth = saved / whole * len(epochs)
    gain = f"{duration(saved)} of the frozen backbone's, for {duration(spent)} spent on them"
    return f"{worth:.1f} of {len(epochs)} that looked them up: {gain}"


def failures(record: Record) -> str:
    """Trials that ended before their time for another reason than their rung, by reason."""
    reasons: dict[str, list[str]] = {}
    for name, run in _named(record):
        if run.state == "FAIL" or (
            run.state == "PRUNED" and run.reason and "rung" not in run.reason
        ):
            reasons.setdefault(run.reason or "no reason on record", []).append(name)
    if not reasons:
        return "<p class=fine>None: every run that has ended did so in order.</p>"
    rows = [
        [str(len(names)), reason, ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")]
        for reason, names in reasons.items()
    ]
    return table(
        ["runs", "reason", "which"],
        sorted(rows, key=lambda row: -int(row[0])),
        numeric=(0,),
        long=(1, 2),
    )


def _named(record: Record) -> Iterator[tuple[str, Run]]:
    yield from ((f"trial {n}", run) for n, run in sorted(record.trials.items()))
    yield from (
        (f"trial {n} seed {seed}", run) for (n, seed), run in sorted(record.repeats.items())
    )


def pictures(record: Record, number: int) -> str:
    """Of the trial's pictures: t-SNE at the first and the last epoch, masks at the first, middle
    and last, the others at the last."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(
        s3.present_in(record.folder / "trials" / f"{number:04d}" / "plots").glob("*.png")
    ):
        if (match := _EPOCH.fullmatch(path.name)) and _is_whole(path):
            kinds.setdefault(match["kind"], []).append(path)
    chosen: list[Path] = []
    for kind, paths in sorted(
        kinds.items(), key=lambda item: (not item[0].startswith(("tsne", "predicted")), item[0])
    ):
        if kind.startswith("tsne"):
            chosen += dict.fromkeys((paths[0], paths[-1]))
        elif kind.startswith("predicted"):
            chosen += dict.fromkeys((paths[0], paths[len(paths) // 2], paths[-1]))
        elif not kind.startswith("pca"):
            chosen.append(paths[-1])
    shown = "".join(
        f'<figure><img loading=lazy alt="{escape(path.stem)}" src="{_small(path)}"><figcaption>{escape(path.stem.replace("_", ", ", 1))}'
        "</figcaption></figure>"
        for path in chosen
    )
    return f"<div class=pictures>{shown}</div>" if shown else ""


def _is_whole(path: Path) -> bool:
    """Another process may be drawing it."""
    with path.open("rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - len(_PNG_END)))
        return file.read() == _PNG_END


def _small(path: Path) -> str:
    """A picture as a data URI, at most so wide."""
    from PIL import Image

    image = Image.open(path).convert("RGB")
    image.thumbnail((_WIDEST, 4 * _WIDEST))
    written = io.BytesIO()
    image.save(written, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(written.getvalue()).decode()}"


def reproduction(record: Record, number: int | None) -> str:
    """The command that replays the best trial, and the manifest."""
    manifest = record.manifest
    parts = []
    commit = (manifest.commit or "").removesuffix("+")
    if number is not None:
        checkout = f"git checkout {commit}\n" if commit else ""
        parts.append(f"<p>Trial {number} again, compared with the record epoch by epoch:</p>")
        parts.append(
            f"<pre>{escape(checkout + replay_command(manifest.experiment, record.folder, number))}</pre>"
        )
    if (manifest.commit or "").endswith("+"):
        parts.append(
            "<p class=doubt>The study was begun with files that differed from that commit.</p>"
        )
    data = manifest.data
    rows = [
        ["commit", manifest.commit or "not on record"],
        [
            "data",
            f"{data['name']}, {data['images']} training images, fingerprint {data['fingerprint']}, from {data['path']}",
        ],
        [
            "seeds",
            f"search and trials {manifest.seed}; repeats {', '.join(map(str, sorted({s for _, s in record.repeats}))) or 'none'}",
        ],
        ["pinned", assignments(manifest.pins) or "nothing"],
        ["versions", ", ".join(f"{name} {version}" for name, version in manifest.versions.items())],
    ]
    parts.append(table(["", ""], rows, long=(1,)))
    space = [
        [name, "; ".join(ranges), format_value(manifest.base[name])]
        for name, ranges in manifest.space.items()
    ]
    whole = [[name, format_value(value)] for name, value in manifest.base.items()]
    parts.append(
        f"<details><summary>Search space</summary>{table(['parameter', 'searched over', 'default'], space, long=(1,))}</details>"
    )
    if number is not None:
        config = record.trials[number].config
        whole = [[*row, format_value(config.get(row[0]))] for row in whole]
    header = ["key", "default", *([] if number is None else [f"trial {number}"])]
    parts.append(
        f"<details><summary>All of the configuration</summary>{table(header, whole)}</details>"
    )
    return "".join(parts)


def _score(run: Run, record: Record) -> float:
    value = figures.reached(run, record.objective)
    return -float("inf") if value is None else value
