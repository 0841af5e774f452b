"""What an h2 client writes into an HTTP/1.1 backend's connection: nothing but its request."""

import concurrent.futures
import functools

import backend
import strict
from h2_wire import Closed, Connection, data, fields, headers, ping, request

TITLE = "HTTP/2 to HTTP/1.1"
ABOUT = """\
Pseudo-headers and fields that would be more than a field once they are lines of HTTP/1.1, bodies that are not
as long as announced, names that belong to a connection: sent over TLS and over h2c, in front of an HTTP/1.1 backend that
records every byte. A case fails when the backend gets a head that can be read in two ways, a field or
request of the client's making beside the one sent, or a request that RFC 9113 calls malformed (section 8.1.1). Each
payload is followed by a request that has to get its own answer."""

CRLF = "\r\n"


def payloads(scheme, mark):
    """(name, frames after the preface, expectation) for one case; `mark` is the case's own text.

    Expectations: "refused", as it is malformed; "harmless", refused or forwarded without a second
    meaning; or a function of the backend's request that says what is wrong.
    """
    injected = f"X-Injected-{mark}: 1"
    smuggled = f"GET /injected-{mark} HTTP/1.1{CRLF}Host: app.test{CRLF}{CRLF}"
    own = ("x-case", mark)

    def get(*more, before=(), **change):
        pairs = [*before, *request(scheme=change.pop("scheme", scheme), more=[*more, own], **change)]
        return headers(1, fields(pairs))

    def post(body, *more, trailers=None):
        block = headers(1, scheme=scheme, method="POST", more=[*more, own], end=False)
        if trailers is None:
            return block + data(1, body)
        return block + data(1, body, end=False) + headers(1, fields(trailers))

    for what, octets in {"CRLF": CRLF, "LF": "\n", "CR": "\r", "NUL": "\0"}.items():
        yield f"{what} in a value", get(("x-a", f"1{octets}{injected}")), "refused"
        yield f"{what} in a name", get((f"x-a: 1{octets}x-injected-{mark}", "1")), "refused"
        yield f"{what} in :path", get(path=f"/{octets}{injected}"), "refused"
        yield f"{what} in :method", get(method=f"GET / HTTP/1.1{octets}{injected}{octets}X-A: "), "refused"
        yield f"{what} in :authority", get(authority=f"app.test{octets}{injected}"), "refused"
        yield f"{what} in :scheme", get(scheme=f"{scheme}{octets}{injected}"), "refused"
        yield f"{what} in Cookie", get(("cookie", f"a=1{octets}{injected}")), "refused"
    yield "a request in a value", get(("x-a", f"1{CRLF}{CRLF}{smuggled}")), "refused"
    yield "a request in a name", get((f"x-a: 1{CRLF}{CRLF}{smuggled}x", "1")), "refused"
    yield "a request in :path", get(path=f"/ HTTP/1.1{CRLF}Host: app.test{CRLF}{CRLF}{smuggled[:-4]}"), "refused"
    yield "a request in :method", get(method=f"{smuggled}GET"), "refused"
    yield "a request in :scheme", get(scheme=f"{scheme}://a/ HTTP/1.1{CRLF}Host: app.test{CRLF}{CRLF}{smuggled}"), "refused"
    yield "a URL in :scheme", get(scheme="http://other.test/injected?"), "refused"
    yield "a colon in a name", get(("x-a:b", "1")), "refused"
    yield "a colon at a name's end", get(("transfer-encoding:", "chunked")), "refused"
    yield "a space in a name", get(("x a", "1")), "refused"
    yield "a space at a name's end", get(("content-length ", "5")), "refused"
    yield "a tab in a name", get(("x\ta", "1")), "refused"
    yield "an empty name", get(("", "1")), "refused"
    yield "a name that is not ASCII", get(("x-\xe4", "1")), "refused"
    yield "a name in upper case", get(("Transfer-Encoding", "chunked")), "refused"
    yield "an obsolete fold in a value", get(("x-a", f"1{CRLF} 2")), "refused"
    yield "space around a value", get(("x-a", " 1 ")), "harmless"
    yield "underscores for hyphens", post(b"12345", ("content_length", "0"), ("transfer_encoding", "x")), not_renamed
    yield "a space in :path", get(path="/a HTTP/1.1"), "refused"
    yield "a tab in :path", get(path="/a\tb"), "refused"
    yield "a path that is not ASCII", get(path="/\xe4"), "harmless"
    yield "a fragment in :path", get(path="/a#b"), "harmless"
    yield "a path without slash", get(path="admin"), "refused"
    yield "a path that begins with @", get(path="@other.test/"), "refused"
    yield "a URL in :path", get(path="http://other.test/"), "refused"
    yield "* in :path", get(path="*"), "refused"
    yield "an empty :path", get(path=""), "refused"
    yield "a space in :method", get(method="GET /admin"), "refused"
    yield "an empty :method", get(method=""), "refused"
    yield "a space in :authority", get(authority="app.test x"), "refused"
    yield "a path in :authority", get(authority="app.test/x"), one_host
    yield "a user in :authority", get(authority="user@app.test"), one_host
    yield "two names in :authority", get(authority="app.test, other.test"), one_host
    yield "an empty :authority", get(authority=""), "harmless"
    yield "no :authority and no Host", get(authority=None), "harmless"
    yield "Host instead of :authority", get(("host", "app.test"), authority=None), one_host
    yield "Host beside :authority", get(("host", "app.test")), one_host
    yield "another Host than :authority", get(("host", "other.test")), one_host
    yield "two Host", get(("host", "app.test"), ("host", "other.test"), authority=None), one_host
    yield "Host twice beside :authority", get(("host", "app.test"), ("host", "app.test")), one_host
    for name in (":method", ":path", ":scheme", ":authority"):
        yield f"{name} twice", get(before=[(name, {":method": "POST", ":path": "/injected"}.get(name, "other.test"))]), "refused"
        yield f"{name} after a field", get((name, {":method": "POST", ":path": "/injected"}.get(name, "other.test"))), "refused"
    yield "an unknown pseudo-header", get(before=[(":x", "1")]), "refused"
    yield "no :method", get(method=None), "refused"
    yield "no :path", get(path=None), "refused"
    yield "no :scheme", headers(1, fields(request(scheme=None, more=[own]))), "refused"
    for name, value in {
        "connection": "close", "keep-alive": "timeout=5", "proxy-connection": "keep-alive", "upgrade": "h2c",
        "transfer-encoding": "chunked", "te": "gzip",
    }.items():  # fmt: skip
        yield f"{name}: {value}", get((name, value)), "refused"
    yield "te: trailers, gzip", get(("te", "trailers, gzip")), "refused"
    yield "te: trailers", get(("te", "trailers")), served
    yield "Connection that names a field", get(("connection", "x-forwarded-for, authorization"), ("authorization", "x")), "refused"
    yield "Transfer-Encoding and a body", post(f"0{CRLF}{CRLF}{smuggled}".encode(), ("transfer-encoding", "chunked")), "refused"
    yield "Content-Length of 0 and a body", post(smuggled.encode(), ("content-length", "0")), cut_off
    yield "Content-Length below the body's", post(b"12345" + smuggled.encode(), ("content-length", "5")), cut_off
    yield "Content-Length above the body's", post(b"12345", ("content-length", "50")), cut_off
    yield "two Content-Length", post(b"12345", ("content-length", "5"), ("content-length", "0")), "refused"
    yield "two equal Content-Length", post(b"12345", ("content-length", "5"), ("content-length", "5")), "harmless"
    for value in ("+5", "5, 5", "0x5", "5 ", "-5", "99999999999999999999", ""):
        yield f"Content-Length of {value!r}", post(b"12345", ("content-length", value)), "harmless" if value in ("5, 5", "5 ") else "refused"
    yield "GET with a body", headers(1, scheme=scheme, more=[own], end=False) + data(1, smuggled.encode()), body_of(smuggled)
    yield "a body that is a request", post(smuggled.encode()), body_of(smuggled)
    yield "a body that looks like chunks", post(f"0{CRLF}{CRLF}{smuggled}".encode()), body_of(f"0{CRLF}{CRLF}{smuggled}")
    yield "Expect", post(b"12345", ("expect", "100-continue"), ("content-length", "5")), served
    yield "a length in trailers", post(b"12345", trailers=[("content-length", "0"), ("transfer-encoding", "chunked")]), body_of("12345", refused=True)
    yield "CRLF in trailers", post(b"12345", trailers=[("x-a", f"1{CRLF}{CRLF}{smuggled}")]), body_of("12345", refused=True)
    yield "a field of ours in trailers", post(b"12345", trailers=[("x-forwarded-for", "6.6.6.6"), ("host", "other.test")]), body_of("12345", refused=True)
    yield "several Cookie", get(("cookie", "a=1"), ("x-between", "1"), ("cookie", "b=2"), ("cookie", "c=3; d=4")), cookies
    yield "CONNECT", get(method="CONNECT", path=None, authority="127.0.0.1:9"), "refused"
    yield "CONNECT with :path", get(method="CONNECT"), "refused"
    yield "CONNECT for WebSockets that nobody offered", get(before=[(":protocol", "websocket")], method="CONNECT"), "refused"
    yield "a request", get(), served


