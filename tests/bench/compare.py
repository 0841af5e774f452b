#!/usr/bin/env python3
"""What the gateway costs beside other proxies: `./dev bench`.

usage: tests/bench/compare.py [SCENARIO ...] [--peers NAME,...] [--rounds 5] [--seconds 2]
                            [--wardgate PROGRAM] [--write]

Needs two cores that nobody else uses, and nginx, haproxy, wrk, h2load, openssl and taskset, which
`./dev bench` sees to. Everything is on loopback; only what was started here is ended. A run of
everything takes about a quarter of an hour with the defaults, one scenario about a minute.

The proxies share core 0, each limited to one thread and idle while another has its turn; load and
backend (nginx) share core 1. They take turns of SECONDS, in ROUNDS that each begin with another, after
one turn that does not count; shown is the median of the rounds. How each is configured is in
proxies.py: access log to a file, metrics on, connections to the backend kept, TLS 1.3 with one P-256
certificate.

h1 tls h2              CPU µs per request (user and system of all the proxy's processes) for 1 KiB over
                       HTTP/1.1, over TLS (both on 32 connections), and over h2 (16 connections of 8
                       streams)
tls-64k tls-1m         the same for bodies of 64 KiB and 1 MiB, on 16 connections of HTTP/1.1
h2-64k h2-1m           and on h2 (4 connections of 4 streams)
full resumed           CPU µs per connection with one request of 1 KiB: a full handshake (X25519), and one
                       that a ticket of the connection before resumes; of either kind all must be
p99                    ms until the last byte for 99 of 100 requests for 1 KiB over TLS, HTTP/1.1, on 256
                       connections, at half the rate that the same proxy has just sustained
idle                   KiB of memory per TLS connection that waits after one request, of 3,000

The ratio is to the better of nginx and HAProxy; below 1 is better than either. --wardgate may be given
several times, as NAME=PROGRAM, to compare builds. --write puts the table into docs/benchmarks.md.
"""

import argparse
import os
import pathlib
import re
import resource
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time

import programs
import proxies

PROXY_CORE, LOAD_CORE = 0, 1
SIZES = {"1k": 1 << 10, "64k": 64 << 10, "1m": 1 << 20}
IDLE = 3000
# Connections that each ask at a fixed rate, one of them every few dozen microseconds.
PACED = 256
REFERENCES = ("nginx", "haproxy")


class Failed(Exception):
    """A turn whose figure would mean nothing."""


def run(*command, seconds):
    """Runs a load generator for about so long. Returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=False)
    if done.returncode:
        raise Failed(f"{command[0]}: {done.stdout}{done.stderr}")
    return done.stdout


def number(pattern, text):
    found = re.search(pattern, text)
    if not found:
        raise Failed(f"{pattern} is not in:\n{text}")
    return float(found[1])


def wrk(url, connections, seconds):
    """As many requests one after another as fit. Returns how many."""
    said = run("wrk", "-t1", f"-c{connections}", f"-d{seconds}s", url, seconds=seconds)
    if re.search("Non-2xx|Socket errors", said):
        raise Failed(said)
    return number(r"(\d+) requests in", said)


def h2load(url, connections, streams, seconds):
    command = ["h2load", f"-c{connections}", f"-m{streams}", "-t1", f"-D{seconds}", "-w24", "-W24", url]
    said = run(*command, seconds=seconds)
    if "Application protocol: h2" not in said or number(r"(\d+) failed", said):
        raise Failed(said)
    return number(r"(\d+) succeeded", said)


def cost(load):
    """CPU µs per request of what `load` returns the count of."""

    def measure(proxy, seconds):
        before = programs.cpu_seconds(proxy.process)
        count = load(proxy, seconds)
        return (programs.cpu_seconds(proxy.process) - before) / count * 1e6

    return measure


def plain(size, connections):
    return cost(lambda proxy, seconds: wrk(f"http://localhost:{proxy.plain}/{size}", connections, seconds))


def tls(size, connections):
    return cost(lambda proxy, seconds: wrk(f"https://localhost:{proxy.tls}/{size}", connections, seconds))


def h2(size, connections, streams):
    url = f"https://localhost:{{}}/{size}"
    return cost(lambda proxy, seconds: h2load(url.format(proxy.tls), connections, streams, seconds))


def trusting():
    """TLS that takes any certificate: which one is served is not the question."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_alpn_protocols(["http/1.1"])
    return context


