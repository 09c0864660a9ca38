"""Segmentation networks against torchvision, parameters counted by hand, and bilinear
interpolation."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.models import resnet18, resnet50, resnet101, vgg16, vgg16_bn, vgg19
from torchvision.models.segmentation import deeplabv3_resnet50, deeplabv3_resnet101

from trainables.backbone.networks import BackboneConfig
from trainables.config import build
from trainables.segmenters import fcn
from trainables.segmenters.deeplab import DeepLabV3, _NormOfOne, dilate
from trainables.segmenters.enlarging import about_centres
from trainables.segmenters.fcn import FCN32s, _conv2, _deconv5, copy_hidden, upsampling
from trainables.segmenters.networks import (
    ModelConfig,
    Segmenter,
    build_encoder,
    build_segmenter,
    decoder,
    segmenter_stages,
)
from trainables.segmenters.unet import UNet

CLASSES = 7
TINY = BackboneConfig(width=8, pool=1)
VGGS = ("fcn32s-vgg16", "fcn32s-vgg16_bn", "fcn32s-vgg19")
DEEPLABS = ("deeplabv3-resnet50", "deeplabv3-resnet101")
EVERY = [
    ("unet", "conv7"),
    *((name, head) for name in VGGS for head in ("conv7", "deconv5", "conv2")),
    *((d, "conv7") for d in DEEPLABS),
]
REFERENCES = {
    "vgg16": vgg16,
    "vgg16_bn": vgg16_bn,
    "vgg19": vgg19,
    "resnet18": resnet18,
    "resnet50": resnet50,
    "resnet101": resnet101,
}
HEADS = {
    # fc6 + fc7 + score + x32
    "conv7": (512 * 49 + 1) * 4096 + 4097 * 4096 + 4097 * CLASSES + CLASSES * CLASSES * 64**2,
    "conv2": (512 * 4 + 1) * 4096 + 4097 * 4096 + 4097 * CLASSES + CLASSES * CLASSES * 64**2,
    # two 1x1 convolutions, five x2 with 4x4 kernels, scale and shift of the norms, score
    "deconv5": 2 * 513 * 512
    + 16 * (512 * 256 + 256 * 128 + 128 * 64 + 64 * 32 + 32 * 32)
    + 2 * (256 + 128 + 64 + 32 + 32)
    + 33 * CLASSES,
}
# At width 8: stem, a block of 8, and two that double the width and halve the size, each with a 1x1
# shortcut; scale and shift of every norm.
TINY_ENCODER = (
    (27 * 8 + 16)
    + (2 * 72 * 8 + 32)
    + (72 * 16 + 144 * 16 + 8 * 16 + 3 * 32)
    + (144 * 32 + 288 * 32 + 16 * 32 + 3 * 64)
)


def segmenter(
    name: str = "unet", head: str = "conv7", backbone: BackboneConfig = TINY, auxiliary: bool = True
) -> Segmenter:
    model = build(ModelConfig, {"name": name, "head": head})
    return build_segmenter(
        model, build_encoder(model, backbone), CLASSES, auxiliary=auxiliary, loaded=False
    )


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(("name", "head"), EVERY)
def test_output_has_the_size_of_the_input(name: str, head: str) -> None:
    with torch.device("meta"):
        net = segmenter(name, head)
        for size in ((32, 32), (33, 47), (65, 130), (512, 512)):
            logits, auxiliary = net(torch.zeros(2, 3, *size))
            assert logits.shape == (2, CLASSES, *size)
            assert (auxiliary is None) == (name not in DEEPLABS)
            assert auxiliary is None or auxiliary.shape == logits.shape
    assert net.eval()(torch.zeros(1, 3, 32, 32, device="meta"))[1] is None


@pytest.mark.parametrize("backbone", ["tiny", "resnet18", "resnet50", "resnet101"])
@pytest.mark.parametrize("small_stem", [False, True])
def test_unet_goes_around_every_residual_backbone(backbone: str, small_stem: bool) -> None:
    with torch.device("meta"):
        net = segmenter(backbone=BackboneConfig(name=backbone, small_stem=small_stem))  # type: ignore[arg-type]
        assert net(torch.zeros(1, 3, 45, 70))[0].shape == (1, CLASSES, 45, 70)


def test_unet_has_no_decoder_for_others() -> None:
    with pytest.raises(
        ValueError,
        match=r"backbone\.name to be one of tiny, resnet18, resnet50, resnet101, "
        r"or a convolutional network of timm, but got 'cnn'",
    ):
        ModelConfig().encoder(BackboneConfig(name="cnn"))


@pytest.mark.parametrize(
    ("name", "reference"), [(DEEPLABS[0], deeplabv3_resnet50), (DEEPLABS[1], deeplabv3_resnet101)]
)
@pytest.mark.parametrize("auxiliary", [False, True])
def test_deeplab_has_torchvisions_parameters(name: str, reference: object, auxiliary: bool) -> None:
    with torch.device("meta"):
        net = segmenter(name, auxiliary=auxiliary)
        expected = reference(
            weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=auxiliary
        )  # type: ignore[operator]
    assert count(net) == count(expected)
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in expected.state_dict().items()
    }
    assert count(net.backbone) + count(decoder(net)) == count(net)


def test_deeplab_computes_what_torchvision_computes() -> None:
    torch.manual_seed(0)
    expected = deeplabv3_resnet50(
        weights=None, weights_backbone=None, num_classes=CLASSES, aux_loss=True
    ).eval()
    net = segmenter(DEEPLABS[0])
    net.load_state_dict(expected.state_dict())
    net.centred = False  # torchvision enlarges with half-pixel centres
    images = torch.randn(1, 3, 32, 41)
    with torch.no_grad():
        torch.testing.assert_close(net.eval()(images)[0], expected(images)["out"])


def test_dilation_is_torchvisions() -> None:
    with torch.device("meta"):
        net = resnet50(weights=None)
        dilate(net)
        expected = resnet50(weights=None, replace_stride_with_dilation=[False, True, True])
    for (name, ours), theirs in zip(net.named_modules(), expected.modules(), strict=True):
        if isinstance(ours, nn.Conv2d):
            assert (ours.stride, ours.dilation, ours.padding) == (
                theirs.stride,
                theirs.dilation,
                theirs.padding,
            ), name


def test_a_batch_of_one_trains() -> None:
    """torch's BatchNorm refuses it in training: one value per channel has no variance."""
    norm, reference = _NormOfOne(4), nn.BatchNorm2d(4)
    pooled = torch.randn(3, 4, 1, 1)
    torch.testing.assert_close(norm(pooled), reference(pooled))
    one = torch.randn(1, 4, 1, 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        reference(one)
    torch.testing.assert_close(norm(one), reference.eval()(one))
    torch.testing.assert_close(norm.running_mean, reference.running_mean)


@pytest.mark.parametrize("name", VGGS)
@pytest.mark.parametrize("head", HEADS)
def test_fcn_has_torchvisions_convolutions_and_a_head_counted_by_hand(name: str, head: str) -> None:
    with torch.device("meta"):
        net = segmenter(name, head)
        expected = REFERENCES[name.removeprefix("fcn32s-")](weights=None).features
    assert [p.shape for p in net.backbone.features.parameters()] == [
        p.shape for p in expected.parameters()
    ]  # type: ignore[union-attr]
    assert count(net) == count(expected) + HEADS[head]
    assert list(segmenter_stages(net)) == ["block1", "block2", "block3", "block4", "block5"]
    assert count(
        nn.ModuleList(m for part in segmenter_stages(net).values() for m in part)
    ) == count(net.backbone)


@pytest.mark.parametrize(
    ("name", "skips"),
    [
        ("tiny", (8, 16, 32)),
        ("resnet18", (64, 64, 128, 256, 512)),
        ("resnet50", (64, 256, 512, 1024, 2048)),
        ("resnet101", (64, 256, 512, 1024, 2048)),
    ],
)
def test_unet_has_its_backbone_and_a_decoder_counted_by_hand(
    name: str, skips: tuple[int, ...]
) -> None:
    with torch.device("meta"):
        net = segmenter(backbone=BackboneConfig(name=name, width=8, pool=1))  # type: ignore[arg-type]
        encoder = (
            count(REFERENCES[name](weights=None)) - 1000 * (skips[-1] + 1)
            if name in REFERENCES
            else TINY_ENCODER
        )
    decoder_parameters, deep = 0, skips[-1]
    # 3x3 convolutions of the map from below and the skip beside it, with scale and shift
    for skip in reversed(skips[:-1]):
        out = min(skip, 256)
        decoder_parameters, deep = decoder_parameters + 9 * (deep + skip) * out + 2 * out, out
    decoder_parameters += 9 * (deep + 3) * 16 + 2 * 16 + 17 * CLASSES
    assert count(net) == encoder + decoder_parameters


@pytest.mark.parametrize("factor", [2, 8, 32])
def test_upsampling_begins_as_bilinear_interpolation(factor: int) -> None:
    x = torch.randn(1, 3, 5, 6)
    enlarged = upsampling(3, 3, factor, padding=factor // 2)(x)
    expected = functional.interpolate(x, scale_factor=factor, mode="bilinear", align_corners=False)
    torch.testing.assert_close(enlarged, expected)

    fading = upsampling(3, 3, factor, padding=factor // 2, edges=False)(x)
    inside = (..., slice(factor, -factor), slice(factor, -factor))
    assert fading.shape == expected.shape
    torch.testing.assert_close(fading[inside], expected[inside])


def test_upsampling_of_other_channels_is_a_mixture_enlarged() -> None:
    x, layer = torch.randn(2, 5, 4, 4), upsampling(5, 3, 2, padding=1)
    mixture = layer.weight[:, :, 1, 1] / 0.75**2
    expected = functional.interpolate(
        torch.einsum("bihw,io->bohw", x, mixture),
        scale_factor=2,
        mode="bilinear",
        align_corners=False,
    )
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize("head", [_conv2, _deconv5])
def test_heads_enlarge_32_times(head: object) -> None:
    with torch.device("meta"):
        assert head(CLASSES, 0.0, True)(torch.zeros(2, 512, 3, 4)).shape == (2, CLASSES, 96, 128)  # type: ignore[operator]


@pytest.mark.parametrize("head", ["conv7", "deconv5", "conv2"])
def test_fcn_scores_the_border_as_it_scores_within(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A constant map gets constant scores up to the edges; they do not fade."""
    monkeypatch.setattr(fcn, "HIDDEN", 8)
    torch.manual_seed(0)
    last_map = torch.rand(1, 512, 1, 1).expand(1, 512, 4, 5)
    for edges in (True, False):
        scores = fcn._HEADS[head](CLASSES, 0.0, edges).eval()(last_map)  # type: ignore[operator]
        centre = scores[..., 64:65, 80:81]
        same = torch.allclose(scores, centre.expand_as(scores), atol=1e-5)
        assert same == edges


def symmetric(net: nn.Module) -> nn.Module:
    """Return the network with symmetric kernels and without anything that clips or shifts
    values."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            weight = module.weight.data
            if isinstance(module, nn.ConvTranspose2d):
                weight.abs_()  # already bilinear
            else:
                weight.copy_(weight.abs().mean((2, 3), keepdim=True).expand_as(weight))
            if module.bias is not None:
                module.bias.data.zero_()
        if isinstance(module, nn.BatchNorm2d):
            # Keeps values at the size of the input at any depth.
            module.weight.data.fill_(0.05)
    return net.eval()


@torch.no_grad()
def centroid(net: nn.Module, ground: Tensor, at: int) -> float:
    """Return the mean column of the response to a point in column `at`."""
    point = ground.clone()
    point[..., at] += 0.5
    difference = _logits(net(point)) - _logits(net(ground))
    response = difference.abs().sum((0, 1, 2))
    columns = torch.arange(len(response), dtype=response.dtype)
    return float((response * columns).sum() / response.sum())


def _logits(answer: Any) -> Tensor:
    return answer[0] if isinstance(answer, tuple) else answer


@pytest.mark.parametrize(("centred", "moved"), [(True, 0.0), (False, 3.5)])
def test_the_coarsest_map_of_a_unet_answers_to_a_point_where_it_is(
    centred: bool, moved: float
) -> None:
    """With half-pixel centres, as in earlier versions, the response of a map of stride 8 is off by
    3.5 px."""
    torch.manual_seed(0)
    net = symmetric(segmenter("unet")).double()
    for merge in net.modules():
        if hasattr(merge, "fine"):
            merge.centred = centred
            merge.fine.weight.data.zero_()

    ground = torch.ones(1, 3, 32, 160, dtype=torch.float64)
    beside = [centroid(net, ground, 80 + step) - 80 - step for step in range(-4, 4)]
    assert sum(beside) / 8 == pytest.approx(moved, abs=0.1)  # over all phases of the stride


@pytest.mark.parametrize("head", ["conv7", "deconv5", "conv2"])
def test_the_answer_of_a_head_of_fcn_to_a_point_is_centred_on_it(
    head: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """VGG's pools have even kernels: cell i of its last map is centred between pixels, at 32 i +
    15.5."""
    monkeypatch.setattr(fcn, "HIDDEN", 8)
    torch.manual_seed(0)
    net = symmetric(fcn._HEADS[head](CLASSES, 0.0, True))
    ground = torch.ones(1, 512, 9, 9)
    assert centroid(net, ground, 4) == pytest.approx(32 * 4 + 15.5, abs=0.1)


def test_cells_of_deeplab_are_centred_on_multiples_of_their_stride() -> None:
    """All kernels are odd and padded by half, so output i of each is centred on input `stride`
    i."""
    with torch.device("meta"):
        net = segmenter("deeplabv3-resnet50")
    stride = 1
    for path, layer in net.backbone.named_modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.padding == tuple(
                d * (k - 1) / 2 for d, k in zip(layer.dilation, layer.kernel_size, strict=True)
            )
            if "downsample" not in path:
                stride *= layer.stride[0]
        elif isinstance(layer, nn.MaxPool2d):
            assert (layer.kernel_size, layer.padding) == (3, 1)
            stride *= layer.stride
    assert stride == 8
    assert net.backbone(torch.zeros(1, 3, 65, 66, device="meta"))["out"].shape[-2:] == (9, 9)


@pytest.mark.parametrize(("stride", "size"), [(2, 9), (2, 10), (8, 64), (8, 65), (8, 71)])
def test_cells_are_enlarged_about_their_centres(stride: int, size: int) -> None:
    """Each cell contains the column of its centre. Enlarged, every pixel then has its own column up
    to the last centre, and that column beyond it."""
    cells = -(-size // stride)
    ramp = stride * torch.arange(cells, dtype=torch.float32).expand(1, 1, cells, cells)
    like = torch.zeros(1, 1, size, size)
    columns = about_centres(ramp, stride, like=like)[0, 0, 0]
    expected = torch.arange(size).clamp_max(stride * (cells - 1)).float()
    torch.testing.assert_close(columns, expected)


def test_hidden_layers_become_convolutions() -> None:
    hidden = [nn.Linear(2 * 49, 5), nn.ReLU(), nn.Dropout(), nn.Linear(5, 5), nn.ReLU()]
    head = nn.Sequential(
        nn.Conv2d(2, 5, 7, padding=3), nn.ReLU(), nn.Conv2d(5, 5, 1), nn.ReLU(), nn.Conv2d(5, 3, 1)
    )
    copy_hidden(hidden, head)
    x = torch.randn(4, 2, 7, 7)
    expected = nn.Sequential(*hidden).eval()(x.flatten(1))
    torch.testing.assert_close(head[:4](x)[:, :, 3, 3], expected)


def test_padding_changes_nothing_where_sides_are_multiples_of_32() -> None:
    torch.manual_seed(0)
    net = segmenter("fcn32s-vgg16", "deconv5").eval()
    assert isinstance(net, FCN32s)
    images = torch.randn(1, 3, 32, 64)
    with torch.no_grad():
        torch.testing.assert_close(net(images)[0], net.head(net.backbone.features(images)))


def test_kinds() -> None:
    with torch.device("meta"):
        assert [
            type(segmenter(name)) for name in ("unet", "fcn32s-vgg16", "deeplabv3-resnet50")
        ] == [UNet, FCN32s, DeepLabV3]
