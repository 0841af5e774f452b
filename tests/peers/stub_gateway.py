"""Stands in for the gateway where the tests' own harness is tested: its log, its access lines, its end.

usage: stub_gateway.py run gateway.yaml     (beside it: storage/leaf.pem, storage/leaf.key)
"""

import http.server
import json
import signal
import ssl
import sys
import threading
from pathlib import Path


def log(message, **fields):
    print(json.dumps({"level": "INFO", "message": message, **fields}), file=sys.stderr, flush=True)


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"stub")
        print(json.dumps({"url.path": self.path, "http.response.status_code": 200}), flush=True)

    def log_message(self, *_):
        pass


def listen(context=None):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    if context:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"127.0.0.1:{server.server_port}"


def main(file):
    assert "storage: storage" in Path(file).read_text()
    storage = Path(file).parent / "storage"
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(storage / "leaf.pem", storage / "leaf.key")
    signal.signal(signal.SIGTERM, lambda *_: (log("stopped"), sys.exit(3)))
    log("listening", listener="web", **{"server.address": listen()})
    log("listening", listener="secure", **{"server.address": listen(context)})
    log("admin listening", **{"server.address": listen()})
    log("ready")
    signal.pause()


if __name__ == "__main__":
    main(sys.argv[2])
