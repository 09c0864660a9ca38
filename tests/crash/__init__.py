"""Try every moment at which a study can be killed or its machine lose power, one by one.

    python -m tests.crash                         all of them, on all cores (make test-crash)
    python -m tests.crash --points 50 --seed 3    a sample
    python -m tests.crash --only kill:120         one of them again, with the differences

A study is no more than the files that it leaves. So the moments that matter lie between two changes
of files, and a tiny study has a few hundred of them. They are counted once. Then each is tried in
several ways:

    kill      the process is killed before the change
    torn      it is killed in the middle of a write, whose first half is in the file
    power     the machine loses power before the change and loses what was not synced, in three
              ways (`disk.py`)
    signal    like kill and torn, but SIGKILL really ends the process there; for the kinds above
              the files are computed from the record of changes, which explains every byte
    double    the process is killed, and the process that resumes is killed too, by SIGKILL at a
              change of its own

After each crash the same command runs once more. It must end well, and the study must equal an
undisturbed one: trials, states, parameters, values, every event once, the same files with the same
content, and no other file.

    operations.c    counts, records and kills, below Python (preloaded by the linker)
    operations.py   the same from Python
    disk.py         the files that a kill or a power cut leaves, from the record of changes
    crashes.py      the crashes, and which of them leave the same files
    tiny.py         the studies, each a command in a forked process: torch is imported once
    outcome.py      all that must be equal
    enumerator.py   tries the crashes, in several processes
    on_ray.py       sampled moments of the driver and of trial processes under Ray
    soak.py         a long study in which everything is killed at random
    growth.py       what must not grow during a soak
    damage.py       files of the record that a disk or an editor has changed
    acts.py         past failures, repeated through the command line of any checkout, in a place
                    (place.py) with servers (servers.py), by toy_command.py and spot.py
    function.py     a study whose trials take milliseconds
    marked.py       the processes that a command has started
"""
