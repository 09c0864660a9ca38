"""`tune/run.py` of any checkout with the toy as an experiment, and one thing that goes wrong.

    python toy_command.py CHECKOUT toy [options]

It imports nothing of this checkout, because every checkout has what it needs. VISTUNE_ACT says what
goes wrong, in forked processes too:

    errno:ESTALE    files of weights in a trial's folder cannot be written
    broken          the forward pass of every trial fails
    broken:first    that of the default fails
    killed          the process ends between writing trial 1's weights and renaming them
    spot            the process of a trial ends after each of its first epochs (`Spot`)
"""

import errno
import os
import runpy
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any


def main() -> None:
    """Set up what goes wrong, and run the command."""
    checkout = sys.argv.pop(1)
    sys.path.insert(0, checkout)
    name, _, detail = os.environ.get("VISTUNE_ACT", "").partition(":")
    if name == "errno":
        sys.addaudithook(_no_writes(getattr(errno, detail)))
    if name == "killed":
        sys.addaudithook(_end_at_rename)

    from tests.toy import TOY, Toy
    from tune.experiments import EXPERIMENTS

    if name == "broken":
        Toy.forward = _broken(Toy.forward, first=detail == "first")
    spot = replace(TOY, model=_spot_model)
    EXPERIMENTS["toy"] = spot if name == "spot" else TOY
    sys.argv[0] = f"{checkout}/tune/run.py"
    runpy.run_path(sys.argv[0], run_name="__main__")


def _no_writes(code: int) -> Any:
    """Return an audit hook that prevents weights from being written or renamed into place: torch
    opens its files below Python, where no hook sees it."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "os.rename":
            path, mode, flags = str(arguments[1]), "w", 0
        elif event == "open" and isinstance(arguments[0], str):
            path, mode, flags = arguments
        else:
            return
        writes = any(letter in (mode or "") for letter in "wax+")
        writes = writes or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
        if writes and "/trials/" in path and ".pt" in Path(path).name:
            raise OSError(code, os.strerror(code), path)

    return hook


def _end_at_rename(event: str, arguments: tuple[Any, ...]) -> None:
    """Kill the process when a partial file in trial 1's folder is about to be renamed (an audit
    hook)."""
    if event == "os.rename" and "/trials/0001/best.pt" in str(arguments[1]):
        os.kill(os.getpid(), signal.SIGKILL)


def _broken(forward: Any, first: bool) -> Any:
    """Return the toy's forward, which fails as if a library were missing."""

    def broken(self: Any, batch: Any) -> Any:
        if not first or self.config.optim.lr == 0.01:
            raise ImportError("libcudnn.so.9: cannot open shared object file")
        return forward(self, batch)

    return broken


def _spot_model() -> Any:
    from spot import Spot  # type: ignore[import-not-found]  # `Place` puts it on the path

    from tests.toy import ToyConfig

    return Spot, ToyConfig


if __name__ == "__main__":
    main()
