"""The way to one worker: a gRPC channel on which no call waits for ever.

Knows nothing of what is computed, of other workers, of rounds or of stores.
"""

import time
from collections import deque
from typing import NamedTuple

import attrs
import grpc
import tensorflow_federated as tff
from tensorflow_federated.proto.v0 import computation_pb2, executor_pb2, executor_pb2_grpc

from .. import runtime
from ..checks import positive_number

HEARTBEAT_SECONDS = 1.0  # between two heartbeats while a call runs


class WorkerLost(grpc.RpcError):
    """One worker gave no answer. The message says which, and why it counts as lost."""


def _limit(limits, attribute, value) -> None:
    positive_number(attribute.name, value)


@attrs.frozen
class Limits:
    """How long to wait for workers, in seconds.

    Attributes:
        answer_within: a worker at work has to answer a heartbeat in this time.
        finish_within: one call may take this long even if the worker answers heartbeats.
        ready_within: how long to wait for a worker when none is there.
    """

    answer_within: float = attrs.field(default=5.0, validator=_limit)
    finish_within: float = attrs.field(default=600.0, validator=_limit)
    ready_within: float = attrs.field(default=30.0, validator=_limit)


class Call(NamedTuple):
    """What one call cost: `start` in seconds of `time.perf_counter`; sizes in bytes."""

    kind: str
    start: float
    seconds: float
    sent: int
    received: int


_GONE = "is gone, or the way to it is cut"
_SILENT = "has not answered for {answer_within:g} s"
_FAULTS = {
    grpc.StatusCode.UNAVAILABLE: _GONE,
    grpc.StatusCode.CANCELLED: _GONE,
    grpc.StatusCode.DEADLINE_EXCEEDED: "did not finish one call in {finish_within:g} s",
    grpc.StatusCode.FAILED_PRECONDITION: "was restarted and has forgotten what it was sent",
}
_OPTIONS = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.max_send_message_length", -1),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.use_local_subchannel_pool", 1),  # a new channel does not share an old one's trouble
]
_NO_CLIENTS = executor_pb2.Cardinality(placement=computation_pb2.Placement(uri=tff.CLIENTS.uri))
_NOTHING = executor_pb2.DisposeRequest(executor=executor_pb2.ExecutorId(id="nobody"))


class Channel:
    """The gRPC channel to one worker. TFF's stub makes its calls through it, and each one ends.

    A call has a deadline, and heartbeats run beside it. They show that the worker's process
    answers, not that its computation gets on: one that is stuck counts as alive until the
    deadline.

    Args:
        name: of the worker, for messages.
        address: "host:port".
        limits: how long to wait.
        traffic: where to note each `Call`.

    Attributes:
        greeting: the future of a first call, which waits in the background for the worker.
        is_cut: whether the channel was closed.
        calling: the kind of the call that runs now, or `None`.
    """

    def __init__(self, name: str, address: str, limits: Limits, traffic: deque):
        """Opens the channel and says hello without waiting for an answer."""
        runtime.check_process()
        runtime.note_use()
        self._name, self._limits, self._traffic = f"{name} at {address}", limits, traffic
        self._channel = grpc.insecure_channel(address, _OPTIONS)
        self._stub = executor_pb2_grpc.ExecutorGroupStub(self._channel)
        hello = executor_pb2.GetExecutorRequest(cardinalities=[_NO_CLIENTS])
        self.greeting = self._stub.GetExecutor.future(hello, wait_for_ready=True)
        self.is_cut, self.calling = False, None

    def subscribe(self, callback, try_to_connect: bool = False) -> None:
        """Takes no watchers: gRPC's watching thread fails loudly when a channel is closed."""

    def cut(self) -> None:
        """Closes the channel and ends every call on it."""
        self.is_cut = True
        self._channel.close()

    def explain(self, fault: str) -> str:
        """Returns a fault in words, with the worker's name and address."""
        return f"{self._name} {fault.format(**attrs.asdict(self._limits))}"

    def heartbeat(self) -> str | None:
        """Makes a call that costs nothing; returns what is wrong if no answer comes."""
        try:
            self._stub.Dispose(_NOTHING, timeout=self._limits.answer_within)
        except grpc.RpcError as error:
            late = error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            return self.explain(_SILENT if late else _GONE)
        return None

    def wait(self, call: grpc.Future):
        """Waits for a call, with a heartbeat every second.

        Raises:
            WorkerLost: if no answer comes.
            grpc.RpcError: if the worker lives and says what is wrong with the computation.
        """
        while True:
            try:
                return call.result(timeout=HEARTBEAT_SECONDS)
            except grpc.FutureTimeoutError:
                fault = self.heartbeat()
                if fault and not call.done():
                    call.cancel()
                    raise WorkerLost(fault) from None
            except grpc.FutureCancelledError:
                raise WorkerLost(self.explain(_GONE)) from None
            except grpc.RpcError as error:
                if error.code() not in _FAULTS:
                    raise
                raise WorkerLost(self.explain(_FAULTS[error.code()])) from None

    def unary_unary(self, method: str, *args, **kwargs):
        """Returns the function that makes calls of one kind; TFF's stub asks for it."""
        send, kind = self._channel.unary_unary(method, *args, **kwargs), method.rpartition("/")[2]

        def call(request):
            if self.is_cut:
                raise WorkerLost(self.explain(_GONE))
            start = time.perf_counter()
            running = send.future(request, timeout=self._limits.finish_within)
            if kind == "Dispose":  # a value that nobody needs any more; no reason to wait
                return executor_pb2.DisposeResponse()
            self.calling = kind
            try:
                answer = self.wait(running)
            except WorkerLost:
                self.cut()
                raise
            finally:
                self.calling = None
            seconds, sizes = time.perf_counter() - start, (request.ByteSize(), answer.ByteSize())
            self._traffic.append(Call(kind, start, seconds, *sizes))
            return answer

        return call
