"""Files of `export --format`, read by other tools, answer as the trained network does."""

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.one_trial import one_trial
from tests.shapes import Shapes
from tests.tune.test_export import CONFIGS
from trainables.augment.image_ops import MEAN_STD
from trainables.errors import UserError
from trainables.portable import FILES, Network
from trainables.segmentation import Segmentation
from tune.experiments import EXPERIMENTS
from tune.export import Exported, export_model
from tune.reports.model_card import CARD, write_card

Parts = tuple[Path, Any]
"""Storage with a study of one trial, and the trained network with its data."""


@pytest.fixture(scope="module", autouse=True)
def _own_stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VISTUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def _shapes(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "whole" not in request.node.name:
        monkeypatch.setattr(Segmentation, "load_data", Shapes.load_data)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Parts]:
    root = tmp_path_factory.mktemp("studies")

    @cache
    def train(name: str) -> Parts:
        config = CONFIGS[name]
        study = one_trial(root, name, name, config)
        kind = EXPERIMENTS[name].trainable
        model = kind(config, kind.load_data(config.data))
        model.load_export(study / "trials/0000/best.pt")
        return root, model.eval()

    return train


def images_of(model: Any, count: int) -> Tensor:
    """Validation images (count, 3, S, S) in [0, 1]."""
    return model.data.val.batch(np.arange(count)).float() / 255


def expected(name: str, model: Any, images: Tensor) -> np.ndarray:
    """The answers of the network, computed without `portable`."""
    mean, std = MEAN_STD[model.normalize if name == "ssl" else model.config.normalize]
    views = (images - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        if name == "segment":
            return model.net(views)[0].numpy()
        features = model.backbone(views)
        return (model.head(features) if name == "classify" else features).numpy()


def assert_shows_its_metric(found: Exported) -> None:
    assert found.measured == pytest.approx(found.recorded, abs=1e-6)
    assert found.difference is None or found.difference < 1e-5


@pytest.mark.heavy
def test_program_of_torch_answers_as_the_network(trained: Callable[[str], Parts]) -> None:
    root, model = trained("classify")
    found = export_model("classify", root, format="torch_export")
    assert_shows_its_metric(found)
    assert found.folder == root / "classify" / "model-torch_export"
    assert re.search(r"its answers (equal|are) the network's", str(found))

    module = torch.export.load(found.folder / "model.pt2").module()
    for count in (1, 7):  # it was traced with a batch of 2
        images = images_of(model, count)
        answer = module(images).detach().numpy()
        np.testing.assert_allclose(answer, expected("classify", model, images), atol=1e-5)


@pytest.mark.parametrize(
    "name",
    ["fewshot", "classify", *(pytest.param(n, marks=pytest.mark.slow) for n in ("ssl", "segment"))],
)
def test_weights_are_those_of_the_network(trained: Callable[[str], Parts], name: str) -> None:
    load_file = pytest.importorskip("safetensors.torch").load_file
    root, model = trained(name)
    found = export_model(name, root, format="safetensors")
    assert_shows_its_metric(found)
    tensors = load_file(found.folder / "model.safetensors")
    wanted = {f"backbone.{key}": value for key, value in model.backbone.state_dict().items()}
    if name != "ssl":
        wanted |= {f"head.{key}": value for key, value in model.head.state_dict().items()}
    assert tensors.keys() == wanted.keys()
    assert all(torch.equal(tensors[key], wanted[key]) for key in wanted)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssl", "fewshot", "segment"])
def test_every_kind_is_a_program_of_torch(trained: Callable[[str], Parts], name: str) -> None:
    root, model = trained(name)
    found = export_model(name, root, format="torch_export")
    assert_shows_its_metric(found)
    images = images_of(model, 5)
    module = torch.export.load(found.folder / "model.pt2").module()
    answer = module(images).detach().numpy()
    np.testing.assert_allclose(answer, expected(name, model, images), atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["classify", "ssl", "fewshot", "segment"])
def test_onnxruntime_answers_as_the_network(trained: Callable[[str], Parts], name: str) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    root, model = trained(name)
    found = export_model(name, root, format="onnx")
    assert_shows_its_metric(found)
    assert write_card(found).name == CARD

    session = onnxruntime.InferenceSession(str(found.folder / "model.onnx"))
    assert {path.name for path in found.folder.iterdir()} == {"model.onnx", "model.json", CARD}
    for count in (1, 7):
        images = images_of(model, count)
        (answer,) = session.run(None, {"images": images.numpy()})
        np.testing.assert_allclose(answer, expected(name, model, images), atol=1e-4)


@pytest.mark.heavy
def test_file_that_computes_something_else_is_refused(
    trained: Callable[[str], Parts], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = trained("classify")
    before = export_model("classify", root, format="torch_export").folder
    kept = (before / "model.pt2").read_bytes()

    def wrong(self: Network, images: Tensor) -> Tensor:
        return self.head(self.backbone(images))  # leaves out the normalisation

    from trainables import portable

    traced = portable._program

    def trace(served: Any, network: Network) -> Any:
        with monkeypatch.context() as patch:
            patch.setattr(Network, "forward", wrong)
            return traced(served, network)

    monkeypatch.setattr(portable, "_program", trace)
    with pytest.raises(UserError, match="not exported, because torch_export computes something"):
        export_model("classify", root, format="torch_export")
    assert (before / "model.pt2").read_bytes() == kept

    # even without the comparison of answers, the recorded metric shows the error
    monkeypatch.setattr(portable, "_difference", lambda *_: 0.0)
    with pytest.raises(UserError, match="its weights do not reproduce the record"):
        export_model("classify", root, format="torch_export")


def test_formats_and_packages_that_are_not_there_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=r"--format 'onx' is not a format; did you mean 'onnx'"):
        export_model("classify", tmp_path, format="onx")
    monkeypatch.setattr("tune.export.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs onnx, onnxscript, onnxruntime: .*pip install"):
        export_model("classify", tmp_path, format="onnx")
    assert set(FILES) == {"onnx", "safetensors", "torch_export"}


def test_folder_of_another_format_is_kept(trained: Callable[[str], Parts]) -> None:
    root, _ = trained("fewshot")
    out = root / "a model"
    export_model("fewshot", root, out, format="safetensors")
    with pytest.raises(UserError, match="contains a model of another format than mlflow"):
        export_model("fewshot", root, out)
    assert (out / "model.safetensors").exists()


@pytest.mark.slow
def test_whole_images_of_any_shape_are_answered(tmp_path: Path) -> None:
    from tests.trainables.test_whole_images import S, config_of, folder, resized

    pytest.importorskip("onnxscript")
    onnxruntime = pytest.importorskip("onnxruntime")
    one_trial(tmp_path, "whole", "segment", config_of(folder(tmp_path / "set")))
    found = export_model("whole", tmp_path, format="onnx")
    assert_shows_its_metric(found)

    session = onnxruntime.InferenceSession(str(found.folder / "model.onnx"))
    for number in (0, 2, 4):
        image, _ = resized(
            tmp_path / "set" / "images" / f"{number:02d}.png",
            tmp_path / "set" / "masks" / f"{number:02d}.png",
        )
        pixels = image.transpose(2, 0, 1)[None].astype(np.float32) / 255
        (answer,) = session.run(None, {"images": pixels})
        assert answer.shape == (1, 2, *image.shape[:2])
        assert min(answer.shape[2:]) == S
