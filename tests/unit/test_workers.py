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

import grpc
import numpy as np
import portpicker
import psutil
import pytest
import tensorflow as tf
import tensorflow_federated as tff

from stateful_tff import setup, workers
from stateful_tff.cohort import CohortData, StackedRegistry, build_cohort_process, run_cohorts
from stateful_tff.data import ClientDatasets, synthetic_ratings
from stateful_tff.frame import build_model_fn
from stateful_tff.process import build_client_state_fn, build_stateful_fed_avg
from stateful_tff.simulation import ClientRegistry, run_rounds
from stateful_tff.store import RunStore
from stateful_tff.workers import (
    WORKER_PROGRAM,
    ProcessOverWorkers,
    WorkersLost,
    connect_workers,
    start_workers,
)

sgd = tff.learning.optimizers.build_sgdm
RATINGS = synthetic_ratings(num_users=30, num_items=40, seed=0)
CLIENTS = ClientDatasets(RATINGS, batch_size=5, shuffle_seed=0)
DATA = CohortData(CLIENTS)
MODEL_FN = build_model_fn(RATINGS.num_items, 4, biases=True, mean_rating=3.5, l2=0.05, seed=3)
STATE_FN = build_client_state_fn(MODEL_FN)
ARGUMENTS = MODEL_FN, STATE_FN, sgd(0.7), sgd(0.1), sgd(0.05)
PER_CLIENT, VECTORIZED = build_stateful_fed_avg(*ARGUMENTS), build_cohort_process(*ARGUMENTS)
QUICK = dict(answer_within=3.0, ready_within=30.0)


def difference(one, other):
    """The largest difference of two structures of arrays."""
    pairs = zip(tf.nest.flatten(one), tf.nest.flatten(other), strict=True)
    return max(float(np.max(np.abs(np.asarray(a, float) - np.asarray(b)))) for a, b in pairs)


def round_of(process, server_state, num_clients=30, epochs=1):
    """One per-client round from the first states, cut short to what it returns."""
    cohort = range(num_clients)
    states = ClientRegistry(STATE_FN, 30).states(cohort)
    return process.next(server_state, CLIENTS.for_round(cohort, 0, epochs), states)


@pytest.fixture(scope="module")
def pair():
    with start_workers(2, **QUICK) as two:
        yield two
    assert len(setup.workers()) <= 1  # TFF's own, of the local runs; however many were started


@pytest.fixture(scope="module")
def process(pair):
    return ProcessOverWorkers(PER_CLIENT, pair)


@pytest.fixture(scope="module")
def undisturbed(process):
    """The result of a long round of the two workers."""
    start = process.initialize()
    return start, round_of(process, start, epochs=25)


# The same numbers.


@pytest.mark.parametrize("parts", [1, 2, 5])
def test_the_per_client_process_equals_the_local_one(pair, parts):
    runs = []
    for process in (PER_CLIENT, ProcessOverWorkers(PER_CLIENT, pair, parts)):
        registry = ClientRegistry(STATE_FN, 30)
        state, history = run_rounds(process, registry, CLIENTS, 3, 7)
        runs.append((state, registry.local_weights(), registry.visited, history["loss"]))
    (state, local, visited, loss), (state2, local2, visited2, loss2) = runs
    assert difference(state, state2) < 1e-6 and difference(local, local2) < 1e-6
    assert visited == visited2 and np.allclose(loss, loss2, atol=1e-5)


def test_the_vectorized_process_equals_the_local_one(pair):
    runs = []
    for process in (VECTORIZED, ProcessOverWorkers(VECTORIZED, pair)):
        registry = StackedRegistry(STATE_FN, 30)
        state, _ = run_cohorts(process, registry, DATA, 3, 11, num_shards=2)
        runs.append((state, registry.local_weights(), registry.visited))
    assert difference(runs[0][0], runs[1][0]) < 1e-6
    assert difference(runs[0][1], runs[1][1]) < 1e-6
    assert runs[0][2] == runs[1][2]


def test_states_come_back_in_the_order_asked(process):
    for cohort in ([4, 9, 1, 22, 7], [3]):
        states = ClientRegistry(STATE_FN, 30).states(cohort)
        _, _, returned = process.next(process.initialize(), CLIENTS.for_round(cohort, 0, 1), states)
        assert [int(state.index) for state in returned] == cohort


