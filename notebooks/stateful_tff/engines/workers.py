"""Rounds shared out over many workers, any of which may fail at any moment.

Work is idempotent: the part of a lost worker is simply computed again by another one.
Knows nothing of methods, models and stores.
"""

import functools
import itertools
import operator
import os
import time
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent import futures

import tensorflow_federated as tff

from .. import runtime
from ..checks import client_ids, shown, whole_number, yes_or_no
from .channel import Limits, WorkerLost
from .in_process import GraphFunction, flatten, number_of_parts, unflatten
from .packing import cut
from .round import FederatedProcess, RoundFunctions
from .worker import Worker

TRIES = 3  # work that loses every worker it is given to is itself at fault


class WorkersLost(RuntimeError):
    """No worker is left for a piece of work. Nothing of its round was kept."""


def _detour(worker: Worker) -> str:
    """Returns which variable may lead the way to a worker elsewhere astray, or nothing."""
    name = None if worker.process else runtime.proxy_variable()
    host = worker.address.rpartition(":")[0]
    way = f"; {name} leads gRPC through a proxy, so put {host} into no_grpc_proxy"
    return way if name else ""


class Workers:
    """Several workers that share work; a context manager that ends those it started.

    Args:
        workers: made by `start_workers` or `connect_workers`.
        ready_within: seconds to wait for a worker when none is there.

    Attributes:
        faults: a sentence for each time that a worker was lost.
    """

    def __init__(self, workers: Sequence[Worker], ready_within: float):
        """Waits until all workers answer.

        Raises:
            WorkersLost: if one does not; all that were started are ended.
        """
        self.workers, self.ready_within, self.faults = list(workers), ready_within, []
        end = time.monotonic() + ready_within
        while not all([worker.is_ready for worker in self.workers]):
            if time.monotonic() > end:
                late = next(worker for worker in self.workers if not worker.is_ready)
                self.close()
                raise WorkersLost(
                    f"{late.name} at {late.address} did not answer within {ready_within:g} s; "
                    f"see that it runs there, and that its port can be reached{_detour(late)}."
                )
            time.sleep(0.05)

    def __len__(self) -> int:
        """How many workers there are, lost ones included."""
        return len(self.workers)

    def __enter__(self):
        """Returns itself."""
        return self

    def __exit__(self, *_):
        """Ends what was started here, also after an error."""
        self.close()

    def close(self) -> None:
        """Cuts all channels and ends the processes that were started here."""
        if runtime.is_forked():
            return  # they are the parent's
        for worker in self.workers:
            worker.close()

    def run(self, calls: Sequence[tuple]) -> list:
        """Runs computations side by side; one whose worker is lost goes to the next free one.

        Args:
            calls: for each, a computation and its arguments. A computation must be idempotent.

        Returns:
            The results in the order of the calls.

        Raises:
            RuntimeError: if the workers were closed.
            WorkersLost: if a call has lost its worker three times, or none comes back in time.
        """
        runtime.check_process()
        if any(worker.is_closed for worker in self.workers):
            raise RuntimeError("The workers were closed; start new ones, or connect to them.")
        results, waiting, faults = {}, deque(range(len(calls))), [[] for _ in calls]
        running, last = {}, time.monotonic()
        try:
            while len(results) < len(calls):
                busy = [worker for _, worker in running.values()]
                free = [w for w in self.workers if w not in busy and w.is_ready]
                for worker in free[: len(waiting)]:
                    number = waiting.popleft()
                    running[worker.submit(*calls[number])] = number, worker
                if not running:
                    time.sleep(0.05)
                for done in futures.wait(running, 0.1, futures.FIRST_COMPLETED).done:
                    number, worker = running.pop(done)
                    last = time.monotonic()
                    try:
                        results[number] = done.result()
                    except WorkerLost as fault:
                        self.faults.append(str(fault))
                        faults[number].append(str(fault))
                        waiting.appendleft(number)
                        worker.connect()
                late = not running and time.monotonic() > last + self.ready_within
                for number in waiting:
                    if late or len(faults[number]) == TRIES:
                        raise WorkersLost(self._explain(number, len(calls), faults))
        except BaseException:  # an interrupt from the keyboard, too
            for _, worker in running.values():
                worker.channel.cut()  # nobody waits for the rest
            futures.wait(running)
            raise
        return [results[number] for number in range(len(calls))]

    def _explain(self, number: int, count: int, faults: list[list[str]]) -> str:
        """Returns in one sentence who was lost."""
        lost = list(dict.fromkeys(fault for part in faults for fault in part))
        for name in (f"{w.name} at {w.address}" for w in self.workers if not w.is_ready):
            if not any(fault.startswith(name) for fault in lost):
                lost.append(f"{name} does not answer")
        return (
            f"Part {number + 1} of {count} of the round was not finished ({'; '.join(lost)}); "
            "nothing of the round was kept."
        )


def start_workers(
    count: int,
    *,
    pin: bool = False,
    answer_within: float = 5.0,
    finish_within: float = 600.0,
    ready_within: float = 30.0,
) -> Workers:
    """Starts workers on this machine.

    Args:
        count: how many.
        pin: keep each to one core, in turn (Linux only).
        answer_within: seconds in which a worker at work has to answer a heartbeat.
        finish_within: seconds that one call may take even if the worker answers.
        ready_within: seconds to wait for workers to come.

    Returns:
        The `Workers`, for a `with` statement; its end ends them.

    Raises:
        TypeError, ValueError: if an argument makes no sense.
        WorkersLost: if a worker does not come.
    """
    if whole_number("count", count, most=1000) < 1:
        raise ValueError(f"{count} workers cannot share any work; start at least one.")
    limits, cores = Limits(answer_within, finish_within, ready_within), [None]
    if yes_or_no("pin", pin) and not hasattr(os, "sched_getaffinity"):
        raise ValueError("Only Linux keeps a process to one core; leave pin out.")
    if pin:
        cores = sorted(os.sched_getaffinity(0))
    core_of = itertools.cycle(cores)
    workers = [Worker(f"worker {i + 1}", limits, core=next(core_of)) for i in range(count)]
    return Workers(workers, limits.ready_within)


