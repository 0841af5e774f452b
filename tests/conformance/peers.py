"""Wardgate, nginx, HAProxy and Caddy, each in front of a backend that the caller has.

    with peers.start("nginx", backend=("127.0.0.1", port)) as target:
        target.name     "nginx"
        target.host     "app.test", the name that the certificate is for; any other is served, too
        target.http     (address, port) of plain HTTP/1.1
        target.tls      (address, port) of HTTPS: h2 and http/1.1 by ALPN, TLS 1.2 and 1.3
        target.h2c      (address, port) of HTTP/2 without TLS, with prior knowledge
        target.ca       the file of the CA that signed its certificate, one for all peers
        target.pid      the process that was started; target.family() has those below it as well
        target.rss()    resident memory of them all, in bytes
        target.log()    what it has said, and logged, so far

`protocol` is the backend's: "http/1.1", or "h2c" (gRPC: nginx then passes with grpc_pass).
`websocket=True` is for nginx, which passes no upgrade unless it is told to. `deadlines` are the same
for each. `more` is added to the configuration of the one peer that the caller means: YAML of the top
level for Wardgate, directives of `http` for nginx, of `global` for HAProxy and of the global options
for Caddy. A request gets an X-Request-Id by each of them, and loses the client's.

The configurations are those of a competent operator, below in this file: keep-alive to the backend,
the client's Host, X-Forwarded-For, access log in a file, and otherwise what the program does by
itself; nginx buffers requests, as it comes. A start ends when the program answers (a request that it
refuses by itself, so that the backend sees nothing of it). When the block is left, the program is
ended at once. One that has ended before is an error, and so is a panic in its log; then, and when
the block is left by an exception, the directory with configuration and logs is kept and named.

Wardgate is $WARDGATE, or the newest build there is of target/release and target/debug; Caddy is
$PEERS/caddy (`./dev` installs it into .cache/peers/bin), nginx and HAProxy are on the PATH.
"""

import atexit
import contextlib
import dataclasses
import functools
import json
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "bench"))
import programs  # noqa: E402

HOST = "app.test"
NAMES = ("wardgate", "nginx", "haproxy", "caddy")
PEERS = NAMES[1:]
TITLES = {"wardgate": "Wardgate", "nginx": "nginx", "haproxy": "HAProxy", "caddy": "Caddy"}
LOOPBACK = "127.0.0.1"
# Mozilla's "intermediate", without the ciphers that are not AEAD.
CIPHERS = (
    "ECDHE-ECDSA-AES128-GCM-SHA256:ECDHE-RSA-AES128-GCM-SHA256:ECDHE-ECDSA-AES256-GCM-SHA384:"
    "ECDHE-RSA-AES256-GCM-SHA384:ECDHE-ECDSA-CHACHA20-POLY1305:ECDHE-RSA-CHACHA20-POLY1305"
)


@dataclasses.dataclass(frozen=True)
class Deadlines:
    """In seconds, fractions too."""

    header: float = 10
    body: float = 30
    idle: float = 60
    response: float = 60


