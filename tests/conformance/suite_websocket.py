"""The cases of Autobahn against an echo server, and against it behind each program."""

import json
import pathlib
import subprocess
import sys
import tempfile

import helper

TITLE = "WebSocket"
ABOUT = """\
Autobahn's cases, as kosoku has them, without those about compression, which is a matter between the two
ends: 301, with messages of up to 16 MiB. They are put to an echo server (Python's websockets) alone, and
then to it behind the program, over plain HTTP/1.1 and over TLS; a case fails when it ends worse than
with the server alone. What that one fails by itself counts for nobody."""

# From the best: what a case may end with, for the conversation and for its closing.
RANKS = ("OK", "NON-STRICT", "INFORMATIONAL", "UNIMPLEMENTED", "UNCLEAN", "WRONG CODE", "FAILED BY CLIENT", "FAILED")
ALONE = {}


def run(start):
    with helper.serving("ws_echo.py") as server:
        direct = alone("ws://%s:%d" % server.address)
        with start(backend=server.address, websocket=True) as target:
            yield from compared("HTTP", direct, judged("ws://%s:%d" % target.http))
            with helper.without_tls(target) as address:  # kosoku has no TLS
                yield from compared("TLS", direct, judged("ws://%s:%d" % address))


def alone(url):
    """The server's own results, the worse of two turns, since timing decides some; asked for once."""
    if not ALONE:
        first, second = judged(url), judged(url)
        assert len(first) > 290, first
        ALONE.update({case: tuple(map(max, first[case], second[case])) for case in first})
    return ALONE


def judged(url):
    """Every case with how it ended: ranks of the conversation and of the closing."""
    with tempfile.TemporaryDirectory() as folder:
        command = [pathlib.Path(sys.executable).with_name("kosoku"), "-p", "4", "-x", "12.*", "-x", "13.*", "-o", folder, url]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=110)
        report = pathlib.Path(folder, "index.json")
        assert report.exists(), done.stderr[-2000:]
        (results,) = json.loads(report.read_text()).values()
    return {case: (rank(result["behavior"]), rank(result["behaviorClose"])) for case, result in results.items()}


def rank(word):
    return RANKS.index(word) if word in RANKS else len(RANKS)


def compared(over, direct, through):
    for case, best in direct.items():
        name = f"case {case}, over {over}"
        if best[0] >= RANKS.index("WRONG CODE"):
            yield name, "none", "the server alone fails it"
            continue
        got = through.get(case, (len(RANKS), len(RANKS)))
        is_worse = got[0] > best[0] or got[1] > best[1]
        words = [(*RANKS, "not run")[index] for index in (*got, *best)]
        yield name, "fail" if is_worse else "pass", f"{words[0]}, closed {words[1]}; alone {words[2]}, {words[3]}"
