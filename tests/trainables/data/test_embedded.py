"""The embedded sets against fontTools, plain PIL drawings and scikit-learn."""

import unicodedata
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.ttLib import TTFont
from PIL import Image, ImageDraw, ImageFont
from scipy.stats import chi2_contingency
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from tests import REPO
from trainables.data import DataConfig, DataSet, Split, glyphs, inspect, load_dataset
from trainables.data.embedded import _digits
from trainables.data.glyphs import FACES, GlyphPlan
from trainables.files import default_cache_dir

FONTS = Path(matplotlib.get_data_path()) / "fonts" / "ttf"


@pytest.fixture(scope="module")
def cache() -> Path:
    """Return a cache for the stores of all tests: drawing the letters takes twenty seconds."""
    return default_cache_dir()


@pytest.fixture(scope="module")
def plan() -> GlyphPlan:
    return glyphs.make_plan(0)


@pytest.fixture(scope="module")
def letters(cache: Path) -> DataSet:
    return load_dataset(DataConfig(name="glyphs"), cache_dir=cache)


@pytest.fixture(scope="module")
def earlier(cache: Path) -> DataSet:
    """Return the letters as split by version 1 of the rules."""
    return load_dataset(DataConfig(name="glyphs", split=1), cache_dir=cache)


def faces(split: Split, plan: GlyphPlan) -> set[str]:
    return {FACES[face] for face in np.array(plan.face)[split.indices]}


def names(data: DataSet, split: Split) -> set[str]:
    labels = split.targets()
    assert labels is not None
    return {data.classes[label] for label in labels}


def pixels(split: Split) -> np.ndarray:  # (n, S * S), unit length
    flat = split.batch(np.arange(len(split)))[:, 0].flatten(1).float()
    return (flat / flat.norm(dim=1, keepdim=True)).numpy()


def pairs(split: Split, plan: GlyphPlan) -> list[tuple[int, int]]:
    """Return (letter, face) of every image."""
    return [(plan.letter[row], plan.face[row]) for row in split.indices]


def test_sizes(letters: DataSet, earlier: DataSet) -> None:
    for data in (letters, earlier):
        assert data.gallery is not None
        assert 15_000 <= len(data.train) <= 20_000
        assert data.train.images.shape[1:] == (3, 28, 28)
        assert data.chance == 1 / len(names(data, data.gallery))
    assert len(letters.val) >= 400
    assert len(letters.test) >= 1500
    assert min(len(earlier.val), len(earlier.test)) >= 800


def test_no_pair_of_letter_and_face_is_on_two_sides(letters: DataSet, plan: GlyphPlan) -> None:
    assert letters.gallery is not None
    splits = (letters.train, letters.gallery, letters.val, letters.test)
    sides = [set(pairs(split, plan)) for split in splits]
    assert sum(map(len, sides)) == len(set.union(*sides))
    for split in (letters.val, letters.test):
        found = pairs(split, plan)
        assert len(set(found)) == len(found)  # each pair is evaluated once


def test_val_and_test_are_of_one_distribution(letters: DataSet, plan: GlyphPlan) -> None:
    """Every held-out letter and every face has the same share of both splits."""
    held_out = set(plan.classes[: plan.held_out])
    assert names(letters, letters.val) == names(letters, letters.test) == held_out

    counts = {}
    for name, split in (("val", letters.val), ("test", letters.test)):
        found = np.array(pairs(split, plan))
        by_letter = np.bincount(found[:, 0], minlength=plan.held_out)
        assert by_letter.max() <= 1.3 * by_letter.min()
        counts[name] = np.bincount(found[:, 1], minlength=len(FACES))
    _, p, _, _ = chi2_contingency(np.array([counts["val"], counts["test"]]))
    assert p > 0.01


def test_alphabets_and_halves(earlier: DataSet) -> None:
    letters = earlier
    assert letters.gallery is not None
    train, gallery, val, test = (
        names(letters, split)
        for split in (letters.train, letters.gallery, letters.val, letters.test)
    )
    assert not train & gallery
    assert not val & test
    assert val | test == gallery
    assert abs(len(val) - len(test)) <= 10
    held_out = ("CYRILLIC", "ARMENIAN", "GEORGIAN")
    assert all(unicodedata.name(letter).startswith(held_out) for letter in gallery)
    assert not any(unicodedata.name(letter).startswith(held_out) for letter in train)
    for fold in (str.lower, str.upper, lambda letter: unicodedata.normalize("NFD", letter)[0]):
        assert not {fold(letter) for letter in val} & {fold(letter) for letter in test}


def test_gallery_and_queries_were_drawn_in_different_faces(
    earlier: DataSet, plan: GlyphPlan
) -> None:
    assert earlier.gallery is not None
    for queries in (earlier.val, earlier.test):
        assert len(faces(queries, plan)) >= 4
        assert not faces(earlier.gallery, plan) & faces(queries, plan)


