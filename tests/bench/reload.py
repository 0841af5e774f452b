#!/usr/bin/env python3
"""Reloads under load: wardgate beside HAProxy and nginx, each alone and in turn.

usage: ./dev bench reload [WARDGATE] [--only wardgate,haproxy,nginx] [--reloads 200] [--write]

WARDGATE is target/release/wardgate unless given. Needs haproxy, nginx, openssl, and the tests' Python
packages, here or in .venv; takes about a minute for each proxy, prints one table (with --write
into docs/benchmarks.md as well), and ends by itself. Everything is on loopback; only what was started here is ended.

The load is the same for all, over TLS and at a fixed rate: 100 requests a second on four HTTP/1.1
connections that are kept, 50 on connections of their own, 50 on one HTTP/2 connection, and one
message a second on each of eight WebSockets. It runs for 10 s without reloads, which is what their
latencies are beside, and then through the reloads: one every 0.2 s, or as soon as the last is in
force, and for 0.375 s each at most on average, however busy the machine is. Every reload changes the
body of one route, by which it is known to be in force, and in turn a field that the proxy adds to
responses, the certificate, or the servers of the pool. Reloads are asked for by signal: SIGHUP, for
HAProxy SIGUSR2 to the master of `-W`, and again after each second: a master that is about to start over
misses some.

reloads       how many were in force within 5 s
in force      ms from the signal until a new connection is answered by the new configuration, median
              and 99th percentile
failed        requests without their whole answer, of those sent during the reloads, and what became
              of them: "cut" is a connection that was closed instead. That a kept connection was closed
              before a request was sent on it counts as no failure, nor does an HTTP/2 stream that was
              refused or beyond the last one of a GOAWAY: clients ask again
sockets cut   WebSockets that broke, of eight; they are opened again and go on counting
kept, h2, new ms from request to whole answer, median and 99th percentile, without → with reloads; on
              connections of their own (new) connecting and TLS is part of it
memory        MiB of all the proxy's processes (proportional set size): after 10 s of load, after 50
              reloads and after the last; and how many processes there are then
"""

import asyncio
import base64
import collections
import hashlib
import os
import pathlib
import re
import shutil
import signal
import ssl
import statistics
import subprocess
import sys
import tempfile
import time

import programs

try:
    import hpack
    from hyperframe import frame as frames
except ImportError:
    # The tests' Python has them.
    other = str(pathlib.Path(__file__).resolve().parents[2] / ".venv/bin/python")
    if sys.executable == other:
        raise
    os.execv(other, [other, *sys.argv])

QUIET, GAP = 10.0, 0.2
KEPT, KEPT_RATE, NEW_RATE, H2_RATE, SOCKETS = 4, 25, 50, 50, 8
REFUSED_STREAM = 7
# How long clients wait for an answer, one reload may take, and each of them on average.
PATIENCE, MOST_RELOAD, MOST_AVERAGE = 10.0, 5.0, 0.375

WARDGATE = """
listeners: {{ web: {{ bind: "127.0.0.1:{port}", protocol: https, tls: {{ min_version: "1.3" }} }} }}
sites:
  bench.test:
    certificate: mine
    filters: [ {{ response_headers: {{ set: {{ X-Filter: "{filter}" }} }} }} ]
    routes:
      - {{ match: {{ path: /reloads }}, respond: {{ status: 200, body: "{number}" }} }}
      - {{ match: {{ path: /socket }}, upstream: "http://127.0.0.1:{sockets}" }}
      - {{ upstream: app }}
certificates: {{ mine: {{ chain: {certificate}.pem, key: {certificate}.key }} }}
upstreams: {{ app: {{ servers: [{servers}] }} }}
storage: storage
admin: off
runtime: {{ threads: 2 }}
log: {{ access: off }}
"""

HAPROXY = """
global
  nbthread 2
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  timeout connect 5s
  timeout server 60s
  timeout client 60s
  timeout tunnel 1h
frontend web
  bind 127.0.0.1:{port} ssl crt {certificate}.both alpn h2,http/1.1
  http-response set-header X-Filter {filter}
  http-request return status 200 content-type text/plain string "{number}" if {{ path /reloads }}
  use_backend socket if {{ path /socket }}
  default_backend app
backend app
{servers}
backend socket
  server s 127.0.0.1:{sockets}
"""

