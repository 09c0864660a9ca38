"""Write the card of an exported model, the `README.md` beside it. It says what the model is, its
training and test data, how to load it, and where it comes from. All of it is read from the record.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from trainables.files import write_result
from trainables.served import DESCRIPTION
from tune.backbones.resolve import lineage_tags
from tune.backbones.seen import seen_tags
from tune.command_line import replay_command
from tune.export import Exported
from tune.formatting import DEFAULT, assignments, format_value
from tune.reports.doubts import doubts
from tune.reports.sampling_error import outcomes_of, sampling_variance
from tune.reports.selection import selection
from tune.reports.statistics import mean_of
from tune.reports.verdict import claim, judge_study, repeat_scores
from tune.study.record import Record, read_record

CARD = "README.md"
"""Name of the card in the folder of an exported model."""

_ANSWERS = {
    "BYOL": ("a backbone, trained without labels", "features (B, D)"),
    "SelfSupervised": ("a backbone, trained without labels", "features (B, D)"),
    "Pretraining": ("a classifier", "logits (B, classes)"),
    "Classifier": ("a classifier", "logits (B, classes)"),
    "ProtoNet": ("a backbone for few-shot classification", "features (B, D)"),
    "Segmentation": ("a segmentation network", "scores (B, classes, H, W)"),
}
"""Kind of model -> (description, output of its exported graph)."""
_UNBOUNDED = ("rankme", "loss", "std")  # suffixes of metrics that are not in [0, 1]
_NAMED = 20  # maximum number of class names listed


def write_card(exported: Exported) -> Path:
    """Write the card into the folder of an exported model.

    Raises:
        UserError: the study's record cannot be read.
    """
    record = read_record(exported.study)
    about = _description(exported.folder)
    sections = [
        _opening(exported, record, about),
        _section("Use", _use(exported, about)),
        _section("Data", _data(record, about)),
        _section("Results", _results(exported, record)),
        _section("Configuration", _configuration(exported, record)),
        _section("Limits", _limits(exported, record, about)),
        _section("Lineage", _lineage(exported, record)),
    ]
    path = exported.folder / CARD
    write_result(path, "\n".join(sections))
    return path


def _description(folder: Path) -> dict[str, Any]:
    """Read `model.json`, which the MLflow format keeps one level down."""
    (path,) = folder.rglob(DESCRIPTION)
    return dict(json.loads(path.read_text()))


def _section(title: str, lines: Iterator[str]) -> str:
    return "\n".join([f"## {title}", "", *lines, ""])


def _table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Format a Markdown table."""
    return [_line(header), _line(["---"] * len(header)), *map(_line, rows)]


def _line(values: Sequence[object]) -> str:
    cells = " | ".join(map(_cell, values))
    return f"| {cells} |"


def _cell(value: object) -> str:
    return str(value).replace("|", "\\|").replace("\n", " ")


# ---------------------------------------------------------------- sections


def _opening(exported: Exported, record: Record, about: dict[str, Any]) -> str:
    what, _ = _ANSWERS[about["kind"]]
    config = about["config"]
    network = config.get("model.name") or config["backbone.name"]
    manifest = record.manifest
    return "\n".join(
        [
            f"# {exported.study.name}/{exported.trial}",
            "",
            f"{what[0].upper()}{what[1:]}: {network}, trained by vistune's `{manifest.experiment}` "
            f"on {manifest.data['name']}. Format: {exported.format}.",
            "",
        ]
    )


def _use(exported: Exported, about: dict[str, Any]) -> Iterator[str]:
    size = about["config"]["data.image_size"]
    segments = about["kind"] == "Segmentation"
    whole = segments and about["config"].get("data.judged") == "whole"
    _, answer = _ANSWERS[about["kind"]]
    code = _CODE[exported.format].format(size=size)
    yield "```python"
    yield code.strip()
    yield "```"
    yield ""
    if exported.format in ("onnx", "torch_export"):
        seen = f"the largest centred square of an image, resized to {size} x {size} pixels"
        if whole:
            seen = f"whole images, resized until the shorter side is {size} pixels,"
        yield (
            f"Input: `images` (B, 3, H, W) float32, RGB from 0 to 1, {seen} by Pillow's bicubic "
            f"filter. Normalisation is inside. Output: {answer}."
        )
    elif exported.format == "safetensors":
        yield (
            "`backbone.*` are the backbone's weights under its architecture's names, `head.*` the "
            "weights on top of it, if any. `model.json` has the whole configuration, including "
            "the normalisation."
        )
    else:
        yield (
            "Input: images (B, H, W, 3) uint8, RGB from 0 to 255, of any size. Output: of a "
            "classifier, a probability per class; of a segmentation network, class numbers "
            "(B, H, W); of any other model, features."
        )


