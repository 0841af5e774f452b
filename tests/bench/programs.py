"""What the comparisons in this folder start, and how they show what they found."""

import argparse
import asyncio
import collections
import os
import pathlib
import platform
import re
import signal
import socket
import subprocess
import sys
import time

DOCUMENT = pathlib.Path(__file__).resolve().parents[2] / "docs/benchmarks.md"

# nginx as a backend of the files below www.
FILES_BACKEND = """
worker_processes 1; daemon off; pid backend.pid; error_log backend.log;
events {{ worker_connections 4096; }}
http {{
  access_log off; client_body_temp_path b1; proxy_temp_path b2; fastcgi_temp_path b3;
  uwsgi_temp_path b4; scgi_temp_path b5; keepalive_requests 1000000;
  server {{ listen 127.0.0.1:{port}; root www; default_type text/plain; }}
}}
"""


def free_port():
    """A port of loopback that nobody has at the moment."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def start(command, directory, core=None, output=None):
    """Starts a program that ends at the latest with whoever started it, on one `core` where one is
    named. What it says goes to a file, what it prints to the file `output`, if anywhere."""
    said = pathlib.Path(directory, pathlib.Path(command[0]).name + ".err")
    printed = pathlib.Path(directory, output) if output else os.devnull
    if core is not None:
        command = ["taskset", "-c", str(core), *command]
    with said.open("ab") as errors, open(printed, "ab") as prints:
        command = ["setpriv", "--pdeathsig", "TERM", *command]
        process = subprocess.Popen(command, cwd=directory, stdout=prints, stderr=errors)
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


async def bounded(work, most):
    """What `work` returns, an exit status; 1 where that takes more than `most` seconds."""
    try:
        async with asyncio.timeout(most):
            return await work
    except TimeoutError:
        print(f"WRONG: not done within {most:.0f} s")
        return 1


def end(process):
    """Ends a program and all below it, whatever they are doing."""
    for pid in family(process) if process.poll() is None else []:
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    process.wait()


def cpu_seconds(process):
    """CPU time, user and system, of a program's processes so far, with those of theirs that ended."""
    ticks = 0
    for pid in family(process):
        try:
            ticks += sum(map(int, pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()[11:15]))
        except OSError:
            pass  # it has ended, and its parent counts it
    return ticks / os.sysconf("SC_CLK_TCK")


def memory_kib(process):
    """KiB of all its processes, what they share counted once."""
    total = 0
    for pid in family(process):
        try:
            text = pathlib.Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            continue  # it has ended
        total += int(re.search(r"^Pss: +(\d+) kB", text, re.MULTILINE)[1])
    return total


def markdown(head, rows):
    """A table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def machine():
    """The processor and the kernel."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: *(.+)", info, re.MULTILINE)
    return f"{model[1] if model else platform.machine()}, Linux {platform.release()}"


def write(text, name=""):
    """Puts what `./dev bench NAME` found between its marks in the document."""
    begin, end = f"<!-- made by ./dev bench {name + ' ' if name else ''}--write -->\n", "<!-- until here -->\n"
    before, begun, rest = DOCUMENT.read_text().partition(begin)
    _, ended, after = rest.partition(end)
    if not (begun and ended):
        raise SystemExit(f"{DOCUMENT} lacks {begin.strip()}")
    DOCUMENT.write_text(f"{before}{begin}{text.strip()}\n{end}{after}")


def show(text, name, arguments):
    """Prints what a script of this folder found, and writes it where `arguments` say so."""
    print(text)
    if arguments.write:
        write(f"{text}\n\n{time.strftime('%Y-%m-%d')}. {machine()}, two cores.", name)


def main(about, run, proxies, what, times, head):
    """The command line of a script that has each of `proxies` do `what` so many times under load: `run`
    makes a row of each, and all are one table. Without --only it is all of them, in turn."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", default="target/release/wardgate", metavar="WARDGATE")
    parser.add_argument("--only", default=",".join(proxies))
    parser.add_argument(f"--{what}", type=int, default=times, dest="times")
    parser.add_argument("--write", action="store_true")
    arguments = parser.parse_args()
    program = str(pathlib.Path(arguments.program).resolve(strict=True))
    rows = []
    for name in arguments.only.split(","):
        print(name, file=sys.stderr)
        rows.append(asyncio.run(run(proxies[name], program, arguments.times)))
        print("; ".join(rows[-1]), file=sys.stderr)
    show(markdown(head, rows), what.removesuffix("s"), arguments)
