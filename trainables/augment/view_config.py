"""Augmentation policies: the config of one view, the named pairs of views, and the config that
selects a pair and adjusts it."""

from dataclasses import asdict, replace
from typing import Literal

from pydantic import BeforeValidator

from trainables.augment.image_ops import Normalization
from trainables.config import Annotated, Field, config

Probability = Annotated[float, Field(ge=0, le=1)]
"""A probability, in [0, 1]."""


def _none_is_a_name(value: object) -> object:
    """Undo `config.build`, which reads "none" as None; here the word names a normalisation."""
    return "none" if value is None else value


@config
class AugmentConfig:
    """The policy of one view. The defaults change nothing: each operation is enabled by its own
    probability or strength."""

    crop_scale_min: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Smallest share of the image's area in a random resized crop, in (0, 1]. If both bounds are 1,
    the whole image is resized."""
    crop_scale_max: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Largest share of the image's area, in (0, 1], at least `crop_scale_min`."""
    crop_ratio: Annotated[float, Field(ge=1)] = 4 / 3
    """Largest width / height, and largest height / width, of a crop, >= 1; log-uniform between."""
    hflip: Probability = 0.0
    """Probability of a horizontal flip (left and right swapped), in [0, 1]."""
    vflip: Probability = 0.0
    """Probability of a vertical flip (top and bottom swapped), in [0, 1]."""
    rot90: Probability = 0.0
    """Probability of a turn by 90, 180 or 270 degrees (equally likely), in [0, 1]."""
    rotate: Annotated[float, Field(ge=0, le=180)] = 0.0
    """Largest angle of a rotation, in degrees, in [0, 180]; uniform in [-x, x]. Uncovered corners
    are black."""
    jitter: Probability = 0.0
    """Probability of colour jitter, in [0, 1]: brightness, contrast, saturation and hue in random
    order."""
    brightness: Annotated[float, Field(ge=0)] = 0.0
    """Strength x >= 0 of brightness jitter; the factor is uniform in [max(0, 1 - x), 1 + x]."""
    contrast: Annotated[float, Field(ge=0)] = 0.0
    """Strength x >= 0 of contrast jitter; the factor is uniform in [max(0, 1 - x), 1 + x]."""
    saturation: Annotated[float, Field(ge=0)] = 0.0
    """Strength x >= 0 of saturation jitter; the factor is uniform in [max(0, 1 - x), 1 + x]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] = 0.0
    """Largest shift of the hue, as a share of the colour circle, in [0, 0.5]; uniform in
    [-x, x]."""
    grayscale: Probability = 0.0
    """Probability of dropping colour, in [0, 1]."""
    blur: Probability = 0.0
    """Probability of a Gaussian blur, in [0, 1]."""
    blur_sigma_min: Annotated[float, Field(gt=0)] = 0.1
    """Smallest standard deviation of the blur, in pixels, > 0."""
    blur_sigma_max: Annotated[float, Field(gt=0)] = 2.0
    """Largest standard deviation of the blur, in pixels, at least `blur_sigma_min`."""
    blur_kernel: Annotated[int, Field(ge=0)] = 0
    """Side of the blur's kernel, in pixels, odd; 0 = a tenth of the image's side, made odd
    (SimCLR)."""
    solarize: Probability = 0.0
    """Probability of inverting the pixels at or above `solarize_threshold`, in [0, 1]."""
    solarize_threshold: Annotated[float, Field(ge=0, le=1)] = 0.5
    """Value at and above which solarize inverts, in [0, 1]."""
    one_of: bool = False
    """Apply exactly one of crop, horizontal flip and jitter to each image, chosen with equal
    probability; the chosen one keeps its own probability."""
    trivial: bool = False
    """Apply one operation of TrivialAugment's wide space to each image, after all other operations
    (`trivial_augment.py`)."""
    jitter_first: bool = True
    """Jitter colours before the rotation, so that the uncovered corners stay black and do not
    affect the contrast. False: after it, as in earlier studies."""
    normalize: Annotated[Normalization, BeforeValidator(_none_is_a_name)] = "imagenet"
    """Mean and standard deviation that normalise each channel: ImageNet's, 0.5 and 0.5, or
    none."""

    def __post_init__(self) -> None:
        for name in ("crop_scale", "blur_sigma"):
            low = getattr(self, f"{name}_min")
            high = getattr(self, f"{name}_max")
            if low > high:
                raise ValueError(
                    f"`{name}_min <= {name}_max` must hold, but got "
                    f"({name}_min={low}, {name}_max={high})"
                )
        if self.blur_kernel and self.blur_kernel % 2 == 0:
            raise ValueError(
                f"blur_kernel={self.blur_kernel} must be odd, or 0 for a tenth of the image's side"
            )


_BYOL = AugmentConfig(
    crop_scale_min=0.08,
    hflip=0.5,
    jitter=0.8,
    brightness=0.4,
    contrast=0.4,
    saturation=0.2,
    hue=0.1,
    grayscale=0.2,
    blur=1.0,
)
_SIMCLR = replace(_BYOL, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2, blur=0.5)
# The course reports jitter before they crop; here the crop comes first, as in the papers.
_R0 = replace(_SIMCLR, jitter=0.3, blur=0.2, blur_sigma_min=1.0, blur_sigma_max=2.0, blur_kernel=3)
_R1 = AugmentConfig(
    one_of=True, crop_scale_min=0.08, hflip=1.0, jitter=1.0, brightness=0.5, contrast=0.5, hue=0.5
)
_NONE = AugmentConfig()
_TRIVIAL = AugmentConfig(trivial=True)
_GLYPHS = AugmentConfig(crop_scale_min=0.6, normalize="half")

PRESETS: dict[str, tuple[AugmentConfig, AugmentConfig]] = {
    "simclr": (_SIMCLR, _SIMCLR),
    "byol": (_BYOL, replace(_BYOL, blur=0.1, solarize=0.2)),
    "reports-r0": (_R0, _R0),
    "reports-r1": (_R1, _R1),
    "trivial": (_TRIVIAL, _TRIVIAL),
    "none": (_NONE, _NONE),
    "glyphs": (_GLYPHS, _GLYPHS),
}
"""Policy -> its two views.

