"""Tests use one torch thread, a cache for the test session, and no settings of the person who runs
them."""

import gc
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.commands import NO_SERVER, Call, Said

# on a busy machine the first example, with its imports, takes as long as it takes
settings.register_profile("vistune", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("vistune")
pytest.register_assert_rewrite("tests.kills", "tests.mlflow_store", "tests.studies")

os.environ.setdefault("VISTUNE_CACHE", tempfile.gettempdir() + f"/vistune-test-cache-{os.getuid()}")
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# set by nohup and for a shell's background jobs; commands that tests interrupt would inherit it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


LONG = (
    "test_cli",
    "test_recorded",
    "test_plot_worker",
    "test_ray_tune",
    "test_tracker",
    "test_sync",
    "test_study",
    "test_searches",
    "test_layers",
    "test_seen",
    "test_byol",
    "test_function_experiment",
    "test_warm_start",
    "test_export",
    "test_distributed",
    "test_views",
    "test_networks",
    "test_cached_features",
    "test_compare",
    "test_carving",
    "test_experiment_file",
    "test_classifier",
    "test_fewshot",
    "test_segmentation",
    "test_sampling_error",
    "test_commands",
    "test_packaging",
    "test_script",
)
"""Files that take longest, the longest first. Each process gets whole files, so a long one at the
end would leave the other processes idle."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    place = {name: number for number, name in enumerate(LONG)}
    items.sort(key=lambda item: place.get(item.path.stem, len(LONG)))


def pytest_collection_finish() -> None:
    """Freeze the imported modules, so that the garbage collector does not scan them after every
    test."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Call]:
    """Return a function that runs the command line in this process, in an empty folder. The toy is
    among the experiments."""
    from tests.toy import TOY
    from tune import run
    from tune.experiments import EXPERIMENTS

    def leave(code: int) -> None:
        raise SystemExit(code)

    def call(*words: str) -> Said:
        monkeypatch.setattr(sys, "argv", ["tune/run.py", *words])
        with pytest.raises(SystemExit) as left:
            run.command_line()
        said = capsys.readouterr()
        return Said(int(left.value.code or 0), said.out, said.err)

    monkeypatch.setattr("tune.run.os._exit", leave)
    monkeypatch.setitem(EXPERIMENTS, "toy", TOY)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", NO_SERVER)
    monkeypatch.setattr("tune.tracking.replay.PATIENCE_S", 0.2)  # for a server that will not answer
    # A refusal kills a Ray that is already starting, and Ray then ends the process that it is in.
    monkeypatch.setattr("tune.execution.ahead.begin", lambda *_, **__: None)
    # pictures have their own tests, and each takes a process
    monkeypatch.setattr("tune.reports.plot_worker.Pictures.watch", lambda *_: None)
    monkeypatch.chdir(tmp_path)
    taken = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.getsignal(number) for number in taken}
    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by selenium. Its console is kept (`get_log("browser")`)."""
    selenium = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'"
    )
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no browser: apt-get install -y chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    # Parallel coordinates are drawn by WebGL, which needs the software renderer.
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--enable-unsafe-swiftshader",
        "--window-size=1700,1500",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    window = selenium.Chrome(service=selenium.ChromeService(driver), options=options)
    yield window
    window.quit()
