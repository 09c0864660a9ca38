"""Augmentation against torchvision: every operation and whole policies with the same draws for each
image, and the distribution of the draws."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from scipy.stats import chisquare, ks_2samp
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

from tests.trainables.augment.test_trivial_augment import STEPPED, torchvisions
from trainables.augment import image_ops, resampling
from trainables.augment.draws import Draws
from trainables.augment.image_ops import MEAN_STD
from trainables.augment.trivial_augment import OPERATIONS
from trainables.augment.view_config import PRESETS, AugmentConfig
from trainables.augment.views import Augment, evaluation_view
from trainables.config import build, flatten
from trainables.errors import UserError

TOLERANCE = 2e-5
"""Largest allowed difference of a value in [0, 1] between our float32 and torchvision's: a
two-hundredth of a grey level."""
SIGNIFICANCE = 1e-3
"""Level of the distribution tests. Seeds are fixed, so a test passes always or never."""
EVERYTHING = AugmentConfig(
    crop_scale_min=0.1,
    crop_scale_max=0.9,
    crop_ratio=2.0,
    hflip=0.5,
    vflip=0.5,
    rot90=0.7,
    rotate=40.0,
    jitter=0.8,
    brightness=0.8,
    contrast=0.8,
    saturation=0.8,
    hue=0.5,
    grayscale=0.3,
    blur=0.6,
    solarize=0.4,
    solarize_threshold=0.6,
    normalize="half",
)
POLICIES = [
    (f"{name}-{view}", policy)
    for name, views in PRESETS.items()
    for view, policy in enumerate(views)
] + [
    ("everything", EVERYTHING),
    ("everything-trivial", replace(EVERYTHING, trivial=True)),
    ("everything-jitter-last", replace(EVERYTHING, jitter_first=False)),
    ("rotation-only", AugmentConfig(rotate=180.0)),
    (
        "colour-only",
        replace(
            EVERYTHING,
            crop_scale_min=1.0,
            crop_scale_max=1.0,
            hflip=0.0,
            vflip=0.0,
            rot90=0.0,
            rotate=0.0,
        ),
    ),
    ("no-hue", replace(EVERYTHING, hue=0.0)),
    ("hue-only", replace(EVERYTHING, brightness=0.0, contrast=0.0, saturation=0.0)),
]


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pictures(count: int, height: int, width: int, seed: int = 0) -> Tensor:
    """Return uint8 images (count, 3, height, width) with smooth parts, hard edges, saturated and
    gray pixels and noise."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.rand(count, 3, 4, 4, generator=generator)
    smooth = (
        torch.nn.functional.interpolate(coarse, size=(height, width), mode="bicubic")
        .mul(1.6)
        .sub(0.3)
    )
    noisy = torch.rand(count, 3, height, width, generator=generator)
    images = torch.where(torch.rand(count, 1, 1, width, generator=generator) < 0.3, noisy, smooth)
    images[:, :, : height // 8] = images[:, :1, : height // 8]
    return images.clamp(0, 1).mul(255).round().to(torch.uint8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def jittered(x: Tensor, draws: Draws, i: int) -> Tensor:
    """Return the image with colour jitter by torchvision's functional."""
    if draws.jitter[i]:
        for kind in draws.order[i].tolist():
            factor = draws.factors[i, kind].item()
            x = (F.adjust_brightness, F.adjust_contrast, F.adjust_saturation, F.adjust_hue)[kind](
                x, factor
            )
    return x


def reference(image: Tensor, draws: Draws, i: int, policy: AugmentConfig, size: int) -> Tensor:
    """Augment one image with torchvision's functional and the parameters drawn for image i. Return
    it (3, size, size) before normalisation."""
    x = F.to_dtype(image, torch.float32, scale=True)
    top, left, height, width = draws.boxes(tuple(image.shape[-2:]), policy.crop_ratio)[i].tolist()
    x = F.resized_crop(x, top, left, height, width, [size, size], antialias=True)
    x = F.horizontal_flip(x) if draws.hflip[i] else x
    x = F.vertical_flip(x) if draws.vflip[i] else x
    x = torch.rot90(x, int(draws.turns[i]), (-2, -1))
    x = jittered(x, draws, i) if policy.jitter_first else x
    x = F.rotate(x, draws.angle[i].item(), F.InterpolationMode.BILINEAR) if policy.rotate else x
    x = x if policy.jitter_first else jittered(x, draws, i)
    x = F.rgb_to_grayscale(x, 3) if draws.grayscale[i] else x
    kernel = policy.blur_kernel or max(3, int(size / 10) + (int(size / 10) % 2 == 0))
    x = F.gaussian_blur(x, [kernel, kernel], [draws.sigma[i].item()] * 2) if draws.blur[i] else x
    x = F.solarize(x, policy.solarize_threshold) if draws.solarize[i] else x
    return (
        torchvisions(x, int(draws.operation[i]), draws.magnitude[i].item()) if policy.trivial else x
    )


def ours_back(view: Tensor, policy: AugmentConfig) -> Tensor:
    """Undo the normalisation."""
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in MEAN_STD[policy.normalize])
    return view * std + mean


def near_threshold(image: Tensor, policy: AugmentConfig) -> Tensor:
    """Mark values so close to the solarize threshold, before or after inversion, that rounding
    decides on which side they fall."""
    t = policy.solarize_threshold
    return ((image - t).abs() < TOLERANCE) | ((image - (1 - t)).abs() < TOLERANCE)


# ------------------------------------------------------------------ operations


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(84, 84, 128), (40, 61, 24), (150, 200, 32), (28, 28, 28), (7, 5, 9)],
)
def test_crop_resize_flip_equal_torchvision(height: int, width: int, size: int) -> None:
    images = pictures(12, height, width).float() / 255
    rng = np.random.default_rng(0)
    h, w = rng.integers(1, height + 1, 12), rng.integers(1, width + 1, 12)
    h[:2], w[:2] = height, width  # the whole image
    h[2], w[2] = 1, 1  # a single pixel
    top, left = rng.integers(0, height - h + 1), rng.integers(0, width - w + 1)
    up, right = torch.arange(12) % 2 == 1, torch.arange(12) % 3 == 1
    boxes = [torch.from_numpy(v) for v in (top, left, h, w)]
    vertical = resampling.resize_taps(boxes[0], boxes[2], up, size, height)
    horizontal = resampling.resize_taps(boxes[1], boxes[3], right, size, width)
    ours = resampling.resample(images, vertical, horizontal).mT
    for i in range(12):
        theirs = F.resized_crop(
            images[i], int(top[i]), int(left[i]), int(h[i]), int(w[i]), [size, size], antialias=True
        )
        theirs = F.vertical_flip(theirs) if up[i] else theirs
        theirs = F.horizontal_flip(theirs) if right[i] else theirs
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize(("height", "width"), [(32, 32), (28, 40), (41, 7)])
def test_rotation_equals_torchvision(height: int, width: int) -> None:
    images = pictures(9, height, width).float() / 255
    degrees = torch.tensor([0.0, 0.3, -15.0, 15.0, 45.0, -90.0, 133.0, 180.0, -180.0])
    ours = resampling.rotate(images, degrees)
    for i in range(9):
        theirs = F.rotate(images[i], degrees[i].item(), F.InterpolationMode.BILINEAR)
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["brightness", "contrast", "saturation"])
def test_blend_equals_torchvision(kind: str) -> None:
    images = pictures(8, 33, 20).float() / 255
    factor = torch.tensor([0.0, 0.2, 0.7, 1.0, 1.01, 1.5, 1.8, 3.0])
    zero = torch.zeros(8)
    shares = {
        "brightness": (zero, zero),
        "contrast": (zero, 1 - factor),
        "saturation": (1 - factor, zero),
    }[kind]
    ours = image_ops.blend_(images.clone(), factor, *shares)
    adjust = {
        "brightness": F.adjust_brightness,
        "contrast": F.adjust_contrast,
        "saturation": F.adjust_saturation,
    }[kind]
    for i in range(8):
        torch.testing.assert_close(
            ours[i], adjust(images[i], factor[i].item()), rtol=0, atol=TOLERANCE
        )


