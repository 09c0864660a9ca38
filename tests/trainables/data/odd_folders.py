"""Unusual folders and everything that is said about each: the data of `test_oddities.py`.

A file contains arbitrary bytes. In a path, `{a,b}` stands for both words and `{0..4}` for the
numbers.
"""

import os
import re
import unicodedata
from dataclasses import dataclass, field
from pathlib import Path

from trainables.data.layouts import read_layout
from trainables.data.listing import Listing

NFC = unicodedata.normalize("NFC", "café")
NFD = unicodedata.normalize("NFD", "café")
LATIN_1 = os.fsdecode("café".encode("latin-1"))


@dataclass(frozen=True)
class Odd:
    """An unusual folder."""

    name: str
    files: tuple[str, ...]
    expected: str
    """Everything that is said about it (`described` in the test), or the whole error message."""
    task: str = "classify"
    texts: dict[str, str] = field(default_factory=dict)
    """Label files: path -> content."""
    layout: str = "auto"
    domain: str = ""
    empty: str = ""
    """Name of a folder without files."""

    def build(self, root: Path) -> None:
        put(root, *self.files)
        for path, text in self.texts.items():
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(text)
        if self.empty:
            (root / self.empty).mkdir()

    def read(self, root: Path) -> Listing:
        return read_layout(root, self.task, self.layout, self.domain)


def expand(pattern: str) -> list[str]:
    """Return all paths that a pattern stands for."""
    match = re.search(r"\{([^{}]*)\}", pattern)
    if match is None:
        return [pattern]
    first, dots, last = match[1].partition("..")
    words = [str(n) for n in range(int(first), int(last) + 1)] if dots else match[1].split(",")
    before, after = pattern[: match.start()], pattern[match.end() :]
    return [path for word in words for path in expand(before + word + after)]


def put(root: Path, *patterns: str) -> None:
    """Write files, each with its own content."""
    for pattern in patterns:
        for path in expand(pattern):
            file = root / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(os.fsencode(path))


def lines(*rows: str, header: str = "filename,label") -> str:
    return "\n".join([header, *rows]) + "\n"


def labelled(
    classes: str,
    each: int,
    header: str = "filename,label",
    separator: str = ",",
    name: str = "{c}{n}.png",
) -> str:
    """Return a label file with `each` images of every class."""
    rows = [
        name.format(c=label, n=number) + separator + label
        for label in classes.split()
        for number in range(each)
    ]
    return lines(*rows, header=header)


