"""TFF's local runtime beside proxies, shell commands, threads and forks, which it does not expect.

Left alone, TFF 0.87.0 waits for ever behind a company's proxy and in a forked process, knows no
runtime in a new thread, and makes some `!` commands of a notebook end before they begin.

Knows nothing of what is computed, of workers on other machines, nor of notebooks.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import ctypes
import importlib.abc
import importlib.util
import os
import sys
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

from .fresh import FreshProcess
from .interrupts import interrupts_held_back

WORKER_NAME = "worker_binary"
TFF = "tensorflow_federated"
LOCAL = ("localhost", "127.0.0.1", "::1")
PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # in the order in which gRPC asks
FORKED = (
    "TFF and TensorFlow cannot compute in a forked process once they have computed in its parent: "
    "the threads they need are not copied. Start processes with "
    'multiprocessing.get_context("spawn"), or use threads.'
)

_shared = None  # the `Shared` context of this process, once TFF is imported
_state = {"forked": False, "used": False, "gone": 0}
_compiled = {}  # by the id of a computation that lives
MOST_GONE = 4  # compiled computations that a worker may hold in vain


def keep_local_calls_local() -> None:
    """Keeps gRPC from asking a proxy for the way to a worker on this machine.

    Only gRPC reads `no_grpc_proxy`, and reads it in place of `no_proxy`, so what stands there
    is taken over. Downloads go through the proxy as before.
    """
    names = ("no_grpc_proxy", "no_proxy", "NO_PROXY")
    listed = next((os.environ[name] for name in names if os.environ.get(name)), "")
    hosts = [host.strip() for host in listed.split(",") if host.strip()]
    os.environ["no_grpc_proxy"] = ",".join(dict.fromkeys([*hosts, *LOCAL]))


def proxy_variable() -> str | None:
    """Returns the name of the variable that sends gRPC through a proxy, if there is one."""
    return next((name for name in PROXIES if os.environ.get(name)), None)


def keep_out_of_forks() -> None:
    """Keeps gRPC out of forked processes, where it would end a shell command before it begins.

    Set even over a setting of the reader's: in a process that computes with TFF, gRPC's own
    handling of forks loses commands and gains nothing. It is read when gRPC is first imported.
    """
    os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"


def check_process() -> None:
    """Raises where a computation would wait for ever.

    Raises:
        RuntimeError: in a process forked from one that has computed.
    """
    if is_forked():
        raise RuntimeError(FORKED)


def is_forked() -> bool:
    """Returns whether this process was forked from one that had computed."""
    return _state["forked"]


def note_use() -> None:
    """Notes that TensorFlow or gRPC runs in this process, so that a fork of it cannot compute."""
    _state["used"] = True


def compiled(computation):
    """Compiles a computation of TFF for a worker, once while it lives.

    TFF's own cache keeps the last 128, however long they are gone.
    """
    import tensorflow_federated as tff

    key = id(computation)
    if key not in _compiled:
        made = tff.backends.native.desugar_and_transform_to_native(computation)
        # First, since the key may be that of another computation after the end of this one.
        weakref.finalize(computation, _forget, key).atexit = False
        # Compiling forgets which containers the result comes in.
        _compiled[key] = type(computation).with_type(made, computation.type_signature)
    return _compiled[key]


def _forget(key: int) -> None:
    _compiled.pop(key, None)
    _state["gone"] += 1


def gone() -> int:
    """Returns how many compiled computations have ceased to be; workers may still hold them."""
    return _state["gone"]


def reset() -> None:
    """Gives TFF's local runtime up; the next computation starts a new one."""
    if _shared is not None:
        _shared.renew()


def end() -> None:
    """Gives TFF's local runtime up for good, before Python takes apart what TFF needs."""
    if _shared is not None:
        _shared.renew(ended=True)


def _run_until_stopped(loop) -> None:
    """Runs an event loop in its thread, and ends what is left over."""
    loop.run_forever()
    left = asyncio.all_tasks(loop)
    for task in left:
        task.cancel()
    if left:
        loop.run_until_complete(asyncio.wait(left))
    loop.close()