def served(found):
    return None if found else "not served"


def one_host(found):
    hosts = [host.split(":")[0] for host in found.values("host")] if found else ["app.test"]
    return None if hosts == ["app.test"] else f"Host: {hosts}"


def cookies(found):
    if not found:
        return "not served"
    lines = found.values("cookie")
    return None if lines == ["a=1; b=2; c=3; d=4"] else f"{len(lines)} lines of Cookie"


def not_renamed(found):
    if found and (found.values("content-length") + found.values("content_length") + found.values("transfer_encoding") == ["5"] or not found.values("transfer_encoding")):
        return None
    return "forwarded" if found else None


def cut_off(found):
    """A length that is not the body's is an error of the stream. The backend may have seen the request until then:
    with a length of 0 that is all of it, and whether the body that should not be comes in time is chance."""
    return None if not found or not found.is_whole or found.values("content-length") == ["0"] else "forwarded as whole"


def body_of(text, refused=False):
    def check(found):
        if not found:
            return None if refused else "not served"
        return None if not found.is_whole or found.body == text.encode() else f"body {found.body[:60]!r}"

    return check


def run(start):
    with backend.Backend(answer=echo) as origin, start(backend=origin.address) as target:
        plays = []
        for scheme in ("https", "http"):
            count = len(list(payloads(scheme, "")))
            plays += [(scheme, number, f"{scheme[4:] or 'p'}{number:03}") for number in range(count)]
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            told = list(pool.map(functools.partial(play, target, origin), plays))
    cases = {}
    for case in told:
        name = case[0]
        if name not in cases or case[1] == "fail":
            cases[name] = case
    return list(cases.values())


