#!/usr/bin/env python3
"""One of three backends fails under load: what clients see behind wardgate and behind HAProxy.

usage: ./dev bench failover [WARDGATE] [--rate 300] [--only kill,hang,500,flap] [--retries no,yes]
                            [--write]

WARDGATE is target/release/wardgate unless given. Needs haproxy; takes about four minutes, prints one
table (with --write into docs/benchmarks.md as well), and ends by itself. Everything is on loopback; only what was started here
is ended.

For each kind of failure both proxies run at once, each before three backends of its own and with
RATE requests a second of its own, each request on a new connection. They are configured alike: round
robin; GET /health every second with a timeout of 0.9 s, three failures in a row take a server out and
two successes bring it back; one second to connect and two for an answer; one more attempt, on another
server. With --retries no that attempt follows a refused connection alone, which is the default of
both; with yes also a broken one, an answer that does not come in time, and a 500. Neither looks at
what becomes of clients' requests to find a server unhealthy. After 3 s the first backend fails, after
13 s it is well again, after 21 s the run ends.

  kill   SIGKILL, so that connections are refused; started again on its port
  hang   SIGSTOP, so that connections are accepted by the kernel and nothing answers; SIGCONT
  500    every answer is 500, the health check's as well
  flap   killed three times, every four seconds, and started again after two

errors     requests that were not answered with 200, and what they got instead
left       s from the failure to the last request (by its start) that suffered from it: an error, an
           answer that took more than half a second, or a 500 that the backend gave, though a retry
           hid it; - when there was none. A flapping backend fails for the last time after 8 s
returned   s from the recovery to the first 200 from the backend that had failed
"""

import argparse
import asyncio
import collections
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

import programs

FAIL, HEAL, END = 3.0, 13.0, 21.0
# How long clients wait for an answer, and what they feel as a delay.
PATIENCE, DELAY = 10.0, 0.5
# What one run may take before it is given up.
MOST = 60.0

WARDGATE = """
listeners: {{ web: {{ bind: "127.0.0.1:{port}", protocol: http }} }}
sites: {{ "*": {{ upstream: app }} }}
upstreams:
  app:
    servers: [{servers}]
    balance: round_robin
    health: {{ path: /health, every: 1s, timeout: 900ms, healthy_after: 2, unhealthy_after: 3 }}
    retry: {{ attempts: 2, after: [{after}], budget: 100% }}
    timeouts: {{ connect: 1s, response: 2s }}
storage: storage
admin: off
runtime: {{ threads: 2 }}
log: {{ access: off }}
"""

HAPROXY = """
global
  nbthread 2
defaults
  mode http
  timeout connect 1s
  timeout server 2s
  timeout client 30s
  timeout check 900ms
  retries 1
  option redispatch 1
  retry-on {retry_on}
  option httpchk GET /health
frontend web
  bind 127.0.0.1:{port}
  default_backend app
backend app
  balance roundrobin
  default-server check inter 1s fall 3 rise 2
{servers}
"""


def wardgate(program, port, backends, directory, retries):
    servers = ", ".join(f'"http://127.0.0.1:{backend.port}"' for backend in backends)
    after = 'connect, reset, "500"' if retries else "connect"
    file = pathlib.Path(directory, "gateway.yaml")
    file.write_text(WARDGATE.format(port=port, servers=servers, after=after))
    return programs.start([program, "run", str(file)], directory)


def haproxy(_, port, backends, directory, retries):
    servers = "\n".join(f"  server s{n} 127.0.0.1:{backend.port}" for n, backend in enumerate(backends))
    retry_on = "conn-failure empty-response response-timeout 500" if retries else "conn-failure"
    file = pathlib.Path(directory, "haproxy.cfg")
    file.write_text(HAPROXY.format(port=port, servers=servers, retry_on=retry_on))
    return programs.start(["haproxy", "-db", "-f", str(file)], directory)


PROXIES = [wardgate, haproxy]


