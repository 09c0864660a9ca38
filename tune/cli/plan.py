"""`--plan`: what would run, what it would cost, and not a thing more."""

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from trainables.engine import checkpoint
from trainables.engine.allocator import keep_freed_memory
from trainables.engine.fit import steps_per_epoch, train_step
from trainables.engine.step import BatchSplitter
from trainables.files import LAST
from trainables.optim import build_optimizer
from tune.cli.options import Options
from tune.cli.prepare import Prepared
from tune.execution.runtimes import LocalRuntime
from tune.experiments import Experiment
from tune.formatting import duration, plain_console
from tune.search.pruner import rungs
from tune.search.space import describe, show
from tune.study.warm_start import beginning

_STEPS = 3  # timed, after one to warm up


def show_plan(prepared: Prepared, options: Options) -> None:
    """Print the resolved config, the space, the rungs, the resources, and time and disk estimated
    from one profiled step."""
    experiment, manifest, config, data = (
        prepared.experiment,
        prepared.manifest,
        prepared.config,
        prepared.data,
    )
    out = plain_console()
    out.print(
        f"study {manifest.name}: {experiment.about}; preset {manifest.preset}, {options.trials} trials"
    )
    out.print(
        f"data: {data.summary()}; fingerprint {data.fingerprint[:12]}; searched by {manifest.objective}"
    )
    spaces = describe(experiment.space, manifest.preset, manifest.pins)
    table = Table(
        box=None,
        pad_edge=False,
        header_style="bold",
        title="config of trial 0, and what is searched",
        title_justify="left",
    )
    for column in ("key", "trial 0", "searched"):
        table.add_column(column, overflow="fold")
    for key, value in manifest.base.items():
        ranges = [f"{show(d)}{f'  ({c})' if c else ''}" for c, d in spaces.get(key, [])]
        table.add_row(
            key,
            f"{value:.6g}" if isinstance(value, float) else str(value),
            "pinned" if key in manifest.pins else "\n".join(ranges),
        )
    out.print(table)
    for line in (*prepared.notes, *beginning(manifest.warm_start)):
        out.print(line)
    all_rungs = rungs(config.train.epochs)
    conditions = [
        f"after epoch {epoch} if it is among the best {1 / factor:.0%} there"
        for epoch, factor in all_rungs.items()
    ]
    out.print(
        f"rungs: a trial goes on {', '.join(conditions)}; {config.train.epochs} epochs in all"
        if conditions
        else "rungs: none"
    )
    cost = profile(experiment, config, data)
    expected = expected_epochs(all_rungs, config.train.epochs)
    repeats = (1 + experiment.top) * options.repeats  # of trial 0 and of the leaders
    epochs = (1 + repeats) * config.train.epochs + max(0, options.trials - 1) * expected
    out.print(
        f"resources: {'1 GPU' if cost['gpu'] else f'{config.train.threads} CPU thread(s)'} per trial, "
        f"{cost['parameters'] / 1e6:.2f} M parameters"
    )
    out.print(
        f"estimate from one profiled step ({cost['step_s'] * 1e3:.0f} ms) and one validation ({cost['validation_s']:.1f} s): "
        f"{cost['epoch_s']:.1f} s an epoch, {epochs:.0f} epochs with pruning and {repeats} repeats, "
        f"{duration(epochs * cost['epoch_s'])} of one worker; disk {cost['checkpoint_mb'] * 2:.0f} MB per running trial, "
        f"{cost['export_mb']:.1f} MB per completed one"
    )
    if cost["setup_seconds"]:
        out.print(
            f"and once for each augmentation policy the features of the frozen backbone: {cost['setup_seconds']:.0f} s"
        )


def expected_epochs(all_rungs: dict[int, int], epochs: int) -> float:
    """Epochs of an average trial when each rung lets its share through."""
    reached, total, before = 1.0, 0.0, 0
    for rung, factor in {**all_rungs, epochs: 1}.items():
        total += reached * (rung - before)
        reached, before = reached / factor, rung
    return total


def profile(experiment: Experiment, config: Any, data: Any) -> dict[str, float]:
    """Seconds of a training step, of a validation and of what is prepared once, megabytes of a
    checkpoint and of an export, of trial 0's config."""
    with tempfile.TemporaryDirectory(prefix="vistune-plan-") as scratch:
        runtime = LocalRuntime(Path(scratch), lambda epoch, metrics: True)
        torch.set_num_threads(config.train.threads)
        keep_freed_memory()
        torch.manual_seed(config.seed)
        some = experiment.trainable.profiled_data(config, data)
        trainable = experiment.trainable(config, some).to(runtime.device)
        optimizer = build_optimizer(trainable.param_groups(config.optim.weight_decay), config.optim)
        sampler = trainable.sampler()
        per_epoch = steps_per_epoch(config, len(data.train), sampler.batch_size)
        total_steps = per_epoch * config.train.epochs
        batches = BatchSplitter(trainable, config, runtime, sampler)
        state = checkpoint.restore(trainable, optimizer, batches, runtime)
        trainable.train()
        float(train_step(state, config, runtime, 0, total_steps))
        started = time.perf_counter()
        for step in range(1, 1 + _STEPS):
            loss = train_step(state, config, runtime, step, total_steps)
        float(loss)  # a GPU's queue ends here
        step_s = (time.perf_counter() - started) / _STEPS
        trainable.costs()
        started = time.perf_counter()
        trainable.validate()
        validation_s = time.perf_counter() - started - trainable.costs().get("time/features_s", 0.0)
        checkpoint.save(state, runtime)
        trainable.export(Path(scratch) / "best.pt", {})
        sizes = [(Path(scratch) / name).stat().st_size / 1e6 for name in (LAST, "best.pt")]
    return {
        "step_s": step_s,
        "validation_s": validation_s,
        "epoch_s": per_epoch * step_s + validation_s,
        "checkpoint_mb": sizes[0],
        "export_mb": sizes[1],
        "parameters": sum(p.numel() for p in trainable.parameters() if p.requires_grad),
        "setup_seconds": trainable.setup_seconds(data),
        "gpu": runtime.device.type == "cuda",
    }
