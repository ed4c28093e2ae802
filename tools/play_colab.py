"""Plays Colab: its Python, its packages, its habits, and the repository on 127.0.0.1.

For `tests/colab` and for the benchmark of the bridge.
"""

import functools
import http.server
import io
import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from pathlib import Path

import nbformat
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import KernelManager

from tools import export, repository

ROOT = Path(__file__).resolve().parents[1]
UV = Path(sys.executable).with_name("uv")
COLABS_PINS = [
    *("ipykernel==6.17.1", "ipython==7.34.0", "jupyter_client==7.4.9"),
    *("numpy==2.1.3", "pandas==2.2.3", "matplotlib==3.10.0"),
]
COLABS_PYTHONS = ["3.12", "3.13"]
COMMIT = "c0ffee" + "0" * 34
# Colab's Python has no ensurepip, and `google.colab` can be imported there, but nowhere else.
SITECUSTOMIZE = "import sys\nsys.modules['ensurepip'] = None\n"
COLABS_KERNEL = """\
from ipykernel.ipkernel import IPythonKernel as Kernel
"""
COLABS_CONFIG = "c = get_config()\nc.IPKernelApp.kernel_class = 'google.colab._kernel.Kernel'\n"

# Prints who runs a computation of TFF: the kernel and its worker.
MEAN = """
import os
import numpy as np
import tensorflow_federated as tff
from stateful_tff import session

@tff.federated_computation(tff.FederatedType(np.float32, tff.CLIENTS))
def mean(values):
    return tff.federated_mean(values)

assert mean([1.0, 3.0]) == 2.0
print(os.getpid(), session.workers()[0].pid)"""


def interpreter(version):
    """The path of a Python of this version: beside this one as pyenv has it, on the PATH, uv's."""
    for place in Path(sys.base_prefix).parent.glob(f"{version}.*/bin/python"):
        return place
    asked = subprocess.run(
        [UV, "python", "find", "--no-project", version], capture_output=True, text=True
    )
    if asked.returncode == 0:
        return Path(asked.stdout.strip())
    subprocess.run([UV, "python", "install", version], check=True)
    return interpreter(version)


@functools.cache
def outer_python(folder, version):
    """An environment with Colab's packages and without TFF; returns its interpreter."""
    place = folder / f"outer-{version}"
    make = [UV, "venv", "-q", "--clear", "--python", interpreter(version), place]
    subprocess.run(make, check=True)
    python = place / "bin" / "python"
    subprocess.run([UV, "pip", "install", "-q", "--python", python, *COLABS_PINS], check=True)
    (packages,) = place.glob("lib/python3.*/site-packages")
    (packages / "sitecustomize.py").write_text(SITECUSTOMIZE)
    (packages / "google" / "colab").mkdir(parents=True)
    (packages / "google" / "colab" / "__init__.py").touch()
    (packages / "google" / "colab" / "output.py").touch()
    (packages / "google" / "colab" / "_kernel.py").write_text(COLABS_KERNEL)
    kernel = place / "kernels" / "python3"
    kernel.mkdir(parents=True)
    command = f'["{python}", "-m", "ipykernel_launcher", "-f", "{{connection_file}}"]'
    (kernel / "kernel.json").write_text(
        f'{{"argv": {command}, "display_name": "Python 3", "language": "python"}}'
    )
    return python


class Repository:
    """The repository as its host offers it: one archive for each name of a commit."""

    def __init__(self, folder):
        """Publishes the repository below the folder and serves it until `server.shutdown()`."""
        self.archives, self.asked = {}, []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                outer.asked.append(self.path)
                archive = outer.archives.get(self.path.rsplit("/", 1)[1])
                self.send_response(200 if archive else 404)
                self.end_headers()
                self.wfile.write(archive or b"")

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.server.server_port}/reader/book"
        self.checkout = self._publish(folder / "checkout")
        self.archives[f"{COMMIT}.zip"] = self._archive(COMMIT)
        shutil.copytree(
            self.checkout / "notebooks", folder / "right" / "notebooks", dirs_exist_ok=True
        )
        # The newest commit is another one: a cell that takes it instead of ours fails.
        (self.checkout / "notebooks" / "stateful_tff" / "__init__.py").write_text("1 / 0\n")
        self.archives["main.zip"] = self._archive("main")

    def _publish(self, checkout):
        """Does what `make repository` and the workflow do to the files."""
        listed = subprocess.run(
            ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        )
        for name in listed.stdout.split("\n"):
            if name and (ROOT / name).is_file():
                (checkout / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, checkout / name)
        repository.put(checkout, self.address)
        before = export.CONFIG
        export.CONFIG = checkout / "_config.yml"
        for path in repository.chapters(checkout):
            notebook = nbformat.read(path, as_version=4)
            assert export.put_setup_cell(notebook)
            nbformat.write(notebook, path)
        export.CONFIG = before
        files = [p.relative_to(checkout).as_posix() for p in checkout.rglob("*") if p.is_file()]
        repository.stamp(checkout, COMMIT, repository.checksum(checkout, files))
        return checkout

    def _archive(self, name):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            for path in self.checkout.rglob("*"):
                archive.write(path, f"book-{name}/{path.relative_to(self.checkout)}")
        return buffer.getvalue()

    def notebook(self, name):
        """A chapter as a reader opens it."""
        (path,) = self.checkout.glob(f"notebooks/{name}_*.ipynb")
        return nbformat.read(path, as_version=4)

    @property
    def setup_cell(self):
        """The source of the set-up cell, as published."""
        (cell,) = (c for c in self.notebook("01").cells if c.source.endswith("session.notebook()"))
        return cell.source


