"""Run an experiment in its settings: a single one, or all settings of a comparison with the same
budget, as studies of one group with a common table."""

from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import replace
from pathlib import Path

from search_spaces.settings import Comparison
from trainables.config import nearest
from trainables.errors import UserError
from tune.backbones.resolve import choose
from tune.cli.caller import Caller
from tune.cli.options import DEFAULT_SEARCHES, Options
from tune.cli.prepare import Prepared, prepare
from tune.cli.searching import check_batched, check_machine
from tune.cli.session import Session
from tune.cli.stop import DONE, Ended
from tune.experiments import EXPERIMENTS, Experiment
from tune.object_store.s3 import copy
from tune.object_store.study_sync import copy_group_log
from tune.study.agenda import Expected
from tune.study.group import (
    Group,
    OwnComparison,
    is_group,
    manifest_in,
    member_name,
    members,
)
from tune.study.shipped import SHIPPED


def run_settings(
    options: Options,
    experiment: Experiment,
    storage: Path,
    budget_s: float | None,
    caller: Caller,
) -> Ended:
    """Run the chosen setting, or all settings of a comparison one after another.

    Raises:
        UserError: wrong use in any of the settings, raised before the first trial.
    """
    _refuse_fronts(options)
    name, comparison = comparison_of(options, experiment)
    if is_group(storage / name):
        comparison = comparison.as_of(Group.at(storage / name).questions)
    _refuse_shared_backbone(options, comparison)

    if options.setting is None:
        if options.enqueue:
            raise UserError(
                f"--try {options.enqueue[0]}: {name} is several studies; choose one with --setting"
            )
        wanted = _searches(options, storage / name, comparison)
        if wanted > 1:
            from tune.cli.searches import run_searches

            folder = storage / name
            return run_searches(options, experiment, comparison, folder, budget_s, wanted, caller)

    # A setting with a name of its own belongs to no group.
    alone = options.setting is not None and options.study is not None
    sides = [options] if alone else _members(options, name, comparison)
    beside = None if alone else manifest_in(storage / name)
    prepared = [prepare(side, experiment, storage, beside=beside) for side in sides]

    if options.plan:
        from tune.cli.plan import show_plan

        for one in prepared:
            show_plan(one, options)
        return Ended(DONE)

    check_batched(prepared, options)
    for one in prepared:
        check_machine(one, options)
    if alone:
        return _run_all(prepared, options, budget_s, None, caller)

    searched = sorted({name for one in prepared for name in one.manifest.space})
    objective = prepared[0].manifest.objective
    own = own_comparison(experiment, comparison)
    group = Group.open(storage / name, experiment.name, objective, searched, own)
    copy_group_log(group.folder)  # before its members, which refer to it
    return _run_all(prepared, options, budget_s, group, caller)


def _refuse_fronts(options: Options) -> None:
    """Refuse several objectives for a comparison, whose table shows only one."""
    alone = options.setting is not None and options.study is not None
    if len(options.objective or []) > 1 and not alone:
        raise UserError(
            "--objective: a comparison of settings is by one objective; name one, or give "
            "--setting and --study for a study of its own"
        )


def comparison_of(options: Options, experiment: Experiment) -> tuple[str, Comparison]:
    """Return the name of the comparison's group, and the comparison: the requested one, or the one
    to which the setting belongs.

    Raises:
        UserError: there is no comparison of that name.
    """
    known = experiment.comparisons

    if options.compare is not None and options.setting is not None:
        raise UserError(
            f"--compare {options.compare} with --setting {options.setting}, which is one of its "
            "sides: leave one of them out"
        )

    if options.compare is not None and options.compare not in known:
        named = [key for key in known if key]
        why = f"; {experiment.name} has none that needs a name"
        if named:
            why = nearest(options.compare, named)
        raise UserError(f"unknown --compare {options.compare!r}{why}")

    key = options.compare or ""
    if options.setting is not None:
        choose(experiment, options.setting, options.backbone)
        containing = [key for key in known if options.setting in known[key].settings]
        key = containing[0] if containing else ""

    comparison = known[key]
    if options.control and not comparison.controls:
        raise UserError(f"--control: {experiment.name} has no control; leave it out")
    if not options.control and options.setting is None:
        comparison = comparison.without(comparison.controls)

    return options.study or _default_name(experiment, key), comparison


