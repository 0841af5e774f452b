"""Requests whose end two parsers may see in two places; the suite's own, for where there is no corpus.

Each hides `GET /smuggled` behind what one of the two takes for the end.
"""

HIDDEN = b"GET /smuggled HTTP/1.1\r\nHost: localhost\r\nX: "
LAST = b"0\r\n\r\n"

# Spellings of the field that only some take for `Transfer-Encoding: chunked`.
CODINGS = [
    b"Transfer-Encoding: chunked",
    b"transfer-encoding:chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding\t: chunked",
    b" Transfer-Encoding: chunked",
    b"\tTransfer-Encoding: chunked",
    b"X: x\r\n Transfer-Encoding: chunked",
    b"X: x\nTransfer-Encoding: chunked",
    b"X: x\rTransfer-Encoding: chunked",
    b"X: x\0Transfer-Encoding: chunked",
    b"\nTransfer-Encoding: chunked",
    b"Transfer-Encoding:\tchunked",
    b"Transfer-Encoding:  chunked  ",
    b"Transfer-Encoding:\x0bchunked",
    b"Transfer-Encoding:\x0cchunked",
    b"Transfer-Encoding:\r\n chunked",
    b"Transfer-Encoding:\n chunked",
    b"Transfer-Encoding: chunked\0",
    b"Transfer-Encoding: chunked\r",
    b"Transfer-Encoding: chunked\x0b",
    b"Transfer-Encoding: \x00chunked",
    b"Transfer-Encoding: \xa0chunked",
    b"Transfer-Encoding: \xffchunked",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding: chunkedx",
    b"Transfer-Encoding: chunk",
    b"Transfer-Encoding: CHUNKED",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding: 'chunked'",
    b"Transfer-Encoding: chunked;a=b",
    b"Transfer-Encoding: chunked, identity",
    b"Transfer-Encoding: identity, chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: ,chunked",
    b"Transfer-Encoding: chunked,",
    b"Transfer-Encoding: ,",
    b"Transfer-Encoding:",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: identity\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding: x\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding\r\n : chunked",
    b"Transfer_Encoding: chunked",
    b"Transfer Encoding: chunked",
    b"Transfer-Encoding\0: chunked",
    b"Transfer-Encoding\x01: chunked",
    b"Transfer-Encoding\xa0: chunked",
    b"\x00Transfer-Encoding: chunked",
    b"\xa0Transfer-Encoding: chunked",
    b"(Transfer-Encoding: chunked",
    b":Transfer-Encoding: chunked",
    b"Transfer-Encoding:: chunked",
    b"Transfer-Encoding; chunked",
    b"Transfer-Encoding chunked",
    b"Transfer-Encoding= chunked",
    b"TE: chunked",
    b"Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked",
    b"Content-Encoding: chunked",
]

# Spellings of a length of 5 that only some take for one.
LENGTHS = [
    b"Content-Length: 5\r\nContent-Length: 0",
    b"Content-Length: 0\r\nContent-Length: 5",
    b"Content-Length: 5\r\nContent-Length: 5",
    b"Content-Length: 5, 5",
    b"Content-Length: 5, 0",
    b"Content-Length: 5,",
    b"Content-Length: ,5",
    b"Content-Length: +5",
    b"Content-Length: -5",
    b"Content-Length: 05",
    b"Content-Length: 0x5",
    b"Content-Length: 5_",
    b"Content-Length: 5.0",
    b"Content-Length: 5e0",
    b"Content-Length: 5 5",
    b"Content-Length: 5\x0b",
    b"Content-Length: \x0b5",
    b"Content-Length: 5\0",
    b"Content-Length: \xb5",
    b"Content-Length: \xd9\xa5",
    b"Content-Length: 18446744073709551621",
    b"Content-Length: 4294967301",
    b"Content-Length : 5",
    b"Content-Length\t: 5",
    b" Content-Length: 5",
    b"X: x\r\n Content-Length: 5",
    b"Content-Length:\r\n 5",
    b"Content-Length: 5\r\n 5",
    b"Content_Length: 5",
    b"Content-Length\0: 5",
    b"Content-Length:",
    b"Content-Length: ",
    b"Content-Length: abc",
    b"Connection: Content-Length\r\nContent-Length: 5",
]

