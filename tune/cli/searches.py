"""Run a comparison as several independent searches of each setting, which are its observations.

Search r of every setting has its own sampler and training seed, its own split of the data, and a
backbone trained on that split. The chosen configuration is trained again under fresh seeds and
evaluated on the test split; the mean over these trainings is the observation.
"""

import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from search_spaces.classify import BackboneSetting
from search_spaces.settings import Comparison, Setting
from trainables.errors import UserError
from tune.backbones.resolve import DEFAULT_STUDY
from tune.cli.caller import Caller
from tune.cli.default_config import resolve
from tune.cli.options import TRIALS_OF_SEARCHES, Options
from tune.cli.orientation import facing
from tune.cli.own_ranges import typed_ranges, with_ranges
from tune.cli.prepare import Prepared, prepare
from tune.cli.searching import check_machine
from tune.cli.session import Session
from tune.cli.stop import DONE, Ended
from tune.cli.workers import check_shares
from tune.experiments import EXPERIMENTS, Experiment, side_of
from tune.object_store.study_sync import copy_group_log
from tune.search.method_names import GRID
from tune.study.agenda import Expected
from tune.study.group import Group, manifest_in, member_name
from tune.study.lock import StudyInUse, is_in_use
from tune.study.record import read_record
from tune.study.rules import REPEATS, WINNER, derived_seed

_LOOK_S = 1.0
_MOST_SEARCHES = 1000
_SHARED = ("data.", "backbone.")
"""Config values that `--set` also passes to the studies from which the backbones come."""


@dataclass(frozen=True)
class Member:
    """One study of a comparison with several searches."""

    options: Options
    experiment: Experiment

    group: str
    """Name of the comparison's group."""

    search: int
    """Number of the search, from 1."""

    finals: int
    """Number of trainings of the chosen configuration for the test split; 0 for a source of
    backbones."""

    @property
    def name(self) -> str:
        """Name of the study."""
        return str(self.options.study)

    @property
    def side(self) -> str:
        """The setting, or the experiment of a source of backbones, which all its searches share."""
        return self.options.setting or self.experiment.name

    @property
    def source(self) -> str | None:
        """Name of the study from whose backbone it starts."""
        return self.options.backbone

    def _sources(self, storage: Path) -> dict[str, Path]:
        """Return the folders of the pre-training studies of this search."""
        return {
            source: storage / member_name(self.group, source, self.search)
            for source in DEFAULT_STUDY.values()
        }

    def _first(self, storage: Path) -> Path | None:
        """Return the manifest of the first search of the same setting or source; None if there is
        none."""
        path = storage / member_name(self.group, self.side, 1) / "study.json"
        return path if path.exists() else None

    def prepared(self, storage: Path) -> Prepared:
        """Resolve the options; the backbone must exist.

        Raises:
            UserError: wrong use.
        """
        sources = self._sources(storage)
        first = self._first(storage)
        beside = manifest_in(storage / self.group, 1)
        found = prepare(self.options, self.experiment, storage, sources, first, beside=beside)
        rules = {**found.manifest.rules, "repeats": WINNER}
        manifest = replace(found.manifest, rules=rules, repeats=self.finals, search=self.search)
        return replace(found, manifest=manifest)


def run_searches(
    options: Options,
    experiment: Experiment,
    comparison: Comparison,
    folder: Path,
    budget_s: float | None,
    wanted: int,
    caller: Caller,
) -> Ended:
    """Run or resume all searches, then show and write the table.

    Args:
        folder: the group's folder.
        wanted: number of searches of each setting.
    Raises:
        UserError: wrong use, raised before the first trial.
    """
    from tune.cli.compare import copy_table, one_ray, own_comparison
    from tune.reports.table_files import publish

    storage = folder.parent
    options = replace(options, trials=options.trials or TRIALS_OF_SEARCHES)
    _check(options, experiment, comparison, wanted)
    numbers = range(1, wanted + 1) if options.search is None else [options.search]
    studies = [
        member
        for number in numbers
        for member in members_of(options, experiment, comparison, folder.name, number)
    ]

    first = studies[0].prepared(storage)
    if options.plan:
        from tune.cli.plan import show_plan, show_searches

        show_searches(comparison, options, wanted, studies[-1].finals)
        show_plan(first, studies[0].options)
        return Ended(DONE)

    check_machine(first, options)
    objective = first.manifest.objective
    own = own_comparison(experiment, comparison)
    group = Group.open(folder, experiment.name, objective, sorted(first.manifest.space), own)
    group.ask_for(wanted)
    copy_group_log(folder)

    with Session(options, budget_s, caller) as session:
        expected = [Expected(one.name, one.side, one.experiment.name) for one in studies]
        session.clock.expect(expected, storage)
        session.track(folder)
        with one_ray(options):
            code = _run_each(session, studies, group)
        if options.search is None and not session.stop.reason:
            publish(group, shown=caller.progress != "none")
            group.emit("finish", state="FINISHED")
            copy_table(folder)
    return session.ended(code)


