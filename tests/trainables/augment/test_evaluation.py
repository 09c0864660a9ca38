"""Evaluation in batches gives the same result as evaluation of the whole split at once."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainables.test_byol import SMALL, byol
from tests.trainables.test_classifier import classifier
from trainables.augment.evaluation import batch_size, evaluation_batches
from trainables.augment.views import evaluation_view
from trainables.config import build, flatten


@pytest.mark.parametrize(
    ("side", "pixels", "expected"),
    [(28, 1 << 22, 256), (128, 1 << 22, 256), (224, 1 << 22, 83), (512, 1 << 22, 16), (64, 100, 1)],
)
def test_a_batch_is_bounded_by_its_pixels(side: int, pixels: int, expected: int) -> None:
    assert batch_size(side, pixels) == expected


@pytest.mark.parametrize("channels_last", [False, True])
def test_batches_are_the_whole_in_order(channels_last: bool) -> None:
    split = byol().data.val
    config: Any = build(type(SMALL), flatten(SMALL) | {"train.channels_last": channels_last})
    batches = list(
        evaluation_batches(
            split, range(3, 50), config, "half", torch.device("cpu"), pixels=10 * 16**2
        )
    )
    assert [len(batch) for batch in batches] == [10, 10, 10, 10, 7]
    expected = evaluation_view(split.batch(np.arange(3, 50)), 16, "half")
    assert torch.equal(torch.cat(batches), expected)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert all(batch.is_contiguous(memory_format=layout) for batch in batches)


@pytest.mark.parametrize("make", [byol, classifier])
def test_large_images_are_judged_a_few_at_a_time(
    make: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training halves its micro-batches when memory runs out; validation cannot, so its batches are
    small."""
    model, seen = make(), []
    model.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
    monkeypatch.setattr("trainables.augment.evaluation.IMAGES", 20)
    model.validate()
    assert max(seen) == 20
