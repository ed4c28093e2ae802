"""No worker of TFF outlives its session, however the session ends; bars and checks in words."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from jupyter_client.manager import start_new_kernel

from stateful_tff import exercises
from stateful_tff.progress import progress

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
# A fresh start: what importing the package set for the tests' own process is not handed on.
SET = ("TF_CPP_MIN_LOG_LEVEL", "TF_NUM_INTRAOP_THREADS")
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in SET}
RUN = dict(env=ENVIRONMENT | {"PYTHONPATH": str(NOTEBOOKS)}, text=True)
CAPTURED = RUN | dict(capture_output=True, timeout=600)
ONE_COMPUTATION = """
import stateful_tff
from stateful_tff import session
import numpy as np
import tensorflow_federated as tff

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def mean(values):
    return tff.federated_mean(values)

assert mean([1.0, 3.0]) == 2.0
print("worker", session.workers()[0].pid, flush=True)
"""


def worker_in(text):
    return int(text.split("worker ")[1].split()[0])


def gone(pid, within=60):
    """Whether a process has ended, given some seconds to do so."""
    end = time.monotonic() + within
    while psutil.pid_exists(pid) and time.monotonic() < end:
        time.sleep(0.1)
    return not psutil.pid_exists(pid)


def python(code):
    return [sys.executable, "-c", code]


def test_a_pipe_behind_a_computation_closes():
    command = f"{sys.executable} -c '{ONE_COMPUTATION}' | cat"
    done = subprocess.run(command, shell=True, **CAPTURED)
    assert gone(worker_in(done.stdout))


@pytest.mark.parametrize("own", [None, "2"])
def test_operations_of_a_worker_run_on_one_thread_unless_the_reader_says_otherwise(own):
    code = ONE_COMPUTATION + f"print('threads', session.workers()[0].environ()[{SET[1]!r}])"
    mine = {} if own is None else {SET[1]: own}
    done = subprocess.run(python(code), **CAPTURED | dict(env=RUN["env"] | mine))
    assert done.stdout.split()[-2:] == ["threads", own or "1"], done.stderr


def test_a_process_that_ignores_interrupts_ends_too():
    """As every command does that a shell script starts in the background."""
    code = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)\n" + ONE_COMPUTATION
    done = subprocess.run(python(code), **CAPTURED)
    assert done.returncode == 0 and gone(worker_in(done.stdout))


def test_no_worker_is_left_after_an_exception():
    code = ONE_COMPUTATION + "\nraise RuntimeError('on purpose')"
    done = subprocess.run(python(code), **CAPTURED)
    assert done.returncode == 1 and "on purpose" in done.stderr
    assert gone(worker_in(done.stdout))


def test_an_exception_before_any_computation_is_all_that_is_said():
    code = "import stateful_tff\nimport tensorflow_federated\nraise RuntimeError('on purpose')"
    done = subprocess.run(python(code), **CAPTURED)
    assert done.stderr.rstrip().endswith("on purpose") and "ignored" not in done.stderr


TRACED = """
import glob, inspect, tempfile, time
import tensorflow as tf

def halved(x):
    if x > 1.0:
        x = x / 2
    return x

assert tf.function(halved)(tf.constant(4.0)) == 2
assert "if_stmt" in inspect.getsource(tf.autograph.to_graph(halved))
print(glob.glob(tempfile.gettempdir() + "/*generated*"), flush=True)
time.sleep(600)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_and_no_file_is_left_after_a_kill(how, tmp_path):
    script, files = tmp_path / "script.py", tmp_path / "files"
    files.mkdir()
    script.write_text(ONE_COMPUTATION + TRACED)
    environment = dict(env=RUN["env"] | {"TMPDIR": str(files)})
    process = subprocess.Popen(
        [sys.executable, script], stdout=subprocess.PIPE, **RUN | environment
    )
    pid = worker_in(process.stdout.readline())
    assert psutil.pid_exists(pid) and process.stdout.readline() == "[]\n"
    process.send_signal(how)
    process.wait(timeout=30)
    assert gone(pid) and not list(files.glob("*generated*"))


def test_without_the_helper_a_worker_is_left():
    """The tests above can fail: plain TFF leaves its worker running."""
    code = (
        ONE_COMPUTATION.replace("import stateful_tff\n", "", 1)
        .replace("from stateful_tff import session", "import psutil")
        .replace("session.workers()[0]", "psutil.Process().children()[0]")
    )
    code += "\nimport os; os._exit(0)"
    process = subprocess.Popen(
        python(code), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, **RUN
    )
    pid = worker_in(process.stdout.readline())
    process.wait(timeout=120)
    try:
        assert not gone(pid, within=2)
    finally:
        os.kill(pid, signal.SIGKILL)


