#!/usr/bin/env python3
"""Links that lose, delay and cut, and a disk that fills: what a client sees, and that the gateway goes on.

usage: tests/faults/links.py [WARDGATE] [--only NAME,...]

WARDGATE is target/debug/wardgate unless given. Three network namespaces of our own, in a row: clients,
the gateway, backends. Needs ip, tc and nft, and either root or user namespaces that anybody may make; says
which is missing, with exit status 3. Prints one table; exit status 1 if a client saw what it must not, or
if the gateway did not go on. Takes half a minute, and ends after five at the latest. Nothing outside the
namespaces is touched.

Bounds of time tell what has to be from what must not be: a busy machine may take several times what a
quiet one does.
"""

import argparse
import asyncio
import contextlib
import ctypes
import hashlib
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "bench"))
import programs  # noqa: E402

CLONE_NEWNET, IMPOSSIBLE, MOST = 0x40000000, 3, 300.0
# What is started here ends with us, however we end.
TIED = ["setpriv", "--pdeathsig", "KILL"]
BIG = b"0123456789abcdef" * 65536
WEB, ADMIN = ("10.1.0.1", 8080), ("127.0.0.1", 2019)
ORIGIN, DELAYED, OTHER = ("10.2.0.2", 9000), ("10.2.0.2", 9002), ("10.2.0.3", 9000)

CONFIG = """
listeners: {{ web: {{ bind: "10.1.0.1:8080", protocol: http, keepalive: 1s }} }}
sites:
  "*":
    routes:
      - {{ match: {{ path: /two }}, upstream: two }}
      - {{ match: {{ path: /delayed }}, upstream: "http://10.2.0.2:9002" }}
      - {{ match: {{ path: /lossy/* }}, upstream: lossy, rewrite: {{ strip_prefix: /lossy }} }}
      - {{ match: {{ path: /ports/* }}, upstream: ports, rewrite: {{ strip_prefix: /ports }} }}
      - {{ match: {{ path: /port/* }}, upstream: port, rewrite: {{ strip_prefix: /port }} }}
      - {{ upstream: app }}
upstreams:
  app: {{ servers: "http://10.2.0.2:9000", timeouts: {{ connect: 1s, response: 2s, read: 2s }} }}
  lossy: {{ servers: "http://10.2.0.2:9000", timeouts: {{ connect: 20s, response: 20s, read: 20s }} }}
  two:
    servers: ["http://10.2.0.2:9000", "http://10.2.0.3:9000"]
    health: {{ path: /, every: 500ms, timeout: 300ms, unhealthy_after: 2, healthy_after: 1 }}
    retry: {{ attempts: 3, after: [connect, reset] }}
    timeouts: {{ connect: 500ms, response: 2s }}
  ports: {{ servers: ["http://10.2.0.2:9000", {{ url: "http://10.2.0.3:9000", backup: true }}] }}
  port: {{ servers: "http://10.2.0.2:9000", retry: {{ attempts: 1 }} }}
limits: {{ idle_timeout: 3s, request_body_timeout: 3s, request_header_timeout: 20s }}
storage: storage
admin: {{ bind: "127.0.0.1:2019" }}
log: {{ access: {{ file: {logs}/access.log }} }}
"""


class Wrong(Exception):
    """What must not be."""


def need(condition, what):
    if not condition:
        raise Wrong(what)


def sh(command, pid=None):
    """Runs a command, in the network namespace of another process if one is given."""
    inside = ["nsenter", "-t", str(pid), "-n"] if pid else []
    done = subprocess.run([*inside, "sh", "-c", command], capture_output=True, text=True)
    if done.returncode:
        raise Wrong(f"{command}: {done.stderr.strip()}")


@contextlib.contextmanager
def inside(pid):
    """Sockets that are made here belong to the network namespace of that process."""
    libc, own = ctypes.CDLL(None, use_errno=True), os.open("/proc/self/ns/net", os.O_RDONLY)
    other = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY)
    try:
        if libc.setns(other, CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "setns")
        yield
    finally:
        libc.setns(own, CLONE_NEWNET)
        os.close(own)
        os.close(other)


