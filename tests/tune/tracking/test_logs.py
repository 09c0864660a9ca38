"""`--log`: pandas and TensorBoard read back what the event log has, once, whatever happened."""

import json
import math
import random
import shutil
import struct
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas
import pytest

from tests.commands import Call
from tests.event_logs import BASE, begin, end, report, start, study_of
from tests.mlflow_store import reported
from trainables.errors import UserError
from trainables.files import write_atomically
from tune.study.events import EventLog
from tune.tracking import local_files, replay
from tune.tracking.csv_files import CsvTables
from tune.tracking.destination import Opening
from tune.tracking.logs import begun_logs, check_logs, replay_into, sync_study
from tune.tracking.projection import ProjectedRun
from tune.tracking.replay import Replay
from tune.tracking.tensorboard_files import TensorBoard
from tune.tracking.tensorboard_messages import first_record
from tune.tracking.wandb_runs import WandbStudy

FILES = ("csv", "tensorboard")


def eventful(storage: Path) -> EventLog:
    """A study with a failure, a resumed trial, a repeat, a picture and values that are not
    numbers."""
    log = study_of(storage, trials=3, epochs=3, finish=None)
    start(log, 3, lr=0.01)
    report(log, 3, 1, 0.2)
    report(log, 3, 2, math.nan)
    start(log, 3, lr=0.01, attempt=2, resumed_epoch=2)
    report(log, 3, 2, math.nan)  # the checkpoint's epoch again, already on record
    end(log, 3, "FAIL", reason="nan", error="ValueError: nan\n")
    start(log, 0, repeat=1234)
    report(log, 0, 1, 0.5, repeat=1234)
    end(log, 0, "COMPLETE", value=0.5, metrics={"test/knn_top1": 0.45}, repeat=1234)
    write_atomically(log.path.parent / "curve.png", picture())
    log.append("artifact", trial=0, path="curve.png", to="plots")
    log.append("finish", state="FINISHED")
    return log


def picture() -> bytes:
    """A PNG of 5 x 3 pixels."""
    import io

    from PIL import Image

    content = io.BytesIO()
    Image.new("RGB", (5, 3), "red").save(content, "png")
    return content.getvalue()


def as_reported(log: EventLog) -> dict[str, set[tuple[str, int, float, int]]]:
    """Run -> (metric, epoch, value, ms) of its reports."""
    return {
        run: {(name, epoch, repr(value), t) for name, epoch, value, t, _ in rows}
        for run, rows in reported(log).items()
    }


def table(log: EventLog, name: str) -> pandas.DataFrame:
    return pandas.read_csv(log.path.parent / "csv" / name)


def metrics_by_run(log: EventLog) -> dict[str, set[tuple[str, int, float, int]]]:
    """The same from metrics.csv, without derived metrics."""
    found = table(log, "metrics.csv")
    assert not found.duplicated(["trial", "repeat", "epoch", "metric"]).any()
    by_run: dict[str, set[tuple[str, int, float, int]]] = {}
    for row in found.itertuples():
        derived = row.metric.startswith(("best/", "test/"))
        if derived or math.isnan(row.trial):
            continue
        run = f"trial-{int(row.trial):03d}"
        if not math.isnan(row.repeat):
            run += f"-seed-{int(row.repeat)}"
        ms = round(pandas.Timestamp(row.time).timestamp() * 1000)
        values = by_run.setdefault(run, set())
        values.add((row.metric, row.epoch, repr(float(row.value)), ms))
    return by_run


def test_metrics_table_has_every_report_once(tmp_path: Path) -> None:
    log = eventful(tmp_path)
    said = replay_into("csv", log.path.parent).sync()
    events = len(EventLog.read(log.path)[0])
    assert said == f"ssl-1: {events} events sent to {tmp_path}/ssl-1/csv"
    assert metrics_by_run(log) == as_reported(log)

    found = table(log, "metrics.csv")
    baseline = found[found["trial"].isna()]
    assert baseline[["metric", "value"]].values.tolist() == [["baseline/knn_top1", 0.11]]


