"""The event log: what is appended is read back, whatever happens to the writer."""

import copy
import json
import math
import os
import pickle
import resource
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainables.errors import UserError
from tune.study.events import EventLog


def test_an_event_begins_after_a_line_or_at_the_ends_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b"ab\ncd\n")
    assert [at for at in range(-1, 9) if EventLog.begins_at(path, at)] == [0, 3, 6]
    assert not EventLog.begins_at(path, "3")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


def same(a, b):
    return repr(a) == repr(b)  # repr tells nan from 0, -0.0 from 0.0 and 1 from True


def fields_of(event):
    return {key: value for key, value in event.items() if key not in ("t", "event")}


@settings(max_examples=25)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(["metrics", "config", "reason", "trial"]), VALUES, max_size=4
        ),
        max_size=4,
    )
)
def test_round_trip_is_exact_and_strict_json(tmp_path_factory, records):
    path = tmp_path_factory.mktemp("log") / "events.jsonl"
    log = EventLog(path)
    for record in records:
        log.append("report", **record)
    log.close()
    events, offset = EventLog.read(path)
    assert same([fields_of(event) for event in events], records)
    assert offset == path.stat().st_size

    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    for line in path.read_text().splitlines():
        json.loads(line, parse_constant=refuse)


def test_numpy_numbers_and_paths(tmp_path):
    log = EventLog(tmp_path / "e.jsonl")
    log.append(
        "report",
        a=np.float32(0.5),
        b=np.int64(3),
        c=np.float32("nan"),
        d=np.float64("-inf"),
        path=Path("x/y"),
    )
    (event,), _ = EventLog.read(log.path)
    assert event["a"] == 0.5
    assert event["b"] == 3
    assert math.isnan(event["c"])
    assert event["d"] == -math.inf
    assert event["path"] == "x/y"
    with pytest.raises(TypeError):
        log.append("report", a=object())
    assert len(EventLog.read(log.path)[0]) == 1


@pytest.mark.parametrize("cut", range(1, 40, 3))
def test_torn_last_line_is_repaired(tmp_path, cut):
    path = tmp_path / "e.jsonl"
    log = EventLog(path)
    for epoch in range(3):
        log.append("report", trial=0, epoch=epoch)
    log.close()
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    # a reader ignores the torn line
    assert [event["epoch"] for event in EventLog.read(path)[0]] == [0, 1]
    EventLog(path).append("report", trial=0, epoch=9)
    assert [event["epoch"] for event in EventLog.read(path)[0]] == [0, 1, 9]


def test_torn_line_longer_than_a_block_and_a_file_without_a_newline(tmp_path):
    path = tmp_path / "e.jsonl"
    EventLog(path).append("end", error="x")
    size = path.stat().st_size
    path.write_bytes(path.read_bytes() + b'{"t":1,"event":"end","error":"' + b"y" * 200_000)
    EventLog(path)
    assert path.stat().st_size == size
    path.write_bytes(b"z" * 200_000)
    EventLog(path)
    assert path.stat().st_size == 0


def test_read_goes_on_from_its_offset_in_bounded_pieces(tmp_path):
    log = EventLog(tmp_path / "e.jsonl")
    for epoch in range(100):
        log.append("report", epoch=epoch, text="é" * epoch)
    epochs, offset, pieces = [], 0, 0
    while True:
        events, following = EventLog.read(log.path, offset, limit=500)
        if not events:
            break
        assert following - offset < 500 + 3000
        epochs += [event["epoch"] for event in events]
        offset, pieces = following, pieces + 1
    assert epochs == list(range(100))
    assert pieces > 10
    assert EventLog.read(tmp_path / "none.jsonl", 0) == ([], 0)


def test_a_damaged_line_is_named(tmp_path):
    log = EventLog(tmp_path / "e.jsonl")
    log.append("finish", state="FINISHED")
    log.path.write_bytes(log.path.read_bytes() + b"garbage\n")
    with pytest.raises(UserError, match=r"e\.jsonl is damaged"):
        EventLog.read(log.path)


FULL = """
import sys
from pathlib import Path
from trainables.errors import UserError
from tune.study.events import EventLog
log = EventLog(Path(sys.argv[1]))
try:
    for epoch in range(1000):
        log.append("report", epoch=epoch, text="x" * 300)
except UserError as error:
    print(epoch, error)
"""


def test_full_disk_leaves_a_usable_file(tmp_path):
    """A file-size limit cuts a write short exactly as a full disk does."""
    path = tmp_path / "e.jsonl"
    limit = 5_000
    result = subprocess.run(
        [sys.executable, "-c", FULL, str(path)],
        capture_output=True,
        text=True,
        check=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    epoch, message = result.stdout.strip().split(" ", 1)
    assert message.startswith(f"cannot write {path}: File too large; ")
    assert [event["epoch"] for event in EventLog.read(path)[0]] == list(range(int(epoch)))
    assert path.read_bytes().endswith(b"}\n")
    EventLog(path).append("report", epoch=int(epoch))
    assert len(EventLog.read(path)[0]) == int(epoch) + 1


def test_a_damaged_line_is_told_by_its_place(tmp_path):
    log = EventLog(tmp_path / "e.jsonl")
    log.append("study")
    place = log.path.stat().st_size
    log.append("start", trial=1)
    log.append("finish")
    content = log.path.read_bytes()
    log.path.write_bytes(content[:place] + b"\0" + content[place + 1 :])
    with pytest.raises(UserError, match=rf"e.jsonl is damaged after byte {place} \("):
        EventLog.read(log.path)


def test_folder_that_cannot_be_written_is_one_clear_line(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"cannot write .*: (File exists|Not a directory); "
    ) as error:
        EventLog(tmp_path / "file" / "e.jsonl")
    assert "\n" not in str(error.value)


def test_event_is_on_disk_when_append_returns(tmp_path):
    """A process that is killed right after `append` has lost nothing."""
    code = (
        "import os, signal, sys; from pathlib import Path; from tune.study.events import EventLog\n"
        + (
            "log = EventLog(Path(sys.argv[1])); log.append('start', trial=1); "
            "os.kill(os.getpid(), signal.SIGKILL)"
        )
    )
    path = tmp_path / "e.jsonl"
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    assert [event["trial"] for event in EventLog.read(path)[0]] == [1]


def test_append_calls_fsync_after_one_write(tmp_path, monkeypatch):
    log = EventLog(tmp_path / "e.jsonl")
    calls = []
    write, fsync = os.write, os.fsync
    monkeypatch.setattr(os, "write", lambda fd, data: (calls.append("write"), write(fd, data))[1])
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    log.append("report", metrics={"val/loss": 1.0})
    assert calls == ["write", "fsync"]


def test_threads_and_copies_write_whole_lines(tmp_path):
    log = EventLog(tmp_path / "e.jsonl")
    logs = [log, log, copy.deepcopy(log), pickle.loads(pickle.dumps(log))]

    def work(index):
        for epoch in range(50):
            logs[index].append("report", trial=index, epoch=epoch, text="x" * 500)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events, _ = EventLog.read(log.path)
    for index in range(4):
        assert [event["epoch"] for event in events if event["trial"] == index] == list(range(50))


def test_events_imports_neither_ray_nor_mlflow():
    code = (
        "import sys, tune.study.events; "
        "print(sorted({'ray', 'mlflow', 'torch', 'optuna'} & set(sys.modules)))"
    )
    assert (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True
        ).stdout.strip()
        == "[]"
    )