@pytest.fixture
def kernel():
    manager, client = start_new_kernel(kernel_name="python3", cwd=str(NOTEBOOKS))
    yield manager, client
    client.stop_channels()
    if manager.has_kernel:
        manager.shutdown_kernel(now=True)


def run(client, code, timeout=600):
    """Runs code in the kernel; returns what it prints and the name of its error.

    A cell that comes right behind a failed one is aborted by the kernel; it is sent again.
    """
    text, error = "", None

    def collect(message):
        nonlocal text, error
        if message["msg_type"] == "stream":
            text += message["content"]["text"]
        elif message["msg_type"] == "error":
            error = message["content"]["ename"]

    reply = client.execute_interactive(code, timeout=timeout, output_hook=collect)
    if reply["content"]["status"] == "aborted":
        return run(client, code, timeout)
    return text, error


def test_an_interrupted_kernel_goes_on_and_leaves_no_worker(kernel):
    manager, client = kernel
    text, _ = run(client, ONE_COMPUTATION)
    first = worker_in(text)
    client.execute("while True:\n    print('computed', mean([1.0, 3.0]), flush=True)")
    while "computed" not in client.get_iopub_msg(timeout=600)["content"].get("text", ""):
        pass
    manager.interrupt_kernel()
    reply = client.get_shell_msg(timeout=600)
    assert reply["content"]["status"] == "error"
    text, error = run(client, "print('mean', mean([2.0, 4.0]), 'worker', session.workers()[0].pid)")
    assert error is None and "mean 3.0" in text
    last = worker_in(text)
    manager.shutdown_kernel()
    assert gone(first) and gone(last)


def test_a_killed_kernel_leaves_no_worker(kernel):
    manager, client = kernel
    pid = worker_in(run(client, ONE_COMPUTATION)[0])
    manager.shutdown_kernel(now=True)
    assert gone(pid)


def test_workers_can_be_ended_and_come_back():
    code = ONE_COMPUTATION + (
        "\nassert session.end_workers() == 1 and session.workers() == []"
        "\nassert mean([5.0, 7.0]) == 6.0\nassert len(session.workers()) == 1"
    )
    done = subprocess.run(python(code), **CAPTURED)
    assert done.returncode == 0, done.stderr


def test_a_progress_bar_goes_to_stdout_and_leaves_nothing_when_nobody_watches(capsys, monkeypatch):
    monkeypatch.setenv("STATEFUL_TFF_PROGRESS", "0")
    assert list(progress(range(3), "steps")) == [0, 1, 2]
    assert capsys.readouterr() == ("", "")
    monkeypatch.setenv("STATEFUL_TFF_PROGRESS", "1")
    assert list(progress(range(3), "steps")) == [0, 1, 2]
    out, err = capsys.readouterr()
    assert "steps" in out and err == ""


def test_doctor_prints_versions_and_a_federated_mean():
    code = "from stateful_tff import session; session.doctor()"
    done = subprocess.run(python(code), **CAPTURED)
    assert "TensorFlow Federated  0.87.0" in done.stdout
    assert done.stdout.rstrip().endswith("three clients: 3.0") and not done.stderr


def test_exercises_are_judged_in_words(capsys):
    steps = ((lambda a: a > 0, "It must be positive."), (lambda a: a == 2, "Try two."))
    for answer, sentence in {
        None: "not answered yet.",
        -1: "It must be positive.",
        3: "Try two.",
        2: "correct.",
    }.items():
        assert exercises.check("Exercise", answer, *steps) == (answer == 2)
        assert capsys.readouterr().out == f"Exercise: {sentence}\n"
    exercises.check("Exercise", "two", *steps)
    assert capsys.readouterr().out.startswith("Exercise: It must be positive. (The check stopped")


def test_importing_the_package_loads_neither_tensorflow_nor_the_bridge():
    code = "import stateful_tff, sys\nprint([m for m in sys.modules if m in LOOKED_FOR])".replace(
        "LOOKED_FOR", repr(("tensorflow", "tensorflow_federated", "numpy", "stateful_tff.colab"))
    )
    done = subprocess.run(python(code), **CAPTURED)
    assert done.stdout == "[]\n", done.stderr