_CODE = {
    "mlflow": """
import mlflow.pyfunc
model = mlflow.pyfunc.load_model(".")  # this folder
answer = model.predict(images)  # (B, H, W, 3) uint8
""",
    "onnx": """
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(answer,) = session.run(None, {{"images": images}})  # (B, 3, {size}, {size}) float32 in [0, 1]
""",
    "torch_export": """
import torch
model = torch.export.load("model.pt2").module()
answer = model(images)  # (B, 3, {size}, {size}) float32 in [0, 1]
""",
    "safetensors": """
from safetensors.torch import load_file
start = "backbone."
tensors = load_file("model.safetensors")
backbone = {{k.removeprefix(start): v for k, v in tensors.items() if k.startswith(start)}}
""",
}


def _data(record: Record, about: dict[str, Any]) -> Iterator[str]:
    data = record.manifest.data
    rows = [("name", data["name"]), ("fingerprint", data["fingerprint"])]
    summary = record.manifest.data_summary
    if summary is None:
        rows.append(("training images", f"{data['images']:,}"))
    else:
        rows += [row for row in summary.rows() if row[0] != "folders"]
    yield from _table(["", ""], rows)

    classes = about["classes"]
    if classes:
        named = ", ".join(classes[:_NAMED])
        more = f", and {len(classes) - _NAMED} more in model.json" if len(classes) > _NAMED else ""
        yield ""
        yield f"Classes, in the order of the output: {named}{more}."


def _results(exported: Exported, record: Record) -> Iterator[str]:
    recorded, measured = exported.recorded, exported.measured
    yield (
        f"On the validation split, {exported.objective} of this file is {measured:.4f}; the "
        f"record has {recorded:.4f}."
    )
    if exported.difference is not None:
        yield (
            f"Its answers differ from the trained network's by at most {exported.difference:.1e} "
            "of the largest answer."
        )
    yield ""
    chosen = selection(record, len(record.trials))
    if chosen is not None and chosen.number == exported.trial:
        yield f"This is the study's choice ({chosen.label})."
        yield ""

    rows = _tested(record, exported.trial)
    if rows:
        yield "The same configuration, trained again under fresh seeds, on the test split:"
        yield ""
        header = ["metric", "mean and 95 % interval", "seeds", "the interval covers"]
        yield from _table(header, rows)
        yield ""
        yield "This file has the weights of the trial itself, which was not judged on that split."
    else:
        yield "The configuration was not repeated: nothing is known about the test split."
    yield ""
    yield claim(record, judge_study(record))


def _tested(record: Record, trial: int) -> list[tuple[str, str, str, str]]:
    """Return, for each test metric of a trial's repeats: its name, mean with interval, number of
    seeds, and the sources of error that the interval covers."""
    names: set[str] = set()
    for (number, _), metrics in record.finals().items():
        if number == trial:
            names |= {name for name in metrics if name.startswith("test/")}
    rows = []
    for name in sorted(names):
        scores = repeat_scores(record, trial, name)
        if len(scores) < 2:
            continue
        error = sampling_variance(name, outcomes_of(record, trial))
        mean = mean_of(list(scores.values()), error or 0.0)
        if not name.endswith(_UNBOUNDED):
            mean = mean.clipped_to_unit()
        covered = "seeds" if error is None else "seeds, test images"
        rows.append((name, str(mean), f"{len(scores)}", covered))
    return rows


def _configuration(exported: Exported, record: Record) -> Iterator[str]:
    differs = assignments(record.differences(exported.trial)) or DEFAULT
    yield f"Searched values that differ from the default: {differs}."
    yield ""
    config = record.trials[exported.trial].config
    rows = [(name, format_value(value)) for name, value in config.items()]
    yield from _table(["config", "value"], rows)


def _limits(exported: Exported, record: Record, about: dict[str, Any]) -> Iterator[str]:
    yield (
        "- It was judged only on images of the data set above. No number here covers other "
        "cameras, places or classes."
    )
    if about["kind"] in ("Classifier", "Pretraining"):
        yield "- It always answers with one of its classes, whatever an image shows."
    for doubt in doubts(record, exported.study.parent):
        yield f"- {doubt}"


def _lineage(exported: Exported, record: Record) -> Iterator[str]:
    manifest = record.manifest
    versions = ", ".join(f"{name} {version}" for name, version in manifest.versions.items())
    rows = [
        ("study", f"{manifest.name}, begun {manifest.created}, seed {manifest.seed}"),
        ("trial", exported.trial),
        ("experiment", f"{manifest.experiment}, preset {manifest.preset}"),
        ("commit of vistune", manifest.commit or "not on record"),
        ("versions", versions),
        *(lineage_tags(manifest.base) | seen_tags(manifest)).items(),
    ]
    yield from _table(["", ""], rows)
    yield ""
    replay = replay_command(manifest.typed_experiment, exported.study, exported.trial)
    yield f"`{replay}` trains it again and compares it with the record."
