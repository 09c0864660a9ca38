"""Disk space of a study, measured and predicted."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from trainables.files import BEST, LAST
from tune.study.kept_files import KEPT_TRIALS

_KB = 1e3
_MB = 1e6
_GB = 1e9


@dataclass(frozen=True)
class DiskUse:
    """Bytes used by a study's folder."""

    total: int
    weights: int
    """Exported weights of trials and repeats."""
    models: int
    """Number of weight files."""
    checkpoints: int
    """Checkpoints of running or paused trials and repeats."""

    @property
    def sentence(self) -> str:
        """A sentence such as `on disk: 612 MB, of which 566 MB are the weights of 6 runs`."""
        said = f"on disk: {megabytes(self.total)}"
        if self.models:
            runs = "1 run" if self.models == 1 else f"{self.models} runs"
            said += f", of which {megabytes(self.weights)} are the weights of {runs}"
        if self.checkpoints:
            said += f", {megabytes(self.checkpoints)} checkpoints to resume from"
        return said


def disk_use(folder: Path) -> DiskUse:
    """Add up the files in a study's folder. Files that vanish meanwhile are not counted."""
    total = weights = models = checkpoints = 0
    for name, size in _files(folder):
        total += size
        if name == BEST:
            weights += size
            models += 1
        if name == LAST:
            checkpoints += size
    return DiskUse(total, weights, models, checkpoints)


def expected_disk(
    trials: int, repeats: int, keep: str, export_mb: float, checkpoint_mb: float
) -> str:
    """Predict the disk space of a study's weights, for `--plan`.

    Args:
        trials: total number of trials; all of them may complete.
        repeats: total number of repeats.
        keep: `best` or `all`.
        export_mb: weights of a completed run, in MB.
        checkpoint_mb: checkpoint of a running one, in MB.
    """
    kept = min(trials, 1 + KEPT_TRIALS) if keep == "best" else trials + repeats
    running = 2 * checkpoint_mb + export_mb  # the old checkpoint stays until the new one is written
    return (
        f"disk: {megabytes(export_mb * _MB)} of weights a run, kept for at most {kept} "
        f"(--keep {keep}): {megabytes(kept * export_mb * _MB)}; "
        f"up to {megabytes(running * _MB)} more per running trial"
    )


def megabytes(size: float) -> str:
    """Format a number of bytes for people: `40 kB`, `4.2 MB`, `612 MB`, `1.3 GB`."""
    if size >= _GB:
        return f"{size / _GB:.1f} GB"
    if size >= 10 * _MB:
        return f"{size / _MB:.0f} MB"
    if size >= _MB:
        return f"{size / _MB:.1f} MB"
    return f"{size / _KB:.0f} kB"


def _files(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield the name and size of every file in a folder and its subfolders."""
    for root, _, names in os.walk(folder):
        for name in names:
            try:
                yield name, os.lstat(Path(root, name)).st_size
            except OSError:  # a running study removes files
                continue
