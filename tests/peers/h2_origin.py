"""An HTTP/2 origin: h2c with prior knowledge, or TLS.

usage: h2_origin.py [CERTIFICATE KEY [both]]

With `both` it speaks HTTP/1.1 as well, where every answer is `http/1.1`.

The request's path says what happens:
  /echo     200, the request's body as it comes, its trailers and `x-origin: end` behind it
  /late     the same, but there is no room for more of a body until a second after each piece
  /headers  200, the request's header fields as JSON
  /reset    200, four bytes, then RST_STREAM (INTERNAL_ERROR)
  /goaway   GOAWAY and the end of the connection
  /hang     nothing
  /deaf     nothing, and nothing of the body is taken
  /big      200, a MiB
  /bits     200, 16 MiB in frames of 4 KiB
  /sent     200, how many bytes of those have been sent on this connection, and how many of them wait
            for room on their stream, as JSON
  /take     200 with the size of the body once all of it is there
  /gap      200, four bytes, and nothing more
  /bare     403 at once, a head and nothing more; the body is taken
  /told     200 at once, a byte and trailers; the body is taken
  /early    401 at once; nothing of the body is taken
  /early-reset   the same, then RST_STREAM (NO_ERROR)
  /rst      RST_STREAM (INTERNAL_ERROR) instead of an answer
  /drain    GOAWAY that leaves the request out, and from the second time on as /take
  /nap      nothing, and from the second time on as /take
  /refuse   RST_STREAM (REFUSED_STREAM), and from the second time on as /take
  /spoken   200, `h2`
  /http1    RST_STREAM (HTTP_1_1_REQUIRED)
  /broken   a frame that there is not, after which nothing on the connection is believed
  /retire   as /spoken, and the end of the connection; later ones are HTTP/1.1
Small answers are sent whatever the windows: with none left for the connection it ends.
Events: listening{port}, accepted{connection}, request{connection, stream, headers},
reset{connection, stream, code}, closed{connection}.
"""

import asyncio
import json
import ssl
import sys

import h2.config
import h2.connection
import h2.errors
import h2.events
import h2.exceptions

from events import end_with_parent, tell

BIG = b"x" * (1 << 20)
BITS = memoryview(BIG * 16)  # parts of it are no copies