def _share(tff) -> None:
    """Gives every thread of this process the runtime that TFF gives to the main thread."""
    global _shared
    from .local_worker import LocalExecutors

    class Shared(tff.framework.SyncContext):
        """TFF's local runtime, for one computation at a time, from whichever thread."""

        def __init__(self):
            self._lock, self._ended = threading.RLock(), False
            self._loop = self._context = self._executors = self._fresh = None

        @property
        def executor_factory(self):
            self._start()
            return self._executors

        def invoke(self, comp, arg):
            if is_forked():
                with self._lock:
                    self._fresh = self._fresh or FreshProcess()
                    return self._fresh.compute(comp, arg)
            with self._lock:
                self._start()
                comp = compiled(comp)
                try:
                    work = self._context.invoke(comp, arg)
                    result = asyncio.run_coroutine_threadsafe(work, self._loop).result()
                    self._executors.tidy()
                except KeyboardInterrupt:
                    self.renew()  # nobody waits for the rest
                    raise
                return result

        def _start(self):
            """Makes TFF's asynchronous context, and a loop in a thread: TFF's own never ends."""
            if self._ended:
                raise RuntimeError("Python is shutting down; no computation can start now.")
            if self._context is not None:
                return
            with interrupts_held_back(for_good=True):
                note_use()
                self._executors = LocalExecutors()
                self._context = tff.framework.AsyncExecutionContext(
                    self._executors,
                    transform_args=tff.tensorflow.transform_args,
                    transform_result=tff.tensorflow.transform_result,
                )
                self._loop = asyncio.new_event_loop()
                threading.Thread(target=_run_until_stopped, args=[self._loop], daemon=True).start()

        def renew(self, ended=False):
            with interrupts_held_back(for_good=True):
                if self._loop is not None:
                    self._executors.close()
                    self._loop.call_soon_threadsafe(self._loop.stop)
                self._loop = self._context = self._executors = None
                self._ended |= ended

        def after_fork(self):
            # TFF ends its worker when a context goes; this one's worker is the parent's.
            for context in {self._context, self._executors, stack.current} - {None, self}:
                ctypes.pythonapi.Py_IncRef(ctypes.py_object(context))
            self.__init__()
            stack.set_default_context(self)

    stack = tff.framework.get_context_stack()
    _shared = Shared()
    stack.set_default_context(_shared)
    # What a new thread finds is one object of TFF's, whose only deed is to raise an error.
    found = []
    thread = threading.Thread(target=lambda: found.append(stack.current))
    thread.start()
    thread.join()
    found[0].invoke = _shared.invoke


class _WhenImported(importlib.abc.MetaPathFinder):
    """Calls what is to be done as soon as a module has been imported, with the module."""

    def __init__(self, wanted: str, then: Callable):
        self._wanted, self._then, self._is_asking = wanted, then, False

    def find_spec(self, name, path=None, target=None):
        if name != self._wanted or self._is_asking:
            return None
        self._is_asking = True
        try:
            spec = importlib.util.find_spec(name)  # from the other finders
        finally:
            self._is_asking = False
        if spec is not None and spec.loader is not None:
            execute = spec.loader.exec_module

            def execute_and_go_on(module):
                execute(module)
                self._then(module)

            spec.loader.exec_module = execute_and_go_on
        return spec


def when_imported(name: str, then: Callable) -> None:
    """Calls a function with a module: now where it is imported already, else once it is."""
    if name in sys.modules:
        then(sys.modules[name])
    else:
        sys.meta_path.insert(0, _WhenImported(name, then))


def _workers(pid: int) -> list[int]:
    """Returns the TFF workers among the children of a process."""
    found = []
    for listed in Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            for child in listed.read_text().split():
                if WORKER_NAME in Path(f"/proc/{child}/comm").read_text():
                    found.append(int(child))
        except OSError:  # it has ended while we looked
            pass
    return found


def _end_without_tensorflow() -> None:
    """Lets a forked process end without taking apart TensorFlow, whose threads it does not have.

    What it has computed with is kept, so that Python does not wait for those threads, and C's end
    is cut short by `_exit`, which takes the code that the process ends with.
    """
    eager = getattr(sys.modules.get("tensorflow.python.eager.context"), "_context", None)
    if getattr(eager, "_context_handle", None) is None:
        return  # it has not computed
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(eager))
    library = ctypes.CDLL(None)
    atexit.register(library.fflush, None)
    with contextlib.suppress(AttributeError):  # only Linux has it
        library.on_exit(library._exit, None)


def _after_fork_in_child() -> None:
    _end_without_tensorflow()
    _state["forked"] |= _state["used"] or (TFF in sys.modules and bool(_workers(os.getppid())))
    if _shared is not None:
        _shared.after_fork()


def serve_threads_and_forks() -> None:
    """Lets TFF compute in every thread, and say in words where it cannot: in some forks."""
    when_imported(TFF, _share)
    os.register_at_fork(after_in_child=_after_fork_in_child)
