#!/usr/bin/env python3
"""What 10,000 sites with as many certificates cost, beside one.

usage: ./dev bench sites [WARDGATE] [--sites 10000] [--rounds 30] [--write]

WARDGATE is target/release/wardgate unless given. Needs two cores, wrk, nginx and taskset, and Python's
cryptography; takes some minutes, most of them for making certificates, prints two tables (with --write
into docs/benchmarks.md as well), and ends by itself. Everything is on loopback; only what was started here is ended.

Two gateways run side by side, one with one site and one with SITES sites, each site with a certificate
of its own from files (P-256); of the many, the last has one that the local CA makes. All names are of
the same length, all sites have one pool, and nothing but the sites tells the gateways apart. (With a
pool to each site, connections to backends would be made anew more often, which is no look-up.)

For the second table both gateways run on the first core, the load and the backend on the other, and
rounds of a second alternate between the gateways, each pair in the other order than the one before. A
ratio is the median of what it is within each pair, and in brackets are its quartiles.

start        s from the start of the process to the log line that says it is ready, and of these s on a
             processor
check        s that `wardgate check` takes
memory       MiB in use when ready (RSS)
one file     s from `POST /reload`, after one certificate was replaced, to its answer
nothing      the same when no file has changed
request      CPU µs of the gateway for a kept plain HTTP/1.1 request of 1 KiB, Host drawn among all
             sites
handshake    CPU µs for a full TLS 1.3 handshake and its request, server name drawn among all sites
"""

import argparse
import datetime
import os
import pathlib
import random
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

import programs

HOSTS = """
local number = {sites}
local draw, form = math.random, string.format
request = function()
  return form("GET / HTTP/1.1\\r\\nHost: site%0{width}d.example.test\\r\\n\\r\\n", draw(0, number - 1))
end
"""

GATEWAY_CORE, LOAD_CORE = 0, 1
HANDSHAKES = 300


