"""Steps of a head on cached features against the same steps through the frozen backbone: their
speed, and whether the results agree.

    python benchmarks/features.py                                        # ResNet18 at 64 px
    python benchmarks/features.py --backbone resnet50 --image-size 128  # as the course reports

Both contenders are the `classify` trainable of setting E in the loop's own `train_step`, with the
untuned defaults of the preset `full` and a rate of .01. They share the fixed augmented views, the
batches and the initial weights; only `features.cache` differs. They take turns in one process. The
time is its CPU time, and the ratio is the median over the turns. The features are built before, and
the number of steps after which building has paid off is printed. The backbone is a random one with
calibrated BatchNorm, because only its cost matters here.
"""

import argparse
import os
import statistics
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.record_file import add_record_option, record_speed, rounded
from trainables.backbone.export import save_backbone
from trainables.backbone.initial import InitConfig
from trainables.base import Metrics
from trainables.classifier import Classifier, ClassifierConfig
from trainables.config import build
from trainables.engine import checkpoint
from trainables.engine.fit import train_step
from trainables.engine.step import BatchSplitter
from trainables.optim import build_optimizer
from tune.execution.runtimes import LocalRuntime
from tune.experiments import EXPERIMENTS

CLAIM = 100.0


class Contender:
    """A classifier, its optimizer, and the CPU seconds of its steps."""

    def __init__(self, config: ClassifierConfig, folder: Path, total_steps: int):
        torch.manual_seed(config.seed)
        self.model = Classifier(config, Classifier.load_data(config.data))
        self.config = config
        self.total_steps = total_steps
        self.runtime = LocalRuntime(folder, lambda epoch, metrics: True)
        groups = self.model.param_groups(config.optim.weight_decay)
        optimizer = build_optimizer(groups, config.optim)
        batches = BatchSplitter(self.model, config, self.runtime, self.model.sampler())
        self.state = checkpoint.restore(self.model, optimizer, batches, self.runtime)
        self.loss = 0.0

    def run(self, first: int, steps: int) -> float:
        """Return CPU seconds per step."""
        started = time.process_time()
        for step in range(first, first + steps):
            self.model.train()
            loss = train_step(self.state, self.config, self.runtime, step, self.total_steps)
            self.loss = float(loss)
        return (time.process_time() - started) / steps


def setting_e(backbone: str, image_size: int, images: int, file: Path) -> ClassifierConfig:
    flat: dict[str, Any] = {
        "data.name": "digits",
        "data.image_size": image_size,
        "data.limit": images,
        "backbone.name": backbone,
        "optim.lr": 0.01,
    }
    config: ClassifierConfig = build(
        ClassifierConfig, EXPERIMENTS["classify"].presets["full"] | flat
    )
    torch.manual_seed(1)
    random = Classifier(config, Classifier.load_data(config.data))
    random.calibrate()
    save_backbone(file, random.backbone, {})
    return replace(
        config,
        init=InitConfig(source="ssl", file=str(file)),
        freeze=replace(config.freeze, policy="all"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=256, help="of training")
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=2, help="of a turn")
    add_record_option(parser)
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=Path(__file__).resolve().parents[1]
    ) as name:
        folder = Path(name)
        os.environ["VISTUNE_CACHE"] = name  # an empty cache
        config = setting_e(options.backbone, options.image_size, options.images, folder / "b.pt")
        total = options.turns * options.steps
        kept = Contender(config, folder, total)
        bare = Contender(
            replace(config, features=replace(config.features, cache=False)), folder, total
        )
        building = kept.run(0, 1)
        kept = Contender(config, folder, total)
        # opens the cache, which now exists
        kept.model.draw(kept.state.batches.sampler.positions(0), torch.Generator())
        turns = [
            (kept.run(at, options.steps), bare.run(at, options.steps))
            for at in range(0, total, options.steps)
        ]
        report(
            options,
            config,
            building,
            turns[1:],
            (kept.loss, bare.loss),
            (kept.model.validate(), bare.model.validate()),
        )


def report(
    options: argparse.Namespace,
    config: ClassifierConfig,
    building: float,  # CPU seconds, including one step
    turns: list[tuple[float, float]],  # CPU seconds per step of each contender
    losses: tuple[float, float],
    metrics: tuple[Metrics, Metrics],
) -> None:
    fast, slow = (statistics.median(column) for column in zip(*turns, strict=True))
    low, ratio, high = statistics.quantiles([b / a for a, b in turns], n=4)
    print(
        f"{options.backbone} at {options.image_size} px, batches of {config.train.batch_size}, 1 "
        "core"
    )
    print(f"step on kept features      {1000 * fast:10.2f} ms CPU")
    print(f"step through the backbone  {1000 * slow:10.2f} ms CPU")
    print(
        f"ratio {ratio:.0f} (quartiles {low:.0f}-{high:.0f}), at least {CLAIM:.0f} claimed: "
        f"{'holds' if ratio >= CLAIM else 'FAILS'}"
    )
    print(
        f"{config.features.views} views of {options.images} images: {building:.1f} s CPU, paid "
        f"after {building / (slow - fast):.0f} steps"
    )
    top1 = [m["val/top1"] for m in metrics]
    print(
        f"last training loss {losses[0]:.6f} and {losses[1]:.6f}; val/loss "
        f"{metrics[0]['val/loss']:.6f} and {metrics[1]['val/loss']:.6f}"
    )
    print(
        f"val/top1 {top1[0]:.4f} and {top1[1]:.4f}: "
        f"{'equal' if top1[0] == top1[1] else 'DIFFERENT'}"
    )
    about = {
        "backbone": options.backbone,
        "image_size": options.image_size,
        "images": options.images,
        "batch": config.train.batch_size,
        "views": config.features.views,
    }
    results = {
        "building": round(building, 3),
        "losses": losses,
        "val_loss": [m["val/loss"] for m in metrics],
        "top1": top1,
        "turns": [rounded(turn) for turn in turns],
    }
    record_speed(options.record, about | results)


if __name__ == "__main__":
    main()