def play(target, origin, turn):
    scheme, number, mark = turn
    name, frames, expected = list(payloads(scheme, mark))[number]
    address, ca = (target.tls, target.ca) if scheme == "https" else (target.h2c, None)
    with Connection(address, ca) as connection:
        # A body that is not there yet has no answer, and that is fine.
        came = answer_to(connection, frames, 1.5 if expected is cut_off else connection.patience)
        wrong = after(connection, f"/canary-{mark}", scheme, came)
    if wrong:
        with Connection(address, ca) as another:
            wrong = after(another, f"/canary-{mark}", scheme, came)
    if wrong:
        return name, "fail", f"{came}; the next request: {wrong}"
    with origin.lock:
        requests = list(origin.requests)
    for found in requests:
        head = found.head
        if f"njected-{mark}".encode() in head.split(b"\r\n\r\n")[0] and (not found.line.startswith("GET / ") or f"x-injected-{mark}" in dict(found.fields)):
            return name, "fail", f"injected: {head!r}"
    mine = [found for found in requests if mark in found.values("x-case")]
    for found in mine:
        if ambiguous := strict.fault(found.head):
            return name, "fail", f"{ambiguous}: {found.head!r}"
    if len(mine) > 1:
        return name, "fail", "forwarded twice"
    found = mine[0] if mine else None
    if expected == "refused" and found:
        return name, "fail", f"forwarded: {found.line}"
    if callable(expected) and (wrong := expected(found)):
        return name, "fail", f"{came}; {wrong}"
    return name, "pass" if found else "strict", f"{came}{', forwarded' if found else ''}"


def answer_to(connection, frames, seconds):
    """What came of a payload, in words."""
    try:
        connection.send(frames)
        event = connection.wait(lambda event: event[0] in ("headers", "reset", "goaway"), seconds)
        if event is None:
            return "no answer"
        if event[0] == "headers":
            if not event[3]:
                connection.wait(lambda event: event[0] == "data" and event[3] or event[0] in ("reset", "goaway"))
            return f"answered {event[2].get(':status')}"
        return f"RST_STREAM {event[2]}" if event[0] == "reset" else f"GOAWAY {event[1]}"
    except Closed as closed:
        return str(closed)


def after(connection, path, scheme, came):
    """What is wrong with the answer to a sound request behind the payload; None when nothing is."""
    try:
        if not connection.send(headers(3, scheme=scheme, path=path) + ping()):
            return "closed"
        event = connection.wait(lambda event: event[0] == "data" and event[1] == 3 or event[0] == "goaway")
        if event is None:
            return "no answer"
        return None if event[0] == "data" and event[2] == path.encode() else str(event)
    except Closed as closed:
        return str(closed)


def echo(request):
    """The target is the body, so that an answer tells whose it is."""
    body = request.target.encode("latin-1")
    text = b"" if request.line.startswith("HEAD ") else body
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + text


def figures(cases):
    return {"injected": sum(case.verdict == "fail" and case.note.startswith("injected") for case in cases)}
