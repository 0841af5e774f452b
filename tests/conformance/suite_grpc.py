"""gRPC's own client and server, with each program between them."""

import json
import subprocess
import sys

import helper

TITLE = "gRPC interop"
ABOUT = """\
The client and the server of grpcio with the program between them, over TLS and over h2c: the four kinds
of calls, metadata in ASCII and binary, empty, large and compressed messages, many calls at once, a
deadline, a cancelled call, of which the backend has to hear, an answer of trailers alone, an error after a
message, and an unknown method. The backend speaks h2c."""


def run(start):
    for over in ("TLS", "h2c"):
        with helper.serving("grpc_peer.py", "server") as server, start(backend=server.address, protocol="h2c") as target:
            yield from judged(over, *((target.tls, target.ca, target.host) if over == "TLS" else (target.h2c,)))
            heard = server.wait(lambda event: event == {"event": "cancelled", "method": "slow_stream"})
            yield f"the backend hears of the cancelled call, over {over}", "pass" if heard else "fail", "not within 5 s"


def judged(over, address, *trusted):
    command = [sys.executable, str(helper.FOLDER / "grpc_peer.py"), "client", "%s:%d" % address, *map(str, trusted)]
    told = subprocess.run(command, capture_output=True, text=True, timeout=110).stdout
    events = [json.loads(line) for line in told.splitlines()]
    cases = [event for event in events if event["event"] == "case"]
    assert events[-1]["event"] == "done" and cases, told
    for case in cases:
        name = case["name"].replace("_", " ")
        yield f"{name}, over {over}", "pass" if case["ok"] else "fail", "" if case["ok"] else case["detail"].split("\n")[0] or "another answer"
