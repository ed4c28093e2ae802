"""What the bridge carries, item by item, from outer Pythons that are Colab's."""

import os
import random
import signal
import time

import psutil
import pytest

from stateful_tff.colab import bridge
from tools.play_colab import MEAN, outer_python, text_of

NON_ASCII = "Amélie, 千と千尋の神隠し, Солярис, 🎬"


def test_the_cells_run_in_a_python_that_holds_tff(session, version, folder, capsys):
    assert session.said_at_first.rstrip().split("\n")[-1].startswith("Python 3.1")
    assert "TFF 0.87.0" in session.said_at_first
    assert not session.said_at_first.startswith(f"Python {version}")
    session.run("import sys")
    assert session.value("sys.version_info[:2]") in [(3, 10), (3, 11)]
    with capsys.disabled():
        outer = os.path.realpath(outer_python(folder, version))
        print(f"\nInterpreters used: {outer}, for TFF {session.value('sys.base_prefix')}", end="")


def test_the_helper_comes_from_the_commit_of_the_notebook(session, book):
    assert book.asked and not any("main" in path for path in book.asked)
    session.run("import stateful_tff")
    assert book.checkout.parent.name in session.value("stateful_tff.__file__")


def test_streams_arrive_in_order(session):
    code = (
        "import sys\nfor i in range(100):\n"
        "    print('out', i, flush=True)\n    print('err', i, file=sys.stderr, flush=True)"
    )
    _, outputs = session.run(code)
    lines = "".join(o.text for o in outputs).split("\n")
    assert lines == [f"{name} {i}" for i in range(100) for name in ("out", "err")] + [""]


def test_what_shows_itself_arrives_as_it_is(session):
    code = """
import pandas as pd
from IPython.display import HTML, SVG, Math, display
display(SVG('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>'), Math("x^2"))
display(pd.DataFrame({"movie": ["Solaris"]}), metadata={"kept": True})
pd.Series([1, 2])"""
    _, outputs = session.run(code)
    svg, math, table, result = outputs
    assert svg.data["image/svg+xml"].startswith("<svg")
    assert math.data["text/latex"] == r"$\displaystyle x^2$"
    assert "<td>Solaris</td>" in table.data["text/html"] and table.metadata == {"kept": True}
    assert result.output_type == "execute_result" and "int64" in result.data["text/plain"]


def test_matplotlib_draws_inline(session):
    code = "%matplotlib inline\nimport matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    _, outputs = session.run(code)
    assert [o.output_type for o in outputs] == ["display_data"]
    assert outputs[0].data["image/png"].startswith("iVBOR")


def test_a_display_is_updated_in_its_cell_and_from_a_later_one(session):
    code = "from IPython.display import display\nhandle = display(1, display_id='one')\n"
    _, outputs = session.run(code + "handle.update(2)")
    _, later = session.run("handle.update(3)")
    kinds = [(o.output_type, o.data["text/plain"]) for o in [*outputs, *later]]
    assert kinds[0] == ("display_data", "1")
    assert kinds[1:] == [("update_display_data", "2"), ("update_display_data", "3")]
    assert all(o.transient == {"display_id": "one"} for o in [*outputs, *later])


def test_an_output_can_be_cleared(session):
    _, outputs = session.run("from IPython.display import clear_output\nclear_output(wait=True)")
    assert [(o.output_type, o.wait) for o in outputs] == [("clear_output", True)]


def test_progress_bars_move(session):
    code = """
import os
import time
from stateful_tff.progress import progress
from tqdm.auto import tqdm
for _ in tqdm(range(5), mininterval=0):
    time.sleep(0.3)
os.environ["STATEFUL_TFF_PROGRESS"] = "1"
for _ in progress(range(3), "rounds"):
    time.sleep(0.3)
os.environ["STATEFUL_TFF_PROGRESS"] = "0" """
    request = session.send(code)
    _, outputs = session.result(request)
    bars = [o.text for o in outputs if o.output_type == "stream"]
    assert len(bars) > 3 and "5/5" in text_of(outputs, "stderr")
    assert "\rrounds:  67%" in text_of(outputs) and "Warning" not in "".join(bars)


