"""Weights published by timm, from the Hugging Face hub or its local cache.

Values of `--backbone`:

    --backbone timm              # timm's own choice for backbone.name=timm:NAME
    --backbone timm:lvd142m      # weights by their tag
"""

from pathlib import Path
from typing import Any

from trainables.errors import UserError, first_line

TIMM = "timm"
# Files in a timm repository, the preferred one first.
_FILES = ("model.safetensors", "pytorch_model.bin")


def from_timm(wanted: str, architecture: str) -> tuple[Path, str, str]:
    """Return the path of the weights in the hub's cache, after downloading them if necessary, their
    full name, and the name of the normalization that they were trained with.

    Args:
        wanted: `timm`, or `timm:` and a tag.
        architecture: `backbone.name`.
    Raises:
        UserError: the backbone is not one of timm, there are no such weights, their normalization
            has no name, or there is neither a network nor a cached file.
    """
    # imported here: it needs torch, which a refusal need not wait for
    from trainables.backbone.timm_networks import PREFIX, check_timm_name, import_timm, is_timm

    if not is_timm(architecture):
        raise UserError(
            f"--backbone {wanted}: timm has weights for backbone.name=timm:..., not for "
            f"{architecture}; add e.g. --set backbone.name=timm:resnet18"
        )
    tag = wanted.partition(":")[2]
    name = architecture
    if tag:
        name = f"{architecture.partition('.')[0]}.{tag}"
    check_timm_name(name)

    published = import_timm().get_pretrained_cfg(name.removeprefix(PREFIX))
    if published is None or not published.hf_hub_id:
        raise UserError(f"--backbone {wanted}: timm publishes no weights of {name} on the hub")

    full = name
    if published.tag and "." not in name:
        full = f"{name}.{published.tag}"
    normalize = _normalization(wanted, published)
    return _file(wanted, published), full, normalize


def _normalization(wanted: str, published: Any) -> str:
    """Return the name of the published weights' mean and standard deviation."""
    from trainables.augment.image_ops import MEAN_STD

    found = (tuple(published.mean), tuple(published.std))
    for name, values in MEAN_STD.items():
        if values == found:
            return name
    raise UserError(
        f"--backbone {wanted}: these weights were trained with mean {found[0]}, which is not "
        f"one of {', '.join(MEAN_STD)}; give their file as --backbone PATH to take one of those "
        "anyway"
    )


def _file(wanted: str, published: Any) -> Path:
    """Return the path of the weights file, from the cache if it is there."""
    import huggingface_hub

    repository, _, revision = published.hf_hub_id.partition("@")
    own = published.hf_hub_filename
    names = [own] if own else list(_FILES)

    reason = ""
    for offline in (True, False):
        for name in names:
            try:
                found = huggingface_hub.hf_hub_download(
                    repository, name, revision=revision or None, local_files_only=offline
                )
            except Exception as error:  # the hub and the network raise many types
                reason = reason if offline else reason or first_line(error)
                continue
            return Path(found)

    raise UserError(
        f"--backbone {wanted}: {repository} cannot be downloaded ({reason}) and is not cached: "
        f"bring it by `hf download {repository}`, or give --backbone PATH"
    )
