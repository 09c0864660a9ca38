"""Backbones from outside: torchvision's own weights, and files in MLflow. Either becomes a local
file, and no code in it is executed.

    --backbone torchvision                     # torchvision's best weights for backbone.name
    --backbone torchvision:IMAGENET1K_V1       # weights by name
    --backbone models:/name/3                  # a registered model's version, or models:/name@alias
    --backbone runs:/RUN_ID/backbone           # artifact of a run, such as a trial's export
"""

import contextlib
import importlib
import re
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from trainables.config import nearest
from trainables.errors import UserError, first_line
from trainables.files import BEST, content_hash, scratch_folder
from tune.tracking.address import default_uri, probe, quieten, without_password
from tune.tracking.database import sqlite_path

TORCHVISION = "torchvision"
MLFLOW = ("models:/", "runs:/")
_SUFFIXES = (".pt", ".pth")
_TIMEOUT_S = 20.0  # without a byte from the server


def from_torchvision(wanted: str, architecture: str) -> tuple[Path, str]:
    """Return the path of the weights in torch's cache (`$TORCH_HOME/hub/checkpoints`), after
    downloading them if necessary, and their full name.

    Args:
        wanted: `torchvision`, or `torchvision:` and the name of the weights.
        architecture: `backbone.name`.
    Raises:
        UserError: there are no such weights, there is neither a network nor a cached file, or the
            file does not match torchvision's hash.
    """
    import torch
    import torchvision  # imported here, because other backbones do not need it

    if architecture not in torchvision.models.list_models():
        raise UserError(
            f"--backbone {wanted}: torchvision has no weights of {architecture}; add e.g. --set "
            "backbone.name=resnet50"
        )
    known = torchvision.models.get_model_weights(architecture)
    name = wanted.partition(":")[2].removeprefix(f"{known.__name__}.") or known["DEFAULT"].name
    if name not in known.__members__:
        raise UserError(
            f"--backbone {wanted}: {architecture} has no such "
            f"weights{nearest(name, [member.name for member in known])}"
        )
    weights = known[name]
    file = Path(torch.hub.get_dir()) / "checkpoints" / weights.url.rpartition("/")[2]
    found = re.search(r"-([0-9a-f]{8,})\.", file.name)
    prefix = found[1] if found else ""
    if not file.exists():
        _download(weights.url, file, prefix)
    if not content_hash(file).startswith(prefix):
        raise UserError(
            f"{file} is not the file that torchvision published: its sha256 does not begin with "
            f"{prefix}; delete it"
        )
    return file, f"{TORCHVISION}:{weights}"


def _download(url: str, file: Path, prefix: str) -> None:
    import torch

    remedy = f"copy the file to {file} by hand, or give --backbone PATH"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with _patience(_TIMEOUT_S):
            torch.hub.download_url_to_file(url, str(file), prefix or None)
    except OSError as error:
        raise UserError(
            f"{url} cannot be downloaded ({getattr(error, 'reason', None) or error}) and is not "
            f"cached: {remedy}"
        ) from None
    except RuntimeError as error:  # torch raises this for a wrong hash
        raise UserError(f"{url} arrived damaged ({error}): try again, or {remedy}") from None


@contextlib.contextmanager
def _patience(seconds: float) -> Iterator[None]:
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def from_mlflow(wanted: str, storage: Path) -> Path:
    """Return the path of the weights file in an MLflow artifact or model, copied to
    `<storage>/backbones`, where its name is its content hash.

    Args:
        wanted: models:/NAME/VERSION, models:/NAME@ALIAS or runs:/RUN_ID/PATH: a file, or a folder
            with one file *.pt or *.pth (or one best.pt).
    Raises:
        UserError: MLflow does not respond or has no such artifact, or the artifact contains no
            weights file or several.
    """
    uri = default_uri(storage)
    if (database := sqlite_path(uri)) and not database.exists():
        raise UserError(
            f"--backbone {wanted}: there is no MLflow store {database}; MLFLOW_TRACKING_URI names "
            "another"
        )
    shelf = storage / "backbones"
    shelf.mkdir(parents=True, exist_ok=True)
    with scratch_folder(shelf / "arriving") as folder:
        file = _weights_file(wanted, _fetch(wanted, uri, folder))
        kept = shelf / f"{content_hash(file)[:16]}{file.suffix}"
        file.replace(kept)
    return kept


def _fetch(wanted: str, uri: str, folder: Path) -> Path:
    quieten()
    try:
        probe(uri)
        mlflow = importlib.import_module("mlflow")
        location = _location(mlflow.MlflowClient(uri, registry_uri=uri), wanted)
        return Path(
            mlflow.artifacts.download_artifacts(location, dst_path=str(folder), tracking_uri=uri)
        )
    except Exception as error:  # from MLflow, its database or the network
        why = first_line(error)
        where = without_password(uri)
        raise UserError(
            f"--backbone {wanted}: MLflow at {where} does not provide it ({why}); "
            "MLFLOW_TRACKING_URI names another"
        ) from None


def _location(client: Any, wanted: str) -> str:
    """Return the location of a model's files. `download_artifacts` would look models up in a
    registry of its own choosing."""
    if wanted.startswith("runs:/"):
        return wanted
    match = re.fullmatch(r"models:/([^/@]+)(?:/(\d+)|@([^/]+))", wanted)
    if match is None:
        raise ValueError("not of the form models:/NAME/VERSION or models:/NAME@ALIAS")
    name, version, alias = match.groups()
    version = version or client.get_model_version_by_alias(name, alias).version
    return str(client.get_model_version_download_uri(name, version))


def _weights_file(wanted: str, arrived: Path) -> Path:
    files = (
        [arrived]
        if arrived.is_file()
        else sorted(path for path in arrived.rglob("*") if path.suffix in _SUFFIXES)
    )
    best = [path for path in files if path.name == BEST]
    if len(found := best if len(best) == 1 else files) == 1:
        return found[0]
    if not files:
        raise UserError(
            f"--backbone {wanted} contains no file *.pt or *.pth; name an artifact that does, such "
            "as runs:/RUN_ID/backbone"
        )
    names = ", ".join(str(path.relative_to(arrived)) for path in files[:5])
    raise UserError(
        f"--backbone {wanted} contains {len(files)} files of weights: {names}; name one, as "
        "runs:/RUN_ID/PATH"
    )
