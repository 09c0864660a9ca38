"""Destinations other than MLflow that a study can be sent to: `--log NAME`."""

from collections.abc import Callable, Sequence
from pathlib import Path

from trainables.config import nearest
from trainables.errors import UserError
from tune.object_store.paths import address
from tune.study.copied import adopt, awaits_adoption
from tune.study.lock import addition
from tune.tracking.csv_files import CsvTables
from tune.tracking.destination import Destination
from tune.tracking.replay import Replay
from tune.tracking.tensorboard_files import TensorBoard
from tune.tracking.tracker import Tracker
from tune.tracking.wandb_runs import WandB, check_wandb

__all__ = ["LOGS", "begun_logs", "check_logs", "replay_into", "sync_study"]

LOGS: dict[str, type[Destination]] = {
    "csv": CsvTables,
    "tensorboard": TensorBoard,
    "wandb": WandB,
}
"""Value of `--log` -> destination."""


def check_logs(names: Sequence[str] | None) -> tuple[str, ...]:
    """Return the requested destinations without duplicates.

    Raises:
        UserError: a name is unknown, a package is missing, or W&B has no credentials.
    """
    wanted = tuple(dict.fromkeys(names or ()))
    for name in wanted:
        if name not in LOGS:
            raise UserError(f"unknown --log {name!r} (MLflow is always on){nearest(name, LOGS)}")
    if "wandb" in wanted:
        check_wandb()
    return wanted


def replay_into(name: str, study_dir: Path) -> Replay:
    """Return the `Replay` that sends a study to a destination."""
    return Replay(study_dir, LOGS[name]())


def sync_study(
    study_dir: Path, asked: Sequence[str] = (), is_wanted: Callable[[], bool] = lambda: True
) -> str:
    """Bring MLflow and the study's other destinations up to date. Return one line per destination
    that says what was done.

    Args:
        asked: further destinations to send the study to.
        is_wanted: called between two chunks of the log; False stops the sending.
    Raises:
        UserError: a destination failed. The others are up to date.
    """
    _adopt(study_dir)
    names = dict.fromkeys([*begun_logs(study_dir), *asked])
    replays = [Tracker(study_dir), *(replay_into(name, study_dir) for name in names)]
    lines: list[str] = []
    refused: list[str] = []
    for replay in replays:
        try:
            lines.append(replay.sync(is_wanted))
        except UserError as error:
            refused.append(str(error))
    if refused:
        raise UserError("; ".join([*lines, *refused]))
    return "\n".join(lines)


def _adopt(study_dir: Path) -> None:
    """Give a copied folder an identity of its own before anything is sent.

    Raises:
        UserError: the copy is in an object store, where only a run of the study may write.
    """
    is_begun = (study_dir / "study.json").exists()
    if address(study_dir) is not None and is_begun and awaits_adoption(study_dir):
        raise UserError(
            f"{address(study_dir)} was copied there from another study: run its command with "
            f"--study {study_dir.name} once, which gives it an identity of its own"
        )
    with addition(study_dir) as is_free:
        if is_free:  # a running study has already done this
            adopt(study_dir)


def begun_logs(study_dir: Path) -> list[str]:
    """Return the names of the destinations that a study has been sent to."""
    return [name for name in LOGS if (study_dir / name).is_dir()]
