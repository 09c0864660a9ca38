"""Overhead of the training loop: `engine.fit` with BYOL against a bare PyTorch loop around
byol-pytorch's own learner.

    python benchmarks/loop.py                     # epochs of 25 steps
    python benchmarks/loop.py --steps 50 --epochs 6
    python benchmarks/loop.py --preset            # network, views and batches of the tiny preset

Data, batches, backbone, initial weights, optimizer and augmented views are the same; this is
checked, since both must give the same loss on the first batch. The rules of training are therefore
version 1, under which BatchNorm sees both views together, as in the package. The bare loop is what
one writes by hand: no schedule, no checkpoints, no reports, no check for NaN. `fit` does all of
that in the timed part (a checkpoint, an export and a report an epoch); validation is left out of
both. The package moves its target network by allocating every parameter anew; vistune moves it in
place. The second bare loop does so too, so that this gain does not hide a loss elsewhere; the claim
is against this loop. The contenders take turns, an epoch each, in one process. Times are its CPU
time. A ratio is the median over the turns, so other load on the machine affects all contenders
equally; the ratio of the fastest turns, which were disturbed least, is shown beside it.
"""

import argparse
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from byol_pytorch import BYOL as Learner
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded
from trainables.augment.views import Augment
from trainables.backbone.networks import build_backbone
from trainables.base import Metrics
from trainables.byol import BYOL, BYOLConfig
from trainables.config import build
from trainables.data.sampling import Sampler, generator
from trainables.engine.fit import fit
from trainables.optim import build_optimizer, param_groups
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS

CLAIM_PERCENT = 3.0
FIXED = {
    "optim.name": "adam",
    "head.hidden_size": 1024,
    "backbone.pool": 1,
    "aug.policy": "byol",
    "aug.crop_scale_min": 0.08,
    "aug.blur": 0.5,
    "aug.rotate": 0.0,
    "train.batch_size": 64,
}
"""Values that differ from the tiny preset: those of the preset at 5d3a9ec, so that figures of
different commits compare."""


class Unvalidated(BYOL):
    """BYOL with free validation that improves in every epoch, so that every epoch exports its
    best."""

    validations = 0

    def validate(self) -> Metrics:
        self.validations += 1
        return {self.objective: float(self.validations), "val/std": 1.0}

    def embeddings(self, part: str) -> tuple[np.ndarray, np.ndarray | None]:
        return np.zeros((1, 1), np.float32), None


class View(nn.Module):
    """The view that byol-pytorch applies to images. Its constructor calls it with noise, which is
    passed through."""

    def __init__(self, augment: Augment, channels_last: bool):
        super().__init__()
        self.augment, self.channels_last = augment, channels_last
        self.generator: torch.Generator | None = None

    def forward(self, images: Tensor) -> Tensor:
        if self.generator is None:
            return images
        view = self.augment(images, self.generator)
        return view.contiguous(memory_format=torch.channels_last) if self.channels_last else view


class Bare:
    """The loop by hand."""

    def __init__(self, ours: BYOL, data: Any, in_place: bool):
        config = ours.config
        torch.manual_seed(config.seed)
        self.config, self.data, self.in_place = config, data, in_place
        backbone = build_backbone(config.backbone)
        self.views = [View(view, config.train.channels_last) for view in ours.views]
        self.learner = Learner(
            backbone,
            image_size=config.data.image_size,
            hidden_layer=-1,
            projection_size=config.head.projection_size,
            projection_hidden_size=config.head.hidden_size,
            augment_fn=self.views[0],
            augment_fn2=self.views[1],
            use_simplicial_embeddings=config.head.simplicial,
            moving_average_decay=config.head.tau0,
        )
        if config.train.channels_last:
            self.learner.to(memory_format=torch.channels_last)
        self.optimizer = build_optimizer(
            param_groups(self.learner, config.optim.weight_decay), config.optim
        )
        self.positions = Sampler(len(data.train), config.train.batch_size, config.seed).positions
        self.learner.train()
        self.step = 0

    def loss(self, step: int) -> Tensor:
        draws = generator(self.config.seed, 2, step)
        for view in self.views:
            view.generator = draws
        return self.learner(self.data.train.batch(self.positions(step)))

    def run(self, steps: int) -> None:
        for step in range(self.step, self.step + steps):
            loss = self.loss(step)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
            if self.in_place:
                self.update_in_place()
            else:
                self.learner.update_moving_average()
        self.step += steps

    @torch.no_grad()
    def update_in_place(self) -> None:
        target, online = self.learner.target_encoder, self.learner.online_encoder
        torch._foreach_lerp_(
            list(target.parameters()), list(online.parameters()), 1 - self.config.head.tau0
        )


