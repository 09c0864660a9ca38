"""A study in Weights & Biases: `--log wandb`.

There is one run per trial and repeat, and one for the study, all in a group with the study's name.
W&B's own environment variables set mode, project, entity, server and key: WANDB_MODE (online or
offline), WANDB_PROJECT, WANDB_ENTITY, WANDB_BASE_URL, WANDB_API_KEY.

W&B's files are in `runs/<study>/wandb/`; `wandb sync` uploads those of offline runs. A run counts
as sent once it has finished in W&B. Runs left unfinished by a kill are sent again under the same
id: online, from the server's last step on; offline, replacing the earlier files.
"""

import importlib.util
import json
import netrc
import os
import shutil
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from trainables.errors import UserError
from trainables.files import write_atomically
from tune.command_line import install_command
from tune.tracking.address import probe, without_password
from tune.tracking.destination import Opening
from tune.tracking.local_files import LocalConnection, LocalPlace
from tune.tracking.projection import Changes, ProjectedRun
from tune.tracking.saved_state import read_state

__all__ = ["WandB", "WandbStudy", "check_wandb"]

_SERVER = "https://api.wandb.ai"
_PROJECT = "vistune"
_MODES = ("online", "offline")
_STATE = "finished.json"
_QUIET = {
    "silent": True,
    "console": "off",
    "disable_code": True,
    "disable_git": True,
    "x_disable_machine_info": True,
    "x_disable_meta": True,
    "x_disable_stats": True,
    "x_save_requirements": False,
}
"""Settings of a run: W&B collects nothing on its own and prints nothing to the terminal."""
_START_S = 60.0
"""Maximum time to start a run. The first one starts a W&B process, and online it waits for the
server."""


def check_wandb() -> None:
    """Check that W&B can be used without prompting anyone.

    Raises:
        UserError: W&B is not installed, its mode is unknown, or there are no credentials.
    """
    if importlib.util.find_spec("wandb") is None:
        raise UserError(f"--log wandb needs wandb: {install_command('wandb')}")

    mode = _mode()
    if mode not in _MODES:
        raise UserError(f"WANDB_MODE={mode} must be online or offline for --log wandb")
    if mode == "online" and not _can_log_in():
        raise UserError(
            f"--log wandb has no key for {_address()}: `wandb login`, or set WANDB_API_KEY, or "
            "WANDB_MODE=offline to upload later by `wandb sync`"
        )


def _mode() -> str:
    return os.environ.get("WANDB_MODE") or "online"


def _address() -> str:
    """Return the server, without a password."""
    return without_password(os.environ.get("WANDB_BASE_URL") or _SERVER)


def _place() -> dict[str, str]:
    """Return everything that determines where in W&B the runs are. If it changes, all runs are sent
    again."""
    return {
        "mode": _mode(),
        "server": _address(),
        "entity": os.environ.get("WANDB_ENTITY") or "",
        "project": os.environ.get("WANDB_PROJECT") or _PROJECT,
    }


def _can_log_in() -> bool:
    """True if a key exists in one of the places where W&B looks for it; the key is not read."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    try:
        known = netrc.netrc(os.environ.get("NETRC")).hosts
    except (OSError, netrc.NetrcParseError):
        return False
    return urlsplit(_address()).netloc in known


class WandB(LocalPlace):
    """W&B, online or offline, as a `Destination`."""

    name = "wandb"
    title = "W&B"

    def where(self, study_dir: Path) -> str:
        """Return the server, or the folder of the offline runs."""
        return _address() if _mode() == "online" else str(self.folder(study_dir))

    def connect(self, opening: Opening) -> "WandbStudy":
        """Find the runs that have already been sent to W&B.

        Raises:
            UserError: as in `check_wandb`.
            OSError: the server does not respond.
        """
        check_wandb()
        if _mode() == "online":
            probe(_address())  # wandb itself waits 90 seconds for a missing server
        os.environ.setdefault("WANDB_SILENT", "true")  # before it is imported
        opening.beat(_START_S)
        return WandbStudy(opening, self.folder(opening.study_dir))


@dataclass
class _Open:
    """A run that W&B has started."""

    run: Any
    first_step: int
    """First step to send; earlier steps are already in W&B."""
    step: int = -1
    """The last step that was sent."""
    t: int = 0
    """Time of that step, ms since the epoch."""

    def log(self, step: int, t: int, metrics: dict[str, float]) -> None:
        """Send the values of a step; values sent later keep the step's first time."""
        if step < self.first_step:
            return
        if step > self.step:
            self.step = step
            self.t = t
        self.run.log(metrics | {"_timestamp": self.t / 1000}, step=step)


