"""Self-supervised backbones: compute the features of every image, and write an npz."""

import numpy as np

from trainables.files import atomic_file, remove_partials_of
from tune.prediction.batches import Reader
from tune.prediction.inputs import images_of_folder, images_of_table, read_table
from tune.prediction.output import check_file
from tune.prediction.request import Request
from tune.prediction.trained import Trained


def predict_features(trained: Trained, reader: Reader, request: Request) -> list[str]:
    """Write `features` (n, D) float32 and `filenames` (n,) for the images of a folder or a csv.
    Return lines for the user.

    Raises:
        UserError: there are no images, files are missing or unreadable, or `out` already exists.
    """
    source = request.source
    out = request.out
    check_file(out, request.overwrite, "features.npz")
    images = images_of_folder(source) if source.is_dir() else images_of_table(read_table(source))
    names: list[str] = []
    features: list[np.ndarray] = []
    for number, answer in reader.answers(images.files):
        names.append(images.names[number])
        features.append(answer)

    table = np.stack(features).astype(np.float32)
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_partials_of(out)
    with atomic_file(out) as file:
        np.savez(file, features=table, filenames=np.array(names))
    line = f"{len(names):,} images -> {out}: features {table.shape}, of {trained.name}"
    return [line, *images.notes, *reader.said()]
