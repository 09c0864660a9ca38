"""The training loop against an uninterrupted run and one large batch, and the conditions that end
it."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.steps import fresh_state
from tests.toy import Toy, ToyConfig
from trainables.base import Batch, TrainConfig
from trainables.data.sampling import Sampler, generator
from trainables.engine.checkpoint import TrainingState
from trainables.engine.fit import BATCHED, Fitted, fit, train_epoch, train_step
from trainables.engine.memory import is_out_of_memory
from trainables.engine.step import seed_forward_pass
from trainables.errors import TrialFailed
from trainables.files import BEST, LAST


class Recorder:
    """A runtime that records reports and can be told to die or to stop the trial after one."""

    device, rank, world_size = torch.device("cpu"), 0, 1

    def __init__(
        self, directory: Path, die_after: int | None = None, stop_after: int | None = None
    ):
        self.directory, self.die_after, self.stop_after = directory, die_after, stop_after
        self.reports: list[tuple[int, dict[str, float]]] = []
        self.seconds: list[float] = []

    def report(self, epoch: int, metrics: dict[str, float]) -> bool:
        if epoch == self.die_after:
            self.die_after = None
            raise KeyboardInterrupt
        self.seconds.append(metrics["time/epoch_s"])
        self.reports.append(
            (epoch, {k: v for k, v in metrics.items() if not k.startswith("time/")})
        )
        return epoch != self.stop_after


def train(config: ToyConfig, runtime: Recorder) -> tuple[Fitted, Toy]:
    torch.manual_seed(config.seed)
    toy = Toy(config, Toy.load_data(config.data))
    return fit(toy, config, runtime), toy


def equal_states(a: Toy, b: Toy) -> bool:
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


@pytest.mark.parametrize("die_after", [1, 2, 3, 4])
def test_killed_between_checkpoint_and_report_equals_uninterrupted(
    tmp_path: Path, die_after: int
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, killed = Recorder(tmp_path / "a"), Recorder(tmp_path / "b", die_after)
    fitted, expected = train(ToyConfig(), whole)
    with pytest.raises(KeyboardInterrupt):
        train(ToyConfig(), killed)
    torch.randn(7)  # another process has another global random state
    resumed, got = train(ToyConfig(), killed)
    assert killed.reports == whole.reports  # no report twice, none missing, bit for bit
    assert equal_states(got, expected)
    assert (resumed.best, resumed.best_epoch) == (fitted.best, fitted.best_epoch)


class Sparing(Recorder):
    """A runtime that saves some epochs only, as `--batch-trials` does."""

    saved: tuple[int, ...] = ()

    def train_epoch(self, state: TrainingState, *about: Any) -> None:
        train_epoch(state, *about)

    def saves_epoch(self, state: TrainingState) -> bool:
        return len(state.history) + 1 in self.saved


class Early(Toy):
    """A toy whose second epoch of five is the best."""

    def validate(self) -> dict[str, float]:
        self.epoch = getattr(self, "epoch", 0) + 1
        return {self.objective: 1.0 if self.epoch == 2 else self.epoch / 10}


@pytest.mark.parametrize("saved", [(), (2,), (4,)])
def test_epochs_that_are_not_saved_leave_the_same_files_at_the_end(
    tmp_path: Path, saved: tuple[int, ...]
) -> None:
    config = ToyConfig(train=TrainConfig(epochs=5, batch_size=20))
    for name, kind in [("whole", Recorder), ("sparing", Sparing)]:
        (tmp_path / name).mkdir()
        torch.manual_seed(0)
        runtime = kind(tmp_path / name)
        if isinstance(runtime, Sparing):
            runtime.saved = saved
        assert fit(Early(config, Toy.load_data(config.data)), config, runtime).best_epoch == 2

    whole, sparing = tmp_path / "whole", tmp_path / "sparing"
    assert {each.name for each in whole.iterdir()} == {each.name for each in sparing.iterdir()}
    best = [torch.load(folder / BEST, weights_only=True) for folder in (whole, sparing)]
    last = [torch.load(folder / LAST, weights_only=True) for folder in (whole, sparing)]
    torch.testing.assert_close(best[0], best[1], rtol=0, atol=0)
    torch.testing.assert_close(last[0]["model"], last[1]["model"], rtol=0, atol=0)
    assert not torch.equal(best[0]["net.0.weight"], last[0]["model"]["net.0.weight"])


def test_a_trial_that_is_stopped_before_its_first_save_leaves_no_weights(tmp_path: Path) -> None:
    train(ToyConfig(), Sparing(tmp_path, stop_after=3))
    assert not list(tmp_path.glob("*.pt"))


@pytest.mark.parametrize(("saved", "again"), [((), 5), ((2,), 4)])
def test_killed_after_epochs_that_were_not_saved_equals_uninterrupted(
    tmp_path: Path, saved: tuple[int, ...], again: int
) -> None:
    config = ToyConfig(train=TrainConfig(epochs=5, batch_size=20))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    whole, killed = Recorder(tmp_path / "a"), Sparing(tmp_path / "b", die_after=4)
    killed.saved = saved
    fitted, expected = train(config, whole)
    with pytest.raises(KeyboardInterrupt):
        train(config, killed)
    resumed, got = train(config, killed)
    assert killed.reports[:3] == whole.reports[:3]
    assert killed.reports[3:] == whole.reports[-again:]  # a saved epoch is reported again
    assert equal_states(got, expected)
    assert (resumed.best, resumed.best_epoch) == (fitted.best, fitted.best_epoch)


class Level(Toy):
    """A toy whose epochs are all equally good."""

    def validate(self) -> dict[str, float]:
        return {self.objective: 0.5}


def test_of_epochs_that_are_equally_good_the_first_is_kept(tmp_path: Path) -> None:
    config = ToyConfig()
    fitted = fit(Level(config, Toy.load_data(config.data)), config, Recorder(tmp_path))
    assert (fitted.best, fitted.best_epoch) == (0.5, 1)


def test_epochs_take_the_time_of_a_clock(tmp_path: Path) -> None:
    runtime = Recorder(tmp_path)
    began = time.perf_counter()
    train(ToyConfig(), runtime)
    assert all(seconds > 0 for seconds in runtime.seconds)
    assert sum(runtime.seconds) < time.perf_counter() - began


@pytest.mark.parametrize("die_at_step", range(1, 16, 2))
def test_killed_at_any_step_equals_uninterrupted(
    tmp_path: Path, die_at_step: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    # save after every step
    config = ToyConfig(train=TrainConfig(epochs=4, batch_size=20, checkpoint_minutes=1e-9))
    whole, killed = Recorder(tmp_path / "a"), Recorder(tmp_path / "b")
    steps = 0

    def count(self: Toy) -> None:
        nonlocal steps
        steps += 1

    def die(self: Toy) -> None:
        count(self)
        if steps == die_at_step:
            raise KeyboardInterrupt

    monkeypatch.setattr(Toy, "after_step", count)
    _, expected = train(config, whole)
    all_steps, steps = steps, 0
    with monkeypatch.context() as patch:
        patch.setattr(Toy, "after_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(config, killed)
    steps = 0
    _, got = train(config, killed)
    assert steps == all_steps - (die_at_step - 1)  # saved steps are not trained again
    # an epoch that is reported again has bit-identical metrics
    once = [r for i, r in enumerate(killed.reports) if r not in killed.reports[:i]]
    assert once == whole.reports
    assert equal_states(got, expected)


def test_finished_run_only_reports_its_last_epoch_again(tmp_path: Path) -> None:
    first = Recorder(tmp_path)
    train(ToyConfig(), first)
    again = Recorder(tmp_path)
    fitted, _ = train(ToyConfig(), again)
    assert again.reports == first.reports[-1:]
    assert len(fitted.history) == 4
    assert not fitted.stopped


def test_a_trial_that_trains_alone_counts_no_others(tmp_path: Path) -> None:
    names: list[set[str]] = []

    class Listener(Recorder):
        def report(self, epoch: int, metrics: dict[str, float]) -> bool:
            names.append(set(metrics))
            return super().report(epoch, metrics)

    train(ToyConfig(), Listener(tmp_path))
    assert len(names) > 1
    assert not [found for found in names if BATCHED in found]


def test_stop_by_the_study(tmp_path: Path) -> None:
    runtime = Recorder(tmp_path, stop_after=2)
    fitted, _ = train(ToyConfig(), runtime)
    assert fitted.stopped
    assert [epoch for epoch, _ in runtime.reports] == [1, 2]


@pytest.mark.parametrize("micro", [1, 3, 7, 20])
def test_gradient_accumulation_equals_one_batch(tmp_path: Path, micro: int) -> None:
    """Uneven micro-batches too: each is weighted by its number of images."""
    states = []
    for name, size in (("whole", 0), ("micro", micro)):
        (tmp_path / name).mkdir()
        config = ToyConfig(
            normalized=False, train=TrainConfig(epochs=2, batch_size=20, micro_batch=size)
        )
        _, toy = train(config, Recorder(tmp_path / name))
        states.append(torch.cat([p.detach().flatten() for p in toy.parameters()]))
    torch.testing.assert_close(states[0], states[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(
    ("batch", "micro", "expected"),
    [(20, 0, [20]), (20, 10, [10, 10]), (13, 4, [3, 3, 3, 4]), (9, 8, [4, 5])],
)
def test_no_micro_batch_is_a_small_rest(
    tmp_path: Path, batch: int, micro: int, expected: list[int]
) -> None:
    """BatchNorm would take its statistics from such a rest; BYOL's BatchNorm refuses a single
    image."""
    config = ToyConfig(train=TrainConfig(batch_size=batch, micro_batch=micro))
    toy, seen = Toy(config, Toy.load_data(config.data)), []
    toy.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    runtime = Recorder(tmp_path)
    train_step(fresh_state(toy, config, runtime), config, runtime, step=0, total_steps=10)
    assert seen == expected


def test_out_of_memory_halves_the_micro_batch(tmp_path: Path) -> None:
    (tmp_path / "roomy").mkdir()
    (tmp_path / "tight").mkdir()
    roomy = ToyConfig(normalized=False, train=TrainConfig(epochs=2, batch_size=20))
    _, expected = train(roomy, Recorder(tmp_path / "roomy"))
    runtime = Recorder(tmp_path / "tight")
    _, got = train(replace(roomy, memory=4), runtime)
    assert got.largest == 3  # 20 -> 10 -> 5 -> 3
    assert [metrics["train/micro_batch"] for _, metrics in runtime.reports] == [3, 3]
    a, b = (torch.cat([p.detach().flatten() for p in toy.parameters()]) for toy in (expected, got))
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)  # the effective batch is the same


def test_a_pass_that_ran_out_of_memory_leaves_no_trace_in_batchnorm(tmp_path: Path) -> None:
    """Statistics after a retry equal those of a run that was given the smaller micro-batch at
    once."""
    (tmp_path / "told").mkdir()
    (tmp_path / "found").mkdir()
    told = ToyConfig(dropout=0.0, train=TrainConfig(epochs=2, batch_size=20, micro_batch=5))
    _, expected = train(told, Recorder(tmp_path / "told"))

    found = replace(told, train=replace(told.train, micro_batch=0))
    torch.manual_seed(found.seed)
    toy = Toy(found, Toy.load_data(found.data))
    statistics = []

    def run_out(layer: torch.nn.Module, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        statistics.append(toy.net[1].running_mean.clone())
        if toy.training and len(output) > 5:
            raise torch.OutOfMemoryError("CUDA out of memory")

    toy.net[2].register_forward_hook(run_out)  # after the BatchNorm
    fit(toy, found, Recorder(tmp_path / "found"))
    assert statistics[0].any()  # the discarded first pass had changed them
    assert equal_states(toy, expected)


@pytest.mark.parametrize("reason", ["oom", "nan", "collapse"])
def test_ends_with_a_reason(tmp_path: Path, reason: str) -> None:
    with pytest.raises(TrialFailed) as failure:
        train(ToyConfig(fault=reason), Recorder(tmp_path))
    assert failure.value.reason == reason


@pytest.mark.parametrize(
    ("error", "memory"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"), True),
        (
            RuntimeError(
                "[enforce fail at alloc_cpu.cpp:124] . DefaultCPUAllocator: "
                "can't allocate memory: you tried to allocate"
            ),
            True,
        ),
        (
            RuntimeError(
                "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
            ),
            True,
        ),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), False),
        (
            RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm`"),
            False,
        ),
    ],
)
def test_what_is_taken_for_memory(error: Exception, memory: bool) -> None:
    assert is_out_of_memory(error) == memory


def test_a_bug_is_not_taken_for_memory(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        train(ToyConfig(fault="raise"), Recorder(tmp_path))


@pytest.mark.parametrize(
    ("returned", "said"),
    [(None, "it returned None"), (torch.ones(5), r"it returned a tensor of shape \(5,\)")],
)
def test_a_forward_that_returns_no_loss_says_so(
    tmp_path: Path, returned: object, said: str
) -> None:
    class Lossless(Toy):
        def forward(self, batch: Batch) -> Any:
            return returned

    toy = Lossless(ToyConfig(), Toy.load_data(ToyConfig().data))
    with pytest.raises(TypeError, match=f"forward must return the loss, .*; {said}"):
        fit(toy, ToyConfig(), Recorder(tmp_path))


def test_every_pass_shows_every_image_once() -> None:
    sampler = Sampler(90, 20, seed=3)
    stream = np.concatenate([sampler.positions(step) for step in range(18)])  # 4 passes
    for k in range(4):
        assert sorted(stream[90 * k : 90 * (k + 1)]) == list(range(90))
    assert not np.array_equal(stream[:90], stream[90:180])
    # positions of a step need no history
    np.testing.assert_array_equal(Sampler(90, 20, seed=3).positions(11), stream[220:240])
    assert not np.array_equal(Sampler(90, 20, seed=4).positions(0), stream[:20])


def test_a_batch_larger_than_the_set_goes_round() -> None:
    assert np.bincount(Sampler(3, 10, seed=0).positions(0)).tolist() in (
        [3, 3, 4],
        [3, 4, 3],
        [4, 3, 3],
    )


def test_generators_of_different_places_differ() -> None:
    draws = {
        torch.rand(1, generator=generator(0, *place)).item()
        for place in ((1, 2), (2, 1), (1, 3), (2,))
    }
    assert len(draws) == 4


def test_checkpoint_is_atomic_and_safe(tmp_path: Path) -> None:
    train(ToyConfig(), Recorder(tmp_path))
    torch.load(tmp_path / LAST, weights_only=True)
    assert (tmp_path / BEST).exists()
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.parametrize(
    ("epochs", "looked_at"), [(1, {1}), (2, {1, 2}), (5, {1, 3, 5}), (12, {1, 6, 12})]
)
def test_first_middle_and_last_epoch_leave_snapshots(
    tmp_path: Path, epochs: int, looked_at: set[int]
) -> None:
    _, toy = train(ToyConfig(train=TrainConfig(epochs=epochs, batch_size=20)), Recorder(tmp_path))
    names = {
        f"embeddings-{part}-{epoch:04d}.npz" for part in ("train", "val") for epoch in looked_at
    }
    assert {path.name for path in tmp_path.glob("*.npz")} == names
    with np.load(tmp_path / f"embeddings-train-{epochs:04d}.npz") as file:
        np.testing.assert_array_equal(file["features"], toy.data.train)
        assert (file["labels"] == -1).all()
        assert (int(file["epoch"]), str(file["part"])) == (epochs, "train")


@pytest.mark.parametrize(
    ("seed", "rank", "step", "state"),
    [(0, 0, 0, 2613022947), (1, 0, 7, 1705901509), (1, 1, 7, 2045057326)],
)
def test_forward_passes_draw_as_in_earlier_versions(
    seed: int, rank: int, step: int, state: int, tmp_path: Path
) -> None:
    """A run that began under an earlier version resumes bit for bit; the numbers are those of
    commit 5d3a9ec."""
    runtime = Recorder(tmp_path)
    runtime.rank = rank
    seed_forward_pass(seed, step, runtime)
    assert torch.initial_seed() == state