class Net:
    """The namespaces of clients and backends, each with a link to ours."""

    def __init__(self):
        self.holders = [subprocess.Popen([*TIED, "unshare", "-n", "sleep", "600"]) for _ in range(2)]
        self.clients, self.backends = (holder.pid for holder in self.holders)
        own = os.readlink("/proc/self/ns/net")
        for pid in (self.clients, self.backends):
            end = time.monotonic() + 5
            while os.readlink(f"/proc/{pid}/ns/net") == own and time.monotonic() < end:
                time.sleep(0.01)
        sh("ip link set lo up")
        for name, pid, net in (("clients", self.clients, 1), ("backends", self.backends, 2)):
            sh(f"ip link add {name} type veth peer name far netns {pid}")
            sh(f"ip addr add 10.{net}.0.1/24 dev {name} && ip link set {name} up")
            sh(f"ip link set lo up && ip link set far up && ip addr add 10.{net}.0.2/24 dev far", pid)
        sh("ip addr add 10.2.0.3/24 dev far", self.backends)
        # A peer that is silent for a second and does not answer three times is gone.
        sh("echo 1 >/proc/sys/net/ipv4/tcp_keepalive_intvl; echo 3 >/proc/sys/net/ipv4/tcp_keepalive_probes")

    @contextlib.contextmanager
    def rule(self, pid, rule):
        """A rule of nft for what comes in there."""
        text = f"table ip t {{ chain c {{ type filter hook input priority 0; {rule}; }}; }}"
        sh(f"printf '%s' '{text}' | sed 's/; }}; }}/\\n}}\\n}}\\n/; s/{{ /{{\\n/g; s/; /\\n/g' | nft -f -", pid)
        try:
            yield
        finally:
            sh("nft delete table ip t", pid)

    @contextlib.contextmanager
    def rate(self, link, rate):
        sh(f"tc qdisc add dev {link} root tbf rate {rate} burst 16kb latency 200ms")
        try:
            yield
        finally:
            sh(f"tc qdisc del dev {link} root")

    def end(self):
        for holder in self.holders:
            holder.kill()
            holder.wait()


class Origins:
    """The backends: what they do is in the path."""

    def __init__(self, net):
        self.net, self.open, self.servers = net, 0, []

    async def start(self):
        for address, serve in ((ORIGIN, self.serve), (OTHER, self.serve), (DELAYED, self.delay)):
            with inside(self.net.backends):
                sock = socket.create_server(address)
            self.servers.append(await asyncio.start_server(serve, sock=sock))

    async def serve(self, reader, writer):
        self.open += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
                body = await reader.readexactly(int(length[1])) if length else b""
                path = head.split(b" ")[1]
                if path == b"/tunnel":
                    writer.write(b"HTTP/1.1 101 X\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
                    while got := await reader.read(1000):
                        writer.write(got)
                    return
                answer = {b"/big": BIG, b"/trickle": BIG}.get(path, hashlib.sha1(body).hexdigest().encode())
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(answer))
                for at in range(0, len(answer), 16384):
                    writer.write(answer[at : at + 16384])
                    await writer.drain()
                    await asyncio.sleep(0.05 if path == b"/trickle" else 0)
        except (OSError, EOFError, asyncio.CancelledError):
            pass
        finally:
            self.open -= 1
            writer.transport.abort()

    async def delay(self, reader, writer):
        """A relay to the origin whose every byte is 150 ms late, both ways."""
        with inside(self.net.backends):
            sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, ORIGIN)
        behind = await asyncio.open_connection(sock=sock)

        async def relay(source, sink):
            with contextlib.suppress(OSError):
                while got := await source.read(65536):
                    asyncio.get_running_loop().call_later(0.15, sink.write, got)
                await asyncio.sleep(0.2)
                sink.close()

        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(relay(reader, behind[1]), relay(behind[0], writer))


