"""Stamps of a start, in every process of a measured command (`benchmarks/start.py`). Because of its
name, Python imports this file before anything else.

A stamp is a JSON line: process, name, "begin" or "end", seconds since the epoch, and CPU seconds of
the process. The end of the first training step also has the CPU seconds of all processes of the
command.
"""

import functools
import importlib.abc
import importlib.machinery
import json
import os
import sys
import time
from pathlib import Path

_FILE = os.environ.get("VISTUNE_BENCH_STAMPS", "")
_IMPORTS = (
    "torch",
    "torch._dynamo",
    "torchvision",
    "ray",
    "ray.tune",
    "optuna",
    "sklearn",
    "scipy.stats",
    "pandas",
    "matplotlib",
    "mlflow",
    "rich",
    "pydantic",
    "tune.cli.execute",
    "tune.cli.options",
    "tune.cli.session",
    "tune.execution.ray_tune",
)
_CALLS = {
    "tune.cli.execute": ("prepare",),
    "tune.cli.prepare": ("prepare", "check_seen"),
    "tune.cli.session": ("search", "_sample_data"),
    "tune.study.study": ("Study.open",),
    "tune.execution.ray_session": ("_start_or_connect",),
    "tune.execution.ray_tune": ("_tuner", "run_in_tune"),
    "tune.execution.trial": ("_build", "_baseline", "write_architecture"),
    "trainables.data": ("load_dataset",),
    "trainables.engine.fit": ("build_optimizer", "train_step"),
}
"""Module -> its functions that are stamped."""
_LAST = "train_step"
_seen: set[str] = set()


def stamp(name: str, kind: str, **more: object) -> None:
    line = json.dumps([os.getpid(), name, kind, time.time(), time.process_time(), more])
    with Path(_FILE).open("a") as file:
        file.write(line + "\n")


class _Timed(importlib.abc.Loader):
    """A loader that stamps the import of a module and wraps functions in it."""

    def __init__(self, loader: importlib.abc.Loader):
        self._loader = loader

    def create_module(self, spec):
        return self._loader.create_module(spec)

    def exec_module(self, module):
        name = module.__name__
        if name in _IMPORTS:
            stamp(f"import {name}", "begin")
        self._loader.exec_module(module)
        if name in _IMPORTS:
            stamp(f"import {name}", "end")
        for path in _CALLS.get(name, ()):
            _wrap(module, path)

    def __getattr__(self, name):
        return getattr(self._loader, name)


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name not in _IMPORTS and name not in _CALLS:
            return None
        spec = None
        for finder in sys.meta_path:
            if finder is not self and spec is None:
                spec = finder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Timed(spec.loader)
        return spec


def _wrap(module, path):
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, module)
    original = getattr(owner, name, None)
    if original is None:
        return

    @functools.wraps(original)
    def stamped(*args, **kwargs):
        if path in _seen:
            return original(*args, **kwargs)
        _seen.add(path)
        stamp(path, "begin")
        result = original(*args, **kwargs)
        if name == _LAST:
            first_step()
        else:
            stamp(path, "end")
        return result

    setattr(owner, name, stamped)


def first_step() -> None:
    """Stamp the end of the first training step, with the CPU time that the whole command has
    used."""
    stamp(_LAST, "end")
    sys.path.append(str(Path(__file__).resolve().parents[1]))
    import process_meter

    roles = process_meter.by_role(process_meter.marked(os.environ[process_meter.MARK]))
    stamp("first step", "end", roles=roles)


if _FILE:
    sys.meta_path.insert(0, _Finder())
    stamp("process", "begin", argv=sys.orig_argv[:4])
