"""The cases that an h2 server is usually asked, written anew from RFC 9113 and RFC 7541."""

import concurrent.futures
import dataclasses
import functools
import struct
import time

import backend
from h2_wire import (
    ACK, CONTINUATION, DATA, ENABLE_PUSH, END_HEADERS, END_STREAM, GOAWAY, HEADERS, INITIAL_WINDOW_SIZE,
    MAX_CONCURRENT_STREAMS, MAX_FRAME_SIZE, PADDED, PING, PREFACE, PRIORITIZED, PRIORITY, PUSH_PROMISE, RST_STREAM,
    SETTINGS, WINDOW_UPDATE, Closed, Connection, continuation, data, field, fields, frame, headers, integer, ping,
    request, reset, settings, text, window_update,
)  # fmt: skip

TITLE = "HTTP/2 conformance"
ABOUT = """\
Every requirement on a server in RFC 9113 and RFC 7541 (HPACK) that the usual conformance tool for h2
has a case for, written anew from the two documents: what is sent, and which answers the text allows.
Each case runs over TLS and over h2c and passes when both do. An error of a stream may be answered with
one of the connection, and any error by closing, as the text allows; a malformed request with 4xx as well
(RFC 9113 section 8.1.1). A GOAWAY of another code than the text asks for passes when the connection is
closed after it, as closing alone would; these and those by 4xx are counted in the cell. Where RFC 9113
has made a requirement of RFC 7540 optional (frames on closed streams, priorities), ignoring the frame
passes. Wardgate's h2 layer says PROTOCOL_ERROR to whatever it cannot read; sizes of frames, settings and
streams that have ended are told apart before it, and the GOAWAY gets their code on its way out. Those of
another code that are left are HPACK's, which should be COMPRESSION_ERROR: to tell a broken block from a
name in upper case, which is a PROTOCOL_ERROR, every head would have to be decoded twice. PRIORITY of
another length and frames behind END_STREAM end the connection, where the text has an error of the stream first."""

KNOWN = {
    "8.3: a pseudo-header in trailers": "the h2 layer drops the pseudo-header and tells nobody. Trailers of requests end in "
    "Wardgate, so no backend gets to see any.",
}

MAX = (1 << 31) - 1
PRIORITY_OF_3 = struct.pack("!IB", 3, 15)


@dataclasses.dataclass
class Want:
    """Which answers will do; one of them has to come."""

    codes: tuple = ()  # of GOAWAY, and of RST_STREAM on `stream`; closing is as good
    stream: int = 0
    answer: int = 0  # stream that is to be answered with 200, to its end
    refusal: int = 0  # stream that may be answered with 4xx
    alive: bool = False  # the connection goes on: a PING is answered
    data: tuple = ()  # stream, and size of the next DATA on it
    closes: bool = False  # not a word is enough, it has to close
    goaway: bool = False  # nor is closing


def connection_error(*codes):
    return Want(codes)


def stream_error(stream, *codes, **more):
    return Want(codes, stream=stream, **more)


def malformed(stream=1):
    return Want(("PROTOCOL_ERROR",), stream=stream, refusal=stream)


def answered(stream=1):
    return Want(answer=stream)


ALIVE = Want(alive=True)


def end_of(stream):
    """A step: waits for the answer's end."""

    def step(connection):
        connection.wait(lambda event: event[0] in ("headers", "data") and event[1] == stream and event[3])

    return step


def head_of(stream):
    def step(connection):
        connection.wait(lambda event: event[:2] == ("headers", stream))

    return step


def octets_of(stream, size):
    def step(connection):
        while size_of(connection, stream) < size and connection.wait(lambda event: event[:2] == ("data", stream)):
            pass

    return step


def acknowledged(connection):
    connection.wait(lambda event: event == ("settings ack",))


def size_of(connection, stream):
    return sum(len(event[2]) for event in connection.frames if event[:2] == ("data", stream))


