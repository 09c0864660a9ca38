"""Conclude a study: print and record its answer, the verdict on it, and the front of several
objectives."""

import contextlib

from trainables.errors import UserError
from trainables.files import BEST
from tune.cli.console import Console
from tune.formatting import assignments, counted
from tune.object_store import s3
from tune.reports.doubts import doubts
from tune.reports.front import front_conclusions
from tune.reports.selection import selection
from tune.reports.verdict import claim, judge_study
from tune.study.record import read_record
from tune.study.rules import WINNER
from tune.study.study import Study
from tune.study.warm_start import worth


def conclude(study: Study, console: Console) -> None:
    """Print and record the result of a completed study, or why there is none."""
    found = judge_study(study)
    number = study.best_number()
    metrics = {} if found is None else found.metrics()
    tags = {"verdict": claim(study, found)}

    if number is not None:
        tags["chosen"] = _announce_best(study, number, console)
        metrics["chosen/trial"] = float(number)
    console.line(tags["verdict"])
    study.summarize(metrics, **tags)

    _conclude_front(study, console)
    sentence = worth(study)
    if sentence is not None:
        console.line(sentence)
        study.summarize({}, warm_start=sentence)

    if study.repeat_rule.rule != WINNER:  # one observation makes no claim to doubt
        for doubt in doubts(study, study.directory.parent):
            console.line(f"note: {doubt}")

    study.emit("finish", state="FINISHED")


def _announce_best(study: Study, number: int, console: Console) -> str:
    """Print the chosen trial, and return the sentence about it."""
    folder = study.directory / "trials" / f"{number:04d}"
    with contextlib.suppress(UserError):  # MLflow then lacks the file and records that
        s3.present(folder / BEST)

    if not study.manifest.function:
        study.emit("artifact", trial=number, path=f"trials/{number:04d}/best.pt", to="backbone")
    elif (folder / BEST).exists():  # a function need not save anything
        study.emit("artifact", trial=number, path=f"trials/{number:04d}/best.pt", to="model")
    chosen = selection(study, study.finished())
    assert chosen is not None  # `number` is the study's answer
    console.line(chosen.sentence)
    parameters = study.frozen_trials()[number].params
    console.line(f"with {assignments(parameters)}")
    return chosen.sentence


def _conclude_front(study: Study, console: Console) -> None:
    """Print, draw and record the front of several objectives."""
    said = front_conclusions(study)
    if not said:
        return
    for line in said:
        console.line(line)
    study.summarize({}, front=" ".join(said))
    from tune.reports.cost_figure import FRONT, write_front_picture  # brings plotly

    write_front_picture(read_record(study.directory), study.directory / FRONT)
    study.emit("artifact", trial=None, path=FRONT, to="plots")


def say_exhausted(study: Study, wanted: int, console: Console) -> None:
    """Say why there are fewer trials than requested."""
    ended = study.finished()
    if study.is_exhausted and ended < wanted and not study.stopping:
        console.line(
            f"the search ends after {counted(ended, 'trial')}, not {wanted}: "
            "the space has no other configuration; pin less with --set"
        )


def say_waiting(study: Study, console: Console) -> None:
    """Say that no trials are left for enqueued configurations."""
    waiting = 0 if study.stopping else study.waiting()
    if waiting:
        console.line(
            f"{waiting} enqueued configurations are waiting: all trials have begun; "
            "a larger --trials tries them"
        )
