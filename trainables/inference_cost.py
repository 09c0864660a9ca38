"""Costs of predictions by an exported model: time and memory per image.

Both are measured on the model as served, from an image (3, S, S) uint8 in memory, at training size,
through normalisation and network to the answer in memory. They are objectives of a search
(`--objective -latency`, `--objective -memory`), and are measured only if they are objectives.
"""

import time
from collections.abc import Callable, Collection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from trainables.base import Metrics
from trainables.portable import Network
from trainables.served import Served

LATENCY = "model/latency_ms"
"""Milliseconds from an image to its answer, one image at a time, on the trial's device and with its
CPU threads: the median of many runs."""
MEMORY = "model/memory_mb"
"""Megabytes (1e6 bytes) of the weights, plus the peak memory allocated while one image is
answered."""
MEASURED = (LATENCY, MEMORY)

_WARM_UP = 3
_FEWEST, _MOST = 5, 100  # passes
_SECONDS = 2.0  # time limit for passes beyond `_FEWEST`
_ALLOCATION = "[memory]"

Answer = Callable[[], object]


def inference_costs(
    about: dict[str, Any], weights: Path, device: torch.device, wanted: Collection[str]
) -> Metrics:
    """Measure the wanted costs of a trial's exported weights.

    Args:
        about: content of `model.json` (`describe_model`).
        device: device to predict on; memory is measured on the CPU unless this is a CUDA device.
        wanted: names from `MEASURED`.
    Returns:
        Name -> value, for each wanted cost.
    """
    found: Metrics = {}
    if LATENCY in wanted:
        found[LATENCY] = latency_ms(_answer_of(Served.of_trial(about, weights, device)))

    if MEMORY in wanted:
        on = device if device.type == "cuda" else torch.device("cpu")
        served = Served.of_trial(about, weights, on)
        peak = peak_bytes(_answer_of(served), on)
        found[MEMORY] = (weight_bytes(Network(served)) + peak) / 1e6
    return found


def latency_ms(answer: Answer) -> float:
    """Median time of 5 to 100 calls, as many as fit into two seconds, in milliseconds. A few calls
    before them warm up the caches."""
    for _ in range(_WARM_UP):
        answer()

    seconds: list[float] = []
    began = time.perf_counter()
    while len(seconds) < _MOST:
        start = time.perf_counter()
        if len(seconds) >= _FEWEST and start - began > _SECONDS:
            break
        answer()
        seconds.append(time.perf_counter() - start)
    return 1000 * median(seconds)


def peak_bytes(answer: Answer, device: torch.device) -> int:
    """Peak memory during a call, in bytes, beyond the memory allocated before it.

    On CUDA, the allocator counts. On the CPU, torch's profiler counts the allocations, which do
    not depend on anything else that this process does.
    """
    answer()  # allocations that are made once and kept
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        answer()
        torch.cuda.synchronize(device)
        return int(torch.cuda.max_memory_allocated(device) - before)

    return _peak_on_cpu(answer)


def _peak_on_cpu(answer: Answer) -> int:
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as profile:
        answer()

    results: Any = profile.profiler.kineto_results
    changes = [event for event in results.events() if event.name() == _ALLOCATION]
    changes.sort(key=lambda event: event.start_ns())
    held = peak = 0
    for change in changes:
        held += change.nbytes()
        peak = max(peak, held)
    return peak


def weight_bytes(model: torch.nn.Module) -> int:
    """Bytes of parameters and buffers."""
    tensors = [*model.parameters(), *model.buffers()]
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def _answer_of(served: Served) -> Answer:
    """Return a function that answers one image of training size."""
    shape = (1, 3, served.size, served.size)
    image = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    return lambda: served.answer(image)