def generic(scheme):
    """What anybody does on a day without errors."""
    get = functools.partial(headers, scheme=scheme)
    block = fields(request(scheme=scheme))
    half = len(block) // 2
    post = functools.partial(headers, end=False, scheme=scheme, method="POST")
    common = fields(request(scheme=scheme))

    def with_field(octets):
        return headers(1, common + octets), answered()

    def literal(first, bits, named, huffman):
        # `user-agent` has index 58 in the static table.
        name = integer(58, bits, first) if named else integer(0, bits, first) + (HUFFMAN_X_TEST if huffman else text("x-test"))
        return with_field(name + (HUFFMAN_A if huffman else text("a")))

    yield "3.4", "a request after the preface", get(1), answered()
    yield "5.1", "PRIORITY on an idle stream", frame(PRIORITY, 0, 3, struct.pack("!IB", 0, 15)) + get(5), answered(5)
    yield "5.1", "WINDOW_UPDATE on a half-closed stream", get(1) + window_update(1, 100), answered()
    yield "5.1", "PRIORITY on a half-closed stream", get(1) + frame(PRIORITY, 0, 1, struct.pack("!IB", 0, 15)), answered()
    yield "5.1", "RST_STREAM on a half-closed stream", get(1) + reset(1), ALIVE
    yield "5.1", "PRIORITY on a closed stream", [get(1), end_of(1), frame(PRIORITY, 0, 1, struct.pack("!IB", 0, 15))], ALIVE
    yield "6.1", "DATA", post(1) + data(1, b"test"), answered()
    yield "6.1", "several DATA", post(1) + data(1, b"te", end=False) + data(1, b"st"), answered()
    yield "6.1", "padded DATA", post(1) + frame(DATA, PADDED | END_STREAM, 1, b"\6test" + bytes(6)), answered()
    yield "6.2", "HEADERS", get(1), answered()
    yield "6.2", "padded HEADERS", headers(1, b"\6" + block + bytes(6), flags=PADDED), answered()
    yield "6.2", "HEADERS with a priority", headers(1, struct.pack("!IB", 0, 255) + block, flags=PRIORITIZED), answered()
    for what, priority in {
        "of weight 1": struct.pack("!IB", 0, 0),
        "of weight 256": struct.pack("!IB", 0, 255),
        "that depends on another stream": struct.pack("!IB", 3, 15),
        "that is exclusive": struct.pack("!IB", 1 << 31, 15),
    }.items():
        yield "6.3", f"PRIORITY {what}", frame(PRIORITY, 0, 1, priority) + get(1), answered()
    yield "6.3", "PRIORITY on a stream above the request's", frame(PRIORITY, 0, 5, struct.pack("!IB", 0, 15)) + get(3), answered(3)
    yield "6.4", "RST_STREAM", post(1) + reset(1), ALIVE
    yield "6.5", "SETTINGS, acknowledged", [settings((MAX_CONCURRENT_STREAMS, 10)), acknowledged], ALIVE
    yield "6.7", "PING", ping(b"another1"), ALIVE
    yield "6.8", "GOAWAY", [get(1), end_of(1), frame(GOAWAY, payload=struct.pack("!II", 0, 0))], Want(("NO_ERROR",), alive=True)
    yield "6.9", "WINDOW_UPDATE of the connection", window_update(0, 1) + get(1), answered()
    yield "6.9", "WINDOW_UPDATE of a stream", post(1) + window_update(1, 1) + data(1, b"test"), answered()
    yield "6.10", "CONTINUATION", headers(1, block[:half], end_headers=False) + continuation(1, block[half:]), answered()
    yield (
        "6.10", "several CONTINUATION",
        headers(1, block[:9], end_headers=False) + continuation(1, block[9:half], end_headers=False) + continuation(1, block[half:]),
        answered(),
    )  # fmt: skip
    yield "8.1", "GET", get(1), answered()
    yield "8.1", "HEAD", get(1, method="HEAD"), answered()
    yield "8.1", "POST", post(1, more=[("content-length", "4")]) + data(1, b"test"), answered()
    yield "8.1", "POST with trailers", post(1) + data(1, b"test", end=False) + headers(1, fields([("x-test", "1")])), answered()
    yield "HPACK 6.1", "an indexed field", *with_field(integer(16, 7, 0x80))  # accept-encoding: gzip, deflate
    for what, first, bits in (("with indexing", 0x40, 6), ("without indexing", 0, 4), ("never indexed", 0x10, 4)):
        section = {0x40: "6.2.1", 0: "6.2.2", 0x10: "6.2.3"}[first]
        for named in (True, False):
            for huffman in (False, True):
                title = f"a literal {what}, {'indexed' if named else 'new'} name{', Huffman' if huffman else ''}"
                yield f"HPACK {section}", title, *literal(first, bits, named, huffman)
    yield "HPACK 6.3", "an update of the table's size", headers(1, integer(128, 5, 0x20) + block), answered()


