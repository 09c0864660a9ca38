"""The rows of `gpu_check.py`: what each check does and measures, in the process that measures."""

import argparse
import functools
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.gpu_table import REFUSED, Row, broken
from benchmarks.gpu_work import (
    FULL,
    NAMES,
    PREFETCHED,
    QUICK,
    WAITING,
    ByHand,
    Here,
    OnTheCard,
    Size,
    Training,
    byol_config,
    images_per_s,
    made_data,
    work,
)
from tests.waits import Waits
from trainables.base import CompileMode, TrainConfig
from trainables.byol import BYOL
from trainables.classifier import Classifier, ClassifierConfig
from trainables.data import DataConfig
from trainables.data.placement import copied_to, forget_placed
from trainables.data.sampling import generator
from trainables.devices import choose_device, describe_device, send
from trainables.engine.compilation import evaluating
from trainables.engine.feed import tensors_in
from trainables.engine.fit import fit
from trainables.engine.numerics import has_bfloat16, settle_numerics
from trainables.errors import UserError
from trainables.files import LAST, write_atomically

OVERHEAD_PERCENT = 5.0
"""Largest percentage by which the input path may slow the model down."""
TIMES_BY_HAND = 3.0
"""Required images per second, relative to a DataLoader with torchvision's transforms."""
AUGMENT_TOLERANCE = 1e-4
"""Largest allowed difference of a value in [0, 1] between augmentation on the card and on the
CPU."""
APART = 0.1
"""Largest relative difference of losses and ranks of compiled networks, whose sums have another
order."""
SMALL_EPOCHS = 4


@dataclass(frozen=True)
class Check:
    """Settings that all rows share."""

    device: torch.device
    size: Size
    script: tuple[str, ...]
    """Command line of a child process, up to its own options."""

    @property
    def judged(self) -> bool:
        """True if speed is judged: on a card and at full size."""
        return self.device.type == "cuda" and self.size is FULL

    def faster(self, holds: bool) -> bool | None:
        return holds if self.judged else None


# ---------------------------------------------------------------- rows