# Chunks that only some take for `5 12345`, or for the last.
CHUNKS = [
    b"5\r\n12345\r\n0\r\n\r\n",
    b"5\n12345\r\n0\r\n\r\n",
    b"5\r12345\r\n0\r\n\r\n",
    b"5\r\n12345\n0\r\n\r\n",
    b"5\r\n12345\r0\r\n\r\n",
    b"5\r\n12345XX0\r\n\r\n",
    b"5\r\n123450\r\n\r\n",
    b"5\r\n12345\r\n0\n\n",
    b"5\r\n12345\r\n0\r\n\n",
    b"5\r\n12345\r\n0\r\r\n",
    b"0x5\r\n12345\r\n0\r\n\r\n",
    b"+5\r\n12345\r\n0\r\n\r\n",
    b"-5\r\n12345\r\n0\r\n\r\n",
    b" 5\r\n12345\r\n0\r\n\r\n",
    b"5 \r\n12345\r\n0\r\n\r\n",
    b"5\t\r\n12345\r\n0\r\n\r\n",
    b"5\0\r\n12345\r\n0\r\n\r\n",
    b"5\x0b\r\n12345\r\n0\r\n\r\n",
    b"0_5\r\n12345\r\n0\r\n\r\n",
    b"5;\r\n12345\r\n0\r\n\r\n",
    b"5;a\r\n12345\r\n0\r\n\r\n",
    b"5;a=b\r\n12345\r\n0\r\n\r\n",
    b'5;a="b"\r\n12345\r\n0\r\n\r\n',
    b'5;a="\r\n12345\r\n0\r\n\r\n"\r\n12345\r\n0\r\n\r\n',
    b"5;a=b\n12345\r\n0\r\n\r\n",
    b"5;a\nb\r\n12345\r\n0\r\n\r\n",
    b"5;\n12345\r\n0\r\n\r\n",
    b"5;a\rb\r\n12345\r\n0\r\n\r\n",
    b"5;\0\r\n12345\r\n0\r\n\r\n",
    b"5 ;a\r\n12345\r\n0\r\n\r\n",
    b"5,a\r\n12345\r\n0\r\n\r\n",
    b"5a\r\n12345\r\n0\r\n\r\n",
    b"G\r\n12345\r\n0\r\n\r\n",
    b"\r\n12345\r\n0\r\n\r\n",
    b"00000000000000000005\r\n12345\r\n0\r\n\r\n",
    b"10000000000000005\r\n12345\r\n0\r\n\r\n",
    b"100000005\r\n12345\r\n0\r\n\r\n",
    b"5\r\n12345\r\n00\r\n\r\n",
    b"5\r\n12345\r\n0;a\r\n\r\n",
    b"5\r\n12345\r\n0\r\nX: 1\r\n\r\n",
    b"5\r\n12345\r\n0\r\nX : 1\r\n\r\n",
    b"5\r\n12345\r\n0\r\nX: 1\n\n",
    b"5\r\n12345\r\n0\r\nContent-Length: 50\r\n\r\n",
    b"5\r\n12345\r\n0\r\nTransfer-Encoding: chunked\r\n\r\n",
    b"5\r\n12345\r\n0\r\nHost: other.test\r\n\r\n",
    b"5\r\n12345\r\n0\r\n X: 1\r\n\r\n",
    b"5\r\n12345\r\n\r\n",
]

