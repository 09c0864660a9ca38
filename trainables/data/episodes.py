"""Episodes of few-shot learning: N classes ("way"), K support images of each ("shot"), and query
images to classify among them.

Training episodes are drawn step by step (`EpisodeSampler`). Evaluation episodes are drawn once
(`draw_episodes`), or given by a csv in the folder (`given_episodes.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from trainables.data.splits import DataSet, Split
from trainables.errors import UserError

# Streams of random numbers under one seed, so that training and evaluation draw different episodes.
_TRAINING, _EVALUATION = 1, 2


@dataclass(frozen=True, eq=False)
class Episodes:
    """T fixed tasks over one split; support and query images of a task are disjoint."""

    support: np.ndarray  # (T, N, K) positions in the split
    query: np.ndarray  # (T, M) positions in the split
    truth: np.ndarray  # (T, M) class in [0, N), in the order of `support`

    def __len__(self) -> int:
        return len(self.support)

    @property
    def way(self) -> int:
        """Number of classes N in a task."""
        return int(self.support.shape[1])

    @property
    def shot(self) -> int:
        """Number of support images K per class."""
        return int(self.support.shape[2])


@dataclass(frozen=True, eq=False)
class FewShotData(DataSet):
    """A data set whose val and test classes do not occur in train."""

    given: dict[str, Episodes] = field(default_factory=dict)
    """Split ("val", "test") -> episodes that the folder gives."""

    def episodes(
        self, split: str, way: int, shot: int, query: int, count: int, seed: int
    ) -> Episodes:
        """Return the given episodes if they have this way and shot; otherwise draw `count` episodes
        by seed, with `query` query images per class.

        Raises:
            UserError: the split has too few classes with enough images.
        """
        given = self.given.get(split)
        if given is not None and (given.way, given.shot) == (way, shot):
            return given
        targets = targets_of(getattr(self, split))
        return draw_episodes(targets, way, shot, query, count, seed, split)

    def headline(self) -> str:
        """One line for the console."""
        counts: list[str] = []
        for name in ("train", "val", "test"):
            split: Split = getattr(self, name)
            images = len(split)
            classes = len(np.unique(targets_of(split)))
            counts.append(f"{images:,} {name} of {classes} classes")

        side = self.train.images.shape[-1]
        skipped = f", {len(self.skipped)} corrupt files skipped" if self.skipped else ""
        return (
            f"{self.name}: {', '.join(counts)}, images of {side} px{skipped} "
            f"[{self.fingerprint[:8]}]"
        )


class EpisodeSampler:
    """Training episodes. A step has as many whole episodes as fit into `batch_size` images, but at
    least one, all drawn from (seed, step).

    The positions of a step are (E, N, K + Q), flattened: K support images, then Q query images, of
    every class.

    Raises:
        UserError: too few classes have K + Q images.
    """

    def __init__(
        self,
        targets: np.ndarray,  # (n,) labels of the training split
        way: int,  # N
        shot: int,  # K
        query: int,  # Q per class
        batch_size: int,  # images
        seed: int,
    ):
        self.members = members_of(targets, way, shot, query, "train", "episode")
        self.way = way
        self.each = shot + query
        self.seed = seed
        self.unit = way * self.each
        self.per_step = max(1, batch_size // self.unit)
        self.batch_size = self.per_step * self.unit

    def positions(self, step: int) -> np.ndarray:
        """Positions (batch_size,) int64 into the training split of global step `step`."""
        rng = np.random.default_rng([self.seed, _TRAINING, step])
        episodes = [_draw(rng, self.members, self.way, self.each) for _ in range(self.per_step)]
        return np.stack(episodes).reshape(-1)


def draw_episodes(
    targets: np.ndarray,  # (n,) labels of a split
    way: int,  # N
    shot: int,  # K
    query: int,  # Q per class
    count: int,  # T
    seed: int,
    split: str,  # "val" or "test"
) -> Episodes:
    """Draw classes uniformly without replacement, then images of each in the same way (Snell et al.
    2017, algorithm 1).

    Raises:
        UserError: too few classes of the split have K + Q images.
    """
    members = members_of(targets, way, shot, query, split, "val")
    number = ("val", "test").index(split)
    rng = np.random.default_rng([seed, _EVALUATION, number])
    each = shot + query
    episodes = [_draw(rng, members, way, each) for _ in range(count)]
    drawn = np.stack(episodes)  # (T, N, K+Q)

    truth = np.repeat(np.arange(way), query)  # (N Q,)
    return Episodes(
        support=drawn[:, :, :shot],
        query=drawn[:, :, shot:].reshape(count, -1),
        truth=np.broadcast_to(truth, (count, way * query)),
    )


def members_of(
    targets: np.ndarray,  # (n,) labels of a split
    way: int,
    shot: int,
    query: int,
    split: str,
    block: str,  # config block named in the remedy
) -> list[np.ndarray]:
    """Positions of the images of every class with at least shot + query of them.

    Raises:
        UserError: there are fewer than `way` such classes.
    """
    needed = shot + query
    order = np.argsort(targets, kind="stable")
    starts = np.flatnonzero(np.diff(targets[order])) + 1
    classes = np.split(order, starts)
    members = [positions for positions in classes if len(positions) >= needed]
    if len(members) < way:
        raise UserError(
            f"{way}-way episodes of {shot} support and {query} query images need {way} classes "
            f"with {needed} images, {split} has {len(members)} (of {len(classes)}); "
            f"lower {block}.way, {block}.shot or {block}.query with --set"
        )
    return members


def targets_of(split: Split) -> np.ndarray:  # (n,) int64
    """Labels of a split; few-shot data always has labels."""
    targets = split.targets()
    assert targets is not None
    return targets


def _draw(
    rng: np.random.Generator,
    members: Sequence[np.ndarray],  # positions of each class
    way: int,  # N
    each: int,  # K + Q
) -> np.ndarray:  # (N, K + Q) positions
    """Draw one episode: classes, then images of each class, both without replacement."""
    chosen = rng.choice(len(members), way, replace=False)
    images = [rng.choice(members[number], each, replace=False) for number in chosen]
    return np.stack(images)
