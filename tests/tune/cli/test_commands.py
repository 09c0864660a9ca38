"""Every command of README.md and of the experiments' pages is run here at a small size, one after
the other, or names the test that runs it."""

import ast
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import REPO
from tests.commands import Call, use_mlflow
from tests.trainables.data.test_layouts import class_folders
from tests.trainables.test_fewshot import mini_imagenet
from tune import report

PAGES = [
    "README.md",
    "docs/guide.md",
    "docs/data.md",
    *(f"docs/{name}.md" for name in ("ssl", "classify", "fewshot", "segment")),
]
FRONT = ["docs/guide.md", "README.md", "docs/data.md"]
"""Pages whose commands the fast suite runs, in this order."""
SIZE = (
    "--local --set data.image_size=8 --set backbone.width=8 --set backbone.pool=1 --set "
    "train.epochs=1 --set train.epoch_images=64"
)
BYOL = (
    "--set val.probe_steps=0 --set head.hidden_size=32 --set head.projection_size=16 --set "
    "train.batch_size=32"
)
EPISODES = (
    "--set train.epoch_images=60 --set train.batch_size=30 --set episode.way=5 --set "
    "episode.query=2 --set val.way=2"
)
SMALL = {
    "ssl": f"--preset tiny --trials 4 {SIZE} {BYOL}",
    "pretrain": f"--trials 2 {SIZE}",
    "classify": f"--trials 1 {SIZE}",
    "fewshot": f"--preset tiny --trials 1 {SIZE} {EPISODES} --set val.query=2",
    "segment": (
        f"--preset tiny --trials 1 {SIZE} --data path/to/folder --set "
        "data.image_size=32 --set train.batch_size=8"
    ),
}
"""Options that make an experiment take a second. The last option of a name wins."""
SOURCES = "--set ssl:train.epoch_images=64 --set pretrain:train.epoch_images=64"
SEVERAL = {
    "python tune/run.py classify": f"--searches 2 {SOURCES}",
    "python tune/run.py classify --searches 8": f"--searches 3 {SOURCES}",
    "python tune/run.py classify --control": f"--searches 3 {SOURCES}",
    "python tune/run.py fewshot --compare shots": "--searches 2",
    "python tune/run.py fewshot --compare distance": "--searches 2",
}
"""Commands that run several searches of each setting."""
MORE = {
    "python tune/run.py ssl --trials 40": "--trials 5",
    # the page uses the name `ssl` for two studies
    "python tune/run.py ssl --data path/to/folder": "--study folder",
    "python tune/run.py ssl --set head.simplicial=false --set optim.name=lars": "--study pinned",
    "python tune/run.py fewshot --data path/to/mini-imagenet": "--study mini",
    # on digits, all of whose classes were seen in pre-training
    "python tune/run.py fewshot --backbone ssl": "--study fewshot-from-ssl --allow-seen",
    "python tune/run.py segment --backbone STUDY[/TRIAL]": "--study segment-from-ssl",
}

