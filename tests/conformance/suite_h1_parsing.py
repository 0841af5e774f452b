"""What RFC 9112 and RFC 9110 ask of whoever reads a request."""

import concurrent.futures
import re
import select
import socket
import time

import strict
import suite_h1_desync as desync

TITLE = "HTTP/1 parsing"
ABOUT = """\
Request lines, fields, lengths, chunks, hosts and limits, as RFC 9112 and RFC 9110 have them; the number is the section's, of RFC
9112 where none is named. What must or should be refused has to be answered with an error, or the connection closed, and
the backend must not see it; what must be served has to arrive at the backend with its meaning. Where the text
leaves the choice, either passes, as long as what the backend gets has one meaning."""


class Expected:
    """What may become of a request."""

    def __init__(self, served, refused, check=None, answers=1):
        self.served, self.refused, self.check, self.answers = served, refused, check, answers


REFUSED = Expected(False, True)
EITHER = Expected(True, True)
SERVED = Expected(True, False)


def served(check=None, answers=1):
    return Expected(True, False, check, answers)


def either(check):
    return Expected(True, True, check)


def value(name, *wanted):
    """The backend's request has these values of a field, and no other."""
    return lambda request: None if tuple(request.values(name)) == wanted else f"{name}: {request.values(name)}"


def body(wanted):
    return lambda request: None if request.body == wanted else f"body {request.body!r}"


def target(wanted):
    return lambda request: None if request.target == wanted else f"target {request.target}"


def method(wanted):
    return lambda request: None if request.line.startswith(wanted + " ") else request.line


HOST = b"Host: a.test\r\n"
EMPTY = b"\r\n"


def get(*lines, line=b"GET / HTTP/1.1", host=HOST):
    return line + b"\r\n" + host + b"".join(each + b"\r\n" for each in lines) + EMPTY


def post(*lines, content=b""):
    return get(*lines, line=b"POST / HTTP/1.1") + content


def chunked(content, *lines):
    return post(b"Transfer-Encoding: chunked", *lines, content=content)


