"""Heads that train together against the same heads trained one by one."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.frozen import classifier, frozen_config
from trainables.balance import BalanceConfig
from trainables.classifier import ClassifierConfig
from trainables.classifiers.heads import ClassifierHeadConfig
from trainables.classifiers.losses import LossConfig
from trainables.engine import checkpoint
from trainables.engine.checkpoint import TrainingState
from trainables.engine.fit import train_epoch
from trainables.engine.step import BatchSplitter
from trainables.engine.together import Member, advance, member_of
from trainables.errors import TrialFailed
from trainables.optim import OptimConfig, ScheduleConfig, build_optimizer
from tune.execution.runtimes import LocalRuntime

EPOCH, TOTAL = 7, 21


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("trainables.backbone.feature_store.default_cache_dir", lambda: folder)
        yield


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> ClassifierConfig:
    return frozen_config(tmp_path_factory.mktemp("backbone"))


def begun(config: ClassifierConfig, folder: Path) -> TrainingState:
    """Return a trial as `fit` begins or resumes it."""
    folder.mkdir(exist_ok=True)
    runtime = LocalRuntime(folder, lambda epoch, metrics: True)
    model = classifier(config)
    optimizer = build_optimizer(model.param_groups(config.optim.weight_decay), config.optim)
    batches = BatchSplitter(model, config, runtime, model.sampler())
    return checkpoint.restore(model, optimizer, batches, runtime)


def member(config: ClassifierConfig, folder: Path, end: int = EPOCH) -> Member:
    state = begun(config, folder)
    found = member_of(state, config, state.batches.runtime, end, TOTAL)
    assert found is not None
    return found


def test_a_device_without_float64_trains_each_by_itself(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    state = begun(config, tmp_path)
    mps: Any = SimpleNamespace(world_size=1, device=torch.device("mps"))
    assert member_of(state, config, mps, EPOCH, TOTAL) is None


def alone(config: ClassifierConfig, folder: Path, end: int = EPOCH) -> TrainingState:
    state = begun(config, folder)
    train_epoch(state, config, state.batches.runtime, end, TOTAL)
    return state


def assert_equal(one: TrainingState, other: TrainingState) -> None:
    """Check parameters, moments, loss, step and learning costs, up to the order of sums."""
    assert one.progress.step == other.progress.step
    torch.testing.assert_close(one.loss_sum, other.loss_sum, rtol=1e-5, atol=1e-6)
    mine, theirs = one.trainable.head.state_dict(), other.trainable.head.state_dict()
    torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)
    kept, wanted = one.optimizer.state_dict()["state"], other.optimizer.state_dict()["state"]
    assert kept.keys() == wanted.keys()
    for number in kept:
        torch.testing.assert_close(kept[number], wanted[number], rtol=1e-3, atol=1e-5)
    assert one.trainable.costs().keys() == other.trainable.costs().keys()


HEADS: dict[str, dict[str, Any]] = {
    "linear": {},
    "mlp": {"head": ClassifierHeadConfig(kind="mlp", hidden=16, dropout=0.4)},
    "no dropout": {"head": ClassifierHeadConfig(kind="mlp", hidden=16, dropout=0.0)},
    "focal": {"loss": LossConfig(focal_gamma=2.0, label_smoothing=0.1)},
    "weights": {"balance": BalanceConfig(by="inverse")},
    "sampling": {"balance": BalanceConfig(by="sampling")},
}
OPTIMIZERS = {
    "adam": OptimConfig(name="adam", lr=1e-2, weight_decay=1e-3),
    "adamw": OptimConfig(name="adamw", lr=1e-2, weight_decay=0.1, beta1=0.8, beta2=0.99),
    "sgd": OptimConfig(name="sgd", lr=0.1, weight_decay=1e-2),
    "nesterov": OptimConfig(name="sgd", lr=0.1, nesterov=True),
    "plain": OptimConfig(name="sgd", lr=0.1, momentum=0.0),
    "clipped": OptimConfig(name="sgd", lr=0.5, clip_grad_norm=0.05),
}


def trio(config: ClassifierConfig) -> list[ClassifierConfig]:
    """Return three trials with heads of one shape that differ in everything that may differ."""
    optim = config.optim
    return [
        config,
        replace(config, optim=replace(optim, lr=optim.lr / 3, weight_decay=0.0), seed=3),
        replace(
            config,
            schedule=ScheduleConfig(name="cosine"),
            loss=replace(config.loss, label_smoothing=0.3),
        ),
    ]


@pytest.mark.parametrize("head", HEADS)
def test_heads_and_losses(config: ClassifierConfig, head: str, tmp_path: Path) -> None:
    configs = trio(replace(config, **HEADS[head]))
    members = [member(each, tmp_path / f"t{k}") for k, each in enumerate(configs)]
    advance(members)
    for k, each in enumerate(configs):
        assert_equal(members[k].state, alone(each, tmp_path / f"a{k}"))


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optimizers(config: ClassifierConfig, name: str, tmp_path: Path) -> None:
    configs = trio(replace(config, optim=OPTIMIZERS[name]))
    members = [member(each, tmp_path / f"t{k}") for k, each in enumerate(configs)]
    advance(members)
    for k, each in enumerate(configs):
        assert_equal(members[k].state, alone(each, tmp_path / f"a{k}"))


def test_trials_of_different_shapes_advance_side_by_side(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    mlp = replace(config, **HEADS["mlp"])
    small = replace(config, train=replace(config.train, batch_size=16))
    sgd = replace(config, optim=OPTIMIZERS["sgd"])
    configs = [config, mlp, small, sgd, mlp]
    members = [member(each, tmp_path / f"t{k}") for k, each in enumerate(configs)]
    advance(members)
    for k, each in enumerate(configs):
        assert_equal(members[k].state, alone(each, tmp_path / f"a{k}"))


def test_a_trial_that_is_ahead_is_joined_by_one_that_begins(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    """The first trial resumes a checkpoint from the middle of an epoch, written after a step on its
    own."""
    first = alone(config, tmp_path / "ahead", end=4)
    checkpoint.save(first, first.batches.runtime)
    ahead = member(config, tmp_path / "ahead")
    behind = member(replace(config, seed=5), tmp_path / "behind")

    advance([ahead, behind])
    assert (ahead.steps_left, behind.steps_left) == (0, 4)
    assert_equal(ahead.state, alone(config, tmp_path / "whole"))

    advance([behind])
    assert_equal(behind.state, alone(replace(config, seed=5), tmp_path / "other"))


def test_what_a_batched_step_wrote_is_resumed_by_a_plain_one(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    for name in ("adamw", "sgd"):
        each = replace(config, optim=OPTIMIZERS[name])
        trained = member(each, tmp_path / name, end=4)
        advance([trained])
        checkpoint.save(trained.state, trained.runtime)
        assert_equal(alone(each, tmp_path / name), alone(each, tmp_path / f"{name}-whole"))


def test_a_trial_that_diverges_leaves_the_others_alone(
    config: ClassifierConfig, tmp_path: Path
) -> None:
    sgd = replace(config, optim=OPTIMIZERS["plain"])
    wild = replace(sgd, optim=replace(sgd.optim, lr=1e30))
    members = [member(each, tmp_path / f"t{k}") for k, each in enumerate([sgd, wild])]
    advance(members)
    assert members[0].error is None
    assert_equal(members[0].state, alone(sgd, tmp_path / "a"))

    with pytest.raises(TrialFailed) as failure:
        alone(wild, tmp_path / "b")
    assert members[1].error is not None
    assert (members[1].error.reason, members[1].error.message) == (
        failure.value.reason,
        failure.value.message,
    )


def test_costs_count_shared_draws_for_each_trial(config: ClassifierConfig, tmp_path: Path) -> None:
    """Two trials that share a draw each count as many looked-up features as one trial alone."""
    both = [member(config, tmp_path / f"t{k}") for k in range(2)]
    advance(both)
    counts = [m.state.trainable.features._rows_drawn for m in both]
    assert counts == [EPOCH * config.train.batch_size] * 2


def test_what_needs_more_than_a_head_is_no_member(config: ClassifierConfig, tmp_path: Path) -> None:
    others = [
        replace(config, features=replace(config.features, cache=False)),
        replace(config, loss=LossConfig(mixup=0.2)),
        replace(config, freeze=replace(config.freeze, policy="none")),
        replace(config, optim=OptimConfig(name="lars")),
        replace(config, train=replace(config.train, micro_batch=8)),
        replace(config, train=replace(config.train, ema=0.9)),
        replace(config, schedule=ScheduleConfig(name="plateau")),
        replace(config, head=ClassifierHeadConfig(kind="fc1000")),
    ]
    for k, each in enumerate(others):
        state = begun(each, tmp_path / str(k))
        assert member_of(state, each, state.batches.runtime, EPOCH, TOTAL) is None
