"""What the comparisons in this folder start, and how they show what they found."""

import pathlib
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
        command = ["setpriv", "--pdeathsig", "KILL", *command]
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


def end(process):
    """Ends a program, whatever it is doing."""
    process.kill()
    process.wait()


def markdown(head, rows):
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