def colabs_variables(folder):
    """The environment variables of a Colab that has nothing of ours yet."""
    home = folder / "home"
    (home / ".ipython" / "profile_default").mkdir(parents=True, exist_ok=True)
    (home / ".ipython" / "profile_default" / "ipython_config.py").write_text(COLABS_CONFIG)
    config = Path.home() / ".config"
    # How this machine reaches the package index.
    if config.is_dir() and not (home / ".config").exists():
        (home / ".config").symlink_to(config)
    cache = subprocess.run([UV, "cache", "dir"], check=True, capture_output=True, text=True)
    of_others = ("PYTHONPATH", "VIRTUAL_ENV", "XDG_CACHE_HOME", "IPYTHONDIR", "MAKEFLAGS")
    kept = {name: value for name, value in os.environ.items() if name not in of_others}
    return kept | {
        "HOME": str(home),
        "PATH": f"{UV.parent}{os.pathsep}{os.environ['PATH']}",
        "UV_CACHE_DIR": cache.stdout.strip(),
        "UV_SYSTEM_PYTHON": "true",
        "MPLBACKEND": "module://matplotlib_inline.backend_inline",
        "STATEFUL_TFF_DATA": "synthetic",
        "STATEFUL_TFF_PROGRESS": "0",
    }


class Session:
    """A front end with a kernel."""

    def __init__(self, python, environment, where):
        """Starts the kernel of an interpreter in the folder `where`."""
        kernels = KernelSpecManager(kernel_dirs=[str(python.parents[1] / "kernels")])
        self.manager = KernelManager(kernel_name="python3", kernel_spec_manager=kernels)
        where.mkdir(exist_ok=True)
        self.manager.start_kernel(cwd=str(where), env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        self.client.wait_for_ready(timeout=60)

    def send(self, code, **options):
        """Sends a cell; returns the number of the request."""
        return self.client.execute(code, **options)

    def result(self, request, timeout=60):
        """Waits for a cell; returns its reply and its outputs, as a notebook stores them."""
        outputs, idle = [], False
        while not idle:
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") != request:
                continue
            kind, content = message["msg_type"], message["content"]
            idle = kind == "status" and content["execution_state"] == "idle"
            if kind not in ("status", "execute_input"):
                outputs.append(nbformat.from_dict({"output_type": kind, **content}))
        while True:
            reply = self.client.get_shell_msg(timeout=timeout)
            if reply["parent_header"].get("msg_id") == request:
                return reply["content"], outputs

    def run(self, code, timeout=60, **options):
        """Runs a cell, as a person would: again, if it came while Jupyter aborts a run."""
        for _ in range(20):
            reply, outputs = self.result(self.send(code, **options), timeout)
            if reply["status"] != "aborted":
                break
            time.sleep(0.1)
        return reply, outputs

    def set_up(self, book):
        """Runs the set-up cell, which may take its time; returns its reply and outputs."""
        return self.run(book.setup_cell, timeout=600)

    def value(self, expression):
        """What an expression is worth there."""
        reply, outputs = self.run(f"print(repr({expression}))")
        assert reply["status"] == "ok", outputs
        return eval(text_of(outputs))

    def end(self):
        """Ends the kernel."""
        self.client.stop_channels()
        if self.manager.has_kernel:
            self.manager.shutdown_kernel()


def text_of(outputs, stream="stdout"):
    """Returns what was printed to a stream."""
    return "".join(o.text for o in outputs if o.output_type == "stream" and o.name == stream)
