"""A trained model of a study, which predicts for images in memory or in files."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tune.prediction.batches import Reader
from tune.prediction.inputs import images_of_folder
from tune.prediction.trained import Trained, load_trained

if TYPE_CHECKING:
    import torch

Images = np.ndarray | str | Path | Sequence[str | Path]
"""Images (B, H, W, 3) uint8, a folder, or files."""


@dataclass(frozen=True)
class Model:
    """The weights of one trial, or of one of its repeats, ready to predict.

    The predictions depend on the experiment: `ssl` and `fewshot` give features, `pretrain` and
    `classify` probabilities, `segment` masks.
    """

    trained: Trained

    def __repr__(self) -> str:
        return f"<Model {self.trained.name} of {self.trained.experiment}>"

    @property
    def trial(self) -> int:
        """Number of the trial."""
        return self.trained.trial

    @property
    def repeat(self) -> int | None:
        """Seed of the repeat; None for the trial itself."""
        return self.trained.repeat

    @property
    def classes(self) -> tuple[str, ...]:
        """Class names, in the order of the probabilities or of a mask's class numbers; empty if the
        training data had no labels."""
        return self.trained.served.classes

    @property
    def network(self) -> "torch.nn.Module":
        """The network, in evaluation mode; its `backbone` computes features."""
        network: torch.nn.Module = self.trained.served.model
        return network

    def predict(self, images: Images) -> np.ndarray:
        """Predict for each image.

        Args:
            images: (B, H, W, 3) uint8, or a folder of images (sorted by path), or files.
        Returns:
            Probabilities (B, C) float32, features (B, D) float32, or masks (B, H, W) uint8 of class
            numbers, at the images' original sizes. If the sizes differ, the masks are an array (B,)
            of arrays (H, W).
        Raises:
            UserError: the images have another shape or type, or a file cannot be read.
        """
        if isinstance(images, np.ndarray):
            return self.trained.served.predict(images)

        reader = Reader(self.trained.served)
        answers = [answer for _, answer in reader.answers(files_of(images))]
        return _stacked(answers)


def load_model(folder: Path, trial: int | None, repeat: int | None) -> Model:
    """Load the weights of a trial of the study in `folder`; see `Study.load_model`."""
    wanted = folder.name if trial is None else f"{folder.name}/{trial}"
    return Model(load_trained(wanted, folder.parent, repeat))


def files_of(images: str | Path | Sequence[str | Path]) -> list[Path]:
    """List the image files: those of a folder, sorted by path, or the given files."""
    given = [images] if isinstance(images, str | Path) else images
    paths = [Path(path).expanduser() for path in given]
    if len(paths) == 1 and paths[0].is_dir():
        return list(images_of_folder(paths[0]).files)
    return paths


def _stacked(answers: list[np.ndarray]) -> np.ndarray:
    """Stack answers if they have the same shape; otherwise return an array of arrays."""
    shapes = {answer.shape for answer in answers}
    if len(shapes) == 1:
        return np.stack(answers)

    apart: np.ndarray[Any, Any] = np.empty(len(answers), dtype=object)
    for place, answer in enumerate(answers):
        apart[place] = answer
    return apart
