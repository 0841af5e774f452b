#!/usr/bin/env python3
"""Odd but legal messages between the gateway and other people's servers: does anybody disagree about where
a message ends?

usage: tests/faults/backends.py [WARDGATE] [--only NAME,...]

WARDGATE is target/debug/wardgate unless given. The backends are nginx, Caddy (Go's net/http), Node, Python's
http.server and h11; one that is missing is an error. Everything is on loopback; only what was started here
is ended. Prints one table; exit status 1 if any cell is wrong.

Each case is a request on a connection of its own, over HTTP/1.1 and, where it can be said there, over h2c,
followed by three canaries on the same connection: each canary has a path of its own, which the backend
answers with, and the connection from the gateway to the backend is kept and used for the next. "right" says
that the case and its canaries were answered as they have to be, "closed" that the gateway closed the
client's connection behind the case instead. A status stands where a backend answers so by itself; it has to
be the one that the backend gives when it is asked directly.
"""

import argparse
import asyncio
import contextlib
import os
import pathlib
import re
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
import programs  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]
try:
    import h2.config
    import h2.connection
    import h2.events
    import h11  # noqa: F401
except ImportError:
    # The tests' Python has them.
    other = str(ROOT / ".venv/bin/python")
    if sys.executable == other:
        raise
    os.execv(other, [other, *sys.argv])

# For one case, and for everything.
PATIENCE, MOST = 15.0, 400.0
LARGE = b"x" * (1 << 20)

CONFIG = """
listeners: {{ web: {{ bind: "127.0.0.1:{port}", protocol: http, alpn: [h2, http/1.1] }} }}
sites: {{ "*": {{ upstream: app }} }}
upstreams: {{ app: {{ servers: "http://127.0.0.1:{backend}", timeouts: {{ response: 5s, read: 5s }} }} }}
storage: storage
admin: off
log: {{ access: off }}
"""

NGINX = """
daemon off; worker_processes 1; pid nginx.pid; error_log nginx.log; {user}
events {{ worker_connections 1024; }}
http {{
  access_log off; client_max_body_size 2m; client_body_temp_path {at}; default_type text/plain;
  server {{
    listen 127.0.0.1:{port};
    location / {{ return 200 $request_uri; }}
    location /refuse {{ return 401 no; }}
    location /limited {{ client_max_body_size 1k; alias {at}/limited; }}
    location /empty {{ return 204; }}
    location /file {{ alias {at}/file; }}
    location /hints {{ return 200 $request_uri; }}
  }}
}}
"""

CADDY = """
{{
  admin off
  auto_https off
  storage file_system {at}/caddy
}}
http://:{port} {{
  bind 127.0.0.1
  handle /refuse {{
    respond no 401
  }}
  handle /empty {{
    respond 204
  }}
  handle /limited {{
    respond 413
  }}
  handle /file {{
    root * {at}
    file_server
  }}
  handle {{
    respond "{{uri}}" 200
  }}
}}
"""

NODE = """
const http = require("http");
const server = http.createServer((request, response) => {
  const path = request.url;
  if (path === "/refuse") { response.writeHead(401, { "Content-Length": 2 }); return response.end("no"); }
  if (path === "/limited") { response.writeHead(413, { Connection: "close" }); return response.end(); }
  if (path === "/empty") { response.writeHead(204); return response.end(); }
  if (path === "/hints") { response.writeEarlyHints({ link: "</a>; rel=preload" }); }
  if (path === "/trailers") {
    response.writeHead(200, { Trailer: "X-Sum", "Transfer-Encoding": "chunked" });
    response.write(path); response.addTrailers({ "X-Sum": "1" }); return response.end();
  }
  if (path === "/file" && request.headers["if-none-match"]) {
    response.writeHead(304, { ETag: '"1"', "Content-Length": 5 }); return response.end();
  }
  let size = 0;
  request.on("data", (part) => { size += part.length; });
  request.on("end", () => {
    const body = path.startsWith("/count") ? String(size) : path;
    response.writeHead(200, path === "/file" ? { ETag: '"1"' } : {});
    response.end(body);
  });
});
if (process.argv[3]) server.on("checkContinue", (request, response) => {
  if (request.url === "/refuse") { response.writeHead(417, { Connection: "close" }); return response.end(); }
  setTimeout(() => { response.writeContinue(); server.emit("request", request, response); }, 200);
});
server.listen(Number(process.argv[2]), "127.0.0.1");
"""

