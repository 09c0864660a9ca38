"""Attacks on a study by the command line, beyond what `acts.py` does again.

    python -m tests.crash.attacks
    python -m tests.crash.attacks --only names --only killed-delete

Each tells what went wrong, or nothing: a traceback, a wrong sentence, silence, something lost. Some
need the right to mount, a C compiler, or `--faketime PATH`; where they lack it, they say so.

    common.py      commands, and what is wrong with their end
    places.py      paths, names, links
    meanwhile.py   what changes while a study runs, signals, clocks
    disks.py       full, read-only, limited
    files.py       records, databases and locks that others have changed
    reports.py     several commands at once, and killed ones
    typed.py       options, files of experiments, environments, requests (ask.py)
"""