def cases():
    yield "2.2", "an empty line before the request", b"\r\n" + get(), SERVED
    yield "2.2", "bare LF for CRLF", b"GET / HTTP/1.1\nHost: a.test\n\n", EITHER
    yield "2.2", "a bare CR in a value", get(b"X-A: a\rb"), EITHER
    yield "2.2", "a bare CR for CRLF", b"GET / HTTP/1.1\rHost: a.test\r\r", REFUSED
    yield "2.2", "white space before the first field", b"GET / HTTP/1.1\r\n X-A: 1\r\n" + HOST + EMPTY, EITHER
    yield "2.2", "white space before the request line", b" " + get(), EITHER
    yield "2.2", "octets that are no HTTP", bytes(range(1, 9)) + b"\r\n\r\n", REFUSED
    yield "2.2", "a TLS handshake", b"\x16\x03\x01\x00\xa5\x01\x00\x00\xa1\x03\x03" + bytes(160), REFUSED
    yield "2.3", "HTTP/1.0", b"GET / HTTP/1.0\r\n" + HOST + EMPTY, served(method("GET"))
    yield "2.3", "HTTP/1.0 without Host", b"GET / HTTP/1.0\r\n\r\n", EITHER
    yield "2.3", "HTTP/0.9", b"GET /\r\n\r\n", REFUSED
    yield "2.3", "HTTP/1.2", get(line=b"GET / HTTP/1.2"), EITHER
    for version in (b"HTTP/2.0", b"HTTP/3.0", b"HTTP/9.9", b"http/1.1", b"HTTP/11", b"HTTP/1", b"HTTP/1.1x", b"HTTP/1.10", b"HTTP 1.1", b"HTTPS/1.1", b"HTTP/-1.1", b"HTTP/ 1.1"):
        yield "2.3", f"the version {version.decode()}", get(line=b"GET / " + version), REFUSED
    for name in (b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"PATCH"):
        yield "3.1", f"{name.decode()}", get(line=name + b" / HTTP/1.1"), served(method(name.decode()))
    yield "3.1", "an unknown method", get(line=b"M-SEARCH / HTTP/1.1"), either(method("M-SEARCH"))
    yield "3.1", "a method in lower case", get(line=b"get / HTTP/1.1"), either(method("get"))
    for name in (b"G@T", b"GE(T", b"G\xc3\x89T", b"GET,POST", b"G\0T", b""):
        yield "3.1", f"the method {name!r}"[:-1].replace("b'", "'") + "'", get(line=name + b" / HTTP/1.1"), REFUSED
    yield "3", "two spaces", get(line=b"GET  / HTTP/1.1"), EITHER
    yield "3", "a tab", get(line=b"GET\t/\tHTTP/1.1"), EITHER
    yield "3", "a space after the version", get(line=b"GET / HTTP/1.1 "), EITHER
    yield "3", "no target", get(line=b"GET HTTP/1.1"), REFUSED
    yield "3", "a method alone", get(line=b"GET"), REFUSED
    yield "3.2", "a space in the target", get(line=b"GET /a b HTTP/1.1"), REFUSED
    yield "3.2", "a NUL in the target", get(line=b"GET /a\0b HTTP/1.1"), REFUSED
    yield "3.2", "a control character in the target", get(line=b"GET /a\x01b HTTP/1.1"), REFUSED
    yield "3.2", "DEL in the target", get(line=b"GET /a\x7fb HTTP/1.1"), REFUSED
    yield "3.2", "a target that is not ASCII", get(line=b"GET /\xc3\xa9 HTTP/1.1"), EITHER
    yield "3.2", "a target without slash", get(line=b"GET a HTTP/1.1"), REFUSED
    yield "3.2", "a fragment in the target", get(line=b"GET /a#b HTTP/1.1"), EITHER
    yield "3.2", "the percent-encoded target", get(line=b"GET /a%20b?c=%26 HTTP/1.1"), served(target("/a%20b?c=%26"))
    yield "3.2", "a broken percent-encoding", get(line=b"GET /%zz HTTP/1.1"), EITHER
    yield "3.2", "an encoded NUL", get(line=b"GET /a%00b HTTP/1.1"), EITHER
    yield "3.2.1", "two slashes", get(line=b"GET //a HTTP/1.1"), EITHER
    yield "3.2.2", "the absolute form", get(line=b"GET http://a.test/x HTTP/1.1"), served(value("host", "a.test"))
    yield "3.2.2", "the absolute form for another host", get(line=b"GET http://b.test/x HTTP/1.1"), either(value("host", "b.test"))
    yield "3.2.2", "the absolute form without Host", get(line=b"GET http://a.test/ HTTP/1.1", host=b""), EITHER
    yield "3.2.2", "the absolute form without a path", get(line=b"GET http://a.test HTTP/1.1"), either(value("host", "a.test"))
    yield "3.2.2", "the absolute form with a user", get(line=b"GET http://u@a.test/ HTTP/1.1"), either(value("host", "a.test"))
    yield "3.2.2", "the absolute form of another scheme", get(line=b"GET ftp://a.test/ HTTP/1.1"), EITHER
    yield "3.2.2", "the absolute form without a host", get(line=b"GET http:///x HTTP/1.1"), REFUSED
    yield "3.2.3", "CONNECT", get(line=b"CONNECT a.test:80 HTTP/1.1"), EITHER
    yield "3.2.3", "CONNECT with a path", get(line=b"CONNECT / HTTP/1.1"), EITHER
    yield "3.2.4", "OPTIONS *", get(line=b"OPTIONS * HTTP/1.1"), EITHER
    yield "3.2.4", "GET *", get(line=b"GET * HTTP/1.1"), REFUSED

    yield "3.2", "no Host", get(host=b""), REFUSED
    yield "3.2", "two Host", get(host=HOST + b"Host: b.test\r\n"), REFUSED
    yield "3.2", "two equal Host", get(host=HOST * 2), REFUSED
    yield "3.2", "Host with a port", get(host=b"Host: a.test:80\r\n"), SERVED
    yield "3.2", "Host in upper case", get(host=b"HOST: A.TEST\r\n"), SERVED
    yield "3.2", "an IPv6 address as Host", get(host=b"Host: [::1]:80\r\n"), SERVED
    for host in (b"a b", b"a.test/x", b"http://a.test", b"u@a.test", b"a.test, b.test", b"a.test:x", b"a.test:80:80", b"[::1", b"a\tb", b"a?b", b"a#b", b"a\\b", b"<a>"):
        yield "3.2", f"the Host {host.decode()!r}", get(host=b"Host: " + host + EMPTY), REFUSED

    yield "5", "no space after the colon", get(b"X-A:1"), served(value("x-a", "1"))
    yield "5", "white space around a value", get(b"X-A: \t 1 \t "), served(value("x-a", "1"))
    yield "5", "an empty value", get(b"X-A:"), served(value("x-a", ""))
    yield "5", "a colon in a value", get(b"X-A: a:b"), served(value("x-a", "a:b"))
    yield "5", "a field twice", get(b"X-A: 1", b"X-A: 2"), served(lambda request: None if ",".join(request.values("x-a")).replace(" ", "") == "1,2" else "lost")
    yield "5", "names in any case", get(b"x-a: 1"), served(value("x-a", "1"))
    yield "5", "every character of a token in a name", get(b"X!#$%&'*+-.^`|~9: 1"), EITHER
    yield "5.1", "a space before the colon", get(b"X-A : 1"), REFUSED
    yield "5.1", "a tab before the colon", get(b"X-A\t: 1"), REFUSED
    yield "5.1", "a line without colon", get(b"X-A"), EITHER
    yield "5.1", "an empty name", get(b": 1"), EITHER
    for octet in (b" ", b"\0", b"\x01", b"\x7f", b"\xe9", b"(", b")", b",", b"/", b";", b"=", b"?", b"@", b"[", b"{", b'"', b"\\"):
        yield "5.1", f"{ascii(octet.decode('latin-1'))} in a name", get(b"X" + octet + b"A: 1"), EITHER
    yield "5.2", "an obsolete fold", get(b"X-A: 1\r\n 2"), EITHER
    yield "5.2", "a fold of a tab", get(b"X-A: 1\r\n\t2"), EITHER
    yield "5.2", "a fold of Host", b"GET / HTTP/1.1\r\nHost:\r\n a.test\r\n\r\n", EITHER
    yield "RFC 9110 5.5", "NUL in a value", get(b"X-A: a\0b"), either(value("x-a", "a b"))
    yield "RFC 9110 5.5", "octets above 127 in a value", get(b"X-A: \xc3\xa9\xff"), either(value("x-a", "\xc3\xa9\xff"))

    yield "6.2", "Content-Length", post(b"Content-Length: 5", content=b"12345"), served(body(b"12345"))
    yield "6.2", "Content-Length of 0", post(b"Content-Length: 0"), served(body(b""))
    yield "6.2", "leading zeros", post(b"Content-Length: 0005", content=b"12345"), either(body(b"12345"))
    yield "6.2", "GET with a body", get(b"Content-Length: 5") + b"12345", either(body(b"12345"))
    for length in (b"+5", b"-5", b"5x", b"0x5", b"5 5", b"five", b"5.0", b"5;", b"\xd9\xa5", b"18446744073709551616", b"18446744073709551621", b"9" * 40, b"5\0"):
        shown = ascii(length.decode("latin-1")) if len(length) < 30 else "40 digits"
        yield "6.3", f"Content-Length: {shown}", post(b"Content-Length: " + length, content=b"12345"), REFUSED
    yield "6.3", "an empty Content-Length", post(b"Content-Length:", content=b"12345"), REFUSED
    yield "6.3", "two Content-Length", post(b"Content-Length: 5", b"Content-Length: 6", content=b"12345"), REFUSED
    yield "6.3", "a list of different lengths", post(b"Content-Length: 5, 6", content=b"12345"), REFUSED
    yield "6.3", "two equal Content-Length", post(b"Content-Length: 5", b"Content-Length: 5", content=b"12345"), EITHER
    yield "6.3", "a list of equal lengths", post(b"Content-Length: 5, 5", content=b"12345"), EITHER
    yield "6.3", "Content-Length and Transfer-Encoding", chunked(b"5\r\n12345\r\n0\r\n\r\n", b"Content-Length: 5"), EITHER
    yield "6.1", "Transfer-Encoding on HTTP/1.0", b"POST / HTTP/1.0\r\n" + HOST + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n", EITHER
    yield "6.1", "an unknown coding", post(b"Transfer-Encoding: unknown", content=b"0\r\n\r\n"), REFUSED
    yield "6.1", "chunked, which is not the last", post(b"Transfer-Encoding: chunked, gzip", content=b"0\r\n\r\n"), REFUSED
    yield "6.1", "chunked twice", post(b"Transfer-Encoding: chunked, chunked", content=b"0\r\n\r\n"), REFUSED
    yield "6.1", "gzip, chunked", post(b"Transfer-Encoding: gzip, chunked", content=b"0\r\n\r\n"), Expected(True, True, coding_kept)
    yield "6.1", "Chunked in another case", post(b"Transfer-Encoding: CHUNKED", content=b"5\r\n12345\r\n0\r\n\r\n"), served(body(b"12345"))
    yield "6.1", "an empty Transfer-Encoding", post(b"Transfer-Encoding:", content=b""), EITHER
    yield "6.1", "identity", post(b"Transfer-Encoding: identity", b"Content-Length: 5", content=b"12345"), EITHER

    yield "7.1", "chunks", chunked(b"5\r\n12345\r\n0\r\n\r\n"), served(body(b"12345"))
    yield "7.1", "several chunks", chunked(b"2\r\n12\r\n3\r\n345\r\n0\r\n\r\n"), served(body(b"12345"))
    yield "7.1", "chunks of hexadecimal size", chunked(b"A\r\n1234567890\r\na\r\n1234567890\r\n0\r\n\r\n"), served(body(b"1234567890" * 2))
    yield "7.1", "a size with zeros before", chunked(b"0005\r\n12345\r\n000\r\n\r\n"), served(body(b"12345"))
    yield "7.1.1", "an extension", chunked(b"5;a=b\r\n12345\r\n0\r\n\r\n"), served(body(b"12345"))
    yield "7.1.1", "a quoted extension", chunked(b'5;a="b;c"\r\n12345\r\n0\r\n\r\n'), served(body(b"12345"))
    yield "7.1.1", "an extension of 10,000 octets", chunked(b"5;a=" + b"b" * 10_000 + b"\r\n12345\r\n0\r\n\r\n"), either(body(b"12345"))
    yield "7.1.2", "trailers", chunked(b"5\r\n12345\r\n0\r\nX-Sum: 1\r\n\r\n"), served(body(b"12345"))
    yield "7.1.2", "framing in trailers", chunked(b"5\r\n12345\r\n0\r\nContent-Length: 9\r\nTransfer-Encoding: x\r\n\r\n"), either(body(b"12345"))
    for what, content in {
        "a size that is no number": b"x\r\n12345\r\n0\r\n\r\n",
        "a size below zero": b"-5\r\n12345\r\n0\r\n\r\n",
        "a size with a sign": b"+5\r\n12345\r\n0\r\n\r\n",
        "a size with 0x": b"0x5\r\n12345\r\n0\r\n\r\n",
        "an underscore in a size": b"0_5\r\n12345\r\n0\r\n\r\n",
        "a size beyond 64 bits": b"10000000000000005\r\n12345\r\n0\r\n\r\n",
        "an empty size": b"\r\n12345\r\n0\r\n\r\n",
        "a chunk longer than its size": b"4\r\n12345\r\n0\r\n\r\n",
        "no CRLF after a chunk": b"5\r\n123450\r\n\r\n",
        "an extension without size": b";a=b\r\n12345\r\n0\r\n\r\n",
        "a NUL in a size": b"5\0\r\n12345\r\n0\r\n\r\n",
        "a trailer without colon": b"5\r\n12345\r\n0\r\nX\r\n\r\n",
    }.items():
        yield "7.1", what, chunked(content), Expected(False, True, whole)
    for what, content in {
        "white space after a size": b"5 \r\n12345\r\n0\r\n\r\n",
        "white space before a size": b" 5\r\n12345\r\n0\r\n\r\n",
        "a bare LF after a size": b"5\n12345\r\n0\r\n\r\n",
        "a bare LF in an extension": b"5;a\nb\r\n12345\r\n0\r\n\r\n",
        "a bare LF after a chunk": b"5\r\n12345\n0\r\n\r\n",
        "a bare LF at the end": b"5\r\n12345\r\n0\r\n\n",
    }.items():
        yield "7.1", what, chunked(content), EITHER
    yield "8", "chunks that end with the connection", [chunked(b"5\r\n123"), None], Expected(False, True, whole)
    yield "8", "a body that ends with the connection", [post(b"Content-Length: 50", content=b"12345"), None], Expected(False, True, whole)
    yield "8", "a head that ends with the connection", [b"GET / HTTP/1.1\r\n" + HOST, None], REFUSED

    yield "9.3", "two requests on a connection", [get(), get()], served(answers=2)
    yield "9.3.2", "pipelined requests", get(line=b"GET /1 HTTP/1.1") + get(line=b"GET /2 HTTP/1.1") + get(line=b"GET /3 HTTP/1.1"), served(answers=3)
    yield "9.3.2", "a request behind a body", post(b"Content-Length: 5", content=b"12345") + get(), served(answers=2)
    yield "9.3.2", "a request behind chunks", chunked(b"5\r\n12345\r\n0\r\n\r\n") + get(), served(answers=2)
    yield "2.2", "a request octet by octet", [bytes([octet]) for octet in get(line=b"GET /slow HTTP/1.1")], served(target("/slow"))
    yield "2.2", "a chunked request octet by octet", [bytes([octet]) for octet in chunked(b"5\r\n12345\r\n0\r\n\r\n")], served(body(b"12345"))
    yield "RFC 9110 7.6.1", "a field that Connection names", get(b"Connection: X-A", b"X-A: 1"), served(value("x-a"))
    yield "RFC 9110 7.6.1", "Host that Connection names", get(b"Connection: Host, X-Forwarded-For"), either(value("host", "a.test"))
    yield "RFC 9110 7.6.1", "Keep-Alive and Proxy-Connection", get(b"Connection: keep-alive", b"Keep-Alive: timeout=9"), served(value("keep-alive"))
    yield "RFC 9110 10.1.1", "Expect: 100-continue", post(b"Expect: 100-continue", b"Content-Length: 5", content=b"12345"), served(body(b"12345"))
    yield "RFC 9110 10.1.1", "another Expect", get(b"Expect: nonsense"), EITHER

    long = b"/" + b"a" * 7_980
    yield "3", "a request line of 8,000 octets", get(line=b"GET " + long + b" HTTP/1.1"), served(target(long.decode()))
    yield "5.4", "a field of 4,000 octets", get(b"X-A: " + b"a" * 4_000), served(value("x-a", "a" * 4_000))
    yield "5.4", "80 fields", get(*(b"X-%d: 1" % number for number in range(80))), SERVED
    yield "5.4", "a field of 1 MiB", get(b"X-A: " + b"a" * (1 << 20)), REFUSED
    yield "5.4", "10,000 fields", get(*(b"X-%d: 1" % number for number in range(10_000))), REFUSED
    yield "3", "a target of 1 MiB", get(line=b"GET /" + b"a" * (1 << 20) + b" HTTP/1.1"), REFUSED
    yield "3", "a method of 1 MiB", get(line=b"G" * (1 << 20) + b" / HTTP/1.1"), REFUSED


