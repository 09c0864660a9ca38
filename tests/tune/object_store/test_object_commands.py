"""Commands with `--storage s3://...`, on machines that share nothing but the bucket: studies that
start from one another, and every command that reads them. Against moto's S3 server, each must print
what it prints of the same studies in an ordinary folder."""

import json
import shutil
import sqlite3
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow.pyfunc
import numpy as np
import pytest

from tests.commands import BYOL, SMALL, Call
from tests.object_store import BUCKET, keys, machine
from trainables.files import BEST, LAST, content_hash
from tune import report
from tune.study.manifest import read_manifest
from tune.tracking.runs import RUN_TAG

pytestmark = pytest.mark.usefixtures("store")

DIGITS = (
    "--data",
    "digits",
    *SMALL,
    "--set",
    "train.epoch_images=96",
    "--storage",
    f"s3://{BUCKET}/runs",
)
Look = Callable[..., str]


@pytest.fixture
def look(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Look:
    """Run `python tune/report.py ...` in this process, and return what it prints."""

    def look(*words: str, storage: str = f"s3://{BUCKET}/runs") -> str:
        monkeypatch.setattr(sys, "argv", ["tune/report.py", *words, "--storage", storage])
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            report.main()
        said = capsys.readouterr()
        assert not left.value.code, said.err
        return said.out

    return look


def bytes_of(store: Any, key: str) -> bytes:
    return bytes(store.get_object(Bucket=BUCKET, Key=f"runs/{key}")["Body"].read())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_studies_of_four_machines(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    store: Any,
    call: Call,
    look: Look,
) -> None:
    first = machine(monkeypatch, tmp_path / "first")
    said = call("ssl", "--trials", "2", "--repeats", "2", *BYOL, *DIGITS)
    assert said.code == 0, said.err

    machine(monkeypatch, tmp_path / "second")
    said = call("classify", "--setting", "A", "--trials", "2", "--repeats", "2", *DIGITS)
    assert said.code == 0, said.err
    third = machine(monkeypatch, tmp_path / "third")
    said = call(
        "classify",
        "--setting",
        "C",
        "--backbone",
        "ssl",
        "--trials",
        "2",
        "--repeats",
        "2",
        *DIGITS,
    )
    assert said.code == 0, said.err
    base = read_manifest(third / "classify-C/study.json").base
    study, _, number = base["init.origin"].partition("/")
    assert study == "ssl"
    # equals the weights on the machine that trained them
    assert base["init.sha256"] == content_hash(first / f"ssl/trials/{int(number):04d}" / BEST)
    assert not [key for key in keys(store) if key.endswith((LAST, "lease"))]

    laptop = machine(monkeypatch, tmp_path / "laptop")
    assert not laptop.exists()
    listed = look("show")
    assert {line.partition(":")[0] for line in listed.splitlines()} == {
        "ssl",
        "classify-A",
        "classify-C",
    }
    shown, table = look("show", "ssl"), look("table")
    assert "2 trials" in shown
    assert "C-A" in table
    for kind in ("csv", "md", "html"):
        assert (
            bytes_of(store, f"classify/table.{kind}")
            == (laptop / f"classify/table.{kind}").read_bytes()
        )
    for name in ("ssl", "classify"):
        page = Path(look("html", name).strip())
        assert page == laptop / name / "report.html"
        assert bytes_of(store, f"{name}/report.html") == page.read_bytes()

    said_of_export = look("export", "ssl")
    model = laptop / "ssl/model"
    files = {str(path.relative_to(laptop)) for path in model.rglob("*") if path.is_file()}
    assert {
        key.removeprefix("runs/") for key in keys(store) if key.startswith("runs/ssl/model/")
    } == files
    assert all(bytes_of(store, name) == (laptop / name).read_bytes() for name in files)
    assert "registered in MLflow as models:/ssl@champion, version 1" in said_of_export
    images = np.random.default_rng(0).integers(0, 256, (4, 8, 8, 3), np.uint8)
    assert np.isfinite(mlflow.pyfunc.load_model(str(model)).predict(images)).all()

    look("sync")
    database = sqlite3.connect(laptop / "mlflow.db")
    sent = {row[0] for row in database.execute("SELECT value FROM tags WHERE key = ?", (RUN_TAG,))}
    assert {"trial/0", "trial/1"} <= sent
    # B, D and E have not run yet
    assert database.execute("SELECT name FROM runs WHERE status != 'FINISHED'").fetchall() == [
        ("classify",)
    ]
    kinds = dict(
        database.execute("SELECT value, count(*) FROM tags WHERE key = 'kind' GROUP BY value")
    )
    assert (kinds["study"], kinds["trial"], kinds["group"]) == (3, 6, 1)

    # With the bucket's content in an ordinary folder, the same commands print the same.
    plain = tmp_path / "plain"
    for key in keys(store):
        (plain / key).parent.mkdir(parents=True, exist_ok=True)
        (plain / key).write_bytes(store.get_object(Bucket=BUCKET, Key=key)["Body"].read())
    monkeypatch.setenv("VISTUNE_CACHE", str(tmp_path / "first"))
    assert sorted(look("show", storage=str(plain / "runs")).splitlines()) == sorted(
        listed.splitlines()
    )
    shown_there = look("show", "ssl", storage=str(plain / "runs"))
    assert without_disk(shown_there) == without_disk(shown)
    table_there = look("table", storage=str(plain / "runs"))
    # the resume command names the storage, whose length changes the line breaks
    assert table_there.replace(str(plain / "runs"), f"s3://{BUCKET}/runs").split() == table.split()


def without_disk(shown: str) -> list[str]:
    """Lines of a study without that of its local files, because a laptop only downloads what is
    asked for."""
    return [line for line in shown.splitlines() if not line.startswith("on disk:")]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_file_of_weights_reaches_the_machines_that_lack_it(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    call: Call,
) -> None:
    """With `--backbone PATH` and a bucket, the study resumes where that path does not exist."""
    first = machine(monkeypatch, tmp_path / "first")
    assert call("ssl", "--trials", "1", "--repeats", "0", *BYOL, *DIGITS).code == 0
    file = tmp_path / "weights.pt"
    shutil.copy(first / "ssl/trials/0000" / BEST, file)
    command = (
        "classify",
        "--setting",
        "C",
        "--backbone",
        str(file),
        "--study",
        "from-file",
        "--repeats",
        "0",
        *DIGITS,
    )
    said = call(*command, "--trials", "1")
    assert said.code == 0, said.err
    file.unlink()
    second = machine(monkeypatch, tmp_path / "second")
    said = call(*command, "--trials", "2")
    assert said.code == 0, said.err
    ends = [
        json.loads(line) for line in (second / "from-file/events.jsonl").read_text().splitlines()
    ]
    assert [
        (e["trial"], e["state"] in ("COMPLETE", "PRUNED")) for e in ends if e["event"] == "end"
    ] == [(0, True), (1, True)]
