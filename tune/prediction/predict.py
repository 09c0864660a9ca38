"""`report.py predict`: write predictions of any study's model in the format in which people submit
them."""

from dataclasses import replace
from pathlib import Path

from trainables.errors import UserError
from tune.prediction.batches import Reader
from tune.prediction.episodes import predict_episodes
from tune.prediction.features import predict_features
from tune.prediction.labels import predict_labels
from tune.prediction.masks import predict_masks
from tune.prediction.request import Request
from tune.prediction.trained import Trained, load_trained


def predict(study: str, storage: Path, request: Request) -> list[str]:
    """Predict with the model of STUDY (its chosen trial) or STUDY/TRIAL. Return lines for the user.

    Raises:
        UserError: there is no such study or trial, there are no images, files cannot be read, or
            the output already exists.
    """
    source = request.source.expanduser()
    _check_source(source)
    trained = load_trained(study, storage, request.repeat, request.data)
    if request.probabilities and not trained.served.classifies:
        raise UserError(
            f"--probabilities: {trained.experiment} gives no probabilities; leave the option out"
        )
    if request.max_megapixels is not None:
        trained.served.megapixels = request.max_megapixels
    reader = Reader(trained.served, request.skip_corrupt)
    expanded = replace(request, source=source, out=request.out.expanduser())
    first, *more = _predict(trained, reader, expanded)
    return [f"{trained.name}: {first}", *more]


def _check_source(source: Path) -> None:
    if source.is_dir():
        return
    advice = "give a folder of images, or a csv that names them"
    if not source.exists():
        raise UserError(f"{source} does not exist; {advice}")
    if source.suffix.lower() not in (".csv", ".tsv"):
        raise UserError(f"{source} is not a csv; {advice}")


def _predict(trained: Trained, reader: Reader, request: Request) -> list[str]:
    if trained.served.segments:
        return predict_masks(trained, reader, request)
    if trained.served.compares:
        return predict_episodes(trained, reader, request)
    if trained.served.classifies:
        return predict_labels(trained, reader, request)
    return predict_features(trained, reader, request)
