"""The report against the study it describes, plotly's schema, Optuna's own reader, and a real
browser."""

import json
import re
import sys
import time
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend, JournalStorage
from PIL import Image
from typer.testing import CliRunner

from tests import REPO
from tests.studies import events, finished, manifest, open_study
from tests.toy import BUGGY
from tune.command_line import replay_command
from tune.execution.local import search_locally
from tune.report import app
from tune.reports.doubts import doubts
from tune.reports.html_page import plot, table
from tune.reports.html_report import write_report
from tune.reports.html_sections import budget
from tune.reports.verdict import judge_study
from tune.search.space import as_json, describe
from tune.startup import shorter
from tune.study.record import read_record
from tune.study.study import Study


def figures(html: str) -> list[dict[str, Any]]:
    return [
        json.loads(spec)
        for spec in re.findall(r'<script type="application/json">(.*?)</script>', html, re.DOTALL)
    ]


def without_plotly(html: str) -> str:
    from plotly.offline import get_plotlyjs

    return html.replace(get_plotlyjs(), "")


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Study, str]:
    """A study with everything: pruning, failures, repeats, pictures. Root, study and page."""
    root = tmp_path_factory.mktemp("told")
    fields = manifest(base={"train.epochs": 8}, space=as_json(describe(BUGGY.space, "tiny", {})))
    study = Study.open(root / "toy", BUGGY, fields, trials=24, repeats=3)
    search_locally(study, BUGGY)
    study.close()
    plots = root / "toy/trials" / f"{study.best_number():04d}" / "plots"
    plots.mkdir()
    names = [f"tsne_embeddings-val-{epoch:04d}" for epoch in (1, 4, 8)]
    for name in (*names, "pca_embeddings-val-0008", "confusion_x"):
        Image.new("RGB", (1600, 800), "white").save(plots / f"{name}.png")
    return root, study, write_report(root / "toy").read_text()


def test_record_claims_and_doubts_what_the_study_does(told: tuple[Path, Study, str]) -> None:
    root, study, html = told
    record = read_record(root / "toy")
    assert judge_study(record) == judge_study(study)
    assert doubts(record, root) == doubts(study, root)
    found = judge_study(study)
    assert found is not None
    for said in (found.sentence, *doubts(study, root)):
        assert said in html


def test_trials_are_those_that_optuna_reads(told: tuple[Path, Study, str]) -> None:
    root, _, _ = told
    before = (root / "toy/study.journal").read_bytes()
    with (root / "toy/study.journal").open("ab") as file:
        file.write(b'{"op_code":6,"trial_id":0,"st')  # as if another process were writing this line
    try:
        ours = read_record(root / "toy").frozen_trials()
    finally:
        (root / "toy/study.journal").write_bytes(before)
    theirs = optuna.load_study(
        study_name="toy",
        storage=JournalStorage(JournalFileBackend(str(root / "toy/study.journal"))),
    ).trials
    assert ours == theirs
    assert (root / "toy/study.journal").read_bytes() == before


def test_page_is_whole_without_a_network_and_every_figure_is_plotlys(
    told: tuple[Path, Study, str],
) -> None:
    import plotly.graph_objects as go

    html = without_plotly(told[2])
    assert not re.findall(r"""(?:src|href)=["']?(?!["']|data:|#)""", html)
    specs = figures(html)
    assert len(specs) >= 5
    for spec in specs:
        go.Figure(spec)  # refuses what is not in its schema


def test_curves_are_the_reports_of_every_trial_and_end_where_it_was_stopped(
    told: tuple[Path, Study, str],
) -> None:
    root, study, html = told
    curves = next(
        spec
        for spec in figures(html)
        if spec["layout"]["xaxis"].get("title", {}).get("text") == "epoch"
    )
    drawn: dict[int, list[float]] = {}
    for trace in curves["data"]:
        for number, y in zip(trace.get("customdata", []), trace["y"], strict=False):
            if number is not None:
                drawn.setdefault(number, []).append(y)
    expected: dict[int, list[float]] = {}
    for event in events(root):
        if event["event"] == "report" and "repeat" not in event:
            expected.setdefault(event["trial"], []).append(
                float(f"{event['metrics']['val/top1']:.5g}")
            )
    assert drawn == expected
    stopped = [t.number for t in study.frozen_trials() if t.state == optuna.trial.TrialState.PRUNED]
    marks = [
        text
        for trace in curves["data"]
        for text in trace.get("text", [])
        if "below its rung" in text
    ]
    assert stopped
    assert [int(text.split()[1].rstrip(":")) for text in marks] == stopped


def test_failures_stand_with_their_reasons_and_pictures_first_and_last(
    told: tuple[Path, Study, str],
) -> None:
    _, study, html = told
    failed = [t for t in study.frozen_trials() if t.state == optuna.trial.TrialState.FAIL]
    assert failed
    which = ", ".join(f"trial {t.number}" for t in failed[:12]) + (
        ", ..." if len(failed) > 12 else ""
    )
    row = [str(len(failed)), failed[0].user_attrs["reason"], which]
    assert table(["runs", "reason", "which"], [row], numeric=(0,), long=(1, 2)) in html
    captions = re.findall(r"<figcaption>(.*?)</figcaption>", html)
    assert captions == ["tsne, embeddings-val-0001", "tsne, embeddings-val-0008", "confusion, x"]
    assert without_plotly(html).count("data:image/webp;base64,") == 3


