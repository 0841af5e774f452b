"""An HTTP/2 client that does what a scenario says, right or wrong.

usage: h2_client.py SCENARIO    (JSON; or a list of them, each with a connection of its own)

{"address": "127.0.0.1:8443", "tls": {"ca": "ca.pem", "name": "localhost"}, "timeout": 20,
 "stalled": false, "settings": {"4": 0}, "steps": [STEP...]}

Without `tls`: prior-knowledge h2c. `stalled` never gives flow-control credit back. A STEP is one of
  {"request": {"stream": 1, "headers": [[":method", "GET"], ...], "body": "text", "size": 65536,
               "trailers": [[name, value]], "open": true}}   `open`: the stream is left open
  {"data": {"stream": 1, "body": "text", "end": true}}
  {"reset": {"stream": 1, "code": 8}}
  {"drip": {"stream": 1, "bytes": 10, "every": 0.1, "times": 20}}   window for so many bytes, or with
               `"body": true` so many of a body, until the stream is over
  {"raw": "hex", "repeat": 1}           bytes past the library, frames of any kind
  {"rapid": {"from": 1, "count": 1000, "headers": [...]}}      streams opened and reset at once
  {"ping": true}
  {"wait": "head" | "data" | "end", "stream": 1}   or `"wait": "closed"` | "goaway" | "pong",
  or {"wait": "refused", "stream": 3} for as many resets of raw streams
Prints one event: result{alpn, streams{id: {status, headers, informational, body, size, trailers,
ended, reset}}, goaway, closed, pongs, refused, waited}; `refused` counts the resets of raw streams,
`waited` is false when a wait ran into the timeout.
"""

import json
import socket
import ssl
import sys
import time

import h2.config
import h2.connection
import h2.events
import h2.exceptions
import h2.settings

from events import tell


