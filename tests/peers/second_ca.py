"""acme2certifier, an ACME server that shares nothing with pebble, with its CA in openssl's files.

    second_ca.py DIRECTORY WEB_PORT SECURE_PORT

DIRECTORY holds server.pem and server.key for the directory's own TLS; everything else is made there, and
root.pem is the CA of what it issues. It looks for names at 127.0.0.1, at these two ports.
"""

import datetime
import os
import socket
import ssl
import sys
import threading
from pathlib import Path
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from events import end_with_parent, tell

CONFIG = """
[DEFAULT]
debug: False
[Nonce]
nonce_check_disable: False
[CAhandler]
handler_module: acme2certifier.cahandlers.openssl_ca_handler
issuing_ca_key: {0}/root.key
issuing_ca_cert: {0}/root.pem
issuing_ca_crl: {0}/root.crl
ca_cert_chain_list: []
cert_validity_days: 30
cert_save_path: {0}/issued
[DBhandler]
handler_module: acme2certifier.dbhandlers.wsgi_handler
dbfile: {0}/acme.db
[Challenge]
challenge_validation_timeout: 10
"""


def make_ca(directory: Path) -> None:
    """A CA of the day."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Second CA")])
    now = datetime.datetime.now(datetime.timezone.utc)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=90))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "root.pem").write_bytes(certificate.public_bytes(pem))
    key_pem = key.private_bytes(
        pem, serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
    )
    (directory / "root.key").write_bytes(key_pem)
    (directory / "issued").mkdir()


def look_at(web: int, secure: int) -> None:
    """Has challenges looked for at 127.0.0.1 and these ports, in the place of the internet."""
    from acme2certifier.acme_srv import helper

    plain_connect = socket.socket.connect

    def connect(self, address):
        if address[1] == 80:
            address = ("127.0.0.1", web)
        return plain_connect(self, address)

    socket.socket.connect = connect
    fetch = helper.servercert_get

    def servercert_get(logger, hostname, port=443, *rest, connect_host=None, **more):
        return fetch(logger, hostname, secure, *rest, connect_host="127.0.0.1", **more)

    helper.servercert_get = servercert_get

    def resolve(logger, host, dnssrv=None, catch_all=False):
        return (["127.0.0.1"] if catch_all else "127.0.0.1", False, None)

    helper.fqdn_resolve = resolve


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class Quiet(WSGIRequestHandler):
    """Without a reverse look-up of each client."""

    def address_string(self):
        return self.client_address[0]


def main() -> None:
    directory, web, secure = Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
    make_ca(directory)
    config = directory / "acme_srv.cfg"
    config.write_text(CONFIG.format(directory))
    os.environ["ACME_SRV_CONFIGFILE"] = str(config)
    os.chdir(directory)
    look_at(web, secure)
    from acme2certifier.share import acme2certifier_wsgi

    def application(environ, start_response):
        environ["wsgi.url_scheme"] = "https"
        environ["HTTP_X_FORWARDED_PROTO"] = "https"
        return acme2certifier_wsgi.application(environ, start_response)

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server.key")
    server = make_server("127.0.0.1", 0, application, Server, Quiet)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    tell("listening", port=server.server_port)
    end_with_parent()


if __name__ == "__main__":
    main()
