"""The proxies that are compared, each configured as a competent operator would.

All serve the same two sites on loopback, plain HTTP/1.1 and TLS 1.3 with HTTP/1.1 and h2, with the same
P-256 certificate, before the same backend: connections to it are kept, every request is a line in a
file, session tickets are on, and whatever the proxy counts is counted. Each is given one core and,
where it has such a setting, one thread.
"""

import os
import pathlib
import re
import shutil
import subprocess

import programs

ROOT = pathlib.Path(__file__).resolve().parents[2]

# The backend, and nginx as a proxy: 1.22 spools a response that the client does not take to a file
# unless told not to, and closes connections after a thousand requests.
NGINX = """
{user} daemon off; worker_processes 1; worker_rlimit_nofile 16384; pid nginx.pid; error_log stderr;
events {{ worker_connections 8192; }}
http {{
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  keepalive_requests 1000000000; keepalive_timeout 300s; sendfile on; tcp_nopush on;
  {site}
}}
"""

NGINX_BACKEND = "access_log off; server {{ listen 127.0.0.1:{port} backlog=4096; root {files}; }}"

NGINX_PROXY = """
  access_log access.log;
  ssl_protocols TLSv1.3; ssl_session_cache shared:bench:10m; ssl_session_tickets on;
  ssl_certificate {certificate}; ssl_certificate_key {key};
  upstream app {{ server 127.0.0.1:{backend}; keepalive 256; keepalive_requests 1000000000; }}
  server {{
    listen 127.0.0.1:{plain} backlog=4096; listen 127.0.0.1:{tls} ssl http2 backlog=4096;
    server_name localhost;
    location /status {{ stub_status; }}
    location / {{
      proxy_pass http://app; proxy_http_version 1.1; proxy_set_header Connection "";
      proxy_buffers 16 16k; proxy_buffer_size 16k; proxy_busy_buffers_size 64k;
      proxy_max_temp_file_size 0;
      proxy_set_header Host $host; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
      proxy_set_header X-Forwarded-Proto $scheme; proxy_set_header X-Forwarded-Host $host;
      proxy_set_header X-Request-Id $request_id;
    }}
  }}
"""

# It writes no files: its lines go to standard output, which is one.
HAPROXY = """
global
  nbthread 1
  maxconn 8000
  log stdout format raw local0
  ssl-default-bind-options ssl-min-ver TLSv1.3
defaults
  mode http
  log global
  option httplog
  option forwardfor
  http-reuse always
  timeout connect 5s
  timeout client 300s
  timeout http-keep-alive 300s
  timeout server 60s
frontend web
  bind 127.0.0.1:{plain} backlog 4096
  bind 127.0.0.1:{tls} ssl crt {bundle} alpn h2,http/1.1 backlog 4096
  http-request set-header X-Forwarded-Proto https if {{ ssl_fc }}
  http-request set-header X-Forwarded-Proto http unless {{ ssl_fc }}
  http-request set-header X-Request-Id %[uuid()]
  http-request use-service prometheus-exporter if {{ path /metrics }}
  default_backend app
backend app
  server s1 127.0.0.1:{backend} pool-max-conn -1
"""

CADDY = """{{
  admin 127.0.0.1:{admin}
  auto_https off
  default_bind 127.0.0.1
  metrics
  servers {{
    protocols h1 h2
  }}
}}
(site) {{
  log {{
    output file access.log {{
      roll_disabled
    }}
  }}
  reverse_proxy 127.0.0.1:{backend} {{
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
http://localhost:{plain} {{
  import site
}}
https://localhost:{tls} {{
  tls {certificate} {key} {{
    protocols tls1.3
  }}
  import site
}}
"""

TRAEFIK = """
global: {{ checkNewVersion: false, sendAnonymousUsage: false }}
entryPoints:
  plain: {{ address: "127.0.0.1:{plain}" }}
  tls: {{ address: "127.0.0.1:{tls}", http: {{ tls: {{}} }} }}
  metrics: {{ address: "127.0.0.1:{admin}" }}
accessLog: {{ filePath: access.log, bufferingSize: 100 }}
metrics: {{ prometheus: {{ entryPoint: metrics }} }}
log: {{ level: ERROR }}
providers: {{ file: {{ filename: sites.yaml }} }}
"""