def test_hue_equals_torchvision() -> None:
    levels = torch.tensor([0.0, 0.25, 0.5, 1.0])
    # all ties, primaries, secondaries and grays
    cube = torch.cartesian_prod(levels, levels, levels).T.reshape(3, 8, 8)
    images = torch.cat([cube.expand(41, 3, 8, 8), pictures(41, 8, 8).float() / 255])
    factor = torch.linspace(-0.5, 0.5, 41).repeat(2)
    ours = image_ops.adjust_hue_(images.clone(), factor)
    for i in range(82):
        torch.testing.assert_close(
            ours[i], F.adjust_hue(images[i], factor[i].item()), rtol=0, atol=TOLERANCE
        )


@pytest.mark.parametrize(
    ("height", "width", "kernel"), [(32, 32, 3), (64, 40, 13), (28, 28, 23), (12, 12, 23)]
)
def test_blur_equals_torchvision(height: int, width: int, kernel: int) -> None:
    images = pictures(6, height, width).float() / 255
    sigma = torch.tensor([0.1, 0.43, 0.8, 1.3, 2.0, 9.0])
    ours = resampling.gaussian_blur(images, sigma, kernel).mT
    for i in range(6):
        theirs = F.gaussian_blur(images[i], [kernel, kernel], [sigma[i].item()] * 2)
        torch.testing.assert_close(ours[i], theirs, rtol=0, atol=TOLERANCE)


