"""Several workers against one: layers, collectives and whole runs, without Ray."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.ranks import on_ranks
from tests.toy import Blobs, Toy, ToyConfig, ToyData
from trainables.backbone.freezing import FreezeConfig
from trainables.base import Metrics, Trainable
from trainables.byol import BYOL, BYOLConfig
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import build, flatten
from trainables.engine import distributed
from trainables.engine.fit import fit
from trainables.errors import StartAgain, TrialFailed
from trainables.files import LAST
from trainables.optim import OptimConfig
from tune.experiments import EXPERIMENTS


class Rank:
    """The runtime of one worker. The reports of rank 0 count."""

    device = torch.device("cpu")

    def __init__(
        self, directory: Path, rank: int = 0, world_size: int = 1, stop_after: int | None = None
    ):
        self.directory, self.rank, self.world_size, self.stop_after = (
            directory,
            rank,
            world_size,
            stop_after,
        )
        self.reports: list[Metrics] = []

    def report(self, epoch: int, metrics: Metrics) -> bool:
        self.reports.append({k: v for k, v in metrics.items() if not k.startswith("time/")})
        return epoch != self.stop_after


class Exact(Toy):
    """The toy in float64, so that any remaining difference between one worker and several is a
    bug."""

    @classmethod
    def load_data(cls, config: ToyData, progress: bool = False) -> Blobs:
        return Blobs(Toy.load_data(config).train.astype(np.float64))


def train(
    kind: type[Trainable],
    config: Any,
    directory: Path,
    rank: int = 0,
    count: int = 1,
    stop_after: int | None = None,
) -> tuple[list[Metrics], Tensor]:
    """Train and return the reports, and all parameters and statistics as one vector (P,)
    float64."""
    place = Rank(directory, rank, count, stop_after)
    torch.manual_seed(config.seed)
    model = kind(config, kind.load_data(config.data))
    if kind is Exact:
        model.double()
    fit(model, config, place)
    return place.reports, torch.cat(
        [v.detach().double().flatten() for v in model.state_dict().values()]
    )


def train_on(
    count: int, kind: type[Trainable], config: Any, directory: Path, **runtime: Any
) -> tuple[list[Metrics], Tensor]:
    """Train on `count` workers, which must all end with the same model."""
    directory.mkdir()
    results = on_ranks(count, lambda rank: train(kind, config, directory, rank, count, **runtime))
    for _, state in results[1:]:
        assert torch.equal(state, results[0][1])
    return results[0]


@pytest.mark.parametrize("shape", [(7, 5), (7, 5, 3), (7, 5, 3, 2)])
@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize("affine", [True, False])
def test_batchnorm_over_ranks_equals_one_batch(
    shape: tuple[int, ...], momentum: float | None, affine: bool
) -> None:
    """Compared in float64 with nn.BatchNorm on the whole batch: outputs, gradients of inputs and
    parameters, and running statistics."""
    kind = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d}[len(shape)]
    generator = torch.Generator().manual_seed(0)
    batches = [
        torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 50 for _ in range(2)
    ]
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)

    def pass_through(rows: slice, synchronise: bool) -> list[Tensor]:
        norm = kind(5, momentum=momentum, affine=affine).double()
        if affine:
            nn.init.uniform_(norm.weight, 0.5, 2, generator=torch.Generator().manual_seed(1))
            nn.init.uniform_(norm.bias, generator=torch.Generator().manual_seed(2))
        if synchronise:
            distributed.synchronize_batchnorm(norm, torch.device("cpu"))
        out = []
        for batch in batches:
            x = batch[rows].clone().requires_grad_()
            y = norm(x)
            gradients = torch.autograd.grad(
                (y.square() * weights[rows]).sum(), [x, *norm.parameters()]
            )
            out += [y.detach(), gradients[0], *(distributed.all_sum(g) for g in gradients[1:])]
        return [
            *out,
            norm.running_mean,
            norm.running_var,
            norm.num_batches_tracked,
            norm.eval()(batches[0]),
        ]

    expected = pass_through(slice(None), synchronise=False)
    shares = [slice(0, 1), slice(1, 3), slice(3, 7)]  # unequal shares, one of them a single image
    got = on_ranks(3, lambda rank: pass_through(shares[rank], synchronise=True))
    per_batch = 2 + 2 * affine
    for number, reference in enumerate(expected):
        by_row = number < 2 * per_batch and number % per_batch < 2
        for rank, results in enumerate(got):
            torch.testing.assert_close(
                results[number],
                reference[shares[rank]] if by_row else reference,
                rtol=1e-10,
                atol=1e-11,
            )


def test_batchnorm_over_ranks_in_bfloat16_keeps_its_type() -> None:
    x = torch.randn(8, 3, 2, 2, generator=torch.Generator().manual_seed(0)).bfloat16()

    def run(rank: int) -> Tensor:
        norm = nn.BatchNorm2d(3)
        distributed.synchronize_batchnorm(norm, torch.device("cpu"))
        return norm(x[4 * rank : 4 * rank + 4]).detach()

    got = torch.cat(on_ranks(2, run))
    assert got.dtype == torch.bfloat16
    torch.testing.assert_close(got, nn.BatchNorm2d(3)(x).detach(), rtol=0.02, atol=0.02)


def test_on_gpus_it_is_what_torch_converts_to() -> None:
    ours, theirs = (
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)),
    )
    distributed.synchronize_batchnorm(ours, torch.device("cuda"))
    theirs = nn.SyncBatchNorm.convert_sync_batchnorm(theirs)
    assert isinstance(ours[1], nn.SyncBatchNorm)
    assert vars(ours[1]).keys() == vars(theirs[1]).keys()
    assert ours.state_dict().keys() == theirs.state_dict().keys()


def test_on_a_gpu_too_a_worker_alone_takes_its_own_statistics() -> None:
    """torch's layer, which uses the statistics of all workers, refuses a CPU."""

    def run(rank: int) -> None:
        ours, plain = nn.BatchNorm2d(4), nn.BatchNorm2d(4)
        distributed.synchronize_batchnorm(ours, torch.device("cuda"))
        x = torch.randn(5, 4, 2, 2)
        with distributed.no_collectives():
            assert torch.equal(ours(x), plain(x))
        assert torch.equal(ours.running_mean, plain.running_mean)
        with pytest.raises(ValueError, match="expected input tensor to be on"):
            ours(x)

    on_ranks(2, run)