def test_output_is_shown_while_the_cell_runs(session):
    request = session.send("import time\nprint('now', flush=True)\ntime.sleep(5)\nprint('then')")
    start = time.monotonic()
    while True:
        message = session.client.get_iopub_msg(timeout=10)
        if message["msg_type"] == "stream" and "now" in message["content"]["text"]:
            break
    assert time.monotonic() - start < 4
    _, outputs = session.result(request)
    assert text_of(outputs).endswith("then\n")


def test_warnings_arrive(session):
    _, outputs = session.run("import warnings\nwarnings.warn('mind the gap')")
    assert "UserWarning: mind the gap" in text_of(outputs, "stderr")


def test_an_exception_keeps_its_name_and_its_own_traceback(session):
    session.run("def inner_function():\n    return 1 / 0")
    reply, outputs = session.run("print('before')\ninner_function()")
    assert reply["status"] == "error" and reply["ename"] == "ZeroDivisionError"
    assert text_of(outputs) == "before\n"
    error = outputs[-1]
    assert error.ename == "ZeroDivisionError" and error.evalue == "division by zero"
    shown = "\n".join(error.traceback)
    assert "inner_function" in shown and "ZeroDivisionError" in shown
    assert "bridge" not in shown
    reply, outputs = session.run("no python")
    assert reply["ename"] == "SyntaxError" and "no python" in "\n".join(outputs[-1].traceback)


def test_an_exception_stops_the_run(session):
    """The front end has sent three cells; the one behind the failure must not run."""
    session.run("marks = []")
    requests = [session.send(code) for code in ("marks.append(1)", "1 / 0", "marks.append(2)")]
    replies = [session.client.get_shell_msg(timeout=60)["content"]["status"] for _ in requests]
    assert replies == ["ok", "error", "aborted"]
    assert session.value("marks") == [1]


def interrupted(session, code, after):
    """Sends a cell, interrupts it, and returns its result."""
    request = session.send(code)
    time.sleep(after)
    session.manager.interrupt_kernel()
    return session.result(request, timeout=60)


def test_an_interrupt_ends_the_cell_and_the_session_survives(session):
    session.run("kept = 42")
    code = "import time\nprint('started', flush=True)\nwhile True:\n    time.sleep(0.01)"
    reply, outputs = interrupted(session, code, after=2)
    assert text_of(outputs) == "started\n"
    assert reply["ename"] == "KeyboardInterrupt"
    assert "time.sleep" in "\n".join(outputs[-1].traceback)
    assert session.value("kept") == 42


def test_an_interrupt_ends_what_a_cell_has_started(session):
    reply, _ = interrupted(session, "!sleep 300", after=2)
    assert session.value("kept") == 42


def test_a_cell_right_behind_an_interrupt_runs_or_fails_visibly(session):
    """Interrupts at all moments, also too late; whatever is said to have run has run."""
    session.run("import time\nran = []")
    rng, fine = random.Random(0), []
    for number in range(30):
        request = session.send("time.sleep(0.05)")
        time.sleep(rng.uniform(0, 0.1))
        session.manager.interrupt_kernel()
        session.result(request, timeout=60)
        reply, outputs = session.run(f"ran.append({number})")
        if reply["status"] == "ok":
            fine.append(number)
        else:  # said by either kernel: an error that is shown, or "aborted" as Jupyter has it
            shown = any(o.output_type == "error" for o in outputs)
            assert shown or reply["status"] == "aborted", reply
    assert len(fine) > 15
    assert session.value("ran") == fine