TRAEFIK_SITES = """
http:
  routers:
    plain: {{ rule: "PathPrefix(`/`)", entryPoints: [plain], service: app }}
    tls: {{ rule: "PathPrefix(`/`)", entryPoints: [tls], service: app, tls: {{}} }}
  services:
    app:
      loadBalancer:
        servers: [ {{ url: "http://127.0.0.1:{backend}" }} ]
        serversTransport: kept
  serversTransports: {{ kept: {{ maxIdleConnsPerHost: 512 }} }}
tls:
  certificates: [ {{ certFile: {certificate}, keyFile: {key} }} ]
  options: {{ default: {{ minVersion: VersionTLS13 }} }}
"""

ENVOY = """
admin: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {admin} }} }} }}
static_resources:
  listeners:
  - name: plain
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {plain} }} }}
    tcp_backlog_size: 4096
    filter_chains: [ {{ filters: [ {manager} ] }} ]
  - name: tls
    address: {{ socket_address: {{ address: 127.0.0.1, port_value: {tls} }} }}
    tcp_backlog_size: 4096
    filter_chains:
    - filters: [ {manager} ]
      transport_socket:
        name: envoy.transport_sockets.tls
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext
          common_tls_context:
            alpn_protocols: [h2, http/1.1]
            tls_params: {{ tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: TLSv1_3 }}
            tls_certificates:
            - {{ certificate_chain: {{ filename: {certificate} }}, private_key: {{ filename: {key} }} }}
  clusters:
  - name: app
    type: STATIC
    connect_timeout: 5s
    circuit_breakers: {{ thresholds: [ {{ max_connections: 16000, max_requests: 16000, max_pending_requests: 16000 }} ] }}
    load_assignment:
      cluster_name: app
      endpoints: [ {{ lb_endpoints: [ {{ endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {backend} }} }} }} }} ] }} ]
"""

ENVOY_MANAGER = """{
  name: envoy.filters.network.http_connection_manager, typed_config: {
    "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager,
    stat_prefix: web, codec_type: AUTO, use_remote_address: true,
    access_log: [ { name: envoy.access_loggers.file, typed_config: {
      "@type": type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: access.log } } ],
    http_filters: [ { name: envoy.filters.http.router, typed_config: {
      "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router } } ],
    route_config: { name: all, virtual_hosts: [ { name: all, domains: ["*"],
      routes: [ { match: { prefix: "/" }, route: { cluster: app } } ] } ] } } }"""

WARDGATE = """
listeners:
  plain: {{ bind: "127.0.0.1:{plain}", protocol: http }}
  tls: {{ bind: "127.0.0.1:{tls}", protocol: https, tls: {{ min_version: "1.3" }} }}
sites: {{ localhost: {{ https: both, certificate: mine, upstream: "http://127.0.0.1:{backend}" }} }}
certificates: {{ mine: {{ chain: {certificate}, key: {key} }} }}
limits: {{ idle_timeout: 5m }}
storage: storage
admin: {{ bind: "127.0.0.1:{admin}" }}
runtime: {{ threads: 1 }}
log: {{ level: warn, access: {{ file: logs/access.log }} }}
"""


class Proxy:
    """A proxy: `files` by name, `command` and what prints its version."""

    files, output = {}, None

    def __init__(self, program):
        self.program = program

    def start(self, directory, core, **values):
        """Starts it on `core` in a folder of its own."""
        self.plain, self.tls, admin = programs.free_port(), programs.free_port(), programs.free_port()
        directory = pathlib.Path(directory, self.name)
        directory.mkdir()
        values |= {"plain": self.plain, "tls": self.tls, "admin": admin, "user": user()}
        for name, template in self.files.items():
            template = template.replace("{site}", NGINX_PROXY).replace("{manager}", braced(ENVOY_MANAGER))
            (directory / name).write_text(template.format(**values))
        self.process = programs.start(self.command(), directory, core, self.output)
        for port in (self.plain, self.tls):
            programs.wait_for(self.process, port)
        return self

    def version(self):
        """What it says of itself, as short as can be."""
        command = [self.program, *self.ask_version]
        said = subprocess.run(command, capture_output=True, text=True, check=False)
        found = re.search(r"\d+\.\d+\.\d+", said.stdout + said.stderr)
        return f"{self.name} {found[0] if found else '?'}"


