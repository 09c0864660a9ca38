"""Every moment at which a study can be killed, or its machine lose power, tried one by one.

    python -m tests.crash                         all of them, on all cores (make test-crash)
    python -m tests.crash --points 50 --seed 3    a sample
    python -m tests.crash --only kill:120         one of them again, with what differs

A study is no more than the files that it leaves. So the moments that matter are those between two
changes of a file, and there are a few hundred of them in a tiny study. They are counted once, and
then, for each:

    kill      the process is killed before the change
    torn      it is killed in the middle of a write, whose first half is in the file
    power     the machine loses power before the change: what was not synced is lost, in three ways
              (`disk.py`)
    signal    as kill and torn, by a process that SIGKILL ends there; the others compute from the
              record of changes, which explains every byte, the files that are left
    double    the process is killed, and so is the one that resumes, by SIGKILL at a change of its
              own

After each the same command runs once more. It must end well, and the study must equal one that
nothing has happened to: trials, states, parameters, values, every event once, the same files with
the same content, and no other file.

    operations.c    counts, records and kills, below Python (preloaded by the linker)
    operations.py   the same from Python
    disk.py         the files that a kill and a power cut leave, by the record of changes
    crashes.py      the crashes, and which of them leave the same files
    tiny.py         the studies, each a command in a forked process: torch is imported once
    outcome.py      all that must be equal
    enumerator.py   tries them, in several processes
    on_ray.py       sampled moments of the driver and of trial processes under Ray
    soak.py         a long study in which everything is killed at random
    growth.py       what must not grow meanwhile
    damage.py       files of the record that a disk or an editor has changed
    acts.py         what broke once, done again by the command line of any checkout, in a place
                    (place.py) with servers (servers.py), by toy_command.py and spot.py
    function.py     a study whose trials take milliseconds
    marked.py       the processes that a command has started
"""
