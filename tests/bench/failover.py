"""One of three backends fails under load: what clients see behind wardgate and behind HAProxy.

usage: failover.py [--program target/debug/wardgate] [--rate 300] [--only kill,hang,500,flap]

For each kind of failure both proxies run at once, each before three backends of its own, configured
alike: round robin, GET /health every second with a timeout of 0.9 s, three failures in a row take
a server out and two successes bring it back, one more attempt when a connection is refused, two
seconds for an answer. After 5 s the first backend fails, after 15 s it is well again, after 25 s the
run ends. Everything is on loopback and ends by itself; only what was started here is ended.

  kill   SIGKILL, so that connections are refused; started again on its port
  hang   SIGSTOP, so that connections are accepted by the kernel and nothing answers; SIGCONT
  500    every answer is 500, the health check's as well
  flap   killed and started again every two seconds

errors     requests that were not answered with 200, of all that were sent, by what was seen
left       s from the failure to the last request, by its start, that got an error because of it
returned   s from the recovery to the first 200 from the backend that had failed
"""

import argparse
import asyncio
import collections
import json
import pathlib
import signal
import socket
import subprocess
import sys
import tempfile
import time

FAIL, HEAL, END = 5.0, 15.0, 25.0
PATIENCE = 10.0

WARDGATE = """
listeners: {{ web: {{ bind: "127.0.0.1:0", protocol: http }} }}
sites: {{ "*": {{ upstream: app }} }}
upstreams:
  app:
    servers: [{servers}]
    balance: round_robin
    health: {{ path: /health, every: 1s, timeout: 900ms, healthy_after: 2, unhealthy_after: 3 }}
    retry: {{ attempts: 2, after: [{after}], budget: 100% }}
    timeouts: {{ connect: 1s, response: 2s }}
storage: storage
admin: {{ bind: "127.0.0.1:0" }}
log: {{ format: json, access: off }}
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


def reserve():
    """A port that stays ours while nobody listens on it."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    return sock


class Backend:
    def __init__(self):
        self.reserved = reserve()
        self.port = self.reserved.getsockname()[1]
        self.process = None
        self.start()

    def start(self):
        command = [sys.executable, __file__, "--backend", str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()

    async def restart(self):
        """A new process, without a pause for whoever else runs here."""
        await asyncio.to_thread(self.start)

    def signal(self, number):
        self.process.send_signal(number)


async def serve(port):
    """The backend itself: 200 with its port, or 500 after SIGUSR1 until SIGUSR2."""
    state = {"status": "200 OK"}
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGUSR1, lambda: state.update(status="500 Broken"))
    loop.add_signal_handler(signal.SIGUSR2, lambda: state.update(status="200 OK"))

    async def answer(reader, writer):
        try:
            while await reader.readuntil(b"\r\n\r\n"):
                head = f"HTTP/1.1 {state['status']}\r\nX-Backend: {port}\r\nContent-Length: 2\r\n\r\nok"
                writer.write(head.encode())
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", port, reuse_port=True, backlog=1024)
    print("ready", flush=True)
    async with server:
        # Longer than any run, so that nothing is left if whoever started it is gone.
        await asyncio.sleep(120)


class Wardgate:
    name = "wardgate"

    def __init__(self, program, backends, directory, after):
        servers = ", ".join(f'"http://127.0.0.1:{backend.port}"' for backend in backends)
        file = pathlib.Path(directory, "gateway.yaml")
        file.write_text(WARDGATE.format(servers=servers, after=after))
        command = [program, "run", str(file)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, cwd=directory)

    def wait(self):
        """Waits until it serves."""
        for line in self.process.stderr:
            if not line.startswith(b"{"):
                sys.stderr.buffer.write(line)
                continue
            event = json.loads(line)
            fields = event.get("fields", event)
            if fields.get("message") == "listening":
                address = fields.get("server.address") or event.get("server.address")
                self.port = int(address.rsplit(":", 1)[1])
            if fields.get("message") == "ready":
                return
        raise RuntimeError("wardgate did not start")


