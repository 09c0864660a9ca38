"""Several workers in one test: forked processes that communicate through gloo. Torch is already
imported, so they start in milliseconds."""

import datetime
import gc
import multiprocessing
import os
import pickle
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # optimizers import it, which would take seconds in each process
import torch.distributed as dist

TIMEOUT_S = 120


def on_ranks(count: int, task: Callable[[int], Any]) -> list[Any]:
    """Run `task(rank)` for every rank, each in a process. Return their results in the order of
    ranks.

    Raises:
        RuntimeError: with the traceback of the first rank that failed.
    """
    with tempfile.TemporaryDirectory(prefix="vistune-ranks-") as scratch:
        context = multiprocessing.get_context("fork")
        processes = [
            context.Process(target=_rank, args=(rank, count, Path(scratch), task))
            for rank in range(count)
        ]
        # DDP collects garbage. Freezing keeps the forked processes from scanning all objects of
        # this one.
        gc.freeze()
        for process in processes:
            process.start()
        for process in processes:
            process.join(TIMEOUT_S)
            if process.is_alive():
                process.kill()
        results = [
            pickle.loads(path.read_bytes()) for path in sorted(Path(scratch).glob("result-*"))
        ]
    failures = [what for good, what in results if not good]
    if failures or len(results) < count:
        exits = [process.exitcode for process in processes]
        raise RuntimeError(
            "\n".join(failures)
            or f"{count - len(results)} of {count} ranks died, with exit codes {exits}"
        )
    return [what for _, what in results]


def _rank(rank: int, count: int, scratch: Path, task: Callable[[int], Any]) -> None:
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    store = dist.FileStore(str(scratch / "store"), count)
    dist.init_process_group(
        "gloo",
        store=store,
        rank=rank,
        world_size=count,
        timeout=datetime.timedelta(seconds=TIMEOUT_S),
    )
    try:
        result = (True, task(rank))
    except BaseException:
        result = (False, f"rank {rank}: {traceback.format_exc()}")
    partial = scratch / f"partial-{rank}"
    partial.write_bytes(pickle.dumps(result))
    partial.rename(scratch / f"result-{rank}")
    os._exit(0)  # the parent's resources must not be torn down here
