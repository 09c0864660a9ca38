"""`classify` in its settings: one alone, or all five with the same budget, as studies of one group, and the table that compares them."""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError
from tune.experiments import Experiment
from tune.group import Group
from tune.options import Options, Prepared, prepare
from tune.session import DONE, DRAIN_S, Stop, run, say_where


def run_settings(options: Options, experiment: Experiment, storage: Path, budget_s: float | None) -> int:
    """Run the setting that was chosen, or all of them one after another; returns the exit code.

    Raises:
        UserError: wrong use, of any of the settings, before the first trial of the first.
    """
    if options.setting is None and options.backbone is not None:
        raise UserError(f"--backbone {options.backbone}: the settings start from different backbones; add --setting, one of A to E")
    if options.setting is None and options.study is not None:
        members = [replace(options, setting=letter, study=f"{options.study}-{letter}") for letter in experiment.settings]
    else:
        members = [replace(options, setting=letter) for letter in ([options.setting] if options.setting else experiment.settings)]
    if options.setting is None and options.warm_start is not None:
        members = [replace(member, warm_start=f"{options.warm_start}-{member.setting}") for member in members]
    prepared = [prepare(member, experiment, storage) for member in members]
    if options.plan:
        from tune.plan import show_plan

        for one in prepared:
            show_plan(one, options)
        return DONE
    group = None
    if options.setting is None or options.study is None:  # a setting under a name of its own stands alone
        searched = sorted({name for one in prepared for name in one.manifest.space})
        group = Group.open(storage / (options.study or experiment.name), experiment.name, prepared[0].manifest.objective, searched)
    code = _run_all(prepared, options, budget_s, group)
    say_where(options, code)
    return code


def _run_all(prepared: list[Prepared], options: Options, budget_s: float | None, group: Group | None) -> int:
    from tune.table import publish
    from tune.tracking import Tracker

    tracker = None if group is None else Tracker(group.folder)
    if tracker is not None:
        tracker.start()
    stop, code = Stop(budget_s), DONE
    with _one_ray(options):
        for one in prepared:
            code = max(code, run(one, options, stop, group))
            if stop.reason:
                break
    if group is not None and len(prepared) > 1 and not stop.reason:
        publish(group)
        group.say("finish", state="FINISHED")
    if tracker is not None:
        tracker.close(DRAIN_S)
    return code


def publish_table(folder: Path) -> None:
    """Print and write the table of the group in `folder`, and send it to MLflow where that is reachable.

    Raises:
        UserError: none of its settings has been begun.
    """
    from tune.table import publish
    from tune.tracking import Tracker

    if not (folder / "events.jsonl").exists():  # settings under names of their own
        publish(folder)
        return
    publish(Group.at(folder))
    with suppress(UserError):  # `python tune/report.py sync` says what is wrong there
        Tracker(folder).sync()


def _one_ray(options: Options) -> AbstractContextManager[None]:
    """One Ray for all studies: to start it takes longer than a small study."""
    if options.local:
        return nullcontext()
    from tune.search import ray_session

    return ray_session(options.workers)
