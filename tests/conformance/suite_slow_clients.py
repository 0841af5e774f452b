"""Clients that send or take a byte now and then, hundreds at a time, and a probe beside them."""

import contextlib
import os
import socket
import subprocess
import threading
import time

import backend
import peers
import programs

TITLE = "Slow clients"
ABOUT = """\
slowhttptest opens 300 connections at once that send a header or a body, or 100 that take a response, as
slowly as can be; deadlines for headers, gaps in bodies and idle connections are 4 s for every program. Within 20 s
the program has to have closed all of them, whatever trickles on them: its descriptors are counted, since a
client that reads nothing does not see it. All the while a client beside it asks for a page every 50 ms
on connections of its own, which has to come within 2 s. What is never silent for as long as
a gap may last is only ended by who minds rates."""
NEEDS = ["slowhttptest"]

DEADLINES = peers.Deadlines(header=4, body=4, idle=4)
GRANTED = 20
BODY = bytes(4 << 20)  # more than sockets and buffers hold
# Connections, and the tool's options. It sends 68 bytes a second, or reads 32.
ATTACKS = {
    "header, a line each second": (300, "-H", "-i", "1"),
    "header, a line each second, over TLS": (300, "-H", "-i", "1"),
    "body, nothing of it": (300, "-B", "-i", "60", "-s", "65536"),
    "body, some bytes each second": (300, "-B", "-i", "1", "-s", "65536"),
    "response, not taken": (100, "-X", "-w", "256", "-y", "512", "-n", "60", "-z", "32"),
    "response, some bytes each second": (100, "-X", "-w", "256", "-y", "512", "-n", "1", "-z", "32"),
}


def run(start):
    with Backend() as origin:
        for name, attack in ATTACKS.items():
            with start(backend=origin.address, deadlines=DEADLINES) as target:
                yield from judged(name, target, *attack)


class Backend(backend.Backend):
    """A short page for the probe, and the same long one for everybody else."""

    def usual(self, request):
        return PAGE if request.target == "/probe" else LONG


HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n"
PAGE, LONG = HEAD % 2 + b"ok", HEAD % len(BODY) + BODY


def judged(name, target, connections, *attack):
    scheme, address = ("https", target.tls) if "TLS" in name else ("http", target.http)
    before = sockets(target)
    command = ["slowhttptest", *attack, "-c", connections, "-r", connections, "-l", GRANTED + 10]
    command += ["-u", f"{scheme}://{address[0]}:{address[1]}/"]
    with Probe(target.http) as probe, running(command):
        seconds, most, left = until_closed(target, before, connections)
    yield f"{name}: closed in time", verdict(left == 0), f"{left} of {most} left after {seconds:.0f} s"
    said = f"{probe.asked} requests, the slowest took {probe.slowest * 1000:.0f} ms"
    said += f"; {probe.failed[0]}" if probe.failed else ""
    yield f"{name}: the service is available", verdict(not probe.failed and probe.slowest < 2), said


@contextlib.contextmanager
def running(command):
    process = subprocess.Popen(
        ["setpriv", "--pdeathsig", "TERM", *map(str, command)],
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield
    finally:
        programs.end(process)


def until_closed(target, before, connections):
    """Seconds, and connections of the attack at their most and now. A tenth may be the probe's, or still to come."""
    began, most = time.monotonic(), 0
    while True:
        time.sleep(0.2)
        seconds, held = time.monotonic() - began, max(0, sockets(target) - before)
        most = max(most, held)
        if most >= connections * 0.9 and held < connections * 0.1:
            return seconds, most, 0
        if seconds > GRANTED:
            return seconds, most, held


def sockets(target):
    """How many sockets the program has, in all of its processes."""
    count = 0
    for pid in target.family():
        with contextlib.suppress(OSError):
            for entry in os.scandir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    count += os.readlink(entry.path).startswith("socket:")
    return count


def verdict(is_well):
    return "pass" if is_well else "fail"


class Probe:
    """Asks for a page again and again, each time on a new connection, until its context ends."""

    def __init__(self, address):
        self.address, self.asked, self.slowest, self.failed = address, 0, 0, []
        self.over = threading.Event()
        self.thread = threading.Thread(target=self.ask_on)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *error):
        self.over.set()
        self.thread.join()

    def ask_on(self):
        while not self.over.wait(0.05):
            began = time.monotonic()
            try:
                self.ask()
            except OSError as error:
                self.failed.append(repr(error))
            self.asked += 1
            self.slowest = max(self.slowest, time.monotonic() - began)

    def ask(self):
        request = b"GET /probe HTTP/1.1\r\nHost: app.test\r\nConnection: close\r\n\r\n"
        with contextlib.closing(socket.create_connection(self.address, timeout=3)) as sock:
            sock.sendall(request)
            got = b""
            while part := sock.recv(65536):
                got += part
        if not got.startswith(b"HTTP/1.1 200") or not got.endswith(b"ok"):
            raise OSError(f"answered {got[:60]!r}")


def figures(cases):
    slowest = [int(case.note.split(" took ")[1].split(" ms")[0]) for case in cases if " took " in case.note]
    return {"slowest answer beside it": f"{max(slowest)} ms"} if slowest else {}
