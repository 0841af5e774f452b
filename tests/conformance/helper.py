"""The servers of tests/peers, for the suites."""

import contextlib
import json
import subprocess
import sys
import tempfile
import time

import peers

FOLDER = peers.ROOT / "tests" / "peers"


@contextlib.contextmanager
def serving(script, *arguments):
    """A context with the address of tests/peers/SCRIPT, which ends with it."""
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(
            [sys.executable, str(FOLDER / script), *map(str, arguments)], stdin=subprocess.PIPE, stdout=told
        )
        try:
            yield "127.0.0.1", _port(process, told)
        finally:
            process.kill()
            process.wait()


def _port(process, told, seconds=15):
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        told.seek(0)
        line = told.readline()
        if line.endswith("\n"):
            return json.loads(line)["port"]
        time.sleep(0.02)
    raise RuntimeError(f"{process.args} does not listen")