class Gateway:
    def __init__(self, program, directory, sites, width, backend):
        self.program, self.directory = str(pathlib.Path(program).resolve()), directory
        self.sites, self.width = sites, width
        self.plain, self.tls, self.admin = (programs.free_port() for _ in range(3))
        directory.mkdir()
        (directory / "certs").mkdir()
        named = range(max(sites - 1, 1))
        self.certify(named)
        lines = [
            "listeners:",
            f'  plain: {{ bind: "127.0.0.1:{self.plain}", protocol: http }}',
            f'  secure: {{ bind: "127.0.0.1:{self.tls}", protocol: https }}',
            f'admin: {{ bind: "127.0.0.1:{self.admin}" }}',
            "storage: state",
            "log: { access: { file: access.log } }",
            f'upstreams: {{ app: {{ servers: ["http://127.0.0.1:{backend}"] }} }}',
        ]
        lines.append("certificates:")
        lines += [f"  c{each}: {{ chain: certs/{each}.pem, key: certs/{each}.key }}" for each in named]
        lines.append("sites:")
        for each in range(sites):
            certificate = f"c{each}" if each in named else "internal"
            site = f"{{ certificate: {certificate}, https: both, upstream: app }}"
            lines.append(f"  {self.host(each)}: {site}")
        (directory / "gateway.yaml").write_text("\n".join(lines) + "\n")
        self.script = directory / "hosts.lua"
        self.script.write_text(HOSTS.format(sites=sites, width=width))

    def host(self, number):
        return f"site{number:0{self.width}}.example.test"

    def certify(self, numbers):
        key = ec.generate_private_key(ec.SECP256R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        now = datetime.datetime.now(datetime.timezone.utc)
        for number in numbers:
            host = self.host(number)
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
            built = x509.CertificateBuilder().subject_name(name).issuer_name(name)
            built = built.public_key(key.public_key()).serial_number(x509.random_serial_number())
            built = built.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=60))
            built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
            pem = built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            (self.directory / f"certs/{number}.pem").write_bytes(pem)
            (self.directory / f"certs/{number}.key").write_bytes(key.private_bytes(*form))

    def start(self, core=None):
        begun = time.monotonic()
        (self.directory / f"{pathlib.Path(self.program).name}.err").unlink(missing_ok=True)
        self.process = programs.start([self.program, "run", "gateway.yaml"], self.directory, core)
        while b'"ready"' not in self.process.said.read_bytes():
            if self.process.poll() is not None or time.monotonic() - begun > 600:
                raise RuntimeError(self.process.said.read_text()[-4000:])
            time.sleep(0.01)
        return time.monotonic() - begun

    def check(self):
        begun = time.monotonic()
        command = [self.program, "check", "gateway.yaml"]
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)
        return time.monotonic() - begun

    def memory(self):
        status = pathlib.Path("/proc", str(self.process.pid), "status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1024

    def cpu(self):
        """Seconds on a processor, to the nanosecond; no thread ends while it is compared."""
        threads = pathlib.Path("/proc", str(self.process.pid), "task").glob("*/schedstat")
        return sum(int(thread.read_text().split()[0]) for thread in threads) / 1e9

    def reload(self):
        command = [self.program, "reload", "gateway.yaml"]
        begun = time.monotonic()
        subprocess.run(command, cwd=self.directory, check=True, capture_output=True)
        return time.monotonic() - begun

    def load(self):
        """CPU µs of a request."""
        before = self.cpu()
        address = f"http://127.0.0.1:{self.plain}/"
        command = ["wrk", "-t1", "-c16", "-d1s", "-s", str(self.script), address]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        requests = int(said.split(" requests in ")[0].split()[-1])
        if "Non-2xx" in said:
            raise RuntimeError(said)
        return (self.cpu() - before) / requests * 1e6

    def handshakes(self):
        """CPU µs of a handshake."""
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        before = self.cpu()
        for _ in range(HANDSHAKES):
            name = self.host(random.randrange(self.sites))
            with socket.create_connection(("127.0.0.1", self.tls)) as connection:
                with context.wrap_socket(connection, server_hostname=name) as tls:
                    tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                    assert tls.recv(65536).startswith(b"HTTP/1.1 200")
        return (self.cpu() - before) / HANDSHAKES * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wardgate", nargs="?", default="target/release/wardgate")
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        directory = pathlib.Path(name)
        directory.chmod(0o755)
        backend = programs.free_port()
        (directory / "www").mkdir()
        (directory / "www/index.html").write_text("x" * 1024)
        (directory / "backend.conf").write_text(programs.FILES_BACKEND.format(port=backend))
        started = [programs.start(["nginx", "-p", str(directory), "-c", "backend.conf"], directory)]
        try:
            programs.wait_for(started[0], backend)
            compare(args, directory, backend, started)
        finally:
            for process in reversed(started):
                programs.end(process)


def compare(args, directory, backend, started):
    width = len(str(args.sites - 1))
    gateways = [
        Gateway(args.wardgate, directory / str(sites), sites, width, backend) for sites in (1, args.sites)
    ]
    rows = []
    for gateway in gateways:
        rows.append([str(gateway.sites), *run_once(gateway)])
    head = ["sites", "start", "check", "memory", "one file", "nothing", "memory after"]
    first = programs.markdown(head, rows)
    print(first, end="\n\n", file=sys.stderr)
    os.sched_setaffinity(0, {LOAD_CORE})
    for child in programs.family(started[0]):
        os.sched_setaffinity(child, {LOAD_CORE})
    for gateway in gateways:
        gateway.start(GATEWAY_CORE)
        started.append(gateway.process)
        gateway.load()
    rows = []
    for what, measure in (("request", Gateway.load), ("handshake", Gateway.handshakes)):
        pairs = []
        for round in range(args.rounds):
            order = gateways if round % 2 else gateways[::-1]
            found = {gateway.sites: measure(gateway) for gateway in order}
            pairs.append((found[1], found[args.sites]))
        low, ratio, high = statistics.quantiles([many / one for one, many in pairs], n=4)
        one, many = map(statistics.median, zip(*pairs))
        rows.append([what, f"{one:.1f}", f"{many:.1f}", f"{ratio:.3f} ({low:.3f} to {high:.3f})"])
    second = programs.markdown(["CPU µs", "1 site", f"{args.sites} sites", "ratio"], rows)
    programs.show(f"{first}\n\n{second}", "sites", args)


def run_once(gateway):
    """The row of the first table. The gateway has ended afterwards."""
    try:
        row = [f"{gateway.start():.2f} ({gateway.cpu():.2f})"]
        time.sleep(3)
        row += [f"{gateway.check():.2f}", f"{gateway.memory():.0f}"]
        gateway.certify([0])
        row += [f"{gateway.reload():.2f}", f"{gateway.reload():.2f}", f"{gateway.memory():.0f}"]
        return row
    finally:
        programs.end(gateway.process)


if __name__ == "__main__":
    sys.exit(main())
