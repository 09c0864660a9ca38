"""`config.json` in a run's folder: the configuration from the event log, for readers.

The file is written atomically but not fsynced, which would take longer than the rest of a start. If
a power cut loses it, the next opening of the study writes it again.
"""

import json
from pathlib import Path
from typing import Any

from trainables.files import write_atomically
from tune.study.log_state import LogState

CONFIG_FILE = "config.json"


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a run into its folder; create the folder if needed."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=1) + "\n"
    write_atomically(folder / CONFIG_FILE, text, durable=False)


def restore_configs(directory: Path, state: LogState) -> None:
    """Write the files again that a power cut has removed from existing folders.

    Args:
        directory: folder of the study.
        state: state of the event log.
    """
    for work_id, run in state.runs.items():
        folder = work_id.folder(directory)
        if run.config and folder.is_dir() and not _is_whole(folder / CONFIG_FILE):
            write_config(folder, run.config)


def _is_whole(path: Path) -> bool:
    """False for a file that is missing, empty or full of zeros."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except FileNotFoundError:
        return False
