"""Attack a study through the command line, beyond what `acts.py` repeats.

    python -m tests.crash.attacks
    python -m tests.crash.attacks --only names --only killed-delete

Each attack returns what went wrong, or an empty string: a traceback, a wrong sentence, silence,
something lost. Some need the right to mount, a C compiler, or `--faketime PATH`, and say so if they
lack it.

    common.py      commands, and what is wrong after they end
    places.py      paths, names, links
    meanwhile.py   changes while a study runs, signals, clocks
    disks.py       full, read-only, limited
    files.py       records, databases and locks that something else has changed
    reports.py     several commands at once, and killed ones
    typed.py       options, experiment files, environments, requests (ask.py)
"""