# Whole heads; the body is a hidden request.
HEADS = {
    "http10-chunked": b"POST / HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "http10-chunked-keep": b"POST / HTTP/1.0\r\nHost: a\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
    "http09": b"GET /\r\n\r\n",
    "http11-lower": b"GET / http/1.1\r\nHost: a\r\n\r\n",
    "http12": b"GET / HTTP/1.2\r\nHost: a\r\n\r\n",
    "http2": b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    "http11-long": b"GET / HTTP/01.1\r\nHost: a\r\n\r\n",
    "version-space": b"GET / HTTP/1.1 \r\nHost: a\r\n\r\n",
    "two-versions": b"GET / HTTP/1.1 HTTP/1.1\r\nHost: a\r\n\r\n",
    "lf-only": b"GET / HTTP/1.1\nHost: a\n\n",
    "cr-only": b"GET / HTTP/1.1\rHost: a\r\r",
    "lf-end": b"GET / HTTP/1.1\r\nHost: a\r\n\n",
    "cr-in-line": b"GET /\rx HTTP/1.1\r\nHost: a\r\n\r\n",
    "empty-lines-first": b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "lf-first": b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "space-first": b" GET / HTTP/1.1\r\nHost: a\r\n\r\n",
    "fold-first": b"GET / HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n",
    "fold": b"GET / HTTP/1.1\r\nHost: a\r\nX: 1\r\n 2\r\n\r\n",
    "no-colon": b"GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n",
    "empty-name": b"GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n",
    "nul-in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
    "cr-in-value": b"GET / HTTP/1.1\r\nHost: a\r\nX: a\rb\r\n\r\n",
    "two-hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n",
    "two-equal-hosts": b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n",
    "no-host": b"GET / HTTP/1.1\r\nX: a\r\n\r\n",
    "host-list": b"GET / HTTP/1.1\r\nHost: a, b\r\n\r\n",
    "host-space": b"GET / HTTP/1.1\r\nHost : a\r\n\r\n",
    "host-path": b"GET / HTTP/1.1\r\nHost: a/b\r\n\r\n",
    "absolute-other-host": b"GET http://b/ HTTP/1.1\r\nHost: a\r\n\r\n",
    "absolute-no-host": b"GET http://b/ HTTP/1.1\r\n\r\n",
    "expect": b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n12345",
    "expect-odd": b"GET / HTTP/1.1\r\nHost: a\r\nExpect: y 100-continue\r\n\r\n",
    "get-with-length": b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345",
    "head-with-length": b"HEAD / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n12345",
    "upgrade": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
    "upgrade-h2c": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\n\r\n",
    "connect": b"CONNECT a:80 HTTP/1.1\r\nHost: a:80\r\n\r\n",
    "trace": b"TRACE / HTTP/1.1\r\nHost: a\r\n\r\n",
    "proxy-connection": b"GET / HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Host\r\n\r\n",
}


def payloads():
    """(name, bytes) of each."""
    for number, coding in enumerate(CODINGS):
        body = LAST + HIDDEN
        length = b"Content-Length: %d" % len(body)
        yield f"own-clte-{number:02}", message(coding, length, body=body)
        yield f"own-clte-first-{number:02}", message(length, coding, body=body)
        hidden = HIDDEN + b"1\r\n\r\n"
        chunk = b"%x\r\n" % len(hidden)
        yield f"own-tecl-{number:02}", message(coding, b"Content-Length: %d" % len(chunk), body=chunk + hidden + b"\r\n" + LAST)
        yield f"own-te-{number:02}", message(coding, body=LAST + HIDDEN + b"1\r\n\r\n")
    for number, length in enumerate(LENGTHS):
        yield f"own-length-{number:02}", message(length, body=b"12345" + HIDDEN + b"1\r\n\r\n")
    for number, chunks in enumerate(CHUNKS):
        yield f"own-chunk-{number:02}", message(b"Transfer-Encoding: chunked", body=chunks + HIDDEN + b"1\r\n\r\n")
    for name, head in HEADS.items():
        yield f"own-{name}", head + HIDDEN + b"1\r\n\r\n"


def message(*lines, body):
    return b"\r\n".join([b"POST /s HTTP/1.1", b"Host: localhost", *lines, b"", body])
