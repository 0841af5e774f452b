#!/usr/bin/env python3
"""Mixed traffic for as long as you like: does the gateway grow, and does anything go wrong?

usage: tests/bench/soak.py [WARDGATE] [--minutes 20] [--sample 5] [--csv FILE]

WARDGATE is target/release/wardgate unless given. Needs nginx, openssl, and the tests' Python packages,
here or in .venv. Everything is on loopback; only what was started here is ended. The rates are fixed,
so that clients, backends and gateway together take about half a core.

What goes on at once: requests on HTTP/1.1 connections that are kept, in new TLS handshakes, in resumed
ones and over HTTP/2; WebSockets that stay and some that are torn down; event streams; uploads with a
length and in chunks; downloads, slow readers and slow writers; limiters and compression; heads that
never end, garbage, clients that leave in the head, in a body and in an answer, streams that are reset;
backends that cut, reset, hang and answer garbage, one that comes and goes; a reload every ten seconds,
each with another certificate. Each kind knows what it has to see; anything else is a fault.

After a warm-up of a quarter of the time, a line is laid through the samples of memory, descriptors and
threads, and what it rises by until the end is held against a bound. Then the traffic ends, and every
connection and descriptor has to be given back. The exit status is 1 if anything was wrong.
"""

import argparse
import asyncio
import collections
import gzip
import logging
import os
import pathlib
import random
import re
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request

import programs
import reload
from reload import Closed, Http1, Http2

EVENT, SIZE, BIG = b"data: tick\n\n", 1024, 1 << 20
PATIENCE, SOCKETS = 30.0, 6
# The most that may be added after the warm-up. Memory goes up and down by as much with what happens to
# be under way; a leak of a kilobyte in each handshake would be 30 MiB.
MOST_MEMORY, MOST_DESCRIPTORS, MOST_THREADS = 10.0, 8.0, 0.5

CONFIG = """
listeners:
  web: {{ bind: "127.0.0.1:{web}", protocol: http }}
  secure: {{ bind: "127.0.0.1:{secure}", protocol: https }}
sites:
  bench.test:
    https: both
    certificate: mine
    filters: [ {{ response_headers: {{ set: {{ X-Round: "{number}" }} }} }} ]
    routes:
      - {{ match: {{ path: /reloads }}, respond: {{ status: 200, body: "{number}" }} }}
      - {{ match: {{ path: [/socket, /events, /upload] }}, upstream: special }}
      - {{ match: {{ path: /fault/* }}, upstream: faulty }}
      - {{ match: {{ path: /flap }}, upstream: flapping }}
      - {{ match: {{ path: /gone }}, upstream: gone }}
      - {{ match: {{ path: /text }}, upstream: app, filters: [ {{ compress: [gzip, br, zstd] }} ] }}
      - match: {{ path: /limited }}
        upstream: app
        filters: [ {{ rate_limit: {{ key: "header:X-Key", rate: 1/h, burst: 2 }} }} ]
      - {{ upstream: app }}
certificates: {{ mine: {{ chain: {certificate}.pem, key: {certificate}.key }} }}
upstreams:
  app: {{ servers: "http://127.0.0.1:{app}", timeouts: {{ response: {response}s, pool_idle: 5s }} }}
  special: {{ servers: "http://127.0.0.1:{special}", timeouts: {{ pool_idle: 5s }} }}
  faulty: {{ servers: "http://127.0.0.1:{special}", timeouts: {{ response: 5s, read: 5s, pool_idle: 5s }} }}
  flapping:
    servers: ["http://127.0.0.1:{app}", "http://127.0.0.1:{flapping}"]
    health: {{ path: /, every: 1s }}
    retry: {{ attempts: 3, after: [connect, reset], budget: 100% }}
    timeouts: {{ pool_idle: 5s }}
  gone:
    servers: "http://127.0.0.1:{flapping}"
    health: {{ tcp: true, every: 1s, healthy_after: 1 }}
    timeouts: {{ pool_idle: 5s }}
limits: {{ request_header_timeout: 5s, request_body_timeout: 10s, idle_timeout: 15s, handshake_timeout: 10s }}
storage: storage
admin: {{ bind: "127.0.0.1:{admin}" }}
runtime: {{ threads: 2 }}
log: {{ access: {{ file: access.log, rotate: 8MiB, keep: 2 }} }}
"""

