"""Run the search of a study in this process or on Ray, for a command or for a program that can be
interrupted."""

import os
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import replace

from trainables.errors import UserError
from tune.cli.caller import Caller
from tune.cli.option_values import AUTO, parse_concurrent
from tune.cli.options import Options
from tune.cli.prepare import Prepared
from tune.cli.stop import ON_REQUEST, Stop
from tune.study.study import Study


def search(study: Study, prepared: Prepared, options: Options, caller: Caller, stop: Stop) -> None:
    """Run the study's work until none is left or the study is stopped.

    Raises:
        UserError: the cluster lacks the capacity for one trial, or the study's folder is no longer
            writable.
    """
    if options.local:
        _search_here(study, prepared, options, caller, stop)
    elif caller.is_command:
        _search_on_ray(study, prepared, options, caller)
    else:
        _search_beside(study, prepared, options, caller, stop)


def check_machine(prepared: Prepared, options: Options) -> None:
    """Refuse, before the study starts, what exceeds this machine's capacity.

    Raises:
        UserError: one trial needs more than the machine has.
    """
    threads = float(prepared.manifest.base["train.threads"])
    is_small = options.workers * threads <= (os.cpu_count() or 1) and not options.gpus_per_worker
    if options.local or is_small:  # avoids importing Ray, which takes a second
        return
    from tune.execution.capacity import refuse_on_this_machine

    refuse_on_this_machine(options.workers, threads, options.gpus_per_worker)


def check_batched(prepared: Sequence[Prepared], options: Options) -> None:
    """Refuse `--batch-trials` if none of the studies has trials that can train as one batch.

    Raises:
        UserError: the reason of the first study.
    """
    if options.batch_trials is None:
        return

    reasons = [_why_not_batched(one) for one in prepared]
    if all(reasons):
        name = prepared[0].manifest.name
        raise UserError(
            f"--batch-trials {options.batch_trials}: trials of {name!r} cannot train as one, as "
            f"{reasons[0]}: leave it out"
        )


def with_batches(prepared: Prepared, options: Options) -> Options:
    """Return the options for one study of a command: in this process if its trials can train as one
    batch, otherwise without `--batch-trials`."""
    if options.batch_trials is None:
        return options
    if _why_not_batched(prepared):
        return replace(options, batch_trials=None)
    return replace(options, local=True)


def _why_not_batched(prepared: Prepared) -> str:
    """Return the reason in a few words; "" if trials can train as one batch."""
    experiment = prepared.experiment
    if experiment.function is not None:
        return "a function trains"
    return experiment.trainable.why_not_batched(prepared.config)


def _search_here(
    study: Study, prepared: Prepared, options: Options, caller: Caller, stop: Stop
) -> None:
    """Search in this thread. If a program is interrupted, the search ends at once, which is like a
    kill for the study."""
    from tune.execution.local import search_locally

    width = options.batch_trials
    try:
        if width is None:
            search_locally(study, prepared.experiment)
        else:
            from tune.execution.batched import idle_gpus, search_in_batches

            idle = idle_gpus(study.manifest.base)
            if idle:
                caller.say(
                    f"--batch-trials trains on one GPU: {idle} more of this machine are idle"
                )
            search_in_batches(study, prepared.experiment, width)
    except KeyboardInterrupt:
        if caller.is_command:
            raise
        stop.now(ON_REQUEST)


def _search_on_ray(study: Study, prepared: Prepared, options: Options, caller: Caller) -> None:
    from tune.execution.ray_tune import search

    concurrent = parse_concurrent(options.concurrent)
    search(
        study,
        prepared.experiment,
        concurrent=None if concurrent == AUTO else concurrent,
        gpus_per_worker=options.gpus_per_worker,
        workers=options.workers,
        shares_gpus=concurrent == AUTO,
        say=caller.say,
    )


def _search_beside(
    study: Study, prepared: Prepared, options: Options, caller: Caller, stop: Stop
) -> None:
    """Search in a separate thread. An interrupt reaches the waiting thread, which stops the trials
    in order. Inside Ray's own code, an interrupt could leave them running on a cluster."""
    from tune.execution.ray_session import ray_session

    # Start Ray here: outside the main thread it complains about signals.
    one_thread = ThreadPoolExecutor(1, thread_name_prefix="search")
    with ray_session(options.workers), one_thread as pool:
        searching = pool.submit(_search_on_ray, study, prepared, options, caller)
        _wait_for(searching, stop)
        searching.result()


def _wait_for(searching: "Future[None]", stop: Stop) -> None:
    """Wait until the search has ended. An interrupt stops the search, wherever it reaches this
    thread; otherwise leaving would wait for the whole search."""
    try:
        while True:
            try:
                if searching.done():
                    return
                wait([searching])
            except KeyboardInterrupt:
                stop.now(ON_REQUEST)
    except BaseException:  # another interrupt, while the first was being handled
        stop.now(ON_REQUEST)
        raise