def test_parts_decide_the_result_to_the_last_bit_and_workers_do_not(pair):
    two = ProcessOverWorkers(PER_CLIENT, pair, parts=3)
    with start_workers(1) as one:
        alone = ProcessOverWorkers(PER_CLIENT, one, parts=3)
        start = alone.initialize()
        assert difference(round_of(two, start)[::2], round_of(alone, start)[::2]) == 0


def test_a_client_works_once_in_a_round():
    """Asked for sums and states, TFF's compiler lets every client train twice."""
    work, _ = workers._halves(PER_CLIENT.next, 2)

    def maps(computation):
        protos = [
            v.proto.SerializeToString() for _, v in computation.to_building_block().result.locals
        ]
        return len(protos), len(set(protos))

    twice = tff.backends.native.desugar_and_transform_to_native(work)
    (plain, _), (shared, distinct) = maps(twice), maps(workers._compiled(work))
    assert shared == distinct < plain

    def training(computation):
        """How many calls hand a dataset to a client."""
        calls = [v for _, v in computation.to_building_block().result.locals]
        return sum(
            "federated_map" in str(v)
            and "weights_delta" in str(v.type_signature)
            and "client_state" in str(v.type_signature)
            for v in calls
        )

    assert training(twice) == 2 and training(workers._compiled(work)) == 1


def test_it_runs_inside_an_event_loop(process):
    async def inside():
        return round_of(process, process.initialize(), 4)

    assert len(asyncio.run(inside())[2]) == 4


# Failures.


def when_at_work(worker, action):
    """Acts once the worker has been sent all it needs for its part, and is at work."""
    worker.traffic.clear()

    def watch():
        while sum(name == "CreateValue" for name, *_ in list(worker.traffic)) < 4:
            time.sleep(0.005)
        time.sleep(0.05)
        action()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()


def finishes_despite(pair, process, undisturbed, within, *named):
    """The round gives the same bits, in time, and says which worker was lost."""
    start, expected = undisturbed
    before, since = len(pair.faults), time.monotonic()
    result = round_of(process, start, epochs=25)
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


def test_both_workers_killed_between_rounds_are_started_anew(pair, process, undisturbed):

    def event_loops():
        """A context of TFF has a thread that never ends, so a loss must not need a new one."""
        return sum("target_fn" in thread.name for thread in threading.enumerate())

    before = event_loops()
    for worker in pair.workers:
        worker.process.kill()
    finishes_despite(pair, process, undisturbed, 60, "worker 1", "worker 2")
    assert event_loops() == before > 0


def test_a_worker_that_hangs_is_given_up_and_ended(pair, process, undisturbed):
    ready_again(pair)
    hung = pair.workers[1]
    old = hung.process
    when_at_work(hung, lambda: old.send_signal(signal.SIGSTOP))
    finishes_despite(pair, process, undisturbed, 45, "has not answered for 3 s")
    assert old.poll() == -signal.SIGKILL


def ready_again(pair, within=20):
    end = time.monotonic() + within
    while not all([worker.is_ready for worker in pair.workers]) and time.monotonic() < end:
        time.sleep(0.05)


def test_a_fault_of_the_computation_is_no_fault_of_a_worker(pair):
    process, registry = ProcessOverWorkers(VECTORIZED, pair), StackedRegistry(STATE_FN, 30)
    shards, before = DATA.shards(range(20), 0, num_shards=2), len(pair.faults)
    states = [registry.stacked(shard.index[::-1]) for shard in shards]
    with pytest.raises(grpc.RpcError, match="not in the order of the shard"):
        process.next(process.initialize(), shards, states)
    assert len(pair.faults) == before


def test_an_interrupt_from_the_keyboard_ends_a_round_at_once(pair, process, undisturbed):
    ready_again(pair)
    when_at_work(pair.workers[0], lambda: os.kill(os.getpid(), signal.SIGINT))
    pair.workers[1].process.send_signal(signal.SIGSTOP)
    since = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        round_of(process, undisturbed[0], epochs=100)
    assert time.monotonic() - since < 10
    finishes_despite(pair, process, undisturbed, 40)


def test_arguments_that_make_no_sense_are_refused(process):
    with pytest.raises(ValueError, match="0 datasets and 0 states"):
        process.next(process.initialize(), [], [])
    with pytest.raises(ValueError, match="cannot share any work"):
        start_workers(0)
    for addresses in ([], ["localhost"], "localhost"):
        with pytest.raises(ValueError, match='give "host:port" for each'):
            connect_workers(addresses)


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
        process = ProcessOverWorkers(PER_CLIENT, two)
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


