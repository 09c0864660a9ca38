"""Compare the images on which a backbone was trained with the study's own val and test images."""

from pathlib import Path
from typing import Any

from trainables.errors import UserError
from tune.study.manifest import Manifest

_NAMED = 5  # classes named in a message


def check_seen(base: dict[str, Any], data: Any, allowed: bool) -> dict[str, Any] | None:
    """Refuse a backbone that was trained on images (few-shot: also on classes) on which the study
    is evaluated.

    Args:
        base: flat config of the study.
        data: data set of the study.
        allowed: record the overlap instead of refusing (`--allow-seen`).
    Returns:
        What the backbone has seen, for the manifest; None for random initialization.
    Raises:
        UserError: it has seen some of them; the message says how many.
    """
    if not base.get("init.file"):
        return None
    # imported here: they need torch, which a refusal need not wait for
    from trainables.backbone.export import load_seen
    from trainables.data.seen import met

    record = load_seen(Path(base["init.file"]))
    found: dict[str, Any] = {
        "backbone": base["init.origin"] or base["init.file"],
        "complete": record.complete,
        "digest": record.digest,
        "with_labels": len(record.keys(labels=True)),
        "without_labels": len(record.keys(labels=False)),
        "trainings": [
            {"data": one.data, "seed": one.seed, "labels": one.labels, "images": len(one.keys)}
            for one in record.trainings
        ],
        "val": vars(met(record, data, data.val)),
        "test": vars(met(record, data, data.test)),
        "classes": _new_classes_met(record, data),
    }
    overlap = describe_overlap(found)
    if overlap and not allowed:
        raise UserError(f"{overlap}; {_remedy(base, data, found)}")
    return found


def describe_overlap(found: dict[str, Any]) -> str:
    """Say which part of val and test the backbone was trained on; "" if none.

    Args:
        found: result of `check_seen`.
    """
    clauses = []
    for split in ("test", "val"):
        for key, how in (("with_labels", "with"), ("without_labels", "without")):
            count = found[split][key]
            if count:
                images = f"{count:,} of {found[split]['images']:,} {split} images"
                clauses.append(f"{images} were trained on {how} labels")
    if found["classes"]:
        named = ", ".join(found["classes"][:_NAMED])
        more = ", ..." if len(found["classes"]) > _NAMED else ""
        clauses.append(
            f"{len(found['classes'])} classes of val and test, which should be new, were learned "
            f"with labels ({named}{more})"
        )
    if not clauses:
        return ""
    return f"backbone {found['backbone']}: {' and '.join(clauses)}"


def describe_unknown(found: dict[str, Any]) -> str:
    """Say that it is unknown what the backbone was trained on; "" if it is known."""
    if found["complete"]:
        return ""
    return (
        f"what backbone {found['backbone']} has seen is unknown: "
        "images of val and test may be among it"
    )


def seen_tags(manifest: Manifest) -> dict[str, str]:
    """Return tags for the study's run in MLflow."""
    if manifest.base.get("data.transductive"):
        return {"data.transductive": "trained on val and test images, without labels"}
    found = manifest.seen
    if found is None:
        return {}
    images = f"{found['with_labels']} with labels, {found['without_labels']} without"
    tags = {"lineage.seen": found["digest"], "lineage.seen_images": images}
    if not found["complete"]:
        tags["lineage.seen_images"] += ", others unknown"
    overlap = describe_overlap(found)
    if overlap:
        tags["lineage.allow_seen"] = overlap
    return tags


def _new_classes_met(record: Any, data: Any) -> list[str]:
    """Return the classes of val and test that a few-shot study treats as new although the backbone
    learned them."""
    from trainables.data import FewShotData
    from trainables.data.seen import classes_met

    if not isinstance(data, FewShotData):
        return []
    known = [*classes_met(record, data, data.val), *classes_met(record, data, data.test)]
    return list(dict.fromkeys(known))


def _remedy(base: dict[str, Any], data: Any, found: dict[str, Any]) -> str:
    seed = base["data.seed"]
    same_data = [one for one in found["trainings"] if one["data"] == data.name]
    others = [one["seed"] for one in same_data if one["seed"] != seed]
    ways = ["give another --backbone"]
    if others and not found["classes"]:
        ways.insert(0, f"split the images as it did (--set data.seed={others[0]})")
    return f"{', '.join(ways)}, or let it run with --allow-seen, which marks every page"
