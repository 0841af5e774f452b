"""The servers of tests/peers, for the suites."""

import contextlib
import json
import subprocess
import sys
import tempfile
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
