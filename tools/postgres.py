"""Starts a real PostgreSQL server for tests, on 127.0.0.1, in a folder of its own."""

import contextlib
import glob
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path


def programs() -> str | None:
    """The folder of PostgreSQL's programs, the newest where there are several."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb")) or [shutil.which("initdb")]
    return found[-1] and os.path.dirname(found[-1])


def missing() -> str | None:
    """Says why no server can be started here, if none can."""
    if not programs():
        return "PostgreSQL is not installed; on Debian, apt-get install postgresql"
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            return "PostgreSQL does not run as root, and there is no user postgres"
    return None


@contextlib.contextmanager
def server():
    """Runs a server; yields the URL of an empty database. It refuses who is not on this host."""
    # PostgreSQL refuses to run as root; then it runs as the user of Debian's package. By a
    # program and not by `user=` of subprocess, which forks, and gRPC in this process minds that.
    root = os.geteuid() == 0
    prefix = "setpriv --reuid=postgres --regid=postgres --clear-groups".split() if root else []

    def run(*command):
        subprocess.run(
            [*prefix, *command], check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=120
        )

    with tempfile.TemporaryDirectory() as folder, socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        if root:
            shutil.chown(folder, "postgres", "postgres")
        free.close()
        data, log, bin_ = f"{folder}/data", f"{folder}/log", Path(programs())
        run(bin_ / "initdb", "-D", data, "-A", "trust", "-U", "book", "--no-sync")
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={folder}"
        run(bin_ / "pg_ctl", "-D", data, "-o", options, "-l", log, "-w", "start")
        try:
            yield f"postgresql://book@127.0.0.1:{port}/postgres"
        finally:
            run(bin_ / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