`simclr` is from Chen et al. 2020 (appendix A, strength 1), `byol` from Grill et al. 2020 (table 6).
`trivial` is TrivialAugment's wide space, `none` no augmentation, `glyphs` only crops, for letters.
`reports-r0` is the policy of course reports R0 and R3. `reports-r1` is the one-of-three choice of
R1, whose other variant is `trivial`. R2 used `none`, and R4 no self-supervision."""


@config
class ViewConfig:
    """A named policy for the two views, and fields that override it. `None` (`--set KEY=none`)
    keeps the policy's own value."""

    policy: Literal["byol", "simclr", "glyphs", "reports-r0", "reports-r1", "trivial", "none"] = (
        "byol"
    )
    """Name in `PRESETS`: `byol` is the paper's asymmetric pair (table 6), `trivial`
    TrivialAugment."""
    exact: bool = False
    """Use the policy unchanged: every field below is ignored."""
    strength: Annotated[float, Field(ge=0, le=2)] = 1.0
    """Factor on the policy's brightness, contrast, saturation and hue strengths, in [0, 2]; hue is
    capped at 0.5."""
    crop_scale_min: Annotated[float, Field(gt=0, le=1)] | None = None
    """Smallest share of the image's area in the random resized crop, in (0, 1]."""
    crop_ratio: Annotated[float, Field(ge=1)] | None = None
    """Largest aspect ratio of the crop, >= 1; the smallest is its inverse."""
    hflip: Probability | None = None
    """Probability of a horizontal flip, in [0, 1]."""
    vflip: Probability | None = None
    """Probability of a vertical flip, in [0, 1]."""
    rot90: Probability | None = None
    """Probability of a turn by 90, 180 or 270 degrees, in [0, 1]."""
    rotate: Annotated[float, Field(ge=0, le=180)] | None = None
    """Largest angle of a rotation either way, in degrees, in [0, 180]. Not in the BYOL paper."""
    jitter: Probability | None = None
    """Probability of colour jitter, in [0, 1]."""
    brightness: Annotated[float, Field(ge=0, le=1)] | None = None
    """Strength of brightness jitter, in [0, 1]."""
    contrast: Annotated[float, Field(ge=0, le=1)] | None = None
    """Strength of contrast jitter, in [0, 1]."""
    saturation: Annotated[float, Field(ge=0, le=1)] | None = None
    """Strength of saturation jitter, in [0, 1]."""
    hue: Annotated[float, Field(ge=0, le=0.5)] | None = None
    """Strength of hue jitter, as a share of the colour circle, in [0, 0.5]."""
    grayscale: Probability | None = None
    """Probability of dropping colour, in [0, 1]."""
    blur: Probability | None = None
    """Probability of Gaussian blur in each of the two views, in [0, 1]."""
    blur_sigma_max: Annotated[float, Field(gt=0)] | None = None
    """Largest standard deviation of the blur, in pixels, > 0."""
    solarize: Probability | None = None
    """Probability of solarization in each of the two views, in [0, 1]."""

    def views(self) -> tuple[AugmentConfig, AugmentConfig]:
        """The policy's two views, with the fields set here overridden."""
        first, second = PRESETS[self.policy]
        return self._adjusted(first), self._adjusted(second)

    def _adjusted(self, view: AugmentConfig) -> AugmentConfig:
        """The policy's view, with the config's strength and values. Hue and blur are limited to the
        ranges that their operations accept."""
        if self.exact:
            return view
        values = asdict(view)
        for name in ("brightness", "contrast", "saturation", "hue"):
            values[name] *= self.strength

        for name, value in asdict(self).items():
            if name not in ("policy", "exact", "strength") and value is not None:
                values[name] = value

        values["hue"] = min(values["hue"], 0.5)
        values["blur_sigma_min"] = min(values["blur_sigma_min"], values["blur_sigma_max"])
        return AugmentConfig(**values)