def check_same(ours: BYOL, bare: Bare) -> None:
    ours.train()
    batch = ours.draw(bare.positions(0), generator(bare.config.seed, 2, 0))
    with torch.no_grad():
        losses = float(ours(batch)), float(bare.loss(0))
    if abs(losses[0] - losses[1]) > 1e-5:
        raise SystemExit(f"the contenders differ: first loss {losses[0]} and {losses[1]}")


def measure(config: BYOLConfig, steps: int, epochs: int) -> dict[str, list[tuple[float, float]]]:
    """Return {contender: (CPU, wall) seconds per step, turn by turn}."""
    data = BYOL.load_data(config.data)
    torch.manual_seed(config.seed)
    ours = Unvalidated(config, data)
    bare = {
        "byol-pytorch, bare loop": Bare(ours, data, False),
        "the same, target moved in place": Bare(ours, data, True),
    }
    for peer in bare.values():
        check_same(ours, peer)
    times: dict[str, list[tuple[float, float]]] = {
        name: [] for name in ("vistune, engine.fit", *bare)
    }

    def clock() -> tuple[float, float]:
        return time.process_time(), time.perf_counter()

    def note(name: str, since: tuple[float, float]) -> None:
        cpu, wall = clock()
        times[name].append(((cpu - since[0]) / steps, (wall - since[1]) / steps))

    def take_turns(epoch: int, metrics: Metrics) -> bool:
        nonlocal since
        note("vistune, engine.fit", since)
        for name, peer in list(bare.items())[:: 1 if epoch % 2 else -1]:
            since = clock()
            peer.run(steps)
            note(name, since)
        since = clock()
        return True

    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=Path(__file__).resolve().parents[1]
    ) as folder:
        since = clock()
        fit(ours, config, LocalRuntime(Path(folder), take_turns))
    return {name: taken[1:] for name, taken in times.items()}  # the first turn is a warm-up


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=25, help="steps of an epoch")
    parser.add_argument("--epochs", type=int, default=13)
    parser.add_argument("--preset", action="store_true", help="the tiny preset as it is today")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    values = EXPERIMENTS["ssl"].presets["tiny"] | ({} if options.preset else FIXED)
    config: Any = build(BYOLConfig, values | {"schedule.name": "constant", "train.rules": 1})
    config = replace(
        config,
        train=replace(
            config.train,
            epochs=options.epochs,
            epoch_images=options.steps * config.train.batch_size,
        ),
    )
    times = measure(config, options.steps, options.epochs)
    ours, _, claimed = times.values()
    print(
        f"BYOL, {config.backbone.name} backbone, batches of {config.train.batch_size}, epochs of "
        f"{options.steps} steps, 1 core"
    )
    print(
        f"{'':36}{'images/s':>10}{'CPU ms/step':>13}{'wall ms/step':>14}{'vistune takes':>15}"
        f"{'quartiles':>15}{'fastest turns':>15}"
    )
    for name, taken in times.items():
        cpu, wall = (statistics.median(column) for column in zip(*taken, strict=True))
        ratios = [mine[0] / theirs[0] for mine, theirs in zip(ours, taken, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        spread = f"{low:.3f}-{high:.3f}" if taken is not ours else ""
        fastest = min(ours)[0] / min(taken)[0]
        speed = f"{config.train.batch_size / cpu:10.0f}{1000 * cpu:13.2f}{1000 * wall:14.2f}"
        print(f"{name:36}{speed}{middle:14.3f}x{spread:>15}{fastest:14.3f}x")
    overhead = 100 * (
        statistics.median(a[0] / b[0] for a, b in zip(ours, claimed, strict=True)) - 1
    )
    print(
        f"overhead {overhead:+.1f} %, at most {CLAIM_PERCENT:.0f} % claimed: "
        f"{'holds' if overhead <= CLAIM_PERCENT else 'FAILS'}"
    )
    about = {"batch": config.train.batch_size, "steps": options.steps}
    turns = {name: [rounded(turn) for turn in taken] for name, taken in times.items()}
    record_speed(options.record, about | {"turns": turns})


if __name__ == "__main__":
    main()
