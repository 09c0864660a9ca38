"""Freed memory stays with the process, measured by the kernel's own count of page faults."""

import os
import platform
import subprocess
import sys

import pytest

STEPS = """
import resource, torch
from trainables.engine.allocator import keep_freed_memory

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def steps():  # three that hold 96 MB each
    before = faults()
    for _ in range(3):
        tensors = [torch.ones(6 << 20) for _ in range(4)]
        del tensors
    return faults() - before

steps()
first = steps()
keep_freed_memory()
steps()
# the kernel may reclaim pages of an idle process at any time
print(first, min(steps() for _ in range(3)))
"""


@pytest.mark.heavy
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc")
def test_a_step_asks_the_system_for_nothing_twice() -> None:
    # glibc's own initial value; setting it stops glibc from adapting it
    returned = os.environ | {"MALLOC_MMAP_THRESHOLD_": str(128 << 10)}
    said = subprocess.run(
        [sys.executable, "-c", STEPS],
        check=True,
        capture_output=True,
        text=True,
        timeout=200,
        env=returned,
    ).stdout
    before, after = map(int, said.split())
    assert after < before / 100, said