def own_comparison(experiment: Experiment, comparison: Comparison) -> OwnComparison | None:
    """Return a user-defined comparison with its name; None for one of the registry."""
    if experiment.name in EXPERIMENTS:
        return None
    for name, known in experiment.comparisons.items():
        if known.settings.keys() >= comparison.settings.keys():
            return OwnComparison(name, comparison)
    return None


def _default_name(experiment: Experiment, key: str) -> str:
    """Return the default name of a comparison's group."""
    if not key:
        return experiment.name
    if key.startswith(f"{experiment.name}-"):
        return key
    return f"{experiment.name}-{key}"


def _searches(options: Options, folder: Path, comparison: Comparison) -> int:
    """Return the number of searches of each setting: the requested number, that of the existing
    group, or the default. A group of single searches stays one."""
    begun = members(folder)
    single = begun is not None or options.warm_start not in (None, SHIPPED)
    if options.searches is not None:
        if options.searches > 1 and begun is not None:
            raise UserError(
                f"--searches {options.searches}: {folder.name!r} has one search of each setting; "
                "give the comparison another name with --study"
            )
        return options.searches
    if single:
        return 1
    recorded = Group.at(folder).searches if is_group(folder) else None
    return DEFAULT_SEARCHES if recorded is None else recorded


def _refuse_shared_backbone(options: Options, comparison: Comparison) -> None:
    """Refuse a single `--backbone` for settings that start from different ones."""
    if options.setting is not None or options.backbone is None:
        return

    starts = {getattr(setting, "init", None) for setting in comparison.settings.values()}
    if len(starts) > 1:
        shown = ", ".join(comparison.settings)
        raise UserError(
            f"--backbone {options.backbone}: the settings start from different backbones; "
            f"add --setting, one of {shown}"
        )


def _members(options: Options, group: str, comparison: Comparison) -> list[Options]:
    """Return the options of each study of a group. A warm start from another group becomes a warm
    start from the study of the same setting."""
    if options.setting is not None:
        return [replace(options, study=member_name(group, options.setting))]

    sides = []
    for setting in comparison.settings:
        earlier = options.warm_start
        if earlier not in (None, SHIPPED):
            earlier = f"{earlier}-{setting}"
        study = member_name(group, setting)
        sides.append(replace(options, setting=setting, study=study, warm_start=earlier))

    return sides


def _run_all(
    prepared: list[Prepared],
    options: Options,
    budget_s: float | None,
    group: Group | None,
    caller: Caller,
) -> Ended:
    from tune.reports.table_files import publish

    code = DONE

    with Session(options, budget_s, caller) as session:
        if group is not None:
            session.track(group.folder)
        if len(prepared) > 1:
            names = [one.manifest.name for one in prepared]
            expected = [Expected(name, kind=name) for name in names]
            session.clock.expect(expected, prepared[0].directory.parent)

        with one_ray(options):
            for one in prepared:
                code = max(code, session.run(one, group))
                if session.stop.reason:
                    break

        if group is not None and len(prepared) > 1 and not session.stop.reason:
            publish(group, shown=caller.progress != "none")
            group.emit("finish", state="FINISHED")
            copy_table(group.folder)

    return session.ended(code)


def publish_table(folder: Path) -> None:
    """Print and write the table of the group in `folder`, and send it to MLflow if that is
    reachable.

    Raises:
        UserError: none of its settings has been started.
    """
    from tune.reports.table_files import publish
    from tune.tracking.tracker import Tracker

    if not is_group(folder):  # the settings have names of their own
        publish(folder)
        copy_table(folder)
        return

    publish(Group.at(folder))
    copy_table(folder)
    with suppress(UserError):  # `python tune/report.py sync` reports what is wrong there
        Tracker(folder).sync()


def copy_table(folder: Path) -> None:
    from tune.reports.table_files import FILES

    for name in FILES:
        copy(folder / name)
    if is_group(folder):
        copy_group_log(folder)


def one_ray(options: Options) -> AbstractContextManager[None]:
    """Keep one Ray running for all studies, because starting it takes longer than a small study."""
    is_batched = options.batch_trials is not None and options.setting is not None
    if options.local or is_batched:
        return nullcontext()

    from tune.execution.ray_session import ray_session

    return ray_session(options.workers)
