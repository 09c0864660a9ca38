"""The best model of every experiment is checked against the record, served as MLflow serves it, and
registered. Its answers are compared with the trained network's."""

import json
import os
import shutil
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score

from tests.mlflow_store import begin_store
from tests.one_trial import one_trial
from tests.shapes import Shapes, shapes_config
from tests.trainables.test_fewshot import SMALL as FEWSHOT
from trainables.augment.views import evaluation_view
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.byol import BYOLConfig, HeadConfig
from trainables.classifier import ClassifierConfig
from trainables.data import DataConfig
from trainables.data.images import decode
from trainables.errors import UserError
from trainables.files import is_partial
from trainables.optim import OptimConfig
from trainables.segmentation import Segmentation
from trainables.self_supervised import ValidationConfig
from trainables.served import DESCRIPTION, Served
from tune.experiments import EXPERIMENTS
from tune.export import Exported, export_model
from tune.registry import register

DIGITS, TINY = DataConfig(name="digits", image_size=16), BackboneConfig(width=8, pool=1)
TRAIN = TrainConfig(epochs=2, epoch_images=320, batch_size=32)
CLASSIFIER = ClassifierConfig(
    data=DIGITS, backbone=TINY, train=TRAIN, optim=OptimConfig(name="adam", lr=3e-3)
)
CONFIGS: dict[str, Any] = {
    "ssl": BYOLConfig(
        data=DIGITS,
        backbone=TINY,
        train=TRAIN,
        head=HeadConfig(projection_size=16, hidden_size=32),
        val=ValidationConfig(probe_steps=0),
    ),
    "pretrain": CLASSIFIER,
    "classify": CLASSIFIER,
    "fewshot": FEWSHOT,
    "segment": shapes_config(),
}
every_experiment = pytest.mark.parametrize("name", CONFIGS)


Parts = tuple[Exported, Any, np.ndarray]
"""Export of a study of one trial, the trained network, and validation images (n, S, S, 3) uint8."""
Export = Callable[[str], Parts]