def _run_each(session: Session, studies: list[Member], group: Group) -> int:
    """Run or resume all studies; return the exit code.

    Several processes may run one comparison. Each takes the studies that no other process is
    running, and waits for the rest.
    """
    code = DONE
    waiting = studies

    while waiting:
        busy: list[Member] = []
        for member in waiting:
            if session.stop.reason:
                return max(code, session.stop.code)
            if any(other.name == member.source for other in busy):
                busy.append(member)
                continue
            ended = _run_if_free(session, member, group)
            if ended is None:
                busy.append(member)
            else:
                code = max(code, ended)

        if len(busy) == len(waiting):
            time.sleep(_LOOK_S)
        waiting = busy

    if session.stop.reason:
        return max(code, session.stop.code)
    return code


def _run_if_free(session: Session, member: Member, group: Group) -> int | None:
    """Run or resume a study and return its exit code, or DONE if another process has just finished
    it. Return None if another process is running it."""
    storage = group.folder.parent
    folder = storage / member.name
    if not is_in_use(folder):
        with suppress(StudyInUse):  # the other process was faster
            return session.run(member.prepared(storage), group)

    # A process holds its studies until it ends and has sent them to MLflow.
    has_begun = (folder / "study.json").exists()
    return DONE if has_begun and read_record(folder).finished else None


def members_of(
    options: Options, experiment: Experiment, comparison: Comparison, group: str, number: int
) -> Iterator[Member]:
    """Yield the studies of the n-th search: the sources of backbones, then the settings."""
    identity = f"{group} {options.seed}"
    seed = derived_seed(identity, "search", number)
    pins = options.set or []
    # comparisons under different --seed split the data differently too
    split_seed = _MOST_SEARCHES * options.seed + number - 1
    # A function splits its data itself.
    is_split = experiment.function is not None or _is_pinned("data.seed", pins)
    split = [] if is_split else [f"data.seed={split_seed}"]
    own = _own_pins(pins)
    common = replace(options, seed=seed, set=[*own, *split], compare=None, searches=None)

    sources = dict.fromkeys(_source(setting) for setting in comparison.settings.values())
    # A grid applies only to the settings' own ranges.
    sampler = None if options.sampler == GRID else options.sampler
    for name in filter(None, sources):
        study = member_name(group, name, number)
        shared = [pin for pin in [*own, *split] if pin.startswith(_SHARED)]
        shared += [pin.partition(":")[2] for pin in pins if pin.startswith(f"{name}:")]
        yield Member(
            replace(
                common,
                experiment=name,
                study=study,
                set=shared,
                space=None,
                no_search=None,
                sampler=sampler,
            ),
            EXPERIMENTS[name],
            group,
            number,
            finals=0,
        )

    finals = REPEATS[WINNER] if options.repeats is None else options.repeats
    for name, setting in comparison.settings.items():
        source = _source(setting)
        backbone = None if source is None else member_name(group, source, number)
        study = member_name(group, name, number)
        own_options = replace(common, setting=name, study=study, backbone=backbone)
        yield Member(own_options, experiment, group, number, finals)


def _check(options: Options, experiment: Experiment, comparison: Comparison, wanted: int) -> None:
    """Refuse everything that would be refused later, after backbones had been trained for it."""
    if options.repeats == 0:
        raise UserError(
            "--repeats 0: each search needs a training of its choice for the test split; give 1 "
            "or more"
        )
    if options.search is not None and options.search > wanted:
        raise UserError(f"--search {options.search}: there are {wanted}; give more with --searches")

    pins = options.set or []
    for pin in pins:
        source, colon, _ = pin.partition("=")[0].partition(":")
        if colon and source not in DEFAULT_STUDY.values():
            raise UserError(
                f"--set {pin}: {source!r} is not a source of backbones; "
                f"before the colon goes one of {', '.join(DEFAULT_STUDY.values())}"
            )

    own = _own_pins(pins)
    for name, setting in comparison.settings.items():
        start = {"init.file": "not trained yet"} if _source(setting) else {}
        side = side_of(experiment, setting)
        side.program.check_packages()
        typed = replace(options, setting=name, set=own)
        preset, base, pinned, _ = resolve(typed, side, setting.values, start, {})
        if options.workers > 1 and side.program.needs_equal_shares():
            ranged = with_ranges(facing(side, base), preset, typed_ranges(typed, side))
            check_shares(options.workers, ranged, preset, base, pinned)


def _is_pinned(key: str, pins: list[str]) -> bool:
    return any(pin.partition("=")[0].strip() == key for pin in pins)


def _source(setting: Setting) -> str | None:
    """Return the experiment from whose best trial a setting starts; None if there is none."""
    return DEFAULT_STUDY.get(setting.init) if isinstance(setting, BackboneSetting) else None


def _own_pins(pins: list[str]) -> list[str]:
    """Return the pins for the settings, without those for a source of their backbones."""
    return [pin for pin in pins if ":" not in pin.partition("=")[0]]
