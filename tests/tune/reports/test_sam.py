"""Automatic masks from a small, randomly initialised Segment Anything, by the user's command."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from trainables.errors import UserError
from tune.report import app
from tune.reports.sam import load, overlay


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as the hub has it, for a model with 64 px images and two layers."""
    transformers = pytest.importorskip(
        "transformers", reason="transformers is not installed: pip install -e '.[sam]'"
    )
    import torch

    folder = tmp_path_factory.mktemp("sam")
    vision = {
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "output_channels": 16,
    }
    vision |= {"window_size": 4, "global_attn_indexes": [1], "mlp_dim": 32, "num_pos_feats": 8}
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "image_embedding_size": 8}
    decoder = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "iou_head_hidden_dim": 16,
    }
    torch.manual_seed(1)
    config = transformers.SamConfig(
        vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=decoder
    )
    transformers.SamModel(config).save_pretrained(folder)
    sizes = {
        "size": {"longest_edge": 64},
        "pad_size": {"height": 64, "width": 64},
        "mask_size": {"longest_edge": 16},
    }
    transformers.SamImageProcessor(
        **sizes, mask_pad_size={"height": 16, "width": 16}
    ).save_pretrained(folder)
    return folder


def test_command_draws_the_masks_that_transformers_finds(checkpoint: Path, tmp_path: Path) -> None:
    import transformers

    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "one.png")
    (tmp_path / "bad.png").write_bytes(b"no image")
    options = [
        "--checkpoint",
        str(checkpoint),
        "--out",
        str(tmp_path / "out"),
        "--points",
        "4",
        "--quality",
        "0",
        "--stability",
        "0",
    ]
    said = CliRunner().invoke(
        app, ["sam", str(tmp_path / "one.png"), str(tmp_path / "bad.png"), *options]
    )
    assert said.exit_code == 0, said.output
    generate = transformers.pipeline(
        "mask-generation",
        model=transformers.SamModel.from_pretrained(checkpoint),
        image_processor=transformers.SamImageProcessor.from_pretrained(checkpoint),
    )
    masks = generate(
        Image.fromarray(pixels), points_per_crop=4, pred_iou_thresh=0, stability_score_thresh=0
    )["masks"]
    assert len(masks) > 0
    first, second = said.output.splitlines()
    assert first == f"{tmp_path / 'out' / 'one_sam.png'}: {len(masks)} masks"
    assert second == f"{tmp_path / 'bad.png'}: left out, not an image"
    drawn = np.asarray(Image.open(tmp_path / "out" / "one_sam.png"))
    covered = np.any(masks, axis=0)
    np.testing.assert_array_equal(drawn[~covered], pixels[~covered])
    assert (drawn[covered] != pixels[covered]).any(1).mean() > 0.9


def test_a_mask_is_half_its_colour_with_a_white_edge() -> None:
    pixels, mask = np.full((5, 5, 3), 100, np.uint8), np.zeros((1, 5, 5), bool)
    mask[0, 1:4, 1:4] = True
    drawn = overlay(pixels, mask)
    assert drawn[2, 2].tolist() == [round((100 + c) / 2) for c in (0x1F, 0x77, 0xB4)]
    assert (drawn[1, 1:4] == 255).all()
    assert (drawn[0] == 100).all()


def test_what_is_missing_is_said_in_one_line(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(
        UserError,
        match=r"lacks config.json, preprocessor_config.json, model.safetensors; "
        r"give a folder such as",
    ):
        load(tmp_path)
    for file in checkpoint.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"torn")
    with pytest.raises(UserError, match="cannot be read"):
        load(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "vit"}))
    with pytest.raises(UserError, match="is a model of type 'vit', not 'sam'"):
        load(tmp_path)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"-m pip install -e '\S*\[sam\]'"):
        load(checkpoint)
