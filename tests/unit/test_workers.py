"""Rounds over several workers equal local rounds, whatever happens to a worker."""

import asyncio
import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import attrs
import grpc
import numpy as np
import portpicker
import psutil
import pytest
import tensorflow as tf
from worker_rounds import (
    CLIENTS,
    LOCAL,
    LONG,
    NUM_CLIENTS,
    OPTIMIZERS,
    PACKED,
    PER_CLIENT,
    QUICK,
    SPEC,
    difference,
    ready_again,
    round_of,
    train,
    when_at_work,
)

from stateful_tff import session
from stateful_tff.engines.in_process import InThisProcess
from stateful_tff.engines.per_client import build_process
from stateful_tff.engines.vectorized import build_vectorized_process
from stateful_tff.engines.worker import WORKER_PROGRAM
from stateful_tff.engines.workers import OverWorkers, WorkersLost, connect_workers, start_workers
from stateful_tff.methods import client_update, fed_recon, stateful
from stateful_tff.models import ModelFn, functional_matrix_factorization
from stateful_tff.stores import MemoryStore, SqlStore


@pytest.fixture(scope="module")
def pair():
    PER_CLIENT.initialize()
    before = session.workers()  # of TFF's own runtime, which stays
    with start_workers(2, **QUICK) as two:
        yield two
    assert set(session.workers()) <= set(before)


@pytest.fixture(scope="module")
def process(pair):
    return OverWorkers(PER_CLIENT, pair)


@pytest.fixture(scope="module")
def undisturbed(process):
    """The result of a long round of the two workers."""
    start = process.initialize()
    return start, round_of(process, start, epochs=LONG)


# The same numbers.


def trained_alike(process, other, cohort_size=12):
    """Two processes train the same."""
    one, two = (train(p, MemoryStore(p, NUM_CLIENTS), 3, cohort_size) for p in (process, other))
    assert difference(one.server_state, two.server_state) < 1e-6
    if one.local_weights():
        assert difference(one.local_weights(), two.local_weights()) < 1e-6
    assert np.array_equal(one.last_round, two.last_round)
    assert np.allclose(one.history["loss"], two.history["loss"], atol=1e-5)


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_per_client_process_equals_the_local_one(pair, parts):
    trained_alike(LOCAL, OverWorkers(PER_CLIENT, pair, parts), 7)


def test_a_method_of_several_passes_equals_the_local_one(pair):
    process = build_process(fed_recon(2), ModelFn(SPEC), OPTIMIZERS)
    trained_alike(InThisProcess(process), OverWorkers(process, pair))


@pytest.mark.parametrize("parts", [None, 3])
def test_the_packed_process_equals_the_local_one(pair, parts):
    trained_alike(InThisProcess(PACKED), OverWorkers(PACKED, pair, parts))


def test_the_vectorized_process_equals_the_local_one(pair):
    model = functional_matrix_factorization(SPEC)
    process = build_vectorized_process(stateful, model, OPTIMIZERS)
    trained_alike(InThisProcess(process), OverWorkers(process, pair))


def test_there_is_work_for_every_part_where_one_computation_takes_many_clients(pair):
    process = OverWorkers(PACKED, pair, parts=4)
    data, ids = process.inputs(CLIENTS, range(20), 0)
    assert len(data) == len(ids) == 4
    assert sorted(np.concatenate(ids)) == list(range(20))
    with pytest.raises(ValueError, match="at least one"):
        process.inputs(CLIENTS, [], 0)
    with pytest.raises(ValueError, match="named twice"):
        process.inputs(CLIENTS, [1, 1], 0)


def test_states_come_back_in_the_order_asked(process):
    for cohort in ([4, 9, 1, 22, 7], [3]):
        _, _, returned = round_of(process, process.initialize(), cohort)
        assert [int(state.index) for state in returned] == cohort


def test_parts_decide_the_result_to_the_last_bit_and_workers_do_not(pair):
    two = OverWorkers(PER_CLIENT, pair, parts=3)
    with start_workers(1) as one:
        alone = OverWorkers(PER_CLIENT, one, parts=3)
        start = alone.initialize()
        assert difference(round_of(two, start)[::2], round_of(alone, start)[::2]) == 0


def test_a_client_works_once_in_a_round(pair, tmp_path):
    """TFF's own cut of a round, its mergeable form, lets every client train twice."""
    visits = tmp_path / "visits.txt"

    def noted_update(trainer, data, client_state, message):
        tf.print(client_state.index, output_stream=f"file://{visits}")
        return client_update(trainer, data, client_state, message)

    method = attrs.evolve(stateful, client_update=noted_update)
    process = OverWorkers(build_process(method, ModelFn(SPEC), OPTIMIZERS), pair)
    start = process.initialize()
    assert not visits.exists()
    round_of(process, start)
    assert sorted(map(int, visits.read_text().split())) == list(range(NUM_CLIENTS))


