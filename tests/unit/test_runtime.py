"""TFF computes behind a proxy, in threads and beside shell commands; a fork gets a sentence."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from stateful_tff import runtime

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
PROXIES = {"http_proxy", "https_proxy", "grpc_proxy", "no_proxy", "NO_PROXY", "no_grpc_proxy"}
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in PROXIES | {"HTTP_PROXY"}}
MEAN = """
import os, sys, time
import importlib.util
import stateful_tff
assert importlib.util.find_spec("tensorflow_federated")  # to look is not to import
from stateful_tff import session
import numpy as np
import tensorflow_federated as tff

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def mean(values):
    return tff.federated_mean(values)

def work(x):
    return float(mean([x, x + 2.0]))
"""


def python(code, apart=False, **variables):
    """Runs code in a Python of its own, which may be the first of a group; returns its output."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | {"PYTHONPATH": str(NOTEBOOKS)} | variables,
        capture_output=True,
        text=True,
        timeout=600,
        start_new_session=apart,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    "variables, expected",
    [
        ({}, ["localhost"]),
        ({"no_proxy": "a.example, b.example"}, ["a.example", "b.example", "localhost"]),
        ({"NO_PROXY": "*"}, ["*", "localhost"]),
        ({"no_grpc_proxy": "c.example", "no_proxy": "d"}, ["c.example", "localhost"]),
        ({"no_proxy": "localhost,"}, ["localhost"]),
    ],
)
def test_a_worker_here_is_never_looked_for_behind_a_proxy(monkeypatch, variables, expected):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for _ in range(2):  # a child process does it once more
        runtime.keep_local_calls_local()
    hosts = os.environ["no_grpc_proxy"].split(",")
    assert hosts == [*expected, "127.0.0.1", "::1"]
    assert {k: os.environ.get(k) for k in variables if k != "no_grpc_proxy"} == {
        k: v for k, v in variables.items() if k != "no_grpc_proxy"
    }


def test_computations_run_behind_a_proxy_in_threads_and_beside_each_other():
    code = MEAN + (
        "from concurrent.futures import ThreadPoolExecutor\n"
        "with ThreadPoolExecutor(3) as threads:\n"
        "    print(list(threads.map(work, [0.0, 1.0, 2.0])), work(6.0), len(session.workers()))\n"
        "from stateful_tff.engines.workers import WorkersLost, connect_workers, start_workers\n"
        "with start_workers(1) as one:\n    print(len(one))\n"
        "try:\n    connect_workers(['nobody.invalid:1'], ready_within=1)\n"
        "except WorkersLost as error:\n    print(error)"
    )
    nobody = "http://me:secret@127.0.0.1:9"
    said = python(code, http_proxy=nobody, https_proxy=nobody, NO_PROXY="example").splitlines()
    assert said[:2] == ["[1.0, 2.0, 3.0] 7.0 1", "1"]
    assert said[2].endswith(
        "https_proxy leads gRPC through a proxy, so put nobody.invalid into no_grpc_proxy."
    )
    assert "secret" not in said[2]


INTERRUPTED = """
import signal, threading
from stateful_tff.engines.workers import start_workers

double = tff.tensorflow.computation(lambda x: 2 * x, np.float32)
with start_workers(2) as two:
    before = [worker.process.pid for worker in two.workers]
    for number in range(8):
        timer = threading.Timer(number % 4 / 4, os.killpg, [0, signal.SIGINT])
        try:
            timer.start()
            while True:
                work(1.0)
        except KeyboardInterrupt:
            timer.join()
        assert work(2.0) == 3.0
    assert two.run([(double, 1.0), (double, 2.0), (double, 3.0)]) == [2.0, 4.0, 6.0]
    print([worker.process.pid for worker in two.workers] == before, two.faults)
"""


def test_an_interrupt_ends_a_computation_and_leaves_other_workers_alone():
    assert python(MEAN + INTERRUPTED, apart=True) == "True []\n"


FORK = """
import multiprocessing
from stateful_tff.engines.in_process import GraphFunction

if USED:
    work(1.0)
child = os.fork()
if child == 0:
    sys.exit(0)  # with all that Python does at its end
assert os.waitpid(child, 0)[1] == 0
double = GraphFunction(tff.tensorflow.computation(lambda x: 2 * x, np.float32)) if USED else None

def tried(x):
    said = []
    for way in (work, double or work):
        try:
            said.append(float(way(x)))
        except RuntimeError as error:
            said.append(str(error))
    return said

with multiprocessing.get_context("fork").Pool(1) as pool:
    print(pool.map_async(tried, [3.0]).get(600))
print(work(3.0))
"""


def test_a_fork_computes_if_its_parent_has_not():
    assert python(MEAN + FORK.replace("USED", "False")) == "[[4.0, 4.0]]\n4.0\n"


def test_a_fork_of_a_process_that_has_computed_asks_a_fresh_one_and_leaves_the_worker_alone():
    said = python(MEAN + FORK.replace("USED", "True")).splitlines()
    assert said[0].startswith("[[4.0, ") and "spawn" in runtime.FORKED
    assert said[0].count(runtime.FORKED) == 1  # a graph in this process has nobody to ask
    assert said[1] == "4.0"


