"""A backend that breaks the rules at every stage of an answer, and what follows it."""

import concurrent.futures
import contextlib
import dataclasses
import socket
import ssl
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h11
import helper
import peers

TITLE = "Upstream faults"
ABOUT = """\
A scripted backend truncates, resets, falls silent, sends more than it said, two lengths, an unasked-for
101, 200 times 103, or answers early. What was cut must not look whole, what cannot be understood has to
become an error of the program's own, and three requests after each, on the same connection where it is
kept, have to get their own answers; over HTTP/1.1, and over TLS and h2. The deadlines for a silent backend are 2 s; 8 s are granted."""

DEADLINES = peers.Deadlines(response=2)
PATIENCE = 8
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@dataclasses.dataclass
class Seen:
    """One answer: a status, with its body if it was whole."""

    status: int = 0
    body: bytes = b""
    end: str = ""  # "", or why there is no whole answer
    fields: tuple = ()
    is_over: bool = False

    def __str__(self):
        said = f"{self.status} {self.body[:20]!r}" if self.status else "no answer"
        return f"{said}, {self.end}" if self.end else said


def whole(status, body):
    """This answer and no other."""
    return lambda seen: not seen.end and (seen.status, seen.body) == (status, body)


def refused(seen):
    """An error of its own; h2 can say so without an answer as well."""
    return (500 <= seen.status < 600 and not seen.end) or seen.end.startswith("closed by a reset")


def ended(seen):
    """Nothing that could be taken for an answer, or an error: at once, or after the deadline."""
    return refused(seen) or seen.end.startswith(("closed", "invalid"))


def either(*wanted):
    return lambda seen: any(want(seen) for want in wanted)


def clean(seen):
    """The answer without what was smuggled into its head."""
    return whole(200, b"ok")(seen) and not any(name.lower() in (b"x-b", b"x-c") for name, _ in seen.fields)


def not_named(seen):
    return whole(200, b"ok")(seen) and not any(name.lower() in (b"x-secret", b"keep-alive") for name, _ in seen.fields)


# What scripts of tests/peers/raw_origin.py do, and what the client may see then.
CASES = {
    "truncated": ended,
    "truncated-chunk": ended,
    "truncated-chunks": ended,
    "truncated-head": refused,
    "reset-before-head": refused,
    "reset-in-body": ended,
    "close-before-head": refused,
    "extra-bytes": either(whole(200, b"ok"), refused),
    "extra-after-chunks": either(whole(200, b"ok"), refused),
    "two-lengths": ended,
    "two-equal-lengths": either(whole(200, b"ok"), refused),
    "length-and-chunks": either(whole(200, b"ok"), refused),
    "bad-length": ended,
    "bad-chunk": ended,
    "trailers": whole(200, b"ok"),
    "until-close": whole(200, b"ok"),
    "http10": whole(200, b"ok"),
    "no-content-with-body": either(whole(204, b""), refused),
    "not-modified-with-body": either(whole(304, b""), refused),
    "unsolicited-101": refused,
    "informational": whole(200, b"ok"),
    "informational-200": whole(200, b"ok"),
    "named-hop-by-hop": not_named,
    "header-injection": either(clean, ended),
    "huge-head": ended,
    "garbage": ended,
    "early-close": whole(401, b"no"),
    "early-keep": whole(401, b"no"),
    "hang-before-head": refused,
    "hang-in-head": refused,
    "hang-in-body": ended,
    "hang-in-chunk": ended,
    # An answer in HTTP/0.9, which has no head.
    "hex/68656c6c6f20776f726c640d0a/close": ended,
}


class Client:
    """One connection; a strict reader of answers."""

    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=PATIENCE)
        self.reader = h11.Connection(h11.CLIENT, max_incomplete_event_size=4 << 20)

    def ask(self, method, path, body=b""):
        """Asks, reads the answer, and says whether the connection can be used again."""
        lines = [("Host", peers.HOST), ("Content-Length", str(len(body)))] if body else [("Host", peers.HOST)]
        head = self.reader.send(h11.Request(method=method, target=path, headers=lines))
        rest = (self.reader.send(h11.Data(data=body)) or b"") + (self.reader.send(h11.EndOfMessage()) or b"")
        try:
            self.socket.sendall(head)
            self.socket.sendall(rest)
        except OSError:
            pass  # an answer may have come before all was sent
        seen = self.read()
        states = self.reader.our_state, self.reader.their_state
        is_kept = not seen.end and states == (h11.DONE, h11.DONE)
        if is_kept:
            self.reader.start_next_cycle()
        return seen, is_kept

    def read(self):
        seen, end = Seen(), time.monotonic() + PATIENCE
        while True:
            try:
                event = self.reader.next_event()
                if event is h11.NEED_DATA:
                    self.socket.settimeout(max(0.01, end - time.monotonic()))
                    self.reader.receive_data(self.socket.recv(65536))
                    continue
            except h11.RemoteProtocolError as error:
                seen.end = "closed" if "closed" in str(error) else f"invalid: {error}"
                return seen
            except TimeoutError:
                seen.end = "nothing more in time"
                return seen
            except OSError:
                seen.end = "closed"
                return seen
            if isinstance(event, h11.Response):
                seen.status, seen.fields = event.status_code, tuple(event.headers)
            elif isinstance(event, h11.InformationalResponse):
                if event.status_code == 101:
                    return Seen(101, end="switched")
            elif isinstance(event, h11.Data):
                seen.body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return seen
            else:
                seen.end = "closed"
                return seen


