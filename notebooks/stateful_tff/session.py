"""Start and clean end of a session: quiet logs, and no worker process left behind.

TFF 0.87.0 runs computations in a child process called `worker_binary`. It outlives the
Python process that started it, and it keeps that process's standard output open, so that
`python script.py | cat` never returns. This module ends it in every case: at a normal exit,
after an exception, and when the process is killed outright.

Knows nothing of federated learning; Colab's bridge is only loaded where a notebook needs it.
"""

from __future__ import annotations

import asyncio
import atexit
import gc
import linecache
import os
import platform
import subprocess
import sys
import uuid
import warnings

import psutil

from . import runtime
from .runtime import WORKER_NAME

# Workers inherit the environment, so this mark tells whose they are.
_SESSION_VARIABLE = "STATEFUL_TFF_SESSION"

# Runs in a process of its own. Its standard input ends when the session does, however it ends.
_GUARD = f"""
import sys, psutil
session = sys.argv[1]
sys.stdin.read()
for process in psutil.process_iter(["name"]):
    try:
        if (process.info["name"] == {WORKER_NAME!r}
                and process.environ().get({_SESSION_VARIABLE!r}) == session):
            process.kill()
    except psutil.Error:
        pass
"""

_guard = None


def quiet_imports() -> None:
    """Silences start-up messages that say nothing about the reader's work.

    TensorFlow's have to be silenced before it is imported; its errors are still raised as
    exceptions, and a level the reader has set stays. tqdm wants a widget we do not use.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    warnings.filterwarnings("ignore", message="IProgress not found")


def one_thread_per_operation() -> None:
    """Keeps TensorFlow, here and in workers started here, from splitting an operation over cores.

    The operations of this book are small, and handing parts of them to other threads takes
    longer than the parts; chapter 6 measures it. Clients and shards still run side by side.
    TensorFlow reads the setting at its first operation; one that the reader has made stays.
    """
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")


def workers() -> list[psutil.Process]:
    """Returns the TFF worker processes that this Python process has started and not ended."""
    found = []
    for child in psutil.Process().children(recursive=True):
        try:
            if child.name() == WORKER_NAME and child.status() != psutil.STATUS_ZOMBIE:
                found.append(child)
        except psutil.Error:  # it ended while we looked
            pass
    return found


def end_workers(timeout: float = 5.0) -> int:
    """Ends the TFF workers of this process; the next computation starts a new one.

    Args:
        timeout: seconds to wait for them to be gone.

    Returns:
        How many workers were ended.
    """
    running = workers()
    for worker in running:
        worker.kill()
    if running and "tensorflow_federated" in sys.modules:  # else they are a child process's
        # TFF must not miss the worker it had. Letting go of the old context waits for that
        # worker, which is why it is killed first: it may ignore an interrupt.
        runtime.reset()
        gc.collect()
    psutil.wait_procs(running, timeout=timeout)
    return len(running)


def _end_workers_at_exit() -> None:
    """Ends the workers for good, before Python takes apart what TFF needs to do it quietly."""
    end_workers()
    runtime.end()
    gc.collect()


def _leave_the_guard_to_the_parent() -> None:
    """In a forked process: lets the parent's guard see the parent's end in time."""
    global _guard
    if _guard is not None:
        _guard.stdin.close()
        _guard.returncode = 0  # of a process that is not this one's child
    _guard = None
    atexit.unregister(_end_workers_at_exit)


def _leave_no_source_files(loader) -> None:
    """Removes what TensorFlow writes to load the code that it makes of functions, once loaded.

    Left alone, the files stay until a normal end, and for ever after a kill. Python's cache of
    lines keeps the text, for tracebacks.
    """
    load_source = loader.load_source

    def load_and_remove(source, delete_on_exit):
        module, name = load_source(source, False)
        linecache.cache[name] = len(source), None, source.splitlines(keepends=True), name
        if delete_on_exit:
            os.remove(name)
        return module, name

    loader.load_source = load_and_remove


def end_workers_with_this_process() -> None:
    """Ties the life of TFF's workers to the life of this Python process.

    A normal exit and an unhandled exception end the workers through `atexit`. A process that
    is killed runs no exit code, so a small guard process watches for its end. Calling this
    again does nothing; a forked or spawned child that calls it gets a guard of its own.
    """
    global _guard
    if _guard is not None:
        return
    session = uuid.uuid4().hex
    os.environ[_SESSION_VARIABLE] = session
    guard = subprocess.Popen(
        [sys.executable, "-c", _GUARD, session],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # an interrupt from the keyboard must not end the guard
    )
    _guard = guard
    atexit.register(_end_workers_at_exit)


def prepare() -> None:
    """Prepares this Python process, when the package is imported; nothing of TFF is loaded yet."""
    quiet_imports()
    one_thread_per_operation()
    runtime.keep_out_of_forks()
    runtime.keep_local_calls_local()
    end_workers_with_this_process()
    runtime.serve_threads_and_forks()
    runtime.when_imported("tensorflow.python.autograph.pyct.loader", _leave_no_source_files)
    os.register_at_fork(after_in_child=_leave_the_guard_to_the_parent)


def allow_nested_event_loops() -> None:
    """Lets TFF run where an event loop already runs and cannot be entered a second time.

    TFF 0.87.0 manages inside a current Jupyter kernel without this. Front ends that run cells
    in the loop's own thread and replace TFF's way of starting a loop do not, so the set-up
    applies `nest_asyncio` whenever it finds a running loop.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return
    import nest_asyncio

    nest_asyncio.apply()


def notebook() -> None:
    """Prepares a notebook: TFF, event loop, plot style, one line that says what it runs on.

    Where this Python does not have TFF, as in Colab, `colab.environment` supplies it first.

    Raises:
        SetUpError: if it cannot, in one sentence that says what to do.
    """
    from .colab import environment

    if not environment.is_complete() and environment.supply():
        return  # this notebook now runs in another Python, where all below has been done
    allow_nested_event_loops()

    import tensorflow as tf
    import tensorflow_federated as tff

    from . import plots

    plots.use_style()
    print(f"Python {platform.python_version()}, TensorFlow {tf.__version__}, TFF {tff.__version__}")


def doctor() -> None:
    """Prints the versions that matter and runs one federated mean, to show that TFF works."""
    import matplotlib
    import numpy as np
    import pandas as pd
    import tensorflow as tf
    import tensorflow_federated as tff

    print(f"{'Python':<22}{platform.python_version()}  ({sys.executable})")
    for name, module in {
        "TensorFlow": tf,
        "TensorFlow Federated": tff,
        "NumPy": np,
        "pandas": pd,
        "matplotlib": matplotlib,
    }.items():
        print(f"{name:<22}{module.__version__}")

    @tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
    def mean_at_server(values):
        return tff.federated_mean(values)

    print(f"mean of 1, 2 and 6 held by three clients: {mean_at_server([1.0, 2.0, 6.0]):.1f}")