NGINX = """
daemon off; worker_processes 2; pid nginx.pid; error_log nginx.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000; ssl_protocols TLSv1.3; ssl_session_cache shared:tls:1m;
  upstream app {{ {servers} keepalive 64; }}
  server {{
    listen 127.0.0.1:{port} ssl http2; ssl_certificate {certificate}.pem; ssl_certificate_key {certificate}.key;
    proxy_http_version 1.1;
    add_header X-Filter {filter};
    location = /reloads {{ return 200 "{number}"; }}
    location = /socket {{
      proxy_pass http://127.0.0.1:{sockets}; proxy_read_timeout 1h;
      proxy_set_header Upgrade $http_upgrade; proxy_set_header Connection upgrade;
    }}
    location / {{ proxy_pass http://app; proxy_set_header Connection ""; }}
  }}
}}
"""

BACKEND = """
daemon off; worker_processes 1; pid backend.pid; error_log backend.log; {user}
events {{ worker_connections 4096; }}
http {{
  access_log off; keepalive_requests 1000000000;
  server {{ {listens} location / {{ return 200 "{body}"; }} }}
}}
"""


class Proxy:
    """One of the proxies, with configuration number 0."""

    def __init__(self, directory, backends, sockets):
        self.directory, self.backends, self.sockets = pathlib.Path(directory), backends, sockets
        self.port = programs.free_port()
        self.configure(0)
        self.process = programs.start(self.command(), directory)
        programs.wait_for(self.process, self.port)

    def configure(self, number):
        """Writes configuration `number`: after each other filter, certificate and pool change."""
        filter, certificate, pool = (number + 2) // 3, (number + 1) // 3 % 2, number // 3 % 2
        servers = [self.server(at, port) for at, port in enumerate(self.backends[: 2 - pool])]
        text = self.template.format(
            port=self.port,
            number=number,
            filter=filter,
            certificate="ab"[certificate],
            servers=self.between.join(servers),
            sockets=self.sockets,
            user=user(),
        )
        new = self.directory / f"{self.file}.new"
        new.write_text(text)
        new.replace(self.directory / self.file)

    def ask_to_reload(self):
        self.process.send_signal(self.signal)

    def memory(self):
        """MiB of all its processes, what they share counted once, and how many there are."""
        total, processes = 0, programs.family(self.process)
        for pid in processes:
            try:
                text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
            except OSError:
                continue  # it has ended
            total += int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1])
        return total / 1024, len(processes)


class Wardgate(Proxy):
    name, file, template, between, signal = "wardgate", "gateway.yaml", WARDGATE, ", ", signal.SIGHUP

    def server(self, _, port):
        return f'"http://127.0.0.1:{port}"'

    def command(self):
        return [self.program, "run", self.file]


class Haproxy(Proxy):
    name, file, template, between, signal = "haproxy", "haproxy.cfg", HAPROXY, "\n", signal.SIGUSR2

    def server(self, at, port):
        return f"  server s{at} 127.0.0.1:{port}"

    def command(self):
        return [shutil.which("haproxy"), "-W", "-db", "-f", self.file]


class Nginx(Proxy):
    name, file, template, between, signal = "nginx", "nginx.conf", NGINX, " ", signal.SIGHUP

    def server(self, _, port):
        return f"server 127.0.0.1:{port};"

    def command(self):
        return ["nginx", "-p", str(self.directory), "-c", self.file]


PROXIES = {proxy.name: proxy for proxy in (Wardgate, Haproxy, Nginx)}


def user():
    """nginx's workers must be able to read what was made here."""
    return "user root;" if os.geteuid() == 0 else ""


class Closed(Exception):
    """The connection was closed before the request was sent, so that a client asks again."""


