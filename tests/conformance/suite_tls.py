"""What scanners find in the TLS of each program, and whether key exchange is post-quantum."""

import concurrent.futures
import json
import os
import pathlib
import socket
import ssl
import struct
import subprocess
import sys
import tempfile
import xml.etree.ElementTree

import backend

TITLE = "TLS scanners"
ABOUT = """\
testssl.sh, sslscan and sslyze (which compares with Mozilla's "intermediate" as well) against port and
certificate of each program, with the ciphers and versions that an operator would set for nginx and
HAProxy; Caddy and Wardgate have no setting for ciphers here. A finding is what a tool itself takes for one, from
LOW on. Left out is what concerns the certificate, which is the same for all, and testssl's
`cipher_order`: Mozilla leaves the choice to the client where every cipher is a good one. Two questions are
our own, since the tools do not know or mistake them: whether a client that has X25519MLKEM768 and X25519
is asked for the former, and whether sessions are resumed."""
NEEDS = ["testssl", "sslscan"]

FINDINGS = ("LOW", "MEDIUM", "HIGH", "CRITICAL", "FATAL")
X25519MLKEM768, X25519 = 0x11EC, 0x001D


def run(start):
    with backend.Backend() as origin, start(backend=origin.address) as target:
        # They mostly wait.
        with tempfile.TemporaryDirectory() as folder, concurrent.futures.ThreadPoolExecutor() as pool:
            scans = [pool.submit(scan, target, pathlib.Path(folder)) for scan in (testssl, sslscan, sslyze)]
            for scan in scans:
                yield from scan.result()
        yield post_quantum(target)
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            yield resumed(target, version)


def verdict(is_well):
    return "pass" if is_well else "fail"


def testssl(target, folder):
    told = folder / "testssl.json"
    command = ["testssl", "--quiet", "--color", "0", "--warnings", "off", "--ip", target.tls[0], "--add-ca", target.ca]
    command += ["--jsonfile", told, "-p", "-g", "-s", "-f", "-P", "-S", "-U", f"{target.host}:{target.tls[1]}"]
    tool(command)
    seen = set()
    for item in json.loads(told.read_text()):
        name, severity = item["id"], item["severity"]
        of_others = name.startswith(("cert", "DNS_", "cipher_order", "engine_problem", "scanTime", "service"))
        if of_others or name in seen:
            continue
        seen.add(name)
        yield f"testssl: {name}", verdict(severity not in FINDINGS), f"{severity}: {item['finding']}"
    # It may have been cut short.
    yield "testssl ran to its end", verdict({"TLS1_3", "PFS", "ROBOT", "RC4"} <= seen), f"{len(seen)} checks"


def sslscan(target, folder):
    told = folder / "sslscan.xml"
    tool(["sslscan", f"--xml={told}", "--no-colour", f"--sni-name={target.host}", "%s:%d" % target.tls])
    test = xml.etree.ElementTree.parse(told).find("ssltest")
    enabled = {(item.get("type"), item.get("version")): item.get("enabled") == "1" for item in test.iter("protocol")}
    for version, is_on in enabled.items():
        is_good = version in (("tls", "1.2"), ("tls", "1.3"))
        yield f"sslscan: {version[0]} {version[1]} is {'on' if is_good else 'off'}", verdict(is_on == is_good), f"on: {is_on}"
    for item in test.iter("heartbleed"):
        yield f"sslscan: heartbleed, {item.get('sslversion')}", verdict(item.get("vulnerable") == "0"), "vulnerable"
    weak = [item.get("cipher") for item in test.iter("cipher") if item.get("strength") not in ("strong", "acceptable")]
    yield "sslscan: every cipher is strong or acceptable", verdict(not weak and test.find("cipher") is not None), ", ".join(weak)
    slight = [item.get("name") for item in test.iter("group") if int(item.get("bits")) < 112]
    yield "sslscan: no group under 112 bits", verdict(not slight), ", ".join(slight)


# What sslyze answers to each of its questions, and what it should.
SSLYZE = [
    ("tls_compression", "supports_compression", False),
    ("tls_1_3_early_data", "supports_early_data", False),
    ("openssl_ccs_injection", "is_vulnerable_to_ccs_injection", False),
    ("heartbleed", "is_vulnerable_to_heartbleed", False),
    ("session_renegotiation", "is_vulnerable_to_client_renegotiation_dos", False),
    ("session_renegotiation", "supports_secure_renegotiation", True),
    ("tls_fallback_scsv", "supports_fallback_scsv", True),
    ("tls_extended_master_secret", "supports_ems_extension", True),
]
SSLYZE_ASKED = (
    "sslv2 sslv3 tlsv1 tlsv1_1 tlsv1_2 tlsv1_3 compression early_data openssl_ccs heartbleed reneg fallback ems robot "
    "elliptic_curves certinfo"
).split()