class Client:
    def __init__(self, scenario):
        self.scenario = scenario
        self.deadline = time.monotonic() + scenario.get("timeout", 20)
        self.streams, self.goaway, self.closed, self.pongs, self.waited = {}, None, False, 0, True
        host, _, port = scenario["address"].rpartition(":")
        self.socket = socket.create_connection((host.strip("[]"), int(port)), timeout=20)
        self.alpn, self.unread, self.refused = None, b"", 0
        tls = scenario.get("tls")
        if tls:
            context = ssl.create_default_context(cafile=tls["ca"])
            context.set_alpn_protocols(["h2"])
            self.socket = context.wrap_socket(self.socket, server_hostname=tls["name"])
            self.alpn = self.socket.selected_alpn_protocol()
        # Whatever a scenario sends goes out as it is.
        config = h2.config.H2Configuration(
            client_side=True,
            header_encoding="latin-1",
            validate_outbound_headers=False,
            normalize_outbound_headers=False,
            validate_inbound_headers=True,
        )
        self.h2 = h2.connection.H2Connection(config)
        settings = {int(code): value for code, value in scenario.get("settings", {}).items()}
        self.h2.initiate_connection()
        if settings:
            self.h2.update_settings(settings)
        self.flush()

    def run(self):
        try:
            for step in self.scenario["steps"]:
                self.step(step)
        except (ConnectionError, ssl.SSLError):
            self.drain()
        except h2.exceptions.ProtocolError:
            self.closed = True  # by GOAWAY, or by what the library takes for an error
        self.socket.close()
        tell(
            "result",
            alpn=self.alpn,
            streams={str(number): stream for number, stream in self.streams.items()},
            goaway=self.goaway,
            closed=self.closed,
            pongs=self.pongs,
            refused=self.refused,
            waited=self.waited,
        )

    def step(self, step):
        if "request" in step:
            self.request(step["request"])
        elif "data" in step:
            data = step["data"]
            self.send_body(data["stream"], data.get("body", "").encode("latin-1"), data.get("end", False))
        elif "reset" in step:
            self.h2.reset_stream(step["reset"]["stream"], step["reset"].get("code", 8))
        elif "drip" in step:
            self.drip(**step["drip"])
        elif "raw" in step:
            self.flush()
            self.socket.sendall(bytes.fromhex(step["raw"]) * step.get("repeat", 1))
        elif "rapid" in step:
            self.rapid(step["rapid"])
        elif "ping" in step:
            self.h2.ping(b"wardgate")
        elif "pause" in step:
            time.sleep(step["pause"])
        elif "wait" in step:
            self.wait(step["wait"], step.get("stream"))
        else:
            raise ValueError(f"no such step: {step}")
        self.flush()

    def drip(self, stream, every, times, body=False, **rest):
        for _ in range(times):
            if body:
                self.send_body(stream, b"x" * rest["bytes"], end=False)
            else:
                self.h2.increment_flow_control_window(rest["bytes"], stream)
            self.flush()
            end, timeout = time.monotonic() + every, self.deadline
            self.deadline = min(end, timeout)
            while self.pump():
                pass
            self.deadline = timeout
            if self.is_over(stream):
                return

    def rapid(self, rapid):
        headers = [tuple(header) for header in rapid["headers"]]
        for stream in range(rapid["from"], rapid["from"] + 2 * rapid["count"], 2):
            self.h2.send_headers(stream, headers, end_stream=True)
            self.h2.reset_stream(stream, 8)
            self.flush()

    def request(self, request):
        stream = request["stream"]
        body = request.get("body", "").encode("latin-1") or b"x" * request.get("size", 0)
        trailers, is_open = request.get("trailers"), request.get("open", False)
        self.stream(stream)
        headers = [tuple(header) for header in request["headers"]]
        self.h2.send_headers(stream, headers, end_stream=not body and not trailers and not is_open)
        if body:
            self.send_body(stream, body, end=not trailers and not is_open)
        if trailers:
            self.h2.send_headers(stream, [tuple(header) for header in trailers], end_stream=True)

    def send_body(self, stream, body, end):
        body = memoryview(body)  # what is left of a large one is no copy
        while body:
            room = min(self.h2.local_flow_control_window(stream), self.h2.max_outbound_frame_size)
            if room == 0:
                if not self.pump() or self.stream(stream)["reset"] is not None:
                    return
                continue
            part, body = body[:room], body[room:]
            self.h2.send_data(stream, bytes(part), end_stream=end and not body)
            self.flush()

    def wait(self, what, stream):
        reached = {
            "head": lambda: self.stream(stream)["status"] or self.is_over(stream),
            "data": lambda: self.stream(stream)["size"] or self.is_over(stream),
            "end": lambda: self.is_over(stream),
            "closed": lambda: self.closed,
            "refused": lambda: self.refused >= stream or self.closed,
            "goaway": lambda: self.goaway is not None or self.closed,
            "pong": lambda: self.pongs or self.closed,
        }[what]
        self.flush()
        while not reached():
            if not self.pump():
                self.waited = self.waited and bool(reached())
                return

    def is_over(self, stream):
        found = self.stream(stream)
        return found["ended"] or found["reset"] is not None or self.closed

    def pump(self):
        """Takes in what the peer sends next; false at the end of the connection or of the time."""
        left = self.deadline - time.monotonic()
        if left <= 0 or self.closed:
            return False
        self.socket.settimeout(left)
        try:
            got = self.socket.recv(65536)
        except TimeoutError:
            return False
        except (ConnectionError, ssl.SSLError):
            got = b""
        if not got:
            self.closed = True
            return False
        self.unread += got
        for frame in self.frames():
            for event in self.h2.receive_data(frame):
                self.take(event)
        try:
            self.flush()
        except (ConnectionError, ssl.SSLError):
            self.closed = True
        return True

    def frames(self):
        """The whole frames so far. Kept from the library: GOAWAY, which would end its work, and
        what belongs to streams that it did not open."""
        while len(self.unread) >= 9 and len(self.unread) >= 9 + int.from_bytes(self.unread[:3], "big"):
            end = 9 + int.from_bytes(self.unread[:3], "big")
            frame, self.unread = self.unread[:end], self.unread[end:]
            stream = int.from_bytes(frame[5:9], "big")
            if frame[3] == 7:
                self.goaway = int.from_bytes(frame[13:17], "big")
            elif stream and stream not in self.streams:
                self.refused += frame[3] == 3
            else:
                yield frame

    def drain(self):
        """What the peer still said before it closed on us."""
        while self.pump():
            pass
        self.closed = True

    def take(self, event):
        stream = self.stream(event.stream_id) if getattr(event, "stream_id", None) else None
        if isinstance(event, h2.events.InformationalResponseReceived):
            stream["informational"].append(int(dict(event.headers)[":status"]))
        elif isinstance(event, h2.events.ResponseReceived):
            stream["status"] = int(dict(event.headers)[":status"])
            stream["headers"] = [list(header) for header in event.headers]
        elif isinstance(event, h2.events.DataReceived):
            stream["size"] += len(event.data)
            if len(stream["body"]) < 65536:
                stream["body"] += event.data.decode("latin-1")
            if not self.scenario.get("stalled"):
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            stream["trailers"] = [list(header) for header in event.headers]
        elif isinstance(event, h2.events.StreamEnded):
            stream["ended"] = True
        elif isinstance(event, h2.events.StreamReset):
            stream["reset"] = int(event.error_code)
        elif isinstance(event, h2.events.PingAckReceived):
            self.pongs += 1

    def stream(self, number):
        empty = {"status": None, "headers": [], "informational": [], "body": "", "size": 0}
        return self.streams.setdefault(number, empty | {"trailers": None, "ended": False, "reset": None})

    def flush(self):
        self.socket.sendall(self.h2.data_to_send())


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    for scenario in given if isinstance(given, list) else [given]:
        Client(scenario).run()
