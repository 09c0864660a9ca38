"""Names and texts in the form that MLflow accepts."""

import hashlib
import posixpath
import re
from dataclasses import replace
from typing import Any

from tune.tracking.projection import Changes

__all__ = ["for_mlflow", "mlflow_key", "mlflow_tags"]

PARAM_LIMIT, TAG_LIMIT, KEY_LIMIT = 6000, 8000, 250
"""Maximum number of characters of a param, a tag and a key in MLflow."""


def for_mlflow(changes: Changes) -> Changes:
    """Return the changes with keys and texts that MLflow accepts. If several metric names map to
    the same key, the first one is kept."""
    metrics: dict[tuple[str, int], tuple[str, float, int, int]] = {}
    for name, value, t, step in changes.metrics:
        key = mlflow_key(name)
        metrics.setdefault((key, step), (key, value, t, step))

    return replace(
        changes,
        params=_strings(changes.params, PARAM_LIMIT),
        tags=mlflow_tags(changes.tags),
        metrics=list(metrics.values()),
    )


def mlflow_tags(tags: dict[str, str]) -> dict[str, str]:
    """Return the tags in the form that MLflow accepts."""
    return _strings(tags, TAG_LIMIT)


def mlflow_key(name: str) -> str:
    """Replace everything that MLflow forbids in keys by `_`: characters such as `[` and `@`, and
    non-normalized paths.

    >>> mlflow_key("/val/top@1"), mlflow_key("../x"), mlflow_key("val/knn_top1")
    ('val/top_1', '_/x', 'val/knn_top1')
    """
    name = posixpath.normpath(re.sub(r"[^/\w.\- :]", "_", name).lstrip("/")).replace("..", "_")
    if len(name) > KEY_LIMIT:
        name = name[: KEY_LIMIT - 9] + "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return "_" if name == "." else name


def _strings(values: dict[str, Any], limit: int) -> dict[str, str]:
    return {
        mlflow_key(name): "none" if value is None else str(value)[:limit]
        for name, value in values.items()
    }
