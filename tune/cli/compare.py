"""An experiment in its settings: one alone, or all of a comparison with the same budget, as studies
of one group, and their table."""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from search_spaces.settings import Comparison
from trainables.config import nearest
from trainables.errors import UserError
from tune.backbones.resolve import choose
from tune.cli.options import Options
from tune.cli.prepare import Prepared, prepare
from tune.cli.session import DONE, Session
from tune.experiments import Experiment
from tune.object_store.s3 import copy
from tune.object_store.study_sync import copy_group_log
from tune.study.group import Group, is_group


def run_settings(
    options: Options, experiment: Experiment, storage: Path, budget_s: float | None
) -> int:
    """Run the setting that was chosen, or all of a comparison one after another; returns the exit
    code.

    Raises:
        UserError: wrong use, of any of the settings, before the first trial of the first.
    """
    name, comparison = _comparison(options, experiment)
    starts = {getattr(setting, "init", None) for setting in comparison.settings.values()}
    if options.setting is None and options.backbone is not None and len(starts) > 1:
        shown = ", ".join(comparison.settings)
        raise UserError(
            f"--backbone {options.backbone}: the settings start from different backbones; add --setting, one of {shown}"
        )
    alone = options.setting is not None and options.study is not None  # under a name of its own
    prepared = [
        prepare(member, experiment, storage)
        for member in ([options] if alone else _members(options, name, comparison))
    ]
    if options.plan:
        from tune.cli.plan import show_plan

        for one in prepared:
            show_plan(one, options)
        return DONE
    group = None
    if not alone:
        searched = sorted({name for one in prepared for name in one.manifest.space})
        group = Group.open(
            storage / name, experiment.name, prepared[0].manifest.objective, searched
        )
    if group is not None:
        copy_group_log(group.folder)  # before its members: they name it
    return _run_all(prepared, options, budget_s, group)


def _comparison(options: Options, experiment: Experiment) -> tuple[str, Comparison]:
    """The comparison that was asked for, or that the setting belongs to, and the name of its
    group."""
    known = experiment.comparisons
    if options.compare is not None and options.setting is not None:
        raise UserError(
            f"--compare {options.compare} with --setting {options.setting}, which is one of its sides: leave one of them out"
        )
    if options.compare is not None and options.compare not in known:
        named = [key for key in known if key]
        why = (
            nearest(options.compare, named)
            if named
            else f"; {experiment.name} has none that needs a name"
        )
        raise UserError(f"unknown --compare {options.compare!r}{why}")
    if options.setting is not None:
        choose(experiment, options.setting, options.backbone)
    key = options.compare or next(
        (key for key, comparison in known.items() if options.setting in comparison.settings), ""
    )
    return options.study or (f"{experiment.name}-{key}" if key else experiment.name), known[key]


def _members(options: Options, group: str, comparison: Comparison) -> list[Options]:
    """Options of the studies of a group. A warm start from a group is one from the study of the
    same setting."""
    chosen = list(comparison.settings) if options.setting is None else [options.setting]
    members = [replace(options, setting=setting, study=f"{group}-{setting}") for setting in chosen]
    if options.setting is None and options.warm_start is not None:
        return [
            replace(member, warm_start=f"{options.warm_start}-{member.setting}")
            for member in members
        ]
    return members


def _run_all(
    prepared: list[Prepared], options: Options, budget_s: float | None, group: Group | None
) -> int:
    from tune.reports.table_files import publish

    code = DONE
    with Session(options, budget_s) as session:
        if group is not None:
            session.track(group.folder)
        with _one_ray(options):
            for one in prepared:
                code = max(code, session.run(one, group))
                if session.stop.reason:
                    break
        if group is not None and len(prepared) > 1 and not session.stop.reason:
            publish(group)
            group.emit("finish", state="FINISHED")
            _copy_table(group.folder)
    session.say_where(code)
    return code


def publish_table(folder: Path) -> None:
    """Print and write the table of the group in `folder`, and send it to MLflow where that is
    reachable.

    Raises:
        UserError: none of its settings has been begun.
    """
    from tune.reports.table_files import publish
    from tune.tracking.tracker import Tracker

    if not is_group(folder):  # settings under names of their own
        publish(folder)
        _copy_table(folder)
        return
    publish(Group.at(folder))
    _copy_table(folder)
    with suppress(UserError):  # `python tune/report.py sync` says what is wrong there
        Tracker(folder).sync()


def _copy_table(folder: Path) -> None:
    from tune.reports.table_files import FILES

    for name in FILES:
        copy(folder / name)
    if is_group(folder):
        copy_group_log(folder)


def _one_ray(options: Options) -> AbstractContextManager[None]:
    """One Ray for all studies: to start it takes longer than a small study."""
    if options.local:
        return nullcontext()
    from tune.execution.ray_session import ray_session

    return ray_session(options.workers)