MAKE = "tests/tune/cli/test_commands.py::test_a_clone_runs_and_is_looked_at_by_make"
_ODDITIES = "tests/trainables/data/test_oddities.py"
ELSEWHERE = {
    "git clone <this repository> vistune && cd vistune": MAKE,
    "make run": MAKE,
    "make ui": MAKE,
    "make cluster-check": MAKE,
    "make table": (
        "tests/tune/cli/test_compare.py::"
        "test_make_table_killed_at_random_moments_ends_with_the_same_table"
    ),
    "make cluster-up": (
        "tests/cluster/test_cluster_lab.py::test_a_study_survives_the_loss_of_a_worker"
    ),
    "python -m tune.ui": "tests/tune/reports/test_ui_browser.py::test_link_opens_on_the_trials",
    "python tune/report.py table --with runs1": (
        "tests/tune/reports/test_pooled_table.py::test_the_command_over_storages"
    ),
    "python tune/run.py ssl --concurrent auto": (
        "tests/tune/execution/test_shared_gpu.py::test_the_command_plans_with_auto"
    ),
    "python tune/run.py ssl --try optim.name=adamw,optim.lr=0.003": (
        "tests/vistune/test_enqueue.py::test_the_command_tries_what_it_is_given"
    ),
    "python tune/report.py rename ssl letters": (
        "tests/tune/upkeep/test_upkeep.py::test_mlflow_and_its_registry_follow"
    ),
    "python tune/report.py archive letters": (
        "tests/tune/upkeep/test_upkeep.py::test_archived_studies_are_in_no_list_and_come_back"
    ),
    "python tune/report.py delete letters": (
        "tests/tune/upkeep/test_upkeep.py::test_a_deleted_study_is_gone"
    ),
    "python tune/report.py bundle ssl": (
        "tests/tune/upkeep/test_upkeep.py::test_a_bundle_is_a_study_elsewhere"
    ),
    "python tune/report.py dashboard ssl": (
        "tests/tune/reports/test_dashboard.py::test_command_shows_the_study_in_a_browser"
    ),
    "python tune/report.py sam a.jpg b.png --checkpoint sam-vit-base": (
        "tests/tune/reports/test_sam.py::test_command_draws_the_masks_that_transformers_finds"
    ),
    "python tune/run.py mine.py": (
        "tests/tune/test_function_experiment.py::test_a_function_becomes_a_study_with_a_verdict"
    ),
    "python tune/run.py script --space lr=1e-4..1e-1:log --objective accuracy -- "
    "python train.py --lr {lr}": "tests/tune/cli/test_script.py::test_a_script_becomes_a_study",
    "python tune/run.py segment --set model.name=smp:UnetPlusPlus/tu-mobilenetv3_small_100": (
        "tests/trainables/segmenters/test_smp_networks.py::test_a_network_is_trained_and_served"
    ),
    **dict.fromkeys(
        (
            "python tune/run.py ssl-simclr",
            "python tune/run.py ssl --compare ssl-methods",
            "python tune/run.py classify --setting C --backbone ssl-dino",
        ),
        "tests/trainables/test_ssl_methods.py::test_all_methods_are_searched_and_stand_in_one_table",
    ),
    **dict.fromkeys(
        (
            "python tune/run.py ssl --data FOLDER --set backbone.name=timm:resnet18",
            "python tune/run.py classify --setting D --data FOLDER --backbone timm --set "
            "backbone.name=timm:vit_small_patch14_dinov2 --set data.image_size=126",
            "python tune/run.py segment --data FOLDER --set model.name=unet --set "
            "backbone.name=timm:convnext_tiny",
        ),
        "tests/trainables/test_timm_training.py::test_a_backbone_of_ssl_is_fine_tuned_and_served",
    ),
    # these are run by tests that need a network
    **dict.fromkeys(
        (
            "python tune/run.py ssl --data torchvision:EuroSAT",
            "python tune/run.py classify --setting A --data torchvision:OxfordIIITPet --plan",
            "python tune/run.py segment --data torchvision:VOCSegmentation",
            "python tune/run.py ssl --data hf:owner/name",
        ),
        "tests/trainables/data/test_named.py::test_what_is_in_no_cache_is_downloaded",
    ),
    "python tune/run.py ssl --workers 2": (
        "tests/tune/execution/test_train_runtime.py::"
        "test_twenty_trials_leak_nothing_and_equal_one_worker"
    ),
    "python tune/run.py ssl --storage s3://bucket/runs": (
        "tests/tune/object_store/test_head_lost.py::test_a_head_that_is_lost_with_its_disk"
    ),
    "python tune/run.py classify --setting D --backbone torchvision --preset full": (
        "tests/tune/backbones/test_download.py::test_weights_of_torchvision_are_downloaded_once"
    ),
    "python tune/run.py classify --setting E --backbone models:/letters@best": (
        "tests/tune/backbones/test_download.py::test_a_backbone_from_mlflow"
    ),
    "python -m tune.export runs/segment/model IMAGES OUT": (
        "tests/tune/test_segmentation_export.py::test_a_study_is_exported_by_command"
    ),
    "python tune/run.py classify --setting C --data FOLDER --objective val/macro_f1 --balance": (
        "tests/tune/cli/test_objective.py::test_balance_is_searched_when_asked_for_alone"
    ),
    # the folder trees of docs/data.md, each with its command
    **dict.fromkeys(
        (
            "python tune/run.py classify --setting A --data pets --plan",
            "python tune/run.py classify --setting A --data office --plan",
            "python tune/run.py classify --setting A --data set50 --plan",
            "python tune/run.py ssl --data photos --plan",
            "python tune/run.py fewshot --data mini-imagenet --plan",
            "python tune/run.py fewshot --data omniglot --plan",
            "python tune/run.py pretrain --data breeds --plan",
        ),
        f"{_ODDITIES}::test_folder_is_understood_or_refused_by_name",
    ),
    "python tune/run.py pretrain --data mini-imagenet --plan": (
        f"{_ODDITIES}::test_the_few_shot_set_is_pretrained_on"
    ),
    'python tune/run.py classify --setting A --data OfficeHome --set "data.domain=Real World" '
    "--plan": f"{_ODDITIES}::test_domains_are_chosen",
    **dict.fromkeys(
        (
            "python tune/run.py segment --data streets --plan",
            "python tune/run.py segment --data cells --plan",
        ),
        "tests/trainables/data/test_pair_layouts.py::test_names",
    ),
    "python tune/run.py segment --data camvid --plan": (
        "tests/trainables/data/test_pair_layouts.py::"
        "test_camvid_has_parts_and_folders_named_after_them"
    ),
    "python tune/run.py segment --data VOC2012 --plan": (
        "tests/trainables/data/test_pair_layouts.py::"
        "test_voc_takes_parts_from_its_lists_and_leaves_out_images_without_masks"
    ),
    "python tune/run.py segment --data land --plan": (
        "tests/tune/prediction/test_photographs.py::test_land_and_water"
    ),
    **dict.fromkeys(
        (
            "python tune/run.py pretrain --data kaggle",
            "python tune/report.py predict pretrain kaggle/test.csv --out answers.csv",
        ),
        "tests/tune/prediction/test_photographs.py::"
        "test_regions_of_the_earth_with_a_hidden_test_csv",
    ),
}


