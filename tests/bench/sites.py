#!/usr/bin/env python3
"""What 10,000 sites with as many certificates cost, beside one.

usage: .cache/judges/bin/python tests/bench/sites.py [WARDGATE] [--sites 10000] [--rounds 5] [--seconds 3]

WARDGATE is target/release/wardgate unless given. Needs wrk and nginx, and Python's cryptography; takes
some minutes, most of them for making certificates, prints two tables to standard output, and ends by
itself. Everything is on loopback; only what was started here is ended.

Two gateways run side by side, one with one site and one with SITES sites, each site with a certificate
of its own from files (P-256) but for the last, whose certificate the local CA makes. Rounds alternate
between them, and every figure of the second table is the median.

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
local draw = math.random
request = function()
  return "GET / HTTP/1.1\\r\\nHost: site" .. draw(0, number - 1) .. ".example.test\\r\\n\\r\\n"
end
"""


class Gateway:
    def __init__(self, program, directory, sites, backend):
        self.program, self.directory, self.sites = str(pathlib.Path(program).resolve()), directory, sites
        self.plain, self.tls, self.admin = (programs.free_port() for _ in range(3))
        directory.mkdir()
        (directory / "certs").mkdir()
        self.certify(range(sites - 1))
        named = range(sites - 1)
        lines = [
            "listeners:",
            f'  plain: {{ bind: "127.0.0.1:{self.plain}", protocol: http }}',
            f'  secure: {{ bind: "127.0.0.1:{self.tls}", protocol: https }}',
            f'admin: {{ bind: "127.0.0.1:{self.admin}" }}',
            "storage: state",
            "log: { access: { file: access.log } }",
            f'upstreams: {{ app: {{ servers: ["http://127.0.0.1:{backend}"] }} }}',
        ]
        if named:
            lines.append("certificates:")
        lines += [f"  c{each}: {{ chain: certs/{each}.pem, key: certs/{each}.key }}" for each in named]
        lines.append("sites:")
        for each in range(sites):
            certificate = f"c{each}" if each in named else "internal"
            site = f"{{ certificate: {certificate}, https: both, upstream: app }}"
            lines.append(f"  site{each}.example.test: {site}")
        (directory / "gateway.yaml").write_text("\n".join(lines) + "\n")

    def certify(self, numbers):
        key = ec.generate_private_key(ec.SECP256R1())
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        now = datetime.datetime.now(datetime.timezone.utc)
        for number in numbers:
            host = f"site{number}.example.test"
            name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, host)])
            built = x509.CertificateBuilder().subject_name(name).issuer_name(name)
            built = built.public_key(key.public_key()).serial_number(x509.random_serial_number())
            built = built.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=60))
            built = built.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), False)
            pem = built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
            (self.directory / f"certs/{number}.pem").write_bytes(pem)
            (self.directory / f"certs/{number}.key").write_bytes(key.private_bytes(*form))

    def start(self):
        begun = time.monotonic()
        self.process = programs.start([self.program, "run", "gateway.yaml"], self.directory)
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

    def load(self, script, seconds):
        before = self.cpu()
        address = f"http://127.0.0.1:{self.plain}/"
        command = ["wrk", "-t1", "-c16", f"-d{seconds}s", "-s", str(script), address]
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        requests = int(said.split(" requests in ")[0].split()[-1])
        if "Non-2xx" in said:
            raise RuntimeError(said)
        return (self.cpu() - before) / requests * 1e6

    def handshakes(self, count):
        context = ssl.create_default_context()
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        before = self.cpu()
        for _ in range(count):
            name = f"site{random.randrange(self.sites)}.example.test"
            with socket.create_connection(("127.0.0.1", self.tls)) as connection:
                with context.wrap_socket(connection, server_hostname=name) as tls:
                    tls.sendall(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
                    assert tls.recv(65536).startswith(b"HTTP/1.1 200")
        return (self.cpu() - before) / count * 1e6


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wardgate", nargs="?", default="target/release/wardgate")
    parser.add_argument("--sites", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=3)
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
    gateways = [Gateway(args.wardgate, directory / str(sites), sites, backend) for sites in (1, args.sites)]
    rows, scripts = [], []
    for gateway in gateways:
        begun = [f"{gateway.start():.2f} ({gateway.cpu():.2f})"]
        started.append(gateway.process)
        time.sleep(3)
        begun += [f"{gateway.check():.2f}", f"{gateway.memory():.0f}"]
        if gateway.sites > 1:
            gateway.certify([0])
            begun += [f"{gateway.reload():.2f}", f"{gateway.reload():.2f}", f"{gateway.memory():.0f}"]
        else:
            begun += ["", f"{gateway.reload():.2f}", f"{gateway.memory():.0f}"]
        rows.append([str(gateway.sites), *begun])
        script = gateway.directory / "hosts.lua"
        script.write_text(HOSTS.format(sites=gateway.sites))
        scripts.append(script)
    head = ["sites", "start", "check", "memory", "one file", "nothing", "memory after"]
    print(programs.markdown(head, rows), end="\n\n", flush=True)
    requests, shakes = ([], []), ([], [])
    for gateway, script in zip(gateways, scripts):
        gateway.load(script, 2)
    for _ in range(args.rounds):
        for place, (gateway, script) in enumerate(zip(gateways, scripts)):
            requests[place].append(gateway.load(script, args.seconds))
            shakes[place].append(gateway.handshakes(1000))
    rows = []
    for what, values in (("request", requests), ("handshake", shakes)):
        one, many = (statistics.median(each) for each in values)
        rows.append([what, f"{one:.1f}", f"{many:.1f}", f"{many / one:.3f}"])
    print(programs.markdown(["CPU µs", "1 site", f"{args.sites} sites", "ratio"], rows))


if __name__ == "__main__":
    sys.exit(main())
