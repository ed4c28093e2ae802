"""Runs a notebook's cells in another Python, which can hold TFF, and shows what they show.

Jupyter's kernel here stays as it is. A second kernel, the *inner* one, starts in the other
Python. Every later cell is sent there as it stands, and what comes back is published as if
it had come from here: streams, rich output, display updates, progress bars, help and errors,
also what a thread shows after its cell has ended. An interrupt is passed on. The inner kernel
ends with this one, however this one ends.

What needs a way from the page back to the code is not carried: widgets and `input()`.

Knows nothing of TFF, nor of what the cells do.
"""

from __future__ import annotations

import atexit
import ctypes
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .stage import Stage

PACKAGES = Path(__file__).resolve().parents[2]  # the folder that `stateful_tff` is in
CHANNELS = ("shell", "control", "iopub")
START_SECONDS = 60
END_SECONDS = 3
SERVE = "import sys; from stateful_tff.colab import bridge; bridge.serve(*sys.argv[1:])"
_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG of prctl(2)

_bridge = None


class BridgeError(RuntimeError):
    """The other Python cannot be reached; shown as one sentence, without a traceback."""

    def _render_traceback_(self) -> list[str]:
        return [f"{type(self).__name__}: {self}"]


class CellError(Exception):
    """An exception of the inner kernel, with its own name and traceback."""

    traceback: list[str] = []

    def _render_traceback_(self) -> list[str]:
        return self.traceback


def environment_of(python: Path) -> dict[str, str]:
    """Returns the environment variables for an interpreter and for what its cells start.

    Args:
        python: the interpreter, in the `bin` folder of a virtual environment.
    """
    misleading = ("PYTHONHOME", "PYTHONUSERBASE", "UV_SYSTEM_PYTHON", "JPY_SESSION_NAME")
    kept = {name: value for name, value in os.environ.items() if name not in misleading}
    constraints = python.parents[1] / "constraints.txt"
    if constraints.is_file():  # what a cell installs must not replace what TFF needs
        for name in ("PIP_CONSTRAINT", "UV_CONSTRAINT"):
            kept[name] = f"{kept.get(name, '')} {constraints}".strip()
    return kept | {
        "PATH": f"{python.parent}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "VIRTUAL_ENV": str(python.parents[1]),
        "PYTHONPATH": str(PACKAGES),
        "PYTHONNOUSERSITE": "1",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "JPY_PARENT_PID": str(os.getpid()),
        "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else the debugger complains on stderr
    }


def _answers(message: dict, request: dict) -> bool:
    """Returns whether a message belongs to a request."""
    return message["parent_header"].get("msg_id") == request["header"]["msg_id"]


