"""The average of weights against torch's, and runs that use it against uninterrupted ones."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from tests.toy import TOY, Toy, ToyConfig
from trainables.backbone.export import load_backbone_meta
from trainables.backbone.networks import BackboneConfig
from trainables.base import TrainConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import flatten
from trainables.data import DataConfig
from trainables.engine.average import (
    WeightAverage,
    averaged_tensors,
    decay_at,
    judged_weights,
    outcomes_with_objective,
    with_objective,
)
from trainables.engine.checkpoint import load_checkpoint
from trainables.engine.fit import fit
from trainables.errors import UserError
from trainables.files import BEST, LAST
from trainables.optim import OptimConfig, ScheduleConfig
from trainables.outcomes import ImageOutcomes
from tune.execution.runtimes import LocalRuntime
from tune.execution.trial import run
from tune.study.work import Work, WorkId

AVERAGED = ToyConfig(train=TrainConfig(epochs=4, batch_size=20, ema=0.8))


def toy(config: ToyConfig = AVERAGED) -> Toy:
    torch.manual_seed(config.seed)
    return Toy(config, Toy.load_data(config.data))


def test_a_short_run_forgets_its_first_weights() -> None:
    assert [decay_at(step, 0.99) for step in (0, 8)] == [0.1, 0.5]
    assert decay_at(10_000, 0.99) == 0.99


def floats(module: nn.Module) -> dict[str, Tensor]:
    """Return parameters and BatchNorm statistics, without BatchNorm's count of batches."""
    return {
        name: value for name, value in module.state_dict().items() if value.dtype.is_floating_point
    }


def test_average_equals_torchs() -> None:
    """Parameters and BatchNorm statistics are compared over a hundred random updates."""
    model = toy()
    step = 0

    def averaged(mean: Tensor, new: Tensor, count: Tensor) -> Tensor:
        if not new.is_floating_point():  # the number of batches
            return new
        return torch.lerp(mean, new, 1 - decay_at(step, 0.8))

    reference = AveragedModel(model.net, avg_fn=averaged, use_buffers=True)
    reference.update_parameters(model.net)  # torch takes the first weights as they are
    average = WeightAverage(model)
    for number in range(100):
        step = number
        with torch.no_grad():
            for tensor in floats(model.net).values():
                tensor.add_(torch.randn_like(tensor))
        average.update(step)
        reference.update_parameters(model.net)

    expected = floats(reference.module)
    assert expected.keys() == {name.removeprefix("net.") for name in average.values}
    for name, value in expected.items():
        torch.testing.assert_close(average.values[f"net.{name}"], value)
        assert not average.values[f"net.{name}"].requires_grad  # no graph of the updates is kept


def test_the_average_takes_the_place_of_the_weights_for_a_block_alone() -> None:
    model = toy()
    average = WeightAverage(model)
    before = {name: value.clone() for name, value in average.values.items()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1.0)
    learned = {name: value.clone() for name, value in model.state_dict().items()}

    with average.in_place():
        for name, value in before.items():
            assert torch.equal(averaged_tensors(model)[name], value)
    assert all(torch.equal(value, learned[name]) for name, value in model.state_dict().items())