def sslyze(target, folder):
    told = folder / "sslyze.json"
    command = [pathlib.Path(sys.executable).with_name("sslyze"), f"--json_out={told}", f"--sni={target.host}"]
    command += [f"--certinfo_ca_file={target.ca}", "--mozilla_config=intermediate", *(f"--{name}" for name in SSLYZE_ASKED), "%s:%d" % target.tls]
    said = tool(command)
    results = json.loads(told.read_text())["server_scan_results"][0]["scan_result"]
    for question, key, wanted in SSLYZE:
        got = (results[question]["result"] or {}).get(key)
        yield f"sslyze: {key} {str(wanted).lower()}", verdict(got is wanted), f"{key}: {got}"
    robot = results["robot"]["result"]["robot_result"]
    yield "sslyze: robot", verdict(robot.startswith("NOT_VULNERABLE")), robot
    for version in ("ssl_2_0", "ssl_3_0", "tls_1_0", "tls_1_1", "tls_1_2", "tls_1_3"):
        accepted = results[f"{version}_cipher_suites"]["result"]["accepted_cipher_suites"]
        names = [suite["cipher_suite"]["name"] for suite in accepted]
        is_good = version in ("tls_1_2", "tls_1_3")
        yield f"sslyze: {version} is {'on' if is_good else 'off'}", verdict(bool(names) == is_good), ", ".join(names)
        poor = [name for name in names if not ("GCM" in name or "POLY1305" in name or "_CCM" in name)]
        yield f"sslyze: {version} has AEAD alone", verdict(not poor), ", ".join(poor)
    yield 'sslyze: Mozilla\'s "intermediate"', verdict("OK - Compliant" in said), compliance(said)


def compliance(said):
    lines = [line.strip() for line in said.partition("COMPLIANCE AGAINST")[2].splitlines()]
    return "; ".join(line.lstrip("* ") for line in lines if line.startswith("*"))[:300]


def tool(command):
    """Runs it, for four minutes at most (one is usual), and returns what it said."""
    environment = {key: value for key, value in os.environ.items() if key != "DEBUG"}
    done = subprocess.run(
        list(map(str, command)), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=240, env=environment
    )
    return done.stdout


def post_quantum(target):
    """A client without a key share yet: the server's HelloRetryRequest names the group it wants."""
    group = retry_group(target.tls, client_hello(target.host, (X25519MLKEM768, X25519)))
    names = {X25519MLKEM768: "X25519MLKEM768", X25519: "X25519"}
    return "X25519MLKEM768 goes before X25519", verdict(group == X25519MLKEM768), names.get(group, f"group {group}")


def resumed(target, version):
    """sslyze takes a ticket that is renewed for one that was refused, so OpenSSL is asked."""
    context = ssl.create_default_context(cafile=target.ca)
    context.minimum_version = context.maximum_version = version
    session = None
    for _ in range(2):
        with socket.create_connection(target.tls, timeout=10) as plain:
            with context.wrap_socket(plain, server_hostname=target.host, session=session) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\nHost: %s\r\n\r\n" % target.host.encode())
                sock.recv(65536)  # tickets of TLS 1.3 come before it
                session, was_reused = sock.session, sock.session_reused
    return f"sessions of {version.name} are resumed", verdict(was_reused), "a full handshake again"


def client_hello(host, groups):
    def extension(kind, body):
        return struct.pack("!HH", kind, len(body)) + body

    def sized(form, body):
        return struct.pack(form, len(body)) + body

    name = host.encode()
    extensions = b"".join([
        extension(0, sized("!H", b"\0" + sized("!H", name))),
        extension(10, sized("!H", b"".join(struct.pack("!H", group) for group in groups))),
        extension(13, sized("!H", struct.pack("!4H", 0x0403, 0x0804, 0x0401, 0x0503))),
        extension(43, sized("!B", b"\x03\x04")),
        extension(51, sized("!H", b"")),
    ])  # fmt: skip
    suites = struct.pack("!3H", 0x1301, 0x1302, 0x1303)
    body = b"\x03\x03" + os.urandom(32) + sized("!B", os.urandom(32)) + sized("!H", suites) + b"\x01\0" + sized("!H", extensions)
    message = b"\x01" + struct.pack("!I", len(body))[1:] + body
    return b"\x16\x03\x01" + sized("!H", message)


def retry_group(address, hello):
    """The group that a HelloRetryRequest asks for; None without one."""
    with socket.create_connection(address, timeout=10) as sock:
        sock.sendall(hello)
        with sock.makefile("rb") as reader:
            kind, _, size = struct.unpack("!BHH", reader.read(5))
            record = reader.read(size)
    if kind != 22 or record[0] != 2:
        return None
    at = 4 + 2 + 32
    at += 1 + record[at]  # the session
    at += 2 + 1  # suite and compression
    end = at + 2 + struct.unpack_from("!H", record, at)[0]
    at += 2
    while at < end:
        extension, size = struct.unpack_from("!HH", record, at)
        if extension == 51 and size == 2:
            return struct.unpack_from("!H", record, at + 4)[0]
        at += 4 + size
    return None
