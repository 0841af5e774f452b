"""An HTTP/2 client that sends whatever it is told to, and says what came back; for the suites.

Frames are bytes made by the functions below: `headers(1)` is a whole GET on stream 1. Fields are
literals without indexing and without Huffman coding, so that a block is the same on every connection.
"""

import select
import socket
import ssl
import struct
import time

import hpack

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
END_STREAM = ACK = 0x1
END_HEADERS, PADDED, PRIORITIZED = 0x4, 0x8, 0x20
CODES = (
    "NO_ERROR PROTOCOL_ERROR INTERNAL_ERROR FLOW_CONTROL_ERROR SETTINGS_TIMEOUT STREAM_CLOSED FRAME_SIZE_ERROR "
    "REFUSED_STREAM CANCEL COMPRESSION_ERROR CONNECT_ERROR ENHANCE_YOUR_CALM INADEQUATE_SECURITY HTTP_1_1_REQUIRED"
).split()
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)


def frame(kind, flags=0, stream=0, payload=b""):
    return struct.pack("!IBBI", len(payload), kind, flags, stream)[1:] + payload


def settings(*pairs):
    return frame(SETTINGS, payload=b"".join(struct.pack("!HI", *pair) for pair in pairs))


def data(stream, payload=b"", end=True, **more):
    return frame(DATA, END_STREAM if end else 0, stream, payload)


def window_update(stream, increment):
    return frame(WINDOW_UPDATE, 0, stream, struct.pack("!I", increment))


def reset(stream, code=8):
    return frame(RST_STREAM, 0, stream, struct.pack("!I", code))


def ping(payload=b"wardgate", flags=0, stream=0):
    return frame(PING, flags, stream, payload)


def headers(stream, block=None, end=True, end_headers=True, flags=0, **change):
    """A request; `block` is its fields encoded, or `change` what differs from a GET (see request)."""
    block = fields(request(**change)) if block is None else block
    flags |= (END_STREAM if end else 0) | (END_HEADERS if end_headers else 0)
    return frame(HEADERS, flags, stream, block)


def continuation(stream, block=b"", end_headers=True):
    return frame(CONTINUATION, END_HEADERS if end_headers else 0, stream, block)


def request(method="GET", scheme="http", authority="app.test", path="/", more=()):
    """The fields of a request; None leaves a pseudo-header out."""
    pseudo = {":method": method, ":scheme": scheme, ":authority": authority, ":path": path}
    return [*((name, value) for name, value in pseudo.items() if value is not None), *more]


def integer(value, bits, first=0):
    """RFC 7541 section 5.1."""
    limit = (1 << bits) - 1
    if value < limit:
        return bytes([first | value])
    out, value = bytearray([first | limit]), value - limit
    while value >= 128:
        out.append(value % 128 | 128)
        value //= 128
    out.append(value)
    return bytes(out)


def text(value):
    """RFC 7541 section 5.2, without Huffman coding."""
    value = value.encode("latin-1") if isinstance(value, str) else value
    return integer(len(value), 7) + value


def field(name, value):
    return b"\0" + text(name) + text(value)


def fields(pairs):
    return b"".join(field(*pair) for pair in pairs)


class Closed(Exception):
    """The other side has closed the connection."""