class Nginx(Proxy):
    name, files, ask_version = "nginx", {"nginx.conf": NGINX}, ["-v"]

    def command(self):
        return [self.program, "-p", ".", "-c", "nginx.conf"]


class Haproxy(Proxy):
    name, files, ask_version, output = "haproxy", {"haproxy.cfg": HAPROXY}, ["-v"], "access.log"

    def command(self):
        return [self.program, "-db", "-f", "haproxy.cfg"]


class Caddy(Proxy):
    name, files, ask_version = "caddy", {"Caddyfile": CADDY}, ["version"]

    def command(self):
        home = ["env", "XDG_DATA_HOME=data", "XDG_CONFIG_HOME=config", "GOMAXPROCS=1"]
        return [*home, self.program, "run", "--config", "Caddyfile"]


class Traefik(Proxy):
    name, files, ask_version = "traefik", {"traefik.yaml": TRAEFIK, "sites.yaml": TRAEFIK_SITES}, ["version"]

    def command(self):
        return ["env", "GOMAXPROCS=1", self.program, "--configFile=traefik.yaml"]


class Envoy(Proxy):
    name, files, ask_version = "envoy", {"envoy.yaml": ENVOY}, ["--version"]

    def command(self):
        quiet = ["--log-level", "error", "--disable-hot-restart"]
        return [self.program, "-c", "envoy.yaml", "--concurrency", "1", *quiet]


class Wardgate(Proxy):
    name, files, ask_version = "wardgate", {"gateway.yaml": WARDGATE}, ["--version"]

    def command(self):
        return [self.program, "run", "gateway.yaml"]


PROXIES = {proxy.name: proxy for proxy in (Nginx, Haproxy, Wardgate, Caddy, Traefik, Envoy)}


def find(name):
    """The program of a peer: the cache's, else this system's."""
    cache = pathlib.Path(os.environ.get("WARDGATE_CACHE", ROOT / ".cache"))
    found = shutil.which(name, path=f"{cache}/peers/bin:{os.environ['PATH']}:/usr/sbin")
    if not found:
        raise SystemExit(f"{name} is missing: `./dev bench` installs it")
    return found


def start_backend(directory, core, sizes):
    """An nginx that serves files of these sizes by their names. Returns its port."""
    directory = pathlib.Path(directory, "backend")
    files = directory / "www"
    files.mkdir(parents=True)
    for name, size in sizes.items():
        (files / name).write_bytes(b"x" * size)
    port = programs.free_port()
    site = NGINX_BACKEND.format(port=port, files=files)
    (directory / "nginx.conf").write_text(NGINX.format(user=user(), site=site))
    command = [find("nginx"), "-p", ".", "-c", "nginx.conf"]
    process = programs.start(command, directory, core)
    programs.wait_for(process, port)
    return process, port


def certificate(directory):
    """A P-256 certificate for localhost: its file, its key's, and both in one."""
    chain, key, bundle = (pathlib.Path(directory, f"localhost.{end}") for end in ("pem", "key", "both"))
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    curve = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command = ["openssl", "req", "-x509", *curve, "-nodes", "-days", "30", *subject]
    subprocess.run([*command, "-out", chain, "-keyout", key], check=True, capture_output=True)
    bundle.write_text(chain.read_text() + key.read_text())
    return {"certificate": chain, "key": key, "bundle": bundle}


def user():
    """nginx's workers must be able to read what was made here."""
    return "user root;" if os.geteuid() == 0 else ""


def braced(text):
    """Text that `str.format` leaves as it is."""
    return text.replace("{", "{{").replace("}", "}}")