class Backend:
    """A backend in a process of its own, on a port that stays ours while nobody listens on it."""

    def __init__(self):
        self.reserved = socket.socket()
        self.reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        self.reserved.bind(("127.0.0.1", 0))
        self.port = self.reserved.getsockname()[1]
        self.last_500 = None
        self.start()

    def start(self):
        command = [sys.executable, __file__, "--backend", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError("a backend did not start")

    def kill(self):
        programs.end(self.process)
        self.process.stdout.close()

    async def fail(self, kind, start):
        """Fails at its time and is well again at its time, and notes the latter."""

        async def until(moment):
            await asyncio.sleep(max(0.0, start + moment - time.monotonic()))

        await until(FAIL)
        if kind == "hang":
            self.process.send_signal(signal.SIGSTOP)
            await until(HEAL)
            self.process.send_signal(signal.SIGCONT)
        elif kind == "500":
            self.process.send_signal(signal.SIGUSR1)
            await until(HEAL)
            self.process.send_signal(signal.SIGUSR2)
            self.last_500 = float(await asyncio.to_thread(self.process.stdout.readline)) - start
        else:
            # Down from each moment to the next, up from there to the one after.
            step = 2.0 if kind == "flap" else HEAL - FAIL
            moment = FAIL
            while moment < HEAL:
                self.kill()
                await until(moment + step)
                await asyncio.to_thread(self.start)
                moment += 2 * step
                if moment < HEAL:
                    await until(moment)
        self.healed = time.monotonic() - start


async def serve(port):
    """The backend itself: 200 with its port; after SIGUSR1 500 until SIGUSR2, which has it tell when
    it last said so to a client."""
    state = {"status": "200 OK", "last": 0.0}
    loop = asyncio.get_running_loop()

    def heal():
        state["status"] = "200 OK"
        print(state["last"], flush=True)

    loop.add_signal_handler(signal.SIGUSR1, lambda: state.update(status="500 Broken"))
    loop.add_signal_handler(signal.SIGUSR2, heal)

    async def answer(reader, writer):
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                status = state["status"]
                if status != "200 OK" and not head.startswith(b"GET /health"):
                    state["last"] = time.monotonic()
                text = f"HTTP/1.1 {status}\r\nX-Backend: {port}\r\nContent-Length: 2\r\n\r\nok"
                writer.write(text.encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, reuse_port=True, backlog=1024)
    print("ready", flush=True)
    async with server:
        # Longer than any run, so that nothing is left if whoever started it is gone.
        await asyncio.sleep(2 * MOST)


async def ask(port):
    """One request on a connection of its own: what was seen, and which backend said so."""
    writer = None
    try:
        async with asyncio.timeout(PATIENCE):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
            answer = await reader.read()
        if not answer.startswith(b"HTTP/1.1 "):
            return "closed", None
        backend = None
        for line in answer.split(b"\r\n"):
            if line.lower().startswith(b"x-backend: "):
                backend = int(line[11:])
        return answer[9:12].decode(), backend
    except TimeoutError:
        return "no answer", None
    except OSError:
        return "refused", None
    finally:
        if writer:
            writer.close()


async def load(port, rate, start, seen):
    """Requests at a fixed rate, however long answers take."""

    async def one(began):
        outcome, backend = await ask(port)
        seen.append((began, time.monotonic() - start, outcome, backend))

    async with asyncio.TaskGroup() as tasks:
        for number in range(int(rate * END)):
            await asyncio.sleep(start + number / rate - time.monotonic())
            tasks.create_task(one(time.monotonic() - start))


async def run(kind, program, rate, retries):
    """Both proxies through one kind of failure: a row of the table for each."""
    backends, processes, seen = [], [], [[] for _ in PROXIES]
    with tempfile.TemporaryDirectory() as directory:
        try:
            ports = [programs.free_port() for _ in PROXIES]
            for proxy, port in zip(PROXIES, ports):
                backends.append([Backend() for _ in range(3)])
                processes.append(proxy(program, port, backends[-1], directory, retries))
                programs.wait_for(processes[-1], port)
            # HAProxy holds its servers for well at first; both have had a check by then.
            await asyncio.sleep(1.5)
            start = time.monotonic()
            async with asyncio.timeout(MOST), asyncio.TaskGroup() as tasks:
                for port, group, its in zip(ports, backends, seen):
                    tasks.create_task(load(port, rate, start, its))
                    tasks.create_task(group[0].fail(kind, start))
        finally:
            for process in processes:
                programs.end(process)
            for backend in sum(backends, []):
                backend.kill()
    return [row(kind, retries, *one) for one in zip(PROXIES, (group[0] for group in backends), seen)]


def row(kind, retries, proxy, failed, seen):
    kinds = collections.Counter(outcome for _, _, outcome, _ in seen if outcome != "200")
    errors = sum(kinds.values())
    shown = ", ".join(f"{count} × {outcome}" for outcome, count in kinds.most_common())
    suffered = [
        began
        for began, ended, outcome, _ in seen
        if FAIL - DELAY < began < failed.healed and (outcome != "200" or ended - began > DELAY)
    ]
    if failed.last_500 and failed.last_500 > FAIL:
        suffered.append(failed.last_500)
    left = f"{max(max(suffered) - FAIL, 0.0):.1f}" if suffered else "-"
    again = [
        ended - failed.healed
        for began, ended, outcome, port in seen
        if (outcome, port) == ("200", failed.port) and began > failed.healed
    ]
    returned = f"{min(again):.1f}" if again else "never"
    after = "connect, break, time, 500" if retries else "connect"
    share = f"{errors} of {len(seen)} ({100 * errors / len(seen):.2f} %)"
    return [kind, after, proxy.__name__, share, shown, left, returned]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="target/release/wardgate", metavar="WARDGATE")
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument("--only", default="kill,hang,500,flap")
    parser.add_argument("--retries", default="no,yes")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--backend", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backend:
        asyncio.run(serve(arguments.backend))
        return
    program = str(pathlib.Path(arguments.program).resolve(strict=True))
    rows = []
    for retries in arguments.retries.split(","):
        for kind in arguments.only.split(","):
            print(f"{kind}, retries {retries}", file=sys.stderr)
            rows += asyncio.run(run(kind, program, arguments.rate, retries == "yes"))
    head = ["failure", "retried after", "proxy", "errors", "what", "left s", "returned s"]
    programs.show(programs.markdown(head, rows), "failover", arguments)


if __name__ == "__main__":
    main()