class Scene:
    """The gateway between the two, and its clients."""

    def __init__(self, program, net, origins, directory):
        self.net, self.origins, self.directory = net, origins, pathlib.Path(directory)
        self.logs = self.directory / "logs"
        self.logs.mkdir()
        sh(f"mount -t tmpfs -o size=128k none {self.logs}")
        (self.directory / "gateway.yaml").write_text(CONFIG.format(logs=self.logs))
        self.errors = (self.directory / "gateway.err").open("wb")
        command = [*TIED, program, "run", "gateway.yaml"]
        self.process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=self.errors)

    async def ready(self):
        end = time.monotonic() + 20
        while time.monotonic() < end and self.process.poll() is None:
            with contextlib.suppress(OSError, Wrong, EOFError):
                if (await self.get("/"))[0] == 200:
                    return
            await asyncio.sleep(0.1)
        raise Wrong(f"the gateway does not serve:\n{(self.directory / 'gateway.err').read_text()}")

    async def connect(self, at_home=False):
        """From the clients' namespace, or from the gateway's own."""
        with contextlib.nullcontext() if at_home else inside(self.net.clients):
            sock = socket.socket()
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, WEB)
        return await asyncio.open_connection(sock=sock)

    async def get(self, path, body=None, at_home=False, patience=30):
        """Status (or "cut") and body."""
        async with asyncio.timeout(patience):
            reader, writer = await self.connect(at_home)
            try:
                return await self.ask(reader, writer, path, body)
            finally:
                writer.transport.abort()

    async def ask(self, reader, writer, path, body=None):
        length = "" if body is None else f"Content-Length: {len(body)}\r\n"
        method = "GET" if body is None else "PUT"
        writer.write(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{length}\r\n".encode() + (body or b""))
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            size = int(re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)[1])
            return int(head[9:12]), await reader.readexactly(size)
        except (EOFError, ConnectionError):
            return "cut", b""

    def metric(self, name):
        with urllib.request.urlopen("http://%s:%d/metrics" % ADMIN, timeout=10) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if re.match(rf"{name}[ {{]", line))

    async def until(self, what, seconds, reached):
        end = time.monotonic() + seconds
        while not await asyncio.to_thread(reached):
            need(time.monotonic() < end, f"{what} not within {seconds} s")
            await asyncio.sleep(0.1)

    def memory(self):
        status = pathlib.Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(r"VmHWM:\s+(\d+)", status)[1]) / 1024


def timed(began):
    return f"{time.monotonic() - began:.1f} s"


# The cases: each returns what the client saw.


async def loss(scene):
    """Every twelfth packet is lost on both links, both ways."""
    drop = "numgen random mod 100 < 8 drop"
    with scene.net.rule(scene.net.clients, drop), scene.net.rule(scene.net.backends, drop):
        began = time.monotonic()
        answers = await asyncio.gather(*(scene.get(f"/lossy/{path}") for path in ["x", "big"] * 8))
        uploads = await asyncio.gather(*(scene.get("/lossy/up", BIG[: 1 << 18]) for _ in range(4)))
    need(all(status == 200 for status, _ in answers + uploads), [status for status, _ in answers + uploads])
    need(all(body == BIG for _, body in answers[1::2]), "another body")
    need(all(body.decode() == hashlib.sha1(BIG[: 1 << 18]).hexdigest() for _, body in uploads), "another upload")
    return f"20 of 20 right, in {timed(began)}"


async def delay(scene):
    """The backend is 300 ms away."""
    began = time.monotonic()
    answers = await asyncio.gather(*(scene.get("/delayed") for _ in range(20)))
    took = time.monotonic() - began
    need(all(status == 200 for status, _ in answers), answers)
    need(took < 3, f"{took:.1f} s for 20 at once")
    return f"20 of 20 at once, in {took:.1f} s"


async def slow_link(scene):
    """The clients' link carries 4 Mbit/s: others do not wait, and nothing piles up."""
    before = scene.memory()
    with scene.net.rate("clients", "4mbit"):
        slow = [asyncio.create_task(scene.get("/big")) for _ in range(2)]
        await asyncio.sleep(0.5)
        began = time.monotonic()
        need((await scene.get("/", at_home=True))[0] == 200, "somebody else")
        other = time.monotonic() - began
        answers = await asyncio.gather(*slow)
    need(all((status, body) == (200, BIG) for status, body in answers), [status for status, _ in answers])
    need(other < 3, f"somebody else waited {other:.1f} s")
    need(scene.memory() - before < 16, f"{scene.memory() - before:.0f} MiB more")
    return f"2 MiB whole; somebody else waited {other * 1e3:.0f} ms"


