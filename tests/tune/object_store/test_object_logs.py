"""`--log` for a study in a bucket: what other machines find there."""

from pathlib import Path
from typing import Any

import pytest

from tests.event_logs import study_of
from tests.object_store import BUCKET, keys, machine
from tune.tracking.logs import replay_into

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("store")]  # starts a server


def test_tables_and_event_files_are_in_the_bucket(
    store: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = machine(monkeypatch, tmp_path / "head")
    log = study_of(storage, trials=1)
    for name in ("csv", "tensorboard"):
        said = replay_into(name, log.path.parent).sync()
        assert said.endswith(f"events sent to s3://{BUCKET}/runs/ssl-1/{name}")

    table = log.path.parent / "csv" / "metrics.csv"
    there = store.get_object(Bucket=BUCKET, Key="runs/ssl-1/csv/metrics.csv")["Body"].read()
    assert there == table.read_bytes()
    found = {Path(key).parent.name for key in keys(store) if "tfevents" in key}
    assert found == {"ssl-1", "trial-000"}