def test_grayscale_and_solarize_equal_torchvision() -> None:
    images = pictures(4, 16, 16).float() / 255
    torch.testing.assert_close(
        image_ops.gray(images), F.rgb_to_grayscale(images, 1), rtol=0, atol=TOLERANCE
    )
    # a value equal to the threshold is inverted
    for threshold in (0.0, 0.5, images[0, 0, 5, 5].item(), 1.0):
        ours = image_ops.solarize_(images.clone(), threshold)
        torch.testing.assert_close(ours, F.solarize(images, threshold), rtol=0, atol=1e-6)


# ------------------------------------------------------------------ whole policies


@pytest.mark.parametrize("size", [32, 20])
@pytest.mark.parametrize(("name", "policy"), POLICIES)
def test_policy_equals_torchvision_per_image(name: str, policy: AugmentConfig, size: int) -> None:
    for height, width in [(32, 32), (50, 30)]:
        images = pictures(70, height, width)
        augment = Augment(policy, size)
        draws = augment.draw(70, generator())
        ours = augment.apply(images, draws)
        assert ours.shape == (70, 3, size, size)
        assert ours.dtype == torch.float32
        for i in range(70):
            theirs = reference(images[i], draws, i, policy, size)
            compared = (
                ~near_threshold(theirs, policy)
                if draws.solarize[i]
                else torch.ones_like(theirs, dtype=torch.bool)
            )
            # after resampling, rounding may move a value across a step
            if OPERATIONS[draws.operation[i]] in STEPPED:
                compared &= (ours_back(ours[i], policy) - theirs).abs() < TOLERANCE
            assert compared.float().mean() > 0.9
            torch.testing.assert_close(
                ours_back(ours[i], policy)[compared], theirs[compared], rtol=0, atol=TOLERANCE
            )


@pytest.mark.parametrize("normalize", ["imagenet", "half", "none"])
def test_evaluation_view_equals_torchvision(normalize: str) -> None:
    theirs = v2.Compose(
        [
            v2.ToDtype(torch.float32, scale=True),
            v2.Resize((24, 24), antialias=True),
            v2.Normalize(*MEAN_STD[normalize]),
        ]
    )
    for side in (24, 40):
        images = pictures(5, side, side)
        torch.testing.assert_close(
            evaluation_view(images, 24, normalize), theirs(images), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            evaluation_view(images.float() / 255, 24, normalize), theirs(images), rtol=0, atol=1e-4
        )


# ------------------------------------------------------------------ distributions


@pytest.mark.heavy
def test_crop_boxes_are_distributed_as_in_torchvision() -> None:
    # The second crop is so wide that most first attempts fail. The third is so narrow that all
    # attempts fail and the central crop is taken.
    for (height, width), scale, ratio in [
        ((84, 84), (0.08, 1.0), 4 / 3),
        ((40, 160), (0.3, 1.0), 2.0),
        ((10, 100), (0.9, 1.0), 4 / 3),
    ]:
        policy = AugmentConfig(crop_scale_min=scale[0], crop_scale_max=scale[1], crop_ratio=ratio)
        ours = Augment(policy, 32).draw(4000, generator(1)).boxes((height, width), ratio).numpy()
        torch.manual_seed(2)
        theirs = v2.RandomResizedCrop(32, scale=scale, ratio=(1 / ratio, ratio))
        image = [torch.zeros(3, height, width)]
        params = [theirs.make_params(image) for _ in range(4000)]
        for column, key in enumerate(("top", "left", "height", "width")):
            assert ks_2samp(ours[:, column], [p[key] for p in params]).pvalue > SIGNIFICANCE
        area, their_area = ours[:, 2] * ours[:, 3], [p["height"] * p["width"] for p in params]
        assert ks_2samp(area, their_area).pvalue > SIGNIFICANCE


def test_central_crop_is_torchvisions() -> None:
    # twenty times as wide as high, so it fits none of the sizes below
    never = torch.ones(1, 10), torch.full((1, 10), 3.0), torch.zeros(1, 2)
    for height, width in [(10, 100), (100, 10), (30, 33)]:
        ours = resampling.crop_boxes(*never, (height, width), 4 / 3)[0].tolist()
        theirs = v2.RandomResizedCrop(32, scale=(50.0, 50.0), ratio=(3 / 4, 4 / 3)).make_params(
            [torch.zeros(3, height, width)]
        )
        assert ours == [theirs[key] for key in ("top", "left", "height", "width")]