class Haproxy:
    name = "haproxy"

    def __init__(self, backends, directory, retry_on):
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            self.port = sock.getsockname()[1]
        servers = "\n".join(f"  server s{n} 127.0.0.1:{backend.port}" for n, backend in enumerate(backends))
        file = pathlib.Path(directory, "haproxy.cfg")
        file.write_text(HAPROXY.format(servers=servers, port=self.port, retry_on=retry_on))
        self.process = subprocess.Popen(["haproxy", "-db", "-f", str(file)], stderr=subprocess.DEVNULL)


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


async def fail(kind, backend, start):
    async def until(moment):
        await asyncio.sleep(max(0.0, start + moment - time.monotonic()))

    await until(FAIL)
    if kind == "kill":
        backend.kill()
        await until(HEAL)
        await backend.restart()
    elif kind == "hang":
        backend.signal(signal.SIGSTOP)
        await until(HEAL)
        backend.signal(signal.SIGCONT)
    elif kind == "500":
        backend.signal(signal.SIGUSR1)
        await until(HEAL)
        backend.signal(signal.SIGUSR2)
    elif kind == "flap":
        moment = FAIL
        while moment + 4 <= HEAL + 2:
            backend.kill()
            await until(moment + 2)
            await backend.restart()
            moment += 4
            await until(min(moment, HEAL))
    backend.healed = time.monotonic() - start


async def run(kind, program, rate, retries):
    after, retry_on = ("connect", "conn-failure")
    if retries:
        after = 'connect, reset, "500"'
        retry_on = "conn-failure empty-response response-timeout 500"
    rows = []
    with tempfile.TemporaryDirectory() as directory:
        backends = [[Backend() for _ in range(3)] for _ in range(2)]
        proxies = []
        try:
            proxies.append(Wardgate(program, backends[0], directory, after))
            proxies[0].wait()
            proxies.append(Haproxy(backends[1], directory, retry_on))
            # HAProxy holds its servers for well; both have had a check by then.
            await asyncio.sleep(2)
            start = time.monotonic()
            seen = [[], []]
            async with asyncio.TaskGroup() as tasks:
                for proxy, group, its in zip(proxies, backends, seen):
                    tasks.create_task(load(proxy.port, rate, start, its))
                    tasks.create_task(fail(kind, group[0], start))
            for proxy, group, its in zip(proxies, backends, seen):
                rows.append(row(kind, retries, proxy.name, group[0], its))
        finally:
            for proxy in proxies:
                proxy.process.kill()
                proxy.process.wait()
            for backend in sum(backends, []):
                backend.kill()
    return rows


def row(kind, retries, name, failed, seen):
    errors = [(began, outcome) for began, _, outcome, _ in seen if outcome != "200"]
    kinds = collections.Counter(outcome for _, outcome in errors)
    shown = ", ".join(f"{count} x {outcome}" for outcome, count in kinds.most_common())
    late = [began for began, _ in errors if began < failed.healed]
    left = f"{max(late) - FAIL:.1f}" if late else "-"
    again = [end for began, end, outcome, port in seen if (outcome, port) == ("200", failed.port) and began > failed.healed]
    returned = f"{min(again) - failed.healed:.1f}" if again else "never"
    what = "connect, reset, 500" if retries else "connect"
    return [kind, what, name, str(len(seen)), str(len(errors)), shown, left, returned]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="target/debug/wardgate")
    parser.add_argument("--rate", type=int, default=300)
    parser.add_argument("--only", default="kill,hang,500,flap")
    parser.add_argument("--retries", default="no,yes", help="no: after connect alone; yes: after reset and 500, too")
    parser.add_argument("--backend", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.backend:
        asyncio.run(serve(arguments.backend))
        return
    program = str(pathlib.Path(arguments.program).resolve())
    table = [["failure", "retried after", "proxy", "requests", "errors", "seen", "left s", "returned s"]]
    table.append(["---"] * len(table[0]))
    for retries in arguments.retries.split(","):
        for kind in arguments.only.split(","):
            table += asyncio.run(run(kind, program, arguments.rate, retries == "yes"))
            print("| " + " | ".join(table[-2]) + " |\n| " + " | ".join(table[-1]) + " |", file=sys.stderr)
    for line in table:
        print("| " + " | ".join(line) + " |")


if __name__ == "__main__":
    main()
