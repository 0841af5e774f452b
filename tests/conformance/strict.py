"""Reads the head of an HTTP/1.1 request as no lenient parser could read it otherwise.

The definitions are those of tests/desync.rs, but that HTTP/1.0 may be forwarded as such: a head with a fault is one
about whose end, length or host two servers may disagree, whichever of them is right.
"""

import re

TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")


def fault(head):
    """What is ambiguous about `head`, the empty line included; None when nothing is."""
    lines = head[:-4].split(b"\n")
    if head[:-4].count(b"\r") != len(lines) - 1 or any(not line.endswith(b"\r") for line in lines[:-1]):
        return "a bare LF or CR"
    lines = [line.removesuffix(b"\r").decode("latin-1") for line in lines]
    if any(re.search(r"[\0-\x08\x0a-\x1f\x7f]", line) for line in lines):
        return "a control character"
    parts = lines[0].split(" ")
    if len(parts) != 3 or parts[2] not in ("HTTP/1.1", "HTTP/1.0") or not all(parts):
        return "no request line"
    lengths, codings, hosts = [], [], 0
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        if not colon:
            return "no field line"
        if not TOKEN.match(name):
            return "an odd field name"
        name, value = name.lower().replace("_", "-"), value.strip(" \t")
        if name == "content-length":
            lengths.append(value)
        elif name == "transfer-encoding":
            codings.append(value)
        hosts += name == "host"
    if len(lengths) > 1:
        return "two lengths"
    if lengths and not re.fullmatch("[0-9]+", lengths[0]):
        return "an odd length"
    if codings and [coding.lower() for coding in codings] != ["chunked"]:
        return "an odd coding"
    if lengths and codings:
        return "length and coding"
    if codings and parts[2] == "HTTP/1.0":
        return "a coding on HTTP/1.0"
    if hosts > 1 or not hosts and parts[2] == "HTTP/1.1":
        return "not one host"
    return None