BACKEND = """
daemon off; worker_processes 1; pid {name}.pid; error_log {name}.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; default_type text/plain;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 "{body}"; }}
    location /big {{ alias {directory}/big; }}
    location /text {{ alias {directory}/text; }}
  }}
}}
"""


class Unexpected(Exception):
    """An answer that is none of those which a kind of traffic may get."""


class Tally:
    """What was seen of each kind of traffic."""

    def __init__(self):
        self.done, self.notes = collections.Counter(), collections.Counter()
        self.faults, self.began = [], time.monotonic()

    def fault(self, kind, what):
        at = time.monotonic() - self.began
        self.faults.append(f"{at:7.1f} s  {kind}: {what}")
        print(self.faults[-1], file=sys.stderr)

    async def run(self, kind, action):
        try:
            async with asyncio.timeout(PATIENCE):
                note = await action()
        except Unexpected as error:
            self.fault(kind, error)
        except TimeoutError:
            self.fault(kind, "took too long")
        except (OSError, EOFError, ValueError, Closed) as error:
            self.fault(kind, repr(error))
        else:
            self.done[kind] += 1
            if note:
                self.notes[f"{kind}: {note}"] += 1


def need(condition, what):
    if not condition:
        raise Unexpected(what)


class Resuming(ssl.SSLContext):
    """Shows the session of the last connection in the next handshake."""

    last = None

    def wrap_bio(self, *arguments, **more):
        return super().wrap_bio(*arguments, session=self.last, **more)