def coding_kept(request):
    """A body in a coding that the backend is not told of would be garbage to it."""
    return None if "gzip" in ",".join(request.values("transfer-encoding")) else "the coding was dropped"


def whole(request):
    """The backend may have begun to read; it must not take the request for complete."""
    return "forwarded as whole" if request.is_whole else None


class Recorder(desync.Recorder):
    """Records bodies as well."""

    def serve(self, sock, number):
        reader, owner = sock.makefile("rb"), None
        try:
            while head := self.head(reader):
                request = desync.backend.Request(head, connection=number)
                request.fault = strict.fault(head)
                request.owner = owner = desync.owner_of(request) or owner
                with self.lock:
                    self.requests.append(request)
                if request.fault:
                    return
                request.body = desync.backend.Backend.read_body(reader, head)
                request.is_whole = True
                if head.startswith(b"CONNECT "):
                    sock.sendall(desync.NO_TUNNEL)
                    return
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n" + (b"" if head.startswith(b"HEAD ") else b"ok")
                sock.sendall(answer)
        except (OSError, EOFError, ValueError, OverflowError):
            pass
        finally:
            with self.lock:
                self.open.discard(sock)
            sock.close()


def run(start):
    wanted = list(enumerate(cases(), 1))
    with Recorder() as origin, start(backend=origin.address, deadlines=desync.DEADLINES) as target:
        with concurrent.futures.ThreadPoolExecutor(24) as pool:
            told = dict(pool.map(lambda each: (each[0], exchange(target.http, each[0], *each[1][2:])), wanted))
        time.sleep(0.3)
        requests = list(origin.requests)
    found = {number: [] for number, _ in wanted}
    for request in requests:
        found.setdefault(request.owner, []).append(request)
    return [(f"{section}: {title}", *judge(expected, told[number], found[number])) for number, (section, title, _, expected) in wanted]