def test_a_worker_alone_waits_for_nobody() -> None:
    distributed.wait_for_all()  # without a process group


def test_shards_and_gathered_rows() -> None:
    def run(rank: int) -> dict[str, Any]:
        mine = distributed.shard(10)
        with distributed.no_collectives():
            apart = list(distributed.shard(10))
        return {
            "mine": list(mine),
            "apart": apart,
            "episodes": list(distributed.shard(20, 5)),
            "rows": distributed.gather_rows(
                torch.arange(20.0).view(10, 2)[mine.start : mine.stop], 10
            ),
            "sum": distributed.all_sum(torch.full((2, 2), float(rank))),
            "first": distributed.broadcast(f"of {rank}"),
        }

    results = on_ranks(3, run)
    assert [i for r in results for i in r["mine"]] == list(range(10))
    assert [i for r in results for i in r["episodes"]] == list(range(20))
    assert all(len(r["episodes"]) % 5 == 0 for r in results)
    for result in results:
        assert result["apart"] == list(range(10))
        assert torch.equal(result["rows"], torch.arange(20.0).view(10, 2))
        assert torch.equal(result["sum"], torch.full((2, 2), 3.0))
        assert result["first"] == "of 0"


# No dropout, because a worker draws masks for its own images only. No Adam, because it makes full
# steps from the rounding errors of zero gradients.
TOY = ToyConfig(dropout=0.0, optim=OptimConfig(name="sgd", lr=0.1, clip_grad_norm=0.5))


@pytest.mark.parametrize("count", [2, 3])  # 20 images: 10 + 10, 6 + 7 + 7
def test_workers_compute_what_one_does(tmp_path: Path, count: int) -> None:
    (tmp_path / "one").mkdir()
    expected, state = train(Exact, TOY, tmp_path / "one")
    reports, got = train_on(count, Exact, TOY, tmp_path / "many")
    compare(reports, expected, 1e-10)
    torch.testing.assert_close(got, state, rtol=1e-9, atol=1e-11)


