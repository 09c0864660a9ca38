"""Make Ray's workers import the vistune that this process runs."""

from pathlib import Path

from ray.job_config import JobConfig

from tune.startup import ROOT

_PACKAGES = ("tune", "trainables", "search_spaces")


class OwnCodeFirst(JobConfig):
    """Puts the folder of our packages before the current one on the path of Ray's workers.

    Ray puts the current folder first. A `tune` there that is not ours, such as a checkout beside an
    installed wheel, would take the place of ours. The overridden method is private to Ray:
    tests/tune/execution/test_code_path.py checks what a worker imports.
    """

    def _serialize(self) -> str:
        ships_code = self._runtime_env_has_working_dir()  # type: ignore[no-untyped-call]
        if not ships_code and hides_ours(Path.cwd()):
            self._py_driver_sys_path.append(str(ROOT))  # Ray puts each before the previous one
        return super()._serialize()


def hides_ours(folder: Path) -> bool:
    """True if a folder other than that of our code contains a package with one of our names."""
    found = any((folder / name / "__init__.py").exists() for name in _PACKAGES)
    return found and folder.resolve() != ROOT