class Seen:
    """What clients saw: latencies by phase and kind, failures, sockets that were cut."""

    def __init__(self):
        self.phase = "quiet"
        self.took = collections.defaultdict(list)
        self.failures = collections.Counter()
        self.cut = 0
        self.asked = 0

    async def ask(self, kind, request):
        """Runs one request and notes what became of it. Returns whether it was answered."""
        phase, began = self.phase, time.monotonic()
        self.asked += phase == "reloads"
        try:
            async with asyncio.timeout(PATIENCE):
                status = await request
        except Closed:
            self.asked -= phase == "reloads"
            return False
        except TimeoutError:
            status = "no answer"
        except (OSError, EOFError, ValueError) as error:
            status = "not connected" if isinstance(error, ConnectionRefusedError) else "cut"
        if status == 200:
            self.took[phase, kind].append(time.monotonic() - began)
            return True
        self.failures[f"{status} ({kind}{'' if phase == 'reloads' else ', before'})"] += 1
        return False

    def times(self, kind):
        def shown(phase):
            cuts = statistics.quantiles(self.took[phase, kind] or [0, 0], n=100)
            return f"{cuts[49] * 1e3:.1f} / {cuts[98] * 1e3:.1f}"

        return f"{shown('quiet')} → {shown('reloads')}"


