"""`--data hf:...`: data sets written by `datasets`, on disk and in its cache, without a network."""

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tests.trainables.data.test_named import S, by_content, loaded, picture
from trainables.data.images import sha256
from trainables.errors import UserError

datasets = pytest.importorskip("datasets")


def encoded(number: int) -> bytes:
    content = io.BytesIO()
    picture(number).save(content, "JPEG", quality=95)
    return content.getvalue()


def columns(numbers: Sequence[int], labels: Sequence[int]) -> dict[str, Any]:
    return {"photo": [{"bytes": encoded(n), "path": None} for n in numbers], "kind": list(labels)}


FEATURES = datasets.Features(
    {"photo": datasets.Image(), "kind": datasets.ClassLabel(names=["ant/bee", ".cat"])}
)


def split(numbers: Sequence[int], labels: Sequence[int] | None = None) -> Any:
    given = [n % 2 for n in numbers] if labels is None else labels
    return datasets.Dataset.from_dict(columns(numbers, given), features=FEATURES)


def saved(root: Path, **splits: Any) -> str:
    datasets.DatasetDict(splits).save_to_disk(str(root))
    return f"hf:{root}"


def test_saved_data_has_its_bytes_labels_and_splits(tmp_path: Path) -> None:
    name = saved(tmp_path / "set", train=split(range(20)), test=split(range(20, 26)))
    data = loaded(name, "classify", tmp_path / "cache")
    assert data.name == "hf-set"
    assert data.classes == ("_cat", "ant_bee")  # names that folders can have
    found = by_content(data)
    assert len(found) == 26
    for number in range(26):
        part, label = found[sha256(encoded(number))]
        assert label == ["ant_bee", "_cat"][number % 2]
        assert (part == "test") == (number >= 20)


def test_a_test_split_without_labels_is_left_out(tmp_path: Path) -> None:
    hidden = split(range(40, 46), [-1] * 6)
    name = saved(
        tmp_path / "set", train=split(range(24)), validation=split(range(24, 30)), test=hidden
    )
    data = loaded(name, "classify", tmp_path / "cache")
    assert data.summary.origins["test"] == "the layout's val"
    assert len(by_content(data)) == 30


def test_splits_and_columns_can_be_named(tmp_path: Path) -> None:
    name = saved(tmp_path / "set", fit=split(range(20)), judge=split(range(20, 26)))
    with pytest.raises(UserError, match=r"the splits fit, judge, none of which is for training"):
        loaded(name, "classify", tmp_path / "cache")
    data = loaded(f"{name},train=fit,test=judge,label=kind", "classify", tmp_path / "cache")
    assert len(data.test) == 6
    with pytest.raises(UserError, match="there is no column 'colour'; valid: photo, kind"):
        loaded(f"{name},train=fit,label=colour", "classify", tmp_path / "cache")
    with pytest.raises(UserError, match="unknown option 'labels'; valid: config"):
        loaded(f"{name},labels=kind", "classify", tmp_path / "cache")


def test_masks_are_those_of_the_data(tmp_path: Path) -> None:
    masks = [np.random.default_rng(n).choice([0, 1, 2, 255], (S, S)) for n in range(16)]
    pictures = [Image.fromarray(mask.astype(np.uint8)) for mask in masks]
    features = datasets.Features({"image": datasets.Image(), "mask": datasets.Image()})
    photos = [picture(n) for n in range(16)]
    made = datasets.Dataset.from_dict({"image": photos, "mask": pictures}, features=features)
    name = saved(tmp_path / "set", train=made)
    data = loaded(name, "segment", tmp_path / "cache")
    assert data.classes == ("0", "1", "2")
    named = loaded(f"{name},classes=sky|sea|sand", "segment", tmp_path / "cache")
    assert named.classes == ("sky", "sea", "sand")

    wanted = {photo.tobytes(): mask for photo, mask in zip(photos, masks, strict=True)}
    for part in (data.train, data.val, data.test):
        images = part.batch(np.arange(len(part))).permute(0, 2, 3, 1).numpy()
        found = part.masks(np.arange(len(part))).numpy()
        for image, mask in zip(images, found, strict=True):
            np.testing.assert_array_equal(mask, wanted[image.tobytes()])


def cached(cache: Path, name: str) -> None:
    """Put a data set into the cache of `datasets`, as `load_dataset` does."""
    owner, _, word = name.partition("/")
    folder = cache / f"{owner}___{word}" / "default" / "0.0.0" / "0123abcd"
    splits = {"train": split(range(20)), "test": split(range(20, 26))}
    infos = {}
    for part, made in splits.items():
        made.save_to_disk(str(cache / "scratch" / part))
        (file,) = (cache / "scratch" / part).glob("*.arrow")
        folder.mkdir(parents=True, exist_ok=True)
        file.rename(folder / f"{word}-{part}.arrow")
        infos[part] = {"name": part, "num_examples": len(made), "dataset_name": word}
    about = {
        "builder_name": "parquet",
        "dataset_name": word,
        "config_name": "default",
        "version": {"version_str": "0.0.0", "major": 0, "minor": 0, "patch": 0},
        "splits": infos,
        "features": json.loads(json.dumps(FEATURES.to_dict())),
    }
    (folder / "dataset_info.json").write_text(json.dumps(about))


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the cache of `datasets`, with a hub that never answers."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", cache)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    return cache


def test_a_set_of_the_hub_is_read_from_the_cache(no_hub: Path, tmp_path: Path) -> None:
    cached(no_hub, "owner/bugs")
    data = loaded("hf:owner/bugs", "classify", tmp_path / "cache")
    assert data.name == "hf-owner-bugs"
    found = by_content(data)
    assert {content for content, (part, _) in found.items() if part == "test"} == {
        sha256(encoded(number)) for number in range(20, 26)
    }


def test_neither_in_the_cache_nor_in_reach_is_one_line(
    no_hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://me:secret@127.0.0.1:9/hub")
    with pytest.raises(UserError, match=r"hf:owner/none cannot be loaded") as refused:
        loaded("hf:owner/none", "classify", tmp_path / "cache")
    assert "\n" not in str(refused.value)
    assert "http://127.0.0.1:9/hub does not provide it" in str(refused.value)
    assert "secret" not in str(refused.value)
    assert datasets.config.HF_HUB_OFFLINE is False  # as before