class Traffic:
    """The kinds of traffic, each a method that does it once."""

    def __init__(self, ports, tally):
        self.ports, self.tally = ports, tally
        self.resuming = Resuming(ssl.PROTOCOL_TLS_CLIENT)
        self.resuming.check_hostname, self.resuming.verify_mode = False, ssl.CERT_NONE
        self.resuming.set_alpn_protocols(["http/1.1"])
        self.kept, self.sockets, self.h2, self.opening, self.turn = [], [], None, asyncio.Lock(), 0

    # Connections.

    async def plain(self):
        connection = Http1()
        connection.reader, connection.writer = await asyncio.open_connection("127.0.0.1", self.ports["web"])
        return connection

    async def secure(self):
        return await Http1.open(self.ports["secure"])

    # Requests and answers.

    async def ask(self, connection, path, fields="", method="GET", body=b""):
        head = f"{method} {path} HTTP/1.1\r\nHost: bench.test\r\n{fields}\r\n"
        connection.writer.write(head.encode() + body)
        return await self.answer(connection)

    async def answer(self, connection):
        """Status, head and body."""
        head = await connection.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
        if length:
            return int(head[9:12]), head, await connection.reader.readexactly(int(length[1]))
        body = b""
        if re.search(rb"\r\ntransfer-encoding: *chunked", head, re.IGNORECASE):
            while True:
                size = int((await connection.reader.readline()).split(b";")[0], 16)
                body += (await connection.reader.readexactly(size + 2))[:-2]
                if size == 0:
                    break
        return int(head[9:12]), head, body

    async def get_once(self, connection, path="/", size=SIZE, statuses=(200,)):
        try:
            status, _, body = await self.ask(connection, path, "Connection: close\r\n")
            need(status in statuses, f"{path}: {status}")
            need(status != 200 or len(body) == size, f"{path}: {len(body)} bytes")
            return status
        finally:
            connection.close()

    # What is served.

    async def plain_request(self):
        await self.get_once(await self.plain())

    async def kept_request(self):
        connection = self.kept.pop() if self.kept else await self.secure()
        try:
            status = await connection.ask()
        except Closed:
            return "closed between requests"
        need(status == 200 and not connection.must_close, f"{status}, to close: {connection.must_close}")
        self.kept.append(connection)

    async def full_handshake(self):
        await self.get_once(await self.secure())

    async def resumed_handshake(self):
        connection = Http1()
        stream = asyncio.open_connection("127.0.0.1", self.ports["secure"], ssl=self.resuming, server_hostname="bench.test")
        connection.reader, connection.writer = await stream
        tls = connection.writer.get_extra_info("ssl_object")
        is_first = self.resuming.last is None
        await self.get_once(connection)
        self.resuming.last = tls.session
        return None if tls.session_reused or is_first else "not resumed"

    async def h2_request(self):
        async with self.opening:
            if self.h2 is None or self.h2.is_leaving:
                self.h2 = await Http2.open(self.ports["secure"])
        try:
            status = await self.h2.ask()
        except Closed:
            return "asked again"
        need(status == 200, status)

    async def h2_resets(self):
        connection = await Http2.open(self.ports["secure"])
        try:
            for _ in range(4):
                stream, connection.next = connection.next, connection.next + 2
                fields = {":method": "GET", ":scheme": "https", ":authority": "bench.test", ":path": "/events"}
                fields = connection.encoder.encode([(name, value, True) for name, value in fields.items()])
                connection.send(reload.frames.HeadersFrame(stream, fields, flags=["END_HEADERS", "END_STREAM"]))
                await asyncio.sleep(0.05)
                connection.send(reload.frames.RstStreamFrame(stream, error_code=8))
            need(await connection.ask() == 200, "behind resets")
        finally:
            connection.reading.cancel()
            connection.writer.transport.abort()

    async def kept_socket(self):
        # In turn, so that each of them rests for a while.
        is_new = len(self.sockets) < SOCKETS
        connection = await reload.open_socket(self.ports["secure"]) if is_new else self.sockets.pop(0)
        await self.echo(connection)
        self.sockets.append(connection)

    async def short_socket(self):
        connection = await reload.open_socket(self.ports["secure"])
        for _ in range(3):
            await self.echo(connection)
        connection.close()

    async def echo(self, connection):
        connection.writer.write(b"\x81\x85\0\0\0\0hello")
        need(await connection.reader.readexactly(7) == b"\x81\x05hello", "another message")

    async def events(self):
        connection = await self.secure()
        connection.writer.write(b"GET /events HTTP/1.1\r\nHost: bench.test\r\n\r\n")
        await connection.reader.readuntil(b"\r\n\r\n")
        for _ in range(20):
            await connection.reader.readuntil(EVENT)
        connection.close()

    async def upload(self):
        connection = await self.secure()
        parts = [random.randbytes(random.randint(1, 40_000)) for _ in range(8)]
        self.turn += 1
        head = "POST /upload HTTP/1.1\r\nHost: bench.test\r\n"
        if self.turn % 2:
            connection.writer.write(f"{head}Transfer-Encoding: chunked\r\n\r\n".encode())
            for part in parts:
                connection.writer.write(f"{len(part):x}\r\n".encode() + part + b"\r\n")
                await connection.writer.drain()
            connection.writer.write(b"0\r\n\r\n")
        else:
            size = sum(map(len, parts))
            connection.writer.write(f"{head}Content-Length: {size}\r\n\r\n".encode())
            for part in parts:
                connection.writer.write(part)
                await connection.writer.drain()
        status, _, body = await self.answer(connection)
        connection.close()
        need((status, body) == (200, str(sum(map(len, parts))).encode()), f"{status} {body!r}")

    async def download(self):
        await self.get_once(await self.secure(), "/big", BIG)

    async def compressed(self):
        connection = await self.secure()
        status, head, body = await self.ask(connection, "/text", "Accept-Encoding: gzip\r\n")
        connection.close()
        need(status == 200 and b"gzip" in head.lower(), f"{status}, or not compressed")
        need(len(gzip.decompress(body)) == 65536, "another text")

    async def limited(self):
        connection = await self.plain()
        key = f"X-Key: {random.randrange(1 << 40)}\r\n"
        seen = [(await self.ask(connection, "/limited", key))[0] for _ in range(4)]
        connection.close()
        need(seen[:2] == [200, 200] and seen[2:] == [429, 429], seen)

    async def flapping(self):
        await self.get_once(await self.plain(), "/flap")

    async def gone(self):
        status = await self.get_once(await self.plain(), "/gone", statuses=(200, 502, 503))
        return str(status)

    # Slow ones.

    async def slow_writer(self):
        connection, began = await self.secure(), time.monotonic()
        for byte in b"GET / HTTP/1.1\r\nHost: bench.test\r\n\r\n":
            connection.writer.write(bytes([byte]))
            await asyncio.sleep(0.03)
        took = time.monotonic() - began
        status, _, _ = await self.answer(connection)
        connection.close()
        # On a machine that is busy we may be slower than we may be.
        need(status == 200 or (status == 408 and took > 4.5), f"{status} after {took:.1f} s")

    async def slow_reader(self):
        connection = await self.secure()
        connection.writer.write(b"GET /big HTTP/1.1\r\nHost: bench.test\r\n\r\n")
        await connection.reader.readuntil(b"\r\n\r\n")
        for _ in range(16):
            await connection.reader.readexactly(BIG // 16)
            await asyncio.sleep(0.3)
        connection.close()

    async def head_without_end(self):
        connection = await self.plain()
        connection.writer.write(b"GET / HTTP/1.1\r\nHost: bench.test\r\nX-")
        began = time.monotonic()
        answer = await connection.reader.read()
        took = time.monotonic() - began
        connection.close()
        need(took < 10, f"closed after {took:.1f} s")
        need(answer == b"" or answer.startswith(b"HTTP/1.1 408 "), answer[:40])

    # Those that leave, and those that talk nonsense.

    async def leaves_in_head(self):
        connection = await self.secure()
        connection.writer.write(b"GET / HTTP/1.1\r\nHost: ben")
        await asyncio.sleep(0.05)
        connection.close()

    async def leaves_in_body(self):
        connection = await self.secure()
        connection.writer.write(b"POST /upload HTTP/1.1\r\nHost: bench.test\r\nContent-Length: 100000\r\n\r\n" + bytes(30_000))
        await asyncio.sleep(0.05)
        connection.close()

    async def leaves_in_answer(self):
        connection = await self.secure()
        connection.writer.write(b"GET /big HTTP/1.1\r\nHost: bench.test\r\n\r\n")
        await connection.reader.readexactly(1000)
        connection.close()

    async def garbage(self):
        connection = await self.plain()
        nonsense = random.choice([
            b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            b"GET /\x00 HTTP/1.1\r\nHost: bench.test\r\n\r\n",
            b"POST / HTTP/1.1\r\nHost: bench.test\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"GET /%zz HTTP/1.1\r\nHost: bench.test\r\n\r\n",
            b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\n",
            random.randbytes(300) + b"\r\n\r\n",
        ])
        connection.writer.write(nonsense)
        try:
            answer = await connection.reader.read()
        except ConnectionError:
            return "closed"
        finally:
            connection.close()
        need(answer == b"" or re.match(rb"HTTP/1.1 (4\d\d|501|505) ", answer), answer[:60])

    async def garbage_for_tls(self):
        reader, writer = await asyncio.open_connection("127.0.0.1", self.ports["secure"])
        writer.write(b"\x16\x03\x01" + random.randbytes(200))
        try:
            await reader.read()
        except ConnectionError:
            pass
        finally:
            writer.transport.abort()

    async def fault(self):
        fault, statuses = random.choice([("cut", ()), ("reset", (502,)), ("garbage", (502,)), ("hang", (504,))])
        connection = await self.plain()
        try:
            status, _, _ = await self.ask(connection, f"/fault/{fault}", "Connection: close\r\n")
        except (EOFError, ConnectionError):
            status = "cut"
        finally:
            connection.close()
        need(status in statuses or (status, fault) == ("cut", "cut"), f"{fault}: {status}")
        return fault


# Times a second, at most how many at once, method.
KINDS = [
    (15, Traffic.plain_request),
    (30, Traffic.kept_request),
    (10, Traffic.full_handshake),
    (10, Traffic.resumed_handshake),
    (30, Traffic.h2_request),
    (0.5, Traffic.h2_resets),
    (3, Traffic.kept_socket),
    (1, Traffic.short_socket),
    (0.3, Traffic.events),
    (1, Traffic.upload),
    (1, Traffic.download),
    (1, Traffic.compressed),
    (1, Traffic.limited),
    (5, Traffic.flapping),
    (2, Traffic.gone),
    (0.3, Traffic.slow_writer),
    (0.3, Traffic.slow_reader),
    (0.3, Traffic.head_without_end),
    (1, Traffic.leaves_in_head),
    (1, Traffic.leaves_in_body),
    (1, Traffic.leaves_in_answer),
    (1, Traffic.garbage),
    (0.5, Traffic.garbage_for_tls),
    (1, Traffic.fault),
]


async def drive(rate, method, traffic, tally, is_over):
    """Starts one kind again and again; each of its turns ends by itself."""
    kind = method.__name__
    async with asyncio.TaskGroup() as tasks:
        async for _ in reload.ticks(rate, is_over):
            tasks.create_task(tally.run(kind, lambda: method(traffic)))


async def special(reader, writer):
    """The backend of WebSockets, events, uploads and faults."""
    try:
        while head := await reader.readuntil(b"\r\n\r\n"):
            path = head.split(b" ")[1]
            if path == b"/socket":
                await echo(head, reader, writer)
                return
            if path == b"/events":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
                while not writer.is_closing():
                    writer.write(b"%x\r\n%s\r\n" % (len(EVENT), EVENT))
                    await writer.drain()
                    await asyncio.sleep(0.5)
                return
            if path == b"/upload":
                size = await read_body(head, reader)
                body = str(size).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
                continue
            if path == b"/fault/cut":
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour")
                return
            if path == b"/fault/garbage":
                writer.write(b"\x16\x03\x01 nonsense\r\n\r\n")
                return
            if path == b"/fault/hang":
                await reader.read()
            return
    except (OSError, EOFError, asyncio.CancelledError):
        pass  # it ends, or we do
    finally:
        if writer.can_write_eof():
            writer.close()


async def echo(head, reader, writer):
    key = re.search(rb"\r\nsec-websocket-key: *(\S+)", head, re.IGNORECASE)[1]
    accept = reload.base64.b64encode(reload.hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    writer.write(
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )
    while message := await reader.readexactly(11):
        writer.write(b"\x81\x05" + message[6:])


async def read_body(head, reader):
    """How long it is."""
    length = re.search(rb"\r\ncontent-length: *(\d+)", head, re.IGNORECASE)
    if length:
        return len(await reader.readexactly(int(length[1])))
    total = 0
    while True:
        size = int((await reader.readline()).split(b";")[0], 16)
        await reader.readexactly(size + 2)
        if size == 0:
            return total
        total += size


class Gateway:
    """The gateway, with configuration number 0."""

    def __init__(self, program, directory, ports):
        self.directory, self.ports = pathlib.Path(directory), ports
        self.configure(0)
        self.process = programs.start([program, "run", "gateway.yaml"], directory)
        programs.wait_for(self.process, ports["web"])

    def configure(self, number):
        text = CONFIG.format(number=number, certificate="ab"[number % 2], response=30 + number % 7, **self.ports)
        new = self.directory / "gateway.new"
        new.write_text(text)
        new.replace(self.directory / "gateway.yaml")

    def sample(self):
        """Memory in MiB, descriptors, threads, seconds of CPU, open connections, requests in flight."""
        at = pathlib.Path(f"/proc/{self.process.pid}")
        status = (at / "status").read_text()
        ticks = (at / "stat").read_text().rsplit(") ", 1)[1].split()[11:13]
        metrics = self.metrics()
        return {
            "memory": int(re.search(r"VmRSS:\s+(\d+)", status)[1]) / 1024,
            "descriptors": len(os.listdir(at / "fd")),
            "threads": int(re.search(r"Threads:\s+(\d+)", status)[1]),
            "cpu": sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK"),
            "connections": metrics["wardgate_connections"],
            "in flight": metrics["wardgate_requests_in_flight"],
        }

    def metrics(self):
        """Every metric, its series added up."""
        url = f"http://127.0.0.1:{self.ports['admin']}/metrics"
        values = collections.Counter()
        with urllib.request.urlopen(url, timeout=10) as answer:
            for line in answer.read().decode().splitlines():
                if not line.startswith("#"):
                    values[re.match(r"\w+", line)[0]] += float(line.rsplit(" ", 1)[1])
        return values


def start_nginx(name, port, directory):
    file = pathlib.Path(directory, f"{name}.conf")
    text = BACKEND.format(name=name, port=port, directory=directory, body="x" * SIZE, user=reload.user())
    file.write_text(text)
    process = programs.start(["nginx", "-p", directory, "-c", str(file)], directory)
    programs.wait_for(process, port)
    return process


async def flap(port, directory, started, is_over):
    """A backend that is there for 12 seconds of 20; it ends gracefully and by force in turn."""
    by_force = False
    while not is_over.is_set():
        process = await asyncio.to_thread(start_nginx, "flapping", port, directory)
        started.append(process)
        await wait(is_over, 12)
        if by_force:
            await asyncio.to_thread(programs.end, process)
        else:
            process.terminate()
            await asyncio.to_thread(process.wait)
        started.remove(process)
        by_force = not by_force
        await wait(is_over, 8)


async def reloads(gateway, tally, is_over):
    number = 0
    while not is_over.is_set():
        await wait(is_over, 10)
        number += 1

        async def once():
            gateway.configure(number)
            gateway.process.send_signal(reload.signal.SIGHUP)
            while True:
                connection = await Http1.open(gateway.ports["secure"])
                await connection.ask("/reloads", keep=False)
                connection.close()
                if connection.body == str(number).encode():
                    return
                await asyncio.sleep(0.05)

        await tally.run("reloads", once)


async def wait(is_over, seconds):
    try:
        async with asyncio.timeout(seconds):
            await is_over.wait()
    except TimeoutError:
        pass


def slope(samples, key):
    """What a straight line through these samples rises by from the first to the last."""
    if len(samples) < 3:
        return 0.0
    times = [sample["at"] for sample in samples]
    line = statistics.linear_regression(times, [sample[key] for sample in samples])
    return line.slope * (times[-1] - times[0])


async def soak(program, minutes, every, csv):
    """Runs everything; returns the samples, the tally and what is wrong."""
    tally, started, samples, wrong = Tally(), [], [], []
    with tempfile.TemporaryDirectory() as directory:
        reload.make_certificates(directory)
        pathlib.Path(directory, "big").write_bytes(random.randbytes(BIG))
        pathlib.Path(directory, "text").write_text("All work and no play. " * 2978 + "x" * 20)
        os.truncate(pathlib.Path(directory, "text"), 65536)
        if os.geteuid() == 0:
            os.chmod(directory, 0o755)
        ports = {name: programs.free_port() for name in ("web", "secure", "admin", "app", "flapping")}
        server = await asyncio.start_server(special, "127.0.0.1", 0)
        ports["special"] = server.sockets[0].getsockname()[1]
        gateway = None
        try:
            started.append(start_nginx("app", ports["app"], directory))
            gateway = Gateway(program, directory, ports)
            started.append(gateway.process)
            fresh = await asyncio.to_thread(gateway.sample)
            tally.began = time.monotonic()
            is_over = asyncio.Event()
            traffic = Traffic(ports, tally)
            async with asyncio.TaskGroup() as tasks:
                for rate, method in KINDS:
                    tasks.create_task(drive(rate, method, traffic, tally, is_over))
                tasks.create_task(flap(ports["flapping"], directory, started, is_over))
                tasks.create_task(reloads(gateway, tally, is_over))
                await watch(gateway, minutes * 60, every, csv, samples)
                is_over.set()
            for connection in [*traffic.kept, *traffic.sockets]:
                connection.close()
            if traffic.h2:
                traffic.h2.reading.cancel()
                traffic.h2.writer.transport.abort()
            await given_back(gateway, fresh, wrong)
            metrics = await asyncio.to_thread(gateway.metrics)
            for name in ("wardgate_panics_total", "wardgate_access_lines_dropped_total"):
                if metrics[name]:
                    wrong.append(f"{name} is {metrics[name]:.0f}")
            gateway.process.terminate()
            try:
                status = await asyncio.to_thread(gateway.process.wait, 15)
                if status != 0:
                    wrong.append(f"it ended with {status}")
            except subprocess.TimeoutExpired:
                wrong.append("it did not end within 15 s")
        finally:
            for process in list(started):
                programs.end(process)
            if gateway:
                said = gateway.process.said.read_text(errors="replace").splitlines()
                for line in [line for line in said if '"level":"error"' in line][:10]:
                    wrong.append(f"an error in the log: {line[:300]}")
    return samples, tally, wrong


async def watch(gateway, seconds, every, csv, samples):
    end = time.monotonic() + seconds
    began = time.monotonic()
    while time.monotonic() < end:
        await asyncio.sleep(every)
        sample = {"at": time.monotonic() - began} | await asyncio.to_thread(gateway.sample)
        samples.append(sample)
        line = ",".join(f"{value:.1f}" for value in sample.values())
        if csv:
            with open(csv, "a") as file:
                file.write(f"{line}\n")


async def given_back(gateway, fresh, wrong):
    """Waits until the gateway holds no more than before anybody came."""
    sample = {}
    for _ in range(60):
        await asyncio.sleep(0.5)
        sample = await asyncio.to_thread(gateway.sample)
        if sample["connections"] <= 0 and sample["in flight"] <= 0 and sample["descriptors"] <= fresh["descriptors"] + 2:
            return
    names = ("connections", "in flight", "descriptors")
    wrong.append("30 s after the last client: " + ", ".join(f"{sample[name]:.0f} {name}" for name in names) + f"; {fresh['descriptors']} descriptors before")


def report(samples, tally, wrong, minutes):
    settled = [sample for sample in samples if sample["at"] >= minutes * 60 / 4]
    quarters = [samples[len(samples) * at // 4 : len(samples) * (at + 1) // 4] for at in range(4)]
    rows = []
    for key, bound in (("memory", MOST_MEMORY), ("descriptors", MOST_DESCRIPTORS), ("threads", MOST_THREADS)):
        rise = slope(settled, key)
        rows.append([key] + [f"{statistics.median(it[key] for it in part):.1f}" for part in quarters])
        rows[-1] += [f"{max(it[key] for it in samples):.1f}", f"{rise:+.2f}", f"{bound:.1f}"]
        if rise > bound:
            wrong.append(f"{key} rose by {rise:.2f} after the warm-up")
    print(programs.markdown(["", "1st quarter", "2nd", "3rd", "4th", "most", "rise after warm-up", "bound"], rows))
    cpu = (samples[-1]["cpu"] - samples[0]["cpu"]) / (samples[-1]["at"] - samples[0]["at"])
    print(f"\n{sum(tally.done.values())} exchanges in {minutes:g} minutes, CPU of the gateway {cpu * 100:.0f} % of a core\n")
    rows = [[kind, str(count)] for kind, count in sorted(tally.done.items())]
    print(programs.markdown(["kind", "done"], rows))
    for note, count in sorted(tally.notes.items()):
        print(f"  {note}: {count}")
    for fault in tally.faults[:40]:
        print(f"FAULT {fault}")
    for what in wrong:
        print(f"WRONG {what}")
    if tally.faults or wrong:
        print(f"\nverdict: {len(tally.faults)} unexpected outcomes, {len(wrong)} things wrong")
        return 1
    print("\nverdict: no growth, no error")
    return 0


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="target/release/wardgate", metavar="WARDGATE")
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--sample", type=float, default=5)
    parser.add_argument("--csv")
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.program).resolve(strict=True))
    # It warns of every connection that is closed on it while it writes, which is what happens here.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
    samples, tally, wrong = asyncio.run(soak(program, arguments.minutes, arguments.sample, arguments.csv))
    sys.exit(report(samples, tally, wrong, arguments.minutes))


if __name__ == "__main__":
    main()