class Bridge:
    """An inner kernel, and the way to it."""

    def __init__(self, python: Path):
        """Starts the kernel.

        Args:
            python: the interpreter that runs it.

        Raises:
            BridgeError: if it does not start.
        """
        import zmq
        from jupyter_client.connect import write_connection_file
        from jupyter_client.session import Session

        # Sockets in a folder of our own: no port, and no other user of the machine can enter.
        folder = Path(tempfile.mkdtemp(prefix="stateful_tff_"))
        key = secrets.token_hex().encode()
        file, info = write_connection_file(
            str(folder / "kernel.json"), ip=str(folder / "socket"), transport="ipc", key=key
        )
        self.complaints = tempfile.TemporaryFile()
        self.process = subprocess.Popen(
            [str(python), "-c", SERVE, file, str(os.getpid())],
            env=environment_of(python),
            stdin=subprocess.DEVNULL,
            stdout=self.complaints,
            stderr=self.complaints,
            start_new_session=True,  # an interrupt reaches it through `pass_on` alone
        )
        self.session = Session(key=key)
        self.next_number = None  # of the next cell there, where that is known
        context = zmq.Context.instance()
        self.sockets = {}
        for name in CHANNELS:
            self.sockets[name] = socket = context.socket(zmq.SUB if name == "iopub" else zmq.DEALER)
            socket.linger, socket.rcvhwm = 0, 0  # nothing is dropped, however much there is
            if name == "iopub":
                socket.subscribe(b"")
            socket.connect(f"ipc://{info['ip']}-{info[name + '_port']}")
        try:
            self._wait_until_connected()
        except BaseException:
            self.process.kill()
            raise
        finally:
            shutil.rmtree(folder)  # connected sockets do not need their files any more
        self.stage = Stage(self.sockets.pop("iopub"), Session(key=key))
        atexit.register(self.close)

    def _receive(self, channel: str, seconds: float) -> dict | None:
        """Returns the next message of a channel, or `None` if there is none in time."""
        socket = self.sockets[channel]
        if not socket.poll(1000 * seconds):
            return None
        return self.session.recv(socket, copy=False)[1]

    def _wait_until_connected(self) -> None:
        """Waits until shell and iopub have carried a message.

        Control is not tried: a message there can come too early for a kernel that is starting."""
        end, silent = time.monotonic() + START_SECONDS, {"shell", "iopub"}
        while silent:
            # Each request makes a message on iopub too, once that is connected.
            self.session.send(self.sockets["shell"], "kernel_info_request", {})
            silent -= {name for name in silent if self._receive(name, 0.5)}
            if self.process.poll() is not None or time.monotonic() > end:
                raise BridgeError(
                    f"The Python for TFF did not start ({self._last_complaint()}); restart the "
                    "session and run the set-up cell again."
                )

    def _reason(self) -> str:
        """Returns how the inner process has ended; its last line may speak of something else."""
        code = self.process.poll()
        if code == -signal.SIGKILL:
            return "SIGKILL, which often means that memory ran out"
        return signal.Signals(-code).name if code < 0 else f"exit code {code}, as after exit()"

    def _last_complaint(self) -> str:
        """Returns the last line of an inner process that did not start, else how it has ended."""
        code = self.process.poll()
        if code is not None and code < 0:
            return self._reason()
        self.complaints.seek(0)
        said = self.complaints.read().decode(errors="replace").split("\n")
        lines = [line.strip() for line in said if line.strip()]
        return lines[-1] if lines else "no answer" if code is None else f"exit code {code}"

    def pass_on(self, *_) -> None:
        """Handles an interrupt: sends it to the inner kernel and to what that runs."""
        self.interrupted = True
        os.killpg(self.process.pid, signal.SIGINT)

    def ask(self, kind: str, **content) -> dict:
        """Sends a request to the inner kernel, publishes what it shows, returns its reply.

        Args:
            kind: the request, such as "execute_request".
            content: its fields.

        Returns:
            The content of the reply; only a status where an interrupt left no reply.

        Raises:
            BridgeError: if the inner kernel has ended.
        """
        sys.stdout.flush()
        sys.stderr.flush()
        shell = self.sockets["shell"]
        self.interrupted, probe = False, None
        request = self.session.msg(kind, content)
        self.stage.expect(request)
        self.session.send(shell, request)
        reply, shown = None, False
        while reply is None or not shown:
            if reply is not None:
                shown = self.stage.has_ended(request, 0.5)
            if not shown and (message := self._receive("shell", 0.0 if reply else 0.5)):
                if _answers(message, request):
                    reply = message["content"]
                elif probe and _answers(message, probe):
                    # Replies come in order: an interrupt has hit the kernel between two cells.
                    reply, shown = reply or {"status": "interrupted"}, True
            elif not shown and self.process.poll() is not None:
                _stop()
                reason = self._reason()
                self.close()
                raise BridgeError(
                    f"The Python that ran your cells has ended ({reason}) and its variables are "
                    "gone; run the set-up cell and the cells after it again."
                )
            if self.interrupted:
                self.interrupted = False
                probe = self.session.send(shell, "kernel_info_request", {})
        return reply

    def run(self, source: str, store_history: bool = True) -> None:
        """Runs a cell in the inner kernel.

        Args:
            source: the cell as the reader wrote it, magics included.
            store_history: whether it counts as a cell of the reader's.

        Raises:
            CellError: of a class with the name of the exception that the cell has raised.
            BridgeError: if the cell was not run.
        """
        reply = self.ask(
            "execute_request",
            code=source,
            silent=False,
            store_history=store_history,
            user_expressions={},
            allow_stdin=False,
            stop_on_error=False,
        )
        counted = reply.get("execution_count") if store_history else None
        self.next_number = None if counted is None else counted + 1
        _hand_on(reply.get("payload", []))
        if reply["status"] == "error":
            error = type(reply["ename"], (CellError,), {})(reply["evalue"])
            error.traceback = reply["traceback"]
            raise error
        if reply["status"] != "ok":
            raise BridgeError(
                f"This cell did not run to its end ({reply['status']}); run it again."
            )

    def count_from(self, number: int) -> None:
        """Gives the next cell this number, where the inner kernel has not counted as this one.

        An interrupt between two cells makes one that only this kernel has counted.
        """
        if number != self.next_number:
            self.run(f"get_ipython().execution_count = {number}", store_history=False)

    def close(self) -> None:
        """Ends the inner kernel: in good order if it answers soon, else at once."""
        atexit.unregister(self.close)
        if self.process.poll() is None:
            self.session.send(self.sockets["control"], "shutdown_request", {"restart": False})
            try:
                self.process.wait(timeout=END_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.stage.close()
        for socket in self.sockets.values():
            socket.close()


def _hand_on(payload: list[dict]) -> None:
    """Puts help, loaded code and the like into this kernel's reply, which the page reads."""
    from IPython import get_ipython

    for part in payload:
        if part.get("source") != "ask_exit":  # only the inner kernel ends
            get_ipython().payload_manager.write_payload(part, single=False)


def run(source: str) -> None:
    """Runs a cell in the inner kernel; what `_forwarded` makes of a cell calls this."""
    from IPython import get_ipython

    _bridge.count_from(get_ipython().execution_count)
    _bridge.run(source)


def _forwarded(lines: list[str]) -> list[str]:
    """Turns a cell into a call that runs it in the inner kernel.

    What a front end runs silently for its own use stays here.
    """
    from IPython import get_ipython

    if get_ipython().kernel.get_parent().get("content", {}).get("silent") or not "".join(lines):
        return lines
    return [f"__import__({__name__!r}, fromlist=['run']).run({''.join(lines)!r})\n"]


def start(python: Path) -> None:
    """Runs every later cell of this notebook in another Python, after preparing it there.

    Args:
        python: an interpreter in whose environment the book's packages are installed.

    Raises:
        BridgeError: if it does not start.
    """
    from IPython import get_ipython

    global _bridge
    shell = get_ipython()
    kernel = shell.kernel
    _bridge = bridge = Bridge(python)
    signal.signal(signal.SIGINT, bridge.pass_on)
    try:
        # As one notebook: the inner kernel counts on from here and has the names of this cell.
        bridge.run(
            f"get_ipython().execution_count = {shell.execution_count + 1}\n"
            "from stateful_tff import session\n"
            "session.notebook()",
            store_history=False,
        )
    except BaseException:
        bridge.close()
        raise

    def before_each_request():
        type(kernel).pre_handler_hook(kernel)
        signal.signal(signal.SIGINT, bridge.pass_on)  # in place of a KeyboardInterrupt here

    # What comes from there can be more at a time than this kernel would keep for a slow page.
    kernel.iopub_thread.socket.sndhwm = 0
    shell.input_transformers_cleanup.append(_forwarded)
    kernel.pre_handler_hook = before_each_request
    kernel.do_complete = lambda code, cursor_pos: bridge.ask(
        "complete_request", code=code, cursor_pos=cursor_pos
    )
    kernel.do_inspect = lambda code, cursor_pos, detail_level=0, *_: bridge.ask(
        "inspect_request", code=code, cursor_pos=cursor_pos, detail_level=detail_level
    )


def _stop() -> None:
    """Runs later cells in this kernel again, so that the set-up cell can start over."""
    from IPython import get_ipython

    shell = get_ipython()
    if _forwarded in shell.input_transformers_cleanup:
        shell.input_transformers_cleanup.remove(_forwarded)
        for name in ("pre_handler_hook", "do_complete", "do_inspect"):
            delattr(shell.kernel, name)


def serve(connection_file: str, parent: str) -> None:
    """Is the inner kernel: runs in the other Python until its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
    if os.getppid() != int(parent):
        sys.exit("the parent has ended")
    from ipykernel.kernelapp import IPKernelApp

    class InnerKernelApp(IPKernelApp):
        def load_config_file(self, *_, **__):
            """Does nothing: what is configured on this machine is meant for the other kernel."""

        def init_iopub(self, context):
            """Keeps all messages for the outer kernel, however many it has not read yet."""
            context.sndhwm = 0
            super().init_iopub(context)

    InnerKernelApp.launch_instance(argv=["-f", connection_file])
