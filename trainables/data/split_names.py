"""Names of splits, as used for folders, label files and images.

`part_of` knows `train`, `val`, `validation`, `test` with a number, as in the first version.
`split_of` knows all others: `seg_train`, `train2017`, `images_train`, `dev`, `holdout`, ...
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

PARTS = ("train", "val", "test")
HIDDEN = "hidden"
"""Part of images in a test set without labels."""

_PART = re.compile(r"(train|val|test)(?:ing|id|idation)?(?:[_-]\d+)?", re.IGNORECASE)

_WORDS = {
    "train": "train training trn trainval background",
    "val": "val valid validation validate validating dev devel development",
    "test": "test testing tests tst holdout heldout",
    "eval": "eval evaluation evaluate",
}
_PART_OF_WORD = {word: part for part, words in _WORDS.items() for word in words.split()}
_TWO_WORDS = {("hold", "out"): "test", ("held", "out"): "test"}
_ONLY_WITH_IMAGES = {"background"}
"""Words that name a split only beside `images`: Omniglot's images_background."""

_AFFIXES = frozenset(
    [
        "all",
        "annotated",
        "augmented",
        "clean",
        "crop",
        "cropped",
        "crops",
        "data",
        "dataset",
        "datasets",
        "dir",
        "file",
        "files",
        "final",
        "folder",
        "full",
        "image",
        "images",
        "img",
        "imgs",
        "jpeg",
        "jpg",
        "label",
        "labeled",
        "labelled",
        "labels",
        "large",
        "mini",
        "new",
        "of",
        "original",
        "part",
        "photo",
        "photos",
        "pic",
        "pics",
        "picture",
        "pictures",
        "png",
        "processed",
        "px",
        "raw",
        "resized",
        "sample",
        "samples",
        "set",
        "sets",
        "small",
        "split",
        "square",
        "subset",
        "the",
        "tiny",
    ]
)
_GLUED = re.compile(r"(?:images?|imgs?|data)?(.+?)(?:sets?|data|images?|imgs?|files?)?")
_PIECES = frozenset(
    [
        "archive",
        "batch",
        "chunk",
        "data",
        "fold",
        "folder",
        "image",
        "images",
        "img",
        "imgs",
        "part",
        "photos",
        "pictures",
        "set",
        "shard",
        "split",
        "subset",
        "vol",
        "volume",
    ]
)
"""Words before the number or letter of a piece of a set: HAM10000_images_part_1."""
_FOLD = re.compile(r"(?:cv)?[_-]?(fold|set|split|part|batch|chunk|shard|subset)[ _-]*\d+", re.I)
_TOKEN = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+|[^\W\d_a-zA-Z]+")


@dataclass(frozen=True)
class Look:
    """The split that a name looks like."""

    part: str
    """One of `PARTS`, or "eval" for a name that may be val or test."""
    usual: bool
    """True if the other words are single letters, or words often added to the name of a split."""
    others: tuple[str, ...]
    """The other words, without numbers: ("seg",) for seg_train."""


def part_of(name: str) -> str | None:
    """The part that a folder or file stem names: "train_50" -> "train", "validation" -> "val"."""
    match = _PART.fullmatch(name)
    return match[1].lower() if match else None


def split_of(name: str) -> Look | None:
    """The split that a name looks like: "seg_train", "train2017", "TestImages", "dev". None if the
    name contains no word for a split, or words for two."""
    words = _words(name)
    found: list[str] = []
    others: list[str] = []
    position = 0
    while position < len(words):
        pair = tuple(words[position : position + 2])
        if pair in _TWO_WORDS:
            found.append(_TWO_WORDS[pair])
            position += 2
            continue
        word = words[position]
        part = _part_of_word(word)
        if part is None or (word in _ONLY_WITH_IMAGES and words[:1] != ["images"]):
            others.append(word)
        else:
            found.append(part)
        position += 1

    if len(set(found)) != 1:
        return None
    rest = tuple(word for word in others if not word.isdecimal())
    unusual = [word for word in rest if len(word) > 1 and word not in _AFFIXES]
    return Look(found[0], not unusual, rest)


def _words(name: str) -> list[str]:
    """Words and numbers in a name, in lower case: "ImageTrain2017" -> image, train, 2017."""
    return [token.lower() for token in _TOKEN.findall(name)]


def _part_of_word(word: str) -> str | None:
    if word in _PART_OF_WORD:
        return _PART_OF_WORD[word]
    match = _GLUED.fullmatch(word)
    return _PART_OF_WORD.get(match[1]) if match else None


def is_fold(name: str) -> bool:
    """True for names such as fold0, set_1, part-03: pieces of a set, not classes."""
    return _FOLD.fullmatch(name) is not None


def are_pieces(names: Sequence[str]) -> bool:
    """True if folders are numbered pieces of one set, not classes: fold0, fold1, ...;
    images_001, images_002; birds_part_a, birds_part_b."""
    if len(names) < 2:
        return False
    if all(is_fold(name) for name in names):
        return True
    kinds: set[tuple[str, ...]] = set()
    for name in names:
        *words, number = _words(name) or [""]
        if not number.isdecimal() and len(number) != 1:
            return False
        kinds.add(tuple(words))
    if len(kinds) > 1:
        return False
    words_of_all = kinds.pop()
    return bool(words_of_all) and words_of_all[-1] in _PIECES


def firm_looks(names: Iterable[str]) -> dict[str, Look]:
    """The names that are splits. An unusual name counts only together with a similar one: seg_train
    is a split if there is a seg_test, but bullet_train is a class."""
    looks: dict[str, Look] = {}
    for name in names:
        look = split_of(name)
        if look is not None:
            looks[name] = look

    parts_of: dict[tuple[str, ...], set[str]] = {}
    for look in looks.values():
        parts_of.setdefault(look.others, set()).add(look.part)
    return {
        name: look for name, look in looks.items() if look.usual or len(parts_of[look.others]) > 1
    }


def parts_of_looks(looks: Mapping[str, Look]) -> dict[str, str]:
    """Name -> part. "eval" is test, or val if there is a test."""
    has_test = any(look.part == "test" for look in looks.values())
    eval_part = "val" if has_test else "test"
    parts: dict[str, str] = {}
    for name, look in looks.items():
        parts[name] = eval_part if look.part == "eval" else look.part
    return parts
