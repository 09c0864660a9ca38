"""Put the cluster files into the wheel, as `vistune/cluster_files/`."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).parent
FILES = [*sorted(ROOT.glob("cluster*.yaml")), *sorted((ROOT / "cluster").glob("*"))]


class BuildWithClusterFiles(build_py):
    """`build_py`, from an empty folder, and with the files that lie outside of every package."""

    def run(self) -> None:
        if not self.editable_mode:
            # A module that was moved since the last build would still be in the wheel.
            shutil.rmtree(self.build_lib, ignore_errors=True)
        super().run()
        if not self.editable_mode:
            self._copy_cluster_files()

    def _copy_cluster_files(self) -> None:
        for source in FILES:
            target = Path(self.build_lib, "vistune", "cluster_files", source.relative_to(ROOT))
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, target)


setup(cmdclass={"build_py": BuildWithClusterFiles})
