"""Every payload of a desync corpus, in front of an origin that records each byte and reads it strictly."""

import concurrent.futures
import json
import os
import pathlib
import re
import select
import socket
import time

import backend
import h1_payloads
import peers
import strict

TITLE = "HTTP/1 desync"
CORPUS = pathlib.Path(os.environ.get("DESYNC_CORPUS") or peers.ROOT.parent / "shared" / "corpora" / "h1-desync.jsonl")
DEADLINES = peers.Deadlines(header=0.5, body=0.5, idle=3)
AT_ONCE = 48
# A 200 would make the connection a tunnel, in which there are no requests.
NO_TUNNEL = b"HTTP/1.1 405 Method Not Allowed\r\nAllow: GET\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


def about():
    count = len(list(h1_payloads.payloads()))
    corpus = f"and the {len(rows())} of a larger corpus ($DESYNC_CORPUS)" if CORPUS.exists() else "alone: the larger corpus ($DESYNC_CORPUS) was not there"
    return f"""\
Requests whose end two parsers may see in two places: the {count} payloads of `tests/conformance/h1_payloads.py`
{corpus}. Each goes on a connection of its own, with a sound request behind it, and another on a second connection. *Ambiguous*:
the backend got a head or a chunk that a lenient server may read in another way (`tests/conformance/strict.py`
has the definitions, those of `tests/desync.rs`). *Smuggled*: a request there that the program did not send as one,
which is without the id that it gives each, or an answer that reached somebody else. A payload fails for
either; one that was refused, or forwarded as one meaning, passes."""


def rows():
    if not CORPUS.exists():
        return []
    return [(row["id"], bytes.fromhex(row["raw"])) for row in map(json.loads, CORPUS.read_text().splitlines())]


def payloads():
    """(name, bytes); what a payload hides gets a target of its own, of the same length, to tell whose it was."""
    for number, (name, raw) in enumerate([*h1_payloads.payloads(), *rows()], 1):
        yield number, name, raw.replace(b"/smuggled", b"/sm%06d" % number)


