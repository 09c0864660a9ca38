"""`python -m tune.ui` prints a link which, in a real browser, shows the trials of its study and
nothing else."""

import os
import random
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tune.command_line import command
from tune.study.events import EventLog
from tune.tracking.address import default_uri
from tune.tracking.tracker import Tracker
from tune.tracking.view import shared_view
from tune.ui import deep_link, main, study_links

OBJECTIVE = "val/knn_top1"
SEARCHED = ["optim.name", "optim.lr", "data.batch_size"]


@pytest.fixture(autouse=True)
def _no_foreign_store(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def study(storage, name, trials, seed):
    rng, log = random.Random(seed), EventLog(storage / name / "events.jsonl")
    base = {"optim.name": "sgd", "optim.lr": 0.1, "data.batch_size": 64}
    data = {"name": "glyphs", "fingerprint": "f00d", "path": "embedded", "images": 1530}
    fields = {
        "experiment": "ssl",
        "objective": OBJECTIVE,
        "direction": "maximize",
        "config": base,
        "searched": SEARCHED,
    }
    log.append("study", name=name, data=data, tags={}, **fields)
    for trial in range(trials):
        config = {
            "optim.name": rng.choice(["sgd", "adamw"]),
            "optim.lr": 10 ** rng.uniform(-4, 0),
            "data.batch_size": 64,
        }
        log.append("start", trial=trial, config=config, attempt=1, resumed_epoch=None)
        for epoch in range(1, 6):
            log.append(
                "report",
                trial=trial,
                epoch=epoch,
                metrics={OBJECTIVE: rng.random(), "train/loss": 1 / epoch},
            )
        state = "PRUNED" if trial % 3 == 1 else "COMPLETE"
        log.append("end", trial=trial, state=state, value=None, reason=None, metrics={}, error=None)
    log.append("start", trial=0, repeat=1, config=base, attempt=1, resumed_epoch=None)
    log.append(
        "end",
        trial=0,
        repeat=1,
        state="COMPLETE",
        value=None,
        reason=None,
        metrics={"test/knn_top1": 0.5},
        error=None,
    )
    log.append("finish", state="FINISHED")
    return log


def best_first(log):
    """Names of the trials, ordered by their best report in the log."""
    best = {}
    for event in EventLog.read(log.path)[0]:
        if event["event"] == "report":
            best[event["trial"]] = max(best.get(event["trial"], 0.0), event["metrics"][OBJECTIVE])
    return [f"trial-{trial:03d}" for trial in sorted(best, key=best.__getitem__, reverse=True)]


def test_taken_port_is_one_line_with_the_remedy(tmp_path, capsys):
    study(tmp_path, "ssl-1", 1, 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        before = signal.getsignal(signal.SIGTERM)
        try:
            assert main(["--storage", str(tmp_path), "--port", str(port)]) == 2
        finally:
            signal.signal(signal.SIGTERM, before)
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"port {port} cannot be used" in error
    assert f"--port {port + 1}" in error


def test_storage_without_a_study_names_the_remedy(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "tune.ui", "--storage", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert result.stdout == ""
    assert (
        result.stderr
        == f"vistune: no study in {tmp_path}: run `{command('run', 'ssl', storage=tmp_path)}`, "
        "or name the folder with --storage\n"
    )


def test_view_of_a_large_space_fits_into_a_tag():
    """MLflow keeps at most 20,000 characters of an experiment's tag."""
    from mlflow.utils.validation import _validate_experiment_tag

    names = [f"augmentation.block_{i}.strength_lr" for i in range(80)]
    view = shared_view(
        {"name": "s", "objective": OBJECTIVE, "direction": "maximize", "searched": names}, "0" * 12
    )
    _validate_experiment_tag("mlflow.sharedViewState." + "0" * 12, view)
    assert len(view) < 20_000


def server_processes(port):
    """Processes with this port on their command line: the server that the test started, and its
    workers."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(port) in line and "tune.ui" not in line:
            lines.append(line)
    return lines


def start_ui(storage: Path, port: int) -> subprocess.Popen[str]:
    """Start `python -m tune.ui`, with its output in pipes."""
    command = [sys.executable, "-m", "tune.ui", "--storage", str(storage), "--port", str(port)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_command_prints_a_link_per_study_and_ends_its_server(tmp_path, free_port, number):
    first, second = study(tmp_path, "old", 2, 0), study(tmp_path, "new", 2, 1)
    os.utime(first.path, (1, 1))
    process = start_ui(tmp_path, free_port)
    try:
        lines = [process.stdout.readline() for _ in range(3)]
        assert [line.split()[0] for line in lines] == ["new", "old", "MLflow"]
        assert all(f"http://127.0.0.1:{free_port}/#/experiments/" in line for line in lines[:2])
        assert server_processes(free_port)
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out, err) == (0, "", "")
    assert not server_processes(free_port)
    assert second.path.exists()


@pytest.mark.slow
def test_command_ends_with_its_server(tmp_path, free_port):
    study(tmp_path, "one", 2, 0)
    process = start_ui(tmp_path, free_port)
    try:
        for _ in range(2):
            process.stdout.readline()
        (server,) = psutil.Process(process.pid).children()
        server.kill()
        out, err = process.communicate(timeout=20)
    finally:
        process.kill()
    assert (process.returncode, out) == (2, "")
    assert err.startswith("vistune: the MLflow server has ended (exit code -9): ")
    assert err.count("\n") == 1
    assert not server_processes(free_port)


def wait_for(condition, what, seconds=90):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"waited {seconds} s for {what}"
        time.sleep(0.5)


@pytest.mark.slow
def test_link_opens_on_the_trials(tmp_path, free_port, browser):
    log, _ = study(tmp_path, "ssl-1", 12, 0), study(tmp_path, "ssl-2", 5, 1)
    command = [
        sys.executable,
        "-m",
        "tune.ui",
        "--storage",
        str(tmp_path),
        "--port",
        str(free_port),
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        links = dict(
            line.split() for line in [process.stdout.readline(), process.stdout.readline()]
        )

        def body():
            return browser.find_element("tag name", "body").text

        browser.get(links["ssl-1"])
        wait_for(lambda: "12 matching runs" in body(), "the trials of the study")
        wait_for(
            lambda: len(browser.find_elements("css selector", ".js-plotly-plot")) >= 3, "the charts"
        )
        wait_for(lambda: f"trial-003 ({OBJECTIVE})" in body(), "the learning curves")
        text = body()
        assert "Study ssl-1" in text
        scatter = f"log10/optim.lr vs. best/{OBJECTIVE}"
        assert scatter in text
        axes = text[text.index("Parallel Coordinates") : text.index(scatter)].splitlines()
        assert {"optim.name", "data.batch_size", "log10/optim.lr", "sgd", "adamw"} <= set(axes)
        assert "seed" not in text

        browser.get("about:blank")
        browser.get(links["ssl-1"].replace("&compareRunsMode=CHART", ""))
        wait_for(lambda: "12 matching runs" in body() and "PRUNED" in body(), "the table")
        lines = body().splitlines()
        assert [line for line in lines if line.startswith("trial-")] == best_first(log)
        assert {f"best/{OBJECTIVE}", "trial.state", "trial.reason", *SEARCHED} <= set(lines)

        browser.get("about:blank")
        browser.get(links["ssl-2"])
        wait_for(lambda: "5 matching runs" in body(), "the other study")
        harmless = ("users/current", "ResizeObserver")  # MLflow's own, on every page
        errors = [
            entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
        ]
        assert [
            message for message in errors if not any(word in message for word in harmless)
        ] == []
    finally:
        process.send_signal(signal.SIGTERM)  # the command ends its server
        process.wait(60)


@pytest.mark.slow
def test_links_send_what_mlflow_lacks(tmp_path):
    log = study(tmp_path, "ssl-1", 1, 0)
    uri = default_uri(tmp_path)
    ((name, link),) = study_links(tmp_path, uri, "http://127.0.0.1:5000/")
    tracker = Tracker(log.path.parent)
    assert tracker.sync().startswith("ssl-1: 0 events sent")
    assert name == "ssl-1"
    from mlflow import MlflowClient

    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("ssl")
    (key,) = [tag for tag in experiment.tags if tag.startswith("mlflow.sharedViewState.")]
    assert link == deep_link(
        "http://127.0.0.1:5000",
        experiment.experiment_id,
        key.removeprefix("mlflow.sharedViewState."),
    )