def test_it_runs_inside_an_event_loop(process):
    async def inside():
        return round_of(process, process.initialize(), 4)

    assert len(asyncio.run(inside())[2]) == 4


# Failures.


def finishes_despite(pair, process, undisturbed, within, *named):
    """The round gives the same bits, in time, and says which worker was lost."""
    start, expected = undisturbed
    before, since = len(pair.faults), time.monotonic()
    result = round_of(process, start, epochs=LONG)
    assert time.monotonic() - since < within
    assert difference(result, expected) == 0
    faults = pair.faults[before:]
    assert len(faults) == len(named)
    assert all(any(name in fault for fault in faults) for name in named)


def test_a_worker_killed_before_a_round(pair, process, undisturbed):
    pair.workers[0].process.kill()
    finishes_despite(pair, process, undisturbed, 40, "worker 1 at localhost")


def test_a_worker_killed_during_a_round(pair, process, undisturbed):
    lost = pair.workers[1]
    when_at_work(lost, lambda: lost.process.kill())
    finishes_despite(pair, process, undisturbed, 40, "worker 2 at localhost")


def test_a_worker_killed_after_a_round_and_back_for_the_next(pair, process, undisturbed):
    round_of(process, undisturbed[0], 2)
    pair.workers[0].process.kill()
    finishes_despite(pair, process, undisturbed, 40, "worker 1 at localhost")
    ready_again(pair)
    pair.workers[0].traffic.clear()
    finishes_despite(pair, process, undisturbed, 40)
    assert pair.workers[0].traffic


def test_both_workers_killed_between_rounds_are_started_again(pair, process, undisturbed):
    before = threading.active_count()
    for worker in pair.workers:
        worker.process.kill()
    finishes_despite(pair, process, undisturbed, 60, "worker 1", "worker 2")
    assert threading.active_count() <= before + 1  # a context of TFF's own would leave one each


def test_a_worker_that_hangs_is_given_up_and_ended(pair, process, undisturbed):
    ready_again(pair)
    hung = pair.workers[1]
    old = hung.process
    when_at_work(hung, lambda: old.send_signal(signal.SIGSTOP))
    finishes_despite(pair, process, undisturbed, 45, "has not answered for 3 s")
    assert old.poll() == -signal.SIGKILL


def test_a_fault_of_the_computation_is_no_fault_of_a_worker(pair):
    process, store = OverWorkers(PACKED, pair), MemoryStore(PACKED, NUM_CLIENTS)
    data, ids = process.inputs(CLIENTS, range(20), 0)
    before = len(pair.faults)
    with pytest.raises(grpc.RpcError, match="not in the order of the shard"):
        process.next(store.server_state, data, [store[some[::-1]] for some in ids])
    assert len(pair.faults) == before