HUFFMAN_A = integer(1, 7, 0x80) + b"\x1f"
# x-test: f3 16 0a 42 7f by the table of RFC 7541, appendix B; the suite's first run holds it against hpack.
HUFFMAN_X_TEST = None


def frames(scheme):
    """RFC 9113, sections 3 to 7."""
    get = functools.partial(headers, scheme=scheme)
    block = fields(request(scheme=scheme))
    half = len(block) // 2
    post = functools.partial(headers, end=False, scheme=scheme, method="POST")
    open_block = headers(1, block[:half], end_headers=False)

    yield "3.4", "the preface", b"", ALIVE
    yield "3.4", "a wrong preface", None, Want(("PROTOCOL_ERROR",))
    yield "4.1", "a frame of an unknown type", frame(0x16, 0, 0, b"unknown!"), ALIVE
    yield "4.1", "flags that a frame does not define", frame(PING, 0x16, 0, b"anything"), ALIVE
    yield "4.1", "the reserved bit", frame(PING, 0, 1 << 31, b"anything"), ALIVE
    yield "4.2", "DATA of 2^14 octets", post(1) + data(1, bytes(1 << 14)), answered()
    yield "4.2", "DATA that is too large", [post(1), too_large(DATA)], stream_error(1, "FRAME_SIZE_ERROR")
    yield "4.2", "HEADERS that are too large", too_large(HEADERS, scheme), connection_error("FRAME_SIZE_ERROR")
    yield "4.3", "an invalid block", headers(1, b"\x40"), connection_error("COMPRESSION_ERROR")
    yield "4.3", "PRIORITY within a block", open_block + frame(PRIORITY, 0, 1, PRIORITY_OF_3), connection_error("PROTOCOL_ERROR")
    yield "4.3", "HEADERS of another stream within a block", open_block + get(3), connection_error("PROTOCOL_ERROR")

    idle = {"DATA": data(1, b"test"), "RST_STREAM": reset(1), "WINDOW_UPDATE": window_update(1, 100), "CONTINUATION": continuation(1, block)}
    for what, octets in idle.items():
        yield "5.1", f"{what} on an idle stream", octets, connection_error("PROTOCOL_ERROR")
    late = {"DATA": data(1, b"test"), "HEADERS": get(1), "CONTINUATION": continuation(1, block)}
    codes = {"DATA": ("STREAM_CLOSED",), "HEADERS": ("STREAM_CLOSED",), "CONTINUATION": ("STREAM_CLOSED", "PROTOCOL_ERROR")}
    for what, octets in late.items():
        yield "5.1", f"{what} on a half-closed stream", get(1) + octets, stream_error(1, *codes[what])
    for what, octets in late.items():
        more = {} if what == "CONTINUATION" else {"alive": True}
        yield "5.1", f"{what} on a stream that was reset", post(1) + reset(1) + octets, stream_error(1, "STREAM_CLOSED", "PROTOCOL_ERROR", **more)
    for what, octets in late.items():
        more = {} if what == "CONTINUATION" else {"alive": True}
        yield "5.1", f"{what} on a closed stream", [get(1), end_of(1), octets], stream_error(1, "STREAM_CLOSED", "PROTOCOL_ERROR", **more)
    yield "5.1.1", "a stream of an even number", get(2), connection_error("PROTOCOL_ERROR")
    yield "5.1.1", "a stream below the last", [get(5), end_of(5), get(3)], connection_error("PROTOCOL_ERROR", "STREAM_CLOSED")
    yield "5.1.2", "more streams than allowed", too_many(post), stream_error(-1, "PROTOCOL_ERROR", "REFUSED_STREAM")
    itself = struct.pack("!IB", 1, 255)
    ignored = {"alive": True, "answer": 1}
    yield "5.3", "HEADERS that depend on themselves", headers(1, itself + block, flags=PRIORITIZED), stream_error(1, "PROTOCOL_ERROR", **ignored)
    yield "5.3", "PRIORITY that depends on itself", post(1) + frame(PRIORITY, 0, 1, itself), stream_error(1, "PROTOCOL_ERROR", **ignored)
    wrong = frame(PING, payload=b"short")
    yield "5.4.1", "an error closes the connection", wrong, Want(("FRAME_SIZE_ERROR",), closes=True)
    yield "5.4.1", "an error is told by GOAWAY", wrong, Want(("FRAME_SIZE_ERROR",), goaway=True)
    yield "5.5", "an extension frame", frame(0xFE, 0, 0, b"whatever") + get(1), answered()
    yield "5.5", "an extension frame within a block", open_block + frame(0xFE, 0, 0, b"whatever") + continuation(1, block[half:]), connection_error("PROTOCOL_ERROR")

    yield "6.1", "DATA without a stream", data(0, b"test"), connection_error("PROTOCOL_ERROR")
    yield "6.1", "DATA on a stream that is not open", [get(1), end_of(1), data(1, b"test")], stream_error(1, "STREAM_CLOSED", "PROTOCOL_ERROR", alive=True)
    yield "6.1", "DATA with too much padding", post(1) + frame(DATA, PADDED | END_STREAM, 1, b"\5test"), connection_error("PROTOCOL_ERROR")
    yield "6.2", "PRIORITY after HEADERS without END_HEADERS", open_block + frame(PRIORITY, 0, 1, PRIORITY_OF_3), connection_error("PROTOCOL_ERROR")
    yield "6.2", "HEADERS after HEADERS without END_HEADERS", open_block + get(3), connection_error("PROTOCOL_ERROR")
    yield "6.2", "HEADERS without a stream", get(0), connection_error("PROTOCOL_ERROR")
    yield "6.2", "HEADERS with too much padding", headers(1, bytes([len(block) + 1]) + block, flags=PADDED), connection_error("PROTOCOL_ERROR")
    yield "6.3", "PRIORITY without a stream", frame(PRIORITY, 0, 0, PRIORITY_OF_3), connection_error("PROTOCOL_ERROR")
    yield "6.3", "PRIORITY of another length", post(1) + frame(PRIORITY, 0, 1, b"\0\0\0\3"), stream_error(1, "FRAME_SIZE_ERROR")
    yield "6.4", "RST_STREAM without a stream", reset(0), connection_error("PROTOCOL_ERROR")
    yield "6.4", "RST_STREAM on an idle stream", reset(1), connection_error("PROTOCOL_ERROR")
    yield "6.4", "RST_STREAM of another length", post(1) + frame(RST_STREAM, 0, 1, b"\0\0\0"), connection_error("FRAME_SIZE_ERROR")
    yield "6.5", "SETTINGS that acknowledge and set", frame(SETTINGS, ACK, 0, b"\0\3\0\0\0\1"), connection_error("FRAME_SIZE_ERROR")
    yield "6.5", "SETTINGS with a stream", frame(SETTINGS, 0, 1, b"\0\3\0\0\0\x64"), connection_error("PROTOCOL_ERROR")
    yield "6.5", "SETTINGS of another length", frame(SETTINGS, 0, 0, b"\0\3\0\0\0"), connection_error("FRAME_SIZE_ERROR")
    yield "6.5.2", "ENABLE_PUSH of 2", settings((ENABLE_PUSH, 2)), connection_error("PROTOCOL_ERROR")
    yield "6.5.2", "INITIAL_WINDOW_SIZE of 2^31", settings((INITIAL_WINDOW_SIZE, 1 << 31)), connection_error("FLOW_CONTROL_ERROR")
    yield "6.5.2", "MAX_FRAME_SIZE of 2^14-1", settings((MAX_FRAME_SIZE, (1 << 14) - 1)), connection_error("PROTOCOL_ERROR")
    yield "6.5.2", "MAX_FRAME_SIZE of 2^24", settings((MAX_FRAME_SIZE, 1 << 24)), connection_error("PROTOCOL_ERROR")
    yield "6.5.2", "an unknown setting", settings((0xFF, 1)), ALIVE
    yield "6.5.3", "the last of two values counts", settings((INITIAL_WINDOW_SIZE, 100), (INITIAL_WINDOW_SIZE, 1)) + get(1), Want(data=(1, 1))
    yield "6.5.3", "SETTINGS are acknowledged", [settings((ENABLE_PUSH, 0)), acknowledged], ALIVE
    yield "6.7", "PING is answered", ping(b"12345678"), ALIVE
    yield "6.7", "an answer to no PING", ping(b"12345678", ACK), ALIVE
    yield "6.7", "PING with a stream", ping(b"12345678", stream=1), connection_error("PROTOCOL_ERROR")
    yield "6.7", "PING of another length", frame(PING, payload=b"123456"), connection_error("FRAME_SIZE_ERROR")
    yield "6.8", "GOAWAY with a stream", frame(GOAWAY, 0, 1, bytes(8)), connection_error("PROTOCOL_ERROR")
    yield "6.9", "WINDOW_UPDATE of 0 for the connection", window_update(0, 0), connection_error("PROTOCOL_ERROR")
    yield "6.9", "WINDOW_UPDATE of 0 for a stream", post(1) + window_update(1, 0), stream_error(1, "PROTOCOL_ERROR")
    yield "6.9", "WINDOW_UPDATE of another length", frame(WINDOW_UPDATE, 0, 0, b"\0\0\1"), connection_error("FRAME_SIZE_ERROR")
    yield "6.9.1", "no more than the window is sent", settings((INITIAL_WINDOW_SIZE, 1)) + get(1), Want(data=(1, 1))
    yield "6.9.1", "the connection's window beyond 2^31-1", window_update(0, MAX) * 2, connection_error("FLOW_CONTROL_ERROR")
    yield "6.9.1", "a stream's window beyond 2^31-1", post(1) + window_update(1, MAX) * 2, stream_error(1, "FLOW_CONTROL_ERROR")
    narrow = settings((INITIAL_WINDOW_SIZE, 0))
    yield "6.9.2", "SETTINGS open the windows of streams", [narrow + get(1), head_of(1), settings((INITIAL_WINDOW_SIZE, 1))], Want(data=(1, 1))
    negative = [settings((INITIAL_WINDOW_SIZE, 3)) + get(1), octets_of(1, 3), settings((INITIAL_WINDOW_SIZE, 2)), acknowledged]
    yield "6.9.2", "a window below zero", [*negative, window_update(1, 2)], Want(data=(1, 1))
    yield "6.9.2", "SETTINGS that open a window beyond 2^31-1", settings((INITIAL_WINDOW_SIZE, 1 << 31)), connection_error("FLOW_CONTROL_ERROR")
    yield "6.10", "several CONTINUATION", open_block + continuation(1, block[half : half + 3], end_headers=False) + continuation(1, block[half + 3 :]), answered()
    yield "6.10", "DATA within a block", open_block + continuation(1, block[half:], end_headers=False) + data(1, b"test"), connection_error("PROTOCOL_ERROR")
    yield "6.10", "CONTINUATION without a stream", open_block + frame(CONTINUATION, END_HEADERS, 0, block[half:]), connection_error("PROTOCOL_ERROR")
    yield "6.10", "CONTINUATION after HEADERS with END_HEADERS", post(1) + continuation(1, field("x-a", "1")), connection_error("PROTOCOL_ERROR")
    yield (
        "6.10", "CONTINUATION after CONTINUATION with END_HEADERS",
        headers(1, block[:half], end=False, end_headers=False) + continuation(1, block[half:]) + continuation(1, field("x-a", "1")),
        connection_error("PROTOCOL_ERROR"),
    )  # fmt: skip
    yield "6.10", "CONTINUATION after DATA", post(1) + data(1, b"test", end=False) + continuation(1, field("x-a", "1")), connection_error("PROTOCOL_ERROR")
    yield "7", "GOAWAY with an unknown code", frame(GOAWAY, payload=struct.pack("!II", 0, 0xFF)), Want(("NO_ERROR",), alive=True)
    yield "7", "RST_STREAM with an unknown code", post(1) + reset(1, 0xFF), ALIVE


