"""An application with a port of each kind that a probe may ask, run in a container by test_probes.py.

HTTP on 8080, HTTPS on 8443 (`/keys/app.crt`), gRPC's health service on 9090, all for IPv4 and IPv6. `/slow`
answers when `/go` is asked, `/ill` with status 500; everything else with "the application". Runs with the
node's Python and its packages.
"""

from __future__ import annotations

import http.server
import signal
import socket
import ssl
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc

SAYS: Final = "the application"
SERVICE: Final = "grpc.health.v1.Health"
SERVING: Final = b"\x08\x01"  # HealthCheckResponse{status: SERVING}

_go = threading.Event()


class _Server(http.server.ThreadingHTTPServer):
    address_family = socket.AF_INET6
    request_queue_size = 128
    daemon_threads = True

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def handle_error(self, *_: Any) -> None:
        pass  # a TCP probe leaves in the middle of a TLS handshake


class _Answers(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        if self.path == "/slow":
            _go.wait()
        elif self.path == "/go":
            _go.set()
        body = SAYS.encode()
        self.send_response(500 if self.path == "/ill" else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


def _check(_: bytes, context: grpc.ServicerContext) -> bytes:
    context.set_trailing_metadata((("from", SAYS),))
    return SERVING


def main() -> None:
    """Serves until SIGTERM."""
    handlers: Any = {"Check": grpc.unary_unary_rpc_method_handler(_check)}
    health = grpc.server(ThreadPoolExecutor(4))
    health.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    health.add_insecure_port("[::]:9090")
    health.start()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain("/keys/app.crt", "/keys/app.key")
    secure = _Server(("::", 8443), _Answers)
    secure.socket = context.wrap_socket(secure.socket, server_side=True, do_handshake_on_connect=False)
    threading.Thread(target=secure.serve_forever, daemon=True).start()
    plain = _Server(("::", 8080), _Answers)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    sys.stdout.write("listening\n")
    sys.stdout.flush()
    plain.serve_forever()


if __name__ == "__main__":
    main()