HTTP_SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def answer(self):
        body = self.path.encode()
        status = {"/refuse": 401, "/limited": 413, "/empty": 204}.get(self.path, 200)
        if status == 413:
            self.close_connection = True
        elif self.headers.get("Transfer-Encoding"):
            size = 0
            while part := int(self.rfile.readline().split(b";")[0], 16):
                size += len(self.rfile.read(part)); self.rfile.readline()
            while self.rfile.readline().strip(): pass
            body = str(size).encode() if self.path.startswith("/count") else body
        elif self.path != "/refuse" or "Content-Length" in self.headers:
            got = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            body = str(len(got)).encode() if self.path.startswith("/count") else body
        if self.path == "/file" and self.headers.get("If-None-Match"): status = 304
        self.send_response(status)
        if status == 413: self.send_header("Connection", "close")
        if status == 200 or status == 401: self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status in (200, 401): self.wfile.write(body)
    do_GET = do_POST = do_PUT = do_HEAD = do_OPTIONS = answer
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""

H11 = """
import asyncio, h11, sys
async def serve(reader, writer):
    connection, size, request = h11.Connection(h11.SERVER), 0, None
    def send(event): writer.write(connection.send(event) or b"")
    try:
        while True:
            event = connection.next_event()
            if event is h11.NEED_DATA:
                if connection.they_are_waiting_for_100_continue:
                    send(h11.InformationalResponse(status_code=100, headers=[]))
                connection.receive_data(await reader.read(65536)); continue
            if isinstance(event, h11.Request): request, size = event, 0
            elif isinstance(event, h11.Data): size += len(event.data)
            elif isinstance(event, h11.ConnectionClosed): return
            path = request.target.decode() if request else ""
            is_early = isinstance(event, h11.Request) and path in ("/refuse", "/limited")
            if is_early or isinstance(event, h11.EndOfMessage):
                body = str(size) if path.startswith("/count") else path
                status = {"/refuse": 401, "/limited": 413, "/empty": 204}.get(path, 200)
                if path == "/hints":
                    for _ in range(3): send(h11.InformationalResponse(status_code=103, headers=[("Link", "</a>")]))
                headers = [] if status == 204 else [("Content-Length", str(len(body)))]
                if path == "/trailers": headers = [("Transfer-Encoding", "chunked"), ("Trailer", "X-Sum")]
                if path == "/file" and any(name == b"if-none-match" for name, _ in request.headers): status = 304
                send(h11.Response(status_code=status, headers=headers))
                if request.method != b"HEAD" and status not in (204, 304): send(h11.Data(data=body.encode()))
                send(h11.EndOfMessage(headers=[("X-Sum", "1")] if path == "/trailers" else []))
                await writer.drain()
                if connection.our_state is h11.MUST_CLOSE or is_early: return
                connection.start_next_cycle()
    except (OSError, h11.RemoteProtocolError, h11.LocalProtocolError): pass
    finally: writer.close()
async def main():
    async with await asyncio.start_server(serve, "127.0.0.1", int(sys.argv[1])) as server: await server.serve_forever()
asyncio.run(main())
"""


def backend(name, port, directory):
    """Starts one, or says that it is not to be had."""
    at = pathlib.Path(directory)
    (at / "limited").write_text("/limited")
    (at / "file").write_text("/file")
    user = "user root;" if os.geteuid() == 0 else ""
    if name == "nginx":
        (at / "nginx.conf").write_text(NGINX.format(at=at, port=port, user=user))
        return ["nginx", "-p", str(at), "-c", str(at / "nginx.conf")]
    if name == "caddy":
        (at / "Caddyfile").write_text(CADDY.format(at=at, port=port))
        cache = pathlib.Path(os.environ.get("WARDGATE_CACHE", ROOT / ".cache"))
        return [str(cache / "peers/bin/caddy"), "run", "--config", str(at / "Caddyfile")]
    if name.startswith("node"):
        (at / "node.js").write_text(NODE)
        return ["node", str(at / "node.js"), str(port), *(["wait"] if name != "node" else [])]
    (at / "server.py").write_text(HTTP_SERVER if name == "http.server" else H11)
    return [sys.executable, str(at / "server.py"), str(port)]


