"""The values that a layout fills in; the whole summary is `trainables/data_summary.py`."""

from trainables.data_summary import FolderUse, LeftOut

__all__ = ["FolderUse", "LeftOut"]