def compare(reports: list[Metrics], expected: list[Metrics], tolerance: float) -> None:
    assert len(reports) == len(expected)
    for a, b in zip(reports, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            assert a[name] == pytest.approx(b[name], rel=tolerance, abs=tolerance), name


@pytest.mark.parametrize("micro", [1, 3])
def test_micro_batches_of_workers(tmp_path: Path, micro: int) -> None:
    """Every rank has equally many micro-batches, though 20 images do not divide by 3 workers.
    Without BatchNorm the result is that of one batch."""
    config = replace(TOY, normalized=False)
    (tmp_path / "one").mkdir()
    expected, state = train(Exact, config, tmp_path / "one")
    reports, got = train_on(
        3, Exact, replace(config, train=replace(config.train, micro_batch=micro)), tmp_path / "many"
    )
    compare(reports, expected, 1e-10)
    torch.testing.assert_close(got, state, rtol=1e-9, atol=1e-11)


@pytest.mark.heavy
@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (3, 2)])
def test_begun_with_some_workers_and_finished_with_others(
    tmp_path: Path, before: int, after: int
) -> None:
    """A kill comes in the middle of the second epoch. Nothing in the checkpoint depends on the
    number of workers."""
    config = replace(
        TOY, train=replace(TOY.train, epochs=2, checkpoint_minutes=1e-9, epoch_images=600)
    )
    (tmp_path / "one").mkdir()
    expected, state = train(Exact, config, tmp_path / "one")

    def cut_short(rank: int) -> bool:
        def die(self: Toy) -> None:
            self.steps = getattr(self, "steps", 0) + 1
            if self.steps == 46:  # 30 steps an epoch; with workers the state is saved every 10
                raise KeyboardInterrupt

        patch = pytest.MonkeyPatch()
        patch.setattr(Toy, "after_step", die)
        with pytest.raises(KeyboardInterrupt):
            train(Exact, config, tmp_path / "many", rank, before)
        return True

    (tmp_path / "many").mkdir()
    assert on_ranks(before, cut_short) == [True] * before
    assert torch.load(tmp_path / "many" / LAST, weights_only=True)["progress"]["step"] in (40, 45)
    reports, got = on_ranks(
        after, lambda rank: train(Exact, config, tmp_path / "many", rank, after)
    )[0]
    compare(reports, expected[1:], 1e-10)
    torch.testing.assert_close(got, state, rtol=1e-9, atol=1e-11)


def test_the_study_stops_all_workers(tmp_path: Path) -> None:
    reports, _ = train_on(2, Exact, TOY, tmp_path / "run", stop_after=2)
    assert len(reports) == 2


@pytest.mark.parametrize("reason", ["nan", "collapse"])
def test_all_workers_end_with_the_reason(tmp_path: Path, reason: str) -> None:
    def run(rank: int) -> str:
        with pytest.raises(TrialFailed) as failure:
            train(
                Exact,
                replace(TOY, fault=reason if reason == "collapse" or rank == 1 else ""),
                tmp_path,
                rank,
                2,
            )
        return failure.value.reason

    assert on_ranks(2, run) == [reason] * 2


@pytest.mark.heavy
def test_out_of_memory_on_one_worker_starts_all_again_with_less(tmp_path: Path) -> None:
    """The rank that runs out of memory leaves; the other loses its peer in the middle of a
    collective."""
    config = replace(TOY, normalized=False)
    (tmp_path / "one").mkdir()
    expected, state = train(Exact, config, tmp_path / "one")

    def first(rank: int) -> str:
        try:
            train(
                Exact,
                replace(config, memory=4) if rank == 1 else config,
                tmp_path / "many",
                rank,
                2,
            )
        except StartAgain:
            return "start again"
        except RuntimeError as error:
            return "lost peer" if distributed.lost_peer(error) else repr(error)
        return "done"

    (tmp_path / "many").mkdir()
    for micro in (5, 3):
        assert on_ranks(2, first) == ["lost peer", "start again"]
        assert (tmp_path / "many" / "micro-batch.txt").read_text() == str(micro)
    reports, got = on_ranks(
        2, lambda rank: train(Exact, replace(config, memory=4), tmp_path / "many", rank, 2)
    )[0]
    assert [r.pop("train/micro_batch") for r in reports] == [3] * len(reports)
    compare(reports, expected, 1e-10)
    torch.testing.assert_close(got, state, rtol=1e-9, atol=1e-11)