@dataclasses.dataclass
class Target:
    """A peer that runs."""

    name: str
    http: tuple
    tls: tuple
    h2c: tuple
    ca: pathlib.Path
    directory: pathlib.Path
    process: subprocess.Popen
    host: str = HOST

    @property
    def pid(self):
        return self.process.pid

    def family(self):
        return programs.family(self.process)

    def is_alive(self):
        return self.process.poll() is None

    def rss(self):
        pages = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                pages += int(pathlib.Path(f"/proc/{pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")

    def cpu(self):
        """Seconds of user and system time, of the processes that live."""
        ticks = 0
        for pid in self.family():
            with contextlib.suppress(OSError):
                fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
                ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")

    def log(self):
        files = [self.process.said, *sorted(self.directory.glob("*.log"))]
        return "\n".join(file.read_text(errors="replace") for file in files if file.exists())


@contextlib.contextmanager
def start(name, backend, protocol="http/1.1", websocket=False, deadlines=Deadlines(), more=""):
    """A context with the Target that `name` is; see above."""
    directory = pathlib.Path(tempfile.mkdtemp(prefix=f"{name}-"))
    keep = True
    try:
        target = _started(name, directory, (backend, protocol, websocket, deadlines, more))
        try:
            yield target
            _check(target)
            keep = False
        finally:
            programs.end(target.process)
    finally:
        if keep:
            print(f"kept: {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


@functools.cache
def version(name):
    """As the program says it."""
    command = {"nginx": ["nginx", "-v"], "haproxy": ["haproxy", "-v"], "caddy": [program(name), "version"]}
    said = subprocess.run(
        command.get(name, [program(name), "--version"]), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ).stdout.splitlines()[0]
    words = {"nginx": lambda: said.rsplit("/", 1)[1], "haproxy": lambda: said.split()[2], "caddy": lambda: said.split()[0].lstrip("v")}
    return words.get(name, lambda: said.split()[1])()


@functools.cache
def program(name):
    """The program's path."""
    if name == "wardgate":
        builds = [ROOT / "target" / kind / name for kind in ("release", "debug")]
        builds = sorted((build for build in builds if build.exists()), key=lambda build: -build.stat().st_mtime)
        found = os.environ.get("WARDGATE") or next(iter(builds), None)
    elif name == "caddy":
        folder = os.environ.get("PEERS") or ROOT / ".cache" / "peers" / "bin"
        found = pathlib.Path(folder, name)
    else:
        found = shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
    if not found or not os.access(found, os.X_OK):
        raise FileNotFoundError(f"there is no {name}: {found or 'not on the PATH'}")
    return str(pathlib.Path(found).resolve())


@functools.cache
def certificates():
    """A folder with ca.pem, leaf.pem (leaf and CA), leaf.key, both.pem (for HAProxy); for this run."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="conformance-ca-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=folder, check=True, capture_output=True)

    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    openssl("req", "-x509", *curve, "-keyout", "ca.key", "-out", "ca.pem", "-days", "90", "-subj", "/CN=Conformance CA",
            "-addext", "basicConstraints=critical,CA:TRUE", "-addext", "keyUsage=critical,keyCertSign,cRLSign")  # fmt: skip
    openssl("req", *curve, "-keyout", "leaf.key", "-out", "leaf.csr", "-subj", f"/CN={HOST}")
    (folder / "leaf.ext").write_text(
        f"subjectAltName=DNS:{HOST},DNS:*.{HOST},DNS:localhost,IP:127.0.0.1\n"
        "basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=serverAuth\n"
        "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
    )
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "90",
            "-extfile", "leaf.ext", "-out", "leaf.pem")  # fmt: skip
    chain = (folder / "leaf.pem").read_text() + (folder / "ca.pem").read_text()
    (folder / "leaf.pem").write_text(chain)
    (folder / "both.pem").write_text(chain + (folder / "leaf.key").read_text())
    return folder


def _started(name, directory, wanted):
    for attempt in range(3):
        ports = [programs.free_port() for _ in range(3)]
        command = CONFIGURE[name](directory, ports, *wanted)
        process = programs.start(command, directory)
        try:
            if name == "wardgate":
                ports = _ports_told(process, directory)
            for port in ports[:2]:  # the third is h2 alone with some of them
                programs.wait_for(process, port)
            _wait_until_it_answers(process, ports[0])
        except RuntimeError:
            programs.end(process)
            # Between our finding a free port and the program's binding it somebody may have had it.
            if attempt == 2 or "in use" not in process.said.read_text():
                raise
            continue
        except BaseException:
            programs.end(process)
            raise
        plain, secure, h2c = ((LOOPBACK, port) for port in ports)
        return Target(name, plain, secure, h2c, certificates() / "ca.pem", directory, process)


def _ports_told(process, directory, seconds=15):
    """Wardgate binds port 0 and says in its log which it got."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        events = [json.loads(line) for line in process.said.read_text().splitlines() if line.startswith("{") and line.endswith("}")]
        if any(event.get("message") == "ready" for event in events):
            port = {event["listener"]: int(event["server.address"].rsplit(":", 1)[1]) for event in events if event.get("message") == "listening"}
            return [port["web"], port["secure"], port["web"]]
        time.sleep(0.02)
    raise RuntimeError(f"{process.args} is not ready:\n{process.said.read_text()}")


def _wait_until_it_answers(process, port, seconds=15):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection((LOOPBACK, port), timeout=2) as sock:
            sock.sendall(b"BAD" + b"\r\nX-Longer-Than-An-H2-Preface: 1\r\n\r\n")
            if sock.recv(100):
                return
        time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not answer:\n{process.said.read_text()}")


def _check(target):
    log = target.process.said.read_text(errors="replace")
    if not target.is_alive():
        raise RuntimeError(f"{target.name} has ended by itself ({target.process.returncode}):\n{log[-4000:]}")
    if target.name == "wardgate" and "panicked" in log:
        raise RuntimeError(f"{target.name} has panicked:\n{log[-4000:]}")


def _milliseconds(seconds):
    return f"{round(seconds * 1000)}ms"


def _wardgate(directory, ports, backend, protocol, websocket, deadlines, more):
    folder = certificates()
    (directory / "gateway.yaml").write_text(f"""\
listeners:
  web: {{ bind: "{LOOPBACK}:0", protocol: http, alpn: [h2, http/1.1] }}
  secure: {{ bind: "{LOOPBACK}:0", protocol: https }}
sites:
  "*": {{ certificate: leaf, https: both, upstream: app }}
certificates:
  leaf: {{ chain: {folder}/leaf.pem, key: {folder}/leaf.key }}
upstreams:
  app:
    servers: ["http://{backend[0]}:{backend[1]}"]
    protocol: {protocol}
    timeouts: {{ response: {_milliseconds(deadlines.response)}, read: {_milliseconds(deadlines.response)} }}
limits:
  request_header_timeout: {_milliseconds(deadlines.header)}
  request_body_timeout: {_milliseconds(deadlines.body)}
  idle_timeout: {_milliseconds(deadlines.idle)}
storage: storage
admin: off
log: {{ access: {{ file: access.log }} }}
shutdown: {{ grace: 1s }}
{more}
""")
    return [program("wardgate"), "run", "gateway.yaml"]


def _nginx(directory, ports, backend, protocol, websocket, deadlines, more):
    plain, secure, h2c = ports
    folder = certificates()
    kind = "grpc" if protocol == "h2c" else "proxy"
    to = f"{kind}_pass {'grpc' if protocol == 'h2c' else 'http'}://app;"
    if protocol == "h2c":
        how = ""
    else:
        connection = "$connection_upgrade" if websocket else '""'
        how = f"proxy_http_version 1.1; proxy_set_header Connection {connection};"
        how += " proxy_set_header Upgrade $http_upgrade;" if websocket else ""
    (directory / "nginx.conf").write_text(f"""\
{"user root;" if os.geteuid() == 0 else ""}
worker_processes auto;
worker_rlimit_nofile 20000;
daemon off;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 12000; }}
http {{
  access_log access.log;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  server_tokens off;
  client_max_body_size 64m;
  client_header_timeout {_milliseconds(deadlines.header)};
  client_body_timeout {_milliseconds(deadlines.body)};
  send_timeout {_milliseconds(deadlines.body)};
  keepalive_timeout {_milliseconds(deadlines.idle)};
  map $http_upgrade $connection_upgrade {{ default upgrade; "" ""; }}
  upstream app {{ server {backend[0]}:{backend[1]}; keepalive 64; }}
  server {{
    listen {LOOPBACK}:{plain} backlog=4096;
    listen {LOOPBACK}:{secure} ssl http2 backlog=4096;
    listen {LOOPBACK}:{h2c} http2;
    server_name {HOST} _;
    ssl_certificate {folder}/leaf.pem;
    ssl_certificate_key {folder}/leaf.key;
    ssl_protocols TLSv1.2 TLSv1.3;
    ssl_ciphers {CIPHERS};
    ssl_prefer_server_ciphers off;
    ssl_session_cache shared:tls:10m;
    ssl_session_tickets off;
    location / {{
      {to}
      {how}
      {kind}_set_header Host $host;
      {kind}_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      {kind}_set_header X-Forwarded-Proto $scheme;
      {kind}_set_header X-Request-Id $request_id;
      {kind}_connect_timeout 5s;
      {kind}_read_timeout {_milliseconds(deadlines.response)};
    }}
  }}
  {more}
}}
""")
    return [program("nginx"), "-p", str(directory), "-c", "nginx.conf", "-e", "error.log"]


def _haproxy(directory, ports, backend, protocol, websocket, deadlines, more):
    plain, secure, h2c = ports
    (directory / "haproxy.cfg").write_text(f"""\
global
  maxconn 9000
  log stderr format raw local0
  ssl-default-bind-options ssl-min-ver TLSv1.2
  ssl-default-bind-ciphers {CIPHERS}
  {more}
defaults
  mode http
  log global
  option httplog
  option forwardfor
  timeout connect 5s
  timeout client {_milliseconds(deadlines.body)}
  timeout server {_milliseconds(deadlines.response)}
  timeout http-request {_milliseconds(deadlines.header)}
  timeout http-keep-alive {_milliseconds(deadlines.idle)}
  timeout tunnel 1h
frontend web
  bind {LOOPBACK}:{plain} backlog 4096
  bind {LOOPBACK}:{secure} ssl crt {certificates()}/both.pem alpn h2,http/1.1 backlog 4096
  bind {LOOPBACK}:{h2c} proto h2
  http-request set-header X-Request-Id %[uuid()]
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  default_backend app
backend app
  server app {backend[0]}:{backend[1]} {"proto h2" if protocol == "h2c" else ""}
""")
    return [program("haproxy"), "-W", "-f", "haproxy.cfg"]


def _caddy(directory, ports, backend, protocol, websocket, deadlines, more):
    plain, secure, _ = ports
    ports[2] = plain
    folder = certificates()
    scheme = "h2c://" if protocol == "h2c" else "http://"
    (directory / "Caddyfile").write_text(f"""\
{{
  admin off
  persist_config off
  auto_https off
  storage file_system {directory}/data
  log default {{
    output stderr
  }}
  servers {{
    protocols h1 h2 h2c
    timeouts {{
      read_header {_milliseconds(deadlines.header)}
      idle {_milliseconds(deadlines.idle)}
    }}
  }}
  {more}
}}
(app) {{
  bind {LOOPBACK}
  log {{
    output file {directory}/access.log
  }}
  reverse_proxy {scheme}{backend[0]}:{backend[1]} {{
    header_up X-Request-Id {{http.request.uuid}}
    transport http {{
      dial_timeout 5s
      response_header_timeout {_milliseconds(deadlines.response)}
      read_timeout {_milliseconds(deadlines.response)}
      {"versions h2c" if protocol == "h2c" else ""}
    }}
  }}
}}
http://:{plain} {{
  import app
}}
https://:{secure} {{
  tls {folder}/leaf.pem {folder}/leaf.key
  import app
}}
""")
    return [program("caddy"), "run", "--config", "Caddyfile", "--adapter", "caddyfile"]


CONFIGURE = {"wardgate": _wardgate, "nginx": _nginx, "haproxy": _haproxy, "caddy": _caddy}
