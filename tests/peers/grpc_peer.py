"""A gRPC server and the client that judges what stands between them. Messages are plain bytes.

usage: grpc_peer.py server [CERTIFICATE KEY]
       grpc_peer.py client ADDRESS [CA NAME]

The client runs every case and prints one event for each: case{name, ok, detail}; then done{passed,
failed}. The server's events: listening{port}, cancelled{method}.
"""

import sys
import threading
import time
from concurrent import futures

import grpc

from events import end_with_parent, tell

SERVICE = "wardgate.test.Echo"
BIG = b"x" * (3 << 20)


def unary(request, context):
    metadata = dict(context.invocation_metadata())
    context.send_initial_metadata((("x-initial", metadata.get("x-sent", "")),))
    context.set_trailing_metadata((("x-trailing", "end"), ("x-trailing-bin", b"\x00\xff")))
    return request


def server_stream(request, _):
    for number in range(5):
        yield request + str(number).encode()


def client_stream(requests, _):
    return b"".join(requests)


def bidi(requests, _):
    yield from requests


def slow(request, context):
    over = threading.Event()
    context.add_callback(over.set)
    over.wait(20)
    tell("cancelled", method="slow")
    return request


def slow_stream(request, context):
    over = threading.Event()
    context.add_callback(lambda: (tell("cancelled", method="slow_stream"), over.set()))
    yield request
    over.wait(20)


def refuse(_, context):
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % sure")


def refuse_later(request, context):
    yield request
    context.abort(grpc.StatusCode.DATA_LOSS, "half way")


def handlers():
    return {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "ServerStream": grpc.unary_stream_rpc_method_handler(server_stream),
        "ClientStream": grpc.stream_unary_rpc_method_handler(client_stream),
        "Bidi": grpc.stream_stream_rpc_method_handler(bidi),
        "Slow": grpc.unary_unary_rpc_method_handler(slow),
        "SlowStream": grpc.unary_stream_rpc_method_handler(slow_stream),
        "Refuse": grpc.unary_unary_rpc_method_handler(refuse),
        "RefuseLater": grpc.unary_stream_rpc_method_handler(refuse_later),
    }


def serve(arguments):
    server = grpc.server(futures.ThreadPoolExecutor(16), options=[("grpc.max_receive_message_length", -1)])
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers()),))
    if arguments:
        certificate, key = (open(path, "rb").read() for path in arguments)
        port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([(key, certificate)]))
    else:
        port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    tell("listening", port=port)
    end_with_parent()
    server.stop(0)


class Judge:
    """One method per case; its name is the case's."""

    def __init__(self, channel):
        self.channel = channel

    def method(self, kind, name):
        return getattr(self.channel, kind)(f"/{SERVICE}/{name}")

    def unary(self):
        call = self.method("unary_unary", "Unary")
        return call(b"hello", timeout=20) == b"hello"

    def metadata(self):
        call = self.method("unary_unary", "Unary")
        _, done = call.with_call(b"", metadata=(("x-sent", "1, 2"),), timeout=20)
        initial, trailing = dict(done.initial_metadata()), dict(done.trailing_metadata())
        return initial["x-initial"] == "1, 2" and trailing["x-trailing"] == "end" and trailing["x-trailing-bin"] == b"\x00\xff"

    def empty_message(self):
        return self.method("unary_unary", "Unary")(b"", timeout=20) == b""

    def big_message(self):
        return self.method("unary_unary", "Unary")(BIG, timeout=20) == BIG

    def compressed(self):
        call = self.method("unary_unary", "Unary")
        return call(BIG, compression=grpc.Compression.Gzip, timeout=20) == BIG

    def server_stream(self):
        answers = list(self.method("unary_stream", "ServerStream")(b"n", timeout=20))
        return answers == [b"n0", b"n1", b"n2", b"n3", b"n4"]

    def client_stream(self):
        return self.method("stream_unary", "ClientStream")(iter([b"a", b"b", b"c"]), timeout=20) == b"abc"

    def bidi(self):
        """Each answer is awaited before the next message goes out: nothing in between may buffer."""
        may_send, messages = threading.Semaphore(1), [b"one", b"two", b"three"]

        def paced():
            for message in messages:
                may_send.acquire()
                yield message

        answers = []
        for answer in self.method("stream_stream", "Bidi")(paced(), timeout=20):
            answers.append(answer)
            may_send.release()
        return answers == messages

    def many_at_once(self):
        call = self.method("unary_unary", "Unary")
        calls = [call.future(str(number).encode(), timeout=20) for number in range(50)]
        return [future.result() for future in calls] == [str(number).encode() for number in range(50)]

    def deadline(self):
        began = time.monotonic()
        status = self.status(lambda: self.method("unary_unary", "Slow")(b"", timeout=0.5))
        return status[0] == grpc.StatusCode.DEADLINE_EXCEEDED and time.monotonic() - began < 5

    def cancel(self):
        call = self.method("unary_stream", "SlowStream")(b"first", timeout=20)
        first = next(call)
        call.cancel()
        return first == b"first" and self.status(lambda: next(call))[0] == grpc.StatusCode.CANCELLED

    def trailers_only(self):
        status = self.status(lambda: self.method("unary_unary", "Refuse")(b"", timeout=20))
        return status == (grpc.StatusCode.FAILED_PRECONDITION, "not today: 100 % sure")

    def error_after_a_message(self):
        call = self.method("unary_stream", "RefuseLater")(b"half", timeout=20)
        return next(call) == b"half" and self.status(lambda: next(call)) == (grpc.StatusCode.DATA_LOSS, "half way")

    def unknown_method(self):
        return self.status(lambda: self.method("unary_unary", "Nothing")(b"", timeout=20))[0] == grpc.StatusCode.UNIMPLEMENTED

    @staticmethod
    def status(call):
        try:
            call()
        except grpc.RpcError as error:
            return error.code(), error.details()
        return None, None


CASES = [
    "unary", "metadata", "empty_message", "big_message", "compressed", "server_stream", "client_stream", "bidi", "many_at_once",
    "deadline", "cancel", "trailers_only", "error_after_a_message", "unknown_method",
]  # fmt: skip


def judge(address, ca=None, name=None):
    options = [("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    if ca:
        options.append(("grpc.ssl_target_name_override", name))
        channel = grpc.secure_channel(address, grpc.ssl_channel_credentials(open(ca, "rb").read()), options)
    else:
        channel = grpc.insecure_channel(address, options)
    passed = 0
    for case in CASES:
        detail = ""
        try:
            ok = bool(getattr(Judge(channel), case)())
        except Exception as error:  # whatever it was, the test wants to see it
            ok, detail = False, f"{type(error).__name__}: {error}"
        passed += ok
        tell("case", name=case, ok=ok, detail=detail)
    channel.close()
    tell("done", passed=passed, failed=len(CASES) - passed)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(sys.argv[2:])
    else:
        judge(*sys.argv[2:])