def commands(page: str) -> list[str]:
    """The indented lines of a page that begin a command, without their comments."""
    lines = re.findall(
        r"^    (?:\.venv/bin/)?((?:python|make|git) .*)$", (REPO / page).read_text(), re.MULTILINE
    )
    return [re.sub(r"\s+# .*", "", line).strip() for line in lines]


def typed_here(pages: list[str]) -> list[str]:
    """Each command once, in the order of the pages."""
    return [
        c for c in dict.fromkeys(c for page in pages for c in commands(page)) if c not in ELSEWHERE
    ]


def test_what_is_run_elsewhere_is_a_command_and_a_test() -> None:
    documented = {c for page in PAGES for c in commands(page)}
    assert len(documented) > 40
    assert ELSEWHERE.keys() - documented == set()
    for test in ELSEWHERE.values():
        file, name = test.split("::")
        tree = ast.parse((REPO / file).read_text())
        assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}, test


def folder(experiment: str) -> None:
    """Replace `path/to/folder` and the like by a folder in a layout that the experiment reads."""
    shutil.rmtree("path", ignore_errors=True)
    if experiment == "fewshot":
        mini_imagenet(
            Path("path/to/mini-imagenet"),
            {"train": range(8), "val": range(8, 12), "test": range(12, 16)},
        )
    elif experiment == "segment":
        rng, root = np.random.default_rng(0), Path("path/to/folder")
        for part, count in (("train", 12), ("validation", 4)):
            (root / part).mkdir(parents=True)
            for number in range(count):
                water = rng.integers(0, 2, (4, 4)).repeat(8, 0).repeat(8, 1)[..., None]
                image = np.where(water, (30, 60, 150), (40, 120, 50)) + rng.integers(
                    0, 99, (32, 32, 3)
                )
                mask = np.where(water, (0, 0, 255), (0, 255, 0))
                Image.fromarray(image.astype(np.uint8)).save(root / f"{part}/{number}_sat.jpg")
                Image.fromarray(mask.astype(np.uint8)).save(root / f"{part}/{number}_mask.png")
    else:
        class_folders(Path("path/to/folder"))