ENDS = """
import multiprocessing, tensorflow as tf
from stateful_tff.engines.in_process import GraphFunction

def ended(child):
    for _ in range(3000):
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, 9)
    return f"hangs, {os.waitpid(child, 0)}"

def leave(code):
    sys.exit(code)

GraphFunction(tff.tensorflow.computation(lambda x: 2 * x, np.float32))(1.0)
for way in ({}, {"jit_compile": True}):
    tf.function(lambda x: x + 1, **way)(tf.constant(1.0))
list(tf.data.Dataset.range(9).map(lambda x: x + 1, num_parallel_calls=2).prefetch(2))
codes = []
for how in (lambda: sys.exit(0), lambda: sys.exit(3), lambda: sys.exit("words"), lambda: 1 / 0):
    child = os.fork()
    if child == 0:
        how()
    codes.append(ended(child))
fork = multiprocessing.get_context("fork")
for code in (0, 5):
    process = fork.Process(target=leave, args=(code,))
    process.start()
    process.join(60)
    codes.append(process.exitcode)
with fork.Pool(2) as pool:
    codes += pool.map(abs, [-1, -2])
child = os.fork()  # and one that ends with the script
if child:
    print([*codes, ended(child)])
"""


def test_a_fork_ends_with_its_code_whatever_its_parent_has_computed():
    assert python(MEAN + ENDS) == "[0, 3, 1, 1, 0, 5, 1, 2, 0]\n"


FRESH = """
from stateful_tff.fresh import FreshProcess

@tff.tensorflow.computation(np.float32, np.int32)
def pair(x, y):
    return collections.OrderedDict(x=x, y=[y, y])

@tff.tensorflow.computation(tff.SequenceType(np.float32))
def total(data):
    return data.reduce(np.float32(0), lambda a, b: a + b)

fresh = FreshProcess()
print(fresh.compute(pair, tff.structure.Struct([("x", 1.0), ("y", 2)])), pair(1.0, 2))
for computation, argument in [(pair, ["x", 2]), (total, tf.data.Dataset.range(2))]:
    try:
        print(fresh.compute(computation, argument))
    except RuntimeError as error:
        print(str(error).splitlines()[0])
fresh._process.kill()
fresh._process.wait()
try:
    fresh.compute(pair, [1.0, 2])
except RuntimeError as error:
    print(error)
"""


def test_a_fresh_process_computes_or_says_why_not():
    said = python("import collections, tensorflow as tf\n" + MEAN + FRESH).splitlines()
    assert said[0] == " ".join(["OrderedDict([('x', 1.0), ('y', [2, 2])])"] * 2)
    assert "Error" in said[1]
    assert said[2].startswith("A forked process can compute only on arrays")
    assert said[3].startswith("The process that computes for this forked one has ended")


def test_a_forked_helper_does_not_keep_the_worker_of_a_killed_process():
    code = MEAN + (
        "work(1.0)\nhelper = os.fork()\nif helper == 0:\n    time.sleep(100)\n"
        "print(helper, session.workers()[0].pid, flush=True)\ntime.sleep(100)"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | {"PYTHONPATH": str(NOTEBOOKS)},
        stdout=subprocess.PIPE,
        text=True,
    )
    helper, worker = map(int, process.stdout.readline().split())
    try:
        process.kill()
        process.wait()
        _, alive = psutil.wait_procs([psutil.Process(worker)], timeout=60)
        assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]
        assert psutil.pid_exists(helper)
    finally:
        os.kill(helper, signal.SIGKILL)


def test_shell_commands_run_after_a_computation(tmp_path):
    """Left to gRPC, about one in five does not, and the cell says that all is well."""
    manager, client = start_new_kernel(
        kernel_name="python3", env=ENVIRONMENT | {"PYTHONPATH": str(NOTEBOOKS)}
    )
    said = []

    def run(code):
        hook = dict(output_hook=lambda m: said.append(str(m["content"].get("text", ""))))
        assert client.execute_interactive(code, timeout=600, **hook)["content"]["status"] == "ok"

    try:
        run(MEAN + "work(1.0)")
        for number in range(20):
            run(f"!touch {tmp_path}/{number}")
        run("%pip --version")
        run(f"%%bash\ntouch {tmp_path}/20")
    finally:
        client.stop_channels()
        manager.shutdown_kernel()
    assert len(list(tmp_path.iterdir())) == 21
    assert any(text.startswith("pip ") for text in said) and "fork" not in "".join(said)


def test_the_runtime_can_be_renewed_without_end():
    code = MEAN + (
        "import psutil, threading\ncounts = []\n"
        "for _ in range(4):\n"
        "    work(1.0)\n    assert session.end_workers() == 1\n    time.sleep(0.5)\n"
        "    counts.append(psutil.Process().num_fds())\n"
        "print(counts[1:] == counts[:1] * 3, counts)"
    )
    assert python(code).startswith("True")