class Connection:
    """One connection, whose preface and settings have been exchanged unless `greet` is false."""

    def __init__(self, address, ca=None, host="app.test", greet=True, window=None, patience=8.0, own=()):
        self.patience = patience
        self.sock = socket.create_connection(address, timeout=10)
        self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.is_secure = ca is not None
        if self.is_secure:
            context = ssl.create_default_context(cafile=ca)
            context.set_alpn_protocols(["h2"])
            self.sock = context.wrap_socket(self.sock, server_hostname=host)
            assert self.sock.selected_alpn_protocol() == "h2", "no h2 by ALPN"
        self.unread = bytearray()
        self.decoder = hpack.Decoder()
        self.decoder.max_header_list_size = 1 << 24
        self.block = None
        self.settings = {MAX_FRAME_SIZE: 16384, INITIAL_WINDOW_SIZE: 65535}
        self.frames = []
        self.closed = False
        if greet:
            pairs = [] if window is None else [(INITIAL_WINDOW_SIZE, window)]
            self.send(PREFACE + settings(*pairs, *own))
            self.wait(lambda event: event[0] == "settings", 10)
            self.wait(lambda event: event[0] == "settings ack", 10)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.close()

    def close(self):
        self.sock.close()

    @property
    def scheme(self):
        return "https" if self.is_secure else "http"

    def send(self, octets):
        """False when the other side has gone, which what it has sent explains."""
        try:
            self.sock.sendall(octets)
            return True
        except OSError:
            return False

    def wait(self, wanted, seconds=None):
        """The first event that `wanted` accepts among those from now on; None when there is none in time.

        Raises Closed at the connection's end.
        """
        end = time.monotonic() + (self.patience if seconds is None else seconds)
        while True:
            event = self.event(end)
            if event is None or wanted(event):
                return event

    def event(self, end):
        """The next frame as a tuple that begins with its kind; None after `end`."""
        while True:
            if len(self.unread) >= 9:
                size, kind, flags, stream = struct.unpack("!IBBI", b"\0" + self.unread[:9])
                if bytes(self.unread[:5]) == b"HTTP/":
                    raise Closed("answered with HTTP/1")
                if len(self.unread) >= 9 + size:
                    payload = bytes(self.unread[9 : 9 + size])
                    del self.unread[: 9 + size]
                    event = self.read(kind, flags, stream & 0x7FFFFFFF, payload)
                    if event:
                        self.frames.append(event)
                        return event
                    continue
            if not self.more(end):
                return None

    def more(self, end):
        if self.closed:
            raise Closed("closed")
        pending = self.sock.pending() if self.is_secure else 0
        if not pending and not select.select([self.sock], [], [], max(0, end - time.monotonic()))[0]:
            return False
        try:
            got = self.sock.recv(65536)
        except ssl.SSLWantReadError:
            return True
        except OSError as error:
            self.closed = True
            raise Closed(type(error).__name__) from error
        if not got:
            self.closed = True
            raise Closed("closed")
        self.unread += got
        return True

    def read(self, kind, flags, stream, payload):
        """What a frame says. A block of several frames is one event."""
        if kind in (HEADERS, CONTINUATION):
            if kind == HEADERS:
                if flags & PADDED:
                    payload = payload[1 : len(payload) - payload[0]]
                if flags & PRIORITIZED:
                    payload = payload[5:]
                self.block = (bytearray(), bool(flags & END_STREAM))
            self.block[0].extend(payload)
            if not flags & END_HEADERS:
                return None
            block, ends = self.block
            return ("headers", stream, dict(self.decoder.decode(bytes(block))), ends)
        if kind == DATA:
            if flags & PADDED:
                payload = payload[1 : len(payload) - payload[0]]
            return ("data", stream, payload, bool(flags & END_STREAM))
        if kind == SETTINGS and flags & ACK:
            return ("settings ack",)
        if kind == SETTINGS:
            self.settings.update(struct.unpack("!HI", payload[at : at + 6]) for at in range(0, len(payload), 6))
            self.send(frame(SETTINGS, ACK))
            return ("settings", self.settings)
        if kind == PING:
            return ("pong" if flags & ACK else "ping", payload)
        if kind == RST_STREAM:
            return ("reset", stream, code(payload))
        if kind == GOAWAY:
            return ("goaway", code(payload[4:]), payload[8:])
        if kind == WINDOW_UPDATE:
            return ("window", stream, struct.unpack("!I", payload)[0])
        return ("other", kind, flags, stream, payload)


def code(payload):
    number = struct.unpack("!I", payload[:4])[0]
    return CODES[number] if number < len(CODES) else str(number)
