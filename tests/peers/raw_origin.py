"""A scripted HTTP/1.1 origin that records every byte.

The request's path names the script (SCRIPTS below), or spells it: `/hex/<bytes>/<end>`, with an end
of keep, close, reset or hang. Scripts answer when the request is complete; those named `early…` as
soon as its head is there. Events: listening{port}, accepted{connection}, received{connection, hex},
request{connection, number, line, head, body}, closed{connection, by}.
"""

import asyncio
import re
import socket
import struct
import sys

from events import end_with_parent, tell

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
POISON = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\nX-Poison: 1\r\n\r\npoison"

# What is sent, and what becomes of the connection afterwards.
SCRIPTS = {
    "ok": (OK, "keep"),
    "truncated": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", "close"),
    "truncated-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nfour", "close"),
    "truncated-chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nfour\r\n", "close"),
    "truncated-head": (b"HTTP/1.1 200 OK\r\nContent-Le", "close"),
    "reset-before-head": (b"", "reset"),
    "reset-in-body": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", "reset"),
    "close-before-head": (b"", "close"),
    "extra-bytes": (OK + POISON, "keep"),
    "extra-after-chunks": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n" + POISON, "keep"),
    "two-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 4\r\n\r\nokok", "keep"),
    "two-equal-lengths": (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok", "keep"),
    "length-and-chunks": (
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n",
        "keep",
    ),
    "bad-length": (b"HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok", "close"),
    "bad-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0x2\r\nok\r\n0\r\n\r\n", "close"),
    "trailers": (
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 42\r\n\r\n",
        "keep",
    ),
    "until-close": (b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nok", "close"),
    "http10": (b"HTTP/1.0 200 OK\r\n\r\nok", "close"),
    "no-content-with-body": (b"HTTP/1.1 204 No Content\r\nContent-Length: 58\r\n\r\n" + POISON, "keep"),
    "not-modified-with-body": (b"HTTP/1.1 304 Not Modified\r\n\r\n" + POISON, "keep"),
    "unsolicited-101": (
        b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n" + POISON,
        "keep",
    ),
    "informational": (b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" + OK, "keep"),
    "informational-200": (b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n" * 200 + OK, "keep"),
    "named-hop-by-hop": (
        b"HTTP/1.1 200 OK\r\nConnection: X-Secret\r\nX-Secret: 1\r\nKeep-Alive: timeout=5\r\nContent-Length: 2\r\n\r\nok",
        "keep",
    ),
    "header-injection": (b"HTTP/1.1 200 OK\r\nX-A: 1\rX-B: 2\nX-C\0: 3\r\nContent-Length: 2\r\n\r\nok", "close"),
    "huge-head": (b"HTTP/1.1 200 OK\r\nX-Big: " + b"x" * (1 << 20) + b"\r\nContent-Length: 2\r\n\r\nok", "close"),
    "garbage": (b"\x16\x03\x01 this is not HTTP\r\n\r\n", "close"),
    "early-close": (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", "close"),
    "early-keep": (b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", "keep"),
    "hang-before-head": (b"", "hang"),
    "hang-in-head": (b"HTTP/1.1 200 OK\r\nContent-Le", "hang"),
    "hang-in-body": (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nfour", "hang"),
    "hang-in-chunk": (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nA\r\nfour", "hang"),
}


class Connection:
    """One client's bytes, as they came."""

    def __init__(self, number, reader, writer):
        self.number, self.reader, self.writer = number, reader, writer
        self.unread = b""

    async def serve(self):
        tell("accepted", connection=self.number)
        by, requests = "peer", 0
        try:
            while True:
                head = await self.until(b"\r\n\r\n")
                path = head.split(b"\r\n")[0].split(b" ")[1].decode("latin-1")
                answer, end = script(path)
                body = b"" if path.startswith("/early") else await self.body(head)
                requests += 1
                tell(
                    "request",
                    connection=self.number,
                    number=requests,
                    line=head.split(b"\r\n")[0].decode("latin-1"),
                    head=head.decode("latin-1"),
                    body=body.decode("latin-1"),
                )
                self.writer.write(answer)
                await self.writer.drain()
                if end == "hang":
                    await self.reader.read()
                elif end == "close":
                    by = "origin"
                    break
                elif end == "reset":
                    by = "origin"
                    linger = struct.pack("ii", 1, 0)
                    self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                    break
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writer.close()
            tell("closed", connection=self.number, by=by)

    async def more(self):
        got = await self.reader.read(65536)
        if not got:
            raise asyncio.IncompleteReadError(b"", None)
        tell("received", connection=self.number, hex=got.hex())
        self.unread += got

    async def until(self, end):
        while end not in self.unread:
            await self.more()
        part, _, self.unread = self.unread.partition(end)
        return part + end

    async def exactly(self, count):
        while len(self.unread) < count:
            await self.more()
        part, self.unread = self.unread[:count], self.unread[count:]
        return part

    async def body(self, head):
        """As RFC 9112 section 6.3 reads the head: chunks go before a length."""
        if re.search(rb"(?im)^transfer-encoding:.*chunked\s*$", head):
            body = b""
            while True:
                size = int((await self.until(b"\r\n")).split(b";")[0], 16)
                if size == 0:
                    while await self.until(b"\r\n") != b"\r\n":
                        pass
                    return body
                body += await self.exactly(size)
                await self.exactly(2)
        length = re.search(rb"(?im)^content-length:\s*(\d+)", head)
        return await self.exactly(int(length[1])) if length else b""


def script(path):
    parts = path.split("?")[0].strip("/").split("/")
    if parts[0] == "hex":
        return bytes.fromhex(parts[1]), parts[2] if len(parts) > 2 else "keep"
    return SCRIPTS.get(parts[0], SCRIPTS["ok"])


async def main():
    count = 0

    async def accept(reader, writer):
        nonlocal count
        count += 1
        await Connection(count, reader, writer).serve()

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    tell("listening", port=server.sockets[0].getsockname()[1])
    await asyncio.get_running_loop().run_in_executor(None, end_with_parent)


if __name__ == "__main__":
    asyncio.run(main())
    sys.exit(0)
