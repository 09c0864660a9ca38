"""Run image files through a trained model. Threads decode a few batches ahead; predictions come in
batches of equally sized images, in the order of the files."""

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console

from trainables.data.images import CorruptImage
from trainables.data.source import progress_bar
from trainables.errors import UserError
from trainables.served import Served

_IMAGES = 256  # maximum per batch
_PIXELS = 1 << 22  # maximum per batch, unless it is one image: 256 images of 128 px
_AHEAD = 4  # images that each thread may decode in advance
_SHOWN = 20  # unreadable files named in a message

Prepared = np.ndarray | CorruptImage


@dataclass
class Reader:
    """Reads the images of one command and predicts for them.

    Args:
        skip_corrupt: leave out unreadable files; otherwise they raise an error.
    """

    served: Served
    skip_corrupt: bool = False
    left_out: list[tuple[Path, str]] = field(default_factory=list)
    """Unreadable files, each with the reason; filled during prediction."""

    def answers(self, files: Sequence[Path]) -> Iterator[tuple[int, np.ndarray]]:
        """Predict for every readable file. Yield its index in `files` and the result of
        `Served.predict`, while a terminal shows a progress bar.

        Raises:
            UserError: files cannot be read, and `skip_corrupt` is off or no file can be read.
                Raised after the last file, with all of them.
        """
        with progress_bar("predicting", len(files), Console(stderr=True).is_terminal) as advance:
            for numbers, pixels in self._batches(files, advance):
                if self.left_out and not self.skip_corrupt:
                    continue  # an error will follow; find all damaged files first
                answers = self.served.answer(pixels)
                yield from zip(numbers, answers, strict=True)
        self._check_corrupt(len(files))

    def said(self) -> list[str]:
        """Return one line about each file that was left out."""
        return [f"left out {path}: {reason}" for path, reason in self.left_out]

    def _batches(
        self, files: Sequence[Path], advance: Callable[[int], None]
    ) -> Iterator[tuple[list[int], np.ndarray]]:
        """Yield the indices of the files and their pixels (B, 3, h, w), with one image size per
        batch."""
        numbers: list[int] = []
        images: list[np.ndarray] = []
        for number, image in enumerate(_decoded(self.served, files)):
            advance(1)
            if isinstance(image, CorruptImage):
                self.left_out.append((files[number], str(image)))
                continue
            if images and not _fits(images, image):
                yield numbers, np.stack(images)
                numbers, images = [], []
            numbers.append(number)
            images.append(image)
        if images:
            yield numbers, np.stack(images)

    def _check_corrupt(self, count: int) -> None:
        if not self.left_out:
            return
        shown = [f"{path}: {reason}" for path, reason in self.left_out[:_SHOWN]]
        if len(self.left_out) > _SHOWN:
            shown.append("...")
        found = f"{len(self.left_out):,} of {count:,} images cannot be read ({'; '.join(shown)})"
        if len(self.left_out) == count:
            raise UserError(f"{found}; give images that can be read")
        if not self.skip_corrupt:
            raise UserError(f"{found}; repair them, or leave them out with --skip-corrupt")


def _fits(images: list[np.ndarray], image: np.ndarray) -> bool:
    """True if another image may join the batch."""
    height, width = image.shape[1:]
    pixels = height * width * (len(images) + 1)
    return image.shape == images[0].shape and len(images) < _IMAGES and pixels <= _PIXELS


def _decoded(served: Served, files: Sequence[Path]) -> Iterator[Prepared]:
    """Decode the files in threads, in order, a bounded number of files ahead."""

    def prepare(path: Path) -> Prepared:
        try:
            return served.read(path)
        except CorruptImage as error:
            return error

    threads = min(16, os.cpu_count() or 1)
    waiting: deque[Future[Prepared]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for path in files:
            waiting.append(pool.submit(prepare, path))
            if len(waiting) > _AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