@pytest.mark.parametrize("status", ["aborted", "interrupted", "abort"])
def test_a_reply_without_success_is_never_shown_as_one(status):
    lost, asked = object.__new__(bridge.Bridge), {}
    lost.ask = lambda kind, **content: asked.update(content) or {"status": status}
    with pytest.raises(bridge.BridgeError, match=f"did not run to its end .{status}.; run it"):
        lost.run("print('lost')")
    assert asked["code"] == "print('lost')" and asked["stop_on_error"] is False


def test_magics_belong_to_the_other_python(session):
    _, outputs = session.run("%%time\nimport sys\nprint(sys.version_info[:2] < (3, 12))")
    assert text_of(outputs).startswith("True\n") and "Wall time" in text_of(outputs)
    _, outputs = session.run("%%capture captured\nprint('hidden')")
    assert outputs == [] and session.value("captured.stdout") == "hidden\n"


def test_commands_see_the_other_python(session):
    session.run("import sys")
    _, outputs = session.run('!python -c "import sys, attrs; print(sys.executable)"')
    assert text_of(outputs).strip() == session.value("sys.executable")
    _, outputs = session.run("!pip --version")
    assert session.value("sys.prefix") in text_of(outputs)
    _, outputs = session.run("!echo $VIRTUAL_ENV-$UV_SYSTEM_PYTHON")
    assert text_of(outputs).strip() == session.value("sys.prefix") + "-"


@pytest.mark.parametrize("code", ["print(big)", "display(HTML(big))", "big"])
def test_outputs_over_10_mb_arrive_whole(session, code):
    session.run("from IPython.display import HTML, display\nbig = '0123456789' * 1_200_000")
    _, outputs = session.run(code)
    text = text_of(outputs) or outputs[0].data.get("text/html") or outputs[0].data["text/plain"]
    assert text.strip("'\n") == "0123456789" * 1_200_000


def test_many_outputs_arrive_all(session):
    code = "from IPython.display import display\nfor i in range(5000):\n    display(i)"
    _, outputs = session.run(code)
    assert [o.data["text/plain"] for o in outputs] == [str(i) for i in range(5000)]


def test_text_of_any_alphabet_arrives(session):
    code = f"größe = {NON_ASCII!r}\nprint(größe)\nraise ValueError(größe)"
    reply, outputs = session.run(code)
    assert text_of(outputs) == NON_ASCII + "\n"
    assert reply["evalue"] == NON_ASCII


def test_a_cell_can_await(session):
    _, outputs = session.run("import asyncio\nprint(await asyncio.sleep(0.01, 'slept'))")
    assert text_of(outputs) == "slept\n"


def test_cells_are_counted_as_in_one_notebook(session):
    reply, outputs = session.run("6 * 7")
    assert outputs[0].execution_count == reply["execution_count"]
    _, error = session.run("1 / 0")
    assert f"In[{reply['execution_count'] + 1}]" in "\n".join(error[-1].traceback)


def test_names_are_completed_and_explained(session):
    session.run("def federated_answer():\n    'It is 42.'")
    request = session.client.complete("federated_ans", 13)
    while True:
        reply = session.client.get_shell_msg(timeout=60)
        if reply["parent_header"]["msg_id"] == request:
            break
    assert "federated_answer" in reply["content"]["matches"]
    request = session.client.inspect("federated_answer", 16)
    reply = session.client.get_shell_msg(timeout=60)
    assert "It is 42." in reply["content"]["data"]["text/plain"]


@pytest.mark.parametrize("code", ["len?", "import json\njson.dumps??", "%pinfo len"])
def test_help_reaches_the_page(session, code):
    reply, _ = session.run(code)
    (page,) = reply["payload"]
    assert page["source"] == "page" and "text/plain" in page["data"]


def test_loaded_code_reaches_the_page(session, tmp_path):
    (tmp_path / "loaded.py").write_text("y = 2\n")
    reply, _ = session.run(f"%load {tmp_path / 'loaded.py'}")
    assert [part["source"] for part in reply["payload"]] == ["set_next_input"]
    assert "y = 2" in reply["payload"][0]["text"] and reply["payload"][0]["replace"]
    reply, _ = session.run("get_ipython().set_next_input('y = 3')\n1 / 0")
    assert [part["text"] for part in reply["payload"]] == ["y = 3"]