def test_trials_table_has_state_config_and_last_values(tmp_path: Path) -> None:
    log = eventful(tmp_path)
    replay_into("csv", log.path.parent).sync()
    found = table(log, "trials.csv")
    assert found["trial"].tolist() == [0, 0, 1, 2, 3]
    assert found["repeat"].fillna(-1).tolist() == [-1, 1234, -1, -1, -1]
    states = ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE", "FAIL"]
    assert found["state"].tolist() == states
    assert found["epochs"].tolist() == [3, 1, 3, 3, 2]
    assert found["reason"].fillna("").tolist() == ["", "", "rung", "", "diverged: nan"]
    assert found.columns[7:9].tolist() == ["optim.lr", "optim.name"]  # searched ones come first
    assert set(BASE) < set(found.columns)

    events = EventLog.read(log.path)[0]
    rates = [event["config"]["optim.lr"] for event in events if event["event"] == "start"]
    assert found["optim.lr"].tolist() == [rates[0], rates[5], *rates[1:4]]

    best = {}
    for run, rows in reported(log).items():
        values = [value for name, _, value, _, _ in rows if name == "val/knn_top1"]
        best[run] = np.nanmax(values)
    expected = [best[run] for run in sorted(best)]
    assert found["best/val/knn_top1"].tolist() == expected
    assert found["test/knn_top1"].tolist()[1] == 0.45


def scalars(log: EventLog, run: str) -> dict[str, list[tuple[int, float, float]]]:
    """Tag -> (step, value, seconds), as TensorBoard reads them."""
    accumulator = loaded(log, run)
    tags = accumulator.Tags()["scalars"]
    return {
        tag: [(event.step, event.value, event.wall_time) for event in accumulator.Scalars(tag)]
        for tag in tags
    }


def loaded(log: EventLog, run: str):
    module = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = log.path.parent / "tensorboard" / run
    accumulator = module.EventAccumulator(str(folder), size_guidance={"scalars": 0})
    return accumulator.Reload()