@pytest.fixture(scope="module", autouse=True)
def _own_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setattr(Segmentation, "load_data", Shapes.load_data)
        yield


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Name of an experiment -> its `Parts`, which tests must not change."""
    root = tmp_path_factory.mktemp("exported")

    @cache
    def export(name: str) -> Parts:
        study, config = one_trial(root, name, name, CONFIGS[name]), CONFIGS[name]
        kind = EXPERIMENTS[name].trainable
        model = kind(config, kind.load_data(config.data))
        model.load_export(study / "trials/0000/best.pt")
        images = model.data.val.batch(np.arange(12)).permute(0, 2, 3, 1).numpy()
        return export_model(name, root), model.eval(), images

    return export


def expected(name: str, model: Any, images: np.ndarray) -> np.ndarray:
    """The answers of the trained network, computed without `served`."""
    pixels = torch.from_numpy(images).permute(0, 3, 1, 2)
    views = evaluation_view(
        pixels,
        model.config.data.image_size,
        model.normalize if name == "ssl" else model.config.normalize,
    )
    with torch.no_grad():
        if name == "segment":
            return model.net(views)[0].argmax(1).numpy()
        features = model.backbone(views)
        return (features if name in ("ssl", "fewshot") else model.head(features).softmax(1)).numpy()


@every_experiment
def test_model_is_the_trials_and_has_shown_its_metric(name: str, exported: Export) -> None:
    import mlflow.pyfunc
    from mlflow.models import Model

    found, model, images = exported(name)
    assert found.measured == found.recorded
    loaded = mlflow.pyfunc.load_model(str(found.folder))
    answer = loaded.predict(images)
    np.testing.assert_allclose(np.asarray(answer), expected(name, model, images), atol=1e-6)
    if name in ("pretrain", "classify"):
        assert list(answer.columns) == list(model.data.classes)
        np.testing.assert_allclose(answer.sum(axis=1), 1, atol=1e-5)
    described = Model.load(str(found.folder))
    assert described.signature is not None
    assert described.signature.outputs is not None
    assert len(described.load_input_example(str(found.folder))) >= 2
    assert not [
        path
        for path in found.folder.rglob("*")
        if path.suffix in (".pkl", ".pickle") or path.name == "__pycache__"
    ]


@pytest.mark.parametrize("name", ["classify", "ssl", "fewshot"])
def test_photographs_are_seen_as_training_saw_its_files(
    name: str, exported: Export, tmp_path: Path
) -> None:
    """They are wider or higher than a square, or larger than the store's images. Compare with the
    decoder of files."""
    found, model, _ = exported(name)
    served = Served(next(found.folder.rglob(DESCRIPTION)).parent)
    for shape in ((40, 60, 3), (64, 23, 3), (9, 9, 3)):
        photographs = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
        decoded = []
        for photograph in photographs:
            Image.fromarray(photograph).save(tmp_path / "photograph.png")
            decoded.append(decode(tmp_path / "photograph.png", 16).transpose(1, 2, 0))
        np.testing.assert_allclose(
            served.predict(photographs), expected(name, model, np.stack(decoded)), atol=1e-5
        )


def test_few_examples_name_the_classes(exported: Export) -> None:
    import mlflow.pyfunc

    found, model, _ = exported("fewshot")
    labels = model.data.val.targets()
    first, second = (np.flatnonzero(labels == label)[:6] for label in np.unique(labels)[:2])
    rows = np.concatenate([first[:3], second[:3], first[3:], second[3:]])
    images = model.data.val.batch(rows).permute(0, 2, 3, 1).numpy()
    answer = mlflow.pyfunc.load_model(str(found.folder)).predict(
        images, params={"labels": ["a"] * 3 + ["b"] * 3}
    )
    features = expected("fewshot", model, images)
    squares = np.stack(
        [
            ((features[6:] - features[part].mean(0)) ** 2).sum(1)
            for part in (slice(0, 3), slice(3, 6))
        ],
        1,
    )
    nearer = np.exp(-squares + squares.min(1, keepdims=True))
    assert list(answer.columns) == ["a", "b"]
    np.testing.assert_allclose(answer.to_numpy(), nearer / nearer.sum(1, keepdims=True), atol=1e-4)
    served = Served(next(found.folder.rglob(DESCRIPTION)).parent)
    with pytest.raises(UserError, match="12 labels for 12 images leave no query"):
        served.compare(images, ["a"] * 12)


def copied(found: Exported, root: Path) -> Exported:
    """Copy the export with its study to another storage."""
    study = root / found.study.name
    shutil.copytree(found.study, study)
    return replace(found, study=study, folder=study / found.folder.name)


def test_weights_that_do_not_do_what_is_on_record_are_refused(
    exported: Export, tmp_path: Path
) -> None:
    found = copied(exported("classify")[0], tmp_path)
    study = found.study
    shutil.rmtree(found.folder)
    file = study / "trials/0000/best.pt"
    saved = torch.load(file, weights_only=True)
    saved["head"] = {key: torch.zeros_like(value) for key, value in saved["head"].items()}
    torch.save(saved, file)
    with pytest.raises(
        UserError,
        match=(
            r"trial 0 of classify: val/top1 .* not exported, because its weights do not "
            r"reproduce the record"
        ),
    ):
        export_model("classify", tmp_path)
    assert not (study / "model").exists()


def odd_weights(good: dict[str, Any]) -> dict[str, Any]:
    """Name -> content that a file of weights should not have."""
    backbone, head = good["state_dict"], good["head"]
    name = next(iter(backbone))
    return {
        "a list": [1, 2, 3],
        "nothing": {},
        "no head": {key: value for key, value in good.items() if key != "head"},
        "half a backbone": good | {"state_dict": {name: backbone[name]}},
        "another head": good | {"head": {key: value[:1] for key, value in head.items()}},
        "a number for a head": good | {"head": 3},
        "numbers for weights": good | {"head": dict.fromkeys(head, 1.0)},
    }


def test_odd_weights_are_one_line(exported: Export, tmp_path: Path) -> None:
    found = copied(exported("classify")[0], tmp_path)
    file = found.study / "trials/0000/best.pt"
    good = torch.load(file, weights_only=True)
    for name, odd in odd_weights(good).items():
        torch.save(odd, file)
        with pytest.raises(UserError, match=r"best\.pt") as refused:
            export_model("classify", tmp_path)
        assert "\n" not in str(refused.value), name

    for content in (b"", b"PK\x03\x04", os.urandom(2000)):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"best\.pt"):
            export_model("classify", tmp_path)


def test_exports_at_once_wait_for_one_another(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each finds what the one before it left, and replaces it."""
    found = copied(exported("classify")[0], tmp_path)
    inside: list[int] = []
    most: list[int] = []

    def save(exported: Exported, about: Any, weights: Path, whole: Path, *rest: Any) -> Exported:
        inside.append(1)
        most.append(len(inside))
        whole.mkdir()
        (whole / "MLmodel").write_text("whole")
        time.sleep(0.05)
        inside.pop()
        return exported

    monkeypatch.setattr("tune.export._save_mlflow", save)
    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(export_model, "classify", tmp_path) for _ in range(4)]
    assert {end.result().folder for end in ends} == {found.folder}
    assert most == [1, 1, 1, 1]
    assert [path.name for path in found.folder.iterdir()] == ["MLmodel"]
    assert not [path for path in tmp_path.rglob("*") if is_partial(path.name)]