def environment(check: Check) -> Row:
    values = {
        "device": describe_device(check.device),
        "bfloat16": has_bfloat16(check.device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version() if check.device.type == "cuda" else None,
        "python": platform.python_version(),
        "cores": os.cpu_count(),
    }
    if check.device.type == "cuda":
        values["capability"] = ".".join(map(str, torch.cuda.get_device_capability(check.device)))
        values["gpus"] = torch.cuda.device_count()
    measured = ", ".join(f"{key} {value}" for key, value in values.items())
    holds = values["bfloat16"] if check.judged else None
    return Row("environment", "a card with bfloat16", measured, holds, values=values)


def input_path(check: Check) -> Row:
    """Compare the batches that both paths bring to the device with plain ones."""
    differences = []
    for name in ("ssl", "segment"):
        kind, config, data = work(
            name, replace(_small(check.size), batch=check.size.batch), "never"
        )
        plain = kind(config, data)
        there = kind(config, copied_to(data, check.device))
        training = Training(kind, config, data, check.device)
        for step in (0, 1, 5):
            positions = plain.sampler().positions(step)
            drawn = generator(config.seed, 2, step)
            expected = plain.draw(positions, drawn)
            early = training.batches.feed
            early.send_early(step)
            resident = there.draw(positions, generator(config.seed, 2, step))
            for batch in (early.batch(step), resident.to(check.device)):
                differences += [
                    not torch.equal(a.cpu(), b.cpu())
                    for a, b in zip(tensors_in(expected), tensors_in(batch), strict=True)
                ]
    different = sum(differences)
    return Row(
        "input path",
        "pinned and early, or gathered on the card: bit-equal to the CPU's batches",
        f"{len(differences)} tensors compared, {different} differ",
        different == 0,
        values={"compared": len(differences), "different": different},
    )


def augmentation_equal(check: Check) -> Row:
    """Compare views made on the device with those made on the CPU, before normalisation."""
    config = byol_config(check.size)
    worst = 0.0
    images = torch.from_numpy(made_data(check.size.batch, check.size.side).train.images[:64])
    model = BYOL(replace(config, normalize="none"), made_data(64, check.size.side))
    for number, view in enumerate(model.views):
        draws = view.draw(len(images), generator(0, number))
        expected = view.apply(images, draws)
        got = view.apply(images.to(check.device), draws).cpu()
        worst = max(worst, float((got - expected).abs().max()))
    return Row(
        "augmentation equal",
        f"views differ from the CPU's by at most {AUGMENT_TOLERANCE:g} of [0, 1], in float32",
        f"{worst:.1e}",
        worst <= AUGMENT_TOLERANCE,
        values={"largest_difference": worst},
    )


def trainable(name: str, check: Check) -> Row:
    """Take twenty steps of one trainable, then one more in which nothing may wait."""
    if name in WAITING and find_spec("lightly") is None:
        return Row(f"{name} trains", "20 steps of finite loss", "lightly is not installed", None)
    kind, config, data = work(name, _small(check.size))
    training = Training(kind, config, data, check.device)
    losses = training.take(20)
    waits = count_waits(training)
    finite = bool(np.isfinite(losses).all())
    types = "bfloat16" if training.config.train.bf16 else "float32"
    allowed = WAITING.get(name, 0)
    places = "1 place" if allowed == 1 else f"{allowed} places"
    but = f" but for {places} in lightly's loss" if allowed else ""
    return Row(
        f"{name} trains",
        f"20 steps of finite loss; a step does not wait for the card{but}",
        f"{types}, loss {losses[0]:.3f} -> {losses[-1]:.3f}, {waits} synchronisations a step",
        finite and waits <= allowed,
        values={"losses": losses, "synchronisations": waits},
    )


def _small(size: Size) -> Size:
    """Return the same networks with batches that take less time."""
    if size is not FULL:
        return size
    return replace(size, batch=64, images=1024, segment_batch=4)


def count_waits(training: Training) -> int:
    """Count the synchronisations of one step: with CUDA's own counter, or on a CPU with
    `tests/waits.py`."""
    if training.device.type != "cuda":
        waits = Waits.of(training.state)
        with waits.watching(training.batches.feed), waits:
            training.take(1)
        return len(waits.found) - 1  # without the loss, which `take` returns

    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            training.take(1)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    found = [one for one in caught if "synchronizing CUDA operation" in str(one.message)]
    return len(found) - 1


def byol_speed(check: Check) -> list[Row]:
    """Time BYOL on both paths and its limit, in turns: a card's clock changes with its heat."""
    size = check.size
    data = made_data(size.images, size.side)
    contenders = {
        "limit": Training(OnTheCard, byol_config(size, "never"), data, check.device),
        "pinned": Training(BYOL, byol_config(size, "never"), data, check.device),
        "resident": Training(BYOL, byol_config(size, "always"), data, check.device),
    }
    speeds: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(size.turns):
        warmup = 1 if turn else size.warmup
        for name, training in contenders.items():
            speeds[name].append(training.images_per_s(warmup, size.steps // size.turns))

    limit, pinned, resident = (median(speeds[name]) for name in contenders)
    rows = [
        _beside_limit("BYOL, store on the card", resident, limit, check),
        _beside_limit("BYOL, store in memory", pinned, limit, check),
    ]
    rows[0].values["turns"] = speeds
    return rows


def by_hand_speed(check: Check) -> Row:
    """Time BYOL beside the loop by hand."""
    size = check.size
    data = made_data(size.images, size.side)
    training = Training(BYOL, byol_config(size, "always"), data, check.device)
    ours = training.images_per_s(size.warmup, size.steps // 2)
    del training

    workers = size.loader_workers
    # Workers begin together and have batches ready before the loop asks for them. So the clock
    # starts after these, and stops after as many again.
    ready = max(size.warmup, PREFETCHED * workers)
    hand = ByHand(byol_config(size), data, check.device, workers, batches=3 * ready)
    by_hand = images_per_s(hand.take, size.batch, ready, ready)
    times = ours / by_hand
    claim = f"{TIMES_BY_HAND:g} times a DataLoader of {workers} workers with torchvision v2"
    return Row(
        "BYOL by hand",
        f"vistune is at least {claim}",
        f"{by_hand:.0f} images/s by hand, {ours:.0f} in vistune: {times:.2f} times",
        check.faster(times >= TIMES_BY_HAND),
        values={"by_hand": by_hand, "vistune": ours},
    )


def _beside_limit(name: str, ours: float, limit: float, check: Check) -> Row:
    overhead = 100 * (limit / ours - 1)
    return Row(
        name,
        f"at most {OVERHEAD_PERCENT:g} % over the same model on random tensors on the card",
        f"{ours:.0f} images/s, the limit {limit:.0f}: {overhead:+.1f} %",
        check.faster(overhead <= OVERHEAD_PERCENT),
        values={"images_per_s": ours, "limit": limit},
    )


def augmentation_speed(check: Check) -> Row:
    """Time both views of BYOL, of images that are on the device."""
    size = check.size
    model = BYOL(byol_config(size), made_data(size.batch, size.side))
    batch = model.draw(np.arange(size.batch), torch.Generator())
    images = send(batch.images, check.device)

    def take(steps: int) -> None:
        for _ in range(steps):
            for view, draws in zip(model.views, batch.draws, strict=True):
                views = view.apply(images, draws)
        float(views[0, 0, 0, 0])

    speed = images_per_s(take, size.batch, size.warmup, size.steps)
    return Row(
        "augmentation alone",
        "two views of BYOL; no goal of its own, BYOL's rows hold it",
        f"{speed:.0f} images/s",
        None,
        values={"images_per_s": speed},
    )


def segmentation_speed(check: Check) -> Row:
    kind, config, data = work("segment", check.size)
    training = Training(kind, config, data, check.device)
    if check.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    speed = training.images_per_s(check.size.warmup, check.size.steps // 2)
    peak = 0.0
    if check.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**30
    return Row(
        f"{config.model.name}, {config.data.image_size} px",
        "no goal of its own",
        f"{speed:.1f} images/s, peak {peak:.1f} GiB",
        None,
        values={"images_per_s": speed, "peak_gib": peak},
    )


def compiled_speed(check: Check) -> Row:
    """Time small networks as they are, compiled, and compiled with CUDA graphs; compare what they
    learn and how they are judged. BYOL passes two views through its backbone in a step, and a batch
    in parts replays a graph several times."""
    kind, config, data = _small_training()
    parts = replace(config.train, micro_batch=config.train.batch_size // 2)
    works = {
        "classify": (kind, config, data),
        "classify in parts": (kind, replace(config, train=parts), data),
        "ssl": (BYOL, byol_config(QUICK), made_data(QUICK.images, QUICK.side)),
    }
    # On a CPU there are no graphs, and compilation alone would take most of the check's time.
    modes = get_args(CompileMode) if check.device.type == "cuda" else ()
    speeds: dict[str, float] = {}
    apart = 0.0
    for name, (kind, config, data) in works.items():
        ways = {"plain": config.train}
        for mode in modes if name == "classify" else modes[1:]:  # compilation takes its time
            ways[mode] = replace(config.train, compile=True, compile_mode=mode)

        expected: tuple[float, float] | None = None
        for way, train in ways.items():
            training = Training(kind, replace(config, train=train), data, check.device)
            trained = float(np.mean(training.take(20)))
            with evaluating(train):
                judged = training.trainable.validate()
            found = trained, judged["val/rankme" if kind is BYOL else "val/loss"]
            expected = expected or found
            apart = max(apart, *(abs(x / y - 1) for x, y in zip(found, expected, strict=True)))
            training.trainable.train()
            speeds[f"{name}, {way}"] = training.images_per_s(check.size.warmup, check.size.steps)

    measured = "; ".join(f"{way} {speed:.0f}" for way, speed in speeds.items())
    return Row(
        "torch.compile",
        f"all ways learn and are judged as without: within {100 * APART:g} % after 20 steps",
        f"images/s of small networks: {measured}; apart by {100 * apart:.2g} %",
        apart <= APART if modes else None,
        values={"images_per_s": speeds, "apart": apart},
    )


def concurrency(check: Check) -> Row:
    """Time small trials that share the card, each in its own process. All processes start once, and
    some of them train while the others wait."""
    counts = check.size.concurrent
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        place = Path(folder)
        children = [_child(check, "small", folder, str(number)) for number in range(max(counts))]
        try:
            _wait_for(children, [place / f"ready-{number}" for number in range(max(counts))])
            speeds = {count: _together(place, children, count) for count in counts}
        finally:
            for child in children:
                child.kill()
                child.wait()

    measured = ", ".join(f"{count}: {speed:.0f}" for count, speed in speeds.items())
    return Row(
        "trials at a time",
        "several small trials on one card do more together than one alone",
        f"images/s of all by number of trials: {measured}",
        check.faster(max(speeds.values()) > speeds[1]),
        values={str(count): speed for count, speed in speeds.items()},
    )


def _together(folder: Path, children: "list[subprocess.Popen[bytes]]", count: int) -> float:
    """Return the images per second of the first `count` trials together, which train during the
    same seconds."""
    (folder / f"go-{count}").touch()
    files = [folder / f"speed-{count}-{number}" for number in range(count)]
    _wait_for(children[:count], files)
    return sum(float(file.read_text()) for file in files)


def small_trial(check: Check, folder: Path, number: str) -> None:
    """Run a child of `concurrency`: take steps for some seconds, each time that it is its turn."""
    kind, config, data = _small_training()
    training = Training(kind, config, data, check.device)
    training.take(3)
    (folder / f"ready-{number}").touch()
    for count in check.size.concurrent:
        if int(number) >= count:
            continue
        while not (folder / f"go-{count}").exists():
            time.sleep(0.01)
        speed = _speed_of(training, config.train.batch_size, check.size.concurrent_s)
        write_atomically(folder / f"speed-{count}-{number}", str(speed), durable=False)
    time.sleep(3600)  # until `concurrency` ends it: an end before that is an error


def _speed_of(training: Training, batch: int, seconds: float) -> float:
    """Return the images per second of a training during some seconds."""
    started = time.perf_counter()
    steps = 0
    while time.perf_counter() - started < seconds:
        training.take(10)
        steps += 10
    return steps * batch / (time.perf_counter() - started)


def _small_training() -> tuple[Any, Any, Any]:
    """Return a classifier like those of preset `tiny`."""
    data = DataConfig(name="made", image_size=QUICK.side)
    config = ClassifierConfig(
        data=data,
        backbone=QUICK.backbone,
        train=TrainConfig(batch_size=32, epochs=SMALL_EPOCHS, numerics="auto"),
    )
    return Classifier, config, made_data(QUICK.images, QUICK.side)


def out_of_memory(check: Check) -> Row:
    """Train on a batch that does not fit; it must be split into micro-batches."""
    # Few images, so that validation, which is not split, takes less memory than a step.
    kind, config, data = work("classify", replace(_small(check.size), images=256))
    config = settle_numerics(config, check.device)
    config = replace(config, train=replace(config.train, epochs=1))
    trainable = kind(config, data).to(check.device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        here = Here(Path(folder), check.device)
        with LessMemory(check, trainable, config.train.batch_size):
            fit(trainable, config, here)

    used = int(here.reports[-1].get("train/micro_batch", 0))
    batch = config.train.batch_size
    return Row(
        "out of memory",
        "the micro-batch is halved until it fits, and training continues",
        f"batch {batch} trained in micro-batches of {used}",
        0 < used < batch,
        values={"batch": batch, "micro_batch": used},
    )


class LessMemory:
    """A block in which a whole batch does not fit. On a card the process gets a memory limit; on a
    CPU the forward pass raises the allocator's error."""

    def __init__(self, check: Check, trainable: Any, batch: int):
        self.check = check
        self.trainable = trainable
        self.batch = batch

    def __enter__(self) -> None:
        if self.check.device.type != "cuda":
            self._refuse_large_batches()
            return
        held = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        batch = self.trainable.draw(np.arange(self.batch), generator(0, 0))
        bf16 = self.trainable.config.train.bf16
        with torch.autocast("cuda", torch.bfloat16, enabled=bf16):
            self.trainable.train()(batch.to(self.check.device)).backward()
        needed = torch.cuda.max_memory_allocated() - held
        self.trainable.zero_grad(set_to_none=True)
        torch.cuda.empty_cache()
        total = torch.cuda.get_device_properties(self.check.device).total_memory
        allowed = torch.cuda.memory_reserved() + 0.6 * needed
        torch.cuda.set_per_process_memory_fraction(min(1.0, allowed / total))

    def _refuse_large_batches(self) -> None:
        forward = self.trainable.forward

        def refusing(batch: Any) -> Any:
            if len(batch) > self.batch // 2:
                raise torch.OutOfMemoryError("out of memory")
            return forward(batch)

        self.trainable.forward = refusing

    def __exit__(self, *error: Any) -> None:
        if self.check.device.type == "cuda":
            torch.cuda.set_per_process_memory_fraction(1.0)


def killed_trial(check: Check) -> Row:
    """Kill a process between two epochs, and let another process resume from its checkpoint."""
    whole = _history(check, None)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as folder:
        child = _child(check, "killed", folder)
        try:
            _wait_for([child], [Path(folder) / "reported-2"])
        finally:
            child.send_signal(signal.SIGKILL)
            child.wait()
        assert Path(folder, LAST).exists()
        resumed = _history(check, Path(folder))

    losses = [metrics["train/loss"] for metrics in whole]
    again = [metrics["train/loss"] for metrics in resumed]
    epochs = len(again)
    apart = max(abs(a - b) for a, b in zip(losses, again, strict=True)) / losses[-1]
    exact = check.device.type == "cpu"
    return Row(
        "killed trial",
        "resumes from its checkpoint: bit-equal on a CPU, loss within 5 % on a card",
        f"{epochs} of {SMALL_EPOCHS} epochs, loss apart by {100 * apart:.2g} %",
        epochs == SMALL_EPOCHS and (again == losses if exact else apart < 0.05),
        values={"uninterrupted": losses, "resumed": again},
    )


def _history(check: Check, folder: Path | None) -> list[dict[str, float]]:
    """Train the small trial in this process, resuming if the folder contains a checkpoint."""
    kind, config, data = _small_training()
    config = settle_numerics(config, check.device)
    torch.manual_seed(config.seed)
    trainable = kind(config, data).to(check.device)
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as scratch:
        here = Here(folder or Path(scratch), check.device)
        return fit(trainable, config, here).history


def trial_to_kill(check: Check, folder: Path) -> None:
    """Run a child of `killed_trial`, which waits after its second epoch."""

    class Told(Here):
        def report(self, epoch: int, metrics: dict[str, float]) -> bool:
            (folder / f"reported-{epoch}").touch()
            while epoch == 2:
                time.sleep(1)
            return True

    kind, config, data = _small_training()
    config = settle_numerics(config, check.device)
    torch.manual_seed(config.seed)
    fit(kind(config, data).to(check.device), config, Told(folder, check.device))


def whole_study(check: Check) -> Row:
    """Run a study of one trial through the command line and Ray: does the trial get the card?"""
    root = Path(__file__).resolve().parents[1]
    settings = [f"train.device={check.device.type}", "train.numerics=auto", "train.epochs=1"]
    options = [word for setting in settings for word in ("--set", setting)]
    with tempfile.TemporaryDirectory(prefix="gpu-check-") as storage:
        command = [sys.executable, "tune/run.py", "pretrain", "--data", "digits", *options]
        command += ["--trials", "1", "--repeats", "0", "--pictures", "none", "--storage", storage]
        ended = subprocess.run(command, cwd=root, capture_output=True, text=True)
        logs = list(Path(storage).glob("*/events.jsonl"))
        lines = [line for log in logs for line in log.read_text().splitlines()]

    reports = [event for event in map(json.loads, lines) if event["event"] == "report"]
    gpus = [int(event["metrics"].get("time/gpus", 0)) for event in reports]
    bf16 = [bool(event["metrics"].get("train/bf16")) for event in reports]
    expected = int(check.device.type == "cuda")
    if ended.returncode or not reports:
        print(ended.stdout[-2000:], ended.stderr[-2000:], sep="\n", file=sys.stderr)
    return Row(
        "a study",
        "a trial that Ray starts trains on the device that was asked for, in its numerics",
        f"exit code {ended.returncode}, {len(reports)} epoch, GPUs {gpus}, bfloat16 {bf16}",
        not ended.returncode and gpus == [expected] and bf16 == [has_bfloat16(check.device)],
        values={"returncode": ended.returncode, "gpus": gpus, "bfloat16": bf16},
    )


# ---------------------------------------------------------------- children


def _child(check: Check, *arguments: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen([*check.script, "--child", *arguments])


def _wait_for(
    children: "list[subprocess.Popen[bytes]]", files: list[Path], patience_s: float = 120
) -> None:
    """Wait until the files exist.

    Raises:
        RuntimeError: a child ended before, or the time is over.
    """
    deadline = time.monotonic() + patience_s
    while not all(file.exists() for file in files):
        if any(child.poll() is not None for child in children) or time.monotonic() > deadline:
            raise RuntimeError(f"no {files[-1].name} from a child process")
        time.sleep(0.02)


# ---------------------------------------------------------------- the process

ROWS: dict[str, Callable[[Check], Row | list[Row]]] = {
    "environment": environment,
    "input": input_path,
    "equal": augmentation_equal,
    **{f"train-{name}": functools.partial(trainable, name) for name in NAMES},
    "byol": byol_speed,
    "by-hand": by_hand_speed,
    "augment": augmentation_speed,
    "segment": segmentation_speed,
    "compiled": compiled_speed,
    "concurrent": concurrency,
    "memory": out_of_memory,
    "killed": killed_trial,
    "study": whole_study,
}


def rows_of(name: str, check: Check) -> tuple[list[Row], bool]:
    """Return the rows of one check, and False; or one row that says why it failed, and True."""
    started = time.perf_counter()
    is_broken = False
    try:
        made = ROWS[name](check)
    except Exception as error:
        traceback.print_exc()
        made = broken(name, f"{type(error).__name__}: {error}")
        is_broken = True
    rows = made if isinstance(made, list) else [made]
    for row in rows:
        row.seconds = (time.perf_counter() - started) / len(rows)
    return rows, is_broken


def work_off(names: Sequence[str], check: Check, file: int) -> None:
    """Run checks and report to a file, in lines of JSON, until one breaks: the next one needs a new
    process, because an error may leave the card's context unusable."""
    with os.fdopen(file, "w", buffering=1) as lines:
        for name in names:
            print(json.dumps({"begins": name}), file=lines)
            rows, is_broken = rows_of(name, check)
            written = [asdict(row) for row in rows]
            print(json.dumps({"rows": written, "broken": is_broken}), file=lines)
            if is_broken:
                return
            gc.collect()
            forget_placed()


def main(script: Sequence[str], options: argparse.Namespace) -> int:
    """Run as the process that measures, or as one of its children."""
    try:
        device = choose_device(options.device)
    except UserError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return REFUSED
    if device.type == "cpu" and not options.quick:
        print("gpu_check: no GPU here; --device cpu --quick runs it on a CPU", file=sys.stderr)
        return REFUSED

    check = Check(device, QUICK if options.quick else FULL, tuple(script))
    torch.set_num_threads(1)
    if options.worker:
        file, *names = options.worker
        work_off(names, check, int(file))
        return 0
    kind, folder, *rest = options.child
    children = {"small": small_trial, "killed": trial_to_kill}
    children[kind](check, Path(folder), *rest)
    return 0
