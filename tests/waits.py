"""Count operations that would make the CPU wait for a GPU, or fail on a GPU, in work that runs on a
CPU.

Tensors that a GPU would hold are registered (`track`). Results computed from them, and tensors made
with `device=` or sent to a device, are registered too. Tensors that the CPU computes for itself,
such as the parameters of an augmentation, are not. A GPU would refuse an operation that mixes both
kinds.
"""

import contextlib
import sys
from collections.abc import Iterable, Iterator
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from trainables import devices
from trainables.augment.mixing import Mix
from trainables.base import Batch
from trainables.engine.checkpoint import TrainingState
from trainables.engine.feed import Feed

WAITING = {
    "_local_scalar_dense",  # .item(), float(), bool(), a branch on a tensor
    "nonzero",
    "masked_select",
    "bincount",
    "_unique2",
    "unique_dim",
    "unique_consecutive",
    "equal",
}
"""ATen operations whose result, or its shape, the CPU has to know."""
CROSSING = {"copy_", "_to_copy", "_foreach_copy_"}
"""Operations that may mix a tensor on a GPU with one on the CPU."""
METHODS = {
    Tensor.cpu: "cpu",
    Tensor.numpy: "numpy",
    Tensor.tolist: "tolist",
    Tensor.__array__: "__array__",
}
"""Methods that read a tensor back. ATen does not see them if the tensor is already on the CPU."""


CHECKED = {functional.one_hot}
"""Functions that check values on a CPU. On a GPU their kernels do it."""


class Waits:
    """Names of operations that wait, in the order of their calls.

    >>> waits = Waits.of(state)
    >>> with waits.watching(state.batches.feed), waits:
    ...     train_step(state, config, runtime, step, total_steps)
    >>> waits.found
    []
    """

    @classmethod
    def of(cls, state: TrainingState) -> "Waits":
        """Track everything that a training keeps on its device: parameters, buffers and moments."""
        moments = [x for x in tree_leaves(state.optimizer.state_dict()) if isinstance(x, Tensor)]
        model = state.trainable
        held = [*model.parameters(), *model.buffers(), state.loss_sum]
        if state.average is not None:
            held += state.average.values.values()
        return cls([*held, *(moment for moment in moments if moment.ndim)])

    def __init__(self, tensors: Iterable[Tensor] = ()):
        self.found: list[str] = []
        self.mixed: list[str] = []
        """Operations that mix tensors of GPU and CPU, which a GPU refuses."""
        self.depth = 0
        """Number of calls in progress that work on a GPU. Tensors made in them are on the GPU."""
        self.draws = False
        """True while a batch is being drawn."""
        self.checks = 0
        """Number of calls of `CHECKED` in progress."""
        self._held: dict[int, Any] = {}  # storages, held so that their addresses are not reused
        self.track(tensors)
        self._modes = (_Operations(self), _Methods(self))

    def track(self, tensors: Iterable[Tensor]) -> None:
        """Register tensors as ones that a GPU holds."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            self._held[storage._cdata] = storage

    def holds(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._held

    def __enter__(self) -> "Waits":
        self._stack = contextlib.ExitStack()
        users = [module for module in sys.modules.values() if _uses_send(module)]
        for module in users:
            self._stack.enter_context(mock.patch.object(module, "send", self.send))
        for mode in self._modes:
            self._stack.enter_context(mode)
        return self

    def __exit__(self, *error: Any) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def watching(self, feed: Feed) -> Iterator[None]:
        """Register what the batches of a feed move to a device."""
        lane = feed._lane
        receive = lane.receive

        def tracked(batch: Batch) -> Batch:
            moved = [batch.images, batch.targets]
            for view in batch.draws:
                if isinstance(view, Mix):
                    moved += [view.images, view.targets, view.blended, view.share, view.boxes]
                elif isinstance(view, Tensor):
                    moved.append(view)
            self.track(tensor for tensor in moved if tensor is not None)
            return receive(batch)

        draw = feed._draw

        def drawn(step: int) -> Batch:
            self.draws = True
            try:
                return draw(step)
            finally:
                self.draws = False

        with mock.patch.object(lane, "receive", tracked), mock.patch.object(feed, "_draw", drawn):
            yield

    def send(self, x: Tensor, device: torch.device) -> Tensor:
        """Replace `devices.send`: return a copy, registered as held by a GPU. Batches are drawn on
        the CPU."""
        if self.draws:
            return x
        sent = x.clone()
        self.track([sent])
        return sent


def _uses_send(module: Any) -> bool:
    is_ours = getattr(module, "__name__", "").startswith("trainables.")
    return is_ours and vars(module).get("send") is devices.send


class _Operations(TorchDispatchMode):
    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        made_there = not given and self.waits.depth > 0
        if made_there or any(self.waits.holds(tensor) for tensor in given):
            name = func.overloadpacket.__name__
            waits = name in WAITING or _chooses(name, args, self.waits)
            if waits and not self.waits.checks:
                self.waits.found.append(name)
            apart = [x for x in given if x.ndim and not self.waits.holds(x)]
            if apart and name not in CROSSING:
                self.waits.mixed.append(name)
            self.waits.track(x for x in tree_leaves(result) if isinstance(x, Tensor))
            self.waits.track(_written(func, args))
        return result


def _chooses(name: str, args: Any, waits: Waits) -> bool:
    """True for an index by a mask that a GPU holds, because the CPU must know how many values it
    selects."""
    if name not in ("index", "index_put", "index_put_", "_unsafe_index", "_index_put_impl_"):
        return False
    masks = [x for x in tree_leaves(args[1]) if isinstance(x, Tensor)]
    return any(mask.dtype in (torch.bool, torch.uint8) and waits.holds(mask) for mask in masks)


def _written(func: Any, args: Any) -> list[Tensor]:
    """Arguments that an operation writes to."""
    written = []
    for argument, value in zip(func._schema.arguments, args, strict=False):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written += [x for x in tree_leaves(value) if isinstance(x, Tensor)]
    return written


class _Methods(TorchFunctionMode):
    def __init__(self, waits: Waits):
        super().__init__()
        self.waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
        held = any(self.waits.holds(tensor) for tensor in given)
        if held and func in METHODS:
            self.waits.found.append(METHODS[func])
        if held and func is Tensor.to and _names_cpu(args[1:], kwargs):
            self.waits.found.append("to")

        there = held or kwargs.get("device") is not None
        checked = func in CHECKED
        self.waits.depth += there
        self.waits.checks += checked
        try:
            return func(*args, **kwargs)
        finally:
            self.waits.depth -= there
            self.waits.checks -= checked


def _names_cpu(args: Any, kwargs: dict[str, Any]) -> bool:
    named = [*args, *kwargs.values()]
    return any(isinstance(value, str) and value == "cpu" for value in named)