def messages(scheme):
    """RFC 9113, section 8."""
    get = functools.partial(headers, scheme=scheme)
    post = functools.partial(headers, end=False, scheme=scheme, method="POST")
    trailers = post(1) + data(1, b"test", end=False)

    def twice(name, value):
        return headers(1, fields([(name, value), *request(scheme=scheme)]))

    yield "8.1", "HEADERS within a body, without END_STREAM", trailers + headers(1, fields([("x-a", "1")]), end=False), malformed()
    yield "8.2.1", "a name in upper case", get(1, more=[("X-A", "1")]), malformed()
    yield "8.3", "an unknown pseudo-header", get(1, more=[(":test", "1")]), malformed()
    yield "8.3", "a pseudo-header of responses", get(1, more=[(":status", "200")]), malformed()
    yield "8.3", "a pseudo-header in trailers", trailers + headers(1, fields([(":method", "GET")])), malformed()
    yield "8.3", "a pseudo-header after a field", headers(1, fields([("x-a", "1"), *request(scheme=scheme)])), malformed()
    yield "8.2.2", "Connection", get(1, more=[("connection", "keep-alive")]), malformed()
    yield "8.2.2", "TE other than trailers", get(1, more=[("trailers", "test"), ("te", "trailers, deflate")]), malformed()
    yield "8.3.1", "an empty :path", get(1, path=""), malformed()
    yield "8.3.1", "no :method", get(1, method=None), malformed()
    yield "8.3.1", "no :scheme", headers(1, fields(request(scheme=None))), malformed()
    yield "8.3.1", "no :path", get(1, path=None), malformed()
    yield "8.3.1", "two :method", twice(":method", "GET"), malformed()
    yield "8.3.1", "two :scheme", twice(":scheme", scheme), malformed()
    yield "8.3.1", "two :path", twice(":path", "/"), malformed()
    yield "8.1.1", "Content-Length that DATA does not have", post(1, more=[("content-length", "1")]) + data(1, b"test"), malformed()
    several = data(1, b"test", end=False) + data(1, b"test")
    yield "8.1.1", "Content-Length that several DATA do not have", post(1, more=[("content-length", "1")]) + several, malformed()
    promise = frame(PUSH_PROMISE, END_HEADERS, 1, struct.pack("!I", 2) + fields(request(scheme=scheme)))
    yield "8.4", "PUSH_PROMISE of a client", post(1) + promise, connection_error("PROTOCOL_ERROR")


