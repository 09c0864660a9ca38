"""Facts about a study's images and training length that every page must state next to its
numbers."""

from collections.abc import Iterable, Sequence

from tune.backbones.seen import describe_overlap, describe_unknown
from tune.study.manifest import Manifest


def marks(manifest: Manifest) -> list[str]:
    """List these facts, one sentence each. Empty for an ordinary study, evaluated on images that
    nothing was trained on."""
    return [*marks_of_images(manifest), *filter(None, [length_of_control([manifest])])]


def marks_of_images(manifest: Manifest) -> list[str]:
    """List the facts about images and code, which may differ between the searches of a setting."""
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
    return found


def length_of_control(searches: Sequence[Manifest]) -> str:
    """Say how long a control trained; "" if these searches are not of one."""
    controls = [manifest.control for manifest in searches if manifest.control is not None]
    if not controls:
        return ""
    epochs = _range(manifest.base["train.epochs"] for manifest in searches)
    views = _range(control["images"] for control in controls)
    sources = {str(control["source"]) for control in controls}
    source = f"of {sources.pop()}" if len(sources) == 1 else "of the same search"
    return (
        f"trained from scratch for {epochs} epochs, as many images as the pre-training {source} "
        f"({views} views) and fine-tuning together"
    )


def _range(numbers: Iterable[int]) -> str:
    known = sorted(set(numbers))
    return " to ".join(f"{number:,}" for number in dict.fromkeys((known[0], known[-1])))