def trust(alpn):
    """TLS that takes any certificate: which one is served is not the question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


HTTP1, HTTP2 = trust("http/1.1"), trust("h2")


class Http1:
    """An HTTP/1.1 connection."""

    @classmethod
    async def open(cls, port):
        self = cls()
        stream = asyncio.open_connection("127.0.0.1", port, ssl=HTTP1, server_hostname="bench.test")
        self.reader, self.writer = await stream
        return self

    async def ask(self, path="/", keep=True):
        """One request: its status, once the whole body is there."""
        # What has arrived is to be seen first: a busy client must not take a closed connection for an
        # open one. The loop polls its sockets between the two.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        if self.reader.at_eof() or self.reader.exception() or self.writer.is_closing():
            raise Closed
        connection = "" if keep else "Connection: close\r\n"
        self.writer.write(f"GET {path} HTTP/1.1\r\nHost: bench.test\r\n{connection}\r\n".encode())
        head = await self.reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"\r\ncontent-length: (\d+)", head, re.IGNORECASE)
        self.body = await self.reader.readexactly(int(length[1]))
        self.must_close = re.search(rb"\r\nconnection: close", head, re.IGNORECASE) is not None
        return int(head[9:12])

    def close(self):
        self.writer.transport.abort()


async def ticks(rate, is_over):
    """Yields at a fixed rate until it is over. What is late is not made up for."""
    moment = time.monotonic()
    while not is_over.is_set():
        yield
        moment = max(moment + 1 / rate, time.monotonic())
        await asyncio.sleep(moment - time.monotonic())


async def use_kept(port, seen, is_over):
    """Requests one after another on a connection that is kept."""
    connection = None
    async for _ in ticks(KEPT_RATE, is_over):
        if connection is None:
            try:
                connection = await Http1.open(port)
            except OSError:
                seen.failures["not connected (kept)"] += 1
                continue
        is_answered = await seen.ask("kept", connection.ask())
        if not is_answered or connection.must_close:
            connection.close()
            connection = None


async def use_new(port, seen, is_over):
    """Requests on connections of their own, however long each takes."""

    async def once():
        connection = await Http1.open(port)
        try:
            return await connection.ask(keep=False)
        finally:
            connection.close()

    async with asyncio.TaskGroup() as tasks:
        async for _ in ticks(NEW_RATE, is_over):
            tasks.create_task(seen.ask("new", once()))


class Http2:
    """An HTTP/2 connection with requests in parallel. Frame by frame, since the h2 library takes a
    GOAWAY for the end of the requests that are under way."""

    @classmethod
    async def open(cls, port):
        self = cls()
        stream = asyncio.open_connection("127.0.0.1", port, ssl=HTTP2, server_hostname="bench.test")
        self.reader, self.writer = await stream
        self.writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self.send(frames.SettingsFrame(0))
        # More than all bodies together.
        self.send(frames.WindowUpdateFrame(0, window_increment=2**30))
        self.encoder, self.decoder = hpack.Encoder(), hpack.Decoder()
        self.next, self.answers, self.status, self.is_leaving = 1, {}, {}, False
        self.reading = asyncio.create_task(self.read())
        return self

    def send(self, frame):
        self.writer.write(frame.serialize())

    async def ask(self):
        """One request: its status, once the whole body is there."""
        if self.is_leaving:
            raise Closed
        stream, self.next = self.next, self.next + 2
        self.answers[stream] = asyncio.get_running_loop().create_future()
        fields = {":method": "GET", ":scheme": "https", ":authority": "bench.test", ":path": "/"}
        # Nothing is left to a table whose size the peer would tell.
        fields = [(name, value, True) for name, value in fields.items()]
        frame = frames.HeadersFrame(stream, self.encoder.encode(fields), flags=["END_HEADERS", "END_STREAM"])
        self.send(frame)
        return await self.answers[stream]

    async def read(self):
        try:
            while True:
                head = await self.reader.readexactly(9)
                frame, length = frames.Frame.parse_frame_header(memoryview(head))
                frame.parse_body(memoryview(await self.reader.readexactly(length)))
                self.take(frame)
                if self.is_leaving and not self.answers:
                    break
        except (OSError, EOFError):
            pass
        finally:
            self.is_leaving = True
            for stream in list(self.answers):
                self.settle(stream, EOFError())
            self.writer.transport.abort()

    def take(self, frame):
        stream = frame.stream_id
        if isinstance(frame, frames.HeadersFrame):
            self.status[stream] = int(dict(self.decoder.decode(frame.data)).get(":status", 0))
        elif isinstance(frame, frames.RstStreamFrame):
            self.settle(stream, Closed() if frame.error_code == REFUSED_STREAM else EOFError())
        elif isinstance(frame, frames.GoAwayFrame):
            self.is_leaving = True
            for late in [stream for stream in self.answers if stream > frame.last_stream_id]:
                self.settle(late, Closed())
        elif isinstance(frame, frames.SettingsFrame) and "ACK" not in frame.flags:
            self.send(frames.SettingsFrame(0, flags=["ACK"]))
        elif isinstance(frame, frames.PingFrame) and "ACK" not in frame.flags:
            self.send(frames.PingFrame(0, frame.opaque_data, flags=["ACK"]))
        if isinstance(frame, frames.HeadersFrame | frames.DataFrame) and "END_STREAM" in frame.flags:
            self.settle(stream, self.status.pop(stream))

    def settle(self, stream, outcome):
        answer = self.answers.pop(stream, None)
        if answer is None or answer.done():
            return
        if isinstance(outcome, Exception):
            answer.set_exception(outcome)
        else:
            answer.set_result(outcome)


async def use_http2(port, seen, is_over):
    """Requests on an HTTP/2 connection, however long each takes."""
    connection = None
    async with asyncio.TaskGroup() as tasks:
        async for _ in ticks(H2_RATE, is_over):
            if connection is None or connection.is_leaving:
                try:
                    connection = await Http2.open(port)
                except OSError:
                    seen.failures["not connected (h2)"] += 1
                    continue
            tasks.create_task(seen.ask("h2", connection.ask()))
    connection.reading.cancel()


async def use_socket(port, seen, is_over):
    """A WebSocket whose messages come back."""
    connection = None
    async for _ in ticks(1, is_over):
        try:
            async with asyncio.timeout(PATIENCE):
                if connection is None:
                    connection = await open_socket(port)
                # A text message of five bytes, masked with zeros.
                connection.writer.write(b"\x81\x85\0\0\0\0hello")
                if await connection.reader.readexactly(7) != b"\x81\x05hello":
                    raise EOFError
        except (OSError, EOFError, ValueError, TimeoutError):
            seen.cut += 1
            connection = None


async def open_socket(port):
    connection = await Http1.open(port)
    connection.writer.write(
        b"GET /socket HTTP/1.1\r\nHost: bench.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: MDEyMzQ1Njc4OWFiY2RlZg==\r\n\r\n"
    )
    head = await connection.reader.readuntil(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 101 "):
        raise ValueError(head)
    return connection


async def echo(reader, writer):
    """The backend of the WebSockets: sends those messages back."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
        key = re.search(rb"\r\nsec-websocket-key: *(\S+)", head, re.IGNORECASE)[1]
        accept = base64.b64encode(hashlib.sha1(key + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        writer.write(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
            b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
        )
        while message := await reader.readexactly(11):
            writer.write(b"\x81\x05" + message[6:])
    except (OSError, EOFError, asyncio.CancelledError):
        pass  # it ends, or we do
    finally:
        writer.close()


def start_backend(directory):
    """The backend of everything else, on two ports."""
    ports = [programs.free_port() for _ in range(2)]
    listens = " ".join(f"listen 127.0.0.1:{port};" for port in ports)
    file = pathlib.Path(directory, "backend.conf")
    file.write_text(BACKEND.format(user=user(), listens=listens, body="x" * 1024))
    process = programs.start(["nginx", "-p", directory, "-c", str(file)], directory)
    programs.wait_for(process, ports[0])
    return process, ports


def make_certificates(directory):
    """a and b, each as chain, key, and both in one."""
    for name in "ab":
        chain, key = (pathlib.Path(directory, f"{name}.{kind}") for kind in ("pem", "key"))
        command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
        command += ["-days", "2", "-subj", "/CN=bench.test", "-addext", "subjectAltName=DNS:bench.test"]
        command += ["-keyout", str(key), "-out", str(chain)]
        subprocess.run(command, check=True, capture_output=True)
        pathlib.Path(directory, f"{name}.both").write_text(chain.read_text() + key.read_text())


async def reload(proxy, number):
    """Has configuration `number` loaded, and waits for its answer on a new connection."""
    proxy.configure(number)
    asked, port = 0.0, proxy.port
    async with asyncio.timeout(MOST_RELOAD):
        while True:
            if time.monotonic() - asked > 1.0:
                proxy.ask_to_reload()
                asked = time.monotonic()
            try:
                connection = await Http1.open(port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            try:
                await connection.ask("/reloads", keep=False)
                if connection.body == str(number).encode():
                    return
            except (OSError, EOFError, Closed):
                pass
            finally:
                connection.close()
            await asyncio.sleep(0.01)


async def measure(proxy, seen, reloads):
    """Load without and with reloads: times until they were in force, and memory."""
    is_over = asyncio.Event()
    memory, took = [], []
    most = reloads * MOST_AVERAGE
    async with asyncio.timeout(QUIET + most + 25), asyncio.TaskGroup() as tasks:
        for use, times in ((use_kept, KEPT), (use_new, 1), (use_http2, 1), (use_socket, SOCKETS)):
            for _ in range(times):
                tasks.create_task(use(proxy.port, seen, is_over))
        await asyncio.sleep(QUIET)
        memory.append(proxy.memory())
        seen.phase = "reloads"
        end = time.monotonic() + most
        for number in range(1, reloads + 1):
            began = time.monotonic()
            if began > end:
                break
            try:
                await reload(proxy, number)
                took.append(time.monotonic() - began)
            except TimeoutError:
                print(f"reload {number} is not in force", file=sys.stderr)
            if number == min(50, reloads):
                memory.append(proxy.memory())
            await asyncio.sleep(max(0.0, began + GAP - time.monotonic()))
        await asyncio.sleep(1)
        memory.append(proxy.memory())
        is_over.set()
    return took, memory


async def run(kind, program, reloads):
    """One proxy: its row of the table."""
    started = []
    kind.program = program
    with tempfile.TemporaryDirectory() as directory:
        make_certificates(directory)
        try:
            server = await asyncio.start_server(echo, "127.0.0.1", 0)
            backend, ports = start_backend(directory)
            started.append(backend)
            proxy = kind(directory, ports, server.sockets[0].getsockname()[1])
            started.append(proxy.process)
            seen = Seen()
            took, memory = await measure(proxy, seen, reloads)
        finally:
            for process in started:
                programs.end(process)
    times = statistics.quantiles(took, n=100) if len(took) > 1 else [0.0] * 99
    shown = ", ".join(f"{count} × {what}" for what, count in seen.failures.most_common())
    return [
        kind.name,
        f"{len(took)} of {reloads}",
        f"{times[49] * 1e3:.0f} / {times[98] * 1e3:.0f}",
        f"{sum(seen.failures.values())} of {seen.asked}" + (f": {shown}" if shown else ""),
        f"{seen.cut}",
        seen.times("kept"),
        seen.times("h2"),
        seen.times("new"),
        " → ".join(f"{size:.1f}" for size, _ in memory),
        f"{memory[-1][1]}",
    ]


HEAD = ["proxy", "reloads", "in force ms", "failed", "sockets cut", "kept ms", "h2 ms", "new ms", "memory MiB", "processes"]


if __name__ == "__main__":
    programs.main(__doc__, run, PROXIES, "reloads", 200, HEAD)