class Origin(asyncio.Protocol):
    count = 0
    turned_away = set()
    context = None

    def connection_made(self, transport):
        Origin.count += 1
        self.number, self.transport = Origin.count, transport
        self.paths, self.unsent, self.trailers, self.taken, self.sent = {}, {}, {}, {}, 0
        tls = transport.get_extra_info("ssl_object")
        self.head = b"" if tls and tls.selected_alpn_protocol() != "h2" else None
        if self.head is not None:
            tell("accepted", connection=self.number)
            return
        self.h2 = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False, header_encoding="latin-1"))
        self.h2.initiate_connection()
        self.flush()
        tell("accepted", connection=self.number)

    def connection_lost(self, _):
        tell("closed", connection=self.number)

    def data_received(self, data):
        if self.head is not None:
            self.head += data
            if self.head.endswith(b"\r\n\r\n"):
                self.head = b""
                self.transport.write(b"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nhttp/1.1")
            return
        try:
            for event in self.h2.receive_data(data):
                self.take(event)
        except h2.exceptions.ProtocolError as error:
            tell("protocol_error", connection=self.number, error=str(error))
            self.flush()
            self.transport.close()
            return
        self.flush()

    def take(self, event):
        if isinstance(event, h2.events.RequestReceived):
            self.request(event.stream_id, event.headers)
        elif isinstance(event, h2.events.DataReceived):
            if event.stream_id in self.taken:
                self.taken[event.stream_id] += len(event.data)
            if self.paths.get(event.stream_id, "").startswith(("/early", "/deaf")):
                pass
            elif self.paths.get(event.stream_id) == "/late":
                later = asyncio.get_running_loop().call_later
                later(1, self.acknowledge, event.flow_controlled_length, event.stream_id)
            else:
                self.acknowledge(event.flow_controlled_length, event.stream_id)
            if event.stream_id in self.unsent:
                self.unsent[event.stream_id] += event.data
                self.send(event.stream_id)
        elif isinstance(event, h2.events.TrailersReceived):
            self.trailers[event.stream_id] = list(event.headers)
        elif isinstance(event, h2.events.StreamEnded) and event.stream_id in self.taken:
            self.h2.send_headers(event.stream_id, [(":status", "200")])
            self.h2.send_data(event.stream_id, str(self.taken.pop(event.stream_id)).encode(), end_stream=True)
        elif isinstance(event, h2.events.StreamEnded):
            if event.stream_id in self.unsent:
                self.trailers.setdefault(event.stream_id, [])
                self.trailers[event.stream_id].append(("x-origin", "end"))
                self.send(event.stream_id)
        elif isinstance(event, h2.events.StreamReset):
            self.unsent.pop(event.stream_id, None)
            tell("reset", connection=self.number, stream=event.stream_id, code=int(event.error_code))
        elif isinstance(event, (h2.events.WindowUpdated, h2.events.RemoteSettingsChanged)):
            for stream in list(self.unsent):
                self.send(stream)

    def acknowledge(self, size, stream):
        self.h2.acknowledge_received_data(size, stream)
        self.flush()

    def request(self, stream, headers):
        tell("request", connection=self.number, stream=stream, headers=[list(header) for header in headers])
        path = dict(headers).get(":path", "").split("?")[0]
        self.paths[stream] = path
        if path == "/headers":
            body = json.dumps([list(header) for header in headers]).encode()
            fields = [(":status", "200"), ("content-type", "application/json"), ("content-length", str(len(body)))]
            self.h2.send_headers(stream, fields)
            self.h2.send_data(stream, body, end_stream=True)
        elif path == "/sent":
            waiting = [other for other in self.unsent if self.h2.local_flow_control_window(other) == 0]
            body = json.dumps({"sent": self.sent, "waiting": len(waiting)}).encode()
            self.answer(stream, body)
        elif path in ("/big", "/bits"):
            self.answer(stream, BIG if path == "/big" else BITS)
        elif path == "/reset":
            self.h2.send_headers(stream, [(":status", "200")])
            self.h2.send_data(stream, b"four")
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif path == "/gap":
            self.h2.send_headers(stream, [(":status", "200")])
            self.h2.send_data(stream, b"four")
        elif path == "/bare":
            self.h2.send_headers(stream, [(":status", "403")], end_stream=True)
        elif path == "/told":
            self.h2.send_headers(stream, [(":status", "200")])
            self.h2.send_data(stream, b"x")
            self.h2.send_headers(stream, [("x-origin", "end")], end_stream=True)
        elif path in ("/early", "/early-reset"):
            self.h2.send_headers(stream, [(":status", "401"), ("content-length", "2")])
            self.h2.send_data(stream, b"no", end_stream=True)
            if path == "/early-reset":
                self.h2.reset_stream(stream, h2.errors.ErrorCodes.NO_ERROR)
        elif path == "/rst":
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.INTERNAL_ERROR)
        elif path in ("/drain", "/refuse", "/nap") and path not in Origin.turned_away:
            Origin.turned_away.add(path)
            if path == "/drain":
                self.h2.close_connection(last_stream_id=0)
            elif path == "/refuse":
                self.h2.reset_stream(stream, h2.errors.ErrorCodes.REFUSED_STREAM)
        elif path in ("/take", "/drain", "/refuse", "/nap"):
            self.taken[stream] = 0
        elif path == "/spoken":
            self.answer(stream, b"h2")
        elif path == "/http1":
            self.h2.reset_stream(stream, h2.errors.ErrorCodes.HTTP_1_1_REQUIRED)
        elif path == "/broken":
            self.transport.write(bytes(9))  # DATA on no stream
        elif path == "/retire":
            Origin.context.set_alpn_protocols(["http/1.0"])
            self.answer(stream, b"h2")
            self.h2.close_connection(last_stream_id=stream)
        elif path == "/goaway":
            self.h2.close_connection()
            self.flush()
            self.transport.close()
        elif path not in ("/hang", "/deaf"):
            self.h2.send_headers(stream, [(":status", "200"), ("content-type", "application/octet-stream")])
            self.unsent[stream] = b""

    def answer(self, stream, body):
        """As far as the windows allow, and the rest when they do."""
        self.h2.send_headers(stream, [(":status", "200"), ("content-length", str(len(body)))])
        self.unsent[stream], self.trailers[stream] = body, [("x-origin", "end")]
        self.send(stream)

    def send(self, stream):
        """As much of the echo as the windows allow, and the trailers once all of it is out."""
        unsent = self.unsent[stream]
        most = 4096 if self.paths[stream] == "/bits" else self.h2.max_outbound_frame_size
        while unsent:
            room = min(self.h2.local_flow_control_window(stream), most, len(unsent))
            if room == 0:
                break
            self.h2.send_data(stream, bytes(unsent[:room]))
            self.sent += room if self.paths[stream] == "/big" else 0
            unsent = unsent[room:]
        self.unsent[stream] = unsent
        trailers = self.trailers.get(stream, [])
        if not unsent and ("x-origin", "end") in trailers:
            self.h2.send_headers(stream, trailers, end_stream=True)
            del self.unsent[stream], self.trailers[stream]

    def flush(self):
        self.transport.write(self.h2.data_to_send())


async def main(arguments):
    context = None
    if arguments:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(arguments[0], arguments[1])
        context.set_alpn_protocols(["h2", "http/1.1"] if arguments[2:] == ["both"] else ["h2"])
        Origin.context = context
    server = await asyncio.get_running_loop().create_server(Origin, "127.0.0.1", 0, ssl=context)
    tell("listening", port=server.sockets[0].getsockname()[1])
    await asyncio.get_running_loop().run_in_executor(None, end_with_parent)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:]))