def test_jitter_is_distributed_as_in_torchvision() -> None:
    policy = AugmentConfig(jitter=1.0, brightness=0.4, contrast=1.3, saturation=0.2, hue=0.1)
    draws = Augment(policy, 32).draw(4000, generator(3))
    torch.manual_seed(4)
    theirs = v2.ColorJitter(0.4, 1.3, 0.2, 0.1)
    params = [theirs.make_params([]) for _ in range(4000)]
    for kind, key in enumerate(("brightness", "contrast", "saturation", "hue")):
        assert (
            ks_2samp(draws.factors[:, kind], [p[f"{key}_factor"] for p in params]).pvalue
            > SIGNIFICANCE
        )
    codes, counts = np.unique(draws.order.numpy() @ [64, 16, 4, 1], return_counts=True)
    assert len(codes) == 24
    assert chisquare(counts).pvalue > SIGNIFICANCE


def test_angles_are_distributed_as_in_torchvision() -> None:
    angles = Augment(replace(EVERYTHING, rotate=30.0), 32).draw(4000, generator(8)).angle
    torch.manual_seed(9)
    theirs = v2.RandomRotation(30.0)
    assert (
        ks_2samp(angles, [theirs.make_params([])["angle"] for _ in range(4000)]).pvalue
        > SIGNIFICANCE
    )


def test_blur_and_turns_are_uniform_and_probabilities_hold() -> None:
    draws = Augment(EVERYTHING, 32).draw(6000, generator(5))
    torch.manual_seed(6)
    theirs = v2.GaussianBlur(3, (0.1, 2.0))
    assert (
        ks_2samp(draws.sigma, [theirs.make_params([])["sigma"][0] for _ in range(4000)]).pvalue
        > SIGNIFICANCE
    )
    assert chisquare(torch.bincount(draws.turns[draws.turns > 0])[1:].numpy()).pvalue > SIGNIFICANCE
    drawn = {
        name: getattr(draws, name)
        for name in ("hflip", "vflip", "jitter", "grayscale", "blur", "solarize")
    } | {"rot90": draws.turns > 0}
    for name, applied in drawn.items():
        p = getattr(EVERYTHING, name)
        assert abs(applied.float().mean().item() - p) < 4 * math.sqrt(p * (1 - p) / 6000), name


def test_one_of_applies_exactly_one() -> None:
    draws = Augment(PRESETS["reports-r1"][0], 32).draw(6000, generator(7))
    applied = torch.stack([draws.crop, draws.hflip, draws.jitter])
    assert (applied.sum(0) == 1).all()
    assert chisquare(applied.sum(1).numpy()).pvalue > SIGNIFICANCE
    boxes = draws.boxes((20, 30), 4 / 3)
    assert (boxes[~draws.crop] == torch.tensor([0, 0, 20, 30])).all()
    assert (boxes[draws.crop, 2:].float().prod(1) < 0.9 * 20 * 30).float().mean() > 0.5


# ------------------------------------------------------------------ draws


def test_the_same_generator_gives_the_same_views_and_another_seed_gives_others() -> None:
    images, augment = pictures(40, 32, 32), Augment(PRESETS["byol"][1], 32)
    assert torch.equal(augment(images, generator(1)), augment(images, generator(1)))
    assert not torch.equal(augment(images, generator(1)), augment(images, generator(2)))


def test_images_of_a_batch_are_augmented_differently() -> None:
    views = Augment(PRESETS["simclr"][0], 32)(
        pictures(1, 32, 32).expand(50, -1, -1, -1), generator()
    )
    assert len(torch.unique(views.flatten(1), dim=0)) == 50


def test_a_slice_gets_the_parameters_it_had_in_the_whole() -> None:
    images, augment = pictures(90, 32, 32), Augment(EVERYTHING, 32)
    draws = augment.draw(90, generator())
    whole = augment.apply(images, draws)
    parts = [
        augment.apply(images[a:b], draws[a:b].to(images.device))
        for a, b in ((0, 1), (1, 40), (40, 90))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=0, atol=TOLERANCE)
    assert len(draws[1:40]) == 39


def test_one_changed_setting_leaves_the_other_draws_alone() -> None:
    before = Augment(EVERYTHING, 32).draw(50, generator())
    after = Augment(replace(EVERYTHING, blur=0.0, crop_scale_min=0.2), 32).draw(50, generator())
    changed = {
        f.name
        for f in fields(Draws)
        if not torch.equal(getattr(before, f.name), getattr(after, f.name))
    }
    assert changed == {"blur", "crop_areas"}


