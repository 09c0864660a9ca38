"""Tests use one thread of torch each, a cache of their own per session, and no stray settings of
the person who runs them."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

os.environ.setdefault("VISTUNE_CACHE", tempfile.gettempdir() + f"/vistune-test-cache-{os.getuid()}")
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
# a shell's background job; the commands that tests interrupt would inherit it
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def browser() -> Iterator[Any]:
    """A headless Chromium, driven by selenium; its console is kept (`get_log("browser")`)."""
    selenium = pytest.importorskip(
        "selenium.webdriver", reason="selenium is not installed: pip install -e '.[dev]'"
    )
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("no browser: apt-get install -y chromium chromium-driver")
    options = selenium.ChromeOptions()
    options.binary_location = chromium
    # The software renderer: parallel coordinates are drawn by WebGL.
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
