"""Write constraints-cuda.txt and constraints-cpu.txt: `make lock`.

Each pins every package, with hashes, to the version in the environment that runs this script, so
that what is locked is what was tested. PyPI is the only index. Its torch for Linux brings CUDA;
torch for CPUs alone comes from PyTorch's own index, and is pinned without hashes in the header of
constraints-cpu.txt.
"""

import re
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
FROM_CPU_INDEX = ("torch", "torchvision")
CUDA_ONLY = re.compile(r"(nvidia-|cuda-|triton)")
OPTIONS = [
    *("--all-extras", "--universal", "--python-version", "3.11.5", "--generate-hashes"),
    *("--default-index", "https://pypi.org/simple", "--no-config", "--system-certs"),
    *("--no-header", "--no-annotate", "--no-python-downloads"),
]

CUDA_HEADER = """\
# Every package of vistune and its extras, pinned with hashes; torch with CUDA. Made by `make lock`.
#
#     pip install --no-deps -r constraints-cuda.txt
#     pip install --no-deps --no-build-isolation -e .
"""
CPU_HEADER = """\
# Every package of vistune and its extras, pinned with hashes; torch for CPUs. Made by `make lock`.
#
#     pip install --no-deps --index-url {index} {torch}
#     pip install --no-deps -r constraints-cpu.txt
#     pip install --no-deps --no-build-isolation -e .
"""


def main() -> None:
    """Write both files."""
    entries = split(resolve())
    cuda = [entry for entry in entries if name_of(entry) != "vistune"]
    cpu = [entry for entry in cuda if not needs_cuda(entry)]

    pins = [first_word(entry) for entry in cuda if name_of(entry) in FROM_CPU_INDEX]
    header = CPU_HEADER.format(index=CPU_INDEX, torch=" ".join(pins))

    (ROOT / "constraints-cuda.txt").write_text(CUDA_HEADER + "".join(cuda))
    (ROOT / "constraints-cpu.txt").write_text(header + "".join(cpu))
    print(f"constraints-cuda.txt: {len(cuda)} packages; constraints-cpu.txt: {len(cpu)}")


def resolve() -> str:
    """Return what uv resolves for every supported Python and platform, with hashes."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as tested:
        tested.write("".join(f"{pin}\n" for pin in installed()))
        tested.flush()

        command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", *OPTIONS]
        command += ["--constraints", tested.name]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)

    return done.stdout


def installed() -> list[str]:
    """Return `name==version` of what this environment has, without local versions like `+cpu`."""
    pins = []
    for found in distributions():
        if found.name != "vistune":
            pins.append(f"{found.name}=={found.version.partition('+')[0]}")
    return sorted(set(pins))


def split(text: str) -> list[str]:
    """Return one string for each package: its line and those of its hashes."""
    return re.findall(r"^[A-Za-z0-9].*\n(?:    .*\n)*", text, re.MULTILINE)


def first_word(entry: str) -> str:
    """Return `name==version`."""
    return entry.split()[0]


def name_of(entry: str) -> str:
    """Return the name alone."""
    return re.split(r"[=\[]", first_word(entry))[0]


def needs_cuda(entry: str) -> bool:
    """Tell whether torch for CPUs does without this package, or comes from another index."""
    name = name_of(entry)
    return name in FROM_CPU_INDEX or CUDA_ONLY.match(name) is not None


if __name__ == "__main__":
    main()