class Recorder(backend.Backend):
    """Records what is odd, and ends the connection there."""

    def serve(self, sock, number):
        reader, owner = sock.makefile("rb"), None
        try:
            while head := self.head(reader):
                request = backend.Request(head, connection=number)
                request.fault = strict.fault(head)
                request.owner = owner = owner_of(request) or owner
                with self.lock:
                    self.requests.append(request)
                if request.fault:
                    return
                try:
                    self.read_body(reader, head)
                except ValueError as error:
                    request.fault = str(error)
                    return
                target = request.target.encode("latin-1")
                body = b"" if head.startswith(b"HEAD ") else target
                if head.startswith(b"CONNECT "):
                    sock.sendall(NO_TUNNEL)
                    return
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(target) + body)
        except (OSError, EOFError):
            pass
        finally:
            with self.lock:
                self.open.discard(sock)
            sock.close()

    @staticmethod
    def read_body(reader, head):
        if not re.search(rb"(?im)^transfer-encoding:[ \t]*chunked[ \t]*\r$", head):
            return backend.Backend.read_body(reader, head)
        while True:
            line = reader.readline()
            if not line.endswith(b"\n"):
                raise EOFError
            if not re.fullmatch(rb"[0-9a-fA-F]{1,16}\r\n", line):
                raise ValueError(f"an odd chunk: {line[:40]!r}")
            size = int(line, 16)
            if size == 0:
                break
            backend.exactly(reader, size)
            if (end := backend.exactly(reader, 2)) != b"\r\n":
                raise ValueError(f"an odd end of a chunk: {end!r}")
        while (line := reader.readline()) != b"\r\n":
            if not line:
                raise EOFError
            if not re.fullmatch(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[^\0-\x08\x0a-\x1f\x7f]*\r\n", line):
                raise ValueError(f"an odd trailer: {line[:40]!r}")
        return b""


def address_of(number):
    """Each payload comes from an address of loopback of its own, which X-Forwarded-For tells."""
    return f"127.1.{number >> 8}.{number & 255}"


def owner_of(request):
    forwarded = [address for value in request.values("x-forwarded-for") for address in value.split(",")]
    place = re.fullmatch(r"127\.1\.(\d+)\.(\d+)", forwarded[-1].strip()) if forwarded else None
    return int(place[1]) << 8 | int(place[2]) if place else None


def run(start):
    wanted = list(payloads())
    with Recorder() as origin, start(backend=origin.address, deadlines=DEADLINES) as target:
        with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
            told = dict(pool.map(lambda each: (each[0], attack(target.http, each[0], each[2])), wanted))
        time.sleep(0.5)
        requests = list(origin.requests)
    assert len(requests) >= len(wanted), "the canaries at least"
    found = {number: [] for number, _, _ in wanted}
    cases = []
    for request in requests:
        hidden = re.match(r"/sm(\d{6})", request.target)
        owner = int(hidden[1]) if hidden else request.owner
        if owner in found:
            found[owner].append(request)
        else:
            cases.append(("a request of nobody's", "fail", f"smuggled: {request.head[:300]!r}"))
    return [(name, *judge(number, told[number], found[number])) for number, name, _ in wanted] + cases


def judge(number, told, requests):
    for request in requests:
        if request.fault:
            return "fail", f"ambiguous: {request.fault}: {request.head[:300]!r}"
        if len(request.values("x-request-id")) != 1:
            return "fail", f"smuggled: {request.head[:300]!r}"
    if told["wrong"]:
        return "fail", f"smuggled: {told['wrong']}"
    hidden = any(request.target.startswith("/sm") for request in requests)
    if hidden:
        return "pass", "took what was hidden for a second request"
    return "strict" if told["refused"] else "pass", told["first"]


def attack(address, number, raw):
    """Sends the payload and a canary behind it, and a canary on another connection."""
    canary = f"/canary-{number:06}".encode()
    request = b"GET %s HTTP/1.1\r\nHost: canary.test\r\n\r\n" % canary
    with connect(address, number) as sock:
        got, is_open = exchange(sock, raw, 0.08)
        if is_open:
            more, _ = exchange(sock, request, 0.3)
            got += more
    wrong = poison(got, number)
    for attempt in range(3):
        with connect(address, number) as sock:
            answer, _ = exchange(sock, request, 5, until=canary)
        if not answer or re.match(rb"HTTP/1\.[01] 50", answer):
            continue  # on a connection that the origin was ending
        if not answer.endswith(b"\r\n\r\n" + canary):
            wrong = wrong or f"another answer: {answer[:200]!r}"
        break
    else:
        wrong = wrong or f"no answer to a sound request: {answer[:60]!r}"
    first = got.split(b"\r\n")[0].decode("latin-1")
    return {"wrong": wrong, "first": first or "closed", "refused": bool(re.match(r"HTTP/1\.[01] [45]", first)) or not first}


def poison(got, number):
    numbers = {int(found) for found in re.findall(rb"/(?:sm|canary-)(\d{6})", got)}
    return f"an answer of payload {numbers - {number}}" if numbers - {number} else None


def connect(address, number):
    sock = socket.socket()
    sock.bind((address_of(number), 0))
    sock.settimeout(5)
    sock.connect(address)
    return sock


def exchange(sock, octets, quiet, until=None):
    """What came until nothing more did for `quiet` seconds, or `until` was its end; and whether the connection is open."""
    got = b""
    try:
        sock.settimeout(2)
        sock.sendall(octets)
    except TimeoutError:
        pass
    except OSError:
        return got, False
    while not (until and got.endswith(until)) and select.select([sock], [], [], quiet)[0]:
        try:
            part = sock.recv(65536)
        except OSError:
            return got, False
        if not part:
            return got, False
        got += part
    return got, True


def figures(cases):
    kinds = [case.note.split(":")[0] for case in cases if case.verdict == "fail"]
    return {"ambiguous": kinds.count("ambiguous"), "smuggled": kinds.count("smuggled")}
