"""A study in TensorBoard: `--log tensorboard`.

    runs/<study>/tensorboard/trial-003/events.out.tfevents.<seconds>.vistune

There is one folder per trial or repeat, and one with the study's name for values of the study as a
whole. Metrics are scalars by epoch, searched parameters are in the HParams tab, the whole config is
a text, and pictures are images. Start `tensorboard --logdir runs/<study>/tensorboard`, or `--logdir
runs` to compare all studies.

The files are written with the messages of tensorboardX, a dependency of Ray Tune. TensorBoard
itself is only needed to view them.
"""

import struct
from collections.abc import Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

from tune.object_store import s3
from tune.tracking.destination import Opening
from tune.tracking.local_files import AppendedFiles, LocalConnection, LocalPlace
from tune.tracking.projection import Changes, ProjectedRun
from tune.tracking.tensorboard_messages import (
    first_record,
    image,
    record,
    scalar,
    session_end,
    session_start,
    text,
)

__all__ = ["TensorBoard", "TensorBoardStudy"]

_LARGEST_PICTURE = 2_000_000  # bytes
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_HEADER = 24  # bytes up to and including width and height
_SUCCESS, _FAILURE = 1, 2  # status codes of the HParams tab
_STATUS = {"FINISHED": _SUCCESS, "FAILED": _FAILURE}


class TensorBoard(LocalPlace):
    """Folder `tensorboard` of a study, as a `Destination`."""

    name = "tensorboard"
    title = "TensorBoard"

    def connect(self, opening: Opening) -> "TensorBoardStudy":
        """Open the event files; create them if they do not exist."""
        return TensorBoardStudy(opening, self.folder(opening.study_dir))


class TensorBoardStudy(LocalConnection):
    """The event files of one study, as a `Connection`.

    Args:
        folder: folder of the runs.
    """

    def __init__(self, opening: Opening, folder: Path):
        super().__init__(opening, folder)
        self._files = AppendedFiles(folder, opening)
        self._started: set[str] = set()  # runs whose parameters are written
        self._epochs: dict[str, int] = {}
        self.offset = self._files.offset

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Note which runs have started, and their last epochs."""
        self._epochs[run.key] = changes.epoch or 0
        if changes.params:
            self._started.add(run.key)

    def apply(self, run: ProjectedRun, changes: Changes) -> None:
        """Add the messages of one run."""
        self._epochs[run.key] = changes.epoch or self._epochs.get(run.key, 0)
        name = _file(run)
        if not self._files.has(name):
            self._files.append(name, first_record(run.started))
        if changes.params and run.key not in self._started:
            self._started.add(run.key)
            self._write_params(name, run, changes.params)

        for (t, step), values in groupby(changes.metrics, key=lambda metric: metric[2:]):
            scalars = [scalar(tag, value) for tag, value, _, _ in values]
            self._files.append(name, record(t, step, scalars))

        for path, folder in changes.files:
            self._write_picture(name, run, path, folder)
        if changes.status is not None and run.trial is not None:
            self._write_status(name, *changes.status)

    def remember(self, study: ProjectedRun, offset: int) -> None:
        """Write all files to disk.

        Raises:
            OSError: the folder is not writable.
        """
        self._files.commit(offset)
        self.offset = offset

    def _write_params(self, name: str, run: ProjectedRun, params: Mapping[str, Any]) -> None:
        """Write the config, and the searched parameters for the HParams tab."""
        values = [text("config", _table(params))]
        if run.trial is not None:
            searched = {key: params[key] for key in self.opening.first["searched"] if key in params}
            values.append(session_start(searched, run.started))
        self._files.append(name, record(run.started, 0, values))

    def _write_picture(self, name: str, run: ProjectedRun, path: str, folder: str) -> None:
        """Write a PNG unchanged; ignore artifacts that are not pictures."""
        file = self.opening.study_dir / path
        if file.suffix.lower() != ".png":
            return

        s3.present(file)
        if not file.exists() or file.stat().st_size > _LARGEST_PICTURE:
            return
        content = file.read_bytes()
        if len(content) < _PNG_HEADER or not content.startswith(_PNG):
            return  # incomplete, after a full disk or a kill
        width, height = struct.unpack(">II", content[16:24])
        tag = f"{folder}/{file.stem}" if folder else file.stem
        picture = image(tag, content, width, height)
        self._files.append(name, record(run.started, self._epochs[run.key], [picture]))

    def _write_status(self, name: str, status: str, since: int) -> None:
        """Write for the HParams tab how a run ended."""
        if status in _STATUS:
            self._files.append(name, record(since, 0, [session_end(_STATUS[status], since)]))


def _file(run: ProjectedRun) -> str:
    """Return the name of a run's event file. TensorBoard looks for `tfevents` in file names, and
    reads the files of a folder in name order."""
    return f"{run.name}/events.out.tfevents.{run.started // 1000}.vistune"


def _table(values: Mapping[str, Any]) -> str:
    """Format the config as a Markdown table."""
    lines = []
    for name, value in values.items():
        shown = str(value).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {name} | {shown} |")
    return "\n".join(["| name | value |", "|---|---|", *lines])
