#!/usr/bin/env python3
"""Memory per idle connection and per stalled stream: wardgate beside nginx and HAProxy.

usage: ./dev bench connections [WARDGATE] [--connections 10000] [--few 3000] [--streams 100]
                               [--only wardgate,nginx,haproxy] [--write]

WARDGATE is target/release/wardgate unless given. Needs nginx, haproxy and openssl; takes about two
minutes, prints one table (with --write into docs/benchmarks.md as well), and ends by itself. Everything
is on loopback; only what was started here is ended.

Each proxy runs alone, with two workers, before a backend that answers with 1 KiB. Of every kind of
connection so many are opened one after the other, each asks once and gets its answer, and then says
nothing. What the proxy's processes hold more than before (RSS, the sum), divided by the number, is
what one costs. TLS connections are opened CONNECTIONS times, the others FEW times.

plain, TLS, h2   idle after one request, KiB each
held             how many of the TLS connections answer another request at the end
stalled          on one h2 connection whose windows are closed STREAMS streams ask for 1 MiB each, KiB
                 a stream
"""

import argparse
import pathlib
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
import time

import programs

HOST = "app.test"
REQUEST = f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()

WARDGATE = """
listeners:
  plain: {{ bind: "127.0.0.1:{plain}", protocol: http }}
  secure: {{ bind: "127.0.0.1:{tls}", protocol: https }}
certificates: {{ it: {{ chain: cert.pem, key: key.pem }} }}
sites: {{ {host}: {{ certificate: it, https: both, upstream: "http://127.0.0.1:{backend}" }} }}
limits: {{ connections: 15000, idle_timeout: 10m }}
log: {{ access: {{ file: access.log }} }}
runtime: {{ threads: 2 }}
storage: state
admin: {{ bind: "127.0.0.1:{admin}" }}
"""

NGINX = """
worker_processes 2; worker_rlimit_nofile 20000; daemon off; pid nginx.pid; error_log nginx.log;
events {{ worker_connections 18000; }}
http {{
  access_log access.log; keepalive_timeout 10m; keepalive_requests 100000; client_body_temp_path body;
  proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  upstream app {{ server 127.0.0.1:{backend}; keepalive 64; }}
  server {{
    listen 127.0.0.1:{plain}; listen 127.0.0.1:{tls} ssl http2; server_name {host};
    ssl_certificate cert.pem; ssl_certificate_key key.pem;
    location / {{ proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection ""; }}
  }}
}}
"""

