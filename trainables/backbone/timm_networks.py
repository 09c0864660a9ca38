"""Backbones of timm (Wightman 2019, https://github.com/huggingface/pytorch-image-models): any of
its networks, as `backbone.name=timm:NAME`, without its classification head.

timm is an extra, imported only when such a backbone is requested. The inputs that a network accepts
are tested on the meta device, which propagates shapes without computing anything.
"""

import difflib
import sys
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, cast

import torch
from torch import Tensor, nn

from trainables.errors import UserError, first_line
from trainables.packages import install

PREFIX = "timm:"
"""Prefix of timm networks in `backbone.name`."""

# Options that make a network accept other image sizes than its weights were trained with. A network
# supports one of them, or needs none.
_SIZE_OPTIONS: tuple[dict[str, bool], ...] = (
    {"dynamic_img_size": True},
    {"strict_img_size": False},
    {},
)


def is_timm(name: str) -> bool:
    """True if `backbone.name` requests a timm network."""
    return name.startswith(PREFIX)


def import_timm() -> Any:
    """Import timm.

    Raises:
        UserError: timm is not installed.
    """
    try:
        import timm
    except ImportError:
        raise UserError(
            f"backbone.name=timm:... needs the package timm: {install('timm')}"
        ) from None
    return timm


@lru_cache
def check_timm_name(name: str) -> None:
    """Raise UserError if timm has no network, or no tag of weights, of this name."""
    timm = import_timm()
    wanted = name.removeprefix(PREFIX)
    architecture, _, tag = wanted.partition(".")

    if not timm.is_model(architecture):
        close = difflib.get_close_matches(architecture, timm.list_models(), n=1)
        hint = f"did you mean {PREFIX}{close[0]}?" if close else "timm.list_models() lists them"
        raise UserError(f"backbone.name={name}: timm has no such network; {hint}")

    tags = [known.partition(".")[2] for known in timm.list_pretrained(f"{architecture}.*")]
    if tag and tag not in tags:
        raise UserError(
            f"backbone.name={name}: timm has no weights {tag!r} of {architecture}; "
            f"valid: {', '.join(tags) or 'none'}"
        )


def build_timm(name: str, in_channels: int = 3) -> nn.Module:
    """Build a network with random weights: images (B, in_channels, H, W) -> features (B, D), pooled
    as the network itself pools them for its head.

    A transformer interpolates its position embeddings to the image size, so its weights have the
    same shapes at every size. The network's attribute `feature_dim` is D.

    Raises:
        UserError: timm is missing, or has no such network.
    """
    check_timm_name(name)
    net = _create(name.removeprefix(PREFIX), in_channels)
    net.feature_dim = getattr(net, "head_hidden_size", None) or net.num_features
    net.timm_name = name

    exempt = net.no_weight_decay() if hasattr(net, "no_weight_decay") else set()
    for key, parameter in net.named_parameters():
        if key in exempt:
            parameter.decay_exempt = True
    return cast(nn.Module, net)


def _create(architecture: str, in_channels: int) -> Any:
    """Build a network that accepts many image sizes, if it can."""
    timm = import_timm()
    *flexible, _ = _SIZE_OPTIONS
    for options in flexible:
        try:
            return timm.create_model(
                architecture, pretrained=False, num_classes=0, in_chans=in_channels, **options
            )
        except TypeError:  # it has no such option
            continue
    return timm.create_model(architecture, pretrained=False, num_classes=0, in_chans=in_channels)


@lru_cache(maxsize=4)
def _hollow(name: str) -> Any:
    """The network on the meta device, in eval mode; draws no random numbers."""
    with torch.random.fork_rng(devices=[]):
        try:
            with torch.device("meta"):
                return build_timm(name).eval()
        except (RuntimeError, NotImplementedError):  # its constructor reads a value back
            return build_timm(name).to("meta").eval()


@lru_cache
def check_timm_size(name: str, height: int, width: int) -> None:
    """Raise UserError if the network does not accept images of this size in px."""
    check_timm_name(name)
    images = torch.empty(2, 3, height, width, device="meta")
    try:
        with torch.no_grad():
            _hollow(name)(images)
    except Exception as error:  # networks raise any type
        raise UserError(
            f"backbone.name={name} cannot take images of {height} x {width} px "
            f"({first_line(error)}); choose another data.image_size"
        ) from None


def timm_maps(
    backbone: Any,
    images: Tensor,  # (B, 3, H, W)
) -> list[Tensor]:
    """Maps (B, D, h, w) of the network's stages, finest first."""
    maps: list[Tensor] = backbone.forward_intermediates(images, intermediates_only=True)
    return maps


