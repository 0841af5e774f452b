"""What the comparisons in this folder start, and how they show what they found."""

import collections
import os
import pathlib
import signal
import socket
import subprocess
import time


def free_port():
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(command, directory):
    """Starts a program that ends at the latest with whoever started it. What it says goes to a file."""
    said = pathlib.Path(directory, pathlib.Path(command[0]).name + ".err")
    with said.open("ab") as errors:
        command = ["setpriv", "--pdeathsig", "TERM", *command]
        process = subprocess.Popen(command, cwd=directory, stdout=subprocess.DEVNULL, stderr=errors)
    process.said = said
    return process


def wait_for(process, port, seconds=15):
    """Waits until `process` listens on `port`."""
    end = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"{process.args} does not serve:\n{process.said.read_text()}")


def family(process):
    """The ids of a program's process and of all below it."""
    children = collections.defaultdict(list)
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = stat.read_text().rsplit(") ", 1)[1].split()[:2]
        except OSError:
            continue  # it has ended
        if state != "Z":
            children[int(parent)].append(int(stat.parent.name))
    found = [process.pid]
    for pid in found:
        found += children[pid]
    return found


def end(process):
    """Ends a program and all below it, whatever they are doing."""
    for pid in family(process) if process.poll() is None else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def markdown(head, rows):
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