def in_small(command: str) -> list[str]:
    """The words of a command after `python`, with the options that make it small."""
    words = shlex.split(command.replace("STUDY[/TRIAL]", "ssl"))[1:]
    if words[0] == "tune/run.py":
        experiment = words[1]
        words += shlex.split(SMALL[experiment])
        if "--data" not in words:
            words += ["--data", "digits"]
        words += ["--repeats", "1", *shlex.split(SEVERAL.get(command, ""))]
        words += shlex.split(MORE.get(command, ""))
    return words


def type_all(typed: list[str], run: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the commands in this process and in this folder."""
    use_mlflow(monkeypatch)
    monkeypatch.setenv("VISTUNE_CACHE", str(Path("cache").resolve()))
    for command in typed:
        words = in_small(command)
        if words[0] == "tune/run.py":
            folder(words[1])
            said = run(*words[1:])
            assert said.code == 0, f"{command}\n{shlex.join(words)}\n{said.out[-2000:]}\n{said.err}"
        else:
            assert words[0] == "tune/report.py", f"{command}: neither run here nor in ELSEWHERE"
            monkeypatch.setattr(sys, "argv", words)
            with pytest.raises(SystemExit) as left:
                report.main()
            assert left.value.code == 0, command


@pytest.mark.heavy
def test_readme_and_guide_can_be_typed_from_top_to_bottom(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    type_all(typed_here(FRONT), call, monkeypatch)
    runs = tmp_path / "runs"
    assert "trial" in (runs / "ssl/report.html").read_text()
    assert len(list((runs / "ssl/trials").iterdir())) == 5
    for left in ("ssl/model/MLmodel", "sgd/study.json", "more/study.json", "mlflow.db"):
        assert (runs / left).exists(), left


@pytest.mark.slow
def test_the_pages_of_experiments_too(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Run the pages after the guide, because they continue its studies."""
    pages = [page for page in PAGES if page not in FRONT]
    type_all(typed_here([*FRONT, *pages]), call, monkeypatch)
    runs = tmp_path / "runs"
    for left in (
        "segment/model/MLmodel",
        "classify/table.html",
        "other/study.json",
        "fewshot-shots/table.html",
    ):
        assert (runs / left).exists(), left


def test_the_checks_of_a_change_are_those_of_make() -> None:
    """`.ci/run` runs the checks that every change must pass."""
    makefile = (REPO / "Makefile").read_text()
    (parts,) = re.findall(r"^check: (.*?)  ##", makefile, re.MULTILINE)
    checks = (REPO / ".ci/run").read_text()
    steps = re.findall(r"^make ([\w-]+)$", checks, re.MULTILINE)
    assert steps[0] == "test"
    assert sorted(steps) == sorted(parts.split())


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_clone_runs_and_is_looked_at_by_make(tmp_path: Path) -> None:
    """Run every make target but the installation, which is replaced by this environment."""
    subprocess.run(["git", "clone", "--quiet", str(REPO), "vistune"], cwd=tmp_path, check=True)
    environment = os.environ | {"VISTUNE_CACHE": str(tmp_path / "cache")}
    small = SMALL["ssl"].replace("--local", "--data digits")

    def make(*words: str) -> list[str]:
        return ["make", "-o", f"{sys.prefix}/installed", f"VENV={sys.prefix}", *words]

    clone = tmp_path / "vistune"
    run = subprocess.run(
        make("run", f"OPTIONS={small}"),
        cwd=clone,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    assert "4/4 trials" in run.stdout
    assert (clone / "runs/ssl/trials/0003/config.json").exists()
    unfilled = subprocess.run(
        make("cluster-check"), cwd=clone, capture_output=True, text=True, check=False
    )
    assert unfilled.returncode != 0
    assert "cluster.yaml" in unfilled.stdout + unfilled.stderr
    ui = subprocess.Popen(
        make("ui"), cwd=clone, stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert ui.stdout is not None
        lines = [ui.stdout.readline() for _ in range(3)]
        (link,) = [line.split()[1] for line in lines if line.startswith("ssl ")]
        assert urllib.request.urlopen(link, timeout=20).status == 200
    finally:
        os.killpg(ui.pid, signal.SIGINT)
        ui.wait(30)