@pytest.mark.parametrize("late", ["print('late', flush=True)", "display(HTML('late'))"])
def test_what_a_thread_shows_after_its_cell_is_shown_at_once_and_as_its_cells(session, late):
    code = "import threading, time\nfrom IPython.display import HTML, display\n"
    code += f"def work():\n    time.sleep(1)\n    {late}\nthreading.Thread(target=work).start()"
    request = session.send(code)
    _, outputs = session.result(request)
    assert outputs == []
    end = time.monotonic() + 20
    while time.monotonic() < end:
        message = session.client.get_iopub_msg(timeout=20)
        if "late" in str(message["content"]):
            break
    assert message["parent_header"]["msg_id"] == request
    assert session.run("pass")[1] == []


def test_what_the_front_end_runs_silently_stays_outside(session):
    session.run("import sys\nsys.marked = False")
    reply, _ = session.run("import sys, google.colab\nsys.marked = True", silent=True)
    assert reply["status"] == "ok"
    assert session.value("sys.marked") is False


def test_input_fails_visibly(session):
    reply, outputs = session.run("input('your name? ')")
    assert reply["status"] == "error" and "input" in outputs[-1].evalue


def test_the_set_up_cell_once_more_is_immediate(session, book):
    asked = len(book.asked)
    start = time.monotonic()
    reply, outputs = session.set_up(book)
    assert time.monotonic() - start < 1 and reply["status"] == "ok"
    assert text_of(outputs).startswith("Python 3.1") and len(book.asked) == asked


def gone(pids, within=10):
    end = time.monotonic() + within
    while any(psutil.pid_exists(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.1)
    return not any(psutil.pid_exists(pid) for pid in pids)


def family(session):
    """The processes of a session: its kernels, TFF's worker, the guards that end it."""
    reply, outputs = session.run(MEAN)
    assert reply["status"] == "ok", outputs
    outer = session.manager.provisioner.process.pid
    pids = {process.pid for process in psutil.Process(outer).children(recursive=True)}
    inner = {int(pid) for pid in text_of(outputs).split()}
    assert inner < pids and len(pids) >= 3
    return outer, pids


def test_a_dead_inner_kernel_is_said_and_replaced_and_nothing_stays_behind(
    version, open_session, book, tmp_path
):
    session = open_session(version, TMPDIR=str(tmp_path))
    _, outputs = session.set_up(book)
    # The environment is there: nothing is made, and nobody waits for it.
    assert text_of(outputs).startswith("Python 3.1"), text_of(outputs)
    reply, outputs = session.run("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    assert reply["ename"] == "BridgeError" and "SIGKILL" in reply["evalue"]
    assert outputs[-1].traceback == [f"BridgeError: {reply['evalue']}"]
    assert reply["evalue"].endswith("run the set-up cell and the cells after it again.")

    reply, outputs = session.set_up(book)
    assert reply["status"] == "ok", outputs
    session.run(MEAN)
    session.run("!true")
    session.run("exit()")
    time.sleep(3)
    reply, _ = session.run("1 + 1")
    assert "exit code 0, as after exit()" in reply["evalue"]

    reply, outputs = session.set_up(book)
    assert reply["status"] == "ok", outputs
    session.run("import sys")
    assert session.value("sys.version_info[:2]") in [(3, 10), (3, 11)]

    _, pids = family(session)
    session.manager.shutdown_kernel()
    assert gone(pids)
    assert not list(tmp_path.glob("stateful_tff_*"))


def test_nothing_stays_behind_a_hard_kill(session):
    """The last test of this session."""
    outer, pids = family(session)
    os.kill(outer, signal.SIGKILL)
    assert gone(pids)
