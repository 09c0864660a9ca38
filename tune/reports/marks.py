"""Facts about a study's images and training length that every page must state next to its
numbers."""

from tune.backbones.seen import describe_overlap, describe_unknown
from tune.study.manifest import Manifest


def marks(manifest: Manifest) -> list[str]:
    """List these facts, one sentence each. Empty for an ordinary study, evaluated on images that
    nothing was trained on."""
    found = []
    seen = manifest.seen
    if seen is not None:
        overlap = describe_overlap(seen)
        if overlap:
            found.append(f"{overlap} (--allow-seen): its test results flatter it")
        unknown = describe_unknown(seen)
        if unknown:
            found.append(unknown)
    if manifest.base.get("data.transductive"):
        found.append(
            "trained on the images of val and test too, without their labels (--transductive)"
        )
    code = manifest.code or manifest.source or {}
    changes = len(code.get("earlier", []))
    if changes:
        times = "once" if changes == 1 else f"{changes} times"
        found.append(
            f"its code was changed {times} after it had begun (--accept-code): not all trials ran "
            "the same"
        )
    if manifest.control is not None:
        epochs = manifest.base["train.epochs"]
        views = manifest.control["images"]
        found.append(
            f"trained from scratch for {epochs} epochs, as many images as the pre-training of "
            f"{manifest.control['source']} ({views:,} views) and fine-tuning together"
        )
    return found