def trained(config: Any, directory: Path, die_after: int | None = None) -> tuple[Toy, list[Any]]:
    reports = []

    def report(epoch: int, metrics: dict[str, float]) -> bool:
        if epoch == die_after:
            raise KeyboardInterrupt
        reports.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
        return True

    directory.mkdir(exist_ok=True)
    model = toy(config)
    fit(model, config, LocalRuntime(directory, report))
    return model, reports


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    _, expected = trained(AVERAGED, tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        trained(AVERAGED, tmp_path / "killed", die_after=2)
    _, reports = trained(AVERAGED, tmp_path / "killed")
    assert reports == expected[1:]

    whole, killed = (load_checkpoint(tmp_path / name / LAST) for name in ("whole", "killed"))
    assert whole is not None
    assert killed is not None
    for name, value in whole["average"].items():
        assert torch.equal(killed["average"][name], value)
    assert (tmp_path / "whole" / BEST).read_bytes() == (tmp_path / "killed" / BEST).read_bytes()


def test_weights_are_trained_as_without_an_average(tmp_path: Path) -> None:
    plain = replace(AVERAGED, train=replace(AVERAGED.train, ema=0.0))
    model, reports = trained(AVERAGED, tmp_path / "averaged")
    other, expected = trained(plain, tmp_path / "plain")
    assert all(map(torch.equal, model.state_dict().values(), other.state_dict().values()))
    assert "average" not in (load_checkpoint(tmp_path / "plain" / LAST) or {})
    for found, wanted in zip(reports, expected, strict=True):
        assert {key: found[key] for key in wanted} == wanted
        assert found.keys() - wanted.keys() == {"val/top1_ema"}


@pytest.mark.parametrize("objective", ["", "val/top1"])
def test_exported_are_the_weights_that_select(tmp_path: Path, objective: str) -> None:
    config = replace(AVERAGED, train=replace(AVERAGED.train, objective=objective))
    model, reports = trained(config, tmp_path)
    assert model.objective == (objective or "val/top1_ema")
    best = max(report[model.objective] for report in reports)
    fresh = toy(config)
    fresh.load_export(tmp_path / BEST)
    assert fresh.validate()["val/top1"] == best


@pytest.mark.parametrize(
    ("objective", "names"),
    [("val/top1", ["test/top1"]), ("val/top1_ema", ["test/top1", "test/top1_ema"])],
)
def test_outcomes_of_images_have_the_name_of_what_selects(objective: str, names: list[str]) -> None:
    outcomes = ImageOutcomes(test_set="a", right={"test/top1": np.ones(3)})
    found = outcomes_with_objective(objective, outcomes)
    assert list(found.right) == names
    assert all(right.tolist() == [1, 1, 1] for right in found.right.values())


def test_a_repeat_is_tested_under_the_name_of_what_selects(tmp_path: Path) -> None:
    work = Work(
        id=WorkId(trial=0, repeat=1000),
        seed=1000,
        config=flatten(AVERAGED),
        directory=str(tmp_path),
    )
    runtime = LocalRuntime(tmp_path, lambda epoch, metrics: True)
    outcome = run(TOY, work, runtime)
    assert outcome.metrics["test/top1_ema"] == outcome.metrics["test/top1"]
    assert "best/val/top1_ema" in outcome.metrics
    assert with_objective("val/top1", {"test/top1": 0.5}) == {"test/top1": 0.5}


def test_no_average_no_metric_of_it() -> None:
    config = ToyConfig(train=TrainConfig(objective="val/top1_ema"))
    with pytest.raises(UserError, match=r"add --set train\.ema=0\.99"):
        Toy.chosen_objective(config, Toy.load_data(config.data))


def test_a_classifier_exports_its_average_and_says_so(tmp_path: Path) -> None:
    config = ClassifierConfig(
        data=DataConfig(name="digits", image_size=16),
        backbone=BackboneConfig(width=8, pool=1),
        train=TrainConfig(epochs=1, epoch_images=96, batch_size=32, ema=0.9),
        optim=OptimConfig(name="sgd", lr=0.1),
    )
    torch.manual_seed(0)
    model = Classifier(config, Classifier.load_data(config.data))
    fit(model, config, LocalRuntime(tmp_path, lambda epoch, metrics: True))
    average = load_checkpoint(tmp_path / LAST)["average"]  # type: ignore[index]
    model.load_export(tmp_path / BEST)
    for name, tensor in averaged_tensors(model).items():
        assert torch.equal(tensor, average[name]), name
    assert load_backbone_meta(tmp_path / BEST)["weights"] == "averaged with decay 0.9"


def test_weights_that_never_train_are_not_copied() -> None:
    class HeadAlone(Toy):
        def changing_state(self) -> dict[str, Tensor]:
            return self.net[-1].state_dict()

    average = WeightAverage(HeadAlone(AVERAGED, Toy.load_data(AVERAGED.data)))
    assert list(average.values) == ["net.4.weight", "net.4.bias"]
    with judged_weights(toy(), None) as metrics:
        assert metrics == {}


def test_a_plateau_lowers_the_rate_and_a_kill_changes_nothing(tmp_path: Path) -> None:
    schedule = ScheduleConfig(name="plateau", plateau_patience_frac=0.0, plateau_gamma=0.5)
    config = replace(
        AVERAGED, schedule=schedule, optim=OptimConfig(lr=1e-6), train=TrainConfig(epochs=5)
    )
    _, expected = trained(config, tmp_path / "whole")
    # hardly anything is learned, so each epoch after the first lowers the rate of the next
    assert [r["train/lr"] for r in expected] == [1e-6, 1e-6, 5e-7, 2.5e-7, 1.25e-7]
    with pytest.raises(KeyboardInterrupt):
        trained(config, tmp_path / "killed", die_after=3)
    assert trained(config, tmp_path / "killed")[1] == expected[2:]
