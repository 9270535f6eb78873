"""An authority with real ACME: acme2certifier, over TLS on the listening socket that is its standard input.

Around it is an internet with one host: each name leads here (none does that ends in .nowhere.test), and the ports where
an authority looks lead to the door's. Those are in a file that appears when the door has begun.

Usage: acme_server.py CERTIFICATE KEY PORTS, with ACME_SRV_CONFIGFILE in the environment.
"""

import json
import os
import socket
import ssl
import sys
import time
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIServer

import dns.resolver

CERTIFICATE, KEY, PORTS = sys.argv[1:]


def resolve(_resolver, name, kind="A", *_rest, **_options):
    if str(name).rstrip(".").endswith(".nowhere.test"):
        raise dns.resolver.NXDOMAIN
    return ["127.0.0.1"] if kind == "A" else []


def connect(sock, address, straight=socket.socket.connect):
    host, port = address[:2]
    if port in (80, 443):
        deadline = time.monotonic() + 30
        while not os.path.exists(PORTS) and time.monotonic() < deadline:
            time.sleep(0.02)
        with open(PORTS, encoding="ascii") as ports:
            port = json.load(ports)[str(port)]
    return straight(sock, (host, port))


dns.resolver.Resolver.resolve = resolve
socket.socket.connect = connect

# It reads its configuration as soon as it is imported, and what it imports must find the internet above.
from acme2certifier.share.acme2certifier_wsgi import application, get_handler_cls  # noqa: E402


class Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


def main():
    listener = socket.socket(fileno=0)
    listener.setblocking(True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(CERTIFICATE, KEY)
    address = listener.getsockname()
    server = Server(address, get_handler_cls(), bind_and_activate=False)
    server.socket.close()
    # Each thread shakes hands by itself, so that nobody keeps the others waiting.
    server.socket = context.wrap_socket(listener, server_side=True, do_handshake_on_connect=False)
    server.server_address = address
    server.server_name, server.server_port = address
    server.setup_environ()
    server.base_environ["HTTPS"] = "on"
    server.set_app(application)
    server.serve_forever()


main()