BACKENDS = ["nginx", "caddy", "node", "node-100", "http.server", "h11"]


class Case:
    """A request: its head's lines but for Host, what follows, and what is expected of its answer."""

    def __init__(self, name, line, fields="", parts=(b"",), expect=None, waits=False, head=False, h2=True, refused=False):
        self.name, self.line, self.fields, self.parts = name, line, fields, parts
        # `refused`: the gateway answers 400 by itself, unless the backend has answered before it was sent all.
        self.expect, self.waits, self.head, self.h2, self.refused = expect, waits, head, h2, refused

    @property
    def method(self):
        return self.line.split()[0]

    @property
    def path(self):
        return self.line.split()[1]


def chunks(*parts, extension="", trailers=""):
    body = b"".join(b"%x%s\r\n%s\r\n" % (len(part), extension.encode(), part) for part in parts)
    return body + f"0{extension}\r\n{trailers}\r\n".encode()


CHUNKED, WAITING = "Transfer-Encoding: chunked\r\n", "Expect: 100-continue\r\n"
LENGTH = f"Content-Length: {len(LARGE)}\r\n"
SILENT = ("nginx", "caddy")  # they answer with the path alone

CASES = [
    Case("a body with a length", "POST /count", "Content-Length: 5\r\n", [b"hello"], "5"),
    Case("a body in pieces", "POST /count", "Content-Length: 10\r\n", [b"hello", b"again"], "10"),
    Case("an empty body", "POST /count", "Content-Length: 0\r\n", [b""], "0"),
    Case("chunks", "POST /count", CHUNKED, [chunks(b"hello", b"again")], "10"),
    Case("no chunk but the last", "POST /count", CHUNKED, [chunks()], "0"),
    Case("chunk extensions", "POST /count", CHUNKED, [chunks(b"hello", extension=';a="b;c"')], "5", h2=False),
    Case("trailers", "POST /count", CHUNKED, [chunks(b"hello", trailers="X-Sum: 1\r\n")], "5", h2=False),
    Case("a length among the trailers", "POST /count", CHUNKED, [chunks(b"hello", trailers="Content-Length: 9\r\n")], refused=True, h2=False),
    Case("chunks cut anywhere", "POST /count", CHUNKED, [b"0", b"5\r", b"\nhel", b"lo\r", b"\n0", b"\r\n", b"\r\n"], "5", h2=False),
    Case("a GET with a body", "GET /count", "Content-Length: 5\r\n", [b"hello"], "5"),
    Case("a large body", "POST /count", LENGTH, [LARGE], str(len(LARGE))),
    Case("HEAD", "HEAD /file", head=True),
    Case("204", "GET /empty", expect=""),
    Case("304", "GET /file", 'If-None-Match: "1", *\r\n'),
    Case("an early 401 to a large body", "POST /refuse", LENGTH, [LARGE]),
    Case("an early 413 to a large body", "POST /limited", LENGTH, [LARGE]),
    Case("an early 401 to chunks", "POST /refuse", CHUNKED, [chunks(LARGE[:300000], LARGE[:300000])]),
    Case("100-continue", "POST /count", WAITING + "Content-Length: 5\r\n", [b"hello"], "5", waits=True, h2=False),
    Case("100-continue, not waited for", "POST /count", WAITING + "Content-Length: 5\r\n", [b"hello"], "5"),
    Case("100-continue, refused", "POST /refuse", WAITING + LENGTH, [LARGE], waits=True, h2=False),
    Case("1xx before the answer", "GET /hints", expect="/hints"),
    Case("a response with trailers", "GET /trailers", expect="/trailers"),
    Case("an upgrade that nobody grants", "GET /up", "Connection: Upgrade\r\nUpgrade: other\r\n", expect="/up", h2=False),
    Case("h2c, which nobody grants", "GET /up", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n", expect="/up", h2=False),
    Case("requests in one packet", "GET /one", parts=[b"GET /two HTTP/1.1\r\nHost: a\r\n\r\n"], expect="/one", h2=False),
]
# What a fixed answer says of a body: nothing.
SAYS_PATH = {"5", "10", "0", str(len(LARGE))}


class Ended(Exception):
    """The connection is over."""


async def read_answer(reader, is_head):
    """Status and body of the next final answer, read strictly."""
    while True:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
        except (EOFError, ConnectionError) as error:
            raise Ended from error
        status = int(head[9:12])
        if status >= 200 or status == 101:
            break
    if is_head or status in (204, 304):
        return status, b""
    length = re.search(rb"(?i)\r\ncontent-length: *(\d+)\r\n", head)
    if length:
        return status, await reader.readexactly(int(length[1]))
    if not re.search(rb"(?i)\r\ntransfer-encoding: *chunked", head):
        return status, await reader.read()
    body = b""
    while size := int((await reader.readline()).split(b";")[0], 16):
        body += (await reader.readexactly(size + 2))[:-2]
    while await reader.readline() != b"\r\n":
        pass
    return status, body


async def http1(port, case, number):
    """Status and body of the case, and what became of its canaries."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"{case.line} HTTP/1.1\r\nHost: a\r\n{case.fields}\r\n".encode())
        if case.waits:
            head = await reader.readuntil(b"\r\n\r\n")
            if not head.startswith(b"HTTP/1.1 100"):
                return int(head[9:12]), b"", "closed"
        with contextlib.suppress(ConnectionError):
            for part in case.parts:
                writer.write(part)
                await writer.drain()
                await asyncio.sleep(0.01 if len(case.parts) > 1 else 0)
        seen = await read_answer(reader, case.head)
        if case.name == "requests in one packet":
            second = await read_answer(reader, False)
            if second != (200, b"/two"):
                return *seen, f"the second one got {second}"
        for at in range(3):
            path = f"/canary-{number}-{at}"
            try:
                writer.write(f"GET {path} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                answer = await read_answer(reader, False)
            except (Ended, ConnectionError):
                return *seen, "closed"
            if answer != (200, path.encode()):
                return *seen, f"a canary got {answer}"
        return *seen, "right"
    finally:
        writer.transport.abort()


async def http2(port, case, number):
    """The same over h2c."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    answers = {}

    async def take():
        got = await reader.read(65536)
        if not got:
            raise Ended
        for event in connection.receive_data(got):
            if isinstance(event, h2.events.ResponseReceived):
                answers[event.stream_id] = [int(dict(event.headers)[":status"]), b"", False]
            elif isinstance(event, h2.events.DataReceived):
                answers[event.stream_id][1] += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            elif isinstance(event, h2.events.StreamEnded):
                answers[event.stream_id][2] = True
            elif isinstance(event, h2.events.StreamReset):
                answers.setdefault(event.stream_id, [0, b"", True])[2] = True
        writer.write(connection.data_to_send())

    async def ask(stream, method, path, fields=(), body=b""):
        fields = [(":method", method), (":scheme", "http"), (":authority", "a"), (":path", path), *fields]
        connection.send_headers(stream, fields, end_stream=not body)
        while body and not answers.get(stream, [0, 0, False])[2]:
            room = min(connection.local_flow_control_window(stream), connection.max_outbound_frame_size)
            if room == 0:
                writer.write(connection.data_to_send())
                await take()
                continue
            part, body = body[:room], body[room:]
            connection.send_data(stream, part, end_stream=not body)
        writer.write(connection.data_to_send())
        while not answers.get(stream, [0, 0, False])[2]:
            await take()
        return tuple(answers[stream][:2])

    try:
        body = b"".join(case.parts)
        fields = [tuple(line.lower().split(": ", 1)) for line in case.fields.splitlines()]
        if CHUNKED in case.fields:
            plain, body = body, b""
            while size := int(plain.split(b"\r\n", 1)[0], 16):
                rest = plain.split(b"\r\n", 1)[1]
                body, plain = body + rest[:size], rest[size + 2 :]
            fields = [field for field in fields if field[0] != "transfer-encoding"]
        seen = await ask(1, case.method, case.path, fields, body)
        for at in range(3):
            path = f"/canary-{number}-{at}"
            answer = await ask(3 + 2 * at, "GET", path)
            if answer != (200, path.encode()):
                return *seen, f"a canary got {answer}"
        return *seen, "right"
    except Ended:
        return 0, b"", "closed"
    finally:
        writer.transport.abort()


async def judge(case, name, direct, way, port, number):
    """One cell: right, or what is wrong."""
    try:
        async with asyncio.timeout(PATIENCE):
            status, body, canaries = await way(port, case, number)
    except TimeoutError:
        return "WRONG: no answer", False
    except (Ended, EOFError, ConnectionError, ValueError) as error:
        return f"WRONG: {type(error).__name__} {error}", False
    if canaries not in ("right", "closed"):
        return f"WRONG: {canaries}", False
    expected = 400 if case.refused else direct.get(case.name)
    if case.refused and name in SILENT and (status, canaries) == (200, "closed"):
        # It has answered before what is wrong had come, and nothing else passes on this connection.
        return "200, closed", True
    # Whether to go on is the gateway's to say, so that a backend refuses later than it would; and one that
    # closes while it is being written to may lose its answer when it is asked directly.
    refusals = (401, 413, 417)
    is_known = not (case.waits and expected is None)
    if is_known and status != expected and not (status in refusals and expected in (None, *refusals)):
        return f"WRONG: {status}, directly {expected}", False
    if status == 200 and case.expect is not None:
        wanted = case.path if name in SILENT and case.expect in SAYS_PATH else case.expect
        if body.decode() != wanted:
            return f"WRONG: {body[:40]!r}", False
    shown = canaries if status == 200 else f"{status}, {canaries}"
    return shown, True


async def run(program, only):
    rows, is_right = {}, True
    for name in [name for name in BACKENDS if not only or name in only]:
        port, web = programs.free_port(), programs.free_port()
        with tempfile.TemporaryDirectory() as directory:
            if os.geteuid() == 0:
                os.chmod(directory, 0o755)
            started = []
            try:
                command = backend(name, port, directory)
                if not shutil.which(command[0]):
                    print(f"missing: {command[0]}", file=sys.stderr)
                    return 3
                started.append(programs.start(command, directory))
                programs.wait_for(started[0], port)
                pathlib.Path(directory, "gateway.yaml").write_text(CONFIG.format(port=web, backend=port))
                started.append(programs.start([program, "run", "gateway.yaml"], directory))
                programs.wait_for(started[1], web)
                direct = {}
                for number, case in enumerate(CASES):
                    # What this backend says by itself; one that closes meanwhile may lose its answer.
                    with contextlib.suppress(Ended, EOFError, OSError, TimeoutError):
                        async with asyncio.timeout(PATIENCE):
                            direct[case.name] = (await http1(port, case, number))[0]
                for number, case in enumerate(CASES):
                    cells = []
                    for way in (http1, http2) if case.h2 else (http1,):
                        shown, is_cell_right = await judge(case, name, direct, way, web, number)
                        cells.append(shown)
                        is_right = is_right and is_cell_right
                    rows.setdefault(case.name, []).append(" / ".join(dict.fromkeys(cells)))
            finally:
                for process in started:
                    programs.end(process)
        print(name, file=sys.stderr)
    names = [name for name in BACKENDS if not only or name in only]
    print(programs.markdown(["message", *names], [[name, *cells] for name, cells in rows.items()]))
    return 0 if is_right else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="target/debug/wardgate", metavar="WARDGATE")
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.program).resolve(strict=True))
    only = set(filter(None, arguments.only.split(",")))
    sys.exit(asyncio.run(programs.bounded(run(program, only), MOST)))


if __name__ == "__main__":
    main()