HAPROXY = """
global
  maxconn {most}
  no strict-limits  # it wants two descriptors for each, of which idle ones need one
  nbthread 2
defaults
  mode http
  timeout client 10m
  timeout server 10m
  timeout connect 5s
  timeout http-keep-alive 10m
frontend in
  bind 127.0.0.1:{plain}
  bind 127.0.0.1:{tls} ssl crt both.pem alpn h2,http/1.1
  maxconn {most}
  default_backend app
backend app
  server one 127.0.0.1:{backend}
"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("wardgate", nargs="?", default="target/release/wardgate")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--few", type=int, default=3_000)
    parser.add_argument("--streams", type=int, default=100)
    parser.add_argument("--only", default="wardgate,nginx,haproxy")
    parser.add_argument("--write", action="store_true")
    args = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    rows = []
    for name in args.only.split(","):
        cells = []
        for kind in ("plain", "http/1.1", "h2", "stalled"):
            # What one kind gave back would be there for the next.
            with tempfile.TemporaryDirectory() as directory:
                cells += measure(name, kind, args, pathlib.Path(directory))
        rows.append([name, *cells])
    table = programs.markdown(["KiB each", "plain", "TLS", "held", "h2", "stalled"], rows)
    programs.show(table, "connections", args)


def measure(name, kind, args, directory):
    ports = {key: programs.free_port() for key in ("plain", "tls", "admin", "backend")}
    ports.update(host=HOST, most=args.connections + args.few + 100)
    make_files(directory)
    started = []
    try:
        write(directory, "backend.conf", programs.FILES_BACKEND.format(port=ports["backend"]))
        started.append(programs.start(["nginx", "-p", str(directory), "-c", "backend.conf"], directory))
        programs.wait_for(started[0], ports["backend"])
        if name == "wardgate":
            write(directory, "gateway.yaml", WARDGATE.format(**ports))
            command = [str(pathlib.Path(args.wardgate).resolve()), "run", "gateway.yaml"]
        elif name == "nginx":
            write(directory, "nginx.conf", NGINX.format(**ports))
            command = ["nginx", "-p", str(directory), "-c", "nginx.conf"]
        else:
            write(directory, "haproxy.cfg", HAPROXY.format(**ports))
            command = ["haproxy", "-db", "-f", "haproxy.cfg"]
        proxy = programs.start(command, directory)
        started.append(proxy)
        programs.wait_for(proxy, ports["tls"])
        return stalled(proxy, ports, args) if kind == "stalled" else idle(proxy, kind, ports, args)
    finally:
        for process in reversed(started):
            programs.end(process)


def make_files(directory):
    subject = ["-subj", f"/CN={HOST}", "-addext", f"subjectAltName=DNS:{HOST}"]
    key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", "key.pem"]
    command = ["openssl", "req", "-x509", "-days", "9", *subject, *key, "-out", "cert.pem"]
    subprocess.run(command, cwd=directory, check=True, capture_output=True)
    both = (directory / "cert.pem").read_text() + (directory / "key.pem").read_text()
    write(directory, "both.pem", both)
    (directory / "www").mkdir()
    write(directory, "www/index.html", "x" * 1024)
    write(directory, "www/large", "x" * (1 << 20))
    directory.chmod(0o755)


def write(directory, name, text):
    (directory / name).write_text(text)


def idle(proxy, kind, ports, args):
    def connect():
        return open_plain(ports["plain"]) if kind == "plain" else open_tls(ports["tls"], kind)

    count = args.connections if kind == "http/1.1" else args.few
    warm = [connect() for _ in range(20)]
    time.sleep(1)
    before = resident(proxy)
    held = [connect() for _ in range(count)]
    time.sleep(1)
    cells = [f"{(resident(proxy) - before) / count / 1024:.1f}"]
    if kind == "http/1.1":
        cells.append(f"{sum(is_answered(connection) for connection in held)} of {count}")
    for connection in warm + held:
        connection.close()
    return cells


def stalled(proxy, ports, args):
    for _ in range(20):
        open_tls(ports["tls"], "h2").close()
    time.sleep(1)
    before = resident(proxy)
    connection = stall(ports["tls"], args.streams)
    time.sleep(2)
    cell = f"{(resident(proxy) - before) / args.streams / 1024:.1f}"
    connection.close()
    return [cell]


def resident(proxy):
    def of(pid):
        status = pathlib.Path("/proc", str(pid), "status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) * 1024

    return sum(of(pid) for pid in programs.family(proxy))


def open_plain(port):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    ask(connection)
    return connection


def open_tls(port, alpn):
    context = CONTEXTS[alpn]
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = context.wrap_socket(connection, server_hostname=HOST)
    assert connection.selected_alpn_protocol() == alpn
    if alpn == "h2":
        connection.sendall(PREFACE + frame(4, 0, 0, b"") + get(1, b"/"))
        read_stream(connection)
    else:
        ask(connection)
    return connection


def context_for(alpn):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols([alpn])
    return context


CONTEXTS = {alpn: context_for(alpn) for alpn in ("http/1.1", "h2")}
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def ask(connection):
    connection.sendall(REQUEST)
    got = b""
    while not (b"\r\n\r\n" in got and len(got.split(b"\r\n\r\n", 1)[1]) >= 1024):
        part = connection.recv(65536)
        if not part:
            raise ConnectionError(got)
        got += part


def is_answered(connection):
    try:
        ask(connection)
        return True
    except OSError:
        return False


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + stream.to_bytes(4, "big") + payload


def get(stream, path):
    # From the static table of RFC 7541: GET and https, then the path and the authority as text.
    head = b"\x82\x87\x04" + bytes([len(path)]) + path + b"\x41" + bytes([len(HOST)]) + HOST.encode()
    return frame(1, 5, stream, head)


def read_stream(connection):
    got = b""
    while True:
        while len(got) < 9 or len(got) < 9 + int.from_bytes(got[:3], "big"):
            part = connection.recv(65536)
            if not part:
                raise ConnectionError("closed")
            got += part
        kind, flags, length = got[3], got[4], int.from_bytes(got[:3], "big")
        got = got[9 + length :]
        if kind == 4 and not flags & 1:
            connection.sendall(frame(4, 1, 0, b""))
        if kind in (0, 1) and flags & 1:
            return


def stall(port, streams):
    connection = socket.create_connection(("127.0.0.1", port), timeout=20)
    connection = CONTEXTS["h2"].wrap_socket(connection, server_hostname=HOST)
    closed = frame(4, 0, 0, (4).to_bytes(2, "big") + (0).to_bytes(4, "big"))
    asked = b"".join(get(2 * number + 1, b"/large") for number in range(streams))
    connection.sendall(PREFACE + closed + asked)
    return connection


if __name__ == "__main__":
    sys.exit(main())
