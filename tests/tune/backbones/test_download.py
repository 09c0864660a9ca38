"""Backbones from torchvision and MLflow are downloaded, checked, and refused in one line. Offline
is real here: the proxy does not exist."""

import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
import torch
import torchvision
from torchvision.models._api import WeightsEnum

from trainables.backbone.export import load_backbone_state, save_backbone
from trainables.backbone.networks import BackboneConfig, build_backbone
from trainables.backbone.weights import load_backbone
from trainables.errors import UserError
from trainables.files import content_hash
from tune.backbones.download import from_mlflow, from_torchvision
from tune.backbones.resolve import find, recorded
from tune.study.manifest import Manifest

TINY = BackboneConfig(width=8, pool=1)


def refusal(wanted: str, storage: Path, architecture: str = "resnet18") -> str:
    with pytest.raises(UserError) as caught:
        find(wanted, storage, architecture)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make torchvision's ResNet18 publish a file of random weights under its own hash, and empty
    the cache."""
    torch.manual_seed(5)
    (tmp_path / "server").mkdir()
    file = tmp_path / "server" / "weights.pth"
    torch.save(torchvision.models.resnet18(weights=None).state_dict(), file)
    file = file.rename(file.with_name(f"resnet18-{content_hash(file)[:8]}.pth"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(
        WeightsEnum, "url", property(lambda self: f"http://127.0.0.1:9/{file.name}")
    )
    return file


@pytest.fixture
def server(published: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    handler = functools.partial(
        http.server.SimpleHTTPRequestHandler, directory=str(published.parent)
    )
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{running.server_port}/{published.name}"
        monkeypatch.setattr(WeightsEnum, "url", property(lambda self: url))
        yield
        running.shutdown()


def cache(tmp_path: Path) -> Path:
    folder = tmp_path / "home/hub/checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.mark.parametrize(
    "wanted",
    ["torchvision", "torchvision:IMAGENET1K_V1", "torchvision:ResNet18_Weights.IMAGENET1K_V1"],
)
def test_cached_weights_of_torchvision_need_no_network(
    wanted: str, tmp_path: Path, published: Path
) -> None:
    (cache(tmp_path) / published.name).write_bytes(published.read_bytes())
    values = find(wanted, tmp_path / "runs", "resnet18").config()
    assert values["init.origin"] == "torchvision:ResNet18_Weights.IMAGENET1K_V1"
    assert values["init.sha256"] == content_hash(published)
    assert values["normalize"] == "imagenet"
    config = BackboneConfig(name="resnet18")
    loaded = load_backbone(
        build_backbone(config), config, Path(values["init.file"]), values["init.sha256"]
    )
    assert (loaded.matched, loaded.ignored) == (120, ("fc.weight", "fc.bias"))


def test_weights_of_torchvision_are_downloaded_once(
    tmp_path: Path, published: Path, server: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, _ = from_torchvision("torchvision", "resnet18")
    assert file.read_bytes() == published.read_bytes()
    assert [path.name for path in file.parent.iterdir()] == [published.name]
    published.unlink()
    assert from_torchvision("torchvision", "resnet18")[0] == file


def test_a_damaged_file_is_no_weights(tmp_path: Path, published: Path, server: None) -> None:
    published.write_bytes(published.read_bytes()[:-1])
    assert "arrived damaged" in refusal("torchvision", tmp_path)
    assert not list((tmp_path / "home/hub/checkpoints").iterdir())
    (tmp_path / "home/hub/checkpoints" / published.name).write_bytes(b"something else")
    message = refusal("torchvision", tmp_path)
    assert "is not the file that torchvision published" in message
    assert "delete it" in message


def test_offline_without_a_cached_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    message = refusal("torchvision:IMAGENET1K_V2", tmp_path, "resnet50")
    assert message.startswith(
        "https://download.pytorch.org/models/resnet50-11ad3fa6.pth cannot be downloaded ("
    )
    assert (
        f"copy the file to {tmp_path}/home/hub/checkpoints/resnet50-11ad3fa6.pth by hand" in message
    )


def test_unknown_weights_of_torchvision(tmp_path: Path) -> None:
    assert refusal("torchvision", tmp_path, "tiny").endswith(
        "torchvision has no weights of tiny; add e.g. --set backbone.name=resnet50"
    )
    assert "resnet50 has no such weights; did you mean 'IMAGENET1K_V2'?" in refusal(
        "torchvision:IMAGENET1K_V3", tmp_path, "resnet50"
    )


# -- MLflow


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    """A storage with an SQLite MLflow store: a run with an exported backbone and other artifacts,
    and a model `letters` made from it, version 1."""
    storage = tmp_path_factory.mktemp("runs")
    uri = f"sqlite:///{storage}/mlflow.db"
    client = mlflow.MlflowClient(uri, registry_uri=uri)
    run = client.create_run(
        client.create_experiment("vistune", artifact_location=(storage / "mlartifacts").as_uri())
    )
    files = storage / "files"
    files.mkdir()
    torch.manual_seed(7)
    save_backbone(
        files / "best.pt",
        build_backbone(TINY),
        {"normalize": "half", "backbone": {"name": "tiny", "width": 8}},
    )
    (files / "MLmodel").write_text("flavors: {}\n")
    torch.save(torch.nn.Linear(2, 2), files / "pickled.pt")
    run_id = run.info.run_id
    for name, folder in (
        ("best.pt", "backbone"),
        ("MLmodel", "backbone"),
        ("pickled.pt", "pickled"),
        ("MLmodel", "plots"),
    ):
        client.log_artifact(run_id, str(files / name), folder)
    client.log_artifact(run_id, str(files / "pickled.pt"), "two")
    (files / "other.pt").write_bytes(b"")
    client.log_artifact(run_id, str(files / "other.pt"), "two")
    client.create_registered_model("letters")
    client.create_model_version(
        "letters", f"{storage.as_uri()}/mlartifacts/{run_id}/artifacts/backbone", run_id
    )
    client.set_registered_model_alias("letters", "best", "1")
    return storage, run_id, content_hash(files / "best.pt")


@pytest.mark.parametrize(
    "wanted",
    [
        "runs:/{run}/backbone",
        "runs:/{run}/backbone/best.pt",
        "models:/letters/1",
        "models:/letters@best",
    ],
)
def test_a_backbone_from_mlflow(wanted: str, store: tuple[Path, str, str]) -> None:
    storage, run, sha256 = store
    values = find(wanted.format(run=run), storage).config()
    assert values == {
        "init.file": str(storage / "backbones" / f"{sha256[:16]}.pt"),
        "init.sha256": sha256,
        "init.origin": wanted.format(run=run),
        "normalize": "half",
    }
    assert (
        load_backbone(build_backbone(TINY), TINY, Path(values["init.file"]), sha256).matched == 54
    )
    assert [path.name for path in (storage / "backbones").iterdir()] == [f"{sha256[:16]}.pt"]
    manifest = Manifest(
        name="c",
        experiment="classify",
        preset="tiny",
        objective="val/top1",
        seed=0,
        base=values,
        pins={},
        space={},
        data={"name": "digits", "fingerprint": "0"},
    )
    (storage / "c").mkdir(exist_ok=True)
    (storage / "c" / "study.json").unlink(missing_ok=True)
    manifest.reconcile_with(storage / "c" / "study.json")
    # without asking MLflow again
    assert (
        recorded(storage / "c", wanted.format(run=run)) == recorded(storage / "c", None) == values
    )
    assert recorded(storage / "c", "models:/letters/2") is None


def test_what_mlflow_lacks_is_named(
    store: tuple[Path, str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage, run, _ = store
    assert "contains no file *.pt or *.pth" in refusal(f"runs:/{run}/plots", storage)
    assert "contains 2 files of weights: other.pt, pickled.pt" in refusal(
        f"runs:/{run}/two", storage
    )
    models = [f"models:/{name}" for name in ("letters/9", "letters@worst", "nobody/1", "letters")]
    for wanted in (f"runs:/{run}/nothing", f"runs:/{'0' * 32}/backbone", *models):
        assert (
            f"--backbone {wanted}: MLflow at sqlite:///{storage}/mlflow.db does not provide it ("
            in refusal(wanted, storage)
        )
    assert "there is no MLflow store" in refusal("models:/letters/1", tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert "MLflow at http://127.0.0.1:9 does not provide it (" in refusal(
        "models:/letters/1", storage
    )


def test_a_pickled_model_is_not_unpickled(store: tuple[Path, str, str]) -> None:
    storage, run, _ = store
    file = from_mlflow(f"runs:/{run}/pickled", storage)
    with pytest.raises(UserError, match="could run code and is not read"):
        load_backbone_state(file)
    file.unlink()