def test_command_writes_the_page_and_names_the_replay(
    told: tuple[Path, Study, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, study, html = told
    done = CliRunner().invoke(app, ["html", "toy", "--storage", str(root)])
    assert done.output.strip() == str(root / "toy/report.html")
    number = study.best_number()
    assert number is not None
    script = f"{sys.executable} {REPO}/tune/run.py"
    assert f"{script} toy --local --trial toy/{number} --storage {root}" in html
    monkeypatch.chdir(root.parent)
    command = f"{shorter(Path(sys.executable))} {shorter(REPO / 'tune/run.py')} toy"
    replay = f"{command} --local --trial toy/{number}"
    assert replay_command("toy", root.parent / "runs/toy", number) == replay
    assert (
        replay_command("toy", root.parent / "my runs/toy", number)
        == f"{replay} --storage '{root.parent}/my runs'"
    )


@pytest.mark.parametrize("trials", [0, 1])
def test_a_study_that_has_hardly_begun(tmp_path: Path, trials: int) -> None:
    if trials:
        finished(tmp_path, trials)
    else:
        open_study(tmp_path, 1).close()
    html = write_report(tmp_path / "toy").read_text()
    assert "only 1 trial:" in html if trials else "No trial has run to the end" in html


def test_the_bill_counts_what_was_occupied_and_no_interruption(tmp_path: Path) -> None:
    """Two attempts with an interruption of an hour between them, two workers with a GPU each,
    cached features."""
    open_study(tmp_path, 1, base={"train.threads": 2, "train.epochs": 4}).close()
    config = {"train.threads": 2}
    looked_up = {
        "features/cached": 1.0,
        "time/saved_s": 30.0,
        "time/epoch_s": 10.0,
        "time/features_s": 5.0,
    }
    told: list[dict[str, Any]] = [
        {"event": "start", "t": 1_000, "trial": 0, "config": config, "attempt": 1},
        {
            "event": "report",
            "t": 61_000,
            "trial": 0,
            "epoch": 1,
            "metrics": {"time/workers": 2.0, "time/gpus": 2.0} | looked_up,
        },
        {"event": "start", "t": 3_661_000, "trial": 0, "config": config, "attempt": 2},
        {
            "event": "report",
            "t": 3_721_000,
            "trial": 0,
            "epoch": 2,
            "metrics": {"time/workers": 2.0, "time/gpus": 2.0} | looked_up,
        },
        {
            "event": "end",
            "t": 3_751_000,
            "trial": 0,
            "state": "COMPLETE",
            "value": 0.5,
            "reason": None,
            "metrics": {},
        },
    ]
    (tmp_path / "toy/events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in told))
    record = read_record(tmp_path / "toy")
    assert record.trials[0].occupied_ms == 150_000
    bill = budget(record)
    for name, value in (
        ("CPU time of reserved cores", "10 min 00 s"),
        ("GPU time", "5 min 00 s"),
        ("epochs saved by pruning and failures", "2 (50%)"),
        (
            "epochs saved by cached features",
            "1.5 of 2 that looked them up: "
            "1 min 00 s of the frozen backbone&#39;s, for 10.0 s spent on them",
        ),
        ("from the first start to the last end", "1 h 02 min, interruptions included"),
    ):
        assert f'<td>{name}</td><td class="long">{value}</td>' in bill


def test_a_picture_that_is_being_drawn_is_left_out(tmp_path: Path) -> None:
    study = finished(tmp_path, 1)
    plots = tmp_path / "toy/trials/0000/plots"
    plots.mkdir()
    for name in ("confusion_whole", "confusion_half", "confusion_empty"):
        Image.new("RGB", (600, 300), "white").save(plots / f"{name}.png")
    content = (plots / "confusion_half.png").read_bytes()
    (plots / "confusion_half.png").write_bytes(content[: len(content) // 2])
    (plots / "confusion_empty.png").write_bytes(b"")
    assert study.best_number() == 0
    assert re.findall(
        r"<figcaption>(.*?)</figcaption>", write_report(tmp_path / "toy").read_text()
    ) == ["confusion, whole"]


def test_no_text_can_break_the_page() -> None:
    evil = "</script><b>&"
    import plotly.graph_objects as go

    figure = go.Figure(go.Scatter(name=evil))
    drawn = plot(figure, evil, height=9)
    assert "<b>" not in table(["x"], [[evil]]) + drawn.replace("<\\/script><b>", "")
    with pytest.raises(ValueError, match="JSON"):
        plot(go.Figure(go.Scatter(x=[float("nan")])), "", height=9)


@pytest.mark.slow
@pytest.mark.parametrize("width", [1400, 390])
def test_page_in_a_browser(told: tuple[Path, Study, str], browser: Any, width: int) -> None:
    """Every figure is drawn when it scrolls into view, nothing is wider than the screen, and the
    console is silent."""
    root, _, html = told
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.get(f"file://{root}/toy/report.html")
    plots = browser.find_elements("css selector", ".plot")
    assert len(plots) == len(figures(html))
    for figure in plots:
        browser.execute_script("arguments[0].scrollIntoView()", figure)
        limit = time.monotonic() + 60
        while not figure.find_elements("css selector", ".main-svg"):
            assert time.monotonic() < limit
            time.sleep(0.1)
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    too_wide = "t => t.scrollWidth > t.parentElement.clientWidth + 1"
    hidden = f"return [...document.querySelectorAll('.folds')].filter({too_wide}).length"
    assert browser.execute_script(hidden) == 0  # nothing of the leaderboard is cut off
    assert len(browser.find_elements("css selector", ".folds")) >= 4
    assert [
        entry["message"] for entry in browser.get_log("browser") if entry["level"] == "SEVERE"
    ] == []