def test_tensorboard_reads_every_report_once(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    log = eventful(tmp_path)
    replay_into("tensorboard", log.path.parent).sync()
    wanted = reported(log)
    folders = {path.name for path in (log.path.parent / "tensorboard").iterdir()}
    assert folders - {".state.json"} == {"ssl-1", *wanted}

    for run, rows in wanted.items():
        found = scalars(log, run)
        for tag in ("val/knn_top1", "train/loss"):
            steps = [
                (epoch, np.float32(v), t / 1000) for name, epoch, v, t, _ in rows if name == tag
            ]
            np.testing.assert_array_equal(found[tag], steps)
    assert scalars(log, "ssl-1")["baseline/knn_top1"][0][:2] == (0, pytest.approx(0.11))
    assert scalars(log, "trial-000-seed-1234")["test/knn_top1"][0][1] == pytest.approx(0.45)


def test_a_picture_that_is_none_holds_nothing_up(tmp_path: Path) -> None:
    """The disk was full, or the drawing process was killed."""
    log = eventful(tmp_path)
    for number, content in enumerate((b"", picture()[:20], b"GIF89a" + bytes(30))):
        write_atomically(log.path.parent / f"half-{number}.png", content)
        log.append("artifact", trial=0, path=f"half-{number}.png", to="plots")
    said = replay_into("tensorboard", log.path.parent).sync()
    assert said.startswith(f"ssl-1: {len(EventLog.read(log.path)[0])} events sent to ")


def test_values_with_a_bar_or_a_line_stay_in_their_cell(tmp_path: Path) -> None:
    log = begin(tmp_path)
    log.append("start", trial=0, config={"classes": "sky|pet\nall"}, attempt=1, resumed_epoch=None)
    replay_into("tensorboard", log.path.parent).sync()
    (file,) = (log.path.parent / "tensorboard").glob("trial-000/*.vistune")
    assert rb"| classes | sky\|pet all |" in file.read_bytes()


@pytest.mark.parametrize("name", FILES)
def test_a_log_that_is_not_the_one_that_was_sent_is_sent_again(tmp_path: Path, name: str) -> None:
    """A line before the remembered byte was deleted, so no event begins there any more."""
    log = eventful(tmp_path)
    replay_into(name, log.path.parent).sync()
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.close()
    log.path.write_bytes(b"".join(lines[:4] + lines[5:]))
    end(EventLog(log.path), 0, value=0.5)
    replay_into(name, log.path.parent).sync()
    found = contents(log.path.parent / name)

    shutil.rmtree(log.path.parent / name)
    replay_into(name, log.path.parent).sync()
    assert found == contents(log.path.parent / name)


def test_another_place_of_wandb_gets_everything_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server does not have what was written offline or to another project."""
    monkeypatch.setitem(sys.modules, "wandb", ModuleType("wandb"))
    for name in ("WANDB_PROJECT", "WANDB_ENTITY", "WANDB_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_MODE", "offline")
    log = begin(tmp_path)
    folder = tmp_path / "wandb"
    opening = Opening(log.path.parent, EventLog.read(log.path)[0][0], "abc")
    run = ProjectedRun("study", "ssl-1", None, 0, {})
    WandbStudy(opening, folder).remember(run, 70)
    assert WandbStudy(opening, folder).offset == 70

    for name, value in (
        ("WANDB_PROJECT", "another"),
        ("WANDB_ENTITY", "us"),
        ("WANDB_BASE_URL", "https://wandb.example.org"),
        ("WANDB_MODE", "online"),
    ):
        with monkeypatch.context() as switched:
            switched.setenv(name, value)
            assert WandbStudy(opening, folder).offset == 0, name
    assert WandbStudy(opening, folder).offset == 70


def test_tensorboard_shows_parameters_config_and_pictures(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    from tensorboard.plugins.hparams import metadata

    log = eventful(tmp_path)
    replay_into("tensorboard", log.path.parent).sync()
    shown = loaded(log, "trial-003")
    content = shown.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    begun = metadata.parse_session_start_info_plugin_data(content)
    assert begun.hparams["optim.lr"].number_value == 0.01
    assert begun.hparams["optim.name"].string_value == "sgd"
    assert set(begun.hparams) == {"optim.lr", "optim.name"}  # only the searched ones

    content = shown.SummaryMetadata("_hparams_/session_end_info").plugin_data.content
    assert metadata.parse_session_end_info_plugin_data(content).status == 2  # STATUS_FAILURE
    (config,) = shown.Tensors("config/text_summary")
    assert b"| data.batch_size | 64 |" in config.tensor_proto.string_val[0]

    (image,) = loaded(log, "trial-000").Images("plots/curve")
    assert (image.width, image.height, image.step) == (5, 3, 3)
    assert image.encoded_image_string == picture()


def contents(folder: Path) -> dict[str, list[str]]:
    """File -> its lines or values, sorted because their order depends on the chunks of a replay."""
    read = {".csv": table_lines, ".vistune": event_values}
    return {
        path.relative_to(folder).as_posix(): sorted(read[path.suffix](path.read_bytes()))
        for path in folder.rglob("*")
        if path.is_file() and path.name != local_files.STATE
    }


def table_lines(content: bytes) -> list[str]:
    return content.decode().splitlines()


def event_values(content: bytes) -> list[str]:
    """The values in a file of TFRecords, without TensorBoard's reader, which would skip a torn
    end."""
    from tensorboardX.proto.event_pb2 import Event

    values = []
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        values += [f"{event.wall_time} {event.step} {value}" for value in event.summary.value]
        content = content[12 + length + 4 :]
    return values


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("seed", range(4))
def test_replay_killed_anywhere_equals_uninterrupted_one(
    tmp_path: Path, name: str, seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cut the log at random places. At each, a replay dies before, between or after its writes."""
    log = eventful(tmp_path)
    folder = log.path.parent
    replay_into(name, folder).sync()
    expected = contents(folder / name)
    shutil.rmtree(folder / name)

    rng = random.Random(seed)
    lines = log.path.read_bytes().splitlines(keepends=True)
    append, write = local_files._append, local_files.write_atomically
    for cut in sorted(rng.sample(range(1, len(lines)), 6)):
        log.path.write_bytes(b"".join(lines[:cut]) + lines[cut][: rng.randrange(len(lines[cut]))])
        monkeypatch.setattr(replay, "CHUNK_BYTES", rng.choice([1, 700, 5000]))
        left = [rng.randrange(12)]

        def dying(*arguments, left=left):
            path, start, content = arguments
            left[0] -= 1
            if left[0] < 0:
                append(path, start, content[: len(content) // 2])  # only half reaches the disk
                raise OSError("killed")
            append(*arguments)

        def dying_state(*arguments, left=left):
            left[0] -= 1
            if left[0] < 0:
                raise OSError("killed")
            write(*arguments)

        monkeypatch.setattr(local_files, "_append", dying)
        monkeypatch.setattr(local_files, "write_atomically", dying_state)
        try:
            replay_into(name, folder).sync()
        except UserError as error:
            assert "killed" in str(error)  # noqa: PT017
        monkeypatch.setattr(local_files, "_append", append)
        monkeypatch.setattr(local_files, "write_atomically", write)

    log.path.write_bytes(b"".join(lines))
    replay_into(name, folder).sync()
    assert contents(folder / name) == expected
    assert replay_into(name, folder).sync().startswith("ssl-1: 0 events sent")


@pytest.mark.parametrize("name", FILES)
def test_files_that_were_lost_or_cut_are_written_anew(tmp_path: Path, name: str) -> None:
    log = eventful(tmp_path)
    folder = log.path.parent
    replay_into(name, folder).sync()
    expected = contents(folder / name)

    growing = {"csv": "metrics.csv", "tensorboard": "trial-000"}[name]
    longest = next(file for file in expected if file.startswith(growing))
    (folder / name / longest).write_bytes((folder / name / longest).read_bytes()[:-5])
    replay_into(name, folder).sync()
    assert contents(folder / name) == expected

    (folder / name / longest).unlink()
    replay_into(name, folder).sync()
    assert contents(folder / name) == expected

    (folder / name / local_files.STATE).write_text("{")  # as after a power cut
    replay_into(name, folder).sync()
    assert contents(folder / name) == expected


@pytest.mark.parametrize(
    "odd",
    [
        *({"offset": offset} for offset in (None, "12", -7, 10**30, 1.5, [])),
        *({"lengths": lengths} for lengths in (None, [], {"metrics.csv": "12"})),
        *("5", "[1]", '"offset"'),
    ],
    ids=str,
)
def test_a_state_that_was_edited_is_none(tmp_path: Path, odd: dict[str, Any] | str) -> None:
    log = study_of(tmp_path, trials=2)
    replay_into("csv", log.path.parent).sync()
    whole = (log.path.parent / "csv/metrics.csv").read_bytes()
    path = log.path.parent / "csv" / local_files.STATE
    state = json.loads(path.read_text())
    path.write_text(odd if isinstance(odd, str) else json.dumps(state | odd))
    replay_into("csv", log.path.parent).sync()
    assert (log.path.parent / "csv/metrics.csv").read_bytes() == whole
    assert json.loads(path.read_text()) == state


def test_thread_follows_a_growing_log(tmp_path: Path) -> None:
    log = begin(tmp_path)
    follower = Replay(log.path.parent, CsvTables())
    follower.start()
    start(log, 0)
    for epoch in range(1, 4):
        report(log, 0, epoch, epoch / 10)
    end(log, 0, value=0.3)
    assert follower.close(20) is True
    assert metrics_by_run(log) == as_reported(log)


def test_place_that_takes_nothing_holds_nobody_up(tmp_path: Path) -> None:
    log = study_of(tmp_path, trials=1)
    (log.path.parent / "csv").write_text("a file where the folder should be")
    follower = Replay(log.path.parent, CsvTables())
    began = time.monotonic()
    follower.start()
    assert time.monotonic() - began < 0.5
    assert follower.close(20) is False
    assert time.monotonic() - began < 6
    assert follower.problem is not None
    assert "File exists" in follower.problem
    with pytest.raises(UserError, match=r"CSV at .*/csv cannot take study 'ssl-1'.*report"):
        replay_into("csv", log.path.parent).sync()


def test_two_processes_do_not_write_at_once(tmp_path: Path) -> None:
    log = study_of(tmp_path, trials=1)
    first = Replay(log.path.parent, TensorBoard())
    first._lock.acquire()
    with pytest.raises(UserError, match="is being sent to TensorBoard by its own run"):
        replay_into("tensorboard", log.path.parent).sync()


def test_places_that_a_study_was_sent_to_are_known(tmp_path: Path) -> None:
    log = study_of(tmp_path, trials=1)
    assert begun_logs(log.path.parent) == []
    replay_into("tensorboard", log.path.parent).sync()
    assert begun_logs(log.path.parent) == ["tensorboard"]


def test_a_run_and_a_later_sync_keep_tables_and_event_files(call: Call, tmp_path: Path) -> None:
    words = ("toy", "--local", "--repeats", "0", "--trials")
    assert call(*words, "2", "--log", "csv", "--log", "csv").code == 0
    log = EventLog(tmp_path / "runs/toy/events.jsonl")
    found = metrics_by_run(log)
    wanted = as_reported(log)
    assert found.keys() == wanted.keys()
    assert all(wanted[run] <= found[run] for run in wanted)  # metrics of the end come on top

    with pytest.raises(UserError, match="MLflow") as refused:  # no server listens
        sync_study(log.path.parent, ["tensorboard"])
    assert "sent to" in str(refused.value)
    assert begun_logs(log.path.parent) == ["csv", "tensorboard"]
    assert table(log, "trials.csv")["trial"].tolist() == [0, 1]

    assert call(*words, "3", "--log", "cvs").line.endswith("; did you mean 'csv'?")


def test_unknown_place_is_refused() -> None:
    with pytest.raises(
        UserError, match=r"unknown --log 'tensorbord' .*; did you mean 'tensorboard'"
    ):
        check_logs(["csv", "tensorbord"])
    assert check_logs(["csv", "csv"]) == ("csv",)


def test_wandb_is_refused_before_it_could_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"--log wandb needs wandb: .*pip install"):
        check_logs(["wandb"])

    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    for name in ("WANDB_MODE", "WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "https://me:secret@wandb.example.com")
    with pytest.raises(UserError, match=r"no key for https://wandb\.example\.com") as refused:
        check_logs(["wandb"])
    assert "secret" not in str(refused.value)
    assert "WANDB_MODE=offline" in str(refused.value)

    (tmp_path / "netrc").write_text("machine wandb.example.com login user password k")
    assert check_logs(["wandb"]) == ("wandb",)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    with pytest.raises(UserError, match="WANDB_MODE=disabled must be online or offline"):
        check_logs(["wandb"])


def test_wandb_server_that_does_not_answer_is_known_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setenv("WANDB_MODE", "online")
    monkeypatch.setenv("WANDB_API_KEY", "a secret")
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    log = study_of(tmp_path, trials=1)
    began = time.monotonic()
    with pytest.raises(UserError, match=r"W&B at http://127\.0\.0\.1:9 cannot take") as refused:
        replay_into("wandb", log.path.parent).sync()
    assert time.monotonic() - began < 5
    assert "secret" not in str(refused.value)


def test_first_record_is_that_of_tensorboardx(tmp_path: Path) -> None:
    """The frame of a record equals that of the package's own writer."""
    from tensorboardX.proto.event_pb2 import Event
    from tensorboardX.record_writer import RecordWriter

    writer = RecordWriter(str(tmp_path / "records"))
    writer.write(Event(wall_time=1.5, file_version="brain.Event:2").SerializeToString())
    writer.close()
    assert first_record(1500) == (tmp_path / "records").read_bytes()
