"""Workers on several hosts: network namespaces with addresses of their own play the hosts.

They need root and the right to make namespaces; where that is missing the tests are skipped.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from worker_rounds import (
    LOCAL,
    LONG,
    PER_CLIENT,
    QUICK,
    difference,
    ready_again,
    round_of,
    when_at_work,
)

from stateful_tff.engines.worker import WORKER_PROGRAM
from stateful_tff.engines.workers import OverWorkers, WorkersLost, connect_workers

PORT = 8470


def ip(command):
    """Runs an `ip` command; raises with its message."""
    done = subprocess.run(["ip", *command.split()], capture_output=True, text=True)
    if done.returncode:
        raise OSError(f"ip {command}: {done.stderr.strip()}")


class Host:
    """A namespace with one link to the driver. Ends all that runs in it."""

    def __init__(self, number):
        self.name, self.link = f"tff-host-{number}", f"tff-link-{number}"
        self.address, self.driver = f"10.231.{number}.2", f"10.231.{number}.1"
        self.running = []
        ip(f"netns add {self.name}")
        ip(f"link add {self.link} type veth peer name eth0 netns {self.name}")
        ip(f"address add {self.driver}/24 dev {self.link}")
        ip(f"link set {self.link} up")
        for command in (f"address add {self.address}/24 dev eth0", "link set lo up"):
            ip(f"-n {self.name} {command}")
        self.connect()

    def connect(self):
        ip(f"-n {self.name} link set eth0 up")

    def cut(self):
        ip(f"-n {self.name} link set eth0 down")

    def command(self, *command):
        return ["ip", "netns", "exec", self.name, *map(str, command)]

    def start(self, *command):
        quiet = dict(stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.running.append(subprocess.Popen(self.command(*command), **quiet))
        return self.running[-1]

    def close(self):
        for process in self.running:
            process.kill()
            process.wait()
        subprocess.run(["ip", "link", "delete", self.link], check=False, capture_output=True)
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)


@pytest.fixture(scope="module")
def hosts():
    made = []
    try:
        for number in (1, 2):
            made.append(Host(number))
    except OSError as error:
        for host in made:
            host.close()
        pytest.skip(f"network namespaces cannot be made here: {error}")
    for host in made:
        host.start(WORKER_PROGRAM, f"--port={PORT}")
    yield made
    for host in made:
        host.close()


@pytest.fixture(scope="module")
def addresses(hosts):
    return [f"{host.address}:{PORT}" for host in hosts]


@pytest.fixture(scope="module")
def expected():
    start = LOCAL.initialize()
    return start, round_of(LOCAL, start, epochs=LONG)


def test_two_hosts_share_a_round(addresses, expected):
    with connect_workers(addresses, **QUICK) as both:
        start, local = expected
        result = round_of(OverWorkers(PER_CLIENT, both), start, epochs=LONG)
        assert difference(result, local) < 1e-5
        assert all(worker.traffic for worker in both.workers) and not both.faults


def test_a_link_cut_in_the_middle_of_a_round(hosts, addresses, expected):
    with connect_workers(addresses, **QUICK) as both:
        process, (start, _) = OverWorkers(PER_CLIENT, both), expected
        whole = round_of(process, start, epochs=LONG)
        when_at_work(both.workers[1], hosts[1].cut)
        since = time.monotonic()
        assert difference(round_of(process, start, epochs=LONG), whole) == 0
        assert time.monotonic() - since < 40
        assert [addresses[1] in fault for fault in both.faults] == [True]
        hosts[1].connect()
        ready_again(both)
        both.workers[1].traffic.clear()
        assert difference(round_of(process, start, epochs=LONG), whole) == 0
        assert both.workers[1].traffic and len(both.faults) == 1


def test_both_links_cut(hosts, addresses, expected):
    with connect_workers(addresses, answer_within=1, ready_within=2) as both:
        process = OverWorkers(PER_CLIENT, both)
        for host in hosts:
            host.cut()
        since = time.monotonic()
        try:
            with pytest.raises(WorkersLost, match="nothing of the round was kept") as caught:
                round_of(process, expected[0])
        finally:
            for host in hosts:
                host.connect()
        assert time.monotonic() - since < 15
        assert all(address in str(caught.value) for address in addresses)


# Who can reach the port.


def reachable(host, port, within=1.0):
    with contextlib.suppress(OSError), socket.create_connection((host, port), timeout=within):
        return True
    return False


def test_the_port_is_open_on_every_interface_until_a_rule_shuts_it(hosts):
    if not shutil.which("iptables"):
        pytest.skip("iptables is not installed")
    host = hosts[0]
    assert reachable(host.address, PORT)  # from another host, without any password
    rule = ["INPUT", "-p", "tcp", "--dport", str(PORT), "!", "-i", "lo", "-j", "DROP"]
    subprocess.run(host.command("iptables", "-A", *rule), check=True)
    try:
        assert not reachable(host.address, PORT)
        inside = f"import socket; socket.create_connection(('127.0.0.1', {PORT}), timeout=2)"
        subprocess.run(host.command("python3", "-c", inside), check=True)
    finally:
        subprocess.run(host.command("iptables", "-D", *rule), check=True)
    assert reachable(host.address, PORT)


def certificate(folder: Path, name: str) -> None:
    """Makes a key and a certificate that signs itself."""
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
         "-nodes", "-days", "2", "-subj", f"/CN={name}", "-keyout", f"{name}.key",
         "-out", f"{name}.crt"],
        cwd=folder, check=True, capture_output=True,
    )  # fmt: skip


def stunnel(folder: Path, name: str, accept: str, connect: str, client: bool, peer: str) -> Path:
    """Writes the settings of one end of a tunnel that asks the other for its certificate."""
    path = folder / f"{name}-{accept.replace(':', '-')}.conf"
    path.write_text(
        f"foreground = yes\npid =\n[worker]\nclient = {'yes' if client else 'no'}\n"
        f"accept = {accept}\nconnect = {connect}\ncert = {folder / name}.crt\n"
        f"key = {folder / name}.key\nCAfile = {folder / peer}.crt\nverifyPeer = yes\n"
    )
    return path


def test_a_tunnel_lets_in_only_who_has_the_certificate(hosts, tmp_path, expected):
    """Mutual TLS by stunnel, with the worker's own port shut by the rule from above."""
    for program in ("stunnel4", "openssl", "iptables"):
        if not shutil.which(program):
            pytest.skip(f"{program} is not installed")
    host, tunnels = hosts[0], []
    for name in ("driver", "worker", "stranger"):
        certificate(tmp_path, name)
    rule = ["INPUT", "-p", "tcp", "--dport", str(PORT), "!", "-i", "lo", "-j", "DROP"]
    subprocess.run(host.command("iptables", "-A", *rule), check=True)
    tls, local, other = f"{host.address}:8443", "127.0.0.1:18471", "127.0.0.1:18472"
    try:
        at_worker = stunnel(tmp_path, "worker", tls, f"127.0.0.1:{PORT}", False, "driver")
        host.start("stunnel4", at_worker)
        for name, accept in (("driver", local), ("stranger", other)):
            settings = stunnel(tmp_path, name, accept, tls, True, "worker")
            tunnels.append(subprocess.Popen(["stunnel4", settings], stderr=subprocess.DEVNULL))
        with connect_workers([local], ready_within=15) as one:
            result = round_of(OverWorkers(PER_CLIENT, one), expected[0], epochs=LONG)
            assert difference(result, expected[1]) < 1e-5
        for address in (other, f"{host.address}:{PORT}"):  # a stranger; the way past the tunnel
            with pytest.raises(WorkersLost, match=f"{address} did not answer"):
                connect_workers([address], ready_within=3)
    finally:
        for tunnel in tunnels:
            tunnel.kill()
            tunnel.wait()
        subprocess.run(host.command("iptables", "-D", *rule), check=True)