async def small_packets(scene):
    """Links of 600 bytes."""
    links = [("clients", None), ("backends", None), ("far", scene.net.clients), ("far", scene.net.backends)]
    try:
        for link, pid in links:
            sh(f"ip link set {link} mtu 600", pid)
        need((await scene.get("/big")) == (200, BIG), "download")
        need((await scene.get("/up", BIG))[0] == 200, "upload")
    finally:
        for link, pid in links:
            sh(f"ip link set {link} mtu 1500", pid)
    return "1 MiB whole, both ways"


async def cut_backend_before_the_answer(scene):
    """The backends' link is cut: nobody hears anything."""
    with scene.net.rule(scene.net.backends, "drop"):
        began = time.monotonic()
        answers = await asyncio.gather(*(scene.get("/") for _ in range(5)))
        took = time.monotonic() - began
    need(all(status in (502, 504) for status, _ in answers), [status for status, _ in answers])
    need(took < 10, f"{took:.1f} s")
    return f"{sorted({status for status, _ in answers})} in {took:.1f} s"


async def cut_backend_in_the_answer(scene):
    """The backends' link is cut while an answer comes."""
    running = asyncio.create_task(scene.get("/trickle"))
    await asyncio.sleep(0.5)
    began = time.monotonic()
    with scene.net.rule(scene.net.backends, "drop"):
        status, _ = await running
    need(status == "cut", status)
    need(time.monotonic() - began < 10, timed(began))
    return f"a cut that shows, after {timed(began)}"


async def reset_by_the_backend(scene):
    """Every packet to the backend is answered with a reset, kept connections included."""
    need((await scene.get("/"))[0] == 200, "before")
    with scene.net.rule(scene.net.backends, "meta l4proto tcp reject with tcp reset"):
        began = time.monotonic()
        status, _ = await scene.get("/")
    need(status == 502, status)
    need(time.monotonic() - began < 10, timed(began))
    return f"502 after {timed(began)}"


async def backend_unplugged(scene):
    """The link to the backends is down, and comes back."""
    sh("ip link set backends down")
    try:
        began = time.monotonic()
        status, _ = await scene.get("/")
        took = time.monotonic() - began
        need(status in (502, 504), status)
        need(took < 10, f"{took:.1f} s")
    finally:
        sh("ip link set backends up")
    # The kernel takes a moment to find its neighbours again.
    end = time.monotonic() + 15
    while (await scene.get("/"))[0] != 200:
        need(time.monotonic() < end, "the link is back, and requests are not served")
    return f"{status} after {took:.1f} s"


async def one_of_two_backends_vanishes(scene):
    """One of two addresses hears nothing more: no request fails."""
    both = lambda: scene.metric("wardgate_upstream_endpoint_healthy") == 2  # noqa: E731
    await scene.until("two healthy servers", 20, both)
    with scene.net.rule(scene.net.backends, "ip daddr 10.2.0.2 drop"):
        began = time.monotonic()
        answers = [await scene.get("/two") for _ in range(30)]
        longest = time.monotonic() - began
        need(all(status == 200 for status, _ in answers), [status for status, _ in answers])
        healthy = lambda: scene.metric("wardgate_upstream_endpoint_healthy") == 1  # noqa: E731
        await scene.until("an unhealthy server", 15, healthy)
        began = time.monotonic()
        answers = [await scene.get("/two") for _ in range(20)]
        need(all(status == 200 for status, _ in answers), [status for status, _ in answers])
        need(time.monotonic() - began < 4, timed(began))  # trying it would take 5
    await scene.until("two healthy servers", 20, both)
    return f"50 of 50 right, the first 30 in {longest:.1f} s"


async def cut_client_in_a_download(scene):
    """A client vanishes in the middle of its answer: everything that was held for it is let go."""
    reader, writer = await scene.connect()
    writer.write(b"GET /trickle HTTP/1.1\r\nHost: a\r\n\r\n")
    await reader.readexactly(1000)
    began = time.monotonic()
    with scene.net.rule(scene.net.clients, "drop"):
        await scene.until("the end of its connection", 30, lambda: scene.metric("wardgate_connections") == 0)
        took = timed(began)
    writer.transport.abort()
    return f"let go after {took}"