def test_every_drawn_letter_is_in_its_face(plan: GlyphPlan) -> None:
    letter, face = np.array(plan.letter), np.array(plan.face)
    for position, name in enumerate(FACES):
        used = {plan.classes[label] for label in letter[face == position]}
        covered = {
            chr(code)
            for table in TTFont(FONTS / f"{name}.ttf")["cmap"].tables
            if table.isUnicode()
            for code in table.cmap
        }
        assert used
        assert used <= covered


@pytest.mark.parametrize(
    "pair", ["АA", "ВB", "ЕE", "ЅS", "ІI", "ЈJ", "оo", "рp", "сc", "ёë", "օo", "աɯ"]
)
def test_known_homoglyphs_are_removed(plan: GlyphPlan, pair: str) -> None:
    """The pairs are from Unicode's confusables table."""
    held_out, rival = pair
    assert rival in plan.classes
    assert held_out not in plan.classes
    assert held_out in plan.homoglyphs


def test_distinct_letters_are_kept(plan: GlyphPlan) -> None:
    assert set("ЖЩЫЮЯжбԱԳგდფ") <= set(plan.classes[: plan.held_out])


@pytest.mark.parametrize("face", ["DejaVuSans", "DejaVuSerif"])
def test_no_held_out_letter_is_drawn_like_a_training_letter(plan: GlyphPlan, face: str) -> None:
    """The check is independent of the similarity in use: it compares plain drawings, cropped to
    their ink, byte by byte."""
    font = ImageFont.truetype(FONTS / f"{face}.ttf", 40)

    def plain(letter: str) -> bytes:
        image = Image.new("1", (120, 120))
        ImageDraw.Draw(image).text((30, 30), letter, fill=1, font=font)
        ink = image.crop(image.getbbox())
        return repr(ink.size).encode() + ink.tobytes()

    known = {plain(letter) for letter in plan.classes[plan.held_out :]}
    assert not [letter for letter in plan.classes[: plan.held_out] if plain(letter) in known]
    alike = [letter for letter in plan.homoglyphs if plain(letter) in known]
    assert len(alike) >= 30  # the comparison does find those that were removed


def test_difficulty(letters: DataSet, earlier: DataSet) -> None:
    """Raw pixels find some letters but far from all, so there is something to learn."""
    for data in (letters, earlier):
        assert data.gallery is not None
        nearest = KNeighborsClassifier(1).fit(pixels(data.gallery), data.gallery.targets())
        for queries in (data.val, data.test):
            assert 10 * data.chance < nearest.score(pixels(queries), queries.targets()) < 0.5


def test_drawings_are_bright_gray_images(letters: DataSet) -> None:
    images = letters.train.images[::40]
    assert images.max(axis=(1, 2, 3)).min() > 150
    np.testing.assert_array_equal(images[:, 0], images[:, 2])


@pytest.mark.parametrize("face", ["DejaVuSans-Bold", "DejaVuSerif-BoldItalic"])
def test_shifts_cut_nothing_off(monkeypatch: pytest.MonkeyPatch, face: str) -> None:
    """A letter has the same amount of ink with and without a shift, and shifts do occur."""

    def drawn() -> np.ndarray:
        return np.stack(
            [
                glyphs.draw(letter, face, 28, np.random.default_rng(seed))
                for letter in "WŒǄĴ"
                for seed in range(30)
            ]
        )

    shifted = drawn()
    monkeypatch.setattr(glyphs, "SHIFT", 0.0)
    centred = drawn()
    np.testing.assert_allclose(shifted.sum((1, 2)), centred.sum((1, 2)), rtol=0.02)
    assert np.mean((shifted != centred).any((1, 2))) > 0.9


@pytest.mark.heavy
def test_drawings_are_a_function_of_the_seed(letters: DataSet, plan: GlyphPlan) -> None:
    first, second = glyphs.source(0), glyphs.source(1)
    rows = range(0, first.count, 997)
    np.testing.assert_array_equal(
        [first.open(row).at(28) for row in rows], letters.train.images[rows]
    )
    assert all((first.open(row).at(28) != second.open(row).at(28)).any() for row in rows)
    assert glyphs.fingerprint(0) != glyphs.fingerprint(1)
    assert first.extra["plan"] == plan.to_json()
    assert first.extra["plan"]["test_letters"] != second.extra["plan"]["test_letters"]


def test_jitter_stays_in_its_ranges() -> None:
    """The angle of a long bar is the principal axis of its ink."""
    angles, scales = [], []
    for seed in range(200):
        image = glyphs.draw("l", "DejaVuSans", 64, np.random.default_rng(seed)).astype(float)
        y, x = np.nonzero(image > 128)
        covariance = np.cov(np.stack([x, y]))
        values, axes = np.linalg.eigh(covariance)
        angles.append(np.degrees(np.arctan2(axes[0, 1], axes[1, 1])))
        scales.append(values[1] ** 0.5)
    angles = (np.array(angles) + 90) % 180 - 90
    assert np.abs(angles).max() <= glyphs.ROTATION + 1
    assert angles.min() < -12 < 12 < angles.max()
    assert max(scales) / min(scales) == pytest.approx(glyphs.SCALE[1] / glyphs.SCALE[0], rel=0.1)