class H2Client:
    """One connection of h2 over TLS; the library checks what comes."""

    def __init__(self, target):
        context = ssl.create_default_context(cafile=target.ca)
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection(target.tls, timeout=PATIENCE)
        self.socket = context.wrap_socket(plain, server_hostname=target.host)
        self.connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding=None))
        self.connection.initiate_connection()

    def ask(self, method, path, body=b""):
        stream = self.connection.get_next_available_stream_id()
        head = [(":method", method), (":scheme", "https"), (":authority", peers.HOST), (":path", path)]
        head += [("content-length", str(len(body)))] if body else []
        self.connection.send_headers(stream, head, end_stream=not body)
        seen, end = Seen(), time.monotonic() + PATIENCE
        try:
            while not seen.is_over:
                body = self.send(stream, body)
                self.socket.settimeout(max(0.01, end - time.monotonic()))
                got = self.socket.recv(65536)
                if not got:
                    seen.end = "closed"
                    break
                for event in self.connection.receive_data(got):
                    self.take(event, stream, seen)
            if body and seen.is_over and not seen.end:
                with contextlib.suppress(h2.exceptions.StreamClosedError):
                    self.connection.reset_stream(stream)  # an early answer; the rest is not wanted
        except TimeoutError:
            seen.end = "nothing more in time"
        except (OSError, h2.exceptions.ProtocolError) as error:
            seen.end = f"closed or invalid: {error!r}"
        # What a reset or an error of one stream leaves is a connection for the next.
        is_kept = not seen.end or seen.end.startswith("closed by a reset")
        return seen, is_kept

    def send(self, stream, body):
        """As much of the body as windows allow; returns the rest."""
        while body:
            size = min(self.connection.local_flow_control_window(stream), self.connection.max_outbound_frame_size)
            if not size:
                break
            self.connection.send_data(stream, body[:size], end_stream=len(body) <= size)
            body = body[size:]
        self.socket.sendall(self.connection.data_to_send())
        return body

    def take(self, event, stream, seen):
        if isinstance(event, h2.events.ConnectionTerminated):
            seen.end, seen.is_over = f"closed with {event.error_code!r}", True
        if getattr(event, "stream_id", None) != stream or seen.is_over:
            return
        if isinstance(event, h2.events.ResponseReceived):
            seen.fields = tuple(event.headers)
            seen.status = int(dict(event.headers)[b":status"])
        elif isinstance(event, h2.events.DataReceived):
            seen.body += event.data
            with contextlib.suppress(h2.exceptions.StreamClosedError):
                self.connection.acknowledge_received_data(event.flow_controlled_length, stream)
        elif isinstance(event, h2.events.StreamEnded):
            seen.is_over = True
        elif isinstance(event, h2.events.StreamReset):
            seen.end, seen.is_over = f"closed by a reset, {event.error_code!r}", True


def check(connect, over, script, wanted):
    body = b"x" * (1 << 20) if script.startswith("early") else b""
    name = "an answer in HTTP/0.9" if script.startswith("hex") else script
    name = f"{name}, over {over}"
    client = connect()
    try:
        # A POST, so that nothing is tried again.
        seen, is_kept = client.ask("POST", f"/{script}", body)
        if not wanted(seen):
            return name, "fail", str(seen)
        for number in range(1, 4):
            if not is_kept:
                client.socket.close()
                client = connect()
            was_kept = is_kept
            after, is_kept = client.ask("GET", f"/ok?{number}")
            if was_kept and not after.status and after.end.startswith(("closed", "invalid")):
                # Closed just now, as any server may: a client asks again.
                client.socket.close()
                client = connect()
                after, is_kept = client.ask("GET", f"/ok?{number}")
            if not whole(200, b"ok")(after):
                return name, "fail", f"{seen}; then, for request {number} after it: {after}"
        return name, "pass", str(seen)
    finally:
        client.socket.close()


def run(start):
    with helper.serving("raw_origin.py") as origin, start(backend=origin.address, deadlines=DEADLINES) as target:
        ways = {"HTTP/1.1": lambda: Client(target.http), "h2": lambda: H2Client(target)}
        # Several at a time, so that connections to the backend are taken over from each other.
        with concurrent.futures.ThreadPoolExecutor(6) as pool:
            for over, connect in ways.items():
                yield from pool.map(lambda case: check(connect, over, *case), CASES.items())
