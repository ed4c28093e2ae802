"""TFF's program in a process with a port, and TFF's executors, which stand for what it holds.

TFF's own way to a worker on this machine waits for ever where an interrupt ends the worker while
it starts, and for a worker that ignores one. Knows nothing of what is computed.
"""

import os
import subprocess
import threading
import time

import grpc
import portpicker
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import computation_pb2, executor_pb2, executor_pb2_grpc

from . import runtime

WORKER_PROGRAM = os.path.join(os.path.dirname(tff.__file__), "data", "worker_binary")
_KEPT = 10  # executors, one for each number of clients
_TRIES, _READY_WITHIN = 3, 60.0  # seconds for a worker to answer after its start
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel does not share an old one's trouble
]
_NO_CLIENTS = computation_pb2.Placement(uri=tff.CLIENTS.uri)
HELLO = executor_pb2.GetExecutorRequest(
    cardinalities=[executor_pb2.Cardinality(placement=_NO_CLIENTS)]
)


def launch(port: int, core: int | None = None, is_quiet: bool = True) -> subprocess.Popen:
    """Starts a worker on this machine; `session` ends it when this Python process ends.

    An interrupt from the keyboard is for the driver, and does not reach it.

    Args:
        port: where it listens, on all interfaces of the machine.
        core: the one core to keep it to (Linux only), if any.
        is_quiet: whether what it writes is dropped.
    """
    output = subprocess.DEVNULL if is_quiet else None
    before = os.sched_getaffinity(0) if core is not None else None
    try:
        if core is not None:
            os.sched_setaffinity(0, {core})  # of this thread; the child inherits it
        return subprocess.Popen(
            [WORKER_PROGRAM, f"--port={port}"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    finally:
        if before is not None:
            os.sched_setaffinity(0, before)


class Executors(tff.framework.ExecutorFactory):
    """TFF's executors of one worker, one for each number of clients, on the channel it has now.

    An executor stands for what a worker holds: values and compiled computations. Values are let
    go as soon as nobody needs them; TFF's own factory lets go of twenty at a time.
    """

    def __init__(self):
        """Starts without any."""
        self._stub, self._made, self._gone = None, {}, 0

    def use(self, channel) -> None:
        """From now on, executors are made on this channel."""
        self._stub = tff.framework.RemoteExecutorGrpcStub(channel)

    def create_executor(self, cardinalities):
        """Returns the executor for a number of clients; ten of them are kept."""
        clients = cardinalities.get(tff.CLIENTS, 0)
        if clients not in self._made:
            if len(self._made) == _KEPT:
                self._made.pop(next(iter(self._made))).close()
            executor = tff.framework.RemoteExecutor(self._stub, dispose_batch_size=1)
            executor.set_cardinalities({tff.CLIENTS: clients})
            self._made[clients] = executor
        return self._made[clients]

    def clean_up_executor(self, cardinalities):
        """Lets go of an executor, and of what the worker holds for it."""
        executor = self._made.pop(cardinalities.get(tff.CLIENTS, 0), None)
        if executor:
            executor.close()

    def tidy(self) -> None:
        """Lets go of all where a worker may hold computations that are gone."""
        if runtime.gone() - self._gone >= runtime.MOST_GONE:
            self._gone = runtime.gone()
            self.let_go()

    def let_go(self) -> None:
        """Lets go of all."""
        while self._made:
            self._made.popitem()[1].close()


class _Ended(grpc.RpcError):
    """A call to a worker that was let go."""


class _Channel:
    """A gRPC channel that takes no watchers: gRPC's watching thread outlives a closed channel."""

    def __init__(self, address: str):
        self._channel, self._is_closed = grpc.insecure_channel(address, _OPTIONS), False
        stub = executor_pb2_grpc.ExecutorGroupStub(self._channel)
        self.greeting = stub.GetExecutor.future(HELLO, wait_for_ready=True, timeout=_READY_WITHIN)

    def subscribe(self, callback, try_to_connect: bool = False) -> None:
        pass

    def unary_unary(self, method, *args, **kwargs):
        send = self._channel.unary_unary(method, *args, **kwargs)

        def call(request):
            if method.endswith("/Dispose"):  # a value that nobody needs; no reason to wait
                if not self._is_closed:
                    send.future(request)
                return executor_pb2.DisposeResponse()
            if self._is_closed:
                raise _Ended("The worker was let go.")
            return send(request)

        return call

    def close(self) -> None:
        self._is_closed = True
        self._channel.close()


class LocalExecutors(Executors):
    """Executors of a worker of their own, which is started where there is none that lives."""

    def __init__(self):
        """Starts nothing yet."""
        super().__init__()
        self._lock, self._is_closed = threading.Lock(), False
        self._process = self._channel = None

    def create_executor(self, cardinalities):
        """Returns the executor for a number of clients; waits for a worker where it starts one.

        Raises:
            RuntimeError: if the executors were closed, or no worker comes.
        """
        for _ in range(_TRIES):
            if self._process is not None and self._process.poll() is None:
                return super().create_executor(cardinalities)
            self._start()
            while not self._channel.greeting.done() and self._process.poll() is None:
                time.sleep(0.02)
        raise RuntimeError(
            f"TFF's worker, {WORKER_PROGRAM}, ends as soon as it starts; make doctor may say why."
        )

    def _start(self) -> None:
        """Starts a worker; what stood for values in another one is forgotten."""
        with self._lock:
            if self._is_closed:
                raise RuntimeError("This computation was interrupted.")
            if self._channel is not None:
                self._channel.close()
            self.let_go()
            port = portpicker.pick_unused_port()
            self._process = launch(port, is_quiet=False)
            self._channel = _Channel(f"localhost:{port}")
            self.use(self._channel)

    def close(self) -> None:
        """Ends the worker, and whatever waits for it, for good."""
        with self._lock:
            self._is_closed = True
            if self._process is not None:
                self._channel.close()
                self._process.kill()
                self._process.wait()
