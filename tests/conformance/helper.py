"""The servers of tests/peers, and TLS for tools that have none, for the suites."""

import asyncio
import contextlib
import json
import ssl
import subprocess
import sys
import tempfile
import threading
import time

import peers

FOLDER = peers.ROOT / "tests" / "peers"


class Server:
    """One that runs: where it is, and what it tells."""

    def __init__(self, process, told):
        self.process, self.told = process, told
        self.address = "127.0.0.1", self.wait(lambda event: event["event"] == "listening", 15)["port"]

    def events(self):
        self.told.seek(0)
        return [json.loads(line) for line in self.told if line.endswith("\n")]

    def wait(self, wanted, seconds=5):
        """The first event, past or future, that `wanted` accepts; None if there is none in time."""
        end = time.monotonic() + seconds
        while self.process.poll() is None and time.monotonic() < end:
            for event in self.events():
                if wanted(event):
                    return event
            time.sleep(0.02)
        return None


@contextlib.contextmanager
def serving(script, *arguments):
    """A context with the Server that tests/peers/SCRIPT is; it ends with the context."""
    # Two descriptions of one file: reading must not move the place where the server writes.
    with tempfile.NamedTemporaryFile("ab") as writing, open(writing.name, encoding="utf-8") as reading:
        command = [sys.executable, str(FOLDER / script), *map(str, arguments)]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=writing)
        try:
            yield Server(process, reading)
        finally:
            process.kill()
            process.wait()


@contextlib.contextmanager
def without_tls(target):
    """A context with an address of plain TCP; what goes through it goes to the program's TLS port."""
    context = ssl.create_default_context(cafile=target.ca)
    context.set_alpn_protocols(["http/1.1"])
    loop = asyncio.new_event_loop()

    async def carry(reader, writer):
        with contextlib.suppress(OSError):
            while got := await reader.read(1 << 18):
                writer.write(got)
                await writer.drain()
        writer.close()

    async def bridge(reader, writer):
        there = await asyncio.open_connection(*target.tls, ssl=context, server_hostname=target.host)
        await asyncio.gather(carry(reader, there[1]), carry(there[0], writer))

    async def end():
        server.close()
        while others := asyncio.all_tasks() - {asyncio.current_task()}:
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

    server = loop.run_until_complete(asyncio.start_server(bridge, "127.0.0.1", 0))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield server.sockets[0].getsockname()
    finally:
        asyncio.run_coroutine_threadsafe(end(), loop).result(10)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