def connect_workers(
    addresses: Iterable[str],
    *,
    answer_within: float = 5.0,
    finish_within: float = 600.0,
    ready_within: float = 30.0,
) -> Workers:
    """Connects to workers that run elsewhere, started there as `worker_binary --port=…`.

    Args:
        addresses: "host:port" of each.
        answer_within: see `start_workers`, as for the others.

    Returns:
        The `Workers`; their end leaves the workers running.

    Raises:
        TypeError, ValueError: if an argument makes no sense.
        WorkersLost: if a worker does not answer.
    """
    is_list = isinstance(addresses, Iterable) and getattr(addresses, "ndim", 1)
    addresses = list(addresses) if is_list and not isinstance(addresses, str) else [addresses]
    parts = [str(address).rpartition(":") for address in addresses]
    if not parts or not all(host and port.isdecimal() for host, _, port in parts):
        raise ValueError(
            f'{shown(addresses)} does not say where workers are; give "host:port" for each.'
        )
    limits = Limits(answer_within, finish_within, ready_within)
    workers = [Worker(f"worker {i + 1}", limits, address=a) for i, a in enumerate(addresses)]
    return Workers(workers, limits.ready_within)


def work_of_a_part(functions: RoundFunctions) -> tff.Computation:
    """Places the client work of one part of a round: its clients' sums and their new states.

    Args:
        functions: the `RoundFunctions` of the round.

    Returns:
        `(message, data, client_states) -> (sums, client_states)`.
    """
    data_type, client_state_type, message_type = functions.client_work.type_signature.parameter

    @tff.federated_computation(
        tff.FederatedType(message_type, tff.SERVER),
        tff.FederatedType(data_type, tff.CLIENTS),
        tff.FederatedType(client_state_type, tff.CLIENTS),
    )
    def work(message, data, client_states):
        sums, client_states = tff.federated_map(
            functions.client_work, (data, client_states, tff.federated_broadcast(message))
        )
        return tff.federated_sum(sums), client_states

    return work


class OverWorkers:
    """A process whose rounds run on several workers; in a round each client works once.

    The driver computes the message, adds up the parts' sums and finishes the round: that takes
    milliseconds, and the server's state would travel to a worker and back for it. Sums are added
    in the order of the parts, so the result does not depend on who did what.

    Args:
        process: made by an engine of this package.
        workers: where to run it.
        parts: into how many parts to cut each round; left out, one for each worker. The result
            depends on it in the last digits.
    """

    def __init__(self, process: FederatedProcess, workers: Workers, parts: int | None = None):
        """Compiles the work of a part."""
        if not isinstance(process, FederatedProcess):
            raise TypeError(
                "OverWorkers takes a FederatedProcess, as the build functions of the engines "
                f"return it, not {type(process).__name__}."
            )
        functions, self._workers = process.functions, workers
        self.client_state_fn, self._inputs = process.client_state_fn, process.inputs
        self._parts = len(workers) if parts is None else whole_number("parts", parts, 1)
        self.initialize, self._message, self._finish = map(
            GraphFunction, (functions.initialize, functions.message, functions.finish)
        )
        self.work = work_of_a_part(functions)
        runtime.compiled(self.work)  # once here, and not in the thread of each worker
        signature = functions.client_work.type_signature
        self._sums_type = signature.result[0]
        self._is_stacked = len(signature.parameter[1].index.shape) == 1

    def inputs(self, clients, cohort, round_num: int) -> tuple[list, list]:
        """Returns the data of a round and the ids that belong to it; see `FederatedProcess`.

        Where one computation takes many clients, the cohort is cut into as many pieces as the
        round has parts, of about equally many examples.
        """
        if not self._is_stacked or not len(cohort):
            return self._inputs(clients, cohort, round_num)
        cohort = client_ids(cohort, clients.num_clients)
        pieces = [
            self._inputs(clients, piece, round_num)
            for piece in cut(cohort, clients.counts, self._parts)
        ]
        data, ids = zip(*pieces, strict=True)
        return sum(data, []), sum(ids, [])

    def next(self, server_state, data: Sequence, client_states: Sequence) -> tuple:
        """Runs one round: all of it, or nothing.

        Args:
            server_state: the state at the start of the round.
            data: a list, as `inputs` makes it.
            client_states: the states that belong to it, in the same order.

        Returns:
            The new server state, the metrics, and the new client states, in the order asked.

        Raises:
            ValueError: if data and states differ in number, or there are none.
            WorkersLost: if the round could not be finished; it can be tried again.
        """
        length = number_of_parts(data, client_states)
        count, message = min(self._parts, length), self._message(server_state)
        cuts = [number * length // count for number in range(count + 1)]
        slices = [slice(*ends) for ends in itertools.pairwise(cuts)]
        calls = [(self.work, message, data[part], client_states[part]) for part in slices]
        sums, states = zip(*self._workers.run(calls), strict=True)
        flat = zip(*map(flatten, sums), strict=True)
        total = unflatten(self._sums_type, (functools.reduce(operator.add, one) for one in flat))
        server_state, metrics = self._finish(server_state, total)
        return server_state, metrics, [state for part in states for state in part]