def compression(scheme):
    """RFC 7541."""
    block = fields(request(scheme=scheme))
    error = connection_error("COMPRESSION_ERROR")

    def huffman(octets):
        return headers(1, block + b"\0" + text("x-test") + integer(len(octets), 7, 0x80) + octets)

    yield "HPACK 2.3.3", "an index beyond the tables", headers(1, block + integer(70, 7, 0x80)), error
    yield "HPACK 2.3.3", "a name's index beyond the tables", headers(1, block + integer(70, 6, 0x40) + text("empty")), error
    yield "HPACK 4.2", "an update of the table's size at the end of a block", headers(1, block + integer(1, 5, 0x20)), error
    yield "HPACK 5.2", "padding of more than 7 bits", huffman(b"\x1f\xff"), error
    yield "HPACK 5.2", "padding of zeros", huffman(b"\x18"), error
    yield "HPACK 5.2", "EOS in a text", huffman(b"\xff\xff\xff\xff"), error
    yield "HPACK 6.1", "index 0", headers(1, block + b"\x80"), error
    yield "HPACK 6.3", "a table larger than the settings allow", headers(1, integer(1 << 20, 5, 0x20) + block), error


def too_large(kind, scheme=None):
    """A step: a frame one octet above what the server takes."""

    def step(connection):
        size = connection.settings[MAX_FRAME_SIZE] + 1
        if kind == DATA:
            connection.send(frame(DATA, END_STREAM, 1, bytes(size)))
            return
        block = fields(request(scheme=scheme))
        while len(block) < size:
            block += field("x-a", "a" * min(4000, max(0, size - len(block) - 10)))
        connection.send(frame(HEADERS, END_STREAM | END_HEADERS, 1, block[:size]))

    return step