async def cut_client_in_an_upload(scene):
    """A client vanishes in the middle of its body."""
    _, writer = await scene.connect()
    writer.write(b"PUT /up HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n" + bytes(1000))
    await asyncio.sleep(0.3)
    began = time.monotonic()
    with scene.net.rule(scene.net.clients, "drop"):
        await scene.until("the end of its request", 20, lambda: scene.metric("wardgate_requests_in_flight") == 0)
        took = timed(began)
        await scene.until("the end of its connection", 30, lambda: scene.metric("wardgate_connections") == 0)
    writer.transport.abort()
    return f"let go after {took}"


async def client_vanishes_from_a_tunnel(scene):
    """A client vanishes from a tunnel on which nothing is said: the kernel's probes find it."""
    reader, writer = await scene.connect()
    writer.write(b"GET /tunnel HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: raw\r\n\r\n")
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"hello")
    need(await reader.readexactly(5) == b"hello", "the tunnel")
    began = time.monotonic()
    with scene.net.rule(scene.net.clients, "drop"):
        await scene.until("the end of the tunnel", 30, lambda: scene.metric("wardgate_connections") == 0)
        took = timed(began)
    writer.transport.abort()
    return f"let go after {took}"


async def out_of_ports(scene):
    """Every local port towards one of two backends is taken."""
    setting = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")
    before, log = setting.read_text(), scene.directory / "gateway.err"
    begin = log.stat().st_size
    try:
        setting.write_text("50000 50003")
        held = [asyncio.create_task(scene.get("/ports/trickle")) for _ in range(7)]
        # Twice as long as it takes to find a backend unhealthy.
        await asyncio.sleep(2)
        alone, _ = await scene.get("/port/x")
        answers = await asyncio.gather(*held)
    finally:
        setting.write_text(before)
    need(all(answer == (200, BIG) for answer in answers), [status for status, _ in answers])
    need(alone == 503, f"{alone} where there is one backend")
    told = log.read_text()[begin:]
    need("out of ports to a server" in told and "ip_local_port_range" in told, "nothing in the log")
    need("became unhealthy" not in told, "a backend is thought to be unhealthy")
    return "7 of 7, though one has 4 ports; 503 where there is no other"


async def full_disk(scene):
    """The disk of the access log is full, and has room again."""
    filler, log = scene.logs / "filler", scene.logs / "access.log"
    with contextlib.suppress(OSError):
        with filler.open("wb", buffering=0) as file:
            while file.write(b"x" * 1024):
                pass
    for _ in range(80):
        need((await scene.get("/"))[0] == 200, "a request while the disk is full")
    await scene.until("lost lines", 15, lambda: scene.metric("wardgate_access_lines_dropped_total") > 0)
    filler.unlink()
    need((await scene.get("/after"))[0] == 200, "a request afterwards")
    await scene.until("the next line", 20, lambda: b'"/after"' in log.read_bytes())
    lines = log.read_bytes().decode().splitlines()
    torn = 0
    for line in lines:
        try:
            json.loads(line)
        except ValueError:
            torn += 1
    need(torn <= 1, f"{torn} torn lines")
    lost = scene.metric("wardgate_access_lines_dropped_total")
    return f"81 of 81 answered, {lost:.0f} lines lost and counted, {torn} torn"


CASES = [
    loss,
    delay,
    slow_link,
    small_packets,
    cut_backend_before_the_answer,
    cut_backend_in_the_answer,
    reset_by_the_backend,
    backend_unplugged,
    one_of_two_backends_vanishes,
    cut_client_in_a_download,
    cut_client_in_an_upload,
    client_vanishes_from_a_tunnel,
    out_of_ports,
    full_disk,
]


