"""Machines that share a bucket on moto's S3 server (fixtures `server` and `store` of
tests/tune/object_store/conftest.py)."""

from pathlib import Path
from typing import Any

import pytest

from tune.object_store import s3

BUCKET = "studies"


def machine(monkeypatch: pytest.MonkeyPatch, home: Path) -> Path:
    """The storage folder of a new machine."""
    monkeypatch.setenv("VISTUNE_CACHE", str(home))
    return s3.local_folder(f"s3://{BUCKET}/runs")


def keys(store: Any) -> set[str]:
    return {
        found["Key"]
        for page in store.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
        for found in page.get("Contents", [])
    }