# ------------------------------------------------------------------ edges


def test_one_image_and_no_image() -> None:
    augment = Augment(EVERYTHING, 24)
    assert augment(pictures(1, 30, 30), generator()).shape == (1, 3, 24, 24)
    assert augment(pictures(1, 30, 30)[:0], generator()).shape == (0, 3, 24, 24)


def test_black_stays_black_and_gray_stays_gray() -> None:
    policy = replace(EVERYTHING, solarize=0.0, normalize="none")
    black = Augment(policy, 24)(torch.zeros(64, 3, 30, 30, dtype=torch.uint8), generator())
    assert black.abs().max() == 0
    views = Augment(policy, 24)(pictures(64, 30, 30)[:, :1].expand(-1, 3, -1, -1), generator())
    # the gray weights sum to 0.9999
    torch.testing.assert_close(views[:, 0], views[:, 1], rtol=0, atol=1e-3)
    torch.testing.assert_close(views[:, 0], views[:, 2], rtol=0, atol=1e-3)
    assert views.std() > 0.1


def test_the_full_crop_at_the_same_size_changes_nothing() -> None:
    images = pictures(9, 32, 32)
    ours = Augment(
        AugmentConfig(crop_scale_min=0.9999, crop_scale_max=1.0, crop_ratio=1.0, normalize="none"),
        32,
    )(images, generator())
    torch.testing.assert_close(ours, images / 255, rtol=0, atol=1e-6)


def test_the_callers_images_are_not_written_to() -> None:
    for images in (pictures(20, 32, 32), pictures(20, 32, 32).float() / 255):
        for policy in (EVERYTHING, POLICIES[-3][1], PRESETS["none"][0]):
            before = images.clone()
            out = Augment(policy, 32)(images, generator())
            assert torch.equal(images, before)
            assert out.data_ptr() != images.data_ptr()
        evaluation_view(images, 32, "half")
        assert torch.equal(images, before)


def test_uint8_and_float_images_give_the_same_views() -> None:
    images, augment = pictures(40, 50, 40), Augment(EVERYTHING, 32)
    draws = augment.draw(40, generator())
    ours, theirs = augment.apply(images, draws), augment.apply(images / 255, draws)
    # equal except for pixels at the threshold of solarize
    assert ((ours - theirs).abs() < 1e-4).float().mean() > 0.999


@pytest.mark.parametrize(("name", "policy"), POLICIES)
def test_autocast_changes_nothing(name: str, policy: AugmentConfig) -> None:
    images, augment = pictures(16, 32, 32), Augment(policy, 24)
    draws = augment.draw(16, generator())
    with torch.autocast("cpu", torch.bfloat16):
        views = augment.apply(images, draws)
    assert torch.equal(views, augment.apply(images, draws))


def test_no_value_is_read_back_from_the_device() -> None:
    # A meta tensor has no values, so any operation that makes the host wait for the device raises.
    for _, policy in POLICIES:
        augment = Augment(policy, 16)
        out = augment.apply(
            torch.empty(40, 3, 24, 24, dtype=torch.uint8, device="meta"),
            augment.draw(40, generator()),
        )
        assert out.device.type == "meta"
        assert out.shape == (40, 3, 16, 16)


# ------------------------------------------------------------------ configuration


@pytest.mark.parametrize(("name", "policy"), POLICIES)
def test_policies_survive_the_flat_spelling(name: str, policy: AugmentConfig) -> None:
    assert build(AugmentConfig, flatten(policy)) == policy


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"crop_scale_min": 0.5, "crop_scale_max": 0.2},
            "`crop_scale_min <= crop_scale_max` must hold, but got",
        ),
        ({"blur_sigma_min": 3.0}, "`blur_sigma_min <= blur_sigma_max` must hold, but got"),
        ({"blur_kernel": 4}, "blur_kernel=4 must be odd"),
        ({"hflip": 1.5}, "hflip=1.5 is not valid"),
        ({"hue": 0.6}, "hue=0.6 is not valid"),
        ({"normalize": "zscore"}, "normalize='zscore' is not valid"),
    ],
)
def test_wrong_values_are_named(wrong: dict[str, object], message: str) -> None:
    with pytest.raises(UserError, match=message.replace("`", ".")):
        build(AugmentConfig, wrong)


def test_a_kernel_larger_than_the_image_is_named() -> None:
    with pytest.raises(UserError, match="blur_kernel=65 does not fit image_size=32: at most 63"):
        Augment(AugmentConfig(blur=0.5, blur_kernel=65), 32)