@pytest.fixture
def interruptible():
    """Interrupts arrive, also where the tests run in the background of a shell."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_from_the_keyboard_ends_a_round_at_once(pair, process, undisturbed):
    ready_again(pair)
    interrupted = []

    def interrupt():
        interrupted.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    when_at_work(pair.workers[0], interrupt)
    pair.workers[1].process.send_signal(signal.SIGSTOP)
    with pytest.raises(KeyboardInterrupt):
        round_of(process, undisturbed[0], epochs=100)
    assert time.monotonic() - interrupted[0] < 5
    finishes_despite(pair, process, undisturbed, 40)


def test_arguments_that_make_no_sense_are_refused(pair, process):
    with pytest.raises(ValueError, match="0 parts of data and 0 states"):
        process.next(process.initialize(), [], [])
    with pytest.raises(ValueError, match="cannot share any work"):
        start_workers(0)
    for addresses in ([], ["localhost"], "localhost", [":80"], ["localhost:"], [None]):
        with pytest.raises(ValueError, match='give "host:port" for each'):
            connect_workers(addresses)
    for limit in ("answer_within", "finish_within", "ready_within"):
        for value in (0, -1.0, float("nan"), float("inf")):
            with pytest.raises(ValueError, match=limit):
                start_workers(1, **{limit: value})
        with pytest.raises(TypeError, match=limit):
            connect_workers("localhost:80", **{limit: None})
    with pytest.raises(TypeError, match="count"):
        start_workers(1.5)
    with pytest.raises(ValueError, match="parts must be at least 1"):
        OverWorkers(PER_CLIENT, pair, parts=0)
    with pytest.raises(TypeError, match="takes a FederatedProcess"):
        OverWorkers(LOCAL, pair)


def test_closed_workers_take_no_work_and_leave_nothing_open():
    def open_things():
        me = psutil.Process()
        return me.num_fds(), me.num_threads()

    for number in range(3):
        with start_workers(1) as one:
            process = OverWorkers(PER_CLIENT, one)
            round_of(process, process.initialize(), 2)
        if number == 0:
            before = open_things()  # the first ones open what stays
    assert all(now <= then + 2 for now, then in zip(open_things(), before, strict=True))
    with pytest.raises(RuntimeError, match="were closed; start new ones"):
        process.next(process.initialize(), CLIENTS.for_round([0], 0), [None])


# Workers that run elsewhere.


@pytest.fixture
def elsewhere():
    """Starts workers that are not ours to end."""
    running = []

    def start(port=None):
        port = port or portpicker.pick_unused_port()
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        running.append(subprocess.Popen([WORKER_PROGRAM, f"--port={port}"], **quiet))
        return running[-1], f"localhost:{port}"

    yield start
    for process in running:
        process.kill()
        process.wait()


def test_a_worker_that_returns(elsewhere):
    (first, address), (_, other) = elsewhere(), elsewhere()
    with connect_workers([address, other], **QUICK) as two:
        process = OverWorkers(PER_CLIENT, two)
        start = process.initialize()
        expected = round_of(process, start)
        first.kill()
        assert difference(round_of(process, start), expected) == 0
        assert len(two.faults) == 1 and address in two.faults[0]
        elsewhere(int(address.rpartition(":")[2]))
        ready_again(two)
        two.workers[0].traffic.clear()
        assert difference(round_of(process, start), expected) == 0
        assert two.workers[0].traffic and len(two.faults) == 1


def test_a_worker_restarted_between_rounds_under_the_same_address(elsewhere):
    process, address = elsewhere()
    with connect_workers([address], **QUICK) as one:
        over = OverWorkers(PER_CLIENT, one)
        start = over.initialize()
        expected = round_of(over, start)
        process.kill()
        process.wait()
        elsewhere(int(address.rpartition(":")[2]))
        end = time.monotonic() + 20
        while one.workers[0].channel.heartbeat() and time.monotonic() < end:
            time.sleep(0.1)
        assert difference(round_of(over, start), expected) == 0
        assert len(one.faults) <= 1


class Longer(OverWorkers):
    """Rounds of many epochs."""

    def inputs(self, clients, cohort, round_num):
        """Returns many passes over the data."""
        return clients.for_round(cohort, round_num, LONG), [int(client) for client in cohort]


def test_lost_workers_are_named_and_the_round_keeps_nothing(elsewhere):
    (first, address), (second, other) = elsewhere(), elsewhere()
    with connect_workers([address, other], answer_within=2, ready_within=3) as two:
        process = Longer(PER_CLIENT, two)
        store = train(process, MemoryStore(process, NUM_CLIENTS), 1)
        before = store.copy()
        first.kill()
        when_at_work(two.workers[1], lambda: second.send_signal(signal.SIGSTOP))
        since = time.monotonic()
        with pytest.raises(WorkersLost, match="nothing of the round was kept") as caught:
            train(process, store, 2)
        assert time.monotonic() - since < 25
        assert f"worker 1 at {address} is gone" in str(caught.value)
        assert f"worker 2 at {other} has not answered for 2 s" in str(caught.value)
        everyone = np.arange(NUM_CLIENTS)
        assert difference(store[everyone], before[everyone]) == 0 and store.round_num == 1
        second.send_signal(signal.SIGCONT)
        while not two.workers[1].is_ready:
            time.sleep(0.05)
        assert train(process, store, 2).round_num == 2
    assert second.poll() is None  # not ours to end


def test_an_address_where_nobody_listens_is_named():
    port, since = portpicker.pick_unused_port(), time.monotonic()
    with pytest.raises(WorkersLost, match=f"worker 1 at localhost:{port} did not answer within 1"):
        connect_workers([f"localhost:{port}"], ready_within=1)
    assert time.monotonic() - since < 5


def test_something_that_accepts_and_says_nothing_is_named():
    with socket.create_server(("localhost", 0)) as silent:
        address = f"localhost:{silent.getsockname()[1]}"
        with pytest.raises(WorkersLost, match=f"{address} did not answer within 2 s"):
            connect_workers([address], ready_within=2)


def test_a_call_that_takes_for_ever_is_ended(elsewhere):
    _, address = elsewhere()
    with connect_workers([address], ready_within=10) as one:
        start = OverWorkers(PER_CLIENT, one).initialize()
    with connect_workers([address], finish_within=0.2, ready_within=3) as one:
        with pytest.raises(WorkersLost, match="did not finish one call in 0.2 s"):
            round_of(OverWorkers(PER_CLIENT, one), start, epochs=LONG)
        assert len(one.faults) == 3


# Nothing is left behind.


def gone(pid, within=10):
    end = time.monotonic() + within
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.1)
    return not psutil.pid_exists(pid)


@pytest.mark.parametrize("end", ["pass", "raise SystemExit('on purpose')", "kill"])
def test_no_worker_outlives_the_driver(end):
    """Not closed in any of the three cases: left to the end of Python, however it comes."""
    code = (
        "import os, signal\nfrom stateful_tff.engines.workers import start_workers\n"
        "w = start_workers(2)\nw.workers[0].process.send_signal(signal.SIGSTOP)\n"
        "print(*[x.process.pid for x in w.workers], flush=True)\n"
    )
    code += "os.kill(os.getpid(), signal.SIGKILL)" if end == "kill" else end
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "notebooks")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=180
    )
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2 and all(gone(pid) for pid in pids), done.stderr


def test_an_error_in_the_with_block_ends_the_workers():
    with pytest.raises(ZeroDivisionError):
        with start_workers(1, pin=True) as one:
            process = one.workers[0].process
            if hasattr(os, "sched_getaffinity"):
                assert len(psutil.Process(process.pid).cpu_affinity()) == 1
            raise ZeroDivisionError
    assert process.poll() is not None and len(os.sched_getaffinity(0)) == psutil.cpu_count()


# With the durable store.

RUN = """
import os, signal, sys
from test_workers import Longer
from worker_rounds import NUM_CLIENTS, PER_CLIENT, QUICK, train, when_at_work
from stateful_tff.engines.workers import start_workers
from stateful_tff.stores import SqlStore

