"""Backends for the suites: an HTTP/1.1 server that reads requests strictly and records them.

    with backend.Backend() as origin:
        origin.address          (address, port)
        origin.requests         a list of Request: every one that came in
"""

import dataclasses
import re
import socket
import threading
import time


@dataclasses.dataclass
class Request:
    """What came in; `head` is every byte of it, the empty line included."""

    head: bytes
    body: bytes = b""
    connection: int = 0
    is_whole: bool = False  # its body came to its end

    @property
    def line(self):
        return self.head.split(b"\r\n", 1)[0].decode("latin-1")

    @property
    def target(self):
        return self.line.split(" ")[1] if self.line.count(" ") else ""

    @property
    def fields(self):
        """Pairs of name in lower case and value."""
        pairs = []
        for line in self.head.decode("latin-1").split("\r\n")[1:-2]:
            name, _, value = line.partition(":")
            pairs.append((name.lower(), value.strip(" \t")))
        return pairs

    def values(self, name):
        return [value for key, value in self.fields if key == name]


class Backend:
    """Answers 200 with `body`, or what `answer` makes of a request: bytes, an iterable of them, or None to close.

    Connections are kept alive; each has a thread.
    """

    def __init__(self, body=b"0123456789" * 20, answer=None):
        self.body, self.answer = body, answer
        self.requests, self.faults = [], []
        self.accepted = 0
        self.open = set()
        self.lock = threading.Lock()
        self.listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self.address = self.listener.getsockname()

    def __enter__(self):
        threading.Thread(target=self.accept, daemon=True).start()
        return self

    def __exit__(self, *error):
        # A thread in accept() is not woken by close() alone.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()
        with self.lock:
            for sock in self.open:
                sock.close()

    def accept(self):
        while True:
            try:
                sock, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                self.accepted += 1
                self.open.add(sock)
            threading.Thread(target=self.serve, args=(sock, self.accepted), daemon=True).start()

    def serve(self, sock, number):
        reader = sock.makefile("rb")
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)  # what waits should wait in the proxy
            while head := self.head(reader):
                request = Request(head, connection=number)
                with self.lock:
                    self.requests.append(request)
                request.body = self.read_body(reader, head)
                request.is_whole = True
                answer = (self.answer or self.usual)(request)
                if answer is None:
                    return
                for part in [answer] if isinstance(answer, bytes) else answer:
                    sock.sendall(part)
        except (OSError, ValueError, EOFError):
            pass
        finally:
            with self.lock:
                self.open.discard(sock)
            sock.close()

    def usual(self, request):
        body = b"" if request.line.startswith("HEAD ") else self.body
        return b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n" % len(self.body) + body

    @staticmethod
    def head(reader):
        lines = []
        while line := reader.readline():
            lines.append(line)
            if line == b"\r\n":
                return b"".join(lines)
        return None

    @staticmethod
    def read_body(reader, head):
        if re.search(rb"(?im)^transfer-encoding:[ \t]*chunked[ \t]*\r$", head):
            body = b""
            while size := int(line_of(reader), 16):
                body += exactly(reader, size)
                exactly(reader, 2)
            while line_of(reader) != b"":
                pass
            return body
        length = re.search(rb"(?im)^content-length:[ \t]*(\d+)[ \t]*\r$", head)
        return exactly(reader, int(length[1])) if length else b""

    def wait(self, wanted, seconds=3):
        """The first request, past or future, that `wanted` accepts."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with self.lock:
                found = next((request for request in self.requests if wanted(request)), None)
            if found:
                return found
            time.sleep(0.01)
        return None


def line_of(reader):
    line = reader.readline()
    if not line.endswith(b"\r\n"):
        raise EOFError
    return line[:-2]


def exactly(reader, count):
    got = reader.read(count)
    if len(got) < count:
        raise EOFError
    return got
