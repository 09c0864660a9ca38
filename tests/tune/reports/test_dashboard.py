"""optuna-dashboard on a real study: queried over HTTP while the study runs, and opened in a
browser."""

import json
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests import REPO
from tests.studies import finished, open_study
from trainables.errors import UserError
from tune.reports.dashboard import server
from tune.reports.importances import importances
from tune.reports.trial_points import first_rung
from tune.study.record import read_record
from tune.study.work import Outcome, Work


@contextmanager
def serving(study: Path) -> Iterator[str]:
    with server(study, 0) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{running.server_port}"
        finally:
            running.shutdown()
            thread.join()


def get(address: str) -> Any:
    return json.loads(urllib.request.urlopen(address, timeout=20).read())


KEPT_S = 2.1  # seconds; the dashboard caches its answers for two


@pytest.mark.heavy
def test_trials_are_shown_while_the_study_runs(tmp_path: Path) -> None:
    finished(tmp_path, 3)
    study = open_study(tmp_path, 4)  # holds the study's lock
    with serving(tmp_path / "toy") as address:
        (summary,) = get(f"{address}/api/studies")["study_summaries"]
        assert summary["study_name"] == "toy"
        detail = f"{address}/api/studies/{summary['study_id']}"
        assert [t["state"] for t in get(detail)["trials"]] == [
            t.state.name.title() for t in study.frozen_trials()
        ]
        work = study.next_work()
        assert isinstance(work, Work)
        study.started(work)
        study.reported(work, 1, {"val/top1": 0.5})
        time.sleep(KEPT_S)
        running = get(detail)["trials"][3]
        assert running["state"] == "Running"
        assert running["intermediate_values"] == [{"step": 1, "value": 0.5}]
        study.ended(work, Outcome("COMPLETE", 0.625))
        time.sleep(KEPT_S)
        assert get(detail)["trials"][3]["values"] == [0.625]
    study.close()


def test_importances_are_those_of_the_page(tmp_path: Path) -> None:
    finished(tmp_path, 12)
    record = read_record(tmp_path / "toy")
    found = importances(record.frozen_trials(), first_rung(record))
    with serving(tmp_path / "toy") as address:
        detail = get(f"{address}/api/studies/0")
        [shown] = get(f"{address}/api/studies/0/param_importances")["param_importances"]
    shares = {each["name"]: each["importance"] for each in shown}
    assert shares == {name: share.value for name, share in found[0].shares.items()}
    assert found[0].sentence in detail["note"]["body"]


def test_the_best_trial_is_the_chosen_one_and_a_note_says_so(tmp_path: Path) -> None:
    study = finished(tmp_path, 3, repeats=2)
    before = (tmp_path / "toy/study.journal").read_bytes()
    with serving(tmp_path / "toy") as address:
        (summary,) = get(f"{address}/api/studies")["study_summaries"]
        detail = get(f"{address}/api/studies/{summary['study_id']}")
    note = detail["note"]
    assert [trial["number"] for trial in detail["best_trials"]] == [study.best_number()]
    assert note["body"].startswith(f"chosen: trial {study.best_number()}, val/top1 ")
    assert "the best of 3 single runs; its 2 repeats average" in note["body"]
    assert (tmp_path / "toy/study.journal").read_bytes() == before


@pytest.mark.parametrize(
    ("method", "path", "host"),
    [
        ("DELETE", "/api/studies/0", "127.0.0.1"),
        ("POST", "/api/studies/0/rename", "127.0.0.1"),
        ("PUT", "/api/studies/0/note", "localhost"),
        ("POST", "/api/trials/0/tell", "127.0.0.1"),
        ("GET", "/api/studies", "rebound.example"),
    ],
)
def test_nothing_is_written_and_no_other_name_is_answered(
    tmp_path: Path, method: str, path: str, host: str
) -> None:
    finished(tmp_path, 1)
    before = (tmp_path / "toy/study.journal").read_bytes()
    with serving(tmp_path / "toy") as address:
        headers = {
            "Content-Type": "application/json",
            "Host": f"{host}:{address.rpartition(':')[2]}",
        }
        request = urllib.request.Request(
            address + path, b"{}" if method != "GET" else None, headers, method=method
        )
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(request, timeout=20)
        assert refused.value.code == 403
    assert (tmp_path / "toy/study.journal").read_bytes() == before


def test_what_cannot_be_served_is_said_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"study 'toy' has no study.journal yet"):
        server(tmp_path / "toy", 0)
    finished(tmp_path, 1)
    with (
        server(tmp_path / "toy", 0) as taken,
        pytest.raises(UserError, match=f"port {taken.server_port} cannot be used"),
    ):
        server(tmp_path / "toy", taken.server_port)
    monkeypatch.setitem(sys.modules, "optuna_dashboard", None)
    with pytest.raises(UserError, match=r"-m pip install -e '\S*\[dashboard\]'"):
        server(tmp_path / "toy", 0)


@pytest.mark.slow
def test_command_shows_the_study_in_a_browser(tmp_path: Path, browser: Any) -> None:
    finished(tmp_path, 12)
    command = [
        sys.executable,
        "tune/report.py",
        "dashboard",
        "toy",
        "--storage",
        str(tmp_path),
        "--port",
        "0",
    ]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPO)
    try:
        assert process.stdout is not None
        address = process.stdout.readline().split("on ")[1].split(";")[0]
        browser.get(f"{address}/studies/0")
        limit = time.monotonic() + 60
        while "optim.lr" not in browser.find_element("css selector", "body").text:
            assert time.monotonic() < limit
            time.sleep(0.5)
        assert "toy" in browser.find_element("css selector", "body").text
        process.send_signal(signal.SIGINT)
        assert process.wait(20) == 0
    finally:
        process.kill()
