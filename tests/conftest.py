"""Tests use one thread of torch each, a cache of their own per session, and no stray settings of the person who runs them."""

import os
import tempfile

import pytest

os.environ.setdefault("VISTUNE_CACHE", tempfile.gettempdir() + f"/vistune-test-cache-{os.getuid()}")
os.environ.pop("MLFLOW_TRACKING_URI", None)
os.environ.pop("RAY_ADDRESS", None)
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)