class DoesNotApply(Exception):
    """As the server announces it."""


def too_many(post):
    def step(connection):
        limit = connection.settings.get(MAX_CONCURRENT_STREAMS)
        if limit is None or limit > 10_000:
            raise DoesNotApply(f"{limit} streams")
        connection.send(b"".join(post(2 * number + 1) for number in range(limit + 1)))

    return step


def cases(scheme):
    global HUFFMAN_X_TEST
    import hpack.huffman
    import hpack.huffman_constants as constants

    coded = hpack.huffman.HuffmanEncoder(constants.REQUEST_CODES, constants.REQUEST_CODES_LENGTH).encode(b"x-test")
    HUFFMAN_X_TEST = integer(len(coded), 7, 0x80) + coded
    seen = set()
    for group in (generic, frames, messages, compression):
        for section, title, steps, want in group(scheme):
            name = f"{section}: {title}"
            name = name if name not in seen else f"{name} ({group.__name__})"
            assert name not in seen, name
            seen.add(name)
            yield name, steps if isinstance(steps, list) else [steps], want


def play(target, scheme, steps, want):
    """One case on one connection: whether it passes, and what came."""
    address, ca = (target.tls, target.ca) if scheme == "https" else (target.h2c, None)
    with Connection(address, ca, greet=steps != [None]) as connection:
        try:
            if steps == [None]:
                connection.send(b"INVALID CONNECTION PREFACE\r\n\r\n")
            for step in steps if steps != [None] else []:
                if callable(step):
                    step(connection)
                else:
                    connection.send(step)
            if want.alive:
                connection.send(ping(b"are you?"))
            return judge(connection, want)
        except DoesNotApply as told:
            return "none", str(told)
        except Closed as closed:
            if want.goaway and not any(event[0] == "goaway" for event in connection.frames):
                return "fail", "closed without GOAWAY"
            return ("pass" if want.codes or want.closes else "fail"), str(closed)


