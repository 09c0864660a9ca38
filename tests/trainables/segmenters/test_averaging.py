"""Predictions averaged over versions of an image, against versions made by hand."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from trainables.config import build
from trainables.errors import UserError
from trainables.segmentation import SegmentationConfig
from trainables.segmenters.averaging import AveragingConfig, averaged_scores


def looks_left(images: Tensor) -> tuple[Tensor, None]:
    """Return scores whose second class is the pixel to the left: an asymmetric network."""
    left = images[:, :1].roll(1, 3)
    return torch.cat([images[:, :1], left], 1), None


def test_alone_it_is_the_network() -> None:
    images = torch.randn(3, 3, 8, 10)
    scores = averaged_scores(looks_left, images, AveragingConfig(), "all")
    assert torch.equal(scores, looks_left(images)[0])


@pytest.mark.parametrize(
    ("up", "flips"),
    [
        ("unset", [(), (3,)]),
        ("horizontal", [(), (3,)]),
        ("all", [(), (3,), (2,), (2, 3)]),
    ],
)
def test_flips_are_those_that_the_data_admits(up: str, flips: list[tuple[int, ...]]) -> None:
    images = torch.randn(3, 3, 8, 10)
    scores = averaged_scores(looks_left, images, AveragingConfig(flip=True), up)
    versions = [
        looks_left(images.flip(flip))[0].flip(flip).softmax(1)
        if flip
        else looks_left(images)[0].softmax(1)
        for flip in flips
    ]
    torch.testing.assert_close(scores.exp(), torch.stack(versions).mean(0))


def test_scales_are_averaged_at_the_size_of_the_image() -> None:
    images = torch.randn(5, 3, 8, 10)
    scores = averaged_scores(looks_left, images, AveragingConfig(scales="1,2"), "none")
    double = functional.interpolate(images, size=(16, 20), mode="bilinear", antialias=True)
    back = functional.interpolate(looks_left(double)[0].softmax(1), size=(8, 10), mode="bilinear")
    expected = (looks_left(images)[0].softmax(1) + back) / 2
    torch.testing.assert_close(scores.exp(), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"eval.scales": "1,huge"}, r"numbers from 0.25 to 4 .* but one is 'huge'"),
        ({"eval.scales": "8"}, r"numbers from 0.25 to 4 .* but one is '8'"),
        ({"eval.scales": "0.25"}, r"images of 16 px of those of 64; 32 is the least"),
        (
            {"eval.flip": "true", "data.up": "none", "data.image_size": "64"},
            r"data.up=none forbids",
        ),
    ],
)
def test_what_cannot_be_is_refused(values: dict[str, str], message: str) -> None:
    with pytest.raises(UserError, match=message):
        build(SegmentationConfig, values)
