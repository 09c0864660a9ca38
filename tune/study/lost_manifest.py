"""Check a study whose study.json is missing while its log is there.

The command writes the file anew. The log's first event says what the study was, so the study cannot
become another one that way.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.study.events import EventLog
from tune.study.manifest import PATH_KEYS, Manifest

_SHOWN = 3


def check_lost_manifest(directory: Path, manifest: Manifest) -> str:
    """Compare a study that has lost its manifest with the manifest that would replace it.

    Args:
        manifest: made from the current command.
    Returns:
        A sentence about the loss; "" if nothing is lost.
    Raises:
        UserError: the log belongs to another study, or is damaged.
    """
    log = directory / "events.jsonl"
    if (directory / "study.json").exists() or not log.exists():
        return ""
    events, _ = EventLog.read(log)
    if not events:
        return ""

    about = events[0]
    if about["event"] == "study":
        differences = _differences(about, manifest)
        if differences:
            raise UserError(
                f"{directory / 'study.json'} is missing, and events.jsonl began with "
                f"{'; '.join(differences)}: restore it from a copy, or repeat the command that the "
                "study began with"
            )
    return (
        "study.json was missing and is rebuilt from this command; a study that an earlier "
        "version began continues under today's rules"
    )


def _differences(about: Mapping[str, Any], manifest: Manifest) -> list[str]:
    """First few values of the log that the command would change."""
    was = {"objective": about["objective"], **about["config"]}
    mine = {"objective": manifest.objective, **json.loads(json.dumps(manifest.base))}
    differences = [
        f"{key}={value}"
        for key, value in was.items()
        if key in mine and key not in PATH_KEYS and mine[key] != value
    ]
    if about["searched"] != sorted(manifest.space):
        differences.append(f"other searched parameters ({', '.join(about['searched'])})")
    if about["data"].get("fingerprint") != manifest.data.get("fingerprint"):
        differences.append("other data")
    return differences[:_SHOWN]