def judge(connection, want):
    seen, end = [], time.monotonic() + connection.patience
    while (event := connection.event(end)) is not None:
        kind = event[0]
        if kind == "goaway":
            seen.append(f"GOAWAY {event[1]}")
            if event[1] in want.codes and not want.closes:
                return "pass", seen[-1]
            if event[1] not in ("NO_ERROR", *want.codes):
                return "strict" if is_closed(connection) and want.codes else "fail", seen[-1]
        elif kind == "reset":
            seen.append(f"RST_STREAM {event[2]}")
            if want.stream in (event[1], -1) and want.stream:
                return ("pass" if event[2] in want.codes else "fail"), seen[-1]
        elif kind == "headers":
            status = event[2].get(":status", "?")
            seen.append(f"answered {status}")
            if want.refusal == event[1] and (status[0] == "4" or status == "501"):
                return "strict", seen[-1]
            if want.answer == event[1] and (status != "200" or event[3]):
                return ("pass" if status == "200" else "fail"), seen[-1]
        elif kind == "data":
            if want.answer == event[1] and event[3]:
                return "pass", seen[-1]
            if want.refusal == event[1] and event[3]:
                return "fail", seen[-1]  # answered to its end, as if nothing were wrong with it
            if want.data and want.data[0] == event[1]:
                return ("pass" if len(event[2]) == want.data[1] else "fail"), f"DATA of {len(event[2])}"
        elif kind == "pong" and want.alive and event[1] == b"are you?":
            return "pass", "ignored"
    return "fail", ", ".join(seen) or "no answer"


def is_closed(connection):
    try:
        return connection.wait(lambda event: False) is not None
    except Closed:
        return True


def run(start):
    with backend.Backend() as origin, start(backend=origin.address) as target:
        over = {scheme: list(cases(scheme)) for scheme in ("https", "http")}
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            played = {
                scheme: [pool.submit(play, target, scheme, steps, want) for _, steps, want in list_]
                for scheme, list_ in over.items()
            }
        return [
            combined(name, played["https"][at].result(), played["http"][at].result())
            for at, (name, _, _) in enumerate(over["https"])
        ]


def combined(name, secure, plain):
    """The worse of the two."""
    order = ("fail", "strict", "pass", "none")
    verdict = min(secure[0], plain[0], key=order.index)
    if secure[1] == plain[1]:
        return name, verdict, secure[1]
    return name, verdict, f"TLS: {secure[1]}; h2c: {plain[1]}"


def figures(cases):
    strict = [case for case in cases if case.verdict == "strict"]
    counts = {"by 4xx": sum("answered" in case.note for case in strict), "by another code": sum("GOAWAY" in case.note for case in strict)}
    return {name: count for name, count in counts.items() if count}