def fetch(context, port, session=None, keep=False):
    """A new connection and a request on it. Returns the connection."""
    connection = socket.create_connection(("127.0.0.1", port), timeout=10)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection = context.wrap_socket(connection, server_hostname="localhost", session=session)
    option = "" if keep else "Connection: close\r\n"
    connection.sendall(f"GET /1k HTTP/1.1\r\nHost: localhost\r\n{option}\r\n".encode())
    said = b""
    while len(said.partition(b"\r\n\r\n")[2]) < SIZES["1k"]:
        part = connection.recv(4096)
        if not part:
            raise Failed(f"cut short: {said[:200]}")
        said += part
    if not said.startswith(b"HTTP/1.1 200 "):
        raise Failed(f"answered with {said[:200]}")
    return connection


def handshakes(is_resumed):
    """New connections on several threads. Returns how many."""

    def load(proxy, seconds):
        end = time.monotonic() + seconds
        counts, failures = [], []

        def connect():
            context, session, count = trusting(), None, 0
            try:
                while time.monotonic() < end:
                    connection = fetch(context, proxy.tls, session)
                    if connection.session_reused != (session is not None):
                        raise Failed("a session was not resumed")
                    session = connection.session if is_resumed else None
                    connection.close()
                    count += 1
            except (OSError, Failed) as error:
                failures.append(error)
            counts.append(count)

        threads = [threading.Thread(target=connect) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if failures:
            raise Failed(f"{proxy.name}: {failures[0]}")
        return sum(counts)

    return cost(load)


def p99(proxy, seconds):
    """The latency at half of what the proxy can do."""
    url = f"https://localhost:{proxy.tls}/1k"
    pace = wrk(url, 32, 1) / 2 / PACED
    seconds = max(seconds, 3)
    with tempfile.NamedTemporaryFile() as log:
        load = ["h2load", "--h1", f"-c{PACED}", "-t1", f"-D{seconds}", f"--rps={pace:.2f}"]
        run(*load, f"--log-file={log.name}", url, seconds=seconds)
        lines = [line.split() for line in pathlib.Path(log.name).read_text().splitlines()]
    if any(status != "200" for _, status, _ in lines):
        raise Failed(f"{proxy.name} did not answer every request")
    # All handshakes are over by then.
    begin = int(lines[0][0]) + 1_000_000
    took = sorted(int(took) for start, _, took in lines if int(start) > begin)
    if len(took) < 1000:
        raise Failed(f"{proxy.name} answered {len(took)} requests: the machine is too busy for this")
    return took[len(took) * 99 // 100] / 1e3


def idle(proxy, _):
    """Memory per connection that waits for its second request."""
    context = trusting()
    fetch(context, proxy.tls).close()
    time.sleep(0.5)
    before = programs.memory_kib(proxy.process)
    held = [fetch(context, proxy.tls, keep=True) for _ in range(IDLE)]
    time.sleep(2.0)
    memory = programs.memory_kib(proxy.process) - before
    for connection in held:
        connection.settimeout(0)
        try:
            if connection.recv(1) == b"":
                raise Failed(f"{proxy.name} closed idle connections")
        except ssl.SSLWantReadError:
            pass
        connection.close()
    return memory / IDLE


# What is measured: by name the heading, the measure, and how many turns there are, if not ROUNDS.
SCENARIOS = {
    "h1": ("1 KiB, HTTP/1.1, µs", plain("1k", 32), None),
    "tls": ("1 KiB, TLS, µs", tls("1k", 32), None),
    "h2": ("1 KiB, h2, µs", h2("1k", 16, 8), None),
    "tls-64k": ("64 KiB, TLS, µs", tls("64k", 16), None),
    "h2-64k": ("64 KiB, h2, µs", h2("64k", 4, 4), None),
    "tls-1m": ("1 MiB, TLS, µs", tls("1m", 16), None),
    "h2-1m": ("1 MiB, h2, µs", h2("1m", 4, 4), None),
    "full": ("full handshake, µs", handshakes(False), None),
    "resumed": ("resumed handshake, µs", handshakes(True), None),
    "p99": ("p99 at half load, ms", p99, 3),
    "idle": ("idle TLS connection, KiB", idle, 1),
}


def take_turns(contestants, scenario, rounds, seconds):
    """Everybody's turns. Returns the figures by name."""
    _, measure, turns = SCENARIOS[scenario]
    figures = {name: [] for name, _ in contestants}
    if turns is None:
        for _, proxy in contestants:
            measure(proxy, 1)
    for round_ in range(min(turns or rounds, rounds)):
        order = contestants[round_ % len(contestants) :] + contestants[: round_ % len(contestants)]
        for name, proxy in order:
            figures[name].append(measure(proxy, seconds))
            print(f"{scenario}\t{name}\t{figures[name][-1]:.2f}", file=sys.stderr, flush=True)
    return figures


def shown(figure):
    return f"{figure:.0f}" if figure >= 100 else f"{figure:.1f}" if figure >= 10 else f"{figure:.2f}"


def row(scenario, figures):
    """A line of the table: the medians, and how they compare with the better of the references."""
    medians = {name: statistics.median(turns) for name, turns in figures.items()}
    known = [medians[name] for name in REFERENCES if name in medians]
    best = min(known) if known else None

    def cell(name):
        ratio = f" ({medians[name] / best:.2f})" if best else ""
        return f"{shown(medians[name])}{ratio}"

    return [SCENARIOS[scenario][0], *map(cell, figures)]


def report(contestants, rows, options):
    versions = ", ".join(proxy.version() for _, proxy in contestants)
    head = ["", *(name for name, _ in contestants)]
    return (
        f"{programs.markdown(head, rows)}\n\n"
        f"{time.strftime('%Y-%m-%d')}, medians of {options.rounds} rounds of {options.seconds} s (p99 of three "
        f"at most, memory of one).\n{versions}. {programs.machine()}, two cores.\n"
    )


def contestants(options):
    """Those to be compared, by name and program."""
    own = options.wardgate or [str(proxies.ROOT / "target/release/wardgate")]
    for name in options.peers.split(","):
        if name not in proxies.PROXIES:
            raise SystemExit(f"there is no peer {name!r}; there are {', '.join(proxies.PROXIES)}")
        if name != "wardgate":
            yield name, proxies.PROXIES[name](proxies.find(name))
            continue
        for build in own:
            label, _, program = build.rpartition("=")
            proxy = proxies.Wardgate(str(pathlib.Path(program).resolve(strict=True)))
            proxy.name = label or "wardgate"
            yield proxy.name, proxy


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--peers", default=",".join(proxies.PROXIES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--wardgate", action="append")
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    scenarios = options.scenarios or list(SCENARIOS)
    if unknown := set(scenarios) - set(SCENARIOS):
        parser.error(f"no scenario {', '.join(unknown)}; there are {', '.join(SCENARIOS)}")
    if not {PROXY_CORE, LOAD_CORE} <= os.sched_getaffinity(0):
        raise SystemExit("this takes two cores: one for the proxy, one for load and backend")
    os.sched_setaffinity(0, {LOAD_CORE})
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with tempfile.TemporaryDirectory(prefix="wardgate-bench-") as directory:
        os.chmod(directory, 0o755)
        compare(list(contestants(options)), scenarios, options, directory)


def compare(them, scenarios, options, directory):
    """Starts everything, takes turns, and ends everything."""
    backend, port = proxies.start_backend(directory, LOAD_CORE, SIZES)
    started = [backend]
    try:
        files = proxies.certificate(directory)
        for _, proxy in them:
            started.append(proxy.start(directory, PROXY_CORE, backend=port, **files).process)
        rows = [row(it, take_turns(them, it, options.rounds, options.seconds)) for it in scenarios]
    finally:
        for process in started:
            programs.end(process)
    text = report(them, rows, options)
    print(text)
    if options.write:
        programs.write(text)


if __name__ == "__main__":
    main()
