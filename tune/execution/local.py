"""`--local`: the study in this very process, one trial after the other, and the replay of a
recorded trial. Imports no Ray."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from trainables.base import Metrics
from trainables.errors import UserError
from tune.backbones.resolve import where_backbone_is
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.experiments import Experiment
from tune.study.events import EventLog
from tune.study.manifest import read_manifest, replay_command
from tune.study.study import Outcome, Study, Work


def search_locally(study: Study, experiment: Experiment) -> None:
    """Run the study to its end, or until `study.stopping` (looked at after every epoch).

    Raises:
        UserError: the study's folder cannot be written any more.
    """
    while (work := study.next_work()) is not None:
        assert work != "wait"  # nothing runs beside us
        study.started(work)
        outcome = run(experiment, work, LocalRuntime(Path(work.directory), _reporter(study, work)))
        if study.stopping:
            study.requeue(work)
        elif outcome.state == "PRUNED" and outcome.reason is None:
            study.ended(work, study.pruned(work))
        else:
            study.ended(work, outcome)


def _reporter(study: Study, work: Work) -> Callable[[int, Metrics], bool]:
    def report(epoch: int, metrics: Metrics) -> bool:
        return not study.stopping and study.reported(work, epoch, metrics) and not study.stopping

    return report


def replay(
    study_dir: Path, experiment: Experiment, number: int, tell: Callable[[str], None]
) -> bool:
    """Run a recorded trial again, same config and seed, in a folder of its own; compare epoch by
    epoch. True: all equal.

    A trial that failed before its first epoch must fail again, for the same reason.

    Raises:
        UserError: there is no such trial on record, or nothing of it yet, or the study is one of
            another experiment.
    """
    config, recorded, end = _recorded(study_dir, number)
    if config is None:
        raise UserError(
            f"no trial {number} on record in {study_dir}; `python tune/report.py show {study_dir.name}` lists its trials"
        )
    if (of := read_manifest(study_dir / "study.json").experiment) != experiment.name:
        raise UserError(
            f"study {study_dir.name!r} is one of {of}: {replay_command(of, study_dir, number)}"
        )
    if not recorded and end is None:
        raise UserError(
            f"trial {number} of study {study_dir.name!r} has no epoch on record yet, so that there is nothing to compare with"
        )
    config = where_backbone_is(config, study_dir.parent)
    equal = True
    missing = set(recorded)

    def compare(epoch: int, metrics: Metrics) -> bool:
        nonlocal equal
        if epoch not in recorded:
            tell(f"epoch {epoch}: not on record")
            return False
        missing.discard(epoch)
        then = recorded[epoch]
        differing = {
            k: (then[k], v)
            for k, v in metrics.items()
            if not k.startswith("time/") and k in then and then[k] != v
        }
        equal &= not differing
        tell(
            f"epoch {epoch}: "
            + (
                "; ".join(f"{k} was {a!r}, is {b!r}" for k, (a, b) in differing.items())
                or "equal to the record"
            )
        )
        return epoch < max(recorded)

    with tempfile.TemporaryDirectory(prefix="vistune-replay-") as scratch:
        work = Work("trial", number, config["seed"], config, scratch)
        outcome: Outcome = run(experiment, work, LocalRuntime(Path(scratch), compare))
    if outcome.state == "FAIL" or (outcome.reason and not recorded):
        tell(outcome.error or outcome.reason or "failed")
    if (
        not recorded
        and end is not None
        and (outcome.state, outcome.reason) != (end["state"], end["reason"])
    ):
        equal = False
        tell(f"on record it ended as {end['state']} before its first epoch ({end['reason']})")
    if missing:
        tell(f"on record but not reached again: epoch {', '.join(map(str, sorted(missing)))}")
    return equal and not missing


def _recorded(
    study_dir: Path, number: int
) -> tuple[dict[str, Any] | None, dict[int, Metrics], dict[str, Any] | None]:
    """Config, epoch -> metrics, and the event of its end."""
    config, reports, end = None, {}, None
    for event in EventLog.read(study_dir / "events.jsonl")[0]:
        if event.get("trial") == number and "repeat" not in event:
            if event["event"] == "start":
                config = event["config"]
            elif event["event"] == "report":
                reports[event["epoch"]] = event["metrics"]
            elif event["event"] == "end":
                end = event
    return config, reports, end