CLASSIFIER = build(
    ClassifierConfig,
    {
        "data.name": "digits",
        "data.image_size": 16,
        "backbone.width": 8,
        "aug.policy": "reports-r0",
        "aug.crop_scale_min": 0.5,
        "loss.mixup": 0.4,
        "optim.name": "sgd",
        "optim.lr": 0.05,
        "train.epochs": 3,
        "train.epoch_images": 64,
        "train.batch_size": 32,
    },
)
SSL = build(
    BYOLConfig,
    {
        "data.name": "digits",
        "data.image_size": 16,
        "backbone.width": 8,
        "head.projection_size": 16,
        "head.hidden_size": 32,
        "head.tau0": 0.9,
        "optim.name": "sgd",
        "optim.lr": 0.05,
        "train.epochs": 2,
        "train.epoch_images": 64,
        "train.batch_size": 32,
        # Fitting the probe amplifies differences in the last digits of features a hundred times.
        "val.probe_steps": 0,
    },
)
# relative, for train/loss in float32 over these few steps: the split of a sum differs, and training
# amplifies the difference
CURVE_TOLERANCE = 1e-3


@pytest.mark.parametrize(
    ("kind", "config"),
    [
        (Classifier, CLASSIFIER),
        (Classifier, replace(CLASSIFIER, freeze=FreezeConfig(policy="gradual", thaw_frac=0.9))),
        (BYOL, SSL),
    ],
    ids=["classifier", "gradual", "byol"],
)
def test_loss_curve_of_two_workers_is_that_of_one(
    tmp_path: Path, kind: type[Trainable], config: Any
) -> None:
    """With augmentation, mixup, BatchNorm, thawing stages and BYOL's average, the batches, steps
    and validation are the same."""
    (tmp_path / "one").mkdir()
    expected, state = train(kind, config, tmp_path / "one")
    reports, got = train_on(2, kind, config, tmp_path / "two")
    assert len({r["train/loss"] for r in expected}) == config.train.epochs
    objective = "val/knn_top1" if kind is BYOL else "val/top1"
    for a, b in zip(reports, expected, strict=True):
        assert a.keys() == b.keys()
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=CURVE_TOLERANCE)
        assert a[objective] == pytest.approx(b[objective], abs=0.02)
    torch.testing.assert_close(got, state, rtol=1e-2, atol=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ssl-simclr", "ssl-moco", "ssl-vicreg", "ssl-dino"])
def test_loss_of_two_workers_is_that_of_one_where_it_is_of_the_whole_batch(
    tmp_path: Path, name: str
) -> None:
    """Workers exchange negatives, the queue, statistics and the center."""
    pytest.importorskip("lightly")
    experiment = EXPERIMENTS[name]
    flat = {
        key: value for key, value in flatten(SSL).items() if not key.startswith(("head.", "data."))
    }
    head = {"head.projection_size": 16, "head.hidden_size": 32}
    flat |= head | {"data.name": "digits", "data.image_size": 16}
    if name == "ssl-moco":
        flat |= {"head.queue": 64}
    if name == "ssl-vicreg":
        flat |= {"optim.lr": 1e-3}  # its weights of 25 amplify rounding errors
    config = build(experiment.config, flat)

    (tmp_path / "one").mkdir()
    expected, state = train(experiment.trainable, config, tmp_path / "one")
    reports, got = train_on(2, experiment.trainable, config, tmp_path / "two")
    for a, b in zip(reports, expected, strict=True):
        assert a["train/loss"] == pytest.approx(b["train/loss"], rel=CURVE_TOLERANCE)
        assert a["val/knn_top1"] == pytest.approx(b["val/knn_top1"], abs=0.02)
    torch.testing.assert_close(got, state, rtol=1e-2, atol=1e-3)
