"""`config.json` in a run's folder: for readers, the configuration that the event log has.

The file is written whole, but not brought to the disk, which takes longer than the rest of a start.
What a power cut takes of it is written anew when the study is opened.
"""

import json
from pathlib import Path
from typing import Any

from trainables.files import write_atomically
from tune.study.log_state import LogState

CONFIG_FILE = "config.json"


def write_config(folder: Path, config: dict[str, Any]) -> None:
    """Write the configuration of a run into its folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(config, indent=1) + "\n"
    write_atomically(folder / CONFIG_FILE, text, durable=False)


def restore_configs(directory: Path, state: LogState) -> None:
    """Write the files anew that a power cut has taken from folders that are there.

    Args:
        directory: of the study.
        state: what the event log says.
    """
    for work_id, run in state.runs.items():
        folder = work_id.folder(directory)
        if run.config and folder.is_dir() and not _is_whole(folder / CONFIG_FILE):
            write_config(folder, run.config)


def _is_whole(path: Path) -> bool:
    """False for a file that is missing, empty, or full of zeros."""
    try:
        with path.open("rb") as file:
            return file.read(1) == b"{"
    except FileNotFoundError:
        return False