def test_classify_splits_the_letters_as_ssl_does(
    letters: DataSet, plan: GlyphPlan, cache: Path
) -> None:
    data = load_dataset(DataConfig(name="glyphs"), "classify", cache)
    assert data.classes == plan.classes[: plan.held_out]
    assert letters.gallery is not None
    for split, same in (
        (data.train, letters.gallery),
        (data.val, letters.val),
        (data.test, letters.test),
    ):
        np.testing.assert_array_equal(split.indices, same.indices)
        assert [data.classes[label] for label in split.targets()] == [
            plan.classes[label] for label, _ in pairs(split, plan)
        ]
    assert np.bincount(data.train.targets()).min() >= 3


def test_classification_of_the_test_letters_in_version_1(
    earlier: DataSet, plan: GlyphPlan, cache: Path
) -> None:
    letters = earlier
    data = load_dataset(DataConfig(name="glyphs", split=1), "classify", cache)
    assert set(data.classes) == names(letters, letters.test)
    for split in (data.train, data.val, data.test):
        expected = [
            data.classes.index(plan.classes[label])
            for label in np.array(plan.letter)[split.indices]
        ]
        assert split.targets().tolist() == expected
        assert names(data, split) == set(data.classes)
    assert set(data.test.indices) < set(letters.test.indices)
    families = [faces(split, plan) for split in (data.train, data.val, data.test)]
    assert sum(map(len, families)) == len(set.union(*families))


def test_pre_training_on_the_pre_training_letters(
    letters: DataSet, plan: GlyphPlan, cache: Path
) -> None:
    data = load_dataset(DataConfig(name="glyphs"), "pretrain", cache)
    assert data.classes == plan.classes[plan.held_out :]
    splits = (data.train, data.val, data.test)
    rows = np.concatenate([split.indices for split in splits])
    # the images that ssl sees without labels, each drawing once
    assert sorted(rows) == sorted(letters.train.indices)
    for split in splits:
        assert [data.classes[label] for label in split.targets()] == [
            plan.classes[label] for label in np.array(plan.letter)[split.indices]
        ]
        assert names(data, split) == set(data.classes)
        assert faces(split, plan) == faces(letters.train, plan)
    drawn = {(plan.letter[row], plan.face[row]) for row in data.train.indices}
    assert not drawn & {
        (plan.letter[row], plan.face[row])
        for row in np.concatenate([data.val.indices, data.test.indices])
    }


def test_the_page_says_what_each_experiment_sees(letters: DataSet, cache: Path) -> None:
    """docs/classify.md counts the drawings that `ssl` and `pretrain` see, and the pairs that
    judge."""
    page = " ".join((REPO / "docs/classify.md").read_text().split())
    pretrain, classify = (
        load_dataset(DataConfig(name="glyphs"), task, cache) for task in ("pretrain", "classify")
    )
    others = len(pretrain.val) + len(pretrain.test)
    assert f"`ssl` sees {len(letters.train):,} drawings without labels" in page
    assert f"`pretrain` sees {len(pretrain.train):,} of them with labels" in page
    assert f"keeps the other {others:,} for its own val and test" in page
    rows = np.concatenate([pretrain.val.indices, pretrain.test.indices])
    assert set(rows) <= set(letters.train.indices)
    assert f"in {len(classify.train):,} drawings), val ({len(classify.val)})" in page
    assert f"or test ({len(classify.test):,})" in page


def test_digits_are_those_of_scikit_learn(cache: Path) -> None:
    data = load_dataset(DataConfig(name="digits", image_size=8), cache_dir=cache)
    digits = load_digits()
    np.testing.assert_array_equal(data.train.images[:, 1], np.round(digits.images * 255 / 16))
    np.testing.assert_array_equal(data.train.labels, digits.target)
    rows = np.concatenate([data.train.indices, data.val.indices, data.test.indices])
    assert sorted(rows) == list(range(1797))
    for split, share in ((data.train, 0.6), (data.val, 0.2), (data.test, 0.2)):
        np.testing.assert_allclose(
            np.bincount(split.targets()), share * np.bincount(digits.target), atol=2
        )
    other = load_dataset(DataConfig(name="digits", image_size=8, seed=1), cache_dir=cache)
    assert other.test.indices.tolist() != data.test.indices.tolist()


def test_inspection_draws_nothing(tmp_path: Path, cache: Path) -> None:
    for name in ("glyphs", "digits"):
        found = inspect(DataConfig(name=name), cache_dir=tmp_path / "cache")
        assert not (tmp_path / "cache").exists()
        data = load_dataset(DataConfig(name=name), cache_dir=cache)
        assert found.fingerprint == data.fingerprint
        assert sum(found.counts.values()) == len(data.train.images)
        assert found.store_bytes == data.train.images.nbytes


def test_digits_are_read_as_scikit_learn_reads_them() -> None:
    ours, theirs = _digits(), load_digits()
    assert ours.data.tobytes() == theirs.data.tobytes()
    assert np.array_equal(ours.images, theirs.images)
    assert np.array_equal(ours.target, theirs.target)