path, deadly = sys.argv[1], sys.argv[2] == "deadly"


class Deadly(Longer):
    # In the second round a worker is killed at work, in the fourth the driver itself.
    def next(self, server_state, *inputs):
        done, (first, second) = int(server_state.round_num), workers.workers
        if deadly and done == 1:
            when_at_work(second, second.process.kill)
        if deadly and done == 3:
            when_at_work(first, lambda: os.kill(os.getpid(), signal.SIGKILL))
        return super().next(server_state, *inputs)


with start_workers(2, **QUICK) as workers:
    process = Deadly(PER_CLIENT, workers)
    print("session", os.environ["STATEFUL_TFF_SESSION"], flush=True)
    with SqlStore(path, process, NUM_CLIENTS) as store:
        train(process, store, 5)
    print("lost", len(workers.faults), flush=True)
"""


def none_left_of(mark, within=10):
    """Whether all workers that carry the mark of a session have ended, those started again too."""

    def left():
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == session.WORKER_NAME and mark in str(process.environ()):
                    yield process

    end = time.monotonic() + within
    while any(left()) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(left())


def kept_in(path):
    """The number of rounds, server state, all client states and the history without the clock."""
    with SqlStore(str(path), LOCAL, NUM_CLIENTS) as store:
        history = store.history.drop(columns=["seconds", "preparation"])
        return store.round_num, store.server_state, store[np.arange(NUM_CLIENTS)], history


def test_a_worker_and_then_the_driver_are_killed_and_the_run_ends_in_the_same_bits(tmp_path):
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": f"{tests.parents[1] / 'notebooks'}{os.pathsep}{tests}",
        "STATEFUL_TFF_PROGRESS": "0",
    }

    def run(path, how):
        return subprocess.run(
            [sys.executable, "-c", RUN, str(path), how],
            env=environment, capture_output=True, text=True, timeout=400,
        )  # fmt: skip

    undisturbed = run(tmp_path / "undisturbed.db", "quiet")
    assert "lost 0" in undisturbed.stdout, undisturbed.stderr
    killed = run(tmp_path / "killed.db", "deadly")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert none_left_of(killed.stdout.split()[1])
    assert kept_in(tmp_path / "killed.db")[0] == 3
    resumed = run(tmp_path / "killed.db", "quiet")
    assert "lost 0" in resumed.stdout, resumed.stderr
    (_, *expected, history), (rounds, *result, resumed_history) = (
        kept_in(tmp_path / name) for name in ("undisturbed.db", "killed.db")
    )
    assert rounds == 5 and difference(result, expected) == 0
    assert resumed_history.equals(history)