@lru_cache
def map_shapes(name: str, height: int, width: int) -> tuple[tuple[int, int, int], ...]:
    """Channels, height and width of each map, finest first.

    Raises:
        UserError: the maps do not shrink from each to the next, as a U-Net needs, or the network
            does not accept images of this size.
    """
    check_timm_name(name)
    images = torch.empty(2, 3, height, width, device="meta")
    try:
        with torch.no_grad():
            maps = timm_maps(_hollow(name), images)
    except Exception as error:  # networks raise any type
        raise UserError(
            f"backbone.name={name} gives no maps of images of {height} x {width} px "
            f"({first_line(error)}); segmentation needs another data.image_size or backbone"
        ) from None

    shapes = tuple((one.shape[1], one.shape[2], one.shape[3]) for one in maps)
    heights = [shape[1] for shape in shapes]
    if len(heights) < 2 or sorted(set(heights), reverse=True) != heights:
        raise UserError(
            f"backbone.name={name} has no maps of falling size, but of "
            f"{', '.join(map(str, heights))} px; segmentation needs a convolutional network, "
            "such as timm:resnet18"
        )
    return shapes


def leave_out_unused(backbone: Any) -> None:
    """Stop training the parameters on which the maps do not depend, such as those of a last norm,
    in place. Otherwise workers would wait for their gradients."""
    hollow = _hollow(backbone.timm_name)
    names, parameters = zip(*hollow.named_parameters(), strict=True)
    side = hollow.default_cfg["input_size"][-1]
    with torch.enable_grad():
        maps = timm_maps(hollow, torch.empty(2, 3, side, side, device="meta"))
        total = torch.stack([one.sum() for one in maps]).sum()
        gradients = torch.autograd.grad(total, parameters, allow_unused=True)

    pairs = zip(names, gradients, strict=True)
    backbone.unused = frozenset(name for name, gradient in pairs if gradient is None)
    for name, parameter in backbone.named_parameters():
        if name in backbone.unused:
            parameter.requires_grad_(False)


def timm_stages(backbone: Any) -> dict[str, list[nn.Module]]:
    """Split a network into the groups of its own coarse `group_matcher`: stem, block1, block2, ...
    in forward order. Each block of a vision transformer, or stage of a convolutional network, is
    one group. A last norm belongs to the last block."""
    from timm.models import group_parameters

    matcher = backbone.group_matcher(coarse=True)
    layers = dict(group_parameters(backbone, matcher, reverse=True))
    unused: frozenset[str] = getattr(backbone, "unused", frozenset())
    used = sorted({layer for name, layer in layers.items() if name not in unused})
    numbers = {layer: number for number, layer in enumerate(used)}

    stage_of = {}
    for name, layer in layers.items():
        stage_of[name] = _UNUSED if name in unused else numbers[layer]

    found: list[list[nn.Module]] = [[] for _ in used]
    last = 0
    for stage, part in _parts(backbone, "", stage_of):
        if stage == _UNUSED:
            continue
        last = last if stage is None else stage
        found[last].append(part)

    names = ["stem", *(f"block{number}" for number in range(1, len(found)))]
    return dict(zip(names, found, strict=True))


_UNUSED = -1


def _parts(
    module: nn.Module, prefix: str, stage_of: dict[str, int]
) -> Iterator[tuple[int | None, nn.Module]]:
    """Yield the largest modules whose parameters all belong to one stage, with that stage (None if
    they have no parameters). Other parameters come in lists of one."""
    own = [prefix + name for name, _ in module.named_parameters()]
    numbers = {stage_of[name] for name in own if name in stage_of}
    if len(numbers) <= 1:
        yield (numbers.pop() if numbers else None), module
        return

    for name, parameter in module.named_parameters(recurse=False):
        yield stage_of[prefix + name], nn.ParameterList([parameter])
    for name, child in module.named_children():
        yield from _parts(child, f"{prefix}{name}.", stage_of)


def timm_head_prefix(name: str) -> str:
    """Prefix of the classification head's keys in timm's state_dict of a network."""
    check_timm_name(name)
    about = import_timm().get_pretrained_cfg(name.removeprefix(PREFIX))
    classifier = getattr(about, "classifier", None) or "head"
    first = classifier if isinstance(classifier, str) else classifier[0]
    return f"{first}."


def in_timms_form(state: dict[str, Tensor], backbone: Any) -> dict[str, Tensor]:
    """Convert weights from a network's authors to timm's names and shapes, with timm's own filter,
    unless they already have them. Position embeddings of another size are interpolated."""
    own = {name: value.shape for name, value in backbone.state_dict().items()}
    if own == {name: value.shape for name, value in state.items()}:
        return state

    convert = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    if convert is None:
        return state
    try:
        converted = dict(convert(dict(state), backbone))
    except Exception:  # unexpected by the filter; a later check of the names reports it
        return state
    return converted if own.keys() <= converted.keys() else state
