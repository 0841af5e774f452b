#!/usr/bin/env python3
"""Upgrades in place under load: wardgate beside HAProxy and nginx, each alone and in turn.

usage: ./dev bench upgrade [WARDGATE] [--only wardgate,haproxy,nginx] [--upgrades 20] [--write]

WARDGATE is target/release/wardgate unless given. Needs what reload.py needs, takes about a minute for
each proxy, prints one table (with --write into docs/benchmarks.md as well), and ends by itself. Everything is on loopback; only
what was started here is ended.

The load is that of reload.py, over TLS: requests on four HTTP/1.1 connections that are kept, on
connections of their own, and on one HTTP/2 connection, and a message a second on each of eight
WebSockets. Each upgrade starts the same program again in the place of the running one, with the next
configuration, and is asked for as operators do it: `wardgate upgrade`, SIGUSR2 to HAProxy's master
(`-W`), which starts itself over, and SIGUSR2 to nginx's, followed by SIGQUIT to the old master once
the new one serves.

upgrades      how many came up
took          seconds from asking until a new connection is answered by the new process, median and
              longest. wardgate has the new one serve for a second before the old one makes way
failed        requests without their whole answer, and what became of them, as in reload.py: "cut" is a
              connection that was closed instead
sockets cut   WebSockets that did not last; the old process goes on with them. nginx has none here, since it
              takes no other upgrade before the process before has ended
kept, h2, new ms of the requests, median and 99th percentile, without upgrades and during them
processes     when all is over but the WebSockets
"""

import asyncio
import os
import pathlib
import shutil
import signal
import statistics
import sys
import tempfile
import time

import programs
import reload as bench  # which turns to the tests' Python if this one lacks what it needs

# One upgrade may take, all of them, and one proxy altogether.
MOST_UPGRADE, MOST_UPGRADES, MOST = 15.0, 90.0, 150.0


def living(directory):
    """The processes that work in `directory`: those that have taken over are nobody's children."""
    found = []
    for link in pathlib.Path("/proc").glob("[0-9]*/cwd"):
        try:
            if os.readlink(link) == os.path.realpath(directory):
                found.append(int(link.parent.name))
        except OSError:
            continue  # it has ended
    return sorted(found)


class Wardgate(bench.Wardgate):
    open_sockets = bench.SOCKETS
    template = bench.WARDGATE.replace("admin: off", "admin: {{ bind: 127.0.0.1:0 }}\nshutdown: {{ grace: 10m }}")

    async def upgrade(self):
        words = [self.program, "upgrade", self.file]
        asked = await asyncio.create_subprocess_exec(*words, cwd=self.directory, stdout=asyncio.subprocess.DEVNULL)
        if await asked.wait():
            raise RuntimeError("wardgate upgrade has failed")


class Haproxy(bench.Haproxy):
    open_sockets = bench.SOCKETS

    async def upgrade(self):
        self.process.send_signal(signal.SIGUSR2)


class Nginx(bench.Nginx):
    open_sockets = 0
    # In the foreground it takes its parent for an older nginx, and ignores the signal; and it starts what
    # it was called by, which has to be a whole path.
    template = bench.NGINX.replace("daemon off", "daemon on")

    def command(self):
        return ["sh", "-c", f"{shutil.which('nginx')} -p {self.directory} -c {self.directory / self.file} && exec sleep 600"]

    async def upgrade(self):
        file = self.directory / "nginx.pid"
        old = int(file.read_text())
        os.kill(old, signal.SIGUSR2)
        while not (file.exists() and file.read_text().strip() not in ("", str(old))):
            await asyncio.sleep(0.005)
        # The manual leaves to the operator when the new workers serve.
        await asyncio.sleep(0.5)
        os.kill(old, signal.SIGQUIT)
        while old in living(self.directory):
            await asyncio.sleep(0.01)


PROXIES = {proxy.name: proxy for proxy in (Wardgate, Haproxy, Nginx)}


async def upgrade(proxy, number):
    """Starts the next process with configuration `number`, and waits until that is what answers."""
    proxy.configure(number)
    async with asyncio.timeout(MOST_UPGRADE):
        await proxy.upgrade()
        while True:
            try:
                connection = await bench.Http1.open(proxy.port)
            except OSError:
                await asyncio.sleep(0.01)
                continue
            try:
                await connection.ask("/reloads", keep=False)
                if connection.body == str(number).encode():
                    break
            except (OSError, EOFError, bench.Closed):
                pass
            finally:
                connection.close()
            await asyncio.sleep(0.01)


async def measure(proxy, seen, upgrades):
    """Load without and with upgrades: how long they took."""
    is_over, took = asyncio.Event(), []
    uses = [bench.use_kept] * bench.KEPT + [bench.use_new, bench.use_http2] + [bench.use_socket] * proxy.open_sockets
    async with asyncio.timeout(MOST), asyncio.TaskGroup() as tasks:
        for use in uses:
            tasks.create_task(use(proxy.port, seen, is_over))
        await asyncio.sleep(bench.QUIET)
        seen.phase = "reloads"
        end = time.monotonic() + MOST_UPGRADES
        for number in range(1, upgrades + 1):
            began = time.monotonic()
            if began > end:
                break
            try:
                await upgrade(proxy, number)
                took.append(time.monotonic() - began)
            except (TimeoutError, RuntimeError) as error:
                print(f"upgrade {number}: {error!r}", file=sys.stderr)
            await asyncio.sleep(bench.GAP)
        await asyncio.sleep(1)
        processes = len([pid for pid in living(proxy.directory) if pid != proxy.process.pid or proxy.name == "haproxy"])
        is_over.set()
    return took, processes


async def run(kind, program, upgrades):
    """One proxy: its row of the table."""
    kind.program, started = program, []
    with tempfile.TemporaryDirectory() as directory, tempfile.TemporaryDirectory() as elsewhere:
        bench.make_certificates(directory)
        try:
            server = await asyncio.start_server(bench.echo, "127.0.0.1", 0)
            backend, ports = bench.start_backend(elsewhere)
            started.append(backend)
            proxy = kind(directory, ports, server.sockets[0].getsockname()[1])
            started.append(proxy.process)
            seen = bench.Seen()
            took, processes = await measure(proxy, seen, upgrades)
        finally:
            for pid in living(directory):
                os.kill(pid, signal.SIGKILL)
            for process in started:
                programs.end(process)
    shown = ", ".join(f"{count} × {what}" for what, count in seen.failures.most_common())
    return [
        kind.name,
        f"{len(took)} of {upgrades}",
        f"{statistics.median(took or [0]):.2f} / {max(took or [0]):.2f}",
        f"{sum(seen.failures.values())} of {seen.asked}" + (f": {shown}" if shown else ""),
        f"{seen.cut}" if kind.open_sockets else "none",
        seen.times("kept"),
        seen.times("h2"),
        seen.times("new"),
        f"{processes}",
    ]


HEAD = ["proxy", "upgrades", "took s", "failed", "sockets cut", "kept ms", "h2 ms", "new ms", "processes"]


if __name__ == "__main__":
    programs.main(__doc__, run, PROXIES, "upgrades", 20, HEAD)