def test_a_namespace_of_its_own_has_no_way_in():
    """Driver and workers run where the loopback is the only interface."""
    inside = (
        "import psutil\nfrom worker_rounds import LOCAL, PER_CLIENT, difference, round_of\n"
        "from stateful_tff.engines.workers import OverWorkers, start_workers\n"
        "with start_workers(2, ready_within=60) as two:\n"
        "    start = LOCAL.initialize()\n"
        "    shared = round_of(OverWorkers(PER_CLIENT, two), start, 6)\n"
        "    assert difference(shared[0], round_of(LOCAL, start, 6)[0]) < 1e-6\n"
        "print('interfaces', *psutil.net_if_addrs())\n"
    )
    alone = ["unshare", "--net", "--map-root-user"]
    tried = subprocess.run([*alone, "ip", "link"], capture_output=True, text=True)
    if tried.returncode:
        pytest.skip(f"a namespace cannot be made here: {tried.stderr.strip()}")
    tests = Path(__file__).parent
    done = subprocess.run(
        [*alone, "bash", "-c", 'ip link set lo up && exec "$0" -c "$1"', sys.executable, inside],
        env=os.environ | {"PYTHONPATH": f"{tests.parents[1] / 'notebooks'}{os.pathsep}{tests}"},
        capture_output=True, text=True, timeout=180,
    )  # fmt: skip
    assert done.stdout.split() == ["interfaces", "lo"], done.stderr