def test_a_kill_as_an_earlier_model_is_removed_is_no_obstacle(
    exported: Export, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = copied(exported("classify")[0], tmp_path)

    def killed(folder: Path, **_: Any) -> None:
        for path in Path(folder).rglob("*"):
            if path.name in ("MLmodel", "model.json"):
                path.unlink()
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr("shutil.rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            export_model("classify", tmp_path)
    again = export_model("classify", tmp_path)
    assert (again.folder, again.measured) == (found.folder, found.measured)


def test_floats_from_0_to_1_are_refused_as_a_server_gets_them(exported: Export) -> None:
    """MLflow's server casts them to uint8, which would make every image black."""
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    found, _, images = exported("classify")
    model = mlflow.pyfunc.load_model(str(found.folder))

    def answer(sent: Any) -> Any:
        schema = model.metadata.get_input_schema()
        body = json.dumps({"inputs": sent.tolist()})
        return scoring_server.invocations(body, "application/json", model, schema)

    assert answer(images).status == 200
    said = "send levels from 0 to 255 as uint8: multiply floats from 0 to 1 by 255"
    with pytest.raises(MlflowException, match=said) as caught:
        answer(images / 255)
    assert caught.value.get_http_status_code() == 400
    some_black = np.concatenate([images[:1], np.zeros_like(images[:1])])
    assert answer(some_black).status == 200


def test_a_server_refuses_what_a_request_cannot_mean(exported: Export) -> None:
    """Send parameters that the model lacks, levels that a cast would wrap, and endless JSON."""
    import mlflow.pyfunc
    from mlflow.exceptions import MlflowException
    from mlflow.pyfunc import scoring_server

    found, _, images = exported("classify")
    model = mlflow.pyfunc.load_model(str(found.folder))

    def answer(body: str) -> Any:
        schema = model.metadata.get_input_schema()
        return scoring_server.invocations(body, "application/json", model, schema)

    def refusal(body: str) -> str:
        with pytest.raises(MlflowException) as caught:
            answer(body)
        assert caught.value.get_http_status_code() == 400
        return str(caught.value)

    whole = {"inputs": images.tolist()}
    assert answer(json.dumps(whole)).status == 200
    assert answer(json.dumps(whole | {"params": {}})).status == 200

    unknown = refusal(json.dumps(whole | {"params": {"threshold": 0.5}}))
    assert "the model has no parameter threshold: it has none; leave it out" in unknown
    normalized = refusal(json.dumps({"inputs": (images / 64 - 2.0).tolist()}))
    assert "neither scaled nor normalized" in normalized
    deep = refusal('{"inputs": ' + "[" * 100_000 + "]" * 100_000 + "}")
    assert "the JSON is nested without end" in deep
    digits = refusal('{"inputs": [[[[1' + "0" * 5000 + ", 1, 2]]]]}")
    assert "the JSON cannot be read (Exceeds the limit" in digits
    for params in ("[1]", '"threshold"', "5"):
        listed = refusal(json.dumps(whole)[:-1] + f', "params": {params}}}')
        assert "send an object of names and values" in listed


def pictures(folder: Path, levels: int = 256) -> Path:
    """Two classes of twelve noise images."""
    rng = np.random.default_rng(3)
    for name in ("left", "right"):
        (folder / name).mkdir(parents=True)
        for number in range(12):
            pixels = rng.integers(0, levels, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{number}.png")
    return folder


def test_images_that_moved_are_found(tmp_path: Path) -> None:
    folder = pictures(tmp_path / "here")
    config = replace(CLASSIFIER, data=DataConfig(name=str(folder), image_size=16))
    one_trial(tmp_path, "classify", "classify", config)
    folder.rename(tmp_path / "there")
    with pytest.raises(UserError, match=f"are not in {folder} any more; .* with --data FOLDER"):
        export_model("classify", tmp_path)
    pictures(tmp_path / "others", levels=200)
    with pytest.raises(UserError, match="others are not those of study 'classify' "):
        export_model("classify", tmp_path, images=str(tmp_path / "others"))

    found = export_model("classify", tmp_path, images=str(tmp_path / "there"))
    assert found.measured == found.recorded


@pytest.mark.heavy
def test_champion_is_the_last_export(exported: Export, tmp_path: Path) -> None:
    from mlflow import MlflowClient

    found = copied(exported("classify")[0], tmp_path)
    begin_store(tmp_path)
    versions = [register(found) for _ in range(2)]
    assert [v.version for v in versions] == ["1", "2"]
    client = MlflowClient(versions[1].uri, registry_uri=versions[1].uri)
    champion = client.get_model_version_by_alias("classify", "champion")
    assert str(champion.version) == "2"
    assert champion.tags["trial"] == "0"
    run = client.get_run(champion.run_id)
    assert run.data.tags["mlflow.runName"] == "trial-000"
    assert run.info.status == "FINISHED"
    assert run.data.metrics["export/val/top1"] == found.recorded
    (logged,) = [
        m
        for m in client.search_logged_models([run.info.experiment_id])
        if m.model_id in champion.source
    ]
    assert (logged.status, logged.source_run_id) == ("READY", champion.run_id)
    assert "MLFLOW_TRACKING_URI" not in os.environ


@contextmanager
def serving(command: str) -> Iterator[str]:
    """Start the server that `report.py export` names on a free port, and yield its address once it
    answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert command.endswith(" --port 5001")
    # A shell without the active environment.
    server = subprocess.Popen(
        ["bash", "-c", command.replace("5001", str(port))],
        env=os.environ | {"PATH": "/usr/bin:/bin"},
        start_new_session=True,
    )
    try:
        limit = time.monotonic() + 180
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/ping", timeout=2).close()
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < limit
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        with suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def post(address: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"{address}/invocations", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    return json.loads(urllib.request.urlopen(request, timeout=60).read())["predictions"]


@pytest.mark.slow
@every_experiment
def test_served_over_http(name: str, exported: Export, tmp_path: Path) -> None:
    shared, model, images = exported(name)
    found = copied(shared, tmp_path)
    with serving(register(found).serve_command()) as address:
        answer = post(address, {"inputs": images.tolist()})
        if name in ("pretrain", "classify"):
            assert all(list(row) == list(model.data.classes) for row in answer)
            answer = [list(row.values()) for row in answer]
            assert (
                accuracy_score(np.argmax(answer, 1), expected(name, model, images).argmax(1)) == 1
            )
        np.testing.assert_allclose(answer, expected(name, model, images), atol=1e-5)
        if name == "fewshot":
            two = post(address, {"inputs": images.tolist(), "params": {"labels": ["a", "b"]}})
            assert [list(row) for row in two] == [["a", "b"]] * (len(images) - 2)