class WandbStudy(LocalConnection):
    """The runs of one study, as a `Connection`.

    Args:
        folder: folder of W&B's files.
    """

    def __init__(self, opening: Opening, folder: Path):
        super().__init__(opening, folder)
        folder.mkdir(parents=True, exist_ok=True)
        self._wandb = importlib.import_module("wandb")
        self._unsent: dict[str, Changes] = {}
        self._open: dict[str, _Open] = {}
        self._finished: set[str] = set()
        self.offset = 0

        state = read_state(folder / _STATE)
        is_ours = state.get("study") == opening.study_id and state.get("place") == _place()
        finished = state.get("finished")
        if is_ours and isinstance(finished, list) and opening.fits(state.get("offset")):
            self._finished = set(map(str, finished))
            self.offset = state["offset"]

    def recall(self, run: ProjectedRun, changes: Changes) -> None:
        """Keep what W&B may lack: all changes of runs that have not finished there."""
        if run.key not in self._finished:
            self._unsent[run.key] = changes

    def apply(self, run: ProjectedRun, changes: Changes) -> None:
        """Send the changes of one run."""
        if run.key in self._finished and not (changes.metrics or changes.params):
            return  # only tags of a run that has ended

        opened = self._open.get(run.key) or self._begin(run)
        before = self._unsent.pop(run.key, None)
        if before is not None:
            self._send(opened, before)
        self._send(opened, changes)
        if changes.status is not None and changes.status[0] != "RUNNING":
            self._finish(run, changes.status[0])

    def remember(self, study: ProjectedRun, offset: int) -> None:
        """Record which runs have finished in W&B."""
        state = {
            "study": self.opening.study_id,
            "place": _place(),
            "offset": offset,
            "finished": sorted(self._finished),
        }
        write_atomically(self.folder / _STATE, json.dumps(state))
        self.offset = offset

    def close(self) -> None:
        """Finish the open runs without recording them as finished."""
        for opened in self._open.values():
            opened.run.finish(exit_code=1)
        self._open = {}
        if _mode() == "offline":
            super().close()

    def _begin(self, run: ProjectedRun) -> _Open:
        """Start a run in W&B, or continue it on the server."""
        self.opening.beat(_START_S)
        identity = _identity(self.opening.study_id, run)
        if _mode() == "offline" and run.key not in self._finished:
            for left in self.folder.glob(f"wandb/offline-run-*-{identity}"):
                shutil.rmtree(left)

        first = self.opening.first
        begun = self._wandb.init(
            project=_place()["project"],
            dir=str(self.folder),
            id=identity,
            name=run.name,
            group=first["name"],
            job_type=run.tags["kind"],
            mode=_mode(),
            resume="allow" if _mode() == "online" else None,
            reinit="create_new",
            settings=self._wandb.Settings(**_QUIET),
        )
        self._finished.discard(run.key)
        self._open[run.key] = _Open(begun, begun.starting_step)
        self.opening.beat(0)
        return self._open[run.key]

    def _send(self, opened: _Open, changes: Changes) -> None:
        """Log config, metrics by step, and tags."""
        run = opened.run
        if changes.params:
            run.config.update(changes.params, allow_val_change=True)
        for (t, step), metrics in groupby(changes.metrics, key=lambda metric: metric[2:]):
            opened.log(step, t, {name: value for name, value, _, _ in metrics})
        for name, text in changes.tags.items():
            run.summary[name] = text

    def _finish(self, run: ProjectedRun, status: str) -> None:
        """Finish a run in W&B. An interrupted run is started again when its trial resumes."""
        self.opening.beat(_START_S)
        opened = self._open.pop(run.key)
        opened.run.finish(exit_code=0 if status == "FINISHED" else 1)
        if status != "KILLED":
            self._finished.add(run.key)
        self.opening.beat(0)


def _identity(study_id: str, run: ProjectedRun) -> str:
    """Return the id of a run in its project: letters, digits and dashes."""
    return f"{study_id}-{run.key.replace('/', '-')}"