def judge(expected, told, requests):
    answers, is_closed = told
    shown = ", ".join(map(str, answers)) or ("closed" if is_closed else "no answer")
    for request in requests:
        if request.fault:
            return "fail", f"{shown}; forwarded with {request.fault}: {request.head[:200]!r}"
    good = answers.count(200)
    if requests and not expected.served and not (expected.check and expected.check(requests[0]) is None):
        return "fail", f"{shown}; forwarded"
    if good and not requests and not expected.served:
        return "fail", shown
    if requests and expected.served:
        if good < expected.answers:
            return ("pass" if expected.refused else "fail"), shown
        wrong = expected.check and expected.check(requests[0])
        return ("fail" if wrong else "pass"), f"{shown}{'; ' + wrong if wrong else ''}"
    if expected.refused:
        return "strict", shown
    return "fail", shown


def exchange(address, number, raw, expected):
    """The statuses that came, and whether the connection was closed."""
    with desync.connect(address, number) as sock:
        got, is_closed = b"", False
        pieces = raw if isinstance(raw, list) else [raw]
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for piece in pieces:
                if piece is None:
                    sock.shutdown(socket.SHUT_WR)
                else:
                    sock.sendall(piece)
                    if len(pieces) > 1 and len(piece) > 1:
                        got += sock.recv(65536)  # the answer comes before the next request
        except OSError:
            pass  # it may have been refused before all of it was sent
        while not is_closed and select.select([sock], [], [], 0.25 if len(statuses(got)) >= expected.answers else 10)[0]:
            try:
                part = sock.recv(65536)
            except OSError:
                part = b""
            got, is_closed = got + part, not part
        return statuses(got), is_closed


def statuses(got):
    return [int(status) for status in re.findall(rb"HTTP/1\.[01] (\d{3})", got) if status != b"100"]