def test_a_worker_started_anew_between_rounds_under_the_same_address(elsewhere):
    process, address = elsewhere()
    with connect_workers([address], **QUICK) as one:
        over = ProcessOverWorkers(PER_CLIENT, one)
        start = over.initialize()
        expected = round_of(over, start)
        process.kill()
        process.wait()
        elsewhere(int(address.rpartition(":")[2]))
        end = time.monotonic() + 20
        while one.workers[0]._line.fault() and time.monotonic() < end:
            time.sleep(0.1)
        assert difference(round_of(over, start), expected) == 0
        assert len(one.faults) <= 1


def test_lost_workers_are_named_and_the_round_keeps_nothing(elsewhere):
    (first, address), (second, other) = elsewhere(), elsewhere()
    with connect_workers([address, other], answer_within=2, ready_within=3) as two:
        process, registry = ProcessOverWorkers(PER_CLIENT, two), ClientRegistry(STATE_FN, 30)
        state, _ = run_rounds(process, registry, CLIENTS, 1, 10)
        kept = registry.local_weights()
        first.kill()
        when_at_work(two.workers[1], lambda: second.send_signal(signal.SIGSTOP))
        since = time.monotonic()
        with pytest.raises(WorkersLost, match="nothing of the round was kept") as caught:
            run_rounds(process, registry, CLIENTS, 1, 30, server_state=state, epochs=25)
        assert time.monotonic() - since < 25
        assert f"worker 1 at {address} is gone" in str(caught.value)
        assert f"worker 2 at {other} has not answered for 2 s" in str(caught.value)
        assert difference(registry.local_weights(), kept) == 0
        second.send_signal(signal.SIGCONT)
        ready_again(two, 3)
        after, _ = run_rounds(process, registry, CLIENTS, 1, 10, server_state=state)
        assert after.round_num == 2
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
        start = ProcessOverWorkers(PER_CLIENT, one).initialize()
    with connect_workers([address], finish_within=0.2, ready_within=3) as one:
        with pytest.raises(WorkersLost, match="did not finish one call in 0.2 s"):
            round_of(ProcessOverWorkers(PER_CLIENT, one), start, epochs=25)
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
        "import os, signal\nfrom stateful_tff.workers import start_workers\n"
        "w = start_workers(2)\nw.workers[0].process.send_signal(signal.SIGSTOP)\n"
        "print(*[x.process.pid for x in w.workers], flush=True)\n"
    )
    code += "os.kill(os.getpid(), signal.SIGKILL)" if end == "kill" else end
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2] / "notebooks")}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60
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
from test_workers import CLIENTS, PER_CLIENT, QUICK, STATE_FN, when_at_work
from stateful_tff.simulation import run_rounds
from stateful_tff.store import RunStore, resume
from stateful_tff.workers import ProcessOverWorkers, start_workers

path, deadly = sys.argv[1], sys.argv[2] == "deadly"


class Deadly(ProcessOverWorkers):
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
    with RunStore(path, process, STATE_FN, 30) as store:
        resume(run_rounds, process, store, CLIENTS, 5, 12, epochs=15)
    print("lost", len(workers.faults), flush=True)
"""


def none_left_of(session, within=10):
    """Whether all workers that carry the mark of a session have ended, those started anew too."""

    def left():
        for process in psutil.process_iter(["name"]):
            with contextlib.suppress(psutil.Error):
                if process.info["name"] == setup.WORKER_NAME and session in str(process.environ()):
                    yield process

    end = time.monotonic() + within
    while any(left()) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(left())


def kept_in(path):
    """The server state, all client states and the history, without the clock."""
    with RunStore(str(path), PER_CLIENT, STATE_FN, 30) as store:
        history = store.history().drop(columns=["seconds", "preparation"])
        return store.round_num, store.server_state(), store.local_weights(), history


def test_a_worker_and_then_the_driver_are_killed_and_the_run_ends_in_the_same_bits(tmp_path):
    tests = Path(__file__).parent
    environment = os.environ | {
        "PYTHONPATH": f"{tests.parent / 'notebooks'}{os.pathsep}{tests}",
        "STATEFUL_TFF_PROGRESS": "0",
    }

    def run(path, how):
        return subprocess.run(
            [sys.executable, "-c", RUN, str(path), how],
            env=environment, capture_output=True, text=True, timeout=180,
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