async def run(program, only):
    net, wrong = Net(), 0
    with tempfile.TemporaryDirectory() as directory:
        scene = None
        try:
            origins = Origins(net)
            await origins.start()
            scene = Scene(program, net, origins, directory)
            await scene.ready()
            pid = scene.process.pid
            print("| fault | what the client saw | afterwards |\n| --- | --- | --- |")
            for case in [case for case in CASES if not only or case.__name__ in only]:
                try:
                    seen = await case(scene)
                except (Wrong, TimeoutError, OSError, EOFError) as error:
                    seen, wrong = f"WRONG: {error or type(error).__name__}", wrong + 1
                # It goes on: the same process, and the next request is served.
                try:
                    began = time.monotonic()
                    status, _ = await scene.get("/", patience=10)
                    need(scene.process.poll() is None and scene.process.pid == pid, "another process")
                    need(status == 200, status)
                    after = f"served in {(time.monotonic() - began) * 1e3:.0f} ms"
                except (Wrong, TimeoutError, OSError, EOFError) as error:
                    after, wrong = f"WRONG: {error or type(error).__name__}", wrong + 1
                print(f"| {case.__doc__.strip().rstrip('.')} | {seen} | {after} |", flush=True)
            await scene.until("no connection left", 20, lambda: scene.metric("wardgate_connections") == 0)
            need(scene.metric("wardgate_panics_total") == 0, "a panic")
            scene.process.send_signal(signal.SIGTERM)
            need(await asyncio.to_thread(scene.process.wait, 20) == 0, "its end")
        except Wrong as error:
            print(f"WRONG: {error}")
            wrong += 1
        finally:
            if scene:
                scene.process.kill()
                scene.process.wait()
                subprocess.run(["umount", str(scene.logs)])
            net.end()
    return 1 if wrong else 0


# What the cases do to their namespaces, tried at once: a kernel or a container may lack any of it.
PROBES = {
    "a pair of links": "ip link add probe type veth peer name other && ip link set probe up",
    "a link with a rate": "tc qdisc add dev probe root tbf rate 4mbit burst 16kb latency 200ms",
    "a rule that loses packets": "printf 'table ip t {\\nchain c {\\ntype filter hook input priority 0\\n"
    "numgen random mod 100 < 8 drop\\nmeta l4proto tcp reject with tcp reset\\n}\\n}\\n' | nft -f -",
    "a setting of the namespace": "echo 3 >/proc/sys/net/ipv4/tcp_keepalive_probes",
    "a file system": "mount -t tmpfs -o size=128k none /tmp",
    "a namespace below": "unshare -n true",
}


def enter(arguments):
    """Starts this again in namespaces of its own, or says what is missing."""
    missing = [tool for tool in ("ip", "tc", "nft", "unshare", "nsenter", "setpriv") if not shutil.which(tool)]
    if missing:
        print(f"missing: {', '.join(missing)} (iproute2, nftables, util-linux)", file=sys.stderr)
        sys.exit(IMPOSSIBLE)
    users = [[], ["--user", "--map-root-user"]]
    for kinds in ([*user, "--net", "--mount"] for user in users[0 if os.geteuid() == 0 else 1 :]):
        probe = subprocess.run(["unshare", *kinds, "true"], capture_output=True, text=True)
        if probe.returncode == 0:
            break
    else:
        print(
            f"namespaces cannot be made here: {probe.stderr.strip()}. This takes root (with CAP_SYS_ADMIN, which "
            "containers lack by default), or user namespaces that anybody may make",
            file=sys.stderr,
        )
        sys.exit(IMPOSSIBLE)
    for what, command in PROBES.items():
        before = [step for step in PROBES.values() if step.startswith("ip ")]
        steps = " && ".join(dict.fromkeys([*before, command]))
        probe = subprocess.run(["unshare", *kinds, "sh", "-c", steps], capture_output=True, text=True)
        if probe.returncode:
            print(f"{what} cannot be made in a namespace here: {probe.stderr.strip()}", file=sys.stderr)
            sys.exit(IMPOSSIBLE)
    os.execvp("unshare", ["unshare", *kinds, sys.executable, __file__, "--inside", *arguments])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="target/debug/wardgate", metavar="WARDGATE")
    parser.add_argument("--only", default="")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.program).resolve(strict=True))
    if not arguments.inside:
        enter(sys.argv[1:])
    only = set(filter(None, arguments.only.split(",")))
    sys.exit(asyncio.run(programs.bounded(run(program, only), MOST)))


if __name__ == "__main__":
    main()