ODDITIES = [
    Odd(
        "seg_train and seg_test",
        files=(
            "seg_train/{cat,dog}/{0..4}.jpg",
            "seg_test/{cat,dog}/{0..1}.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    seg_train  10  train\n"
        "           seg_test    4  test",
    ),
    Odd(
        "Intel scenes as unpacked",
        files=(
            "seg_train/seg_train/{sea,street}/{0..4}.jpg",
            "seg_test/seg_test/{sea,street}/{0..1}.jpg",
            "seg_pred/seg_pred/{0..2}.jpg",
        ),
        expected="sea street\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    seg_train/seg_train  10  train\n"
        "           seg_test/seg_test     4  test\n"
        "           seg_pred              3  left out (no folder of the layout)\n"
        "left out   3 outside the folders in use (such as seg_pred/seg_pred/0.jpg)",
    ),
    Odd(
        "train2017 and val2017",
        files=(
            "train2017/{0..9}.jpg",
            "val2017/{0..3}.jpg",
        ),
        task="ssl",
        expected="no classes, 14 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    train2017  10  train\n"
        "           val2017     4  val",
    ),
    Odd(
        "train2017 without labels",
        files=(
            "train2017/{0..9}.jpg",
            "val2017/{0..3}.jpg",
        ),
        task="pretrain",
        expected="refused: data folder SET has no labels (flat folder without labels), "
        "classification needs them; train2017/ is train, val2017/ is val; tried: csv "
        "(no train.csv); nested classes (images are not two folders deep); domains "
        "(images are not two folders deep); folder per class (0 of 10 images are in "
        "a subfolder); label file (no single csv with columns for file and label); "
        "file-name prefix (0 of 10 names are <label>_<n>)",
    ),
    Odd(
        "train and dev",
        files=(
            "train/{cat,dog}/{0..4}.jpg",
            "dev/{cat,dog}/{0..1}.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train  10  train\n"
        "           dev     4  val",
    ),
    Odd(
        "images_train and images_val",
        files=(
            "images_train/{cat,dog}/{0..4}.jpg",
            "images_val/{cat,dog}/{0..1}.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    images_train  10  train\n"
        "           images_val     4  val",
    ),
    Odd(
        "TrainSet, ValidSet, TestSet",
        files=(
            "TrainSet/{cat,dog}/{0..4}.jpg",
            "ValidSet/{cat,dog}/{0..1}.jpg",
            "TestSet/{cat,dog}/0.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    TrainSet  10  train\n"
        "           ValidSet   4  val\n"
        "           TestSet    2  test",
    ),
    Odd(
        "train, valid, holdout",
        files=(
            "train/{cat,dog}/{0..4}.jpg",
            "valid/{cat,dog}/{0..1}.jpg",
            "holdout/{cat,dog}/0.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train    10  train\n"
        "           valid     4  val\n"
        "           holdout   2  test",
    ),
    Odd(
        "train, val, eval",
        files=(
            "train/{cat,dog}/{0..4}.jpg",
            "val/{cat,dog}/{0..1}.jpg",
            "eval/{cat,dog}/0.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train  10  train\n"
        "           val     4  val\n"
        "           eval    2  test",
    ),
    Odd(
        "training_set and testing_set 2020",
        files=(
            "training_set_2020/{cat,dog}/{0..4}.jpg",
            "testing_set_2020/{cat,dog}/0.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    training_set_2020  10  train\n"
        "           testing_set_2020    2  test",
    ),
    Odd(
        "asl_alphabet_train and its flat test",
        files=(
            "asl_alphabet_train/{A,B}/{0..4}.jpg",
            "asl_alphabet_test/{A,B}_test.jpg",
        ),
        expected="A B, 2 unlabeled\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    asl_alphabet_train  10  train\n"
        "           asl_alphabet_test    2  hidden test",
    ),
    Odd(
        "images inside the splits",
        files=(
            "train/images/{cat,dog}/{0..4}.jpg",
            "test/images/{cat,dog}/0.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train/images  10  train\n"
        "           test/images    2  test",
    ),
    Odd(
        "splits inside images",
        files=(
            "images/train/{cat,dog}/{0..4}.jpg",
            "images/test/{cat,dog}/0.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    images/train  10  train\n"
        "           images/test    2  test",
    ),
    Odd(
        "splits inside class folders",
        files=(
            "{cat,dog}/train/{0..4}.jpg",
            "{cat,dog}/test/{0..1}.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    */train  10  train\n"
        "           */test    4  test",
    ),
    Odd(
        "vehicles: a class called train",
        files=("{bus,car,train}/{0..4}.jpg",),
        expected="bus car train\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  15  train (no folders of splits)",
    ),
    Odd(
        "classes with a split in their names",
        files=("{bullet_train,test_tube,cat}/{0..4}.jpg",),
        expected="bullet_train cat test_tube\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  15  train (no folders of splits)",
    ),
    Odd(
        "train beside docs",
        files=(
            "train/{cat,dog}/{0..4}.jpg",
            "docs/{0..2}.jpg",
        ),
        expected="refused: train/ of SET looks like a split, docs/ not: unclear what is a "
        "class; name the splits train/, val/ and test/ and move other folders away, "
        "or take all of them as classes by --layout folder-per-class",
    ),
    Odd(
        "train beside docs, forced",
        files=(
            "train/{0..4}.jpg",
            "docs/{0..2}.jpg",
        ),
        layout="folder-per-class",
        expected="docs train\n"
        "layout     folder per class: --layout folder-per-class\n"
        "folders    .  8  train (no folders of splits)",
    ),
    Odd(
        "test among classes",
        files=(
            "{cat,dog}/{0..4}.jpg",
            "test/{0..2}.jpg",
        ),
        expected="refused: test/ of SET looks like a split, cat/, dog/ not: unclear what is a "
        "class; name the splits train/, val/ and test/ and move other folders away, "
        "or take all of them as classes by --layout folder-per-class",
    ),
    Odd(
        "train and a preview beside it",
        files=(
            "train/{cat,dog}/{0..4}.jpg",
            "preview.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train  10  train\n"
        "           .       1  left out (beside the folders in use)\n"
        "left out   1 outside the folders in use (such as preview.jpg)",
    ),
    Odd(
        "train, test and unlabeled",
        files=(
            "train/{cat,dog}/{0..4}.jpg",
            "test/{cat,dog}/0.jpg",
            "unlabeled/{0..5}.jpg",
        ),
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train      10  train\n"
        "           test        2  test\n"
        "           unlabeled   6  left out (no folder of the layout)\n"
        "left out   6 outside the folders in use (such as unlabeled/0.jpg)",
    ),
    Odd(
        "two training folders",
        files=("{train_a,train_b,val}/{cat,dog}/{0..4}.jpg",),
        expected="refused: data folder SET has several folders of one kind (train_a, train_b, "
        "val); keep one for each of train, val, test",
    ),
    Odd(
        "val alone",
        files=("{val,test}/{cat,dog}/{0..4}.jpg",),
        expected="refused: data folder SET has test, val but no train folder; add train/, or "
        "give the folder of images itself",
    ),
    Odd(
        "folds",
        files=("fold{0..3}/{cat,dog}/{0..4}.jpg",),
        expected="refused: the folders fold0, fold1, fold2 and 1 more of SET look like pieces "
        "of one set, not like classes; list their labels in a csv (filename,label), name them "
        "train/, val/ and test/, take one of them by --set data.domain=fold0, or take them as "
        "classes by --layout folder-per-class or as unlabeled images by --layout "
        "flat-folder-without-labels",
    ),
    Odd(
        "pieces of a set whose labels have another name",
        files=("HAM10000_images_part_{1,2}/{0..3}.jpg",),
        texts={"HAM10000_metadata.csv": lines("0.jpg,nv", header="image_id,dx,age")},
        expected="refused: the folders HAM10000_images_part_1, HAM10000_images_part_2 of SET look "
        "like pieces of one set, not like classes; HAM10000_metadata.csv has no column label "
        "(found: image_id, dx, age); list their labels in a csv (filename,label), name them "
        "train/, val/ and test/, take one of them by --set data.domain=HAM10000_images_part_1, or "
        "take them as classes by --layout folder-per-class or as unlabeled images by --layout "
        "flat-folder-without-labels",
    ),
    Odd(
        "pieces of a set and a list of labels",
        files=("images_001/images/{cat,dog}{0,1}.png", "images_002/images/{cat,dog}{2,3}.png"),
        texts={
            "labels.csv": lines(
                *[
                    f"images_00{1 + n // 2}/images/{c}{n}.png,{c}"
                    for c in ("cat", "dog")
                    for n in range(4)
                ]
            ),
            "patients.csv": lines("1,f", header="patient,sex"),
        },
        expected="cat dog\n"
        "layout     label file: labels.csv\n"
        "folders    */images  8  train\n"
        "left out   1 ending .csv (such as patients.csv)",
    ),
    Odd(
        "class folders and a csv that is not read",
        files=("{cat,dog}/{0..3}.png",),
        texts={"meta.csv": lines("0.png,7", header="filename,weight")},
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  8  train (no folders of splits)\n"
        "left out   1 ending .csv (such as meta.csv)",
    ),
    Odd(
        "a csv whose labels have another name",
        files=("images/{0..3}.png",),
        texts={"list.csv": lines("0.png,7", header="filename,weight")},
        expected="refused: data folder SET has no labels (flat folder without labels), "
        "classification needs them; tried: csv (no train.csv); nested classes (images are not two "
        "folders deep); domains (images are not two folders deep); folder per class (0 of 4 images "
        "are in a subfolder); label file (list.csv has no column label (found: filename, weight)); "
        "file-name prefix (0 of 4 names are <label>_<n>)",
    ),
    Odd(
        "one fold",
        files=("fold{0..3}/{cat,dog}/{0..4}.jpg",),
        domain="fold2",
        expected="cat dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  10  train (no folders of splits)",
    ),
    Odd(
        "folds of images, forced flat",
        files=("set{1..3}/{0..4}.jpg",),
        task="ssl",
        layout="flat-folder-without-labels",
        expected="no classes, 15 unlabeled\n"
        "layout     flat folder without labels: --layout flat-folder-without-labels\n"
        "folders    .  15  train (no folders of splits)",
    ),
    Odd(
        "names that begin with splits",
        files=("{train,test}_{0..5}.jpg",),
        task="ssl",
        expected="refused: names in SET begin with test, train: splits, not labels; move the "
        "images into folders train/, val/ and test/",
    ),
    Odd(
        "a folder of data sets",
        files=("{pets,birds}/train/{cat,dog}{0..2}.png",),
        texts={
            "pets/train.csv": labelled("cat dog", 3),
            "birds/train.csv": labelled("cat dog", 3),
        },
        task="pretrain",
        expected="refused: birds/, pets/ of SET are data sets of their own, each with its "
        "train.csv; give one: --data SET/birds",
    ),
    Odd(
        "one data set inside",
        files=("pets/train/{cat,dog}{0..2}.png",),
        texts={
            "pets/train.csv": labelled("cat dog", 3),
        },
        task="pretrain",
        expected="cat dog\nlayout     csv: train.csv\nfolders    train  6  train",
    ),
    Odd(
        "Office-Home as distributed",
        files=("{Art,Clipart,Product,Real World}/{Alarm_Clock,Bed,Chair}/{0..3}.jpg",),
        expected="refused: Art, Clipart, Product and 1 more of SET contain the same 3 folders "
        "(Alarm_Clock, Bed, Chair): they look like domains, not like classes; take "
        "one by --set 'data.domain=Art', several by --set 'data.domain=Art,Clipart' "
        "or all of them by --set data.domain=all; if they are classes, say --layout "
        "folder-per-class",
    ),
    Odd(
        "Office-Home, one domain",
        files=("{Art,Clipart,Product,Real World}/{Alarm_Clock,Bed,Chair}/{0..3}.jpg",),
        domain="Real World",
        expected="Alarm_Clock Bed Chair\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  12  train (no folders of splits)",
    ),
    Odd(
        "Office-Home, all domains",
        files=("{Art,Clipart,Product,Real World}/{Alarm_Clock,Bed,Chair}/{0..3}.jpg",),
        domain="all",
        expected="Alarm_Clock Bed Chair\n"
        "layout     domains: data.domain=all\n"
        "folders    .  48  train (no folders of splits)\n"
        "note       domains: Art, Clipart, Product, Real World; a class is the same in all "
        "of them",
    ),
    Odd(
        "Office-Home, two domains",
        files=("{Art,Clipart,Product,Real World}/{Alarm_Clock,Bed,Chair}/{0..3}.jpg",),
        domain="Art,Product",
        expected="Alarm_Clock Bed Chair\n"
        "layout     domains: data.domain=Art,Product\n"
        "folders    .           24  train (no folders of splits)\n"
        "           Clipart     12  left out (no folder of the layout)\n"
        "           Real World  12  left out (no folder of the layout)\n"
        "left out   24 outside the folders in use (such as Clipart/Alarm_Clock/0.jpg)\n"
        "note       domains: Art, Product; a class is the same in all of them",
    ),
    Odd(
        "Office-Home, no such domain",
        files=("{Art,Clipart}/{Bed,Chair}/{0..3}.jpg",),
        domain="Arts",
        expected="refused: data.domain=Arts: SET has no such folder; valid: all, Art, Clipart",
    ),
    Odd(
        "digits of two sources",
        files=("{mnist,svhn}/{0..9}/{0..1}.png",),
        expected="refused: mnist, svhn of SET contain the same 10 folders (0, 1, 2 and 7 more): "
        "they look like domains, not like classes; take one by --set "
        "'data.domain=mnist', several by --set 'data.domain=mnist,svhn' or all of "
        "them by --set data.domain=all; if they are classes, say --layout "
        "folder-per-class",
    ),
    Odd(
        "Office-31 as distributed",
        files=("{amazon,dslr}/images/{bike,mug}/frame_{0..2}.jpg",),
        expected="refused: amazon, dslr of SET contain the same 2 folders (bike, mug): they look "
        "like domains, not like classes; take one by --set 'data.domain=amazon', several by --set "
        "'data.domain=amazon,dslr' or all of them by --set data.domain=all; if they are classes, "
        "say --layout folder-per-class",
    ),
    Odd(
        "Office-31, all domains",
        files=("{amazon,dslr}/images/{bike,mug}/frame_{0..2}.jpg",),
        domain="all",
        expected="bike mug\n"
        "layout     domains: data.domain=all\n"
        "folders    */images  12  train (no folders of splits)\n"
        "note       domains: amazon, dslr; a class is the same in all of them",
    ),
    Odd(
        "a folder of images in each class folder",
        files=("train/n{1,2}/images/n_{0..3}.jpg", "val/n{1,2}/images/n_9.jpg"),
        expected="n1 n2\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train/*/images  8  train\n"
        "           val/*/images    2  val",
    ),
    Odd(
        "years, cameras, and classes at the bottom",
        files=("{2020,2021}/cam{1,2}/{good,bad}/{0..2}.jpg",),
        expected="2020 2021\n"
        "WARNING    the classes are 2020, 2021; bad, good, which are in each of the 4 "
        "folders below, could be classes too: their images belong in folders <class>/\n"
        "layout     folder per class: 2 folders with images, with folders inside such as "
        "2020/cam1: sources of images, not classes\n"
        "folders    .  24  train (no folders of splits)",
    ),
    Odd(
        "films of persons in class folders, a folder a day",
        files=("{walk,run}/person{01,02}/day{1,2}/{0..4}.png",),
        expected="run walk\n"
        "layout     folder per class: 2 folders with images, with folders inside such as "
        "run/person01: sources of images, not classes\n"
        "folders    .  40  train (no folders of splits)",
    ),
    Odd(
        "films of persons in class folders",
        files=("{walk,run}/person{01,02}/{0..4}.png",),
        expected="run walk\n"
        "layout     folder per class: 2 folders with images, with folders inside such as "
        "run/person01: sources of images, not classes\n"
        "folders    .  20  train (no folders of splits)",
    ),
    Odd(
        "super-classes",
        files=(
            "animals/{cat,dog}/{0..3}.jpg",
            "vehicles/{bus,car}/{0..3}.jpg",
        ),
        expected="animals vehicles\n"
        "WARNING    the classes are animals, vehicles; 4 folders inside them, such as "
        "animals/cat, could be classes too (--layout nested-classes)\n"
        "layout     folder per class: 2 folders with images, with folders inside such as "
        "animals/cat\n"
        "folders    .  16  train (no folders of splits)",
    ),
    Odd(
        "Omniglot",
        files=(
            "images_background/{Greek,Latin}/character0{1,2}/{0..3}.png",
            "images_evaluation/{Tifinagh,Korean}/character0{1,2}/{0..3}.png",
        ),
        task="fewshot",
        expected="Greek/character01 Greek/character02 Korean/character01 Korean/character02 "
        "Latin/character01 Latin/character02 Tifinagh/character01 Tifinagh/character02\n"
        "layout     nested classes: 2 folders with folders of a class each\n"
        "folders    images_background  16  train\n"
        "           images_evaluation  16  test",
    ),
    Odd(
        "Omniglot, background alone",
        files=("images_background/{Greek,Latin}/character0{1,2}/{0..3}.png",),
        task="pretrain",
        expected="Greek/character01 Greek/character02 Latin/character01 Latin/character02\n"
        "layout     nested classes: 2 folders with folders of a class each\n"
        "folders    images_background  16  train (no folders of splits)",
    ),
    Odd(
        "images and masks, ssl",
        files=(
            "images/{0..5}.jpg",
            "masks/{0..5}.png",
        ),
        texts={
            "classes.txt": "a\nb\n",
        },
        task="ssl",
        expected="no classes, 6 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    images  6  train (no folders of splits)\n"
        "left out   1 ending .txt (such as classes.txt)\n"
        "           6 that are masks (such as masks/0.png)\n"
        "note       6 masks (masks/ beside images/) are left out: only images are taken",
    ),
    Odd(
        "images and masks, pretrain",
        files=(
            "images/{0..5}.jpg",
            "masks/{0..5}.png",
        ),
        texts={
            "classes.txt": "a\nb\n",
        },
        task="pretrain",
        expected="refused: data folder SET has masks (masks/ beside images/) and no labels, "
        "pretrain needs labels: train on it by `segment`, or on its images alone by "
        "`ssl`",
    ),
    Odd(
        "CamVid",
        files=(
            "{train,val}/{0..5}.png",
            "{train,val}annot/{0..5}.png",
        ),
        task="ssl",
        expected="no classes, 12 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    train  6  train\n"
        "           val    6  val\n"
        "left out   12 that are masks (such as trainannot/0.png)\n"
        "note       12 masks (trainannot/ beside train/) are left out: only images are "
        "taken",
    ),
    Odd(
        "Carvana",
        files=(
            "train/{0..5}.jpg",
            "train_masks/{0..5}_mask.gif",
        ),
        task="ssl",
        expected="no classes, 6 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    train  6  train\n"
        "left out   6 that are masks (such as train_masks/0_mask.gif)\n"
        "note       6 masks (train_masks/ beside train/) are left out: only images are "
        "taken",
    ),
    Odd(
        "CamVid as fastai has it",
        files=("images/{0..5}.png", "labels/{0..5}_P.png"),
        task="ssl",
        expected="no classes, 6 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    images  6  train (no folders of splits)\n"
        "left out   6 that are masks (such as labels/0_P.png)\n"
        "note       6 masks (labels/ beside images/) are left out: only images are taken",
    ),
    Odd(
        "CamVid as fastai has it, pretrain",
        files=("images/{0..5}.png", "labels/{0..5}_P.png"),
        task="pretrain",
        expected="refused: data folder SET has masks (labels/ beside images/) and no labels, "
        "pretrain needs labels: train on it by `segment`, or on its images alone by `ssl`",
    ),
    Odd(
        "masks of some images alone",
        files=("images/{0..9}.jpg", "masks/{0,1}.png"),
        task="ssl",
        expected="no classes, 10 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    images  10  train (no folders of splits)\n"
        "left out   2 that are masks (such as masks/0.png)\n"
        "note       2 masks (masks/ beside images/) are left out: only images are taken",
    ),
    Odd(
        "masks under names of their own",
        files=("{train,val}/images/i{0..3}.jpg", "{train,val}/masks/m{0..3}.png"),
        task="ssl",
        expected="no classes, 8 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    train/images  4  train\n"
        "           val/images    4  val\n"
        "left out   8 that are masks (such as train/masks/m0.png)\n"
        "note       8 masks (train/masks/ beside train/images/) are left out: only images "
        "are taken",
    ),
    Odd(
        "masks under names of their own, and a preview",
        files=("images/i{0..3}.jpg", "masks/m{0..3}.png", "preview.png"),
        task="ssl",
        expected="no classes, 5 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    .  5  train (no folders of splits)\n"
        "left out   4 that are masks (such as masks/m0.png)\n"
        "note       4 masks (masks/ beside images/) are left out: only images are taken",
    ),
    Odd(
        "masks beside images, as CamVid calls them",
        files=("{0..5}.png", "{0..5}_L.png"),
        task="ssl",
        expected="no classes, 6 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   6 that are masks (such as 0_L.png)\n"
        "note       6 masks (names such as 0_L.png) are left out: only images are taken",
    ),
    Odd(
        "Pascal VOC, ssl",
        files=(
            "JPEGImages/{0..9}.jpg",
            "SegmentationClass/{0,1}.png",
            "SegmentationObject/{0,1}.png",
        ),
        task="ssl",
        expected="no classes, 10 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    JPEGImages  10  train (no folders of splits)\n"
        "left out   4 that are masks (such as SegmentationClass/0.png)\n"
        "note       4 masks (SegmentationClass/ beside JPEGImages/) are left out: only "
        "images are taken",
    ),
    Odd(
        "Cityscapes, ssl",
        files=(
            "leftImg8bit/train/aachen/a_{0..3}_leftImg8bit.png",
            "gtFine/train/aachen/a_{0..3}_gtFine_{color,labelIds}.png",
        ),
        task="ssl",
        expected="no classes, 4 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    leftImg8bit/train/aachen  4  train\n"
        "left out   8 that are masks (such as gtFine/train/aachen/a_0_gtFine_color.png)\n"
        "note       8 masks (gtFine/train/aachen/ beside leftImg8bit/) are left out: only "
        "images are taken",
    ),
    Odd(
        "ISIC, pretrain",
        files=(
            "ISIC_Training_Input/ISIC_{0..5}.jpg",
            "ISIC_Training_GroundTruth/ISIC_{0..5}_segmentation.png",
        ),
        task="pretrain",
        expected="refused: data folder SET has masks (ISIC_Training_GroundTruth/ beside "
        "ISIC_Training_Input/) and no labels, pretrain needs labels: train on it by "
        "`segment`, or on its images alone by `ssl`",
    ),
    Odd(
        "DRIVE, ssl",
        files=(
            "training/images/{1..5}_training.tif",
            "training/mask/{1..5}_training_mask.gif",
            "training/1st_manual/{1..5}_manual1.gif",
        ),
        task="ssl",
        expected="refused: images/ of SET names no class, and it is unclear what is in 1st_manual/ "
        "beside it; move other folders away, or take all of them as classes by --layout "
        "folder-per-class",
    ),
    Odd(
        "images beside samples",
        files=("images/{0..9}.jpg", "samples/{0,1}.jpg"),
        task="ssl",
        expected="refused: images/ of SET names no class, and it is unclear what is in samples/ "
        "beside it; move other folders away, or take all of them as classes by --layout "
        "folder-per-class",
    ),
    Odd(
        "faces with and without a mask",
        files=("{with_mask,without_mask,mask_worn_wrong}/{0..3}.png",),
        task="pretrain",
        expected="mask_worn_wrong with_mask without_mask\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  12  train (no folders of splits)",
    ),
    Odd(
        "letters, x and y among them",
        files=("{w,x,y}/im_{0..3}_{0..3}.png",),
        task="pretrain",
        expected="w x y\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  48  train (no folders of splits)",
    ),
    Odd(
        "parts of documents",
        files=("{image,label,table}/a{0..3}.png",),
        task="pretrain",
        expected="image label table\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  12  train (no folders of splits)",
    ),
    Odd(
        "satellite pairs, pretrain",
        files=("train/000{0..5}_{sat,mask}.png",),
        task="pretrain",
        expected="refused: data folder SET has masks (names such as 0000_mask.png) and no "
        "labels, pretrain needs labels: train on it by `segment`, or on its images "
        "alone by `ssl`",
    ),
    Odd(
        "classes called mask and no_mask",
        files=("{mask,no_mask}/{0..5}.jpg",),
        expected="mask no_mask\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  12  train (no folders of splits)",
    ),
    Odd(
        "names of cameras",
        files=(
            "IMG_{0..5}.jpg",
            "DSC_{0..5}.jpg",
            "PXL_20240131_1200{0..5}.jpg",
            "P_20240131_12{0..5}.jpg",
            "WhatsApp Image 2024-01-31 at 12.00.0{0..5}_1.jpg",
            "Screenshot_2024-01-31_{0..5}.png",
        ),
        task="ssl",
        expected="no classes, 36 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    .  36  train (no folders of splits)",
    ),
    Odd(
        "names of cameras, pretrain",
        files=("{IMG,DSC}_{0..5}.jpg",),
        task="pretrain",
        expected="refused: data folder SET has no labels (flat folder without labels), "
        "classification needs them; tried: csv (no train.csv); nested classes "
        "(images are not two folders deep); domains (images are not two folders "
        "deep); folder per class (0 of 12 images are in a subfolder); label file (no "
        "single csv with columns for file and label); file-name prefix (0 of 12 "
        "names are <label>_<n>; names such as DSC_0.jpg come from a camera)",
    ),
    Odd(
        "frames and images",
        files=("{frame,image}_{0..5}.jpg",),
        task="ssl",
        expected="no classes, 12 unlabeled\n"
        "layout     flat folder without labels: no label file, no class folders, no labels "
        "in the names\n"
        "folders    .  12  train (no folders of splits)",
    ),
    Odd(
        "letters in names, p among them",
        files=("{o,p,q}_{0..5}.png",),
        expected="o p q\n"
        "layout     file-name prefix: 18 of 18 names are <label>_<n>\n"
        "folders    .  18  train (no folders of splits)",
    ),
    Odd(
        "endings that Pillow reads",
        files=(
            "a/{0..2}.{avif,jfif,ppm}",
            "b/{0..2}.{webp,jp2,tga}",
            "c/{0..2}.{JPG,qoi,tiff}",
        ),
        expected="a b c\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  27  train (no folders of splits)",
    ),
    Odd(
        "a class of HEIC",
        files=(
            "{a,b}/{0..2}.jpg",
            "c/{0..2}.heic",
        ),
        expected="refused: nothing in c/ of SET can be read (Pillow does not open .heic), so "
        "its class would be lost; convert the files to JPEG or PNG, or move the "
        "folder away",
    ),
    Odd(
        "a class of HEIC, ssl",
        files=(
            "{a,b}/{0..2}.jpg",
            "c/{0..2}.heic",
        ),
        task="ssl",
        expected="a b\n"
        "WARNING    nothing in c/ can be read: Pillow does not open .heic\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   3 ending .heic (such as c/0.heic)",
    ),
    Odd(
        "some HEIC in a class",
        files=(
            "{a,b}/{0..2}.jpg",
            "a/more{0..2}.heic",
        ),
        expected="a b\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   3 ending .heic (such as a/more0.heic)",
    ),
    Odd(
        "annotations beside classes",
        files=(
            "{a,b}/{0..2}.jpg",
            "annotations/{0..2}.xml",
            "LICENSE",
        ),
        expected="a b\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   3 ending .xml (such as annotations/0.xml)\n"
        "           1 without ending (such as LICENSE)",
    ),
    Odd(
        "thumbnails and what desktops leave",
        files=(
            "{a,b}/{0..2}.jpg",
            "a/@eaDir/{0..2}.jpg/SYNOFILE_THUMB_M.jpg",
            "b/{Thumbs.db,desktop.ini,.DS_Store,._0.jpg}",
            "__MACOSX/a/._0.jpg",
            "lost+found/0.jpg",
            ".ipynb_checkpoints/0.jpg",
        ),
        expected="a b\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   3 in @eaDir (such as a/@eaDir)\n"
        "           2 with hidden names (such as b/.DS_Store)\n"
        "           1 in __MACOSX (such as __MACOSX)\n"
        "           1 in hidden folders (such as .ipynb_checkpoints)\n"
        "           1 in lost+found (such as lost+found)\n"
        "           1 named Thumbs.db (such as b/Thumbs.db)\n"
        "           1 named desktop.ini (such as b/desktop.ini)",
    ),
    Odd(
        "slices that are numbered by their endings",
        files=("{a,b}/{0..2}.jpg", "a/slice.{1000..1019}", "b/{0,1}.xml"),
        expected="a b\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   20 ending in a number (such as a/slice.1000)\n"
        "           2 ending .xml (such as b/0.xml)",
    ),
    Odd(
        "many kinds of other files",
        files=("{a,b}/{0..2}.jpg", "a/{0,1}.{xa,xb,xc,xd,xe,xf,xg,xh,xi,xj,xk}", "b/0.{ya,yb}"),
        expected="a b\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "left out   2 ending .xa (such as a/0.xa)\n"
        "           2 ending .xb (such as a/0.xb)\n"
        "           2 ending .xc (such as a/0.xc)\n"
        "           2 ending .xd (such as a/0.xd)\n"
        "           2 ending .xe (such as a/0.xe)\n"
        "           2 ending .xf (such as a/0.xf)\n"
        "           2 ending .xg (such as a/0.xg)\n"
        "           2 ending .xh (such as a/0.xh)\n"
        "           2 ending .xi (such as a/0.xi)\n"
        "           2 ending .xj (such as a/0.xj)\n"
        "           2 ending .xk (such as a/0.xk)\n"
        "           2 of 2 other kinds (such as b/0.ya)",
    ),
    Odd(
        "letters in both cases",
        files=("{A,a,B,b,C,c,D,d}/{0,1}.png",),
        expected="A B C D a b c d\n"
        "WARNING    labels 'A', 'a'; 'B', 'b'; 'C', 'c' and 1 more differ only in capitals "
        "or spaces but are 8 classes\n"
        "layout     folder per class: 8 folders with images\n"
        "folders    .  16  train (no folders of splits)",
    ),
    Odd(
        "labels that are equal as numbers",
        files=("{1,01,001,2}/{0..2}.png",),
        expected="001 01 1 2\n"
        "WARNING    labels '001', '01', '1' are equal as numbers but are 3 classes\n"
        "layout     folder per class: 4 folders with images\n"
        "folders    .  12  train (no folders of splits)",
    ),
    Odd(
        "labels that differ in capitals",
        files=("{Cat,cat,dog}/{0..2}.png",),
        expected="Cat cat dog\n"
        "WARNING    labels 'Cat', 'cat' differ only in capitals or spaces but are 2 "
        "classes\n"
        "layout     folder per class: 3 folders with images\n"
        "folders    .  9  train (no folders of splits)",
    ),
    Odd(
        "an accent written in two ways",
        files=(
            f"train/{{{NFC},dog}}/{{0..2}}.png",
            f"val/{{{NFD},dog}}/0.png",
        ),
        expected="café dog\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train  6  train\n"
        "           val    2  val\n"
        "note       labels written in two forms of Unicode are one class each: café "
        "(composed and decomposed accents)",
    ),
    Odd(
        "a name that is not UTF-8",
        files=(f"{{{LATIN_1},dog}}/{{0..2}}.png",),
        expected="refused: 3 file names in SET are not UTF-8 (caf\\xe9/0.png, caf\\xe9/1.png, "
        "caf\\xe9/2.png); rename them, for example with `convmv -f latin1 -t utf8 -r "
        "--notest FOLDER`",
    ),
    Odd(
        "labels with commas",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": lines(
                *[f'{c}{n}.png,"{c}, small"' for c in ("cat", "dog") for n in range(3)]
            ),
        },
        expected="cat, small dog, small\nlayout     csv: train.csv\nfolders    train  6  train",
    ),
    Odd(
        "several labels in a cell",
        files=("train/{a,b,ab}{0,1}.png",),
        texts={
            "train.csv": lines(
                *[
                    f"{file}{n}.png,{label}"
                    for file, label in (("a", "rust"), ("b", "scab"), ("ab", "rust|scab"))
                    for n in range(2)
                ]
            ),
        },
        expected="rust rust|scab scab\n"
        "WARNING    labels such as 'rust|scab' (1 of 3) look like several classes of one "
        "image, but each is a class of its own\n"
        "layout     csv: train.csv\n"
        "folders    train  6  train",
    ),
    Odd(
        "labels with commas, unquoted",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": lines(
                *[f"{c}{n}.png,{c}, small" for c in ("cat", "dog") for n in range(3)]
            ),
        },
        expected="refused: SET/train.csv line 2 has 3 values for 2 columns (filename, label); "
        "put quotation marks around a value with ',' in it",
    ),
    Odd(
        "semicolons, image and class",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled("cat dog", 3, "image;class", ";"),
        },
        expected="cat dog\n"
        "layout     csv: train.csv (file from column 'image', label from 'class', separated"
        " by ';')\n"
        "folders    train  6  train",
    ),
    Odd(
        "tabs",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.tsv": labelled("cat dog", 3, "filepath\ttarget", "\t"),
        },
        expected="cat dog\n"
        "layout     label file: train.tsv (file from column 'filepath', label from "
        "'target', separated by '\\t')\n"
        "folders    train  6  train",
    ),
    Odd(
        "names without endings",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled("cat dog", 3, "image_id,breed", name="{c}{n}"),
        },
        expected="cat dog\n"
        "layout     csv: train.csv (file from column 'image_id', label from 'breed')\n"
        "folders    train  6  train",
    ),
    Odd(
        "columns in camel case",
        files=("train/{cat,dog}{0..2}.png",),
        texts={"train.csv": labelled("cat dog", 3, "ImageId,ClassId")},
        expected="cat dog\n"
        "layout     csv: train.csv (file from column 'ImageId', label from 'ClassId')\n"
        "folders    train  6  train",
    ),
    Odd(
        "names without endings, with accents of two kinds",
        files=(f"train/{{{NFD},dog}}{{0..2}}.png",),
        texts={"train.csv": labelled(f"{NFC} dog", 3, "image_id,breed", name="{c}{n}")},
        expected="café dog\n"
        "layout     csv: train.csv (file from column 'image_id', label from 'breed')\n"
        "folders    train  6  train",
    ),
    Odd(
        "names without endings, of two files",
        files=(
            "train/{cat,dog}{0..2}.png",
            "train/cat0.jpg",
        ),
        texts={
            "train.csv": labelled("cat dog", 3, "image_id,breed", name="{c}{n}"),
        },
        expected="refused: 'train/cat0' of a label file means train/cat0.jpg and "
        "train/cat0.png; write the names with their endings",
    ),
    Odd(
        "absolute paths of another machine",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled(
                "cat dog", 3, "path,label", name="/home/me/pets/train/{c}{n}.png"
            ),
        },
        expected="cat dog\n"
        "layout     csv: train.csv (file from column 'path', label from 'label')\n"
        "folders    train  6  train",
    ),
    Odd(
        "paths of Windows",
        files=("img/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled("cat dog", 3, "img,y", name="C:\\data\\img\\{c}{n}.png"),
        },
        expected="cat dog\n"
        "layout     csv: train.csv (file from column 'img', label from 'y')\n"
        "folders    img  6  train",
    ),
    Odd(
        "paths of another split",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled("cat dog", 3, "path,label", name="val/{c}{n}.png"),
        },
        expected="refused: SET/train.csv names 6 files that are not in SET (val/cat0.png, "
        "val/cat1.png, val/cat2.png and 3 more); put them into train/ or images/, or "
        "remove their lines",
    ),
    Odd(
        "a csv without header",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled("cat dog", 3, "cat0.png,cat"),
        },
        expected="refused: SET/train.csv begins with an image (cat0.png, cat), not with the "
        "names of its columns; its first line must be filename,label",
    ),
    Odd(
        "a csv without a column for labels",
        files=("train/{cat,dog}{0..2}.png",),
        texts={
            "train.csv": labelled("cat dog", 3, "filename,colour"),
        },
        expected="refused: SET/train.csv lacks the columns label (found: filename, colour); "
        "its first line must be id,filename,label",
    ),
    Odd(
        "train_labels.csv",
        files=(
            "train/{cat,dog}{0..2}.png",
            "test/{0..1}.png",
        ),
        texts={
            "train_labels.csv": labelled("cat dog", 3, "id,label", name="{c}{n}"),
            "test.csv": lines("1.png", "0.png", header="id"),
            "sample_submission.csv": lines("1.png,cat", "0.png,cat", header="id,label"),
        },
        expected="cat dog, 2 unlabeled\n"
        "layout     label file: test.csv (file from column 'id') and train_labels.csv (file"
        " from column 'id', label from 'label')\n"
        "folders    train  6  train\n"
        "           test   2  hidden test\n"
        "left out   1 ending .csv (such as sample_submission.csv)",
    ),
    Odd(
        "labels.csv with splits",
        files=("images/{cat,dog}{0..3}.png",),
        texts={
            "labels.csv": lines(
                *[
                    f"images/{c}{n}.png,{c},{s}"
                    for c in ("cat", "dog")
                    for n, s in enumerate(("train", "train", "valid", "test"))
                ],
                header="filepath,labels,data set".replace("data set", "subset"),
            ),
        },
        expected="cat dog\n"
        "layout     label file: labels.csv (file from column 'filepath', label from "
        "'labels')\n"
        "folders    images  4  train\n"
        "           images  2  val\n"
        "           images  2  test",
    ),
    Odd(
        "labels.csv of a flat folder",
        files=("{cat,dog}{0..3}.png",),
        texts={
            "labels.csv": labelled("cat dog", 4),
        },
        task="ssl",
        expected="cat dog\nlayout     label file: labels.csv\nfolders    .  8  train",
    ),
    Odd(
        "a hidden test without column",
        files=(
            "train/{cat,dog}{0..2}.png",
            "test/{0..2}.png",
        ),
        texts={
            "train.csv": labelled("cat dog", 3),
            "test.csv": lines("2.png", "0.png", "1.png", header="filename"),
        },
        expected="cat dog, 3 unlabeled\n"
        "layout     csv: test.csv (file from column 'filename') and train.csv\n"
        "folders    train  6  train\n"
        "           test   3  hidden test",
    ),
    Odd(
        "a hidden test of empty labels",
        files=(
            "train/{cat,dog}{0..2}.png",
            "test/{0..2}.png",
        ),
        texts={
            "train.csv": labelled("cat dog", 3),
            "test.csv": lines("2.png,", "0.png,", "1.png,"),
        },
        expected="cat dog, 3 unlabeled\n"
        "layout     csv: test.csv and train.csv\n"
        "folders    train  6  train\n"
        "           test   3  hidden test",
    ),
    Odd(
        "a hidden test beside class folders",
        files=(
            "train/{cat,dog}/{0..2}.png",
            "test/{0..2}.png",
        ),
        expected="cat dog, 3 unlabeled\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train  6  train\n"
        "           test   3  hidden test",
    ),
    Odd(
        "a test with some labels",
        files=(
            "train/{cat,dog}{0..2}.png",
            "test/{0..2}.png",
        ),
        texts={
            "train.csv": labelled("cat dog", 3),
            "test.csv": lines("2.png,cat", "0.png,", "1.png,"),
        },
        expected="refused: 2 images in SET have no label (csv): test/0.png, test/1.png; label "
        "them or move them away",
    ),
    Odd(
        "Mini-ImageNet for pretrain",
        files=(
            "train/{cat,dog}{0..5}.jpg",
            "val/{owl,eel}{0..2}.jpg",
        ),
        texts={
            "train.csv": labelled("cat dog", 6, name="{c}{n}.jpg"),
            "val.csv": labelled("owl eel", 3, name="{c}{n}.jpg"),
        },
        task="pretrain",
        expected="cat dog\n"
        "WARNING    6 images of val are left out: train lacks their 2 classes (eel, owl); "
        "val is carved from train\n"
        "layout     csv: train.csv and val.csv\n"
        "folders    train  12  train\n"
        "           val     6  left out (classes that train lacks)",
    ),
    Odd(
        "val with some new classes",
        files=(
            "train/{cat,dog}/{0..5}.jpg",
            "val/{dog,eel}/{0..2}.jpg",
        ),
        task="pretrain",
        expected="cat dog\n"
        "WARNING    3 images of val are left out: train lacks their 1 class (eel)\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train    12  train\n"
        "           val       3  val\n"
        "           val/eel   3  left out (classes that train lacks)",
    ),
    Odd(
        "val with some new classes, classify",
        files=(
            "train/{cat,dog}/{0..5}.jpg",
            "val/{dog,eel}/{0..2}.jpg",
        ),
        expected="refused: class 'eel' of SET occurs in val but not in train; add training "
        "images or remove it",
    ),
    Odd(
        "val with labels written otherwise",
        files=("train/{01,02}/{0..3}.png", "val/{1,2}/0.png"),
        task="classify",
        expected="refused: class '1' of SET occurs in val but not in train; train has '01': write "
        "both in the same way, or add training images or remove it",
    ),
    Odd(
        "val with labels written otherwise, pretrain",
        files=("train/{01,02}/{0..3}.png", "val/{1,2}/0.png"),
        task="pretrain",
        expected="01 02\n"
        "WARNING    2 images of val are left out: train lacks their 2 classes (1, 2); it "
        "has 01, 02, written differently; val is carved from train\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    train  8  train\n"
        "           val    2  left out (classes that train lacks)",
    ),
    Odd(
        "test with labels in capitals",
        files=("train/{cat,dog}/{0..3}.png", "test/{Cat,Dog}/0.png"),
        task="classify",
        expected="refused: class 'Cat' of SET occurs in test but not in train; train has 'cat': "
        "write both in the same way, or add training images or remove it",
    ),
    Odd(
        "an empty class folder",
        files=("{a,b}/{0..2}.jpg",),
        empty="c",
        expected="a b\n"
        "WARNING    empty folders are not classes: c\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    .  6  train (no folders of splits)\n"
        "           c  0  left out (empty)",
    ),
    Odd(
        "no images",
        files=("{a,b}/{0..2}.txt",),
        expected="refused: data folder SET contains no images (.jpg .jpeg .png .webp .bmp .tif "
        ".tiff .gif ...); left out: 6 ending .txt; known layouts: csv (train.csv "
        "(filename, label)); nested classes (<alphabet>/<character>/*.png); domains "
        "(<domain>/<class>/*.jpg, with --set data.domain=); folder per class "
        "(<class>/*.jpg); label file (train_labels.csv, or one csv of all images "
        "(filename, label)); file-name prefix (<label>_<n>.jpg); flat folder without "
        "labels (a flat folder of images); all but csv also in train/ and val/",
    ),
    Odd(
        "an unknown layout",
        files=("{a,b}/{0..2}.jpg",),
        layout="coco",
        expected="refused: --layout 'coco' is not a layout; valid: auto, csv, nested-classes, "
        "domains, folder-per-class, label-file, file-name-prefix, "
        "flat-folder-without-labels",
    ),
    Odd(
        "a layout that it has not",
        files=("{a,b}/{0..2}.jpg",),
        layout="csv",
        expected="refused: --layout csv: data folder SET has another layout (no train.csv); "
        "expected train.csv (filename, label)",
    ),
    Odd(
        "spaces in folder names",
        files=(
            "Train Images/{alarm clock,bed}/{0..2}.jpg",
            "Test Images/{alarm clock,bed}/0.jpg",
        ),
        expected="alarm clock bed\n"
        "layout     folder per class: 2 folders with images\n"
        "folders    Train Images  6  train\n"
        "           Test Images   2  test",
    ),
    Odd(
        "MVTec: splits inside, classes deeper",
        files=(
            "{bottle,cable}/train/good/{0..3}.png",
            "{bottle,cable}/test/{good,broken}/{0..1}.png",
        ),
        expected="refused: bottle, cable of SET have test and train of their own, with "
        "folders inside: data sets of their own; take one of them by --set "
        "'data.domain=bottle', or take them as classes by --layout folder-per-class",
    ),
]
