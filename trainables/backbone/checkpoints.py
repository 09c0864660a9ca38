"""Finds a backbone's weights in a checkpoint of any tool.

Tools nest them in dicts (`{"epoch": 3, "state_dict": ...}`) or in modules whose names become
prefixes (`module.encoder_q.conv1.weight`), beside a second copy that follows the first
(`encoder_k`), or number them, as layers of an `nn.Sequential`. The backbone's own tensor names
decide: the dict and the prefix under which most of its names are found are used.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

# Levels of nested dicts: {"teacher": {"state_dict": ...}}.
_DEPTH = 3
# If a file has two copies, the one with such a name is not used: the copy that follows the other by
# a moving average (He et al. 2020, encoder_k; Grill et al. 2020, target). For DINO it is the
# student, because the paper evaluates the teacher (Caron et al. 2021, section 3.1).
_SECOND = {"momentum", "k", "key", "target", "ema", "student"}
# Modules that only wrap others: DataParallel's, torch.compile's, and a common attribute.
_WRAPPERS = ("module", "_orig_mod", "model")
# Most modules named in a message.
_SHOWN = 3


@dataclass(frozen=True)
class FoundWeights:
    """Weights of a backbone and its head in a file, under torchvision's names."""

    state: dict[str, Tensor]
    dicts: tuple[str, ...] = ()
    """Keys of the dicts around the weights; empty for the usual `state_dict`."""
    prefix: str = ""
    """Prefix removed from every name."""
    numbered: bool = False
    """True if the file numbers its layers."""
    others: tuple[str, ...] = ()
    """Names in the file of tensors without that prefix, which are left out."""

    def __str__(self) -> str:
        """Comma-separated clauses about changes to the names; "" if there were none."""
        clauses = []
        if self.dicts:
            clauses.append(f"read from its dict {'/'.join(self.dicts)}")
        if self.prefix:
            clauses.append(f"prefix {self.prefix} taken off")
        if self.numbered:
            clauses.append("numbered layers named")
        if self.others:
            clauses.append(f"{len(self.others)} other tensors left out ({_roots(self.others)})")
        return ", ".join(clauses)


@dataclass(frozen=True)
class _Place:
    """A state_dict in the file, and a prefix within it."""

    path: tuple[str, ...]
    """Keys of the dicts around the state_dict."""
    state: Mapping[str, Tensor]
    """Tensors by name, under the prefix or not."""
    prefix: str = ""
    """Start of the names that are counted."""
    matches: int = 0
    """Number of the backbone's names found under the prefix."""

    @property
    def preference(self) -> tuple[int, bool, int]:
        """Sort key: most matches, then the trained copy, then the shortest name."""
        name = ".".join((*self.path, self.prefix))
        words = re.split(r"[._]", name.lower())
        second = bool(_SECOND.intersection(words))
        return -self.matches, second, len(name)


def find_weights(payload: Mapping[str, Any], backbone: nn.Module) -> FoundWeights | None:
    """Find the weights of `backbone` in what `torch.load` read; None if it contains no named
    tensors.

    A prefix is removed if at least half of the backbone's names are found under it. If layers are
    numbered, as in `nn.Sequential(*list(resnet.children())[:-1])`, all of them must be present.
    """
    states = [_Place(path, state) for path, state in _state_dicts(payload)]
    if not states:
        return None

    own = {name: name for name in backbone.state_dict()}
    best = _best(states, own)
    if 2 * best.matches >= len(own):
        return _taken(best, {})

    numbers = _numbers(backbone)
    numbered = {_renamed(name, numbers): name for name in own}
    by_number = _best(states, numbered)
    if by_number.matches == len(own):
        return _taken(by_number, {number: name for name, number in numbers.items()})

    return FoundWeights(dict(states[0].state))


def _state_dicts(
    payload: Mapping[str, Any], path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    """Yield every dict of named tensors in `payload`, outer ones first, with the keys to it."""
    tensors: dict[str, Tensor] = {}
    inner: list[tuple[str, Mapping[str, Any]]] = []
    for key, value in payload.items():
        if not isinstance(key, str):
            continue
        if isinstance(value, Tensor):
            tensors[key] = value
        if isinstance(value, Mapping):
            inner.append((key, value))

    if tensors:
        yield path, tensors
    if len(path) < _DEPTH:
        for key, value in inner:
            yield from _state_dicts(value, (*path, key))


def _best(states: Iterable[_Place], wanted: Mapping[str, str]) -> _Place:
    """Return the state_dict and prefix that contain most of the wanted names.

    Args:
        states: those of the file, each without a prefix.
        wanted: names of the backbone.
    """
    places = []
    for place in states:
        places.append(place)
        counts = _prefixes(place.state, wanted)
        for prefix, matches in counts.items():
            places.append(_Place(place.path, place.state, prefix, matches))

    return min(places, key=lambda place: place.preference)


def _prefixes(state: Iterable[str], wanted: Mapping[str, str]) -> Counter[str]:
    """Count the wanted names in `state` under each prefix.

    Args:
        state: names in the file.
        wanted: names of the backbone.
    """
    counts: Counter[str] = Counter()
    for key in state:
        start = 0
        while True:
            if key[start:] in wanted:
                counts[key[:start]] += 1
            dot = key.find(".", start)
            if dot < 0:
                break
            start = dot + 1
    return counts


def _taken(place: _Place, names: Mapping[str, str]) -> FoundWeights:
    """Take the tensors under the place's prefix.

    Args:
        names: number of a layer -> its name; {} if the file has names.
    """
    state: dict[str, Tensor] = {}
    others = []
    for key, value in place.state.items():
        if key.startswith(place.prefix):
            state[_renamed(key.removeprefix(place.prefix), names)] = value
        else:
            others.append(key)

    usual = place.path in ((), ("state_dict",))
    dicts = () if usual else place.path
    return FoundWeights(state, dicts, place.prefix, bool(names), tuple(others))


def _numbers(backbone: nn.Module) -> dict[str, str]:
    """Layer name -> its number in an `nn.Sequential` of the same layers."""
    names = [name for name, _ in backbone.named_children()]
    return {name: str(number) for number, name in enumerate(names)}


def _renamed(key: str, names: Mapping[str, str]) -> str:
    """Rename the first component of a dotted name."""
    first, dot, rest = key.partition(".")
    return names.get(first, first) + dot + rest


def _roots(names: Iterable[str]) -> str:
    """First modules that contain the named tensors, for a message."""
    roots = list(dict.fromkeys(_root(name) for name in names))
    shown = ", ".join(roots[:_SHOWN])
    return f"{shown}, ..." if len(roots) > _SHOWN else shown


def _root(name: str) -> str:
    """Shorten a tensor's name to the module that identifies it, such as `module.encoder_k.`."""
    parts = name.split(".")
    wrappers = 0
    while wrappers < len(parts) - 1 and parts[wrappers] in _WRAPPERS:
        wrappers += 1

    root = ".".join(parts[: wrappers + 1])
    return root if wrappers + 1 == len(parts) else f"{root}."
