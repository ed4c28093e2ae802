"""One worker: TFF's program in a process with a port, and the context that computes on it.

Knows nothing of rounds, of other workers or of stores.
"""

import asyncio
import time
from collections import deque
from concurrent import futures

import portpicker
import tensorflow_federated as tff

from .. import runtime
from ..interrupts import interrupts_held_back
from ..local_worker import WORKER_PROGRAM, Executors, launch
from .channel import Call, Channel, Limits

__all__ = ["WORKER_PROGRAM", "Worker", "launch"]


class _Here(tff.framework.SyncContext):
    """Runs an asynchronous context in the thread that asks; TFF's own way leaks a thread."""

    def __init__(self, context, loop):
        self._context, self._loop = context, loop

    def invoke(self, comp, arg):
        return self._loop.run_until_complete(self._context.invoke(comp, arg))


class Worker:
    """One worker process, here or elsewhere, and the channel to it.

    Attributes:
        name: "worker 1" and so on.
        address: "host:port".
        process: the process, where it was started here; else `None`.
        channel: the `Channel` that leads to it now.
        context: TFF's asynchronous context that computes on the worker.
        traffic: the last 10,000 calls, each a `Call`, and for each computation one of the kind
            "Run" without sizes.
        is_closed: whether it was closed for good.
    """

    def __init__(self, name: str, limits: Limits, address: str | None = None, core=None):
        """Starts the process if no address is given, and says hello without waiting."""
        self.name, self.address, self.process = name, address, None
        self._limits, self._is_local, self._core = limits, address is None, core
        self.channel, self._executors, self.traffic = None, Executors(), deque(maxlen=10_000)
        self.context = tff.framework.AsyncExecutionContext(
            self._executors,
            transform_args=tff.tensorflow.transform_args,
            transform_result=tff.tensorflow.transform_result,
        )
        self._thread, self.is_closed = futures.ThreadPoolExecutor(1), False
        self.connect()

    def connect(self) -> None:
        """Opens a new channel; a process of our own that was lost is ended and started again."""
        with interrupts_held_back(for_good=True):
            if self.channel:
                self._let_go()
            if self._is_local:
                port = portpicker.pick_unused_port()
                self.process, self.address = launch(port, self._core), f"localhost:{port}"
            self.channel = Channel(self.name, self.address, self._limits, self.traffic)
            self._executors.use(self.channel)

    @property
    def is_ready(self) -> bool:
        """Whether the worker has answered; a channel that failed before that is opened again."""
        if self.is_closed:
            return False
        greeting = self.channel.greeting
        if not self.channel.is_cut and greeting.done() and greeting.exception() is None:
            return True
        ended = self.process and self.process.poll() is not None
        if self.channel.is_cut or greeting.done() or ended:
            self.connect()
        return False

    def submit(self, computation: tff.Computation, *arguments) -> futures.Future:
        """Runs a computation in the background, after those submitted before.

        Returns:
            The future of its result, or of a `WorkerLost` if no answer comes.
        """
        return self._thread.submit(self._run, computation, arguments)

    def _run(self, computation, arguments):
        start, loop = time.perf_counter(), asyncio.new_event_loop()
        try:
            with tff.framework.get_context_stack().install(_Here(self.context, loop)):
                self._executors.tidy()
                return runtime.compiled(computation)(*arguments)
        finally:
            loop.close()
            self.traffic.append(Call("Run", start, time.perf_counter() - start, 0, 0))

    def _let_go(self) -> None:
        """Ends a process of our own; one elsewhere is asked to let go of what it holds."""
        if self.process:
            self.channel.cut()
            self.process.kill()
            self.process.wait()
        self._executors.let_go()
        self.channel.cut()

    def close(self) -> None:
        """Ends the worker if it was started here, and the channel in any case, for good."""
        self.is_closed = True
        self._let_go()
        self._thread.shutdown()
